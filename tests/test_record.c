/* SPDX-License-Identifier: MIT */
#include "store/record.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"

_Static_assert((int)LAYOUT_KINDS == RECORD_KINDS, "record.h must follow");

/* A value of every table that decodes, and what its decoder says of it. */

static const struct inode inode_sample = {
	.ino = 0x1122334455667788,
	.data = INODE_DATA_PACK,
	.kind = LAYOUT_HTTP,
	.flags = INODE_SUMMED,
	.view = 0x01020304,
	.mode = S_IFREG | 0640,
	.uid = 1000,
	.gid = 1001,
	.nlink = 2,
	.size = UINT64_C(5) << 32,
	.atime_ns = -1,
	.mtime_ns = INT64_C(1700000000123456789),
	.ctime_ns = INT64_MIN,
	.rdev = 0xa1,
	.parent = 0xa2,
	.cookie = 0xa3,
	.next_cookie = 0xa4,
	.entry = 0xa5,
	.pack = 0xa6,
	.xxh3 = 0xfedcba9876543210,
	.alloc = 0xa7,
	.recipe = 0xa8,
};

static const struct dirent_rec dirent_sample = { .ino = 7,
						 .cookie = 3,
						 .type = DT_REG };

static const struct pack_rec pack_sample = {
	.state = PACK_CUT, .owner = 10, .bytes = INT64_MAX, .live = 11
};

static const struct entry_rec entry_sample = { .kind = LAYOUT_WHEEL,
					       .members = 2,
					       .dir = 12,
					       .last_use_ns = -5,
					       .hits = 13,
					       .name = "some name" };

#define UNTOUCHED 0xa5

static void assert_untouched(const void *p, size_t len)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < len; i++)
		ck_assert_uint_eq(bytes[i], UNTOUCHED);
}

static int decode_inode(const uint8_t *buf, size_t len)
{
	struct inode in;
	int r;

	memset(&in, UNTOUCHED, sizeof(in));
	r = record_inode_decode(1, buf, len, &in);
	if (r < 0)
		assert_untouched(&in, sizeof(in));
	return r;
}

static int decode_dirent(const uint8_t *buf, size_t len)
{
	struct dirent_rec de;
	int r;

	memset(&de, UNTOUCHED, sizeof(de));
	r = record_dirent_decode(buf, len, &de);
	if (r < 0)
		assert_untouched(&de, sizeof(de));
	return r;
}

static int decode_pack(const uint8_t *buf, size_t len)
{
	struct pack_rec pk;
	int r;

	memset(&pk, UNTOUCHED, sizeof(pk));
	r = record_pack_decode(buf, len, &pk);
	if (r < 0)
		assert_untouched(&pk, sizeof(pk));
	return r;
}

static int decode_entry(const uint8_t *buf, size_t len)
{
	struct entry_rec en;
	int r;

	memset(&en, UNTOUCHED, sizeof(en));
	r = record_entry_decode(buf, len, &en);
	if (r < 0)
		assert_untouched(&en, sizeof(en));
	return r;
}

/* --- Keys --------------------------------------------------------------- */

static int key_order(const struct record_key *a, const struct record_key *b)
{
	size_t len = a->len < b->len ? a->len : b->len;
	int r = memcmp(a->bytes, b->bytes, len);

	return r ? r : (a->len > b->len) - (a->len < b->len);
}

START_TEST(keys_sort_as_their_numbers_do)
{
	static const uint64_t ids[] = { 0, 1, 255, 256, 1 << 20, UINT64_MAX };
	struct record_key a, b;

	for (size_t i = 1; i < sizeof(ids) / sizeof(ids[0]); i++) {
		a = record_key_id(ids[i - 1]);
		b = record_key_id(ids[i]);
		ck_assert_int_lt(key_order(&a, &b), 0);
		a = record_key_pair(5, ids[i - 1]);
		b = record_key_pair(5, ids[i]);
		ck_assert_int_lt(key_order(&a, &b), 0);
	}
	a = record_key_name(5, "");
	b = record_key_name(5, "a");
	ck_assert_int_lt(key_order(&a, &b), 0);
}
END_TEST

