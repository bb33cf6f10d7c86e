/* SPDX-License-Identifier: MIT */
#include "store/index.h"

#include <check.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "indexkit.h"
#include "store/audit.h"

/* -- Values --------------------------------------------------------------- */

START_TEST(value_comes_back_until_deleted)
{
	struct record_key key = record_key_id(7);
	struct index_txn *txn = begin(true);

	put(txn, INDEX_INODE, 7, "seven");
	ck_assert_str_eq(get(txn, INDEX_INODE, 7), "seven");
	put(txn, INDEX_INODE, 7, "eight");
	ck_assert_str_eq(get(txn, INDEX_INODE, 7), "eight");
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 7), "eight");
	ck_assert_str_eq(get_now(INDEX_INLINE, 7), "!2");

	txn = begin(true);
	ck_assert_int_eq(index_del(txn, INDEX_INODE, &key), 0);
	ck_assert_int_eq(index_del(txn, INDEX_INODE, &key), -ENOENT);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 7), "!2");
}
END_TEST

START_TEST(empty_value_is_a_value)
{
	put_now(INDEX_ORPHAN, 3, "");
	ck_assert_str_eq(get_now(INDEX_ORPHAN, 3), "");
}
END_TEST

START_TEST(fresh_put_refuses_second_key)
{
	struct record_key key = record_key_id(1);
	struct index_txn *txn = begin(true);

	ck_assert_int_eq(index_put(txn, INDEX_INODE, &key, "a", 1, true), 0);
	ck_assert_int_eq(index_put(txn, INDEX_INODE, &key, "b", 1, true),
			 -EEXIST);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "a");
}
END_TEST

START_TEST(largest_value_fits_and_larger_is_refused)
{
	static uint8_t in[INDEX_VALUE_MAX + 1];
	static uint8_t out[INDEX_VALUE_MAX];
	struct record_key key = record_key_id(1);
	struct index_txn *txn = begin(true);

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7 + i / 256);
	ck_assert_int_eq(index_put(txn, INDEX_INLINE, &key, in, sizeof(in),
				   false),
			 -EINVAL);
	ck_assert_int_eq(index_put(txn, INDEX_INLINE, &key, in, INDEX_VALUE_MAX,
				   false),
			 0);
	ck_assert_int_eq(index_commit(txn), 0);
	txn = begin(false);
	ck_assert_int_eq(index_get(txn, INDEX_INLINE, &key, out, sizeof(out)),
			 INDEX_VALUE_MAX);
	ck_assert_mem_eq(in, out, sizeof(out));
	ck_assert_int_eq(index_get(txn, INDEX_INLINE, &key, out,
				   sizeof(out) - 1),
			 -EBADMSG);
	index_abort(txn);
}
END_TEST

