/* SPDX-License-Identifier: MIT */
#include "store/proof.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/block.h"
#include "store/digest.h"
#include "store/idle.h"
#include "store/pieces.h"
#include "store/table.h"

#define PROOF_BATCH 256 /* records read in one transaction */
#define PROOF_CHUNK (1 * MIB)

static void proof_begin(struct proof *p)
{
	p->bytes = p->bad = p->pack = 0;
	p->missing = false;
	p->text[0] = '\0';
}

/* What can be wrong with bytes; other errors are nobody's damage. */
static bool proof_is_damage(int r)
{
	return r == -EBADMSG || r == -EIO || r == -ENOENT;
}

static const char *proof_why(int r)
{
	switch (r) {
	case -ENOENT:
		return "there is no such file";
	case -EBADMSG:
		return "they are not all there";
	case -EIO:
		return "they cannot be read";
	default:
		return "they do not match their checksum";
	}
}

/* The next record that can be read, of a table whose keys begin with a number.
 * 1, 0 at the end. */
static int proof_next(struct index_iter *it, uint64_t *ret_id, uint8_t *buf,
		      size_t size, size_t *ret_len)
{
	struct record_key key;
	int r;

	do
		r = index_next(it, &key, buf, size, ret_len);
	while ((r == -EBADMSG && it->cursor) ||
	       (r > 0 && record_key_get(&key, 0, ret_id) < 0));
	return r;
}

/* -- Blocks ---------------------------------------------------------------- */

/* The first block from p->at on that has a record: 1, or 0. */
static int proof_find_block(struct proof *p, uint64_t *ret_id,
			    struct block_rec *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(p->at);
	uint8_t buf[RECORD_BLOCK_MAX];
	size_t len;
	int r = index_begin(p->t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_BLOCK, &from, 0, &it);
	if (r < 0)
		return r;
	do
		r = proof_next(&it, ret_id, buf, sizeof(buf), &len);
	while (r > 0 && record_block_decode(buf, len, ret) < 0);
	return r;
}

/* Is the block still where it was? */
static int proof_block_stays(struct proof *p, uint64_t id,
			     const struct block_rec *bl)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct block_rec now;
	int r = index_begin(p->t->ix, false, &txn);

	if (r >= 0)
		r = block_get(txn, id, &now);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return now.pack == bl->pack && now.offset == bl->offset;
}

/* One that has moved meanwhile is looked at again by the next call. */
static int proof_block(struct proof *p, uint64_t id, const struct block_rec *bl)
{
	uint8_t sha256[RECORD_SHA256_SIZE];
	uint64_t xxh3 = 0;
	int stays, r = pieces_digest_block(p->t->packs, bl, p->go_on, p->arg,
					   sha256, &xxh3);

	if (r < 0 && !proof_is_damage(r))
		return r;
	if (r >= 0 && xxh3 == bl->xxh3 &&
	    memcmp(sha256, bl->sha256, sizeof(sha256)) == 0) {
		p->bytes = bl->length;
		p->at = id + 1;
		return 1;
	}
	stays = proof_block_stays(p, id, bl);
	if (stays < 0)
		return stays;
	p->at = id + (stays > 0);
	if (!stays)
		return 1;
	p->bad = id;
	p->pack = bl->pack;
	p->missing = r == -ENOENT;
	snprintf(p->text, sizeof(p->text),
		 "block %" PRIu64 ", %" PRIu64 " bytes at %" PRIu64
		 " of packs/%s: %s",
		 id, bl->length, bl->offset, packio_name(bl->pack).text,
		 proof_why(r));
	return 1;
}

int proof_next_block(struct proof *p)
{
	struct block_rec bl;
	uint64_t id;
	int r;

	proof_begin(p);
	r = proof_find_block(p, &id, &bl);
	if (r <= 0 || bl.pack)
		return r <= 0 ? r : proof_block(p, id, &bl);
	p->at = id + 1; /* it is lost already, and has no bytes */
	return 1;
}

/* -- Files ----------------------------------------------------------------- */

