/* SPDX-License-Identifier: MIT */
#include "store/stage.h"

#include <fcntl.h>

#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

static size_t inline_max(void)
{
	return index_leaf_max(fx.kit.ix) - RECORD_INLINE_HEAD;
}

/* -- Where bytes go ------------------------------------------------------- */

START_TEST(small_files_move_into_the_index_when_they_are_closed)
{
	uint64_t fits = fx_put(ROOT, "a", inline_max(), 1);
	uint64_t more = fx_put(ROOT, "b", inline_max() + 1, 2);
	uint64_t none = fx_put(ROOT, "c", 0, 3);

	ck_assert_int_eq(fx_inode(fits).data, INODE_DATA_INLINE);
	ck_assert_uint_eq(fx_inode(fits).alloc, 0);
	ck_assert_int_eq(fx_inode(more).data, INODE_DATA_PACK);
	ck_assert_uint_ge(fx_inode(more).alloc, inline_max() + 1);
	ck_assert_int_eq(fx_inode(none).data, INODE_DATA_NONE);
	ck_assert_uint_eq(fx.closed, 1);
	ck_assert_uint_eq(fx.last_closed, more);
	ck_assert_int_eq(fx_holds(fits, inline_max(), 1), 0);
	ck_assert_int_eq(fx_holds(more, inline_max() + 1, 2), 0);
	ck_assert_int_eq(fx_holds(none, 0, 3), 0);
}
END_TEST

START_TEST(a_file_that_grows_leaves_the_index_and_one_that_shrinks_comes_back)
{
	uint64_t ino = fx_put(ROOT, "f", 100, 1);

	fx_rewrite(ino, LARGE, 2);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_PACK);
	ck_assert_uint_eq(fx_count(INDEX_INLINE), 0);
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 50), 0);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_INLINE);
	ck_assert_int_eq(fx_holds(ino, 50, 2), 0);
}
END_TEST

START_TEST(readers_go_on_when_a_small_file_moves_into_the_index)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *writer = fx_open_file(ino, FILE_WRITE);
	struct store_file *reader = fx_open_file(ino, 0);

	ck_assert_int_eq(fx_write(writer, 100, 1), 0);
	fx_check_bytes(reader, 100, 1);
	file_close(writer);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_INLINE);
	fx_check_bytes(reader, 100, 1);
	fx_rewrite(ino, 200, 2);
	fx_check_bytes(reader, 200, 2);
	file_close(reader);
}
END_TEST

START_TEST(a_writer_is_flagged_until_its_close)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *a = fx_open_file(ino, FILE_WRITE);
	struct store_file *b = fx_open_file(ino, FILE_WRITE);

	ck_assert(!(fx_inode(ino).flags & INODE_WRITERS));
	ck_assert_int_eq(fx_write(a, 10, 2), 0);
	ck_assert(fx_inode(ino).flags & INODE_WRITERS);
	file_close(a);
	ck_assert(fx_inode(ino).flags & INODE_WRITERS);
	file_close(b);
	ck_assert(!(fx_inode(ino).flags & INODE_WRITERS));
}
END_TEST

/* -- In place or a copy --------------------------------------------------- */

START_TEST(what_no_checkpoint_names_is_changed_in_place)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t pack = fx_inode(ino).pack;

	fx_sum(ino);
	fx_rewrite(ino, LARGE, 2);
	ck_assert_uint_eq(fx_inode(ino).pack, pack);
	ck_assert(!(fx_inode(ino).flags & INODE_SUMMED));
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

START_TEST(what_a_checkpoint_names_is_copied_and_stays)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t pack = fx_inode(ino).pack;
	struct scratch old = fx_pack_path(ino);
	struct scratch_bytes bytes;
	struct store_file *f;

	fx_checkpoint();
	f = fx_open_file(ino, FILE_WRITE);
	ck_assert_int_eq(fileio_write(f, 0, "x", 1, false), 0);
	ck_assert_uint_ne(fx_inode(ino).pack, pack);
	file_close(f);
	bytes = scratch_read(old.path);
	ck_assert_uint_eq(bytes.len, LARGE);
	for (size_t i = 0; i < LARGE; i++)
		ck_assert_uint_eq(bytes.data[i], fx_byte(1, i));
	free(bytes.data);
	fx_checkpoint();
	ck_assert_int_eq(access(old.path, F_OK), -1);
}
END_TEST

START_TEST(a_checkpoint_between_two_writes_of_a_live_file_copies_nothing)
{
	uint64_t ino = fx_file(ROOT, "f"), pack;
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	pack = fx_inode(ino).pack;
	fx_checkpoint();
	ck_assert_int_eq(fx_write(f, LARGE, 2), 0);
	ck_assert_uint_eq(fx_inode(ino).pack, pack);
	fx_check_bytes(f, LARGE, 2);
	file_close(f);
	/* Closed and named: the next writer gets a copy. */
	fx_rewrite(ino, LARGE, 3);
	ck_assert_uint_ne(fx_inode(ino).pack, pack);
}
END_TEST

