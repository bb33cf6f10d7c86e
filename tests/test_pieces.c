/* SPDX-License-Identifier: MIT */
#include "store/pieces.h"

#include "store/digest.h"
#include "store/wheel.h"

#include "packfix.h"
#include "zipkit.h"

#define STAMP 0x5a215a21

static struct pack *file;
static unsigned asked;	 /* times that it was asked whether to go on */
static unsigned stop_at; /* the time that it says no; 0: never */

static void begin(void)
{
	setup();
	ck_assert_int_eq(pack_create(ps, 1, &file), 0);
	asked = stop_at = 0;
}

static void end(void)
{
	pack_put(file);
	pack_doom(ps, 1);
	teardown();
}

static bool go_on(void *arg)
{
	ck_assert_ptr_eq(arg, &asked);
	return ++asked != stop_at;
}

/* What is cut is what the pack holds from now on. */
static void hold(const uint8_t *buf, size_t len)
{
	ck_assert_int_eq(pack_truncate(file, 0), 0);
	ck_assert_int_eq(pack_write(file, buf, len, 0), 0);
}

static int read_pieces(uint64_t size, struct pieces *ret)
{
	return pieces_read(file, size, go_on, &asked, ret);
}

/* Both digests of one piece, in one go. */
static void check_digests(const struct piece *p, const uint8_t *buf)
{
	cleanup_digest_block struct digest_block *d = NULL;
	uint8_t sha256[DIGEST_SHA256_SIZE];
	uint64_t xxh3;

	ck_assert_int_eq(digest_block_new(&d), 0);
	digest_block_begin(d);
	digest_block_update(d, buf, p->len);
	ck_assert_int_eq(digest_block_end(d, sha256, &xxh3), 0);
	ck_assert_mem_eq(p->sha256, sha256, sizeof(sha256));
	ck_assert_uint_eq(p->xxh3, xxh3);
}

/* They cover @buf, are masked as they should be, and digested. */
static void check_pieces(const struct pieces *p, const uint8_t *buf, size_t len)
{
	cleanup_free uint8_t *copy = malloc(len);
	size_t at = 0;

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, buf, len);
	ck_assert_uint_eq(p->size, len);
	ck_assert_uint_eq(p->sum, digest_xxh3(buf, len));
	for (size_t i = 0; i < p->n; i++) {
		const struct piece *x = &p->v[i];

		ck_assert_uint_gt(x->len, 0);
		ck_assert_uint_le(x->len, len - at);
		ck_assert_uint_eq(x->known, 0);
		ck_assert(x->stamped == pieces_is_stamped(copy + at, x->len));
		if (x->stamped)
			ck_assert_mem_eq(&x->stamp, buf + at + WHEEL_STAMP_AT,
					 WHEEL_STAMP_LEN);
		else
			ck_assert_uint_eq(x->stamp, 0);
		pieces_mask(copy + at, x->len);
		check_digests(x, copy + at);
		at += x->len;
	}
	ck_assert_uint_eq(at, len);
}

static void check_buffer(const uint8_t *buf, size_t len, size_t pieces)
{
	cleanup_pieces struct pieces p = PIECES_INIT;

	hold(buf, len);
	ck_assert_int_eq(read_pieces(len, &p), 0);
	ck_assert_uint_eq(p.n, pieces);
	check_pieces(&p, buf, len);
}

static void check_zip(struct zip *z, size_t pieces)
{
	check_buffer(z->buf, z->len, pieces);
	zip_release(z);
}

START_TEST(only_what_begins_like_a_member_is_masked)
{
	uint8_t buf[WHEEL_HEADER_LEN + 1] = "PK\3\4............";
	uint8_t was[sizeof(buf)];

	memcpy(was, buf, sizeof(buf));
	ck_assert(!pieces_is_stamped(buf, WHEEL_HEADER_LEN));
	pieces_mask(buf, WHEEL_HEADER_LEN);
	ck_assert_mem_eq(buf, was, sizeof(buf));
	ck_assert(pieces_is_stamped(buf, sizeof(buf)));
	pieces_mask(buf, sizeof(buf));
	memset(was + WHEEL_STAMP_AT, 0, WHEEL_STAMP_LEN);
	ck_assert_mem_eq(buf, was, sizeof(buf));
	buf[3] = 5;
	ck_assert(!pieces_is_stamped(buf, sizeof(buf)));
}
END_TEST

