/* SPDX-License-Identifier: MIT */
/* What is of no use among descriptors that a manager kept; that the right ones
 * are is shown with a real one, in tests/mount/test_systemd.py. */
#include "fs/fdstore.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/kept.h"
#include "scratch.h"
#include "store/base.h"

#define FIRST 3 /* SD_LISTEN_FDS_START */
#define SAFE 64
#define TAKEN 1
#define LEAKED 2

/* In a process of its own, which gets @n descriptors from a manager. */
static int take_here(const int *fds, size_t n, const char *names)
{
	struct fdstore f;
	char text[32];
	int high[8], code = 0;

	for (size_t i = 0; i < n; i++)
		high[i] = fcntl(fds[i], F_DUPFD, SAFE);
	for (size_t i = 0; i < n; i++)
		if (dup2(high[i], FIRST + (int)i) < 0)
			return -1;
	snprintf(text, sizeof(text), "%d", getpid());
	setenv("LISTEN_PID", text, 1);
	snprintf(text, sizeof(text), "%zu", n);
	setenv("LISTEN_FDS", text, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	if (fdstore_take("/a/store", "/a/mountpoint", &f))
		code |= TAKEN;
	for (size_t i = 0; i < n; i++)
		if (fcntl(FIRST + (int)i, F_GETFD) >= 0)
			code |= LEAKED;
	return code;
}

/* @reason: as it is logged; NULL: nothing is. */
static void refused(const int *fds, size_t n, const char *names,
		    const char *reason)
{
	char log[1024] = "";
	int ends[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		dup2(ends[1], STDERR_FILENO);
		_exit(take_here(fds, n, names));
	}
	close(ends[1]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_ge(read(ends[0], log, sizeof(log) - 1), 0);
	close(ends[0]);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "%s: status %x", names, status);
	ck_assert_msg(reason ? strstr(log, reason) != NULL : !*log, "%s: '%s'",
		      names, log);
}

START_TEST(what_does_not_fit_is_refused_and_closed)
{
	struct scratch dir = scratch_new();
	int kept = kept_create(), null = open("/dev/null", O_RDWR);
	int lock = open(dir.path, O_RDWR | O_TMPFILE, 0600);
	int folder = open(dir.path, O_RDONLY | O_DIRECTORY);
	int fuse = open("/dev/fuse", O_RDWR);
	int ends[2] = { -1, -1 };
	int made = socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
	int bare = memfd_create("test", 0), empty = memfd_create("test", 0);
	static const char all[] = "kept:device:lock";
	const struct {
		int fds[4];
		size_t n;
		const char *names;
		const char *reason;
	} cases[] = {
		{ { 0 }, 0, "", NULL },
		{ { kept, fuse, lock }, 3, "a:b:c", NULL },
		{ { kept, fuse }, 2, "kept:device", "a part is missing" },
		{ { kept, lock }, 2, "kept:lock", "a part is missing" },
		{ { fuse, lock }, 2, "device:lock", "a part is missing" },
		{ { kept, kept, fuse }, 3, "kept:kept:device", "a part is" },
		{ { kept, fuse, folder }, 3, all, "the lock is no file" },
		{ { kept, fuse, fuse }, 3, all, "the lock is no file" },
		{ { kept, fuse, lock, null },
		  4,
		  "kept:device:lock:control",
		  "is no socket" },
		{ { kept, fuse, lock, ends[0] },
		  4,
		  "kept:device:lock:control",
		  "has been taken away" },
		{ { bare, fuse, lock }, 3, all, "another layout" },
		{ { empty, fuse, lock }, 3, all, "another layout" },
		{ { kept, null, lock }, 3, all, "its connection is not" },
		{ { kept, lock, lock }, 3, all, "its connection is not" },
		/* Connected to no mount. */
		{ { kept, fuse, lock }, 3, all, "has been taken away" },
		{ { kept, fuse, lock, null },
		  4,
		  "kept:device:lock:other",
		  "has been taken away" },
	};

	ck_assert_int_ge(lock, 0);
	ck_assert_int_eq(made, 0);
	ck_assert_int_eq(ftruncate(bare, 1 << 20), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (fuse >= 0 || !strstr(cases[i].names, "device"))
			refused(cases[i].fds, cases[i].n, cases[i].names,
				cases[i].reason);
	scratch_remove(&dir);
}
END_TEST

START_TEST(without_a_manager_there_is_nothing)
{
	struct fdstore f;

	ck_assert(!fdstore_take("/a/store", "/a/mountpoint", &f));
	ck_assert_int_eq(f.kept, -1);
	ck_assert_int_eq(f.device, -1);
	ck_assert_int_eq(f.lock, -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fdstore");
	TCase *tc = tcase_create("fdstore");
	SRunner *runner = srunner_create(suite);
	int failed;

#ifdef HAVE_SYSTEMD
	tcase_add_test(tc, what_does_not_fit_is_refused_and_closed);
#else
	(void)what_does_not_fit_is_refused_and_closed;
#endif
	tcase_add_test(tc, without_a_manager_there_is_nothing);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
