/* SPDX-License-Identifier: MIT */
/* The scrub, on a clock of the test's. */
#include "store/scrub.h"

#include <signal.h>

#include "checkfix.h"
#include "iotap.h"
#include "store/block.h"
#include "store/mdbfile.h"
#include "store/walk.h"

#define PERIOD 1000 /* seconds */
#define START (INT64_C(1) << 31)
#define META_BYTES (2 * 4096)
#define WAITS 60000 /* milliseconds */

static struct scrub *s;
static struct scrub_config cfg;
static struct scrub_stat st;

static _Atomic int64_t clock_sec;
static atomic_uint looks; /* at the clock: rounds, about */
static atomic_bool used_all_the_time;
static atomic_uint_fast64_t read_bytes; /* of packs */

static atomic_uint bad_indexes, damaged_indexes, tellings;
static char told[4][400];

static int64_t fake_now(void)
{
	looks++;
	if (used_all_the_time)
		fx.tree.hits++;
	return clock_sec * NSEC_PER_SEC;
}

static ssize_t counted_pread(int fd, void *buf, size_t len, off_t off)
{
	ssize_t n = pread(fd, buf, len, off);

	if (n > 0)
		read_bytes += (uint64_t)n;
	return n;
}

static void on_report(void *arg, int priority, const char *text)
{
	unsigned n = tellings;

	(void)arg;
	(void)priority;
	(void)snprintf(told[n % 4], sizeof(told[0]), "%s", text);
	tellings = n + 1;
}

static void on_bad_index(void *arg, const char *text)
{
	on_report(arg, 0, text);
	bad_indexes++;
}

static void on_damaged_index(void *arg, uint64_t records, const char *text)
{
	on_report(arg, 0, text);
	damaged_indexes += (unsigned)records;
}

/* The index was walked at @sec. */
static void set_walked(int64_t sec)
{
	begin();
	ck_assert_int_eq(table_meta_put(txn, TABLE_META_WALKED, (uint64_t)sec),
			 0);
	commit();
}

static void set_up(void)
{
	setup();
	fx.files.report = on_report;
	fx.io.pread = counted_pread;
	clock_sec = START;
	looks = bad_indexes = damaged_indexes = tellings = 0;
	used_all_the_time = false;
	read_bytes = 0;
	cfg = (struct scrub_config){ .fs = &fx.files,
				     .period_sec = PERIOD,
				     .index_bad = on_bad_index,
				     .index_damaged = on_damaged_index,
				     .now_ns = fake_now,
				     .ceiling = GIB,
				     .rest_ms = 1 };
	s = NULL;
	set_walked(START);
}

static void start(void)
{
	ck_assert_int_eq(scrub_start(&cfg, &s), 0);
}

static void stop(void)
{
	scrub_stop(s);
	s = NULL;
}

static void tear_down(void)
{
	uint64_t bytes;

	stop();
	if (!index_frozen(fx.kit.ix)) {
		ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
		fx_checkpoint();
	}
	teardown();
}

static bool is_over(void)
{
	return st.over && st.ended == clock_sec;
}

/* At any time. */
static bool is_through(void)
{
	return st.over && st.ended;
}

static bool has_begun(void)
{
	return st.began == clock_sec;
}

static bool is_walked(void)
{
	return st.walked == clock_sec;
}

static unsigned quarters;

static bool is_at_quarters(void)
{
	return st.done * 4 >= st.all * quarters;
}

static bool is_behind_a_third(void)
{
	return st.done * 3 >= st.all;
}

static void wait_until(bool (*what)(void))
{
	for (int i = 0; i < WAITS; i++) {
		scrub_stat(s, &st);
		if (what())
			return;
		usleep(1000);
	}
	ck_abort_msg("nothing comes of it: %ju of %ju bytes", U(st.done),
		     U(st.all));
}

/* So many looks at the clock from now on, each an opportunity. */
static void wait_looks(unsigned n)
{
	unsigned from = looks;

	for (int i = 0; i < WAITS && looks - from < n; i++)
		usleep(1000);
	scrub_stat(s, &st);
}

static uint64_t sum_of_blocks(void)
{
	uint64_t sum = 0;

	for (uint64_t id = 1; id <= fx_count(INDEX_BLOCK); id++)
		sum += block(id).length;
	return sum;
}

static uint64_t meta(const char *name)
{
	uint64_t v = 0;
	struct index_txn *read;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
	(void)table_meta_get(read, name, &v);
	index_abort(read);
	return v;
}

/* A pass from its start to its end. */
static void pass(void)
{
	start();
	wait_until(has_begun);
	clock_sec += PERIOD;
	wait_until(is_over);
}

