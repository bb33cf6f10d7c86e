/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/attach.h"
#include "fs/channel.h"
#include "fs/cmd.h"
#include "fs/mounts.h"
#include "fs/session.h"
#include "fs/units.h"
#include "store/base.h"
#include "store/store.h"

#define WHY_MAX 1024
#define KERNEL_MAJOR 5
#define KERNEL_MINOR 15
/* What a new store leaves free of its disk by default. */
#define MIN_FREE_PERCENT 5

struct args {
	const char *positional[2]; /* store, mountpoint */
};

static const struct argp_option options[] = {
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	if (key == ARGP_KEY_ARG)
		return cmd_positional(state, arg, a->positional, 2);
	return cmd_option(key, state);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "[STORE [MOUNTPOINT]]",
	.doc = "Look for what keeps pipcachefs from working, here or with that store.\v"
	       "Each line begins with ok, or with !! and says what to do. "
	       "The exit status is 1 if there was any !!.",
};

/* ---- lines ---- */

struct doctor {
	bool bad; /* there was a !! */
};

static void good(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void good(const char *format, ...)
{
	va_list args;

	fputs("ok  ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

static void bad(struct doctor *d, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void bad(struct doctor *d, const char *format, ...)
{
	va_list args;

	d->bad = true;
	fputs("!!  ", stdout);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* ---- the machine ---- */

static void check_kernel(struct doctor *d)
{
	unsigned major = 0, minor = 0;
	struct utsname u;
	char *end;

	if (uname(&u) == 0) {
		major = (unsigned)strtoul(u.release, &end, 10);
		if (*end == '.')
			minor = (unsigned)strtoul(end + 1, NULL, 10);
	}
	if (major > KERNEL_MAJOR ||
	    (major == KERNEL_MAJOR && minor >= KERNEL_MINOR))
		good("kernel %u.%u", major, minor);
	else
		bad(d, "kernel %u.%u: pipcachefs needs %d.%d or later", major,
		    minor, KERNEL_MAJOR, KERNEL_MINOR);
	good("libfuse %s", session_libfuse_version());
}

static bool check_device(struct doctor *d)
{
	int fd = open(ATTACH_DEVICE, O_RDWR | O_CLOEXEC);
	int error = errno;

	if (fd >= 0) {
		close(fd);
		good(ATTACH_DEVICE " can be opened");
		return true;
	}
	bad(d, ATTACH_DEVICE ": %s: %s", strerror(error),
	    error == EACCES || error == EPERM
		    ? "its mode should be 0666; a container must be given the device"
		    : "modprobe fuse; a container must be given the device");
	return false;
}

/* What the kernel offers, from the first request of a connection. */
static void show_features(struct doctor *d, int fd)
{
	static const struct {
		uint64_t flag;
		const char *name;
		bool needed;
	} known[] = {
		{ FUSE_BIG_WRITES, "large writes", true },
		{ FUSE_MAX_PAGES, "1 MiB requests", true },
		{ FUSE_ATOMIC_O_TRUNC, "truncating open", true },
		{ FUSE_PARALLEL_DIROPS, "parallel lookups", false },
		{ FUSE_DO_READDIRPLUS, "readdirplus", false },
		{ CHANNEL_ALLOW_IDMAP, "idmapped mounts", false },
	};
	union {
		struct {
			struct fuse_in_header head;
			struct fuse_init_in init;
		} in;
		char room[FUSE_MIN_READ_BUFFER];
	} request;
	ssize_t n = read(fd, &request, sizeof(request));
	uint64_t flags;

	if (n < (ssize_t)(sizeof(request.in.head) + 16) ||
	    request.in.head.opcode != FUSE_INIT) {
		bad(d,
		    "the kernel did not begin a FUSE connection: report this, with the kernel's release");
		return;
	}
	good("the kernel speaks FUSE %u.%u", request.in.init.major,
	     request.in.init.minor);
	flags = request.in.init.flags;
	if ((flags & FUSE_INIT_EXT) && n >= (ssize_t)sizeof(request.in))
		flags |= (uint64_t)request.in.init.flags2 << 32;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (flags & known[i].flag)
			good("kernel feature: %s", known[i].name);
		else if (known[i].needed)
			bad(d, "kernel feature missing: %s: use a later kernel",
			    known[i].name);
	}
}

/* Mount on a directory of our own, which nobody uses, and unmount. */
static void check_mounting(struct doctor *d)
{
	char dir[] = "/tmp/pipcachefs-doctor.XXXXXX";
	const struct attach attach = { .source = "doctor", .mountpoint = dir };
	char why[WHY_MAX];
	int fd;

	if (!mkdtemp(dir)) {
		bad(d, "making a directory in /tmp: %s: make it writable",
		    strerror(errno));
		return;
	}
	fd = attach_mount(&attach, why, sizeof(why));
	if (fd < 0) {
		bad(d, "this user may not mount: %s", why);
	} else {
		good("this user may mount");
		show_features(d, fd);
		close(fd);
		if (attach_unmount(dir, true, why, sizeof(why)) < 0)
			bad(d, "unmounting %s: %s: unmount it by hand", dir,
			    why);
	}
	rmdir(dir);
}

/* A limit on answers ends the mount while a daemon is being restarted. */
static void check_timeout(struct doctor *d, const char *name)
{
	char path[80];
	unsigned seconds = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/sys/fs/fuse/%s", name);
	f = fopen(path, "re");
	if (f) {
		char line[32] = "";

		if (fgets(line, sizeof(line), f))
			seconds = (unsigned)strtoul(line, NULL, 10);
		(void)fclose(f);
	}
	if (seconds)
		bad(d,
		    "fs.fuse.%s is %u s: a slow answer would end the mount: sysctl fs.fuse.%s=0",
		    name, seconds, name);
	else
		good("fs.fuse.%s is off", name);
}

/* ---- the store ---- */

/* The file system that @path is on or would be: how full? */
static void check_disk(struct doctor *d, const char *path)
{
	char total[UNITS_TEXT_MAX], left[UNITS_TEXT_MAX];
	cleanup_free char *above = strdup(path);
	struct statvfs s;
	char *slash;
	int r = above ? statvfs(above, &s) : -1;

	while (above && r < 0 && errno == ENOENT) {
		slash = strrchr(above, '/');
		if (!slash || slash == above)
			break;
		*slash = '\0';
		r = statvfs(above, &s);
	}
	if (r < 0) {
		bad(d, "%s: %s: make it reachable", path, strerror(errno));
		return;
	}
	units_format_size((uint64_t)s.f_bavail * s.f_frsize, left,
			  sizeof(left));
	units_format_size((uint64_t)s.f_blocks * s.f_frsize, total,
			  sizeof(total));
	if (s.f_bavail < s.f_blocks / 100 * MIN_FREE_PERCENT)
		bad(d,
		    "only %s of %s are free at %s, and %d %% are left alone by default: nothing would be stored; free some, or mount with a smaller min_free=",
		    left, total, above, MIN_FREE_PERCENT);
	else
		good("%s of %s are free at %s", left, total, above);
}

/* Returns whether there is a store to ask further. */
static bool check_format(struct doctor *d, const char *store, pid_t *ret_pid)
{
	char why[WHY_MAX] = "";
	int r = store_probe(store, ret_pid, why, sizeof(why));

	if (r == 0) {
		good("%s is a store of this format", store);
		return true;
	}
	if (r == -ENOENT) {
		good("%s is not there yet: mount makes it", store);
		check_disk(d, store);
	} else {
		bad(d, "%s", *why ? why : strerror(-r));
	}
	return false;
}

/* What the daemon says of itself. */
static void check_state(struct doctor *d, const struct cmd_target *target)
{
	const char *state, *reason;
	json_t *reply, *status;

	if (cmd_ask(target, json_pack("{s:s}", "command", "status"), true,
		    &reply) != CMD_OK) {
		bad(d, "%s does not tell its status: see above", target->store);
		return;
	}
	status = json_object_get(reply, "status");
	state = json_string_value(json_object_get(status, "state"));
	reason = json_string_value(json_object_get(status, "reason"));
	if (state && strcmp(state, "ok") == 0)
		good("%s stores and serves", target->store);
	else
		bad(d, "%s is %s: %s", target->store, state ? state : "?",
		    reason ? reason : "?");
	json_decref(reply);
}

/*
 * A store that nobody serves is looked at from outside: to open it would be a
 * use of it, with a checkpoint. Who has mounted it meanwhile is asked instead,
 * *@pid then.
 */
static void check_content(struct doctor *d, const struct cmd_target *target,
			  pid_t *pid)
{
	char why[WHY_MAX] = "", ignored[WHY_MAX];
	int r = *pid ? 0 : store_look(target->store, why, sizeof(why));

	if (!*pid)
		(void)store_probe(target->store, pid, ignored, sizeof(ignored));
	if (*pid) {
		check_state(d, target);
		return;
	}
	if (r == -EBADMSG)
		bad(d,
		    "%s: a mount sets it aside and begins with an empty cache",
		    why);
	else if (r < 0)
		bad(d, "%s", why);
	else
		good("%s can be read%s", target->store,
		     r ? "; it was not closed, a mount goes back to its last checkpoint"
		       : "");
	check_disk(d, target->store);
}

/* ---- the mount ---- */

/* pip's own rule: root wants to own its cache, others to write to it. */
static void check_owner(struct doctor *d, const char *mountpoint)
{
	struct stat st;

	if (stat(mountpoint, &st) < 0) {
		bad(d, "%s: %s: unmount it and mount again", mountpoint,
		    strerror(errno));
	} else if (geteuid() == 0 && st.st_uid != 0) {
		bad(d,
		    "%s belongs to uid %u: pip as root then uses no cache: chown root %s",
		    mountpoint, st.st_uid, mountpoint);
	} else if (access(mountpoint, W_OK) < 0) {
		bad(d,
		    "%s: %s: pip as this user then uses no cache: chown it to this user",
		    mountpoint, strerror(errno));
	} else {
		good("pip as this user takes %s for its cache", mountpoint);
	}
}

/* @full: where the user expects the mount; NULL: he named none. */
static void check_mount(struct doctor *d, const struct cmd_target *target,
			const char *full, pid_t pid)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	const struct mounts_entry *e = NULL;

	if (mounts_load(&mounts) == 0)
		e = full ? mounts_at(&mounts, full)
			 : mounts_of(&mounts, target->store);
	if (!e && full) {
		bad(d,
		    "%s is an ordinary directory, nothing is mounted there: pipcachefs mount %s %s",
		    full, target->store, full);
	} else if (!e) {
		good("%s is not mounted", target->store);
	} else if (strcmp(e->store, target->store) != 0) {
		bad(d, "%s is the mount of another store: %s", e->mountpoint,
		    e->store);
	} else if (pid == 0) {
		bad(d,
		    "the daemon of %s has died: pipcachefs umount %s, then mount again",
		    e->mountpoint, e->mountpoint);
	} else {
		good("%s is a mount of %s, served by process %d", e->mountpoint,
		     e->store, pid);
		check_owner(d, e->mountpoint);
	}
}

static int check_store(struct doctor *d, const struct args *a)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	cleanup_free char *full = NULL;
	pid_t pid = 0;
	int r;

	r = cmd_find(a->positional[0], &target);
	if (r == CMD_OK && a->positional[1] &&
	    mounts_resolve(a->positional[1], &full) < 0) {
		cmd_error("%s: no such directory", a->positional[1]);
		r = CMD_FAILED;
	}
	if (r != CMD_OK)
		return r;
	if (check_format(d, target.store, &pid))
		check_content(d, &target, &pid);
	check_mount(d, &target, full, pid);
	return CMD_OK;
}

int cmd_doctor(int argc, char **argv)
{
	struct args a = { 0 };
	struct doctor d = { 0 };
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	check_kernel(&d);
	if (check_device(&d))
		check_mounting(&d);
	check_timeout(&d, "default_request_timeout");
	check_timeout(&d, "max_request_timeout");
	if (a.positional[0]) {
		r = check_store(&d, &a);
		if (r != CMD_OK)
			return r;
	}
	return d.bad ? CMD_FAILED : CMD_OK;
}
