/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/attach.h"
#include "fs/cmd.h"
#include "fs/holders.h"
#include "fs/mounts.h"
#include "store/base.h"
#include "store/store.h"

#define WHY_MAX 512
/* The last checkpoint and checksums may take a while. */
#define END_MAX_MSEC (300 * 1000)
#define END_NOTICE_MSEC 3000
#define END_STEP_MSEC 10

static const struct argp_option options[] = {
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	return cmd_path(key, arg, state, state->input);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "MOUNTPOINT|STORE",
	.doc = "Unmount, and wait until the daemon has closed the store and ended. Whoever has the mount by another way, as a container by a bind mount, is served on, and named here.",
};

/* ---- the daemon's end ---- */

struct daemon {
	const char *store;     /* borrowed */
	pid_t pid;	       /* 0: there is none */
	int pidfd;	       /* owned; -1: the pid means nothing here */
	unsigned major, minor; /* of the mount */
};

static struct daemon find_daemon(const char *store)
{
	struct daemon d = { .store = store, .pidfd = -1 };
	char why[WHY_MAX];

	if (store_probe(store, &d.pid, why, sizeof(why)) < 0)
		d.pid = 0;
	if (d.pid > 0)
		d.pidfd = (int)syscall(SYS_pidfd_open, d.pid, 0);
	return d;
}

/* Has it ended (perhaps a zombie), and its keeper let go of the store? Waits
 * END_STEP_MSEC for it. */
static bool has_ended(const struct daemon *d)
{
	struct pollfd p = { .fd = d->pidfd, .events = POLLIN };
	char why[WHY_MAX];
	pid_t pid;

	if (d->pidfd >= 0 && poll(&p, 1, END_STEP_MSEC) != 1)
		return false;
	if (store_probe(d->store, &pid, why, sizeof(why)) < 0 || pid != d->pid)
		return true;
	usleep(END_STEP_MSEC * 1000);
	return false;
}

static void say_waiting(const struct daemon *d)
{
	char who[WHY_MAX];

	if (holders_find(d->major, d->minor, HOLDERS_ALL, who, sizeof(who)) > 0)
		cmd_error("%s is still in use: %s", d->store, who);
	cmd_error("waiting for process %d to close %s", d->pid, d->store);
}

static int await_end(const struct daemon *d)
{
	if (d->pid == 0)
		return CMD_OK;
	for (int msec = 0; msec < END_MAX_MSEC; msec += END_STEP_MSEC) {
		if (has_ended(d))
			return CMD_OK;
		if (msec == END_NOTICE_MSEC)
			say_waiting(d);
	}
	cmd_error(
		"%s is unmounted, but process %d has not ended within %d s: it serves who still has the mount; `kill %d` ends that after stop_timeout",
		d->store, d->pid, END_MAX_MSEC / 1000, d->pid);
	return CMD_FAILED;
}

/* ---- unmounting ---- */

static void say_busy(const struct mounts_entry *e)
{
	char who[WHY_MAX];

	if (holders_find(e->major, e->minor, HOLDERS_OF_FILES, who,
			 sizeof(who)) > 0)
		cmd_error("%s is busy: %s", e->mountpoint, who);
	else
		cmd_error(
			"%s is busy: something is mounted in it, or is used by a process that /proc does not show",
			e->mountpoint);
}

static int unmount(const struct mounts_entry *e)
{
	char why[WHY_MAX];
	int r = attach_unmount(e->mountpoint, false, why, sizeof(why));

	if (r == 0)
		return CMD_OK;
	if (r == -EBUSY)
		say_busy(e);
	else
		cmd_error("unmounting %s: %s", e->mountpoint, why);
	return CMD_FAILED;
}

static int not_mounted(const char *path, const char *full)
{
	struct daemon d = find_daemon(full);

	base_closep(&d.pidfd);
	if (d.pid)
		cmd_error(
			"%s is not mounted here, but process %d holds it: a mount of another namespace, a command, or files still open; `kill %d` ends it",
			path, d.pid, d.pid);
	else
		cmd_error(
			"%s is neither a mount point of pipcachefs nor a store that is mounted",
			path);
	return CMD_FAILED;
}

/* All mounts of a store, bind mounts among them, the last one first. */
static int unmount_store(const struct mounts *mounts, const char *store)
{
	int r = CMD_OK;

	for (size_t i = mounts->n; r == CMD_OK && i-- > 0;)
		if (strcmp(mounts->entry[i].store, store) == 0)
			r = unmount(&mounts->entry[i]);
	return r;
}

/* One mount; if there are others of the same connection, its daemon goes on. */
static int unmount_one(const struct mounts *mounts,
		       const struct mounts_entry *e, bool *ret_goes_on)
{
	int r = unmount(e);

	for (size_t i = 0; r == CMD_OK && i < mounts->n; i++) {
		const struct mounts_entry *other = &mounts->entry[i];

		if (other == e || other->major != e->major ||
		    other->minor != e->minor)
			continue;
		cmd_error("%s is still mounted on %s, so its daemon goes on",
			  e->store, other->mountpoint);
		*ret_goes_on = true;
		break;
	}
	return r;
}

int cmd_umount(int argc, char **argv)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	cleanup_free char *full = NULL;
	const char *path = NULL;
	const struct mounts_entry *e, *first;
	struct daemon d;
	bool goes_on = false;
	int r;

	if (!cmd_parse(&argp, argc, argv, &path, &r))
		return r;
	r = mounts_resolve(path, &full);
	if (r == 0)
		r = mounts_load(&mounts);
	if (r < 0) {
		cmd_error("%s: %s", path, strerror(-r));
		return CMD_FAILED;
	}

	e = mounts_at(&mounts, full);
	if (!e && !mounts_of(&mounts, full))
		return not_mounted(path, full);
	d = find_daemon(e ? e->store : full);
	first = e ? e : mounts_of(&mounts, full);
	d.major = first->major;
	d.minor = first->minor;
	if (e)
		r = unmount_one(&mounts, e, &goes_on);
	else
		r = unmount_store(&mounts, full);
	if (r == CMD_OK && !goes_on)
		r = await_end(&d);
	base_closep(&d.pidfd);
	return r;
}
