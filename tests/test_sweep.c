/* SPDX-License-Identifier: MIT */
#include "store/sweep.h"

#include "fixture.h"
#include "store/tidy.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */
#define WHEEL "a-1-py3-none-any.whl"

static struct sweep_result res;
static uint64_t queued[16]; /* for their checksum */
static unsigned n_queued;

static void queue(void *arg, uint64_t ino)
{
	(void)arg;
	ck_assert_uint_lt(n_queued, ARRAY_SIZE(queued));
	queued[n_queued++] = ino;
}

static bool was_queued(uint64_t ino)
{
	for (unsigned i = 0; i < n_queued; i++)
		if (queued[i] == ino)
			return true;
	return false;
}

static void sweep(bool restored)
{
	res = fx.swept;
	n_queued = 0;
	ck_assert_int_eq(sweep_inodes(T, restored, queue, NULL, &res), 0);
}

/* -- Packs ---------------------------------------------------------------- */

static struct scratch pack_file(const char *name)
{
	struct scratch packs = scratch_at(&fx.kit.dir, "packs");

	return scratch_at(&packs, name);
}

START_TEST(packs_that_no_inode_names_are_removed)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct scratch stray = pack_file("00000000deadbeef");
	struct scratch foreign = pack_file("notes.txt");
	struct stat st;

	scratch_write(stray.path, "bytes", 5);
	scratch_write(foreign.path, "bytes", 5);
	fx_reopen();
	ck_assert_int_eq(access(stray.path, F_OK), -1);
	ck_assert_int_eq(stat(foreign.path, &st), 0);
	ck_assert_uint_eq(fx.swept.pack_bytes,
			  fx_inode(ino).alloc + packio_disk_bytes(&st));
	ck_assert_uint_eq(fx.swept.unreadable, 0);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

static void leave_a_pack(void)
{
	struct pack *pk;
	uint64_t id;

	fx_put(ROOT, "kept", LARGE, 1);
	fx_checkpoint();
	fx_put(ROOT, "lost", LARGE, 2);
	ck_assert_int_eq(index_new_id(fx.kit.ix, INDEX_ID_PACK, &id), 0);
	ck_assert_int_eq(pack_create(fx.kit.packs, id, &pk), 0);
	ck_assert_int_eq(pack_write(pk, "bytes", 5, 0), 0);
}

START_TEST(packs_of_what_a_restore_forgot_are_removed)
{
	fx_run_killed(leave_a_pack);
	ck_assert_uint_eq(fx_find(ROOT, "lost"), 0);
	ck_assert_uint_eq(fx.swept.pack_bytes,
			  fx_inode(fx_find(ROOT, "kept")).alloc);
}
END_TEST

/* Whose record cannot be read may name any of them. */
START_TEST(with_an_unreadable_inode_all_packs_are_kept)
{
	struct scratch stray = pack_file("00000000deadbeef");
	struct index_txn *txn = kit_begin(&fx.kit);
	struct record_key key = record_key_id(4711);
	struct tidy_pos pos = { 0 };

	ck_assert_int_eq(index_put(txn, INDEX_INODE, &key, "short", 5, true),
			 0);
	ck_assert_int_eq(index_commit(txn), 0);
	scratch_write(stray.path, "bytes", 5);
	fx_reopen();
	ck_assert_uint_eq(fx.swept.unreadable, 1);
	ck_assert_int_eq(access(stray.path, F_OK), 0);
	sweep(true);
	ck_assert_uint_eq(res.unreadable, 1);

	/* It is mended in the background: the next time all is as ever. */
	while (tidy_rescan(T, &pos) > 0)
		;
	fx_reopen();
	ck_assert_uint_eq(fx.swept.unreadable, 0);
	ck_assert_int_eq(access(stray.path, F_OK), -1);
}
END_TEST

/* -- After a clean close -------------------------------------------------- */

START_TEST(a_store_that_was_closed_needs_only_the_ingest)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t body = fx_put(dir, FX_HASH ".body", LARGE, 1);
	uint64_t other = fx_put(ROOT, "f", LARGE, 2);
	uint64_t summed = fx_put(ROOT, "g", LARGE, 3);

	fx_put(ROOT, "small", 100, 4);
	fx_put(ROOT, "empty", 0, 5);
	fx_sum(summed);
	fx_reopen();
	sweep(false);
	ck_assert_uint_eq(n_queued, 3);
	ck_assert(was_queued(body) && was_queued(other) && was_queued(summed));
	ck_assert_uint_eq(res.dropped, 0);
	ck_assert_uint_eq(res.orphans, 0);
	ck_assert_int_eq(fx_holds(body, LARGE, 1), 0);
}
END_TEST

