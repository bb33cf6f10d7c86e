/* SPDX-License-Identifier: MIT */
#include "tests/packfix.h"

#include <sched.h>

/* --- Uses ---------------------------------------------------------------- */

START_TEST(packs_that_are_not_there_are_not_got)
{
	struct pack *pk = NULL;

	ck_assert_int_eq(pack_get(ps, 7, &pk), -ENOENT);
	pack_put(created(7, "x"));
	ck_assert_int_eq(pack_create(ps, 7, &pk), -EEXIST);
	ck_assert_ptr_null(pk);
	pack_put(NULL);
	packs_close(NULL);
}
END_TEST

START_TEST(descriptor_is_open_only_while_in_use)
{
	unsigned before = open_descriptors();
	struct pack *pk = created(1, "x");
	struct pack *same = got(1);

	ck_assert_ptr_eq(pk, same);
	ck_assert_int_ge(pack_fd_get(pk), 0);
	pack_fd_put(pk);
	ck_assert_uint_eq(open_descriptors(), before + 1);
	pack_ref(pk);
	pack_put(pk);
	pack_put(pk);
	assert_text(same, "x");
	pack_put(same);
	ck_assert_uint_eq(open_descriptors(), before);
}
END_TEST

#define CROWDED 40
#define FEW_FDS 3

START_TEST(more_packs_are_in_use_than_may_be_open)
{
	unsigned before = open_descriptors();
	struct pack *pk[CROWDED];

	packs_close(ps);
	most_fds = FEW_FDS;
	open_packs(&faulty_io);
	for (unsigned i = 0; i < CROWDED; i++)
		pk[i] = created(i, "begin");
	for (unsigned i = 0; i < CROWDED; i++)
		ck_assert_int_eq(pack_write(pk[i], "N", 1, 2), 0);
	checkpoint();
	for (unsigned i = 0; i < CROWDED; i++) {
		assert_text(pk[i], "beNin");
		ck_assert_uint_gt(disk_of(pk[i]), 0);
		ck_assert_uint_le(open_descriptors(), before + FEW_FDS);
	}
	for (unsigned i = 0; i < CROWDED; i++) {
		pack_doom(ps, i);
		pack_put(pk[i]);
	}
	ck_assert_uint_eq(open_descriptors(), before);
	checkpoint();
	for (unsigned i = 0; i < CROWDED; i++)
		ck_assert(!exists(i));
	most_fds = 0;
}
END_TEST

/* It may not be told as a file that is not there, nor crash. */
START_TEST(pack_that_somebody_removed_in_use_is_an_io_error)
{
	struct pack *pk, *others[FEW_FDS + 1];
	char c;

	packs_close(ps);
	most_fds = FEW_FDS;
	open_packs(&faulty_io);
	pk = created(100, "x");
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		others[i] = created(i, "y");
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		assert_text(others[i], "y");
	ck_assert_int_eq(unlinkat(dir_fd, packio_name(100).text, 0), 0);
	ck_assert_int_eq(pack_read(pk, &c, 1, 0), -EIO);
	ck_assert_int_eq(pack_write(pk, "z", 1, 0), -EIO);
	pack_put(pk);
	for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
		pack_put(others[i]);
	most_fds = 0;
}
END_TEST

/* --- Freeing ------------------------------------------------------------- */

START_TEST(fresh_pack_is_freed_at_once)
{
	struct pack *pk = created(1, "x");
	uint64_t disk;

	ck_assert_int_eq(pack_fallocate(pk, FALLOC_FL_KEEP_SIZE, 0, MIB), 0);
	disk = disk_of(pk);
	ck_assert(pack_fresh(pk));
	pack_put(pk);
	pack_doom(ps, 1);
	ck_assert(!exists(1));
	ck_assert_uint_eq(atomic_load(&credited), disk);
	ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
	ck_assert_int_eq(pack_get(ps, 1, &pk), -ENOENT);
}
END_TEST

