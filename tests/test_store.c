/* SPDX-License-Identifier: MIT */
#include "store/store.h"

#include <check.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HASH "0a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef01234567"
#define ROOT STORE_ROOT_INO

static char dir[64];
static struct store *st;

static void quiet(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)text;
}

static struct store_config config(const char *limit)
{
	struct store_config cfg = {
		.path = dir,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = limit, .min_free = "0", .grace_sec = 0 },
		.report = quiet
	};
	return cfg;
}

static void open_store(const char *limit)
{
	struct store_config cfg = config(limit);
	char why[256] = "";
	int r = store_open(&cfg, &st, why, sizeof(why));

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
}

static void close_store(void)
{
	ck_assert_int_eq(store_close(st), 0);
	st = NULL;
}

static void setup(void)
{
	snprintf(dir, sizeof(dir), "/tmp/pcfs-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	open_store("64M");
}

static void teardown(void)
{
	char cmd[128];

	if (st)
		close_store();
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	ck_assert_int_eq(system(cmd), 0);
}

static uint64_t make_dir(uint64_t parent, const char *name)
{
	struct stat attr;
	struct store_new what = { .parent = parent,
				  .name = name,
				  .mode = 0755 };
	int r = store_mkdir(st, &what, &attr);

	if (r == -EEXIST)
		r = store_lookup(st, parent, name, &attr);
	ck_assert_int_eq(r, 0);
	return attr.st_ino;
}

/* The directory of the pair @hash, made as pip makes it. */
static uint64_t pip_dir(const char *hash)
{
	uint64_t at = make_dir(ROOT, "http-v2");

	for (int i = 0; i < 5; i++)
		at = make_dir(at, (char[]){ hash[i], '\0' });
	return at;
}

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)((i + seed) * 2654435761u >> 11);
}

/* As pip writes: temporary name, one write, rename. Returns the error of the
 * first step that failed. */
static int put(uint64_t parent, const char *name, size_t len, unsigned seed)
{
	uint8_t *buf = malloc(len + 1);
	char tmp[300];
	struct store_new what = { .parent = parent, .name = tmp, .mode = 0644 };
	struct store_file *f;
	struct stat attr;
	ssize_t n;
	int r;

	ck_assert_ptr_nonnull(buf);
	fill(buf, len, seed);
	snprintf(tmp, sizeof(tmp), "%.200sabcd_123.tmp", name);
	r = store_file_create(st, &what, O_RDWR, &attr, &f);
	if (r < 0) {
		free(buf);
		return r;
	}
	n = store_file_write(f, 0, buf, len, false);
	store_file_close(f);
	free(buf);
	if (n < 0) {
		store_unlink(st, parent, tmp);
		return (int)n;
	}
	return store_rename(st, parent, tmp, parent, name, 0);
}

/* 0 if the file is there with those bytes, -ENOENT, or a failed check. */
static int verify(uint64_t parent, const char *name, size_t len, unsigned seed)
{
	uint8_t *want = malloc(len + 1), *got = malloc(len + 1);
	struct store_file *f;
	struct stat attr;
	int r = store_lookup(st, parent, name, &attr);

	fill(want, len, seed);
	if (r >= 0)
		r = store_file_open(st, attr.st_ino, O_RDONLY, &f);
	if (r >= 0) {
		ck_assert_uint_eq(attr.st_size, len);
		ck_assert_int_eq(store_file_read(f, 0, got, len + 1), len);
		ck_assert_mem_eq(want, got, len);
		store_file_close(f);
	}
	free(want);
	free(got);
	return r;
}

static struct store_status status(void)
{
	struct store_status s;

	ck_assert_int_eq(store_status(st, &s), 0);
	return s;
}

static void settle(void)
{
	while (status().unsummed)
		usleep(1000);
	ck_assert_int_eq(store_sync(st), 0);
}

START_TEST(small_and_large_files_survive_a_clean_remount)
{
	static const size_t sizes[] = { 0,    1,      1500,   1999,   2010,
					2100, 100000, 999999, 5000000 };
	char name[16];

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		snprintf(name, sizeof(name), "f%u", i);
		ck_assert_int_eq(put(ROOT, name, sizes[i], i), 0);
	}
	for (int round = 0; round < 2; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			snprintf(name, sizeof(name), "f%u", i);
			ck_assert_int_eq(verify(ROOT, name, sizes[i], i), 0);
		}
		close_store();
		open_store("64M");
	}
}
END_TEST

