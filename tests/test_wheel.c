/* SPDX-License-Identifier: MIT */
#include "store/wheel.h"

#include <check.h>

#include "wheelkit.h"
#include "zipkit.h"

#define HEAD(name) (WHEEL_HEADER_LEN + sizeof(name) - 1)
#define PLAIN UINT64_MAX

static struct zip z;
static struct wheel_cut *cuts;
static size_t n;

static void setup(void)
{
	z = (struct zip){ 0 };
	cuts = NULL;
	n = 0;
}

static void teardown(void)
{
	zip_release(&z);
	free(cuts);
}

static int cut(void)
{
	struct wheelkit_file f = { .buf = z.buf, .len = z.len };

	free(steal_ptr(cuts));
	return wheelkit_cut(&f, &cuts, &n);
}

struct want {
	uint64_t len;
	uint64_t stamp; /* or PLAIN */
};

static void expect(const struct want *want, size_t want_n)
{
	size_t checked;

	ck_assert_int_eq(wheelkit_check(z.buf, z.len, &checked), 1);
	ck_assert_int_eq(cut(), 1);
	ck_assert_uint_eq(n, want_n);
	for (size_t i = 0; i < n; i++) {
		ck_assert_msg(cuts[i].len == want[i].len, "%zu: %llu bytes", i,
			      (unsigned long long)cuts[i].len);
		ck_assert_int_eq(cuts[i].stamped, want[i].stamp != PLAIN);
		if (cuts[i].stamped)
			ck_assert_uint_eq(cuts[i].stamp, want[i].stamp);
	}
}
#define EXPECT(...)                                                            \
	expect((struct want[]){ __VA_ARGS__ },                                 \
	       ARRAY_SIZE(((struct want[]){ __VA_ARGS__ })))

static void expect_opaque(void)
{
	size_t checked;

	ck_assert_int_eq(wheelkit_check(z.buf, z.len, &checked), 0);
}

/* ---- ZIPs that are cut ---------------------------------------------------- */

START_TEST(each_member_is_a_stamped_piece_and_the_directory_a_plain_one)
{
	zip_small(&z, "");
	EXPECT({ HEAD("a.py") + 100, ZIP_STAMP },
	       { HEAD("b.py") + 5000, ZIP_STAMP + 1 },
	       { z.len - z.directory, PLAIN });
}
END_TEST

START_TEST(zero_is_a_stamp_and_an_empty_member_is_a_piece)
{
	zip_member(&z, "d/", 0, 0);
	zip_finish(&z, "");
	EXPECT({ HEAD("d/"), 0 }, { z.len - z.directory, PLAIN });
}
END_TEST

/* pip's http/ has 23 to 26 bytes before the body and headers behind it. */
START_TEST(bytes_around_the_zip_leave_its_pieces_alone)
{
	static const size_t before[] = { 1, 23, 24, 26, 64 };
	static const size_t behind[] = { 1, 1500, 4096, 64 * KIB };

	for (size_t i = 0; i < ARRAY_SIZE(before) * ARRAY_SIZE(behind); i++) {
		size_t len;

		zip_prefix(&z, before[i / ARRAY_SIZE(behind)]);
		zip_small(&z, "a comment");
		len = z.len;
		zip_fill(&z, behind[i % ARRAY_SIZE(behind)], 9);
		EXPECT({ z.shift, PLAIN }, { HEAD("a.py") + 100, ZIP_STAMP },
		       { HEAD("b.py") + 5000, ZIP_STAMP + 1 },
		       { len - z.directory, PLAIN }, { z.len - len, PLAIN });
		zip_release(&z);
	}
}
END_TEST

START_TEST(a_comment_of_64_kib_before_64_kib_of_bytes_is_found)
{
	static char comment[UINT16_MAX + 1];
	size_t len;

	memset(comment, 'x', sizeof(comment) - 1);
	zip_small(&z, comment);
	len = z.len;
	zip_fill(&z, 64 * KIB, 9);
	EXPECT({ HEAD("a.py") + 100, ZIP_STAMP },
	       { HEAD("b.py") + 5000, ZIP_STAMP + 1 },
	       { len - z.directory, PLAIN }, { z.len - len, PLAIN });
	zip_fill(&z, 1, 9);
	expect_opaque();
}
END_TEST

START_TEST(offsets_that_count_the_prefix_are_fine)
{
	zip_fill(&z, 40, 1);
	zip_small(&z, "");
	EXPECT({ 40, PLAIN }, { HEAD("a.py") + 100, ZIP_STAMP },
	       { HEAD("b.py") + 5000, ZIP_STAMP + 1 },
	       { z.len - z.directory, PLAIN });
}
END_TEST

START_TEST(zip64_records_are_read)
{
	for (int i = 0; i < 2; i++) {
		zip_wide(&z, 26, i);
		EXPECT({ 26, PLAIN }, { HEAD("a.py") + 100, ZIP_STAMP },
		       { HEAD("b.py") + 5000, ZIP_STAMP + 1 },
		       { z.len - z.directory, PLAIN });
		zip_release(&z);
	}
}
END_TEST

