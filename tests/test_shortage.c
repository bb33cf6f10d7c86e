/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints that run out of descriptors, memory or room before anything is
 * lost: the store goes on, and what was pinned is made safe later. And an index that
 * LMDB gave up: nothing goes on.
 */
#include "store/checkpoint.h"

#include <check.h>
#include <stdatomic.h>
#include <string.h>

#include "iotap.h"
#include "store/mdbfile.h"
#include "store/side.h"
#include "storekit.h"

#define LONG_MS 100000 /* never, for a test */
#define SHORT_MS 40

static struct kit kit;

/* -- What fails ----------------------------------------------------------- */

static atomic_int pack_error; /* of each open of a pack, until it is 0 */
static atomic_int sync_error; /* of each sync of a pack */
static atomic_int side_error; /* of what is done to the temporary side file: */
static atomic_int side_op;    /* an enum iotap_op */
static atomic_int left;	      /* failures until it works again; < 0: no end */

static bool fails(atomic_int *error)
{
	if (!*error || !left)
		return false;
	if (left > 0)
		left--;
	errno = *error;
	return true;
}

static int failing_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
	if (!(flags & O_CREAT) && fails(&pack_error))
		return -1;
	return pack_io_real.openat(dir_fd, path, flags, mode);
}

static int failing_fdatasync(int fd)
{
	return fails(&sync_error) ? -1 : pack_io_real.fdatasync(fd);
}

/* Putting it in place is an exchange, or a rename where there is none yet. */
static bool is_side_op(const struct iotap_call *call)
{
	enum iotap_op op = call->op == IOTAP_EXCHANGE ? IOTAP_RENAME : call->op;

	if (op != (enum iotap_op)side_op)
		return false;
	if (iotap_on_name(op))
		return iotap_is(call->dir, "/index") &&
		       strcmp(call->name, SIDE_TMP_NAME) == 0;
	return iotap_is(call->fd, "/" SIDE_TMP_NAME);
}

static int fail_side(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || !is_side_op(call))
		return 0;
	return fails(&side_error) ? errno : 0;
}

static int fail_index_dir(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_SYNC ||
	    !iotap_is(call->fd, "/index"))
		return 0;
	return fails(&side_error) ? errno : 0;
}

static int fail_meta(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_WRITE ||
	    call->len >= 512 || !iotap_is(call->fd, "/" MDBFILE_NAME))
		return 0;
	return EIO;
}

static void works_again(void)
{
	pack_error = 0;
	sync_error = 0;
	side_error = 0;
	left = -1;
	iotap_hook = NULL;
}

/* -- Fixture -------------------------------------------------------------- */

static struct {
	atomic_int calls;
	atomic_int error;
	atomic_bool frozen;
} told;

static void note_failed(void *arg, int error, bool frozen)
{
	(void)arg;
	told.error = error;
	told.frozen = frozen;
	told.calls++;
}

static void setup(void)
{
	static struct pack_io io;

	kit_dirs(&kit, scratch_new());
	io = pack_io_real;
	io.openat = failing_openat;
	io.fdatasync = failing_fdatasync;
	kit.io = &io;
	kit.failed = note_failed;
	works_again();
}

static void teardown(void)
{
	works_again();
	kit_close(&kit, false);
	kit_remove(&kit);
}

static void open_kit(int interval_ms)
{
	kit.interval_ms = interval_ms;
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_uint_eq(kit_count(&kit), 1);
}

static uint64_t new_pack(const char *text)
{
	struct pack *pk;
	uint64_t id;

	ck_assert_int_eq(index_new_id(kit.ix, INDEX_ID_PACK, &id), 0);
	ck_assert_int_eq(pack_create(kit.packs, id, &pk), 0);
	ck_assert_int_eq(pack_write(pk, text, strlen(text), 0), 0);
	pack_put(pk);
	return id;
}

static bool pack_there(uint64_t id)
{
	return faccessat(kit.packs_dir, packio_name(id).text, F_OK, 0) == 0;
}

