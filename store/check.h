/* SPDX-License-Identifier: MIT */
/*
 * Is the store what it should be? All parts of a check, in order:
 *
 *	CHECK_INDEX	the pages (walk); the tables, in one snapshot (namecheck,
 *			blockcheck), and what is charged
 *	CHECK_FILES	pack files of inodes, and bytes
 *	CHECK_PACKS	pack files of blocks
 *	CHECK_BLOCKS	bytes of blocks
 *	CHECK_STRAYS	pack files that nothing names
 *
 * Nothing is changed or repaired. The store works on meanwhile; the first part
 * holds its snapshot while it reads the tables, the others none for longer than
 * a batch of records.
 *
 * Threads: any number at once.
 */
#ifndef STORE_CHECK_H
#define STORE_CHECK_H

#include "store/edit.h"
#include "store/home.h"

enum check_stage {
	CHECK_INDEX,
	CHECK_FILES,
	CHECK_PACKS,
	CHECK_BLOCKS,
	CHECK_STRAYS,
	CHECK_DONE,
};

struct check {
	struct tree *t;	   /* borrowed */
	struct home *home; /* borrowed */
	bool data;	   /* bytes too */
	bool alone;	   /* the store is not mounted: pack files too */
	int64_t stop_ms;   /* after that the check is left; 0: never */
	void (*found)(void *arg, const char *text); /* each finding, one line */
	void *arg;

	/* Where it begins, and where it was left. */
	enum check_stage stage;
	uint64_t at;

	/* What it found; the first part fills in the upper half. */
	uint64_t files, recipes, blocks, forgotten, packs;
	uint64_t charged, used; /* bytes; used is what du says */
	uint64_t bytes_all;	/* that will be compared, about */
	uint64_t bytes;		/* compared in this call */
	uint64_t findings;	/* of this call */
};

/* 0, or an error that ended the check. */
int check_run(struct check *c);

#endif