START_TEST(a_wheel_is_its_members_and_its_directory)
{
	struct zip z = { 0 };

	zip_small(&z, "comment");
	check_zip(&z, 3);
}
END_TEST

START_TEST(other_stamps_are_the_same_pieces)
{
	cleanup_pieces struct pieces a = PIECES_INIT, b = PIECES_INIT;
	struct zip z = { 0 };

	zip_small(&z, "");
	hold(z.buf, z.len);
	ck_assert_int_eq(read_pieces(z.len, &a), 0);
	zip_patch(&z, z.members[0].local + WHEEL_STAMP_AT, 4, 0);
	zip_patch(&z, z.members[1].local + WHEEL_STAMP_AT, 4, UINT32_MAX);
	hold(z.buf, z.len);
	ck_assert_int_eq(read_pieces(z.len, &b), 0);
	check_pieces(&b, z.buf, z.len);
	ck_assert_uint_eq(a.n, b.n);
	for (size_t i = 0; i < a.n; i++)
		ck_assert_mem_eq(a.v[i].sha256, b.v[i].sha256,
				 RECORD_SHA256_SIZE);
	ck_assert_uint_ne(a.sum, b.sum);
	ck_assert_uint_eq(b.v[0].stamp, 0);
	ck_assert(b.v[0].stamped);
	ck_assert_uint_eq(b.v[1].stamp, UINT32_MAX);
	zip_release(&z);
}
END_TEST

/* A raw file that begins so, whole or masked: its stamp is apart as well. */
START_TEST(a_file_that_is_no_zip_is_one_piece)
{
	uint8_t buf[5000];

	memset(buf, 'x', sizeof(buf));
	check_buffer(buf, sizeof(buf), 1);
	check_buffer(buf, 1, 1);
	memcpy(buf, "PK\3\4", 5);
	check_buffer(buf, sizeof(buf), 1);
	memset(buf + WHEEL_STAMP_AT, 0, WHEEL_STAMP_LEN);
	check_buffer(buf, sizeof(buf), 1);
	check_buffer(buf, WHEEL_HEADER_LEN, 1);
	check_buffer(buf, WHEEL_HEADER_LEN + 1, 1);
}
END_TEST

/* Headers that lie across the window's end, at each distance from it. */
START_TEST(no_header_is_torn_by_the_window)
{
	for (size_t d = 0; d < 40; d++) {
		struct zip z = { 0 };

		zip_member(&z, "first", MIB - 35 - d, STAMP);
		zip_member(&z, "second", 3000, STAMP + 1);
		zip_member(&z, "third", 2 * MIB, STAMP + 2);
		zip_member(&z, "last", 600, STAMP + 3);
		zip_finish(&z, "");
		/* Large ones are cut behind their headers. */
		check_zip(&z, 7);
	}
}
END_TEST

START_TEST(too_many_small_pieces_are_one)
{
	struct zip z = { 0 };
	char name[16];

	for (unsigned i = 0; i < 60; i++) {
		(void)snprintf(name, sizeof(name), "m%u", i);
		zip_member(&z, name, 300, STAMP);
	}
	zip_finish(&z, "");
	ck_assert_uint_lt(z.len / 61, PIECES_AVERAGE_MIN);
	check_zip(&z, 1);
}
END_TEST

START_TEST(it_stops_when_told_to)
{
	cleanup_pieces struct pieces p = PIECES_INIT;
	struct zip z = { 0 };

	zip_member(&z, "m", 3 * MIB, STAMP);
	zip_finish(&z, "");
	hold(z.buf, z.len);
	for (stop_at = 1; stop_at < 4; stop_at++) {
		asked = 0;
		ck_assert_int_eq(read_pieces(z.len, &p), -ECANCELED);
		ck_assert_uint_eq(asked, stop_at);
		ck_assert_ptr_null(p.v);
	}
	zip_release(&z);
}
END_TEST

START_TEST(a_pack_that_ends_early_is_refused)
{
	cleanup_pieces struct pieces p = PIECES_INIT;
	struct zip z = { 0 };

	zip_small(&z, "");
	hold(z.buf, z.len);
	ck_assert_int_eq(read_pieces(z.len + 1, &p), -EBADMSG);
	ck_assert_int_eq(read_pieces(10 * MIB, &p), -EBADMSG);
	ck_assert_ptr_null(p.v);
	zip_release(&z);
}
END_TEST

