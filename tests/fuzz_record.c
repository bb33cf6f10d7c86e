/* SPDX-License-Identifier: MIT */
/*
 * Every decoder of records on hostile bytes, and what they stand in: values
 * with their checksums, meta pages, names of packs. What one of them accepts
 * must be the only encoding of what it says: encoded again it gives the same
 * bytes.
 */
#include "store/record.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "store/base.h"
#include "store/mdbfile.h"
#include "store/packio.h"
#include "store/value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inode(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_INODE_SIZE];
	struct inode in;

	if (record_inode_decode(1, data, size, &in) < 0)
		return;
	assert(in.kind < RECORD_KINDS);
	record_inode_encode(&in, again);
	assert(size == sizeof(again) && !memcmp(again, data, size));
}

static void check_dirent(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_DIRENT_SIZE];
	struct dirent_rec de;

	if (record_dirent_decode(data, size, &de) < 0)
		return;
	record_dirent_encode(&de, again);
	assert(size == sizeof(again) && !memcmp(again, data, size));
}

static void check_pack(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_PACK_SIZE];
	struct pack_rec pk;

	if (record_pack_decode(data, size, &pk) < 0)
		return;
	record_pack_encode(&pk, again);
	assert(size == sizeof(again) && !memcmp(again, data, size));
}

static void check_block(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_BLOCK_MAX];
	struct block_rec bl;

	if (record_block_decode(data, size, &bl) < 0)
		return;
	assert(bl.length && bl.refs);
	assert(bl.length <= INT64_MAX - bl.offset);
	assert(size == record_block_encode(&bl, again));
	assert(!memcmp(again, data, size));
}

static void check_runs(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
	struct run runs[RECORD_RUNS_MAX];
	size_t n;

	if (record_runs_decode(data, size, runs, &n) < 0)
		return;
	assert(n && n <= RECORD_RUNS_MAX);
	for (size_t i = 0; i < n; i++) {
		assert(runs[i].first && runs[i].count);
		assert(runs[i].first + (runs[i].count - 1) >= runs[i].first);
		assert(runs[i].stamped || !runs[i].stamp);
	}
	assert(size == record_runs_encode(runs, n, again));
	assert(!memcmp(again, data, size));
}

static void check_entry(const uint8_t *data, size_t size)
{
	uint8_t again[RECORD_ENTRY_MAX];
	struct entry_rec en;

	if (record_entry_decode(data, size, &en) < 0)
		return;
	assert(en.kind < RECORD_KINDS && !strchr(en.name, '/'));
	assert(size == record_entry_encode(&en, again));
	assert(!memcmp(again, data, size));
}

static void check_u64(const uint8_t *data, size_t size)
{
	uint8_t again[8];
	uint64_t v;

	if (record_u64_decode(data, size, &v) < 0)
		return;
	record_u64_encode(v, again);
	assert(size == sizeof(again) && !memcmp(again, data, size));
}

static void check_key(const uint8_t *data, size_t size)
{
	struct record_key key = { .len = size };
	struct record_key again;
	uint64_t id, second;

	if (size > sizeof(key.bytes))
		return;
	memcpy(key.bytes, data, size);
	if (record_key_get(&key, 0, &id) < 0)
		return;
	again = record_key_id(id);
	assert(!memcmp(again.bytes, data, 8));
	if (record_key_get(&key, 8, &second) < 0)
		return;
	again = record_key_pair(id, second);
	assert(!memcmp(again.bytes, data, 16));
}

/* The first bytes are the place, the rest is the value: as it is, and as it
 * would be stored there. */
static void check_value(const uint8_t *data, size_t size)
{
	cleanup_free uint8_t *stored = NULL, *out = NULL;
	struct value_place at = { .key = data + 1 };
	size_t len;

	if (size < 9)
		return;
	at.table = data[0];
	at.key_len = 8;
	data += 9;
	len = size - 9;
	stored = malloc(len + VALUE_CHECK_SIZE);
	out = malloc(len + 1);
	assert(stored && out);
	if (value_out(at, data, len, out, len) >= 0) {
		value_in(at, out, len - VALUE_CHECK_SIZE, stored);
		assert(!memcmp(stored, data, len));
	}
	value_in(at, data, len, stored);
	assert(value_out(at, stored, len + VALUE_CHECK_SIZE, out, len) ==
	       (ssize_t)len);
	assert(!memcmp(out, data, len));
	if (len)
		assert(value_out(at, stored, len + VALUE_CHECK_SIZE, out,
				 len - 1) == -EBADMSG);
	at.table++;
	assert(value_out(at, stored, len + VALUE_CHECK_SIZE, out, len) < 0);
}

/* Two meta pages of the smallest size. */
static void check_meta(const uint8_t *data, size_t size)
{
	uint8_t meta[2 * MDBFILE_PAGE_MIN] = { 0 };
	uint64_t txnid;

	memcpy(meta, data, size < sizeof(meta) ? size : sizeof(meta));
	txnid = mdbfile_txnid(meta, MDBFILE_PAGE_MIN);
	if (!mdbfile_sane(meta, MDBFILE_PAGE_MIN, txnid))
		return;
	assert(mdbfile_pages(meta, MDBFILE_PAGE_MIN) >= 2);
	assert(mdbfile_pages(meta, MDBFILE_PAGE_MIN) <= UINT32_MAX);
	assert(!mdbfile_sane(meta, MDBFILE_PAGE_MIN, txnid + 1));
}

static void check_pack_name(const uint8_t *data, size_t size)
{
	char name[64];
	uint64_t id;

	if (size >= sizeof(name))
		return;
	memcpy(name, data, size);
	name[size] = '\0';
	if (packio_parse(name, &id))
		assert(!strcmp(packio_name(id).text, name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_inode(data, size);
	check_dirent(data, size);
	check_pack(data, size);
	check_block(data, size);
	check_runs(data, size);
	check_entry(data, size);
	check_u64(data, size);
	check_key(data, size);
	check_value(data, size);
	check_meta(data, size);
	check_pack_name(data, size);
	return 0;
}
