/* SPDX-License-Identifier: MIT */
#include "store/quota.h"

#include <check.h>
#include <errno.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

static struct quota quota_of(uint64_t limit)
{
	struct quota q = { .disk_free = UINT64_MAX };

	quota_set(&q, limit, 0, 0);
	return q;
}

START_TEST(marks_are_in_order_for_every_limit)
{
	for (uint64_t limit = 0; limit < TIB; limit = limit * 3 + MIB) {
		struct quota q = quota_of(limit);
		uint64_t http = quota_ceiling(&q, QUOTA_HTTP);

		ck_assert_uint_ge(q.limit, QUOTA_LIMIT_MIN);
		ck_assert_uint_gt(q.low, q.limit / 2);
		ck_assert_uint_lt(q.low, quota_high(&q));
		ck_assert_uint_lt(quota_high(&q), http);
		ck_assert_uint_le(http, q.limit / 100 * 95 + 95);
		ck_assert_uint_lt(http, quota_ceiling(&q, QUOTA_OTHER));
		ck_assert_uint_eq(quota_ceiling(&q, QUOTA_OTHER),
				  q.limit - quota_reserve_bytes(&q));
		ck_assert_uint_lt(quota_ceiling(&q, QUOTA_WHEELS),
				  quota_ceiling(&q, QUOTA_SYSTEM));
		ck_assert_uint_lt(quota_ceiling(&q, QUOTA_SYSTEM), q.limit);
	}
}
END_TEST

START_TEST(default_low_is_90_percent)
{
	struct quota q = quota_of(5 * GIB);

	ck_assert_uint_eq(q.low, 5 * GIB / 10 * 9);
	ck_assert_uint_eq(quota_reserve_bytes(&q), 16 * MIB);
}
END_TEST

START_TEST(low_may_be_chosen_up_to_the_ceiling_of_http)
{
	struct quota q = quota_of(GIB);

	quota_set(&q, GIB, 100 * MIB, 0);
	ck_assert_uint_eq(q.low, 100 * MIB);
	ck_assert_uint_gt(quota_high(&q), 900 * MIB);
	quota_set(&q, GIB, 2 * GIB, 0);
	ck_assert_uint_eq(q.low, quota_ceiling(&q, QUOTA_HTTP));
	ck_assert_uint_eq(quota_high(&q), q.low);
}
END_TEST

START_TEST(low_keeps_its_share_of_another_limit)
{
	struct quota q = quota_of(GIB);

	quota_set(&q, GIB, GIB / 2, 0);
	ck_assert_uint_eq(quota_low_for(&q, GIB), GIB / 2);
	ck_assert_uint_eq(quota_low_for(&q, 100 * MIB), 50 * MIB);
	ck_assert_uint_eq(quota_low_for(&q, 4 * TIB), 2 * TIB);
	/* The default is no fixed share. */
	for (uint64_t limit = 16 * MIB; limit < TIB; limit *= 3) {
		q = quota_of(limit);
		ck_assert_uint_eq(quota_low_for(&q, GIB), 0);
	}
}
END_TEST

START_TEST(each_class_stops_at_its_ceiling)
{
	static const enum quota_class classes[] = { QUOTA_HTTP, QUOTA_OTHER,
						    QUOTA_WHEELS,
						    QUOTA_SYSTEM };
	struct quota q = quota_of(GIB);

	for (unsigned i = 0; i < 4; i++) {
		uint64_t ceiling = quota_ceiling(&q, classes[i]);

		q.charged = ceiling - 100;
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], 0), 0);
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], 100), 0);
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], 101), 1);
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], ceiling),
				  ceiling - 100);
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], ceiling + 1),
				  UINT64_MAX);
		ck_assert_uint_eq(quota_shortfall(&q, classes[i], UINT64_MAX),
				  UINT64_MAX);
	}
	q.charged = 2 * GIB;
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_EVICT, GIB), 0);
}
END_TEST

START_TEST(deletions_go_on_while_the_limit_does_not_hold)
{
	struct quota q = quota_of(GIB);

	q.charged = GIB - 10;
	ck_assert_uint_gt(quota_shortfall(&q, QUOTA_SYSTEM, 100), 0);
	q.charged = GIB + 10;
	ck_assert_uint_eq(quota_excess(&q), 10);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_SYSTEM, 100), 0);
	/* What is only reserved is no excess. */
	q.reserved = 10;
	ck_assert_uint_eq(quota_excess(&q), 0);
	ck_assert_uint_gt(quota_shortfall(&q, QUOTA_SYSTEM, 100), 0);
}
END_TEST

