/* SPDX-License-Identifier: MIT */
/*
 * The part of a check that looks at pack files and the bytes in them.
 *
 * It works while the store does: records are read in short transactions, a few
 * hundred at a time, what they name is looked at without any, and what seems
 * wrong is a finding only if the record is still the same afterwards. Blocks
 * are looked at again where they have moved to.
 *
 * Each call goes on at number *@at (0 at first) until all is done, or until
 * @stop_ns: at least one thing is looked at. 0: done, 1: *@at is where to go
 * on; or an error that ended it.
 */
#ifndef STORE_DATACHECK_H
#define STORE_DATACHECK_H

#include "store/edit.h"
#include "store/idset.h"
#include "store/survey.h"

struct datacheck {
	struct tree *t;	  /* borrowed */
	struct survey *s; /* borrowed; its transaction is not used */
	bool data;	  /* compare bytes with their checksums */
	int64_t stop_ns;  /* on CLOCK_MONOTONIC; 0: never */
	uint64_t bytes;	  /* compared so far */

	/* private */
	struct survey_set set;
	struct idset *named;
};

/* Files: the pack that an inode reads is there, and long enough; with @data
 * all bytes of those that have a checksum. */
int datacheck_files(struct datacheck *dc, uint64_t *at);

/* Packs with blocks: they are there, and long enough. */
int datacheck_packs(struct datacheck *dc, uint64_t *at);

/* The bytes of blocks: both digests. */
int datacheck_blocks(struct datacheck *dc, uint64_t *at);

/*
 * Files in packs/ that nothing names. Only where nothing new is written: the
 * store is not mounted. @checkpoint: frees what was given up; may be NULL.
 */
int datacheck_strays(struct datacheck *dc, int packs_fd,
		     int (*checkpoint)(void *arg), void *arg);

/* The bytes of one block, or of a file that has a checksum. 0: they are right;
 * 1: they are not, *@ret_why (a constant) or *@ret_good says so; or an error. */
int datacheck_block_bytes(struct tree *t, const struct block_rec *bl,
			  const char **ret_why);
int datacheck_file_bytes(struct tree *t, const struct inode *in,
			 bool *ret_good);

void datacheck_release(struct datacheck *dc);

#endif