START_TEST(lru_keys_sort_by_queue_then_age)
{
	struct record_key old = record_key_lru(1, 1000, 9);
	struct record_key young = record_key_lru(1, 2000, 8);
	struct record_key other = record_key_lru(2, 0, 0);
	struct record_key ancient = record_key_lru(1, -5, 7);
	uint64_t v;

	ck_assert_int_lt(key_order(&old, &young), 0);
	ck_assert_int_lt(key_order(&young, &other), 0);
	ck_assert_int_lt(key_order(&ancient, &old), 0);
	ck_assert_int_eq(record_key_get(&young, 1, &v), 0);
	ck_assert_uint_eq(v, 2000);
	ck_assert_int_eq(record_key_get(&young, 9, &v), 0);
	ck_assert_uint_eq(v, 8);
}
END_TEST

START_TEST(key_ids_are_read_only_where_they_fit)
{
	struct record_key key = record_key_pair(3, 4);
	uint64_t v = 77;

	ck_assert_int_eq(record_key_get(&key, 8, &v), 0);
	ck_assert_uint_eq(v, 4);
	v = 77;
	ck_assert_int_eq(record_key_get(&key, 9, &v), -EBADMSG);
	ck_assert_int_eq(record_key_get(&key, SIZE_MAX, &v), -EBADMSG);
	key.len = RECORD_KEY_MAX + 1;
	ck_assert_int_eq(record_key_get(&key, 0, &v), -EBADMSG);
	ck_assert_uint_eq(v, 77);
}
END_TEST

START_TEST(names_and_texts_are_the_tail_of_their_keys)
{
	char longest[RECORD_NAME_MAX + 1];
	struct record_key key;

	memset(longest, 'n', RECORD_NAME_MAX);
	longest[RECORD_NAME_MAX] = '\0';
	key = record_key_name(1, longest);
	ck_assert_uint_eq(key.len, 8 + RECORD_NAME_MAX);
	ck_assert_mem_eq(key.bytes + 8, longest, RECORD_NAME_MAX);
	key = record_key_text("format");
	ck_assert_uint_eq(key.len, 6);
	ck_assert_mem_eq(key.bytes, "format", 6);
}
END_TEST

/* --- Values ------------------------------------------------------------- */

START_TEST(values_come_back_as_they_were)
{
	uint8_t buf[RECORD_ENTRY_MAX];
	uint8_t again[RECORD_ENTRY_MAX];
	struct inode in;
	struct dirent_rec de;
	struct pack_rec pk;
	struct entry_rec en;
	uint64_t v;
	size_t len;

	record_inode_encode(&inode_sample, buf);
	ck_assert_int_eq(record_inode_decode(inode_sample.ino, buf,
					     RECORD_INODE_SIZE, &in),
			 0);
	ck_assert_uint_eq(in.ino, inode_sample.ino);
	record_inode_encode(&in, again);
	ck_assert_mem_eq(again, buf, RECORD_INODE_SIZE);

	record_dirent_encode(&dirent_sample, buf);
	ck_assert_int_eq(record_dirent_decode(buf, RECORD_DIRENT_SIZE, &de), 0);
	ck_assert_uint_eq(de.ino, dirent_sample.ino);
	ck_assert_uint_eq(de.cookie, dirent_sample.cookie);
	ck_assert_uint_eq(de.type, dirent_sample.type);

	record_pack_encode(&pack_sample, buf);
	ck_assert_int_eq(record_pack_decode(buf, RECORD_PACK_SIZE, &pk), 0);
	record_pack_encode(&pk, again);
	ck_assert_mem_eq(again, buf, RECORD_PACK_SIZE);

	len = record_entry_encode(&entry_sample, buf);
	ck_assert_uint_eq(len, RECORD_ENTRY_HEAD + strlen("some name"));
	ck_assert_int_eq(record_entry_decode(buf, len, &en), 0);
	ck_assert_uint_eq(record_entry_encode(&en, again), len);
	ck_assert_mem_eq(again, buf, len);
	ck_assert_str_eq(en.name, entry_sample.name);

	record_u64_encode(0x0123456789abcdef, buf);
	ck_assert_int_eq(record_u64_decode(buf, 8, &v), 0);
	ck_assert_uint_eq(v, 0x0123456789abcdef);
}
END_TEST

