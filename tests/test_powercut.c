/* SPDX-License-Identifier: MIT */
/*
 * Power cuts. A store works, is killed at any system call and started again,
 * several times; all that it does to its files is logged. From the log come
 * images of what the disk may hold at any moment (powercut.h). In each a new
 * process must find exactly the state of the last checkpoint, with the packs
 * it names, and go on working.
 *
 * That this finds anything is shown by the controls: take one part of the
 * procedure away, and images must turn out bad.
 */
#include <check.h>
#include <dlfcn.h>

#include <lmdb.h>

#include "powerrun.h"
#include "powerwork.h"

#define WRITERS 2
#define TXNS 120 /* of a writer in a life */

/* -- A control: checkpoints that pin nothing ------------------------------ */

static bool no_pin;
static _Thread_local MDB_txn *writing;

int mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **ret)
{
	int (*real)(MDB_env *, MDB_txn *, unsigned, MDB_txn **);
	int r;

	*(void **)&real = dlsym(RTLD_NEXT, __func__);
	r = real(env, parent, flags, ret);
	if (r == 0 && !(flags & MDB_RDONLY))
		writing = *ret;
	else if (r == 0 && writing && no_pin)
		mdb_txn_reset(*ret); /* only a pin reads inside of a write */
	return r;
}

int mdb_txn_commit(MDB_txn *txn)
{
	int (*real)(MDB_txn *);

	*(void **)&real = dlsym(RTLD_NEXT, __func__);
	if (txn == writing)
		writing = NULL;
	return real(txn);
}

void mdb_txn_abort(MDB_txn *txn)
{
	void (*real)(MDB_txn *);

	*(void **)&real = dlsym(RTLD_NEXT, __func__);
	if (txn == writing)
		writing = NULL;
	real(txn);
}

/* -- Lives ---------------------------------------------------------------- */

/* A killed process is followed by one that has the same witness: it goes on
 * with what the page cache holds. */
static bool go_on, as_if_clean;
static const uint8_t witness[SIDE_TOKEN_SIZE] = "a witness";

struct writer {
	struct work *work;
	uint64_t seed;
};

static void *write_on(void *arg)
{
	struct writer *wr = arg;
	struct checkpoint *cp = wr->work->kit.cp;
	uint64_t txnid;

	for (int i = 0; i < TXNS; i++) {
		if (work_txn(wr->work, &wr->seed) < 0)
			abort();
		if (work_random(&wr->seed) % 15 == 0)
			checkpoint_due(cp);
		if (work_random(&wr->seed) % 40 == 0) {
			txnid = index_txnid(wr->work->kit.ix);
			if (checkpoint_run(cp) < 0)
				abort();
			powerlog_mark(POWERLOG_SAVED, txnid, 0);
		}
		if (work_random(&wr->seed) % 16 == 0)
			(void)usleep(
				(useconds_t)(work_random(&wr->seed) % 300));
	}
	return NULL;
}

/* One process: until it is killed, or to a clean end. */
static void live(const char *log, uint64_t seed, struct powerlog_kill kill)
{
	struct work w = { .log = true };
	struct scratch store = scratch_at(&powerrun.dir, "store");
	struct writer writer[WRITERS];
	pthread_t thread[WRITERS];

	kit_dirs(&w.kit, store);
	w.kit.interval_ms = 100000;
	w.kit.witness = go_on ? witness : NULL;
	w.kit.as_if_clean = as_if_clean;
	powerlog_start(log, store.path, kill);
	if (work_open(&w, true) < 0)
		abort();
	for (int i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){ &w, work_random(&seed) };
		if (pthread_create(&thread[i], NULL, write_on, &writer[i]))
			abort();
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(thread[i], NULL);
	if (kit_close(&w.kit, true) < 0)
		abort();
}

/* -- Images --------------------------------------------------------------- */

