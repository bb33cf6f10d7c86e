/* SPDX-License-Identifier: MIT */
/* The checkpoints of a running store: when, what, and what if they fail. */
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

static void setup(void)
{
	kit_dirs(&kit, scratch_new());
	kit.interval_ms = LONG_MS;
}

static void teardown(void)
{
	iotap_hook = NULL;
	kit_close(&kit, false);
	kit_remove(&kit);
}

static void open_kit(int interval_ms)
{
	kit.interval_ms = interval_ms;
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_uint_eq(kit_count(&kit), 1);
}

/* What a power cut would leave, as far as the order of things goes: end
 * without a clean mark and come back. */
static void cut_and_reopen(void)
{
	iotap_hook = NULL;
	(void)kit_close(&kit, false);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
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
	struct pack *pk;

	if (pack_get(kit.packs, id, &pk) < 0)
		return false;
	pack_put(pk);
	return true;
}

/* -- When ----------------------------------------------------------------- */

START_TEST(change_is_saved_after_the_interval_and_then_it_rests)
{
	open_kit(SHORT_MS);
	usleep(4 * SHORT_MS * 1000);
	ck_assert_uint_eq(kit_count(&kit), 1);
	kit_put(&kit, 1, "one");
	kit_wait_count(&kit, 2);
	usleep(4 * SHORT_MS * 1000);
	ck_assert_uint_eq(kit_count(&kit), 2);
	kit_put(&kit, 2, "two");
	kit_wait_count(&kit, 3);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 2), "two");
}
END_TEST

START_TEST(nothing_is_saved_before_the_interval)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	usleep(4 * SHORT_MS * 1000);
	ck_assert_uint_eq(kit_count(&kit), 1);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "");
}
END_TEST

START_TEST(due_is_at_once)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	checkpoint_due(kit.cp);
	kit_wait_count(&kit, 2);
	checkpoint_due(kit.cp); /* with nothing new */
	usleep(SHORT_MS * 1000);
	ck_assert_uint_eq(kit_count(&kit), 2);
}
END_TEST

START_TEST(growth_of_the_index_is_at_once)
{
	char text[200];

	iotap_fake_sync = true; /* the file grows on while it syncs */
	open_kit(LONG_MS);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	for (uint64_t id = 0; id < 100000 && kit_count(&kit) < 2; id++)
		kit_put(&kit, id, text);
	ck_assert_uint_ge(kit_count(&kit), 2);
	ck_assert_uint_ge(index_disk_bytes(kit.ix), CHECKPOINT_GROWTH_BYTES);
	ck_assert_uint_lt(index_disk_bytes(kit.ix),
			  4 * CHECKPOINT_GROWTH_BYTES);
}
END_TEST

static int touches;

/* Like a store that flushes uses: commits each time it has any. */
static void commit_touches(void *arg)
{
	(void)arg;
	touches++;
	kit_put(&kit, 1000, touches % 2 ? "odd" : "even");
}

START_TEST(commits_of_before_do_not_start_the_clock_again)
{
	kit.before = (struct notify){ commit_touches, NULL };
	open_kit(SHORT_MS);
	ck_assert_int_eq(touches, 0);
	kit_put(&kit, 1, "one");
	kit_wait_count(&kit, 2);
	usleep(5 * SHORT_MS * 1000);
	ck_assert_uint_eq(kit_count(&kit), 2);
	ck_assert_int_eq(touches, 1);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1000), "odd");
}
END_TEST

/* -- What ----------------------------------------------------------------- */

START_TEST(run_saves_what_was_committed)
{
	struct checkpoint_stat stat;

	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	checkpoint_stat(kit.cp, &stat);
	ck_assert_uint_eq(stat.count, 2);
	ck_assert_uint_eq(stat.txnid, index_txnid(kit.ix));
	ck_assert_int_le(stat.last_ns, base_now_ns());
	ck_assert_int_gt(stat.last_ns, base_now_ns() - 60 * NSEC_PER_SEC);
	kit_put(&kit, 2, "two");
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_str_eq(kit_get(&kit, 2), "");
}
END_TEST

