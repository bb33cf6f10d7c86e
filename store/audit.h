/* SPDX-License-Identifier: MIT */
/*
 * Is one snapshot in a data.mdb whole? LMDB trusts its pages: a wild page
 * number or offset kills the process that follows it, at each start anew. So
 * an index is walked before it is opened: every page of every table is there,
 * can be read, is well-formed, used once and not free; keys are in order;
 * depths and counts are what the table's record says; sizes are those that
 * LMDB counts on when it splits and merges pages. What it lets through LMDB
 * can read and change without a crash. (Values carry checksums of their own,
 * see walk.h.) A table has one value for a key: others are unknown here.
 *
 * This also tells a copy that was made while the store was in use, or a file
 * cut short, from a good one.
 *
 * Knows LMDB's format, not the library; reads with pread(), so that an
 * unreadable sector is an error and not a signal. Comes to each page once, so
 * that it ends whatever the pages say, and keeps one bit a page.
 */
#ifndef STORE_AUDIT_H
#define STORE_AUDIT_H

#include <stddef.h>
#include <stdint.h>

struct audit_found {
	const char *what; /* is wrong; a constant */
	uint64_t page;	  /* with this page */
	uint64_t used;	  /* when all is well: pages in tables, */
	uint64_t free;	  /* in the free list, */
	uint64_t lost;	  /* and in neither: harmless */
};

/*
 * @fd:    data.mdb, long enough for the snapshot.
 * @meta:  its meta pages, sane (mdbfile_sane()).
 * Returns 0; -EBADMSG, @ret says why; -EIO, -ENOMEM.
 */
int audit_snapshot(int fd, const uint8_t *meta, uint64_t page_size,
		   struct audit_found *ret);

/* A record as it is stored; nothing is known of what is in it. Valid during
 * the call. */
struct audit_record {
	const char *table; /* its name, with a NUL; "" if it is no short text */
	const void *key;
	size_t key_len;
	const void *value;
	size_t len;
};
/* Not 0: an error that ends the audit. */
typedef int (*audit_record_fn)(void *arg, const struct audit_record *rec);

/* The same, and @fn gets each record of each table. When the audit fails it
 * may have got some of them. */
int audit_records(int fd, const uint8_t *meta, uint64_t page_size,
		  audit_record_fn fn, void *arg, struct audit_found *ret);

#endif
