/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into a daemon: kills it at one of its system calls, as SIGKILL from
 * outside would, but each time at another: right before the call or right after
 * it.
 *
 *   CRASHPOINT_MAX=N     at the n-th call of those below, n random in 1..N
 *   CRASHPOINT_EVERY=1   before it is ready; without it only a daemon that
 *                        takes over a mount is killed
 *   CRASHPOINT_BYTES=T   instead: when it writes bytes that begin with T
 *   CRASHPOINT_CHILD=lmdb, pread: instead a child of a daemon or a check, of
 *                        SIGBUS, when it opens LMDB or reads a file;
 *   CRASHPOINT_INODE=N   that of data.mdb, and no other
 *   CRASHPOINT_SLOW=USEC instead of all that a disk that takes so much longer
 *                        for each sync
 */
#undef _FILE_OFFSET_BITS /* which gives one of two names to some calls */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls_left = -1; /* < 0: never */
static bool after;
static const char *poison;
static const char *of_children; /* what they die of */
static ino_t of_inode;		/* 0: of any */
static pid_t myself;
static useconds_t slow;

/* The arguments of this process, by their place; NULL behind the last. */
static const char *argument(char *buf, ssize_t n, int which)
{
	const char *at = buf;

	for (int i = 0; i < which; i++) {
		at = memchr(at, '\0', (size_t)(buf + n - at));
		if (!at || ++at >= buf + n)
			return NULL;
	}
	return at;
}

static bool takes_over(char *buf, ssize_t n)
{
	const char *arg;

	for (int i = 2; (arg = argument(buf, n, i)); i++)
		if (strcmp(arg, "--resume") == 0)
			return true;
	return false;
}

__attribute__((constructor)) static void begin(void)
{
	const char *max = getenv("CRASHPOINT_MAX");
	const char *slowness = getenv("CRASHPOINT_SLOW");
	const char *inode = getenv("CRASHPOINT_INODE");
	char buf[8192] = "";
	const char *command;
	unsigned at = 0;
	long most = max ? strtol(max, NULL, 10) : 0;
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	close(fd);
	command = n > 0 ? argument(buf, n, 1) : NULL;
	if (!command ||
	    (strcmp(command, "daemon") != 0 && strcmp(command, "check") != 0))
		return;
	of_children = getenv("CRASHPOINT_CHILD");
	of_inode = inode ? (ino_t)strtoull(inode, NULL, 10) : 0;
	myself = getpid();
	if (strcmp(command, "daemon") != 0)
		return;
	poison = getenv("CRASHPOINT_BYTES");
	if (!takes_over(buf, n) && !getenv("CRASHPOINT_EVERY"))
		return;
	slow = slowness ? (useconds_t)strtoul(slowness, NULL, 10) : 0;
	if (most <= 0 || getrandom(&at, sizeof(at), 0) != (ssize_t)sizeof(at))
		return;
	after = at & 1;
	calls_left = 1 + (long)(at / 2 % (unsigned long)most);
}

static void die(void)
{
	(void)syscall(SYS_kill, getpid(), SIGKILL);
}

/* A call begins. True: it is the last. */
static bool count(void)
{
	if (calls_left <= 0 || atomic_fetch_sub(&calls_left, 1) != 1)
		return false;
	if (!after)
		die();
	return true;
}

static void look(const void *buf, size_t len)
{
	size_t n = poison ? strlen(poison) : 0;

	if (n && len >= n && memcmp(buf, poison, n) == 0)
		die();
}

/* What only children die of. */

static void die_as_child(const char *call)
{
	if (of_children && strcmp(of_children, call) == 0 && getpid() != myself)
		(void)raise(SIGBUS);
}

ssize_t pread(int fd, void *buf, size_t n, off_t at)
{
	die_as_child("pread");
	return syscall(SYS_pread64, fd, buf, n, at);
}

ssize_t pread64(int fd, void *buf, size_t n, off_t at)
{
	return pread(fd, buf, n, at);
}

static ino_t inode_in(const char *path)
{
	char file[4096];
	struct stat st;

	(void)snprintf(file, sizeof(file), "%s/data.mdb", path);
	return stat(file, &st) == 0 ? st.st_ino : 0;
}

int mdb_env_open(void *env, const char *path, unsigned flags, mode_t mode);

int mdb_env_open(void *env, const char *path, unsigned flags, mode_t mode)
{
	union {
		void *symbol;
		int (*fn)(void *, const char *, unsigned, mode_t);
	} next = { dlsym(RTLD_NEXT, "mdb_env_open") };

	if (!of_inode || inode_in(path) == of_inode)
		die_as_child("lmdb");
	return next.fn(env, path, flags, mode);
}

/* The calls through which the daemon changes files, and answers. */

#define FORWARD(type, ...)                                                     \
	do {                                                                   \
		bool last = count();                                           \
		type r = (type)syscall(__VA_ARGS__);                           \
                                                                               \
		if (last)                                                      \
			die();                                                 \
		return r;                                                      \
	} while (0)

ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
	look(buf, n);
	FORWARD(ssize_t, SYS_pwrite64, fd, buf, n, at);
}

ssize_t pwrite64(int fd, const void *buf, size_t n, off_t at)
{
	return pwrite(fd, buf, n, at);
}

ssize_t write(int fd, const void *buf, size_t n)
{
	FORWARD(ssize_t, SYS_write, fd, buf, n);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
	FORWARD(ssize_t, SYS_writev, fd, iov, n);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t n,
	       unsigned flags)
{
	FORWARD(ssize_t, SYS_splice, in, in_at, out, out_at, n, flags);
}

int ftruncate(int fd, off_t size)
{
	FORWARD(int, SYS_ftruncate, fd, size);
}

int ftruncate64(int fd, off_t size)
{
	FORWARD(int, SYS_ftruncate, fd, size);
}

int fallocate(int fd, int mode, off_t at, off_t n)
{
	FORWARD(int, SYS_fallocate, fd, mode, at, n);
}

int fallocate64(int fd, int mode, off_t at, off_t n)
{
	FORWARD(int, SYS_fallocate, fd, mode, at, n);
}

int fsync(int fd)
{
	usleep(slow);
	FORWARD(int, SYS_fsync, fd);
}

int fdatasync(int fd)
{
	usleep(slow);
	FORWARD(int, SYS_fdatasync, fd);
}

int syncfs(int fd)
{
	FORWARD(int, SYS_syncfs, fd);
}

int unlinkat(int dir, const char *name, int flags)
{
	FORWARD(int, SYS_unlinkat, dir, name, flags);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	FORWARD(int, SYS_renameat2, from_dir, from, to_dir, to, 0);
}
