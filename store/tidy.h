/* SPDX-License-Identifier: MIT */
/*
 * Tidying up: what nobody asks for, in short transactions, between passes of
 * the evictor.
 *
 * Errors as the index's. Threads: any.
 */
#ifndef STORE_TIDY_H
#define STORE_TIDY_H

#include <stdint.h>

#include "store/edit.h"

/*
 * Orphaned temporary files of pip: not open and not changed since @before_ns.
 * *@ret_n: how many were removed.
 */
int tidy_tmp(struct tree *t, int64_t before_ns, uint64_t *ret_n);

/*
 * Fan-out directories of http* that are empty and not changed since
 * @before_ns, from the bottom up. Not in the moment they become empty: the
 * kernel, and a pip that has just made sure of them, count on them for a while.
 */
int tidy_empty(struct tree *t, int64_t before_ns);

/* If directories moved: give every file the entry that its path has now. */
int tidy_rescan(struct tree *t);

#endif
