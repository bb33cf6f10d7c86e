/* SPDX-License-Identifier: MIT */
/* What wheel_cut() makes of ZIPs that lie, and of any bytes. */
#include "store/wheel.h"

#include <check.h>
#include <glob.h>
#include <stdio.h>

#include "wheelkit.h"
#include "zipkit.h"

static struct zip z;

static void setup(void)
{
	z = (struct zip){ 0 };
}

static void teardown(void)
{
	zip_release(&z);
}

static int check(void)
{
	size_t n;

	return wheelkit_check(z.buf, z.len, &n);
}

/* ---- What does not add up ------------------------------------------------- */

/* It stops being cut with @v over the @len bytes at @at of a good one. */
static void expect_spoilt(size_t at, size_t len, uint64_t v)
{
	cleanup_free uint8_t *good = malloc(z.len);

	ck_assert_ptr_nonnull(good);
	memcpy(good, z.buf, z.len);
	ck_assert_int_eq(check(), 1);
	zip_patch(&z, at, len, v);
	ck_assert_int_eq(check(), 0);
	memcpy(z.buf, good, z.len);
}

START_TEST(end_records_that_lie_are_opaque)
{
	zip_small(&z, "abc");
	expect_spoilt(z.end + 4, 2, 1); /* another disk */
	expect_spoilt(z.end + 4, 2, UINT16_MAX);
	expect_spoilt(z.end + 6, 2, 1);
	expect_spoilt(z.end + 8, 2, 1); /* counts */
	expect_spoilt(z.end + 8, 4, 1 | 1 << 16);
	expect_spoilt(z.end + 8, 4, 3 | 3 << 16);
	expect_spoilt(z.end + 8, 4, 0);
	expect_spoilt(z.end + 8, 4, UINT32_MAX);
	expect_spoilt(z.end + 12, 4, z.end - z.directory - 1);
	expect_spoilt(z.end + 12, 4, z.end - z.directory + 1);
	expect_spoilt(z.end + 12, 4, z.len);
	expect_spoilt(z.end + 12, 4, UINT32_MAX);
	expect_spoilt(z.end + 12, 4, 0);
	expect_spoilt(z.end + 16, 4, z.directory + 1);
	expect_spoilt(z.end + 16, 4, z.directory - 1);
	expect_spoilt(z.end + 16, 4, UINT32_MAX);
	expect_spoilt(z.end + 16, 4, 0);
	expect_spoilt(z.end + 20, 2, 4); /* past the end */
	expect_spoilt(z.end, 1, 'Q');
}
END_TEST

START_TEST(zip64_end_records_that_lie_are_opaque)
{
	zip_wide(&z, 0, true);
	expect_spoilt(z.end64, 1, 'Q');
	expect_spoilt(z.end64 + 4, 8, 45);
	expect_spoilt(z.end64 + 16, 4, 1);
	expect_spoilt(z.end64 + 20, 4, 1);
	expect_spoilt(z.end64 + 24, 8, 1);
	expect_spoilt(z.end64 + 32, 8, UINT64_MAX);
	expect_spoilt(z.end64 + 40, 8, UINT64_MAX);
	expect_spoilt(z.end64 + 40, 8, UINT64_MAX - z.end64);
	expect_spoilt(z.end64 + 48, 8, UINT64_MAX);
	expect_spoilt(z.end64 + 48, 8, z.directory - 1);
	expect_spoilt(z.locator, 1, 'Q');
	expect_spoilt(z.locator + 4, 4, 1);
	expect_spoilt(z.locator + 8, 8, UINT64_MAX);
	expect_spoilt(z.locator + 8, 8, z.end64 - 1);
	expect_spoilt(z.locator + 16, 4, 2);
	expect_spoilt(z.end + 8, 4, 1 | 1 << 16); /* it says something else */
	expect_spoilt(z.end + 12, 4, 1);
	expect_spoilt(z.end + 16, 4, 1);
}
END_TEST

START_TEST(central_records_that_lie_are_opaque)
{
	size_t a, b;

	zip_small(&z, "");
	a = z.members[0].central;
	b = z.members[1].central;
	expect_spoilt(a, 1, 'Q');
	expect_spoilt(b, 1, 'Q');
	expect_spoilt(a + 8, 2, 1 << 13); /* encrypted directory */
	expect_spoilt(a + 20, 4, 101);	  /* runs into the next one */
	expect_spoilt(b + 20, 4, 5001);
	expect_spoilt(b + 20, 4, UINT32_MAX - 1);
	expect_spoilt(b + 20, 4, UINT32_MAX); /* no zip64 field */
	expect_spoilt(b + 24, 4, UINT32_MAX);
	expect_spoilt(b + 28, 2, UINT16_MAX); /* past the directory */
	expect_spoilt(b + 28, 2, 3);
	expect_spoilt(a + 28, 2, z.end - a - 46); /* leaves none for b */
	expect_spoilt(a + 28, 2, z.end - a - 49);
	expect_spoilt(a + 30, 2, 1);
	expect_spoilt(b + 32, 2, 1);
	expect_spoilt(b + 34, 2, 1); /* another disk */
	expect_spoilt(b + 34, 2, UINT16_MAX);
	expect_spoilt(b + 42, 4, 0); /* that of the other */
	expect_spoilt(b + 42, 4, z.members[1].local - 1);
	expect_spoilt(b + 42, 4, z.directory - 29);
	expect_spoilt(b + 42, 4, z.len);
	expect_spoilt(b + 42, 4, UINT32_MAX);
	expect_spoilt(b + 46, 1, 'c'); /* another name */
}
END_TEST

