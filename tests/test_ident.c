/* SPDX-License-Identifier: MIT */
#include "store/ident.h"

#include <check.h>

#include "store/response.h"

#include "identkit.h"
#include "zipkit.h"

static struct reply reply;

static struct ident of_pair(const void *body, size_t len)
{
	struct identkit_file h = { .buf = reply.buf, .len = reply.len };
	struct identkit_file b = { .buf = body, .len = len };
	struct ident id;

	ck_assert_int_eq(identkit_response(&h, &b, &id), 0);
	identkit_check(&id);
	return id;
}

static struct ident of_one(void)
{
	struct identkit_file h = { .buf = reply.buf, .len = reply.len };
	struct ident id;

	ck_assert_int_eq(identkit_response(&h, NULL, &id), 0);
	identkit_check(&id);
	return id;
}

static void is(struct ident id, enum ident_kind kind, const char *project,
	       const char *version)
{
	ck_assert_int_eq(id.kind, kind);
	ck_assert_str_eq(id.project, project);
	ck_assert_str_eq(id.version, version);
}

/* A response without headers that say anything. */
static void mute(const void *body, size_t len)
{
	reply_begin(&reply, body, len, 1);
	reply_header(&reply, "Date", "Tue, 24 Nov 2026 15:12:03 GMT");
	reply_end(&reply);
}

static void speaking(const void *body, size_t len)
{
	reply_begin(&reply, body, len, 5);
	reply_header(&reply, "Date", "Tue, 24 Nov 2026 15:12:03 GMT");
	reply_header(&reply, "Content-Type", "application/octet-stream");
	reply_header(&reply, "X-PyPI-File-Project", "Foo_Bar");
	reply_header(&reply, "x-pypi-file-version", "2.1.0RC1");
	reply_header(&reply, "x-pypi-file-package-type", "bdist_wheel");
	reply_end(&reply);
}

static struct zip wheel(const char *dist_info)
{
	struct zip z = { 0 };

	zip_member(&z, "demo/__init__.py", 3000, ZIP_STAMP);
	zip_member(&z, dist_info, 200, ZIP_STAMP);
	zip_finish(&z, "");
	return z;
}

START_TEST(headers_say_what_it_is)
{
	struct zip z = wheel("other-9.dist-info/RECORD");

	speaking("", 0);
	is(of_pair(z.buf, z.len), IDENT_WHEEL, "foo-bar", "2.1.0rc1");
	is(of_pair("", 0), IDENT_WHEEL, "foo-bar", "2.1.0rc1");
	speaking(z.buf, z.len);
	is(of_one(), IDENT_WHEEL, "foo-bar", "2.1.0rc1");
	zip_release(&z);
}
END_TEST

START_TEST(a_metadata_file_beside_a_wheel_is_none)
{
	static const char text[] =
		"Metadata-Version: 2.1\r\nName: Foo.Bar\r\nVersion: 2\r\n\r\nName: x\n";

	speaking("", 0);
	is(of_pair(text, sizeof(text) - 1), IDENT_METADATA, "foo-bar",
	   "2.1.0rc1");
	mute("", 0);
	is(of_pair(text, sizeof(text) - 1), IDENT_METADATA, "foo-bar", "2");
	is(of_pair(text, 40), IDENT_METADATA, "", "");
}
END_TEST

START_TEST(a_wheel_says_what_it_is_itself)
{
	struct zip z = wheel("Demo_Two-1.0+cu121.dist-info/RECORD");

	mute("", 0);
	is(of_pair(z.buf, z.len), IDENT_WHEEL, "demo-two", "1.0+cu121");
	mute(z.buf, z.len);
	is(of_one(), IDENT_WHEEL, "demo-two", "1.0+cu121");
	zip_release(&z);
}
END_TEST

/* Only the directory counts, not what looks like it in a member before it, nor
 * what is vendored below a package. */
START_TEST(a_wheel_within_a_wheel_does_not_count)
{
	struct zip in = wheel("inner-3.dist-info/RECORD"), z = { 0 };

	zip_member(&z, "x/_vendor/six-1.16.0.dist-info/RECORD", 5, ZIP_STAMP);
	zip_member(&z, "inner.whl", in.len, ZIP_STAMP);
	memcpy(z.buf + z.len - in.len, in.buf, in.len);
	zip_finish(&z, "");
	mute("", 0);
	is(of_pair(z.buf, z.len), IDENT_OTHER, "", "");
	zip_release(&z);
	zip_release(&in);
}
END_TEST

/* A large directory, its only good name at the beginning: found across
 * pieces, and wherever one ends. */
START_TEST(a_large_directory_is_read_from_its_end)
{
	struct zip z = wheel("demo-1.0.dist-info/METADATA"), big = { 0 };
	size_t record = z.end - z.members[1].central;

	zip_bytes(&big, z.buf, z.end);
	for (unsigned i = 0; i < 4000; i++) {
		zip_bytes(&big, z.buf + z.members[1].central, record);
		/* A directory of another name. */
		memcpy(big.buf + big.len - 27, "demo-1.0/dist-info/METADAT",
		       26);
	}
	big.end = big.len;
	zip_bytes(&big, z.buf + z.end, z.len - z.end);
	zip_patch(&big, big.end + 12, 4, big.end - z.directory);
	mute("", 0);
	is(of_pair(big.buf, big.len), IDENT_WHEEL, "demo", "1.0");
	zip_release(&z);
	zip_release(&big);
}
END_TEST

