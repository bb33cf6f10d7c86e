/* SPDX-License-Identifier: MIT */
/*
 * Ids that are never handed out twice, also not by the next process: each
 * pool gives them out below a mark, and the mark is in a committed
 * transaction before it counts here. Whoever opens the store next begins at
 * the mark it finds.
 *
 *	ids_take()		any time
 *	ids_mark()		in a transaction: the mark to store, if any
 *	ids_committed()		after its commit
 *
 * Pure but for one mutex per set; any thread.
 */
#ifndef STORE_IDS_H
#define STORE_IDS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define IDS_POOLS_MAX 5

struct ids {
	pthread_mutex_t lock; /* guards what follows */
	unsigned pools;
	uint64_t step; /* ids that are there after each commit, at least */
	struct {
		uint64_t next;
		uint64_t mark;
	} pool[IDS_POOLS_MAX];
};

void ids_init(struct ids *ids, unsigned pools, uint64_t step);
void ids_release(struct ids *ids);

/* Begin @pool at @first: none are left until a mark is committed. */
void ids_begin(struct ids *ids, unsigned pool, uint64_t first);

/* -EAGAIN: none left. *@ret_low: half of the step has just been used up. */
int ids_take(struct ids *ids, unsigned pool, uint64_t *ret, bool *ret_low);

/* True if a mark of some pool should be raised. */
bool ids_low(struct ids *ids);

/* The mark that @pool should get now; its present one if that will do. */
uint64_t ids_mark(struct ids *ids, unsigned pool, bool *ret_raised);
void ids_committed(struct ids *ids, unsigned pool, uint64_t mark);

#endif
