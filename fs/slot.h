/* SPDX-License-Identifier: MIT */
/*
 * The request that a worker has in work, in its slot of the kept memory, and
 * what is known of its answer.
 *
 *	slot_open()		a request is read into it then
 *	slot_enter()		the calling thread works on it
 *	... slot_known()	was it answered, or done, by who had it before?
 *	... slot_settle()	right before the reply is sent
 *	slot_leave()
 *	slot_clear()		it is answered
 *
 * A process may be killed between any two of these. Before slot_settle() what
 * was done is done again by the successor, or found in the store's own record
 * (store_request_done()); after it the same answer is sent again, which the
 * kernel refuses if it has it already. That matters: once a caller has its
 * answer others may build on it, and doing it again would undo their work.
 * Looking things up and reading is simply done again.
 *
 * Threads: a slot is its worker's; slot_enter() to slot_leave() on one thread.
 */
#ifndef FS_SLOT_H
#define FS_SLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/kept.h"

/* A request that has seen so many daemons die gets EIO. */
#define SLOT_TRIES_MAX 6

enum slot_known {
	SLOT_NEW,     /* nobody has worked on it */
	SLOT_AGAIN,   /* somebody has; what came of it is not known */
	SLOT_DONE,    /* the store has done it; value: the inode */
	SLOT_SETTLED, /* its answer is known: result and value */
};

struct slot {
	unsigned number;
	struct kept *memory; /* borrowed, like the next two */
	struct kept_slot *kept;
	void *request; /* KEPT_REQUEST_BYTES */
	enum slot_known known;
	int64_t result;
	uint64_t value;
};

/* -ENOMEM: there is no memory for it. */
int slot_open(struct kept *k, unsigned number, struct slot *ret);

/* Nothing is in it. */
void slot_clear(struct slot *s);

/* What does it hold? The header as the kernel wrote it; 0 bytes: nothing. What
 * cannot be a request is nothing. */
struct slot_request {
	uint32_t bytes;
	uint32_t opcode;
	uint64_t unique;
};
struct slot_request slot_look(const struct slot *s);

void slot_enter(struct slot *s);
void slot_leave(void);

/* Of the slot that the thread has entered; without one: new, unique 0. */
enum slot_known slot_known(void);
int64_t slot_result(void);
uint64_t slot_value(void);
uint64_t slot_unique(void);
/*
 * Before each reply, and then counted in the memory: who has read a request
 * since, and looks at that count, sees all that was done for the answer.
 */
void slot_settle(int64_t result, uint64_t value);

#endif
