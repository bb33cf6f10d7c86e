/* SPDX-License-Identifier: MIT */
#include "store/file.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

/* -- Opening -------------------------------------------------------------- */

START_TEST(each_kind_of_inode_is_opened_as_what_it_is)
{
	uint64_t file = fx_file(ROOT, "f");
	uint64_t fifo = fx_make(ROOT, "p", S_IFIFO | 0600);

	ck_assert_int_eq(fx_try_open(file, 0), 0);
	ck_assert_int_eq(fx_try_open(file, FILE_DIRECTORY), -ENOTDIR);
	ck_assert_int_eq(fx_try_open(ROOT, 0), -EISDIR);
	ck_assert_int_eq(fx_try_open(ROOT, FILE_WRITE), -EISDIR);
	ck_assert_int_eq(fx_try_open(ROOT, FILE_DIRECTORY), 0);
	ck_assert_int_eq(fx_try_open(fifo, 0), -ENXIO);
	ck_assert_int_eq(fx_try_open(4711, 0), -ESTALE);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
}
END_TEST

START_TEST(a_hit_is_a_body_opened_for_reading)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_put(dir, FX_HASH, 100, 1);
	uint64_t body = fx_put(dir, FX_HASH ".body", LARGE, 2);
	struct entry_rec en;

	ck_assert_int_eq(fx_try_open(head, 0), 0);
	ck_assert_int_eq(fx_try_open(body, FILE_WRITE), 0);
	ck_assert_int_eq(fx_try_open(body, FILE_QUIET), 0);
	ck_assert_uint_eq(fx.tree.hits, 0);
	ck_assert_int_eq(fx_try_open(body, 0), 0);
	ck_assert_uint_eq(fx.tree.hits, 1);
	fx_checkpoint();
	ck_assert(fx_entry(fx_inode(body).entry, &en));
	ck_assert_uint_eq(en.hits, 1);
}
END_TEST

START_TEST(only_an_open_that_is_not_ours_counts_as_a_use)
{
	uint64_t ino = fx_put(fx_dirs(FX_HASH_DIRS), FX_HASH, 100, 1);
	uint64_t entry = fx_inode(ino).entry;
	struct entry_rec en;

	fx_checkpoint();
	fx_age(entry, 1000);
	ck_assert(fx_entry(entry, &en));
	ck_assert_int_eq(fx_try_open(ino, FILE_QUIET), 0);
	ck_assert_int_eq(entry_last_use(fx.entries, entry, &en),
			 en.last_use_ns);
	ck_assert_int_eq(fx_try_open(ino, 0), 0);
	ck_assert_int_gt(entry_last_use(fx.entries, entry, &en),
			 en.last_use_ns);
}
END_TEST

/* -- Truncation and attributes -------------------------------------------- */

START_TEST(truncate_shrinks_grows_and_has_a_limit)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct fileio_read rd;
	struct store_file *f;
	uint8_t buf[100];

	ck_assert_int_eq(file_truncate(&fx.files, ino, 50000), 0);
	ck_assert_int_eq(fx_holds(ino, 50000, 1), 0);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 50100), 0);
	f = fx_open_file(ino, 0);
	ck_assert_int_eq(fileio_read_begin(f, 50000, 200, &rd), 0);
	ck_assert_uint_eq(rd.len, 100);
	ck_assert_int_eq(pack_read(rd.pack, buf, 100, rd.pos), 100);
	for (size_t i = 0; i < sizeof(buf); i++)
		ck_assert_uint_eq(buf[i], 0);
	fileio_read_end(&rd);
	file_close(f);
	ck_assert_int_eq(file_truncate(&fx.files, ino, GIB + 1), -EFBIG);
	ck_assert_int_eq(file_truncate(&fx.files, ROOT, 0), -EISDIR);
	ck_assert_int_eq(file_truncate(&fx.files, 4711, 0), -ESTALE);
	ck_assert_uint_eq(fx_inode(ino).size, 50100);
}
END_TEST

START_TEST(attributes_of_a_live_file_are_those_of_its_writer)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);
	struct inode in;

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	in = fx_inode(ino);
	ck_assert_uint_eq(in.size, 0);
	file_overlay(&fx.files, &in);
	ck_assert_uint_eq(in.size, LARGE);
	ck_assert_uint_ge(in.alloc, LARGE);
	ck_assert_int_eq(in.mtime_ns, f->nd->mtime_ns);
	file_close(f);
	/* What was read before the close is laid over by what is now. */
	in.size = 0;
	file_overlay(&fx.files, &in);
	ck_assert_uint_eq(in.size, LARGE);
}
END_TEST

