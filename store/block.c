/* SPDX-License-Identifier: MIT */
#include "store/block.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "store/packio.h"

#define BLOCK_EQUALS_MAX 32	      /* with one digest, looked at */
#define BLOCK_META_LOST "lost.blocks" /* there were some */

int block_get(struct index_txn *txn, uint64_t id, struct block_rec *ret)
{
	struct record_key key = record_key_id(id);
	uint8_t buf[RECORD_BLOCK_MAX];
	ssize_t n = index_get(txn, INDEX_BLOCK, &key, buf, sizeof(buf));

	return n < 0 ? (int)n : record_block_decode(buf, (size_t)n, ret);
}

/* Is @id such a block, and lost, or not? */
static int block_is(struct index_txn *txn, uint64_t id,
		    const uint8_t sha256[static RECORD_SHA256_SIZE],
		    uint64_t length, bool lost)
{
	struct block_rec bl;
	int r = block_get(txn, id, &bl);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return bl.length == length && bl.refs < UINT32_MAX &&
	       !bl.pack == lost &&
	       !memcmp(bl.sha256, sha256, RECORD_SHA256_SIZE);
}

/* The newest such block. */
static int block_search(struct index_txn *txn,
			const uint8_t sha256[static RECORD_SHA256_SIZE],
			uint64_t length, bool lost, uint64_t *ret)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(record_sha256_head(sha256));
	struct record_key key;
	uint64_t id, found = 0;
	uint8_t none[1];
	size_t len;
	int r = index_iter(txn, INDEX_DIGEST, &from, from.len, &it);

	for (int i = 0; i < BLOCK_EQUALS_MAX && !r; i++) {
		r = index_next(&it, &key, none, sizeof(none), &len);
		if (!r)
			break;
		if (r > 0)
			r = record_key_get(&key, sizeof(uint64_t), &id);
		if (r >= 0)
			r = block_is(txn, id, sha256, length, lost);
		if (r > 0)
			found = id;
		r = r > 0 || r == -EBADMSG ? 0 : r;
	}
	if (r < 0 || !found)
		return r < 0 ? r : -ENOENT;
	*ret = found;
	return 0;
}

int block_find(struct index_txn *txn,
	       const uint8_t sha256[static RECORD_SHA256_SIZE], uint64_t length,
	       uint64_t prefer, uint64_t *ret)
{
	int r = prefer ? block_is(txn, prefer, sha256, length, false) : 0;

	if (r <= 0)
		return r < 0 ? r
			     : block_search(txn, sha256, length, false, ret);
	*ret = prefer;
	return 0;
}

static struct record_key block_digest_key(uint64_t id,
					  const struct block_rec *bl)
{
	return record_key_pair(record_sha256_head(bl->sha256), id);
}

int block_add(struct index_txn *txn, uint64_t id, const struct block_rec *bl)
{
	struct record_key digest = block_digest_key(id, bl);
	int r = block_put(txn, id, bl);

	return r < 0 ? r : index_put(txn, INDEX_DIGEST, &digest, NULL, 0, true);
}

int block_put(struct index_txn *txn, uint64_t id, const struct block_rec *bl)
{
	struct record_key key = record_key_id(id);
	uint8_t buf[RECORD_BLOCK_MAX];
	size_t len = record_block_encode(bl, buf);

	return index_put(txn, INDEX_BLOCK, &key, buf, len, false);
}

int block_del(struct index_txn *txn, uint64_t id, const struct block_rec *bl)
{
	struct record_key key = record_key_id(id);
	struct record_key digest = block_digest_key(id, bl);
	int r = index_del(txn, INDEX_BLOCK, &key);

	if (r < 0)
		return r;
	r = index_del(txn, INDEX_DIGEST, &digest);
	return r == -ENOENT ? 0 : r;
}

