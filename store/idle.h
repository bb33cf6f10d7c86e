/* SPDX-License-Identifier: MIT */
/*
 * Work that nobody waits for: between idle_enter() and idle_leave() the calling
 * thread runs only when no other wants the processor (SCHED_IDLE).
 *
 * No lock may be held in between: whoever wanted it would wait for a thread
 * that does not get to run. Where a process may not leave SCHED_IDLE again
 * (no CAP_SYS_NICE, RLIMIT_NICE is 0), nothing happens.
 */
#ifndef STORE_IDLE_H
#define STORE_IDLE_H

#include <pthread.h>
#include <stdbool.h>

void idle_enter(void);
void idle_leave(void);

/* Now somebody waits: joins @thread, which nothing makes idle meanwhile. Other
 * threads are not made idle either then. */
void idle_join(pthread_t thread);

/* The thread's reads and writes come after those of all others, or no more. */
void idle_io(bool idle);

#endif