START_TEST(a_time_set_by_hand_outlives_the_close)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);
	const struct inode from = { .mtime_ns = 12345 };
	struct inode in;

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	ck_assert_int_eq(
		file_setattr(&fx.files, ino, &from, TREE_SET_MTIME, &in), 0);
	file_close(f);
	ck_assert_int_eq(fx_inode(ino).mtime_ns, 12345);
}
END_TEST

START_TEST(what_was_allocated_ahead_goes_when_the_time_is_set)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, FILE_WRITE);
	const struct inode from = { .mtime_ns = 12345 };
	struct inode in;

	ck_assert_int_eq(fx_write(f, LARGE, 1), 0);
	ck_assert_int_eq(fileio_write(f, LARGE, "x", 1, false), 0);
	ck_assert_uint_gt(f->nd->disk, LARGE + STAGE_SLACK_BYTES);
	ck_assert_int_eq(
		file_setattr(&fx.files, ino, &from, TREE_SET_MTIME, &in), 0);
	ck_assert_uint_lt(f->nd->disk, LARGE + STAGE_SLACK_BYTES);
	file_close(f);
	ck_assert_uint_lt(fx_inode(ino).alloc, LARGE + STAGE_SLACK_BYTES);
}
END_TEST

/* -- Wrong bytes ---------------------------------------------------------- */

/* A pair of a header and a summed body, as the next mount finds it. */
static uint64_t put_summed_pair(void)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS), body;

	fx_put(dir, FX_HASH, 100, 1);
	body = fx_put(dir, FX_HASH ".body", LARGE, 2);
	fx_sum(body);
	fx_reopen();
	return body;
}

static void expect_dropped(uint64_t body)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);

	ck_assert_int_eq(fx_try_open(body, 0), -ENOENT);
	ck_assert_uint_eq(fx.files.damaged, 1);
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert_msg(strstr(fx.report, "is damaged") != NULL, "%s", fx.report);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	ck_assert_uint_eq(fx.tree.hits, 0);
	ck_assert_int_eq(fx_try_open(body, 0), -ESTALE);
}

static void write_at(const char *path, off_t off, char byte)
{
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);

	ck_assert_int_eq(pwrite(fd, &byte, 1, off), 1);
}

START_TEST(right_bytes_are_verified_once)
{
	uint64_t body = put_summed_pair();

	ck_assert(!file_verified(&fx.files, body));
	ck_assert_int_eq(fx_holds(body, LARGE, 2), 0);
	ck_assert(file_verified(&fx.files, body));
	ck_assert_uint_eq(fx.files.damaged, 0);
}
END_TEST

START_TEST(a_changed_byte_is_a_miss_and_takes_the_pair_along)
{
	uint64_t body = put_summed_pair();

	write_at(fx_pack_path(body).path, LARGE - 1, 'x');
	expect_dropped(body);
}
END_TEST

START_TEST(a_missing_pack_is_a_miss)
{
	uint64_t body = put_summed_pair();

	ck_assert_int_eq(unlink(fx_pack_path(body).path), 0);
	expect_dropped(body);
}
END_TEST

START_TEST(a_short_pack_is_a_miss_even_without_a_sum)
{
	uint64_t body = put_summed_pair();
	struct inode in = fx_inode(body);

	in.flags &= ~(uint32_t)INODE_SUMMED;
	fx_put_inode(&in);
	ck_assert_int_eq(truncate(fx_pack_path(body).path, LARGE - 1), 0);
	expect_dropped(body);
}
END_TEST

START_TEST(damaged_inline_bytes_are_a_miss)
{
	uint64_t ino = fx_put(ROOT, "f", 5, 1);
	uint8_t val[RECORD_INLINE_HEAD + 5] = { 0 };
	struct record_key key = record_key_id(ino);

	for (size_t len = sizeof(val) - 1; len <= sizeof(val); len++) {
		struct index_txn *txn = kit_begin(&fx.kit);

		ck_assert_int_eq(
			index_put(txn, INDEX_INLINE, &key, val, len, false), 0);
		ck_assert_int_eq(index_commit(txn), 0);
		ck_assert_int_eq(fx_try_open(ino, 0), -ENOENT);
		ck_assert(fx_gone(ino));
		ino = fx_put(ROOT, "f", 5, 1);
		key = record_key_id(ino);
	}
	ck_assert_uint_eq(fx.files.damaged, 2);
}
END_TEST