/* -- Passes ----------------------------------------------------------------- */

START_TEST(pass_reads_each_byte_once)
{
	pass();
	ck_assert_uint_eq(read_bytes, sum_of_blocks() + 100000);
	ck_assert_uint_eq(st.done, read_bytes + 100 + RECORD_INLINE_HEAD);
	ck_assert_uint_eq(st.all, st.done);
	ck_assert_uint_eq(tellings, 0);
	ck_assert_uint_eq(fx.tree.bad_blocks, 0);
	stop();
	ck_assert_uint_eq(meta(TABLE_META_SCRUB_ENDED), clock_sec);
}
END_TEST

START_TEST(pass_is_spread_over_the_period)
{
	uint64_t most;

	start();
	wait_until(has_begun);
	for (quarters = 1; quarters <= 3; quarters++) {
		clock_sec = START + quarters * PERIOD / 4;
		wait_until(is_at_quarters);
		wait_looks(3);
		/* It stops with the first thing that is too much. */
		most = st.all * quarters / 4 + 100000;
		ck_assert_msg(st.done <= most, "%u quarters: %ju of %ju",
			      quarters, U(st.done), U(st.all));
		ck_assert(!st.over);
	}
	clock_sec = START + PERIOD;
	wait_until(is_over);
}
END_TEST

START_TEST(next_pass_begins_a_period_after_the_last)
{
	pass();
	clock_sec += 1; /* as long after its end as may be */
	wait_until(has_begun);
	clock_sec += PERIOD / 2;
	wait_until(is_behind_a_third);
	ck_assert(!st.over);
	ck_assert_int_eq(st.ended, START + PERIOD);
}
END_TEST

START_TEST(pass_goes_on_where_it_was_left)
{
	uint64_t done, all;

	start();
	wait_until(has_begun);
	clock_sec = START + PERIOD / 2;
	wait_until(is_behind_a_third);
	stop();
	ck_assert_int_eq(scrub_recorded(T, &st), 0);
	done = st.done;
	ck_assert_uint_gt(done, 0);
	ck_assert(!st.over);
	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	fx.files.report = on_report;
	start();
	clock_sec = START + PERIOD;
	wait_until(is_over);
	all = sum_of_blocks() + 100000;
	ck_assert_uint_eq(st.done, all + 100 + RECORD_INLINE_HEAD);
	/* What it was stopped in is read again. */
	ck_assert_msg(read_bytes >= all && read_bytes <= all + 20000,
		      "%ju read after %ju, %ju in all; %u told: %s",
		      U(read_bytes), U(done), U(st.done), tellings, told[0]);
	ck_assert_int_eq(st.began, START);
}
END_TEST

START_TEST(clock_that_was_set_back_begins_anew)
{
	start();
	wait_until(has_begun);
	clock_sec = START - 100 * PERIOD;
	wait_until(has_begun);
	clock_sec += PERIOD;
	wait_until(is_over);
}
END_TEST

START_TEST(empty_store_has_its_pass)
{
	uint64_t bytes;

	ck_assert_int_eq(fx_unlink(ROOT, "small"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "staged"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "inline"), 0);
	ck_assert_int_eq(fx_unlink(made.dir, "p-1-py3-none-any.whl"), 0);
	ck_assert_int_eq(fx_unlink(made.dir, "p-1-py2-none-any.whl"), 0);
	ck_assert_int_eq(fx_unlink(made.dir, "p-2-py3-none-any.whl"), 0);
	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	start();
	wait_until(is_through);
	ck_assert_uint_eq(st.done, 0);
}
END_TEST

/* -- Giving way ------------------------------------------------------------- */

START_TEST(store_in_use_is_left_alone_for_a_while)
{
	used_all_the_time = true;
	start();
	wait_until(has_begun);
	clock_sec = START + PERIOD / 10;
	wait_looks(50);
	ck_assert_uint_eq(st.done, 0);
	clock_sec = START + PERIOD / 2; /* far behind */
	wait_until(is_behind_a_third);
}
END_TEST

/* No faster than the ceiling, be it ever so late. */
START_TEST(ceiling_holds)
{
	struct timespec from, to;
	double sec;

	cfg.ceiling = 400 * KIB;
	clock_gettime(CLOCK_MONOTONIC, &from);
	pass();
	clock_gettime(CLOCK_MONOTONIC, &to);
	sec = (double)(to.tv_sec - from.tv_sec) +
	      (double)(to.tv_nsec - from.tv_nsec) / 1e9;
	ck_assert_double_ge(sec, (double)read_bytes / (double)cfg.ceiling);
}
END_TEST

