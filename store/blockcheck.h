/* SPDX-License-Identifier: MIT */
/*
 * The part of a check that looks at recipes, blocks and packs in the index:
 *  - a recipe is one inode's, or waits; its blocks are there, and together as
 *    long as the inode;
 *  - a block is referred to as often as it occurs in recipes;
 *  - digests lead to their blocks, and one to each;
 *  - the blocks of a pack do not overlap, are within it and are what it counts
 *    as live; its owner reads it linearly, and nobody else.
 *
 * Needs 16 bytes a block, file and pack, and while a pack is looked at 24 for
 * each of its blocks.
 */
#ifndef STORE_BLOCKCHECK_H
#define STORE_BLOCKCHECK_H

#include "store/survey.h"

struct blockcheck_result {
	uint64_t recipes;
	uint64_t blocks;
	uint64_t
		forgotten; /* of those, that are lost: found damaged (block.h) */
	uint64_t packs;	   /* with blocks */
	uint64_t bytes;	   /* of blocks */
};

/* In the survey's snapshot. 0, or an error that ended it. */
int blockcheck_run(struct survey *s, struct blockcheck_result *ret);

#endif
