/* SPDX-License-Identifier: MIT */
/*
 * What a struct store is made of: shared by the files that make up the
 * facade (facade.c operations, setup.c opening and closing, status.c figures
 * and limits) and seen by nobody else.
 */
#ifndef STORE_PARTS_H
#define STORE_PARTS_H

#include "store/checkpoint.h"
#include "store/edit.h"
#include "store/evict.h"
#include "store/file.h"
#include "store/gc.h"
#include "store/home.h"
#include "store/ingest.h"
#include "store/linger.h"
#include "store/room.h"
#include "store/scrub.h"
#include "store/store.h"
#include "store/walk.h"

/* What came of the walk through the index at open. */
struct store_vetted {
	int64_t sec; /* unix time; 0: there was none */
	uint64_t damaged;
	char text[WALK_TEXT_MAX]; /* the first */
};

struct store {
	struct home home;
	struct index *ix;
	struct packs *packs;
	struct nodes *nodes;
	struct linger *linger;
	struct entries *entries;
	struct room *room;
	struct checkpoint *_Atomic cp; /* NULL until it runs */
	struct section *readers;
	struct holes *holes;
	struct gc *gc;
	struct tree tree;
	struct files files; /* its report_arg is the store */
	struct ingest *ingest;
	struct evict *evict;
	struct scrub *scrub; /* NULL: not a daemon's store */

	bool daemon; /* else: opened by a command, for itself */
	bool sync_strict;
	bool resume;		  /* inode numbers are known outside */
	const uint8_t *witness;	  /* borrowed, or NULL, with: */
	_Atomic uint32_t *frozen; /* errno, for who comes next */
	/* Found read-only, for this reason, and kept so: < 0, or 0. */
	int found_frozen;
	bool distrust;
	struct store_vetted vetted;
	atomic_uint_fast64_t bad_records; /* of the last walk */
	char bad_index[WALK_TEXT_MAX];	  /* set before: */
	atomic_bool index_is_bad;
	int64_t since; /* unix seconds */
	char note[64]; /* in the lock file */
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
};

#define STORE_REASON_MAX 256

/* Both take the store: what an operator should know; the index has changed. */
void store_report(void *arg, int priority, const char *text);
void store_changed(void *arg);

/*
 * Recover and open the index; one that is of no use is set aside, or with
 * @set_aside false refused; and nothing is changed of a store that was found
 * frozen. Returns enum recover_found, or an error and
 * @reason. Of what there is before its first checkpoint nothing is built on it,
 * and store_put_back_index() undoes it.
 */
int store_load_index(struct store *st, bool set_aside, char *reason,
		     size_t size);
void store_put_back_index(struct store *st);
/* An index that is mostly free pages is replaced by a compact copy. What
 * fails leaves the old one in place. */
int store_compact_index(struct store *st, const struct index_stat *is,
			char *reason, size_t size);

/* Set the room's marks. NULL fields of @text are: what the store recorded, or
 * the default. With @keep they are: what is in force. */
int store_apply_limits(struct store *st, const struct store_limits *text,
		       bool keep, char *why, size_t why_size);

/* Remember the limit of a mount, for commands that come when it has ended. What
 * fails costs only that. */
void store_note_limit(struct store *st);

/* Let the index grow by its share of the limit between two checkpoints. */
void store_apply_growth(struct store *st);

/*
 * Before the index is opened: can LMDB read it? Not asked of one that was in use
 * when the last process died, unless that is to be distrusted.
 * -EBADMSG and @reason: it is of no use.
 */
int store_vet_closed(struct store *st, int found, char *reason, size_t size);
/*
 * The index was opened, and nothing is built on it yet. Walks it where there
 * is a reason to: it was restored, it is to be distrusted, the last walk is
 * long ago. Errors as above.
 */
int store_vet(struct store *st, int found, char *reason, size_t size);
/* Record the walk, and have mended what it found. */
void store_vetted(struct store *st);
/* What a walk found while the store is in use; @arg is the store. */
void store_found_damaged(void *arg, uint64_t records, const char *first);
void store_found_bad(void *arg, const char *text);

#endif
