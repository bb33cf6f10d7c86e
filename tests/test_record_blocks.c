/* SPDX-License-Identifier: MIT */
#include "store/record.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Blocks and runs: the records of which there are most. */

static const struct block_rec block_sample = {
	.pack = 0x81,
	.offset = UINT64_C(1) << 40,
	.length = 0x3fff,
	.xxh3 = 0xfedcba9876543210,
	.refs = UINT32_MAX,
	.sha256 = { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x55 },
};

static const struct run run_samples[] = {
	{ .first = 1, .count = 1 },
	{ .first = UINT64_MAX - UINT32_MAX, .count = UINT32_MAX },
	{ .first = 7, .count = 2, .stamped = true },
	{ .first = 9, .count = 3, .stamped = true, .stamp = UINT32_MAX },
};
#define RUN_SAMPLES (sizeof(run_samples) / sizeof(run_samples[0]))

#define UNTOUCHED 0xa5

static void assert_untouched(const void *p, size_t len)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < len; i++)
		ck_assert_uint_eq(bytes[i], UNTOUCHED);
}

static int decode_block(const uint8_t *buf, size_t len)
{
	struct block_rec bl;
	int r;

	memset(&bl, UNTOUCHED, sizeof(bl));
	r = record_block_decode(buf, len, &bl);
	if (r < 0)
		assert_untouched(&bl, sizeof(bl));
	return r;
}

static int decode_runs(const uint8_t *buf, size_t len)
{
	struct run runs[RECORD_RUNS_MAX];
	size_t n = 12345;
	int r = record_runs_decode(buf, len, runs, &n);

	ck_assert(r < 0 ? n == 12345 : n == len / RECORD_RUN_SIZE);
	return r;
}

/* --- Values ------------------------------------------------------------- */

START_TEST(blocks_come_back_as_they_were)
{
	struct block_rec bl = block_sample, back;
	uint8_t buf[RECORD_BLOCK_MAX];
	size_t len;

	ck_assert_uint_eq(record_block_encode(&bl, buf),
			  RECORD_BLOCK_HEAD + 2 + 6 + 2 + 5);
	ck_assert_uint_eq(record_sha256_head(bl.sha256), 0x0123456789abcdef);
	/* Numbers of all lengths, and the bytes next to where one more is. */
	for (unsigned bit = 0; bit < 63; bit++) {
		uint64_t v = UINT64_C(1) << bit;

		bl.pack = v;
		bl.offset = v - 1;
		bl.length = bit < 62 ? v : 1;
		bl.refs = bit < 32 ? (uint32_t)v : 1;
		len = record_block_encode(&bl, buf);
		ck_assert_uint_le(len, RECORD_BLOCK_MAX);
		ck_assert_int_eq(record_block_decode(buf, len, &back), 0);
		ck_assert_uint_eq(back.pack, bl.pack);
		ck_assert_uint_eq(back.offset, bl.offset);
		ck_assert_uint_eq(back.length, bl.length);
		ck_assert_uint_eq(back.refs, bl.refs);
		ck_assert_uint_eq(back.xxh3, bl.xxh3);
		ck_assert_mem_eq(back.sha256, bl.sha256, RECORD_SHA256_SIZE);
	}
	/* The largest of all fits. */
	bl.pack = UINT64_MAX;
	bl.offset = INT64_MAX - 1;
	bl.length = 1;
	bl.refs = UINT32_MAX;
	len = record_block_encode(&bl, buf);
	ck_assert_uint_le(len, RECORD_BLOCK_MAX);
	ck_assert_int_eq(decode_block(buf, len), 0);
}
END_TEST

START_TEST(runs_come_back_as_they_were)
{
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
	struct run runs[RECORD_RUNS_MAX], back[RECORD_RUNS_MAX];
	size_t n;

	for (size_t count = 1; count <= RECORD_RUNS_MAX; count++) {
		runs[count - 1] = run_samples[count % RUN_SAMPLES];
		ck_assert_uint_eq(record_runs_encode(runs, count, buf),
				  count * RECORD_RUN_SIZE);
		ck_assert_int_eq(record_runs_decode(buf,
						    count * RECORD_RUN_SIZE,
						    back, &n),
				 0);
		ck_assert_uint_eq(n, count);
		for (size_t i = 0; i < n; i++) {
			ck_assert_uint_eq(back[i].first, runs[i].first);
			ck_assert_uint_eq(back[i].count, runs[i].count);
			ck_assert(back[i].stamped == runs[i].stamped);
			ck_assert_uint_eq(back[i].stamp, runs[i].stamp);
		}
	}
}
END_TEST

/* The stamp is bytes of a file: as they stand there, on any machine. */
START_TEST(a_stamp_is_bytes_and_not_a_number)
{
	static const uint8_t bytes[] = { 1, 2, 3, 4 };
	struct run run = { .first = 0x0807060504030201,
			   .count = 0x0c0b0a09,
			   .stamped = true };
	uint8_t buf[RECORD_RUN_SIZE];

	memcpy(&run.stamp, bytes, sizeof(bytes));
	record_runs_encode(&run, 1, buf);
	for (uint8_t i = 0; i < 12; i++)
		ck_assert_uint_eq(buf[i], i + 1);
	ck_assert_uint_eq(buf[12], 1);
	ck_assert_mem_eq(buf + 13, bytes, sizeof(bytes));
}
END_TEST

/* --- Hostile bytes ------------------------------------------------------ */