START_TEST(zip64_fields_that_lie_are_opaque)
{
	size_t a;

	zip_wide(&z, 0, true);
	a = z.members[0].central + 46 + 4;
	expect_spoilt(a, 4, 0xcafe | 100 << 16); /* past the extra field */
	expect_spoilt(a + 4, 2, 2);		 /* of another kind */
	expect_spoilt(a + 6, 2, 23);
	expect_spoilt(a + 6, 2, 25);
	expect_spoilt(a + 16, 8, UINT64_MAX);
	expect_spoilt(a + 16, 8, 101);
	expect_spoilt(a + 24, 8, UINT64_MAX);
	expect_spoilt(a + 24, 8, UINT64_MAX - 29);
	expect_spoilt(a + 24, 8, z.directory - 29);
}
END_TEST

START_TEST(local_headers_that_lie_are_opaque)
{
	size_t b;

	zip_small(&z, "");
	b = z.members[1].local;
	expect_spoilt(b, 1, 'Q');
	expect_spoilt(b + 26, 2, 3);
	expect_spoilt(b + 26, 2, UINT16_MAX);
	expect_spoilt(b + 28, 2, 1); /* pushes the stream past its end */
	expect_spoilt(b + 28, 2, UINT16_MAX);
	expect_spoilt(b + 30, 1, 'c');
	expect_spoilt(z.members[0].local, 1, 'Q');
}
END_TEST

START_TEST(a_zip_that_is_not_whole_is_opaque)
{
	size_t checked;

	zip_small(&z, "abc");
	for (size_t i = 0; i < z.len; i++)
		ck_assert_int_eq(wheelkit_check(z.buf, i, &checked), 0);
	/* Without its first bytes the members are not where they should be. */
	for (size_t i = 1; i < 100; i++)
		ck_assert_int_eq(wheelkit_check(z.buf + i, z.len - i, &checked),
				 0);
}
END_TEST

START_TEST(what_does_not_begin_like_a_zip_is_not_searched)
{
	cleanup_free struct wheel_cut *cuts = NULL;
	struct wheelkit_file f;
	size_t n;

	zip_prefix(&z, 65);
	zip_small(&z, "");
	f = (struct wheelkit_file){ .buf = z.buf, .len = z.len };
	ck_assert_int_eq(wheelkit_cut(&f, &cuts, &n), 0);
	ck_assert_uint_eq(f.reads, 1);
	ck_assert_uint_lt(f.bytes, 100);
}
END_TEST

START_TEST(a_directory_above_the_limit_is_not_read)
{
	const size_t size = WHEEL_DIRECTORY_MAX + 1;
	struct wheelkit_file f = { .len = 100 + size + 22 };
	cleanup_free struct wheel_cut *cuts = NULL;
	cleanup_free uint8_t *buf = calloc(1, f.len);
	size_t n;

	ck_assert_ptr_nonnull(buf);
	zip_member(&z, "a.py", 100, 0);
	z.n = 1;
	z.end64 = size; /* where zip_end() takes the directory to end */
	zip_end(&z, false, "");
	memcpy(buf, z.buf, 100);
	memcpy(buf + f.len - 22, z.buf + z.end, 22);
	f.buf = buf;
	ck_assert_int_eq(wheelkit_cut(&f, &cuts, &n), 0);
	ck_assert_uint_lt(f.bytes, 5000);
}
END_TEST

START_TEST(a_zip_without_members_is_opaque)
{
	zip_member(&z, "a.py", 100, 0);
	z.n = 0;
	zip_finish(&z, "");
	ck_assert_int_eq(check(), 0);
}
END_TEST

