/* SPDX-License-Identifier: MIT */
/*
 * A store whose process is killed, and opened again with the same witness: it
 * goes on where it was, with all that was open, and answers what was done.
 * With another witness, or none, it is the one of the last checkpoint.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iotap.h"
#include "scratch.h"
#include "store/side.h"
#include "store/store.h"

static struct scratch dir;
static uint8_t witness[STORE_WITNESS_SIZE];
static _Atomic uint32_t frozen;
static int lock_fd; /* of who was killed, or 0 */

static void set_up(void)
{
	dir = scratch_new();
	memset(witness, 7, sizeof(witness));
}

static void tear_down(void)
{
	scratch_remove(&dir);
}

static int try_open(bool resume, struct store_resume *files, size_t n,
		    struct store **ret)
{
	struct store_config config = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "64M", .min_free = "0", .grace_sec = -1 },
		.witness = witness,
		.frozen = &frozen,
		.resume = resume,
		.lock_fd = lock_fd,
		.files = files,
		.n_files = n
	};
	char why[512];

	return store_open(&config, ret, why, sizeof(why));
}

static struct store *open_store(bool resume, struct store_resume *files,
				size_t n)
{
	struct store *st = NULL;

	ck_assert_int_eq(try_open(resume, files, n, &st), 0);
	return st;
}

/* In a process of its own, which is killed when @fn returns. */
static void killed_after(void (*fn)(struct store *st))
{
	struct store *st;
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		st = open_store(false, NULL, 0);
		fn(st);
		(void)raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static uint64_t lookup(struct store *st, const char *name)
{
	struct stat attr;
	int r = store_lookup(st, STORE_ROOT_INO, name, &attr);

	ck_assert(r == 0 || r == -ENOENT);
	return r == 0 ? attr.st_ino : 0;
}

static struct store_file *create(struct store *st, const char *name)
{
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = name,
				  .mode = 0644 };
	struct store_file *f = NULL;
	struct stat attr;

	ck_assert_int_eq(store_file_create(st, &what, O_RDWR, &attr, &f), 0);
	return f;
}

static void put(struct store_file *f, char c, size_t n, uint64_t off)
{
	cleanup_free char *buf = malloc(n);

	memset(buf, c, n);
	ck_assert_int_eq(store_file_write(f, off, buf, n, false), (ssize_t)n);
}

static void make_dir(struct store *st, const char *name)
{
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = name,
				  .mode = 0755 };

	ck_assert_int_eq(store_mkdir(st, &what, NULL), 0);
}

static void check_store(struct store *st)
{
	struct store_check how = { .data = true };
	struct store_checked found;

	ck_assert_int_eq(store_check(st, &how, &found), 0);
	ck_assert_uint_eq(found.findings, 0);
}

/* ---- what is there ---- */

static void save_and_go_on(struct store *st)
{
	make_dir(st, "saved");
	ck_assert_int_eq(store_sync(st), 0);
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "new%d", i);
		make_dir(st, name);
	}
}

static void go_on_again(struct store *st)
{
	make_dir(st, "again");
}

