/* SPDX-License-Identifier: MIT */
/*
 * What is cached, entry by entry.
 *
 * Each entry is named after what its files say (ident.h): its headers and the
 * end of its body are read, without a use of it being noted and without its
 * checksum being compared. What cannot be read has no name.
 *
 * Read transactions are short: at most LIST_BATCH records, or one unit. So
 * what comes or goes meanwhile is in the list or not.
 *
 * Threads: any number at once.
 */
#ifndef STORE_LIST_H
#define STORE_LIST_H

#include "store/edit.h"
#include "store/ident.h"
#include "store/share.h"

#define LIST_BATCH 256 /* entries read at a time */

enum list_kind {
	LIST_WHEEL,
	LIST_BUILT, /* a wheel that pip built */
	LIST_SDIST,
	LIST_METADATA,
	LIST_PAGE,
	LIST_SELFCHECK,
	LIST_OTHER,
	LIST_LOOSE, /* files of no entry, in package.h */
};

/* An entry; in package.h, some of them. */
struct list_item {
	uint64_t id; /* of the entry */
	enum list_kind kind;
	char project[IDENT_PROJECT_MAX + 1]; /* "": not known */
	char version[IDENT_VERSION_MAX + 1];
	char name[RECORD_NAME_MAX + 1]; /* of an entry's file: printable ASCII,
					   with '?' for what is not */
	uint64_t entries;
	struct share_sum sum;
	int64_t last_use_ns;
	uint64_t hits;
};

/* Not 0: an error that ends the list. */
typedef int (*list_fn)(void *arg, const struct list_item *item);

struct list_range {
	uint64_t after; /* the entries with higher ids, in their order, */
	unsigned most;	/* so many of them */
	bool weigh;	/* the sums are wanted */
};

/* Returns 1 if there are more, or 0. */
int list_entries(struct tree *t, const struct list_range *range, list_fn fn,
		 void *arg);

/* Add the files of the entry to @set; none if it is gone. */
int list_gather(struct tree *t, uint64_t id, struct share *set);

#endif
