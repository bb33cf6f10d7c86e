/* SPDX-License-Identifier: MIT */
/*
 * Blocks and the packs they are in: typed access inside the caller's
 * transaction. Returns 0 or the index's errors; -ENOENT no such record.
 *
 * What a pack's record counts (live bytes) is kept exact by whoever adds,
 * drops or moves blocks, with block_pack_add() in the same transaction.
 */
#ifndef STORE_BLOCK_H
#define STORE_BLOCK_H

#include "store/index.h"
#include "store/record.h"

int block_get(struct index_txn *txn, uint64_t id, struct block_rec *ret);

/*
 * A block with this identity: @prefer (0: none) if it is one, for it continues
 * a run, else the newest, for what follows is most like its file. Records that
 * cannot be read are passed over.
 */
int block_find(struct index_txn *txn,
	       const uint8_t sha256[static RECORD_SHA256_SIZE], uint64_t length,
	       uint64_t prefer, uint64_t *ret);

/* A new block, with its digest. */
int block_add(struct index_txn *txn, uint64_t id, const struct block_rec *bl);
/* Replace its record (references, place); not its identity. */
int block_put(struct index_txn *txn, uint64_t id, const struct block_rec *bl);
/* Its record and its digest. */
int block_del(struct index_txn *txn, uint64_t id, const struct block_rec *bl);

/*
 * A block whose bytes are damaged is lost: it has no place any more (@pack 0),
 * what they took of its pack is dead, and files with it are misses. Nothing new
 * refers to it; but when the same bytes come again it gets a place, and all is
 * well with what still refers to it.
 *
 * block_lose(): returns 1 as block_pack_add().
 * block_heal(): a lost block with the identity of @bl gets its place, and a
 * reference more. -ENOENT: there is none. Ask block_any_lost() before.
 */
int block_lose(struct index_txn *txn, uint64_t id, const struct block_rec *bl);
int block_any_lost(struct index_txn *txn); /* 1 if there may be some, 0 */
int block_heal(struct index_txn *txn, const struct block_rec *bl,
	       uint64_t *ret_id);

/* What is told of a block that is lost: "block 7 (5000 bytes of packs/... at
 * 4711) is damaged: they WHY; ...". */
struct block_text {
	char text[240];
};
struct block_text block_lost_text(uint64_t id, uint64_t pack, uint64_t off,
				  uint64_t len, const char *why);

int block_pack_get(struct index_txn *txn, uint64_t pack, struct pack_rec *ret);
int block_pack_put(struct index_txn *txn, uint64_t pack,
		   const struct pack_rec *rec);

/*
 * @delta bytes more (or less) of the pack are live. Returns 1 when the pack
 * is of no use to anybody any more: its record is gone, and its file is to be
 * given up after the commit.
 */
int block_pack_add(struct index_txn *txn, uint64_t pack, int64_t delta);

/* Nobody reads the pack linearly any more. Returns 1 as above, also when there
 * is no record of it. */
int block_pack_disown(struct index_txn *txn, uint64_t pack);

#endif