START_TEST(run_with_nothing_new_does_nothing)
{
	struct pack *pk = NULL;
	uint64_t id;

	open_kit(LONG_MS);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_uint_eq(kit_count(&kit), 1);
	id = new_pack("bytes that no commit names yet");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_uint_eq(kit_count(&kit), 2);
	/* A change without a byte is one. */
	ck_assert_int_eq(pack_get(kit.packs, id, &pk), 0);
	ck_assert_int_eq(pack_truncate(pk, 2), 0);
	pack_put(pk);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_uint_eq(kit_count(&kit), 3);
}
END_TEST

START_TEST(doomed_pack_goes_with_the_next_checkpoint)
{
	uint64_t id;

	open_kit(LONG_MS);
	id = new_pack("bytes");
	kit_put(&kit, 1, "names the pack");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	kit_put(&kit, 1, "names it no more");
	pack_doom(kit.packs, id);
	ck_assert(packs_doomed_bytes(kit.packs) > 0);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert(packs_doomed_bytes(kit.packs) == 0);
	ck_assert(!pack_there(id));
}
END_TEST

START_TEST(ids_are_topped_up)
{
	uint64_t id;

	open_kit(LONG_MS);
	while (index_new_id(kit.ix, INDEX_ID_INO, &id) == 0)
		;
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_uint_eq(kit_count(&kit), 2);
	ck_assert_int_eq(index_new_id(kit.ix, INDEX_ID_INO, &id), 0);
}
END_TEST

static atomic_int after_calls;

static void count_after(void *arg)
{
	(void)arg;
	after_calls++;
}

START_TEST(after_is_told_of_each)
{
	kit.after = (struct notify){ count_after, NULL };
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_int_eq(after_calls, 1);
}
END_TEST

START_TEST(clean_stop_marks_clean_even_with_nothing_new)
{
	open_kit(LONG_MS);
	ck_assert_int_eq(kit_close(&kit, true), 0);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CLEAN);
}
END_TEST

/* -- Together ------------------------------------------------------------- */

static atomic_bool hold;      /* the sync of data.mdb waits */
static atomic_bool held;      /* it does */
static atomic_int data_syncs; /* begun */

static int hold_data_sync(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_SYNC ||
	    !iotap_is(call->fd, "/" MDBFILE_NAME))
		return 0;
	data_syncs++;
	while (hold) {
		held = true;
		usleep(500);
	}
	return 0;
}

#define CALLERS 8

static void *commit_and_run(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg;
	struct checkpoint_stat stat;
	uint64_t txnid;

	kit_put(&kit, id, "x");
	txnid = index_txnid(kit.ix);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	checkpoint_stat(kit.cp, &stat);
	ck_assert_uint_ge(stat.txnid, txnid);
	return NULL;
}

START_TEST(callers_share_one_that_begins_after_they_came)
{
	pthread_t thread[CALLERS + 1];

	open_kit(LONG_MS);
	hold = true;
	iotap_hook = hold_data_sync;
	for (uintptr_t i = 0; i <= CALLERS; i++) {
		ck_assert_int_eq(pthread_create(&thread[i], NULL,
						commit_and_run, (void *)i),
				 0);
		while (!held) /* the first one has begun */
			usleep(500);
	}
	while (index_txnid(kit.ix) < CALLERS + 2)
		usleep(500);
	usleep(4 * SHORT_MS * 1000);
	hold = false;
	for (int i = 0; i <= CALLERS; i++)
		pthread_join(thread[i], NULL);
	/* Two; on a very slow machine a caller may have come too late. */
	ck_assert_int_ge(data_syncs, 2);
	ck_assert_int_le(data_syncs, 3);
}
END_TEST

static atomic_bool stop_writers;

static void *write_on(void *arg)
{
	uint64_t id = (uint64_t)(uintptr_t)arg;

	while (!stop_writers) {
		kit_put(&kit, id, "x");
		if (id == 0)
			pack_doom(kit.packs, new_pack("short-lived"));
	}
	return NULL;
}

