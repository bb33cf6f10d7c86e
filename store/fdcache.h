/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of more files than may be open at one time: those that were used
 * lately are, others are opened again when they are wanted.
 *
 *	fdslot_fill()		a file that is open already
 *	fdslot_pin()		its descriptor, opened if need be
 *	  read, write, ...
 *	fdslot_unpin()
 *	fdslot_take()		the file is not wanted any more
 *
 * A slot lies in whatever stands for the file and lives as long as that; all
 * zero but for FDSLOT_INIT. What is pinned stays open, above the limit if need
 * be: pins are short. Which of the others is closed first is decided by a
 * clock, so that a pin of an open file costs one atomic exchange and no lock.
 *
 * Threads: all calls, any number at once; filling and taking one slot are the
 * caller's to order against its other calls.
 */
#ifndef STORE_FDCACHE_H
#define STORE_FDCACHE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

#define FDSLOT_SHUT (-1)

struct fdslot {
	atomic_int pins;	  /* FDSLOT_SHUT while it is closed */
	atomic_bool recent;	  /* pinned since the hand came by */
	int fd;			  /* owned; valid unless shut */
	TAILQ_ENTRY(fdslot) link; /* under the cache's lock */
};
#define FDSLOT_INIT                                                            \
	{                                                                      \
		.pins = FDSLOT_SHUT, .fd = -1                                  \
	}

TAILQ_HEAD(fdslots, fdslot);

struct fdcache {
	pthread_mutex_t lock; /* guards the rest; a leaf, open(2) and close(2)
				 happen under it */
	struct fdslots open;  /* the hand is at the first */
	unsigned n, max;
};

/* How to open the file of a slot: a descriptor or a negative errno. */
struct fdopener {
	int (*open)(const void *arg);
	const void *arg;
};

/* @max: files open at one time; 0: as many as RLIMIT_NOFILE leaves to us. */
void fdcache_init(struct fdcache *c, unsigned max);
void fdcache_release(struct fdcache *c); /* no slot is open */

/* @s is shut; @fd becomes its own. */
void fdslot_fill(struct fdcache *c, struct fdslot *s, int fd);

/*
 * The descriptor, for as long as it is pinned. One that cannot be opened for
 * want of descriptors is tried again for each that can be closed.
 * Returns: a descriptor, or @how's error.
 */
int fdslot_pin(struct fdcache *c, struct fdslot *s, const struct fdopener *how);
void fdslot_unpin(struct fdslot *s);

/* Nobody has it pinned or will: the descriptor, now the caller's to close, or
 * -1 if it is closed. */
int fdslot_take(struct fdcache *c, struct fdslot *s);

#endif
