/* SPDX-License-Identifier: MIT */
#include "store/node.h"

#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/base.h"

#define BUCKETS 16384 /* inodes this far apart share one */

static struct nodes *ns;

static void setup(void)
{
	ck_assert_int_eq(nodes_new(&ns), 0);
}

static void teardown(void)
{
	ck_assert_uint_eq(nodes_count(ns), 0);
	nodes_free(ns);
}

static struct node *get(uint64_t ino)
{
	struct node *nd = NULL;

	ck_assert_int_eq(node_get(ns, ino, &nd), 0);
	return nd;
}

static int refused(uint64_t ino)
{
	struct node *nd = NULL;
	int r = node_get(ns, ino, &nd);

	ck_assert_ptr_null(nd);
	return r;
}

static struct node *claim(uint64_t ino, bool expect_open)
{
	struct node *nd = NULL;
	bool open = !expect_open;

	ck_assert_int_eq(node_claim(ns, ino, &nd, &open), 0);
	ck_assert(open == expect_open);
	return nd;
}

START_TEST(a_node_lives_from_the_first_get_to_the_last_put)
{
	struct node *a = get(5), *b = get(5);

	ck_assert_ptr_eq(a, b);
	ck_assert_uint_eq(a->ino, 5);
	ck_assert_uint_eq(nodes_count(ns), 1);
	ck_assert(node_is_open(ns, 5));
	ck_assert(!node_put(a));
	ck_assert(node_is_open(ns, 5));
	ck_assert(node_put(b));
	ck_assert(!node_is_open(ns, 5));
	ck_assert_uint_eq(nodes_count(ns), 0);
}
END_TEST

START_TEST(find_takes_a_use_of_what_is_open_and_opens_nothing)
{
	struct node *nd;

	ck_assert_ptr_null(node_find(ns, 5));
	ck_assert_uint_eq(nodes_count(ns), 0);
	nd = get(5);
	ck_assert_ptr_eq(node_find(ns, 5), nd);
	ck_assert(!node_put(nd));
	ck_assert(node_put(nd));
}
END_TEST

START_TEST(inodes_of_one_bucket_are_told_apart)
{
	struct node *a = get(3), *b = get(3 + BUCKETS),
		    *c = get(3 + 2 * BUCKETS);

	ck_assert_ptr_ne(a, b);
	ck_assert_ptr_ne(b, c);
	ck_assert(node_put(b));
	ck_assert(!node_is_open(ns, 3 + BUCKETS));
	ck_assert_ptr_eq(node_find(ns, 3 + 2 * BUCKETS), c);
	ck_assert(!node_put(c));
	ck_assert(node_put(a));
	ck_assert(node_put(c));
}
END_TEST

START_TEST(a_claim_on_an_idle_inode_closes_the_door_to_its_end)
{
	struct node *nd = claim(5, false);

	ck_assert_int_eq(refused(5), -ESTALE);
	ck_assert_ptr_null(node_find(ns, 5));
	ck_assert(!node_is_open(ns, 5));
	ck_assert(node_claim_end(nd));
	ck_assert(node_put(get(5)));
}
END_TEST

START_TEST(an_open_inode_stays_open_to_others_while_it_is_claimed)
{
	struct node *nd = get(5);

	ck_assert_ptr_eq(claim(5, true), nd);
	ck_assert_ptr_eq(get(5), nd);
	ck_assert(!node_claim_end(nd));
	ck_assert(!node_put(nd));
	ck_assert(node_put(nd));
}
END_TEST

/* Whichever ends last sees that nobody is left, and only that one. */
START_TEST(the_last_of_put_and_claim_end_is_told)
{
	struct node *nd = get(5);

	claim(5, true);
	ck_assert(!node_put(nd));
	ck_assert(node_claim_end(nd));

	nd = get(5);
	claim(5, true);
	ck_assert(!node_claim_end(nd));
	ck_assert(node_put(nd));
}
END_TEST

START_TEST(what_was_closed_during_a_claim_can_be_opened_again)
{
	struct node *nd = get(5);

	claim(5, true);
	ck_assert(!node_put(nd));
	ck_assert_ptr_eq(get(5), nd);
	ck_assert(!node_claim_end(nd));
	ck_assert(node_put(nd));
}
END_TEST

