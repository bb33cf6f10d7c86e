/* SPDX-License-Identifier: MIT */
/*
 * The pieces of a file that may become blocks: where it is cut, and what each
 * piece is.
 *
 * A piece that begins like a ZIP member is stamped, whatever the cutter took it
 * for: its stamp is apart, and zero in both digests. So a file that equals a
 * masked member is that same piece with a stamp of zero, and a block that
 * begins so is never referred to without a stamp.
 *
 * No state; any threads.
 */
#ifndef STORE_PIECES_H
#define STORE_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/pack.h"
#include "store/record.h"

#define PIECES_MAX (256 * KIB) /* of one file; with more it is not cut */
/* Nor if they are smaller than that on average: their records would take more
 * than sharing them saves. */
#define PIECES_AVERAGE_MIN 512

struct piece {
	uint64_t len;
	uint64_t known; /* a block that has these bytes; 0: none */
	uint64_t xxh3;
	uint32_t stamp;
	bool stamped;
	uint8_t sha256[RECORD_SHA256_SIZE];
};

struct pieces {
	uint64_t size; /* of the file */
	uint64_t sum;  /* XXH3 of the file, stamps and all */
	size_t n;
	struct piece *v; /* owned; in order */
};
#define PIECES_INIT                                                            \
	{                                                                      \
		.v = NULL                                                      \
	}

/* The bytes of a block with its stamp zeroed, if it has one. */
bool pieces_is_stamped(const uint8_t *buf, uint64_t len);
void pieces_mask(uint8_t *buf, uint64_t len);

/* Up to @len bytes at @off of the pack @id, which is in use no longer than that;
 * with @idle at idle priority. Short at its end; -ENOENT: there is none. */
ssize_t pieces_fetch(struct packs *ps, uint64_t id, void *buf, size_t len,
		     uint64_t off, bool idle);

/*
 * Both digests of what is stored as the block @bl, the first bytes masked as
 * when it was cut. The pack is in use only while a piece of it is read, so that
 * it can be given up meanwhile.
 * @go_on:  NULL, or told behind each piece how much was read: -ECANCELED once
 *          it says no. With it the work is done at idle priority.
 * -ENOENT: there is no such pack; -EBADMSG: it ends before; -EIO, -ENOMEM.
 */
int pieces_digest_block(struct packs *ps, const struct block_rec *bl,
			bool (*go_on)(void *arg, size_t len), void *arg,
			uint8_t sha256[static RECORD_SHA256_SIZE],
			uint64_t *ret_xxh3);

/*
 * Read the first @size bytes of @pk, cut and digest them, at idle priority.
 * @go_on is asked now and then: -ECANCELED once it says no. -EBADMSG: the pack
 * is shorter; -EIO, -ENOMEM.
 */
int pieces_read(struct pack *pk, uint64_t size, bool (*go_on)(void *arg),
		void *arg, struct pieces *ret);
void pieces_release(struct pieces *p);
#define cleanup_pieces __attribute__((cleanup(pieces_release)))

/*
 * What to do with them once it is known which are blocks already.
 * Shared runs below PIECES_RUN_MIN are not worth an extent: unless all of the
 * file is known, they are forgotten (@known is 0 then). With too little to
 * share, all are.
 */
#define PIECES_RUN_MIN (4 * KIB)
#define PIECES_SHARE_MIN 16	/* 1/16 of the file */
#define PIECES_SMALL (64 * KIB) /* smaller files never stay whole */
struct pieces_plan {
	bool whole; /* nothing is shared: the file's pack stays as it is */
	uint64_t new_bytes;
};
void pieces_decide(struct pieces *p, struct pieces_plan *ret);
/* Nothing is shared after all. */
void pieces_keep_whole(struct pieces *p, struct pieces_plan *ret);

#endif
