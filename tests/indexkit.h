/* SPDX-License-Identifier: MIT */
/*
 * An index in a directory of its own, and shorthands that fail the test when
 * they fail.
 */
#ifndef TESTS_INDEXKIT_H
#define TESTS_INDEXKIT_H

#include <check.h>
#include <stdatomic.h>
#include <string.h>

#include "scratch.h"
#include "store/index.h"
#include "store/mdbfile.h"

static struct scratch dir;
static struct index *ix;
static atomic_int told; /* calls of @changed */

static inline void on_changed(void *arg)
{
	(void)arg;
	told++;
}

static inline int try_open(int flags)
{
	return index_open(dir.path, flags, 64 * KIB,
			  (struct notify){ on_changed, NULL }, &ix);
}

static inline void reopen(int flags)
{
	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(try_open(flags), 0);
}

static inline void setup(void)
{
	dir = scratch_new();
	ix = NULL;
	told = 0;
	ck_assert_int_eq(try_open(0), 0);
}

static inline void teardown(void)
{
	index_close(ix);
	scratch_remove(&dir);
}

static inline struct index_txn *begin(bool write)
{
	struct index_txn *txn;

	ck_assert_int_eq(index_begin(ix, write, &txn), 0);
	return txn;
}

static inline void put(struct index_txn *txn, enum index_table table,
		       uint64_t id, const char *text)
{
	struct record_key key = record_key_id(id);

	ck_assert_int_eq(index_put(txn, table, &key, text, strlen(text), false),
			 0);
}

static inline void put_now(enum index_table table, uint64_t id,
			   const char *text)
{
	struct index_txn *txn = begin(true);

	put(txn, table, id, text);
	ck_assert_int_eq(index_commit(txn), 0);
}

/* The value as text, or "!" and the errno. */
static inline const char *get(struct index_txn *txn, enum index_table table,
			      uint64_t id)
{
	static char buf[256];
	struct record_key key = record_key_id(id);
	ssize_t n = index_get(txn, table, &key, buf, sizeof(buf) - 1);

	if (n < 0)
		(void)snprintf(buf, sizeof(buf), "!%d", (int)-n);
	else
		buf[n] = '\0';
	return buf;
}

static inline const char *get_now(enum index_table table, uint64_t id)
{
	struct index_txn *txn = begin(false);
	const char *text = get(txn, table, id);

	index_abort(txn);
	return text;
}

static inline void file_of_index(char path[SCRATCH_PATH_MAX])
{
	struct scratch file = scratch_at(&dir, MDBFILE_NAME);

	memcpy(path, file.path, SCRATCH_PATH_MAX);
}

/* Overwrite @from in data.mdb, wherever it is. */
static inline void damage(const char *from, const char *to)
{
	char path[SCRATCH_PATH_MAX];
	struct scratch_bytes file;
	uint8_t *at;
	size_t n = 0;

	file_of_index(path);
	file = scratch_read(path);
	at = file.data;
	while ((at = memmem(at, (size_t)(file.data + file.len - at), from,
			    strlen(from)))) {
		memcpy(at, to, strlen(to));
		at += strlen(from);
		n++;
	}
	ck_assert_uint_gt(n, 0);
	scratch_write(path, file.data, file.len);
	free(file.data);
}

/* A case whose tests each have an index of their own. */
static inline TCase *new_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 100);
	suite_add_tcase(suite, tc);
	return tc;
}

static inline int run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

#endif