START_TEST(a_killed_process_leaves_the_last_checkpoint)
{
	pid_t pid;
	int status_word;

	close_store();
	pid = fork();
	if (!pid) {
		open_store("64M");
		put(ROOT, "kept", 300000, 1);
		settle();
		put(pip_dir(HASH), HASH, 1000, 2);
		put(pip_dir(HASH), HASH ".body", 3000000, 3);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status_word, 0), pid);
	ck_assert_int_eq(status_word, 0);
	open_store("64M");
	ck_assert_int_eq(verify(ROOT, "kept", 300000, 1), 0);
	settle();
	ck_assert_uint_ge(status().charged, status().used);
}
END_TEST

START_TEST(unlinked_open_file_is_readable_and_its_space_comes_back)
{
	struct store_file *f;
	struct stat attr;
	uint8_t buf[100];

	ck_assert_int_eq(put(ROOT, "f", 4000000, 7), 0);
	settle();
	ck_assert_int_eq(store_lookup(st, ROOT, "f", &attr), 0);
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDONLY, &f), 0);
	ck_assert_int_eq(store_unlink(st, ROOT, "f"), 0);
	ck_assert_int_eq(store_lookup(st, ROOT, "f", &attr), -ENOENT);
	ck_assert_int_eq(store_file_read(f, 3000000, buf, 100), 100);
	ck_assert_int_eq(store_getattr(st, store_file_ino(f), &attr), 0);
	ck_assert_uint_eq(attr.st_nlink, 0);
	store_file_close(f);
	ck_assert_int_eq(store_getattr(st, attr.st_ino, &attr), -ESTALE);
	settle();
	ck_assert_uint_lt(status().used, 2 * MIB);
}
END_TEST

START_TEST(open_for_writing_leaves_what_a_checkpoint_named)
{
	struct store_file *f;
	struct stat attr;
	uint8_t byte = 0xff, got;

	ck_assert_int_eq(put(ROOT, "f", 200000, 7), 0);
	settle();
	ck_assert_int_eq(store_lookup(st, ROOT, "f", &attr), 0);
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDWR, &f), 0);
	ck_assert_int_eq(store_file_write(f, 100, &byte, 1, false), 1);
	ck_assert_int_eq(store_file_read(f, 100, &got, 1), 1);
	ck_assert_uint_eq(got, 0xff);
	ck_assert_int_eq(store_getattr(st, attr.st_ino, &attr), 0);
	ck_assert_int_eq(attr.st_size, 200000);
	store_file_close(f);
	settle();
	ck_assert_int_eq(status().files, 1);
	close_store();
	open_store("64M");
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDONLY, &f), 0);
	ck_assert_int_eq(store_file_read(f, 100, &got, 1), 1);
	ck_assert_uint_eq(got, 0xff);
	store_file_close(f);
}
END_TEST

START_TEST(truncate_grows_and_shrinks)
{
	struct stat attr, set = { .st_size = 100 };
	struct store_file *f;
	uint8_t buf[200];

	ck_assert_int_eq(put(ROOT, "f", 50000, 1), 0);
	ck_assert_int_eq(store_lookup(st, ROOT, "f", &attr), 0);
	ck_assert_int_eq(
		store_setattr(st, attr.st_ino, &set, STORE_SET_SIZE, &attr), 0);
	ck_assert_int_eq(attr.st_size, 100);
	ck_assert_int_eq(verify(ROOT, "f", 100, 1), 0);
	set.st_size = 150;
	ck_assert_int_eq(
		store_setattr(st, attr.st_ino, &set, STORE_SET_SIZE, &attr), 0);
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDONLY, &f), 0);
	ck_assert_int_eq(store_file_read(f, 0, buf, 200), 150);
	for (int i = 100; i < 150; i++)
		ck_assert_uint_eq(buf[i], 0);
	store_file_close(f);
	set.st_size = INT64_MAX;
	ck_assert_int_eq(store_setattr(st, attr.st_ino, &set, STORE_SET_SIZE,
				       &attr),
			 -EFBIG);
}
END_TEST

