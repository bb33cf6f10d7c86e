/* SPDX-License-Identifier: MIT */
#include "fs/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fuse_opt.h>

#include "fs/units.h"
#include "store/base.h"

/* What fuse_opt fills in: text and switches, nothing checked yet. */
struct given {
	char *limit, *low, *min_free, *grace, *sync, *scrub, *workers,
		*watchdog, *stop_timeout; /* owned */
	int allow_other;		  /* -1: not said */
	unsigned long flags;
	char *why;
	size_t why_size;
};

#define OPT_TEXT(name, field)                                                  \
	{                                                                      \
		name "=%s", offsetof(struct given, field), 0                   \
	}
#define OPT_SWITCH(name, field, value)                                         \
	{                                                                      \
		name, offsetof(struct given, field), value                     \
	}

static const struct fuse_opt options[] = {
	OPT_TEXT("limit", limit),
	OPT_TEXT("low", low),
	OPT_TEXT("min_free", min_free),
	OPT_TEXT("grace", grace),
	OPT_TEXT("sync", sync),
	OPT_TEXT("scrub", scrub),
	OPT_TEXT("workers", workers),
	OPT_TEXT("watchdog", watchdog),
	OPT_TEXT("stop_timeout", stop_timeout),
	OPT_SWITCH("allow_other", allow_other, 1),
	OPT_SWITCH("noallow_other", allow_other, 0),
	FUSE_OPT_END,
};

/* What mount(8) and fstab say to others than us. */
static const char *const ignored[] = {
	"",	  "defaults", "auto",	 "noauto",
	"nofail", "user",     "nouser",	 "users",
	"owner",  "group",    "_netdev", "default_permissions",
};
static const char *const ignored_prefixes[] = { "x-", "X-",
						"user=", "comment=" };

/* Options that are flags of mount(2). */
static const struct {
	const char *name;
	unsigned long flag;
	bool on;
} kernel_flags[] = {
	{ "ro", MS_RDONLY, true },
	{ "rw", MS_RDONLY, false },
	{ "suid", MS_NOSUID, false },
	{ "nosuid", MS_NOSUID, true },
	{ "dev", MS_NODEV, false },
	{ "nodev", MS_NODEV, true },
	{ "exec", MS_NOEXEC, false },
	{ "noexec", MS_NOEXEC, true },
	{ "async", MS_SYNCHRONOUS, false },
	{ "sync", MS_SYNCHRONOUS, true },
	{ "dirsync", MS_DIRSYNC, true },
	{ "atime", MS_NOATIME, false },
	{ "noatime", MS_NOATIME, true },
	{ "diratime", MS_NODIRATIME, false },
	{ "nodiratime", MS_NODIRATIME, true },
	{ "relatime", MS_RELATIME, true },
	{ "norelatime", MS_RELATIME, false },
	{ "strictatime", MS_STRICTATIME, true },
	{ "nostrictatime", MS_STRICTATIME, false },
	{ "lazytime", MS_LAZYTIME, true },
	{ "nolazytime", MS_LAZYTIME, false },
};

static bool set_kernel_flag(struct given *g, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kernel_flags); i++) {
		if (strcmp(kernel_flags[i].name, name) != 0)
			continue;
		if (kernel_flags[i].on)
			g->flags |= kernel_flags[i].flag;
		else
			g->flags &= ~kernel_flags[i].flag;
		return true;
	}
	return false;
}

static bool is_ignored(const char *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		if (strcmp(ignored[i], arg) == 0)
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(ignored_prefixes); i++)
		if (strncmp(ignored_prefixes[i], arg,
			    strlen(ignored_prefixes[i])) == 0)
			return true;
	return false;
}

/* fuse_opt calls this for what its table does not have. -1: stop. */
static int take_option(void *data, const char *arg, int key,
		       struct fuse_args *out)
{
	struct given *g = data;

