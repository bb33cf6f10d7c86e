/* SPDX-License-Identifier: MIT */
#include "store/evict.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define BODY (200 * KIB)
#define GRACE 600
#define AGED 1000000 /* seconds: far out of any grace */

static struct evict *ev;
static uint64_t reclaimable;

static uint64_t reclaim(void *arg)
{
	uint64_t bytes = reclaimable;

	(void)arg;
	reclaimable = 0;
	return bytes;
}

/* The thread is not started before a test has prepared its files: what it
 * does at its start would come in between. */
static void start(int64_t grace_sec)
{
	struct evict_config cfg = { .t = T,
				    .gc = fx.gc,
				    .cp = fx.kit.cp,
				    .grace_sec = grace_sec,
				    .reclaim = reclaim };

	ck_assert_int_eq(evict_start(&cfg, &ev), 0);
}

static void stop(void)
{
	evict_stop(ev);
	ev = NULL;
}

static void teardown(void)
{
	stop();
	fx_teardown();
}

/* -- Files ---------------------------------------------------------------- */

/* A body in the n-th unit of http-v2/, last used @age seconds ago. */
static uint64_t put_http(unsigned n, int64_t age)
{
	char name[64];
	uint64_t ino;

	(void)snprintf(name, sizeof(name), "%.50s%06x.body", FX_HASH, n);
	ino = fx_put(fx_dirs(FX_HASH_DIRS), name, BODY, n);
	fx_age(fx_inode(ino).entry, age);
	return ino;
}

static uint64_t put_wheel(unsigned n, int64_t age)
{
	char path[128];
	uint64_t ino;

	(void)snprintf(path, sizeof(path), "wheels/aa/bb/%02x/%s", n,
		       FX_WHEEL_REST);
	ino = fx_put(fx_dirs(path), "a-1-py3-none-any.whl", BODY, n);
	fx_age(fx_inode(ino).entry, age);
	return ino;
}

static uint64_t put_selfcheck(int64_t age)
{
	uint64_t ino = fx_put(fx_dirs("selfcheck"), FX_HASH, BODY, 1);

	fx_age(fx_inode(ino).entry, age);
	return ino;
}

/* -- Passes --------------------------------------------------------------- */

static struct evict_result run(const struct evict_how *how)
{
	struct evict_result res;

	ck_assert_int_eq(evict_pass(ev, how, &res), 0);
	return res;
}

static struct evict_result pass(uint64_t bytes)
{
	const struct evict_how how = { .bytes = bytes,
				       .older_than_ns = INT64_MAX };

	return run(&how);
}

static struct evict_result pass_all(void)
{
	return pass(UINT64_MAX);
}

START_TEST(the_oldest_go_first_and_no_more_than_is_needed)
{
	uint64_t c = put_http(3, AGED + 1), a = put_http(1, AGED + 3);
	uint64_t b = put_http(2, AGED + 2);
	struct evict_result res;

	start(GRACE);
	res = pass(1);
	ck_assert_uint_eq(res.units, 1);
	ck_assert_uint_ge(res.bytes, BODY);
	ck_assert(fx_gone(a));
	res = pass(BODY + 1);
	ck_assert_uint_eq(res.units, 2);
	ck_assert(fx_gone(b) && fx_gone(c));
	ck_assert_uint_eq(pass_all().units, 0);
}
END_TEST

/* What is charged, without what the evictor has reserved at this moment. */
static uint64_t in_use(void)
{
	struct room_stat rs;

	room_stat(fx.room, &rs);
	return rs.quota.charged - rs.reserved;
}

START_TEST(bytes_are_back_when_the_pass_is_over)
{
	uint64_t used;

	put_http(1, AGED);
	fx_checkpoint();
	used = in_use();
	start(GRACE);
	ck_assert_uint_ge(pass_all().bytes, BODY);
	ck_assert_uint_le(in_use(), used - BODY);
	ck_assert_uint_eq(packs_doomed_bytes(fx.kit.packs), 0);
}
END_TEST

