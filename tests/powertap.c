/* SPDX-License-Identifier: MIT */
/*
 * The recorder of powerlog.h for a program that is not ours to link: a library
 * to preload. It logs what the program does to the directory
 * PIPCACHEFS_TAP_STORE in the file PIPCACHEFS_TAP_LOG.
 *
 * A file PIPCACHEFS_TAP_KILL with a number n has a process killed at its n-th
 * call, before, after or in the middle of it. The file goes with it.
 */
#include <linux/fs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "powerlog.h"

#define COPY_BYTES 65536

ssize_t tap_copy_file_range(int from, off_t *in, int to, off_t *out, size_t len,
			    unsigned flags) __asm__("copy_file_range");
int tap_ioctl(int fd, unsigned long request, ...) __asm__("ioctl");

/* A copy is a write like any other; it may be short. */
ssize_t tap_copy_file_range(int from, off_t *in, int to, off_t *out, size_t len,
			    unsigned flags)
{
	char buf[COPY_BYTES];
	ssize_t n;

	if (!in || !out || powerlog.fd < 0 || powerlog_ino(to) == 0)
		return syscall(SYS_copy_file_range, from, in, to, out, len,
			       flags);
	n = syscall(SYS_pread64, from, buf,
		    len < sizeof(buf) ? len : sizeof(buf), *in);
	if (n > 0)
		n = iotap_pwrite(to, buf, (size_t)n, *out);
	if (n > 0) {
		*in += n;
		*out += n;
	}
	return n;
}

/* Shared blocks cannot be logged as bytes: there are none here. */
int tap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == FICLONE && powerlog.fd >= 0 && powerlog_ino(fd)) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

static struct powerlog_kill tap_kill(void)
{
	struct powerlog_kill kill = { .calls = -1 };
	const char *path = getenv("PIPCACHEFS_TAP_KILL");
	FILE *f = path ? fopen(path, "re") : NULL;

	if (!f)
		return kill;
	if (fscanf(f, "%ld", &kill.calls) != 1)
		abort();
	(void)fclose(f);
	kill.how = (enum powerlog_kill_how)(kill.calls % KILL_HOWS);
	kill.once = path;
	return kill;
}

/* Not the keeper, nor the commands: nothing of them is on the disk. */
static bool tap_is_daemon(void)
{
	char args[64] = "";
	FILE *f = fopen("/proc/self/cmdline", "re");
	size_t n = f ? fread(args, 1, sizeof(args) - 1, f) : 0;
	const char *second = args + strlen(args) + 1;

	if (f)
		(void)fclose(f);
	return second < args + n && strcmp(second, "daemon") == 0;
}

static void __attribute__((constructor)) tap_start(void)
{
	const char *log = getenv("PIPCACHEFS_TAP_LOG");
	const char *store = getenv("PIPCACHEFS_TAP_STORE");

	if (log && store && tap_is_daemon())
		powerlog_start(log, store, tap_kill());
}
