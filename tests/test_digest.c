/* SPDX-License-Identifier: MIT */
#include "store/digest.h"

#include <check.h>

/* The store on disk depends on these never changing. */
START_TEST(sums_are_those_of_xxh3)
{
	ck_assert_uint_eq(digest_xxh3("", 0), 0x2d06800538d394c2);
	ck_assert_uint_eq(digest_xxh3("abc", 3), 0x78af5f94892f3950);
	ck_assert_uint_eq(digest_check32("abc", 3), 0x892f3950);
}
END_TEST

START_TEST(stream_in_any_pieces_gives_the_same_sum)
{
	static uint8_t buf[100000];
	struct digest *d;
	size_t off, n;

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 31 + i / 7);
	for (size_t piece = 1; piece <= sizeof(buf); piece = piece * 7 + 1) {
		ck_assert_int_eq(digest_new(&d), 0);
		for (off = 0; off < sizeof(buf); off += n) {
			n = sizeof(buf) - off < piece ? sizeof(buf) - off
						      : piece;
			digest_update(d, buf + off, n);
		}
		ck_assert_uint_eq(digest_value(d),
				  digest_xxh3(buf, sizeof(buf)));
		digest_free(d);
	}
}
END_TEST

START_TEST(value_can_be_asked_for_in_between)
{
	cleanup_digest struct digest *d = NULL;

	ck_assert_int_eq(digest_new(&d), 0);
	ck_assert_uint_eq(digest_value(d), digest_xxh3("", 0));
	digest_update(d, "ab", 2);
	ck_assert_uint_eq(digest_value(d), digest_xxh3("ab", 2));
	digest_update(d, "c", 1);
	ck_assert_uint_eq(digest_value(d), digest_xxh3("abc", 3));
}
END_TEST

START_TEST(free_takes_null)
{
	digest_free(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("digest");
	TCase *tc = tcase_create("xxh3");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, sums_are_those_of_xxh3);
	tcase_add_test(tc, stream_in_any_pieces_gives_the_same_sum);
	tcase_add_test(tc, value_can_be_asked_for_in_between);
	tcase_add_test(tc, free_takes_null);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
