/* SPDX-License-Identifier: MIT */
/*
 * The side file index/ckpt: what a restore needs to know of the last
 * checkpoint. Little-endian:
 *   0 8  "PCFSCKP1"      8 u32 flags       12 u32 page size
 *  16 u64 txnid         24 u64 st_dev      32 u64 st_ino of data.mdb
 *  40 16 token of the witness (recover.h), zero while there is none
 *  56 u64 unix time     64 2 * page size: pages 0 and 1 of data.mdb
 *  then u64 XXH3-64 of all before
 * An empty snapshot has page size 0 and no pages: nothing was stored yet, and
 * data.mdb may be thrown away.
 *
 * It is replaced as a whole: written beside (index/ckpt.tmp), synced, and put
 * in its place by a rename that is synced too. The two files change places,
 * so that on a full disk the next one has its blocks already.
 *
 * Threads: one at a time for one directory.
 */
#ifndef STORE_SIDE_H
#define STORE_SIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define SIDE_NAME "ckpt"
#define SIDE_TMP_NAME "ckpt.tmp"
#define SIDE_TOKEN_SIZE 16

enum side_flags {
	SIDE_CLEAN = 1 << 0, /* nothing was committed after it */
	SIDE_EMPTY = 1 << 1, /* the snapshot of a new index */
};

struct side {
	uint32_t flags;
	uint64_t page_size;
	uint64_t txnid;
	uint64_t dev;
	uint64_t ino;
	uint8_t token[SIDE_TOKEN_SIZE];
	uint64_t time_sec;
	uint8_t *meta; /* 2 * page_size bytes; owned after side_read() */
};

/* -ENOENT; -EBADMSG not one, or damaged; -EIO, -ENOMEM, ... */
int side_read(int dir_fd, struct side *ret);
void side_release(struct side *side); /* zeroed is fine */
#define cleanup_side __attribute__((cleanup(side_release)))

/* Replace the side file. After -EMFILE, -ENFILE or -ENOMEM the old one is
 * still there; after any other error it is not known which of the two would
 * be found after a power cut. */
int side_write(int dir_fd, const struct side *side);

#endif
