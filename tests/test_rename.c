/* SPDX-License-Identifier: MIT */
#include "store/rename.h"

#include "store/linger.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO

static int rename_with(uint64_t from, const char *name, uint64_t to,
		       const char *new_name, int flags)
{
	return rename_names(T, (struct rename_at){ from, name },
			    (struct rename_at){ to, new_name }, flags);
}

static int exchange(uint64_t from, const char *name, uint64_t to,
		    const char *new_name)
{
	return rename_with(from, name, to, new_name, RENAME_NAMES_EXCHANGE);
}

/* Directories moved since the last look: tidy_rescan() has work. */
static bool rescan_wanted(void)
{
	struct index_txn *txn;
	uint64_t wanted = 0;
	int r;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &txn), 0);
	r = table_meta_get(txn, TABLE_META_RESCAN, &wanted);
	index_abort(txn);
	ck_assert(r == 0 || r == -ENOENT);
	return wanted;
}

/* -- Files ---------------------------------------------------------------- */

START_TEST(a_file_moves_with_its_bytes)
{
	uint64_t dir = fx_dir(ROOT, "d"), ino = fx_put(ROOT, "a", 5000, 1);

	ck_assert_int_eq(fx_rename(ROOT, "a", dir, "b"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "a"), 0);
	ck_assert_uint_eq(fx_find(dir, "b"), ino);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
	ck_assert(!rescan_wanted());
}
END_TEST

START_TEST(a_file_takes_the_place_of_another)
{
	uint64_t a = fx_put(ROOT, "a", 5000, 1), b = fx_put(ROOT, "b", 9000, 2);
	struct store_file *f = fx_open_file(b, 0);

	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "b"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "b"), a);
	fx_check_bytes(f, 9000, 2);
	file_close(f);
	ck_assert(fx_gone(b));
}
END_TEST

START_TEST(a_file_gets_the_entry_of_its_new_place)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);
	uint64_t body = fx_put(dir, FX_HASH ".bodyabcd_123.tmp", 5000, 1);
	uint64_t misses = fx.tree.misses;

	ck_assert_uint_eq(fx_inode(body).entry, 0);
	ck_assert_int_eq(fx_rename(dir, FX_HASH ".bodyabcd_123.tmp", dir,
				   FX_HASH ".body"),
			 0);
	ck_assert_uint_ne(fx_inode(body).entry, 0);
	ck_assert_uint_eq(fx_inode(body).entry, fx_inode(head).entry);
	ck_assert_uint_eq(fx.tree.misses, misses + 1);

	ck_assert_int_eq(fx_rename(dir, FX_HASH, ROOT, "notes"), 0);
	ck_assert_uint_eq(fx_inode(head).entry, 0);
	ck_assert_uint_eq(fx_inode(head).kind, LAYOUT_OTHER);
}
END_TEST

START_TEST(a_body_written_anew_keeps_its_entry)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH), old, new;
	uint64_t entry = fx_inode(head).entry;

	old = fx_put(dir, FX_HASH ".body", 5000, 1);
	new = fx_put(dir, "tmp", 6000, 2);
	ck_assert_int_eq(fx_rename(dir, "tmp", dir, FX_HASH ".body"), 0);
	ck_assert(fx_gone(old));
	ck_assert_uint_eq(fx_inode(new).entry, entry);
	ck_assert_uint_eq(fx_inode(head).entry, entry);
}
END_TEST

START_TEST(two_names_of_one_file_stay_two)
{
	uint64_t ino = fx_file(ROOT, "a");
	struct inode in;

	ck_assert_int_eq(tree_link(T, ino, ROOT, "b", &in), 0);
	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "b"), 0);
	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "a"), 0);
	ck_assert_int_eq(exchange(ROOT, "a", ROOT, "b"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "a"), ino);
	ck_assert_uint_eq(fx_find(ROOT, "b"), ino);
	ck_assert_int_eq(fx_rename(ROOT, "b", ROOT, "c"), 0);
	ck_assert_uint_eq(fx_inode(ino).nlink, 2);
}
END_TEST

/* -- Lingering ------------------------------------------------------------ */

#define LINGER_TEST_MS 100

