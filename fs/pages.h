/* SPDX-License-Identifier: MIT */
/*
 * Lists of what is cached (listing.h), fetched whole by a command: a daemon
 * gives them in pieces. Threads: one.
 */
#ifndef FS_PAGES_H
#define FS_PAGES_H

#include "fs/cmd.h"

/*
 * All entries, or all packages.
 *
 * @request: of listing.h, taken over; NULL counts as out of memory.
 * @key:     "entries" or "packages".
 * @ret:     a new reference: a reply with all of them.
 * Returns:  CMD_OK, or CMD_FAILED after having said why.
 */
int pages_fetch(const struct cmd_target *target, struct json_t *request,
		const char *key, struct json_t **ret);

/* Sort an array in place. Returns CMD_OK or CMD_FAILED as above. */
typedef int (*pages_compare_fn)(const struct json_t *a, const struct json_t *b);
int pages_sort(struct json_t *array, pages_compare_fn compare);

#endif
