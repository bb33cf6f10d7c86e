/* SPDX-License-Identifier: MIT */
/* Dead ranges of packs: when they are punched, and what stays as it was. */
#include "store/holes.h"

#include <check.h>
#include <stdatomic.h>

#include "tests/holefix.h"

#define LONG_ENOUGH_US 30000 /* for a thread that does not wait to end */

static void holes_setup(void)
{
	setup();
	ck_assert_int_eq(section_new(&readers), 0);
	open_holes(&faulty_io);
}

/* Without faults, which are not for threads. */
static void threads_setup(void)
{
	setup();
	packs_close(ps);
	open_packs(NULL);
	ck_assert_int_eq(section_new(&readers), 0);
	open_holes(NULL);
}

static void holes_teardown(void)
{
	holes_close(h);
	section_free(readers);
	teardown();
}

static void release(void)
{
	holes_pin(h);
	ck_assert_int_eq(holes_release(h, true), 0);
}

/* Add, and through a checkpoint. */
static void punched(uint64_t id, uint64_t off, uint64_t len)
{
	holes_add(h, id, off, len);
	release();
}

/* -- What is punched ------------------------------------------------------ */

START_TEST(range_is_dead_to_its_exact_bytes)
{
	uint64_t before;

	make_pack(1, 10 * BLOCK);
	before = disk(1);
	holes_add(h, 1, 1000, 3 * BLOCK);
	ck_assert_uint_eq(holes_bytes(h), 3 * BLOCK);
	release();
	check_range(1, 0, 1000, false);
	check_range(1, 1000, 1000 + 3 * BLOCK, true);
	check_range(1, 1000 + 3 * BLOCK, 10 * BLOCK, false);
	/* The blocks at both ends are shared with others. */
	ck_assert_uint_eq(disk(1), before - 2 * BLOCK);
	ck_assert_uint_eq(atomic_load(&credited), 2 * BLOCK);
	ck_assert_uint_eq(holes_bytes(h), 0);
}
END_TEST

START_TEST(neighbours_of_one_batch_leave_nothing)
{
	uint64_t before;

	make_pack(1, 10 * BLOCK);
	before = disk(1);
	holes_add(h, 1, 0, 1000);
	holes_add(h, 1, 5000, BLOCK * 2 - 5000);
	holes_add(h, 1, 1000, 4000);
	ck_assert_uint_eq(holes_bytes(h), 2 * BLOCK);
	memset(calls, 0, sizeof(calls));
	release();
	ck_assert_uint_eq(calls[FALLOCATE], 1);
	ck_assert_uint_eq(disk(1), before - 2 * BLOCK);
	check_range(1, 0, 2 * BLOCK, true);
	check_range(1, 2 * BLOCK, 10 * BLOCK, false);
}
END_TEST

START_TEST(neighbours_of_different_batches_leave_nothing)
{
	uint64_t before;

	make_pack(1, 10 * BLOCK);
	before = disk(1);
	punched(1, 1000, 100);
	punched(1, 1200, 7 * BLOCK);
	ck_assert_uint_eq(atomic_load(&credited), 6 * BLOCK);
	punched(1, 0, 1000);
	punched(1, 1200 + 7 * BLOCK, BLOCK - 1200);
	ck_assert_uint_eq(atomic_load(&credited), 7 * BLOCK);
	punched(1, 1100, 100);
	ck_assert_uint_eq(atomic_load(&credited), 8 * BLOCK);
	ck_assert_uint_eq(disk(1), before - 8 * BLOCK);
	check_range(1, 8 * BLOCK, 10 * BLOCK, false);
}
END_TEST

START_TEST(last_block_goes_with_the_end_of_the_file)
{
	uint64_t size, bytes;
	struct pack *pk;

	make_pack(1, 2 * BLOCK + 10);
	punched(1, 2 * BLOCK, 10);
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
	pk = got(1);
	ck_assert_int_eq(pack_stat(pk, &size, &bytes), 0);
	ck_assert_uint_eq(size, 2 * BLOCK + 10);
	pack_put(pk);
	check_range(1, 0, 2 * BLOCK, false);
	check_range(1, 2 * BLOCK, 2 * BLOCK + 10, true);
}
END_TEST