/* A block with its numbers as given: hex bytes, a space before each. */
static int decode_numbers(const char *hex)
{
	uint8_t buf[RECORD_BLOCK_MAX + 16];
	size_t len = RECORD_BLOCK_HEAD;
	char *end;

	memset(buf, 0x11, sizeof(buf));
	for (; *hex && len < sizeof(buf); hex = end)
		buf[len++] = (uint8_t)strtoul(hex, &end, 16);
	return decode_block(buf, len);
}

START_TEST(impossible_blocks_are_refused)
{
	static const char *const bad[] = {
		"",
		"01",
		"01 00 01",		   /* too short */
		"01 00 01 01 00",	   /* too long */
		"00 01 01 01",		   /* a place, but no pack */
		"01 00 00 01",		   /* no bytes */
		"01 00 01 00",		   /* no references */
		"01 00 01 81",		   /* does not end */
		"01 00 01 ff ff ff ff 1f", /* references beyond 32 bits */
		"01 80 80 80 80 80 80 80 80 80 01 01 01", /* offset: bit 63 */
		"01 ff ff ff ff ff ff ff ff 7f 01 01",	  /* ends at 2^63 */
		"ff ff ff ff ff ff ff ff ff 02 00 01 01", /* bit 64 */
		"80 80 80 80 80 80 80 80 80 80 01 00 01 01", /* 11 bytes */
		"81 00 00 01 01",
		"01 80 00 01 01", /* not the shortest */
		"01 00 81 80 00 01",
		"01 00 01 81 80 80 00",
	};

	ck_assert_int_eq(decode_numbers("01 00 01 01"), 0);
	ck_assert_int_eq(decode_numbers("01 00 01 ff ff ff ff 0f"), 0);
	ck_assert_int_eq(decode_numbers("ff ff ff ff ff ff ff ff ff 01 "
					"00 01 01"),
			 0);
	ck_assert_int_eq(decode_numbers("01 fe ff ff ff ff ff ff ff 7f 01 01"),
			 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(decode_numbers(bad[i]) == -EBADMSG, "%s", bad[i]);
}
END_TEST

START_TEST(blocks_of_another_length_are_refused)
{
	uint8_t buf[RECORD_BLOCK_MAX + 1] = { 0 };
	size_t len = record_block_encode(&block_sample, buf);

	for (size_t n = 0; n <= sizeof(buf); n++)
		ck_assert_int_eq(decode_block(buf, n), n == len ? 0 : -EBADMSG);
}
END_TEST

START_TEST(impossible_runs_are_refused)
{
	static const struct run good = { .first = UINT64_MAX - 5, .count = 5 };
	uint8_t buf[(RECORD_RUNS_MAX + 1) * RECORD_RUN_SIZE];
	struct run runs[2] = { good, good };

	memset(buf, 1, sizeof(buf));
	for (size_t len = 0; len <= sizeof(buf); len++)
		ck_assert_int_eq(decode_runs(buf, len),
				 len && len < sizeof(buf) &&
						 len % RECORD_RUN_SIZE == 0
					 ? 0
					 : -EBADMSG);
	for (unsigned i = 0; i < 5; i++) {
		runs[1] = good;
		ck_assert_uint_eq(record_runs_encode(runs, 2, buf),
				  2 * RECORD_RUN_SIZE);
		ck_assert_int_eq(decode_runs(buf, 2 * RECORD_RUN_SIZE), 0);
		if (i == 0)
			runs[1].first = 0;
		else if (i == 1)
			runs[1].count = 0;
		else if (i == 2)
			runs[1].count = 6; /* past the last id */
		else if (i == 3)
			runs[1].stamp = 1; /* though it is plain */
		record_runs_encode(runs, 2, buf);
		if (i == 4)
			buf[RECORD_RUN_SIZE + 12] = 2;
		ck_assert_int_eq(decode_runs(buf, 2 * RECORD_RUN_SIZE),
				 -EBADMSG);
	}
}
END_TEST

START_TEST(an_inode_in_blocks_names_its_recipe)
{
	struct inode in = { .ino = 2,
			    .data = INODE_DATA_RECIPE,
			    .mode = S_IFREG | 0644,
			    .nlink = 1,
			    .recipe = 1 };
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode back;

	record_inode_encode(&in, buf);
	ck_assert_int_eq(record_inode_decode(2, buf, sizeof(buf), &back), 0);
	ck_assert_uint_eq(back.recipe, 1);
	in.recipe = 0;
	record_inode_encode(&in, buf);
	ck_assert_int_eq(record_inode_decode(2, buf, sizeof(buf), &back),
			 -EBADMSG);
	in.recipe = 1;
	in.mode = S_IFLNK | 0777;
	record_inode_encode(&in, buf);
	ck_assert_int_eq(record_inode_decode(2, buf, sizeof(buf), &back),
			 -EBADMSG);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("record_blocks");
	TCase *values = tcase_create("values");
	TCase *hostile = tcase_create("hostile");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(values, blocks_come_back_as_they_were);
	tcase_add_test(values, runs_come_back_as_they_were);
	tcase_add_test(values, a_stamp_is_bytes_and_not_a_number);
	suite_add_tcase(suite, values);
	tcase_add_test(hostile, impossible_blocks_are_refused);
	tcase_add_test(hostile, blocks_of_another_length_are_refused);
	tcase_add_test(hostile, impossible_runs_are_refused);
	tcase_add_test(hostile, an_inode_in_blocks_names_its_recipe);
	suite_add_tcase(suite, hostile);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
