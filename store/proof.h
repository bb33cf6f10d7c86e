/* SPDX-License-Identifier: MIT */
/*
 * Bytes against their checksums, one thing after the other:
 *
 *	struct proof p = { .t = t, .go_on = ..., .arg = ... };
 *	while ((r = proof_next_block(&p)) > 0)
 *		if (p.bad)
 *			... p.text says what is wrong with block p.bad ...
 *
 * What changes or goes while it is looked at is no finding. Records that are
 * damaged themselves are passed over: they are another's affair (walk.h).
 *
 * No locks; a proof belongs to one thread.
 */
#ifndef STORE_PROOF_H
#define STORE_PROOF_H

#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"

#define PROOF_TEXT_MAX 160

struct proof {
	struct tree *t; /* borrowed */
	/* Told of bytes as they are read, at idle priority; false: end. */
	bool (*go_on)(void *arg, size_t len);
	void *arg;
	uint64_t at; /* id to go on from; 0 at first */

	/* Of the last call: */
	uint64_t bytes;
	uint64_t bad;  /* id of what is damaged; 0: nothing */
	bool missing;  /* its whole pack is not there: */
	uint64_t pack; /* this one */
	char text[PROOF_TEXT_MAX];
};

/*
 * 1: something was looked at, or passed over; 0: that was all; or -ECANCELED
 * and other errors, with @at before what was not looked at.
 *
 * Files: those in the index, and those in packs of their own that have no
 * blocks. The id is an inode's.
 */
int proof_next_file(struct proof *p);
int proof_next_block(struct proof *p);

#endif
