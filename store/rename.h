/* SPDX-License-Identifier: MIT */
/*
 * rename(2) and its flags, in one transaction.
 *
 * A file that gets another name gets the entry of its new place. A directory
 * that moves near the root leaves a note for tidy_rescan().
 *
 * Errors as in store.h. Threads: any.
 */
#ifndef STORE_RENAME_H
#define STORE_RENAME_H

#include "store/edit.h"

enum rename_names_flags { /* one of them, or none */
			  RENAME_NAMES_NOREPLACE = 1 << 0,
			  RENAME_NAMES_EXCHANGE = 1 << 1,
};

struct rename_at {
	uint64_t parent;
	const char *name;
};

int rename_names(struct tree *t, struct rename_at from, struct rename_at to,
		 int flags);

#endif
