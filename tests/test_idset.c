/* SPDX-License-Identifier: MIT */
#include "store/idset.h"

#include <check.h>
#include <stdlib.h>

#define MANY UINT64_C(100000)

static struct idset set;

static void setup(void)
{
	set = (struct idset){ 0 };
}

static void teardown(void)
{
	idset_release(&set);
}

static void add(uint64_t id)
{
	ck_assert_int_eq(idset_add(&set, id), 0);
}

START_TEST(an_empty_set_has_nothing)
{
	ck_assert(!idset_has(&set, 1));
	ck_assert(!idset_has(&set, UINT64_MAX));
}
END_TEST

START_TEST(what_was_added_stays_while_the_set_grows)
{
	for (uint64_t i = 1; i <= MANY; i++)
		add(i * 2);
	ck_assert_uint_eq(set.used, MANY);
	for (uint64_t i = 1; i <= MANY; i++) {
		ck_assert(idset_has(&set, i * 2));
		ck_assert(!idset_has(&set, i * 2 - 1));
	}
}
END_TEST

START_TEST(an_id_added_twice_counts_once)
{
	for (int i = 0; i < 1000; i++)
		add(7);
	ck_assert_uint_eq(set.used, 1);
	ck_assert(idset_has(&set, 7));
	ck_assert(!idset_has(&set, 8));
}
END_TEST

/* The low bits of these are 0, so that they hash to one slot: the search goes
 * on past others, and around the end of the table. */
START_TEST(ids_that_collide_are_told_apart)
{
	for (uint64_t i = 1; i <= 100; i++)
		add(i << 44);
	for (uint64_t i = 1; i <= 100; i++)
		ck_assert(idset_has(&set, i << 44));
	ck_assert(!idset_has(&set, UINT64_C(101) << 44));
	ck_assert(!idset_has(&set, 1));
}
END_TEST

START_TEST(ids_after_a_restore_fit_too)
{
	const uint64_t step = UINT64_C(1) << 32;

	for (uint64_t i = 1; i <= 5; i++)
		for (uint64_t n = 0; n < 1000; n++)
			add(i * step + n);
	add(UINT64_MAX);
	ck_assert_uint_eq(set.used, 5001);
	ck_assert(idset_has(&set, 5 * step + 999));
	ck_assert(idset_has(&set, UINT64_MAX));
	ck_assert(!idset_has(&set, 5 * step + 1000));
}
END_TEST

START_TEST(a_released_set_is_empty_and_can_be_used_again)
{
	add(1);
	idset_release(&set);
	ck_assert(!idset_has(&set, 1));
	idset_release(&set);
	add(2);
	ck_assert(idset_has(&set, 2));
	ck_assert(!idset_has(&set, 1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("idset");
	TCase *tc = tcase_create("set");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, an_empty_set_has_nothing);
	tcase_add_test(tc, what_was_added_stays_while_the_set_grows);
	tcase_add_test(tc, an_id_added_twice_counts_once);
	tcase_add_test(tc, ids_that_collide_are_told_apart);
	tcase_add_test(tc, ids_after_a_restore_fit_too);
	tcase_add_test(tc, a_released_set_is_empty_and_can_be_used_again);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
