/* SPDX-License-Identifier: MIT */
#include "fs/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/attach.h"
#include "fs/control.h"
#include "fs/holders.h"
#include "fs/link.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/request.h"
#include "fs/session.h"
#include "store/base.h"

/* Who still has a mount that is to end is named after so many beats, and then
 * every so many. */
#define SERVE_NAME_AFTER 2
#define SERVE_NAME_EVERY 30
/* libfuse cannot ask for more than the kernel's default of 128. */
#define SERVE_READ_AHEAD_KB 4096
/* Buffers of one read, libfuse's among them, come from memory that was used
 * before: mapped anew for each, the page faults cost a third of the speed. */
#define SERVE_MALLOC_BYTES (1 * MIB + 64 * KIB)
/* How often the keeper is told that all is well. */
#define SERVE_BEAT_MSEC 1000
/* So many crashes in a row may have been the index's fault. */
#define SERVE_CRASHES 2

_Static_assert(CONFIG_WORKERS_MAX <= SESSION_WORKERS_MAX,
	       "a session takes as many workers as may be asked for");

/* All that is up; what is not is NULL, -1 or false. */
struct serving {
	const struct serve *sv;
	struct ops ops;
	struct request_context context;
	struct control *control;
	struct session *session;
	dev_t dev;  /* of the mount, 0 while there is none */
	bool alone; /* the keeper is gone, and it has been said */
};

static void on_report(void *arg, int priority, const char *text)
{
	(void)arg;
	log_write(priority, "%s", text);
}

static void prepare_process(void)
{
	struct rlimit files;

	session_block_signals();
	umask(0);
	mallopt(M_MMAP_THRESHOLD, SERVE_MALLOC_BYTES);
	mallopt(M_TRIM_THRESHOLD, 2 * SERVE_MALLOC_BYTES);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static bool goes_on(const struct serving *d)
{
	return d->sv->device >= 0;
}

struct size_text {
	char text[24];
};

/* What was set since the mount, as bytes, or what its options say. */
static const char *size_now(const struct serving *d, uint64_t bytes,
			    const char *option, struct size_text *buf)
{
	if (!goes_on(d) || !atomic_load(&d->sv->kept->limit))
		return option;
	snprintf(buf->text, sizeof(buf->text), "%" PRIu64, bytes);
	return buf->text;
}

/* @files: what is open already, of a mount that goes on. */
static int open_store(struct serving *d, struct store_resume *files, size_t n,
		      char *why, size_t why_size)
{
	const struct config *c = d->sv->config;
	const struct kept *k = d->sv->kept;
	struct size_text limit, low;
	const struct store_config config = {
		.path = d->sv->store,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = size_now(d, atomic_load(&k->limit),
					      c->limit, &limit),
			    .low = size_now(d, atomic_load(&k->low), c->low,
					    &low),
			    .min_free = c->min_free,
			    .grace_sec = c->grace_sec },
		.sync_strict = c->sync_strict,
		.scrub_sec = c->scrub_sec,
		.distrust = atomic_load(&k->crashes) >= SERVE_CRASHES,
		.root_uid = geteuid(),
		.root_gid = getegid(),
		.report = on_report,
		.owner_note = d->sv->mountpoint,
		.witness = d->sv->kept->witness,
		.frozen = &d->sv->kept->frozen,
		.resume = goes_on(d),
		.lock_fd = goes_on(d) ? d->sv->lock : 0,
		.files = files,
		.n_files = n,
	};

	return store_open(&config, &d->ops.store, why, why_size);
}

static int resume_store(struct serving *d, char *why, size_t why_size)
{
	cleanup_free struct store_resume *files = NULL;
	size_t n = 0;
	int r;

	d->ops.handles = handles_new(d->sv->kept);
	r = d->ops.handles ? handles_list(d->ops.handles, &files, &n) : -ENOMEM;
	if (r < 0) {
		snprintf(why, why_size, "out of memory");
		return r;
	}
	r = open_store(d, files, n, why, why_size);
	if (r < 0)
		return r;
	r = handles_resume(d->ops.handles, files, n);
	if (r < 0)
		snprintf(why, why_size, "out of memory");
	return r;
}

/* Read now, while the path means what the caller means. */
static int upgrade_to(void *arg, const char *program, char *why,
		      size_t why_size)
{
	const struct serving *d = arg;
	cleanup_close int fd = open(program, O_RDONLY | O_CLOEXEC);
	struct stat st;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		r = -EACCES;
	if (r == 0)
		r = link_send(d->sv->keeper, LINK_UPGRADE, fd, NULL);
	if (r == -EPIPE || r == -ECONNRESET)
		snprintf(
			why, why_size,
			"the keeper of this mount is gone: unmount, and mount with the new program");
	else if (r < 0)
		snprintf(why, why_size, "starting %s: %s", program,
			 strerror(-r));
	if (r == 0)
		(void)kill(getpid(), SIGUSR2);
	return r;
}