START_TEST(rename_keeps_posix)
{
	uint64_t a = make_dir(ROOT, "a"), b = make_dir(ROOT, "b");
	struct stat attr;

	ck_assert_int_eq(put(a, "f", 10, 1), 0);
	ck_assert_int_eq(put(b, "g", 20, 2), 0);
	ck_assert_int_eq(store_rename(st, a, "f", b, "g",
				      STORE_RENAME_NOREPLACE),
			 -EEXIST);
	ck_assert_int_eq(
		store_rename(st, a, "f", b, "g", STORE_RENAME_EXCHANGE), 0);
	ck_assert_int_eq(verify(b, "g", 10, 1), 0);
	ck_assert_int_eq(verify(a, "f", 20, 2), 0);
	ck_assert_int_eq(store_rename(st, ROOT, "a", b, "sub", 0), 0);
	ck_assert_int_eq(store_rename(st, ROOT, "b", a, "x", 0), -EINVAL);
	ck_assert_int_eq(store_getattr(st, ROOT, &attr), 0);
	ck_assert_uint_eq(attr.st_nlink, 3);
	ck_assert_int_eq(store_getattr(st, b, &attr), 0);
	ck_assert_uint_eq(attr.st_nlink, 3);
	ck_assert_int_eq(store_rmdir(st, b, "sub"), -ENOTEMPTY);
	ck_assert_int_eq(store_unlink(st, b, "sub"), -EISDIR);
	ck_assert_int_eq(store_rmdir(st, b, "g"), -ENOTDIR);
	ck_assert_int_eq(store_rename(st, b, "g", ROOT, "b", 0), -EISDIR);
	ck_assert_int_eq(store_rename(st, ROOT, "b", ROOT, "none", 3), -EINVAL);
}
END_TEST

static int count_names(void *arg, const char *name, const struct stat *attr,
		       off_t next)
{
	off_t *state = arg;

	(void)attr;
	if (strcmp(name, ".") && strcmp(name, ".."))
		state[0]++;
	state[1] = next;
	return state[2] && --state[2] == 0;
}

START_TEST(readdir_offsets_stay_while_names_go)
{
	uint64_t d = make_dir(ROOT, "d");
	off_t state[3] = { 0, 0, 52 };
	struct store_file *f;
	char name[16];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		ck_assert_int_eq(put(d, name, 1, 0), 0);
	}
	ck_assert_int_eq(store_file_open(st, d, O_RDONLY | O_DIRECTORY, &f), 0);
	ck_assert_int_eq(store_readdir(f, 0, false, count_names, state), 0);
	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		ck_assert_int_eq(store_unlink(st, d, name), 0);
	}
	state[2] = 0;
	ck_assert_int_eq(store_readdir(f, state[1], true, count_names, state),
			 0);
	/* The call that was stopped counted its last name: it comes again. */
	ck_assert_int_ge(state[0], 89);
	ck_assert_int_le(state[0], 91);
	store_file_close(f);
}
END_TEST

START_TEST(pairs_are_evicted_together_and_the_limit_holds)
{
	char hash[57], body[64];
	unsigned pairs = 0, halves = 0;

	for (unsigned i = 0; i < 100; i++) {
		snprintf(hash, sizeof(hash), "%05x%051x", i * 7919u % 0xfffff,
			 i);
		snprintf(body, sizeof(body), "%s.body", hash);
		ck_assert_int_eq(put(pip_dir(hash), hash, 1200, i), 0);
		ck_assert_int_eq(put(pip_dir(hash), body, 1500000, i), 0);
		ck_assert_uint_le(status().used, 64 * MIB);
		ck_assert_uint_ge(status().charged, status().used);
	}
	for (unsigned i = 0; i < 100; i++) {
		int h, b;

		snprintf(hash, sizeof(hash), "%05x%051x", i * 7919u % 0xfffff,
			 i);
		snprintf(body, sizeof(body), "%s.body", hash);
		h = verify(pip_dir(hash), hash, 1200, i);
		b = verify(pip_dir(hash), body, 1500000, i);
		pairs += !h && !b;
		halves += !h != !b;
	}
	ck_assert_uint_eq(halves, 0);
	ck_assert_uint_gt(pairs, 25);
	ck_assert_uint_gt(status().evictions, 40);
}
END_TEST