START_TEST(at_equal_age_http_goes_before_wheels)
{
	uint64_t wheel = put_wheel(1, AGED + 30), http = put_http(1, AGED);

	start(GRACE);
	ck_assert_uint_eq(pass(1).units, 1);
	ck_assert(fx_gone(http));
	ck_assert(!fx_gone(wheel));
	ck_assert_uint_eq(pass(1).units, 1);
	ck_assert(fx_gone(wheel));
}
END_TEST

START_TEST(a_wheel_older_by_more_than_a_minute_goes_first)
{
	uint64_t wheel = put_wheel(1, AGED + 100), http = put_http(1, AGED);

	start(GRACE);
	ck_assert_uint_eq(pass(1).units, 1);
	ck_assert(fx_gone(wheel));
	ck_assert(!fx_gone(http));
}
END_TEST

START_TEST(small_state_goes_with_http_by_its_age)
{
	uint64_t state = put_selfcheck(AGED + 1), http = put_http(1, AGED);

	start(GRACE);
	ck_assert_uint_eq(pass(1).units, 1);
	ck_assert(fx_gone(state));
	ck_assert(!fx_gone(http));
}
END_TEST

START_TEST(files_of_no_known_layout_never_go)
{
	uint64_t other = fx_put(ROOT, "database.sqlite", BODY, 1);
	uint64_t tmp =
		fx_put(fx_dirs(FX_HASH_DIRS), FX_HASH "abcd_123.tmp", BODY, 2);
	const struct evict_how how = { .bytes = UINT64_MAX,
				       .older_than_ns = INT64_MAX,
				       .no_grace = true };

	start(0);
	ck_assert_uint_eq(run(&how).units, 0);
	ck_assert(!fx_gone(other) && !fx_gone(tmp));
}
END_TEST

/* -- Grace ---------------------------------------------------------------- */

START_TEST(what_was_used_within_its_grace_stays)
{
	uint64_t young = put_http(1, GRACE - 100), old = put_http(2, GRACE + 5);
	struct evict_result res;

	start(GRACE);
	res = pass_all();
	ck_assert_uint_eq(res.units, 1);
	ck_assert(fx_gone(old));
	ck_assert(!fx_gone(young));
	ck_assert_int_gt(res.next_ms, 0);
	ck_assert_int_le(res.next_ms, 100 * 1000);
	evict_set_grace(ev, 0);
	res = pass_all();
	ck_assert_uint_eq(res.units, 1);
	ck_assert_int_eq(res.next_ms, -1);
}
END_TEST

START_TEST(wheels_have_three_times_the_grace)
{
	uint64_t young = put_wheel(1, 3 * GRACE - 100);
	uint64_t old = put_wheel(2, 3 * GRACE + 5);

	start(GRACE);
	ck_assert_uint_eq(pass_all().units, 1);
	ck_assert(fx_gone(old));
	ck_assert(!fx_gone(young));
}
END_TEST

START_TEST(grace_can_be_set_aside_for_all_or_for_http)
{
	struct evict_how how = { .bytes = UINT64_MAX,
				 .older_than_ns = INT64_MAX,
				 .no_grace_http = true };
	uint64_t http = put_http(1, 0), wheel = put_wheel(1, 0);
	uint64_t state = put_selfcheck(0);

	start(GRACE);
	ck_assert_uint_eq(run(&how).units, 2);
	ck_assert(fx_gone(http) && fx_gone(state));
	ck_assert(!fx_gone(wheel));
	how.no_grace = true;
	ck_assert_uint_eq(run(&how).units, 1);
	ck_assert(fx_gone(wheel));
}
END_TEST

START_TEST(only_what_is_older_goes_when_asked)
{
	struct evict_how how = { .bytes = UINT64_MAX,
				 .older_than_ns =
					 base_now_ns() - 5000 * NSEC_PER_SEC,
				 .no_grace = true };
	uint64_t young = put_http(1, 4000), old = put_http(2, 6000);

	start(GRACE);
	ck_assert_uint_eq(run(&how).units, 1);
	ck_assert(fx_gone(old));
	ck_assert(!fx_gone(young));
}
END_TEST

