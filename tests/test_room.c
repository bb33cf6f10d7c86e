/* SPDX-License-Identifier: MIT */
#include "store/room.h"

#include <check.h>
#include <stdatomic.h>

#define LIMIT (64 * MIB)

static struct room *rm;
static atomic_int_fast64_t disk_free;

static int64_t disk_free_bytes(void *arg)
{
	(void)arg;
	return atomic_load(&disk_free);
}

static void setup(void)
{
	struct room_disk disk = { .free_bytes = disk_free_bytes };

	atomic_store(&disk_free, (int64_t)GIB);
	ck_assert_int_eq(room_new(disk, &rm), 0);
	room_set_limit(rm, LIMIT, 0, 0);
}

static void teardown(void)
{
	room_free(rm);
	room_free(NULL); /* is fine */
}

static struct room_stat stat_now(void)
{
	struct room_stat st;

	room_stat(rm, &st);
	return st;
}

static uint64_t ceiling(enum quota_class class)
{
	struct room_stat st = stat_now();

	return quota_ceiling(&st.quota, class);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

/* Charge so that just @bytes are left below the ceiling of @class. */
static void fill(enum quota_class class, uint64_t bytes)
{
	room_settle(rm, 0, ceiling(class) - bytes - stat_now().quota.charged);
}

/* room_reserve() in another thread. */
struct writer {
	pthread_t thread;
	enum quota_class class;
	uint64_t bytes;
	bool disk_full; /* room_disk_full() instead */
	int64_t took_ms;
	int result;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	int64_t start = now_ms();

	w->result = w->disk_full ? room_disk_full(rm, w->class, w->bytes)
				 : room_reserve(rm, w->class, w->bytes);
	w->took_ms = now_ms() - start;
	return NULL;
}

static void writer_start(struct writer *w)
{
	ck_assert_int_eq(pthread_create(&w->thread, NULL, writer_main, w), 0);
}

static int writer_join(struct writer *w)
{
	ck_assert_int_eq(pthread_join(w->thread, NULL), 0);
	return w->result;
}

/* What the evictor is told within five seconds. */
static struct room_need need_now(void)
{
	struct room_need need;

	ck_assert_int_eq(room_wait(rm, 5000, &need), 1);
	return need;
}

static void assert_no_need(void)
{
	struct room_need need;

	ck_assert_int_eq(room_wait(rm, 0, &need), 0);
}

/* --- Charging ----------------------------------------------------------- */

START_TEST(charge_is_what_was_reserved_then_what_was_used)
{
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 1000), 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 500), 0);
	ck_assert_uint_eq(stat_now().quota.charged, 1500);
	ck_assert_uint_eq(stat_now().reserved, 1500);
	room_settle(rm, 1000, 600);
	ck_assert_uint_eq(stat_now().quota.charged, 1100);
	ck_assert_uint_eq(stat_now().reserved, 500);
	room_settle(rm, 500, 700);
	ck_assert_uint_eq(stat_now().quota.charged, 1300);
	ck_assert_uint_eq(stat_now().reserved, 0);
	room_credit(rm, 1300);
	ck_assert_uint_eq(stat_now().quota.charged, 0);
}
END_TEST

START_TEST(parts_are_charged_by_their_difference)
{
	room_set_part(rm, ROOM_INDEX, 5000);
	room_set_part(rm, ROOM_DIRS, 100);
	ck_assert_uint_eq(stat_now().quota.charged, 5100);
	room_set_part(rm, ROOM_INDEX, 7000);
	ck_assert_uint_eq(stat_now().quota.charged, 7100);
	room_set_part(rm, ROOM_INDEX, 1000);
	ck_assert_uint_eq(stat_now().quota.charged, 1100);
}
END_TEST

START_TEST(charge_never_falls_below_nothing)
{
	room_credit(rm, 1);
	room_settle(rm, 10, 0);
	ck_assert_uint_eq(stat_now().quota.charged, 0);
	ck_assert_uint_eq(stat_now().reserved, 0);
}
END_TEST

