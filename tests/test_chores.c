/* SPDX-License-Identifier: MIT */
/* What the evictor's thread does between passes. */
#include "clocktap.h"
#include "fixture.h"
#include "store/evict.h"

#define ROOT RECORD_ROOT_INO
#define BODY (200 * KIB)
#define GRACE 600
#define AGED 1000000 /* seconds: far out of any grace */
#define WAIT_MS 20000

static struct evict *ev;

static void start(void)
{
	struct evict_config cfg = {
		.t = T, .gc = fx.gc, .cp = fx.kit.cp, .grace_sec = GRACE
	};

	ck_assert_int_eq(evict_start(&cfg, &ev), 0);
}

static void teardown(void)
{
	evict_stop(ev);
	ev = NULL;
	fx_teardown();
}

static void set_old(uint64_t ino)
{
	const struct inode old = { .mtime_ns = 0 };
	struct inode in;

	ck_assert_int_eq(tree_setattr(T, ino, &old, TREE_SET_MTIME, &in), 0);
}

/* The n-th temporary file of a pip that is no more. */
static uint64_t put_tmp(unsigned n)
{
	char name[80];
	uint64_t ino;

	(void)snprintf(name, sizeof(name), FX_HASH "%08u.tmp", n);
	ino = fx_put(fx_dirs(FX_HASH_DIRS), name, 10, n);
	set_old(ino);
	return ino;
}

static uint64_t put_body(int64_t age)
{
	uint64_t ino = fx_put(fx_dirs(FX_HASH_DIRS), FX_HASH ".body", BODY, 1);

	fx_age(fx_inode(ino).entry, age);
	return ino;
}

static bool goes(uint64_t ino)
{
	for (unsigned ms = 0; ms < WAIT_MS; ms++) {
		if (fx_gone(ino))
			return true;
		usleep(1000);
	}
	return false;
}

START_TEST(the_thread_begins_with_its_housekeeping)
{
	uint64_t body = put_body(1), tmp = put_tmp(1);
	uint64_t empty = fx_dirs("http/1/2/3/4/5");
	struct evict_stat stat;

	set_old(empty);
	start();
	ck_assert(goes(tmp));
	ck_assert(goes(empty));
	ck_assert_int_eq(fx_holds(body, BODY, 1), 0);
	for (unsigned ms = 0; ms < WAIT_MS; ms++) {
		evict_stat(ev, &stat);
		if (stat.reaped)
			break;
		usleep(1000);
	}
	ck_assert_uint_eq(stat.reaped, 1);
}
END_TEST

START_TEST(a_cache_that_moved_is_looked_at_again)
{
	uint64_t body = put_body(1);

	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_uint_ne(fx_inode(body).entry, 0);
	start();
	for (unsigned ms = 0; ms < WAIT_MS && fx_inode(body).entry; ms++)
		usleep(1000);
	ck_assert_uint_eq(fx_inode(body).entry, 0);
}
END_TEST

static uint64_t watched;
static atomic_int was_there = -1; /* @watched, when bytes came back */

static void look(void)
{
	fx.on_credit = NULL;
	was_there = !fx_gone(watched);
}

START_TEST(who_wants_room_comes_before_the_housekeeping)
{
	struct room_stat rs;
	uint64_t body = put_body(AGED);

	watched = put_tmp(1);
	fx_checkpoint();
	room_stat(fx.room, &rs);
	fx.filled = quota_ceiling(&rs.quota, QUOTA_HTTP) - rs.quota.charged;
	room_settle(fx.room, 0, fx.filled);
	fx.on_credit = look;
	start();
	ck_assert(goes(body));
	for (unsigned ms = 0; ms < WAIT_MS && was_there < 0; ms++)
		usleep(1000);
	ck_assert_int_eq(was_there, 1);
	/* When nothing more can be evicted it is its turn. */
	ck_assert(goes(watched));
}
END_TEST

START_TEST(a_wall_clock_put_forward_makes_no_housekeeping_due)
{
	uint64_t first = put_tmp(1), second;

	start();
	ck_assert(goes(first));
	second = put_tmp(2);
	clocktap_wall_sec = 100L * EVICT_HOUSEKEEPING_SEC;
	room_kick(fx.room);
	usleep(200 * 1000);
	ck_assert(!fx_gone(second));

	for (unsigned n = 0; n < 100 && !fx_gone(second); n++) {
		clocktap_mono_sec += EVICT_HOUSEKEEPING_SEC;
		room_kick(fx.room);
		usleep(100 * 1000);
	}
	ck_assert(fx_gone(second));
}
END_TEST

/* As a last close leaves it whose transaction failed. */
static uint64_t put_orphan(void)
{
	uint64_t ino = fx_put(ROOT, "orphan", BODY, 1);
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(fx_unlink(ROOT, "orphan"), 0);
	node_put(f->nd);
	free(f);
	ck_assert(!fx_gone(ino));
	return ino;
}

START_TEST(orphans_that_a_failed_close_left_go)
{
	uint64_t ino = put_orphan(), open = fx_put(ROOT, "open", 10, 1);
	struct store_file *f = fx_open_file(open, 0);

	ck_assert_int_eq(fx_unlink(ROOT, "open"), 0);
	start();
	ck_assert(goes(ino));
	ck_assert(!fx_gone(open));
	file_close(f);
	ck_assert(fx_gone(open));
}
END_TEST

START_TEST(orphans_go_before_anything_is_evicted)
{
	uint64_t body = put_body(AGED), ino = put_orphan();
	struct room_stat rs;

	fx_checkpoint();
	room_stat(fx.room, &rs);
	fx.filled = quota_high(&rs.quota) + 4 * KIB - rs.quota.charged;
	room_settle(fx.room, 0, fx.filled);
	room_set_limit(fx.room, FX_LIMIT, quota_high(&rs.quota) - BODY / 2, 0);
	start();
	ck_assert(goes(ino));
	usleep(100 * 1000);
	ck_assert(!fx_gone(body));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("chores");
	TCase *tc = kit_case(suite, "chores", fx_setup, teardown);

	tcase_add_test(tc, the_thread_begins_with_its_housekeeping);
	tcase_add_test(tc, a_cache_that_moved_is_looked_at_again);
	tcase_add_test(tc, who_wants_room_comes_before_the_housekeeping);
	tcase_add_test(tc, a_wall_clock_put_forward_makes_no_housekeeping_due);
	tcase_add_test(tc, orphans_that_a_failed_close_left_go);
	tcase_add_test(tc, orphans_go_before_anything_is_evicted);
	return kit_run_suite(suite);
}