/* -- After a restore ------------------------------------------------------ */

/* Leaves a writer at the checkpoint, with @len bytes written by then. */
static void leave_open(uint64_t ino, size_t len, unsigned seed)
{
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, len, seed), 0);
}

static void leave_writers(void)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS), wheel = fx_dirs(FX_WHEEL_DIRS);

	fx_put(dir, FX_HASH, 100, 1);
	leave_open(fx_file(dir, FX_HASH ".body"), LARGE, 2);
	leave_open(fx_file(dir, FX_HASH "abcd_123.tmp"), LARGE, 3);
	fx_put(wheel, "origin.json", 100, 4);
	leave_open(fx_file(wheel, WHEEL), LARGE, 5);
	leave_open(fx_file(ROOT, "other"), LARGE, 6);
	fx_checkpoint();
}

START_TEST(after_a_restore_files_of_pip_that_had_writers_are_dropped)
{
	uint64_t dir, wheel, other;

	fx_run_killed(leave_writers);
	dir = fx_dirs(FX_HASH_DIRS);
	wheel = fx_dirs(FX_WHEEL_DIRS);
	ck_assert(fx_find(dir, FX_HASH ".body"));
	sweep(true);
	ck_assert_uint_eq(res.dropped, 3);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH "abcd_123.tmp"), 0);
	ck_assert_uint_eq(fx_find(wheel, WHEEL), 0);
	ck_assert_uint_eq(fx_find(wheel, "origin.json"), 0);

	/* As torn as any file system would leave it: here not at all. */
	other = fx_find(ROOT, "other");
	ck_assert(was_queued(other));
	ck_assert_uint_eq(fx_inode(other).flags, 0);
	ck_assert_int_eq(fx_holds(other, LARGE, 6), 0);
}
END_TEST

static void leave_just_made(void)
{
	uint64_t wheel = fx_dirs(FX_WHEEL_DIRS);

	fx_put(wheel, "origin.json", 100, 1);
	fx_file(wheel, WHEEL);
	fx_file(ROOT, "other");
	fx_checkpoint();
}

START_TEST(after_a_restore_a_wheel_that_was_just_made_is_dropped)
{
	uint64_t wheel;

	fx_run_killed(leave_just_made);
	wheel = fx_dirs(FX_WHEEL_DIRS);
	sweep(false);
	ck_assert_uint_eq(res.dropped, 0);
	ck_assert(fx_find(wheel, WHEEL));
	sweep(true);
	ck_assert_uint_eq(res.dropped, 1);
	ck_assert_uint_eq(fx_find(wheel, WHEEL), 0);
	ck_assert_uint_eq(fx_find(wheel, "origin.json"), 0);
	ck_assert(fx_find(ROOT, "other"));
}
END_TEST

static void leave_unsummed(void)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	char name[] = FX_HASH ".body";

	fx_put(dir, name, LARGE, 1);
	name[50]++;
	fx_sum(fx_put(dir, name, LARGE, 2));
	fx_put(dir, FX_HASH, 100, 3);
	fx_put(ROOT, "other", LARGE, 4);
	fx_checkpoint();
}

