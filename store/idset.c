/* SPDX-License-Identifier: MIT */
#include "store/idset.h"

#include <errno.h>
#include <stdlib.h>

#define IDSET_FIRST_SIZE 64

/* Fibonacci hashing: ids are mostly consecutive. */
static size_t idset_slot(const struct idset *set, uint64_t id)
{
	return (size_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 20) &
	       (set->size - 1);
}

static void idset_place(struct idset *set, uint64_t id)
{
	size_t i = idset_slot(set, id);

	while (set->slots[i] && set->slots[i] != id)
		i = (i + 1) & (set->size - 1);
	if (!set->slots[i])
		set->used++;
	set->slots[i] = id;
}

static int idset_grow(struct idset *set)
{
	struct idset bigger = { .size = set->size ? set->size * 2
						  : IDSET_FIRST_SIZE };

	bigger.slots = calloc(bigger.size, sizeof(*bigger.slots));
	if (!bigger.slots)
		return -ENOMEM;
	for (size_t i = 0; i < set->size; i++)
		if (set->slots[i])
			idset_place(&bigger, set->slots[i]);
	free(set->slots);
	*set = bigger;
	return 0;
}

int idset_add(struct idset *set, uint64_t id)
{
	int r;

	if (set->used + 1 > set->size / 4 * 3) {
		r = idset_grow(set);
		if (r < 0)
			return r;
	}
	idset_place(set, id);
	return 0;
}

bool idset_has(const struct idset *set, uint64_t id)
{
	if (!set->size)
		return false;
	for (size_t i = idset_slot(set, id); set->slots[i];
	     i = (i + 1) & (set->size - 1))
		if (set->slots[i] == id)
			return true;
	return false;
}

void idset_release(struct idset *set)
{
	free(set->slots);
	*set = (struct idset){ 0 };
}
