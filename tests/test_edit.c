/* SPDX-License-Identifier: MIT */
#include "store/edit.h"

#include <sched.h>

#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

/* An edit that takes the name @name of @ino from the root and drops it. */
static int drop_name(struct edit *e, uint64_t ino, const char *name,
		     bool idle_only)
{
	struct inode root, in;
	struct dirent_rec de;

	ck_assert_int_eq(edit_begin(T, QUOTA_SYSTEM, e), 0);
	ck_assert_int_eq(edit_dir(e, ROOT, &root), 0);
	ck_assert_int_eq(table_inode_get(e->txn, ino, &in), 0);
	ck_assert_int_eq(table_dirent_get(e->txn, ROOT, name, &de), 0);
	ck_assert_int_eq(edit_del_name(e, &root, name, &de, &in), 0);
	ck_assert_int_eq(table_inode_put(e->txn, &root), 0);
	return edit_drop(e, &in, idle_only);
}

static bool is_orphan(uint64_t ino)
{
	bool orphan = fx_count(INDEX_ORPHAN) == 1;

	ck_assert(!orphan || !fx_inode(ino).nlink);
	return orphan;
}

static int try_to_open(uint64_t ino)
{
	struct store_file *f;
	int r = file_open(&fx.files, ino, 0, &f);

	if (r >= 0)
		file_close(f);
	return r;
}

/* -- A whole or nothing --------------------------------------------------- */

START_TEST(an_edit_that_is_left_changes_nothing)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t charged = fx_charged();
	{
		cleanup_edit struct edit e = EDIT_INIT;

		ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
		ck_assert_uint_gt(fx_charged(), charged);
	}
	ck_assert_uint_eq(fx_charged(), charged);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

START_TEST(leaving_an_edit_twice_or_before_its_begin_is_fine)
{
	struct edit left = EDIT_INIT, done = EDIT_INIT;

	edit_abort(&left);
	ck_assert_int_eq(edit_begin(T, QUOTA_OTHER, &left), 0);
	edit_abort(&left);
	edit_abort(&left);
	ck_assert_int_eq(edit_begin(T, QUOTA_OTHER, &done), 0);
	ck_assert_int_eq(edit_commit(&done), 0);
	edit_abort(&done);
}
END_TEST

START_TEST(without_room_no_edit_begins)
{
	cleanup_edit struct edit e = EDIT_INIT;

	fx_fill_room(1000);
	ck_assert_int_eq(edit_begin(T, QUOTA_OTHER, &e), -ENOSPC);
	ck_assert_int_eq(edit_begin(T, QUOTA_SYSTEM, &e), -ENOSPC);
	ck_assert_uint_eq(fx_charged(), FX_LIMIT - 1000);
	ck_assert_int_eq(edit_begin(T, QUOTA_EVICT, &e), 0);
	ck_assert_int_eq(edit_commit(&e), 0);
}
END_TEST

START_TEST(on_a_frozen_index_an_edit_gives_its_room_back)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t charged = fx_charged();

	index_freeze(fx.kit.ix);
	ck_assert_int_eq(edit_begin(T, QUOTA_OTHER, &e), -EROFS);
	ck_assert_uint_eq(fx_charged(), charged);
}
END_TEST

START_TEST(a_directory_must_be_one_and_have_a_name)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t file = fx_file(ROOT, "f"), gone = fx_dir(ROOT, "d");
	struct store_file *open = fx_open_file(gone, FILE_DIRECTORY);
	struct inode in;

	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert_int_eq(edit_begin(T, QUOTA_OTHER, &e), 0);
	ck_assert_int_eq(edit_dir(&e, file, &in), -ENOTDIR);
	ck_assert_int_eq(edit_dir(&e, gone, &in), -ENOENT);
	ck_assert_int_eq(edit_dir(&e, 4711, &in), -ESTALE);
	edit_abort(&e);
	file_close(open);
	ck_assert(fx_gone(gone));
}
END_TEST

/* -- Removal against open ------------------------------------------------- */

