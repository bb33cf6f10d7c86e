/* SPDX-License-Identifier: MIT */
/*
 * Recovery: what becomes of an index directory before it is opened.
 *
 * The index may be used as it is if it was closed cleanly, or if the page
 * cache that holds what was never synced of it cannot have been lost. For that
 * there is a witness: random bytes that somebody keeps who outlives us, and
 * who keeps the store's file system from being unmounted meanwhile. Each
 * checkpoint writes them into the side file; who comes with the same bytes
 * goes on where the last process stopped. All others go back to the last
 * checkpoint.
 *
 * Threads: one, the one that opens the store.
 */
#ifndef STORE_RECOVER_H
#define STORE_RECOVER_H

#include <stdbool.h>
#include <stdint.h>

#include "store/side.h"

/* What recover_index() found and did. */
enum recover_found {
	RECOVER_CREATED = 0,	/* no index was there */
	RECOVER_CLEAN = 1,	/* as the last daemon left it */
	RECOVER_RESTORED = 2,	/* put back to the last checkpoint */
	RECOVER_UNREADABLE = 3, /* index or side file cannot be used: the */
				/* caller sets it aside; nothing changed */
	RECOVER_LIVE = 4, /* as the last process left it, killed or not: */
			  /* commit nothing before the first checkpoint */
};

enum recover_flags {
	RECOVER_RDONLY = 1 << 0,
	RECOVER_DISTRUST = 1 << 1,
};

/*
 * Look at the index directory before it is opened and, where its side file
 * says so, restore it. @why gets a sentence for UNREADABLE and RESTORED.
 *
 * What is found          is
 * no side file           CREATED if there is no data.mdb or an empty one: a
 *                        side file of the empty index is written, so that a
 *                        power cut before the first checkpoint is told from
 *                        a side file that was lost; else UNREADABLE
 * that of the empty one  CREATED; data.mdb holds nothing and is removed
 * a snapshot             UNREADABLE if data.mdb is too short for it or not
 *                        whole (audit.h); else CLEAN if it is marked so and
 *                        the meta pages of data.mdb are still those it saved;
 *                        else RESTORED
 * one of @witness        CLEAN as above; else LIVE, if st_dev and st_ino in the
 *                        side file are those of data.mdb; else as above
 *
 * What was done can be cut short and done again. A store that was copied is
 * taken like the original: the audit tells whether the copy holds the
 * snapshot.
 *
 * @witness: SIDE_TOKEN_SIZE bytes, or NULL; all zero is as NULL.
 * @flags:   RDONLY: change nothing. RESTORED then means "would be restored": the
 *           index must not be opened as it is. DISTRUST: an index that would
 *           be LIVE is UNREADABLE if it is not whole.
 * Returns:  enum recover_found, or -EIO, -EACCES, -ENOMEM, ...
 */
int recover_index(int index_dir_fd, const uint8_t *witness, int flags,
		  char *why, size_t why_size);

/* Make a data.mdb that is not open (a compact copy in a directory of its own)
 * an index that was closed cleanly: sync it and write its side file. */
int recover_seal(int index_dir_fd);

#endif