START_TEST(the_corpus_of_bad_zips_is_opaque)
{
	size_t checked;
	glob_t found;

	ck_assert_int_eq(glob(TESTS_DATA "/bad-zip-*", 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		uint8_t buf[4096];
		FILE *f = fopen(found.gl_pathv[i], "rb");
		size_t len;

		ck_assert_ptr_nonnull(f);
		len = fread(buf, 1, sizeof(buf), f);
		fclose(f);
		ck_assert_msg(wheelkit_check(buf, len, &checked) == 0, "%s",
			      found.gl_pathv[i]);
	}
	ck_assert_uint_gt(found.gl_pathc, 10);
	globfree(&found);
}
END_TEST

/* ---- Any bytes ------------------------------------------------------------ */

static uint64_t random_next(uint64_t *seed)
{
	uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* A good ZIP of any of the shapes above. */
static void random_zip(uint64_t *seed)
{
	static const char *const names[] = { "a/b.py", "c.gz", "d/", "e.tgz" };
	static const size_t extra[] = { 0, 0, 0, 3, 12, 16, 20, 24 };
	bool wide = random_next(seed) % 2;

	zip_prefix(&z, random_next(seed) % 3 * 13);
	for (size_t i = 1 + random_next(seed) % 8; i--;) {
		size_t len = random_next(seed) % 3 ? random_next(seed) % 200
						   : random_next(seed) % 6000;

		zip_member(&z, names[random_next(seed) % ARRAY_SIZE(names)],
			   len, (uint32_t)random_next(seed))
			->wide = random_next(seed) % 2;
		len = extra[random_next(seed) % ARRAY_SIZE(extra)];
		if (random_next(seed) % 2)
			zip_descriptor(&z, len);
		else
			zip_fill(&z, len, 6);
	}
	zip_directory(&z);
	if (wide)
		zip_end64(&z);
	zip_end(&z, wide && random_next(seed) % 2, "comment");
	zip_fill(&z, random_next(seed) % 2 * 1000, 8);
}

/* Where a change hurts: in a header, a record or the end; or anywhere. */
static size_t random_place(uint64_t *seed)
{
	const struct zip_member *m = z.members + random_next(seed) % z.n;
	size_t near = random_next(seed) % 60;
	size_t places[] = { m->local + near,	m->central + near,
			    z.directory + near, z.end64 + near,
			    z.end + near % 22,	random_next(seed) };

	return places[random_next(seed) % ARRAY_SIZE(places)] % z.len;
}

START_TEST(mutations_of_good_zips_are_cut_exactly_or_not_at_all)
{
	static const uint64_t values[] = { 0,	1,    0xff, 0xffff,
					   256, 4096, 30,   0x04034b50 };
	uint64_t seed = 1;
	size_t checked, kept = 0, rounds = 2000;

	for (size_t i = 0; i < rounds; i++) {
		random_zip(&seed);
		ck_assert_int_eq(wheelkit_check(z.buf, z.len, &checked), 1);
		ck_assert_uint_ge(checked, 1 + z.n);
		for (size_t j = 0; j < 10; j++) {
			uint64_t v =
				values[random_next(&seed) % ARRAY_SIZE(values)];
			size_t at = random_place(&seed);

			if (random_next(&seed) % 2)
				z.buf[at] = (uint8_t)random_next(&seed);
			else if (at + 4 <= z.len)
				zip_patch(&z, at, 4, v);
			kept += wheelkit_check(z.buf, z.len, &checked);
		}
		zip_release(&z);
	}
	/* Neither was trivial: some changes hurt and some did not. */
	ck_assert_uint_gt(kept, rounds);
	ck_assert_uint_lt(kept, 9 * rounds);
}
END_TEST

START_TEST(random_bytes_are_cut_exactly_or_not_at_all)
{
	uint64_t seed = 2;
	uint8_t buf[512];
	size_t checked;

	for (size_t i = 0; i < 20000; i++) {
		for (size_t j = 0; j < sizeof(buf); j++)
			buf[j] = (uint8_t)random_next(&seed);
		memcpy(buf, "PK\3\4", 4);
		memcpy(buf + 490, "PK\5\6\0\0\0\0\1\0\1", 11);
		wheelkit_check(buf, random_next(&seed) % (sizeof(buf) + 1),
			       &checked);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("badzip");
	TCase *opaque = tcase_create("opaque");
	TCase *any = tcase_create("any");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(opaque, setup, teardown);
	tcase_add_test(opaque, end_records_that_lie_are_opaque);
	tcase_add_test(opaque, zip64_end_records_that_lie_are_opaque);
	tcase_add_test(opaque, central_records_that_lie_are_opaque);
	tcase_add_test(opaque, zip64_fields_that_lie_are_opaque);
	tcase_add_test(opaque, local_headers_that_lie_are_opaque);
	tcase_add_test(opaque, a_zip_that_is_not_whole_is_opaque);
	tcase_add_test(opaque, what_does_not_begin_like_a_zip_is_not_searched);
	tcase_add_test(opaque, a_directory_above_the_limit_is_not_read);
	tcase_add_test(opaque, a_zip_without_members_is_opaque);
	tcase_add_test(opaque, the_corpus_of_bad_zips_is_opaque);
	tcase_add_checked_fixture(any, setup, teardown);
	tcase_add_test(any,
		       mutations_of_good_zips_are_cut_exactly_or_not_at_all);
	tcase_add_test(any, random_bytes_are_cut_exactly_or_not_at_all);
	suite_add_tcase(suite, opaque);
	suite_add_tcase(suite, any);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
