/* SPDX-License-Identifier: MIT */
/*
 * Tidying up: what nobody asks for, in short transactions, between passes of
 * the evictor.
 *
 *	struct tidy_pos pos = { 0 };
 *	while ((r = tidy_empty(t, &pos, before_ns)) > 0)
 *		... who has something better to do leaves, and comes back ...
 *
 * A call is one slice of a scan of all names (or inodes): TIDY_BATCH of them
 * are looked at, and those that are wanted are dealt with. It returns 1 with
 * more to come, 0 at the end, or an error; then begin anew with a zeroed @pos.
 *
 * Errors as the index's. Threads: any, each with a @pos of its own.
 */
#ifndef STORE_TIDY_H
#define STORE_TIDY_H

#include <stdint.h>

#include "store/edit.h"

#define TIDY_BATCH 64 /* records looked at in one slice */

/* Where a scan is. */
struct tidy_pos {
	struct record_key at; /* to read on from; private */
	unsigned part;	      /* private: of a rescan */
};

/*
 * Orphaned temporary files of pip: not open and not changed since @before_ns.
 * *@n grows by how many were removed.
 */
int tidy_tmp(struct tree *t, struct tidy_pos *pos, int64_t before_ns,
	     uint64_t *n);

/*
 * Fan-out directories of http* that are empty and not changed since
 * @before_ns, from the bottom up. Not in the moment they become empty: the
 * kernel, and a pip that has just made sure of them, count on them for a while.
 */
int tidy_empty(struct tree *t, struct tidy_pos *pos, int64_t before_ns);

/*
 * If directories moved, a name went by which a file was known, or something is
 * damaged: give every file the entry that its path has now, mend damaged
 * names, drop damaged inodes that have none, and give up what lost ones had.
 * What is left unfinished, be it by a crash, is still wanted.
 */
int tidy_rescan(struct tree *t, struct tidy_pos *pos);

/* Orphans that nobody has open: their last close could not remove them. All
 * at once, they are few; the first error, but none stops it. */
int tidy_orphans(struct tree *t);

#endif