START_TEST(an_idle_inode_goes_with_the_edit_and_its_bytes_too)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t charged = fx_charged();

	ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
	ck_assert_uint_ge(e.freed_bytes, LARGE);
	ck_assert_int_eq(edit_commit(&e), 0);
	ck_assert(fx_gone(ino));
	ck_assert_uint_le(fx_charged(), charged - LARGE);
	ck_assert_int_eq(try_to_open(ino), -ESTALE);
}
END_TEST

START_TEST(bytes_that_a_checkpoint_names_come_back_with_the_next)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t charged;

	fx_checkpoint();
	charged = fx_charged();
	ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
	ck_assert_int_eq(edit_commit(&e), 0);
	ck_assert_uint_ge(fx_charged(), charged);
	ck_assert_uint_ge(packs_doomed_bytes(fx.kit.packs), LARGE);
	fx_checkpoint();
	ck_assert_uint_le(fx_charged(), charged - LARGE);
}
END_TEST

START_TEST(opened_first_an_inode_becomes_an_orphan_until_its_last_close)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *a = fx_open_file(ino, 0), *b;

	ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
	ck_assert_int_eq(edit_commit(&e), 0);
	ck_assert(is_orphan(ino));
	b = fx_open_file(ino, 0);
	file_close(a);
	ck_assert(is_orphan(ino));
	fx_check_bytes(b, LARGE, 1);
	file_close(b);
	ck_assert(fx_gone(ino));
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
}
END_TEST

START_TEST(claimed_first_an_inode_cannot_be_opened)
{
	struct edit left = EDIT_INIT, done = EDIT_INIT;
	struct node *nd;
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);

	ck_assert_int_eq(drop_name(&left, ino, "f", false), 0);
	ck_assert_int_eq(node_get(fx.nodes, ino, &nd), -ESTALE);
	edit_abort(&left);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);

	ck_assert_int_eq(drop_name(&done, ino, "f", false), 0);
	ck_assert_int_eq(node_get(fx.nodes, ino, &nd), -ESTALE);
	ck_assert_int_eq(edit_commit(&done), 0);
	ck_assert_int_eq(try_to_open(ino), -ESTALE);
}
END_TEST

/* The last handle goes between the claim and the commit: nobody else would
 * remove the orphan. */
START_TEST(an_orphan_closed_before_it_is_one_goes_with_the_commit)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
	file_close(f);
	ck_assert_int_eq(edit_commit(&e), 0);
	ck_assert(fx_gone(ino));
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
}
END_TEST

START_TEST(a_file_closed_during_an_edit_that_is_left_stays)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f = fx_open_file(ino, 0);
	{
		cleanup_edit struct edit e = EDIT_INIT;

		ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
		file_close(f);
	}
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

START_TEST(what_must_be_idle_stays_when_it_is_open)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f = fx_open_file(ino, 0);
	{
		cleanup_edit struct edit e = EDIT_INIT;

		ck_assert_int_eq(drop_name(&e, ino, "f", true), -EBUSY);
	}
	fx_check_bytes(f, LARGE, 1);
	file_close(f);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
}
END_TEST

START_TEST(inline_bytes_go_with_their_inode)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t ino = fx_put(ROOT, "f", 100, 1);

	ck_assert_uint_eq(fx_count(INDEX_INLINE), 1);
	ck_assert_int_eq(drop_name(&e, ino, "f", false), 0);
	ck_assert_int_eq(edit_commit(&e), 0);
	ck_assert_uint_eq(fx_count(INDEX_INLINE), 0);
}
END_TEST

/* -- Reaping -------------------------------------------------------------- */

