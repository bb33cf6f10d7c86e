/* SPDX-License-Identifier: MIT */
/*
 * The system calls by which store/ and LMDB change files, seen from a test:
 * the program's own definitions take the place of libc's. A hook is asked
 * before each call and told of its end, so that a test can make any of them
 * fail, record them, or be killed in between.
 *
 * For one source file of a test program. The hook runs in the thread that
 * makes the call and must not make such calls itself.
 */
#ifndef TESTS_IOTAP_H
#define TESTS_IOTAP_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum iotap_op {
	IOTAP_WRITE,
	IOTAP_TRUNCATE, /* off is the size */
	IOTAP_PUNCH,	/* a hole of len bytes at off */
	IOTAP_CREATE,	/* name in the directory dir, or a path; fd when done */
	IOTAP_MKDIR,
	IOTAP_UNLINK, /* directories too */
	IOTAP_SYNC,   /* a file or a directory */
	IOTAP_SYNCFS, /* all that is on the file system of fd */
	IOTAP_RENAME,
	IOTAP_EXCHANGE,
};

static inline bool iotap_on_disk(enum iotap_op op)
{
	return op == IOTAP_SYNC || op == IOTAP_SYNCFS;
}

/* True for what is done to a name. */
static inline bool iotap_on_name(enum iotap_op op)
{
	return op >= IOTAP_CREATE && !iotap_on_disk(op);
}

struct iotap_call {
	enum iotap_op op;
	int fd;
	int dir;
	const char *name;
	const char *new_name; /* in dir too */
	const void *buf;
	size_t len;
	off_t off;
	long result; /* when DONE */
};

/* BEFORE the call an errno makes it fail and 0 lets it go on; what is returned
 * when it is DONE or has FAILED is ignored. */
enum iotap_phase { IOTAP_BEFORE, IOTAP_DONE, IOTAP_FAILED };

typedef int (*iotap_hook_fn)(const struct iotap_call *call,
			     enum iotap_phase phase);
static _Atomic(iotap_hook_fn) iotap_hook;

/* Pretend to sync: a test of the order of things needs no disk. */
static bool iotap_fake_sync;

/* True if @fd is a file or directory whose path ends with @end. */
static inline bool iotap_is(int fd, const char *end)
{
	char link[64];
	char path[PATH_MAX];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || (size_t)n < strlen(end))
		return false;
	path[n] = '\0';
	return strcmp(path + n - strlen(end), end) == 0;
}

static inline int iotap_tell(const struct iotap_call *call,
			     enum iotap_phase phase)
{
	iotap_hook_fn hook = iotap_hook;
	int saved = errno;
	int r = hook ? hook(call, phase) : 0;

	errno = saved;
	return r;
}

/* Ask, do, tell. */
#define IOTAP_DO(call, action)                                                 \
	({                                                                     \
		int _e = iotap_tell(call, IOTAP_BEFORE);                       \
		long _r = -1;                                                  \
                                                                               \
		if (_e) {                                                      \
			errno = _e;                                            \
		} else {                                                       \
			_r = (action);                                         \
			(call)->result = _r;                                   \
			(void)iotap_tell(call,                                 \
					 _r < 0 ? IOTAP_FAILED : IOTAP_DONE);  \
		}                                                              \
		_r;                                                            \
	})

/* -- libc's names, with and without 64 ------------------------------------ */

ssize_t iotap_pwrite(int fd, const void *buf, size_t len,
		     off_t off) __asm__("pwrite");
ssize_t iotap_pwrite64(int fd, const void *buf, size_t len,
		       off_t off) __asm__("pwrite64");
ssize_t iotap_write(int fd, const void *buf, size_t len) __asm__("write");
ssize_t iotap_writev(int fd, const struct iovec *iov, int n) __asm__("writev");
int iotap_ftruncate(int fd, off_t size) __asm__("ftruncate");
int iotap_ftruncate64(int fd, off_t size) __asm__("ftruncate64");
int iotap_fallocate(int fd, int mode, off_t off,
		    off_t len) __asm__("fallocate");
