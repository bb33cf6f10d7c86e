/* SPDX-License-Identifier: MIT */
#include "store/unit.h"

#include "clocktap.h"
#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

static uint64_t dir; /* of pairs */

static uint64_t entry_of(uint64_t ino)
{
	return fx_inode(ino).entry;
}

/* A header and a body in @dir. Returns their entry. */
static uint64_t put_pair(void)
{
	dir = fx_dirs(FX_HASH_DIRS);
	fx_put(dir, FX_HASH, 100, 1);
	return entry_of(fx_put(dir, FX_HASH ".body", LARGE, 2));
}

static bool pair_is_whole(void)
{
	uint64_t head = fx_find(dir, FX_HASH);
	uint64_t body = fx_find(dir, FX_HASH ".body");

	return head && body && fx_holds(head, 100, 1) == 0 &&
	       fx_holds(body, LARGE, 2) == 0;
}

static int remove_unit(uint64_t entry, bool idle_only)
{
	uint64_t bytes;

	return unit_remove(T, entry, idle_only, &bytes);
}

/* -- Pairs ---------------------------------------------------------------- */

START_TEST(a_pair_goes_whole)
{
	uint64_t entry = put_pair(), bytes = 0;

	ck_assert_int_eq(unit_remove(T, entry, true, &bytes), 1);
	ck_assert_uint_ge(bytes, LARGE);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	ck_assert_int_eq(remove_unit(entry, true), -ENOENT);
	ck_assert_int_eq(remove_unit(entry, false), 0);
}
END_TEST

START_TEST(a_half_alone_goes_too)
{
	uint64_t entry = put_pair();

	ck_assert_int_eq(fx_unlink(dir, FX_HASH ".body"), 0);
	ck_assert_int_eq(remove_unit(entry, true), 1);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
}
END_TEST

START_TEST(a_pair_with_one_half_open_stays_whole)
{
	uint64_t entry = put_pair();
	const char *const names[] = { FX_HASH, FX_HASH ".body" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct store_file *f = fx_open_file(fx_find(dir, names[i]), 0);

		ck_assert_int_eq(remove_unit(entry, true), -EBUSY);
		file_close(f);
		ck_assert(pair_is_whole());
	}
	ck_assert_int_eq(remove_unit(entry, true), 1);
}
END_TEST

START_TEST(a_pair_that_must_go_goes_under_its_readers)
{
	uint64_t entry = put_pair();
	uint64_t body = fx_find(dir, FX_HASH ".body");
	struct store_file *f = fx_open_file(body, 0);

	ck_assert_int_eq(remove_unit(entry, false), 1);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	fx_check_bytes(f, LARGE, 2);
	file_close(f);
	ck_assert(fx_gone(body));
}
END_TEST

START_TEST(a_half_that_left_the_unit_stays)
{
	uint64_t entry = put_pair();
	uint64_t body = fx_find(dir, FX_HASH ".body");
	struct inode in;

	ck_assert_int_eq(tree_link(T, body, ROOT, "mine", &in), 0);
	ck_assert_int_eq(remove_unit(entry, true), 1);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), body);
	ck_assert_int_eq(fx_holds(body, LARGE, 2), 0);
}
END_TEST

START_TEST(a_unit_that_was_moved_elsewhere_only_stops_being_one)
{
	uint64_t entry = put_pair();

	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_int_eq(remove_unit(entry, true), 0);
	ck_assert(pair_is_whole());
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
}
END_TEST

START_TEST(a_unit_is_measured_without_touching_it)
{
	uint64_t entry = put_pair(), bytes = 0, alone = 0;
	struct store_file *f;
	bool open = true;

	ck_assert_int_eq(unit_measure(T, entry, &bytes, &open), 0);
	ck_assert_uint_ge(bytes, LARGE);
	ck_assert(!open);
	f = fx_open_file(fx_find(dir, FX_HASH), 0);
	ck_assert_int_eq(unit_measure(T, entry, &bytes, &open), 0);
	ck_assert(open);
	file_close(f);
	ck_assert_int_eq(fx_unlink(dir, FX_HASH ".body"), 0);
	ck_assert_int_eq(unit_measure(T, entry, &alone, &open), 0);
	ck_assert_uint_lt(alone, bytes);
	ck_assert_int_eq(unit_measure(T, 4711, &bytes, &open), -ENOENT);
	ck_assert(fx_find(dir, FX_HASH));
}
END_TEST

START_TEST(on_a_frozen_index_no_unit_goes)
{
	uint64_t entry = put_pair();

	index_freeze(fx.kit.ix);
	ck_assert_int_eq(remove_unit(entry, true), -EROFS);
	ck_assert(pair_is_whole());
}
END_TEST