START_TEST(disk_below_is_left_its_min_free)
{
	struct quota q = quota_of(GIB);

	quota_set(&q, GIB, 0, 100 * MIB);
	q.charged = 500 * MIB;
	q.disk_free = 110 * MIB;
	ck_assert(!quota_disk_full(&q));
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 10 * MIB), 0);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 12 * MIB), 2 * MIB);
	/* Acts under way will take some of it. */
	q.reserved = 4 * MIB;
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 6 * MIB), 0);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 12 * MIB), 6 * MIB);
	q.reserved = 20 * MIB;
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 1), 10 * MIB + 1);
	/* More than we could ever give back. */
	q.reserved = 0;
	q.charged = MIB;
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 12 * MIB),
			  UINT64_MAX);
}
END_TEST

START_TEST(only_wheels_are_stored_on_a_fuller_disk)
{
	struct quota q = quota_of(GIB);

	quota_set(&q, GIB, 0, 100 * MIB);
	q.charged = 500 * MIB;
	q.disk_free = 100 * MIB - 1;
	ck_assert(quota_disk_full(&q));
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_HTTP, 1), UINT64_MAX);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_OTHER, 1), UINT64_MAX);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_WHEELS, 1), 0);
	/* The limit holds for them too. */
	ck_assert_uint_gt(quota_shortfall(&q, QUOTA_WHEELS, GIB / 4 * 3), 0);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_WHEELS, GIB), UINT64_MAX);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_SYSTEM, 1), 0);
	ck_assert_uint_eq(quota_shortfall(&q, QUOTA_EVICT, 1), 0);
}
END_TEST

START_TEST(pressure_begins_above_high_and_ends_at_low)
{
	struct quota q = quota_of(GIB);

	q.charged = quota_high(&q);
	ck_assert_uint_eq(quota_pressure(&q), 0);
	q.charged++;
	ck_assert_uint_eq(quota_pressure(&q), q.charged - q.low);
	q.charged = q.low;
	ck_assert_uint_eq(quota_pressure(&q), 0);
}
END_TEST

START_TEST(sizes_are_understood)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} cases[] = {
		{ "0", 0 },	     { "1234", 1234 },
		{ "5G", 5 * GIB },   { "512M", 512 * MIB },
		{ "7k", 7 * KIB },   { "2T", 2 * TIB },
		{ "3GiB", 3 * GIB }, { "3GB", 3 * GIB },
		{ "10%", 1000 },     { "0%", 0 },
		{ "100%", 10000 },   { "18446744073709551615", UINT64_MAX },
	};
	uint64_t v;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_msg(!quota_parse_size(cases[i].text, 10000, &v), "%s",
			      cases[i].text);
		ck_assert_uint_eq(v, cases[i].bytes);
	}
	ck_assert_int_eq(quota_parse_size("99%", UINT64_MAX, &v), 0);
	ck_assert_uint_gt(v, UINT64_MAX / 100 * 98);
}
END_TEST

START_TEST(other_sizes_are_refused)
{
	static const struct {
		const char *text;
		int error;
	} cases[] = {
		{ "", -EINVAL },
		{ "G", -EINVAL },
		{ "-1", -EINVAL },
		{ "+1", -EINVAL },
		{ " 1", -EINVAL },
		{ "1 G", -EINVAL },
		{ "1.5G", -EINVAL },
		{ "5X", -EINVAL },
		{ "5GG", -EINVAL },
		{ "5Gi", -EINVAL },
		{ "5B", -EINVAL },
		{ "5%%", -EINVAL },
		{ "5G%", -EINVAL },
		{ "0x10", -EINVAL },
		{ "101%", -ERANGE },
		{ "%", -EINVAL },
		{ "5GiBs", -EINVAL },
		{ "1e3", -EINVAL },
		{ "18446744073709551616", -ERANGE },
		{ "99999999999999999999G", -ERANGE },
		{ "17179869184G", -ERANGE },
		{ "16777216T", -ERANGE },
	};
	uint64_t v = 77;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int r = quota_parse_size(cases[i].text, 1000, &v);

		ck_assert_msg(r == cases[i].error, "%s: %d", cases[i].text, r);
		ck_assert_uint_eq(v, 77);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("quota");
	TCase *marks = tcase_create("marks");
	TCase *sizes = tcase_create("sizes");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(marks, marks_are_in_order_for_every_limit);
	tcase_add_test(marks, default_low_is_90_percent);
	tcase_add_test(marks, low_may_be_chosen_up_to_the_ceiling_of_http);
	tcase_add_test(marks, low_keeps_its_share_of_another_limit);
	tcase_add_test(marks, each_class_stops_at_its_ceiling);
	tcase_add_test(marks, deletions_go_on_while_the_limit_does_not_hold);
	tcase_add_test(marks, disk_below_is_left_its_min_free);
	tcase_add_test(marks, only_wheels_are_stored_on_a_fuller_disk);
	tcase_add_test(marks, pressure_begins_above_high_and_ends_at_low);
	suite_add_tcase(suite, marks);
	tcase_add_test(sizes, sizes_are_understood);
	tcase_add_test(sizes, other_sizes_are_refused);
	suite_add_tcase(suite, sizes);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
