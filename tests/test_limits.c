/* SPDX-License-Identifier: MIT */
/* The limits of a store as they are given: together, and one after the other. */
#include "store/store.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

#define ROOT STORE_ROOT_INO
#define HASH "0a1b2"

static struct scratch dir;
static struct store *st;
static char reported[256];

static void on_report(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)snprintf(reported, sizeof(reported), "%s", text);
}

static struct store_config config(const char *limit)
{
	return (struct store_config){
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = limit, .min_free = "0", .grace_sec = 0 },
		.report = on_report,
	};
}

static void open_store(const char *limit)
{
	struct store_config cfg = config(limit);
	char why[256] = "";
	int r = store_open(&cfg, &st, why, sizeof(why));

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
}

static void close_store(void)
{
	ck_assert_int_eq(store_close(st), 0);
	st = NULL;
}

static void setup(void)
{
	dir = scratch_new();
	reported[0] = '\0';
	open_store("64M");
}

static void teardown(void)
{
	if (st)
		close_store();
	scratch_remove(&dir);
}

static struct store_status status(void)
{
	struct store_status s;

	ck_assert_int_eq(store_status(st, &s), 0);
	return s;
}

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct store_new what = { .parent = parent,
				  .name = name,
				  .mode = 0755 };
	struct stat attr;

	ck_assert_int_eq(store_mkdir(st, &what, &attr), 0);
	return attr.st_ino;
}

START_TEST(another_limit_keeps_the_share_of_low)
{
	struct store_limits l = { .limit = "32M", .grace_sec = -1 };
	struct store_config cfg = config("64M");
	char why[256];

	close_store();
	cfg.limits.low = "32M";
	ck_assert_int_eq(store_open(&cfg, &st, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().low, 32 * MIB);
	ck_assert_int_eq(store_set_limits(st, &l, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().low, 16 * MIB);
	l.limit = "1G";
	ck_assert_int_eq(store_set_limits(st, &l, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().low, 512 * MIB);
	/* The default share follows the limit as ever. */
	close_store();
	open_store("64M");
	ck_assert_int_eq(store_set_limits(st, &l, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().low, GIB / 100 * 90 + GIB % 100 * 90 / 100);
}
END_TEST

START_TEST(a_low_mark_above_the_limit_is_refused)
{
	struct store_config cfg = config("64M");
	char why[256] = "";

	close_store();
	cfg.limits.low = "2G";
	ck_assert_int_eq(store_open(&cfg, &st, why, sizeof(why)), -EINVAL);
	ck_assert_msg(strstr(why, "low=2G") && strstr(why, "limit=64M"), "%s",
		      why);
	/* With a limit that was not asked for it is only told. */
	cfg.limits.limit = NULL;
	cfg.limits.low = "900T";
	ck_assert_int_eq(store_open(&cfg, &st, why, sizeof(why)), 0);
	ck_assert_msg(strstr(reported, "low=900T"), "%s", reported);
	ck_assert_uint_lt(status().low, status().limit);
}
END_TEST

START_TEST(bad_limits_are_refused_before_anything_is_made)
{
	static const struct {
		const char *limit, *low, *min_free;
		int error;
		const char *named;
	} cases[] = {
		{ NULL, NULL, NULL, 0, "" },
		{ "64M", "90%", "0", 0, "" },
		{ NULL, "2G", "100%", 0, "" },
		{ "1M", NULL, NULL, -EINVAL, "limit=1M" },
		{ "0", NULL, NULL, -EINVAL, "limit=0" },
		{ "many", NULL, NULL, -EINVAL, "limit=many" },
		{ "64M", "65M", NULL, -EINVAL, "low=65M" },
		{ "64M", "x", NULL, -EINVAL, "low=x" },
		{ "64M", NULL, "101%", -ERANGE, "min_free=101%" },
	};
	struct scratch none = scratch_at(&dir, "none");
	struct store_config cfg = config(NULL);
	char why[256];

	close_store();
	cfg.path = none.path;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct store_limits l = { cases[i].limit, cases[i].low,
					  cases[i].min_free, -1 };

		why[0] = '\0';
		ck_assert_int_eq(store_check_limits(none.path, &l, why,
						    sizeof(why)),
				 cases[i].error);
		ck_assert_msg(strstr(why, cases[i].named), "%s", why);
		if (cases[i].error) {
			cfg.limits = l;
			ck_assert_int_eq(store_open(&cfg, &st, why,
						    sizeof(why)),
					 cases[i].error);
		}
		ck_assert_int_lt(access(none.path, F_OK), 0);
		ck_assert_int_eq(store_check_limits(dir.path, &l, why,
						    sizeof(why)),
				 cases[i].error);
	}
}
END_TEST

START_TEST(prune_leaves_directories_that_were_just_made)
{
	struct store_prune how = { .older_than_sec = -1, .no_grace = true };
	struct stat old = { .st_mtim.tv_sec = time(NULL) - 90 }, attr;
	uint64_t top = make_dir(ROOT, "http-v2"), at = top, made[5];
	struct store_pruned res;

	for (int i = 0; i < 5; i++)
		made[i] = at = make_dir(at, (char[]){ HASH[i], '\0' });
	ck_assert_int_eq(store_prune(st, &how, &res), 0);
	ck_assert_int_eq(store_getattr(st, at, &attr), 0);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(store_setattr(st, made[i], &old,
					       STORE_SET_MTIME, &attr),
				 0);
	ck_assert_int_eq(store_prune(st, &how, &res), 0);
	ck_assert_int_lt(store_getattr(st, at, &attr), 0);
	ck_assert_int_eq(store_lookup(st, top, (char[]){ HASH[0], '\0' },
				      &attr),
			 -ENOENT);
}
END_TEST

/* What a command evicts of its own accord would be news to everybody. */
START_TEST(a_command_has_the_limit_of_the_last_mount)
{
	struct store_config cfg = config(NULL);
	char why[256];

	cfg.flags = 0;
	cfg.limits.min_free = NULL;
	close_store();
	open_store("77M");
	close_store();
	ck_assert_int_eq(store_open(&cfg, &st, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().limit, 77 * MIB);
	ck_assert_uint_eq(status().min_free, 0);
	close_store();
	/* Another mount has its own default. */
	open_store(NULL);
	ck_assert_uint_ne(status().limit, 77 * MIB);
}
END_TEST

START_TEST(a_limit_that_was_set_is_that_of_commands_too)
{
	const struct store_limits set = { .limit = "70M", .grace_sec = -1 };
	struct store_config cfg = config(NULL);
	char why[256];

	cfg.flags = 0;
	ck_assert_int_eq(store_set_limits(st, &set, why, sizeof(why)), 0);
	close_store();
	ck_assert_int_eq(store_open(&cfg, &st, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().limit, 70 * MIB);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("limits");
	TCase *tc = tcase_create("limits");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, another_limit_keeps_the_share_of_low);
	tcase_add_test(tc, a_low_mark_above_the_limit_is_refused);
	tcase_add_test(tc, bad_limits_are_refused_before_anything_is_made);
	tcase_add_test(tc, prune_leaves_directories_that_were_just_made);
	tcase_add_test(tc, a_command_has_the_limit_of_the_last_mount);
	tcase_add_test(tc, a_limit_that_was_set_is_that_of_commands_too);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
