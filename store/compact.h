/* SPDX-License-Identifier: MIT */
/*
 * Compaction: packs that take far more of the disk than their live bytes are
 * emptied, block by block, into packs of their own.
 *
 *	measure packs, choose the worst		nothing is locked
 *	find their blocks: one scan of them all	short read transactions
 *	copy some, verified			to the end of the target
 *	change their records			one short transaction
 *	packs_moved(), then holes_add() or the pack is given up
 *
 * Recipes stay as they are; who reads finds out where the blocks are now (see
 * recipe.h). What the old place takes comes back with the next checkpoint.
 *
 * Never touched: packs that an inode reads linearly, and packs that somebody
 * uses otherwise than for reading blocks: a reader from before it was cut, or
 * the cutter, which adds to it. A shared pack may be emptied between two files
 * that are added to it.
 *
 * It comes to an end: a pack, and a round, that gains less than 1/16 of what it
 * takes is left alone.
 *
 * Threads: compact_measure() any; a mover belongs to one at a time.
 */
#ifndef STORE_COMPACT_H
#define STORE_COMPACT_H

#include <stdbool.h>
#include <stdint.h>

#include "store/mover.h"

struct compact_stat {
	uint64_t packs;	    /* that blocks are in */
	uint64_t allocated; /* bytes on disk of these */
	uint64_t live;
	uint64_t waste; /* allocated and not live, without what the next */
			/* checkpoint gives back anyway */
};
/* One stat() for each pack. */
int compact_measure(struct tree *t, struct compact_stat *ret);

/*
 * Move some, if waste is above 1/20 of what the packs take: 1, or 0 when there
 * is nothing to gain. -EAGAIN: there is, but not now; or the errors of
 * mover_run().
 */
int compact_round(struct mover *m);

#endif
