/* SPDX-License-Identifier: MIT */
/* What becomes of a function that runs in a process of its own. */
#include "store/apart.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct text {
	char is[64];
};

static struct text text;
static char mine[] = "mine";

static void no_child_is_left(void)
{
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}

static int run(int (*fn)(void *arg, void *out), void *arg, int *ret_signal)
{
	struct apart a = {
		.fn = fn, .arg = arg, .fd = STDERR_FILENO + 1, .signal = -1
	};
	int r;

	text = (struct text){ "before" };
	r = apart_run(&a, &text, sizeof(text));
	*ret_signal = a.signal;
	no_child_is_left();
	return r;
}

static int add(void *arg, void *out)
{
	struct text *t = out;

	memcpy(mine, "hers", sizeof(mine));
	strncat(t->is, arg, sizeof(t->is) - strlen(t->is) - 1);
	return -EBADMSG;
}

START_TEST(what_it_made_and_returned_comes_back_and_nothing_else)
{
	char word[] = " and after";
	int signal;

	ck_assert_int_eq(run(add, word, &signal), -EBADMSG);
	ck_assert_str_eq(text.is, "before and after");
	ck_assert_str_eq(mine, "mine");
}
END_TEST

static void spoil(void *out)
{
	struct text *t = out;

	t->is[0] = '\0';
}

/* -- Deaths ----------------------------------------------------------------- */

static int be_killed(void *arg, void *out)
{
	spoil(out);
	(void)raise(*(int *)arg);
	return 0;
}

static int leave(void *arg, void *out)
{
	(void)arg;
	spoil(out);
	_exit(3);
}

/* A page of a mapped file that cannot be read. */
static int read_behind_the_end(void *arg, void *out)
{
	long size = sysconf(_SC_PAGESIZE);
	int fd = memfd_create("file", MFD_CLOEXEC);
	const volatile char *map =
		mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);

	(void)arg;
	(void)out;
	return map[0];
}

static const int faults[] = { SIGBUS, SIGSEGV, SIGABRT, SIGILL, SIGFPE };

START_TEST(fault_is_told)
{
	int signal = faults[_i], got;

	ck_assert_int_eq(run(be_killed, &signal, &got), -EFAULT);
	ck_assert_int_eq(got, signal);
	ck_assert_str_eq(text.is, "before");
}
END_TEST

START_TEST(page_that_cannot_be_read_is_a_fault)
{
	int got;

	ck_assert_int_eq(run(read_behind_the_end, NULL, &got), -EFAULT);
	ck_assert_int_eq(got, SIGBUS);
}
END_TEST

START_TEST(who_leaves_has_no_fault)
{
	int got;

	ck_assert_int_eq(run(leave, NULL, &got), -EINTR);
	ck_assert_int_eq(got, 0);
	ck_assert_str_eq(text.is, "before");
}
END_TEST

START_TEST(who_was_killed_has_no_fault)
{
	int signal = SIGKILL, got;

	ck_assert_int_eq(run(be_killed, &signal, &got), -EINTR);
	ck_assert_int_eq(got, SIGKILL);
	ck_assert_str_eq(text.is, "before");
}
END_TEST

/* -- Files ------------------------------------------------------------------ */

/* How many of these the child has, as bits. */
static int look_at_files(void *arg, void *out)
{
	const int *fds = arg;
	int bits = 0;

	(void)out;
	for (int i = 0; i < 4; i++)
		bits |= (fcntl(fds[i], F_GETFD) >= 0) << i;
	return bits;
}

START_TEST(it_has_one_file)
{
	int fds[4] = { STDERR_FILENO };
	struct apart a = { .fn = look_at_files, .arg = fds };

	for (int i = 1; i < 4; i++) {
		fds[i] = memfd_create("file", MFD_CLOEXEC);
		ck_assert_int_gt(fds[i], fds[i - 1]);
	}
	a.fd = fds[2];
	ck_assert_int_eq(apart_run(&a, &text, sizeof(text)), 1 | 1 << 2);
	for (int i = 1; i < 4; i++)
		ck_assert_int_eq(close(fds[i]), 0);
}
END_TEST

/* -- Ends ------------------------------------------------------------------- */

static int wait_for_ever(void *arg, void *out)
{
	(void)arg;
	(void)out;
	while (pause() < 0) {
	}
	return 0;
}

/* Three times yes. */
static bool no_more(void *arg)
{
	return ++*(int *)arg <= 3;
}

START_TEST(it_ends_when_it_is_told_to)
{
	int asked = 0;
	struct apart a = { .fn = wait_for_ever,
			   .fd = STDERR_FILENO + 1,
			   .go_on = no_more,
			   .go_on_arg = &asked };

	ck_assert_int_eq(apart_run(&a, &text, sizeof(text)), -ECANCELED);
	ck_assert_int_eq(asked, 4);
	no_child_is_left();
}
END_TEST

static int tell_and_wait(void *arg, void *out)
{
	pid_t pid = getpid();

	if (write(*(int *)arg, &pid, sizeof(pid)) != sizeof(pid))
		return -EIO;
	return wait_for_ever(NULL, out);
}

/* The end of the pipe is that of all who have it. */
START_TEST(it_ends_with_its_parent)
{
	int ends[2];
	pid_t parent, child;
	char byte;

	ck_assert_int_eq(pipe(ends), 0);
	parent = fork();
	ck_assert_int_ge(parent, 0);
	if (parent == 0) {
		struct apart a = { .fn = tell_and_wait,
				   .arg = &ends[1],
				   .fd = ends[1] };

		(void)apart_run(&a, &text, sizeof(text));
		_exit(0);
	}
	close(ends[1]);
	ck_assert_int_eq(read(ends[0], &child, sizeof(child)), sizeof(child));
	ck_assert_int_ne(child, parent);
	ck_assert_int_eq(kill(parent, SIGKILL), 0);
	ck_assert_int_eq(waitpid(parent, NULL, 0), parent);
	ck_assert_int_eq(read(ends[0], &byte, 1), 0);
	close(ends[0]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("apart");
	TCase *tc = tcase_create("apart");
	SRunner *runner = srunner_create(suite);
	int failed;

	suite_add_tcase(suite, tc);
	tcase_add_test(tc,
		       what_it_made_and_returned_comes_back_and_nothing_else);
	tcase_add_loop_test(tc, fault_is_told, 0,
			    (int)(sizeof(faults) / sizeof(faults[0])));
	tcase_add_test(tc, page_that_cannot_be_read_is_a_fault);
	tcase_add_test(tc, who_leaves_has_no_fault);
	tcase_add_test(tc, it_has_one_file);
	tcase_add_test(tc, who_was_killed_has_no_fault);
	tcase_add_test(tc, it_ends_when_it_is_told_to);
	tcase_add_test(tc, it_ends_with_its_parent);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
