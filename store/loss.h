/* SPDX-License-Identifier: MIT */
/*
 * What damaged blocks cost: nothing new shares them, and the files that use
 * them go, each with its unit. For pip that is a miss; the same bytes, when
 * they come again, become blocks of their own.
 *
 * Threads: any.
 */
#ifndef STORE_LOSS_H
#define STORE_LOSS_H

#include "store/stage.h"
#include "store/survey.h"

#define LOSS_BLOCKS_MAX 1000 /* in one call: each costs a transaction */

/*
 * @bad:  ids of blocks; sorted by the call. Reads all recipes and inodes once.
 * @ret:  files that were dropped; they are counted in @fs too.
 * An error ends it: what was not reached is damaged as before.
 */
int loss_blocks(struct files *fs, struct survey_set *bad, uint64_t *ret);

/* The file @ino has wrong bytes. 0, also when it is gone by now. */
int loss_file(struct files *fs, uint64_t ino);

#endif
