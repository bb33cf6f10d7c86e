/* SPDX-License-Identifier: MIT */
#include "store/table.h"

#include "fixture.h"

static struct index_txn *txn;

/* A transaction that is thrown away: records here need not fit together. */
static void setup(void)
{
	fx_setup();
	txn = kit_begin(&fx.kit);
}

static void teardown(void)
{
	index_abort(txn);
	fx_teardown();
}

static void put_raw(enum index_table table, struct record_key key,
		    const char *val, size_t len)
{
	ck_assert_int_eq(index_put(txn, table, &key, val, len, false), 0);
}

static bool has(enum index_table table, struct record_key key)
{
	uint8_t buf[RECORD_ENTRY_MAX];

	return index_get(txn, table, &key, buf, sizeof(buf)) >= 0;
}

/* -- Inodes --------------------------------------------------------------- */

START_TEST(an_inode_comes_back_as_it_was_put)
{
	const struct inode in = { .ino = 77,
				  .mode = S_IFREG | 0600,
				  .nlink = 1,
				  .size = 5 * GIB,
				  .pack = 9,
				  .data = INODE_DATA_PACK };
	struct inode got;

	ck_assert_int_eq(table_inode_put(txn, &in), 0);
	ck_assert_int_eq(table_inode_get(txn, 77, &got), 0);
	ck_assert_uint_eq(got.ino, 77);
	ck_assert_uint_eq(got.size, 5 * GIB);
	ck_assert_uint_eq(got.pack, 9);
	ck_assert_int_eq(table_inode_del(txn, 77), 0);
	ck_assert_int_eq(table_inode_get(txn, 77, &got), -ENOENT);
	ck_assert_int_eq(table_inode_del(txn, 77), -ENOENT);
}
END_TEST

START_TEST(a_record_of_a_wrong_size_is_damaged)
{
	struct dirent_rec de;
	struct entry_rec en;
	struct inode in;
	uint64_t n;

	put_raw(INDEX_INODE, record_key_id(77), "short", 5);
	ck_assert_int_eq(table_inode_get(txn, 77, &in), -EBADMSG);
	put_raw(INDEX_DIRENT, record_key_name(1, "x"), "short", 5);
	ck_assert_int_eq(table_dirent_get(txn, 1, "x", &de), -EBADMSG);
	put_raw(INDEX_ENTRY, record_key_id(5), "short", 5);
	ck_assert_int_eq(table_entry_get(txn, 5, &en), -EBADMSG);
	put_raw(INDEX_META, record_key_text("limit"), "short", 5);
	ck_assert_int_eq(table_meta_get(txn, "limit", &n), -EBADMSG);
}
END_TEST

/* -- Names ---------------------------------------------------------------- */

START_TEST(a_name_and_its_cookie_come_and_go_together)
{
	const struct dirent_rec de = { .ino = 7, .cookie = 40, .type = DT_REG };
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec got;

	ck_assert_int_eq(table_dirent_put(txn, 1, "name", &de), 0);
	ck_assert_int_eq(table_dirent_get(txn, 1, "name", &got), 0);
	ck_assert_uint_eq(got.ino, 7);
	ck_assert_uint_eq(got.cookie, 40);
	ck_assert_uint_eq(got.type, DT_REG);
	ck_assert_int_eq(table_cookie_get(txn, 1, 40, name), 0);
	ck_assert_str_eq(name, "name");
	ck_assert_int_eq(table_dirent_put(txn, 1, "name", &de), -EEXIST);
	ck_assert_int_eq(table_dirent_get(txn, 2, "name", &got), -ENOENT);

	ck_assert_int_eq(table_dirent_del(txn, 1, "name", 40), 0);
	ck_assert_int_eq(table_dirent_get(txn, 1, "name", &got), -ENOENT);
	ck_assert_int_eq(table_cookie_get(txn, 1, 40, name), -ENOENT);
	ck_assert_int_eq(table_dirent_del(txn, 1, "name", 40), -ENOENT);
}
END_TEST

START_TEST(a_name_of_255_bytes_comes_back_whole)
{
	const struct dirent_rec de = { .ino = 7, .cookie = 40, .type = DT_REG };
	char name[RECORD_NAME_MAX + 1], got[RECORD_NAME_MAX + 1];

	memset(name, 'n', RECORD_NAME_MAX);
	name[RECORD_NAME_MAX] = '\0';
	ck_assert_int_eq(table_dirent_put(txn, 1, name, &de), 0);
	ck_assert_int_eq(table_cookie_get(txn, 1, 40, got), 0);
	ck_assert_str_eq(got, name);
}
END_TEST

