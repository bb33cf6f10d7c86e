/* SPDX-License-Identifier: MIT */
/* Pages made by hand: what LMDB would crash on is found, one by one. */
#include "store/audit.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/base.h"
#include "store/mdbfile.h"

#define PAGE 4096
#define PAGES 12
#define BRANCH 1
#define LEAF 2
#define OVERFLOW 4
#define BIG 1
#define TABLE 2
#define INTEGER_KEYS 8
#define NONE UINT64_MAX

/* Which page is which. */
enum { NAMES = 2, ROOT, LEFT, RIGHT, LARGE, LARGE_END, FREE };

static uint8_t image[PAGES][PAGE];
static struct audit_found found;

static void put16(uint8_t *at, size_t v)
{
	uint16_t n = (uint16_t)v;

	memcpy(at, &n, sizeof(n));
}

static void put32(uint8_t *at, uint64_t v)
{
	uint32_t n = (uint32_t)v;

	memcpy(at, &n, sizeof(n));
}

static void put64(uint8_t *at, uint64_t v)
{
	memcpy(at, &v, sizeof(v));
}

static uint16_t get16(const uint8_t *at)
{
	uint16_t n;

	memcpy(&n, at, sizeof(n));
	return n;
}

static void put_table(uint8_t *at, const struct mdbfile_table *t)
{
	put16(at + 4, t->flags);
	put16(at + 6, t->depth);
	put64(at + 8, t->branch_pages);
	put64(at + 16, t->leaf_pages);
	put64(at + 24, t->overflow_pages);
	put64(at + 32, t->entries);
	put64(at + 40, t->root);
}

static void put_meta(const struct mdbfile_table *free_list,
		     const struct mdbfile_table *names)
{
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *at = image[i];

		put16(at + 10, 0x08);
		put32(at + 16, 0xBEEFC0DE);
		put32(at + 20, 1);
		put_table(at + 40, free_list);
		put32(at + 40, PAGE);
		put_table(at + 88, names);
		put64(at + 136, PAGES - 1);
		put64(at + 144, 6 + i);
	}
}

static void begin_page(unsigned number, unsigned kind)
{
	memset(image[number], 0, PAGE);
	put64(image[number], number);
	put16(image[number] + 10, kind);
	put16(image[number] + 12, 16);
	put16(image[number] + 14, PAGE);
}

/* One more node: @low and @flags are its value's length and kind, or the
 * page that it leads to. Returns where its value goes. */
static uint8_t *add_node(unsigned number, const char *key, size_t key_len,
			 uint32_t low, unsigned flags, size_t room)
{
	uint8_t *page = image[number];
	size_t lower = get16(page + 12), size = 8 + key_len + room;
	size_t upper = get16(page + 14) - size - size % 2;

	put16(page + lower, upper);
	put16(page + 12, lower + 2);
	put16(page + 14, upper);
	put32(page + upper, low);
	put16(page + upper + 4, flags);
	put16(page + upper + 6, key_len);
	memcpy(page + upper + 8, key, key_len);
	return page + upper + 8 + key_len;
}

static void add_value(unsigned number, const char *key, size_t len)
{
	memset(add_node(number, key, strlen(key), (uint32_t)len, 0, len), 'v',
	       len);
}

static void add_large(unsigned number, const char *key, uint32_t len)
{
	put64(add_node(number, key, strlen(key), len, BIG, 8), LARGE);
	memset(image[LARGE], 'l', sizeof(image[0]) * 2);
	put64(image[LARGE], LARGE);
	put16(image[LARGE] + 10, OVERFLOW);
	put32(image[LARGE] + 12, 2);
}

static void add_table(const char *name, const struct mdbfile_table *t)
{
	uint8_t *at = add_node(NAMES, name, strlen(name), MDBFILE_TABLE_SIZE,
			       TABLE, MDBFILE_TABLE_SIZE);

	memset(at, 0, MDBFILE_TABLE_SIZE);
	put_table(at, t);
}

static const struct mdbfile_table table = { .depth = 2,
					    .branch_pages = 1,
					    .leaf_pages = 2,
					    .overflow_pages = 2,
					    .entries = 5,
					    .root = ROOT };
