/* SPDX-License-Identifier: MIT */
/*
 * Is one snapshot in a data.mdb whole? LMDB trusts its pages: a wild page
 * number or offset kills the process that follows it, at each start anew. So
 * an index is walked before it is opened: every page of every table is there,
 * well-formed, used once and not free; keys are in order; depths and counts
 * are what the table's record says. (Values carry checksums of their own.) A
 * table has one value for a key: others are unknown here.
 *
 * This also tells a copy that was made while the store was in use, or a file
 * cut short, from a good one.
 *
 * Knows LMDB's format, not the library; reads with pread(), so that an
 * unreadable sector is an error and not a signal. Reads each page in use once
 * and keeps one bit a page.
 */
#ifndef STORE_AUDIT_H
#define STORE_AUDIT_H

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

#endif
