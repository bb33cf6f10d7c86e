/* SPDX-License-Identifier: MIT */
/*
 * Giving blocks back: what recipes that no inode has any more referred to.
 *
 * A recipe that waits (table pending) is dropped in short transactions: each
 * of its blocks loses a reference, and goes with the last one. What it took of
 * its pack is punched out after the next checkpoint (holes.h); a pack without
 * live blocks goes whole. References in the index are exact after every
 * transaction, so it can be cut off anywhere.
 *
 * Threads: any. One of its own does what others leave to it; a while after
 * something was dropped it compacts packs (compact.h) that waste space.
 */
#ifndef STORE_GC_H
#define STORE_GC_H

#include <stdint.h>

#include "store/edit.h"

struct gc;

int gc_new(struct tree *t, struct gc **ret); /* @t is borrowed */
/* NULL is fine. Ends the thread; what waits is left to the next mount. */
void gc_free(struct gc *gc);

/* Who is told of damaged blocks (see syslog(3)). Before gc_start(). */
void gc_set_report(struct gc *gc,
		   void (*report)(void *arg, int priority, const char *text),
		   void *arg);

/* Start the thread. It begins with what an earlier mount left. */
int gc_start(struct gc *gc);

void gc_wake(struct gc *gc); /* something may wait; never blocks */

/* Drop all that waits, in this thread. *@ret_bytes: of the blocks that went,
 * what comes back at most. */
int gc_drain(struct gc *gc, uint64_t *ret_bytes);

/* What all drops together freed so far, by whichever thread. Who wants to know
 * what a removal brings asks before it, and after gc_drain(). */
uint64_t gc_freed(struct gc *gc);

/* At open, before anything else runs: recipes that were being built when the
 * store was closed or cut off are to be dropped too. */
int gc_adopt(struct tree *t);

#endif