	(void)key;
	(void)out;
	if (set_kernel_flag(g, arg) || is_ignored(arg))
		return 0;
	if (strcmp(arg, "remount") == 0) {
		snprintf(
			g->why, g->why_size,
			"remount is not supported: `pipcachefs limit` changes the limit of a mount; for other options unmount it, then mount it again");
		return -1;
	}
	snprintf(
		g->why, g->why_size,
		"unknown mount option '%s'; ours are limit=, low=, min_free=, grace=, sync=, scrub=, workers=, watchdog=, stop_timeout=, allow_other and noallow_other, and in a configuration file store= and mountpoint=",
		arg);
	return -1;
}

static void release_given(struct given *g)
{
	free(g->limit);
	free(g->low);
	free(g->min_free);
	free(g->grace);
	free(g->sync);
	free(g->scrub);
	free(g->workers);
	free(g->watchdog);
	free(g->stop_timeout);
}
#define cleanup_given __attribute__((cleanup(release_given)))

static void free_args(struct fuse_args *args)
{
	fuse_opt_free_args(args);
}
#define cleanup_args __attribute__((cleanup(free_args)))

static unsigned default_workers(void)
{
	long n = 2 * sysconf(_SC_NPROCESSORS_ONLN);

	return n < 4 ? 4 : n > 16 ? 16 : (unsigned)n;
}

struct size_option {
	const char *name, *text;
	const char *whole; /* what a share is one of */
	bool zero;	   /* may it be 0? */
};

static int check_size(const struct given *g, const struct size_option *o)
{
	if (!o->text || (o->zero ? units_check_amount(o->text)
				 : units_check_limit(o->text)) == 0)
		return 0;
	snprintf(
		g->why, g->why_size,
		"%s=%s is not a size: give bytes as 5G or 512M, or a share of the %s as 10%% (%d%% to 100%%)",
		o->name, o->text, o->whole, o->zero ? 0 : 1);
	return -EINVAL;
}

static int check_sizes(const struct given *g)
{
	const struct size_option options_of_size[] = {
		{ "limit", g->limit, "disk", false },
		{ "low", g->low, "limit", false },
		{ "min_free", g->min_free, "disk", true },
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(options_of_size) && r == 0; i++)
		r = check_size(g, &options_of_size[i]);
	return r;
}

static int check_workers(const struct given *g, unsigned *ret)
{
	uint64_t n;

	if (!g->workers) {
		*ret = default_workers();
		return 0;
	}
	if (units_parse_size(g->workers, &n) == 0 && n >= 1 &&
	    n <= CONFIG_WORKERS_MAX) {
		*ret = (unsigned)n;
		return 0;
	}
	snprintf(g->why, g->why_size, "workers=%s must be 1 to %d", g->workers,
		 CONFIG_WORKERS_MAX);
	return -EINVAL;
}

static int check_grace(const struct given *g, int64_t *ret)
{
	if (!g->grace) {
		*ret = -1;
		return 0;
	}
	if (units_parse_span(g->grace, ret) == 0 &&
	    *ret <= CONFIG_GRACE_MAX_SEC)
		return 0;
	snprintf(
		g->why, g->why_size,
		"grace=%s must be a time of 0 to 365d, as 600 (seconds), 10m, 2h or 1d",
		g->grace);
	return -EINVAL;
}

static int check_watchdog(const struct given *g, int64_t *ret)
{
	if (!g->watchdog) {
		*ret = CONFIG_WATCHDOG_SEC;
		return 0;
	}
	if (units_parse_span(g->watchdog, ret) == 0 &&
	    *ret <= CONFIG_WATCHDOG_MAX_SEC)
		return 0;
	snprintf(
		g->why, g->why_size,
		"watchdog=%s must be a time of 1 s to 1d, as 30 (seconds) or 5m, or 0 for none",
		g->watchdog);
	return -EINVAL;
}

