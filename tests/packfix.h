/* SPDX-License-Identifier: MIT */
/*
 * What the tests of packs share: a directory of packs that is empty before and
 * after each test, and system calls that fail when told to.
 */
#ifndef TESTS_PACKFIX_H
#define TESTS_PACKFIX_H

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "store/pack.h"

/* --- System calls with faults -------------------------------------------- */

enum call {
	OPENAT,
	PREAD,
	PWRITE,
	FALLOCATE,
	FTRUNCATE,
	SYNC,
	UNLINKAT,
	CALLS
};

/* The @nth call (1 = next) of @call, or of any with CALLS, fails, and with
 * @more as many after it. */
static struct {
	enum call call;
	unsigned nth; /* 0: none */
	unsigned more;
	int error;
	bool trickle; /* reads and writes are cut short and interrupted */
} fault;
static unsigned calls[CALLS];
static unsigned trickled;

static bool faulty(enum call call)
{
	calls[call]++;
	if (!fault.nth || (fault.call != CALLS && fault.call != call))
		return false;
	if (fault.nth > 1) {
		fault.nth--;
		return false;
	}
	if (fault.more)
		fault.more--;
	else
		fault.nth = 0;
	errno = fault.error;
	return true;
}

static inline void fail_next(enum call call, unsigned nth, int error)
{
	fault.call = call;
	fault.nth = nth;
	fault.error = error;
}

static int io_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
	return faulty(OPENAT) ? -1
			      : pack_io_real.openat(dir_fd, path, flags, mode);
}

/* Every second call is interrupted, the others do at most 7 bytes. */
static bool trickle(size_t *len)
{
	if (!fault.trickle)
		return false;
	if (*len > 7)
		*len = 7;
	errno = EINTR;
	return ++trickled % 2;
}

static ssize_t io_pread(int fd, void *buf, size_t len, off_t off)
{
	return faulty(PREAD) || trickle(&len) ? -1 : pread(fd, buf, len, off);
}

static ssize_t io_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return faulty(PWRITE) || trickle(&len) ? -1 : pwrite(fd, buf, len, off);
}

static int io_fallocate(int fd, int mode, off_t off, off_t len)
{
	size_t n = 0;

	return faulty(FALLOCATE) || trickle(&n) ? -1
						: fallocate(fd, mode, off, len);
}

static int io_ftruncate(int fd, off_t size)
{
	size_t n = 0;

	return faulty(FTRUNCATE) || trickle(&n) ? -1 : ftruncate(fd, size);
}

static int io_fdatasync(int fd)
{
	return faulty(SYNC) ? -1 : fdatasync(fd);
}

static int io_fsync(int fd)
{
	return faulty(SYNC) ? -1 : fsync(fd);
}

static int io_unlinkat(int dir_fd, const char *path, int flags)
{
	return faulty(UNLINKAT) ? -1 : unlinkat(dir_fd, path, flags);
}

static const struct pack_io faulty_io = {
	.openat = io_openat,
	.pread = io_pread,
	.pwrite = io_pwrite,
	.fallocate = io_fallocate,
	.ftruncate = io_ftruncate,
	.fdatasync = io_fdatasync,
	.fsync = io_fsync,
	.unlinkat = io_unlinkat,
};

/* --- Fixture ------------------------------------------------------------- */

static char dir[64];
static int dir_fd;
static bool mounted; /* something over @dir, by the test */
static struct packs *ps;
static atomic_uint_fast64_t credited;
static atomic_uint due;

static inline void note_credit(void *arg, uint64_t bytes)
{
	(void)arg;
	atomic_fetch_add(&credited, bytes);
}

static inline void note_due(void *arg)
{
	(void)arg;
	atomic_fetch_add(&due, 1);
}

static unsigned most_fds; /* of open_packs(); 0: the default */

static inline void open_packs(const struct pack_io *io)
{
	struct packs_config cfg = {
		.dir_fd = dir_fd,
		.io = io,
		.fds = most_fds,
		.dirty_bytes = 10000,
		.due = { .fn = note_due },
		.credit = note_credit,
	};

	ck_assert_int_eq(packs_open(&cfg, &ps), 0);
}

static inline void setup(void)
{
	const char *tmp = getenv("TMPDIR");

	(void)snprintf(dir, sizeof(dir), "%s/test_pack.XXXXXX",
		       tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(dir_fd, 0);
	open_packs(&faulty_io);
}

static inline int keep_none(void *arg, uint64_t id)
{
	(void)arg;
	(void)id;
	return 0;
}

static inline unsigned open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static inline void teardown(void)
{
	uint64_t bytes;

	fault.nth = 0;
	fault.trickle = false;
	ck_assert_int_eq(packs_sweep(ps, keep_none, NULL, &bytes), 0);
	packs_close(ps);
	close(dir_fd);
	if (mounted)
		(void)umount2(dir, MNT_DETACH);
	(void)rmdir(dir);
}

static inline struct pack *created(uint64_t id, const char *text)
{
	struct pack *pk = NULL;

	ck_assert_int_eq(pack_create(ps, id, &pk), 0);
	ck_assert_int_eq(pack_write(pk, text, strlen(text), 0), 0);
	return pk;
}

static inline struct pack *got(uint64_t id)
{
	struct pack *pk = NULL;

	ck_assert_int_eq(pack_get(ps, id, &pk), 0);
	return pk;
}

static inline void assert_text(struct pack *pk, const char *text)
{
	char buf[256] = "";

	ck_assert_int_eq(pack_read(pk, buf, sizeof(buf) - 1, 0),
			 (ssize_t)strlen(text));
	ck_assert_str_eq(buf, text);
}

static inline bool exists(uint64_t id)
{
	return !faccessat(dir_fd, packio_name(id).text, F_OK, 0);
}

/* A checkpoint from its pin to its end. */
static inline void checkpoint(void)
{
	struct packs_batch *batch = packs_pin(ps);

	ck_assert_int_eq(packs_sync(ps, batch), 0);
	packs_release(ps, batch, true);
}

static inline uint64_t disk_of(struct pack *pk)
{
	uint64_t size, disk;

	ck_assert_int_eq(pack_stat(pk, &size, &disk), 0);
	return disk;
}

static inline TCase *pack_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	return tc;
}

#endif
