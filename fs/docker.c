/* SPDX-License-Identifier: MIT */
#include "fs/docker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/engine.h"
#include "fs/log.h"
#include "fs/notify.h"
#include "store/base.h"

#define WHY_MAX 1024
#define NAME_ROOM (ANSWER_ID_MAX + 16)
#define AGAIN_MSEC 100
/* How long after a directory was made it may turn out to be a cache mount. To
 * be there before pip begins to write, that is asked at once, and then so often
 * that the engine spends half of its time on it; later a fifth. */
#define FRESH_MSEC 1500
#define FRESH_GAP_FACTOR 1
#define GAP_FACTOR 4
#define RETRY_FIRST_MSEC 500
#define RETRY_MAX_MSEC 30000

struct docker {
	const struct covers_config *config;
	struct engine *engine; /* owned */
	struct covers covers;
	struct answer_engine info; /* owned */
	bool connected;
	bool news; /* something may have changed since the engine was asked */
	int watch; /* owned; of the directory of directories; -1: none */
	int64_t fresh_until_msec, ask_after_msec;
	int retry_msec;
	char said[WHY_MAX];	   /* the last trouble with the engine */
	struct answer_caches last; /* owned; its last answer */
};

/* ---- the connection ---- */

static int connect_engine(struct docker *d, char *why, size_t why_size)
{
	char path[4096];
	int r;

	answer_engine_release(&d->info);
	r = engine_connect(d->engine, &d->info, why, why_size);
	if (r < 0)
		return r;
	if ((size_t)snprintf(path, sizeof(path), "%s/%s", d->info.root,
			     d->info.dir) >= sizeof(path))
		return -ENAMETOOLONG;
	r = covers_move(&d->covers, engine_pid(d->engine), path);
	if (r < 0)
		snprintf(why, why_size, "%s of process %d: %s%s", path,
			 (int)engine_pid(d->engine), strerror(-r),
			 r == -EACCES ? "; run it as root" : "");
	if (r < 0)
		return r;
	/* Without it, new cache mounts are found a little later. */
	base_closep(&d->watch);
	d->watch = cover_watch(&d->covers.place);
	d->connected = true;
	d->news = true;
	return 0;
}

static void say_engine(struct docker *d, const char *text)
{
	if (strcmp(d->said, text) != 0 && !d->config->once)
		log_write(LOG_WARNING, "%s; trying again", text);
	snprintf(d->said, sizeof(d->said), "%s", text);
}

static void reconnect(struct docker *d)
{
	char why[WHY_MAX] = "";
	int r = connect_engine(d, why, sizeof(why));

	if (r == 0) {
		log_write(LOG_NOTICE, "the engine is back");
		d->retry_msec = RETRY_FIRST_MSEC;
		d->said[0] = '\0';
		return;
	}
	if (r != -ECANCELED)
		say_engine(d, *why ? why : strerror(-r));
	d->retry_msec *= 2;
	if (d->retry_msec > RETRY_MAX_MSEC)
		d->retry_msec = RETRY_MAX_MSEC;
}

static void disconnect(struct docker *d)
{
	log_write(LOG_WARNING,
		  "the engine has gone away; waiting for it to come back");
	d->connected = false;
	d->retry_msec = RETRY_FIRST_MSEC;
	/* The next engine mounts its data-root upon itself: then what is in
	 * there now would be hidden, and out of reach. */
	(void)covers_end(&d->covers);
}

/* ---- one round ---- */

static bool is_new(const struct docker *d, const char *id)
{
	for (size_t i = 0; i < d->last.n; i++)
		if (strcmp(d->last.cache[i].id, id) == 0)
			return false;
	return true;
}

static enum covers_need visit(struct docker *d, const struct answer_cache *c)
{
	char name[NAME_ROOM];

	/* An overlay of its own is made for each build, which no mount gets
	 * into; and it belongs to whom pip runs as there, unlike our mount. */
	if (c->has_base) {
		if (is_new(d, c->id))
			log_write(
				LOG_NOTICE,
				"cache mount %s was made with uid=, gid=, mode= or from=: left alone",
				c->id);
		return COVERS_FINE;
	}
	snprintf(name, sizeof(name), "%s%s", c->id, d->info.suffix);
	return covers_visit(&d->covers, name, c->in_use, false);
}

static enum covers_need visit_all(struct docker *d)
{
	struct answer_caches caches = ANSWER_CACHES_INIT;
	enum covers_need need = COVERS_FINE, one;
	char why[WHY_MAX] = "";
	int r = engine_caches(d->engine, d->config->targets,
			      d->config->n_targets, &caches, why, sizeof(why));

