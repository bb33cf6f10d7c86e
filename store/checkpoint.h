/* SPDX-License-Identifier: MIT */
/*
 * Durability: operations now, disk later.
 *
 * A checkpoint makes one snapshot of the index safe against a power cut:
 *  1. under the index's write lock: pin the newest snapshot, save its two
 *     meta pages, take over the lists of changed and doomed packs and of
 *     dead ranges;
 *  2. sync those packs, the directories of new ones, and data.mdb;
 *  3. write the side file index/ckpt (temporary, fsync, rename, fsync dir);
 *  4. drop the pin before, punch the ranges and free the packs that were
 *     given up before 1.
 * After a power cut the saved meta pages are written back and the index is
 * that snapshot again: LMDB could not reuse any of its pages.
 *
 * An error in 2 or 3 leaves both pins, freezes the index (read-only until the
 * next mount, which restores) and is kept as checkpoint_error(). But where a
 * file cannot be opened, memory is short or the temporary side file finds no
 * room (base_is_shortage()) nothing is lost: the side file in force is still
 * the one before, whole, and so is what it names. The store goes on, what was
 * pinned stays pinned, and 2 and 3 are done again for it, each second, until
 * they succeed. The pin is not taken anew, so that the index grows no further
 * than between any two checkpoints. A sync of a pack, of the index or of the
 * directory that fails is never one of these, whatever its error.
 *
 * Triggers: 5 s after the first uncheckpointed commit, growth of the index,
 * dirty pack bytes (checkpoint_due()), checkpoint_run() and close. One with
 * nothing new to save does nothing.
 */
#ifndef STORE_CHECKPOINT_H
#define STORE_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "store/base.h"
#include "store/holes.h"
#include "store/index.h"
#include "store/pack.h"

#define CHECKPOINT_INTERVAL_MS 5000
#define CHECKPOINT_RETRY_MS 1000 /* after a failure that did not freeze */
#define CHECKPOINT_GROWTH_BYTES (16 * MIB)
#define CHECKPOINT_DIRTY_BYTES (64 * MIB)

struct checkpoint;

/*
 * @before:  called at the start of each checkpoint but the first, before the
 *           pin, without locks: flushes what is kept in memory (uses of
 *           entries). What it commits does not start the clock again.
 * @index_dir_fd, @ix, @packs: borrowed, outlive us.
 */
struct checkpoint_config {
	int index_dir_fd;
	struct index *ix;
	struct packs *packs;
	struct holes *holes; /* borrowed, outlives us; NULL: no pack has any */
	struct notify before;
	struct notify after; /* when one has ended well: room came back */
	/*
	 * Told, without locks, of the error that froze the store, and of the
	 * first of a row of shortages. May be NULL.
	 */
	void (*failed)(void *arg, int error, bool frozen);
	void *failed_arg;
	int interval_ms; /* 0: CHECKPOINT_INTERVAL_MS */
	/* Goes into each side file: see recover.h. Borrowed, or NULL. */
	const uint8_t *witness;
	bool live;  /* the index was RECOVER_LIVE */
	int frozen; /* < 0: the store was, for this reason, and stays so */
};

/* Runs the first checkpoint (nothing may be committed between index_open()
 * and its end), then starts the thread. If the index is live, its pages may be
 * those that the side file names, and so may packs that it does not name: the
 * whole file system is synced first, and if that fails the store is frozen. */
int checkpoint_start(const struct checkpoint_config *cfg,
		     struct checkpoint **ret);

/* Make everything committed before the call durable; waits. Callers that
 * arrive together share one that begins after they came. Must not be called
 * with a write transaction open.
 * Returns 0, the error that froze the store, or -ENOMEM and the like: not
 * done, the thread tries again. */
int checkpoint_run(struct checkpoint *cp);

/* The index changed: start the 5 s clock; at once if it has grown by its step
 * (index_grown()). Wants to be index_open()'s @changed. Never blocks. */
void checkpoint_changed(struct checkpoint *cp);
/* A checkpoint is wanted now, by the thread. Never blocks. */
void checkpoint_due(struct checkpoint *cp);

/* 0, or the error that froze the store. */
int checkpoint_error(struct checkpoint *cp);

struct checkpoint_stat {
	uint64_t count;
	int64_t last_ns; /* CLOCK_REALTIME */
	uint64_t txnid;
	uint64_t put_off; /* attempts that ended in a shortage */
	int shortage;	  /* of the last attempt; 0: none */
};
void checkpoint_stat(struct checkpoint *cp, struct checkpoint_stat *ret);

/* Stop the thread; with @clean a last checkpoint that is marked clean (no
 * writer may be left), in a few attempts if there is a shortage. Frees @cp in any case; NULL is fine. */
int checkpoint_stop(struct checkpoint *cp, bool clean);

#endif