static uint64_t used_pages(void)
{
	struct audit_found found;
	struct index_snap *snap;
	char path[SCRATCH_PATH_MAX];
	int fd;

	file_of_index(path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
	ck_assert_int_eq(
		audit_snapshot(fd, snap->meta, snap->page_size, &found), 0);
	index_unpin(ix, snap);
	close(fd);
	return found.used;
}

/* Pages that one value takes that is alone in its table. */
static uint64_t pages_of_value(enum index_table table, size_t len)
{
	uint64_t before = used_pages();
	struct record_key key = record_key_id(1);
	struct index_txn *txn = begin(true);
	uint8_t *val = calloc(1, len);

	ck_assert_int_eq(index_put(txn, table, &key, val, len, true), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	free(val);
	return used_pages() - before;
}

START_TEST(leaf_max_is_the_largest_that_stays_in_the_leaf)
{
	size_t max = index_leaf_max(ix);

	put_now(INDEX_INODE, 1, "the free list has its page now");
	put_now(INDEX_INODE, 2, "and keeps it");
	ck_assert_uint_eq(pages_of_value(INDEX_INLINE, max), 1);
	ck_assert_uint_eq(pages_of_value(INDEX_ENTRY, max + 1), 2);
}
END_TEST

START_TEST(damaged_value_is_found)
{
	put_now(INDEX_INODE, 1, "an undamaged value");
	index_close(ix);
	damage("undamaged", "unDamaged");
	ck_assert_int_eq(try_open(0), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "!74"); /* EBADMSG */
}
END_TEST

START_TEST(value_under_a_wrong_key_is_found)
{
	struct record_key key = record_key_name(5, "one-name");
	char buf[16];
	struct index_txn *txn = begin(true);

	ck_assert_int_eq(index_put(txn, INDEX_DIRENT, &key, "v", 1, true), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	index_close(ix);
	damage("one-name", "two-name");
	ck_assert_int_eq(try_open(0), 0);
	key = record_key_name(5, "two-name");
	txn = begin(false);
	ck_assert_int_eq(index_get(txn, INDEX_DIRENT, &key, buf, sizeof(buf)),
			 -EBADMSG);
	index_abort(txn);
}
END_TEST

/* -- Transactions --------------------------------------------------------- */

START_TEST(abort_drops_all_and_readers_see_the_last_commit)
{
	struct index_txn *reader;
	struct index_txn *txn;

	put_now(INDEX_INODE, 1, "old");
	reader = begin(false);
	put_now(INDEX_INODE, 1, "new");
	ck_assert_str_eq(get(reader, INDEX_INODE, 1), "old");
	index_abort(reader);
	txn = begin(true);
	put(txn, INDEX_INODE, 1, "dropped");
	index_abort(txn);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "new");
}
END_TEST

START_TEST(commit_without_a_change_makes_no_transaction)
{
	struct record_key key = record_key_id(1);
	uint64_t txnid = index_txnid(ix);
	struct index_txn *txn = begin(true);

	ck_assert_int_eq(index_del(txn, INDEX_INODE, &key), -ENOENT);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_uint_eq(index_txnid(ix), txnid);
	ck_assert_int_eq(told, 0);
}
END_TEST

START_TEST(commits_survive_reopening_without_close)
{
	pid_t pid;
	int status;

	index_close(ix);
	ix = NULL;
	pid = fork();
	if (pid == 0) {
		if (try_open(0) == 0)
			put_now(INDEX_INODE, 1, "kept");
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(try_open(0), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "kept");
}
END_TEST

/* The file may not grow: what a full disk does, as a limit. */
static void limit_file_size(rlim_t bytes)
{
	struct rlimit limit = { bytes, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

START_TEST(failed_commit_leaves_the_old_state_and_a_usable_index)
{
	static char big[3000];
	struct index_txn *txn;
	char path[SCRATCH_PATH_MAX];
	struct stat st;
	int r;

	memset(big, 'x', sizeof(big) - 1);
	put_now(INDEX_INODE, 1, "before");
	file_of_index(path);
	ck_assert_int_eq(stat(path, &st), 0);
	limit_file_size((rlim_t)st.st_size);
	txn = begin(true);
	put(txn, INDEX_INODE, 1, "after");
	for (uint64_t i = 10; i < 60; i++)
		put(txn, INDEX_INLINE, i, big);
	r = index_commit(txn);
	ck_assert_msg(r == -ENOSPC || r == -EIO, "commit said %d", r);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "before");
	ck_assert_str_eq(get_now(INDEX_INLINE, 10), "!2");

	limit_file_size(RLIM_INFINITY);
	put_now(INDEX_INODE, 1, "after");
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "after");
}
END_TEST

START_TEST(frozen_index_refuses_writers_and_serves_readers)
{
	struct index_txn *txn;

	put_now(INDEX_INODE, 1, "there");
	ck_assert(!index_frozen(ix));
	index_freeze(ix);
	ck_assert(index_frozen(ix));
	ck_assert_int_eq(index_begin(ix, true, &txn), -EROFS);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "there");
}
END_TEST

static void *write_when_let(void *arg)
{
	struct index_txn *txn;
	int *ret = arg;

	*ret = index_begin(ix, true, &txn);
	if (*ret == 0)
		index_abort(txn);
	return NULL;
}

START_TEST(writer_that_waits_learns_of_the_freeze)
{
	struct index_txn *txn = begin(true);
	pthread_t thread;
	int r = 1;

	ck_assert_int_eq(pthread_create(&thread, NULL, write_when_let, &r), 0);
	usleep(20000); /* most likely it waits for us now */
	index_freeze(ix);
	index_abort(txn);
	pthread_join(thread, NULL);
	ck_assert_int_eq(r, -EROFS);
}
END_TEST

#define READERS 256

START_TEST(readers_beyond_the_table_are_refused_for_now)
{
	struct index_txn *txn[READERS];
	struct index_txn *one_more;

	for (int i = 0; i < READERS; i++)
		txn[i] = begin(false);
	ck_assert_int_eq(index_begin(ix, false, &one_more), -ENOMEM);
	index_abort(txn[0]);
	txn[0] = begin(false);
	for (int i = 0; i < READERS; i++)
		index_abort(txn[i]);
}
END_TEST

START_TEST(slots_of_dead_readers_are_taken_back)
{
	struct index_txn *txn;
	int ready[2];
	int status;
	pid_t pid;
	char c;

	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		bool good = try_open(0) == 0;

		for (int i = 0; good && i < READERS; i++)
			good = index_begin(ix, false, &txn) == 0;
		if (good)
			(void)!write(ready[1], "r", 1);
		pause();
		_exit(1);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	ck_assert_int_eq(try_open(0), 0);
	ck_assert_int_eq(index_begin(ix, false, &txn), -ENOMEM);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(index_begin(ix, false, &txn), 0);
	index_abort(txn);
}
END_TEST

#define WRITES 300

static void *writer(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg;

	for (int i = 0; i < WRITES; i++) {
		struct index_txn *txn = begin(true);

		put(txn, INDEX_INODE, id, "one");
		put(txn, INDEX_ENTRY, id * 1000 + (uint64_t)i, "two");
		ck_assert_int_eq(index_commit(txn), 0);
	}
	return NULL;
}

static atomic_bool readers_stop;

static void *reader(void *arg)
{
	(void)arg;
	while (!readers_stop) {
		struct record_key key = record_key_id(1);
		struct index_txn *txn = begin(false);
		char buf[8];
		ssize_t n;

		n = index_get(txn, INDEX_INODE, &key, buf, sizeof(buf));
		ck_assert(n == 3 || n == -ENOENT);
		index_abort(txn);
	}
	return NULL;
}

START_TEST(writers_and_readers_run_side_by_side)
{
	struct index_stat stat;
	pthread_t thread[6];

	readers_stop = false;
	for (uintptr_t i = 0; i < 6; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL,
						i < 4 ? writer : reader,
						(void *)i),
				 0);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	readers_stop = true;
	pthread_join(thread[4], NULL);
	pthread_join(thread[5], NULL);
	ck_assert_int_eq(index_stat(ix, &stat), 0);
	ck_assert_uint_eq(stat.entries[INDEX_INODE], 4);
	ck_assert_uint_eq(stat.entries[INDEX_ENTRY], 4 * WRITES);
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_values(Suite *suite)
{
	TCase *tc = new_case(suite, "values");

	tcase_add_test(tc, value_comes_back_until_deleted);
	tcase_add_test(tc, empty_value_is_a_value);
	tcase_add_test(tc, fresh_put_refuses_second_key);
	tcase_add_test(tc, largest_value_fits_and_larger_is_refused);
	tcase_add_test(tc, leaf_max_is_the_largest_that_stays_in_the_leaf);
	tcase_add_test(tc, damaged_value_is_found);
	tcase_add_test(tc, value_under_a_wrong_key_is_found);
}

static void add_transactions(Suite *suite)
{
	TCase *tc = new_case(suite, "transactions");

	tcase_add_test(tc, abort_drops_all_and_readers_see_the_last_commit);
	tcase_add_test(tc, commit_without_a_change_makes_no_transaction);
	tcase_add_test(tc, commits_survive_reopening_without_close);
	tcase_add_test(tc,
		       failed_commit_leaves_the_old_state_and_a_usable_index);
	tcase_add_test(tc, frozen_index_refuses_writers_and_serves_readers);
	tcase_add_test(tc, writer_that_waits_learns_of_the_freeze);
	tcase_add_test(tc, readers_beyond_the_table_are_refused_for_now);
	tcase_add_test(tc, slots_of_dead_readers_are_taken_back);
	tcase_add_test(tc, writers_and_readers_run_side_by_side);
}

int main(void)
{
	Suite *suite = suite_create("index");

	add_values(suite);
	add_transactions(suite);
	return run_suite(suite);
}
