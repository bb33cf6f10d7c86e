/* SPDX-License-Identifier: MIT */
/*
 * The scrub: in the background all that is stored is read once in a period and
 * compared with its checksums, so that damage is found while what was lost can
 * still be fetched again, and not when it is wanted.
 *
 *	files	whose bytes are in no blocks: in a pack of their own, or in
 *		the index
 *	blocks	once, however many files share them
 *	index	once in WALK_EVERY_SEC, by a walk (walk.h); also without a
 *		period
 *
 * What is damaged is told once, with the pack and where in it, and the files it
 * belongs to go (loss.h).
 *
 * The work is spread over the period, in slices of some milliseconds with a
 * rest between them. A pass goes on where it was left, in this mount or in an
 * earlier one. When it is behind, as after a machine was off, it reads no faster
 * than SCRUB_CEILING bytes a second. While the store is in use it waits, until
 * it is an eighth of the pass behind; and always at idle priority. It has no
 * file open between two slices, and no pack longer than it reads a piece of it.
 *
 * Threads: one of its own; scrub_stat() any.
 */
#ifndef STORE_SCRUB_H
#define STORE_SCRUB_H

#include <stdbool.h>
#include <stdint.h>

#include "store/file.h"

#define SCRUB_CEILING (32 * MIB) /* bytes a second */
#define SCRUB_SAVE_SEC 600	 /* how much of it a crash costs */

struct scrub;

struct scrub_config {
	struct files *fs;   /* borrowed, outlives us */
	int64_t period_sec; /* 0: bytes are not read */
	/* Pages of the index are wrong (@text says which): it is not to be used
	 * any more. Called from the thread, without locks. */
	void (*index_bad)(void *arg, const char *text);
	/* So many records of it are damaged, and the first of them. */
	void (*index_damaged)(void *arg, uint64_t records, const char *text);
	void *arg;
	/* For tests. 0, NULL: the defaults. */
	int64_t (*now_ns)(void);
	uint64_t ceiling;
	int rest_ms;
};

/* Of the pass under way or the last one. Times are unix seconds, 0: never. */
struct scrub_stat {
	bool over;     /* the next one has not begun */
	uint64_t done; /* bytes read */
	uint64_t all;  /* of about so many */
	int64_t began;
	int64_t ended;	/* the last one that was finished */
	int64_t walked; /* the index was */
};

int scrub_start(const struct scrub_config *cfg, struct scrub **ret);
void scrub_stop(struct scrub *s); /* NULL is fine; its place is recorded */
void scrub_stat(struct scrub *s, struct scrub_stat *ret);

/* What is recorded, where no scrub runs. */
int scrub_recorded(struct tree *t, struct scrub_stat *ret);

#endif
