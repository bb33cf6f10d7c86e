/* SPDX-License-Identifier: MIT */
/*
 * An edit: one write transaction on the tree, with all that has to happen
 * around it.
 *
 *	cleanup_edit struct edit e = EDIT_INIT;
 *	r = edit_begin(t, QUOTA_OTHER, &e);	room for it is reserved
 *	... edit_dir(), edit_add_name(), edit_del_name(), edit_drop() ...
 *	return edit_commit(&e);			or leave: it is undone
 *
 * The steps change inodes that the caller holds (times, link counts); the
 * caller puts them with table_inode_put() before it commits. After the
 * commit, packs that nobody names are given up and inodes that were closed
 * meanwhile are removed.
 *
 * A caller must hold no node's lock that the removal of an inode could want:
 * none is taken here.
 */
#ifndef STORE_EDIT_H
#define STORE_EDIT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "store/entry.h"
#include "store/holes.h"
#include "store/index.h"
#include "store/node.h"
#include "store/pack.h"
#include "store/quota.h"
#include "store/record.h"
#include "store/room.h"
#include "store/section.h"

struct linger;

/* What every operation on the tree works with. All borrowed. */
struct tree {
	struct index *ix;
	struct packs *packs;
	struct nodes *nodes;
	struct entries *entries;
	struct room *room;
	struct linger *linger;	 /* of what renames replaced; may be NULL */
	struct section *readers; /* entered to read blocks */
	struct holes *holes;
	/* A recipe waits to be dropped (gc.h). Must not block. */
	struct notify dropped;
	/* Waits for a checkpoint: lets LMDB use pages again that it could not. */
	int (*checkpoint)(void *arg);
	void *checkpoint_arg;
	atomic_uint_fast64_t hits;
	atomic_uint_fast64_t misses;
	atomic_uint_fast64_t bad_blocks; /* found damaged */
	uint32_t view;			 /* of new inodes */
};

#define EDIT_DROPS_MAX 64    /* inodes that one edit can remove */
#define EDIT_BLOCKS_MAX 1000 /* blocks that one edit adds or drops */

struct edit {
	struct tree *t; /* NULL: not begun, or over */
	struct index_txn *txn;
	int64_t now_ns;
	uint64_t reserved;
	unsigned misses;      /* bodies that got their name */
	uint64_t freed_bytes; /* on disk, of packs that were given up */
	bool dropped;	      /* recipes were; what that frees shows later */
	unsigned n_claims;
	unsigned n_doomed;
	struct {
		struct node *nd;
		uint64_t ino;
		bool open;
	} claims[EDIT_DROPS_MAX];
	uint64_t doomed[EDIT_DROPS_MAX]; /* pack ids */
};
#define EDIT_INIT                                                              \
	{                                                                      \
		.t = NULL                                                      \
	}

int edit_begin(struct tree *t, enum quota_class class, struct edit *e);
/* One that adds or drops up to @blocks blocks, of which there had better be no
 * more than edit_blocks_max() says: what may come of it is charged ahead. */
unsigned edit_blocks_max(struct tree *t);
int edit_begin_blocks(struct tree *t, enum quota_class class, unsigned blocks,
		      struct edit *e);
/*
 * QUOTA_EVICT is never refused and never waits: who begins many such edits calls
 * this before each, without locks, so that the index does not grow without
 * bound. It may wait for a checkpoint.
 */
int edit_pause(struct tree *t);
int edit_commit(struct edit *e);
void edit_abort(struct edit *e); /* fine if it is over */
#define cleanup_edit __attribute__((cleanup(edit_abort)))

/* The directory @ino: -ESTALE gone, -ENOTDIR, -ENOENT removed but open. */
int edit_dir(struct edit *e, uint64_t ino, struct inode *ret);

/*
 * Give @in the name @name in @dir (-EEXIST if taken): name, cookie, entry,
 * times of @dir. Link counts are the caller's.
 */
int edit_add_name(struct edit *e, struct inode *dir, const char *name,
		  struct inode *in);
/* Take the name away again: the reverse. @de as table_dirent_get() gave it. */
int edit_del_name(struct edit *e, struct inode *dir, const char *name,
		  const struct dirent_rec *de, struct inode *in);

/*
 * @in has lost its last name: remove it, or make it an orphan if it is open.
 * @idle_only: -EBUSY instead of an orphan; the edit must then be left.
 */
int edit_drop(struct edit *e, struct inode *in, bool idle_only);

/* The pack is named no more: give it up after the commit. */
void edit_doom(struct edit *e, uint64_t pack);

/* @in has no bytes any more: what held them is given up. The caller puts (or
 * removes) the inode. */
int edit_forget_bytes(struct edit *e, struct inode *in);

/* The recipe is no inode's any more. */
int edit_drop_recipe(struct edit *e, uint64_t recipe);

/* Remove the orphan @ino unless it is open again. */
int edit_reap(struct tree *t, uint64_t ino);

/* Let go of a node; the last one removes what became an orphan. */
void edit_put_node(struct tree *t, struct node *nd);
/* Let go of @n nodes of orphans; one edit for all. */
#define EDIT_PUT_MAX (EDIT_DROPS_MAX / 2)
void edit_put_orphans(struct tree *t, struct node *const *nds, unsigned n);

#endif
