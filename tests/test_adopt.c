/* SPDX-License-Identifier: MIT */
#include "fs/adopt.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "scratch.h"
#include "store/base.h"

static struct scratch from, to;

static void setup(void)
{
	from = scratch_new();
	to = scratch_new();
}

static void teardown(void)
{
	scratch_remove(&from);
	scratch_remove(&to);
}

static void make(const struct scratch *dir, const char *name, const char *text)
{
	struct scratch path = scratch_at(dir, name);

	for (char *s = strchr(path.path + strlen(dir->path) + 1, '/'); s;
	     s = strchr(s + 1, '/')) {
		*s = '\0';
		ck_assert(mkdir(path.path, 0755) == 0 || errno == EEXIST);
		*s = '/';
	}
	scratch_write(path.path, text, strlen(text));
}

static void expect(const struct scratch *dir, const char *name,
		   const char *text)
{
	struct scratch path = scratch_at(dir, name);
	struct scratch_bytes b = scratch_read(path.path);

	ck_assert_uint_eq(b.len, strlen(text));
	ck_assert_int_eq(memcmp(b.data, text, b.len), 0);
	free(b.data);
}

static bool is_there(const struct scratch *dir, const char *name)
{
	struct scratch path = scratch_at(dir, name);
	struct stat st;

	return lstat(path.path, &st) == 0;
}

static int count;

static int count_one(const char *path, const struct stat *st, int flag,
		     struct FTW *ftw)
{
	(void)path;
	(void)st;
	count += flag == FTW_F && ftw->level > 0;
	return 0;
}

static int count_files(const struct scratch *dir)
{
	count = 0;
	ck_assert_int_eq(nftw(dir->path, count_one, 16, FTW_PHYS), 0);
	return count;
}

static struct adopt_result adopt(bool remove)
{
	struct adopt_result res = { .files = 0 };
	int in = scratch_open_dir(&from), out = scratch_open_dir(&to);

	ck_assert_int_eq(adopt_tree(in, out, remove, &res), 0);
	close(in);
	close(out);
	return res;
}

START_TEST(a_tree_is_copied_with_its_times)
{
	const struct timeval times[2] = { { 1000, 0 }, { 2000, 500000 } };
	struct scratch path;
	struct adopt_result res;
	struct stat st;

	make(&from, "http-v2/a/b/hash", "head");
	make(&from, "http-v2/a/b/hash.body", "body!");
	make(&from, "wheels/ab/cd/x.whl", "");
	path = scratch_at(&from, "http-v2/a/b/hash");
	ck_assert_int_eq(utimes(path.path, times), 0);
	ck_assert_int_eq(chmod(path.path, 06640), 0);

	res = adopt(false);
	ck_assert_uint_eq(res.files, 3);
	ck_assert_uint_eq(res.bytes, 9);
	ck_assert_uint_eq(res.left, 0);
	expect(&to, "http-v2/a/b/hash", "head");
	expect(&to, "http-v2/a/b/hash.body", "body!");
	expect(&to, "wheels/ab/cd/x.whl", "");
	path = scratch_at(&to, "http-v2/a/b/hash");
	ck_assert_int_eq(stat(path.path, &st), 0);
	ck_assert_int_eq(st.st_mtim.tv_sec, 2000);
	ck_assert_int_eq(st.st_mtim.tv_nsec, 500000000);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	ck_assert_int_eq(count_files(&to), 3);
	ck_assert_int_eq(count_files(&from), 3);
}
END_TEST

START_TEST(what_is_there_already_stays_and_goes_from_the_source)
{
	struct adopt_result res;

	make(&from, "http/one", "old");
	make(&to, "http/one", "new");
	make(&from, "http/two", "2");
	res = adopt(true);
	ck_assert_uint_eq(res.files, 1);
	expect(&to, "http/one", "new");
	expect(&to, "http/two", "2");
	ck_assert(!is_there(&from, "http"));
}
END_TEST

/* Half of a pair of another time would be a response with a wrong body. */
START_TEST(a_pair_is_taken_as_one_or_not_at_all)
{
	struct adopt_result res;

	make(&from, "d/a", "response of the source");
	make(&from, "d/a.body", "body of the source");
	make(&to, "d/a", "response");
	make(&from, "d/b", "response of the source");
	make(&from, "d/b.body", "body of the source");
	make(&to, "d/b.body", "body");
	res = adopt(true);
	ck_assert_uint_eq(res.files, 0);
	ck_assert_int_eq(count_files(&to), 2);
	ck_assert_int_eq(count_files(&from), 0);
	expect(&to, "d/a", "response");
	expect(&to, "d/b.body", "body");
}
END_TEST

