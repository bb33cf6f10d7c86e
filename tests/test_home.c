/* SPDX-License-Identifier: MIT */
#include "store/home.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <time.h>

#include "scratch.h"
#include "store/base.h"

static struct scratch dir;
static struct home home, other;
static char why[256];

/* -- Calls that tests stand in for ---------------------------------------- */

static unsigned pauses;		/* instead of sleeping */
static struct home *ends;	/* closed at the first pause */
static unsigned long fake_type; /* of the file system, 0: the real one */
static unsigned fake_block;	/* the same */

int nanosleep(const struct timespec *want, struct timespec *left)
{
	(void)want;
	(void)left;
	pauses++;
	if (ends)
		home_close(ends);
	ends = NULL;
	return 0;
}

int fstatfs(int fd, struct statfs *buf)
{
	memset(buf, 0, sizeof(*buf));
	(void)fd;
	buf->f_type = (__fsword_t)(fake_type ? fake_type : 0xef53);
	buf->f_frsize = fake_block;
	return 0;
}

/* -- Fixture -------------------------------------------------------------- */

static void setup(void)
{
	dir = scratch_new();
	home = other = (struct home)HOME_INIT;
}

static void teardown(void)
{
	home_close(&home);
	home_close(&other);
	scratch_remove(&dir);
}

static int try_open(struct home *h, bool create)
{
	why[0] = '\0';
	return home_open(h, dir.path, create, "note", why, sizeof(why));
}

static void open_home(void)
{
	ck_assert_msg(try_open(&home, true) == 0, "%s", why);
}

/* The refusal names the path and holds @text. */
static void refused(int r, int expect, const char *text)
{
	ck_assert_int_eq(r, expect);
	ck_assert_msg(strstr(why, dir.path) != NULL, "no path in: %s", why);
	ck_assert_msg(strstr(why, text) != NULL, "no '%s' in: %s", text, why);
	ck_assert_int_eq(home.dir_fd, -1);
	ck_assert_int_eq(home.lock_fd, -1);
}

static void write_file(const char *name, const char *text)
{
	struct scratch file = scratch_at(&dir, name);

	scratch_write(file.path, text, strlen(text));
}

static bool exists(const char *name)
{
	struct scratch file = scratch_at(&dir, name);

	return access(file.path, F_OK) == 0;
}

static bool contains(const char *name, const char *text)
{
	struct scratch file = scratch_at(&dir, name);
	struct scratch_bytes bytes = scratch_read(file.path);
	bool found;

	bytes.data[bytes.len] = '\0';
	found = strstr((const char *)bytes.data, text) != NULL;
	free(bytes.data);
	return found;
}

/* -- What is there -------------------------------------------------------- */

START_TEST(an_empty_directory_becomes_a_store)
{
	char pid[32];

	open_home();
	ck_assert(contains("format", "pipcachefs store\nformat 1\nid "));
	(void)snprintf(pid, sizeof(pid), "%d\nrunning\nnote\n", (int)getpid());
	ck_assert(contains("lock", pid));
	ck_assert(exists("index"));
	ck_assert(exists("packs"));
	ck_assert(!exists("format.tmp"));
	home_close(&home);
	ck_assert_int_eq(try_open(&home, false), 0);
}
END_TEST

START_TEST(a_missing_directory_is_made)
{
	ck_assert_int_eq(rmdir(dir.path), 0);
	open_home();
	ck_assert(exists("format"));
}
END_TEST

START_TEST(a_directory_with_a_lock_or_lost_and_found_counts_as_empty)
{
	write_file("lock", "");
	ck_assert_int_eq(mkdirat(AT_FDCWD, scratch_at(&dir, "lost+found").path,
				 0700),
			 0);
	open_home();
}
END_TEST

START_TEST(a_store_keeps_its_id)
{
	struct scratch file = scratch_at(&dir, "format");
	struct scratch_bytes a, b;

	open_home();
	home_close(&home);
	a = scratch_read(file.path);
	open_home();
	b = scratch_read(file.path);
	ck_assert_uint_eq(a.len, b.len);
	ck_assert_mem_eq(a.data, b.data, a.len);
	free(a.data);
	free(b.data);
}
END_TEST

/* -- Refusals ------------------------------------------------------------- */

