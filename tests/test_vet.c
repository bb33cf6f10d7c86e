/* SPDX-License-Identifier: MIT */
/* When the index is walked at open, and what comes of it. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scratch.h"
#include "store/checkpoint.h"
#include "store/mdbfile.h"
#include "store/recover.h"
#include "store/store.h"
#include "store/table.h"
#include "store/walk.h"

#define FILES 400

static struct scratch dir;
static struct store *st;
static char why[512], reports[2048];

static void on_report(void *arg, int priority, const char *text)
{
	size_t len = strlen(reports);

	(void)arg;
	(void)priority;
	(void)snprintf(reports + len, sizeof(reports) - len, "%s\n", text);
}

static int try_open(int flags, bool distrust)
{
	struct store_config cfg = {
		.path = dir.path,
		.flags = flags,
		.limits = { .limit = "64M", .min_free = "0", .grace_sec = 0 },
		.distrust = distrust,
		.report = on_report,
	};

	why[0] = reports[0] = '\0';
	return store_open(&cfg, &st, why, sizeof(why));
}

static void open_store(bool distrust)
{
	int r = try_open(STORE_OPEN_CREATE, distrust);

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
}

static void close_store(void)
{
	ck_assert_int_eq(store_close(st), 0);
	st = NULL;
}

/* Where a link leads. */
static void target_of(unsigned i, char ret[40])
{
	(void)snprintf(ret, 40, "the target of link number %06u", i);
}

static void make_links(void)
{
	char name[80], target[40];
	struct store_new what = { .parent = STORE_ROOT_INO, .name = name };

	for (unsigned i = 0; i < FILES; i++) {
		(void)snprintf(name, sizeof(name), "link-%060u", i);
		target_of(i, target);
		ck_assert_int_eq(store_symlink(st, &what, target, NULL), 0);
	}
}

/* Links of which @ret_good can be read. */
static unsigned links(void)
{
	struct stat attr;
	char name[80], target[STORE_NAME_MAX + 1];
	unsigned good = 0;

	for (unsigned i = 0; i < FILES; i++) {
		(void)snprintf(name, sizeof(name), "link-%060u", i);
		if (store_lookup(st, STORE_ROOT_INO, name, &attr) == 0 &&
		    store_readlink(st, attr.st_ino, target, sizeof(target)) ==
			    0)
			good++;
	}
	return good;
}

static void setup(void)
{
	dir = scratch_new();
	open_store(false);
	make_links();
	close_store();
}

static void teardown(void)
{
	if (st)
		close_store();
	scratch_remove(&dir);
}

/* -- Changing what is closed ------------------------------------------------ */

static void nothing(void *arg)
{
	(void)arg;
}

/* When the index was walked last, as the closed store says; with @set that is
 * changed first. */