/* Bytes in the index. */
static int proof_inline(struct proof *p, struct index_txn *txn,
			const struct inode *in, uint8_t *buf)
{
	struct record_key key = record_key_id(in->ino);
	ssize_t n = index_get(txn, INDEX_INLINE, &key, buf, INDEX_VALUE_MAX);
	uint64_t sum;

	if (n < 0 && n != -ENOENT && n != -EBADMSG)
		return (int)n;
	if (n >= RECORD_INLINE_HEAD &&
	    record_u64_decode(buf, RECORD_INLINE_HEAD, &sum) == 0 &&
	    sum == digest_xxh3(buf + RECORD_INLINE_HEAD,
			       (size_t)n - RECORD_INLINE_HEAD)) {
		p->bytes += (uint64_t)n;
		return 0;
	}
	p->bad = in->ino;
	snprintf(p->text, sizeof(p->text),
		 "inode %" PRIu64 ", %" PRIu64 " bytes in the index: %s",
		 in->ino, in->size,
		 n == -ENOENT ? "they are not there"
			      : "they do not match their checksum");
	return 0;
}

static bool proof_wants_pack(const struct inode *in)
{
	return in->data == INODE_DATA_PACK && !in->recipe &&
	       (in->flags & INODE_SUMMED) && !(in->flags & INODE_WRITERS);
}

/* The record of an inode: 1 if it has a pack to be read, else 0, with its bytes
 * in the index looked at. */
static int proof_inode(struct proof *p, struct index_txn *txn, uint64_t ino,
		       uint8_t *buf, size_t len, struct inode *ret)
{
	if (record_inode_decode(ino, buf, len, ret) < 0)
		return 0;
	if (proof_wants_pack(ret))
		return 1;
	return ret->data == INODE_DATA_INLINE ? proof_inline(p, txn, ret, buf)
					      : 0;
}

/* Inodes from p->at on, up to one that has a pack to be read (1), to something
 * damaged or to the end of a batch (2), or of all (0). */
static int proof_find_file(struct proof *p, uint8_t *buf, struct inode *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(p->at);
	uint64_t ino;
	size_t len;
	int n = 0, r = index_begin(p->t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	while (r >= 0 && n < PROOF_BATCH && !p->bad) {
		r = proof_next(&it, &ino, buf, INDEX_VALUE_MAX, &len);
		if (r <= 0)
			return r == 0 && n ? 2 : r;
		r = proof_inode(p, txn, ino, buf, len, ret);
		if (r != 0)
			return r;
		p->at = ino + 1;
		n++;
	}
	return r < 0 ? r : 2;
}

static int proof_sum(struct proof *p, const struct inode *in, uint8_t *buf,
		     uint64_t *ret)
{
	cleanup_digest struct digest *d = NULL;
	int r = digest_new(&d);
	ssize_t n;

	for (uint64_t off = 0; off < in->size && r >= 0; off += (uint64_t)n) {
		uint64_t left = in->size - off;

		n = pieces_fetch(p->t->packs, in->pack, buf,
				 left < PROOF_CHUNK ? (size_t)left
						    : PROOF_CHUNK,
				 off, true);
		if (n <= 0)
			return n < 0 ? (int)n : -EBADMSG;
		idle_enter();
		digest_update(d, buf, (size_t)n);
		idle_leave();
		if (!p->go_on(p->arg, (size_t)n))
			r = -ECANCELED;
	}
	if (r >= 0)
		*ret = digest_value(d);
	return r;
}

static int proof_file_stays(struct proof *p, const struct inode *in)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode now;
	int r = index_begin(p->t->ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, in->ino, &now);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return proof_wants_pack(&now) && now.pack == in->pack &&
	       now.size == in->size && now.xxh3 == in->xxh3;
}

static int proof_file(struct proof *p, const struct inode *in, uint8_t *buf)
{
	uint64_t sum = 0;
	int stays, r = proof_sum(p, in, buf, &sum);

	if (r < 0 && !proof_is_damage(r))
		return r;
	if (r >= 0 && sum == in->xxh3) {
		p->bytes += in->size;
		p->at = in->ino + 1;
		return 1;
	}
	stays = proof_file_stays(p, in);
	if (stays < 0)
		return stays;
	p->at = in->ino + 1;
	if (!stays)
		return 1;
	p->bad = in->ino;
	p->pack = in->pack;
	snprintf(p->text, sizeof(p->text),
		 "inode %" PRIu64 ", %" PRIu64 " bytes at 0 of packs/%s: %s",
		 in->ino, in->size, packio_name(in->pack).text, proof_why(r));
	return 1;
}

int proof_next_file(struct proof *p)
{
	cleanup_free uint8_t *buf = malloc(PROOF_CHUNK);
	struct inode in;
	int r;

	proof_begin(p);
	if (!buf)
		return -ENOMEM;
	r = proof_find_file(p, buf, &in);
	return r == 1 ? proof_file(p, &in, buf) : r < 0 ? r : r > 0;
}
