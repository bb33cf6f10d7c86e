/* SPDX-License-Identifier: MIT */
#include "fs/configfile.h"

#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

#define NAME "/etc/pipcachefs/my.conf"

static char why[512];

static int parse_bytes(const char *text, size_t n, const char *path,
		       struct configfile *ret)
{
	char none[1] = "";
	/* fmemopen() of nothing may fail. */
	FILE *in = fmemopen(n ? (void *)(uintptr_t)text : none, n ? n : 1, "r");
	int r;

	ck_assert_ptr_nonnull(in);
	*why = '\0';
	r = configfile_parse(in, path, ret, why, sizeof(why));
	(void)fclose(in);
	return r;
}

static int parse(const char *text, struct configfile *ret)
{
	return parse_bytes(text, strlen(text), NAME, ret);
}

static struct configfile parsed(const char *text)
{
	struct configfile f = CONFIGFILE_INIT;
	int r = parse(text, &f);

	ck_assert_msg(r == 0, "%s: %s", text, why);
	return f;
}

START_TEST(a_file_without_settings_is_a_good_one)
{
	static const char *const none[] = { "\n", "# limit=5G", " \t\r\n\n#\n",
					    "#a\n#b\n" };

	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		struct configfile f = parsed(none[i]);

		ck_assert_str_eq(f.store, "/var/lib/pipcachefs/my");
		ck_assert_str_eq(f.mountpoint, "/run/pipcachefs/my");
		ck_assert_str_eq(f.options, "");
		ck_assert(f.own_store && f.own_mountpoint);
		configfile_release(&f);
		configfile_release(&f);
		ck_assert_ptr_null(f.store);
	}
}
END_TEST

START_TEST(lines_become_options)
{
	struct configfile f = parsed("limit=5G\n"
				     "  grace =\t10m  \r\n"
				     "#low=1G\n"
				     "\tnoexec\n"
				     "mountpoint = /mnt/a b, c#d\n"
				     "store=/one\n"
				     "store=/two\n"
				     "limit=6G");

	ck_assert_str_eq(f.options, "limit=5G,grace=10m,noexec,limit=6G");
	ck_assert_str_eq(f.mountpoint, "/mnt/a b, c#d");
	ck_assert_str_eq(f.store, "/two");
	ck_assert(!f.own_store && !f.own_mountpoint);
	configfile_release(&f);
}
END_TEST

START_TEST(what_is_wrong_is_named_with_its_line)
{
	static const struct {
		const char *text;
		const char *named;
	} cases[] = {
		{ "frob", NAME ":1: unknown mount option 'frob'; ours are" },
		{ "\n#\nfrob=1\n", NAME ":3: unknown mount option 'frob=1'" },
		{ "stor=/x", "in a configuration file store= and mountpoint=" },
		{ "limit=5G\nlimit=soon\n", NAME ":2: limit=soon" },
		{ "limit=\n", NAME ":1: limit= is not a size" },
		{ "=5\n", NAME ":1: unknown mount option '=5'" },
		{ "limit=1G,ro\n", ":1: 'limit=1G,ro': an option has neither" },
		{ "limit=5G # or so\n",
		  NAME ":1: 'limit=5G # or so': white space" },
		{ "limit=1G\\\n", "has neither a comma nor a backslash" },
		{ "store=\n", NAME ":1: store= must be a path" },
		{ "store = /a/b  # the SSD\n",
		  NAME ":1: store=/a/b  # the SSD: a comment has a line" },
		{ "store=a/b\n", "store=a/b must be a path" },
		{ "mountpoint\n", "unknown mount option 'mountpoint'" },
		{ "\x1b[31m\n", NAME ":1: a control character (27)" },
		{ "ro\rro\n", NAME ":1: a control character (13)" },
		{ "remount\n", "remount is not supported" },
		{ "-o\n", NAME ":1: " },
		{ "--help\n", NAME ":1: " },
	};
	struct configfile f = { .own_store = true };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		ck_assert_int_eq(parse(cases[i].text, &f), -EINVAL);
		ck_assert_msg(strstr(why, cases[i].named), "%s", why);
		ck_assert_ptr_null(strchr(why, '\n'));
	}
	ck_assert_ptr_null(f.store);
	ck_assert(f.own_store);
}
END_TEST