/* At whichever read, it is passed on, and nothing leaks. */
START_TEST(a_disk_that_does_not_read_is_reported)
{
	struct zip z = { 0 };
	unsigned n = 1;

	zip_small(&z, "");
	hold(z.buf, z.len);
	for (;; n++) {
		cleanup_pieces struct pieces p = PIECES_INIT;
		int r;

		fail_next(PREAD, n, EIO);
		r = read_pieces(z.len, &p);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EIO);
		ck_assert_ptr_null(p.v);
	}
	fault.nth = 0;
	ck_assert_uint_gt(n, 3);
	zip_release(&z);
}
END_TEST

/* -- What to share ------------------------------------------------------- */

/* Pieces of these lengths, negative ones known; ends with 0. */
static struct pieces pieces_of(const int *lens)
{
	struct pieces p = PIECES_INIT;

	for (; lens[p.n]; p.n++)
		;
	p.v = calloc(p.n, sizeof(*p.v));
	ck_assert_ptr_nonnull(p.v);
	for (size_t i = 0; i < p.n; i++) {
		p.v[i].len = (uint64_t)abs(lens[i]);
		p.v[i].known = lens[i] < 0 ? 100 + i : 0;
		p.size += p.v[i].len;
	}
	return p;
}

#define K 1024
static const struct {
	int lens[6];
	bool whole;
	int new_bytes;
	unsigned known; /* how many still are */
} decisions[] = {
	/* nothing is known: a small file is not worth a pack of its own */
	{ { 10 * K }, false, 10 * K, 0 },
	{ { 64 * K - 1 }, false, 64 * K - 1, 0 },
	{ { 64 * K }, true, 64 * K, 0 },
	/* all is known, however short */
	{ { -100 }, false, 0, 1 },
	{ { -100, -30, -1 }, false, 0, 3 },
	{ { -900 * K }, false, 0, 1 },
	/* short runs are stored again, neighbours count together */
	{ { 10 * K, -4095, 10 * K }, false, 20 * K + 4095, 0 },
	{ { 10 * K, -4096, 10 * K }, false, 20 * K, 1 },
	{ { 10 * K, -2000, -2096, 10 * K }, false, 20 * K, 2 },
	{ { -4000, 10 * K, -5000, 3, -4000 }, false, 8003 + 10 * K, 1 },
	/* one part in 16 is what makes it worth the while */
	{ { 150 * K, -10 * K }, false, 150 * K, 1 },
	{ { 150 * K + 16, -10 * K }, true, 160 * K + 16, 0 },
	{ { 60 * K, -2 * K, 2 * K - 1 }, false, 64 * K - 1, 0 },
	/* a run that is forgotten does not count for that */
	{ { 60 * K, -4000, 10, -4000 }, true, 60 * K + 8010, 0 },
};

START_TEST(what_is_shared)
{
	cleanup_pieces struct pieces p = pieces_of(decisions[_i].lens);
	struct pieces_plan plan;
	unsigned known = 0;

	pieces_decide(&p, &plan);
	for (size_t i = 0; i < p.n; i++)
		known += p.v[i].known != 0;
	ck_assert(plan.whole == decisions[_i].whole);
	ck_assert_uint_eq(plan.new_bytes, (uint64_t)decisions[_i].new_bytes);
	ck_assert_uint_eq(known, decisions[_i].known);
}
END_TEST

START_TEST(released_twice_is_fine)
{
	struct pieces p = PIECES_INIT;

	pieces_release(&p);
	p = pieces_of((const int[]){ 1, 2, 0 });
	pieces_release(&p);
	pieces_release(&p);
	ck_assert_ptr_null(p.v);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pieces");
	TCase *tc = tcase_create("read");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, begin, end);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, only_what_begins_like_a_member_is_masked);
	tcase_add_test(tc, a_wheel_is_its_members_and_its_directory);
	tcase_add_test(tc, other_stamps_are_the_same_pieces);
	tcase_add_test(tc, a_file_that_is_no_zip_is_one_piece);
	tcase_add_test(tc, no_header_is_torn_by_the_window);
	tcase_add_test(tc, too_many_small_pieces_are_one);
	tcase_add_test(tc, it_stops_when_told_to);
	tcase_add_test(tc, a_pack_that_ends_early_is_refused);
	tcase_add_test(tc, a_disk_that_does_not_read_is_reported);
	suite_add_tcase(suite, tc);
	tc = tcase_create("decide");
	tcase_add_loop_test(tc, what_is_shared, 0, ARRAY_SIZE(decisions));
	tcase_add_test(tc, released_twice_is_fine);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