/* End without a clean mark and come back. */
static void cut_and_reopen(void)
{
	works_again();
	(void)kit_close(&kit, false);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
}

static struct checkpoint_stat stat_of(void)
{
	struct checkpoint_stat stat;

	checkpoint_stat(kit.cp, &stat);
	return stat;
}

static const struct {
	atomic_int *where;
	int error;
	enum iotap_op op; /* of side_error */
} shortages[] = {
	{ &pack_error, EMFILE, 0 },
	{ &pack_error, ENFILE, 0 },
	{ &pack_error, ENOMEM, 0 },
	{ &side_error, EMFILE, IOTAP_CREATE },
	{ &side_error, ENFILE, IOTAP_CREATE },
	{ &side_error, ENOMEM, IOTAP_CREATE },
	{ &side_error, ENOSPC, IOTAP_CREATE },
	{ &side_error, EDQUOT, IOTAP_CREATE },
	{ &side_error, ENOSPC, IOTAP_WRITE },
	{ &side_error, EDQUOT, IOTAP_WRITE },
	{ &side_error, ENOMEM, IOTAP_WRITE },
	{ &side_error, ENOSPC, IOTAP_SYNC },
	{ &side_error, EDQUOT, IOTAP_SYNC },
	{ &side_error, ENOSPC, IOTAP_RENAME },
};

/* From here on there is a shortage, and work for a checkpoint, which may come
 * at any time. */
static void run_short(int which)
{
	(void)unlinkat(kit.index_dir, SIDE_TMP_NAME, 0);
	side_op = (int)shortages[which].op;
	iotap_hook = fail_side;
	*shortages[which].where = shortages[which].error;
	kit_put(&kit, 1, "new");
	(void)new_pack("named by 1");
}

/* -- Shortages ------------------------------------------------------------ */

START_TEST(shortage_only_puts_it_off)
{
	int error = -shortages[_i].error;
	struct index_txn *txn;
	uint64_t doomed;

	open_kit(LONG_MS);
	doomed = new_pack("doomed");
	kit_put(&kit, 1, "old");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	pack_doom(kit.packs, doomed);
	run_short(_i);
	ck_assert_int_eq(checkpoint_run(kit.cp), error);
	ck_assert_int_eq(checkpoint_run(kit.cp), error);
	ck_assert_int_eq(checkpoint_error(kit.cp), 0);
	ck_assert_int_eq(stat_of().shortage, error);
	ck_assert_uint_ge(stat_of().put_off, 2);
	ck_assert_uint_eq(stat_of().count, 2);
	ck_assert(!index_frozen(kit.ix));
	ck_assert_int_eq(index_begin(kit.ix, true, &txn), 0);
	index_abort(txn);
	ck_assert(pack_there(doomed));
	kit_put(&kit, 2, "meanwhile");
	ck_assert_int_eq(told.calls, 1); /* once for all of it */
	ck_assert_int_eq(told.error, error);
	ck_assert(!told.frozen);

	works_again();
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_int_eq(stat_of().shortage, 0);
	ck_assert_uint_eq(stat_of().txnid, index_txnid(kit.ix));
	ck_assert_uint_eq(packs_doomed_bytes(kit.packs), 0);
	ck_assert(!pack_there(doomed));
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "new");
	ck_assert_str_eq(kit_get(&kit, 2), "meanwhile");
}
END_TEST

START_TEST(power_cut_during_a_shortage_restores_the_one_before)
{
	uint64_t doomed;

	open_kit(LONG_MS);
	doomed = new_pack("doomed");
	kit_put(&kit, 1, "old");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	pack_doom(kit.packs, doomed);
	run_short(_i);
	ck_assert_int_lt(checkpoint_run(kit.cp), 0);
	for (uint64_t id = 10; id < 200; id++)
		kit_put(&kit, id, "work");
	ck_assert_int_lt(checkpoint_run(kit.cp), 0);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "old");
	ck_assert_str_eq(kit_get(&kit, 10), "");
	ck_assert(pack_there(doomed));
}
END_TEST

