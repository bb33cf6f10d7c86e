/* SPDX-License-Identifier: MIT */
#include "store/fileio.h"

#include "fixture.h"
#include "store/evict.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

static struct store_file *f; /* open for writing, empty */
static uint64_t ino;

static void setup(void)
{
	fx_setup();
	ino = fx_file(ROOT, "f");
	f = fx_open_file(ino, FILE_WRITE);
}

static void teardown(void)
{
	if (f)
		file_close(f);
	f = NULL;
	fx_teardown();
}

static void close_file(void)
{
	file_close(f);
	f = NULL;
}

static int put(uint64_t off, const char *text)
{
	return fileio_write(f, off, text, strlen(text), false);
}

/* @len bytes from @off on as text, holes as '.'. */
static const char *get(struct store_file *from, uint64_t off, size_t len)
{
	static char buf[256];
	struct fileio_read rd;

	ck_assert_int_eq(fileio_read_begin(from, off, len, &rd), 0);
	if (rd.pack)
		ck_assert_int_eq(pack_read(rd.pack, buf, rd.len, rd.pos),
				 rd.len);
	else if (rd.mem)
		memcpy(buf, rd.mem, rd.len);
	for (size_t i = 0; i < rd.len; i++)
		if (!buf[i])
			buf[i] = '.';
	buf[rd.len] = '\0';
	fileio_read_end(&rd);
	return buf;
}

/* -- Reading and writing -------------------------------------------------- */

START_TEST(bytes_come_back_where_they_were_written)
{
	ck_assert_int_eq(put(5, "hello"), 0);
	ck_assert_str_eq(get(f, 0, 100), ".....hello");
	ck_assert_int_eq(put(0, "abc"), 0);
	ck_assert_int_eq(put(9, "0 there"), 0);
	ck_assert_str_eq(get(f, 0, 100), "abc..hell0 there");
	ck_assert_str_eq(get(f, 10, 3), " th");
	ck_assert_str_eq(get(f, 16, 10), "");
	ck_assert_str_eq(get(f, 1000, 10), "");
	close_file();
	f = fx_open_file(ino, 0);
	ck_assert_str_eq(get(f, 0, 100), "abc..hell0 there");
	ck_assert_str_eq(get(f, 14, 10), "re");
	ck_assert_str_eq(get(f, UINT64_MAX, 10), "");
}
END_TEST

START_TEST(what_cannot_be_written_is_refused)
{
	struct store_file *reader = fx_open_file(ino, 0);
	struct store_file *dir = fx_open_file(ROOT, FILE_DIRECTORY);
	struct fileio_read rd;

	ck_assert_int_eq(fileio_write(reader, 0, "x", 1, false), -EBADF);
	ck_assert_int_eq(fileio_write(dir, 0, "x", 1, false), -EBADF);
	ck_assert_int_eq(fileio_read_begin(dir, 0, 1, &rd), -EISDIR);
	ck_assert_int_eq(put(GIB, "x"), -EFBIG);
	ck_assert_int_eq(put(GIB - 1, "xx"), -EFBIG);
	ck_assert_int_eq(put(UINT64_MAX, "x"), -EFBIG);
	ck_assert_int_eq(put(INT64_MAX, "x"), -EFBIG);
	ck_assert_int_eq(put(10, ""), 0);
	ck_assert_uint_eq(f->nd->size, 0);
	ck_assert(!(fx_inode(ino).flags & INODE_WRITERS));
	ck_assert_int_eq(put(GIB - 1, "x"), 0);
	ck_assert_uint_eq(f->nd->size, GIB);
	file_close(reader);
	file_close(dir);
}
END_TEST

START_TEST(many_small_appends_make_one_file)
{
	uint8_t buf[7000];

	fx_fill(buf, sizeof(buf), 1);
	for (size_t i = 0; i < sizeof(buf); i += 7)
		ck_assert_int_eq(fileio_write(f, i, buf + i, 7, false), 0);
	fx_check_bytes(f, sizeof(buf), 1);
	close_file();
	ck_assert_int_eq(fx_holds(ino, sizeof(buf), 1), 0);
}
END_TEST

