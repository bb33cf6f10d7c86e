/* SPDX-License-Identifier: MIT */
/*
 * A directory of its own for a test, and files in it. Everything that goes
 * wrong fails the test.
 */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCRATCH_PATH_MAX 512

/* A build that is many times slower: long tests do less. */
#if defined(__SANITIZE_THREAD__)
#define SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLOW_BUILD 1
#endif
#endif
#ifndef SLOW_BUILD
#define SLOW_BUILD 0
#endif

struct scratch {
	char path[SCRATCH_PATH_MAX];
};

/* For tests that need no disk below them: memory is faster. */
static inline void scratch_in_memory(void)
{
	if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0)
		(void)setenv("TMPDIR", "/dev/shm", 1);
}

static inline struct scratch scratch_new(void)
{
	const char *tmp = getenv("TMPDIR");
	struct scratch dir;

	(void)snprintf(dir.path, sizeof(dir.path), "%s/pipcachefs-test.XXXXXX",
		       tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(dir.path));
	return dir;
}

static inline int scratch_remove_one(const char *path, const struct stat *st,
				     int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static inline void scratch_remove(const struct scratch *dir)
{
	ck_assert_int_eq(nftw(dir->path, scratch_remove_one, 16,
			      FTW_DEPTH | FTW_PHYS),
			 0);
}

/* The path of @name in the directory. */
static inline struct scratch scratch_at(const struct scratch *dir,
					const char *name)
{
	struct scratch sub;
	int n = snprintf(sub.path, sizeof(sub.path), "%s/%s", dir->path, name);

	ck_assert(n > 0 && (size_t)n < sizeof(sub.path));
	return sub;
}

static inline int scratch_open_dir(const struct scratch *dir)
{
	int fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	return fd;
}

struct scratch_bytes {
	size_t len;
	uint8_t *data; /* owned */
};

static inline struct scratch_bytes scratch_read(const char *path)
{
	struct scratch_bytes bytes;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	ck_assert_msg(fd >= 0, "%s: %m", path);
	ck_assert_int_eq(fstat(fd, &st), 0);
	bytes.len = (size_t)st.st_size;
	bytes.data = malloc(bytes.len + 1);
	ck_assert_ptr_nonnull(bytes.data);
	ck_assert_int_eq(read(fd, bytes.data, bytes.len), (int)bytes.len);
	close(fd);
	return bytes;
}

static inline void scratch_write(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_msg(fd >= 0, "%s: %m", path);
	ck_assert_int_eq(write(fd, data, len), (int)len);
	close(fd);
}

#endif
