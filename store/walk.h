/* SPDX-License-Identifier: MIT */
/*
 * A walk through the whole index: the pages as in audit.h, and each record's
 * checksum, key and fields.
 *
 * Pages that are wrong make the index unusable: LMDB would crash on them. A
 * record that is wrong costs what it tells of, no more; those are counted.
 * What records say of each other is for a check (check.h).
 *
 * Reads the file, not LMDB's map: neither wrong pages nor unreadable sectors
 * can end the process, and any snapshot that nobody changes will do, so that
 * it runs beside a store in use.
 */
#ifndef STORE_WALK_H
#define STORE_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "store/index.h"

#define WALK_TEXT_MAX 160
#define WALK_EVERY_SEC (INT64_C(30) * 24 * 3600) /* at least so often */

struct walk {
	bool (*go_on)(void *arg); /* asked now and then; NULL: always */
	void *arg;
	/* Results: */
	uint64_t records;
	uint64_t damaged; /* of these */
	/* -EBADMSG, -EIO: which page is wrong, and how; else of the first
	 * damaged record, "" if there is none. */
	char text[WALK_TEXT_MAX];
};

/*
 * @fd, @meta, @page_size: see audit_snapshot().
 * Returns 0, damaged records or not; -EBADMSG pages are wrong, -EIO they
 * cannot be read; -ECANCELED, -ENOMEM.
 */
int walk_snapshot(struct walk *w, int fd, const uint8_t *meta,
		  uint64_t page_size);

/* The newest snapshot of an open index, pinned meanwhile. Any thread, without
 * a transaction. */
int walk_index(struct walk *w, struct index *ix);

#endif