START_TEST(unfinished_files_are_dropped)
{
	struct adopt_result res;

	make(&from, "d/aabcdefg.tmp", "half");
	make(&from, "d/lonely.body", "no response");
	res = adopt(false);
	ck_assert_uint_eq(res.files, 0);
	ck_assert(is_there(&from, "d/aabcdefg.tmp"));
	res = adopt(true);
	ck_assert_uint_eq(res.left, 1);
	ck_assert_int_eq(count_files(&to), 0);
	ck_assert(!is_there(&from, "d/aabcdefg.tmp"));
	ck_assert(is_there(&from, "d/lonely.body"));
}
END_TEST

/* A build can leave anything in its cache. */
START_TEST(links_and_other_things_are_not_followed)
{
	struct scratch outside = scratch_new(), path;
	struct adopt_result res;

	make(&outside, "secret", "secret");
	make(&from, "a", "a");
	path = scratch_at(&from, "link");
	ck_assert_int_eq(symlink(outside.path, path.path), 0);
	path = scratch_at(&from, "pipe");
	ck_assert_int_eq(mkfifo(path.path, 0600), 0);
	path = scratch_at(&from, "file");
	ck_assert_int_eq(symlink("a", path.path), 0);
	/* A link where the destination wants a directory. */
	make(&from, "dir/x", "x");
	path = scratch_at(&to, "dir");
	ck_assert_int_eq(symlink(outside.path, path.path), 0);

	res = adopt(true);
	ck_assert_uint_eq(res.files, 1);
	ck_assert_uint_eq(res.left, 4);
	ck_assert_int_eq(count_files(&outside), 1);
	ck_assert(is_there(&from, "link") && is_there(&from, "pipe") &&
		  is_there(&from, "dir/x"));
	scratch_remove(&outside);
}
END_TEST

START_TEST(very_deep_directories_are_left)
{
	char name[256] = "";
	struct adopt_result res;

	for (int i = 0; i < 40; i++)
		strncat(name, "d/", sizeof(name) - strlen(name) - 1);
	strncat(name, "f", sizeof(name) - strlen(name) - 1);
	make(&from, name, "deep");
	res = adopt(true);
	ck_assert_uint_eq(res.files, 0);
	ck_assert_uint_eq(res.left, 1);
	ck_assert(is_there(&from, name));
}
END_TEST

START_TEST(names_as_long_as_may_be_are_copied)
{
	char name[NAME_MAX + 1];

	memset(name, 'n', NAME_MAX);
	name[NAME_MAX] = '\0';
	make(&from, name, "long");
	ck_assert_uint_eq(adopt(true).files, 1);
	expect(&to, name, "long");
}
END_TEST

/* Nothing is lost, and no half file is left, where writing fails. */
START_TEST(an_error_leaves_the_source)
{
	const struct rlimit small = { 8, 8 };
	struct adopt_result res = { .files = 0 };
	int in = scratch_open_dir(&from), out = scratch_open_dir(&to);

	make(&from, "a", "response");
	make(&from, "a.body", "a body of more than eight bytes");
	(void)signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	ck_assert_int_eq(adopt_tree(in, out, true, &res), -EFBIG);
	ck_assert_uint_eq(res.left, 2);
	ck_assert_int_eq(count_files(&to), 0);
	ck_assert_int_eq(count_files(&from), 2);
	close(in);
	close(out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("adopt");
	TCase *tc = tcase_create("adopt");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_tree_is_copied_with_its_times);
	tcase_add_test(tc,
		       what_is_there_already_stays_and_goes_from_the_source);
	tcase_add_test(tc, a_pair_is_taken_as_one_or_not_at_all);
	tcase_add_test(tc, unfinished_files_are_dropped);
	tcase_add_test(tc, links_and_other_things_are_not_followed);
	tcase_add_test(tc, very_deep_directories_are_left);
	tcase_add_test(tc, names_as_long_as_may_be_are_copied);
	tcase_add_test(tc, an_error_leaves_the_source);
	suite_add_tcase(s, tc);

	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
