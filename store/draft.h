/* SPDX-License-Identifier: MIT */
/*
 * A recipe that is being built: blocks, references and runs, in short
 * transactions, under a recipe that is pending until an inode takes it over.
 *
 * Not thread-safe: one thread each.
 */
#ifndef STORE_DRAFT_H
#define STORE_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"
#include "store/pieces.h"

/* All but the last part is the caller's to fill in; borrowed. */
struct draft {
	struct tree *t;
	enum quota_class class; /* what it is charged as */
	const struct pieces *p; /* @known: a reference more; else a new block */
	uint64_t pack;		/* where the new ones lie, one behind another */
	uint64_t off;		/* the first of them */
	uint64_t new_bytes;
	enum pack_state state; /* of @pack */
	uint64_t owner;	       /* of @pack */
	bool fresh;	       /* no record names @pack yet */
	/* Asked in each transaction whether to go on: 0, or an error. */
	int (*go_on)(void *arg, struct edit *e);
	void *arg;

	uint64_t recipe; /* 0: there is none */
	uint64_t chunks;
};

/*
 * Build it. -EAGAIN: a block or the pack went since they were looked up;
 * -ENOSPC: no room; or @go_on's error. Then, and if nothing comes of it later,
 * draft_drop(). @fresh is still set if no record names the pack.
 */
int draft_build(struct draft *d);

/* What is committed of the recipe is dropped. */
void draft_drop(struct draft *d);

#endif
