/* SPDX-License-Identifier: MIT */
#include "fs/config.h"

#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/mount.h>

#include "store/base.h"

static char why[512];

static struct config parsed(const char *opts, bool root)
{
	struct config c;
	int r = config_parse(opts, root, &c, why, sizeof(why));

	ck_assert_msg(r == 0, "%s: %s", opts, why);
	return c;
}

START_TEST(no_options_give_the_defaults)
{
	static const char *const none[] = { NULL, "", ",", "defaults" };

	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		struct config c = parsed(none[i], true);

		ck_assert_ptr_null(c.limit);
		ck_assert_ptr_null(c.low);
		ck_assert_ptr_null(c.min_free);
		ck_assert_int_eq(c.grace_sec, -1);
		ck_assert(!c.sync_strict);
		ck_assert_int_eq(c.scrub_sec, 30 * 24 * 3600);
		ck_assert_uint_ge(c.workers, 4);
		ck_assert_uint_le(c.workers, 16);
		ck_assert_uint_eq(c.mount_flags, MS_NOSUID | MS_NODEV);
		config_release(&c);
	}
}
END_TEST

START_TEST(own_options_are_taken)
{
	struct config c = parsed(
		"limit=5G,low=90%,min_free=1G,grace=10m,sync=strict,workers=3",
		true);

	ck_assert_str_eq(c.limit, "5G");
	ck_assert_str_eq(c.low, "90%");
	ck_assert_str_eq(c.min_free, "1G");
	ck_assert_int_eq(c.grace_sec, 600);
	ck_assert(c.sync_strict);
	ck_assert_uint_eq(c.workers, 3);
	config_release(&c);
	config_release(&c);
	ck_assert_ptr_null(c.limit);
}
END_TEST

START_TEST(the_last_of_two_counts)
{
	struct config c =
		parsed("limit=5G,limit=6G,ro,rw,sync=strict,sync=lazy", true);

	ck_assert_str_eq(c.limit, "6G");
	ck_assert_uint_eq(c.mount_flags & MS_RDONLY, 0);
	ck_assert(!c.sync_strict);
	config_release(&c);
}
END_TEST

START_TEST(root_mounts_for_all_and_users_for_themselves)
{
	ck_assert(parsed("", true).allow_other);
	ck_assert(!parsed("noallow_other", true).allow_other);
	ck_assert(!parsed("", false).allow_other);
	ck_assert(parsed("allow_other", false).allow_other);
}
END_TEST

START_TEST(flags_of_mount_are_taken)
{
	static const struct {
		const char *opts;
		unsigned long flags;
	} cases[] = {
		{ "ro,dev,suid", MS_RDONLY },
		{ "rw,noexec", MS_NOSUID | MS_NODEV | MS_NOEXEC },
		{ "suid,nosuid,nodev", MS_NOSUID | MS_NODEV },
		{ "dev,suid,noatime,nodiratime", MS_NOATIME | MS_NODIRATIME },
		{ "dev,suid,sync,dirsync", MS_SYNCHRONOUS | MS_DIRSYNC },
		{ "dev,suid,sync,async", 0 },
		{ "dev,suid,relatime,norelatime,exec,atime", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		ck_assert_uint_eq(parsed(cases[i].opts, true).mount_flags,
				  cases[i].flags);
}
END_TEST

START_TEST(words_of_fstab_are_passed_over)
{
	parsed("auto,noauto,nofail,user,nouser,users,owner,group,_netdev,user=me,comment=a b,x-systemd.automount,x-gvfs-show,X-mount.mkdir,default_permissions",
	       true);
}
END_TEST

START_TEST(unknown_options_are_named)
{
	static const struct {
		const char *opts;
		const char *named;
	} cases[] = {
		{ "frob", "'frob'" },
		{ "limit=5G,frob=1,ro", "'frob=1'" },
		{ "limitt=5G", "'limitt=5G'" },
		{ "Limit=5G", "'Limit=5G'" },
		{ "allow_root", "'allow_root'" },
	};
	struct config c = { .workers = 99 };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ck_assert_int_eq(config_parse(cases[i].opts, true, &c, why,
					      sizeof(why)),
				 -EINVAL);
		ck_assert_msg(strstr(why, cases[i].named), "%s", why);
	}
	ck_assert_uint_eq(c.workers, 99);
}
END_TEST

START_TEST(remount_is_refused_with_what_to_do_instead)
{
	static const char *const cases[] = { "remount", "remount,ro",
					     "rw,limit=5G,remount" };
	struct config c;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ck_assert_int_eq(config_parse(cases[i], true, &c, why,
					      sizeof(why)),
				 -EINVAL);
		ck_assert_msg(strstr(why, "not supported"), "%s", why);
		ck_assert_msg(strstr(why, "pipcachefs limit"), "%s", why);
		ck_assert_msg(strstr(why, "unmount"), "%s", why);
	}
}
END_TEST

