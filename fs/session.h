/* SPDX-License-Identifier: MIT */
/*
 * A FUSE connection and the workers that serve it.
 *
 *	session_block_signals()	before any thread exists
 *	session_start()		the mount answers from here on
 *	session_wait()		until it is unmounted, or a signal asks to end
 *	session_stop()		no request is in work any more
 *
 * Each worker reads a request into its slot of the kept memory, has it processed
 * and replies, and reads on. The last that takes one while all others are at
 * work starts another worker; those stay until the end. Not here: mounting
 * (attach), what requests do (ops).
 *
 * What a killed daemon had in work stands in the slots still. A session that
 * finds requests there finishes them before it reads any: first all but
 * releases, for one of those may have been answered already while another
 * worker had yet to clear its slot, and nobody may use what is released.
 *
 * Threads: one owns the session; the workers are its own.
 */
#ifndef FS_SESSION_H
#define FS_SESSION_H

#include <stdbool.h>

#include "fs/kept.h"
#include "fs/ops.h"

/* More requests than that wait for one of them to end. */
#define SESSION_WORKERS_MAX KEPT_SLOTS

struct session;

/*
 * SIGTERM, SIGINT, SIGHUP and SIGUSR2 become what session_wait() waits for;
 * SIGPIPE is ignored. Threads started later inherit that.
 */
void session_block_signals(void);

/*
 * @fd:      of the connection; taken over, on failure too.
 * @kept:    borrowed, outlives the session.
 * @ops:     borrowed, outlives the session.
 * @workers: to begin with, 1 to SESSION_WORKERS_MAX.
 * Returns:  0 the kernel has accepted us, and requests are answered; -ENODEV
 *           unmounted meanwhile; -EPROTO kernel and libfuse do not agree;
 *           -ENOMEM, -EAGAIN no more threads, -EIO libfuse refused.
 */
int session_start(int fd, struct kept *kept, struct ops *ops, unsigned workers,
		  struct session **ret);

/*
 * Wait for the end, at most @timeout_ms (-1: for ever).
 * Returns:  the number of the signal that came; 0 unmounted; -ETIMEDOUT;
 *           -EIO the connection broke.
 */
int session_wait(struct session *s, int timeout_ms);

/* Let requests in work end, and take no more: what comes stays in the kernel for
 * a successor. Then only session_stop() makes sense. */
void session_pause(struct session *s);

/* The same, and close the connection. Frees @s; NULL is fine. */
void session_stop(struct session *s);

/* What doctor asks: the release of the libfuse in use, as "3.14.0". */
const char *session_libfuse_version(void);

#endif
