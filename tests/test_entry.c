/* SPDX-License-Identifier: MIT */
#include "store/entry.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO

static uint64_t entry_of(uint64_t ino)
{
	return fx_inode(ino).entry;
}

static struct entry_rec record(uint64_t id)
{
	struct entry_rec en;

	ck_assert(fx_entry(id, &en));
	return en;
}

static uint32_t members(uint64_t id)
{
	return record(id).members;
}

/* -- What belongs to what ------------------------------------------------- */

START_TEST(a_pair_is_one_entry_whichever_half_comes_first)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);
	uint64_t body = fx_file(dir, FX_HASH ".body");
	uint64_t id = entry_of(head);

	ck_assert_uint_ne(id, 0);
	ck_assert_uint_eq(entry_of(body), id);
	ck_assert_uint_eq(members(id), 2);
	ck_assert_str_eq(record(id).name, FX_HASH);
	ck_assert_uint_eq(record(id).dir, dir);
	ck_assert_uint_eq(record(id).kind, LAYOUT_HTTP);

	ck_assert_int_eq(fx_unlink(dir, FX_HASH), 0);
	ck_assert_uint_eq(members(id), 1);
	head = fx_file(dir, FX_HASH);
	ck_assert_uint_eq(entry_of(head), id);
	ck_assert_uint_eq(members(id), 2);
}
END_TEST

START_TEST(an_entry_goes_with_its_last_name)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t id = entry_of(fx_file(dir, FX_HASH));

	fx_file(dir, FX_HASH ".body");
	ck_assert_int_eq(fx_unlink(dir, FX_HASH), 0);
	ck_assert_int_eq(fx_unlink(dir, FX_HASH ".body"), 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	ck_assert_uint_ne(entry_of(fx_file(dir, FX_HASH)), id);
}
END_TEST

START_TEST(only_a_body_is_flagged_as_one)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);

	ck_assert(!(fx_inode(fx_file(dir, FX_HASH)).flags & INODE_BODY));
	ck_assert(fx_inode(fx_file(dir, FX_HASH ".body")).flags & INODE_BODY);
	dir = fx_dirs("http/0/a/1/b/2");
	ck_assert(fx_inode(fx_file(dir, FX_HASH)).flags & INODE_BODY);
	ck_assert_uint_eq(atomic_load(&fx.tree.misses), 2);
}
END_TEST

START_TEST(files_of_no_known_layout_belong_to_nothing)
{
	uint64_t other = fx_file(ROOT, "notes");
	uint64_t tmp = fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH "abcd_123.tmp");

	ck_assert_uint_eq(entry_of(other), 0);
	ck_assert_uint_eq(fx_inode(other).kind, LAYOUT_OTHER);
	ck_assert_uint_eq(entry_of(tmp), 0);
	ck_assert_uint_eq(fx_inode(tmp).kind, LAYOUT_TMP);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
}
END_TEST

START_TEST(all_below_a_built_wheels_directory_is_one_entry)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS);
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS "/tmpabcdefgh/x/y");
	uint64_t id = entry_of(fx_file(deep, "part"));

	ck_assert_uint_ne(id, 0);
	ck_assert_uint_eq(entry_of(fx_file(dir, "a-1-py3-none-any.whl")), id);
	ck_assert_uint_eq(entry_of(fx_file(dir, "origin.json")), id);
	ck_assert_uint_eq(members(id), 3);
	ck_assert_str_eq(record(id).name, "");
	ck_assert_uint_eq(record(id).dir, dir);
	ck_assert_uint_eq(record(id).kind, LAYOUT_WHEEL);
	ck_assert_uint_eq(entry_of(dir), id);
}
END_TEST

START_TEST(a_wheels_directory_starts_a_new_entry_after_its_last_file)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS);
	uint64_t id = entry_of(fx_file(dir, "origin.json")), again;

	ck_assert_int_eq(fx_unlink(dir, "origin.json"), 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	again = entry_of(fx_file(dir, "origin.json"));
	ck_assert_uint_ne(again, 0);
	ck_assert_uint_ne(again, id);
}
END_TEST

