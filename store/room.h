/* SPDX-License-Identifier: MIT */
/*
 * Room under the limit: the one place where bytes are charged, where writers
 * wait for eviction, and where the evictor waits for work.
 *
 *	r = room_reserve(rm, class, upper bound);   before the act
 *	... the act ...
 *	room_settle(rm, upper bound, what it took); afterwards, always
 *	room_credit(rm, bytes);                     when something was given back
 *
 * Invariant: charged >= what du says of the store, at every moment.
 *
 * Threads: all calls, any number at once. One mutex, held for arithmetic and
 * one fstatvfs() only.
 */
#ifndef STORE_ROOM_H
#define STORE_ROOM_H

#include <stdbool.h>
#include <stdint.h>

#include "store/base.h"
#include "store/quota.h"

#define ROOM_WAIT_MS 2000 /* the longest that a writer waits for eviction */

/* The answer to "how much of the disk below is free": bytes, or < 0. Tests
 * put their own in. */
struct room_disk {
	int64_t (*free_bytes)(void *arg);
	void *arg;
};

struct room;

int room_new(struct room_disk disk, struct room **ret);
void room_free(struct room *rm); /* NULL is fine; nobody waits */

/* Set the marks (see quota_set()); wakes the evictor. */
void room_set_limit(struct room *rm, uint64_t limit, uint64_t low,
		    uint64_t min_free);

/*
 * Charge @bytes. Wakes the evictor when they don't fit and waits, at most
 * ROOM_WAIT_MS in all and no longer than the evictor has something to give.
 *
 * QUOTA_SYSTEM is not refused for want of something to evict: it waits until
 * a pass that began after it has ended with a checkpoint, and then goes on
 * whatever that brought. The transaction finds the pages that the checkpoint
 * made reusable, so the file hardly grows; and a deletion must not fail.
 * QUOTA_EVICT never waits, nor does QUOTA_SYSTEM in the evictor's own thread.
 *
 * Returns 0, or -ENOSPC. On a disk fuller than min_free that comes at once,
 * except for QUOTA_WHEELS.
 */
int room_reserve(struct room *rm, enum quota_class class, uint64_t bytes);

/* Charge @bytes of work that can wait, if they fit below the limit now, or if
 * the store is above it anyway (the work helps to get below). Never waits. 0,
 * or -ENOSPC. */
int room_try(struct room *rm, uint64_t bytes);

/* The act is over: of @reserved bytes charged, @used stay so. @used may be
 * more (it is then charged at once). */
void room_settle(struct room *rm, uint64_t reserved, uint64_t used);
void room_credit(struct room *rm, uint64_t bytes);
/* Set one absolute part of the charge (index file, directories): the charge
 * changes by the difference to what was set last time for @part. */
enum room_part { ROOM_INDEX, ROOM_DIRS, ROOM_PARTS };
void room_set_part(struct room *rm, enum room_part part, uint64_t bytes);
/* The same, but never lower: for whoever read @bytes while others, who may have
 * read more, were on their way here too. */
void room_raise_part(struct room *rm, enum room_part part, uint64_t bytes);

/* The disk itself said ENOSPC although we had room: make the evictor free
 * @bytes and wait like room_reserve(). 0: try again; -ENOSPC: nothing came. */
int room_disk_full(struct room *rm, enum quota_class class, uint64_t bytes);

/*
 * The evictor's side; one thread. room_wait() sleeps until there is something
 * to do or @timeout_ms is over: 1 and *@ret filled in, 0 on time-out or
 * room_kick(), -ESHUTDOWN after room_stop().
 *
 * What it returned with 1 is a pass, to be ended by room_pass_done(): @freed
 * bytes came back (already credited). Waiters look again, and if @exhausted
 * (nothing more may go now) or nothing came back, they fail until something
 * changes: a credit, another limit, or @retry_ms from now. A pass with @wheels
 * speaks for all, one without it not for writers under wheels/.
 */
struct room_need {
	uint64_t bytes;	 /* to free; 0: only the checkpoint is wanted */
	bool urgent;	 /* somebody waits */
	bool wheels;	 /* one of them writes under wheels/ and may push out */
			 /* http* within grace */
	bool checkpoint; /* a deletion waits: end with a checkpoint even if */
			 /* nothing could be evicted */
};
int room_wait(struct room *rm, int timeout_ms, struct room_need *ret);
void room_pass_done(struct room *rm, uint64_t freed, bool exhausted,
		    int retry_ms);
void room_kick(struct room *rm); /* let room_wait() return at once */
void room_stop(struct room *rm);

struct room_stat {
	struct quota quota; /* a copy */
	uint64_t reserved;  /* of charged: acts under way */
	bool disk_full;	    /* fuller than min_free: only wheels are stored */
	bool exhausted;	    /* the last pass found nothing more to evict */
};
void room_stat(struct room *rm, struct room_stat *ret);

#endif
