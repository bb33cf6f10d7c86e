/* SPDX-License-Identifier: MIT */
/*
 * A machine that refuses: the n-th call of a kind fails with an error of the
 * test's choice, once or from then on. This program's definitions come before
 * libc's, for the store, for LMDB and for all other libraries; under a
 * sanitizer, which has its own malloc(), the linker puts ours in front of it
 * (--wrap), which leaves the libraries out.
 *
 *	fault_arm(kind, n, error, lasting)	n < 0: only count
 *	... do something ...
 *	hit = fault_disarm()	did any call fail?
 *
 * For one source file of a test program. Threads: any make calls.
 */
#ifndef TESTS_FAULTKIT_H
#define TESTS_FAULTKIT_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault_kind {
	FAULT_READ,
	FAULT_WRITE,
	FAULT_SYNC,
	FAULT_ALLOCATE, /* fallocate(), with punching */
	FAULT_TRUNCATE,
	FAULT_OPEN,
	FAULT_NAME, /* made, renamed or removed */
	FAULT_MEMORY,
	FAULT_SOCKET,
	FAULT_KINDS
};

static struct {
	_Atomic long calls[FAULT_KINDS]; /* since it was armed */
	_Atomic long at;		 /* this one fails */
	_Atomic int kind;		 /* < 0: none */
	_Atomic int error;
	_Atomic bool lasting; /* and all after it */
	_Atomic long hits;
} fault = { .kind = -1 };

static inline void fault_arm(enum fault_kind kind, long n, int error,
			     bool lasting)
{
	for (int i = 0; i < FAULT_KINDS; i++)
		atomic_store(&fault.calls[i], 0);
	atomic_store(&fault.hits, 0);
	atomic_store(&fault.at, n);
	atomic_store(&fault.error, error);
	atomic_store(&fault.lasting, lasting);
	atomic_store(&fault.kind, (int)kind);
}

/* How many calls failed. */
static inline long fault_disarm(void)
{
	atomic_store(&fault.kind, -1);
	return atomic_load(&fault.hits);
}

static inline long fault_calls(enum fault_kind kind)
{
	return atomic_load(&fault.calls[kind]);
}

static inline bool fault_now(enum fault_kind kind)
{
	long at = atomic_load(&fault.at), n;
	int armed = atomic_load(&fault.kind);

	if (armed < 0)
		return false;
	n = atomic_fetch_add(&fault.calls[kind], 1);
	if (armed != (int)kind || at < 0 ||
	    (atomic_load(&fault.lasting) ? n < at : n != at))
		return false;
	atomic_fetch_add(&fault.hits, 1);
	errno = atomic_load(&fault.error);
	return true;
}

/* -- Memory --------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FAULT_OURS(name) __wrap_##name
#define FAULT_REAL(name) __real_##name
#else
#define FAULT_OURS(name) name
#define FAULT_REAL(name) __libc_##name
#endif

void *FAULT_REAL(malloc)(size_t size);
void *FAULT_REAL(calloc)(size_t n, size_t size);
void *FAULT_REAL(realloc)(void *p, size_t size);
void *FAULT_OURS(malloc)(size_t size);
void *FAULT_OURS(calloc)(size_t n, size_t size);
void *FAULT_OURS(realloc)(void *p, size_t size);
void *FAULT_OURS(reallocarray)(void *p, size_t n, size_t size);

void *FAULT_OURS(malloc)(size_t size)
{
	return fault_now(FAULT_MEMORY) ? NULL : FAULT_REAL(malloc)(size);
}

void *FAULT_OURS(calloc)(size_t n, size_t size)
{
	return fault_now(FAULT_MEMORY) ? NULL : FAULT_REAL(calloc)(n, size);
}

void *FAULT_OURS(realloc)(void *p, size_t size)
{
	return fault_now(FAULT_MEMORY) ? NULL : FAULT_REAL(realloc)(p, size);
}

void *FAULT_OURS(reallocarray)(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return fault_now(FAULT_MEMORY) ? NULL : FAULT_REAL(realloc)(p, bytes);
}

/* -- Files: libc's names, with and without 64 ------------------------------ */

#define FAULT_DO(kind, action) (fault_now(kind) ? -1 : (action))

ssize_t fault_pread(int fd, void *buf, size_t len, off_t off) __asm__("pread");
ssize_t fault_pread64(int fd, void *buf, size_t len,
		      off_t off) __asm__("pread64");
ssize_t fault_pwrite(int fd, const void *buf, size_t len,
		     off_t off) __asm__("pwrite");
ssize_t fault_pwrite64(int fd, const void *buf, size_t len,
		       off_t off) __asm__("pwrite64");
ssize_t fault_writev(int fd, const struct iovec *iov, int n) __asm__("writev");
int fault_ftruncate(int fd, off_t size) __asm__("ftruncate");
int fault_ftruncate64(int fd, off_t size) __asm__("ftruncate64");
int fault_fallocate(int fd, int mode, off_t off,
		    off_t len) __asm__("fallocate");
int fault_fallocate64(int fd, int mode, off_t off,
		      off_t len) __asm__("fallocate64");