START_TEST(the_door_stays_closed_to_the_end_of_the_last_claim)
{
	struct node *nd = claim(5, false);

	ck_assert_ptr_eq(claim(5, false), nd);
	ck_assert(!node_claim_end(nd));
	ck_assert_int_eq(refused(5), -ESTALE);
	ck_assert(node_claim_end(nd));
	ck_assert(node_put(get(5)));
}
END_TEST

static atomic_bool claim_over;

static void *end_claim(void *nd)
{
	usleep(50 * 1000);
	atomic_store(&claim_over, true);
	(void)node_claim_end(nd);
	return NULL;
}

START_TEST(who_wants_it_settled_waits_for_the_end_of_a_claim)
{
	struct node *nd = claim(5, false);
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, end_claim, nd), 0);
	ck_assert_int_eq(node_get_settled(ns, 5, &nd), 0);
	ck_assert(atomic_load(&claim_over));
	pthread_join(thread, NULL);
	ck_assert(node_put(nd));

	/* Open already: there is nothing to wait for. */
	nd = get(6);
	ck_assert_ptr_eq(claim(6, true), nd);
	ck_assert_int_eq(node_get_settled(ns, 6, &nd), 0);
	ck_assert(!node_put(nd));
	ck_assert(!node_put(nd));
	ck_assert(node_claim_end(nd));
}
END_TEST

START_TEST(nodes_that_are_left_are_freed_with_what_they_hold)
{
	struct nodes *other;
	struct node *nd;

	nodes_free(NULL);
	ck_assert_int_eq(nodes_new(&other), 0);
	ck_assert_int_eq(node_get(other, 1, &nd), 0);
	nd->loaded = true;
	ck_assert_int_eq(node_get(other, 1 + BUCKETS, &nd), 0);
	nodes_free(other);
}
END_TEST

/* -- Many threads --------------------------------------------------------- */

#define INODES 4
#define THREADS 4
#define ROUNDS 20000

static atomic_int users[INODES];    /* between get and put */
static atomic_int removers[INODES]; /* between a claim that closed the door */
/* and its end */
static atomic_uint broken, opened, claimed;

static void use(uint64_t i)
{
	struct node *nd;

	if (node_get(ns, i + 1, &nd) < 0)
		return;
	atomic_fetch_add(&users[i], 1);
	if (atomic_load(&removers[i]))
		atomic_fetch_add(&broken, 1);
	atomic_fetch_add(&opened, 1);
	atomic_fetch_sub(&users[i], 1);
	(void)node_put(nd);
}

static void take(uint64_t i)
{
	struct node *nd;
	bool open;

	if (node_claim(ns, i + 1, &nd, &open) < 0)
		return;
	if (!open) {
		atomic_fetch_add(&removers[i], 1);
		if (atomic_load(&users[i]))
			atomic_fetch_add(&broken, 1);
		atomic_fetch_add(&claimed, 1);
		atomic_fetch_sub(&removers[i], 1);
	}
	(void)node_claim_end(nd);
}

static void *worker(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t which = (uint64_t)rand_r(&seed) % INODES;

		if (rand_r(&seed) % 2)
			use(which);
		else
			take(which);
	}
	return NULL;
}

START_TEST(opening_and_removing_exclude_each_other_in_many_threads)
{
	pthread_t threads[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, worker,
						(void *)(i + 1)),
				 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(broken, 0);
	ck_assert_uint_gt(opened, 0);
	ck_assert_uint_gt(claimed, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("node");
	TCase *tc = tcase_create("nodes");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 100);
	tcase_add_test(tc, a_node_lives_from_the_first_get_to_the_last_put);
	tcase_add_test(tc, find_takes_a_use_of_what_is_open_and_opens_nothing);
	tcase_add_test(tc, inodes_of_one_bucket_are_told_apart);
	tcase_add_test(tc, a_claim_on_an_idle_inode_closes_the_door_to_its_end);
	tcase_add_test(tc,
		       an_open_inode_stays_open_to_others_while_it_is_claimed);
	tcase_add_test(tc, the_last_of_put_and_claim_end_is_told);
	tcase_add_test(tc, what_was_closed_during_a_claim_can_be_opened_again);
	tcase_add_test(tc, the_door_stays_closed_to_the_end_of_the_last_claim);
	tcase_add_test(tc, who_wants_it_settled_waits_for_the_end_of_a_claim);
	tcase_add_test(tc, nodes_that_are_left_are_freed_with_what_they_hold);
	tcase_add_test(tc,
		       opening_and_removing_exclude_each_other_in_many_threads);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