START_TEST(fresh_pack_in_use_is_freed_at_the_last_put)
{
	struct pack *pk = created(1, "x");

	pack_doom(ps, 1);
	pack_doom(ps, 1); /* twice is harmless */
	ck_assert(exists(1));
	pack_ref(pk);
	pack_put(pk);
	/* Nothing has been truncated; it goes on as it was. */
	assert_text(pk, "x");
	ck_assert_int_eq(pack_write(pk, "yz", 2, 0), 0);
	assert_text(pk, "yz");
	checkpoint();
	ck_assert(exists(1));
	pack_put(pk);
	ck_assert(!exists(1));
	ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
}
END_TEST

START_TEST(pack_that_a_checkpoint_names_waits_for_the_next)
{
	struct packs_batch *batch;
	struct pack *pk = created(1, "x");
	uint64_t disk;

	batch = packs_pin(ps);
	ck_assert(!pack_fresh(pk));
	disk = disk_of(pk);
	pack_put(pk);
	pack_doom(ps, 1);
	ck_assert_uint_eq(packs_doomed_bytes(ps), disk);
	ck_assert_int_eq(packs_sync(ps, batch), 0);
	packs_release(ps, batch, true);
	/* That checkpoint was not the one after the doom. */
	ck_assert(exists(1));
	ck_assert_uint_eq(atomic_load(&credited), 0);
	checkpoint();
	ck_assert(!exists(1));
	ck_assert_uint_eq(atomic_load(&credited), disk);
	ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
}
END_TEST

START_TEST(doomed_pack_in_use_is_freed_after_both)
{
	struct packs_batch *batch;
	struct pack *pk = created(1, "x");
	struct pack *other = created(2, "y");

	checkpoint();
	pack_doom(ps, 1);
	pack_doom(ps, 2);
	checkpoint();
	ck_assert(exists(1) && exists(2));
	assert_text(pk, "x");
	pack_put(pk);
	ck_assert(!exists(1));

	/* The put comes before the end of the checkpoint. */
	pack_put(other);
	ck_assert(!exists(2));
	pk = created(3, "z");
	checkpoint();
	pack_doom(ps, 3);
	batch = packs_pin(ps);
	pack_put(pk);
	ck_assert(exists(3));
	pk = got(3);
	packs_release(ps, batch, true);
	ck_assert(exists(3));
	assert_text(pk, "z");
	pack_put(pk);
	ck_assert(!exists(3));
}
END_TEST

START_TEST(failed_checkpoint_keeps_the_files)
{
	struct packs_batch *batch;
	struct pack *pk = created(1, "x");

	checkpoint();
	pack_doom(ps, 1);
	batch = packs_pin(ps);
	packs_release(ps, batch, false);
	ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
	pack_put(pk);
	checkpoint();
	ck_assert(exists(1));
	ck_assert_uint_eq(atomic_load(&credited), 0);
}
END_TEST

START_TEST(unknown_pack_is_doomed_from_its_file)
{
	pack_put(created(1, "x"));
	checkpoint();
	/* A later mount: the table knows nothing of it. */
	packs_close(ps);
	open_packs(&faulty_io);
	pack_doom(ps, 1);
	pack_doom(ps, 2); /* is not there */
	ck_assert(exists(1));
	checkpoint();
	ck_assert(!exists(1));
	ck_assert_uint_gt(atomic_load(&credited), 0);
}
END_TEST

/* --- Checkpoints --------------------------------------------------------- */

START_TEST(only_what_changed_is_synced)
{
	struct pack *a = created(1, "a");
	struct pack *b = created(2, "b");

	memset(calls, 0, sizeof(calls));
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 3); /* two packs and the directory */
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 3);
	ck_assert_int_eq(pack_write(a, "x", 1, 0), 0);
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 4);
	ck_assert_int_eq(pack_truncate(a, 0), 0);
	ck_assert_int_eq(pack_fallocate(b, 0, 0, 100), 0);
	pack_put(a);
	pack_put(b);
	/* Also those that are closed, and without keeping them open. */
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 6);
	a = got(1);
	b = got(2);
	ck_assert_int_eq(pack_copy_range(b, 0, a, 0, 10), 10);
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 7);
	pack_put(a);
	pack_put(b);
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 7);
}
END_TEST