/* -- Uses ----------------------------------------------------------------- */

START_TEST(a_use_that_is_only_in_memory_counts)
{
	uint64_t used = put_http(1, AGED + 1), other = put_http(2, AGED);

	ck_assert_int_eq(fx_try_open(used, 0), 0);
	start(GRACE);
	ck_assert_uint_eq(pass_all().units, 1);
	ck_assert(fx_gone(other));
	ck_assert(!fx_gone(used));
}
END_TEST

static uint64_t later; /* entry to be used while a pass runs */

static void use_later(void)
{
	entry_touch(fx.entries, later, true);
}

/* The wheel is found together with the older http unit, and used while that
 * one goes. */
START_TEST(what_is_used_during_the_pass_stays)
{
	uint64_t http = put_http(1, AGED + 1000), wheel = put_wheel(1, AGED);

	later = fx_inode(wheel).entry;
	fx.on_credit = use_later;
	start(GRACE);
	ck_assert_uint_eq(pass_all().units, 1);
	ck_assert(fx_gone(http));
	ck_assert(!fx_gone(wheel));
}
END_TEST

static void use_later_and_checkpoint(void)
{
	fx.on_credit = NULL;
	use_later();
	fx_flush();
}

START_TEST(what_is_used_and_flushed_during_the_pass_stays)
{
	uint64_t http = put_http(1, AGED + 1000), wheel = put_wheel(1, AGED);

	later = fx_inode(wheel).entry;
	fx.on_credit = use_later_and_checkpoint;
	start(GRACE);
	ck_assert_uint_eq(pass_all().units, 1);
	ck_assert(fx_gone(http));
	ck_assert(!fx_gone(wheel));
}
END_TEST

START_TEST(an_open_unit_is_passed_over)
{
	uint64_t open = put_http(1, AGED + 2), next = put_http(2, AGED + 1);
	struct store_file *f = fx_open_file(open, FILE_QUIET);

	start(0);
	ck_assert_uint_eq(pass(1).units, 1);
	ck_assert(fx_gone(next));
	fx_check_bytes(f, BODY, 1);
	ck_assert_uint_eq(pass_all().units, 0);
	file_close(f);
	ck_assert_uint_eq(pass_all().units, 1);
	ck_assert(fx_gone(open));
}
END_TEST

START_TEST(a_unit_that_moved_elsewhere_does_not_count_as_evicted)
{
	struct evict_stat stat;
	uint64_t ino;

	start(0);
	ino = put_http(1, AGED);
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_uint_eq(pass_all().units, 0);
	ck_assert_int_eq(fx_holds(ino, BODY, 1), 0);
	evict_stat(ev, &stat);
	ck_assert_uint_eq(stat.evictions, 0);
}
END_TEST

/* -- What a pass tells ---------------------------------------------------- */

START_TEST(a_dry_run_counts_and_takes_nothing)
{
	const struct evict_how how = { .bytes = UINT64_MAX,
				       .older_than_ns = INT64_MAX,
				       .dry_run = true };
	uint64_t a = put_http(1, AGED), b = put_wheel(1, AGED);
	struct store_file *f = fx_open_file(put_http(2, AGED), FILE_QUIET);
	struct evict_result res;

	reclaimable = MIB;
	start(0);
	res = run(&how);
	ck_assert_uint_eq(res.units, 2);
	ck_assert_uint_ge(res.bytes, 2 * BODY);
	ck_assert_uint_lt(res.bytes, MIB);
	ck_assert(!fx_gone(a) && !fx_gone(b));
	ck_assert_uint_eq(reclaimable, MIB);
	file_close(f);
}
END_TEST