START_TEST(what_was_allocated_ahead_is_given_back_at_the_close)
{
	uint8_t buf[65536] = { 1 };
	uint64_t alloc;

	for (size_t i = 0; i < 33; i++)
		ck_assert_int_eq(fileio_write(f, i * sizeof(buf), buf,
					      sizeof(buf), false),
				 0);
	alloc = f->nd->disk;
	close_file();
	ck_assert_uint_le(fx_inode(ino).alloc, alloc);
	ck_assert_uint_le(fx_inode(ino).alloc, 33 * sizeof(buf) + 64 * KIB);
	invariants_room();
}
END_TEST

START_TEST(a_file_of_holes_takes_no_room)
{
	uint64_t charged = fx_charged();

	ck_assert_int_eq(put(500 * MIB, "x"), 0);
	ck_assert_uint_lt(fx_charged(), charged + MIB);
	ck_assert_uint_eq(f->nd->size, 500 * MIB + 1);
}
END_TEST

/* What is acknowledged then could never be kept. */
START_TEST(on_a_frozen_index_nothing_more_is_written)
{
	uint64_t large = fx_put(ROOT, "l", LARGE, 2), charged;
	struct store_file *from = fx_open_file(large, 0);

	ck_assert_int_eq(put(0, "abc"), 0);
	charged = fx_charged();
	index_freeze(fx.kit.ix);
	ck_assert_int_eq(put(0, "def"), -EROFS);
	ck_assert_int_eq(put(3, "def"), -EROFS);
	ck_assert_int_eq(fileio_fallocate(f, 0, 0, LARGE), -EROFS);
	ck_assert_int_eq(fileio_copy(from, 0, f, 0, LARGE), -EROFS);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 1), -EROFS);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 0), -EROFS);
	ck_assert_int_eq(file_truncate(&fx.files, ino, 10), -EROFS);
	ck_assert_int_eq(fx_try_open(ino, FILE_WRITE | FILE_TRUNCATE), -EROFS);
	ck_assert_str_eq(get(f, 0, 10), "abc");
	ck_assert_uint_eq(fx_charged(), charged);
	file_close(from);
	fx.hurt = true; /* the node of the close that fails is left */
}
END_TEST

/* -- Without room --------------------------------------------------------- */

START_TEST(without_room_nothing_is_written_and_nothing_charged)
{
	uint8_t buf[10000] = { 1 };
	uint64_t charged;

	ck_assert_int_eq(put(0, "abc"), 0);
	fx_fill_room(MIB);
	charged = fx_charged();
	ck_assert_int_eq(fileio_write(f, 3, buf, sizeof(buf), false), -ENOSPC);
	ck_assert_uint_eq(fx_charged(), charged);
	ck_assert_uint_eq(f->nd->size, 3);
	ck_assert_int_eq(fileio_fallocate(f, 0, 0, LARGE), -ENOSPC);
	ck_assert_uint_eq(fx_charged(), charged);
	close_file();
	f = fx_open_file(ino, 0);
	ck_assert_str_eq(get(f, 0, 10), "abc");
}
END_TEST

START_TEST(what_a_mapping_could_not_write_back_is_dropped_at_the_close)
{
	struct store_file *reader = fx_open_file(ino, 0);

	ck_assert_int_eq(put(0, "abc"), 0);
	fx_fill_room(MIB);
	ck_assert_int_eq(fileio_write(f, 3, "def", 3, true), -ENOSPC);
	close_file();
	ck_assert_uint_eq(fx_find(ROOT, "f"), 0);
	ck_assert_str_eq(get(reader, 0, 10), "abc");
	file_close(reader);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(an_error_that_the_caller_is_told_of_drops_nothing)
{
	ck_assert_int_eq(put(0, "abc"), 0);
	fx_fill_room(MIB);
	ck_assert_int_eq(fileio_write(f, 3, "def", 3, false), -ENOSPC);
	close_file();
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
}
END_TEST

/* -- When the disk refuses ------------------------------------------------ */

static unsigned refusals; /* of pwrite to come, */
static int refusal;	  /* with this errno */

static ssize_t refusing_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (!refusals)
		return pwrite(fd, buf, len, off);
	refusals--;
	errno = refusal;
	return -1;
}

static void refuse(unsigned n, int error)
{
	refusals = n;
	refusal = error;
	fx.io.pwrite = refusing_pwrite;
}