static int check_stop_timeout(const struct given *g, int64_t *ret)
{
	if (!g->stop_timeout) {
		*ret = CONFIG_STOP_SEC;
		return 0;
	}
	if (units_parse_span(g->stop_timeout, ret) == 0 &&
	    *ret <= CONFIG_STOP_MAX_SEC)
		return 0;
	snprintf(
		g->why, g->why_size,
		"stop_timeout=%s must be a time of 0 to 1d, as 60 (seconds) or 5m",
		g->stop_timeout);
	return -EINVAL;
}

static int check_sync(const struct given *g, bool *ret)
{
	*ret = g->sync && strcmp(g->sync, "strict") == 0;
	if (!g->sync || *ret || strcmp(g->sync, "lazy") == 0)
		return 0;
	snprintf(g->why, g->why_size, "sync=%s must be strict or lazy",
		 g->sync);
	return -EINVAL;
}

static int check_scrub(const struct given *g, int64_t *ret)
{
	if (!g->scrub) {
		*ret = CONFIG_SCRUB_SEC;
		return 0;
	}
	if (strcmp(g->scrub, "off") == 0) {
		*ret = 0;
		return 0;
	}
	if (units_parse_span(g->scrub, ret) == 0 &&
	    *ret <= CONFIG_SCRUB_MAX_SEC)
		return 0;
	snprintf(
		g->why, g->why_size,
		"scrub=%s must be off or a time of up to 3650d in which all is read once, as 30d",
		g->scrub);
	return -EINVAL;
}

/* The one place that decides whether what was given makes sense. */
static int check(const struct given *g, bool root, struct config *c)
{
	int r;

	r = check_sizes(g);
	if (r < 0)
		return r;
	r = check_grace(g, &c->grace_sec);
	if (r < 0)
		return r;
	r = check_sync(g, &c->sync_strict);
	if (r < 0)
		return r;
	r = check_scrub(g, &c->scrub_sec);
	if (r < 0)
		return r;
	r = check_workers(g, &c->workers);
	if (r < 0)
		return r;
	r = check_watchdog(g, &c->watchdog_sec);
	if (r < 0)
		return r;
	r = check_stop_timeout(g, &c->stop_timeout_sec);
	if (r < 0)
		return r;
	c->allow_other = g->allow_other < 0 ? root : g->allow_other > 0;
	c->mount_flags = g->flags;
	return 0;
}

int config_parse(const char *opts, bool root, struct config *ret, char *why,
		 size_t why_size)
{
	cleanup_given struct given g = {
		.allow_other = -1,
		.flags = MS_NOSUID | MS_NODEV,
		.why = why,
		.why_size = why_size,
	};
	cleanup_args struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct config c = { 0 };
	int r;

	if (opts && strlen(opts) > CONFIG_OPTIONS_MAX) {
		snprintf(why, why_size,
			 "the mount options are longer than %d bytes",
			 CONFIG_OPTIONS_MAX);
		return -EINVAL;
	}
	if (fuse_opt_add_arg(&args, "pipcachefs") < 0 ||
	    (opts && *opts &&
	     (fuse_opt_add_arg(&args, "-o") < 0 ||
	      fuse_opt_add_arg(&args, opts) < 0))) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	snprintf(why, why_size, "the mount options '%s' cannot be read",
		 opts ? opts : "");
	if (fuse_opt_parse(&args, &g, options, take_option) < 0)
		return -EINVAL;

	r = check(&g, root, &c);
	if (r < 0)
		return r;
	c.limit = steal_ptr(g.limit);
	c.low = steal_ptr(g.low);
	c.min_free = steal_ptr(g.min_free);
	*ret = c;
	return 0;
}

void config_release(struct config *c)
{
	free(c->limit);
	free(c->low);
	free(c->min_free);
	*c = (struct config){ 0 };
}

const char *config_fixed(const struct config *now, const struct config *then)
{
	if (now->allow_other != then->allow_other)
		return "allow_other";
	if (now->watchdog_sec != then->watchdog_sec)
		return "watchdog";
	if (now->mount_flags != then->mount_flags)
		return "ro, nosuid and the like";
	return NULL;
}