START_TEST(what_lies_aside_and_what_was_given_up_goes_first)
{
	uint64_t ino = put_http(1, AGED), gone = fx_put(ROOT, "f", BODY, 2);

	fx_checkpoint();
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert(fx_gone(gone));
	reclaimable = MIB;
	start(0);
	ck_assert_uint_ge(pass(MIB + BODY).bytes, MIB + BODY);
	ck_assert_uint_eq(packs_doomed_bytes(fx.kit.packs), 0);
	ck_assert(!fx_gone(ino));
}
END_TEST

START_TEST(evictions_are_counted)
{
	struct evict_stat stat;

	put_http(1, AGED);
	put_wheel(1, AGED);
	start(GRACE);
	(void)pass_all();
	evict_stat(ev, &stat);
	ck_assert_uint_eq(stat.evictions, 2);
	ck_assert_uint_ge(stat.evicted_bytes, 2 * BODY);
	ck_assert_int_eq(stat.grace_sec, GRACE);
}
END_TEST

START_TEST(many_units_go_in_one_pass)
{
	for (unsigned i = 0; i < 100; i++)
		put_http(i, AGED + i);
	start(0);
	ck_assert_uint_eq(pass_all().units, 100);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
}
END_TEST

START_TEST(on_a_frozen_index_a_pass_fails_and_takes_nothing)
{
	const struct evict_how how = { .bytes = UINT64_MAX,
				       .older_than_ns = INT64_MAX };
	uint64_t ino = put_http(1, AGED);
	struct evict_result res;

	start(0);
	index_freeze(fx.kit.ix);
	ck_assert_int_eq(evict_pass(ev, &how, &res), -EROFS);
	ck_assert_int_eq(fx_holds(ino, BODY, 1), 0);
}
END_TEST

/* -- The thread ----------------------------------------------------------- */

/* Leave only @left bytes for @class. */
static void fill_up(enum quota_class class, uint64_t left)
{
	struct room_stat rs;

	room_stat(fx.room, &rs);
	fx.filled = quota_ceiling(&rs.quota, class) - left - in_use();
	room_settle(fx.room, 0, fx.filled);
}

/* The same, and write a body's worth to @ino. */
static int write_without_room(uint64_t ino, enum quota_class class,
			      uint64_t left)
{
	struct store_file *f = fx_open_file(ino, FILE_WRITE);
	int r;

	fill_up(class, left);
	r = fx_write(f, BODY, 9);
	stop();
	file_close(f);
	return r;
}

START_TEST(a_writer_without_room_gets_it_from_the_oldest)
{
	uint64_t new = fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH ".body");
	uint64_t young = put_http(9, 1);

	for (unsigned i = 0; i < 4; i++)
		put_http(i, AGED + i);
	start(GRACE);
	ck_assert_int_eq(write_without_room(new, QUOTA_HTTP, 50 * KIB), 0);
	ck_assert_int_eq(fx_holds(new, BODY, 9), 0);
	ck_assert(!fx_gone(young));
}
END_TEST

START_TEST(a_wheel_without_room_pushes_out_http_within_grace)
{
	uint64_t new = fx_file(fx_dirs(FX_WHEEL_DIRS), "b-1-py3-none-any.whl");
	uint64_t wheel = put_wheel(1, 1), http = put_http(9, 2);

	for (unsigned i = 0; i < 8; i++)
		put_http(i, 1);
	start(GRACE);
	ck_assert_int_eq(write_without_room(new, QUOTA_WHEELS, 50 * KIB), 0);
	ck_assert_int_eq(fx_holds(new, BODY, 9), 0);
	ck_assert(fx_gone(http));
	ck_assert(!fx_gone(wheel));
}
END_TEST

START_TEST(the_first_name_of_wheels_pushes_out_http_within_grace_too)
{
	uint64_t ino;

	for (unsigned i = 0; i < 8; i++)
		put_http(i, 1);
	start(GRACE);
	fill_up(QUOTA_OTHER, 50 * KIB);
	ck_assert_int_eq(fx_try_make(ROOT, "other", S_IFDIR | 0755, &ino),
			 -ENOSPC);
	ck_assert_int_eq(fx_try_make(ROOT, "wheels", S_IFDIR | 0755, &ino), 0);
}
END_TEST

