/* SPDX-License-Identifier: MIT */
/* What store_open() makes of an index that is whole but damaged inside. */
#include <check.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iotap.h"
#include "scratch.h"
#include "store/checkpoint.h"
#include "store/mdbfile.h"
#include "store/recover.h"
#include "store/side.h"
#include "store/store.h"

#define ROOT STORE_ROOT_INO

static struct scratch dir;
static struct store *st;
static char why[512], reported[512];

/* LMDB's own, but for the call @fail_env_open, counted from 1. */
static unsigned env_opens, fail_env_open;

int mdb_env_open(void *env, const char *path, unsigned flags, mode_t mode);
int mdb_env_open(void *env, const char *path, unsigned flags, mode_t mode)
{
	union {
		void *symbol;
		int (*call)(void *, const char *, unsigned, mode_t);
	} real = { .symbol = dlsym(RTLD_NEXT, "mdb_env_open") };

	if (++env_opens == fail_env_open)
		return EIO;
	return real.call(env, path, flags, mode);
}

static void on_report(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)snprintf(reported, sizeof(reported), "%s", text);
}

static int try_open(int flags, const char *limit)
{
	struct store_config cfg = {
		.path = dir.path,
		.flags = flags,
		.limits = { .limit = limit, .min_free = "0", .grace_sec = 0 },
		.report = on_report
	};

	why[0] = reported[0] = '\0';
	return store_open(&cfg, &st, why, sizeof(why));
}

static void open_store(void)
{
	int r = try_open(STORE_OPEN_CREATE, "64M");

	ck_assert_msg(r == 0, "store_open: %d %s", r, why);
}

static void close_store(void)
{
	ck_assert_int_eq(store_close(st), 0);
	st = NULL;
}

static void make_dirs(unsigned n)
{
	struct store_new what = { .parent = ROOT, .mode = 0755 };
	char name[200];

	what.name = name;
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "%0180u", i);
		ck_assert_int_eq(store_mkdir(st, &what, NULL), 0);
	}
}

static void remove_dirs(unsigned n)
{
	char name[200];

	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "%0180u", i);
		ck_assert_int_eq(store_rmdir(st, ROOT, name), 0);
	}
}

/* A store with a few names, closed cleanly. */
static void setup(void)
{
	dir = scratch_new();
	open_store();
	make_dirs(3);
	close_store();
}

static void teardown(void)
{
	if (st)
		close_store();
	scratch_remove(&dir);
}

/* -- Damage --------------------------------------------------------------- */

static bool exists(const char *name)
{
	return access(scratch_at(&dir, name).path, F_OK) == 0;
}

static void nothing(void *arg)
{
	(void)arg;
}

/* Put or, with @len 0, delete one record of a closed store; it is clean
 * afterwards as before. */
