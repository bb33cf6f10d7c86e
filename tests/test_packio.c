/* SPDX-License-Identifier: MIT */
#include "tests/packfix.h"

#include <sched.h>
#include <sys/statvfs.h>

/* --- Bytes --------------------------------------------------------------- */

START_TEST(bytes_are_read_back_where_they_were_written)
{
	struct pack *pk = created(1, "hello");
	uint64_t size, disk;
	char buf[16] = "";

	ck_assert_uint_eq(pack_id(pk), 1);
	ck_assert_int_eq(pack_write(pk, "far", 3, 100000), 0);
	ck_assert_int_eq(pack_read(pk, buf, 3, 100000), 3);
	ck_assert_str_eq(buf, "far");
	ck_assert_int_eq(pack_read(pk, buf, 5, 99996), 5);
	ck_assert_mem_eq(buf, "\0\0\0\0f", 5);
	ck_assert_int_eq(pack_read(pk, buf, 10, 100001), 2);
	ck_assert_int_eq(pack_read(pk, buf, 10, 100003), 0);
	ck_assert_int_eq(pack_read(pk, buf, 10, UINT64_MAX), 0);
	ck_assert_int_eq(pack_stat(pk, &size, &disk), 0);
	ck_assert_uint_eq(size, 100003);
	pack_put(pk);
	pk = got(1);
	ck_assert_int_eq(pack_read(pk, buf, 5, 0), 5);
	ck_assert_mem_eq(buf, "hello", 5);
	pack_put(pk);
}
END_TEST

START_TEST(interrupted_and_short_calls_are_continued)
{
	struct pack *pk = NULL;

	ck_assert_int_eq(pack_create(ps, 1, &pk), 0);
	fault.trickle = true;
	ck_assert_int_eq(pack_write(pk, "a text of more bytes", 20, 0), 0);
	assert_text(pk, "a text of more bytes");
	ck_assert_int_eq(pack_fallocate(pk, 0, 0, 30), 0);
	ck_assert_int_eq(pack_truncate(pk, 6), 0);
	assert_text(pk, "a text");
	pack_put(pk);
}
END_TEST

START_TEST(ranges_past_the_largest_file_are_refused)
{
	struct pack *pk = created(1, "x");
	struct pack *to = created(2, "");
	uint64_t end = INT64_MAX;

	ck_assert_int_eq(pack_write(pk, "xx", 2, end - 1), -EFBIG);
	ck_assert_int_eq(pack_write(pk, "xx", 2, UINT64_MAX), -EFBIG);
	ck_assert_int_eq(pack_truncate(pk, end + 1), -EFBIG);
	ck_assert_int_eq(pack_fallocate(pk, 0, end, 1), -EFBIG);
	ck_assert_int_eq(pack_clone(pk, to, end + 1), -EFBIG);
	ck_assert_int_eq(pack_copy_range(pk, 0, to, end, 1), -EFBIG);
	ck_assert_int_eq(pack_copy_range(pk, end, to, 0, 1), -EFBIG);
	assert_text(pk, "x");
	pack_put(pk);
	pack_put(to);
}
END_TEST

START_TEST(errors_of_the_system_come_through)
{
	struct pack *pk = created(1, "x");
	char buf[4];

	fail_next(PREAD, 1, EIO);
	ck_assert_int_eq(pack_read(pk, buf, 4, 0), -EIO);
	fail_next(PWRITE, 1, ENOSPC);
	ck_assert_int_eq(pack_write(pk, "y", 1, 0), -ENOSPC);
	fail_next(FALLOCATE, 1, ENOSPC);
	ck_assert_int_eq(pack_fallocate(pk, 0, 0, 10), -ENOSPC);
	fail_next(FTRUNCATE, 1, EIO);
	ck_assert_int_eq(pack_truncate(pk, 0), -EIO);
	pack_put(pk);
	fail_next(OPENAT, 1, EMFILE);
	ck_assert_int_eq(pack_get(ps, 1, &pk), -EMFILE);
	fail_next(OPENAT, 1, ENOSPC);
	ck_assert_int_eq(pack_create(ps, 2, &pk), -ENOSPC);
	ck_assert(!exists(2));
	pk = got(1);
	assert_text(pk, "x");
	pack_put(pk);
}
END_TEST

