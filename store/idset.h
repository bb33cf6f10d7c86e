/* SPDX-License-Identifier: MIT */
/*
 * A set of ids (inode or pack numbers, never 0): open addressing, 16 bytes an
 * id at worst. Ids can be removed only all together.
 *
 * No locks: the owner guards it. A zeroed struct is an empty set.
 */
#ifndef STORE_IDSET_H
#define STORE_IDSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct idset {
	uint64_t *slots; /* owned */
	size_t size;	 /* a power of two, or 0 */
	size_t used;
};

int idset_add(struct idset *set, uint64_t id); /* -ENOMEM; twice is fine */
bool idset_has(const struct idset *set, uint64_t id);
void idset_release(struct idset *set);
#define cleanup_idset __attribute__((cleanup(idset_release)))

#endif
