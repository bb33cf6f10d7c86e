/* SPDX-License-Identifier: MIT */
/*
 * The time of last change of a file whose writer is killed: right before or
 * right after any system call that changes a file. The process that goes on
 * does the request again that was in work, as the daemon's successor does.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iotap.h"
#include "scratch.h"
#include "store/store.h"

#define BYTES 300000
#define BY_HAND 12345
#define KILLS_MIN 10
#define INO 2 /* of the first file that is made */

static struct scratch dir;
static const uint8_t witness[STORE_WITNESS_SIZE] = { 7 };
static _Atomic uint32_t frozen;

/* Of the process that is killed. */
static struct life {
	unsigned step; /* in work */
	long calls;    /* until it is killed */
} * life;	       /* shared */
static pthread_t worker;
static int refused = -1; /* enum iotap_op, of large writes */

/* -- Kills ----------------------------------------------------------------- */

static int die_or_fail(const struct iotap_call *call, enum iotap_phase phase)
{
	/* Others are not the same in each run. */
	if (!pthread_equal(pthread_self(), worker))
		return 0;
	if (--life->calls == 0)
		(void)raise(SIGKILL);
	if (phase != IOTAP_BEFORE || (int)call->op != refused)
		return 0;
	return call->op != IOTAP_WRITE || call->len >= BYTES ? ENOSPC : 0;
}

static struct store *open_store(bool resume, struct store_resume *files,
				size_t n)
{
	struct store_config config = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "64M", .min_free = "0", .grace_sec = -1 },
		.witness = witness,
		.frozen = &frozen,
		.resume = resume,
		.files = files,
		.n_files = n
	};
	struct store *st = NULL;
	char why[512];

	ck_assert_msg(!store_open(&config, &st, why, sizeof(why)), "%s", why);
	return st;
}

/* -- Steps: each is one request ---------------------------------------------- */

typedef void (*step_fn)(struct store *st, struct store_file **f);

static void make_it(struct store *st, struct store_file **f)
{
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = "f",
				  .mode = 0644 };
	struct stat attr;

	ck_assert_int_eq(store_file_create(st, &what, O_RDWR, &attr, f), 0);
	ck_assert_uint_eq(attr.st_ino, INO);
}

static void open_it(struct store *st, struct store_file **f)
{
	ck_assert_int_eq(store_file_open(st, INO, O_RDWR, f), 0);
}

static void write_it(struct store *st, struct store_file **f)
{
	static const char buf[BYTES] = "x";

	(void)st;
	ck_assert_int_eq(store_file_write(*f, 0, buf, BYTES, false), BYTES);
}

static void write_in_vain(struct store *st, struct store_file **f)
{
	static const char buf[BYTES] = "y";

	(void)st;
	refused = IOTAP_WRITE;
	ck_assert_int_eq(store_file_write(*f, BYTES, buf, BYTES, false),
			 -ENOSPC);
	refused = -1;
}

static void cut_in_vain(struct store *st, struct store_file **f)
{
	struct stat attr = { .st_size = BYTES / 2 };

	(void)f;
	refused = IOTAP_TRUNCATE;
	ck_assert_int_eq(store_setattr(st, INO, &attr, STORE_SET_SIZE, &attr),
			 -ENOSPC);
	refused = -1;
}

static void set_time(struct store *st, struct store_file **f)
{
	struct stat attr = { .st_mtim.tv_nsec = BY_HAND };

	(void)f;
	ck_assert_int_eq(store_setattr(st, INO, &attr, STORE_SET_MTIME, &attr),
			 0);
}

static void set_mode(struct store *st, struct store_file **f)
{
	struct stat attr = { .st_mode = 0600 };

	(void)f;
	ck_assert_int_eq(store_setattr(st, INO, &attr, STORE_SET_MODE, &attr),
			 0);
}

static void save_all(struct store *st, struct store_file **f)
{
	(void)f;
	ck_assert_int_eq(store_sync(st), 0);
}

static void close_it(struct store *st, struct store_file **f)
{
	(void)st;
	store_file_close(*f);
	*f = NULL;
}

/* The last one is @close_it. */
#define STEPS_MAX 12

struct script {
	step_fn steps[STEPS_MAX];
	unsigned from; /* the step that the kills begin with */
	bool by_hand;  /* its time in the end, and whenever @from is done */
};

/* -- Lives ------------------------------------------------------------------- */

/* Is the file open as a process that is killed in @step leaves it? */
static bool is_open_in(const struct script *s, unsigned step)
{
	bool is = false;

	for (unsigned i = 0; i < step; i++)
		if (s->steps[i] == make_it || s->steps[i] == open_it)
			is = true;
		else if (s->steps[i] == close_it)
			is = false;
	return is;
}

