/* SPDX-License-Identifier: MIT */
/*
 * Who serves a mount, for commands that have another daemon take over and wait
 * for it.
 *
 *	successor_look()	before
 *	successor_await()	after
 *
 * Threads: one.
 */
#ifndef FS_SUCCESSOR_H
#define FS_SUCCESSOR_H

#include <sys/types.h>

struct successor {
	pid_t pid;
	/* Owned. */
	char *version;
	char *options; /* of the mount, as after -o */
};
#define SUCCESSOR_INIT                                                         \
	{                                                                      \
		.pid = 0, .version = NULL, .options = NULL                     \
	}

/* The daemon that serves @store now. -ENOENT: nobody answers. */
int successor_look(const char *store, struct successor *ret);

/*
 * Wait for another one than @before.
 * Returns: 0; -ETIMEDOUT after minutes: opening a store may take a while.
 */
int successor_await(const char *store, pid_t before, struct successor *ret);

void successor_release(struct successor *s);
#define cleanup_successor __attribute__((cleanup(successor_release)))

#endif
