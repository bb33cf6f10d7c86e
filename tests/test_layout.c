/* SPDX-License-Identifier: MIT */
#include "store/layout.h"

#include <check.h>
#include <string.h>

#define FAN "0/1/2/3/4/"
#define HASH "01234567890123456789012345678901234567890123456789abcdef"
#define REST "01234567890123456789012345678901234567890123456789"
#define WHEEL "wheels/ab/cd/ef/" REST "/"

#define DIRS_MAX 32

/* A path taken apart as layout_classify() wants it. */
struct place {
	char text[512];
	const char *dirs[DIRS_MAX];
	unsigned n;
	const char *name;
};

static void place_of(const char *path, struct place *p)
{
	char *at = p->text;
	char *slash;

	ck_assert_uint_lt(strlen(path), sizeof(p->text));
	memcpy(p->text, path, strlen(path) + 1);
	for (p->n = 0; (slash = strchr(at, '/')); at = slash + 1) {
		ck_assert_uint_lt(p->n, DIRS_MAX);
		*slash = '\0';
		p->dirs[p->n++] = at;
	}
	p->name = at;
}

static struct layout_unit classify(const char *path)
{
	struct place p;

	place_of(path, &p);
	return layout_classify(p.dirs, p.n, p.name);
}

struct expect {
	const char *path;
	enum layout_kind kind;
	unsigned dir;
	size_t name_len;
	bool body;
};

static void expect_all(const struct expect *e, size_t n)
{
	for (; n--; e++) {
		struct layout_unit unit = classify(e->path);

		ck_assert_msg(unit.kind == e->kind, "%s: kind %d", e->path,
			      unit.kind);
		ck_assert_msg(unit.dir == e->dir, "%s: dir %u", e->path,
			      unit.dir);
		ck_assert_msg(unit.name_len == e->name_len, "%s: name %zu",
			      e->path, unit.name_len);
		ck_assert_msg(unit.body == e->body, "%s: body", e->path);
	}
}

START_TEST(what_pip_writes_is_known)
{
	static const struct expect cases[] = {
		{ "http-v2/" FAN HASH, LAYOUT_HTTP, 6, 56, false },
		{ "http-v2/" FAN HASH ".body", LAYOUT_HTTP, 6, 56, true },
		{ "http/" FAN HASH, LAYOUT_HTTP, 6, 56, true },
		{ WHEEL "a-1-py3-none-any.whl", LAYOUT_WHEEL, 5, 0, true },
		{ WHEEL "origin.json", LAYOUT_WHEEL, 5, 0, false },
		{ WHEEL ".tmp-q1/a.whl", LAYOUT_WHEEL, 5, 0, false },
		{ WHEEL "tmpabcdefgh/x/y/z", LAYOUT_WHEEL, 5, 0, false },
		{ "selfcheck/" HASH, LAYOUT_SELFCHECK, 1, 56, false },
		{ "selfcheck.json", LAYOUT_SELFCHECK, 0, 14, false },
	};

	expect_all(cases, sizeof(cases) / sizeof(cases[0]));
}
END_TEST

START_TEST(a_cache_may_lie_one_directory_down)
{
	static const struct expect cases[] = {
		{ "p/http-v2/" FAN HASH ".body", LAYOUT_HTTP, 7, 56, true },
		{ "http/http/" FAN HASH, LAYOUT_HTTP, 7, 56, true },
		{ "wheels/" WHEEL "a.whl", LAYOUT_WHEEL, 6, 0, true },
		{ "p/selfcheck/" HASH, LAYOUT_SELFCHECK, 2, 56, false },
		{ "p/selfcheck.json", LAYOUT_SELFCHECK, 1, 14, false },
		{ "p/http/" FAN HASH "abcdefgh.tmp", LAYOUT_TMP, 7, 56, false },
	};

	expect_all(cases, sizeof(cases) / sizeof(cases[0]));
}
END_TEST

START_TEST(temporary_files_are_known)
{
	static const char *const tmp[] = {
		"http-v2/" FAN HASH "abc_90zz.tmp",
		"http-v2/" FAN HASH ".bodyabc_90zz.tmp",
		"http/" FAN HASH "aBc_90.tmp",
		"selfcheck/" HASH "abc_90zz.tmp",
	};

	for (size_t i = 0; i < sizeof(tmp) / sizeof(tmp[0]); i++) {
		ck_assert_msg(classify(tmp[i]).kind == LAYOUT_TMP, "%s",
			      tmp[i]);
		ck_assert(layout_is_tmp_name(strrchr(tmp[i], '/') + 1));
	}
	ck_assert(!layout_is_tmp_name(HASH));
	ck_assert(!layout_is_tmp_name(HASH ".body"));
	ck_assert(!layout_is_tmp_name(HASH ".tmp"));
	ck_assert(!layout_is_tmp_name(""));
}
END_TEST