START_TEST(files_of_no_known_layout_stay_and_the_store_says_so)
{
	struct store_status s;
	char name[32];
	int r = 0;

	for (unsigned i = 0; i < 100 && !r; i++) {
		snprintf(name, sizeof(name), "data%u", i);
		r = put(ROOT, name, 1000000, i);
	}
	ck_assert_int_eq(r, -ENOSPC);
	s = status();
	ck_assert_uint_eq(s.evictions, 0);
	ck_assert_uint_le(s.used, s.limit);
	ck_assert_str_ne(s.reason, "");
	ck_assert_int_eq(verify(ROOT, "data0", 1000000, 0), 0);
}
END_TEST

START_TEST(changed_pack_is_a_miss_and_takes_its_pair_along)
{
	uint64_t at = pip_dir(HASH);
	char cmd[200];

	ck_assert_int_eq(put(at, HASH, 1000, 2), 0);
	ck_assert_int_eq(put(at, HASH ".body", 3000000, 3), 0);
	settle();
	close_store();
	snprintf(
		cmd, sizeof(cmd),
		"for f in %s/packs/*; do printf x | dd of=$f bs=1 seek=2000000 conv=notrunc status=none; done",
		dir);
	ck_assert_int_eq(system(cmd), 0);
	open_store("64M");
	ck_assert_int_eq(verify(at, HASH ".body", 3000000, 3), -ENOENT);
	at = pip_dir(HASH); /* emptied, the old one went too */
	ck_assert_int_eq(verify(at, HASH, 1000, 2), -ENOENT);
	ck_assert_uint_eq(status().damaged, 1);
}
END_TEST

START_TEST(a_second_process_is_refused_and_told_who_holds_it)
{
	struct store_config cfg = config(NULL);
	struct store *other;
	char why[256] = "", pid[16];

	ck_assert_int_eq(store_open(&cfg, &other, why, sizeof(why)), -EBUSY);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	ck_assert_ptr_nonnull(strstr(why, pid));
}
END_TEST

START_TEST(foreign_directories_and_newer_formats_are_left_alone)
{
	struct store_config cfg = config(NULL);
	struct store *other;
	char why[256] = "", cmd[128];

	close_store();
	snprintf(cmd, sizeof(cmd), "sed -i 's/^format 1/format 99/' %s/format",
		 dir);
	ck_assert_int_eq(system(cmd), 0);
	ck_assert_int_eq(store_open(&cfg, &other, why, sizeof(why)),
			 -EMEDIUMTYPE);
	ck_assert_ptr_nonnull(strstr(why, "99"));
	snprintf(cmd, sizeof(cmd), "rm %s/format", dir);
	ck_assert_int_eq(system(cmd), 0);
	ck_assert_int_eq(store_open(&cfg, &other, why, sizeof(why)),
			 -EMEDIUMTYPE);
}
END_TEST

START_TEST(a_damaged_index_is_set_aside)
{
	char cmd[300];
	struct stat attr;

	ck_assert_int_eq(put(ROOT, "f", 300000, 1), 0);
	close_store();
	snprintf(
		cmd, sizeof(cmd),
		"dd if=/dev/urandom of=%s/index/data.mdb bs=4096 count=2 conv=notrunc status=none; dd if=/dev/urandom of=%s/index/ckpt bs=100 count=1 conv=notrunc status=none",
		dir, dir);
	ck_assert_int_eq(system(cmd), 0);
	open_store("64M");
	ck_assert_int_eq(store_lookup(st, ROOT, "f", &attr), -ENOENT);
	snprintf(cmd, sizeof(cmd), "test -d %s/index.bad", dir);
	ck_assert_int_eq(system(cmd), 0);
	ck_assert_int_eq(put(ROOT, "f", 300000, 1), 0);
}
END_TEST