START_TEST(a_cookie_with_an_impossible_name_is_damaged)
{
	static const struct {
		const char *val;
		size_t len;
	} bad[] = { { "", 0 }, { "a\0b", 3 }, { "a/b", 3 } };
	char name[RECORD_NAME_MAX + 1];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put_raw(INDEX_COOKIE, record_key_pair(1, 50 + i), bad[i].val,
			bad[i].len);
		ck_assert_int_eq(table_cookie_get(txn, 1, 50 + i, name),
				 -EBADMSG);
	}
}
END_TEST

START_TEST(a_directory_is_used_while_it_has_a_name)
{
	const struct dirent_rec de = { .ino = 7, .cookie = 3, .type = DT_REG };

	ck_assert_int_eq(table_dirent_put(txn, 8, "x", &de), 0);
	ck_assert_int_eq(table_dir_used(txn, 7), 0);
	ck_assert_int_eq(table_dir_used(txn, 8), 1);
	ck_assert_int_eq(table_dir_used(txn, 9), 0);
	ck_assert_int_eq(table_dirent_del(txn, 8, "x", 3), 0);
	ck_assert_int_eq(table_dir_used(txn, 8), 0);
}
END_TEST

/* -- Entries -------------------------------------------------------------- */

START_TEST(an_entry_and_its_place_in_the_lru_change_together)
{
	struct entry_rec old = { .kind = LAYOUT_HTTP,
				 .members = 1,
				 .last_use_ns = 1000,
				 .name = "unit" };
	struct entry_rec en = old, got;
	struct record_key first = record_key_lru(LAYOUT_QUEUE_HTTP, 1000, 5);
	struct record_key second = record_key_lru(LAYOUT_QUEUE_HTTP, 2000, 5);

	ck_assert_int_eq(table_entry_put(txn, 5, NULL, &old), 0);
	ck_assert(has(INDEX_LRU, first));
	ck_assert_int_eq(table_entry_put(txn, 5, NULL, &old), -EEXIST);

	en.members = 2;
	ck_assert_int_eq(table_entry_put(txn, 5, &old, &en), 0);
	ck_assert(has(INDEX_LRU, first));
	old = en;
	en.last_use_ns = 2000;
	ck_assert_int_eq(table_entry_put(txn, 5, &old, &en), 0);
	ck_assert(!has(INDEX_LRU, first));
	ck_assert(has(INDEX_LRU, second));
	ck_assert_int_eq(table_entry_get(txn, 5, &got), 0);
	ck_assert_uint_eq(got.members, 2);
	ck_assert_str_eq(got.name, "unit");

	ck_assert_int_eq(table_entry_del(txn, 5, &en), 0);
	ck_assert(!has(INDEX_LRU, second));
	ck_assert_int_eq(table_entry_get(txn, 5, &got), -ENOENT);
	ck_assert_int_eq(table_entry_del(txn, 5, &en), -ENOENT);
}
END_TEST

START_TEST(a_lost_place_in_the_lru_does_not_keep_an_entry)
{
	struct entry_rec old = { .kind = LAYOUT_HTTP, .last_use_ns = 1000 };
	struct entry_rec en = old;
	struct record_key lru = record_key_lru(LAYOUT_QUEUE_HTTP, 1000, 5);

	ck_assert_int_eq(table_entry_put(txn, 5, NULL, &old), 0);
	ck_assert_int_eq(index_del(txn, INDEX_LRU, &lru), 0);
	en.last_use_ns = 2000;
	ck_assert_int_eq(table_entry_put(txn, 5, &old, &en), 0);
	lru = record_key_lru(LAYOUT_QUEUE_HTTP, 2000, 5);
	ck_assert_int_eq(index_del(txn, INDEX_LRU, &lru), 0);
	ck_assert_int_eq(table_entry_del(txn, 5, &en), 0);
}
END_TEST

START_TEST(wheels_have_a_queue_of_their_own)
{
	const struct entry_rec wheel = { .kind = LAYOUT_WHEEL };
	const struct entry_rec state = { .kind = LAYOUT_SELFCHECK };

	ck_assert_int_eq(table_entry_put(txn, 5, NULL, &wheel), 0);
	ck_assert_int_eq(table_entry_put(txn, 6, NULL, &state), 0);
	ck_assert(has(INDEX_LRU, record_key_lru(LAYOUT_QUEUE_WHEELS, 0, 5)));
	ck_assert(has(INDEX_LRU, record_key_lru(LAYOUT_QUEUE_HTTP, 0, 6)));
}
END_TEST