START_TEST(a_missing_directory_is_refused_unless_one_is_wanted)
{
	ck_assert_int_eq(rmdir(dir.path), 0);
	refused(try_open(&home, false), -ENOENT, "No such file");
	ck_assert_int_eq(mkdir(dir.path, 0700), 0);
	refused(try_open(&home, false), -ENOENT, "no store there yet");
	ck_assert(!exists("lock"));
}
END_TEST

START_TEST(a_path_that_is_no_directory_is_refused)
{
	ck_assert_int_eq(rmdir(dir.path), 0);
	scratch_write(dir.path, "x", 1);
	refused(try_open(&home, true), -ENOTDIR, "Not a directory");
}
END_TEST

START_TEST(a_directory_that_cannot_be_made_is_refused)
{
	struct scratch deep = scratch_at(&dir, "no/such");
	int r = home_open(&home, deep.path, true, NULL, why, sizeof(why));

	refused(r, -ENOENT, "making the store directory");
}
END_TEST

START_TEST(a_directory_of_other_files_is_refused_and_left_alone)
{
	write_file("thesis.txt", "words");
	refused(try_open(&home, true), -EMEDIUMTYPE, "not empty");
	ck_assert(!exists("lock"));
	ck_assert(!exists("index"));
	ck_assert(contains("thesis.txt", "words"));
}
END_TEST

START_TEST(a_foreign_format_file_is_refused)
{
	write_file("format", "something else\n");
	refused(try_open(&home, true), -EMEDIUMTYPE,
		"not that of a pipcachefs");
	ck_assert(!exists("lock"));
}
END_TEST

START_TEST(a_newer_format_is_refused_and_named)
{
	write_file("format", "pipcachefs store\nformat 27\nid 00\n");
	refused(try_open(&home, true), -EMEDIUMTYPE, "format 27");
	ck_assert(strstr(why, "newer pipcachefs") != NULL);
	ck_assert(!exists("lock"));
}
END_TEST

START_TEST(a_format_that_cannot_be_read_is_refused)
{
	ck_assert_int_eq(mkdir(scratch_at(&dir, "format").path, 0700), 0);
	refused(try_open(&home, true), -EISDIR, "format");
}
END_TEST

START_TEST(network_and_fuse_file_systems_are_refused)
{
	static const unsigned long types[] = { 0x6969, 0xff534d42, 0xfe534d42,
					       0x01021997, 0x65735546 };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		fake_type = types[i];
		refused(try_open(&home, true), -ENOTSUP, "local ext4");
	}
	ck_assert(!exists("lock"));
}
END_TEST

START_TEST(a_lock_that_is_no_file_is_refused)
{
	open_home();
	home_close(&home);
	ck_assert_int_eq(unlink(scratch_at(&dir, "lock").path), 0);
	ck_assert_int_eq(mkdir(scratch_at(&dir, "lock").path, 0700), 0);
	refused(try_open(&home, false), -EISDIR, "lock");
}
END_TEST

START_TEST(a_store_without_a_place_for_its_packs_is_refused)
{
	open_home();
	home_close(&home);
	ck_assert_int_eq(rmdir(scratch_at(&dir, "packs").path), 0);
	write_file("packs", "");
	refused(try_open(&home, false), -ENOTDIR, "preparing the store");
}
END_TEST

/* -- The lock ------------------------------------------------------------- */

START_TEST(a_running_holder_is_named_after_a_moment)
{
	char pid[32];

	open_home();
	(void)snprintf(pid, sizeof(pid), "process %d;", (int)getpid());
	ck_assert_int_eq(try_open(&other, false), -EBUSY);
	ck_assert_msg(strstr(why, pid) != NULL, "%s", why);
	ck_assert_msg(strstr(why, dir.path) != NULL, "%s", why);
	ck_assert_int_eq(other.dir_fd, -1);
	ck_assert_uint_gt(pauses, 1);
	ck_assert_uint_lt(pauses, 50);
	ck_assert(contains("lock", "running"));
}
END_TEST

START_TEST(a_holder_that_is_ending_is_waited_for)
{
	open_home();
	home_ending(&home, "note");
	ck_assert(contains("lock", "\nending\nnote\n"));
	ends = &home;
	ck_assert_msg(try_open(&other, false) == 0, "%s", why);
	ck_assert_uint_eq(pauses, 1);
	ck_assert(contains("lock", "\nrunning\n"));
}
END_TEST

