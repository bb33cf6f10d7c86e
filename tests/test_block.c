/* SPDX-License-Identifier: MIT */
#include "store/block.h"

#include "store/table.h"
#include "storekit.h"

static struct kit kit;
static struct index_txn *txn;

static void setup(void)
{
	kit_dirs(&kit, scratch_new());
	ck_assert_int_ge(kit_recover(&kit), 0);
	ck_assert_int_eq(kit_open_index(&kit), 0);
	txn = kit_begin(&kit);
}

static void teardown(void)
{
	index_abort(txn);
	index_close(kit.ix);
	kit_remove(&kit);
}

static struct block_rec block(uint8_t digest, uint64_t length)
{
	struct block_rec bl = { .pack = 1, .length = length, .refs = 1 };

	memset(bl.sha256, digest, sizeof(bl.sha256));
	return bl;
}

static void add(uint64_t id, uint8_t digest, uint64_t length)
{
	struct block_rec bl = block(digest, length);

	ck_assert_int_eq(block_add(txn, id, &bl), 0);
}

/* The block that is found, or the error. */
static int64_t find(uint8_t digest, uint64_t length, uint64_t prefer)
{
	struct block_rec bl = block(digest, length);
	uint64_t id = 12345;
	int r = block_find(txn, bl.sha256, length, prefer, &id);

	ck_assert(r == 0 || id == 12345);
	return r < 0 ? r : (int64_t)id;
}

/* How many records a table has; a cursor counts those of this transaction. */
static unsigned count(enum index_table table)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[INDEX_VALUE_MAX];
	unsigned n = 0;
	size_t len;

	ck_assert_int_eq(index_iter(txn, table, &from, 0, &it), 0);
	while (index_next(&it, &key, buf, sizeof(buf), &len) > 0)
		n++;
	return n;
}

/* Bytes that are no block's in its record. */
static void spoil(enum index_table table, uint64_t id)
{
	struct record_key key = record_key_id(id);

	ck_assert_int_eq(index_put(txn, table, &key, "spoilt", 6, false), 0);
}

/* -- Blocks --------------------------------------------------------------- */

START_TEST(a_block_is_there_until_it_is_deleted)
{
	struct block_rec bl = block(7, 100), back;

	ck_assert_int_eq(block_get(txn, 5, &back), -ENOENT);
	ck_assert_int_eq(block_add(txn, 5, &bl), 0);
	ck_assert_int_eq(block_get(txn, 5, &back), 0);
	ck_assert_uint_eq(back.length, 100);
	back.refs = 77;
	back.pack = 9;
	back.offset = 4096;
	ck_assert_int_eq(block_put(txn, 5, &back), 0);
	ck_assert_int_eq(block_get(txn, 5, &bl), 0);
	ck_assert_uint_eq(bl.refs, 77);
	ck_assert_uint_eq(bl.pack, 9);
	ck_assert_uint_eq(bl.offset, 4096);
	ck_assert_uint_eq(count(INDEX_DIGEST), 1);
	ck_assert_int_eq(block_del(txn, 5, &bl), 0);
	ck_assert_int_eq(block_get(txn, 5, &back), -ENOENT);
	ck_assert_uint_eq(count(INDEX_DIGEST), 0);
	ck_assert_int_eq(block_del(txn, 5, &bl), -ENOENT);
}
END_TEST

START_TEST(an_id_is_given_once)
{
	struct block_rec bl = block(7, 100);

	add(5, 7, 100);
	ck_assert_int_eq(block_add(txn, 5, &bl), -EEXIST);
}
END_TEST

START_TEST(identity_is_digest_and_length)
{
	struct block_rec other = block(7, 100);

	ck_assert_int_eq(find(7, 100, 0), -ENOENT);
	add(5, 7, 100);
	add(6, 8, 100);
	ck_assert_int_eq(find(7, 100, 0), 5);
	ck_assert_int_eq(find(7, 101, 0), -ENOENT);
	ck_assert_int_eq(find(9, 100, 0), -ENOENT);
	/* The same in the key of the digests, another behind it. */
	other.sha256[31] ^= 1;
	ck_assert_int_eq(block_add(txn, 7, &other), 0);
	ck_assert_int_eq(find(7, 100, 0), 5);
	ck_assert_int_eq(find(7, 100, 7), 5);
}
END_TEST