static const struct mdbfile_table names = {
	.depth = 1, .leaf_pages = 1, .entries = 1, .root = NAMES
};
static const struct mdbfile_table free_list = { .flags = INTEGER_KEYS,
						.depth = 1,
						.leaf_pages = 1,
						.entries = 1,
						.root = FREE };

static void add_free(uint64_t txnid, const uint64_t *list, size_t n)
{
	char key[8];

	memcpy(key, &txnid, sizeof(key));
	memcpy(add_node(FREE, key, 8, (uint32_t)(8 * n), 0, 8 * n), list,
	       8 * n);
}

/* A whole index: five records, one of them large, and three free pages. */
static void setup(void)
{
	static const uint64_t free_pages[] = { 3, 11, 10, 9 };

	memset(image, 0, sizeof(image));
	put_meta(&free_list, &names);
	begin_page(NAMES, LEAF);
	add_table("t", &table);
	begin_page(ROOT, BRANCH);
	add_node(ROOT, "", 0, LEFT, 0, 0);
	add_node(ROOT, "m", 1, RIGHT, 0, 0);
	begin_page(LEFT, LEAF);
	add_value(LEFT, "a", 10);
	add_value(LEFT, "b", 11);
	begin_page(RIGHT, LEAF);
	add_value(RIGHT, "m", 0);
	add_large(RIGHT, "n", 5000);
	add_value(RIGHT, "o", 2000);
	begin_page(FREE, LEAF);
	add_free(7, free_pages, ARRAY_SIZE(free_pages));
}

static int audit(audit_record_fn fn, void *arg)
{
	int fd = memfd_create("image", MFD_CLOEXEC), r;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, image, sizeof(image), 0), sizeof(image));
	ck_assert(mdbfile_sane(image[0], PAGE, 7));
	found = (struct audit_found){ .what = "nothing" };
	r = audit_records(fd, image[0], PAGE, fn, arg, &found);
	close(fd);
	return r;
}

static void expect(unsigned page, const char *what)
{
	ck_assert_int_eq(audit(NULL, NULL), -EBADMSG);
	ck_assert_str_eq(found.what, what);
	ck_assert_uint_eq(found.page, page);
}

/* -- Records --------------------------------------------------------------- */

struct told {
	char text[64];
	unsigned n;
	unsigned most;
};

static int note(void *arg, const struct audit_record *rec)
{
	struct told *told = arg;
	const char *value = rec->value;

	ck_assert_str_eq(rec->table, "t");
	ck_assert_uint_eq(rec->key_len, 1);
	strncat(told->text, rec->key, 1);
	for (size_t i = 0; i < rec->len; i++)
		ck_assert_int_eq(value[i], rec->len == 5000 ? 'l' : 'v');
	return ++told->n == told->most ? -ECANCELED : 0;
}

START_TEST(all_records_are_told_in_order)
{
	struct told told = { .n = 0 };

	ck_assert_int_eq(audit(note, &told), 0);
	ck_assert_str_eq(told.text, "abmno");
	ck_assert_uint_eq(found.used, 7);
	ck_assert_uint_eq(found.free, 3);
	ck_assert_uint_eq(found.lost, 0);
}
END_TEST

START_TEST(who_is_told_can_end_it)
{
	struct told told = { .most = 3 };

	ck_assert_int_eq(audit(note, &told), -ECANCELED);
	ck_assert_uint_eq(told.n, 3);
}
END_TEST

/* -- What LMDB counts on ---------------------------------------------------- */

START_TEST(branch_with_one_page_is_found)
{
	begin_page(ROOT, BRANCH);
	add_node(ROOT, "", 0, LEFT, 0, 0);
	expect(ROOT, "leads to one page only");
}
END_TEST

/* It would be read as 48 bytes of which the page has eight. */
START_TEST(table_record_on_pages_of_its_own_is_found)
{
	begin_page(NAMES, LEAF);
	put64(add_node(NAMES, "t", 1, MDBFILE_TABLE_SIZE, TABLE | BIG, 8),
	      LARGE);
	expect(NAMES, "has a node of a wrong kind");
}
END_TEST