START_TEST(a_file_moved_within_a_wheels_directory_keeps_one_entry)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS);
	uint64_t tmp = fx_dir(dir, "tmpabcdefgh");
	uint64_t a = fx_file(dir, "a"), b = fx_file(tmp, "b");

	ck_assert_int_eq(fx_rename(tmp, "b", dir, "c"), 0);
	ck_assert_uint_eq(entry_of(b), entry_of(a));
	ck_assert_int_eq(fx_rename(dir, "a", tmp, "d"), 0);
	ck_assert_uint_eq(entry_of(b), entry_of(a));
	ck_assert_uint_eq(members(entry_of(a)), 2);
}
END_TEST

START_TEST(files_exchanged_within_a_wheels_directory_stay_one_entry)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS);
	uint64_t tmp = fx_dir(dir, "tmpabcdefgh");
	uint64_t a = fx_file(dir, "a"), b = fx_file(tmp, "b");

	ck_assert_int_eq(rename_names(T, (struct rename_at){ dir, "a" },
				      (struct rename_at){ tmp, "b" },
				      RENAME_NAMES_EXCHANGE),
			 0);
	ck_assert_uint_ne(entry_of(a), 0);
	ck_assert_uint_eq(entry_of(b), entry_of(a));
	ck_assert_uint_eq(entry_of(dir), entry_of(a));
}
END_TEST

START_TEST(detaching_from_what_is_gone_is_fine)
{
	struct index_txn *txn = kit_begin(&fx.kit);

	ck_assert_int_eq(entry_detach(txn, 0), 0);
	ck_assert_int_eq(entry_detach(txn, 4711), 0);
	index_abort(txn);
}
END_TEST

/* -- Uses ----------------------------------------------------------------- */

START_TEST(a_use_counts_at_once_and_reaches_the_index_with_the_flush)
{
	uint64_t id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));
	struct entry_rec en;
	int64_t last;

	fx_age(id, 1000);
	en = record(id);
	ck_assert_int_eq(entry_last_use(fx.entries, id, &en), en.last_use_ns);
	entry_touch(fx.entries, id, true);
	entry_touch(fx.entries, id, true);
	entry_touch(fx.entries, id, false);
	last = entry_last_use(fx.entries, id, &en);
	ck_assert_int_gt(last, en.last_use_ns);
	ck_assert_uint_eq(record(id).hits, 0);

	fx_flush();
	ck_assert_int_eq(record(id).last_use_ns, last);
	ck_assert_uint_eq(record(id).hits, 2);
	en = record(id);
	ck_assert_int_eq(entry_last_use(fx.entries, id, &en), last);
}
END_TEST

START_TEST(a_flush_never_makes_an_entry_older)
{
	uint64_t id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));
	int64_t last;

	fx_age(id, -1000); /* as if the clock had been ahead */
	last = record(id).last_use_ns;
	entry_touch(fx.entries, id, true);
	fx_flush();
	ck_assert_int_eq(record(id).last_use_ns, last);
	ck_assert_uint_eq(record(id).hits, 1);
}
END_TEST

START_TEST(a_use_of_what_is_gone_is_forgotten)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t id = entry_of(fx_file(dir, FX_HASH));

	entry_touch(fx.entries, id, true);
	entry_touch(fx.entries, 0, true);
	entry_touch(fx.entries, 4711, true);
	ck_assert_int_eq(fx_unlink(dir, FX_HASH), 0);
	fx_flush();
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
}
END_TEST

START_TEST(a_full_table_asks_for_a_flush_and_loses_only_new_uses)
{
	const struct entry_rec never = { .last_use_ns = 0 };
	uint64_t n = 0;

	while (!fx.due)
		entry_touch(fx.entries, ++n, false);
	ck_assert_uint_eq(n, ENTRY_USES_MAX / 4 * 3);
	while (n < ENTRY_USES_MAX + 100)
		entry_touch(fx.entries, ++n, false);
	ck_assert_int_ne(entry_last_use(fx.entries, 1, &never), 0);
	ck_assert_int_ne(entry_last_use(fx.entries, ENTRY_USES_MAX, &never), 0);
	ck_assert_int_eq(entry_last_use(fx.entries, n, &never), 0);
	fx_flush();
	entry_touch(fx.entries, n, false);
	ck_assert_int_ne(entry_last_use(fx.entries, n, &never), 0);
}
END_TEST