static int check_new_limits(const struct serving *d, const struct config *c,
			    char *why, size_t why_size)
{
	const struct store_limits limits = {
		.limit = c->limit,
		.low = c->low,
		.min_free = c->min_free,
		.grace_sec = c->grace_sec,
	};

	return store_check_limits(d->sv->store, &limits, why, why_size);
}

/* For the next daemon, which comes at once. */
static int reload_with(void *arg, const char *options, char *why,
		       size_t why_size)
{
	const struct serving *d = arg;
	struct config then = { 0 };
	const char *fixed;
	int r = config_parse(options, geteuid() == 0, &then, why, why_size);

	if (r < 0)
		return r;
	fixed = config_fixed(d->sv->config, &then);
	if (fixed) {
		r = -EINVAL;
		snprintf(
			why, why_size,
			"%s cannot change as long as the mount lasts: unmount and mount again (systemctl restart)",
			fixed);
	}
	if (r == 0)
		r = check_new_limits(d, &then, why, why_size);
	config_release(&then);
	if (r < 0)
		return r;
	r = link_send(d->sv->keeper, LINK_OPTIONS, -1, options);
	if (r < 0) {
		snprintf(why, why_size, "the keeper of this mount is gone");
		return r;
	}
	(void)kill(getpid(), SIGUSR2);
	return 0;
}

static struct json_t *on_request(void *arg, const struct json_t *request)
{
	return request_perform(arg, request);
}

/* Before the mount: who sees the mount finds the socket. */
static int start_control(struct serving *d, char *why, size_t why_size)
{
	int r;

	d->context = (struct request_context){
		.store = d->ops.store,
		.source = { .store = d->sv->store,
			    .mountpoint = d->sv->mountpoint,
			    .options = d->sv->options,
			    .pid = getpid(),
			    .kept = d->sv->kept },
		.upgrade = upgrade_to,
		.reload = reload_with,
		.arg = d,
	};
	r = control_start(d->sv->store, d->sv->control, on_request, &d->context,
			  &d->control);
	if (r < 0)
		snprintf(why, why_size,
			 "listening on %s/" CONTROL_SOCKET ": %s", d->sv->store,
			 strerror(-r));
	else
		(void)link_send(d->sv->keeper, LINK_CONTROL,
				control_listener(d->control), NULL);
	return r;
}

/* Which device the kernel made for the mount; 0 if it is gone already. */
static dev_t device_of(const struct serve *sv)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	const struct mounts_entry *e = NULL;

	if (mounts_load(&mounts) == 0)
		e = mounts_at(&mounts, sv->mountpoint);
	if (!e || strcmp(e->store, sv->store) != 0)
		return 0;
	return makedev(e->major, e->minor);
}

/* After the kernel took its own value from the negotiation. Only the superuser
 * may; without it reads are slower, no more. */
static void raise_read_ahead(dev_t dev)
{
	char path[64];
	FILE *f;

	if (!dev)
		return;
	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb",
		 major(dev), minor(dev));
	f = fopen(path, "we");
	if (!f)
		return;
	fprintf(f, "%d\n", SERVE_READ_AHEAD_KB);
	(void)fclose(f);
}

/* The keeper mounts, and keeps the connection. */
static int have_mounted(const struct serving *d, char *why, size_t why_size)
{
	struct link_message m = { .type = LINK_NONE, .fd = -1 };
	int r = link_send(d->sv->keeper, LINK_STORE,
			  store_lock_fd(d->ops.store), NULL);

	if (r == 0)
		r = link_receive(d->sv->keeper, &m);
	if (r == 0 && m.type == LINK_DEVICE && m.fd >= 0)
		return m.fd;
	base_closep(&m.fd);
	snprintf(why, why_size, "%s",
		 m.type == LINK_FAILED ? m.text : "the keeper is gone");
	return r < 0 ? r : -EIO;
}

static int start_session(struct serving *d, char *why, size_t why_size)
{
	int fd = d->sv->device, r;

	if (fd < 0)
		fd = have_mounted(d, why, why_size);
	if (fd < 0)
		return fd;
	d->dev = device_of(d->sv);
	r = session_start(fd, d->sv->kept, &d->ops, d->sv->config->workers,
			  &d->session);
	if (r < 0) {
		snprintf(why, why_size, "starting the workers for %s: %s",
			 d->sv->mountpoint, strerror(-r));
		return r;
	}
	raise_read_ahead(d->dev);
	return 0;
}

static int start(struct serving *d, char *why, size_t why_size)
{
	int r = resume_store(d, why, why_size);

	if (r >= 0)
		r = start_control(d, why, why_size);
	return r < 0 ? r : start_session(d, why, why_size);
}

/* Take the mount away if it is still there. */
static void detach(const struct serving *d)
{
	char why[512];

	if (!d->dev || device_of(d->sv) != d->dev)
		return;
	if (attach_unmount(d->sv->mountpoint, true, why, sizeof(why)) < 0)
		log_write(LOG_WARNING, "unmounting %s: %s", d->sv->mountpoint,
			  why);
}

