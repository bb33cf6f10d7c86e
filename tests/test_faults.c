/* SPDX-License-Identifier: MIT */
/*
 * The system refuses: the n-th write, sync, allocation or open of the store's
 * files fails, for every n of a fixed workload. Nothing may crash or hang,
 * every operation gets an error or succeeds, and the store opens again with
 * every file whole or absent.
 *
 * The calls are interposed: this program's definitions come before libc's,
 * for the store and for LMDB.
 */
#include "store/store.h"

#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { CALL_WRITE, CALL_SYNC, CALL_ALLOCATE, CALL_OPEN, CALLS };

static struct {
	_Atomic long left[CALLS]; /* < 0: off; the call that finds 0 fails */
	_Atomic bool lasting;	  /* and all after it */
	_Atomic int error;
} fault;

static bool fails(enum call which)
{
	long left = atomic_load(&fault.left[which]);

	if (left < 0)
		return false;
	if (left > 0) {
		atomic_fetch_sub(&fault.left[which], 1);
		return false;
	}
	if (!atomic_load(&fault.lasting))
		atomic_store(&fault.left[which], -1);
	errno = atomic_load(&fault.error);
	return true;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return fails(CALL_WRITE) ? -1 : REAL(pwrite)(fd, buf, len, off);
}

/* With 64-bit offsets the name above is the symbol pwrite64; LMDB, built
 * without, calls the other. */
ssize_t plain_pwrite(int fd, const void *buf, size_t len,
		     off_t off) __asm__("pwrite");
ssize_t plain_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return fails(CALL_WRITE) ? -1 : REAL(pwrite)(fd, buf, len, off);
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t off)
{
	return fails(CALL_WRITE) ? -1 : REAL(pwritev)(fd, iov, n, off);
}

int fdatasync(int fd)
{
	return fails(CALL_SYNC) ? -1 : REAL(fdatasync)(fd);
}

int fsync(int fd)
{
	return fails(CALL_SYNC) ? -1 : REAL(fsync)(fd);
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	return fails(CALL_ALLOCATE) ? -1 : REAL(fallocate)(fd, mode, off, len);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return fails(CALL_OPEN) ? -1 : REAL(openat)(dir, path, flags, mode);
}

#define FILES 6
static const size_t sizes[FILES] = { 100, 300000, 1900, 70000, 1, 2500000 };
static char dir[64];
static uint8_t bytes[2500000];

static void quiet(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)text;
}

static struct store *open_store(void)
{
	struct store_config cfg = {
		.path = dir,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "64M", .min_free = "0", .grace_sec = 0 },
		.report = quiet
	};
	struct store *st = NULL;
	char why[256] = "";
	int r = store_open(&cfg, &st, why, sizeof(why));

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
	return st;
}

/* Write, rename, overwrite a part, unlink, sync; errors are expected. */
static void workload(struct store *st)
{
	char name[16], tmp[16];
	const struct store_new what = { .parent = STORE_ROOT_INO,
					.name = tmp,
					.mode = 0644 };
	struct store_file *f;
	struct stat attr;

	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		snprintf(tmp, sizeof(tmp), "t%u", i);
		if (store_file_create(st, &what, O_RDWR, &attr, &f) < 0)
			continue;
		if (store_file_write(f, 0, bytes, sizes[i], false) < 0) {
			store_file_close(f);
			(void)store_unlink(st, STORE_ROOT_INO, tmp);
			continue;
		}
		store_file_close(f);
		(void)store_rename(st, STORE_ROOT_INO, tmp, STORE_ROOT_INO,
				   name, 0);
		if (i == 2)
			(void)store_sync(st);
	}
	if (!store_lookup(st, STORE_ROOT_INO, "f1", &attr) &&
	    !store_file_open(st, attr.st_ino, O_RDWR, &f)) {
		/* The same bytes: whole stays whole. */
		(void)store_file_write(f, 5000, bytes + 5000, 100, false);
		store_file_close(f);
	}
	(void)store_unlink(st, STORE_ROOT_INO, "f3");
	(void)store_sync(st);
}

/* Every file under its final name has all its bytes. When the index cannot be
 * read any more (a write of LMDB's meta page failed), the state says so. */
static void check_whole(struct store *st)
{
	static uint8_t got[sizeof(bytes)];
	struct store_status s;
	struct store_file *f;
	struct stat attr;
	char name[16];

	ck_assert_int_eq(store_status(st, &s), 0);
	ck_assert_uint_ge(s.charged, s.used);
	ck_assert_uint_le(s.used, s.limit);
	if (store_lookup(st, STORE_ROOT_INO, "f0", &attr) == -EIO) {
		ck_assert_int_eq(s.state, STORE_READ_ONLY);
		ck_assert_ptr_nonnull(strstr(s.reason, "nothing is served"));
	}
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		if (store_lookup(st, STORE_ROOT_INO, name, &attr) < 0)
			continue;
		if (store_file_open(st, attr.st_ino, O_RDONLY, &f) < 0)
			continue;
		ck_assert_int_eq(store_file_read(f, 0, got, sizeof(got)),
				 sizes[i]);
		ck_assert_mem_eq(got, bytes, sizes[i]);
		store_file_close(f);
	}
}

static void clear(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	ck_assert_int_eq(system(cmd), 0);
}

static void disarm(void)
{
	for (unsigned i = 0; i < CALLS; i++)
		atomic_store(&fault.left[i], -1);
}

/* Returns false when the workload ended before its n-th such call. */
static bool run(enum call which, long n, int error, bool lasting)
{
	struct store *st = open_store();
	bool hit;

	atomic_store(&fault.error, error);
	atomic_store(&fault.lasting, lasting);
	atomic_store(&fault.left[which], n);
	workload(st);
	hit = lasting ? !atomic_load(&fault.left[which])
		      : atomic_load(&fault.left[which]) < 0;
	disarm();
	check_whole(st);
	(void)store_close(st);

	st = open_store();
	check_whole(st);
	workload(st);
	check_whole(st);
	(void)store_close(st);
	clear();
	return hit;
}

static void run_all(enum call which, int error, bool lasting, long step)
{
	long n = 0;

	while (run(which, n, error, lasting))
		n += step;
	ck_assert_int_gt(n, 0); /* else nothing was tested */
}

static void setup(void)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 2654435761u >> 13);
	snprintf(dir, sizeof(dir), "/tmp/pcfs-fault-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	disarm();
}

START_TEST(every_write_may_fail_once)
{
	run_all(CALL_WRITE, EIO, false, 3);
}
END_TEST

START_TEST(the_disk_may_be_full_from_any_write_on)
{
	run_all(CALL_WRITE, ENOSPC, true, 5);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
	run_all(CALL_ALLOCATE, ENOSPC, false, 1);
}
END_TEST

START_TEST(every_sync_may_fail)
{
	run_all(CALL_SYNC, EIO, false, 1);
}
END_TEST

START_TEST(every_open_may_fail)
{
	run_all(CALL_OPEN, EMFILE, false, 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("faults");
	TCase *tc = tcase_create("nth call");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(tc, setup, clear);
	tcase_set_timeout(tc, 110);
	tcase_add_test(tc, every_write_may_fail_once);
	tcase_add_test(tc, the_disk_may_be_full_from_any_write_on);
	tcase_add_test(tc, every_allocation_may_fail);
	tcase_add_test(tc, every_sync_may_fail);
	tcase_add_test(tc, every_open_may_fail);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
