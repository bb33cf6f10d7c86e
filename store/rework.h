/* SPDX-License-Identifier: MIT */
/*
 * An index that is being rebuilt: what the steps of a repair share. It is new
 * and nobody else's, holds all records that could be read (salvage.h), and is
 * worked on in place until the tables agree with each other (rebuild.h).
 *
 * Records of a second source have numbers from @other on: what is @base there
 * is @other + base here.
 *
 * One thread.
 */
#ifndef STORE_REWORK_H
#define STORE_REWORK_H

#include "store/edit.h"
#include "store/idset.h"
#include "store/survey.h"

enum rework_state {
	REWORK_LOST = 1 << 0,	 /* it is to go, @why says why */
	REWORK_REACHED = 1 << 1, /* directories: its names lead to a root */
	REWORK_CLIMBED = 1 << 2, /* on the way that is looked at */
	REWORK_CUT_OFF = 1 << 3, /* directories: they lead nowhere */
};

/* What is found out about an inode. */
struct rework_ino {
	uint64_t ino;
	uint64_t up;	 /* directory of a name that counts; 0: none yet */
	uint64_t cookie; /* of that name */
	uint64_t next;	 /* directories: the next cookie */
	const char *why; /* constant */
	uint32_t names;	 /* that count */
	uint32_t dirs;	 /* directories in it */
	uint8_t type;	 /* DT_* */
	uint8_t kind;	 /* enum layout_kind */
	uint8_t state;	 /* enum rework_state */
};

struct rework_block {
	uint64_t id;
	uint64_t pack;
	uint64_t off;
	uint64_t len;
	uint32_t refs; /* by recipes that stay */
	bool ok;
};

struct rework {
	struct tree t;	     /* to read bytes with; its index is the new one */
	struct survey s;     /* told what is lost and what is made anew */
	bool data;	     /* compare all bytes */
	uint64_t other;	     /* 0: there is no second source */
	bool joined;	     /* its tree is the first one's */
	int packs_fd;	     /* borrowed */
	uint64_t copied;     /* bytes that packs took meanwhile */
	uint64_t most_bytes; /* that the new index and they may take */
	struct index_txn *txn; /* of the step at work */

	struct rework_ino *inos; /* owned; sorted */
	size_t n_inos, size_inos, n_sorted;
	struct idset made;	     /* directories that were not there */
	struct idset has_recipe;     /* recipes that an inode reads */
	struct idset has_pack;	     /* packs that one reads linearly */
	struct rework_block *blocks; /* owned; sorted by id */
	size_t n_blocks, size_blocks;
	struct survey_set files;   /* packs, ref: their bytes */
	struct survey_set claims;  /* packs that inodes read linearly */
	struct survey_set recipes; /* of inodes that stay, ref: whose */
	struct survey_set entries; /* of files that stay; once for each */
	struct survey_set owners;  /* packs, ref: who reads them linearly */

	uint64_t lost;	/* files */
	uint64_t found; /* files of the second source that stay */
};

/*
 * Calls @fn with each record of a table, in rw->txn, which it may change,
 * deleting what it is called with. @val: the value, which matches its checksum.
 * Commits now and then. -ENOSPC: the new index would be too large.
 */
typedef int (*rework_fn)(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len);
int rework_each(struct rework *rw, enum index_table table, rework_fn fn);

/* For a step that walks nothing: rw->txn begins, and is committed. */
int rework_begin(struct rework *rw);
int rework_commit(struct rework *rw);

struct rework_ino *rework_find(const struct rework *rw, uint64_t ino);
/* At the end: not found before rework_sort(). */
int rework_add(struct rework *rw, const struct rework_ino *it);
void rework_sort(struct rework *rw);
struct rework_block *rework_block(const struct rework *rw, uint64_t id);

bool rework_is_root(const struct rework *rw, uint64_t ino);
/* Is the number of the second source? */
static inline bool rework_is_other(const struct rework *rw, uint64_t id)
{
	return rw->other && id >= rw->other;
}

/* The directory and the name of a key of names; false: it can be none. */
bool rework_name(const struct record_key *key, uint64_t *ret_dir,
		 char name[static RECORD_NAME_MAX + 1]);

/* "http-v2/a/b/c", as far as it is known; printable. */
struct rework_path {
	char text[SURVEY_TEXT_MAX / 4 * 3];
};
struct rework_path rework_path(const struct rework *rw, uint64_t dir,
			       const char *name);

void rework_release(struct rework *rw);

#endif