START_TEST(zeros_of_others_stay_zeros)
{
	static const uint8_t zeros[500];
	struct pack *pk;

	make_pack(1, 2 * BLOCK);
	pk = got(1);
	ck_assert_int_eq(pack_write(pk, zeros, sizeof(zeros), 0), 0);
	ck_assert_int_eq(fdatasync(pack_fd_get(pk)), 0);
	pack_fd_put(pk);
	pack_put(pk);
	punched(1, sizeof(zeros), BLOCK - sizeof(zeros));
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
	check_range(1, 0, BLOCK, true);
	check_range(1, BLOCK, 2 * BLOCK, false);
}
END_TEST

START_TEST(many_ranges_of_many_packs_in_any_order)
{
	uint64_t before[4] = { 0 };

	for (uint64_t id = 1; id < 4; id++) {
		make_pack(id, 40 * BLOCK);
		before[id] = disk(id);
	}
	/* All but each fourth piece of 600 bytes. */
	for (uint64_t i = 0; i < 3 * 200; i++) {
		uint64_t n = i * 7 % 600;

		if (n % 4)
			holes_add(h, 1 + n / 200, n % 200 * 600, 600);
	}
	memset(calls, 0, sizeof(calls));
	release();
	ck_assert_uint_eq(calls[OPENAT], 2 * 3);
	ck_assert_uint_eq(calls[FALLOCATE], 3 * 50);
	ck_assert_uint_eq(calls[SYNC], 3);
	for (uint64_t id = 1; id < 4; id++) {
		for (uint64_t n = 0; n < 200; n++)
			check_range(id, n * 600, (n + 1) * 600, n % 4);
		check_range(id, 200 * 600, 40 * BLOCK, false);
		before[0] += before[id] - disk(id);
	}
	ck_assert_uint_eq(atomic_load(&credited), before[0]);
}
END_TEST

START_TEST(ranges_that_cannot_be_are_ignored)
{
	make_pack(1, BLOCK);
	holes_add(h, 1, 100, 0);
	holes_add(h, 1, UINT64_MAX, 10);
	holes_add(h, 1, 10, UINT64_MAX);
	ck_assert_uint_eq(holes_bytes(h), 0);
	punched(1, 100 * BLOCK, 1000); /* behind the end */
	punched(1, INT64_MAX - 1000, 1000);
	check_range(1, 0, BLOCK, false);
	ck_assert_uint_eq(disk(1), BLOCK);
}
END_TEST

START_TEST(what_is_too_much_is_left)
{
	uint64_t i;

	make_pack(1, 10);
	for (i = 0; i < HOLES_MAX; i++)
		holes_add(h, 2, 3 * i, 2);
	holes_add(h, 1, 0, 10);
	ck_assert_uint_eq(holes_bytes(h), 2 * HOLES_MAX);
	release(); /* there is no pack 2 */
	check_range(1, 0, 10, false);
	punched(1, 0, 10);
	check_range(1, 0, 10, true);
}
END_TEST

/* -- When ----------------------------------------------------------------- */

START_TEST(range_added_after_the_pin_waits_for_the_next)
{
	make_pack(1, 4 * BLOCK);
	holes_add(h, 1, 0, BLOCK);
	holes_pin(h);
	holes_add(h, 1, BLOCK, BLOCK);
	ck_assert_uint_eq(holes_bytes(h), 2 * BLOCK);
	ck_assert_int_eq(holes_release(h, true), 0);
	ck_assert_uint_eq(holes_bytes(h), BLOCK);
	check_range(1, 0, BLOCK, true);
	check_range(1, BLOCK, 4 * BLOCK, false);
	release();
	check_range(1, 0, 2 * BLOCK, true);
	check_range(1, 2 * BLOCK, 4 * BLOCK, false);
}
END_TEST

START_TEST(failed_checkpoint_punches_nothing)
{
	make_pack(1, 4 * BLOCK);
	holes_add(h, 1, 0, BLOCK);
	holes_pin(h);
	holes_add(h, 1, BLOCK, BLOCK);
	ck_assert_int_eq(holes_release(h, false), 0);
	ck_assert_uint_eq(holes_bytes(h), BLOCK);
	check_range(1, 0, 4 * BLOCK, false);
	ck_assert_uint_eq(atomic_load(&credited), 0);
}
END_TEST

static void *release_main(void *arg)
{
	(void)holes_release(h, true);
	atomic_store((atomic_bool *)arg, true);
	return NULL;
}

