/* SPDX-License-Identifier: MIT */
/*
 * What a set of files has for itself, and what it shares with others.
 *
 *	struct share s = SHARE_INIT;
 *	share_add() ...		each file, as the index has it
 *	share_measure()
 *	share_release()
 *
 * A block is the set's own if no file outside refers to it: it has as many
 * references as it occurs in the set. Its bytes are those that come back when
 * the whole set is removed. Memory: a number for each block occurrence.
 *
 * The store may change meanwhile: no snapshot is held, and what goes or comes
 * while it is measured is counted or not. Threads: one per set.
 */
#ifndef STORE_SHARE_H
#define STORE_SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "store/index.h"
#include "store/record.h"

struct share_file {
	uint64_t ino;
	uint64_t recipe;
	uint64_t size;
};

struct share {
	struct share_file *v; /* owned */
	size_t n, room;
};
#define SHARE_INIT                                                             \
	{                                                                      \
		.v = NULL                                                      \
	}

struct share_sum {
	uint64_t files;
	uint64_t size;	  /* bytes of the files */
	uint64_t own;	  /* bytes that come back without them */
	uint64_t shared;  /* of their bytes: in blocks that others refer to */
	uint64_t extents; /* stretches that they lie in */
};

/* Regular files count, others are passed over. */
int share_add(struct share *s, const struct inode *in);
/* Each file counts once, however often it was added; the set is sorted. */
int share_measure(struct share *s, struct index *ix, struct share_sum *ret);
void share_release(struct share *s);
#define cleanup_share __attribute__((cleanup(share_release)))

#endif