START_TEST(many_uses_reach_the_index_in_one_flush)
{
	char name[] = FX_HASH;
	uint64_t dir = fx_dirs(FX_HASH_DIRS), ids[600];

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		(void)snprintf(name + 50, 7, "%06zx", i);
		ids[i] = entry_of(fx_file(dir, name));
		entry_touch(fx.entries, ids[i], true);
	}
	fx_flush();
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		ck_assert_uint_eq(record(ids[i]).hits, 1);
}
END_TEST

/* Checkpoints in between keep the index small, so that it must grow. */
START_TEST(what_a_flush_adds_to_the_index_is_charged)
{
	char name[] = FX_HASH;
	uint64_t dir = fx_dirs(FX_HASH_DIRS), ids[1500];

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		(void)snprintf(name + 50, 7, "%06zx", i);
		ids[i] = entry_of(fx_file(dir, name));
		if (i % 10 == 0)
			fx_checkpoint();
	}
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		entry_touch(fx.entries, ids[i * 7 % ARRAY_SIZE(ids)], true);
	fx_flush();
	invariants_room();
}
END_TEST

START_TEST(a_flush_is_not_due_for_a_fresh_use)
{
	ck_assert(!entry_flush_due(fx.entries));
	entry_touch(fx.entries, 5, false);
	ck_assert(!entry_flush_due(fx.entries));
}
END_TEST

/* Else what was just used would look old to the evictor. */
START_TEST(uses_that_there_is_no_room_for_stay_in_memory)
{
	uint64_t id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));
	struct entry_rec en;
	int64_t last;

	fx_age(id, 1000);
	entry_touch(fx.entries, id, true);
	en = record(id);
	last = entry_last_use(fx.entries, id, &en);
	fx_fill_room(1000);
	ck_assert_int_eq(entry_flush(fx.entries, fx.kit.ix, fx.room), -ENOSPC);
	ck_assert_int_eq(entry_last_use(fx.entries, id, &en), last);
	entry_touch(fx.entries, id, true);
	fx_empty_room();
	fx_flush();
	ck_assert_int_ge(record(id).last_use_ns, last);
	ck_assert_uint_eq(record(id).hits, 2);
}
END_TEST

START_TEST(a_flush_into_a_frozen_index_leaves_uses_in_memory)
{
	uint64_t id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));
	struct entry_rec en;

	fx_age(id, 1000);
	entry_touch(fx.entries, id, true);
	index_freeze(fx.kit.ix);
	ck_assert_int_eq(entry_flush(fx.entries, fx.kit.ix, fx.room), -EROFS);
	en = record(id);
	ck_assert_uint_eq(en.hits, 0);
	ck_assert_int_gt(entry_last_use(fx.entries, id, &en), en.last_use_ns);
}
END_TEST

START_TEST(a_damaged_entry_does_not_hold_up_the_others)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t bad = entry_of(fx_file(dir, FX_HASH));
	uint64_t good = entry_of(fx_file(fx_dirs("selfcheck"), FX_HASH));
	struct index_txn *txn = kit_begin(&fx.kit);
	struct record_key key = record_key_id(bad);

	ck_assert_int_eq(index_put(txn, INDEX_ENTRY, &key, "short", 5, false),
			 0);
	ck_assert_int_eq(index_commit(txn), 0);
	entry_touch(fx.entries, bad, true);
	entry_touch(fx.entries, good, true);
	fx_flush();
	ck_assert_uint_eq(record(good).hits, 1);
	fx.hurt = true;
}
END_TEST

/* The other half of a pair, whose @table record at @key is damaged. */
static void expect_entry_of_its_own(enum index_table table,
				    struct record_key key, uint64_t old)
{
	struct index_txn *txn = kit_begin(&fx.kit);
	uint64_t id;

	ck_assert_int_eq(index_put(txn, table, &key, "short", 5, false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH ".body"));
	ck_assert_uint_ne(id, 0);
	ck_assert_uint_ne(id, old);
	ck_assert_uint_eq(members(id), 1);
	ck_assert_str_eq(record(id).name, FX_HASH);
	fx.hurt = true;
}

