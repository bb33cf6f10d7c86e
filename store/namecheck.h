/* SPDX-License-Identifier: MIT */
/*
 * The part of a check that looks at names, inodes and entries in the index:
 *  - names and cookies are one to one, and name inodes that are there;
 *  - link counts are right, directories hang below the root, and inodes
 *    without a name are orphans;
 *  - a file with one name knows it;
 *  - entries and the LRU are one to one, and an entry counts its files, whose
 *    names and kind are its own;
 *  - numbers that are given next were never given;
 *  - inline bytes belong to an inode, and are as many as it says.
 *
 * Needs 16 bytes an inode and an entry.
 */
#ifndef STORE_NAMECHECK_H
#define STORE_NAMECHECK_H

#include "store/survey.h"

struct namecheck_result {
	uint64_t files;	    /* regular ones */
	uint64_t sum_bytes; /* of those with a checksum */
};

/* In the survey's snapshot. 0, or an error that ended it. */
int namecheck_run(struct survey *s, struct namecheck_result *ret);

#endif
