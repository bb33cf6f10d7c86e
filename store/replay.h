/* SPDX-License-Identifier: MIT */
/*
 * Replay: which requests were done already, for who takes them over from a
 * process that was killed before it could answer.
 *
 * A request is one of a connection's, told by its number (never 0, never used
 * again in it), and comes through one of some slots; one slot has one at a
 * time. The edit that does what a request asked for writes the number and the
 * result under the slot, in its own transaction: both are there, or neither.
 * One record a slot is enough, for a slot's request is answered before the
 * next one comes.
 *
 *	replay_enter()		the thread begins to work on a request
 *	replay_put()		in the transaction that does it
 *	replay_leave()
 *	replay_get()		was it done?
 *	replay_clear()		a new connection: numbers begin again
 *
 * What fails changes nothing and need not be recorded: it is done again.
 *
 * Threads: any; what a thread works on is its own.
 */
#ifndef STORE_REPLAY_H
#define STORE_REPLAY_H

#include <stdint.h>

#include "store/index.h"

void replay_enter(uint64_t slot, uint64_t number);
void replay_leave(void);

/* @ino: the inode that the answer shows, or 0. Nothing, without a request. */
int replay_put(struct index_txn *txn, uint64_t ino);

/* 1 and the inode; or 0, it was not done. A damaged record is none. */
int replay_get(struct index_txn *txn, uint64_t slot, uint64_t number,
	       uint64_t *ret_ino);

int replay_clear(struct index_txn *txn);

#endif