START_TEST(writers_go_on_while_it_syncs)
{
	pthread_t thread[3];
	uint64_t before;

	open_kit(LONG_MS);
	hold = true;
	iotap_hook = hold_data_sync;
	for (uintptr_t i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, write_on,
						(void *)i),
				 0);
	checkpoint_due(kit.cp);
	while (!held)
		usleep(500);
	before = index_txnid(kit.ix);
	while (index_txnid(kit.ix) < before + 100)
		usleep(500);
	hold = false;
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	stop_writers = true;
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	cut_and_reopen();
}
END_TEST

/* -- Failures ------------------------------------------------------------- */

static enum iotap_op fail_op;
static const char *fail_end; /* of the path of the file or directory */
static int fail_errno;

static int fail_as_told(const struct iotap_call *call, enum iotap_phase phase)
{
	bool by_dir = iotap_on_name(call->op);

	if (phase != IOTAP_BEFORE || call->op != fail_op)
		return 0;
	return iotap_is(by_dir ? call->dir : call->fd, fail_end) ? fail_errno
								 : 0;
}

static void inject(enum iotap_op op, const char *end, int error)
{
	fail_op = op;
	fail_end = end;
	fail_errno = error;
	iotap_hook = fail_as_told;
}

/* Each fails a checkpoint; whether the new state or the old one comes back
 * does not matter, but it must be one of them. */
static const struct {
	enum iotap_op op;
	const char *end;
} faults[] = {
	{ IOTAP_SYNC, "/" MDBFILE_NAME },    { IOTAP_SYNC, "/packs" },
	{ IOTAP_SYNC, "/" SIDE_TMP_NAME },   { IOTAP_SYNC, "/index" },
	{ IOTAP_WRITE, "/" SIDE_TMP_NAME },  { IOTAP_EXCHANGE, "/index" },
	{ IOTAP_SYNC, "/0000000000000002" },
};

START_TEST(failed_checkpoint_freezes_and_both_states_survive)
{
	struct index_txn *txn;
	uint64_t doomed;

	open_kit(LONG_MS);
	doomed = new_pack("doomed");
	kit_put(&kit, 1, "saved");
	kit_put(&kit, 2, "old");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	for (uint64_t i = 0; i < 200; i++)
		kit_put(&kit, 10 + i % 20, "work");
	kit_put(&kit, 2, "new");
	(void)new_pack("fresh");
	pack_doom(kit.packs, doomed);

	inject(faults[_i].op, faults[_i].end, EIO);
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	iotap_hook = NULL;
	ck_assert_int_eq(checkpoint_error(kit.cp), -EIO);
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO); /* and stays so */
	ck_assert(index_frozen(kit.ix));
	ck_assert_int_eq(index_begin(kit.ix, true, &txn), -EROFS);
	ck_assert_str_eq(kit_get(&kit, 2), "new"); /* it still serves */
	ck_assert(pack_there(doomed));
	ck_assert_int_eq(kit_close(&kit, true), -EIO);

	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	ck_assert_str_eq(kit_get(&kit, 1), "saved");
	if (strcmp(kit_get(&kit, 2), "new") != 0)
		ck_assert_str_eq(kit_get(&kit, 2), "old");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
}
END_TEST

START_TEST(pack_that_cannot_be_synced_fails_it)
{
	open_kit(LONG_MS);
	(void)new_pack("bytes");
	kit_put(&kit, 1, "names the pack");
	inject(IOTAP_SYNC, "/0000000000000001", EIO);
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "");
}
END_TEST

START_TEST(thread_freezes_too)
{
	open_kit(SHORT_MS);
	inject(IOTAP_SYNC, "/" MDBFILE_NAME, EIO);
	kit_put(&kit, 1, "one");
	for (int i = 0; i < 5000 && !checkpoint_error(kit.cp); i++)
		usleep(1000);
	ck_assert_int_eq(checkpoint_error(kit.cp), -EIO);
	ck_assert(index_frozen(kit.ix));
	ck_assert_uint_eq(kit_count(&kit), 1);
}
END_TEST

static int hold_data_sync_and_fail(const struct iotap_call *call,
				   enum iotap_phase phase)
{
	int before = data_syncs;

	(void)hold_data_sync(call, phase);
	return data_syncs > before ? EIO : 0;
}

