/* SPDX-License-Identifier: MIT */
/*
 * Units: removing what is evicted as one, and finding out again what belongs
 * to what.
 *
 * A unit is the names of one entry: a header and its body, or all that is
 * below a built wheel's directory.
 *
 * Errors as the index's, and -EBUSY. Threads: any.
 */
#ifndef STORE_UNIT_H
#define STORE_UNIT_H

#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"

/*
 * Remove the unit @entry. Before anything goes its place is looked up once
 * more: an entry whose files no layout knows (any more) only stops being one.
 * @idle_only:  -EBUSY, and nothing changed, if one of its files is open.
 * *@ret_bytes: disk bytes of what was removed (back after a checkpoint).
 * Returns 1 if files went, 0 if there was nothing to remove.
 */
int unit_remove(struct tree *t, uint64_t entry, bool idle_only,
		uint64_t *ret_bytes);

/* The disk bytes of the unit, and whether one of its files is open now. */
int unit_measure(struct tree *t, uint64_t entry, uint64_t *ret_bytes,
		 bool *ret_open);

/* Remove a damaged or torn file: its unit, or without one all that is known
 * of it (its newest name; further names lead to an inode marked bad). */
int unit_drop_file(struct tree *t, uint64_t ino);

/*
 * Orphaned temporary files of pip: not open and not changed since @before_ns.
 * *@ret_n: how many were removed.
 */
int unit_reap_tmp(struct tree *t, int64_t before_ns, uint64_t *ret_n);

/*
 * Fan-out directories of http* that are empty and not changed since
 * @before_ns, from the bottom up. Not in the moment they become empty: the
 * kernel, and a pip that has just made sure of them, count on them for a while.
 */
int unit_prune_empty(struct tree *t, int64_t before_ns);

/* If directories moved: give every file the entry that its path has now. */
int unit_rescan(struct tree *t);

#endif