static void go_through(const struct script *s, long calls)
{
	struct store *st = open_store(false, NULL, 0);
	struct store_file *f = NULL;

	worker = pthread_self();
	iotap_hook = die_or_fail;
	life->calls = 0; /* never */
	for (unsigned i = 0; i < STEPS_MAX && s->steps[i]; i++) {
		life->step = i;
		if (i == s->from)
			life->calls = calls;
		s->steps[i](st, &f);
	}
	_exit(life->calls > 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Returns false if it came to its end. */
static bool killed_at(const struct script *s, long calls)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		go_through(s, calls);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return true;
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
	return false;
}

static void expect_time(struct store *st, const struct script *s, long calls)
{
	struct stat attr;
	bool by_hand;

	ck_assert_int_eq(store_getattr(st, INO, &attr), 0);
	by_hand = !attr.st_mtim.tv_sec && attr.st_mtim.tv_nsec == BY_HAND;
	ck_assert_msg(by_hand == s->by_hand,
		      "killed at call %ld, in step %u: the time is %lld.%09ld",
		      calls, life->step, (long long)attr.st_mtim.tv_sec,
		      attr.st_mtim.tv_nsec);
}

static void go_on(const struct script *s, long calls)
{
	struct store_resume file = { .ino = INO, .flags = O_RDWR };
	bool is_open = is_open_in(s, life->step);
	struct store *st = open_store(true, &file, is_open);
	bool any_time;

	ck_assert(!is_open || file.file);
	worker = pthread_self();
	iotap_hook = die_or_fail;
	life->calls = 0;
	/* What fails only when it is done again may have changed bytes. */
	any_time = s->steps[life->step] == write_in_vain ||
		   s->steps[life->step] == cut_in_vain;
	if (life->step > s->from && !any_time)
		expect_time(st, s, calls);
	for (unsigned i = life->step; i < STEPS_MAX && s->steps[i]; i++) {
		s->steps[i](st, &file.file);
		if (!any_time)
			expect_time(st, s, calls);
	}
	iotap_hook = NULL;
	ck_assert_int_eq(store_close(st), 0);
}

static void try_all(const struct script *s)
{
	long calls = 0;
	bool killed;

	do {
		dir = scratch_new();
		killed = killed_at(s, ++calls);
		if (killed)
			go_on(s, calls);
		scratch_remove(&dir);
	} while (killed);
	ck_assert_int_gt(calls, KILLS_MIN);
}

/* -- Scripts ------------------------------------------------------------------ */

START_TEST(set_and_closed)
{
	const struct script s = { { make_it, write_it, set_time, close_it },
				  2,
				  true };

	try_all(&s);
}
END_TEST

START_TEST(set_again_and_closed)
{
	const struct script s = { { make_it, set_time, write_it, set_time,
				    set_mode, close_it },
				  3,
				  true };

	try_all(&s);
}
END_TEST

START_TEST(written_after_it_was_set)
{
	const struct script s = { { make_it, write_it, set_time, write_it,
				    set_mode, close_it },
				  3,
				  false };

	try_all(&s);
}
END_TEST

START_TEST(set_and_written_in_vain)
{
	const struct script s = { { make_it, write_it, set_time, write_in_vain,
				    set_mode, close_it },
				  2,
				  true };

	try_all(&s);
}
END_TEST

/* Its pack is the same one then, which has a time of its own. */
START_TEST(set_when_closed_then_written_in_vain)
{
	const struct script s = { { make_it, write_it, close_it, set_time,
				    open_it, write_in_vain, set_mode,
				    close_it },
				  3,
				  true };

	try_all(&s);
}
END_TEST

START_TEST(set_when_closed_then_cut_in_vain)
{
	const struct script s = { { make_it, write_it, close_it, set_time,
				    open_it, cut_in_vain, set_mode, close_it },
				  3,
				  true };

	try_all(&s);
}
END_TEST

/* And here it is a copy. */
START_TEST(set_when_saved_then_written_in_vain)
{
	const struct script s = { { make_it, write_it, close_it, set_time,
				    save_all, open_it, write_in_vain, set_mode,
				    close_it },
				  5,
				  true };

	try_all(&s);
}
END_TEST

static void set_up(void)
{
	scratch_in_memory();
	iotap_fake_sync = true;
	life = mmap(NULL, sizeof(*life), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(life, MAP_FAILED);
}

int main(void)
{
	Suite *suite = suite_create("times");
	TCase *tc = tcase_create("times");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, NULL);
	tcase_set_timeout(tc, 110);
	tcase_add_test(tc, set_and_closed);
	tcase_add_test(tc, set_again_and_closed);
	tcase_add_test(tc, written_after_it_was_set);
	tcase_add_test(tc, set_and_written_in_vain);
	tcase_add_test(tc, set_when_closed_then_written_in_vain);
	tcase_add_test(tc, set_when_closed_then_cut_in_vain);
	tcase_add_test(tc, set_when_saved_then_written_in_vain);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