START_TEST(a_zip64_extra_field_may_hold_the_disk)
{
	struct zip_member *m = z.members;

	zip_wide(&z, 0, true);
	zip_patch(&z, m->central + 34, 2, UINT16_MAX);
	expect_opaque(); /* it has no room for it */
	zip_patch(&z, m->central + 24, 4, m->stream);
	expect_opaque(); /* it says disk 1,000 or so */
	zip_patch(&z, m->central + 46 + 4 + 4 + 4 + 16, 4, 0);
	zip_patch(&z, m->central + 46 + 4 + 4 + 4 + 8, 8, 0);
	zip_patch(&z, m->central + 46 + 4 + 4 + 4, 8, m->stream);
	ck_assert_int_eq(cut(), 1);
}
END_TEST

START_TEST(a_data_descriptor_belongs_to_its_member)
{
	static const size_t forms[] = { 12, 16, 20, 24 };

	for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
		zip_member(&z, "a.py", 100, ZIP_STAMP);
		zip_descriptor(&z, forms[i]);
		zip_member(&z, "b.py", 7, ZIP_STAMP + 1);
		zip_descriptor(&z, forms[i]);
		zip_finish(&z, "");
		EXPECT({ HEAD("a.py") + 100 + forms[i], ZIP_STAMP },
		       { HEAD("b.py") + 7 + forms[i], ZIP_STAMP + 1 },
		       { z.len - z.directory, PLAIN });
		zip_release(&z);
	}
}
END_TEST

START_TEST(what_lies_between_members_is_plain)
{
	zip_member(&z, "a.py", 100, ZIP_STAMP);
	zip_fill(&z, 12, 4); /* no flag: not a descriptor */
	zip_member(&z, "b.py", 7, ZIP_STAMP + 1);
	zip_descriptor(&z, 13); /* none of the forms */
	zip_member(&z, "c.py", 8, ZIP_STAMP + 2);
	zip_fill(&z, 1, 4);
	zip_finish(&z, "");
	EXPECT({ HEAD("a.py") + 100, ZIP_STAMP }, { 12, PLAIN },
	       { HEAD("b.py") + 7, ZIP_STAMP + 1 }, { 13, PLAIN },
	       { HEAD("c.py") + 8, ZIP_STAMP + 2 }, { 1, PLAIN },
	       { z.len - z.directory, PLAIN });
}
END_TEST

START_TEST(the_directory_need_not_be_in_order)
{
	struct zip_member a;

	zip_member(&z, "a.py", 100, ZIP_STAMP);
	zip_member(&z, "b.py", 200, ZIP_STAMP + 1);
	zip_member(&z, "c.py", 300, ZIP_STAMP + 2);
	a = z.members[0];
	z.members[0] = z.members[2];
	z.members[2] = a;
	zip_finish(&z, "");
	EXPECT({ HEAD("a.py") + 100, ZIP_STAMP },
	       { HEAD("b.py") + 200, ZIP_STAMP + 1 },
	       { HEAD("c.py") + 300, ZIP_STAMP + 2 },
	       { z.len - z.directory, PLAIN });
}
END_TEST

START_TEST(a_large_stream_is_cut_from_its_header)
{
	zip_member(&z, "a.so", WHEEL_LARGE, ZIP_STAMP);
	zip_member(&z, "b.so", WHEEL_LARGE - 1, ZIP_STAMP + 1);
	zip_member(&z, "c.gz", WHEEL_LARGE, ZIP_STAMP + 2);
	zip_finish(&z, "");
	EXPECT({ HEAD("a.so"), ZIP_STAMP }, { WHEEL_LARGE, PLAIN },
	       { HEAD("b.so") + WHEEL_LARGE - 1, ZIP_STAMP + 1 },
	       { HEAD("c.gz") + WHEEL_HEAD, ZIP_STAMP + 2 },
	       { WHEEL_LARGE - WHEEL_HEAD, PLAIN },
	       { z.len - z.directory, PLAIN });
	zip_release(&z);
}
END_TEST

START_TEST(a_gz_is_cut_behind_its_head)
{
	const size_t limit = WHEEL_HEAD + WHEEL_HEAD_MIN;

	zip_member(&z, "a.json.gz", limit + 1, ZIP_STAMP);
	zip_descriptor(&z, 16);
	zip_member(&z, "B.TGZ", limit + 1, ZIP_STAMP + 1);
	zip_member(&z, "c.gz", limit, ZIP_STAMP + 2);
	zip_member(&z, "dgz", limit + 1, ZIP_STAMP + 3);
	zip_member(&z, ".gz", limit + 1, ZIP_STAMP + 4);
	zip_member(&z, "gz", limit + 1, ZIP_STAMP + 5);
	zip_finish(&z, "");
	EXPECT({ HEAD("a.json.gz") + WHEEL_HEAD, ZIP_STAMP },
	       { WHEEL_HEAD_MIN + 1 + 16, PLAIN },
	       { HEAD("B.TGZ") + WHEEL_HEAD, ZIP_STAMP + 1 },
	       { WHEEL_HEAD_MIN + 1, PLAIN },
	       { HEAD("c.gz") + limit, ZIP_STAMP + 2 },
	       { HEAD("dgz") + limit + 1, ZIP_STAMP + 3 },
	       { HEAD(".gz") + WHEEL_HEAD, ZIP_STAMP + 4 },
	       { WHEEL_HEAD_MIN + 1, PLAIN },
	       { HEAD("gz") + limit + 1, ZIP_STAMP + 5 },
	       { z.len - z.directory, PLAIN });
}
END_TEST

