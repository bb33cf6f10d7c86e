/* SPDX-License-Identifier: MIT */
/*
 * All records of an index that can still be read, be it as damaged as it may:
 * pages are read one by one, without LMDB, and what is not sound is passed
 * over. Each value carries a checksum of its table, key and bytes, so that a
 * record that matches is one, and tells its table, wherever it lies.
 *
 * What the side file has saved is the snapshot that is read, for its pages are
 * on the disk; without a side file the newer meta page that is sane. Where a
 * branch of a tree is lost, the leaves below it are found among the pages that
 * are neither used nor free.
 *
 * Bounded: each page is looked at once or twice.
 */
#ifndef STORE_SALVAGE_H
#define STORE_SALVAGE_H

#include <stdint.h>

#include "store/index.h"

struct salvage_stat {
	uint64_t records;
	uint64_t bad_records; /* passed over */
	uint64_t bad_pages;
	bool leaves; /* some were found without their branch */
	bool blind;  /* of those that may be, for the free list is damaged */
};

/* Not 0: an error that ends it. The record that was in a tree comes before one
 * of the same key that was found without. */
typedef int (*salvage_fn)(void *arg, enum index_table table,
			  const struct record_key *key, const uint8_t *val,
			  size_t len);

/* -ENOENT: there is no index; -EBADMSG: not a page of it can be found; -ENOMEM,
 * -EIO (not of pages), or the error of @fn. */
int salvage_read(int index_dir_fd, salvage_fn fn, void *arg,
		 struct salvage_stat *ret);

#endif