START_TEST(change_after_the_pin_belongs_to_the_next)
{
	struct pack *pk = created(1, "a");
	struct packs_batch *batch = packs_pin(ps);

	ck_assert_int_eq(pack_write(pk, "b", 1, 0), 0);
	ck_assert_int_eq(packs_sync(ps, batch), 0);
	packs_release(ps, batch, true);
	memset(calls, 0, sizeof(calls));
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 1);
	pack_put(pk);
}
END_TEST

START_TEST(doomed_packs_are_not_synced)
{
	struct pack *pk = created(1, "a");
	struct packs_batch *batch;

	checkpoint();
	ck_assert_int_eq(pack_write(pk, "b", 1, 0), 0);
	pack_put(pk);
	pack_doom(ps, 1);
	memset(calls, 0, sizeof(calls));
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 0);
	/* Doomed after the pin: the snapshot names it. */
	pk = created(2, "c");
	batch = packs_pin(ps);
	pack_put(pk);
	pack_doom(ps, 2);
	ck_assert_int_eq(packs_sync(ps, batch), 0);
	ck_assert_uint_eq(calls[SYNC], 2);
	packs_release(ps, batch, true);
	ck_assert(exists(2));
}
END_TEST

START_TEST(first_error_of_a_sync_is_returned)
{
	struct packs_batch *batch;
	unsigned before = open_descriptors();

	for (uint64_t nth = 1; nth <= 3; nth++) {
		pack_put(created(2 * nth, "a"));
		pack_put(created(2 * nth + 1, "b"));
		batch = packs_pin(ps);
		fail_next(SYNC, (unsigned)nth, EIO);
		ck_assert_int_eq(packs_sync(ps, batch), -EIO);
		packs_release(ps, batch, false);
	}
	for (uint64_t nth = 1; nth <= 4; nth++) {
		pack_put(created(20 + 2 * nth, "a"));
		pack_put(created(20 + 2 * nth + 1, "b"));
		batch = packs_pin(ps);
		fail_next(OPENAT, (unsigned)nth, EMFILE);
		ck_assert_int_eq(packs_sync(ps, batch), -EMFILE);
		packs_release(ps, batch, false);
	}
	ck_assert_uint_eq(open_descriptors(), before);
}
END_TEST

START_TEST(batch_is_synced_again_after_a_shortage)
{
	struct packs_batch *batch;

	pack_put(created(1, "a"));
	pack_put(created(2, "b"));
	batch = packs_pin(ps);
	for (unsigned nth = 1; nth <= 4; nth++) {
		fail_next(OPENAT, nth, ENFILE);
		ck_assert_int_eq(packs_sync(ps, batch), -ENFILE);
	}
	pack_put(created(3, "after the pin"));
	memset(calls, 0, sizeof(calls));
	ck_assert_int_eq(packs_sync(ps, batch), 0);
	ck_assert_uint_eq(calls[SYNC], 3);
	packs_release(ps, batch, true);
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 5);
}
END_TEST

/* Bytes may be lost, so that it must not look like a shortage. */
START_TEST(sync_without_memory_is_an_io_error)
{
	struct packs_batch *batch;

	for (unsigned nth = 1; nth <= 2; nth++) {
		pack_put(created(nth, "a"));
		batch = packs_pin(ps);
		fail_next(SYNC, nth, ENOMEM);
		ck_assert_int_eq(packs_sync(ps, batch), -EIO);
		packs_release(ps, batch, false);
	}
}
END_TEST

START_TEST(pack_that_somebody_removed_holds_up_nothing)
{
	pack_put(created(1, "a"));
	pack_put(created(2, "b"));
	ck_assert_int_eq(unlinkat(dir_fd, packio_name(1).text, 0), 0);
	memset(calls, 0, sizeof(calls));
	checkpoint();
	ck_assert_uint_eq(calls[SYNC], 2);
}
END_TEST