START_TEST(a_name_under_wheels_pushes_out_http_within_grace_too)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS), ino;

	for (unsigned i = 0; i < 8; i++)
		put_http(i, 1);
	start(GRACE);
	fill_up(QUOTA_OTHER, 50 * KIB);
	ck_assert_int_eq(fx_try_make(ROOT, "x", S_IFREG | 0644, &ino), -ENOSPC);
	ck_assert_int_eq(fx_try_make(dir, "x", S_IFREG | 0644, &ino), 0);
}
END_TEST

START_TEST(http_without_room_leaves_http_within_grace)
{
	uint64_t new = fx_file(fx_dirs(FX_HASH_DIRS), FX_HASH ".body");
	uint64_t http = put_http(1, 1);

	start(GRACE);
	ck_assert_int_eq(write_without_room(new, QUOTA_HTTP, 50 * KIB),
			 -ENOSPC);
	ck_assert(!fx_gone(http));
}
END_TEST

START_TEST(an_evictor_that_was_never_started_is_no_one_to_stop)
{
	evict_stop(NULL);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, fx_setup, teardown);
}

static void add_order(TCase *tc)
{
	tcase_add_test(tc, the_oldest_go_first_and_no_more_than_is_needed);
	tcase_add_test(tc, bytes_are_back_when_the_pass_is_over);
	tcase_add_test(tc, at_equal_age_http_goes_before_wheels);
	tcase_add_test(tc, a_wheel_older_by_more_than_a_minute_goes_first);
	tcase_add_test(tc, small_state_goes_with_http_by_its_age);
	tcase_add_test(tc, files_of_no_known_layout_never_go);
}

static void add_uses(TCase *tc)
{
	tcase_add_test(tc, a_use_that_is_only_in_memory_counts);
	tcase_add_test(tc, what_is_used_during_the_pass_stays);
	tcase_add_test(tc, what_is_used_and_flushed_during_the_pass_stays);
	tcase_add_test(tc, an_open_unit_is_passed_over);
	tcase_add_test(tc,
		       a_unit_that_moved_elsewhere_does_not_count_as_evicted);
}

int main(void)
{
	Suite *suite = suite_create("evict");
	TCase *tc;

	add_order(new_case(suite, "order"));
	tc = new_case(suite, "grace");
	tcase_add_test(tc, what_was_used_within_its_grace_stays);
	tcase_add_test(tc, wheels_have_three_times_the_grace);
	tcase_add_test(tc, grace_can_be_set_aside_for_all_or_for_http);
	tcase_add_test(tc, only_what_is_older_goes_when_asked);
	add_uses(new_case(suite, "uses"));

	tc = new_case(suite, "results");
	tcase_add_test(tc, a_dry_run_counts_and_takes_nothing);
	tcase_add_test(tc, what_lies_aside_and_what_was_given_up_goes_first);
	tcase_add_test(tc, evictions_are_counted);
	tcase_add_test(tc, many_units_go_in_one_pass);
	tcase_add_test(tc, on_a_frozen_index_a_pass_fails_and_takes_nothing);

	tc = new_case(suite, "thread");
	tcase_add_test(tc, a_writer_without_room_gets_it_from_the_oldest);
	tcase_add_test(tc, a_wheel_without_room_pushes_out_http_within_grace);
	tcase_add_test(
		tc, the_first_name_of_wheels_pushes_out_http_within_grace_too);
	tcase_add_test(tc,
		       a_name_under_wheels_pushes_out_http_within_grace_too);
	tcase_add_test(tc, http_without_room_leaves_http_within_grace);
	tcase_add_test(tc, an_evictor_that_was_never_started_is_no_one_to_stop);
	return kit_run_suite(suite);
}
