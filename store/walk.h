/* SPDX-License-Identifier: MIT */
/*
 * A walk through the whole index: the pages as in audit.h, and each record's
 * checksum, key and fields.
 *
 * Pages that are wrong make the index unusable: LMDB would crash on them. A
 * record that is wrong costs what it tells of, no more; those are counted.
 * What records say of each other is for a check (check.h).
 *
 * Reads the file, not LMDB's map, so that it runs beside a store in use: any
 * snapshot that nobody changes will do. And in a process of its own: what is
 * on the disk does not end this one, whatever it is.
 */
#ifndef STORE_WALK_H
#define STORE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "store/index.h"

#define WALK_TEXT_MAX 160
#define WALK_EVERY_SEC (INT64_C(30) * 24 * 3600) /* at least so often */

struct walk {
	bool (*go_on)(void *arg); /* see apart.h */
	void *arg;
	/* Results: */
	uint64_t records;
	uint64_t damaged; /* of these */
	/* -EBADMSG, -EIO: which page is wrong, and how, or what died of it;
	 * else of the first damaged record, "" if there is none. */
	char text[WALK_TEXT_MAX];
};

/*
 * The newest snapshot of an open index, pinned meanwhile. Any thread, without
 * a transaction.
 * Returns 0, damaged records or not; -EBADMSG pages are wrong, or killed who
 * read them; -EIO they cannot be read; -ECANCELED; -EINTR who read them was
 * killed; -EAGAIN, -ENOMEM.
 */
int walk_index(struct walk *w, struct index *ix);

/* The same of a snapshot, by this process, which may die of it; -EIO has no
 * text. */
int walk_snapshot(struct walk *w, const struct index_snap *snap);

/*
 * Can LMDB itself read an index? Before it is opened: nobody changes it
 * meanwhile. Errors as above, and of the results the text alone.
 */
int walk_by_lmdb(struct walk *w, int index_dir_fd);

#endif
