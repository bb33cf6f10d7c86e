/* SPDX-License-Identifier: MIT */
/*
 * The clocks as store/ reads them, seen from a test: the program's own
 * clock_gettime() takes the place of libc's. Both clocks can be put forward,
 * and a hook is called before the wall clock is read (edit_begin() does, with
 * its transaction begun).
 *
 * For one source file of a test program. Timed waits follow the real clocks.
 */
#ifndef TESTS_CLOCKTAP_H
#define TESTS_CLOCKTAP_H

#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_long clocktap_wall_sec; /* added to CLOCK_REALTIME */
static atomic_long clocktap_mono_sec; /* added to CLOCK_MONOTONIC */
static void (*_Atomic clocktap_hook)(void);

int clock_gettime(clockid_t id, struct timespec *ts)
{
	void (*hook)(void) = clocktap_hook;
	long r;

	if (hook && id == CLOCK_REALTIME)
		hook();
	r = syscall(SYS_clock_gettime, id, ts);
	if (r == 0 && id == CLOCK_REALTIME)
		ts->tv_sec += clocktap_wall_sec;
	if (r == 0 && id == CLOCK_MONOTONIC)
		ts->tv_sec += clocktap_mono_sec;
	return (int)r;
}

#endif