START_TEST(thread_tries_again_by_itself)
{
	open_kit(LONG_MS);
	run_short(_i);
	left = 1;
	checkpoint_due(kit.cp);
	for (int i = 0; i < 5000 && !stat_of().put_off; i++)
		usleep(1000);
	ck_assert_uint_eq(stat_of().put_off, 1);
	kit_wait_count(&kit, 2); /* long before the interval is over */
	ck_assert_int_eq(stat_of().shortage, 0);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "new");
}
END_TEST

START_TEST(each_new_shortage_is_told)
{
	open_kit(LONG_MS);
	for (int i = 1; i <= 3; i++) {
		run_short(0);
		ck_assert_int_lt(checkpoint_run(kit.cp), 0);
		ck_assert_int_lt(checkpoint_run(kit.cp), 0);
		ck_assert_int_eq(told.calls, i);
		works_again();
		ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	}
}
END_TEST

/* Nothing that a commit replaces is reused meanwhile. */
START_TEST(growth_stays_bounded_during_a_shortage)
{
	open_kit(LONG_MS);
	index_set_growth(kit.ix, GIB, MIB);
	run_short(0);
	for (uint64_t id = 0; !index_overgrown(kit.ix); id++)
		kit_put(&kit, 10 + id % 50, "work");
	for (int i = 0; i < 3; i++)
		ck_assert_int_lt(checkpoint_run(kit.cp), 0);
	/* The first one has pinned; the others add nothing to what may be. */
	for (uint64_t id = 0; id < 1000 && !index_overgrown(kit.ix); id++) {
		kit_put(&kit, 10 + id % 50, "work");
		ck_assert_int_lt(checkpoint_run(kit.cp), 0);
	}
	ck_assert(index_overgrown(kit.ix));
	works_again();
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert(!index_overgrown(kit.ix));
}
END_TEST

START_TEST(clean_stop_tries_again)
{
	open_kit(SHORT_MS);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	run_short(_i);
	left = 2;
	ck_assert_int_eq(kit_close(&kit, true), 0);
	works_again();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CLEAN);
	ck_assert_str_eq(kit_get(&kit, 1), "new");
}
END_TEST

START_TEST(clean_stop_gives_up_in_the_end)
{
	open_kit(SHORT_MS);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	run_short(_i);
	ck_assert_int_eq(kit_close(&kit, true), -shortages[_i].error);
	works_again();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
}
END_TEST

START_TEST(start_without_descriptors_fails_and_changes_nothing)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
	(void)unlinkat(kit.index_dir, SIDE_TMP_NAME, 0);
	side_op = IOTAP_CREATE;
	iotap_hook = fail_side;
	side_error = EMFILE;
	ck_assert_int_eq(kit_open(&kit), -EMFILE);
	ck_assert_ptr_null(kit.cp);
	works_again();
	kit_close(&kit, false);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
}
END_TEST

/* -- What is none --------------------------------------------------------- */

static const int sync_errors[] = { ENOMEM, ENOSPC, EDQUOT };

START_TEST(sync_without_memory_or_room_freezes)
{
	open_kit(LONG_MS);
	(void)new_pack("bytes");
	kit_put(&kit, 1, "names the pack");
	sync_error = sync_errors[_i];
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	ck_assert_int_eq(checkpoint_error(kit.cp), -EIO);
	ck_assert(index_frozen(kit.ix));
	ck_assert_int_eq(told.calls, 1);
	ck_assert_int_eq(told.error, -EIO);
	ck_assert(told.frozen);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "");
}
END_TEST

/* The rename is done: which side file a power cut would leave, nobody knows. */
START_TEST(sync_of_the_directory_without_room_freezes)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "old");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	kit_put(&kit, 1, "new");
	iotap_hook = fail_index_dir;
	side_error = sync_errors[_i];
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	ck_assert_int_eq(checkpoint_error(kit.cp), -EIO);
	ck_assert(index_frozen(kit.ix));
	ck_assert(told.frozen);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "new"); /* either would be right */
}
END_TEST

