/* SPDX-License-Identifier: MIT */
/*
 * Many threads on one small store: pip-shaped pairs are written, read,
 * renamed and unlinked while the evictor works and checkpoints run. Content
 * is derived from the name, so every read is checked. Most useful under the
 * thread sanitizer.
 */
#include "store/store.h"

#include <check.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 6
#define NAMES 40
#define BODY_MAX 900000
#define ROUNDS (getenv("PIPCACHEFS_LONG") ? 4000 : 150)

static char dir[64];
static struct store *st;
static atomic_uint reads, writes, over_limit;

static void quiet(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)text;
}

static void open_store(void)
{
	struct store_config cfg = {
		.path = dir,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "16M", .min_free = "0", .grace_sec = 0 },
		.report = quiet
	};
	char why[256] = "";
	int r = store_open(&cfg, &st, why, sizeof(why));

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
}

static size_t size_of(unsigned n)
{
	return n % 3 ? n * 7919u % BODY_MAX : n * 31u % 2500;
}

static uint8_t byte_of(unsigned n, size_t i)
{
	return (uint8_t)((i * 2654435761u >> 12) + n);
}

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct store_new what = { .parent = parent,
				  .name = name,
				  .mode = 0755 };
	struct stat attr;

	if (store_mkdir(st, &what, &attr) < 0 &&
	    store_lookup(st, parent, name, &attr) < 0)
		return 0;
	return attr.st_ino;
}

/* 0 when the evictor took the directory away meanwhile. */
static uint64_t dir_of(const char *hash)
{
	uint64_t at = make_dir(STORE_ROOT_INO, "http-v2");

	for (int i = 0; i < 5 && at; i++)
		at = make_dir(at, (char[]){ hash[i], '\0' });
	return at;
}

static void name_of(unsigned n, char hash[57], char body[64])
{
	snprintf(hash, 57, "%05x%051x", n * 7919u % 0xfffff, n);
	snprintf(body, 64, "%s.body", hash);
}

static void do_write(unsigned n, unsigned salt, uint8_t *buf)
{
	char hash[57], body[64], tmp[80];
	struct store_new what = { .name = tmp, .mode = 0644 };
	struct store_file *f;
	struct stat attr;
	uint64_t at;
	ssize_t done;

	name_of(n, hash, body);
	at = dir_of(hash);
	what.parent = at;
	snprintf(tmp, sizeof(tmp), "%s%08u.tmp", body, salt);
	if (!at || store_file_create(st, &what, O_RDWR, &attr, &f) < 0)
		return;
	for (size_t i = 0; i < size_of(n); i++)
		buf[i] = byte_of(n, i);
	done = store_file_write(f, 0, buf, size_of(n) / 2, false);
	if (done >= 0)
		done = store_file_write(f, size_of(n) / 2, buf + size_of(n) / 2,
					size_of(n) - size_of(n) / 2, false);
	store_file_close(f);
	if (done < 0 || store_rename(st, at, tmp, at, body, 0) < 0)
		(void)store_unlink(st, at, tmp);
	else
		atomic_fetch_add(&writes, 1);
}

static void do_read(unsigned n, uint8_t *buf)
{
	char hash[57], body[64];
	struct store_file *f;
	struct stat attr;
	size_t wrong = 0;
	ssize_t len;
	uint64_t at;

	name_of(n, hash, body);
	at = dir_of(hash);
	if (!at || store_lookup(st, at, body, &attr) < 0 ||
	    store_file_open(st, attr.st_ino, O_RDONLY, &f) < 0)
		return;
	len = store_file_read(f, 0, buf, BODY_MAX);
	ck_assert_int_eq(len, size_of(n));
	for (size_t i = 0; i < size_of(n); i++)
		wrong += buf[i] != byte_of(n, i);
	ck_assert_uint_eq(wrong, 0);
	store_file_close(f);
	atomic_fetch_add(&reads, 1);
}

static void do_unlink(unsigned n)
{
	char hash[57], body[64];
	uint64_t at;

	name_of(n, hash, body);
	at = dir_of(hash);
	if (at)
		(void)store_unlink(st, at, body);
}

static int fill_none(void *arg, const char *name, const struct stat *attr,
		     off_t next)
{
	(void)arg;
	(void)name;
	(void)attr;
	(void)next;
	return 0;
}

static void do_look(void)
{
	struct store_status s;
	struct store_file *f;

	if (store_file_open(st, STORE_ROOT_INO, O_RDONLY | O_DIRECTORY, &f) >=
	    0) {
		(void)store_readdir(f, 0, true, fill_none, NULL);
		store_file_close(f);
	}
	if (!store_status(st, &s) && s.used > s.limit)
		atomic_fetch_add(&over_limit, 1);
}

static void *worker(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	uint8_t *buf = malloc(BODY_MAX);

	for (int i = 0; i < ROUNDS && buf; i++) {
		unsigned n = (unsigned)rand_r(&seed) % NAMES;

		switch (rand_r(&seed) % 8) {
		case 0:
		case 1:
		case 2:
			do_write(n, seed % 100000000, buf);
			break;
		case 3:
			do_unlink(n);
			break;
		case 4:
			if (i % 16 == 0)
				(void)store_sync(st);
			do_look();
			break;
		default:
			do_read(n, buf);
		}
	}
	free(buf);
	return NULL;
}

/* What is charged is what is used, but for a little and the bounds of acts under
 * way: at some moment there are none. */
static void expect_charged_is_used(void)
{
	struct store_status s;

	for (int i = 0; i < 500; i++) {
		ck_assert_int_eq(store_status(st, &s), 0);
		ck_assert_uint_eq(s.damaged, 0);
		ck_assert_uint_ge(s.charged, s.used);
		if (s.charged <= s.used + s.used / 100 + MIB)
			return;
		usleep(10000);
	}
	ck_abort_msg("%ju bytes are charged, %ju are used",
		     (uintmax_t)s.charged, (uintmax_t)s.used);
}

START_TEST(threads_see_right_bytes_under_the_limit)
{
	pthread_t threads[THREADS];
	struct store_status s;
	uint8_t *buf = malloc(BODY_MAX);

	snprintf(dir, sizeof(dir), "/tmp/pcfs-stress-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	open_store();
	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, worker,
						(void *)(i + 1)),
				 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_gt(atomic_load(&reads), 20);
	ck_assert_uint_gt(atomic_load(&writes), 20);
	ck_assert_uint_eq(atomic_load(&over_limit), 0);
	do {
		ck_assert_int_eq(store_status(st, &s), 0);
	} while (s.unsummed);
	ck_assert_uint_eq(s.open_files, 0);
	ck_assert_int_eq(store_close(st), 0);
	open_store();
	for (unsigned n = 0; n < NAMES; n++)
		do_read(n, buf);
	expect_charged_is_used();
	ck_assert_int_eq(store_close(st), 0);
	free(buf);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stress");
	TCase *tc = tcase_create("threads");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_set_timeout(tc, getenv("PIPCACHEFS_LONG") ? 1800 : 110);
	tcase_add_test(tc, threads_see_right_bytes_under_the_limit);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	if (*dir && !failed) {
		char cmd[128];

		snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
		failed = system(cmd);
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
