/* SPDX-License-Identifier: MIT */
#include "fs/engine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "fs/listener.h"
#include "store/base.h"

#define URL_MAX 256
/* An engine may walk all volumes and containers for one answer. */
#define ANSWER_SEC 600
#define ANSWER_MAX (64 * MIB)
/* {"type":["builder","image","daemon"]} */
#define EVENTS                                                                 \
	"/events?filters=%7B%22type%22%3A%5B%22builder%22%2C%22image%22%2C%22daemon%22%5D%7D"
#define CACHES "/system/df?type=build-cache" /* else it may take minutes */

struct engine {
	char *socket; /* owned; its path */
	int cancel;   /* borrowed */
	pid_t pid;
	CURLM *multi; /* owned */
	CURL *events; /* owned; NULL: not connected */
	bool event;   /* since engine_wait() was last called */
	bool gone;    /* likewise; also while something was asked */
};

struct body {
	char *text; /* owned */
	size_t len;
};

/* ---- libcurl ---- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct body *b = arg;
	char *grown;

	(void)size; /* is 1 */
	if (n > ANSWER_MAX - b->len)
		return 0;
	grown = realloc(b->text, b->len + n + 1);
	if (!grown)
		return 0;
	b->text = grown;
	memcpy(b->text + b->len, data, n);
	b->len += n;
	b->text[b->len] = '\0';
	return n;
}

/* What happened does not matter: all that matters is asked for. */
static size_t on_event(char *data, size_t size, size_t n, void *arg)
{
	struct engine *e = arg;

	(void)data;
	e->event = true;
	return size * n;
}

static CURL *new_request(const struct engine *e, const char *path)
{
	CURL *c = curl_easy_init();
	char url[URL_MAX];

	if (!c)
		return NULL;
	snprintf(url, sizeof(url), "http://docker%s", path);
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, e->socket);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(c, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	return c;
}

/*
 * Wait until something comes, at most for @msec, and move everything on. Not
 * the other way round: nothing more comes for a request that has ended, and
 * this would sleep on its answer. -ECANCELED, or -EIO.
 */
static int advance(struct engine *e, int watch, int msec)
{
	struct curl_waitfd extra[2] = {
		{ .fd = e->cancel, .events = CURL_WAIT_POLLIN },
		{ .fd = watch, .events = CURL_WAIT_POLLIN },
	};
	int running;

	if (curl_multi_poll(e->multi, extra, watch < 0 ? 1 : 2, msec, NULL) !=
	    CURLM_OK)
		return -EIO;
	if (extra[0].revents)
		return -ECANCELED;
	e->event |= watch >= 0 && extra[1].revents;
	return curl_multi_perform(e->multi, &running) == CURLM_OK ? 0 : -EIO;
}

static void end_request(struct engine *e, CURL **c)
{
	if (!*c)
		return;
	curl_multi_remove_handle(e->multi, *c);
	curl_easy_cleanup(*c);
	*c = NULL;
}

/*
 * Has request @c ended? The end of the events, which may come first, is the end
 * of the connection.
 */
static bool has_ended(struct engine *e, const CURL *c, CURLcode *ret)
{
	const CURLMsg *m;
	bool ended = false, gone = false;
	int left;

	while ((m = curl_multi_info_read(e->multi, &left)) != NULL) {
		if (m->msg != CURLMSG_DONE)
			continue;
		if (m->easy_handle == c) {
			ended = true;
			*ret = m->data.result;
		} else {
			gone = true;
		}
	}
	if (gone) {
		end_request(e, &e->events);
		e->gone = true;
	}
	return ended;
}

/* ---- one question ---- */

static int perform(struct engine *e, CURL *c, CURLcode *ret)
{
	bool event = e->event;
	int r = 0;

	/* An event is kept for engine_wait(), and does not cut this short. */
	while (r == 0 && !has_ended(e, c, ret)) {
		e->event = false;
		r = advance(e, -1, ANSWER_SEC * 1000);
		event |= e->event;
	}
	e->event = event;
	return r;
}

static int explain(const struct engine *e, CURL *c, const char *path,
		   CURLcode code, char *why, size_t why_size)
{
	long status = 0;

	curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
	if (code == CURLE_HTTP_RETURNED_ERROR) {
		snprintf(why, why_size, "asking %s for %s: HTTP status %ld",
			 e->socket, path, status);
		/* "a disk usage operation is already running" */
		return status >= 500 ? -EBUSY : -EPROTO;
	}
	if (code == CURLE_UNSUPPORTED_PROTOCOL ||
	    code == CURLE_WEIRD_SERVER_REPLY || code == CURLE_GOT_NOTHING) {
		snprintf(
			why, why_size,
			"what listens on %s does not speak Docker's API; a standalone buildkitd or containerd can not be attached to: its cache mounts are deleted with all that is mounted there",
			e->socket);
		return -ENOTSUP;
	}
	snprintf(why, why_size, "asking %s for %s: %s", e->socket, path,
		 curl_easy_strerror(code));
	return -EIO;
}