START_TEST(a_damaged_partner_is_no_partner)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);

	expect_entry_of_its_own(INDEX_INODE, record_key_id(head),
				entry_of(head));
}
END_TEST

START_TEST(a_partner_under_a_damaged_name_is_none)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);

	expect_entry_of_its_own(INDEX_DIRENT, record_key_name(dir, FX_HASH),
				entry_of(head));
}
END_TEST

START_TEST(a_damaged_entry_is_not_joined)
{
	uint64_t old = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));

	expect_entry_of_its_own(INDEX_ENTRY, record_key_id(old), old);
}
END_TEST

/* -- Threads -------------------------------------------------------------- */

#define USES 2000
#define LOOKS 20

static atomic_bool enough;

static void *flush_often(void *arg)
{
	while (!enough)
		(void)entry_flush(fx.entries, fx.kit.ix, fx.room);
	return arg;
}

/* The last use as who evicts sees it. Memory first: uses go from there to the
 * index. */
static int64_t last_use(uint64_t id)
{
	const struct entry_rec never = { .last_use_ns = 0 };
	int64_t last = entry_last_use(fx.entries, id, &never);
	int64_t stored = record(id).last_use_ns;

	return stored > last ? stored : last;
}

/* Passes and checkpoints flush beside each other. */
START_TEST(no_use_is_out_of_sight_while_two_threads_flush)
{
	uint64_t id = entry_of(fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH));
	pthread_t threads[2];
	int64_t before;

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, flush_often,
						NULL),
				 0);
	for (int i = 0; i < USES; i++) {
		before = base_now_ns();
		entry_touch(fx.entries, id, true);
		for (int n = 0; n < LOOKS; n++)
			ck_assert_int_ge(last_use(id), before);
	}
	enough = true;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	fx_flush();
	ck_assert_uint_eq(record(id).hits, USES);
}
END_TEST

static void add_uses(TCase *tc)
{
	tcase_add_test(
		tc, a_use_counts_at_once_and_reaches_the_index_with_the_flush);
	tcase_add_test(tc, a_flush_never_makes_an_entry_older);
	tcase_add_test(tc, a_use_of_what_is_gone_is_forgotten);
	tcase_add_test(tc,
		       a_full_table_asks_for_a_flush_and_loses_only_new_uses);
	tcase_add_test(tc, many_uses_reach_the_index_in_one_flush);
	tcase_add_test(tc, what_a_flush_adds_to_the_index_is_charged);
	tcase_add_test(tc, a_flush_is_not_due_for_a_fresh_use);
	tcase_add_test(tc, uses_that_there_is_no_room_for_stay_in_memory);
	tcase_add_test(tc, a_flush_into_a_frozen_index_leaves_uses_in_memory);
	tcase_add_test(tc, a_damaged_entry_does_not_hold_up_the_others);
	tcase_add_test(tc, no_use_is_out_of_sight_while_two_threads_flush);
}

int main(void)
{
	Suite *suite = suite_create("entry");
	TCase *tc = fx_case(suite, "members");

	tcase_add_test(tc, a_pair_is_one_entry_whichever_half_comes_first);
	tcase_add_test(tc, an_entry_goes_with_its_last_name);
	tcase_add_test(tc, only_a_body_is_flagged_as_one);
	tcase_add_test(tc, files_of_no_known_layout_belong_to_nothing);
	tcase_add_test(tc, all_below_a_built_wheels_directory_is_one_entry);
	tcase_add_test(
		tc, a_wheels_directory_starts_a_new_entry_after_its_last_file);
	tcase_add_test(tc,
		       a_file_moved_within_a_wheels_directory_keeps_one_entry);
	tcase_add_test(
		tc, files_exchanged_within_a_wheels_directory_stay_one_entry);
	tcase_add_test(tc, detaching_from_what_is_gone_is_fine);
	tcase_add_test(tc, a_damaged_partner_is_no_partner);
	tcase_add_test(tc, a_partner_under_a_damaged_name_is_none);
	tcase_add_test(tc, a_damaged_entry_is_not_joined);
	add_uses(fx_case(suite, "uses"));
	return kit_run_suite(suite);
}