START_TEST(bytes_stand_where_the_tables_say)
{
	static const uint8_t head[] = { 1, 2, 1, 0, 2, 0, 0, 0, 4, 3, 2, 1 };
	uint8_t buf[RECORD_INODE_SIZE];

	record_inode_encode(&inode_sample, buf);
	ck_assert_mem_eq(buf, head, sizeof(head));
	ck_assert_uint_eq(buf[36], 5); /* size: 5 << 32, little-endian */
	for (size_t i = 0; i < 6; i++) /* rdev ... pack */
		ck_assert_uint_eq(buf[64 + 8 * i], 0xa1 + i);
	ck_assert_uint_eq(buf[112], 0x10);
	ck_assert_uint_eq(buf[120], 0xa7);

	record_dirent_encode(&dirent_sample, buf);
	ck_assert_uint_eq(buf[0], 7);
	ck_assert_uint_eq(buf[8], 3);
	ck_assert_uint_eq(buf[16], DT_REG);
}
END_TEST

START_TEST(values_of_another_length_are_refused)
{
	uint8_t buf[2 * RECORD_ENTRY_MAX] = { 0 };
	uint64_t v;

	record_inode_encode(&inode_sample, buf);
	for (size_t len = 0; len < sizeof(buf); len++)
		if (len != RECORD_INODE_SIZE)
			ck_assert_int_eq(decode_inode(buf, len), -EBADMSG);
	record_dirent_encode(&dirent_sample, buf);
	for (size_t len = 0; len < sizeof(buf); len++)
		if (len != RECORD_DIRENT_SIZE)
			ck_assert_int_eq(decode_dirent(buf, len), -EBADMSG);
	record_pack_encode(&pack_sample, buf);
	for (size_t len = 0; len < sizeof(buf); len++)
		if (len != RECORD_PACK_SIZE)
			ck_assert_int_eq(decode_pack(buf, len), -EBADMSG);
	memset(buf, 'n', sizeof(buf));
	record_entry_encode(&entry_sample, buf);
	for (size_t len = 0; len < sizeof(buf); len++)
		ck_assert_int_eq(decode_entry(buf, len),
				 len < RECORD_ENTRY_HEAD ||
						 len > RECORD_ENTRY_MAX
					 ? -EBADMSG
					 : 0);
	ck_assert_int_eq(record_u64_decode(buf, 7, &v), -EBADMSG);
	ck_assert_int_eq(record_u64_decode(buf, 9, &v), -EBADMSG);
}
END_TEST

/* One byte of a good value, and what makes it an impossible one. */
struct spoil {
	size_t at;
	uint8_t byte;
};

START_TEST(impossible_inodes_are_refused)
{
	static const struct spoil spoils[] = {
		{ 0, 0 },     { 0, 2 },			   /* version */
		{ 1, 4 },				   /* data */
		{ 2, 5 },     { 3, 1 },			   /* kind, pad */
		{ 4, 16 },    { 7, 1 },			   /* flags */
		{ 13, 0 },    { 13, 0xf0 },  { 14, 1 },	   /* type, mode */
		{ 13, 0x40 }, { 13, 0xa0 },  { 13, 0x20 }, /* has no pack */
		{ 31, 1 },				   /* pad */
		{ 39, 0x80 }, { 127, 0x80 },		   /* size, alloc */
	};
	uint8_t buf[RECORD_INODE_SIZE];

	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		record_inode_encode(&inode_sample, buf);
		ck_assert_int_eq(decode_inode(buf, sizeof(buf)), 0);
		buf[spoils[i].at] = spoils[i].byte;
		ck_assert_msg(decode_inode(buf, sizeof(buf)) == -EBADMSG,
			      "byte %zu = %u", spoils[i].at, spoils[i].byte);
	}
}
END_TEST