START_TEST(a_holder_that_never_ends_is_given_up)
{
	open_home();
	home_ending(&home, NULL);
	ck_assert_int_eq(try_open(&other, false), -EBUSY);
	ck_assert_msg(strstr(why, "not ended within 10 seconds") != NULL, "%s",
		      why);
	ck_assert_uint_gt(pauses, 100);
}
END_TEST

/* -- Probe ---------------------------------------------------------------- */

static int probe(pid_t *ret_pid)
{
	why[0] = '\0';
	return home_probe(dir.path, ret_pid, why, sizeof(why));
}

START_TEST(a_probe_tells_what_is_there_and_changes_nothing)
{
	pid_t pid = -1;

	refused(probe(&pid), -ENOENT, "no store there yet");
	ck_assert_int_eq(pid, 0);
	ck_assert(!exists("lock"));
	open_home();
	ck_assert_int_eq(probe(&pid), 0);
	ck_assert_int_eq(pid, getpid());
	home_close(&home);
	ck_assert_int_eq(probe(&pid), 0);
	ck_assert_int_eq(pid, 0);
	ck_assert_int_eq(unlink(scratch_at(&dir, "lock").path), 0);
	ck_assert_int_eq(probe(&pid), 0);
	ck_assert(!exists("lock"));
}
END_TEST

START_TEST(a_probe_refuses_as_an_open_would)
{
	pid_t pid;

	write_file("thesis.txt", "words");
	refused(probe(&pid), -EMEDIUMTYPE, "not empty");
	write_file("format", "pipcachefs store\nformat 27\n");
	refused(probe(&pid), -EMEDIUMTYPE, "format 27");
	fake_type = 0x6969;
	refused(probe(&pid), -ENOTSUP, "network");
	scratch_remove(&dir);
	refused(probe(&pid), -ENOENT, "No such file");
	ck_assert_int_eq(mkdir(dir.path, 0700), 0);
}
END_TEST

/* -- Setting aside -------------------------------------------------------- */

START_TEST(index_and_packs_are_set_aside_together_and_only_once)
{
	open_home();
	write_file("index/data.mdb", "damaged");
	write_file("packs/0000000000000001", "bytes");
	ck_assert_uint_eq(home_bad_bytes(&home), 0);
	ck_assert_int_eq(home_set_aside(&home), 0);
	ck_assert(exists("index.bad/data.mdb"));
	ck_assert(exists("packs.bad/0000000000000001"));
	ck_assert(exists("index"));
	ck_assert(!exists("index/data.mdb"));
	ck_assert_int_eq(faccessat(home.packs_fd, "0000000000000001", F_OK, 0),
			 -1);
	ck_assert_uint_gt(home_bad_bytes(&home), 0);

	write_file("packs/0000000000000002", "newer");
	ck_assert_int_eq(home_set_aside(&home), 0);
	ck_assert(exists("packs.bad/0000000000000002"));
	ck_assert(!exists("packs.bad/0000000000000001"));
	ck_assert(!exists("index.bad/data.mdb"));
}
END_TEST

START_TEST(what_was_set_aside_is_given_back_with_all_its_bytes)
{
	uint64_t before, bad;

	open_home();
	write_file("packs/0000000000000001", "bytes");
	ck_assert_int_eq(mkdir(scratch_at(&dir, "packs/lost").path, 0700), 0);
	write_file("packs/lost/0000000000000002", "bytes");
	ck_assert_int_eq(home_set_aside(&home), 0);
	before = home_disk_bytes(&home);
	bad = home_bad_bytes(&home);
	ck_assert_uint_gt(bad, 0);
	ck_assert_uint_eq(home_reclaim(&home), bad);
	ck_assert_uint_eq(home_bad_bytes(&home), 0);
	ck_assert(!exists("packs.bad"));
	ck_assert_uint_eq(home_disk_bytes(&home), before - bad);
	ck_assert_uint_eq(home_reclaim(&home), 0);
}
END_TEST

