/* SPDX-License-Identifier: MIT */
/*
 * Who listens on a Unix socket.
 *
 * Threads: any number at once.
 */
#ifndef FS_LISTENER_H
#define FS_LISTENER_H

#include <stddef.h>
#include <sys/types.h>

/* Does anybody, and may we connect? 0, or a negative errno and in *@why what
 * to do. */
int listener_check(const char *path, char *why, size_t why_size);

/*
 * The process that serves @path, which must have the name @comm. It need not be
 * the one that began to listen: systemd does that for services. That one must
 * be root's, for who has the socket is believed and gets mounts.
 *
 * Returns:  0; -EPERM a user's socket; -ENOTSUP nobody of that name has it; or
 *           another negative errno.
 */
int listener_find(const char *path, const char *comm, pid_t *ret, char *why,
		  size_t why_size);

#endif
