/* SPDX-License-Identifier: MIT */
#include "store/ids.h"

#include <assert.h>
#include <errno.h>

#include "store/base.h"

void ids_init(struct ids *ids, unsigned pools, uint64_t step)
{
	assert(pools <= IDS_POOLS_MAX);
	*ids = (struct ids){ .pools = pools, .step = step };
	pthread_mutex_init(&ids->lock, NULL);
}

void ids_release(struct ids *ids)
{
	pthread_mutex_destroy(&ids->lock);
}

void ids_begin(struct ids *ids, unsigned pool, uint64_t first)
{
	LOCK_SCOPE(&ids->lock);
	ids->pool[pool].next = first;
	ids->pool[pool].mark = first;
}

int ids_take(struct ids *ids, unsigned pool, uint64_t *ret, bool *ret_low)
{
	uint64_t left;

	LOCK_SCOPE(&ids->lock);
	left = ids->pool[pool].mark - ids->pool[pool].next;
	if (left == 0)
		return -EAGAIN;
	*ret = ids->pool[pool].next++;
	*ret_low = left == ids->step / 2;
	return 0;
}

static bool pool_low(const struct ids *ids, unsigned pool)
{
	return ids->pool[pool].mark - ids->pool[pool].next < ids->step;
}

bool ids_low(struct ids *ids)
{
	unsigned i;

	LOCK_SCOPE(&ids->lock);
	for (i = 0; i < ids->pools; i++) {
		if (pool_low(ids, i))
			return true;
	}
	return false;
}

uint64_t ids_mark(struct ids *ids, unsigned pool, bool *ret_raised)
{
	LOCK_SCOPE(&ids->lock);
	*ret_raised = pool_low(ids, pool);
	if (*ret_raised)
		return ids->pool[pool].next + 2 * ids->step;
	return ids->pool[pool].mark;
}

void ids_committed(struct ids *ids, unsigned pool, uint64_t mark)
{
	LOCK_SCOPE(&ids->lock);
	if (mark > ids->pool[pool].mark)
		ids->pool[pool].mark = mark;
}
