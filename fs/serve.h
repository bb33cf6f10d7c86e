/* SPDX-License-Identifier: MIT */
/*
 * One store served on one mount point, from opening the store to closing it.
 * Runs in the process that calls it; making a daemon of that is cmd_mount's.
 */
#ifndef FS_SERVE_H
#define FS_SERVE_H

#include <stddef.h>

#include "fs/config.h"

struct serve {
	const struct config *config;
	const char *store;	/* absolute, as mounts_resolve() has it */
	const char *mountpoint; /* likewise */
	/* Called once the mount answers. */
	void (*ready)(void *arg);
	void *arg;
};

/*
 * Serve until it is unmounted or SIGTERM, SIGINT or SIGHUP comes. Changes the
 * process: signals, umask, the number of files it may open.
 *
 * @why:     if it could not be served at all: one line.
 * Returns:  0 it was served and closed cleanly; a negative errno: it was not,
 *           with @why if ready() was not called, else it has been logged.
 */
int serve_run(const struct serve *sv, char *why, size_t why_size);

#endif