START_TEST(too_large_values_in_a_leaf_are_found)
{
	begin_page(LEFT, LEAF);
	add_value(LEFT, "a", 10);
	add_value(LEFT, "b", 2038 - 9); /* still fits */
	ck_assert_int_eq(audit(NULL, NULL), 0);
	begin_page(LEFT, LEAF);
	add_value(LEFT, "a", 10);
	add_value(LEFT, "b", 2038 - 8);
	expect(LEFT, "has too large a node");
}
END_TEST

START_TEST(too_long_first_key_of_a_branch_is_found)
{
	static const char key[600] = { 0 };

	begin_page(ROOT, BRANCH);
	add_node(ROOT, key, 512, LEFT, 0, 0);
	add_node(ROOT, "m", 1, RIGHT, 0, 0);
	expect(ROOT, "has too large a node");
}
END_TEST

START_TEST(tables_of_another_kind_are_found)
{
	for (int i = 0; i < 3; i++) {
		struct mdbfile_table t = table, n = names, f = free_list;
		struct mdbfile_table *const which[] = { &t, &n, &f };

		setup();
		which[i]->flags ^= 4; /* several values for a key */
		begin_page(NAMES, LEAF);
		add_table("t", &t);
		put_meta(&f, &n);
		expect((unsigned)which[i]->root,
		       "is of a table of another kind");
	}
}
END_TEST

START_TEST(too_deep_a_tree_is_found)
{
	struct mdbfile_table deep = table;

	deep.depth = 25;
	begin_page(NAMES, LEAF);
	add_table("t", &deep);
	expect(ROOT, "is the root of no tree");
}
END_TEST

START_TEST(wrong_lists_of_free_pages_are_found)
{
	static const uint64_t more_than_there_are[] = { 4, 11, 10, 9 };
	static const uint64_t in_use[] = { 3, 11, 10, LEFT };
	static const uint64_t far[] = { 3, PAGES, 10, 9 };

	begin_page(FREE, LEAF);
	add_free(7, more_than_there_are, 4);
	expect(FREE, "has a wrong list of free pages");
	begin_page(FREE, LEAF);
	add_free(8, in_use, 4);
	expect(FREE, "has a wrong list of free pages"); /* of the future */
	begin_page(FREE, LEAF);
	add_free(7, in_use, 4);
	expect(LEFT, "is used twice");
	begin_page(FREE, LEAF);
	add_free(7, far, 4);
	expect(PAGES, "is outside of the file");
}
END_TEST

START_TEST(large_value_without_its_pages_is_found)
{
	put32(image[LARGE] + 12, 1);
	expect(LARGE, "is no overflow page");
	put32(image[LARGE] + 12, PAGES);
	expect(LARGE, "is outside of the file");
}
END_TEST

/* A circle, or a shared branch: each page is come to once. */
START_TEST(page_that_leads_back_is_found)
{
	begin_page(ROOT, BRANCH);
	add_node(ROOT, "", 0, LEFT, 0, 0);
	add_node(ROOT, "m", 1, ROOT, 0, 0);
	expect(ROOT, "is used twice");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("audit_pages");
	TCase *tc = tcase_create("pages");
	SRunner *runner = srunner_create(suite);
	int failed;

	suite_add_tcase(suite, tc);
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, all_records_are_told_in_order);
	tcase_add_test(tc, who_is_told_can_end_it);
	tcase_add_test(tc, branch_with_one_page_is_found);
	tcase_add_test(tc, table_record_on_pages_of_its_own_is_found);
	tcase_add_test(tc, too_large_values_in_a_leaf_are_found);
	tcase_add_test(tc, too_long_first_key_of_a_branch_is_found);
	tcase_add_test(tc, tables_of_another_kind_are_found);
	tcase_add_test(tc, too_deep_a_tree_is_found);
	tcase_add_test(tc, wrong_lists_of_free_pages_are_found);
	tcase_add_test(tc, large_value_without_its_pages_is_found);
	tcase_add_test(tc, page_that_leads_back_is_found);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