static struct evict *start_evictor(int64_t grace_sec)
{
	struct evict_config cfg = {
		.t = T, .gc = fx.gc, .cp = fx.kit.cp, .grace_sec = grace_sec
	};
	struct evict *ev = NULL;

	ck_assert_int_eq(evict_start(&cfg, &ev), 0);
	return ev;
}

static uint64_t put_old_body(void)
{
	uint64_t body =
		fx_put(fx_dirs(FX_HASH_DIRS), FX_HASH ".body", 2 * MIB, 1);

	fx_age(fx_inode(body).entry, 100000);
	return body;
}

START_TEST(a_full_disk_makes_the_evictor_free_as_much_and_the_write_go_on)
{
	struct evict *ev = start_evictor(600);
	uint64_t body = put_old_body();

	refuse(1, ENOSPC);
	ck_assert_int_eq(fx_write(f, LARGE, 2), 0);
	ck_assert_uint_eq(refusals, 0);
	fx_check_bytes(f, LARGE, 2);
	evict_stop(ev);
	ck_assert(fx_gone(body));
}
END_TEST

START_TEST(a_disk_that_stays_full_fails_the_write)
{
	struct evict *ev = start_evictor(600);

	ck_assert_int_eq(fx_write(f, LARGE, 2), 0);
	put_old_body();
	refuse(UINT_MAX, ENOSPC);
	ck_assert_int_eq(put(LARGE, "abc"), -ENOSPC);
	ck_assert_uint_eq(UINT_MAX - refusals, 2);
	fx.io.pwrite = pwrite;
	fx_check_bytes(f, LARGE, 2);
	evict_stop(ev);
}
END_TEST

START_TEST(a_write_error_is_not_tried_again)
{
	struct evict *ev = start_evictor(0);
	uint64_t body = put_old_body();

	refuse(UINT_MAX, EIO);
	ck_assert_int_eq(put(0, "abc"), -EIO);
	ck_assert_uint_eq(UINT_MAX - refusals, 1);
	evict_stop(ev);
	ck_assert_int_eq(fx_holds(body, 2 * MIB, 1), 0);
}
END_TEST

/* Then the cache serves hits and stores nothing: it must not be emptied for
 * writes that are refused all the same. */
START_TEST(on_a_disk_fuller_than_min_free_nothing_is_evicted_for_a_write)
{
	struct evict *ev = start_evictor(0);
	uint64_t body = put_old_body();

	room_set_limit(fx.room, FX_LIMIT, 0, 100 * MIB);
	fx.disk_free = (int64_t)(50 * MIB);
	ck_assert_int_eq(put(0, "abc"), -ENOSPC);
	evict_stop(ev);
	ck_assert_int_eq(fx_holds(body, 2 * MIB, 1), 0);
	fx.disk_free = INT64_MAX;
}
END_TEST

START_TEST(a_copy_that_fails_leaves_the_file_as_it_was)
{
	uint64_t small = fx_put(ROOT, "g", 100, 1), charged;

	fx_checkpoint();
	charged = fx_charged();
	close_file();
	f = fx_open_file(small, FILE_WRITE);
	refuse(UINT_MAX, EIO);
	ck_assert_int_eq(put(0, "abc"), -EIO);
	ck_assert_uint_le(fx_charged(), charged + 64 * KIB);
	close_file();
	ck_assert_int_eq(fx_holds(small, 100, 1), 0);
}
END_TEST

/* -- Allocation, holes, copies -------------------------------------------- */

START_TEST(fallocate_follows_its_modes)
{
	ck_assert_int_eq(put(0, "0123456789"), 0);
	ck_assert_int_eq(fileio_fallocate(f, FALLOC_FL_KEEP_SIZE, 0, LARGE), 0);
	ck_assert_uint_eq(f->nd->size, 10);
	ck_assert_uint_ge(f->nd->disk, LARGE);
	ck_assert_int_eq(fileio_fallocate(f, 0, 0, 12), 0);
	ck_assert_str_eq(get(f, 0, 20), "0123456789..");
	ck_assert_int_eq(
		fileio_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 2, 3),
		0);
	ck_assert_str_eq(get(f, 0, 20), "01...56789..");
	ck_assert_int_eq(fileio_fallocate(f, FALLOC_FL_ZERO_RANGE, 8, 10), 0);
	ck_assert_str_eq(get(f, 0, 20), "01...567..........");
	ck_assert_int_eq(put(2, "x"), 0);
	ck_assert_str_eq(get(f, 0, 6), "01x..5");
}
END_TEST