	if (r == -ECANCELED)
		return COVERS_STOP;
	if (r < 0) {
		say_engine(d, why);
		return COVERS_LATER;
	}
	d->said[0] = '\0';
	for (size_t i = 0; need != COVERS_STOP && i < caches.n; i++) {
		one = visit(d, &caches.cache[i]);
		if (one == COVERS_STOP || one == COVERS_AGAIN ||
		    need == COVERS_FINE)
			need = one;
	}
	if (need != COVERS_STOP)
		covers_forget(&d->covers);
	answer_caches_release(&d->last);
	d->last = caches;
	return need;
}

/* Asking an old engine is costly. */
static enum covers_need ask_and_visit(struct docker *d)
{
	const int64_t begin = base_now_ms();
	enum covers_need need = visit_all(d);
	int64_t end = base_now_ms();
	bool fresh = end < d->fresh_until_msec;
	int64_t gap = (end - begin) * (fresh ? FRESH_GAP_FACTOR : GAP_FACTOR);

	if (gap > d->config->interval_msec)
		gap = d->config->interval_msec;
	d->ask_after_msec = end + gap;
	if (fresh && need != COVERS_STOP && !d->config->once)
		need = COVERS_AGAIN;
	return need;
}

static enum covers_need round_of(struct docker *d)
{
	enum covers_need need;
	int r = covers_look(&d->covers);

	if (r == -ECANCELED)
		return COVERS_STOP;
	if (r == -ESRCH) { /* the events say so too, in a moment */
		d->news = true;
		return COVERS_LATER;
	}
	if (r < 0) {
		log_write(LOG_WARNING, "looking at %s: %s",
			  d->config->mountpoint, strerror(-r));
		return COVERS_LATER;
	}
	if (!d->covers.mounted) {
		d->news = true;
		return COVERS_LATER;
	}
	if (!d->news && !covers_missing(&d->covers))
		return COVERS_FINE;
	if (base_now_ms() < d->ask_after_msec)
		return COVERS_AGAIN;
	need = ask_and_visit(d);
	d->news = need != COVERS_FINE;
	return need;
}

/* ---- until told to end ---- */

static int wait_msec(const struct docker *d, enum covers_need need)
{
	if (!d->connected)
		return d->retry_msec;
	return need == COVERS_AGAIN ? AGAIN_MSEC : d->config->interval_msec;
}

/* Returns false when told to end. */
static bool wait_for_news(struct docker *d, enum covers_need need)
{
	switch (engine_wait(d->engine, d->connected ? d->watch : -1,
			    wait_msec(d, need))) {
	case ENGINE_CANCELED:
		return false;
	case ENGINE_GONE:
		disconnect(d);
		break;
	case ENGINE_EVENT:
		cover_drain(d->watch);
		d->news = true;
		d->fresh_until_msec = base_now_ms() + FRESH_MSEC;
		d->ask_after_msec = 0;
		break;
	case ENGINE_NOTHING:
		break;
	}
	return true;
}

static enum covers_need attend(struct docker *d)
{
	enum covers_need need = COVERS_FINE;

	do {
		if (!d->connected)
			reconnect(d);
		if (d->connected)
			need = round_of(d);
	} while (need != COVERS_STOP &&
		 (!d->config->once || need == COVERS_AGAIN) &&
		 wait_for_news(d, need));
	return need;
}

int docker_attach(const struct covers_config *config, const char *host,
		  char *why, size_t why_size)
{
	struct docker d = {
		.config = config,
		.covers = { .config = config, .begin = "" },
		.info = ANSWER_ENGINE_INIT,
		.last = ANSWER_CACHES_INIT,
		.watch = -1,
		.retry_msec = RETRY_FIRST_MSEC,
	};
	enum covers_need need;
	int r = engine_new(host, config->cancel, &d.engine);

	if (r == -EINVAL)
		snprintf(
			why, why_size,
			"'%s' is not the socket of an engine: unix:///PATH; engines on other machines can not be attached to",
			host);
	if (r < 0)
		return r;
	r = connect_engine(&d, why, why_size);
	if (r == 0) {
		log_write(LOG_NOTICE, "attached to the engine on %s", host);
		notify_ready();
		need = attend(&d);
		notify_stopping();
		r = covers_finish(&d.covers, need, why, why_size);
		if (r == 0 && config->once && *d.said) {
			snprintf(why, why_size, "%s", d.said);
			r = -EIO;
		}
	}
	base_closep(&d.watch);
	covers_release(&d.covers);
	answer_caches_release(&d.last);
	answer_engine_release(&d.info);
	engine_free(d.engine);
	return r;
}
