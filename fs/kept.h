/* SPDX-License-Identifier: MIT */
/*
 * What outlives a killed daemon: memory that its keeper holds, a memfd that
 * both have mapped.
 *
 *	head	what the two tell each other, the witness of the store, the INIT
 *		request of the connection
 *	slots	one for each worker, with the request that it has in work. A
 *		request is read from the kernel right into its slot and stays
 *		there until it is answered: its first word, the length, is zero
 *		when there is none.
 *	rows	the open files, see handle.h
 *
 * Plain data without pointers, in native byte order. A daemon of another
 * version goes on with it only if the layout is the one it knows.
 *
 * A copy from the kernel that faults and finds no memory ends the request with
 * an error: slots are filled with memory before they are used, and locked
 * where that is allowed.
 *
 * Threads: any; who owns which field is said at each.
 */
#ifndef FS_KEPT_H
#define FS_KEPT_H

#include <stdatomic.h>
#include <stdint.h>

#include "store/store.h"

/* Raised with every change of what is below. */
#ifndef KEPT_LAYOUT
#define KEPT_LAYOUT 3
#endif

#define KEPT_SLOTS 64
/* The largest request: REPLY_IO_MAX of reply.h, and its headers. */
#define KEPT_REQUEST_BYTES (1 * MIB + 4096)
#define KEPT_INIT_MAX 1024
#define KEPT_ROWS (UINT32_C(1) << 20) /* files open at one time */

enum kept_row_state { KEPT_ROW_FREE, KEPT_ROW_OPEN, KEPT_ROW_BAD };

struct kept_row {
	uint64_t ino;
	uint64_t opener;     /* unique of the request that opened it */
	uint32_t generation; /* of the fh that it has or had last */
	int32_t flags;	     /* of open(2) */
	/* Set last, when the rest is filled in. BAD: open, and to be dropped
	 * at its last close (store_file_is_bad()). */
	_Atomic uint32_t state;
	/* Room for the file's id in FUSE's table of backing files: a successor
	 * needs it to close one. 0: none, no file is passed through. */
	int32_t backing_id;
};

/* Written by the worker whose slot it is, or by who takes it over. */
struct kept_slot {
	/* The answer is known: of the request with this unique (0: of none).
	 * Set after the two behind it. */
	_Atomic uint64_t settled;
	int64_t result;
	uint64_t value;
	uint32_t tries; /* how often it was taken over */
};

struct kept {
	char magic[8];
	uint32_t layout;
	_Atomic uint32_t init_bytes; /* 0: no INIT came yet; set last */
	uint8_t witness[STORE_WITNESS_SIZE];
	/* By the daemon: raised while it is well; requests it has answered. */
	_Atomic uint64_t beat;
	_Atomic uint64_t answered;
	/* Of all daemons of this mount: requests taken over, those of them that
	 * had been done and were only answered, those that were given up. */
	_Atomic uint64_t taken_over, replayed, given_up;
	/* The limit and its low mark in bytes, if they were changed since the
	 * mount; 0: they are as the options say. Limit set last. */
	_Atomic uint64_t limit, low;
	/* By the keeper: daemons that died, and crashed in a row; its pid. */
	_Atomic uint64_t deaths, crashes;
	_Atomic int64_t keeper_pid;
	_Atomic uint32_t rows;	 /* those behind were never used */
	_Atomic uint32_t frozen; /* errno that made the store read-only, or 0 */
	uint8_t init[KEPT_INIT_MAX];
};

/*
 * For a keeper: new memory with a witness of its own.
 * Returns: a descriptor (close on exec), or a negative errno.
 */
int kept_create(void);

/* 0; -EPROTO: not of this layout, or not sealed; -errno. Unmapped with the
 * process. */
int kept_map(int fd, struct kept **ret);
void kept_unmap(struct kept *k);

/*
 * For a daemon: wait until no other one uses the memory any more. The keeper
 * of one that has died waits for its end; who follows a keeper that was killed
 * cannot. Held until the process has ended. Returns 0 or -errno.
 */
int kept_claim(int fd);

/* For a keeper: what gets memory stays in memory, if that is allowed. */
void kept_lock(struct kept *k);

/* Give the slot its memory: before it is first used by this process. */
int kept_fill_slot(struct kept *k, unsigned slot);

struct kept_slot *kept_slot(struct kept *k, unsigned slot);
void *kept_request(struct kept *k, unsigned slot); /* KEPT_REQUEST_BYTES */
struct kept_row *kept_rows(struct kept *k);	   /* KEPT_ROWS of them */

#endif