static void *run_and_fail(void *arg)
{
	(void)arg;
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	return NULL;
}

START_TEST(waiting_callers_learn_of_the_failure)
{
	pthread_t thread[3];

	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	hold = true;
	iotap_hook = hold_data_sync_and_fail;
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, run_and_fail,
						NULL),
				 0);
	while (!held)
		usleep(500);
	usleep(SHORT_MS * 1000);
	hold = false;
	for (int i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	ck_assert_int_eq(data_syncs, 1);
}
END_TEST

START_TEST(first_checkpoint_that_fails_fails_the_start)
{
	inject(IOTAP_SYNC, "/" MDBFILE_NAME, EIO);
	ck_assert_int_eq(kit_open(&kit), -EIO);
	ck_assert_ptr_null(kit.cp);
	iotap_hook = NULL;
	kit_close(&kit, false);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CREATED);
}
END_TEST

START_TEST(clean_stop_that_fails_is_not_clean)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	inject(IOTAP_SYNC, "/" SIDE_TMP_NAME, EIO);
	ck_assert_int_eq(kit_close(&kit, true), -EIO);
	iotap_hook = NULL;
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
}
END_TEST

/* The blocks of the next side file are those of the one before the last. */
START_TEST(full_disk_is_no_obstacle)
{
	open_kit(LONG_MS);
	kit_put(&kit, 1, "one");
	inject(IOTAP_CREATE, "/index", ENOSPC);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	kit_put(&kit, 1, "two");
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "two");
}
END_TEST

/* Some file systems cannot exchange two names. */
START_TEST(plain_rename_will_do)
{
	open_kit(LONG_MS);
	inject(IOTAP_EXCHANGE, "/index", EINVAL);
	for (int i = 0; i < 3; i++) {
		kit_put(&kit, 1, i % 2 ? "odd" : "even");
		ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	}
	cut_and_reopen();
	ck_assert_str_eq(kit_get(&kit, 1), "even");
}
END_TEST

START_TEST(stop_takes_null)
{
	ck_assert_int_eq(checkpoint_stop(NULL, true), 0);
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_running(Suite *suite)
{
	TCase *tc = kit_case(suite, "running", setup, teardown);

	tcase_add_test(tc,
		       change_is_saved_after_the_interval_and_then_it_rests);
	tcase_add_test(tc, nothing_is_saved_before_the_interval);
	tcase_add_test(tc, due_is_at_once);
	tcase_add_test(tc, growth_of_the_index_is_at_once);
	tcase_add_test(tc, commits_of_before_do_not_start_the_clock_again);
	tcase_add_test(tc, run_saves_what_was_committed);
	tcase_add_test(tc, run_with_nothing_new_does_nothing);
	tcase_add_test(tc, doomed_pack_goes_with_the_next_checkpoint);
	tcase_add_test(tc, ids_are_topped_up);
	tcase_add_test(tc, after_is_told_of_each);
	tcase_add_test(tc, clean_stop_marks_clean_even_with_nothing_new);
	tcase_add_test(tc, callers_share_one_that_begins_after_they_came);
	tcase_add_test(tc, writers_go_on_while_it_syncs);
}

static void add_failing(Suite *suite)
{
	TCase *tc = kit_case(suite, "failing", setup, teardown);

	tcase_add_loop_test(tc,
			    failed_checkpoint_freezes_and_both_states_survive,
			    0, (int)ARRAY_SIZE(faults));
	tcase_add_test(tc, pack_that_cannot_be_synced_fails_it);
	tcase_add_test(tc, thread_freezes_too);
	tcase_add_test(tc, waiting_callers_learn_of_the_failure);
	tcase_add_test(tc, first_checkpoint_that_fails_fails_the_start);
	tcase_add_test(tc, clean_stop_that_fails_is_not_clean);
	tcase_add_test(tc, full_disk_is_no_obstacle);
	tcase_add_test(tc, plain_rename_will_do);
	tcase_add_test(tc, stop_takes_null);
}

int main(void)
{
	Suite *suite = suite_create("checkpoint");

	add_running(suite);
	add_failing(suite);
	return kit_run_suite(suite);
}