START_TEST(anything_else_is_other)
{
	static const char *const other[] = {
		"x",
		"http-v2/x",
		HASH,
		"http-v2/" HASH,
		/* fan-out that is not the name's, too short, too deep */
		"http-v2/1/1/2/3/4/" HASH,
		"http-v2/0/1/2/3/" HASH,
		"http-v2/" FAN "5/" HASH,
		"http-v2/01/1/2/3/4/" HASH,
		/* names that are none of pip's */
		"http-v2/" FAN HASH ".lock",
		"http-v2/" FAN HASH "0",
		"http-v2/" FAN HASH ".bod",
		"http-v2/" FAN HASH ".body2",
		"http-v2/" FAN HASH ".tmp",
		"http-v2/" FAN HASH "abcdefg.tmp",
		"http-v2/" FAN HASH "ABCDEFGH.tmp",
		"http-v2/" FAN HASH "abcdefgh.tmp2",
		"http-v2/" FAN HASH "abcdefgh.TMP",
		"http-v2/" FAN
		"0123456789012345678901234567890123456789012345678"
		"9ABCDEF",
		"http-v2/" FAN "01234",
		"http-v3/" FAN HASH,
		/* two directories down, or another tool's tree */
		"p/q/http-v2/" FAN HASH,
		"_http/" FAN HASH,
		"wheels/a.whl",
		"wheels/ab/cd/ef/a.whl",
		"wheels/ab/cd/ef/0123/a.whl",
		"wheels/ab/cd/eg/" REST "/a.whl",
		"wheels/ab/cd/ef/" REST "0/a.whl",
		"wheels-v5/index/" REST "/a.msgpack",
		"archive-v0/x/y.py",
		"selfcheck/x",
		"selfcheck/a/" HASH,
		"a/b/selfcheck.json",
		/* deeper than we look */
		WHEEL "1/2/3/4/5/6/7/8/9/10/11/12/a.whl",
	};

	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		struct layout_unit unit = classify(other[i]);

		ck_assert_msg(unit.kind == LAYOUT_OTHER, "%s: kind %d",
			      other[i], unit.kind);
		ck_assert_msg(!unit.body, "%s", other[i]);
	}
}
END_TEST

START_TEST(partners_name_each_other)
{
	char buf[256];

	ck_assert(layout_partner(HASH, buf));
	ck_assert_str_eq(buf, HASH ".body");
	ck_assert(layout_partner(HASH ".body", buf));
	ck_assert_str_eq(buf, HASH);
	ck_assert(!layout_partner(HASH "abcdefgh.tmp", buf));
	ck_assert(!layout_partner(HASH ".body.body", buf));
	ck_assert(!layout_partner("origin.json", buf));
	ck_assert(!layout_partner("", buf));
}
END_TEST

START_TEST(only_fan_out_of_http_goes_when_empty)
{
	static const struct {
		const char *path; /* the last part is a directory too */
		bool prunable;
	} cases[] = {
		{ "http-v2", false },	    { "http-v2/0", true },
		{ "http/0/1/2/3/4", true }, { "p/http/0/1/2/3/4", true },
		{ "p/http-v2", false },	    { "http-v2/0/1/2/3/4/5", false },
		{ "http-v2/g", false },	    { "http-v2/00", false },
		{ "http-v2/0/x/2", false }, { "p/q/http/0", false },
		{ "wheels/ab", false },	    { "wheels/ab/cd/ef/" REST, false },
		{ "selfcheck", false },	    { "a", false },
	};
	struct place p;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		place_of(cases[i].path, &p);
		p.dirs[p.n++] = p.name;
		ck_assert_msg(layout_dir_prunable(p.dirs, p.n) ==
				      cases[i].prunable,
			      "%s", cases[i].path);
	}
	ck_assert(!layout_dir_prunable(p.dirs, 0));
}
END_TEST

START_TEST(kinds_have_a_queue_a_grace_and_a_name)
{
	ck_assert(layout_evictable(LAYOUT_HTTP));
	ck_assert(layout_evictable(LAYOUT_WHEEL));
	ck_assert(layout_evictable(LAYOUT_SELFCHECK));
	ck_assert(!layout_evictable(LAYOUT_TMP));
	ck_assert(!layout_evictable(LAYOUT_OTHER));
	ck_assert(!layout_evictable(LAYOUT_KINDS));

	ck_assert_int_eq(layout_queue(LAYOUT_HTTP), LAYOUT_QUEUE_HTTP);
	ck_assert_int_eq(layout_queue(LAYOUT_SELFCHECK), LAYOUT_QUEUE_HTTP);
	ck_assert_int_eq(layout_queue(LAYOUT_WHEEL), LAYOUT_QUEUE_WHEELS);

	ck_assert_int_eq(layout_grace_sec(LAYOUT_HTTP, 600), 600);
	ck_assert_int_eq(layout_grace_sec(LAYOUT_WHEEL, 600), 1800);
	ck_assert_int_eq(layout_grace_sec(LAYOUT_WHEEL, 0), 0);
	ck_assert(layout_grace_sec(LAYOUT_WHEEL, INT64_MAX) == INT64_MAX);

	ck_assert_str_eq(layout_kind_name(LAYOUT_HTTP), "http");
	ck_assert_str_eq(layout_kind_name(LAYOUT_TMP), "http");
	ck_assert_str_eq(layout_kind_name(LAYOUT_WHEEL), "wheels");
	ck_assert_str_eq(layout_kind_name(LAYOUT_SELFCHECK), "selfcheck");
	ck_assert_str_eq(layout_kind_name(LAYOUT_OTHER), "other");
	ck_assert_str_eq(layout_kind_name(LAYOUT_KINDS), "other");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("layout");
	TCase *tc = tcase_create("pip");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, what_pip_writes_is_known);
	tcase_add_test(tc, a_cache_may_lie_one_directory_down);
	tcase_add_test(tc, temporary_files_are_known);
	tcase_add_test(tc, anything_else_is_other);
	tcase_add_test(tc, partners_name_each_other);
	tcase_add_test(tc, only_fan_out_of_http_goes_when_empty);
	tcase_add_test(tc, kinds_have_a_queue_a_grace_and_a_name);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