START_TEST(fallocate_refuses_what_it_cannot_do)
{
	struct store_file *reader = fx_open_file(ino, 0);

	ck_assert_int_eq(fileio_fallocate(reader, 0, 0, 1), -EBADF);
	ck_assert_int_eq(fileio_fallocate(f, FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
			 -EOPNOTSUPP);
	ck_assert_int_eq(fileio_fallocate(f, FALLOC_FL_PUNCH_HOLE, 0, 1),
			 -EOPNOTSUPP);
	ck_assert_int_eq(fileio_fallocate(f, 0, 0, 0), -EINVAL);
	ck_assert_int_eq(fileio_fallocate(f, 0, UINT64_MAX, 1), -EINVAL);
	ck_assert_int_eq(fileio_fallocate(f, 0, 0, GIB + 1), -EFBIG);
	ck_assert_uint_eq(f->nd->size, 0);
	file_close(reader);
}
END_TEST

START_TEST(data_and_holes_are_found)
{
	ck_assert_int_eq(put(MIB, "x"), 0);
	ck_assert_int_eq(fileio_seek(f, 0, SEEK_HOLE), 0);
	ck_assert_int_ge(fileio_seek(f, 0, SEEK_DATA), MIB - 64 * KIB);
	ck_assert_int_eq(fileio_seek(f, MIB, SEEK_DATA), MIB);
	ck_assert_int_eq(fileio_seek(f, MIB, SEEK_HOLE), MIB + 1);
	ck_assert_int_eq(fileio_seek(f, MIB + 1, SEEK_DATA), -ENXIO);
	ck_assert_int_eq(fileio_seek(f, -1, SEEK_DATA), -ENXIO);
}
END_TEST

START_TEST(an_inline_file_is_data_up_to_its_end)
{
	ck_assert_int_eq(put(0, "abc"), 0);
	close_file();
	f = fx_open_file(ino, 0);
	ck_assert_int_eq(fileio_seek(f, 1, SEEK_DATA), 1);
	ck_assert_int_eq(fileio_seek(f, 1, SEEK_HOLE), 3);
	ck_assert_int_eq(fileio_seek(f, 3, SEEK_HOLE), -ENXIO);
}
END_TEST

START_TEST(bytes_are_copied_from_the_index_and_from_packs)
{
	uint64_t small = fx_put(ROOT, "s", 100, 1);
	uint64_t large = fx_put(ROOT, "l", LARGE, 2);
	struct store_file *from = fx_open_file(small, 0);

	ck_assert_int_eq(fileio_copy(from, 0, f, 0, 1000), 100);
	fx_check_bytes(f, 100, 1);
	ck_assert_int_eq(fileio_copy(from, 100, f, 0, 10), 0);
	ck_assert_int_eq(fileio_copy(f, 0, from, 0, 10), -EBADF);
	file_close(from);
	from = fx_open_file(large, 0);
	ck_assert_int_eq(fileio_copy(from, 0, f, 0, LARGE), LARGE);
	fx_check_bytes(f, LARGE, 2);
	ck_assert_int_eq(fileio_copy(from, 0, f, GIB, 1), -EFBIG);
	file_close(from);
	close_file();
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

START_TEST(a_file_can_be_copied_onto_itself)
{
	ck_assert_int_eq(put(0, "abcdef"), 0);
	ck_assert_int_eq(fileio_copy(f, 0, f, 4, 6), 6);
	ck_assert_str_eq(get(f, 0, 20), "abcdabcdef");
	close_file();
	fx_checkpoint();
	f = fx_open_file(ino, FILE_WRITE);
	ck_assert_int_eq(fileio_copy(f, 4, f, 0, 2), 2);
	ck_assert_str_eq(get(f, 0, 20), "abcdabcdef");
	ck_assert_int_eq(fileio_copy(f, 8, f, 0, 2), 2);
	ck_assert_str_eq(get(f, 0, 20), "efcdabcdef");
}
END_TEST

static uint64_t allocated; /* where the last preallocation ended */

static int noting_fallocate(int fd, int mode, off_t off, off_t len)
{
	if (mode == FALLOC_FL_KEEP_SIZE)
		allocated = (uint64_t)(off + len);
	return fallocate(fd, mode, off, len);
}

/* So that no file system allocates more than what is charged. */
START_TEST(what_is_copied_is_allocated_before)
{
	uint64_t large = fx_put(ROOT, "l", LARGE, 2);
	struct store_file *from = fx_open_file(large, 0);

	fx.io.fallocate = noting_fallocate;
	ck_assert_int_eq(fileio_copy(from, 0, f, 0, 50000), 50000);
	ck_assert_uint_eq(allocated, 50000);
	ck_assert_uint_eq(f->nd->alloc_end, 50000);
	ck_assert_int_eq(fileio_copy(from, 50000, f, 50000, LARGE),
			 LARGE - 50000);
	ck_assert_uint_eq(allocated, LARGE);
	fx_check_bytes(f, LARGE, 2);
	/* A source that ends early leaves nothing behind that is charged. */
	ck_assert_uint_le(f->nd->disk, LARGE + 64 * KIB);
	file_close(from);
}
END_TEST

/* -- Threads -------------------------------------------------------------- */

#define PIECES 200
#define PIECE 1000

static void *write_pieces(void *arg)
{
	uint8_t buf[PIECE];
	struct store_file *mine = fx_open_file(ino, FILE_WRITE);
	unsigned failed = 0;

	for (size_t i = (uintptr_t)arg; i < PIECES; i += 2) {
		for (size_t n = 0; n < PIECE; n++)
			buf[n] = fx_byte(1, i * PIECE + n);
		failed += fileio_write(mine, i * PIECE, buf, PIECE, false) < 0;
	}
	file_close(mine);
	return (void *)(uintptr_t)failed;
}

START_TEST(two_writers_make_one_file_across_checkpoints)
{
	pthread_t threads[2];
	void *failed;

	for (uintptr_t i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_pieces,
						(void *)i),
				 0);
	for (int i = 0; i < 5; i++)
		fx_checkpoint();
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], &failed);
		ck_assert_ptr_null(failed);
	}
	close_file();
	ck_assert_int_eq(fx_holds(ino, PIECES * PIECE, 1), 0);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, setup, teardown);
}