START_TEST(hits_are_served_from_a_read_only_file_system)
{
	struct pack *pk = created(1, "x");
	struct pack *from = created(2, "y");

	pack_put(pk);
	fail_next(OPENAT, 1, EROFS);
	pk = got(1);
	assert_text(pk, "x");
	ck_assert_int_eq(pack_write(pk, "y", 1, 0), -EROFS);
	ck_assert_int_eq(pack_truncate(pk, 0), -EROFS);
	ck_assert_int_eq(pack_fallocate(pk, 0, 0, 1), -EROFS);
	ck_assert_int_eq(pack_copy_range(from, 0, pk, 0, 1), -EROFS);
	ck_assert_int_eq(pack_clone(from, pk, 1), -EROFS);
	assert_text(pk, "x");
	pack_put(pk);
	pack_put(from);
}
END_TEST

START_TEST(clone_has_the_bytes_and_the_holes)
{
	struct pack *from = created(1, "begin");
	struct pack *to = created(2, "");
	static char middle[300000];
	static char buf[300000];
	uint64_t size, disk;

	memset(middle, 'm', sizeof(middle));
	ck_assert_int_eq(pack_write(from, middle, sizeof(middle), 8 * MIB), 0);
	ck_assert_int_eq(pack_truncate(from, 32 * MIB), 0);
	ck_assert_int_eq(pack_clone(from, to, 20 * MIB), 0);
	ck_assert_int_eq(pack_stat(to, &size, &disk), 0);
	ck_assert_uint_eq(size, 20 * MIB);
	ck_assert_uint_lt(disk, 2 * MIB);
	ck_assert_int_eq(pack_read(to, buf, 6, 0), 6);
	ck_assert_mem_eq(buf, "begin", 6);
	ck_assert_int_eq(pack_read(to, buf, sizeof(buf), 8 * MIB), sizeof(buf));
	ck_assert_mem_eq(buf, middle, sizeof(buf));
	/* The two are independent. */
	ck_assert_int_eq(pack_write(from, "BEGIN", 5, 0), 0);
	ck_assert_int_eq(pack_read(to, buf, 5, 0), 5);
	ck_assert_mem_eq(buf, "begin", 5);
	pack_put(from);
	pack_put(to);
}
END_TEST

START_TEST(clone_may_end_within_the_data)
{
	struct pack *from = created(1, "0123456789");
	struct pack *to = created(2, "");

	ck_assert_int_eq(pack_clone(from, to, 4), 0);
	assert_text(to, "0123");
	pack_put(from);
	pack_put(to);
}
END_TEST

START_TEST(ranges_are_copied_between_packs)
{
	struct pack *from = created(1, "0123456789");
	struct pack *to = created(2, "abcdef");

	ck_assert_int_eq(pack_copy_range(from, 2, to, 1, 3), 3);
	assert_text(to, "a234ef");
	ck_assert_int_eq(pack_copy_range(from, 8, to, 0, 10), 2);
	ck_assert_int_eq(pack_copy_range(from, 10, to, 0, 10), 0);
	pack_put(from);
	pack_put(to);
}
END_TEST

/* --- Freeing ------------------------------------------------------------- */

START_TEST(freeing_does_what_it_can)
{
	struct pack *pk = created(1, "x");
	uint64_t disk = disk_of(pk);

	/* Not truncated, but removed. */
	pack_put(pk);
	fail_next(FTRUNCATE, 1, EIO);
	pack_doom(ps, 1);
	ck_assert(!exists(1));
	ck_assert_uint_eq(atomic_load(&credited), disk);

	/* Not opened, but removed. */
	pack_put(created(2, "x"));
	fail_next(OPENAT, 1, EMFILE);
	pack_doom(ps, 2);
	ck_assert(!exists(2));
	ck_assert_uint_eq(atomic_load(&credited), 2 * disk);

	/* Truncated, but not removed: for the next sweep. */
	pack_put(created(3, "x"));
	fail_next(UNLINKAT, 1, EIO);
	pack_doom(ps, 3);
	ck_assert(exists(3));
	ck_assert_uint_eq(atomic_load(&credited), 3 * disk);
	pack_doom(ps, 3);

	/* Neither opened nor removed: nothing came back. */
	pack_put(created(4, "x"));
	fail_next(CALLS, 1, EMFILE);
	fault.more = 1;
	pack_doom(ps, 4);
	ck_assert(exists(4));
	ck_assert_uint_eq(atomic_load(&credited), 3 * disk);
}
END_TEST

/* --- Sweeping ------------------------------------------------------------ */

static int keep_odd(void *arg, uint64_t id)
{
	unsigned *asked = arg;

	(*asked)++;
	return id % 2 != 0;
}

static void make_file(const char *name)
{
	int fd = openat(dir_fd, name, O_CREAT | O_WRONLY, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "junk", 4), 4);
	close(fd);
}