static void change(enum index_table table, struct record_key key,
		   const void *val, size_t len)
{
	struct scratch path = scratch_at(&dir, "index");
	int fd = scratch_open_dir(&path);
	struct index_txn *txn;
	struct index *ix;

	ck_assert_int_eq(index_open(path.path, 0, GIB,
				    (struct notify){ nothing, NULL }, &ix),
			 0);
	ck_assert_int_eq(index_begin(ix, true, &txn), 0);
	if (len)
		ck_assert_int_eq(index_put(txn, table, &key, val, len, false),
				 0);
	else
		ck_assert_int_eq(index_del(txn, table, &key), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	index_close(ix);
	ck_assert_int_eq(recover_seal(fd), 0);
	close(fd);
}

/* The name of a table, wherever it is in data.mdb. */
static void rename_table(const char *from, const char *to)
{
	struct scratch path = scratch_at(&dir, "index/" MDBFILE_NAME);
	struct scratch_bytes file = scratch_read(path.path);
	uint8_t *at = file.data;
	size_t n = 0;

	while ((at = memmem(at, (size_t)(file.data + file.len - at), from,
			    strlen(from)))) {
		memcpy(at, to, strlen(to));
		at += strlen(from);
		n++;
	}
	ck_assert_uint_gt(n, 0);
	scratch_write(path.path, file.data, file.len);
	free(file.data);
}

static int found_by_a_look(char said[256])
{
	struct scratch path = scratch_at(&dir, "index");
	int fd = scratch_open_dir(&path);
	int found = recover_index(fd, NULL, RECOVER_RDONLY, said, 256);

	close(fd);
	return found;
}

/* Refused with its reason for a command, set aside for a mount. */
static void expect_no_use(const char *reason)
{
	struct stat attr;
	char said[256];

	ck_assert_int_eq(try_open(0, "64M"), -EBADMSG);
	ck_assert_msg(strstr(why, dir.path) != NULL, "no path: %s", why);
	ck_assert_msg(strstr(why, reason) != NULL, "no '%s': %s", reason, why);
	ck_assert_str_eq(reported, "");
	ck_assert(!exists("index.bad"));
	ck_assert_int_eq(found_by_a_look(said), RECOVER_CLEAN);

	open_store();
	ck_assert_msg(strstr(reported, "set aside") != NULL, "%s", reported);
	ck_assert_msg(strstr(reported, reason) != NULL, "%s", reported);
	ck_assert(exists("index.bad/" MDBFILE_NAME));
	ck_assert(exists("packs.bad"));
	ck_assert_int_eq(store_getattr(st, ROOT, &attr), 0);
	ck_assert_uint_eq(attr.st_nlink, 2);
	make_dirs(3);
	close_store();
	open_store();
	ck_assert_str_eq(reported, "");
}

START_TEST(an_undecodable_root_is_no_use)
{
	change(INDEX_INODE, record_key_id(ROOT), "short", 5);
	expect_no_use("root directory");
}
END_TEST

START_TEST(a_root_that_is_no_directory_is_no_use)
{
	struct inode in = { .ino = ROOT, .mode = S_IFREG | 0644, .nlink = 1 };
	uint8_t buf[RECORD_INODE_SIZE];

	record_inode_encode(&in, buf);
	change(INDEX_INODE, record_key_id(ROOT), buf, sizeof(buf));
	expect_no_use("root directory");
}
END_TEST

START_TEST(a_root_that_its_names_have_lost_is_no_use)
{
	change(INDEX_INODE, record_key_id(ROOT), NULL, 0);
	expect_no_use("root directory");
}
END_TEST

START_TEST(a_first_mount_that_was_cut_off_before_the_root_goes_on)
{
	open_store();
	remove_dirs(3);
	close_store();
	change(INDEX_INODE, record_key_id(ROOT), NULL, 0);
	open_store();
	ck_assert(!exists("index.bad"));
	make_dirs(3);
}
END_TEST

static const char *const marks[] = { "next_ino", "next_pack", "next_entry" };

START_TEST(an_undecodable_mark_of_ids_is_no_use)
{
	change(INDEX_META, record_key_text(marks[_i]), "odd", 3);
	expect_no_use("mark of used ids");
}
END_TEST

START_TEST(a_missing_mark_of_ids_is_no_use)
{
	change(INDEX_META, record_key_text(marks[_i]), NULL, 0);
	expect_no_use("mark of used ids");
}
END_TEST

/* The order of the names stays, so only opening the tables tells. */
static const char *const tables[][2] = {
	{ "meta", "metb" },	{ "inode", "inodf" },	{ "inline", "inlinf" },
	{ "dirent", "direnu" }, { "cookie", "cookif" }, { "pack", "pacl" },
	{ "lru", "lrv" },	{ "entry", "entrz" },
};

START_TEST(a_missing_table_is_no_use)
{
	rename_table(tables[_i][0], tables[_i][1]);
	expect_no_use("a table");
}
END_TEST

START_TEST(a_newer_format_is_left_alone_whatever_its_index_is)
{
	change(INDEX_INODE, record_key_id(ROOT), "short", 5);
	scratch_write(scratch_at(&dir, "format").path,
		      "pipcachefs store\nformat 27\n", 27);
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "64M"), -EMEDIUMTYPE);
	ck_assert_ptr_nonnull(strstr(why, "format 27"));
	ck_assert(!exists("index.bad"));
}
END_TEST

/* -- What is said, and what is changed ------------------------------------ */

START_TEST(a_refused_limit_leaves_the_store_closed_cleanly)
{
	char said[256];

	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "many"), -EINVAL);
	ck_assert_ptr_nonnull(strstr(why, "many"));
	ck_assert_int_eq(found_by_a_look(said), RECOVER_CLEAN);
}
END_TEST

/* One whose index will be rewritten. */
static void empty_store(void)
{
	open_store();
	remove_dirs(3);
	close_store();
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "1G"), 0);
	make_dirs(12000);
	remove_dirs(12000);
	close_store();
}

/* The disk fails when the names of the two indexes are to be saved. */
static bool exchanged;