START_TEST(range_is_left_to_its_readers)
{
	unsigned ticket = section_enter(readers);
	atomic_bool done = false;
	pthread_t thread;

	make_pack(1, 4 * BLOCK);
	holes_add(h, 1, 0, BLOCK);
	holes_pin(h);
	ck_assert_int_eq(pthread_create(&thread, NULL, release_main, &done), 0);
	usleep(LONG_ENOUGH_US);
	ck_assert(!atomic_load(&done));
	ck_assert_uint_eq(holes_bytes(h), BLOCK);
	check_range(1, 0, 4 * BLOCK, false);
	section_leave(readers, ticket);
	pthread_join(thread, NULL);
	check_range(1, 0, BLOCK, true);

	/* With nothing to punch nobody is waited for. */
	ticket = section_enter(readers);
	release();
	section_leave(readers, ticket);
}
END_TEST

START_TEST(who_measures_is_left_alone)
{
	atomic_bool done = false;
	pthread_t thread;
	uint64_t before;

	make_pack(1, 4 * BLOCK);
	before = disk(1);
	holes_add(h, 1, 0, BLOCK);
	holes_pin(h);
	holes_lock(h);
	ck_assert_int_eq(pthread_create(&thread, NULL, release_main, &done), 0);
	usleep(LONG_ENOUGH_US);
	ck_assert_uint_eq(disk(1), before);
	holes_unlock(h);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(disk(1), before - BLOCK);
}
END_TEST

/* -- Faults --------------------------------------------------------------- */

START_TEST(pack_that_is_gone_holds_up_nothing)
{
	make_pack(2, 2 * BLOCK);
	holes_add(h, 1, 0, BLOCK);
	holes_add(h, 2, 0, BLOCK);
	holes_add(h, 3, 0, BLOCK);
	release();
	check_range(2, 0, BLOCK, true);
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
}
END_TEST

START_TEST(file_system_that_cannot_keeps_all)
{
	unsigned fds = open_descriptors();

	make_pack(1, 6 * BLOCK);
	for (uint64_t i = 0; i < 3; i++)
		holes_add(h, 1, 2 * i * BLOCK, BLOCK);
	fail_next(FALLOCATE, 1, EOPNOTSUPP);
	fault.more = 2;
	release();
	check_range(1, 0, 6 * BLOCK, false);
	ck_assert_uint_eq(atomic_load(&credited), 0);
	ck_assert_uint_eq(holes_bytes(h), 0);
	ck_assert_uint_eq(open_descriptors(), fds);
}
END_TEST

/* Whatever call fails: what is alive stays, and the credit is right. */
START_TEST(any_call_may_fail)
{
	unsigned fds = open_descriptors();
	unsigned failed = 0;

	for (unsigned nth = 1; nth <= 20; nth++) {
		uint64_t id = nth;
		uint64_t before;
		int r;

		atomic_store(&credited, 0);
		make_pack(id, 8 * BLOCK);
		before = disk(id);
		holes_add(h, id, 100, BLOCK);
		holes_add(h, id, 3 * BLOCK + 100, 2 * BLOCK);
		fail_next(CALLS, nth, EIO);
		holes_pin(h);
		r = holes_release(h, true);
		fault.nth = 0;
		check_range(id, 0, 100, false);
		check_range(id, 100 + BLOCK, 3 * BLOCK + 100, false);
		check_range(id, 5 * BLOCK + 100, 8 * BLOCK, false);
		ck_assert(r == 0 || r == -EIO);
		if (r == 0)
			ck_assert_uint_eq(disk(id),
					  before - atomic_load(&credited));
		else
			ck_assert_uint_eq(atomic_load(&credited), 0);
		failed += r < 0;
	}
	/* To open it for the sync, and the sync. */
	ck_assert_uint_eq(failed, 2);
	ck_assert_uint_eq(open_descriptors(), fds);
}
END_TEST

/* A want of descriptors passes: it must not freeze the store. */
START_TEST(holes_that_cannot_be_saved_yet_are_credited_later)
{
	uint64_t before;

	make_pack(1, 4 * BLOCK);
	before = disk(1);
	holes_add(h, 1, 0, BLOCK);
	fail_next(OPENAT, 2, EMFILE); /* after the one to punch */
	release();
	ck_assert_uint_eq(fault.nth, 0);
	ck_assert_uint_eq(disk(1), before - BLOCK);
	ck_assert_uint_eq(atomic_load(&credited), 0);
	release();
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
	ck_assert_uint_eq(holes_bytes(h), 0);
}
END_TEST

START_TEST(interrupted_calls_are_made_again)
{
	make_pack(1, 4 * BLOCK);
	punched(1, 100, 100);
	holes_add(h, 1, 0, 100);
	holes_add(h, 1, 200, BLOCK - 200);
	fault.trickle = true;
	release();
	fault.trickle = false;
	check_range(1, 0, BLOCK, true);
	check_range(1, BLOCK, 4 * BLOCK, false);
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
}
END_TEST