/* -- Built wheels --------------------------------------------------------- */

/* A wheel with @n files in nested temporary directories beside it. */
static uint64_t put_wheel(unsigned n)
{
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh/src/pkg");
	char name[16];

	dir = fx_dirs(FX_WHEEL_DIRS);
	fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh/empty");
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "m%u.py", i);
		fx_put(deep, name, 10 + i, i);
	}
	fx_put(dir, "origin.json", 100, 1);
	return entry_of(fx_put(dir, "a-1-py3-none-any.whl", LARGE, 2));
}

START_TEST(a_wheel_goes_with_all_that_is_below_its_directory)
{
	uint64_t entry = put_wheel(3 * EDIT_DROPS_MAX), bytes = 0;

	fx_dir(dir, "empty");
	ck_assert_int_eq(unit_remove(T, entry, true, &bytes), 1);
	ck_assert_uint_ge(bytes, LARGE);
	ck_assert_uint_eq(fx_inode(dir).nlink, 2);
	ck_assert_uint_eq(fx_find(dir, "origin.json"), 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	/* The directory stays: a build may just have made sure of it. */
	ck_assert_uint_eq(fx_dirs(FX_WHEEL_DIRS), dir);
}
END_TEST

START_TEST(a_wheel_with_a_file_open_far_below_stays_whole)
{
	uint64_t entry = put_wheel(3 * EDIT_DROPS_MAX);
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh/src/pkg");
	struct store_file *f = fx_open_file(fx_find(deep, "m150.py"), 0);
	uint64_t files = fx_count(INDEX_INODE);

	ck_assert_int_eq(remove_unit(entry, true), -EBUSY);
	ck_assert_uint_eq(fx_count(INDEX_INODE), files);
	file_close(f);
	f = fx_open_file(deep, FILE_DIRECTORY);
	ck_assert_int_eq(remove_unit(entry, true), -EBUSY);
	ck_assert_uint_eq(fx_count(INDEX_INODE), files);
	file_close(f);
}
END_TEST

static struct store_file *opened;
static unsigned edits; /* begun so far */

/* In the second edit: a file far below. */
static void open_in_the_second_edit(void)
{
	uint64_t deep;

	if (++edits != 2)
		return;
	clocktap_hook = NULL;
	deep = fx_find(dir, "0build");
	opened = fx_open_file(fx_find(deep, "m39.py"), FILE_QUIET);
}

/* A wheel, and more than one edit takes in a directory beside it. */
static uint64_t put_wheel_and_build(void)
{
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS "/0build");
	char name[16];

	for (unsigned i = 0; i < 3 * EDIT_DROPS_MAX; i++) {
		(void)snprintf(name, sizeof(name), "m%u.py", i);
		fx_put(deep, name, 10, i);
	}
	return put_wheel(0);
}

START_TEST(of_a_wheel_opened_meanwhile_nothing_is_left_that_pip_would_find)
{
	uint64_t entry = put_wheel_and_build(), bytes = 0;

	clocktap_hook = open_in_the_second_edit;
	ck_assert_int_eq(unit_remove(T, entry, true, &bytes), 1);
	ck_assert_ptr_nonnull(opened);
	ck_assert_uint_ge(bytes, LARGE);
	ck_assert_uint_eq(fx_find(dir, "a-1-py3-none-any.whl"), 0);
	ck_assert_uint_eq(fx_find(dir, "origin.json"), 0);
	fx_check_bytes(opened, 10, 39);
	/* The rest is a unit still. */
	ck_assert_int_eq(remove_unit(entry, true), -EBUSY);
	file_close(opened);
	ck_assert_int_eq(remove_unit(entry, true), 1);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
}
END_TEST

/* A name in @parent that leads to the directory @ino, as no tree_ call gives
 * one. */