START_TEST(http_leaves_room_for_wheels_and_they_for_deletions)
{
	fill(QUOTA_HTTP, 0);
	room_stop(rm); /* nobody waits */
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 1), -ENOSPC);
	ck_assert_int_eq(room_reserve(rm, QUOTA_WHEELS, 1), 0);
	fill(QUOTA_OTHER, 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_OTHER, 1), -ENOSPC);
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, 1), 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, LIMIT), -ENOSPC);
	ck_assert_int_eq(room_reserve(rm, QUOTA_EVICT, LIMIT), 0);
}
END_TEST

/* --- Waiting ------------------------------------------------------------ */

START_TEST(writer_waits_for_what_the_evictor_frees)
{
	struct writer w = { .class = QUOTA_HTTP, .bytes = 2 * MIB };
	struct room_need need;

	fill(QUOTA_HTTP, MIB);
	room_set_limit(rm, LIMIT, ceiling(QUOTA_HTTP), 0); /* no pressure */
	writer_start(&w);
	need = need_now();
	ck_assert_uint_eq(need.bytes, MIB);
	ck_assert(need.urgent && !need.wheels && !need.checkpoint);
	room_credit(rm, MIB);
	room_pass_done(rm, MIB, false, 0);
	ck_assert_int_eq(writer_join(&w), 0);
	ck_assert_uint_eq(stat_now().quota.charged, ceiling(QUOTA_HTTP));
	assert_no_need();
}
END_TEST

START_TEST(writer_fails_as_soon_as_nothing_can_go)
{
	struct writer w = { .class = QUOTA_HTTP, .bytes = 2 * MIB };
	int64_t start;

	fill(QUOTA_HTTP, MIB);
	writer_start(&w);
	need_now();
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
	ck_assert_int_lt(w.took_ms, 1500);

	/* While that is known nobody waits, and the evictor sleeps. */
	start = now_ms();
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 2 * MIB), -ENOSPC);
	ck_assert_int_lt(now_ms() - start, 500);
	ck_assert(stat_now().exhausted);
	assert_no_need();
	/* What fits may be written still. */
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, MIB), 0);
}
END_TEST

START_TEST(pass_that_frees_nothing_counts_as_exhausted)
{
	fill(QUOTA_HTTP, 0);
	need_now();
	room_pass_done(rm, 0, false, 60000);
	ck_assert(stat_now().exhausted);
	assert_no_need();
}
END_TEST

START_TEST(exhaustion_ends_with_a_credit_a_limit_or_its_time)
{
	for (int i = 0; i < 3; i++) {
		fill(QUOTA_HTTP, 0);
		need_now();
		room_pass_done(rm, 0, true, i == 2 ? 50 : 60000);
		ck_assert(stat_now().exhausted);
		if (i == 0)
			room_credit(rm, 1);
		if (i == 1)
			room_set_limit(rm, LIMIT, 0, 0);
		need_now(); /* for i = 2 sleeps until then */
		ck_assert(!stat_now().exhausted);
		room_pass_done(rm, 1, false, 0);
	}
}
END_TEST

START_TEST(writer_gives_up_after_its_time)
{
	struct writer w = { .class = QUOTA_OTHER, .bytes = MIB };

	fill(QUOTA_OTHER, 0);
	writer_start(&w);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
	ck_assert_int_ge(w.took_ms, ROOM_WAIT_MS - 10);
	ck_assert_int_lt(w.took_ms, ROOM_WAIT_MS + 1500);
}
END_TEST

START_TEST(writer_that_could_never_fit_does_not_wait)
{
	int64_t start = now_ms();

	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, LIMIT), -ENOSPC);
	ck_assert_int_lt(now_ms() - start, 500);
	assert_no_need();
}
END_TEST

START_TEST(writer_is_helped_by_acts_that_took_less)
{
	struct writer w = { .class = QUOTA_HTTP, .bytes = MIB };

	fill(QUOTA_HTTP, MIB);
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, MIB), 0);
	writer_start(&w);
	need_now();
	room_settle(rm, MIB, 0);
	ck_assert_int_eq(writer_join(&w), 0);
	room_pass_done(rm, 0, true, 1000);
}
END_TEST