/* In the middle of a piece that would take a day. */
START_TEST(stop_does_not_wait)
{
	cfg.ceiling = 1;
	start();
	wait_until(has_begun);
	clock_sec += PERIOD;
	for (int i = 0; i < WAITS && !read_bytes; i++)
		usleep(1000);
	ck_assert_uint_gt(read_bytes, 0);
	stop();
}
END_TEST

START_TEST(without_a_period_nothing_is_read)
{
	cfg.period_sec = 0;
	start();
	clock_sec += 40 * 24 * 3600;
	wait_until(is_walked);
	wait_looks(2);
	ck_assert_uint_eq(read_bytes, 0);
	ck_assert_int_eq(st.began, 0);
}
END_TEST

/* -- Damage ----------------------------------------------------------------- */

START_TEST(damaged_block_costs_its_files_and_is_told_once)
{
	struct block_rec bl = block(block_of(made.wheel, 3));
	uint64_t bytes;

	flip(bl.pack, bl.offset + 100);
	pass();
	ck_assert_uint_eq(fx.tree.bad_blocks, 1);
	ck_assert_uint_eq(fx.files.damaged, 3);
	ck_assert_uint_eq(tellings, 2);
	ck_assert_msg(strstr(told[0],
			     LINE("%ju bytes at %ju of packs/%016jx",
				  U(bl.length), U(bl.offset), U(bl.pack))),
		      "%s", told[0]);
	ck_assert_msg(strstr(told[1], "3 files with damaged blocks"), "%s",
		      told[1]);
	ck_assert(fx_gone(made.wheel) && fx_gone(made.copy) &&
		  fx_gone(made.next) && !fx_gone(made.small));
	stop();
	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	clock_sec += 1;
	pass();
	ck_assert_uint_eq(tellings, 2);
	stop();
	clean();
}
END_TEST

static bool is_dropped(void)
{
	return fx.files.damaged == 3;
}

START_TEST(what_is_damaged_goes_where_there_is_no_room)
{
	struct block_rec bl = block(block_of(made.wheel, 3));

	flip(bl.pack, bl.offset + 100);
	fx_fill_room(0);
	start();
	wait_until(has_begun);
	clock_sec += PERIOD;
	wait_until(is_dropped);
	fx_empty_room();
	wait_until(is_over);
	ck_assert_uint_eq(tellings, 2);
}
END_TEST

static atomic_uint refusals;

/* Of all but LMDB's meta pages, whose loss it would not stand. */
static int refuse_commits(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_WRITE ||
	    call->off < META_BYTES || !iotap_is(call->fd, "data.mdb"))
		return 0;
	refusals++;
	return ENOSPC;
}

static bool is_refused(void)
{
	return refusals >= 3;
}

START_TEST(what_cannot_be_dropped_now_is_dropped_later)
{
	struct block_rec bl = block(block_of(made.wheel, 3));

	flip(bl.pack, bl.offset + 100);
	start();
	wait_until(has_begun);
	iotap_hook = refuse_commits;
	clock_sec += PERIOD;
	wait_until(is_refused);
	ck_assert_uint_eq(fx.files.damaged, 0);
	iotap_hook = NULL;
	wait_until(is_dropped);
	wait_until(is_over);
	ck_assert_uint_eq(tellings, 2);
	ck_assert(fx_gone(made.wheel) && fx_gone(made.copy) &&
		  fx_gone(made.next) && !fx_gone(made.small));
}
END_TEST

START_TEST(pack_that_is_lost_is_told_once)
{
	uint64_t id = fx_inode(made.wheel).pack;

	stop();
	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	fx.files.report = on_report;
	ck_assert_int_eq(unlink(pack_path(id).path), 0);
	pass();
	ck_assert_uint_ge(fx.tree.bad_blocks, 22);
	ck_assert_uint_eq(fx.files.damaged, 3);
	ck_assert_ptr_nonnull(strstr(told[0], packio_name(id).text));
	ck_assert_uint_le(tellings, 2);
	ck_assert(fx_gone(made.wheel) && !fx_gone(made.small));
}
END_TEST

START_TEST(damaged_files_without_blocks_go_too)
{
	uint8_t buf[RECORD_INLINE_HEAD + 100] = { 0 };
	uint64_t id = fx_inode(made.staged).pack;

	flip(id, 12345);
	change(INDEX_INLINE, record_key_id(made.inlined), buf, sizeof(buf));
	pass();
	ck_assert_uint_eq(tellings, 2);
	ck_assert_ptr_nonnull(strstr(told[0], packio_name(id).text));
	ck_assert_ptr_nonnull(strstr(told[1], "in the index"));
	ck_assert_uint_eq(fx.files.damaged, 2);
	ck_assert(fx_gone(made.staged) && fx_gone(made.inlined));
	stop();
	clean();
}
END_TEST