START_TEST(reaping_takes_only_orphans_that_nobody_has_open)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(edit_reap(T, ino), 0);
	ck_assert_int_eq(edit_reap(T, 4711), 0);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert_int_eq(edit_reap(T, ino), 0);
	ck_assert(is_orphan(ino));
	fx_check_bytes(f, LARGE, 1);
	file_close(f);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(an_orphan_without_an_inode_is_forgotten)
{
	struct index_txn *txn = kit_begin(&fx.kit);
	struct record_key key = record_key_id(4711);

	ck_assert_int_eq(index_put(txn, INDEX_ORPHAN, &key, NULL, 0, true), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_int_eq(edit_reap(T, 4711), 0);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
}
END_TEST

START_TEST(one_edit_drops_only_so_many)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in = { .mode = S_IFREG, .nlink = 1 };
	int r = 0;

	ck_assert_int_eq(edit_begin(T, QUOTA_SYSTEM, &e), 0);
	for (int i = 0; i < EDIT_DROPS_MAX; i++) {
		in.ino = 1000 + (uint64_t)i;
		ck_assert_int_eq(table_inode_put(e.txn, &in), 0);
		ck_assert_int_eq(edit_drop(&e, &in, false), 0);
	}
	in.ino++;
	r = edit_drop(&e, &in, false);
	ck_assert_int_eq(r, -ENOBUFS);
	edit_abort(&e);
}
END_TEST

/* -- Threads -------------------------------------------------------------- */

#define ROUNDS (SLOW_BUILD ? 100 : 400)

static atomic_uint_fast64_t target; /* inode to open, 0: the end */
static atomic_uint wrong, seen;

static void *open_often(void *arg)
{
	struct store_file *f;
	uint64_t ino;
	int r;

	while ((ino = target)) {
		r = file_open(&fx.files, ino, 0, &f);
		if (r < 0) {
			wrong += r != -ESTALE;
			continue;
		}
		wrong += f->nd->size != LARGE;
		seen++;
		file_close(f);
	}
	return arg;
}

START_TEST(open_and_unlink_in_two_threads_leave_nothing_behind)
{
	pthread_t thread;

	target = fx_put(ROOT, "f0", LARGE, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, open_often, NULL), 0);
	while (!seen)
		sched_yield();
	for (unsigned i = 0; i < ROUNDS; i++) {
		char name[16], next[16];

		(void)snprintf(name, sizeof(name), "f%u", i);
		(void)snprintf(next, sizeof(next), "f%u", i + 1);
		ck_assert_int_eq(fx_unlink(ROOT, name), 0);
		target = fx_put(ROOT, next, LARGE, i);
	}
	target = 0;
	pthread_join(thread, NULL);
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
	ck_assert_uint_eq(fx_count(INDEX_INODE), 2);
}
END_TEST

static void add_removal(TCase *tc)
{
	tcase_add_test(tc, an_idle_inode_goes_with_the_edit_and_its_bytes_too);
	tcase_add_test(tc,
		       bytes_that_a_checkpoint_names_come_back_with_the_next);
	tcase_add_test(
		tc,
		opened_first_an_inode_becomes_an_orphan_until_its_last_close);
	tcase_add_test(tc, claimed_first_an_inode_cannot_be_opened);
	tcase_add_test(tc,
		       an_orphan_closed_before_it_is_one_goes_with_the_commit);
	tcase_add_test(tc, a_file_closed_during_an_edit_that_is_left_stays);
	tcase_add_test(tc, what_must_be_idle_stays_when_it_is_open);
	tcase_add_test(tc, inline_bytes_go_with_their_inode);
	tcase_add_test(tc, open_and_unlink_in_two_threads_leave_nothing_behind);
}

int main(void)
{
	Suite *suite = suite_create("edit");
	TCase *tc = fx_case(suite, "edit");

	tcase_add_test(tc, an_edit_that_is_left_changes_nothing);
	tcase_add_test(tc, leaving_an_edit_twice_or_before_its_begin_is_fine);
	tcase_add_test(tc, without_room_no_edit_begins);
	tcase_add_test(tc, on_a_frozen_index_an_edit_gives_its_room_back);
	tcase_add_test(tc, a_directory_must_be_one_and_have_a_name);
	add_removal(fx_case(suite, "removal"));

	tc = fx_case(suite, "reaping");
	tcase_add_test(tc, reaping_takes_only_orphans_that_nobody_has_open);
	tcase_add_test(tc, an_orphan_without_an_inode_is_forgotten);
	tcase_add_test(tc, one_edit_drops_only_so_many);
	return kit_run_suite(suite);
}
