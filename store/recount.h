/* SPDX-License-Identifier: MIT */
/*
 * Bytes, blocks, packs and entries of an index that is being rebuilt.
 *
 *	recount_files()	  are the bytes of each inode there, and right where
 *			  they are compared? If not, it is lost
 *	... names and inodes that stay are found out (relink.h) ...
 *	recount_tables()  recipes, blocks, digests, packs, entries and the LRU
 *			  are what inodes that stay make of them
 *
 * Bytes are compared with rw->data, of a second source always, and where a
 * record makes them doubtful: blocks that nothing new is to share, or that lie
 * over another, and packs that two inodes read.
 */
#ifndef STORE_RECOUNT_H
#define STORE_RECOUNT_H

#include "store/rework.h"

int recount_files(struct rework *rw);
int recount_tables(struct rework *rw);

#endif