static void linger_setup(void)
{
	fx_setup();
	ck_assert_int_eq(linger_new(LINGER_TEST_MS, &fx.tree.linger), 0);
}

static void linger_teardown(void)
{
	linger_end(T, true);
	ck_assert_uint_eq(linger_count(T), 0);
	linger_free(steal_ptr(fx.tree.linger));
	fx_teardown();
}

/* Replace "f"; returns the inode that was there. */
static uint64_t replace(size_t len, unsigned seed)
{
	uint64_t old = fx_find(ROOT, "f");

	fx_put(ROOT, "new", len, seed);
	ck_assert_int_eq(fx_rename(ROOT, "new", ROOT, "f"), 0);
	return old;
}

START_TEST(a_replaced_file_can_be_opened_a_moment_longer)
{
	uint64_t small = fx_put(ROOT, "f", 10, 1), large;

	ck_assert_uint_eq(replace(9000, 2), small);
	large = replace(10, 3);
	ck_assert_int_eq(linger_wait_ms(T, 10), 10);
	ck_assert_int_le(linger_wait_ms(T, 10000), LINGER_TEST_MS);
	linger_end(T, false);
	ck_assert_uint_eq(linger_count(T), 2);
	ck_assert_int_eq(fx_holds(small, 10, 1), 0);
	ck_assert_int_eq(fx_holds(large, 9000, 2), 0);
	ck_assert_uint_eq(fx_inode(large).nlink, 0);

	usleep((LINGER_TEST_MS + 50) * 1000);
	ck_assert_int_eq(linger_wait_ms(T, 10000), 0);
	linger_end(T, false);
	ck_assert_uint_eq(linger_count(T), 0);
	ck_assert_int_eq(linger_wait_ms(T, 10000), 10000);
	ck_assert(fx_gone(small));
	ck_assert(fx_gone(large));
	ck_assert_int_eq(fx_try_open(large, 0), -ESTALE);
}
END_TEST

START_TEST(a_lingering_file_that_is_open_goes_with_its_close)
{
	uint64_t old = fx_put(ROOT, "f", 9000, 1);
	struct store_file *f;

	replace(10, 2);
	f = fx_open_file(old, 0);
	linger_end(T, true);
	fx_check_bytes(f, 9000, 1);
	file_close(f);
	ck_assert(fx_gone(old));
}
END_TEST

START_TEST(the_bytes_of_what_lingered_come_back)
{
	uint64_t charged;

	fx_put(ROOT, "f", 1000, 1);
	charged = fx_charged();
	for (unsigned i = 0; i < 5; i++)
		replace(MIB, i);
	ck_assert_uint_ge(fx_charged(), charged + 5 * MIB);
	linger_end(T, true);
	ck_assert_uint_lt(fx_charged(), charged + 2 * MIB);
}
END_TEST

START_TEST(more_than_can_linger_push_out_the_oldest)
{
	uint64_t first = fx_put(ROOT, "f", 10, 1), last = 0;
	struct store_file *f;

	replace(10, 2);
	f = fx_open_file(first, 0);
	for (unsigned i = 0; i < LINGER_MAX + 10; i++)
		last = replace(10, i);
	ck_assert_uint_le(linger_count(T), LINGER_MAX);
	ck_assert_uint_gt(linger_count(T), LINGER_MAX / 2);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), linger_count(T) + 1);
	ck_assert(!fx_gone(last));
	fx_check_bytes(f, 10, 1);
	file_close(f);
	ck_assert(fx_gone(first));
}
END_TEST

START_TEST(only_a_file_that_lost_its_last_name_lingers)
{
	uint64_t ino = fx_put(ROOT, "f", 10, 1), dir = fx_dir(ROOT, "d");
	struct inode in;

	fx_dir(ROOT, "e");
	ck_assert_int_eq(fx_rename(ROOT, "e", ROOT, "d"), 0);
	ck_assert(fx_gone(dir));
	ck_assert_int_eq(tree_link(T, ino, ROOT, "g", &in), 0);
	replace(10, 2);
	ck_assert_uint_eq(linger_count(T), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "g"), 0);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(a_rename_that_fails_leaves_nothing_behind)
{
	uint64_t ino = fx_put(ROOT, "f", 10, 1);

	fx_put(ROOT, "new", 10, 2);
	index_freeze(fx.kit.ix);
	ck_assert_int_eq(fx_rename(ROOT, "new", ROOT, "f"), -EROFS);
	ck_assert_uint_eq(linger_count(T), 0);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert_int_eq(fx_holds(ino, 10, 1), 0);
}
END_TEST

