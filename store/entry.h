/* SPDX-License-Identifier: MIT */
/*
 * Entries: what is evicted as one, and when it was last used.
 *
 * A regular file with a name that layout knows belongs to an entry; the entry
 * counts its names and goes with the last. Uses are kept in memory and
 * reach the index with the next checkpoint (entry_flush()); readers of the
 * LRU ask entry_last_use(), which looks there first. What is in memory when
 * the process dies is lost: recency only.
 *
 * Threads: any; flushes exclude each other. The mutex that guards the table of
 * uses is a leaf.
 */
#ifndef STORE_ENTRY_H
#define STORE_ENTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "store/base.h"
#include "store/index.h"
#include "store/record.h"
#include "store/room.h"

#define ENTRY_USES_MAX ((size_t)2048) /* remembered between two flushes */
#define ENTRY_FLUSH_SEC 60 /* the longest that a use stays in memory */

struct entries;

/* @due: called when the uses should be flushed; must not block. */
int entries_new(struct notify due, struct entries **ret);
void entries_free(struct entries *es); /* NULL is fine */

/*
 * The file @in gets the name @name in @dir: find out what it is, join the
 * entry it belongs to or make one. Sets in->kind, in->entry, INODE_BODY and,
 * when the unit is @dir itself, dir->entry; the caller puts both inodes.
 */
int entry_attach(struct index *ix, struct index_txn *txn, struct inode *dir,
		 const char *name, struct inode *in);

/* The file of @entry loses a name; the entry goes with its last. */
int entry_detach(struct index_txn *txn, uint64_t entry);

/* @entry (0: nothing) was used now; @hit counts it as a hit. */
void entry_touch(struct entries *es, uint64_t entry, bool hit);

/* The last use, in memory or in @en: an older @en than the last flush misses
 * what that moved to the index. */
int64_t entry_last_use(struct entries *es, uint64_t id,
		       const struct entry_rec *en);
/* The same, with the hits: what is in memory is added to both. While a flush
 * is at work it may be counted twice, or not. */
void entry_overlay(struct entries *es, uint64_t id, int64_t *last_use_ns,
		   uint64_t *hits);

/* Bring the uses to the index, in short transactions, as far as there is room
 * for them; the others stay in memory. */
int entry_flush(struct entries *es, struct index *ix, struct room *rm);

/* True if a use has been waiting for ENTRY_FLUSH_SEC. */
bool entry_flush_due(struct entries *es);

#endif
