/* SPDX-License-Identifier: MIT */
#include "fs/mounts.h"

#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

static struct mounts read_text(const char *text)
{
	struct mounts m = MOUNTS_INIT;
	FILE *in = fmemopen((void *)(uintptr_t)text, strlen(text), "r");

	ck_assert_ptr_nonnull(in);
	ck_assert_int_eq(mounts_read(in, &m), 0);
	(void)fclose(in);
	return m;
}

START_TEST(only_our_mounts_are_kept)
{
	struct mounts m = read_text(
		"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
		"40 27 0:38 / /mnt/other rw - fuse.sshfs /store rw\n"
		"42 27 0:39 / /mnt/a rw,nosuid shared:1 - fuse.pipcachefs /store rw\n"
		"43 27 0:40 / /mnt/b rw master:2 shared:3 - fuse.pipcachefs /store2 rw\n");

	ck_assert_uint_eq(m.n, 2);
	ck_assert_str_eq(m.entry[0].mountpoint, "/mnt/a");
	ck_assert_str_eq(m.entry[0].store, "/store");
	ck_assert_uint_eq(m.entry[0].minor, 39);
	ck_assert_ptr_eq(mounts_at(&m, "/mnt/b"), &m.entry[1]);
	ck_assert_ptr_null(mounts_at(&m, "/mnt/other"));
	ck_assert_ptr_eq(mounts_of(&m, "/store2"), &m.entry[1]);
	ck_assert_ptr_null(mounts_of(&m, "/stor"));
	mounts_release(&m);
	mounts_release(&m);
}
END_TEST

START_TEST(blanks_and_backslashes_come_back)
{
	struct mounts m = read_text(
		"42 27 0:39 / /a\\040b\\011c\\134d rw - fuse.pipcachefs /s\\040\\134040 rw\n");

	ck_assert_uint_eq(m.n, 1);
	ck_assert_str_eq(m.entry[0].mountpoint, "/a b\tc\\d");
	ck_assert_str_eq(m.entry[0].store, "/s \\040");
	mounts_release(&m);
}
END_TEST

START_TEST(the_upper_mount_hides_the_lower)
{
	struct mounts m =
		read_text("42 27 0:39 / /mnt rw - fuse.pipcachefs /lower rw\n"
			  "43 42 0:40 / /mnt rw - fuse.pipcachefs /upper rw\n");

	ck_assert_str_eq(mounts_at(&m, "/mnt")->store, "/upper");
	mounts_release(&m);
}
END_TEST

START_TEST(a_whole_mount_comes_before_a_part_of_it)
{
	struct mounts m = read_text(
		"42 27 0:39 /http /part rw - fuse.pipcachefs /store rw\n"
		"43 27 0:39 / /whole rw - fuse.pipcachefs /store rw\n");

	ck_assert_str_eq(mounts_of(&m, "/store")->mountpoint, "/whole");
	mounts_release(&m);
}
END_TEST

START_TEST(other_lines_are_skipped)
{
	struct mounts m = read_text("\n - \n1\n1 2 3 4 5 6\n1 2 3 4 5 6 - \n"
				    "1 2 3 4 5 6 - fuse.pipcachefs\n"
				    "1 2 x 4 /m\\ 6 - fuse.pipcachefs s\\09");

	ck_assert_uint_eq(m.n, 1);
	ck_assert_str_eq(m.entry[0].mountpoint, "/m\\");
	ck_assert_str_eq(m.entry[0].store, "s\\09");
	mounts_release(&m);
}
END_TEST

START_TEST(the_table_of_this_process_can_be_read)
{
	struct mounts m = MOUNTS_INIT;

	ck_assert_int_eq(mounts_load(&m), 0);
	ck_assert_ptr_null(mounts_at(&m, "/no/such/mount"));
	mounts_release(&m);
}
END_TEST

static void resolves(const char *path, const char *expected)
{
	cleanup_free char *got = NULL;

	ck_assert_int_eq(mounts_resolve(path, &got), 0);
	ck_assert_str_eq(got, expected);
}

START_TEST(paths_become_absolute)
{
	struct scratch dir = scratch_new();
	struct scratch sub = scratch_at(&dir, "sub");
	struct scratch link = scratch_at(&dir, "link");
	struct scratch gone = scratch_at(&dir, "gone");
	char *none = NULL;

	ck_assert_int_eq(mkdir(sub.path, 0700), 0);
	ck_assert_int_eq(symlink("sub", link.path), 0);
	ck_assert_int_eq(chdir(dir.path), 0);
	resolves("sub", sub.path);
	resolves("link", sub.path);
	resolves("./sub//../link/", sub.path);
	resolves("gone", gone.path);
	resolves("gone///", gone.path);
	resolves("sub/../gone", gone.path);
	resolves("/", "/");
	resolves("/gone-too", "/gone-too");
	ck_assert_int_eq(mounts_resolve("gone/deeper", &none), -ENOENT);
	ck_assert_int_eq(mounts_resolve("gone/..", &none), -ENOENT);
	ck_assert_int_eq(mounts_resolve("", &none), -ENOENT);
	ck_assert_ptr_null(none);
	scratch_remove(&dir);
}
END_TEST

START_TEST(inside_is_by_whole_names)
{
	ck_assert(mounts_inside("/a/b", "/a/b"));
	ck_assert(mounts_inside("/a/b", "/a/b/c/d"));
	ck_assert(mounts_inside("/", "/a"));
	ck_assert(!mounts_inside("/a/b", "/a/bc"));
	ck_assert(!mounts_inside("/a/b", "/a"));
	ck_assert(!mounts_inside("/a/b", "/c"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mounts");
	TCase *tc = tcase_create("mounts");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, only_our_mounts_are_kept);
	tcase_add_test(tc, blanks_and_backslashes_come_back);
	tcase_add_test(tc, the_upper_mount_hides_the_lower);
	tcase_add_test(tc, a_whole_mount_comes_before_a_part_of_it);
	tcase_add_test(tc, other_lines_are_skipped);
	tcase_add_test(tc, the_table_of_this_process_can_be_read);
	tcase_add_test(tc, paths_become_absolute);
	tcase_add_test(tc, inside_is_by_whole_names);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