START_TEST(wheels_get_a_pass_of_their_own)
{
	struct writer http = { .class = QUOTA_HTTP, .bytes = MIB };
	struct writer wheel = { .class = QUOTA_WHEELS, .bytes = 4 * MIB };
	struct room_need need;

	fill(QUOTA_HTTP, 0);
	writer_start(&http);
	do
		need = need_now();
	while (!need.urgent);
	ck_assert(!need.wheels);
	writer_start(&wheel);
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&http), -ENOSPC);

	/* The pass did not look for what only wheels may push out. */
	need = need_now();
	ck_assert(need.wheels && need.urgent);
	ck_assert_uint_gt(need.bytes, 0);
	room_credit(rm, 4 * MIB);
	room_pass_done(rm, 4 * MIB, false, 0);
	ck_assert_int_eq(writer_join(&wheel), 0);

	fill(QUOTA_WHEELS, 0);
	writer_start(&wheel);
	do {
		need = need_now();
		room_pass_done(rm, 0, true, 60000);
	} while (!need.wheels);
	ck_assert_int_eq(writer_join(&wheel), -ENOSPC);
	ck_assert_int_lt(wheel.took_ms, 1500);
}
END_TEST

START_TEST(deletion_waits_for_a_checkpoint_and_then_goes_on)
{
	struct writer w = { .class = QUOTA_SYSTEM, .bytes = MIB };
	struct room_need need;

	fill(QUOTA_SYSTEM, 0);
	need_now();
	room_pass_done(rm, 0, true, 60000);
	assert_no_need();

	/* Although there is nothing to evict, a checkpoint is asked for. */
	writer_start(&w);
	need = need_now();
	ck_assert(need.checkpoint && need.urgent);
	ck_assert_uint_eq(need.bytes, 0);
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&w), 0);
	ck_assert_int_lt(w.took_ms, 1500);
	ck_assert(stat_now().exhausted);
}
END_TEST

START_TEST(deletion_does_not_take_a_pass_that_was_under_way)
{
	struct writer w = { .class = QUOTA_SYSTEM, .bytes = MIB };
	struct room_need need;

	fill(QUOTA_SYSTEM, 0);
	need_now();
	writer_start(&w);
	usleep(100000); /* most probably he waits by now */
	room_pass_done(rm, 0, true, 60000);
	need = need_now();
	ck_assert(need.checkpoint);
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&w), 0);
}
END_TEST

START_TEST(deletion_without_a_checkpoint_goes_by_what_is_used)
{
	struct writer w = { .class = QUOTA_SYSTEM, .bytes = 100 * KIB };

	fill(QUOTA_SYSTEM, 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, w.bytes), 0);
	room_settle(rm, w.bytes, 0);
	/* Now there is an evictor, and he himself never waits. */
	need_now();
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, LIMIT), 0);
	room_settle(rm, LIMIT, 0);
	writer_start(&w);
	ck_assert_int_eq(writer_join(&w), 0);
	ck_assert_int_ge(w.took_ms, ROOM_WAIT_MS - 10);
	ck_assert_int_lt(w.took_ms, ROOM_WAIT_MS + 1500);
	w.bytes = MIB; /* half the reserve is 512 KiB */
	room_stop(rm);
	writer_start(&w);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
}
END_TEST

START_TEST(deletions_are_free_above_a_smaller_limit)
{
	fill(QUOTA_OTHER, 0);
	room_set_limit(rm, LIMIT / 2, 0, 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, MIB), 0);
	room_stop(rm);
	ck_assert_int_eq(room_reserve(rm, QUOTA_OTHER, 1), -ENOSPC);
}
END_TEST

/* --- The disk below ----------------------------------------------------- */