START_TEST(an_open_that_truncates_does_not_look_at_wrong_bytes)
{
	uint64_t body = put_summed_pair();

	write_at(fx_pack_path(body).path, 0, 'x');
	ck_assert_int_eq(fx_try_open(body, FILE_WRITE | FILE_TRUNCATE), 0);
	ck_assert_uint_eq(fx.files.damaged, 0);
	ck_assert_int_eq(fx_holds(body, 0, 0), 0);
}
END_TEST

/* -- When the disk refuses ------------------------------------------------ */

static int failing_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
	(void)dir_fd;
	(void)path;
	(void)flags;
	(void)mode;
	errno = EMFILE;
	return -1;
}

START_TEST(a_pack_that_cannot_be_opened_now_is_no_damage)
{
	uint64_t body = put_summed_pair();

	fx.io.openat = failing_openat;
	ck_assert_int_eq(fx_try_open(body, 0), -EMFILE);
	fx.io.openat = pack_io_real.openat;
	ck_assert_uint_eq(fx.files.damaged, 0);
	ck_assert_int_eq(fx_holds(body, LARGE, 2), 0);
}
END_TEST

START_TEST(bytes_that_cannot_be_read_are_a_miss)
{
	uint64_t body = put_summed_pair();

	fx.io.pread = fx_failing_pread;
	expect_dropped(body);
}
END_TEST

/* -- Orphans -------------------------------------------------------------- */

START_TEST(an_unlinked_file_lives_on_until_its_last_writer_is_gone)
{
	uint64_t ino = fx_put(ROOT, "f", LARGE, 1);
	struct store_file *writer = fx_open_file(ino, FILE_WRITE);
	struct store_file *reader = fx_open_file(ino, 0);

	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert_int_eq(fx_write(writer, LARGE, 2), 0);
	file_close(writer);
	fx_check_bytes(reader, LARGE, 2);
	ck_assert_uint_eq(fx_inode(ino).nlink, 0);
	file_close(reader);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(a_small_file_unlinked_while_it_is_written_goes_at_its_close)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *writer = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(writer, 100, 1), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	file_close(writer);
	ck_assert(fx_gone(ino));
	ck_assert_uint_eq(fx_count(INDEX_INLINE), 0);
}
END_TEST

START_TEST(no_more_verified_files_are_remembered_than_memory_is_given_for)
{
	uint64_t ino;

	for (ino = 1; ino <= FILE_VERIFIED_MAX + 10; ino++)
		file_set_verified(&fx.files, ino);
	ck_assert(file_verified(&fx.files, FILE_VERIFIED_MAX + 1));
	ck_assert_uint_le(fx.files.verified.used, FILE_VERIFIED_MAX);
	ck_assert_uint_le(fx.files.verified.size, 2 * FILE_VERIFIED_MAX);
}
END_TEST

static void add_damage(TCase *tc)
{
	tcase_add_test(
		tc,
		no_more_verified_files_are_remembered_than_memory_is_given_for);
	tcase_add_test(tc, right_bytes_are_verified_once);
	tcase_add_test(tc, a_changed_byte_is_a_miss_and_takes_the_pair_along);
	tcase_add_test(tc, a_missing_pack_is_a_miss);
	tcase_add_test(tc, a_short_pack_is_a_miss_even_without_a_sum);
	tcase_add_test(tc, damaged_inline_bytes_are_a_miss);
	tcase_add_test(tc, an_open_that_truncates_does_not_look_at_wrong_bytes);
	tcase_add_test(tc, a_pack_that_cannot_be_opened_now_is_no_damage);
	tcase_add_test(tc, bytes_that_cannot_be_read_are_a_miss);
}

int main(void)
{
	Suite *suite = suite_create("file");
	TCase *tc = fx_case(suite, "open");

	tcase_add_test(tc, each_kind_of_inode_is_opened_as_what_it_is);
	tcase_add_test(tc, a_hit_is_a_body_opened_for_reading);
	tcase_add_test(tc, only_an_open_that_is_not_ours_counts_as_a_use);

	tc = fx_case(suite, "attributes");
	tcase_add_test(tc, truncate_shrinks_grows_and_has_a_limit);
	tcase_add_test(tc, attributes_of_a_live_file_are_those_of_its_writer);
	tcase_add_test(tc, a_time_set_by_hand_outlives_the_close);
	tcase_add_test(tc, what_was_allocated_ahead_goes_when_the_time_is_set);
	add_damage(fx_case(suite, "damage"));

	tc = fx_case(suite, "orphans");
	tcase_add_test(tc,
		       an_unlinked_file_lives_on_until_its_last_writer_is_gone);
	tcase_add_test(
		tc,
		a_small_file_unlinked_while_it_is_written_goes_at_its_close);
	return kit_run_suite(suite);
}