static void put_crafted(uint64_t parent, const char *name, uint64_t ino)
{
	struct index_txn *txn = kit_begin(&fx.kit);
	const struct dirent_rec de = { .ino = ino,
				       .cookie = (uint64_t)name[0] << 32,
				       .type = S_IFDIR >> 12 };

	ck_assert_int_eq(table_dirent_put(txn, parent, name, &de), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	fx.hurt = true;
}

START_TEST(a_directory_that_leads_to_itself_ends_nothing)
{
	uint64_t entry = put_wheel(1), bytes;
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh");
	bool open;

	put_crafted(deep, "a", deep);
	ck_assert_int_eq(remove_unit(entry, true), -EBADMSG);
	ck_assert_uint_ne(fx_find(dir, "origin.json"), 0);
	put_crafted(deep, "b", deep);
	put_crafted(deep, "c", deep);
	put_crafted(deep, "d", dir);
	ck_assert_int_eq(unit_measure(T, entry, &bytes, &open), 0);
	ck_assert_int_eq(remove_unit(entry, true), -EBADMSG);
}
END_TEST

START_TEST(a_wheel_is_measured_with_all_below)
{
	uint64_t entry = put_wheel(3), bytes = 0, more = 0;
	bool open;

	ck_assert_int_eq(unit_measure(T, entry, &bytes, &open), 0);
	fx_put(fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh/src"), "big", LARGE, 3);
	ck_assert_int_eq(unit_measure(T, entry, &more, &open), 0);
	ck_assert_uint_ge(more, bytes + LARGE);
}
END_TEST

/* -- Damaged files -------------------------------------------------------- */

START_TEST(a_dropped_file_takes_its_pair_along)
{
	put_pair();
	ck_assert_int_eq(unit_drop_file(T, fx_find(dir, FX_HASH)), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	ck_assert_int_eq(unit_drop_file(T, 4711), 0);
}
END_TEST

START_TEST(a_dropped_file_of_no_unit_goes_alone)
{
	uint64_t ino = fx_file(ROOT, "a"), other = fx_file(ROOT, "b");

	ck_assert_int_eq(unit_drop_file(T, ino), 0);
	ck_assert(fx_gone(ino));
	ck_assert_uint_eq(fx_find(ROOT, "b"), other);
}
END_TEST

START_TEST(a_file_of_a_unit_that_moved_is_dropped_all_the_same)
{
	uint64_t head;

	put_pair();
	head = fx_find(dir, FX_HASH);
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_int_eq(unit_drop_file(T, head), 0);
	ck_assert(fx_gone(head));
	ck_assert_uint_ne(fx_find(dir, FX_HASH ".body"), 0);
}
END_TEST

START_TEST(further_names_of_a_dropped_file_lead_to_a_miss)
{
	uint64_t ino = fx_put(ROOT, "a", LARGE, 1);
	struct store_file *f;
	struct inode in;

	ck_assert_int_eq(tree_link(T, ino, ROOT, "b", &in), 0);
	ck_assert_int_eq(unit_drop_file(T, ino), 0);
	ck_assert_uint_eq(fx_find(ROOT, "b"), 0);
	ck_assert_int_eq(file_open(&fx.files, ino, 0, &f), -ENOENT);
	/* Its newest name is gone now: it stays, and stays a miss. */
	ck_assert_int_eq(unit_drop_file(T, ino), 0);
	ck_assert_uint_eq(fx_find(ROOT, "a"), ino);
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
}
END_TEST

static void add_pairs(TCase *tc)
{
	tcase_add_test(tc, a_pair_goes_whole);
	tcase_add_test(tc, a_half_alone_goes_too);
	tcase_add_test(tc, a_pair_with_one_half_open_stays_whole);
	tcase_add_test(tc, a_pair_that_must_go_goes_under_its_readers);
	tcase_add_test(tc, a_half_that_left_the_unit_stays);
	tcase_add_test(tc,
		       a_unit_that_was_moved_elsewhere_only_stops_being_one);
	tcase_add_test(tc, a_unit_is_measured_without_touching_it);
	tcase_add_test(tc, on_a_frozen_index_no_unit_goes);
}

int main(void)
{
	Suite *suite = suite_create("unit");
	TCase *tc = fx_case(suite, "wheels");

	tcase_add_test(tc, a_wheel_goes_with_all_that_is_below_its_directory);
	tcase_add_test(tc, a_wheel_with_a_file_open_far_below_stays_whole);
	tcase_add_test(
		tc,
		of_a_wheel_opened_meanwhile_nothing_is_left_that_pip_would_find);
	tcase_add_test(tc, a_directory_that_leads_to_itself_ends_nothing);
	tcase_add_test(tc, a_wheel_is_measured_with_all_below);
	add_pairs(fx_case(suite, "pairs"));

	tc = fx_case(suite, "damage");
	tcase_add_test(tc, a_dropped_file_takes_its_pair_along);
	tcase_add_test(tc, a_dropped_file_of_no_unit_goes_alone);
	tcase_add_test(tc, a_file_of_a_unit_that_moved_is_dropped_all_the_same);
	tcase_add_test(tc, further_names_of_a_dropped_file_lead_to_a_miss);
	return kit_run_suite(suite);
}
