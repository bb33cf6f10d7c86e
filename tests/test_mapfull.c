/* SPDX-License-Identifier: MIT */
/*
 * The map of the index is full, as if it were of a few MiB: what does not fit
 * any more gets ENOSPC, and so may a removal, which writes pages too; what is
 * there is served and can be saved, and the store is in order.
 */
#include "store/store.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scratch.h"

#define MAP_BYTES ((size_t)(4 * MIB))
#define DIRS_MAX 200000
#define REMOVED 200

static struct scratch dir;
static char last[256];

int mdb_env_set_mapsize(void *env, size_t size);
int mdb_env_set_mapsize(void *env, size_t size)
{
	int (*real)(void *env, size_t size);
	void *found = dlsym(RTLD_NEXT, "mdb_env_set_mapsize");

	(void)size;
	memcpy(&real, &found, sizeof(real));
	return real(env, MAP_BYTES);
}

static void note(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)snprintf(last, sizeof(last), "%s", text);
}

static struct store *open_store(void)
{
	const struct store_config cfg = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "1G", .min_free = "0", .grace_sec = 0 },
		.report = note
	};
	struct store *st = NULL;
	char why[256] = "";
	int r = store_open(&cfg, &st, why, sizeof(why));

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
	return st;
}

static int make(struct store *st, unsigned n)
{
	char name[64];
	const struct store_new what = { .parent = STORE_ROOT_INO,
					.name = name,
					.mode = 0755 };

	(void)snprintf(name, sizeof(name), "a directory of no use, number %u",
		       n);
	return store_mkdir(st, &what, NULL);
}

/* Between two checkpoints nothing is used again: that alone fills a map. */
static int make_patiently(struct store *st, unsigned n)
{
	int r = make(st, n);

	for (int i = 0; r == -ENOSPC && i < 3; i++) {
		ck_assert_int_eq(store_sync(st), 0);
		r = make(st, n);
	}
	return r;
}

static int drop(struct store *st, unsigned n)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "a directory of no use, number %u",
		       n);
	return store_rmdir(st, STORE_ROOT_INO, name);
}

static void put(struct store *st)
{
	const struct store_new what = { .parent = STORE_ROOT_INO,
					.name = "file",
					.mode = 0644 };
	struct store_file *f;
	struct stat attr;

	ck_assert_int_eq(store_file_create(st, &what, O_RDWR, &attr, &f), 0);
	ck_assert_int_eq(store_file_write(f, 0, "text", 4, false), 4);
	store_file_close(f);
}

static void get(struct store *st)
{
	struct store_file *f;
	struct stat attr;
	char text[8] = "";

	ck_assert_int_eq(store_lookup(st, STORE_ROOT_INO, "file", &attr), 0);
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDONLY, &f), 0);
	ck_assert_int_eq(store_file_read(f, 0, text, sizeof(text)), 4);
	ck_assert_str_eq(text, "text");
	store_file_close(f);
}

static void found(void *arg, const char *text)
{
	(void)arg;
	(void)snprintf(last, sizeof(last), "%s", text);
}

static void check(struct store *st)
{
	const struct store_check how = { .data = true, .found = found };
	struct store_checked res;
	struct store_status s;

	ck_assert_int_eq(store_check(st, &how, &res), 0);
	ck_assert_msg(res.findings == 0, "%s", last);
	ck_assert_int_eq(store_status(st, &s), 0);
	ck_assert_int_ne(s.state, STORE_READ_ONLY);
}

START_TEST(full_map_is_enospc_and_hits_are_served)
{
	struct store *st = open_store();
	unsigned n = 0, removed = 0;
	int r = 0;

	put(st);
	while (n < DIRS_MAX && (r = make_patiently(st, n)) == 0)
		n++;
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_uint_gt(n, 1000);
	get(st);
	ck_assert_int_eq(store_sync(st), 0);
	check(st);
	ck_assert_int_eq(store_close(st), 0);

	st = open_store();
	get(st);
	for (unsigned i = 0; i < REMOVED; i++) {
		r = drop(st, i);
		ck_assert_msg(r == 0 || r == -ENOSPC, "%s", strerror(-r));
		removed += r == 0;
		if (r < 0)
			ck_assert_int_eq(store_sync(st), 0);
	}
	ck_assert_uint_gt(removed, 0);
	get(st);
	check(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

static void setup(void)
{
	scratch_in_memory();
	dir = scratch_new();
}

static void teardown(void)
{
	scratch_remove(&dir);
}

int main(void)
{
	Suite *suite = suite_create("mapfull");
	TCase *tc = tcase_create("map full");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 110);
	tcase_add_test(tc, full_map_is_enospc_and_hits_are_served);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