/* From the top down. Says in @d->ops.store's lock file that it is ending. */
static int stop(struct serving *d)
{
	int r = 0;

	if (d->ops.store)
		store_ending(d->ops.store);
	session_stop(d->session);
	detach(d);
	control_stop(d->control);
	handles_free(d->ops.handles);
	if (d->ops.store)
		r = store_close(d->ops.store);
	return r;
}

static const char *signal_name(int sig)
{
	const char *name = sigabbrev_np(sig);

	return name ? name : "?";
}

/* One that is stopped, or whose locks nobody gives back, does not come here. */
static void show_life(struct serving *d)
{
	struct pollfd p = { .fd = d->sv->keeper, .events = POLLRDHUP };

	store_alive(d->ops.store);
	atomic_fetch_add(&d->sv->kept->beat, 1);
	if (d->alone || poll(&p, 1, 0) != 1)
		return;
	d->alone = true;
	log_write(
		LOG_WARNING,
		"the keeper of %s is gone: if this process dies too, the mount is lost",
		d->sv->mountpoint);
}

/* In the log, and for who asks the manager of the service. */
static void name_holders(const struct serving *d)
{
	char who[LINK_TEXT_MAX - 64], text[LINK_TEXT_MAX];
	int n = d->dev ? holders_find(major(d->dev), minor(d->dev), HOLDERS_ALL,
				      who, sizeof(who))
		       : 0;

	if (n > 0)
		snprintf(text, sizeof(text), "%s is still in use: %s",
			 d->sv->mountpoint, who);
	else
		snprintf(text, sizeof(text),
			 "%s is still in use, by nobody that /proc shows",
			 d->sv->mountpoint);
	log_write(LOG_NOTICE, "%s", text);
	(void)link_send(d->sv->keeper, LINK_STATUS, -1, text);
}

/*
 * The mount is out of sight. Serve those who have it until they let go, the
 * time is over, or a second signal comes. Time is counted in beats: where this
 * process is frozen, none passes. 0, or -EIO if the connection broke.
 */
static int serve_holders(struct serving *d)
{
	int64_t most = d->sv->config->stop_timeout_sec;
	int r = -ETIMEDOUT;

	for (int64_t beat = 0; beat <= most; beat++) {
		r = session_wait(d->session, SERVE_BEAT_MSEC);
		if (r == SIGUSR2) /* nobody is to go on any more */
			r = -ETIMEDOUT;
		if (r != -ETIMEDOUT)
			break;
		show_life(d);
		if (beat % SERVE_NAME_EVERY == SERVE_NAME_AFTER)
			name_holders(d);
	}
	if (r == -ETIMEDOUT)
		log_write(
			LOG_WARNING,
			"stop_timeout=%lld is over: ending, and what is open of %s answers errors",
			(long long)most, d->sv->mountpoint);
	else if (r > 0)
		log_write(LOG_WARNING, "SIG%s again: ending at once",
			  signal_name(r));
	return r == -EIO ? r : 0;
}

/* Requests that come now wait in the kernel for who goes on. */
static int hand_over(struct serving *d)
{
	int r;

	log_write(LOG_INFO, "%s: another daemon goes on", d->sv->mountpoint);
	control_leave(d->control);
	session_pause(d->session);
	r = store_sync(d->ops.store);
	if (r < 0)
		log_write(LOG_WARNING, "saving %s: %s", d->sv->store,
			  strerror(-r));
	return SERVE_HANDOVER;
}

/* Until it is unmounted or told to end; then it no longer serves. */
static int serve(struct serving *d)
{
	int r;

	while ((r = session_wait(d->session, SERVE_BEAT_MSEC)) == -ETIMEDOUT)
		show_life(d);
	if (r > 0 && r != SIGUSR2) {
		log_write(LOG_INFO, "SIG%s: unmounting %s", signal_name(r),
			  d->sv->mountpoint);
		detach(d);
		r = serve_holders(d);
	}
	(void)link_send(d->sv->keeper, LINK_ENDING, -1, NULL);
	if (r == SIGUSR2)
		return hand_over(d);
	return r == -EIO ? r : 0;
}

int serve_run(const struct serve *sv, char *why, size_t why_size)
{
	struct serving d = { .sv = sv };
	int r, closed;

	prepare_process();
	r = start(&d, why, why_size);
	if (r < 0 && goes_on(&d))
		return r; /* what is open stays so for who tries again */
	if (r < 0) {
		stop(&d);
		return r;
	}
	(void)link_send(sv->keeper, LINK_READY, -1, NULL);
	if (sv->ready)
		sv->ready(sv->arg);
	if (goes_on(&d))
		log_write(LOG_INFO, "%s goes on on %s", sv->store,
			  sv->mountpoint);
	else
		log_write(LOG_INFO, "%s is mounted on %s", sv->store,
			  sv->mountpoint);

	r = serve(&d);
	if (r == SERVE_HANDOVER)
		return r;
	closed = stop(&d);
	if (closed < 0)
		log_write(
			LOG_ERR,
			"closing %s: %s; the next mount goes back to the last checkpoint",
			sv->store, strerror(-closed));
	else
		log_write(LOG_INFO, "%s is closed", sv->store);
	return r < 0 ? r : closed;
}