START_TEST(fuller_disk_fails_writers_at_once)
{
	int64_t start = now_ms();

	room_set_limit(rm, LIMIT, 0, 100 * MIB);
	atomic_store(&disk_free, (int64_t)(99 * MIB));
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 1), -ENOSPC);
	ck_assert_int_eq(room_reserve(rm, QUOTA_WHEELS, 1), 0);
	ck_assert_int_eq(room_reserve(rm, QUOTA_SYSTEM, 1), 0);
	ck_assert_int_lt(now_ms() - start, 500);
	ck_assert(stat_now().disk_full);
	assert_no_need();
	atomic_store(&disk_free, (int64_t)(200 * MIB));
	ck_assert(!stat_now().disk_full);
	atomic_store(&disk_free, -EIO); /* then it is as last seen */
	ck_assert_int_eq(room_reserve(rm, QUOTA_HTTP, 1), 0);
}
END_TEST

START_TEST(full_disk_is_relieved_by_the_evictor)
{
	struct writer w = { .disk_full = true, .bytes = MIB };
	struct room_need need;

	room_settle(rm, 0, 10 * MIB);
	writer_start(&w);
	need = need_now();
	ck_assert_uint_eq(need.bytes, MIB);
	ck_assert(need.urgent);
	room_credit(rm, MIB);
	room_pass_done(rm, MIB, false, 0);
	ck_assert_int_eq(writer_join(&w), 0);

	/* Less than asked for is worth another try, too; nothing is not. */
	writer_start(&w);
	need_now();
	room_credit(rm, 1);
	room_pass_done(rm, 1, true, 60000);
	ck_assert_int_eq(writer_join(&w), 0);
	ck_assert_int_eq(room_disk_full(rm, QUOTA_HTTP, MIB), -ENOSPC);
	room_set_limit(rm, LIMIT, 0, 0);
	writer_start(&w);
	need_now();
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
	w.class = QUOTA_WHEELS; /* may push out more than that pass looked at */
	writer_start(&w);
	ck_assert(need_now().wheels);
	room_pass_done(rm, 0, true, 60000);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
}
END_TEST

/* --- The evictor -------------------------------------------------------- */

START_TEST(evictor_is_asked_ahead_of_need)
{
	struct room_stat st = stat_now();
	struct room_need need;

	room_settle(rm, 0, quota_high(&st.quota));
	assert_no_need();
	room_settle(rm, 0, 1);
	need = need_now();
	ck_assert_uint_eq(need.bytes, quota_high(&st.quota) + 1 - st.quota.low);
	ck_assert(!need.urgent && !need.wheels && !need.checkpoint);
	room_credit(rm, need.bytes);
	room_pass_done(rm, need.bytes, false, 0);
	assert_no_need();
}
END_TEST

START_TEST(smaller_limit_is_something_to_do)
{
	struct room_need need;

	room_settle(rm, 0, 50 * MIB);
	assert_no_need();
	room_set_limit(rm, LIMIT / 2, 0, 0);
	need = need_now();
	ck_assert_uint_gt(need.bytes, 18 * MIB);
	room_pass_done(rm, 0, true, 1000);
}
END_TEST

START_TEST(kick_and_stop_end_the_wait)
{
	struct writer w = { .class = QUOTA_OTHER, .bytes = MIB };
	struct room_need need;

	room_kick(rm);
	ck_assert_int_eq(room_wait(rm, 60000, &need), 0);
	fill(QUOTA_OTHER, 0);
	writer_start(&w);
	usleep(50000);
	room_stop(rm);
	ck_assert_int_eq(writer_join(&w), -ENOSPC);
	ck_assert_int_lt(w.took_ms, 1500);
	ck_assert_int_eq(room_wait(rm, 60000, &need), -ESHUTDOWN);
}
END_TEST

/* --- All at once -------------------------------------------------------- */

#define CROWD 6
#define CROWD_ROUNDS 300

static atomic_uint_fast64_t stored; /* bytes that the evictor may give back */
static atomic_bool crowd_failed;

