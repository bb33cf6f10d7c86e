/* SPDX-License-Identifier: MIT */
/*
 * Recipes: the blocks of a file, in order, and reading through them.
 *
 * A recipe is runs of block ids in the index; to be read it is resolved to a
 * map: where each stretch of the file lies (neighbours merged), and the stamps
 * that go over it. Blocks may move afterwards: a map remembers the packs'
 * generation from before it was made, and a pack when it last lost blocks; a
 * map that is older says -EAGAIN, and is to be made anew.
 *
 * A map is constant once it is made: any number of threads may read it.
 */
#ifndef STORE_RECIPE_H
#define STORE_RECIPE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/index.h"
#include "store/pack.h"
#include "store/record.h"

/* Chunk @n of a recipe, in the caller's transaction. */
int recipe_put(struct index_txn *txn, uint64_t recipe, uint64_t n,
	       const struct run *runs, size_t count);
/* The first chunk at or behind number *@n: 1 and its number and runs, or 0.
 * -EBADMSG: it is damaged; *@n is its number all the same. */
int recipe_next(struct index_txn *txn, uint64_t recipe, uint64_t *n,
		struct run runs[static RECORD_RUNS_MAX], size_t *ret_count);
int recipe_del(struct index_txn *txn, uint64_t recipe, uint64_t n);

/* What would come back without it: the bytes of blocks that only it has. */
int recipe_own_bytes(struct index_txn *txn, uint64_t recipe, uint64_t *ret);

/* In how many stretches its bytes lie. */
int recipe_extents(struct index_txn *txn, uint64_t recipe, uint64_t *ret);

/* Mark the recipe as one that no inode has, or (0) as no such one. */
int recipe_set_pending(struct index_txn *txn, uint64_t recipe, int pending);

struct recipe_map;

/* -EBADMSG: a block is missing, or they are not @size bytes in all; -ENOENT: a
 * pack is. */
int recipe_map_new(struct index *ix, struct packs *packs, uint64_t recipe,
		   uint64_t size, struct recipe_map **ret);
void recipe_map_free(struct recipe_map *map); /* NULL is fine */

/* @len bytes at @off (clipped to the end), stamps in place. Inside a read
 * section. -EAGAIN see above; -EIO, also when a pack ends early. */
ssize_t recipe_map_read(const struct recipe_map *map, void *buf, size_t len,
			uint64_t off);

unsigned recipe_map_extents(const struct recipe_map *map);

#endif
