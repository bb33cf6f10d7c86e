/* SPDX-License-Identifier: MIT */
/*
 * Traps: what else may lie in the directory of a store that belongs to
 * somebody else, to make whoever opens it, root perhaps, write or delete
 * somewhere else, or wait for ever.
 */
#include "store/home.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

static struct scratch dir;
static struct home home;
static char why[256];

static void setup(void)
{
	dir = scratch_new();
	home = (struct home)HOME_INIT;
}

static void teardown(void)
{
	home_close(&home);
	scratch_remove(&dir);
}

static int try_open(void)
{
	why[0] = '\0';
	return home_open(&home, dir.path, true, "note", why, sizeof(why));
}

static struct scratch outside;

static void set_trap(void)
{
	outside = scratch_new();
	scratch_write(scratch_at(&outside, "precious").path, "precious", 8);
	ck_assert_int_eq(mkdir(scratch_at(&outside, "d").path, 0700), 0);
}

/* All that was outside is as it was. */
static void check_trap(void)
{
	char text[16] = "";
	int fd = open(scratch_at(&outside, "precious").path, O_RDONLY);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(read(fd, text, sizeof(text)), 8);
	ck_assert_str_eq(text, "precious");
	close(fd);
	/* Fails if anything was made in it. */
	ck_assert_int_eq(rmdir(scratch_at(&outside, "d").path), 0);
	scratch_remove(&outside);
}

static const struct {
	const char *name;
	bool dir;
} traps[] = {
	{ "lock", false },	     { "format", false },
	{ "index", true },	     { "packs", true },
	{ "index/data.mdb", false }, { "index/lock.mdb", false },
	{ "index/ckpt", false },     { "index/ckpt.tmp", false },
};

static void make_store_with(const char *name)
{
	struct scratch at = scratch_at(&dir, name);

	ck_assert_int_eq(try_open(), 0);
	home_close(&home);
	if (unlink(at.path) < 0 && errno != ENOENT)
		ck_assert_int_eq(rmdir(at.path), 0);
}

START_TEST(links_in_a_store_lead_nowhere)
{
	struct scratch to, at = scratch_at(&dir, traps[_i].name);

	set_trap();
	to = scratch_at(&outside, traps[_i].dir ? "d" : "precious");
	make_store_with(traps[_i].name);
	ck_assert_int_eq(symlink(to.path, at.path), 0);
	ck_assert_int_lt(try_open(), 0);
	ck_assert_msg(strstr(why, dir.path) != NULL, "%s", why);
	ck_assert_int_eq(home.dir_fd, -1);
	check_trap();
}
END_TEST

/* To where there is nothing yet: it is not made. */
START_TEST(dangling_links_in_a_store_lead_nowhere)
{
	struct scratch to, at = scratch_at(&dir, traps[_i].name);

	set_trap();
	to = scratch_at(&outside, "new");
	make_store_with(traps[_i].name);
	ck_assert_int_eq(symlink(to.path, at.path), 0);
	ck_assert_int_lt(try_open(), 0);
	ck_assert_int_eq(access(to.path, F_OK), -1);
	check_trap();
}
END_TEST

START_TEST(a_link_as_format_tmp_of_a_new_store_leads_nowhere)
{
	struct scratch to, at = scratch_at(&dir, "format.tmp");

	set_trap();
	to = scratch_at(&outside, "precious");
	ck_assert_int_eq(symlink(to.path, at.path), 0);
	ck_assert_int_lt(try_open(), 0);
	check_trap();
}
END_TEST

START_TEST(a_fifo_in_a_store_blocks_nobody)
{
	struct scratch at = scratch_at(&dir, traps[_i].name);

	make_store_with(traps[_i].name);
	ck_assert_int_eq(mkfifo(at.path, 0600), 0);
	ck_assert_int_lt(try_open(), 0);
}
END_TEST

START_TEST(links_in_what_was_set_aside_lead_nowhere)
{
	struct scratch packs = scratch_at(&dir, "packs");
	struct scratch inner = scratch_at(&packs, "deep");

	set_trap();
	ck_assert_int_eq(try_open(), 0);
	ck_assert_int_eq(symlink(outside.path, inner.path), 0);
	ck_assert_int_eq(home_set_aside(&home), 0);
	(void)home_reclaim(&home);
	ck_assert_int_eq(access(scratch_at(&dir, "packs.bad").path, F_OK), -1);
	check_trap();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("home traps");
	TCase *tc = tcase_create("traps");
	SRunner *runner = srunner_create(suite);
	int failed, n = (int)ARRAY_SIZE(traps);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, links_in_a_store_lead_nowhere, 0, n);
	tcase_add_loop_test(tc, dangling_links_in_a_store_lead_nowhere, 0, n);
	tcase_add_test(tc, a_link_as_format_tmp_of_a_new_store_leads_nowhere);
	tcase_add_loop_test(tc, a_fifo_in_a_store_blocks_nobody, 0, n);
	tcase_add_test(tc, links_in_what_was_set_aside_lead_nowhere);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