static void ignore(void *arg, uint64_t ino)
{
	(void)arg;
	(void)ino;
}

static void die_lingering(void)
{
	ck_assert_int_eq(linger_new(LINGER_TEST_MS, &fx.tree.linger), 0);
	fx_put(ROOT, "f", 9000, 1);
	replace(10, 2);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 1);
	fx_checkpoint();
}

START_TEST(what_lingered_in_a_crash_is_swept)
{
	linger_free(steal_ptr(fx.tree.linger));
	fx_run_killed(die_lingering);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 1);
	ck_assert_int_eq(sweep_inodes(T, true, ignore, NULL, &fx.swept), 0);
	ck_assert_uint_eq(fx.swept.orphans, 1);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
}
END_TEST

static void add_lingering(Suite *suite)
{
	TCase *tc = kit_case(suite, "lingering", linger_setup, linger_teardown);

	tcase_add_test(tc, a_replaced_file_can_be_opened_a_moment_longer);
	tcase_add_test(tc, a_lingering_file_that_is_open_goes_with_its_close);
	tcase_add_test(tc, the_bytes_of_what_lingered_come_back);
	tcase_add_test(tc, more_than_can_linger_push_out_the_oldest);
	tcase_add_test(tc, only_a_file_that_lost_its_last_name_lingers);
	tcase_add_test(tc, a_rename_that_fails_leaves_nothing_behind);
	tcase_add_test(tc, what_lingered_in_a_crash_is_swept);
}

/* -- Directories ---------------------------------------------------------- */

START_TEST(a_directory_moves_with_all_below)
{
	uint64_t a = fx_dir(ROOT, "a"), b = fx_dir(ROOT, "b");
	uint64_t sub = fx_dir(a, "sub"), file = fx_file(sub, "f");

	ck_assert_int_eq(fx_rename(a, "sub", b, "new"), 0);
	ck_assert_uint_eq(fx_find(b, "new"), sub);
	ck_assert_uint_eq(fx_find(sub, "f"), file);
	ck_assert_uint_eq(fx_inode(sub).parent, b);
	ck_assert_uint_eq(fx_inode(a).nlink, 2);
	ck_assert_uint_eq(fx_inode(b).nlink, 3);
}
END_TEST

START_TEST(a_directory_takes_the_place_of_an_empty_one_only)
{
	uint64_t a = fx_dir(ROOT, "a"), b = fx_dir(ROOT, "b");

	fx_file(b, "x");
	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "b"), -ENOTEMPTY);
	ck_assert_int_eq(fx_unlink(b, "x"), 0);
	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "b"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "b"), a);
	ck_assert(fx_gone(b));
	ck_assert_uint_eq(fx_inode(ROOT).nlink, 3);
}
END_TEST

START_TEST(files_and_directories_do_not_replace_each_other)
{
	fx_dir(ROOT, "d");
	fx_file(ROOT, "f");
	ck_assert_int_eq(fx_rename(ROOT, "d", ROOT, "f"), -ENOTDIR);
	ck_assert_int_eq(fx_rename(ROOT, "f", ROOT, "d"), -EISDIR);
}
END_TEST

START_TEST(a_directory_cannot_move_into_itself)
{
	uint64_t a = fx_dir(ROOT, "a"), b = fx_dir(a, "b"), c = fx_dir(b, "c");

	ck_assert_int_eq(fx_rename(ROOT, "a", a, "x"), -EINVAL);
	ck_assert_int_eq(fx_rename(ROOT, "a", c, "x"), -EINVAL);
	ck_assert_int_eq(exchange(ROOT, "a", b, "c"), -EINVAL);
	ck_assert_int_eq(exchange(b, "c", ROOT, "a"), -EINVAL);
	ck_assert_int_eq(fx_rename(b, "c", a, "c"), 0);
	ck_assert_uint_eq(fx_inode(c).parent, a);
}
END_TEST

