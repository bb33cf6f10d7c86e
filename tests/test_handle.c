/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

#define MANY 1000

static struct handles *table;
static struct kept *kept;
/* The table only keeps pointers: these stand for open files. */
static char files[MANY];

static struct store_file *file(size_t i)
{
	return (struct store_file *)(void *)&files[i];
}

static uint64_t add(size_t i)
{
	uint64_t fh;

	ck_assert_int_eq(handles_add(table, file(i), i, O_RDONLY, i + 100, &fh),
			 0);
	return fh;
}

static struct kept *new_kept(void)
{
	struct kept *k = NULL;
	int fd = kept_create();

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(kept_map(fd, &k), 0);
	close(fd);
	return k;
}

static void expect(uint64_t fh, size_t i)
{
	struct store_file *f = NULL;

	ck_assert_int_eq(handles_get(table, fh, &f), 0);
	ck_assert_ptr_eq(f, file(i));
}

static void expect_none(uint64_t fh)
{
	struct store_file *f = file(0);

	ck_assert_int_eq(handles_get(table, fh, &f), -EBADF);
	ck_assert_int_eq(handles_take(table, fh, &f), -EBADF);
	ck_assert_ptr_eq(f, file(0));
}

static void take(uint64_t fh, size_t i)
{
	struct store_file *f = NULL;

	ck_assert_int_eq(handles_take(table, fh, &f), 0);
	ck_assert_ptr_eq(f, file(i));
	handles_forget(table, fh);
}

static void set_up(void)
{
	kept = new_kept();
	table = handles_new(kept);
	ck_assert_ptr_nonnull(table);
}

static void tear_down(void)
{
	ck_assert_uint_eq(handles_count(table), 0);
	handles_free(table);
}

START_TEST(what_is_added_is_found_until_it_is_removed)
{
	uint64_t fh[MANY];

	for (size_t i = 0; i < MANY; i++)
		fh[i] = add(i);
	ck_assert_uint_eq(handles_count(table), MANY);
	for (size_t i = 0; i < MANY; i++)
		expect(fh[i], i);
	for (size_t i = 0; i < MANY; i++) {
		take(fh[i], i);
		expect_none(fh[i]);
	}
}
END_TEST

START_TEST(an_old_fh_does_not_find_the_new_file_of_its_row)
{
	uint64_t old = add(1), new;

	take(old, 1);
	new = add(2);
	ck_assert_uint_eq((uint32_t)old, (uint32_t) new);
	expect_none(old);
	expect(new, 2);
	take(new, 2);
}
END_TEST

START_TEST(an_fh_never_given_out_is_refused)
{
	static const uint64_t hostile[] = {
		0,
		1,
		UINT32_MAX,
		UINT64_MAX,
		UINT64_C(1) << 32,
		UINT64_C(1) << 63,
		UINT64_C(1) << 32 | 5,
	};
	uint64_t fh;

	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++)
		expect_none(hostile[i]);
	fh = add(3);
	for (size_t i = 0; i < ARRAY_SIZE(hostile); i++)
		if (hostile[i] != fh)
			expect_none(hostile[i]);
	expect(fh, 3);
	take(fh, 3);
}
END_TEST

static void *open_and_close(void *arg)
{
	size_t i = (size_t)((char *)arg - files);

	for (int n = 0; n < 5000; n++) {
		uint64_t fh = add(i);

		expect(fh, i);
		take(fh, i);
	}
	return NULL;
}

START_TEST(threads_do_not_mix_up_their_files)
{
	pthread_t thread[8];

	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL,
						open_and_close, &files[i]),
				 0);
	for (size_t i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
}
END_TEST

START_TEST(a_full_table_says_so)
{
	uint64_t fh;
	int r = 0;

	for (uint32_t i = 0; i < KEPT_ROWS && r == 0; i++)
		r = handles_add(table, file(0), 1, 0, 1, &fh);
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(handles_add(table, file(0), 1, 0, 1, &fh), -ENFILE);
	/* The rows were never used before: all of the first generation. */
	for (uint32_t i = 0; i < KEPT_ROWS; i++)
		take(UINT64_C(1) << 32 | i, 0);
}
END_TEST

/* A process that opens files, closes some, and is killed. */
static void open_and_die(void)
{
	uint64_t fh[MANY];
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		for (size_t i = 0; i < MANY; i++)
			fh[i] = add(i);
		for (size_t i = 0; i < MANY; i += 3)
			take(fh[i], i);
		handles_set_bad(table, fh[4]);
		for (size_t i = 0; i < MANY; i++)
			kept_rows(kept)[i].backing_id = 1 + (int32_t)i;
		(void)raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
}

START_TEST(another_process_finds_what_was_open)
{
	struct store_resume *list;
	uint64_t fh[MANY], found;
	size_t n;

	open_and_die();
	for (uint64_t i = 0; i < MANY; i++)
		fh[i] = UINT64_C(1) << 32 | i;
	ck_assert_int_eq(handles_list(table, &list, &n), 0);
	ck_assert_uint_eq(n, MANY - (MANY + 2) / 3);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_ne(list[i].ino % 3, 0);
		ck_assert_int_eq(list[i].bad, list[i].ino == 4);
		/* One has gone meanwhile. */
		if (list[i].ino != 7)
			list[i].file = file(list[i].ino);
	}
	ck_assert_int_eq(handles_resume(table, list, n), 0);
	free(list);
	/* Room for what the kernel would have to be told of each. */
	for (size_t i = 0; i < MANY; i++)
		ck_assert_int_eq(kept_rows(kept)[i].backing_id, 1 + (int)i);
	ck_assert_int_eq(handles_opened(table, 100 + 5, &found), 0);
	ck_assert_uint_eq(found, fh[5]);
	ck_assert_int_eq(handles_opened(table, 100 + 6, &found), -ENOENT);
	expect_none(fh[7]);
	for (size_t i = 0; i < MANY; i++) {
		if (i % 3 == 0 || i == 7)
			expect_none(fh[i]);
		else
			take(fh[i], i);
	}
	/* Whatever row comes next, an old fh does not find it. */
	found = add(0);
	ck_assert_int_eq(kept_rows(kept)[(uint32_t)found].backing_id, 0);
	expect_none(fh[0]);
	take(found, 0);
}
END_TEST

