/* SPDX-License-Identifier: MIT */
/*
 * The sweep through a store that was just opened, before anyone uses it:
 *  - pack files that no record names are removed (a crash left them);
 *  - orphans of an earlier mount are removed, but for those that are open in
 *    one that goes on;
 *  - after a restore, files of pip's trees that were being written, or were
 *    not yet summed, at the checkpoint are dropped: their bytes may be torn.
 *    So are empty ones where wheels are: their bytes were still to come.
 *    Other files stay, as torn as any file system would leave them;
 *  - files that were not ingested are queued for it.
 *
 * One thread, nothing else runs.
 */
#ifndef STORE_SWEEP_H
#define STORE_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"

struct sweep_result {
	uint64_t pack_bytes; /* on disk, of what stays */
	uint64_t dropped;    /* files */
	uint64_t orphans;
	/* Inode records; then no pack file is removed. tidy_rescan() mends it. */
	uint64_t unreadable;
};

/* First the packs: @res->pack_bytes are to be charged before anything is
 * written. Then, with room to commit, the inodes. @sum: queues a file. */
int sweep_packs(struct tree *t, struct sweep_result *res);
int sweep_inodes(struct tree *t, bool restored,
		 void (*sum)(void *arg, uint64_t ino), void *sum_arg,
		 struct sweep_result *res);

/* The first orphan at or behind *@ino; 1, or 0 if there is none. This one at
 * any time, in any thread. */
int sweep_next_orphan(struct tree *t, uint64_t *ino);

#endif