START_TEST(small_numbers_are_remembered_by_name)
{
	uint64_t n = 3;

	ck_assert_int_eq(table_meta_get(txn, TABLE_META_LIMIT, &n), -ENOENT);
	ck_assert_uint_eq(n, 3);
	ck_assert_int_eq(table_meta_put(txn, TABLE_META_LIMIT, 5 * GIB), 0);
	ck_assert_int_eq(table_meta_put(txn, TABLE_META_LIMIT, 6 * GIB), 0);
	ck_assert_int_eq(table_meta_get(txn, TABLE_META_LIMIT, &n), 0);
	ck_assert_uint_eq(n, 6 * GIB);
}
END_TEST

/* -- Paths ---------------------------------------------------------------- */

/* A chain of directories d1/d2/... below the root: inodes 101, 102, ... */
static uint64_t chain(unsigned depth)
{
	struct inode in = { .mode = S_IFDIR | 0755,
			    .nlink = 2,
			    .cookie = RECORD_FIRST_COOKIE };
	struct dirent_rec de = { .cookie = 1000, .type = DT_DIR };
	char name[16];

	in.parent = RECORD_ROOT_INO;
	for (unsigned i = 1; i <= depth; i++) {
		(void)snprintf(name, sizeof(name), "d%u", i);
		de.ino = in.ino = 100 + i;
		in.cookie = de.cookie;
		ck_assert_int_eq(table_dirent_put(txn, in.parent, name, &de),
				 0);
		ck_assert_int_eq(table_inode_put(txn, &in), 0);
		in.parent = in.ino;
	}
	return in.parent;
}

START_TEST(the_root_has_an_empty_path)
{
	struct table_path path;

	ck_assert_int_eq(table_path(txn, RECORD_ROOT_INO, &path), 0);
	ck_assert_uint_eq(path.n, 0);
	ck_assert_uint_eq(path.ino[0], RECORD_ROOT_INO);
}
END_TEST

START_TEST(a_path_goes_from_the_root_down)
{
	struct table_path path;

	ck_assert_int_eq(table_path(txn, chain(3), &path), 0);
	ck_assert_uint_eq(path.n, 3);
	ck_assert_str_eq(path.dirs[0], "d1");
	ck_assert_str_eq(path.dirs[2], "d3");
	ck_assert_uint_eq(path.ino[0], RECORD_ROOT_INO);
	ck_assert_uint_eq(path.ino[1], 101);
	ck_assert_uint_eq(path.ino[3], 103);
}
END_TEST

START_TEST(a_path_is_known_to_sixteen_directories)
{
	struct table_path path;
	uint64_t deep = chain(TABLE_PATH_MAX + 1);

	ck_assert_int_eq(table_path(txn, deep - 1, &path), 0);
	ck_assert_uint_eq(path.n, TABLE_PATH_MAX);
	ck_assert_str_eq(path.dirs[0], "d1");
	ck_assert_str_eq(path.dirs[TABLE_PATH_MAX - 1], "d16");
	ck_assert_int_eq(table_path(txn, deep, &path), 0);
	ck_assert_uint_gt(path.n, TABLE_PATH_MAX);
}
END_TEST

START_TEST(a_directory_cut_off_from_the_root_has_no_path)
{
	struct table_path path;
	uint64_t deep = chain(3);

	ck_assert_int_eq(table_inode_del(txn, deep - 1), 0);
	ck_assert_int_eq(table_path(txn, deep, &path), -ENOENT);
	ck_assert_int_eq(table_path(txn, 4711, &path), -ENOENT);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, setup, teardown);
}

int main(void)
{
	Suite *suite = suite_create("table");
	TCase *tc = new_case(suite, "inodes");

	tcase_add_test(tc, an_inode_comes_back_as_it_was_put);
	tcase_add_test(tc, a_record_of_a_wrong_size_is_damaged);

	tc = new_case(suite, "names");
	tcase_add_test(tc, a_name_and_its_cookie_come_and_go_together);
	tcase_add_test(tc, a_name_of_255_bytes_comes_back_whole);
	tcase_add_test(tc, a_cookie_with_an_impossible_name_is_damaged);
	tcase_add_test(tc, a_directory_is_used_while_it_has_a_name);

	tc = new_case(suite, "entries");
	tcase_add_test(tc, an_entry_and_its_place_in_the_lru_change_together);
	tcase_add_test(tc, a_lost_place_in_the_lru_does_not_keep_an_entry);
	tcase_add_test(tc, wheels_have_a_queue_of_their_own);
	tcase_add_test(tc, small_numbers_are_remembered_by_name);

	tc = new_case(suite, "paths");
	tcase_add_test(tc, the_root_has_an_empty_path);
	tcase_add_test(tc, a_path_goes_from_the_root_down);
	tcase_add_test(tc, a_path_is_known_to_sixteen_directories);
	tcase_add_test(tc, a_directory_cut_off_from_the_root_has_no_path);
	return kit_run_suite(suite);
}
