/* SPDX-License-Identifier: MIT */
#include "fs/serve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/attach.h"
#include "fs/control.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/request.h"
#include "fs/session.h"
#include "store/base.h"

/* How long a mount that was asked to end may still serve what is open. */
#define SERVE_END_MSEC 2000
/* libfuse cannot ask for more than the kernel's default of 128. */
#define SERVE_READ_AHEAD_KB 4096

_Static_assert(CONFIG_WORKERS_MAX <= SESSION_WORKERS_MAX,
	       "a session takes as many workers as may be asked for");

/* All that is up; what is not is NULL, -1 or false. */
struct serving {
	const struct serve *sv;
	struct ops ops;
	struct request_context context;
	struct control *control;
	struct session *session;
	dev_t dev; /* of the mount, 0 while there is none */
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
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int open_store(struct serving *d, char *why, size_t why_size)
{
	const struct config *c = d->sv->config;
	const struct store_config config = {
		.path = d->sv->store,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = c->limit,
			    .low = c->low,
			    .min_free = c->min_free,
			    .grace_sec = c->grace_sec },
		.sync_strict = c->sync_strict,
		.scrub_sec = c->scrub_sec,
		.root_uid = geteuid(),
		.root_gid = getegid(),
		.report = on_report,
		.owner_note = d->sv->mountpoint,
	};

	return store_open(&config, &d->ops.store, why, why_size);
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
			    .pid = getpid() },
	};
	r = control_start(d->sv->store, on_request, &d->context, &d->control);
	if (r < 0)
		snprintf(why, why_size,
			 "listening on %s/" CONTROL_SOCKET ": %s", d->sv->store,
			 strerror(-r));
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

static int start_session(struct serving *d, char *why, size_t why_size)
{
	const struct attach attach = {
		.source = d->sv->store,
		.mountpoint = d->sv->mountpoint,
		.flags = d->sv->config->mount_flags,
		.allow_other = d->sv->config->allow_other,
	};
	int fd, r;

	fd = attach_mount(&attach, why, why_size);
	if (fd < 0)
		return fd;
	d->dev = device_of(d->sv);
	r = session_start(fd, &d->ops, d->sv->config->workers, &d->session);
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
	int r;

	r = open_store(d, why, why_size);
	if (r < 0)
		return r;
	d->ops.handles = handles_new();
	if (!d->ops.handles) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	r = start_control(d, why, why_size);
	if (r < 0)
		return r;
	return start_session(d, why, why_size);
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

/* Until it is unmounted or told to end; then it no longer serves. */
static int serve(struct serving *d)
{
	int r = session_wait(d->session, -1);

	if (r > 0) {
		log_write(LOG_INFO, "SIG%s: unmounting %s", signal_name(r),
			  d->sv->mountpoint);
		/* The workers still answer: dirty pages of mappings come in. */
		detach(d);
		r = session_wait(d->session, SERVE_END_MSEC);
		if (r == -ETIMEDOUT)
			log_write(
				LOG_NOTICE,
				"files of %s are still open: ending all the same",
				d->sv->mountpoint);
	}
	return r == -EIO ? r : 0;
}

int serve_run(const struct serve *sv, char *why, size_t why_size)
{
	struct serving d = { .sv = sv };
	int r, closed;

	prepare_process();
	r = start(&d, why, why_size);
	if (r < 0) {
		stop(&d);
		return r;
	}
	if (sv->ready)
		sv->ready(sv->arg);
	log_write(LOG_INFO, "%s is mounted on %s", sv->store, sv->mountpoint);

	r = serve(&d);
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