START_TEST(a_file_has_its_limits)
{
	static char text[2 * 4096];
	struct configfile f = CONFIGFILE_INIT;

	memset(text, '#', sizeof(text));
	text[4095] = '\n';
	ck_assert_int_eq(parse_bytes(text, 4096, NAME, &f), 0);
	configfile_release(&f);
	ck_assert_int_eq(parse_bytes(text + 4096, 4096, NAME, &f), -EINVAL);
	ck_assert_msg(strstr(why, ":1: the line is longer than 4095"), "%s",
		      why);
	memset(text, '\n', sizeof(text));
	ck_assert_int_eq(parse_bytes(text, 999, NAME, &f), 0);
	configfile_release(&f);
	ck_assert_int_eq(parse_bytes(text, 1000, NAME, &f), -EINVAL);
	ck_assert_msg(strstr(why, "more than 1000 lines"), "%s", why);
	ck_assert_int_eq(parse_bytes("ro\n\0\n", 5, NAME, &f), -EINVAL);
	ck_assert_msg(strstr(why, ":2: not a text file"), "%s", why);
}
END_TEST

START_TEST(the_name_of_the_file_gives_the_places)
{
	static const struct {
		const char *path;
		const char *store; /* NULL: it names none */
	} cases[] = {
		{ "x.conf", "/var/lib/pipcachefs/x" },
		{ "./a b.conf", "/var/lib/pipcachefs/a b" },
		{ "/etc/x", "/var/lib/pipcachefs/x" },
		{ "/etc/x.conf.conf", "/var/lib/pipcachefs/x.conf" },
		{ "/etc/.conf", NULL },
		{ "/etc/..", NULL },
		{ "/etc/..conf", NULL },
		{ "/etc/", NULL },
	};
	struct configfile f = CONFIGFILE_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = parse_bytes("ro\n", 3, cases[i].path, &f);

		ck_assert_int_eq(r, cases[i].store ? 0 : -EINVAL);
		if (r == 0)
			ck_assert_str_eq(f.store, cases[i].store);
		configfile_release(&f);
		/* It need give none if both are named. */
		ck_assert_int_eq(parse_bytes("store=/a\nmountpoint=/b\n", 23,
					     cases[i].path, &f),
				 0);
		configfile_release(&f);
	}
}
END_TEST

START_TEST(what_cannot_be_read_is_named)
{
	struct scratch dir = scratch_new();
	struct configfile f = CONFIGFILE_INIT;

	ck_assert_int_eq(configfile_read("/nowhere/x.conf", &f, why,
					 sizeof(why)),
			 -ENOENT);
	ck_assert_msg(strstr(why, "/nowhere/x.conf: No such file"), "%s", why);
	ck_assert_int_eq(configfile_read(dir.path, &f, why, sizeof(why)),
			 -EISDIR);
	/* Neither waits nor reads for ever. */
	ck_assert_int_eq(configfile_read("/dev/zero", &f, why, sizeof(why)),
			 -EINVAL);
	ck_assert_ptr_null(f.store);
	scratch_remove(&dir);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("configfile");
	TCase *tc = tcase_create("configfile");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, a_file_without_settings_is_a_good_one);
	tcase_add_test(tc, lines_become_options);
	tcase_add_test(tc, what_is_wrong_is_named_with_its_line);
	tcase_add_test(tc, a_file_has_its_limits);
	tcase_add_test(tc, the_name_of_the_file_gives_the_places);
	tcase_add_test(tc, what_cannot_be_read_is_named);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