START_TEST(directories_that_a_damaged_index_has_in_a_circle_end_the_rename)
{
	uint64_t a = fx_dir(ROOT, "a"), b = fx_dir(ROOT, "b");
	struct inode in = fx_inode(a);

	fx_dir(ROOT, "c");
	in.parent = b;
	fx_put_inode(&in);
	in = fx_inode(b);
	in.parent = a;
	fx_put_inode(&in);
	ck_assert_int_eq(fx_rename(ROOT, "c", a, "x"), -ELOOP);
	fx.hurt = true;
}
END_TEST

/* -- Flags and refusals --------------------------------------------------- */

START_TEST(noreplace_leaves_what_is_there)
{
	uint64_t a = fx_file(ROOT, "a"), b = fx_file(ROOT, "b");

	ck_assert_int_eq(rename_with(ROOT, "a", ROOT, "b",
				     RENAME_NAMES_NOREPLACE),
			 -EEXIST);
	ck_assert_uint_eq(fx_find(ROOT, "b"), b);
	ck_assert_int_eq(
		rename_with(ROOT, "a", ROOT, "c", RENAME_NAMES_NOREPLACE), 0);
	ck_assert_uint_eq(fx_find(ROOT, "c"), a);
}
END_TEST

START_TEST(exchange_swaps_whatever_the_two_are)
{
	uint64_t d = fx_dir(ROOT, "d"), e = fx_dir(ROOT, "e");
	uint64_t sub = fx_dir(d, "x"), file = fx_file(e, "y");

	ck_assert_int_eq(exchange(d, "x", e, "none"), -ENOENT);
	ck_assert_int_eq(exchange(d, "x", e, "y"), 0);
	ck_assert_uint_eq(fx_find(d, "x"), file);
	ck_assert_uint_eq(fx_find(e, "y"), sub);
	ck_assert_uint_eq(fx_inode(sub).parent, e);
	ck_assert_uint_eq(fx_inode(d).nlink, 2);
	ck_assert_uint_eq(fx_inode(e).nlink, 3);
	ck_assert_int_eq(exchange(ROOT, "d", ROOT, "e"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "e"), d);
}
END_TEST

START_TEST(the_halves_of_a_pair_can_be_exchanged)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);
	uint64_t body = fx_file(dir, FX_HASH ".body");

	ck_assert_int_eq(exchange(dir, FX_HASH, dir, FX_HASH ".body"), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), body);
	ck_assert_uint_ne(fx_inode(head).entry, 0);
	ck_assert_uint_eq(fx_inode(head).entry, fx_inode(body).entry);
	ck_assert(fx_inode(head).flags & INODE_BODY);
	ck_assert(!(fx_inode(body).flags & INODE_BODY));
}
END_TEST

START_TEST(renames_that_cannot_be_are_refused)
{
	uint64_t file = fx_file(ROOT, "f"), dir = fx_dir(ROOT, "d");
	struct store_file *open = fx_open_file(dir, FILE_DIRECTORY);

	ck_assert_int_eq(fx_rename(ROOT, "none", ROOT, "x"), -ENOENT);
	ck_assert_int_eq(fx_rename(ROOT, "f", file, "x"), -ENOTDIR);
	ck_assert_int_eq(fx_rename(4711, "f", ROOT, "x"), -ESTALE);
	ck_assert_int_eq(fx_rename(ROOT, "f", 4711, "x"), -ESTALE);
	ck_assert_int_eq(fx_rename(ROOT, "f", ROOT, ".."), -EINVAL);
	ck_assert_int_eq(fx_rename(ROOT, ".", ROOT, "x"), -EINVAL);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert_int_eq(fx_rename(ROOT, "f", dir, "x"), -ENOENT);
	file_close(open);
	ck_assert_uint_eq(fx_find(ROOT, "f"), file);
}
END_TEST

START_TEST(without_room_names_stay_where_they_are)
{
	uint64_t ino = fx_file(ROOT, "f");

	fx_fill_room(MIB);
	ck_assert_int_eq(fx_rename(ROOT, "f", ROOT, "g"), -ENOSPC);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
}
END_TEST

