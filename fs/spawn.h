/* SPDX-License-Identifier: MIT */
/*
 * Start a daemon with the descriptors that link.h says, and with a link to it.
 *
 * Threads: one, the only one of its process.
 */
#ifndef FS_SPAWN_H
#define FS_SPAWN_H

#include <sys/types.h>

/* All are borrowed; -1: none. */
struct spawn {
	int exe;	   /* the program */
	char *const *argv; /* ends with NULL */
	int kept, trace, lock, device, control;
};

/*
 * @ret_link:  the keeper's end of the link.
 * Returns:    the process (DAEMON_AGAIN is its exit code if the program could
 *             not be executed), or a negative errno.
 */
pid_t spawn_daemon(const struct spawn *s, int *ret_link);

#endif