static void add_refusals(TCase *tc)
{
	tcase_add_test(
		tc,
		a_full_disk_makes_the_evictor_free_as_much_and_the_write_go_on);
	tcase_add_test(tc, a_disk_that_stays_full_fails_the_write);
	tcase_add_test(tc, a_write_error_is_not_tried_again);
	tcase_add_test(
		tc,
		on_a_disk_fuller_than_min_free_nothing_is_evicted_for_a_write);
	tcase_add_test(tc, a_copy_that_fails_leaves_the_file_as_it_was);
}

int main(void)
{
	Suite *suite = suite_create("fileio");
	TCase *tc = new_case(suite, "bytes");

	tcase_add_test(tc, bytes_come_back_where_they_were_written);
	tcase_add_test(tc, what_cannot_be_written_is_refused);
	tcase_add_test(tc, many_small_appends_make_one_file);
	tcase_add_test(tc, what_was_allocated_ahead_is_given_back_at_the_close);
	tcase_add_test(tc, a_file_of_holes_takes_no_room);
	tcase_add_test(tc, on_a_frozen_index_nothing_more_is_written);
	tcase_add_test(tc, two_writers_make_one_file_across_checkpoints);

	tc = new_case(suite, "room");
	tcase_add_test(tc, without_room_nothing_is_written_and_nothing_charged);
	tcase_add_test(
		tc,
		what_a_mapping_could_not_write_back_is_dropped_at_the_close);
	tcase_add_test(tc, an_error_that_the_caller_is_told_of_drops_nothing);
	add_refusals(new_case(suite, "disk"));

	tc = new_case(suite, "ranges");
	tcase_add_test(tc, fallocate_follows_its_modes);
	tcase_add_test(tc, fallocate_refuses_what_it_cannot_do);
	tcase_add_test(tc, data_and_holes_are_found);
	tcase_add_test(tc, an_inline_file_is_data_up_to_its_end);
	tcase_add_test(tc, bytes_are_copied_from_the_index_and_from_packs);
	tcase_add_test(tc, a_file_can_be_copied_onto_itself);
	tcase_add_test(tc, what_is_copied_is_allocated_before);
	return kit_run_suite(suite);
}