START_TEST(nothing_need_be_left_free)
{
	struct config c = parsed("min_free=0", true);

	ck_assert_str_eq(c.min_free, "0");
	config_release(&c);
	c = parsed("min_free=0%", true);
	config_release(&c);
}
END_TEST

START_TEST(scrub_is_a_time_or_off)
{
	static const struct {
		const char *opts;
		int64_t sec;
	} cases[] = {
		{ "scrub=off", 0 },	   { "scrub=0", 0 },
		{ "scrub=7d", 7 * 86400 }, { "scrub=90", 90 },
		{ "scrub=12h", 43200 },	   { "scrub=3650d", 315360000 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		ck_assert_int_eq(parsed(cases[i].opts, true).scrub_sec,
				 cases[i].sec);
}
END_TEST

START_TEST(values_out_of_range_are_named_with_their_range)
{
	static const struct {
		const char *opts;
		const char *named;
	} cases[] = {
		{ "limit=", "limit= " },
		{ "limit=many", "limit=many" },
		{ "limit=0", "limit=0" },
		{ "low=0", "low=0" },
		{ "low=101%", "share of the limit as 10% (1% to 100%)" },
		{ "min_free=101%", "share of the disk as 10% (0% to 100%)" },
		{ "min_free=-1", "min_free=-1" },
		{ "grace=soon", "grace=soon" },
		{ "grace=-1", "grace=-1" },
		{ "grace=366d", "0 to 365d" },
		{ "sync=maybe", "strict or lazy" },
		{ "scrub=never", "scrub=never must be off or a time" },
		{ "scrub=-1", "scrub=-1" },
		{ "scrub=3651d", "up to 3650d" },
		{ "workers=0", "1 to 64" },
		{ "workers=65", "1 to 64" },
		{ "workers=x", "workers=x" },
		{ "watchdog=2d", "1 s to 1d" },
		{ "stop_timeout=2d", "0 to 1d" },
		{ "stop_timeout=never", "stop_timeout=never" },
	};
	struct config c;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ck_assert_int_eq(config_parse(cases[i].opts, true, &c, why,
					      sizeof(why)),
				 -EINVAL);
		ck_assert_msg(strstr(why, cases[i].named), "%s", why);
		ck_assert_ptr_null(strchr(why, '\n'));
	}
}
END_TEST

START_TEST(options_have_a_length)
{
	static char opts[CONFIG_OPTIONS_MAX + 2];
	struct config c;

	memset(opts, ',', CONFIG_OPTIONS_MAX);
	c = parsed(opts, true);
	config_release(&c);
	opts[CONFIG_OPTIONS_MAX] = ',';
	ck_assert_int_eq(config_parse(opts, true, &c, why, sizeof(why)),
			 -EINVAL);
	ck_assert_msg(strstr(why, "longer than"), "%s", why);
}
END_TEST

START_TEST(a_stop_has_a_minute)
{
	ck_assert_int_eq(parsed("", true).stop_timeout_sec, 60);
	ck_assert_int_eq(parsed("stop_timeout=0", true).stop_timeout_sec, 0);
	ck_assert_int_eq(parsed("stop_timeout=5m", true).stop_timeout_sec, 300);
}
END_TEST

START_TEST(what_holds_as_long_as_a_mount_is_named)
{
	static const struct {
		const char *opts;
		const char *named; /* NULL: the next daemon can have it */
	} cases[] = {
		{ "", NULL },
		{ "grace=1h,workers=3,sync=strict,scrub=off,stop_timeout=1",
		  NULL },
		{ "noallow_other", "allow_other" },
		{ "watchdog=0", "watchdog" },
		{ "noexec", "ro, nosuid and the like" },
	};
	const struct config now = parsed("", true);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct config then = parsed(cases[i].opts, true);
		const char *fixed = config_fixed(&now, &then);

		if (cases[i].named)
			ck_assert_str_eq(fixed, cases[i].named);
		else
			ck_assert_ptr_null(fixed);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config");
	TCase *tc = tcase_create("config");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, no_options_give_the_defaults);
	tcase_add_test(tc, own_options_are_taken);
	tcase_add_test(tc, the_last_of_two_counts);
	tcase_add_test(tc, root_mounts_for_all_and_users_for_themselves);
	tcase_add_test(tc, flags_of_mount_are_taken);
	tcase_add_test(tc, words_of_fstab_are_passed_over);
	tcase_add_test(tc, unknown_options_are_named);
	tcase_add_test(tc, remount_is_refused_with_what_to_do_instead);
	tcase_add_test(tc, nothing_need_be_left_free);
	tcase_add_test(tc, scrub_is_a_time_or_off);
	tcase_add_test(tc, values_out_of_range_are_named_with_their_range);
	tcase_add_test(tc, options_have_a_length);
	tcase_add_test(tc, a_stop_has_a_minute);
	tcase_add_test(tc, what_holds_as_long_as_a_mount_is_named);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