START_TEST(sweep_removes_what_is_not_kept)
{
	static const char *const others[] = { "x",
					      "1",
					      "000000000000000g",
					      "00000000000000010",
					      "000000000000000A",
					      ".hidden" };
	unsigned asked = 0;
	uint64_t bytes = 0;
	uint64_t disk = 0;
	struct pack *pk;

	for (uint64_t id = 1; id <= 6; id++) {
		pk = created(id, "content");
		disk = disk_of(pk);
		pack_put(pk);
	}
	packs_close(ps);
	open_packs(&faulty_io);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		make_file(others[i]);
	ck_assert_int_eq(symlinkat("/", dir_fd, "00000000000000ff"), 0);
	ck_assert_int_eq(packs_sweep(ps, keep_odd, &asked, &bytes), 0);
	ck_assert_uint_eq(asked, 6);
	/* What is no pack's name is somebody else's: it stays, and counts. */
	ck_assert_uint_eq(bytes, (3 + ARRAY_SIZE(others)) * disk);
	for (uint64_t id = 1; id <= 6; id++)
		ck_assert_int_eq(exists(id), id % 2);
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		ck_assert_int_eq(unlinkat(dir_fd, others[i], 0), 0);
	ck_assert(!exists(0xff));
}
END_TEST

static int keep_fails(void *arg, uint64_t id)
{
	(void)arg;
	(void)id;
	return -ENOMEM;
}

START_TEST(sweep_ends_with_an_error)
{
	uint64_t bytes = 77;

	pack_put(created(1, "x"));
	ck_assert_int_eq(packs_sweep(ps, keep_fails, NULL, &bytes), -ENOMEM);
	ck_assert(exists(1));
	fail_next(UNLINKAT, 1, EIO);
	ck_assert_int_eq(packs_sweep(ps, keep_none, NULL, &bytes), -EIO);
	ck_assert(exists(1));
	ck_assert_uint_eq(bytes, 77);
}
END_TEST

START_TEST(sweep_leaves_directories_alone)
{
	uint64_t bytes;

	ck_assert_int_eq(mkdirat(dir_fd, "lost+found", 0700), 0);
	ck_assert_int_eq(packs_sweep(ps, keep_none, NULL, &bytes), 0);
	ck_assert_int_eq(unlinkat(dir_fd, "lost+found", AT_REMOVEDIR), 0);
	(void)packs_dir_bytes(ps);
}
END_TEST

/* --- Real file systems --------------------------------------------------- */

/*
 * Mount a fresh file system over the fixture's directory, in a mount namespace
 * of the test's own process: it goes with it. False without the means.
 */
static bool mount_loop(const char *type)
{
	char image[80];
	char cmd[400];

	if (geteuid() || unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	(void)snprintf(image, sizeof(image), "%s.img", dir);
	(void)snprintf(cmd, sizeof(cmd),
		       "exec 2>&1 >/dev/null; truncate -s 320M %s && "
		       "mkfs.%s -q %s && mount -o loop %s %s",
		       image, type, image, image, dir);
	/* A test's own paths and constants. */
	if (system(cmd)) { /* NOLINT(cert-env33-c) */
		(void)unlink(image);
		return false;
	}
	(void)unlink(image);
	packs_close(ps);
	close(dir_fd);
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dir_fd, 0);
	open_packs(NULL);
	mounted = true;
	return true;
}

static uint64_t free_now(void)
{
	struct statvfs st;

	ck_assert_int_eq(fstatvfs(dir_fd, &st), 0);
	return (uint64_t)st.f_bfree * st.f_frsize;
}

/* Write @size bytes in uneven pieces, room for them allocated 1 MiB ahead. */
static void write_ahead(struct pack *pk, uint64_t size)
{
	static char buf[256 * 1024];
	static const size_t pieces[] = { 4096, 10000, sizeof(buf), 1000 };
	uint64_t ahead = 0;
	uint64_t off, len;
	unsigned n = 0;

	for (off = 0; off < size; off += len) {
		len = pieces[n++ % ARRAY_SIZE(pieces)];
		if (len > size - off)
			len = size - off;
		if (off + len > ahead) {
			ck_assert_int_eq(pack_fallocate(pk, FALLOC_FL_KEEP_SIZE,
							off, MIB),
					 0);
			ahead = off + MIB;
		}
		ck_assert_int_eq(pack_write(pk, buf, len, off), 0);
		/* Nothing is taken beyond what was asked for. */
		ck_assert_uint_le(disk_of(pk), ahead + 16 * KIB);
	}
}