START_TEST(with_the_witness_nothing_is_lost)
{
	struct store *st;

	killed_after(save_and_go_on);
	st = open_store(true, NULL, 0);
	ck_assert_uint_ne(lookup(st, "saved"), 0);
	ck_assert_uint_ne(lookup(st, "new19"), 0);
	make_dir(st, "more");
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

START_TEST(without_it_the_checkpoint_is_what_there_is)
{
	struct store *st;

	killed_after(save_and_go_on);
	witness[3]++;
	/* The kernel knows names that are gone: not under a mount. */
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -ESTALE);
	st = open_store(false, NULL, 0);
	ck_assert_uint_ne(lookup(st, "saved"), 0);
	ck_assert_uint_eq(lookup(st, "new19"), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

START_TEST(no_witness_is_none)
{
	struct store *st;

	memset(witness, 0, sizeof(witness));
	killed_after(save_and_go_on);
	st = open_store(false, NULL, 0);
	ck_assert_uint_eq(lookup(st, "new19"), 0);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

START_TEST(another_data_file_has_no_witness)
{
	char command[2 * sizeof(dir.path) + 64];
	struct store *st;

	killed_after(save_and_go_on);
	snprintf(command, sizeof(command),
		 "cd '%s/index' && cp data.mdb copy && mv copy data.mdb",
		 dir.path);
	ck_assert_int_eq(system(command), 0);
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -ESTALE);
}
END_TEST

/* What a power cut finds after that is the state that was gone on from: the
 * first checkpoint came before anything else. */
START_TEST(what_was_gone_on_from_is_saved_first)
{
	struct store *st;

	killed_after(save_and_go_on);
	killed_after(go_on_again);
	memset(witness, 9, sizeof(witness));
	st = open_store(false, NULL, 0);
	ck_assert_uint_ne(lookup(st, "new19"), 0);
	ck_assert_uint_eq(lookup(st, "again"), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

static int fail_syncfs(const struct iotap_call *call, enum iotap_phase phase)
{
	return call->op == IOTAP_SYNCFS && phase == IOTAP_BEFORE ? EIO : 0;
}

static void expect_checkpoint(void)
{
	struct store *st = open_store(false, NULL, 0);

	ck_assert_uint_ne(lookup(st, "saved"), 0);
	ck_assert_uint_eq(lookup(st, "new19"), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}

/* The kernel tells of lost writes only once. */
START_TEST(what_may_have_been_lost_is_not_gone_on_from)
{
	struct store *st;

	killed_after(save_and_go_on);
	iotap_hook = fail_syncfs;
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -EIO);
	iotap_hook = NULL;
	ck_assert_uint_eq(frozen, EIO);
	witness[0]++; /* a new mount */
	frozen = 0;
	expect_checkpoint();
}
END_TEST

static unsigned n_changes;

static int count_changes(const struct iotap_call *call, enum iotap_phase phase)
{
	n_changes += phase == IOTAP_DONE && !iotap_on_disk(call->op);
	return 0;
}

static void expect_read_only(struct store *st, int error)
{
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = "refused",
				  .mode = 0755 };
	struct store_status status;

	ck_assert_int_eq(store_mkdir(st, &what, NULL), -EROFS);
	ck_assert_int_eq(store_sync(st), error);
	ck_assert_int_eq(store_status(st, &status), 0);
	ck_assert_int_eq(status.state, STORE_READ_ONLY);
	ck_assert_ptr_nonnull(strstr(status.reason, strerror(-error)));
}

/* It is shown as it was left, time and again, but nothing is written. */
START_TEST(a_store_that_was_frozen_is_served_and_not_changed)
{
	struct store *st;

	killed_after(save_and_go_on);
	frozen = EIO;
	iotap_hook = count_changes;
	for (int i = 0; i < 2; i++) {
		st = open_store(true, NULL, 0);
		ck_assert_uint_ne(lookup(st, "saved"), 0);
		ck_assert_uint_ne(lookup(st, "new19"), 0);
		expect_read_only(st, -EIO);
		/* The lock file says who is ending. */
		ck_assert_uint_eq(n_changes, 0);
		ck_assert_int_eq(store_close(st), -EIO);
		ck_assert_uint_eq(frozen, EIO);
		n_changes = 0;
	}
	iotap_hook = NULL;
	frozen = 0;
	witness[0]++;
	expect_checkpoint();
}
END_TEST

static int refuse_writes(const struct iotap_call *call, enum iotap_phase phase)
{
	/* Of a name that is there the kernel says so first. */
	return phase == IOTAP_BEFORE && call->op != IOTAP_MKDIR ? EROFS : 0;
}

/* Only who has the lock of the last process goes on then. */
START_TEST(on_a_read_only_file_system_it_is_served_too)
{
	struct store *st;

	killed_after(save_and_go_on);
	iotap_hook = refuse_writes;
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -EROFS);
	lock_fd = open(scratch_at(&dir, "lock").path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(lock_fd, 0);
	st = open_store(true, NULL, 0);
	lock_fd = 0; /* the store's now */
	ck_assert_uint_eq(frozen, EROFS);
	ck_assert_uint_ne(lookup(st, "new19"), 0);
	expect_read_only(st, -EROFS);
	ck_assert_int_eq(store_close(st), -EROFS);
	iotap_hook = NULL;
	frozen = 0;
	witness[0]++;
	expect_checkpoint();
}
END_TEST

static void break_index(void)
{
	int fd = open(scratch_at(&dir, "index/data.mdb").path,
		      O_RDWR | O_CLOEXEC);
	uint8_t page[4096];

	/* All but the meta pages; the same once more mends it. */
	for (off_t at = 8192; pread(fd, page, sizeof(page), at) > 0;
	     at += (off_t)sizeof(page)) {
		page[10] = (uint8_t)(page[10] ^ 0xff); /* flags */
		ck_assert_int_eq(pwrite(fd, page, sizeof(page), at), 4096);
	}
	close(fd);
}

/* Not even set aside: the next mount may find that the disk has it right. */
START_TEST(a_frozen_index_that_is_wrong_is_left_alone)
{
	struct store *st;

	killed_after(save_and_go_on);
	break_index();
	frozen = EIO;
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -ESTALE);
	ck_assert_int_ne(access(scratch_at(&dir, "index.bad").path, F_OK), 0);
	break_index();
	frozen = 0;
	witness[0]++;
	expect_checkpoint();
}
END_TEST

/* Without its side file no checkpoint is safe. */
static int put_off_checkpoints(const struct iotap_call *call,
			       enum iotap_phase phase)
{
	bool renames = call->op == IOTAP_RENAME || call->op == IOTAP_EXCHANGE;

	return phase == IOTAP_BEFORE && renames ? ENOMEM : 0;
}

static void save_and_unlink(struct store *st)
{
	struct store_file *f = create(st, "kept");
	struct store_status status = { .used_freed = 0 };

	put(f, 'k', 300000, 0);
	store_file_close(f);
	ck_assert_int_eq(store_sync(st), 0);
	iotap_hook = put_off_checkpoints;
	ck_assert_int_eq(store_unlink(st, STORE_ROOT_INO, "kept"), 0);
	/* Until no record names its pack any more. */
	while (status.used_freed < 300000) {
		usleep(1000);
		ck_assert_int_eq(store_status(st, &status), 0);
	}
}

/* What is gone on from does not name its pack, but what a power cut brings back
 * does, until that is saved: only then may the sweep have the pack. */
START_TEST(nothing_is_swept_before_what_was_gone_on_from_is_saved)
{
	struct store *st;
	char buf[300000];
	struct store_file *f = NULL;
	struct stat attr;

	killed_after(save_and_unlink);
	iotap_hook = fail_syncfs;
	ck_assert_int_eq(try_open(true, NULL, 0, &st), -EIO);
	iotap_hook = NULL;
	frozen = 0;
	witness[0]++;
	st = open_store(false, NULL, 0);
	ck_assert_int_eq(store_lookup(st, STORE_ROOT_INO, "kept", &attr), 0);
	ck_assert_int_eq(store_file_open(st, attr.st_ino, O_RDONLY, &f), 0);
	ck_assert_int_eq(store_file_read(f, 0, buf, sizeof(buf)),
			 (ssize_t)sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		ck_assert_int_eq(buf[i], 'k');
	store_file_close(f);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

/* ---- what is open ---- */

static void leave_open(struct store *st)
{
	struct store_file *f = create(st, "grows");

	put(f, 'g', 100000, 0);
	ck_assert_int_eq(store_sync(st), 0);
	put(f, 'h', 100000, 100000);
	f = create(st, "orphan");
	put(f, 'o', 100000, 0);
	ck_assert_int_eq(store_unlink(st, STORE_ROOT_INO, "orphan"), 0);
	f = create(st, "closed");
	put(f, 'c', 100000, 0);
	store_file_close(f);
}

static void expect_bytes(struct store_file *f, char c, uint64_t off, size_t n)
{
	cleanup_free char *buf = malloc(n);

	ck_assert_int_eq(store_file_read(f, off, buf, n), (ssize_t)n);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_eq(buf[i], c);
}

START_TEST(what_was_open_is_open_again)
{
	/* Inode numbers begin at 2, in the order of creation; the last has
	 * never been. */
	struct store_resume files[] = {
		{ .ino = 2, .flags = O_RDWR },
		{ .ino = 3, .flags = O_RDONLY },
		{ .ino = 2, .flags = O_RDONLY },
		{ .ino = STORE_ROOT_INO, .flags = O_RDONLY | O_DIRECTORY },
		{ .ino = 99, .flags = O_RDONLY },
	};
	struct store_status status;
	struct stat attr;
	struct store *st;

	killed_after(leave_open);
	st = open_store(true, files, ARRAY_SIZE(files));
	for (size_t i = 0; i < 4; i++)
		ck_assert_ptr_nonnull(files[i].file);
	ck_assert_ptr_null(files[4].file);
	ck_assert_uint_eq(lookup(st, "grows"), 2);
	ck_assert_int_eq(store_getattr(st, 2, &attr), 0);
	ck_assert_int_eq(attr.st_size, 200000);
	expect_bytes(files[2].file, 'h', 100000, 100000);
	expect_bytes(files[1].file, 'o', 0, 100000);
	put(files[0].file, 'i', 10, 200000);
	ck_assert_int_eq(store_file_write(files[2].file, 0, "x", 1, false),
			 -EBADF);
	/* Nothing still being written is evicted or ingested: "closed" is. */
	do {
		ck_assert_int_eq(store_status(st, &status), 0);
	} while (status.unsummed);
	ck_assert_uint_eq(status.open_files, 3);
	for (size_t i = 0; i < 4; i++)
		store_file_close(files[i].file);
	ck_assert_int_eq(store_getattr(st, 3, &attr), -ESTALE);
	ck_assert_int_eq(store_getattr(st, 2, &attr), 0);
	ck_assert_int_eq(attr.st_size, 200010);
	ck_assert_uint_ne(lookup(st, "closed"), 0);
	ck_assert_int_eq(store_sync(st), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

START_TEST(what_nobody_has_open_any_more_is_swept)
{
	struct stat attr;
	struct store *st;

	killed_after(leave_open);
	st = open_store(true, NULL, 0);
	ck_assert_int_eq(store_getattr(st, 3, &attr), -ESTALE);
	ck_assert_int_eq(store_getattr(st, 2, &attr), 0);
	ck_assert_int_eq(attr.st_size, 200000);
	ck_assert_int_eq(store_sync(st), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

/* ---- what was done ---- */

static void answer_requests(struct store *st)
{
	store_request_begin(0, 100);
	make_dir(st, "a");
	store_request_end();
	store_request_begin(5, 102);
	ck_assert_int_eq(store_rename(st, 1, "a", 1, "b", 0), 0);
	store_request_end();
	store_request_begin(6, 104);
	ck_assert_int_eq(store_unlink(st, 1, "none"), -ENOENT);
	store_request_end();
	make_dir(st, "no request");
	store_request_begin(0, 106);
	store_file_close(create(st, "file"));
	store_request_end();
}

START_TEST(a_successor_is_told_what_was_done)
{
	struct store *st;
	uint64_t ino = 0;

	killed_after(answer_requests);
	st = open_store(true, NULL, 0);
	ck_assert_int_eq(store_request_done(st, 0, 106, &ino), 1);
	ck_assert_uint_eq(ino, lookup(st, "file"));
	/* The one before of the slot; another slot's; one that failed. */
	ck_assert_int_eq(store_request_done(st, 0, 100, &ino), 0);
	ck_assert_int_eq(store_request_done(st, 5, 102, &ino), 1);
	ck_assert_uint_eq(ino, 0);
	ck_assert_int_eq(store_request_done(st, 5, 106, &ino), 0);
	ck_assert_int_eq(store_request_done(st, 6, 104, &ino), 0);
	ck_assert_int_eq(store_request_done(st, 7, 100, &ino), 0);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
	/* A new mount counts anew. */
	st = open_store(false, NULL, 0);
	ck_assert_int_eq(store_request_done(st, 0, 106, &ino), 0);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

/* ---- an index that is lost under a mount ---- */

START_TEST(inode_numbers_of_a_lost_index_do_not_come_again)
{
	char command[sizeof(dir.path) + 64];
	struct store *st;
	uint64_t before;

	killed_after(save_and_go_on);
	st = open_store(true, NULL, 0);
	before = lookup(st, "new19");
	ck_assert_int_eq(store_close(st), 0);
	snprintf(command, sizeof(command), "echo x > '%s/index/ckpt'",
		 dir.path);
	ck_assert_int_eq(system(command), 0);
	st = open_store(true, NULL, 0);
	ck_assert_uint_eq(lookup(st, "saved"), 0);
	make_dir(st, "first");
	ck_assert_uint_gt(lookup(st, "first"), before);
	ck_assert_uint_gt(lookup(st, "first"), UINT64_C(1) << 40);
	check_store(st);
	ck_assert_int_eq(store_close(st), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("witness");
	TCase *tc = tcase_create("witness");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, with_the_witness_nothing_is_lost);
	tcase_add_test(tc, without_it_the_checkpoint_is_what_there_is);
	tcase_add_test(tc, no_witness_is_none);
	tcase_add_test(tc, another_data_file_has_no_witness);
	tcase_add_test(tc, what_was_gone_on_from_is_saved_first);
	tcase_add_test(tc, what_may_have_been_lost_is_not_gone_on_from);
	tcase_add_test(tc, a_store_that_was_frozen_is_served_and_not_changed);
	tcase_add_test(tc, on_a_read_only_file_system_it_is_served_too);
	tcase_add_test(tc, a_frozen_index_that_is_wrong_is_left_alone);
	tcase_add_test(tc,
		       nothing_is_swept_before_what_was_gone_on_from_is_saved);
	tcase_add_test(tc, what_was_open_is_open_again);
	tcase_add_test(tc, what_nobody_has_open_any_more_is_swept);
	tcase_add_test(tc, a_successor_is_told_what_was_done);
	tcase_add_test(tc, inode_numbers_of_a_lost_index_do_not_come_again);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
