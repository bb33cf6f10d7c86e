/* SPDX-License-Identifier: MIT */
#include "store/recipe.h"

#include "store/block.h"
#include "store/wheel.h"
#include "storekit.h"

#define PACKS 3
#define PACK_LEN 20000

static struct kit kit;

/* What byte @at of pack @id is. */
static uint8_t byte_of(uint64_t id, uint64_t at)
{
	return (uint8_t)((at * 31 + id * 101) * 2654435761u >> 13);
}

static void setup(void)
{
	uint8_t buf[PACK_LEN];
	struct pack *pk;

	kit_dirs(&kit, scratch_new());
	ck_assert_int_ge(kit_recover(&kit), 0);
	ck_assert_int_eq(kit_open_index(&kit), 0);
	ck_assert_int_eq(kit_open_packs(&kit), 0);
	for (uint64_t id = 1; id <= PACKS; id++) {
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = byte_of(id, i);
		ck_assert_int_eq(pack_create(kit.packs, id, &pk), 0);
		ck_assert_int_eq(pack_write(pk, buf, sizeof(buf), 0), 0);
		pack_put(pk);
	}
}

static void teardown(void)
{
	packs_close(kit.packs);
	index_close(kit.ix);
	kit_remove(&kit);
}

static void put_block(uint64_t id, uint64_t pack, uint64_t offset, uint64_t len)
{
	struct index_txn *txn = kit_begin(&kit);
	struct block_rec bl = {
		.pack = pack, .offset = offset, .length = len, .refs = 1
	};

	memcpy(bl.sha256, &id, sizeof(id));
	ck_assert_int_eq(block_put(txn, id, &bl), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

static void put_runs(uint64_t recipe, uint64_t n, const struct run *runs,
		     size_t count)
{
	struct index_txn *txn = kit_begin(&kit);

	ck_assert_int_eq(recipe_put(txn, recipe, n, runs, count), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

static int map_new(uint64_t recipe, uint64_t size, struct recipe_map **ret)
{
	return recipe_map_new(kit.ix, kit.packs, recipe, size, ret);
}

static struct recipe_map *map_of(uint64_t recipe, uint64_t size)
{
	struct recipe_map *map = NULL;

	ck_assert_int_eq(map_new(recipe, size, &map), 0);
	return map;
}

/* -- Records -------------------------------------------------------------- */

START_TEST(chunks_follow_one_another)
{
	struct run runs[RECORD_RUNS_MAX], a = { 5, 2, false, 0 },
					  b = { 9, 1, true, 7 };
	struct index_txn *txn;
	uint64_t n = 0;
	size_t count = 0;

	put_runs(1, 0, &a, 1);
	put_runs(1, 3, &b, 1);
	put_runs(2, 0, &b, 1); /* not its own */
	txn = kit_begin(&kit);
	ck_assert_int_eq(recipe_next(txn, 1, &n, runs, &count), 1);
	ck_assert_uint_eq(n, 0);
	ck_assert_uint_eq(count, 1);
	ck_assert_uint_eq(runs[0].first, 5);
	n = 1;
	ck_assert_int_eq(recipe_next(txn, 1, &n, runs, &count), 1);
	ck_assert_uint_eq(n, 3);
	ck_assert_uint_eq(runs[0].stamp, 7);
	n = 4;
	ck_assert_int_eq(recipe_next(txn, 1, &n, runs, &count), 0);
	ck_assert_int_eq(recipe_del(txn, 1, 0), 0);
	ck_assert_int_eq(recipe_del(txn, 1, 0), -ENOENT);
	n = 0;
	ck_assert_int_eq(recipe_next(txn, 1, &n, runs, &count), 1);
	ck_assert_uint_eq(n, 3);
	index_abort(txn);
}
END_TEST

START_TEST(own_bytes_are_those_that_nobody_shares)
{
	struct run run = { 1, 3, false, 0 };
	struct index_txn *txn;
	struct block_rec bl;
	uint64_t bytes;

	put_block(1, 1, 0, 100);
	put_block(2, 1, 100, 1000);
	put_block(3, 2, 0, 10000);
	put_runs(1, 0, &run, 1);
	txn = kit_begin(&kit);
	ck_assert_int_eq(block_get(txn, 2, &bl), 0);
	bl.refs = 2;
	ck_assert_int_eq(block_put(txn, 2, &bl), 0);
	ck_assert_int_eq(recipe_own_bytes(txn, 1, &bytes), 0);
	ck_assert_uint_eq(bytes, 10100);
	ck_assert_int_eq(recipe_own_bytes(txn, 77, &bytes), 0);
	ck_assert_uint_eq(bytes, 0);
	index_abort(txn);
}
END_TEST

START_TEST(pending_is_set_and_taken_back)
{
	struct index_txn *txn = kit_begin(&kit);
	struct record_key key = record_key_id(4);
	uint8_t what;

	ck_assert_int_eq(recipe_set_pending(txn, 4, RECIPE_BUILDING), 0);
	ck_assert_int_eq(recipe_set_pending(txn, 4, RECIPE_DROPPING), 0);
	ck_assert_int_eq(index_get(txn, INDEX_PENDING, &key, &what, 1), 1);
	ck_assert_uint_eq(what, RECIPE_DROPPING);
	ck_assert_int_eq(recipe_set_pending(txn, 4, 0), 0);
	ck_assert_int_eq(index_get(txn, INDEX_PENDING, &key, &what, 1),
			 -ENOENT);
	index_abort(txn);
}
END_TEST

/* -- Maps ----------------------------------------------------------------- */

/* A file as its blocks are laid out below, and as it is to be read. */
#define FILE_BLOCKS 40
#define FILE_MAX (FILE_BLOCKS * 400)
static uint8_t file[FILE_MAX];
static uint64_t file_len;

static void add_to_file(uint64_t id, uint64_t pack, uint64_t at, uint64_t len,
			const struct run *run)
{
	put_block(id, pack, at, len);
	for (uint64_t i = 0; i < len; i++)
		file[file_len + i] = byte_of(pack, at + i);
	if (run->stamped)
		memcpy(file + file_len + WHEEL_STAMP_AT, &run->stamp,
		       sizeof(run->stamp));
	file_len += len;
}

/* Blocks of several packs; stamped ones among them, of the same stamp, of zero,
 * and as short as can be; in several chunks. */
static void put_file(uint64_t recipe)
{
	struct run runs[FILE_BLOCKS];

	file_len = 0;
	for (uint64_t i = 0; i < FILE_BLOCKS; i++) {
		runs[i] = (struct run){ .first = 100 + i,
					.count = 1,
					.stamped = i % 3 != 0 };
		if (i % 6 != 1 && runs[i].stamped)
			runs[i].stamp = 0x01020304u * (uint32_t)(i / 4 + 1);
		add_to_file(100 + i, 1 + i / 5 % PACKS, i * 450,
			    i % 7 ? 380 + i % 2 : 14, &runs[i]);
	}
	put_runs(recipe, 0, runs, 10);
	put_runs(recipe, 1, runs + 10, 1);
	put_runs(recipe, 5, runs + 11, FILE_BLOCKS - 11);
}

static void check_read(const struct recipe_map *map, uint64_t off, size_t len)
{
	static uint8_t got[FILE_MAX + 1];
	size_t want = off >= file_len ? 0 : (size_t)(file_len - off);

	if (want > len)
		want = len;
	memset(got, 0xee, sizeof(got));
	ck_assert_int_eq(recipe_map_read(map, got, len, off), (ssize_t)want);
	ck_assert_msg(!memcmp(got, file + off, want), "wrong: %zu at %ju", len,
		      (uintmax_t)off);
	ck_assert_uint_eq(got[want], 0xee);
}

START_TEST(any_part_of_a_file_is_read_with_its_stamps)
{
	struct recipe_map *map;

	put_file(1);
	map = map_of(1, file_len);
	check_read(map, 0, file_len);
	for (size_t off = 0; off < file_len; off++)
		check_read(map, off, 1 + off % 5);
	for (size_t off = 0; off < file_len; off += 7)
		check_read(map, off, off % 1200);
	check_read(map, file_len - 1, 100);
	check_read(map, file_len, 100);
	check_read(map, UINT64_MAX, 100);
	check_read(map, 3, 0);
	recipe_map_free(map);
}
END_TEST

START_TEST(neighbours_are_one_extent)
{
	struct run run = { 1, 5, false, 0 };
	struct recipe_map *map;

	put_block(1, 1, 0, 100);
	put_block(2, 1, 100, 50);
	put_block(3, 2, 150, 50); /* another pack */
	put_block(4, 2, 200, 50);
	put_block(5, 2, 251, 50); /* a gap */
	put_runs(1, 0, &run, 1);
	map = map_of(1, 300);
	ck_assert_uint_eq(recipe_map_extents(map), 3);
	recipe_map_free(map);
}
END_TEST

START_TEST(a_run_is_stamped_in_each_of_its_blocks)
{
	struct run run = { 1, 3, true, 0x44332211 };
	struct recipe_map *map;

	file_len = 0;
	for (uint64_t i = 0; i < 3; i++)
		add_to_file(1 + i, 1, i * 100, 100, &run);
	put_runs(1, 0, &run, 1);
	map = map_of(1, 300);
	ck_assert_uint_eq(recipe_map_extents(map), 1);
	for (uint64_t off = 0; off < 300; off++)
		for (size_t len = 0; len < 20; len++)
			check_read(map, off, len);
	recipe_map_free(map);
}
END_TEST

START_TEST(a_block_may_come_many_times)
{
	struct run runs[] = { { 1, 1, true, 1 },
			      { 1, 1, true, 2 },
			      { 1, 1, false, 0 } };
	struct recipe_map *map;

	file_len = 0;
	for (int i = 0; i < 3; i++)
		add_to_file(1, 1, 50, 40, &runs[i]);
	put_runs(1, 0, runs, 3);
	map = map_of(1, 120);
	ck_assert_uint_eq(recipe_map_extents(map), 3);
	check_read(map, 0, 120);
	recipe_map_free(map);
}
END_TEST

/* -- What cannot be read -------------------------------------------------- */

static void refused(uint64_t recipe, uint64_t size, int error)
{
	struct recipe_map *map = (void *)&kit;

	ck_assert_int_eq(map_new(recipe, size, &map), error);
	ck_assert_ptr_eq(map, &kit);
}

START_TEST(a_recipe_must_be_as_long_as_its_file)
{
	put_file(1);
	refused(1, file_len - 1, -EBADMSG);
	refused(1, file_len + 1, -EBADMSG);
	refused(1, 0, -EBADMSG);
	refused(1, UINT64_MAX, -EBADMSG);
	refused(9, 100, -EBADMSG); /* there is none */
}
END_TEST

START_TEST(a_missing_block_is_damage)
{
	struct run run = { 1, 3, false, 0 }, huge = { 1, UINT32_MAX, false, 0 };

	put_block(1, 1, 0, 100);
	put_block(3, 1, 200, 100);
	put_runs(1, 0, &run, 1);
	refused(1, 300, -EBADMSG);
	refused(1, 200, -EBADMSG);
	put_block(2, 1, 100, 100);
	recipe_map_free(map_of(1, 300));
	put_runs(1, 0, &huge, 1);
	refused(1, UINT64_C(100) * UINT32_MAX, -EBADMSG);
}
END_TEST

START_TEST(a_stamp_must_fit_its_block)
{
	struct run run = { 1, 1, true, 5 };

	put_block(1, 1, 0, WHEEL_STAMP_AT + WHEEL_STAMP_LEN - 1);
	put_runs(1, 0, &run, 1);
	refused(1, WHEEL_STAMP_AT + WHEEL_STAMP_LEN - 1, -EBADMSG);
	put_block(1, 1, 0, WHEEL_STAMP_AT + WHEEL_STAMP_LEN);
	recipe_map_free(map_of(1, WHEEL_STAMP_AT + WHEEL_STAMP_LEN));
}
END_TEST

START_TEST(spoilt_records_are_damage)
{
	struct record_key key = record_key_pair(1, 5);
	struct index_txn *txn;

	put_file(1);
	recipe_map_free(map_of(1, file_len));
	txn = kit_begin(&kit);
	ck_assert_int_eq(index_put(txn, INDEX_RECIPE, &key, "x", 1, false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	refused(1, file_len, -EBADMSG);
	put_file(1);
	recipe_map_free(map_of(1, file_len));
	key = record_key_id(120);
	txn = kit_begin(&kit);
	ck_assert_int_eq(index_put(txn, INDEX_BLOCK, &key, "x", 1, false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	refused(1, file_len, -EBADMSG);
}
END_TEST

START_TEST(a_missing_pack_is_told)
{
	struct run run = { 1, 2, false, 0 };

	put_block(1, 1, 0, 100);
	put_block(2, 99, 0, 100);
	put_runs(1, 0, &run, 1);
	refused(1, 200, -ENOENT);
}
END_TEST

START_TEST(a_pack_that_ends_early_is_an_error)
{
	struct run run = { 1, 1, false, 0 };
	struct recipe_map *map;
	uint8_t buf[200];

	put_block(1, 1, PACK_LEN - 100, 200);
	put_runs(1, 0, &run, 1);
	map = map_of(1, 200);
	ck_assert_int_eq(recipe_map_read(map, buf, 100, 0), 100);
	ck_assert_int_eq(recipe_map_read(map, buf, 101, 0), -EIO);
	ck_assert_int_eq(recipe_map_read(map, buf, 1, 150), -EIO);
	recipe_map_free(map);
}
END_TEST

START_TEST(a_map_from_before_a_move_is_to_be_made_anew)
{
	struct run run = { 1, 2, false, 0 };
	struct recipe_map *map;
	uint8_t buf[200];

	put_block(1, 1, 0, 100);
	put_block(2, 2, 0, 100);
	put_runs(1, 0, &run, 1);
	map = map_of(1, 200);
	put_block(2, 3, 500, 100);
	packs_moved(kit.packs, 2);
	/* What is in the other pack alone is where it was. */
	ck_assert_int_eq(recipe_map_read(map, buf, 100, 0), 100);
	ck_assert_int_eq(recipe_map_read(map, buf, 101, 0), -EAGAIN);
	ck_assert_int_eq(recipe_map_read(map, buf, 1, 199), -EAGAIN);
	recipe_map_free(map);
	map = map_of(1, 200);
	ck_assert_int_eq(recipe_map_read(map, buf, 200, 0), 200);
	for (size_t i = 0; i < 100; i++)
		ck_assert_uint_eq(buf[100 + i], byte_of(3, 500 + i));
	recipe_map_free(map);
	recipe_map_free(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("recipe");
	TCase *tc = kit_case(suite, "records", setup, teardown);

	tcase_add_test(tc, chunks_follow_one_another);
	tcase_add_test(tc, own_bytes_are_those_that_nobody_shares);
	tcase_add_test(tc, pending_is_set_and_taken_back);

	tc = kit_case(suite, "maps", setup, teardown);
	tcase_add_test(tc, any_part_of_a_file_is_read_with_its_stamps);
	tcase_add_test(tc, neighbours_are_one_extent);
	tcase_add_test(tc, a_run_is_stamped_in_each_of_its_blocks);
	tcase_add_test(tc, a_block_may_come_many_times);

	tc = kit_case(suite, "hostile", setup, teardown);
	tcase_add_test(tc, a_recipe_must_be_as_long_as_its_file);
	tcase_add_test(tc, a_missing_block_is_damage);
	tcase_add_test(tc, a_stamp_must_fit_its_block);
	tcase_add_test(tc, spoilt_records_are_damage);
	tcase_add_test(tc, a_missing_pack_is_told);
	tcase_add_test(tc, a_pack_that_ends_early_is_an_error);
	tcase_add_test(tc, a_map_from_before_a_move_is_to_be_made_anew);
	return kit_run_suite(suite);
}