static int ask(struct engine *e, const char *path, struct body *ret, char *why,
	       size_t why_size)
{
	CURL *c = new_request(e, path);
	CURLcode code = CURLE_OK;
	int r;

	if (!c)
		return -ENOMEM;
	curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)ANSWER_SEC);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, ret);
	r = curl_multi_add_handle(e->multi, c) == CURLM_OK ? 0 : -ENOMEM;
	if (r == 0)
		r = perform(e, c, &code);
	if (r == 0 && code != CURLE_OK)
		r = explain(e, c, path, code, why, why_size);
	else if (r < 0)
		snprintf(why, why_size, "asking %s for %s: %s", e->socket, path,
			 strerror(-r));
	end_request(e, &c);
	return r;
}

/* ---- the engine ---- */

int engine_new(const char *host, int cancel, struct engine **ret)
{
	static const char scheme[] = "unix://";
	struct engine *e;

	if (strncmp(host, scheme, strlen(scheme)) == 0)
		host += strlen(scheme);
	if (host[0] != '/')
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->cancel = cancel;
	e->socket = strdup(host);
	e->multi = curl_multi_init();
	if (!e->socket || !e->multi) {
		engine_free(e);
		return -ENOMEM;
	}
	*ret = e;
	return 0;
}

void engine_free(struct engine *e)
{
	if (!e)
		return;
	end_request(e, &e->events);
	if (e->multi)
		curl_multi_cleanup(e->multi);
	free(e->socket);
	free(e);
}

static int begin_events(struct engine *e)
{
	CURL *c = new_request(e, EVENTS);

	if (!c)
		return -ENOMEM;
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_event);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, e);
	if (curl_multi_add_handle(e->multi, c) != CURLM_OK) {
		curl_easy_cleanup(c);
		return -ENOMEM;
	}
	e->events = c;
	return 0;
}

/* Is it an engine of a kind that can be attached to? */
static int identify(struct engine *e, struct answer_engine *ret, char *why,
		    size_t why_size)
{
	struct body version = { .text = NULL }, info = { .text = NULL };
	char against[512] = "";
	int r;

	r = ask(e, "/version", &version, why, why_size);
	if (r == 0)
		r = answer_read_version(version.text, version.len, against,
					sizeof(against));
	if (r == 0)
		r = ask(e, "/info", &info, why, why_size);
	if (r == 0)
		r = answer_read_info(info.text, info.len, ret, against,
				     sizeof(against));
	if (*against)
		snprintf(why, why_size,
			 "the engine on %s can not be attached to: %s",
			 e->socket, against);
	free(version.text);
	free(info.text);
	return r;
}

int engine_connect(struct engine *e, struct answer_engine *ret, char *why,
		   size_t why_size)
{
	struct answer_engine found = ANSWER_ENGINE_INIT;
	int r;

	end_request(e, &e->events);
	e->event = e->gone = false;
	r = listener_check(e->socket, why, why_size);
	if (r == 0)
		r = identify(e, &found, why, why_size);
	if (r == 0)
		r = listener_find(e->socket, "dockerd", &e->pid, why, why_size);
	if (r == 0)
		r = begin_events(e);
	if (r < 0)
		answer_engine_release(&found);
	else
		*ret = found;
	return r;
}

pid_t engine_pid(const struct engine *e)
{
	return e->pid;
}

int engine_caches(struct engine *e, const char *const *targets,
		  size_t n_targets, struct answer_caches *ret, char *why,
		  size_t why_size)
{
	struct body body = { .text = NULL };
	int r = ask(e, CACHES, &body, why, why_size);

	if (r == 0) {
		r = answer_read_caches(body.text, body.len, targets, n_targets,
				       ret);
		if (r < 0)
			snprintf(
				why, why_size,
				"%s answered %s in a form that is not understood",
				e->socket, CACHES);
	}
	free(body.text);
	return r;
}

enum engine_news engine_wait(struct engine *e, int watch, int msec)
{
	const int64_t end = base_now_ms() + msec;
	CURLcode code;
	int r;

	for (;;) {
		(void)has_ended(e, NULL, &code);
		if (e->gone) {
			e->gone = false;
			return ENGINE_GONE;
		}
		if (e->event) {
			e->event = false;
			return ENGINE_EVENT;
		}
		msec = (int)(end - base_now_ms());
		if (msec <= 0)
			return ENGINE_NOTHING;
		r = advance(e, watch, msec);
		if (r == -ECANCELED)
			return ENGINE_CANCELED;
		if (r < 0)
			return ENGINE_GONE;
	}
}