START_TEST(what_a_store_takes_beside_its_packs_grows_with_the_blocks)
{
	const uint64_t files = 6; /* lock, format; the store, index and packs */
	uint64_t small, large;

	open_home();
	small = home_fixed_bytes(&home, 4096);
	ck_assert_uint_ge(small, home_disk_bytes(&home));
	ck_assert_uint_le(small, MIB / 2);
	fake_block = 65536;
	large = home_fixed_bytes(&home, 32768);
	ck_assert_uint_ge(large, files * fake_block + 2 * 2 * fake_block);
	ck_assert_uint_le(large, MIB);
	fake_block = 1 << 30; /* advice, not blocks */
	ck_assert_uint_eq(home_fixed_bytes(&home, 32768), large);
}
END_TEST

/* -- Another index -------------------------------------------------------- */

START_TEST(a_new_index_takes_the_place_of_the_old)
{
	int fd = -1;

	open_home();
	write_file("index/data.mdb", "old");
	ck_assert_int_eq(mkdir(scratch_at(&dir, "index.new").path, 0700), 0);
	write_file("index.new/data.mdb", "left by a crash");
	ck_assert_int_eq(home_new_index(&home, &fd), 0);
	ck_assert(!exists("index.new/data.mdb"));
	write_file("index.new/data.mdb", "new");
	ck_assert_int_eq(home_swap_index(&home, fd), 1);
	ck_assert_int_eq(home.index_fd, fd);
	ck_assert(contains("index/data.mdb", "new"));
	ck_assert(contains("index.new/data.mdb", "old"));
	home_drop_new_index(&home);
	ck_assert(!exists("index.new"));
}
END_TEST

START_TEST(a_swap_that_fails_leaves_the_old_index)
{
	int fd = -1, before;

	open_home();
	write_file("index/data.mdb", "old");
	ck_assert_int_eq(home_new_index(&home, &fd), 0);
	ck_assert_int_eq(rmdir(scratch_at(&dir, "index.new").path), 0);
	before = home.index_fd;
	ck_assert_int_eq(home_swap_index(&home, fd), 0);
	ck_assert_int_eq(home.index_fd, before);
	ck_assert(contains("index/data.mdb", "old"));
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 100);
	suite_add_tcase(suite, tc);
	return tc;
}

static void add_refusals(TCase *tc)
{
	tcase_add_test(tc, a_missing_directory_is_refused_unless_one_is_wanted);
	tcase_add_test(tc, a_path_that_is_no_directory_is_refused);
	tcase_add_test(tc, a_directory_that_cannot_be_made_is_refused);
	tcase_add_test(tc,
		       a_directory_of_other_files_is_refused_and_left_alone);
	tcase_add_test(tc, a_foreign_format_file_is_refused);
	tcase_add_test(tc, a_newer_format_is_refused_and_named);
	tcase_add_test(tc, a_format_that_cannot_be_read_is_refused);
	tcase_add_test(tc, network_and_fuse_file_systems_are_refused);
	tcase_add_test(tc, a_lock_that_is_no_file_is_refused);
	tcase_add_test(tc, a_store_without_a_place_for_its_packs_is_refused);
}

int main(void)
{
	Suite *suite = suite_create("home");
	TCase *tc = new_case(suite, "open");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, an_empty_directory_becomes_a_store);
	tcase_add_test(tc, a_missing_directory_is_made);
	tcase_add_test(
		tc, a_directory_with_a_lock_or_lost_and_found_counts_as_empty);
	tcase_add_test(tc, a_store_keeps_its_id);
	add_refusals(new_case(suite, "refusals"));

	tc = new_case(suite, "lock");
	tcase_add_test(tc, a_running_holder_is_named_after_a_moment);
	tcase_add_test(tc, a_holder_that_is_ending_is_waited_for);
	tcase_add_test(tc, a_holder_that_never_ends_is_given_up);

	tc = new_case(suite, "probe");
	tcase_add_test(tc, a_probe_tells_what_is_there_and_changes_nothing);
	tcase_add_test(tc, a_probe_refuses_as_an_open_would);

	tc = new_case(suite, "aside");
	tcase_add_test(tc,
		       index_and_packs_are_set_aside_together_and_only_once);
	tcase_add_test(tc, what_was_set_aside_is_given_back_with_all_its_bytes);
	tcase_add_test(tc, a_new_index_takes_the_place_of_the_old);
	tcase_add_test(tc, a_swap_that_fails_leaves_the_old_index);
	tcase_add_test(
		tc, what_a_store_takes_beside_its_packs_grows_with_the_blocks);

	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