int fault_fsync(int fd) __asm__("fsync");
int fault_fdatasync(int fd) __asm__("fdatasync");
int fault_open(const char *path, int flags, ...) __asm__("open");
int fault_open64(const char *path, int flags, ...) __asm__("open64");
int fault_openat(int dir, const char *name, int flags, ...) __asm__("openat");
int fault_openat64(int dir, const char *name, int flags,
		   ...) __asm__("openat64");
int fault_mkdirat(int dir, const char *name, mode_t mode) __asm__("mkdirat");
int fault_unlinkat(int dir, const char *name, int flags) __asm__("unlinkat");
int fault_renameat(int dir, const char *name, int new_dir,
		   const char *new_name) __asm__("renameat");
int fault_renameat2(int dir, const char *name, int new_dir,
		    const char *new_name, unsigned flags) __asm__("renameat2");

ssize_t fault_pread(int fd, void *buf, size_t len, off_t off)
{
	return FAULT_DO(FAULT_READ, syscall(SYS_pread64, fd, buf, len, off));
}

ssize_t fault_pread64(int fd, void *buf, size_t len, off_t off)
{
	return fault_pread(fd, buf, len, off);
}

ssize_t fault_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	return FAULT_DO(FAULT_WRITE, syscall(SYS_pwrite64, fd, buf, len, off));
}

ssize_t fault_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	return fault_pwrite(fd, buf, len, off);
}

ssize_t fault_writev(int fd, const struct iovec *iov, int n)
{
	return FAULT_DO(FAULT_WRITE, syscall(SYS_writev, fd, iov, n));
}

int fault_ftruncate(int fd, off_t size)
{
	return (int)FAULT_DO(FAULT_TRUNCATE, syscall(SYS_ftruncate, fd, size));
}

int fault_ftruncate64(int fd, off_t size)
{
	return fault_ftruncate(fd, size);
}

int fault_fallocate(int fd, int mode, off_t off, off_t len)
{
	return (int)FAULT_DO(FAULT_ALLOCATE,
			     syscall(SYS_fallocate, fd, mode, off, len));
}

int fault_fallocate64(int fd, int mode, off_t off, off_t len)
{
	return fault_fallocate(fd, mode, off, len);
}

int fault_fsync(int fd)
{
	return (int)FAULT_DO(FAULT_SYNC, syscall(SYS_fsync, fd));
}

int fault_fdatasync(int fd)
{
	return (int)FAULT_DO(FAULT_SYNC, syscall(SYS_fdatasync, fd));
}

/* The mode is of no interest: tests run in directories of 0700. */
int fault_openat(int dir, const char *name, int flags, ...)
{
	return (int)FAULT_DO(FAULT_OPEN,
			     syscall(SYS_openat, dir, name, flags, 0600));
}

int fault_openat64(int dir, const char *name, int flags, ...)
{
	return fault_openat(dir, name, flags);
}

int fault_open(const char *path, int flags, ...)
{
	return fault_openat(AT_FDCWD, path, flags);
}

int fault_open64(const char *path, int flags, ...)
{
	return fault_openat(AT_FDCWD, path, flags);
}

int fault_mkdirat(int dir, const char *name, mode_t mode)
{
	return (int)FAULT_DO(FAULT_NAME, syscall(SYS_mkdirat, dir, name, mode));
}

int fault_unlinkat(int dir, const char *name, int flags)
{
	return (int)FAULT_DO(FAULT_NAME,
			     syscall(SYS_unlinkat, dir, name, flags));
}

int fault_renameat2(int dir, const char *name, int new_dir,
		    const char *new_name, unsigned flags)
{
	return (int)FAULT_DO(FAULT_NAME, syscall(SYS_renameat2, dir, name,
						 new_dir, new_name, flags));
}

int fault_renameat(int dir, const char *name, int new_dir, const char *new_name)
{
	return fault_renameat2(dir, name, new_dir, new_name, 0);
}

/* -- Sockets --------------------------------------------------------------- */

int fault_socket(int domain, int type, int protocol) __asm__("socket");
int fault_accept4(int fd, struct sockaddr *address, socklen_t *len,
		  int flags) __asm__("accept4");
ssize_t fault_recv(int fd, void *buf, size_t len, int flags) __asm__("recv");
ssize_t fault_send(int fd, const void *buf, size_t len,
		   int flags) __asm__("send");

int fault_socket(int domain, int type, int protocol)
{
	return (int)FAULT_DO(FAULT_SOCKET,
			     syscall(SYS_socket, domain, type, protocol));
}

int fault_accept4(int fd, struct sockaddr *address, socklen_t *len, int flags)
{
	return (int)FAULT_DO(FAULT_SOCKET,
			     syscall(SYS_accept4, fd, address, len, flags));
}

ssize_t fault_recv(int fd, void *buf, size_t len, int flags)
{
	return FAULT_DO(FAULT_SOCKET,
			syscall(SYS_recvfrom, fd, buf, len, flags, NULL, NULL));
}

ssize_t fault_send(int fd, const void *buf, size_t len, int flags)
{
	return FAULT_DO(FAULT_SOCKET,
			syscall(SYS_sendto, fd, buf, len, flags, NULL, 0));
}

#endif