static size_t listed(void)
{
	struct store_resume *list = NULL;
	size_t n = 0;

	ck_assert_int_eq(handles_list(table, &list, &n), 0);
	free(list);
	return n;
}

START_TEST(what_is_being_closed_is_open_for_another_process)
{
	uint64_t fh = add(1), next;
	struct store_file *f = NULL;

	handles_set_bad(table, fh);
	ck_assert_int_eq(handles_take(table, fh, &f), 0);
	ck_assert_ptr_eq(f, file(1));
	ck_assert_int_eq(handles_get(table, fh, &f), -EBADF);
	ck_assert_uint_eq(listed(), 1);
	next = add(2); /* in a row of its own */
	ck_assert_uint_ne((uint32_t)next, (uint32_t)fh);
	handles_forget(table, fh);
	handles_forget(table, fh);
	handles_forget(table, next); /* not taken */
	ck_assert_uint_eq(listed(), 1);
	ck_assert_uint_eq(handles_count(table), 1);
	take(next, 2);
	ck_assert_uint_eq(listed(), 0);
}
END_TEST

START_TEST(memory_of_another_layout_is_refused)
{
	struct kept *k;
	int fd = kept_create();

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(kept_map(fd, &k), 0);
	k->layout++;
	ck_assert_int_eq(kept_map(fd, &k), -EPROTO);
	k->layout--;
	ck_assert_int_eq(kept_map(fd, &k), 0);
	k->magic[0]++;
	ck_assert_int_eq(kept_map(fd, &k), -EPROTO);
	close(fd);
	ck_assert_int_eq(kept_map(fd, &k), -EBADF);
}
END_TEST

/* It could be made smaller below who uses it. */
START_TEST(memory_that_is_not_sealed_is_refused)
{
	struct stat st;
	struct kept *k;
	int fd = kept_create();
	int other = memfd_create("test", MFD_ALLOW_SEALING);

	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(ftruncate(other, st.st_size), 0);
	ck_assert_int_eq(sendfile(other, fd, NULL, 4096), 4096);
	ck_assert_int_eq(kept_map(other, &k), -EPROTO);
	ck_assert_int_eq(fcntl(other, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	ck_assert_int_eq(kept_map(other, &k), 0);
	close(fd);
	close(other);
}
END_TEST

/* A process that claims the memory, says so, and goes on. */
static pid_t claimer(int fd, int said)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	if (kept_claim(fd) < 0 || write(said, "x", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

START_TEST(one_process_claims_the_memory_at_a_time)
{
	int fd = kept_create(), said[2];
	struct pollfd p;
	pid_t one, two;
	char c;

	ck_assert_int_eq(pipe(said), 0);
	p = (struct pollfd){ .fd = said[0], .events = POLLIN };
	one = claimer(fd, said[1]);
	ck_assert_int_eq(read(said[0], &c, 1), 1);
	two = claimer(fd, said[1]);
	ck_assert_int_eq(poll(&p, 1, 300), 0);
	kill(one, SIGKILL);
	ck_assert_int_eq(waitpid(one, NULL, 0), one);
	ck_assert_int_eq(read(said[0], &c, 1), 1);
	kill(two, SIGKILL);
	ck_assert_int_eq(waitpid(two, NULL, 0), two);
}
END_TEST

/* Once with real files. */
START_TEST(freeing_the_table_closes_what_is_open)
{
	struct scratch dir = scratch_new();
	struct store_config config = { .path = dir.path,
				       .flags = STORE_OPEN_CREATE,
				       .limits = { .grace_sec = -1 } };
	struct handles *real = handles_new(new_kept());
	struct store_status status;
	struct store_file *f;
	struct store *store;
	char why[512];
	uint64_t fh;

	ck_assert_int_eq(store_open(&config, &store, why, sizeof(why)), 0);
	ck_assert_int_eq(store_file_open(store, STORE_ROOT_INO,
					 O_RDONLY | O_DIRECTORY, &f),
			 0);
	ck_assert_int_eq(handles_add(real, f, STORE_ROOT_INO, 0, 1, &fh), 0);
	handles_free(real);
	ck_assert_int_eq(store_status(store, &status), 0);
	ck_assert_uint_eq(status.open_files, 0);
	ck_assert_int_eq(store_close(store), 0);
	handles_free(NULL);
	scratch_remove(&dir);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("handle");
	TCase *tc = tcase_create("handle");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, what_is_added_is_found_until_it_is_removed);
	tcase_add_test(tc, an_old_fh_does_not_find_the_new_file_of_its_row);
	tcase_add_test(tc, an_fh_never_given_out_is_refused);
	tcase_add_test(tc, threads_do_not_mix_up_their_files);
	tcase_add_test(tc, a_full_table_says_so);
	tcase_add_test(tc, another_process_finds_what_was_open);
	tcase_add_test(tc, what_is_being_closed_is_open_for_another_process);
	tcase_add_test(tc, memory_of_another_layout_is_refused);
	tcase_add_test(tc, memory_that_is_not_sealed_is_refused);
	tcase_add_test(tc, one_process_claims_the_memory_at_a_time);
	tcase_add_test(tc, freeing_the_table_closes_what_is_open);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