START_TEST(a_truncating_open_copies_nothing)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f;
	uint64_t charged;

	fx_checkpoint();
	charged = fx_charged();
	f = fx_open_file(ino, FILE_WRITE | FILE_TRUNCATE);
	ck_assert_uint_lt(fx_charged(), charged + LARGE);
	ck_assert_int_eq(fx_write(f, 10, 2), 0);
	file_close(f);
	ck_assert_int_eq(fx_holds(ino, 10, 2), 0);
}
END_TEST

START_TEST(a_reader_of_the_old_bytes_sees_the_new)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *reader;

	fx_checkpoint();
	reader = fx_open_file(ino, 0);
	fx_rewrite(ino, LARGE, 2);
	fx_check_bytes(reader, LARGE, 2);
	file_close(reader);
}
END_TEST

START_TEST(without_room_for_a_copy_a_file_stays_as_it_is)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f;

	fx_checkpoint();
	fx_fill_room(MIB);
	f = fx_open_file(ino, FILE_WRITE);
	ck_assert_int_eq(fileio_write(f, 0, "x", 1, false), -ENOSPC);
	file_close(f);
	ck_assert_int_eq(file_truncate(&fx.files, ino, LARGE + 1), -ENOSPC);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

/* Only what is kept is copied, and from what deletions have in reserve. */
START_TEST(a_file_shrinks_on_a_full_store)
{
	uint64_t named = fx_put(ROOT, "a", 8 * MIB, 1);
	uint64_t emptied = fx_put(ROOT, "b", LARGE, 2), fresh, in_index;

	in_index = fx_put(ROOT, "c", 100, 4);
	fx_checkpoint();
	fresh = fx_put(ROOT, "d", 8 * MIB, 3);
	fx_fill_room(MIB);
	ck_assert_int_eq(fx_try_make(ROOT, "new", S_IFREG, &(uint64_t){ 0 }),
			 -ENOSPC);
	ck_assert_int_eq(file_truncate(&fx.files, named, 100000), 0);
	ck_assert_int_eq(fx_holds(named, 100000, 1), 0);
	ck_assert_int_eq(file_truncate(&fx.files, fresh, 5 * MIB), 0);
	ck_assert_int_eq(fx_holds(fresh, 5 * MIB, 3), 0);
	ck_assert_int_eq(file_truncate(&fx.files, in_index, 50), 0);
	ck_assert_int_eq(fx_holds(in_index, 50, 4), 0);
	ck_assert_int_eq(fx_try_open(emptied, FILE_WRITE | FILE_TRUNCATE), 0);
	ck_assert_int_eq(fx_holds(emptied, 0, 2), 0);
}
END_TEST

/* The reserve is small: what would overrun it has to find room. */
START_TEST(a_large_part_that_is_kept_needs_room)
{
	uint64_t ino = fx_put(ROOT, "f", 16 * MIB, 1), charged;

	fx_checkpoint();
	charged = fx_charged();
	fx_fill_room(10 * MIB);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 16 * MIB - 1), -ENOSPC);
	ck_assert_int_eq(fx_holds(ino, 16 * MIB, 1), 0);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 4 * MIB), 0);
	ck_assert_int_eq(fx_holds(ino, 4 * MIB, 1), 0);
	fx_empty_room();
	fx_checkpoint();
	ck_assert_uint_le(fx_charged(), charged - 11 * MIB);
}
END_TEST

/* Whatever there is room for: some of the steps, or none. */
START_TEST(a_truncation_that_fails_leaves_the_bytes)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	uint64_t left, refused = 0;

	for (left = 16 * KIB; left < 3 * MIB; left += 16 * KIB) {
		fx_checkpoint();
		fx_fill_room(left);
		if (file_truncate(&fx.files, ino, 0) >= 0)
			break;
		refused++;
		ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
		fx_empty_room();
	}
	fx_empty_room();
	ck_assert_uint_gt(refused, 0);
	ck_assert_uint_lt(left, 3 * MIB);
	ck_assert_int_eq(fx_holds(ino, 0, 1), 0);
}
END_TEST

static int failing_ftruncate(int fd, off_t size)
{
	(void)fd;
	(void)size;
	errno = EIO;
	return -1;
}

START_TEST(an_opening_truncation_that_the_disk_refuses_leaves_the_bytes)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);

	/* In place: the disk is asked, and says no. */
	fx.io.ftruncate = failing_ftruncate;
	ck_assert_int_eq(fx_try_open(ino, FILE_WRITE | FILE_TRUNCATE), -EIO);
	fx.io.ftruncate = ftruncate;
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
	ck_assert_uint_eq(fx_inode(ino).size, LARGE);
}
END_TEST

START_TEST(a_file_that_got_an_empty_pack_is_empty_whatever_the_disk_says)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *f;

	fx_checkpoint();
	fx.io.ftruncate = failing_ftruncate;
	f = fx_open_file(ino, FILE_WRITE | FILE_TRUNCATE);
	fx.io.ftruncate = ftruncate;
	fx_check_bytes(f, 0, 1);
	file_close(f);
	ck_assert_int_eq(fx_holds(ino, 0, 1), 0);
}
END_TEST

