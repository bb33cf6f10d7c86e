/* SPDX-License-Identifier: MIT */
/*
 * From staged bytes to blocks: one closed file becomes a recipe.
 *
 *	read it, cut it, digest the pieces		nothing is locked
 *	look them up, decide				pieces_decide()
 *	write what is new to a pack			its own, or the shared one
 *	put blocks, references and recipe		short transactions, under
 *							a recipe that is pending
 *	read it all back through the recipe, compare
 *	swap the inode over				one transaction
 *
 * Cut off at any point, the file is as it was, and the recipe is dropped. A
 * file whose bytes are mostly unknown keeps its pack: its blocks are then in
 * that, and it is read linearly as before.
 *
 * One thread.
 */
#ifndef STORE_CUT_H
#define STORE_CUT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/file.h"

#define CUT_SHARED_MAX (16 * MIB) /* bytes of a shared pack; then another */

struct cutter {
	struct files *fs;
	const atomic_bool *stop; /* end: only sums are taken */
	uint64_t shared;	 /* the shared pack; 0: none yet */
};

/*
 * Cut the file @f, which nobody writes, or only take its checksum if there is
 * no room or no time for more. 0, also when it was changed or removed
 * meanwhile; an error when its checksum could not be taken or recorded.
 */
int cut_file(struct cutter *c, struct store_file *f);

#endif