START_TEST(dirty_bytes_call_for_a_checkpoint_once)
{
	static const char buf[6000];
	struct pack *pk = created(1, "");

	ck_assert_int_eq(pack_write(pk, buf, sizeof(buf), 0), 0);
	ck_assert_uint_eq(atomic_load(&due), 0);
	ck_assert_int_eq(pack_write(pk, buf, sizeof(buf), 0), 0);
	ck_assert_int_eq(pack_write(pk, buf, sizeof(buf), 0), 0);
	ck_assert_uint_eq(atomic_load(&due), 1);
	ck_assert_uint_eq(packs_dirty_bytes(ps), 3 * sizeof(buf));
	checkpoint();
	ck_assert_uint_eq(packs_dirty_bytes(ps), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pack_write(pk, buf, sizeof(buf), 0), 0);
	ck_assert_uint_eq(atomic_load(&due), 2);
	pack_put(pk);
}
END_TEST

/* --- Faults anywhere ----------------------------------------------------- */

#define CAMPAIGN_IDS 4

/* A bit of everything, whatever fails. */
static void campaign_run(uint64_t first)
{
	static const char bytes[5000];
	struct packs_batch *batch;
	struct pack *pk = NULL;
	struct pack *copy = NULL;
	char buf[100];

	for (uint64_t id = first; id < first + 2; id++) {
		if (pack_create(ps, id, &pk) < 0)
			continue;
		(void)pack_fallocate(pk, FALLOC_FL_KEEP_SIZE, 0, 8192);
		(void)pack_write(pk, bytes, sizeof(bytes), 0);
		(void)pack_truncate(pk, sizeof(bytes));
		pack_put(pk);
	}
	batch = packs_pin(ps);
	packs_release(ps, batch, packs_sync(ps, batch) >= 0);
	if (pack_get(ps, first, &pk) < 0)
		return;
	(void)pack_read(pk, buf, sizeof(buf), 100);
	if (pack_create(ps, first + 2, &copy) >= 0) {
		(void)pack_clone(pk, copy, sizeof(bytes));
		pack_put(copy);
		pack_doom(ps, first + 2);
	}
	pack_doom(ps, first);
	pack_put(pk);
}

START_TEST(fault_at_any_call_leaves_nothing_behind)
{
	unsigned before = open_descriptors();
	uint64_t first = 1;
	unsigned nth = 0;

	do {
		nth++;
		fail_next(CALLS, nth, nth % 2 ? EIO : EMFILE);
		campaign_run(first);
		if (fault.nth)
			break; /* there is no nth call */
		for (uint64_t id = first; id < first + CAMPAIGN_IDS; id++)
			pack_doom(ps, id);
		checkpoint();
		for (uint64_t id = first; id < first + CAMPAIGN_IDS; id++) {
			pack_doom(ps, id); /* what could not be unlinked */
			checkpoint();
			ck_assert(!exists(id));
		}
		ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
		ck_assert_uint_eq(open_descriptors(), before);
		first += CAMPAIGN_IDS;
	} while (nth < 1000);
	ck_assert_uint_gt(nth, 15);
	ck_assert_uint_lt(nth, 1000);
}
END_TEST

/* --- Threads ------------------------------------------------------------- */

#define CROWD 4
#define CROWD_ROUNDS 400

static atomic_uint_fast64_t next_id;
static atomic_bool made[CROWD * CROWD_ROUNDS];
static atomic_uint wrong;
static atomic_bool crowd_over;

/* Each pack says its id, as long as anybody reads it. */
static void crowd_write(uint64_t id)
{
	struct pack *pk = NULL;

	if (pack_create(ps, id, &pk) < 0 ||
	    pack_write(pk, &id, sizeof(id), 0) < 0)
		atomic_fetch_add(&wrong, 1);
	atomic_store(&made[id], true);
	pack_put(pk);
}