START_TEST(failure_after_a_shortage_freezes)
{
	open_kit(LONG_MS);
	run_short(0);
	ck_assert_int_eq(checkpoint_run(kit.cp), -EMFILE);
	pack_error = 0;
	sync_error = EIO;
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	ck_assert(index_frozen(kit.ix));
	ck_assert_int_eq(told.calls, 2);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "");
}
END_TEST

static int commit_one(void)
{
	struct record_key key = record_key_id(1);
	struct index_txn *txn = kit_begin(&kit);

	ck_assert_int_eq(index_put(txn, INDEX_INODE, &key, "x", 1, false), 0);
	return index_commit(txn);
}

static int fail_as_read_only(const struct iotap_call *call,
			     enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_WRITE ||
	    !iotap_is(call->fd, "/" MDBFILE_NAME))
		return 0;
	return EROFS;
}

/* What is there is still good. */
START_TEST(a_disk_that_becomes_read_only_freezes_and_is_told)
{
	struct index_txn *txn;

	open_kit(LONG_MS);
	kit_put(&kit, 5, "kept");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	iotap_hook = fail_as_read_only;
	ck_assert_int_eq(commit_one(), -EROFS);
	ck_assert(index_frozen(kit.ix));
	ck_assert_int_eq(index_begin(kit.ix, true, &txn), -EROFS);
	for (int i = 0; i < 5000 && !told.calls; i++)
		usleep(1000);
	ck_assert_int_eq(told.calls, 1);
	ck_assert(told.frozen);
	ck_assert_int_eq(told.error, -EROFS);
	ck_assert_int_eq(checkpoint_error(kit.cp), -EROFS);
	ck_assert_str_eq(kit_get(&kit, 5), "kept");
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 5), "kept");
	kit_put(&kit, 1, "again");
}
END_TEST

START_TEST(failed_meta_page_freezes_and_is_told)
{
	struct index_txn *txn;

	open_kit(SHORT_MS);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	iotap_hook = fail_meta;
	ck_assert_int_eq(commit_one(), -EIO);
	iotap_hook = NULL;
	ck_assert(index_frozen(kit.ix));
	ck_assert_int_eq(index_begin(kit.ix, true, &txn), -EROFS);
	for (int i = 0; i < 5000 && !told.calls; i++)
		usleep(1000);
	ck_assert_int_eq(told.calls, 1);
	ck_assert(told.frozen);
	ck_assert_int_eq(told.error, -EIO);
	ck_assert_int_eq(checkpoint_error(kit.cp), -EIO);
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	ck_assert_int_eq(kit_close(&kit, true), -EIO);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	kit_put(&kit, 1, "again");
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_each(TCase *tc, const TTest *test)
{
	tcase_add_loop_test(tc, test, 0, (int)ARRAY_SIZE(shortages));
}

int main(void)
{
	Suite *suite = suite_create("shortage");
	TCase *tc = kit_case(suite, "put off", setup, teardown);

	add_each(tc, shortage_only_puts_it_off);
	add_each(tc, power_cut_during_a_shortage_restores_the_one_before);
	add_each(tc, thread_tries_again_by_itself);
	tcase_add_test(tc, each_new_shortage_is_told);
	tcase_add_test(tc, growth_stays_bounded_during_a_shortage);
	add_each(tc, clean_stop_tries_again);
	add_each(tc, clean_stop_gives_up_in_the_end);
	tcase_add_test(tc, start_without_descriptors_fails_and_changes_nothing);
	tc = kit_case(suite, "frozen", setup, teardown);
	tcase_add_loop_test(tc, sync_without_memory_or_room_freezes, 0,
			    (int)ARRAY_SIZE(sync_errors));
	tcase_add_loop_test(tc, sync_of_the_directory_without_room_freezes, 0,
			    (int)ARRAY_SIZE(sync_errors));
	tcase_add_test(tc, failure_after_a_shortage_freezes);
	tcase_add_test(tc, a_disk_that_becomes_read_only_freezes_and_is_told);
	tcase_add_test(tc, failed_meta_page_freezes_and_is_told);
	return kit_run_suite(suite);
}
