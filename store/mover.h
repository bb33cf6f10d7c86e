/* SPDX-License-Identifier: MIT */
/*
 * Moving blocks to other packs: the second half of compaction (compact.h).
 *
 *	copy some, verified			to the end of the target
 *	change their records			one short transaction
 *	packs_moved()				who reads looks again
 *	holes_add(), or the pack is given up	the old place goes after the
 *						next checkpoint
 *
 * Recipes stay as they are. A block that went meanwhile is passed over; one
 * whose bytes are not what they should be is lost (block_lose()).
 *
 * Room is taken only if there is some. A mover belongs to one thread at a time.
 */
#ifndef STORE_MOVER_H
#define STORE_MOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/edit.h"
#include "store/idset.h"

/* A block, and where it was seen. The rest is the mover's. */
struct move {
	uint64_t id;
	uint64_t pack;
	uint64_t off;
	uint64_t len;
	uint64_t xxh3;

	uint64_t at; /* in the target */
	bool good;   /* copied; its bytes were right */
	enum { MOVE_LEFT, MOVE_DAMAGED, MOVE_DONE } state; /* committed */
};

/*
 * All borrowed. @go_on is asked now and then; @damaged is told of each block
 * that is lost. @step is held for each transaction and what follows it. It and
 * @damaged may be NULL.
 */
struct mover {
	struct tree *t;
	bool (*go_on)(void *arg);
	void (*damaged)(void *arg, const struct move *mv);
	void *arg;
	pthread_mutex_t *step;

	uint64_t target;   /* pack that is filled; 0: none */
	struct idset left; /* packs that cannot be emptied: left alone */
};
void mover_release(struct mover *m);

/*
 * Move the blocks, which are in the order of packs and offsets. 1: some were,
 * 0: none. -EAGAIN: the target was given up meanwhile; -ENOSPC: no room;
 * -ECANCELED: @go_on said no. Or the errors of packs and index. What was moved
 * before an error stays so.
 */
int mover_run(struct mover *m, struct move *moves, size_t n);

#endif