int block_pack_get(struct index_txn *txn, uint64_t pack, struct pack_rec *ret)
{
	struct record_key key = record_key_id(pack);
	uint8_t buf[RECORD_PACK_SIZE];
	ssize_t n = index_get(txn, INDEX_PACK, &key, buf, sizeof(buf));

	return n < 0 ? (int)n : record_pack_decode(buf, (size_t)n, ret);
}

int block_pack_put(struct index_txn *txn, uint64_t pack,
		   const struct pack_rec *rec)
{
	struct record_key key = record_key_id(pack);
	uint8_t buf[RECORD_PACK_SIZE];

	record_pack_encode(rec, buf);
	return index_put(txn, INDEX_PACK, &key, buf, sizeof(buf), false);
}

/* Put @rec, or give the pack up. */
static int block_pack_settle(struct index_txn *txn, uint64_t pack,
			     const struct pack_rec *rec)
{
	struct record_key key = record_key_id(pack);
	int r;

	if (rec->live || rec->owner)
		return block_pack_put(txn, pack, rec);
	r = index_del(txn, INDEX_PACK, &key);
	return r < 0 ? r : 1;
}

int block_pack_add(struct index_txn *txn, uint64_t pack, int64_t delta)
{
	struct pack_rec rec;
	int r = block_pack_get(txn, pack, &rec);

	if (r < 0)
		return r;
	if (delta < 0 && (uint64_t)-delta > rec.live)
		return -EBADMSG;
	rec.live += (uint64_t)delta;
	return block_pack_settle(txn, pack, &rec);
}

int block_pack_disown(struct index_txn *txn, uint64_t pack)
{
	struct pack_rec rec;
	int r = block_pack_get(txn, pack, &rec);

	if (r < 0)
		return r == -ENOENT ? 1 : r;
	rec.owner = 0;
	return block_pack_settle(txn, pack, &rec);
}

/* --- Lost blocks --------------------------------------------------------- */

int block_lose(struct index_txn *txn, uint64_t id, const struct block_rec *bl)
{
	struct record_key mark = record_key_text(BLOCK_META_LOST);
	struct block_rec lost = *bl;
	uint8_t one[sizeof(uint64_t)];
	int r;

	lost.pack = 0;
	lost.offset = 0;
	record_u64_encode(1, one);
	r = index_put(txn, INDEX_META, &mark, one, sizeof(one), false);
	if (r >= 0)
		r = block_put(txn, id, &lost);
	if (r >= 0)
		r = block_pack_add(txn, bl->pack, -(int64_t)bl->length);
	/* Its pack's record is damaged: the file stays until it is repaired. */
	return r == -ENOENT || r == -EBADMSG ? 0 : r;
}

int block_any_lost(struct index_txn *txn)
{
	struct record_key mark = record_key_text(BLOCK_META_LOST);
	uint8_t val[sizeof(uint64_t)];
	ssize_t n = index_get(txn, INDEX_META, &mark, val, sizeof(val));

	return n == -ENOENT ? 0 : n < 0 && n != -EBADMSG ? (int)n : 1;
}

int block_heal(struct index_txn *txn, const struct block_rec *bl,
	       uint64_t *ret_id)
{
	struct block_rec rec;
	uint64_t id;
	int r = block_search(txn, bl->sha256, bl->length, true, &id);

	if (r >= 0)
		r = block_get(txn, id, &rec);
	if (r < 0)
		return r;
	rec.pack = bl->pack;
	rec.offset = bl->offset;
	rec.xxh3 = bl->xxh3;
	rec.refs++;
	*ret_id = id;
	return block_put(txn, id, &rec);
}

struct block_text block_lost_text(uint64_t id, uint64_t pack, uint64_t off,
				  uint64_t len, const char *why)
{
	struct block_text ret;

	snprintf(
		ret.text, sizeof(ret.text),
		"block %" PRIu64 " is damaged: its %" PRIu64
		" bytes in packs/%s at %" PRIu64
		" %s; files with it are misses until the same bytes come again",
		id, len, packio_name(pack).text, off, why);
	return ret;
}