START_TEST(after_a_restore_files_of_pip_without_a_sum_are_dropped)
{
	uint64_t dir, other, summed;
	char name[] = FX_HASH ".body";

	fx_run_killed(leave_unsummed);
	dir = fx_dirs(FX_HASH_DIRS);
	sweep(true);
	ck_assert_uint_eq(res.dropped, 1);
	ck_assert_uint_eq(fx_find(dir, name), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	name[50]++;
	summed = fx_find(dir, name);
	ck_assert_int_eq(fx_holds(summed, LARGE, 2), 0);
	ck_assert(was_queued(summed));
	other = fx_find(ROOT, "other");
	ck_assert(was_queued(other));
	ck_assert_int_eq(fx_holds(other, LARGE, 4), 0);
}
END_TEST

static void leave_grown(void)
{
	struct store_file *f =
		fx_open_file(fx_put(ROOT, "grown", LARGE, 1), FILE_WRITE);

	ck_assert_int_eq(fx_write(f, 1, 1), 0);
	fx_checkpoint();
	ck_assert_int_eq(fx_write(f, 2 * LARGE, 1), 0);
	leave_open(fx_file(ROOT, "cut"), 0, 1);
	f = fx_open_file(fx_file(ROOT, "empty"), FILE_WRITE | FILE_TRUNCATE);
	fx_checkpoint();
	ck_assert_ptr_nonnull(f);
}

START_TEST(other_files_that_had_writers_are_as_large_as_their_packs)
{
	uint64_t grown, empty;

	fx_run_killed(leave_grown);
	grown = fx_find(ROOT, "grown");
	empty = fx_find(ROOT, "empty");
	ck_assert(fx_inode(empty).flags & INODE_WRITERS);
	sweep(true);
	ck_assert_uint_eq(res.dropped, 0);
	ck_assert_int_eq(fx_holds(grown, 2 * LARGE, 1), 0);
	ck_assert_int_eq(fx_inode(empty).data, INODE_DATA_NONE);
	ck_assert_int_eq(fx_holds(empty, 0, 1), 0);
	ck_assert_int_eq(fx_holds(fx_find(ROOT, "cut"), 0, 1), 0);
}
END_TEST

START_TEST(a_file_whose_pack_never_reached_the_disk_is_empty)
{
	uint64_t ino;

	fx_run_killed(leave_grown);
	ino = fx_find(ROOT, "grown");
	ck_assert_int_eq(unlink(fx_pack_path(ino).path), 0);
	sweep(true);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_NONE);
	ck_assert_uint_eq(fx_inode(ino).size, 0);
	ck_assert_int_eq(fx_holds(ino, 0, 1), 0);
	room_credit(fx.room, 2 * LARGE); /* of the file that we removed */
}
END_TEST

/* -- Orphans -------------------------------------------------------------- */

static void leave_orphans(void)
{
	static const char *const names[] = { "a", "b", "c" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		fx_open_file(fx_put(ROOT, names[i], LARGE, 1), 0);
		ck_assert_int_eq(fx_unlink(ROOT, names[i]), 0);
	}
	fx_open_file(fx_dir(ROOT, "d"), FILE_DIRECTORY);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	fx_checkpoint();
}

START_TEST(orphans_of_an_earlier_mount_are_removed)
{
	uint64_t charged;

	fx_run_killed(leave_orphans);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 4);
	ck_assert_uint_ge(fx.swept.pack_bytes, 3 * LARGE);
	charged = fx_charged();
	sweep(true);
	ck_assert_uint_eq(res.orphans, 4);
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
	ck_assert_uint_eq(fx_count(INDEX_INODE), 1);
	fx_checkpoint();
	ck_assert_uint_le(fx_charged(), charged - 3 * LARGE);
}
END_TEST

/* -- Errors --------------------------------------------------------------- */

START_TEST(on_a_frozen_index_nothing_is_swept)
{
	fx_run_killed(leave_writers);
	index_freeze(fx.kit.ix);
	ck_assert_int_eq(sweep_inodes(T, true, queue, NULL, &res), -EROFS);
	fx.hurt = true;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sweep");
	TCase *tc = fx_case(suite, "packs");

	tcase_add_test(tc, packs_that_no_inode_names_are_removed);
	tcase_add_test(tc, packs_of_what_a_restore_forgot_are_removed);
	tcase_add_test(tc, with_an_unreadable_inode_all_packs_are_kept);

	tc = fx_case(suite, "inodes");
	tcase_add_test(tc, a_store_that_was_closed_needs_only_the_ingest);
	tcase_add_test(
		tc, after_a_restore_files_of_pip_that_had_writers_are_dropped);
	tcase_add_test(tc,
		       after_a_restore_a_wheel_that_was_just_made_is_dropped);
	tcase_add_test(tc,
		       after_a_restore_files_of_pip_without_a_sum_are_dropped);
	tcase_add_test(
		tc, other_files_that_had_writers_are_as_large_as_their_packs);
	tcase_add_test(tc, a_file_whose_pack_never_reached_the_disk_is_empty);
	tcase_add_test(tc, orphans_of_an_earlier_mount_are_removed);
	tcase_add_test(tc, on_a_frozen_index_nothing_is_swept);
	return kit_run_suite(suite);
}