/* Blocks that the file system took after the close, for extents or written
 * back late, are charged as soon as the file is live again. */
START_TEST(what_a_pack_took_since_its_close_is_charged)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct scratch pack = fx_pack_path(ino);
	uint64_t charged = fx_charged();
	struct store_file *f;
	cleanup_close int fd = open(pack.path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fallocate(fd, FALLOC_FL_KEEP_SIZE, MIB, 2 * MIB), 0);
	f = fx_open_file(ino, FILE_WRITE);
	ck_assert_int_eq(fx_write(f, 10, 2), 0);
	ck_assert_uint_ge(fx_charged(), charged + 2 * MIB);
	file_close(f);
	ck_assert_uint_lt(fx_charged(), charged + MIB);
}
END_TEST

/* -- A close that fails --------------------------------------------------- */

START_TEST(a_close_that_cannot_be_committed_is_told_and_made_up_for)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	fx_fill_room(1000);
	file_close(f);
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert_msg(strstr(fx.report, "closing inode") != NULL, "%s",
		      fx.report);
	ck_assert_uint_eq(fx.closed, 1);
	ck_assert_uint_eq(nodes_count(fx.nodes), 1);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
	ck_assert_uint_eq(fx.reports, 1);
	fx_empty_room();
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert_uint_eq(fx_inode(ino).size, LARGE);
}
END_TEST

START_TEST(a_close_that_the_disk_refuses_is_made_up_for)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, 100, 1), 0);
	fx.io.ftruncate = failing_ftruncate;
	file_close(f);
	fx.io.ftruncate = ftruncate;
	fx.io.pread = fx_failing_pread;
	ck_assert_int_eq(fx_try_open(ino, 0), 0);
	fx.io.pread = pread;
	ck_assert_uint_eq(nodes_count(fx.nodes), 1);
	ck_assert_int_eq(fx_try_open(ino, 0), 0);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_INLINE);
	ck_assert_int_eq(fx_holds(ino, 100, 1), 0);
}
END_TEST

START_TEST(an_unlinked_file_whose_close_failed_goes_in_the_end)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	fx.io.ftruncate = failing_ftruncate;
	file_close(f);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	fx.io.ftruncate = ftruncate;
	ck_assert_int_eq(fx_try_open(ino, 0), 0);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(on_a_frozen_index_written_bytes_stay_readable)
{
	uint64_t ino = fx_file(ROOT, "f"), other = fx_put(ROOT, "g", LARGE, 2);
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	index_freeze(fx.kit.ix);
	file_close(f);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
	ck_assert_int_eq(fx_try_open(other, FILE_WRITE), 0);
	ck_assert_int_eq(file_truncate(&fx.files, other, 0), -EROFS);
	ck_assert_int_eq(fx_holds(other, LARGE, 2), 0);
	fx.hurt = true; /* the node of the close that failed is left */
}
END_TEST

static void add_staging(TCase *tc)
{
	tcase_add_test(tc, what_no_checkpoint_names_is_changed_in_place);
	tcase_add_test(tc, what_a_checkpoint_names_is_copied_and_stays);
	tcase_add_test(
		tc,
		a_checkpoint_between_two_writes_of_a_live_file_copies_nothing);
	tcase_add_test(tc, a_truncating_open_copies_nothing);
	tcase_add_test(tc, a_reader_of_the_old_bytes_sees_the_new);
	tcase_add_test(tc, without_room_for_a_copy_a_file_stays_as_it_is);
	tcase_add_test(tc, a_file_shrinks_on_a_full_store);
	tcase_add_test(tc, a_large_part_that_is_kept_needs_room);
	tcase_add_test(tc, a_truncation_that_fails_leaves_the_bytes);
	tcase_add_test(
		tc,
		an_opening_truncation_that_the_disk_refuses_leaves_the_bytes);
	tcase_add_test(
		tc,
		a_file_that_got_an_empty_pack_is_empty_whatever_the_disk_says);
	tcase_add_test(tc, what_a_pack_took_since_its_close_is_charged);
}

int main(void)
{
	Suite *suite = suite_create("stage");
	TCase *tc;

	tc = fx_case(suite, "place");
	tcase_add_test(tc,
		       small_files_move_into_the_index_when_they_are_closed);
	tcase_add_test(
		tc,
		a_file_that_grows_leaves_the_index_and_one_that_shrinks_comes_back);
	tcase_add_test(tc,
		       readers_go_on_when_a_small_file_moves_into_the_index);
	tcase_add_test(tc, a_writer_is_flagged_until_its_close);
	add_staging(fx_case(suite, "staging"));

	tc = fx_case(suite, "close");
	tcase_add_test(
		tc, a_close_that_cannot_be_committed_is_told_and_made_up_for);
	tcase_add_test(tc, a_close_that_the_disk_refuses_is_made_up_for);
	tcase_add_test(tc, an_unlinked_file_whose_close_failed_goes_in_the_end);
	tcase_add_test(tc, on_a_frozen_index_written_bytes_stay_readable);
	return kit_run_suite(suite);
}
