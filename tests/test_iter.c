/* SPDX-License-Identifier: MIT */
#include "store/index.h"

#include <check.h>

#include "indexkit.h"

static void put_pair(struct index_txn *txn, uint64_t a, uint64_t b)
{
	struct record_key key = record_key_pair(a, b);

	ck_assert_int_eq(
		index_put(txn, INDEX_COOKIE, &key, &b, sizeof(b), true), 0);
}

/* The second ids found from (@a, @b) on, as text. */
static const char *walk(struct index_txn *txn, uint64_t a, uint64_t b,
			size_t prefix_len)
{
	static char text[256];
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_pair(a, b);
	struct record_key key;
	uint64_t val;
	size_t used = 0;
	size_t len;
	int r;

	text[0] = '\0';
	ck_assert_int_eq(index_iter(txn, INDEX_COOKIE, &from, prefix_len, &it),
			 0);
	while ((r = index_next(&it, &key, &val, sizeof(val), &len)) > 0) {
		ck_assert_uint_eq(len, sizeof(val));
		used += (size_t)snprintf(text + used, sizeof(text) - used,
					 "%llu ", (unsigned long long)val);
	}
	ck_assert_int_eq(r, 0);
	ck_assert_int_eq(index_next(&it, &key, &val, sizeof(val), &len), 0);
	return text;
}

static void put_pairs(void)
{
	struct index_txn *txn = begin(true);

	for (uint64_t a = 1; a <= 3; a++) {
		for (uint64_t b = 10; b <= 50; b += 10)
			put_pair(txn, a, b);
	}
	ck_assert_int_eq(index_commit(txn), 0);
}

START_TEST(iteration_begins_at_the_key_and_ends_with_the_prefix)
{
	struct index_txn *txn = begin(false);

	ck_assert_str_eq(walk(txn, 0, 0, 0), "");
	index_abort(txn);
	put_pairs();
	for (int write = 0; write < 2; write++) {
		txn = begin(write);
		ck_assert_str_eq(walk(txn, 2, 0, 8), "10 20 30 40 50 ");
		ck_assert_str_eq(walk(txn, 2, 30, 8), "30 40 50 ");
		ck_assert_str_eq(walk(txn, 2, 31, 8), "40 50 ");
		ck_assert_str_eq(walk(txn, 2, 51, 8), "");
		ck_assert_str_eq(walk(txn, 4, 0, 8), "");
		ck_assert_str_eq(walk(txn, 3, 40, 0), "40 50 ");
		ck_assert_str_eq(walk(txn, 2, 41, 0), "50 10 20 30 40 50 ");
		index_abort(txn);
	}
}
END_TEST

START_TEST(writer_may_change_the_table_while_it_iterates)
{
	struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_pair(2, 0);
	struct record_key key;
	struct index_txn *txn;
	uint64_t val;
	uint64_t sum = 0;
	size_t len;

	put_pairs();
	txn = begin(true);
	ck_assert_int_eq(index_iter(txn, INDEX_COOKIE, &from, 8, &it), 0);
	while (index_next(&it, &key, &val, sizeof(val), &len) > 0) {
		sum += val;
		ck_assert_int_eq(index_del(txn, INDEX_COOKIE, &key), 0);
		if (val == 20) /* behind: seen; before: not */
			put_pair(txn, 2, 45);
		if (val == 30)
			put_pair(txn, 2, 5);
	}
	index_iter_release(&it);
	ck_assert_uint_eq(sum, 10 + 20 + 30 + 40 + 45 + 50);
	ck_assert_int_eq(index_commit(txn), 0);
	txn = begin(false);
	ck_assert_str_eq(walk(txn, 2, 0, 8), "5 ");
	ck_assert_str_eq(walk(txn, 1, 0, 8), "10 20 30 40 50 ");
	index_abort(txn);
}
END_TEST

START_TEST(writer_may_empty_a_large_table_while_it_iterates)
{
	struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_pair(0, 0);
	struct record_key key;
	struct index_stat stat;
	struct index_txn *txn = begin(true);
	uint64_t n = 0;
	uint64_t val;
	size_t len;

	for (uint64_t i = 0; i < 5000; i++)
		put_pair(txn, i % 7, i);
	ck_assert_int_eq(index_iter(txn, INDEX_COOKIE, &from, 0, &it), 0);
	while (index_next(&it, &key, &val, sizeof(val), &len) > 0) {
		ck_assert_int_eq(index_del(txn, INDEX_COOKIE, &key), 0);
		n++;
	}
	index_iter_release(&it);
	ck_assert_uint_eq(n, 5000);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_int_eq(index_stat(ix, &stat), 0);
	ck_assert_uint_eq(stat.entries[INDEX_COOKIE], 0);
}
END_TEST

START_TEST(iteration_goes_on_behind_a_damaged_value)
{
	struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0);
	struct record_key key;
	struct index_txn *txn;
	char buf[32];
	size_t len;
	uint64_t id;

	put_now(INDEX_INODE, 1, "first");
	put_now(INDEX_INODE, 2, "second");
	put_now(INDEX_INODE, 3, "third");
	index_close(ix);
	damage("second", "SECOND");
	ck_assert_int_eq(try_open(0), 0);
	txn = begin(false);
	ck_assert_int_eq(index_iter(txn, INDEX_INODE, &from, 0, &it), 0);
	ck_assert_int_eq(index_next(&it, &key, buf, sizeof(buf), &len), 1);
	ck_assert_int_eq(index_next(&it, &key, buf, sizeof(buf), &len),
			 -EBADMSG);
	ck_assert_int_eq(record_key_get(&key, 0, &id), 0);
	ck_assert_uint_eq(id, 2);
	ck_assert_int_eq(index_next(&it, &key, buf, sizeof(buf), &len), 1);
	ck_assert_mem_eq(buf, "third", 5);
	ck_assert_int_eq(index_next(&it, &key, buf, sizeof(buf), &len), 0);
	index_iter_release(&it);
	index_abort(txn);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("iter");
	TCase *tc = new_case(suite, "iteration");

	tcase_add_test(tc,
		       iteration_begins_at_the_key_and_ends_with_the_prefix);
	tcase_add_test(tc, writer_may_change_the_table_while_it_iterates);
	tcase_add_test(tc, writer_may_empty_a_large_table_while_it_iterates);
	tcase_add_test(tc, iteration_goes_on_behind_a_damaged_value);
	return run_suite(suite);
}