static void crowd_read(uint64_t id)
{
	struct pack *pk = NULL;
	uint64_t said = 0;

	if (!atomic_load(&made[id]) || pack_get(ps, id, &pk) < 0)
		return; /* not there yet, or gone */
	sched_yield();
	if (pack_read(pk, &said, sizeof(said), 0) != sizeof(said) || said != id)
		atomic_fetch_add(&wrong, 1);
	pack_put(pk);
}

static void *crowd_main(void *arg)
{
	unsigned seed = *(unsigned *)arg;
	uint64_t id;

	for (int i = 0; i < CROWD_ROUNDS; i++) {
		id = atomic_fetch_add(&next_id, 1);
		crowd_write(id);
		for (int k = 0; k < 4; k++)
			crowd_read(id -
				   (uint64_t)rand_r(&seed) % 16 % (id + 1));
		if (rand_r(&seed) % 4)
			pack_doom(ps, id);
	}
	return NULL;
}

static void *crowd_checkpoints(void *arg)
{
	struct packs_batch *batch;

	while (!atomic_load(&crowd_over)) {
		batch = packs_pin(ps);
		if (packs_sync(ps, batch) < 0)
			atomic_fetch_add(&wrong, 1);
		packs_release(ps, batch, true);
		usleep(1000);
	}
	return arg;
}

START_TEST(crowd_of_threads_reads_what_was_written)
{
	pthread_t threads[CROWD], saver;
	unsigned seeds[CROWD];

	packs_close(ps);
	open_packs(NULL);
	pthread_create(&saver, NULL, crowd_checkpoints, NULL);
	for (unsigned i = 0; i < CROWD; i++) {
		seeds[i] = i;
		pthread_create(&threads[i], NULL, crowd_main, &seeds[i]);
	}
	for (unsigned i = 0; i < CROWD; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&crowd_over, true);
	pthread_join(saver, NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	for (uint64_t id = 0; id < atomic_load(&next_id); id++)
		pack_doom(ps, id);
	checkpoint();
	for (uint64_t id = 0; id < atomic_load(&next_id); id++)
		ck_assert(!exists(id));
	ck_assert_uint_eq(packs_doomed_bytes(ps), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pack");
	SRunner *runner = srunner_create(suite);
	TCase *tc;
	int failed;

	tc = pack_case(suite, "uses");
	tcase_add_test(tc, packs_that_are_not_there_are_not_got);
	tcase_add_test(tc, descriptor_is_open_only_while_in_use);
	tcase_add_test(tc, more_packs_are_in_use_than_may_be_open);
	tcase_add_test(tc, pack_that_somebody_removed_in_use_is_an_io_error);
	tc = pack_case(suite, "freeing");
	tcase_add_test(tc, fresh_pack_is_freed_at_once);
	tcase_add_test(tc, fresh_pack_in_use_is_freed_at_the_last_put);
	tcase_add_test(tc, pack_that_a_checkpoint_names_waits_for_the_next);
	tcase_add_test(tc, doomed_pack_in_use_is_freed_after_both);
	tcase_add_test(tc, failed_checkpoint_keeps_the_files);
	tcase_add_test(tc, unknown_pack_is_doomed_from_its_file);
	tc = pack_case(suite, "checkpoints");
	tcase_add_test(tc, only_what_changed_is_synced);
	tcase_add_test(tc, change_after_the_pin_belongs_to_the_next);
	tcase_add_test(tc, doomed_packs_are_not_synced);
	tcase_add_test(tc, first_error_of_a_sync_is_returned);
	tcase_add_test(tc, batch_is_synced_again_after_a_shortage);
	tcase_add_test(tc, sync_without_memory_is_an_io_error);
	tcase_add_test(tc, pack_that_somebody_removed_holds_up_nothing);
	tcase_add_test(tc, dirty_bytes_call_for_a_checkpoint_once);
	tc = pack_case(suite, "faults anywhere");
	tcase_add_test(tc, fault_at_any_call_leaves_nothing_behind);
	tc = pack_case(suite, "threads");
	tcase_add_test(tc, crowd_of_threads_reads_what_was_written);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