int iotap_fallocate64(int fd, int mode, off_t off,
		      off_t len) __asm__("fallocate64");
int iotap_fsync(int fd) __asm__("fsync");
int iotap_fdatasync(int fd) __asm__("fdatasync");
int iotap_syncfs(int fd) __asm__("syncfs");
int iotap_open(const char *path, int flags, ...) __asm__("open");
int iotap_open64(const char *path, int flags, ...) __asm__("open64");
int iotap_openat(int dir, const char *name, int flags, ...) __asm__("openat");
int iotap_openat64(int dir, const char *name, int flags,
		   ...) __asm__("openat64");
int iotap_mkdirat(int dir, const char *name, mode_t mode) __asm__("mkdirat");
int iotap_unlinkat(int dir, const char *name, int flags) __asm__("unlinkat");
int iotap_renameat(int dir, const char *name, int new_dir,
		   const char *new_name) __asm__("renameat");
int iotap_renameat2(int dir, const char *name, int new_dir,
		    const char *new_name, unsigned flags) __asm__("renameat2");

ssize_t iotap_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	struct iotap_call call = {
		.op = IOTAP_WRITE, .fd = fd, .buf = buf, .len = len, .off = off
	};

	return IOTAP_DO(&call, syscall(SYS_pwrite64, fd, buf, len, off));
}

ssize_t iotap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	return iotap_pwrite(fd, buf, len, off);
}

/* Where write(2) writes to, -1: not to a file. */
static inline off_t iotap_position(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -1;
	return lseek(fd, 0, SEEK_CUR);
}

/* LMDB's way to copy an index. */
ssize_t iotap_write(int fd, const void *buf, size_t len)
{
	off_t off = iotap_position(fd);
	struct iotap_call call = {
		.op = IOTAP_WRITE, .fd = fd, .buf = buf, .len = len, .off = off
	};

	if (off < 0)
		return syscall(SYS_write, fd, buf, len);
	return IOTAP_DO(&call, syscall(SYS_write, fd, buf, len));
}

/* LMDB's way to write neighbouring pages: as if each came alone. */
ssize_t iotap_writev(int fd, const struct iovec *iov, int n)
{
	off_t off = iotap_position(fd);
	ssize_t sum = 0;
	ssize_t r;
	int i;

	if (off < 0)
		return syscall(SYS_writev, fd, iov, n);
	for (i = 0; i < n; i++) {
		r = iotap_pwrite(fd, iov[i].iov_base, iov[i].iov_len,
				 off + sum);
		if (r < 0)
			return sum > 0 ? sum : -1;
		sum += r;
		if ((size_t)r < iov[i].iov_len)
			break;
	}
	(void)lseek(fd, off + sum, SEEK_SET);
	return sum;
}

int iotap_ftruncate(int fd, off_t size)
{
	struct iotap_call call = { .op = IOTAP_TRUNCATE,
				   .fd = fd,
				   .off = size };

	return (int)IOTAP_DO(&call, syscall(SYS_ftruncate, fd, size));
}

int iotap_ftruncate64(int fd, off_t size)
{
	return iotap_ftruncate(fd, size);
}

/* A longer file: first the blocks, then the length. */
static inline int iotap_lengthen(int fd, off_t size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	return st.st_size < size ? iotap_ftruncate(fd, size) : 0;
}

/* Blocks alone change no byte. */
int iotap_fallocate(int fd, int mode, off_t off, off_t len)
{
	struct iotap_call call = {
		.op = IOTAP_PUNCH, .fd = fd, .len = (size_t)len, .off = off
	};
	int kept = mode | FALLOC_FL_KEEP_SIZE;
	long r;

	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		r = IOTAP_DO(&call, syscall(SYS_fallocate, fd, kept, off, len));
	else
		r = syscall(SYS_fallocate, fd, kept, off, len);
	if (r < 0 || mode == kept)
		return (int)r;
	return iotap_lengthen(fd, off + len);
}