/* In a child of its own: what @saved says must be in the image. */
static enum verdict verify(struct scratch image, struct image_saved saved,
			   bool restore, uint64_t seed)
{
	struct work w = { .log = false };
	uint64_t state = saved.empty ? 1 : saved.state;
	int r;

	iotap_fake_sync = true;
	kit_dirs(&w.kit, image);
	w.kit.interval_ms = 100000;
	r = work_open(&w, restore);
	if (r < 0)
		return r == -EUCLEAN ? BAD_PACK : BAD_OPEN;
	if (w.kit.found == RECOVER_CREATED && !saved.empty)
		return BAD_TXNID;
	/* opening commits one transaction */
	if (!saved.empty && index_txnid(w.kit.ix) != saved.txnid + 1)
		return BAD_TXNID;
	if (w.state != state)
		return BAD_STATE;
	for (int i = 0; i < 30; i++) {
		if (work_txn(&w, &seed) < 0)
			return BAD_WORK;
	}
	state = w.state;
	if (checkpoint_run(w.kit.cp) < 0 || kit_close(&w.kit, true) < 0)
		return BAD_WORK;
	if (work_open(&w, true) < 0 || w.kit.found != RECOVER_CLEAN ||
	    w.state != state || kit_close(&w.kit, false) < 0)
		return BAD_AGAIN;
	return GOOD;
}

static const struct control as_it_is;

START_TEST(every_image_recovers)
{
	struct outcome out;

	powerrun_all(seeds(), SLOW_BUILD ? 30 : 80, &as_it_is, &out);
	for (int v = GOOD + 1; v < VERDICTS; v++)
		ck_assert_msg(out.n[v] == 0, "%d of %d images: verdict %d",
			      out.n[v], out.images, v);
	ck_assert_int_gt(out.images, SLOW_BUILD ? 20 : 200);
	printf("%d images, all good\n", out.images);
}
END_TEST

START_TEST(every_image_of_lives_that_go_on_recovers)
{
	struct outcome out;

	go_on = true;
	powerrun_all(seeds(), SLOW_BUILD ? 30 : 80, &as_it_is, &out);
	for (int v = GOOD + 1; v < VERDICTS; v++)
		ck_assert_msg(out.n[v] == 0, "%d of %d images: verdict %d",
			      out.n[v], out.images, v);
	ck_assert_int_gt(out.images, SLOW_BUILD ? 20 : 200);
	printf("%d images of lives that go on, all good\n", out.images);
}
END_TEST

static void expect_bad(const char *what, const struct control *control)
{
	powerrun_expect_bad(what, SLOW_BUILD ? 20 : 60, control);
}

START_TEST(control_that_goes_on_without_a_sync_is_bad)
{
	go_on = as_if_clean = powerrun.may_abort = true;
	expect_bad("gone on without a sync", &as_it_is);
}
END_TEST

START_TEST(control_without_restore_is_bad)
{
	expect_bad("without restore", &(struct control){ .no_restore = true });
}
END_TEST

START_TEST(control_without_pin_is_bad)
{
	no_pin = powerrun.may_abort = true;
	expect_bad("without pin", &as_it_is);
}
END_TEST

START_TEST(control_without_sync_of_the_index_is_bad)
{
	expect_bad("index not synced",
		   &(struct control){ .no_data_sync = true });
}
END_TEST

START_TEST(control_without_sync_of_packs_is_bad)
{
	expect_bad("packs not synced",
		   &(struct control){ .no_pack_sync = true });
}
END_TEST

START_TEST(control_without_sync_of_the_rename_is_bad)
{
	expect_bad("rename not synced",
		   &(struct control){ .no_dir_sync = true });
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("powercut");
	TCase *tc = tcase_create("images");

	powerrun.live = live;
	powerrun.verify = verify;
	scratch_in_memory();
	tcase_set_timeout(tc, 3000); /* CTest has its own */
	suite_add_tcase(suite, tc);
	tcase_add_test(tc, every_image_recovers);
	tcase_add_test(tc, every_image_of_lives_that_go_on_recovers);
	tcase_add_test(tc, control_that_goes_on_without_a_sync_is_bad);
	tcase_add_test(tc, control_without_restore_is_bad);
	tcase_add_test(tc, control_without_pin_is_bad);
	tcase_add_test(tc, control_without_sync_of_the_index_is_bad);
	tcase_add_test(tc, control_without_sync_of_packs_is_bad);
	tcase_add_test(tc, control_without_sync_of_the_rename_is_bad);
	return kit_run_suite(suite);
}