START_TEST(a_preferred_one_is_taken_if_it_is_one)
{
	add(5, 7, 100);
	add(6, 7, 100);
	add(7, 8, 100);
	ck_assert_int_eq(find(7, 100, 5), 5);
	ck_assert_int_eq(find(7, 100, 6), 6);
	ck_assert_int_ge(find(7, 100, 7), 5);
	ck_assert_int_le(find(7, 100, 7), 6);
	ck_assert_int_ge(find(7, 100, 99), 5);
	ck_assert_int_le(find(7, 100, 99), 6);
	ck_assert_int_eq(find(9, 100, 5), -ENOENT);
}
END_TEST

START_TEST(the_newest_of_equal_ones_is_found)
{
	add(5, 7, 100);
	add(6, 7, 100);
	add(300, 7, 100);
	ck_assert_int_eq(find(7, 100, 0), 300);
}
END_TEST

START_TEST(one_with_all_its_references_is_not_found)
{
	struct block_rec full = block(7, 100);

	full.refs = UINT32_MAX;
	ck_assert_int_eq(block_add(txn, 5, &full), 0);
	ck_assert_int_eq(find(7, 100, 5), -ENOENT);
	add(6, 7, 100);
	ck_assert_int_eq(find(7, 100, 5), 6);
}
END_TEST

START_TEST(spoilt_records_are_passed_over)
{
	struct block_rec bl;

	add(5, 7, 100);
	add(6, 7, 100);
	add(7, 7, 100);
	spoil(INDEX_BLOCK, 7);
	ck_assert_int_eq(block_get(txn, 7, &bl), -EBADMSG);
	ck_assert_int_eq(find(7, 100, 0), 6);
	ck_assert_int_eq(find(7, 100, 7), 6);
	spoil(INDEX_BLOCK, 6);
	spoil(INDEX_BLOCK, 5);
	ck_assert_int_eq(find(7, 100, 0), -ENOENT);
}
END_TEST

/* Hostile: very many with one digest; the search is bounded. */
START_TEST(a_search_comes_to_an_end)
{
	struct block_rec other = block(7, 100);

	other.sha256[31] ^= 1;
	for (uint64_t id = 1; id <= 200; id++)
		ck_assert_int_eq(block_add(txn, id, &other), 0);
	ck_assert_int_eq(find(7, 100, 0), -ENOENT);
}
END_TEST

START_TEST(a_lost_block_is_found_by_none_but_its_own_bytes)
{
	struct block_rec bl = block(7, 100), again = bl, other = bl;
	struct pack_rec rec = { .state = PACK_CUT, .bytes = 100, .live = 100 };
	uint64_t id = 0;

	ck_assert_int_eq(block_any_lost(txn), 0);
	add(5, 7, 100);
	ck_assert_int_eq(block_get(txn, 5, &bl), 0);
	ck_assert_int_eq(block_pack_put(txn, bl.pack, &rec), 0);
	ck_assert_int_eq(block_heal(txn, &again, &id), -ENOENT);
	ck_assert_int_eq(block_lose(txn, 5, &bl), 1);
	ck_assert_int_eq(block_any_lost(txn), 1);
	ck_assert_int_eq(block_pack_get(txn, bl.pack, &rec), -ENOENT);
	ck_assert_int_eq(find(7, 100, 0), -ENOENT);
	ck_assert_int_eq(find(7, 100, 5), -ENOENT);
	other.sha256[31] ^= 1;
	ck_assert_int_eq(block_heal(txn, &other, &id), -ENOENT);
	again.pack = 99;
	again.offset = 1234;
	ck_assert_int_eq(block_heal(txn, &again, &id), 0);
	ck_assert_uint_eq(id, 5);
	ck_assert_int_eq(find(7, 100, 0), 5);
	ck_assert_int_eq(block_get(txn, 5, &other), 0);
	ck_assert_uint_eq(other.pack, 99);
	ck_assert_uint_eq(other.offset, 1234);
	ck_assert_uint_eq(other.refs, bl.refs + 1);
	ck_assert_int_eq(block_del(txn, 5, &other), 0);
	ck_assert_uint_eq(count(INDEX_BLOCK) + count(INDEX_DIGEST), 0);
}
END_TEST

/* -- Packs ---------------------------------------------------------------- */

