/* SPDX-License-Identifier: MIT */
/*
 * Scope-bound ownership and the few helpers every module needs. This header
 * is the bottom of the include order: it includes nothing of ours.
 */
#ifndef STORE_BASE_H
#define STORE_BASE_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC INT64_C(1000000000)
#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

/* Free the variable when it leaves scope. NULL is fine. errno is kept. */
#define cleanup_free __attribute__((cleanup(base_freep)))

/* Close the descriptor when it leaves scope. -1 is fine. errno is kept. */
#define cleanup_close __attribute__((cleanup(base_closep)))

/* The same of a directory and of a stream; NULL is fine. */
#define cleanup_dir __attribute__((cleanup(base_closedirp)))
#define cleanup_file __attribute__((cleanup(base_fclosep)))

static inline void base_freep(void *p)
{
	int saved = errno;

	free(*(void **)p);
	errno = saved;
}

static inline void base_closep(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
	errno = saved;
}

static inline void base_closedirp(DIR **d)
{
	int saved = errno;

	if (*d)
		(void)closedir(*d);
	errno = saved;
}

static inline void base_fclosep(FILE **f)
{
	int saved = errno;

	if (*f)
		(void)fclose(*f);
	errno = saved;
}

/* Move ownership out of *@fd: returns it and leaves -1 behind. */
static inline int steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

/* Move ownership out of pointer variable @p: yields it, leaves NULL behind. */
#define steal_ptr(p)                                                           \
	({                                                                     \
		__typeof__(p) _stolen = (p);                                   \
		(p) = NULL;                                                    \
		_stolen;                                                       \
	})

static inline void base_unlockp(pthread_mutex_t **m)
{
	pthread_mutex_unlock(*m);
}

/* Hold @m until the end of the enclosing block. */
#define LOCK_SCOPE(m)                                                          \
	__attribute__((cleanup(base_unlockp), unused))                         \
	pthread_mutex_t *_scope_lock = (pthread_mutex_lock(m), (m))

/* Too many open files, no memory, no room: what could not be begun is lost to
 * nobody and can be tried again. */
static inline bool base_is_shortage(int r)
{
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOSPC ||
	       r == -EDQUOT;
}

/* errno of a sync that failed, as an error that is no shortage: bytes may be
 * lost, whatever it was. */
static inline int base_sync_error(void)
{
	return base_is_shortage(-errno) ? -EIO : -errno;
}

/* CLOCK_REALTIME in nanoseconds: what inode times and last uses are made of. */
static inline int64_t base_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* CLOCK_MONOTONIC in milliseconds, for time limits. */
static inline int64_t base_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* @us after now on CLOCK_MONOTONIC, for pthread_cond_timedwait(). */
static inline struct timespec base_deadline(int64_t us)
{
	struct timespec ts;
	int64_t ns;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ns = ts.tv_nsec + us % 1000000 * 1000;
	ts.tv_sec += (time_t)(us / 1000000 + ns / NSEC_PER_SEC);
	ts.tv_nsec = ns % NSEC_PER_SEC;
	return ts;
}

/* A condition variable whose timed waits follow CLOCK_MONOTONIC. */
static inline int base_cond_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;
	int r = pthread_condattr_init(&attr);

	if (r)
		return -r;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	r = pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
	return -r;
}

/* Is that what a process dies of by what it does itself? */
static inline bool base_is_fault(int signal)
{
	return signal == SIGBUS || signal == SIGSEGV || signal == SIGABRT ||
	       signal == SIGILL || signal == SIGFPE;
}

/* What pthread_create() returned, as an error: what it lacks is memory. */
static inline int base_thread_error(int r)
{
	return r == EAGAIN ? -ENOMEM : -r;
}

/* A call into the layer above: told that something there is due. */
struct notify {
	void (*fn)(void *arg);
	void *arg;
};

static inline void notify_call(const struct notify *n)
{
	if (n->fn)
		n->fn(n->arg);
}

#endif