static int fail_to_save_names(const struct iotap_call *call,
			      enum iotap_phase phase)
{
	if (call->op == IOTAP_EXCHANGE && phase == IOTAP_DONE &&
	    !strcmp(call->new_name, "index"))
		exchanged = true;
	return call->op == IOTAP_SYNC && phase == IOTAP_BEFORE && exchanged &&
			       iotap_is(call->fd, dir.path)
		       ? EIO
		       : 0;
}

START_TEST(a_rewrite_that_may_not_be_on_the_disk_is_not_built_on)
{
	empty_store();
	iotap_hook = fail_to_save_names;
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "1G"), -EIO);
	ck_assert(exchanged);
	iotap_hook = NULL;
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "1G"), 0);
	ck_assert(!exists("index.bad") && !exists("index.new"));
}
END_TEST

START_TEST(a_failure_within_a_rewrite_is_told_exactly)
{
	struct stat attr;

	empty_store();
	env_opens = 0;
	fail_env_open = 2; /* after the compact copy has taken its place */
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "1G"), -EIO);
	ck_assert_msg(strstr(why, "opening the index: ") != NULL, "%s", why);
	ck_assert_msg(strstr(why, dir.path) != NULL, "%s", why);
	ck_assert_int_eq(try_open(STORE_OPEN_CREATE, "1G"), 0);
	ck_assert(!exists("index.bad"));
	ck_assert_int_eq(store_getattr(st, ROOT, &attr), 0);
}
END_TEST

/* -- Looking -------------------------------------------------------------- */

static int look(void)
{
	why[0] = '\0';
	return store_look(dir.path, why, sizeof(why));
}

START_TEST(a_look_tells_what_a_mount_would_make_of_it)
{
	struct scratch side = scratch_at(&dir, "index/" SIDE_NAME);
	struct scratch data = scratch_at(&dir, "index/" MDBFILE_NAME);
	struct scratch_bytes before[2], after[2];

	ck_assert_int_eq(look(), 0);
	change(INDEX_META, record_key_text("more"), "12345678", 8);
	before[0] = scratch_read(data.path);
	before[1] = scratch_read(side.path);
	ck_assert_int_eq(look(), 0);
	after[0] = scratch_read(data.path);
	after[1] = scratch_read(side.path);
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(before[i].len, after[i].len);
		ck_assert_mem_eq(before[i].data, after[i].data, after[i].len);
		free(before[i].data);
		free(after[i].data);
	}
	ck_assert_int_eq(unlink(side.path), 0);
	ck_assert_int_eq(look(), -EBADMSG);
	ck_assert_msg(strstr(why, dir.path) && strstr(why, SIDE_NAME), "%s",
		      why);
	ck_assert(!exists("index.bad"));
}
END_TEST

START_TEST(a_look_at_what_was_not_closed_says_so)
{
	open_store();
	ck_assert_int_eq(look(), 1); /* as if this process had been killed */
}
END_TEST

START_TEST(a_look_at_nothing_names_it)
{
	struct scratch none = scratch_at(&dir, "none");

	ck_assert_int_eq(store_look(none.path, why, sizeof(why)), -ENOENT);
	ck_assert_ptr_nonnull(strstr(why, none.path));
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("setup");
	TCase *tc = new_case(suite, "damage");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, an_undecodable_root_is_no_use);
	tcase_add_test(tc, a_root_that_is_no_directory_is_no_use);
	tcase_add_test(tc, a_root_that_its_names_have_lost_is_no_use);
	tcase_add_test(tc,
		       a_first_mount_that_was_cut_off_before_the_root_goes_on);
	tcase_add_loop_test(tc, an_undecodable_mark_of_ids_is_no_use, 0,
			    ARRAY_SIZE(marks));
	tcase_add_loop_test(tc, a_missing_mark_of_ids_is_no_use, 0,
			    ARRAY_SIZE(marks));
	tcase_add_loop_test(tc, a_missing_table_is_no_use, 0,
			    ARRAY_SIZE(tables));
	tcase_add_test(tc, a_newer_format_is_left_alone_whatever_its_index_is);

	tc = new_case(suite, "refusal");
	tcase_add_test(tc, a_refused_limit_leaves_the_store_closed_cleanly);
	tcase_add_test(tc, a_failure_within_a_rewrite_is_told_exactly);
	tcase_add_test(tc,
		       a_rewrite_that_may_not_be_on_the_disk_is_not_built_on);

	tc = new_case(suite, "look");
	tcase_add_test(tc, a_look_tells_what_a_mount_would_make_of_it);
	tcase_add_test(tc, a_look_at_what_was_not_closed_says_so);
	tcase_add_test(tc, a_look_at_nothing_names_it);

	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
