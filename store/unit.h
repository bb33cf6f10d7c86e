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
 *
 * One transaction takes a pair, or 32 names of a built wheel: the files right
 * in its directory (pip looks at no others) before what lies deeper. A file
 * opened between two of them only keeps what is left: the rest stays a unit.
 * For pip any rest is valid: each wheel stands for itself, without its
 * origin.json it counts as one of an old pip, and an origin.json alone is
 * written anew with the next build. Units of pip have two to a few names.
 *
 * *@ret_bytes: disk bytes of what was removed (back after a checkpoint).
 * Returns 1 if files went, 0 if there was nothing to remove; -EBADMSG for a
 * damaged unit, such as one whose directories lead in a circle.
 */
int unit_remove(struct tree *t, uint64_t entry, bool idle_only,
		uint64_t *ret_bytes);

/* What would come back without the unit (NULL: not wanted), and whether one of
 * its files is open now. */
int unit_measure(struct tree *t, uint64_t entry, uint64_t *ret_bytes,
		 bool *ret_open);

/* Calls @fn with the inodes that belong to the unit @en, in the caller's
 * transaction; directories below it too. */
typedef int (*unit_fn)(void *arg, struct index_txn *txn,
		       const struct inode *in);
int unit_each(struct index_txn *txn, uint64_t entry, const struct entry_rec *en,
	      unit_fn fn, void *arg);

/* Remove a damaged or torn file: its unit, or without one all that is known
 * of it (the name it knows; further names lead to an inode marked bad). */
int unit_drop_file(struct tree *t, uint64_t ino);

/* Remove one name of @in; the inode goes if it was the last. For tidy. */
int unit_remove_name(struct edit *e, struct inode *dir, const char *name,
		     struct inode *in, bool idle_only);

/* The name that @ino knows goes; if others are left it is marked bad.
 * @idle_only: a temporary file, if it is one still; -EBUSY if it is open. */
int unit_drop_name(struct tree *t, uint64_t ino, bool idle_only);

#endif
