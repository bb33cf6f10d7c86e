/* SPDX-License-Identifier: MIT */
/*
 * The evictor: keeps the store below its marks, and cleans up.
 *
 * One thread sleeps in room_wait(). A pass goes through the LRU from the
 * oldest use on, http* before wheels/ at equal age (to the minute), and
 * removes units that are idle and out of their grace until what is needed has
 * come back: bytes come back with the checkpoint that ends the pass. Between
 * passes, every ten minutes: orphaned temporary files of pip, directories that
 * have been empty for a minute, entries of directories that moved, files that
 * a last close could not remove. That goes in slices, and only while nobody
 * wants room.
 *
 * Uses that are in memory reach the LRU first; a unit that is used while the
 * pass runs is passed over.
 *
 * Files that linger (linger.h) go when their time is over, and before a pass
 * looks for victims.
 *
 * Threads: any; passes exclude each other.
 */
#ifndef STORE_EVICT_H
#define STORE_EVICT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/checkpoint.h"
#include "store/edit.h"
#include "store/gc.h"

#define EVICT_HOUSEKEEPING_SEC 600
#define EVICT_EMPTY_SEC 60

struct evict;

struct evict_config {
	struct tree *t;	       /* borrowed */
	struct checkpoint *cp; /* borrowed */
	struct gc *gc;	       /* borrowed */
	int64_t grace_sec;
	/* Give up what lies aside (a damaged index's packs): bytes that came
	 * back. Called first in each pass; may be NULL. */
	uint64_t (*reclaim)(void *arg);
	void *reclaim_arg;
};

int evict_start(const struct evict_config *cfg, struct evict **ret);
void evict_stop(struct evict *ev); /* frees it; NULL is fine */
void evict_set_grace(struct evict *ev, int64_t grace_sec);

/* What a pass may take, and how much it shall. */
struct evict_how {
	uint64_t bytes;	       /* to free; UINT64_MAX: all there is */
	int64_t older_than_ns; /* only last uses before this; INT64_MAX: any */
	bool no_grace;
	bool no_grace_http; /* wheels/ keep theirs */
	bool dry_run;
};
struct evict_result {
	uint64_t units;
	uint64_t bytes;
	int64_t next_ms; /* until the grace of the next one ends; -1: never */
};
int evict_pass(struct evict *ev, const struct evict_how *how,
	       struct evict_result *ret);

struct evict_stat {
	int64_t grace_sec;
	uint64_t evictions;
	uint64_t evicted_bytes;
	uint64_t reaped;
};
void evict_stat(struct evict *ev, struct evict_stat *ret);

#endif
