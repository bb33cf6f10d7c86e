/* SPDX-License-Identifier: MIT */
#include "store/ids.h"

#include <check.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "indexkit.h"

/* -- Ids ------------------------------------------------------------------ */

static uint64_t new_id(enum index_id which)
{
	uint64_t id;

	ck_assert_int_eq(index_new_id(ix, which, &id), 0);
	return id;
}

START_TEST(ids_begin_behind_the_root_and_count_up)
{
	ck_assert_uint_eq(new_id(INDEX_ID_INO), RECORD_ROOT_INO + 1);
	ck_assert_uint_eq(new_id(INDEX_ID_INO), RECORD_ROOT_INO + 2);
	ck_assert_uint_eq(new_id(INDEX_ID_PACK), 1);
	ck_assert_uint_eq(new_id(INDEX_ID_ENTRY), 1);
}
END_TEST

START_TEST(ids_are_not_repeated_by_the_next_process)
{
	uint64_t last = 0;
	uint64_t id;

	for (int i = 0; i < 5; i++) {
		/* Nothing is committed: not even then. */
		for (int n = 0; n < INDEX_ID_STEP; n++)
			id = new_id(INDEX_ID_INO);
		ck_assert_uint_gt(id, last);
		last = id;
		reopen(0);
		ck_assert_uint_gt(new_id(INDEX_ID_INO), last);
	}
}
END_TEST

START_TEST(ids_survive_a_killed_process)
{
	uint64_t *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;
	pid_t pid;

	index_close(ix);
	ix = NULL;
	pid = fork();
	if (pid == 0) {
		if (try_open(0) == 0) {
			for (int i = 0; i < 3 * INDEX_ID_STEP; i++) {
				if (i % 100 == 0)
					put_now(INDEX_INODE, 1, "x");
				*shared = new_id(INDEX_ID_PACK);
			}
		}
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(try_open(0), 0);
	ck_assert_uint_gt(*shared, 3 * INDEX_ID_STEP - 1);
	ck_assert_uint_gt(new_id(INDEX_ID_PACK), *shared);
}
END_TEST

START_TEST(restored_index_skips_far)
{
	uint64_t id = new_id(INDEX_ID_ENTRY);
	uint64_t skipped;

	reopen(INDEX_RESTORED);
	skipped = new_id(INDEX_ID_ENTRY);
	ck_assert_uint_gt(skipped, id + INDEX_RESTORE_STEP - 1);
	/* The skip is committed: it counts the next time too. */
	reopen(INDEX_RESTORED);
	ck_assert_uint_gt(new_id(INDEX_ID_ENTRY),
			  skipped + INDEX_RESTORE_STEP - 1);
}
END_TEST

START_TEST(ids_run_out_without_commits_and_come_back_with_one)
{
	uint64_t id;
	int n = 0;

	while (index_new_id(ix, INDEX_ID_INO, &id) == 0)
		n++;
	ck_assert_int_ge(n, INDEX_ID_STEP);
	ck_assert_int_eq(index_new_id(ix, INDEX_ID_INO, &id), -EAGAIN);
	ck_assert_int_eq(told, 1); /* so that a checkpoint tops up */
	put_now(INDEX_INODE, 1, "x");
	for (n = 0; n < INDEX_ID_STEP; n++)
		(void)new_id(INDEX_ID_INO);

	while (index_new_id(ix, INDEX_ID_INO, &id) == 0)
		;
	ck_assert_int_eq(index_top_up_ids(ix), 0);
	(void)new_id(INDEX_ID_INO);
}
END_TEST

START_TEST(plenty_of_ids_needs_no_transaction)
{
	uint64_t txnid = index_txnid(ix);

	(void)new_id(INDEX_ID_INO);
	ck_assert_int_eq(index_top_up_ids(ix), 0);
	ck_assert_uint_eq(index_txnid(ix), txnid);
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_ids(Suite *suite)
{
	TCase *tc = new_case(suite, "ids");

	tcase_add_test(tc, ids_begin_behind_the_root_and_count_up);
	tcase_add_test(tc, ids_are_not_repeated_by_the_next_process);
	tcase_add_test(tc, ids_survive_a_killed_process);
	tcase_add_test(tc, restored_index_skips_far);
	tcase_add_test(tc, ids_run_out_without_commits_and_come_back_with_one);
	tcase_add_test(tc, plenty_of_ids_needs_no_transaction);
}

int main(void)
{
	Suite *suite = suite_create("ids");

	add_ids(suite);
	return run_suite(suite);
}