static void *crowd_main(void *arg)
{
	unsigned seed = *(unsigned *)arg;
	struct room_stat st;
	uint64_t bytes, used;
	int r;

	for (int i = 0; i < CROWD_ROUNDS; i++) {
		bytes = (uint64_t)rand_r(&seed) % (4 * MIB);
		used = bytes / 4 * ((uint64_t)rand_r(&seed) % 5);
		r = room_reserve(rm, i % 3 ? QUOTA_HTTP : QUOTA_WHEELS, bytes);
		if (r < 0) {
			atomic_store(&crowd_failed, true);
			continue;
		}
		atomic_fetch_add(&stored, used);
		room_settle(rm, bytes, used);
		room_stat(rm, &st);
		if (st.quota.charged > LIMIT || st.reserved > st.quota.charged)
			atomic_store(&crowd_failed, true);
	}
	return NULL;
}

static void *crowd_evictor(void *arg)
{
	struct room_need need;
	uint64_t n;

	(void)arg;
	while (room_wait(rm, 1000, &need) != -ESHUTDOWN) {
		n = atomic_load(&stored);
		if (n > need.bytes)
			n = need.bytes;
		atomic_fetch_sub(&stored, n);
		room_credit(rm, n);
		room_pass_done(rm, n, n < need.bytes, 1);
	}
	return NULL;
}

START_TEST(crowd_of_writers_stays_below_the_limit)
{
	pthread_t threads[CROWD], evictor;
	unsigned seeds[CROWD];

	atomic_store(&stored, 0);
	atomic_store(&crowd_failed, false);
	pthread_create(&evictor, NULL, crowd_evictor, NULL);
	for (unsigned i = 0; i < CROWD; i++) {
		seeds[i] = i;
		pthread_create(&threads[i], NULL, crowd_main, &seeds[i]);
	}
	for (unsigned i = 0; i < CROWD; i++)
		pthread_join(threads[i], NULL);
	room_stop(rm);
	pthread_join(evictor, NULL);
	ck_assert(!atomic_load(&crowd_failed));
	ck_assert_uint_eq(stat_now().quota.charged, atomic_load(&stored));
	ck_assert_uint_eq(stat_now().reserved, 0);
}
END_TEST

static TCase *room_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("room");
	TCase *tc = room_case(suite, "charging");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, charge_is_what_was_reserved_then_what_was_used);
	tcase_add_test(tc, parts_are_charged_by_their_difference);
	tcase_add_test(tc, charge_never_falls_below_nothing);
	tcase_add_test(tc, http_leaves_room_for_wheels_and_they_for_deletions);
	tc = room_case(suite, "waiting");
	tcase_add_test(tc, writer_waits_for_what_the_evictor_frees);
	tcase_add_test(tc, writer_fails_as_soon_as_nothing_can_go);
	tcase_add_test(tc, pass_that_frees_nothing_counts_as_exhausted);
	tcase_add_test(tc, exhaustion_ends_with_a_credit_a_limit_or_its_time);
	tcase_add_test(tc, writer_gives_up_after_its_time);
	tcase_add_test(tc, writer_that_could_never_fit_does_not_wait);
	tcase_add_test(tc, writer_is_helped_by_acts_that_took_less);
	tcase_add_test(tc, wheels_get_a_pass_of_their_own);
	tcase_add_test(tc, deletion_waits_for_a_checkpoint_and_then_goes_on);
	tcase_add_test(tc, deletion_does_not_take_a_pass_that_was_under_way);
	tcase_add_test(tc, deletion_without_a_checkpoint_goes_by_what_is_used);
	tcase_add_test(tc, deletions_are_free_above_a_smaller_limit);
	tc = room_case(suite, "disk");
	tcase_add_test(tc, fuller_disk_fails_writers_at_once);
	tcase_add_test(tc, full_disk_is_relieved_by_the_evictor);
	tc = room_case(suite, "evictor");
	tcase_add_test(tc, evictor_is_asked_ahead_of_need);
	tcase_add_test(tc, smaller_limit_is_something_to_do);
	tcase_add_test(tc, kick_and_stop_end_the_wait);
	tc = room_case(suite, "crowd");
	tcase_add_test(tc, crowd_of_writers_stays_below_the_limit);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
