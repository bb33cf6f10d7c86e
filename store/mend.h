/* SPDX-License-Identifier: MIT */
/*
 * Mending names whose records are damaged: a name says which inode it leads
 * to and at which offset it is listed, the offset says the name, the inode of
 * a file with one name says the offset. One of the three that fails its
 * checksum is made anew from the others; what cannot be is dropped, so that
 * the name is free again.
 *
 * One edit each. Errors as the index's; -ENOSPC and -EROFS leave all as it
 * was. Threads: any.
 */
#ifndef STORE_MEND_H
#define STORE_MEND_H

#include "store/edit.h"

/*
 * @name in @dir, its offset and its inode. A damaged name may cost a walk
 * through all inodes. A directory whose inode is damaged or not there keeps
 * what is in it, with owner and permissions of the one above; a file is lost
 * with its inode.
 * Returns 1 if the name leads somewhere now, 0 if it is gone.
 */
int mend_name(struct tree *t, uint64_t dir, const char *name);

/* The record of the offset @cookie in @dir is damaged: find its name. */
int mend_offset(struct tree *t, uint64_t dir, uint64_t cookie);

/* The inode record @ino, to which no name leads, goes if it is damaged. */
int mend_inode(struct tree *t, uint64_t ino);

/* Recipes of inodes that went damaged are given up. A walk through all inodes
 * and recipes, if there were such inodes and all others can be read. */
int mend_recipes(struct tree *t);

/* Did the inode go damaged that the pack was of? Then mend_pack() gives it up,
 * but for blocks of others. */
bool mend_pack_lost(struct index_txn *txn, const struct pack_rec *rec);
int mend_pack(struct tree *t, uint64_t id);

/* Directories in @dir, and the first offset that none of its names has. */
int mend_count(struct index_txn *txn, uint64_t dir, uint32_t *ret_dirs,
	       uint64_t *ret_next);

#endif
