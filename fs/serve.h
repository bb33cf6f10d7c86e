/* SPDX-License-Identifier: MIT */
/*
 * One store served on one mount point, from opening the store to closing it, by
 * a daemon that has a keeper (keeper.h).
 */
#ifndef FS_SERVE_H
#define FS_SERVE_H

#include <stddef.h>

#include "fs/config.h"
#include "fs/kept.h"

struct serve {
	const struct config *config;
	const char *options;	/* what it was made of */
	const char *store;	/* absolute, as mounts_resolve() has it */
	const char *mountpoint; /* likewise */
	int keeper;		/* a socket, see link.h; borrowed */
	struct kept *kept;	/* borrowed */
	/* Of a mount that goes on; -1: it is to be made. Taken over. */
	int device, lock, control;
	/* Called once the mount answers. */
	void (*ready)(void *arg);
	void *arg;
};

/* Another program is to go on: the process must end, and close nothing. */
#define SERVE_HANDOVER 1

/*
 * Serve until it is unmounted, SIGTERM, SIGINT or SIGHUP comes, or another
 * program, or one with other options, is to go on. After a signal nobody finds
 * the mount any more, and those who have it are served until they let go, at
 * most stop_timeout, or until a second signal. Changes the process: signals, umask, the number of files
 * it may open.
 *
 * @why:     if it could not be served at all: one line.
 * Returns:  0 it was served and closed cleanly; SERVE_HANDOVER; a negative
 *           errno: it was not, with @why if ready() was not called (-ESTALE:
 *           the store is not what the kernel knows), else it has been logged.
 */
int serve_run(const struct serve *sv, char *why, size_t why_size);

#endif
