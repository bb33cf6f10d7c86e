/* SPDX-License-Identifier: MIT */
/*
 * A FUSE connection and the workers that serve it.
 *
 *	session_block_signals()	before any thread exists
 *	session_start()		the mount answers from here on
 *	session_wait()		until it is unmounted, or a signal asks to end
 *	session_stop()		no request is in work any more
 *
 * Each worker reads a request into a buffer of its own, has it processed and
 * replies, and reads on. The last that takes one while all others are at work
 * starts another worker; those stay until the end. Not here: mounting (attach),
 * what requests do (ops).
 *
 * Threads: one owns the session; the workers are its own.
 */
#ifndef FS_SESSION_H
#define FS_SESSION_H

#include <stdbool.h>

#include "fs/ops.h"

/* More requests than that wait for one of them to end. */
#define SESSION_WORKERS_MAX 64

struct session;

/*
 * SIGTERM, SIGINT and SIGHUP become what session_wait() waits for; SIGPIPE is
 * ignored. Threads started later inherit that.
 */
void session_block_signals(void);

/*
 * @fd:      of the connection; taken over, on failure too.
 * @ops:     borrowed, outlives the session.
 * @workers: to begin with, 1 to SESSION_WORKERS_MAX.
 * Returns:  0 the kernel has accepted us, and requests are answered; -ENODEV
 *           unmounted meanwhile; -EPROTO kernel and libfuse do not agree;
 *           -ENOMEM, -EAGAIN no more threads, -EIO libfuse refused.
 */
int session_start(int fd, struct ops *ops, unsigned workers,
		  struct session **ret);

/*
 * Wait for the end, at most @timeout_ms (-1: for ever).
 * Returns:  the number of the signal that came; 0 unmounted; -ETIMEDOUT;
 *           -EIO the connection broke.
 */
int session_wait(struct session *s, int timeout_ms);

/* Let requests in work end, take no more, close the connection. Frees @s. */
void session_stop(struct session *s);

/* What doctor asks: the release of the libfuse in use, as "3.14.0". */
const char *session_libfuse_version(void);

#endif