/* -- What a moved directory may carry ------------------------------------- */

START_TEST(a_directory_that_moves_near_the_root_asks_for_a_rescan)
{
	fx_dirs("a/b");
	ck_assert(!rescan_wanted());
	ck_assert_int_eq(fx_rename(ROOT, "a", ROOT, "c"), 0);
	ck_assert(rescan_wanted());
}
END_TEST

START_TEST(a_directory_that_moves_far_from_the_root_does_not)
{
	uint64_t deep = fx_dirs("a/b/c/d");

	fx_dir(deep, "x");
	ck_assert_int_eq(fx_rename(deep, "x", deep, "y"), 0);
	ck_assert(!rescan_wanted());
	/* As pip 25.3 builds its wheels. */
	deep = fx_dirs(FX_WHEEL_DIRS);
	fx_dir(deep, "tmpabcdefgh");
	ck_assert_int_eq(fx_rename(deep, "tmpabcdefgh", deep, "built"), 0);
	ck_assert(!rescan_wanted());
}
END_TEST

START_TEST(a_directory_that_comes_up_to_the_root_asks_for_a_rescan)
{
	uint64_t deep = fx_dirs("a/b/c/d");

	fx_dir(deep, "http-v2");
	ck_assert_int_eq(fx_rename(deep, "http-v2", ROOT, "http-v2"), 0);
	ck_assert(rescan_wanted());
}
END_TEST

START_TEST(a_directory_that_goes_down_from_the_root_asks_for_a_rescan)
{
	uint64_t deep = fx_dirs("a/b/c/d");

	fx_dir(ROOT, "http-v2");
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", deep, "x"), 0);
	ck_assert(rescan_wanted());
}
END_TEST

START_TEST(a_directory_exchanged_to_the_root_asks_for_a_rescan)
{
	uint64_t deep = fx_dirs("a/b/c/d");

	fx_dir(deep, "http-v2");
	fx_file(ROOT, "f");
	ck_assert_int_eq(exchange(deep, "http-v2", ROOT, "f"), 0);
	ck_assert(rescan_wanted());
}
END_TEST

static void add_moves(TCase *tc)
{
	tcase_add_test(tc,
		       a_directory_that_moves_near_the_root_asks_for_a_rescan);
	tcase_add_test(tc, a_directory_that_moves_far_from_the_root_does_not);
	tcase_add_test(tc,
		       a_directory_that_comes_up_to_the_root_asks_for_a_rescan);
	tcase_add_test(
		tc, a_directory_that_goes_down_from_the_root_asks_for_a_rescan);
	tcase_add_test(tc, a_directory_exchanged_to_the_root_asks_for_a_rescan);
}

int main(void)
{
	Suite *suite = suite_create("rename");
	TCase *tc = fx_case(suite, "files");

	tcase_add_test(tc, a_file_moves_with_its_bytes);
	tcase_add_test(tc, a_file_takes_the_place_of_another);
	tcase_add_test(tc, a_file_gets_the_entry_of_its_new_place);
	tcase_add_test(tc, a_body_written_anew_keeps_its_entry);
	tcase_add_test(tc, two_names_of_one_file_stay_two);

	tc = fx_case(suite, "directories");
	tcase_add_test(tc, a_directory_moves_with_all_below);
	tcase_add_test(tc, a_directory_takes_the_place_of_an_empty_one_only);
	tcase_add_test(tc, files_and_directories_do_not_replace_each_other);
	tcase_add_test(tc, a_directory_cannot_move_into_itself);
	tcase_add_test(
		tc,
		directories_that_a_damaged_index_has_in_a_circle_end_the_rename);

	tc = fx_case(suite, "flags");
	tcase_add_test(tc, noreplace_leaves_what_is_there);
	tcase_add_test(tc, exchange_swaps_whatever_the_two_are);
	tcase_add_test(tc, the_halves_of_a_pair_can_be_exchanged);
	tcase_add_test(tc, renames_that_cannot_be_are_refused);
	tcase_add_test(tc, without_room_names_stay_where_they_are);
	add_lingering(suite);
	add_moves(fx_case(suite, "moves"));
	return kit_run_suite(suite);
}