static void put_pack(uint64_t owner, uint64_t live)
{
	struct pack_rec rec = { .state = owner ? PACK_WHOLE : PACK_CUT,
				.owner = owner,
				.bytes = 1000,
				.live = live };

	ck_assert_int_eq(block_pack_put(txn, 3, &rec), 0);
}

static uint64_t live(void)
{
	struct pack_rec rec;

	ck_assert_int_eq(block_pack_get(txn, 3, &rec), 0);
	return rec.live;
}

START_TEST(live_bytes_go_up_and_down)
{
	struct pack_rec rec;

	ck_assert_int_eq(block_pack_get(txn, 3, &rec), -ENOENT);
	ck_assert_int_eq(block_pack_add(txn, 3, 1), -ENOENT);
	put_pack(0, 0);
	ck_assert_int_eq(block_pack_add(txn, 3, 600), 0);
	ck_assert_int_eq(block_pack_add(txn, 3, 400), 0);
	ck_assert_int_eq(block_pack_add(txn, 3, -999), 0);
	ck_assert_uint_eq(live(), 1);
	/* Less than nothing is damage, and changes nothing. */
	ck_assert_int_eq(block_pack_add(txn, 3, -2), -EBADMSG);
	ck_assert_uint_eq(live(), 1);
}
END_TEST

START_TEST(a_pack_goes_with_its_last_byte)
{
	struct pack_rec rec;

	put_pack(0, 10);
	ck_assert_int_eq(block_pack_add(txn, 3, -10), 1);
	ck_assert_int_eq(block_pack_get(txn, 3, &rec), -ENOENT);
}
END_TEST

START_TEST(its_owner_keeps_it)
{
	struct pack_rec rec;

	put_pack(8, 10);
	ck_assert_int_eq(block_pack_add(txn, 3, -10), 0);
	ck_assert_uint_eq(live(), 0);
	ck_assert_int_eq(block_pack_disown(txn, 3), 1);
	ck_assert_int_eq(block_pack_get(txn, 3, &rec), -ENOENT);
	/* Nor is there one to keep it that has no record. */
	ck_assert_int_eq(block_pack_disown(txn, 3), 1);
}
END_TEST

START_TEST(its_blocks_keep_it_from_its_owner)
{
	struct pack_rec rec;

	put_pack(8, 10);
	ck_assert_int_eq(block_pack_disown(txn, 3), 0);
	ck_assert_int_eq(block_pack_get(txn, 3, &rec), 0);
	ck_assert_uint_eq(rec.owner, 0);
	ck_assert_uint_eq(rec.bytes, 1000);
	ck_assert_int_eq(block_pack_add(txn, 3, -10), 1);
}
END_TEST

START_TEST(a_spoilt_pack_is_told)
{
	struct pack_rec rec;

	spoil(INDEX_PACK, 3);
	ck_assert_int_eq(block_pack_get(txn, 3, &rec), -EBADMSG);
	ck_assert_int_eq(block_pack_add(txn, 3, -10), -EBADMSG);
	ck_assert_int_eq(block_pack_disown(txn, 3), -EBADMSG);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("block");
	TCase *tc = kit_case(suite, "blocks", setup, teardown);

	tcase_add_test(tc, a_block_is_there_until_it_is_deleted);
	tcase_add_test(tc, an_id_is_given_once);
	tcase_add_test(tc, identity_is_digest_and_length);
	tcase_add_test(tc, a_preferred_one_is_taken_if_it_is_one);
	tcase_add_test(tc, the_newest_of_equal_ones_is_found);
	tcase_add_test(tc, one_with_all_its_references_is_not_found);
	tcase_add_test(tc, spoilt_records_are_passed_over);
	tcase_add_test(tc, a_search_comes_to_an_end);
	tcase_add_test(tc, a_lost_block_is_found_by_none_but_its_own_bytes);

	tc = kit_case(suite, "packs", setup, teardown);
	tcase_add_test(tc, live_bytes_go_up_and_down);
	tcase_add_test(tc, a_pack_goes_with_its_last_byte);
	tcase_add_test(tc, its_owner_keeps_it);
	tcase_add_test(tc, its_blocks_keep_it_from_its_owner);
	tcase_add_test(tc, a_spoilt_pack_is_told);
	return kit_run_suite(suite);
}