START_TEST(an_sdist_is_known_by_its_gzip)
{
	uint8_t gz[100] = "\x1f\x8b\x08\x08\0\0\0\0\2\xff"
			  "dist/python-dateutil-2.8.2.tar";

	mute("", 0);
	is(of_pair(gz, sizeof(gz)), IDENT_SDIST, "python-dateutil", "2.8.2");
	is(of_pair(gz, 20), IDENT_OTHER, "", "");
	gz[3] = 0;
	is(of_pair(gz, sizeof(gz)), IDENT_OTHER, "", "");
}
END_TEST

START_TEST(pages_are_pages)
{
	reply_begin(&reply, "", 0, 1);
	reply_header(&reply, "Content-Type",
		     "application/vnd.pypi.simple.v1+json");
	reply_end(&reply);
	is(of_pair("\x1f\x8b", 2), IDENT_PAGE, "", "");
}
END_TEST

START_TEST(headers_that_are_no_names_count_as_none)
{
	static const char *const bad[] = { "",	       "-a", "a/b",	"a b",
					   "a\x1b[2J", "a-", "\xc3\xa4" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		reply_begin(&reply, "", 0, 2);
		reply_header(&reply, "x-pypi-file-project", bad[i]);
		reply_header(&reply, "x-pypi-file-version", "1");
		reply_end(&reply);
		is(of_pair("x", 1), IDENT_OTHER, "", "");
	}
}
END_TEST

/* Cut anywhere, and with any byte wrong: no crash, no read beyond. */
START_TEST(torn_and_damaged_responses_are_survived)
{
	struct zip z = wheel("demo-1.dist-info/RECORD");
	struct reply whole;

	speaking(z.buf, z.len);
	whole = reply;
	for (size_t len = 0; len < whole.len; len++) {
		reply.len = len;
		(void)of_one();
	}
	for (size_t i = 0; i < whole.len * 8; i++) {
		reply = whole;
		reply.buf[i / 8] ^= (uint8_t)(1 << i % 8);
		(void)of_one();
	}
	zip_release(&z);
}
END_TEST

/* Nested arrays as deep as there are bytes, and counts of 2^32 - 1. */
START_TEST(the_work_is_bounded)
{
	struct identkit_file h = { .buf = reply.buf, .len = sizeof(reply.buf) };
	struct ident id;

	reply_begin(&reply, "", 0, 65535);
	memset(reply.buf + reply.len, 0x91, sizeof(reply.buf) - reply.len);
	ck_assert_int_eq(identkit_response(&h, NULL, &id), 0);
	memset(reply.buf + reply.len, 0xdf, sizeof(reply.buf) - reply.len);
	ck_assert_int_eq(identkit_response(&h, NULL, &id), 0);
	is(id, IDENT_OTHER, "", "");
	ck_assert_uint_le(h.bytes, 2 * RESPONSE_READ_MAX + 8 * KIB);
}
END_TEST

START_TEST(a_read_that_fails_is_told)
{
	struct zip z = wheel("demo-1.dist-info/RECORD");
	struct identkit_file h = { .buf = reply.buf };
	struct ident id;
	int r;

	mute(z.buf, z.len);
	h.len = reply.len;
	for (h.fail_at = 1; h.fail_at <= h.reads || h.fail_at == 1;
	     h.fail_at++) {
		h.reads = 0;
		r = identkit_response(&h, NULL, &id);
		ck_assert_int_eq(r, h.reads < h.fail_at ? 0 : -EIO);
		if (r < 0)
			is(id, IDENT_OTHER, "", "");
	}
	zip_release(&z);
}
END_TEST

START_TEST(names_of_wheels)
{
	static const char *const bad[] = {
		"",
		".whl",
		"a-1-py3-none-any.zip",
		"a.whl",
		"a-1-none-any.whl",
		"a-1-2-3-py3-none-any.whl",
		"-1-a-b-c.whl",
		"a--py3-none-any.whl",
	};
	struct ident id;

	ck_assert(ident_wheel_name("Foo.Bar_baz-1.0_1-py3-none-any.whl", &id));
	is(id, IDENT_WHEEL, "foo-bar-baz", "1.0-1");
	ck_assert(ident_wheel_name("a-1-2-py3-none-any.whl", &id));
	is(id, IDENT_WHEEL, "a", "1");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(!ident_wheel_name(bad[i], &id), "%s", bad[i]);
}
END_TEST

START_TEST(long_names_are_refused)
{
	char text[300], got[IDENT_PROJECT_MAX + 1];

	memset(text, 'a', sizeof(text));
	text[IDENT_PROJECT_MAX + 1] = '\0';
	ck_assert(!ident_project(text, got));
	ck_assert(!ident_version(text, got));
	text[IDENT_PROJECT_MAX] = '\0';
	ck_assert(ident_project(text, got));
	ck_assert_str_eq(got, text);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ident");
	TCase *tc = tcase_create("response");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, headers_say_what_it_is);
	tcase_add_test(tc, a_metadata_file_beside_a_wheel_is_none);
	tcase_add_test(tc, a_wheel_says_what_it_is_itself);
	tcase_add_test(tc, a_wheel_within_a_wheel_does_not_count);
	tcase_add_test(tc, a_large_directory_is_read_from_its_end);
	tcase_add_test(tc, an_sdist_is_known_by_its_gzip);
	tcase_add_test(tc, pages_are_pages);
	tcase_add_test(tc, headers_that_are_no_names_count_as_none);
	suite_add_tcase(suite, tc);

	tc = tcase_create("hostile");
	tcase_add_test(tc, torn_and_damaged_responses_are_survived);
	tcase_add_test(tc, the_work_is_bounded);
	tcase_add_test(tc, a_read_that_fails_is_told);
	suite_add_tcase(suite, tc);

	tc = tcase_create("names");
	tcase_add_test(tc, names_of_wheels);
	tcase_add_test(tc, long_names_are_refused);
	suite_add_tcase(suite, tc);

	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
