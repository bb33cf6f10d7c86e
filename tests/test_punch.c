/* SPDX-License-Identifier: MIT */
/* Dead ranges of packs in the checkpoints of a store. */
#include "store/checkpoint.h"

#include <check.h>

#include "iotap.h"
#include "tests/holefix.h"

static struct kit kit;

static void kit_setup(void)
{
	kit_dirs(&kit, scratch_new());
	kit.interval_ms = 100000;
	dir_fd = kit.packs_dir;
	readers = NULL;
	open_holes(NULL);
	kit.holes = h;
	ck_assert_int_eq(kit_open(&kit), 0);
	ps = kit.packs;
}

static void kit_teardown(void)
{
	iotap_hook = NULL;
	kit_close(&kit, false);
	holes_close(h);
	kit_remove(&kit);
}

static bool hook_ran;
static bool fails;

/* While the index is synced, a range dies that the snapshot still names. */
static int add_in_sync(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase == IOTAP_BEFORE && call->op == IOTAP_SYNC && !hook_ran &&
	    iotap_is(call->fd, "data.mdb")) {
		hook_ran = true;
		holes_add(h, 1, 2 * BLOCK, BLOCK);
	}
	return 0;
}

START_TEST(checkpoint_punches_what_died_before_its_pin)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	iotap_hook = add_in_sync;
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	iotap_hook = NULL;
	ck_assert(hook_ran);
	check_range(1, 0, BLOCK, true);
	check_range(1, BLOCK, 4 * BLOCK, false);
	ck_assert_uint_eq(holes_bytes(h), BLOCK);

	/* That alone is something to save. */
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	check_range(1, 2 * BLOCK, 3 * BLOCK, true);
	ck_assert_uint_eq(kit_count(&kit), 3);
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	ck_assert_uint_eq(kit_count(&kit), 3);
}
END_TEST

/* Until the side file is there for good, the snapshot before may come back. */
static int check_in_sync(const struct iotap_call *call, enum iotap_phase phase)
{
	if (call->op != IOTAP_SYNC || hook_ran)
		return 0;
	if (phase == IOTAP_BEFORE)
		check_range(1, 0, 4 * BLOCK, false);
	else
		hook_ran = iotap_is(call->fd, "/index");
	return 0;
}

START_TEST(nothing_is_punched_before_all_is_synced)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	iotap_hook = check_in_sync;
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	iotap_hook = NULL;
	ck_assert(hook_ran);
	check_range(1, 0, BLOCK, true);
}
END_TEST

static bool holes_seen;

/* Each sync of the pack; the one that follows the holes may fail. */
static int see_holes(const struct iotap_call *call, enum iotap_phase phase)
{
	if (phase != IOTAP_BEFORE || call->op != IOTAP_SYNC ||
	    !iotap_is(call->fd, "0000000000000001"))
		return 0;
	ck_assert_uint_eq(atomic_load(&credited), 0);
	holes_seen = disk(1) < 4 * BLOCK;
	return holes_seen && fails ? EIO : 0;
}

/* Else they could be undone when others have taken the room. */
START_TEST(holes_are_on_the_disk_before_their_room_is_given_away)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	iotap_hook = see_holes;
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	iotap_hook = NULL;
	ck_assert(holes_seen);
	ck_assert_uint_eq(atomic_load(&credited), BLOCK);
}
END_TEST

/* The checkpoint itself is a good one. */
START_TEST(holes_that_cannot_be_saved_freeze_the_store)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	fails = true;
	iotap_hook = see_holes;
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	iotap_hook = NULL;
	ck_assert(index_frozen(kit.ix));
	ck_assert_uint_eq(kit_count(&kit), 2);
	ck_assert_uint_eq(atomic_load(&credited), 0);
}
END_TEST

static int fail_sync(const struct iotap_call *call, enum iotap_phase phase)
{
	return phase == IOTAP_BEFORE && call->op == IOTAP_SYNC &&
			       iotap_is(call->fd, "/index")
		       ? EIO
		       : 0;
}

START_TEST(checkpoint_that_fails_punches_nothing)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	iotap_hook = fail_sync;
	ck_assert_int_eq(checkpoint_run(kit.cp), -EIO);
	iotap_hook = NULL;
	check_range(1, 0, 4 * BLOCK, false);
	ck_assert_uint_eq(holes_bytes(h), 0);
}
END_TEST

/* Of the side file. */
static int fail_rename(const struct iotap_call *call, enum iotap_phase phase)
{
	bool renames = call->op == IOTAP_RENAME || call->op == IOTAP_EXCHANGE;

	return phase == IOTAP_BEFORE && renames ? ENOMEM : 0;
}

START_TEST(checkpoint_that_is_put_off_keeps_its_ranges)
{
	make_pack(1, 4 * BLOCK);
	kit_put(&kit, 1, "one");
	holes_add(h, 1, 0, BLOCK);
	iotap_hook = fail_rename;
	ck_assert_int_eq(checkpoint_run(kit.cp), -ENOMEM);
	holes_add(h, 1, BLOCK, BLOCK);
	ck_assert_int_eq(checkpoint_run(kit.cp), -ENOMEM);
	check_range(1, 0, 4 * BLOCK, false);
	ck_assert_uint_eq(holes_bytes(h), 2 * BLOCK);
	iotap_hook = NULL;
	ck_assert_int_eq(checkpoint_run(kit.cp), 0);
	check_range(1, 0, 2 * BLOCK, true);
	check_range(1, 2 * BLOCK, 4 * BLOCK, false);
	ck_assert_uint_eq(holes_bytes(h), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("punch");
	TCase *tc = kit_case(suite, "checkpoint", kit_setup, kit_teardown);

	tcase_add_test(tc, checkpoint_punches_what_died_before_its_pin);
	tcase_add_test(tc, nothing_is_punched_before_all_is_synced);
	tcase_add_test(tc,
		       holes_are_on_the_disk_before_their_room_is_given_away);
	tcase_add_test(tc, holes_that_cannot_be_saved_freeze_the_store);
	tcase_add_test(tc, checkpoint_that_fails_punches_nothing);
	tcase_add_test(tc, checkpoint_that_is_put_off_keeps_its_ranges);
	return kit_run_suite(suite);
}