static uint64_t walked(const uint64_t *set)
{
	struct scratch path = scratch_at(&dir, "index");
	int fd = scratch_open_dir(&path);
	struct index_txn *txn;
	struct index *ix;
	uint64_t sec;

	ck_assert_int_eq(index_open(path.path, 0, GIB,
				    (struct notify){ nothing, NULL }, &ix),
			 0);
	ck_assert_int_eq(index_begin(ix, true, &txn), 0);
	if (set)
		ck_assert_int_eq(table_meta_put(txn, TABLE_META_WALKED, *set),
				 0);
	ck_assert_int_eq(table_meta_get(txn, TABLE_META_WALKED, &sec), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	index_close(ix);
	ck_assert_int_eq(recover_seal(fd), 0);
	close(fd);
	return sec;
}

/* Change the targets of @n links, in all versions that the file has. */
static void damage(unsigned n)
{
	struct scratch path = scratch_at(&dir, "index/" MDBFILE_NAME);
	struct scratch_bytes file = scratch_read(path.path);
	char target[40];

	for (unsigned i = 0; i < n; i++) {
		uint8_t *at = file.data;

		target_of(i, target);
		while ((at = memmem(at, (size_t)(file.data + file.len - at),
				    target, strlen(target))))
			*at ^= 0x20;
	}
	scratch_write(path.path, file.data, file.len);
	free(file.data);
}

/* -- When ------------------------------------------------------------------- */

static bool told_of_damage(void)
{
	return strstr(reports, "records of the index are damaged") != NULL;
}

START_TEST(clean_index_is_not_walked_each_time)
{
	damage(3);
	open_store(false);
	ck_assert_msg(!told_of_damage(), "%s", reports);
	ck_assert_uint_eq(links(), FILES - 3);
}
END_TEST

START_TEST(distrusted_index_is_walked)
{
	damage(3);
	open_store(true);
	ck_assert_msg(strstr(reports, "3 records of the index are damaged") &&
			      strstr(reports, "table inline, key 0"),
		      "%s", reports);
	ck_assert_uint_eq(links(), FILES - 3);
}
END_TEST

/* Killed while it had the store open. */
static void be_killed(void)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (try_open(STORE_OPEN_CREATE, false) == 0)
			raise(SIGKILL);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

START_TEST(restored_index_is_walked)
{
	be_killed();
	damage(2);
	open_store(false);
	ck_assert_msg(strstr(reports, "2 records of the index are damaged"),
		      "%s", reports);
	ck_assert_ptr_nonnull(strstr(reports, "back at its last checkpoint"));
	ck_assert_uint_eq(links(), FILES - 2);
}
END_TEST

START_TEST(index_is_walked_once_in_30_days)
{
	uint64_t now = (uint64_t)(base_now_ns() / NSEC_PER_SEC), then;

	then = walked(NULL);
	ck_assert_uint_ge(then, now - 100);
	damage(1);
	open_store(false);
	ck_assert(!told_of_damage());
	close_store();
	ck_assert_uint_eq(walked(NULL), then);

	then = now - (uint64_t)WALK_EVERY_SEC + 1000;
	(void)walked(&then);
	open_store(false);
	ck_assert(!told_of_damage());
	close_store();
	then = now - (uint64_t)WALK_EVERY_SEC - 1;
	(void)walked(&then);
	open_store(false);
	ck_assert_msg(told_of_damage(), "%s", reports);
	close_store();
	ck_assert_uint_ge(walked(NULL), now);
}
END_TEST

/* A clock that was wrong is no reason never to look again. */
START_TEST(walk_of_the_future_is_not_believed)
{
	uint64_t then = UINT64_C(1) << 40;

	(void)walked(&then);
	damage(1);
	open_store(false);
	ck_assert_msg(told_of_damage(), "%s", reports);
	close_store();
	ck_assert_uint_lt(walked(NULL), then);
}
END_TEST

/* -- A daemon that dies of its index ---------------------------------------- */

/* What a failing disk does to a mapped file: the next access is a signal. */
static void die_of_the_index(void)
{
	struct scratch path = scratch_at(&dir, "index/" MDBFILE_NAME);
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (try_open(STORE_OPEN_CREATE, false) < 0 ||
		    truncate(path.path, 2 * sysconf(_SC_PAGESIZE)) < 0)
			_exit(0);
		(void)links();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	/* A sanitizer makes an exit of the signal. */
	ck_assert_msg(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS
					  : WEXITSTATUS(status) != 0,
		      "the child ended with 0x%x", status);
}

static void expect_a_new_start(void)
{
	ck_assert_msg(strstr(reports, "set aside as index.bad"), "%s", reports);
	ck_assert_uint_eq(links(), 0);
	make_links();
	close_store();
	open_store(false);
	ck_assert_str_eq(reports, "");
	ck_assert_uint_eq(links(), FILES);
}

START_TEST(index_that_kills_its_daemon_is_set_aside)
{
	die_of_the_index();
	open_store(_i > 0); /* distrusted or not */
	expect_a_new_start();
}
END_TEST

static void add(Suite *suite, TCase *tc)
{
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	Suite *suite = suite_create("vet");
	TCase *tc = tcase_create("when");
	SRunner *runner = srunner_create(suite);
	int failed;

	scratch_in_memory();
	add(suite, tc);
	tcase_add_test(tc, clean_index_is_not_walked_each_time);
	tcase_add_test(tc, distrusted_index_is_walked);
	tcase_add_test(tc, restored_index_is_walked);
	tcase_add_test(tc, index_is_walked_once_in_30_days);
	tcase_add_test(tc, walk_of_the_future_is_not_believed);
	tc = tcase_create("death");
	add(suite, tc);
	tcase_add_loop_test(tc, index_that_kills_its_daemon_is_set_aside, 0, 2);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