int iotap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	return iotap_fallocate(fd, mode, off, len);
}

int iotap_fsync(int fd)
{
	struct iotap_call call = { .op = IOTAP_SYNC, .fd = fd };

	return (int)IOTAP_DO(&call,
			     iotap_fake_sync ? 0 : syscall(SYS_fsync, fd));
}

int iotap_syncfs(int fd)
{
	struct iotap_call call = { .op = IOTAP_SYNCFS, .fd = fd };

	return (int)IOTAP_DO(&call,
			     iotap_fake_sync ? 0 : syscall(SYS_syncfs, fd));
}

int iotap_fdatasync(int fd)
{
	struct iotap_call call = { .op = IOTAP_SYNC, .fd = fd };

	return (int)IOTAP_DO(&call,
			     iotap_fake_sync ? 0 : syscall(SYS_fdatasync, fd));
}

static inline int iotap_open_any(int dir, const char *name, int flags,
				 mode_t mode)
{
	struct iotap_call call = { .op = IOTAP_CREATE,
				   .dir = dir,
				   .name = name };
	int e;

	if (!(flags & O_CREAT) || syscall(SYS_faccessat, dir, name, F_OK) == 0)
		return (int)syscall(SYS_openat, dir, name, flags, mode);
	e = iotap_tell(&call, IOTAP_BEFORE);
	if (e) {
		errno = e;
		return -1;
	}
	call.fd = (int)syscall(SYS_openat, dir, name, flags, mode);
	(void)iotap_tell(&call, call.fd < 0 ? IOTAP_FAILED : IOTAP_DONE);
	return call.fd;
}

/* The mode, which is there only if the flags want one. */
#define IOTAP_MODE(flags)                                                      \
	({                                                                     \
		mode_t _mode = 0;                                              \
		va_list _ap;                                                   \
                                                                               \
		va_start(_ap, flags);                                          \
		if ((flags)&O_CREAT || ((flags)&O_TMPFILE) == O_TMPFILE)       \
			_mode = va_arg(_ap, mode_t);                           \
		va_end(_ap);                                                   \
		_mode;                                                         \
	})

int iotap_open(const char *path, int flags, ...)
{
	return iotap_open_any(AT_FDCWD, path, flags, IOTAP_MODE(flags));
}

int iotap_open64(const char *path, int flags, ...)
{
	return iotap_open_any(AT_FDCWD, path, flags, IOTAP_MODE(flags));
}

int iotap_openat(int dir, const char *name, int flags, ...)
{
	return iotap_open_any(dir, name, flags, IOTAP_MODE(flags));
}

int iotap_openat64(int dir, const char *name, int flags, ...)
{
	return iotap_open_any(dir, name, flags, IOTAP_MODE(flags));
}

int iotap_mkdirat(int dir, const char *name, mode_t mode)
{
	struct iotap_call call = { .op = IOTAP_MKDIR,
				   .dir = dir,
				   .name = name };

	return (int)IOTAP_DO(&call, syscall(SYS_mkdirat, dir, name, mode));
}

int iotap_unlinkat(int dir, const char *name, int flags)
{
	struct iotap_call call = { .op = IOTAP_UNLINK,
				   .dir = dir,
				   .name = name };

	return (int)IOTAP_DO(&call, syscall(SYS_unlinkat, dir, name, flags));
}

int iotap_renameat2(int dir, const char *name, int new_dir,
		    const char *new_name, unsigned flags)
{
	struct iotap_call call = { .op = flags & RENAME_EXCHANGE
						 ? IOTAP_EXCHANGE
						 : IOTAP_RENAME,
				   .dir = dir,
				   .name = name,
				   .new_name = new_name };

	return (int)IOTAP_DO(&call, syscall(SYS_renameat2, dir, name, new_dir,
					    new_name, flags));
}

int iotap_renameat(int dir, const char *name, int new_dir, const char *new_name)
{
	return iotap_renameat2(dir, name, new_dir, new_name, 0);
}

#endif