/* -- Beside readers and writers ------------------------------------------- */

#define LIVE 8
#define LEN 5000
#define MOVES (SLOW_BUILD ? 150 : 1000)

static atomic_uint_fast64_t place[LIVE]; /* of the block, in pack 1 */
static atomic_bool stop;
static atomic_uint wrong;
static atomic_int_fast64_t charged;

static void *reader_main(void *arg)
{
	struct pack *pk = arg;
	uint8_t buf[LEN];

	for (size_t n = 0; !atomic_load(&stop); n++) {
		unsigned t = section_enter(readers);
		uint64_t off = atomic_load(&place[n % LIVE]);
		ssize_t r = pack_read(pk, buf, LEN, off);

		section_leave(readers, t);
		for (size_t i = 0; i < LEN; i++)
			r -= buf[i] == (uint8_t)(n % LIVE + 1);
		if (r)
			atomic_fetch_add(&wrong, 1);
	}
	return NULL;
}

/* Append a block as a writer of a shared pack does, charged as it grew. */
static void append(struct pack *pk, size_t n, uint64_t off)
{
	uint64_t before;
	uint8_t buf[LEN];

	memset(buf, (int)(n + 1), LEN);
	holes_lock(h);
	before = disk_of(pk);
	ck_assert_int_eq(pack_write(pk, buf, LEN, off), 0);
	atomic_fetch_add(&charged, (int64_t)(disk_of(pk) - before));
	holes_unlock(h);
}

static void *checkpoint_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop))
		release();
	return NULL;
}

START_TEST(moved_blocks_are_read_whole_and_bytes_charged_once)
{
	pthread_t threads[3];
	struct pack *pk = NULL;
	int64_t left;

	ck_assert_int_eq(pack_create(ps, 1, &pk), 0);
	for (size_t n = 0; n < LIVE; n++) {
		append(pk, n, n * LEN);
		atomic_store(&place[n], n * LEN);
	}
	pthread_create(&threads[0], NULL, checkpoint_main, NULL);
	pthread_create(&threads[1], NULL, reader_main, pk);
	pthread_create(&threads[2], NULL, reader_main, pk);
	for (size_t i = LIVE; i < MOVES; i++) {
		uint64_t old = atomic_load(&place[i % LIVE]);

		append(pk, i % LIVE, i * LEN);
		atomic_store(&place[i % LIVE], i * LEN);
		holes_add(h, 1, old, LEN);
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	release();
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	left = (int64_t)disk_of(pk);
	/* The map of the file may have grown as the disk was written to. */
	ck_assert_int_le(left, LIVE * LEN + 4 * BLOCK);
	left -= atomic_load(&charged) - (int64_t)atomic_load(&credited);
	ck_assert_int_le(left, 4 * BLOCK);
	ck_assert_int_ge(left, -4 * BLOCK);
	pack_put(pk);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("holes");
	TCase *tc = kit_case(suite, "holes", holes_setup, holes_teardown);

	tcase_add_test(tc, range_is_dead_to_its_exact_bytes);
	tcase_add_test(tc, neighbours_of_one_batch_leave_nothing);
	tcase_add_test(tc, neighbours_of_different_batches_leave_nothing);
	tcase_add_test(tc, last_block_goes_with_the_end_of_the_file);
	tcase_add_test(tc, zeros_of_others_stay_zeros);
	tcase_add_test(tc, many_ranges_of_many_packs_in_any_order);
	tcase_add_test(tc, ranges_that_cannot_be_are_ignored);
	tcase_add_test(tc, what_is_too_much_is_left);
	tcase_add_test(tc, range_added_after_the_pin_waits_for_the_next);
	tcase_add_test(tc, failed_checkpoint_punches_nothing);
	tcase_add_test(tc, pack_that_is_gone_holds_up_nothing);
	tcase_add_test(tc, file_system_that_cannot_keeps_all);
	tcase_add_test(tc, any_call_may_fail);
	tcase_add_test(tc, holes_that_cannot_be_saved_yet_are_credited_later);
	tcase_add_test(tc, interrupted_calls_are_made_again);
	tc = kit_case(suite, "threads", threads_setup, holes_teardown);
	tcase_add_test(tc, range_is_left_to_its_readers);
	tcase_add_test(tc, who_measures_is_left_alone);
	tcase_add_test(tc, moved_blocks_are_read_whole_and_bytes_charged_once);
	return kit_run_suite(suite);
}
