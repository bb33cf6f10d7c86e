/* SPDX-License-Identifier: MIT */
/*
 * A new index of what is sound in one or two others.
 *
 *	all records that can be read (salvage.h) go into the new index;
 *	names and inodes, then bytes, then all that is counted are made to
 *	agree (relink.h, regraft.h, recount.h): what does not hold is lost,
 *	what can be computed is computed anew.
 *
 * The sources are not changed; the store is not open. The first is the index of
 * the store as it was closed, the second one that was set aside: its numbers
 * are shifted, its packs get a second link in packs/ under their new numbers
 * (nobody's until the new index is the store's), and its files are joined in
 * where they take no other's place.
 *
 * Memory: 64 bytes an inode, 48 a block, 16 a name of a pack, recipe or entry.
 */
#ifndef STORE_REBUILD_H
#define STORE_REBUILD_H

#include <stdbool.h>
#include <stdint.h>

struct rebuild {
	int index_fd;	  /* -1: there is none */
	int bad_index_fd; /* of the second source, or -1 */
	int bad_packs_fd;
	int packs_fd;
	int new_fd;	     /* empty directory; gets the new index, sealed */
	bool data;	     /* compare all bytes */
	uint64_t most_bytes; /* that the new index may take */
	/* Told what is lost or made anew, a line each of printable ASCII. */
	void (*said)(void *arg, const char *text);
	void *arg;

	/* Results: */
	uint64_t records;     /* that could be read */
	uint64_t bad_records; /* that could not */
	uint64_t bad_pages;
	uint64_t lost;	/* names */
	uint64_t found; /* files of the second source that came in */
	uint64_t lines; /* that @said was told */
};

/* 0; -ENOSPC: @most_bytes do not do; -EBADMSG: not a page of the only source
 * can be found; other errors. Then what is in @new_fd is of no use. */
int rebuild_run(struct rebuild *rb);

#endif