/* -- The index -------------------------------------------------------------- */

START_TEST(index_is_walked_in_its_time)
{
	set_walked(START + 1); /* of the future */
	start();
	wait_until(is_walked);
	ck_assert_uint_eq(meta(TABLE_META_WALKED), START);
	change(INDEX_INODE, record_key_id(4711), "short", 5);
	fx.hurt = true;
	clock_sec = START + WALK_EVERY_SEC - 1;
	wait_looks(5);
	ck_assert_int_eq(st.walked, START);
	/* Where no child can be waited for: not now, but in an hour. */
	(void)signal(SIGCHLD, SIG_IGN);
	clock_sec = START + WALK_EVERY_SEC;
	wait_looks(20);
	(void)signal(SIGCHLD, SIG_DFL);
	clock_sec += 3599;
	wait_looks(5);
	ck_assert_int_eq(st.walked, START);
	clock_sec += 1;
	wait_until(is_walked);
	ck_assert_uint_eq(damaged_indexes, 1);
	ck_assert_ptr_nonnull(strstr(told[0], "table inode"));
	stop();
	ck_assert_uint_eq(meta(TABLE_META_RESCAN), 1);
	ck_assert_uint_eq(meta(TABLE_META_WALKED), clock_sec);
}
END_TEST

static void overwrite_index(const void *data, size_t len)
{
	struct scratch path = scratch_at(&fx.kit.dir, "index/" MDBFILE_NAME);
	int fd = open(path.path, O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, data, len, 2 * 4096), (int)len);
	close(fd);
}

START_TEST(index_with_wrong_pages_is_told)
{
	struct scratch path = scratch_at(&fx.kit.dir, "index/" MDBFILE_NAME);
	struct scratch_bytes file;
	uint8_t *junk;

	cfg.period_sec = 0;
	start();
	wait_looks(1);
	fx_checkpoint();
	file = scratch_read(path.path);
	junk = calloc(1, file.len);
	overwrite_index(junk, file.len - 2 * 4096);
	clock_sec = START + WALK_EVERY_SEC;
	for (int i = 0; i < WAITS && !bad_indexes; i++)
		usleep(1000);
	overwrite_index(file.data + 2 * 4096, file.len - 2 * 4096);
	free(file.data);
	free(junk);
	ck_assert_uint_eq(bad_indexes, 1);
	ck_assert_ptr_nonnull(strstr(told[0], "page "));
	wait_until(is_walked);
	ck_assert_uint_eq(bad_indexes, 1);
}
END_TEST

START_TEST(frozen_store_is_left_alone)
{
	index_freeze(fx.kit.ix);
	start();
	clock_sec += 40 * 24 * 3600;
	wait_looks(3);
	ck_assert_uint_eq(read_bytes, 0);
	ck_assert_int_eq(st.walked, START);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("scrub");
	TCase *tc = kit_case(suite, "passes", set_up, tear_down);

	scratch_in_memory();
	tcase_add_test(tc, pass_reads_each_byte_once);
	tcase_add_test(tc, pass_is_spread_over_the_period);
	tcase_add_test(tc, next_pass_begins_a_period_after_the_last);
	tcase_add_test(tc, pass_goes_on_where_it_was_left);
	tcase_add_test(tc, clock_that_was_set_back_begins_anew);
	tcase_add_test(tc, empty_store_has_its_pass);

	tc = kit_case(suite, "giving way", set_up, tear_down);
	tcase_add_test(tc, store_in_use_is_left_alone_for_a_while);
	tcase_add_test(tc, ceiling_holds);
	tcase_add_test(tc, stop_does_not_wait);
	tcase_add_test(tc, without_a_period_nothing_is_read);

	tc = kit_case(suite, "damage", set_up, tear_down);
	tcase_add_test(tc, damaged_block_costs_its_files_and_is_told_once);
	tcase_add_test(tc, what_is_damaged_goes_where_there_is_no_room);
	tcase_add_test(tc, what_cannot_be_dropped_now_is_dropped_later);
	tcase_add_test(tc, pack_that_is_lost_is_told_once);
	tcase_add_test(tc, damaged_files_without_blocks_go_too);

	tc = kit_case(suite, "index", set_up, tear_down);
	tcase_add_test(tc, index_is_walked_in_its_time);
	tcase_add_test(tc, index_with_wrong_pages_is_told);
	tcase_add_test(tc, frozen_store_is_left_alone);
	return kit_run_suite(suite);
}