START_TEST(names_and_extra_fields_may_be_long)
{
	static char name[UINT16_MAX];

	/* One member, its name and its extra field grown to the limit. */
	memset(name, 'n', sizeof(name));
	zip_put(&z, 4, 0x04034b50);
	zip_put(&z, 6, 0);
	zip_put(&z, 16, ZIP_STAMP);
	zip_put(&z, 4, UINT32_MAX);
	zip_bytes(&z, name, sizeof(name));
	zip_fill(&z, UINT16_MAX, 5);
	z.directory = z.len;
	zip_put(&z, 4, 0x02014b50);
	zip_put(&z, 24, 0);
	zip_put(&z, 18, UINT16_MAX);
	zip_bytes(&z, name, sizeof(name));
	z.n = 1;
	zip_end(&z, false, "");
	EXPECT({ z.directory, ZIP_STAMP }, { z.len - z.directory, PLAIN });
}
END_TEST

/* ---- Reading -------------------------------------------------------------- */

START_TEST(a_source_that_fails_passes_its_error_on)
{
	struct wheelkit_file f;
	int r = -EIO;

	zip_wide(&z, 26, true);
	zip_fill(&z, 5000, 9); /* so that the end is searched twice */
	for (unsigned i = 1; r < 0; i++) {
		ck_assert_int_eq(r, -EIO);
		ck_assert_ptr_null(cuts);
		f = (struct wheelkit_file){ .buf = z.buf,
					    .len = z.len,
					    .fail_at = i };
		r = wheelkit_cut(&f, &cuts, &n);
	}
	ck_assert_int_eq(r, 1);
	ck_assert_uint_ge(f.reads, 5);
}
END_TEST

START_TEST(small_members_are_read_together_and_large_ones_skipped)
{
	struct wheelkit_file f;

	for (int i = 0; i < ZIP_MEMBERS_MAX; i++)
		zip_member(&z, "small", 4000, ZIP_STAMP);
	zip_finish(&z, "");
	f = (struct wheelkit_file){ .buf = z.buf, .len = z.len };
	ck_assert_int_eq(wheelkit_cut(&f, &cuts, &n), 1);
	ck_assert_uint_le(f.reads, 9);
	zip_release(&z);
	free(steal_ptr(cuts));

	for (int i = 0; i < ZIP_MEMBERS_MAX; i++)
		zip_member(&z, "large", 100000, ZIP_STAMP);
	zip_finish(&z, "");
	f = (struct wheelkit_file){ .buf = z.buf, .len = z.len };
	ck_assert_int_eq(wheelkit_cut(&f, &cuts, &n), 1);
	ck_assert_uint_le(f.reads, ZIP_MEMBERS_MAX + 4);
	ck_assert_uint_le(f.bytes, 20000);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("wheel");
	TCase *good = tcase_create("cut");
	TCase *reads = tcase_create("reads");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(good, setup, teardown);
	tcase_add_test(
		good,
		each_member_is_a_stamped_piece_and_the_directory_a_plain_one);
	tcase_add_test(good, zero_is_a_stamp_and_an_empty_member_is_a_piece);
	tcase_add_test(good, bytes_around_the_zip_leave_its_pieces_alone);
	tcase_add_test(good,
		       a_comment_of_64_kib_before_64_kib_of_bytes_is_found);
	tcase_add_test(good, offsets_that_count_the_prefix_are_fine);
	tcase_add_test(good, zip64_records_are_read);
	tcase_add_test(good, a_zip64_extra_field_may_hold_the_disk);
	tcase_add_test(good, a_data_descriptor_belongs_to_its_member);
	tcase_add_test(good, what_lies_between_members_is_plain);
	tcase_add_test(good, the_directory_need_not_be_in_order);
	tcase_add_test(good, a_gz_is_cut_behind_its_head);
	tcase_add_test(good, a_large_stream_is_cut_from_its_header);
	tcase_add_test(good, names_and_extra_fields_may_be_long);
	tcase_add_checked_fixture(reads, setup, teardown);
	tcase_add_test(reads, a_source_that_fails_passes_its_error_on);
	tcase_add_test(reads,
		       small_members_are_read_together_and_large_ones_skipped);
	suite_add_tcase(suite, good);
	suite_add_tcase(suite, reads);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