START_TEST(the_limit_set_at_run_time_is_remembered)
{
	struct store_limits l = { .limit = "100M", .grace_sec = -1 };
	char why[256];

	ck_assert_int_eq(store_set_limits(st, &l, why, sizeof(why)), 0);
	ck_assert_uint_eq(status().limit, 100 * MIB);
	l.limit = "many";
	ck_assert_int_eq(store_set_limits(st, &l, why, sizeof(why)), -EINVAL);
	ck_assert_ptr_nonnull(strstr(why, "many"));
	close_store();
	open_store(NULL);
	ck_assert_uint_eq(status().limit, 100 * MIB);
}
END_TEST

START_TEST(an_index_of_mostly_free_pages_is_rewritten_at_open)
{
	char name[200], path[100];
	struct stat attr;

	close_store();
	open_store("1G");
	ck_assert_int_eq(put(ROOT, "kept", 300000, 1), 0);
	for (int i = 0; i < 12000; i++) {
		snprintf(name, sizeof(name), "%0180d", i);
		ck_assert_uint_ne(make_dir(ROOT, name), 0);
	}
	for (int i = 0; i < 12000; i++) {
		snprintf(name, sizeof(name), "%0180d", i);
		ck_assert_int_eq(store_rmdir(st, ROOT, name), 0);
	}
	close_store();
	snprintf(path, sizeof(path), "%s/index/data.mdb", dir);
	ck_assert_int_eq(stat(path, &attr), 0);
	ck_assert_int_gt(attr.st_size, 16 * MIB);
	for (int round = 0; round < 2; round++) {
		open_store("1G");
		ck_assert_uint_ge(status().charged, status().used);
		ck_assert_int_eq(verify(ROOT, "kept", 300000, 1), 0);
		close_store();
		ck_assert_int_eq(stat(path, &attr), 0);
		ck_assert_int_lt(attr.st_size, 1 * MIB);
	}
}
END_TEST

START_TEST(prune_takes_the_oldest_first_and_dry_run_nothing)
{
	struct store_prune how = { .older_than_sec = -1, .dry_run = true };
	struct store_pruned res;
	char hash[57];

	for (unsigned i = 0; i < 10; i++) {
		snprintf(hash, sizeof(hash), "%05x%051x", i, i);
		ck_assert_int_eq(put(pip_dir(hash), hash, 100000, i), 0);
	}
	settle();
	how.older_than_sec = 18446744073; /* nearly 2^64 ns */
	ck_assert_int_eq(store_prune(st, &how, &res), 0);
	ck_assert_uint_eq(res.units, 0);
	how.older_than_sec = -1;
	ck_assert_int_eq(store_prune(st, &how, &res), 0);
	ck_assert_uint_eq(res.units, 10);
	ck_assert_uint_eq(status().entries, 10);
	how.dry_run = false;
	ck_assert_int_eq(store_prune(st, &how, &res), 0);
	ck_assert_uint_eq(res.units, 10);
	ck_assert_uint_eq(status().entries, 0);
	ck_assert_uint_eq(status().files, 0);
	ck_assert_uint_eq(status().used_http, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store");
	TCase *tc = tcase_create("facade");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, small_and_large_files_survive_a_clean_remount);
	tcase_add_test(tc, a_killed_process_leaves_the_last_checkpoint);
	tcase_add_test(tc,
		       unlinked_open_file_is_readable_and_its_space_comes_back);
	tcase_add_test(tc, open_for_writing_leaves_what_a_checkpoint_named);
	tcase_add_test(tc, truncate_grows_and_shrinks);
	tcase_add_test(tc, rename_keeps_posix);
	tcase_add_test(tc, readdir_offsets_stay_while_names_go);
	tcase_add_test(tc, pairs_are_evicted_together_and_the_limit_holds);
	tcase_add_test(tc, files_of_no_known_layout_stay_and_the_store_says_so);
	tcase_add_test(tc, changed_pack_is_a_miss_and_takes_its_pair_along);
	tcase_add_test(tc, a_second_process_is_refused_and_told_who_holds_it);
	tcase_add_test(tc,
		       foreign_directories_and_newer_formats_are_left_alone);
	tcase_add_test(tc, a_damaged_index_is_set_aside);
	tcase_add_test(tc, the_limit_set_at_run_time_is_remembered);
	tcase_add_test(tc, an_index_of_mostly_free_pages_is_rewritten_at_open);
	tcase_add_test(tc, prune_takes_the_oldest_first_and_dry_run_nothing);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
