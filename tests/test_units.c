/* SPDX-License-Identifier: MIT */
#include "fs/units.h"

#include <check.h>
#include <errno.h>
#include <stdint.h>

#include "store/base.h"

START_TEST(sizes_are_understood)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "17B", 17 },
		{ "5G", 5 * GIB },
		{ "5g", 5 * GIB },
		{ "512M", 512 * MIB },
		{ "512MB", 512 * MIB },
		{ "512MiB", 512 * MIB },
		{ "3k", 3 * KIB },
		{ "2T", 2048 * GIB },
		{ "18446744073709551615", UINT64_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		uint64_t bytes = 1;

		ck_assert_int_eq(units_parse_size(good[i].text, &bytes), 0);
		ck_assert_uint_eq(bytes, good[i].bytes);
	}
}
END_TEST

START_TEST(other_sizes_are_refused)
{
	static const char *const bad[] = { "",	  "G",	  "-1",	  "+1",
					   " 1",  "1 ",	  "1 G",  "1.5G",
					   "5X",  "5GG",  "5iB",  "5Gi",
					   "0x5", "5G\n", "many", "10%" };
	uint64_t bytes = 7;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(units_parse_size(bad[i], &bytes), -EINVAL);
	ck_assert_int_eq(units_parse_size("18446744073709551616", &bytes),
			 -ERANGE);
	ck_assert_int_eq(units_parse_size("99999999999T", &bytes), -ERANGE);
	ck_assert_uint_eq(bytes, 7);
}
END_TEST

START_TEST(limits_are_sizes_or_shares_of_the_disk)
{
	ck_assert_int_eq(units_check_limit("5G"), 0);
	ck_assert_int_eq(units_check_limit("1%"), 0);
	ck_assert_int_eq(units_check_limit("100%"), 0);
	ck_assert_int_eq(units_check_limit("0"), -ERANGE);
	ck_assert_int_eq(units_check_limit("0%"), -ERANGE);
	ck_assert_int_eq(units_check_limit("101%"), -ERANGE);
	ck_assert_int_eq(units_check_limit("%"), -EINVAL);
	ck_assert_int_eq(units_check_limit("5%%"), -EINVAL);
	ck_assert_int_eq(units_check_limit("5G%"), -EINVAL);
}
END_TEST

START_TEST(amounts_may_be_nothing)
{
	ck_assert_int_eq(units_check_amount("0"), 0);
	ck_assert_int_eq(units_check_amount("0%"), 0);
	ck_assert_int_eq(units_check_amount("5G"), 0);
	ck_assert_int_eq(units_check_amount("100%"), 0);
	ck_assert_int_eq(units_check_amount("101%"), -ERANGE);
	ck_assert_int_eq(units_check_amount("-0"), -EINVAL);
	ck_assert_int_eq(units_check_amount(""), -EINVAL);
	ck_assert_int_eq(units_check_amount("0%%"), -EINVAL);
}
END_TEST

START_TEST(spans_are_understood)
{
	static const struct {
		const char *text;
		int64_t sec;
	} good[] = {
		{ "0", 0 },	  { "600", 600 },
		{ "600s", 600 },  { "10m", 600 },
		{ "2h", 7200 },	  { "7d", 604800 },
		{ "1w", 604800 }, { "36500d", INT64_C(3153600000) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int64_t sec = -1;

		ck_assert_int_eq(units_parse_span(good[i].text, &sec), 0);
		ck_assert_int_eq(sec, good[i].sec);
	}
}
END_TEST

START_TEST(other_spans_are_refused)
{
	static const char *const bad[] = { "",	    "m",   "-1", "1.5h",
					   "10min", "10M", "1y", "soon" };
	int64_t sec = 7;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(units_parse_span(bad[i], &sec), -EINVAL);
	ck_assert_int_eq(units_parse_span("40000d", &sec), -ERANGE);
	ck_assert_int_eq(units_parse_span("18446744073709551615w", &sec),
			 -ERANGE);
	ck_assert_int_eq(sec, 7);
}
END_TEST

START_TEST(amounts_are_written_for_people)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{ 0, "0 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 1536 * KIB, "1.5 MiB" },
		{ 512 * MIB, "512 MiB" },
		{ 1024 * MIB - 1, "1.0 GiB" },
		{ 5 * GIB, "5.0 GiB" },
		{ UINT64_MAX, "16777216 TiB" },
	};
	char buf[UNITS_TEXT_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		ck_assert_str_eq(units_format_size(sizes[i].bytes, buf,
						   sizeof(buf)),
				 sizes[i].text);
	ck_assert_str_eq(units_format_span(600, buf, sizeof(buf)), "10 min");
	ck_assert_str_eq(units_format_span(90, buf, sizeof(buf)), "90 s");
	ck_assert_str_eq(units_format_span(0, buf, sizeof(buf)), "0 s");
	ck_assert_str_eq(units_format_span(7200, buf, sizeof(buf)), "2 h");
	ck_assert_str_eq(units_format_span(604800, buf, sizeof(buf)), "7 days");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("units");
	TCase *tc = tcase_create("units");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, sizes_are_understood);
	tcase_add_test(tc, other_sizes_are_refused);
	tcase_add_test(tc, limits_are_sizes_or_shares_of_the_disk);
	tcase_add_test(tc, amounts_may_be_nothing);
	tcase_add_test(tc, spans_are_understood);
	tcase_add_test(tc, other_spans_are_refused);
	tcase_add_test(tc, amounts_are_written_for_people);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
