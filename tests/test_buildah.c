/* SPDX-License-Identifier: MIT */
#include "fs/buildah.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/base.h"

/* The hashes are of sha256sum(1). */
START_TEST(names_are_those_of_buildah)
{
	char names[BUILDAH_NAMES][BUILDAH_NAME_MAX];

	ck_assert_int_eq(buildah_names("/root/.cache/pip", 0, names), 0);
	ck_assert_str_eq(names[0], "buildah-cache/root/.cache/pip");
	ck_assert_str_eq(names[1], "buildah-cache-0/root/.cache/pip");
	ck_assert_str_eq(names[2], "buildah-cache-0/bf3b04da7be51a75");
	ck_assert_str_eq(names[3], "buildah-cache-0/e51003dd3f34a6cc");
	ck_assert_int_eq(buildah_names("web", 1000, names), 0);
	ck_assert_str_eq(names[0], "buildah-cache/web");
	ck_assert_str_eq(names[1], "buildah-cache-1000/web");
	ck_assert_str_eq(names[2], "buildah-cache-1000/4b5e57f6eb2f42b9");
	ck_assert_str_eq(names[3], "buildah-cache-1000/a07edb6661122345");
}
END_TEST

START_TEST(ids_that_lead_elsewhere_are_refused)
{
	static const char *const bad[] = { "",	       "/",   "..",   "../x",
					   "a/../b",   "//a", "a//b", "a/",
					   "a b",      "a\n", "a\\b", ".",
					   "a\x1b[2J", "\x7f" };
	char names[BUILDAH_NAMES][BUILDAH_NAME_MAX];
	char *longest = malloc(BUILDAH_NAME_MAX + 1);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(buildah_names(bad[i], 0, names) == -EINVAL,
			      "'%s'", bad[i]);
	ck_assert_ptr_nonnull(longest);
	memset(longest, 'x', BUILDAH_NAME_MAX);
	longest[BUILDAH_NAME_MAX] = '\0';
	for (size_t len = BUILDAH_NAME_MAX; len > BUILDAH_NAME_MAX - 40;
	     len--) {
		int r;

		longest[len] = '\0';
		r = buildah_names(longest, 4294967295U, names);
		ck_assert(r == 0 || r == -ENAMETOOLONG);
		if (r == 0)
			ck_assert(strstr(names[1], longest));
	}
	free(longest);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("buildah");
	TCase *tc = tcase_create("names");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, names_are_those_of_buildah);
	tcase_add_test(tc, ids_that_lead_elsewhere_are_refused);
	suite_add_tcase(s, tc);

	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