static void blocks_are_bounded_and_come_back(const char *type)
{
	struct pack *pk = NULL;
	uint64_t before, size, disk;

	if (!mount_loop(type))
		return; /* not root, or no such file system here */
	before = free_now();
	ck_assert_int_eq(pack_create(ps, 1, &pk), 0);
	write_ahead(pk, 40 * MIB + 12345);
	ck_assert_int_eq(pack_truncate(pk, 40 * MIB + 12345), 0);
	ck_assert_int_eq(pack_stat(pk, &size, &disk), 0);
	ck_assert_uint_eq(size, 40 * MIB + 12345);
	ck_assert_uint_le(disk, size + 16 * KIB);
	ck_assert_uint_le(before - free_now(), disk + 64 * KIB);
	pack_put(pk);
	checkpoint();
	pack_doom(ps, 1);
	checkpoint();
	ck_assert(!exists(1));
	ck_assert_uint_eq(atomic_load(&credited), disk);
	ck_assert_uint_ge(free_now() + 64 * KIB, before);
}

START_TEST(blocks_on_ext4_are_bounded_and_come_back)
{
	blocks_are_bounded_and_come_back("ext4");
}
END_TEST

START_TEST(blocks_on_xfs_are_bounded_and_come_back)
{
	blocks_are_bounded_and_come_back("xfs");
}
END_TEST

static uint64_t most_disk; /* of what was written to, at any write */

static ssize_t watching_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	ssize_t n = pwrite(fd, buf, len, off);
	struct stat st;

	if (!fstat(fd, &st) && packio_disk_bytes(&st) > most_disk)
		most_disk = packio_disk_bytes(&st);
	return n;
}

/* Left to itself xfs allocates far ahead of who appends. */
START_TEST(a_clone_takes_no_more_than_its_bytes_on_xfs_without_reflinks)
{
	struct pack_io io = pack_io_real;
	struct pack *from = NULL, *to = NULL;

	if (!mount_loop("xfs -m reflink=0"))
		return; /* not root, or no such file system here */
	packs_close(ps);
	io.pwrite = watching_pwrite;
	open_packs(&io);
	ck_assert_int_eq(pack_create(ps, 1, &from), 0);
	write_ahead(from, 24 * MIB);
	ck_assert_int_eq(pack_create(ps, 2, &to), 0);
	most_disk = 0;
	ck_assert_int_eq(pack_clone(from, to, 24 * MIB), 0);
	ck_assert_uint_ge(most_disk, 24 * MIB);
	ck_assert_uint_le(most_disk, 24 * MIB + 16 * KIB);
	pack_put(from);
	pack_put(to);
	packs_close(ps);
	open_packs(NULL);
}
END_TEST

START_TEST(a_clone_needs_no_preallocation)
{
	struct pack *from = created(1, "0123456789");
	struct pack *to = created(2, "");

	fail_next(FALLOCATE, 1, EOPNOTSUPP);
	ck_assert_int_eq(pack_clone(from, to, 10), 0);
	assert_text(to, "0123456789");
	fail_next(FALLOCATE, 1, ENOSPC);
	ck_assert_int_eq(pack_preallocate(to, 10, 10), -ENOSPC);
	ck_assert_int_eq(pack_preallocate(to, 10, 0), 0);
	pack_put(from);
	pack_put(to);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("packio");
	SRunner *runner = srunner_create(suite);
	TCase *tc;
	int failed;

	tc = pack_case(suite, "bytes");
	tcase_add_test(tc, bytes_are_read_back_where_they_were_written);
	tcase_add_test(tc, interrupted_and_short_calls_are_continued);
	tcase_add_test(tc, ranges_past_the_largest_file_are_refused);
	tcase_add_test(tc, errors_of_the_system_come_through);
	tcase_add_test(tc, hits_are_served_from_a_read_only_file_system);
	tcase_add_test(tc, clone_has_the_bytes_and_the_holes);
	tcase_add_test(tc, clone_may_end_within_the_data);
	tcase_add_test(tc, a_clone_needs_no_preallocation);
	tcase_add_test(tc, ranges_are_copied_between_packs);
	tc = pack_case(suite, "freeing");
	tcase_add_test(tc, freeing_does_what_it_can);
	tc = pack_case(suite, "sweeping");
	tcase_add_test(tc, sweep_removes_what_is_not_kept);
	tcase_add_test(tc, sweep_ends_with_an_error);
	tcase_add_test(tc, sweep_leaves_directories_alone);
	tc = pack_case(suite, "real file systems");
	tcase_add_test(tc, blocks_on_ext4_are_bounded_and_come_back);
	tcase_add_test(tc, blocks_on_xfs_are_bounded_and_come_back);
	tcase_add_test(
		tc,
		a_clone_takes_no_more_than_its_bytes_on_xfs_without_reflinks);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
