/* SPDX-License-Identifier: MIT */
/*
 * Where was it? The stacks of a daemon that crashes, or hangs and is about to
 * be killed, through a pipe to its keeper, which logs them. Addresses are for
 * addr2line(1) with the same build.
 */
#ifndef FS_TRACE_H
#define FS_TRACE_H

#include <sys/types.h>

/* In the daemon: write there, from now on. */
void trace_install(int fd);

/* In the keeper: have each thread of @pid write its stack, as far as it still
 * can. The next ones come after some time. */
void trace_ask(pid_t pid);

/* Log what has come; does not wait for more. */
void trace_log(int fd);

#endif