START_TEST(only_links_and_files_have_inline_bytes)
{
	static const struct {
		uint32_t mode;
		int expect;
	} cases[] = {
		{ S_IFREG, 0 },	       { S_IFLNK, 0 },
		{ S_IFDIR, -EBADMSG }, { S_IFIFO, -EBADMSG },
		{ S_IFCHR, -EBADMSG }, { S_IFSOCK, -EBADMSG },
	};
	struct inode in = inode_sample;
	uint8_t buf[RECORD_INODE_SIZE];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		in.mode = cases[i].mode;
		in.data = INODE_DATA_INLINE;
		record_inode_encode(&in, buf);
		ck_assert_int_eq(decode_inode(buf, sizeof(buf)),
				 cases[i].expect);
		in.data = INODE_DATA_NONE;
		record_inode_encode(&in, buf);
		ck_assert_int_eq(decode_inode(buf, sizeof(buf)), 0);
	}
}
END_TEST

START_TEST(impossible_dirents_are_refused)
{
	static const struct spoil spoils[] = { { 0, 0 },     { 8, 2 },
					       { 15, 0x80 }, { 16, 0 },
					       { 16, 3 },    { 16, 14 } };
	uint8_t buf[RECORD_DIRENT_SIZE];

	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		record_dirent_encode(&dirent_sample, buf);
		buf[spoils[i].at] = spoils[i].byte;
		ck_assert_int_eq(decode_dirent(buf, sizeof(buf)), -EBADMSG);
	}
}
END_TEST

START_TEST(impossible_packs_are_refused)
{
	static const struct spoil spoils[] = { { 0, 2 },    { 1, 0 },
					       { 1, 4 },    { 2, 1 },
					       { 3, 1 },    { 23, 0x80 },
					       { 31, 0x80 } };
	uint8_t buf[RECORD_PACK_SIZE];

	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		record_pack_encode(&pack_sample, buf);
		buf[spoils[i].at] = spoils[i].byte;
		ck_assert_int_eq(decode_pack(buf, sizeof(buf)), -EBADMSG);
	}
}
END_TEST

START_TEST(impossible_entries_are_refused)
{
	static const struct spoil spoils[] = {
		{ 0, 2 },  { 1, 5 },	{ 2, 1 },     { 3, 1 },
		{ 32, 1 }, { 36, '/' }, { 38, '\0' },
	};
	uint8_t buf[RECORD_ENTRY_MAX];
	size_t len;

	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		len = record_entry_encode(&entry_sample, buf);
		buf[spoils[i].at] = spoils[i].byte;
		ck_assert_int_eq(decode_entry(buf, len), -EBADMSG);
	}
}
END_TEST

START_TEST(entry_names_may_be_empty_or_of_any_length)
{
	struct entry_rec en = entry_sample;
	struct entry_rec back;
	uint8_t buf[RECORD_ENTRY_MAX];
	size_t len;

	memset(en.name, 'x', RECORD_NAME_MAX);
	len = record_entry_encode(&en, buf);
	ck_assert_uint_eq(len, RECORD_ENTRY_MAX);
	ck_assert_int_eq(record_entry_decode(buf, len, &back), 0);
	ck_assert_str_eq(back.name, en.name);
	en.name[0] = '\0';
	len = record_entry_encode(&en, buf);
	ck_assert_uint_eq(len, RECORD_ENTRY_HEAD);
	ck_assert_int_eq(record_entry_decode(buf, len, &back), 0);
	ck_assert_str_eq(back.name, "");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("record");
	TCase *keys = tcase_create("keys");
	TCase *values = tcase_create("values");
	TCase *hostile = tcase_create("hostile");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(keys, keys_sort_as_their_numbers_do);
	tcase_add_test(keys, lru_keys_sort_by_queue_then_age);
	tcase_add_test(keys, key_ids_are_read_only_where_they_fit);
	tcase_add_test(keys, names_and_texts_are_the_tail_of_their_keys);
	suite_add_tcase(suite, keys);
	tcase_add_test(values, values_come_back_as_they_were);
	tcase_add_test(values, bytes_stand_where_the_tables_say);
	tcase_add_test(values, entry_names_may_be_empty_or_of_any_length);
	suite_add_tcase(suite, values);
	tcase_add_test(hostile, values_of_another_length_are_refused);
	tcase_add_test(hostile, impossible_inodes_are_refused);
	tcase_add_test(hostile, only_links_and_files_have_inline_bytes);
	tcase_add_test(hostile, impossible_dirents_are_refused);
	tcase_add_test(hostile, impossible_packs_are_refused);
	tcase_add_test(hostile, impossible_entries_are_refused);
	suite_add_tcase(suite, hostile);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
