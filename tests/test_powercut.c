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
#include <sys/wait.h>

#include <lmdb.h>

#include "powercut.h"
#include "powerlog.h"
#include "powerwork.h"

#define LIVES 4
#define WRITERS 2
#define TXNS 120 /* of a writer in a life */

static struct scratch scratch;
static bool quiet; /* what crashes is expected to, and need not say so */

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

static void hush(void)
{
	if (quiet && !freopen("/dev/null", "w", stderr))
		abort();
}

/* -- Lives ---------------------------------------------------------------- */

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
	struct scratch store = scratch_at(&scratch, "store");
	struct writer writer[WRITERS];
	pthread_t thread[WRITERS];

	kit_dirs(&w.kit, store);
	w.kit.interval_ms = 100000;
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

/* At any call, or at a sync or rename, or at the rename of a side file. */
static struct powerlog_kill choose_kill(uint64_t *seed)
{
	static const struct {
		enum iotap_op from;
		unsigned calls;
	} kinds[] = { { IOTAP_WRITE, 3000 },
		      { IOTAP_SYNC, 60 },
		      { IOTAP_RENAME, 6 } };
	size_t kind = work_random(seed) % ARRAY_SIZE(kinds);

	return (struct powerlog_kill){
		.how = (enum powerlog_kill_how)(work_random(seed) % KILL_HOWS),
		.from = kinds[kind].from,
		.calls = (long)(work_random(seed) % kinds[kind].calls),
	};
}

/* A log of several lives; those but every third are killed. */
static void make_log(const char *log, uint64_t seed)
{
	struct scratch store = scratch_at(&scratch, "store");
	struct kit kit;

	ck_assert_int_eq(mkdir(store.path, 0700), 0);
	kit_dirs(&kit, store);
	for (int i = 0; i < LIVES; i++) {
		struct powerlog_kill kill = choose_kill(&seed);
		pid_t pid;
		int status;

		if (i % 3 == 2)
			kill.calls = -1;
		pid = fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0) {
			hush();
			live(log, seed, kill);
			_exit(0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (no_pin && status == SIGABRT)
			break; /* what it recovered was unusable */
		ck_assert_msg(status == 0 || status == SIGKILL,
			      "life %d ended with 0x%x", i, status);
	}
	close(kit.index_dir);
	close(kit.packs_dir);
}

/* -- Images --------------------------------------------------------------- */

enum verdict {
	GOOD,
	BAD_PROMISE, /* an older snapshot than was promised */
	BAD_OPEN,
	BAD_TXNID,
	BAD_STATE,
	BAD_PACK,
	BAD_WORK, /* cannot go on from there */
	BAD_AGAIN,
	BAD_CRASH,
	VERDICTS
};

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
	if (w.kit.found == CHECKPOINT_CREATED && !saved.empty)
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
	if (work_open(&w, true) < 0 || w.kit.found != CHECKPOINT_CLEAN ||
	    w.state != state || kit_close(&w.kit, false) < 0)
		return BAD_AGAIN;
	return GOOD;
}

struct outcome {
	int images;
	int n[VERDICTS];
};

static void judge(struct image *im, bool restore, struct outcome *out)
{
	struct scratch image = scratch_at(&scratch, "image");
	struct image_saved saved;
	enum verdict verdict;
	int status;
	pid_t pid;

	ck_assert_int_eq(mkdir(image.path, 0700), 0);
	saved = image_cut(im, &image);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		hush();
		_exit(verify(image, saved, restore, im->seed));
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	verdict = WIFEXITED(status) && WEXITSTATUS(status) < VERDICTS
			  ? (enum verdict)WEXITSTATUS(status)
			  : BAD_CRASH;
	if (verdict == GOOD && im->promised > (saved.empty ? 0 : saved.txnid))
		verdict = BAD_PROMISE;
	out->images++;
	out->n[verdict]++;
	if (verdict != GOOD && getenv("PIPCACHEFS_KEEP")) {
		printf("verdict %d at record %llu, status 0x%x: %s\n", verdict,
		       (unsigned long long)im->at, status, image.path);
		exit(1);
	}
	scratch_remove(&image);
}

struct control {
	bool no_restore;
	bool no_data_sync;
	bool no_pack_sync;
	bool no_dir_sync;
};

/* How much more likely a cut is after a record of @type: more around syncs
 * and renames, and while a new life begins. */
static uint64_t weight(enum powerlog_type type, unsigned *since_open)
{
	if (type == POWERLOG_OPENED)
		*since_open = 0;
	else
		(*since_open)++;
	if (*since_open < 40)
		return 16;
	return type >= POWERLOG_SYNC && type < POWERLOG_INTENT ? 8 : 1;
}

/* About @images cuts through @log. */
static void cut_log(const char *log, uint64_t seed, int images,
		    const struct control *control, struct outcome *out)
{
	struct scratch store = scratch_at(&scratch, "store");
	struct scratch index = scratch_at(&store, "index");
	struct scratch packs = scratch_at(&store, "packs");
	uint64_t dirs[IMAGE_DIRS];
	enum powerlog_type type;
	unsigned since_open = 0;
	struct image im;
	struct stat st;
	uint64_t sum = 0;

	ck_assert_int_eq(stat(index.path, &st), 0);
	dirs[IMAGE_INDEX_DIR] = st.st_ino;
	ck_assert_int_eq(stat(packs.path, &st), 0);
	dirs[IMAGE_PACKS_DIR] = st.st_ino;
	image_init(&im, log, dirs, seed);
	while (image_step(&im, &type))
		sum += weight(type, &since_open);
	image_release(&im);
	image_init(&im, log, dirs, seed);
	im.ignore_data_sync = control->no_data_sync;
	im.ignore_pack_sync = control->no_pack_sync;
	im.ignore_dir_sync = control->no_dir_sync;
	im.no_torn_meta = control->no_restore;
	since_open = 0;
	while (image_step(&im, &type)) {
		if (image_random(&im.seed) % sum <
		    weight(type, &since_open) * (uint64_t)images)
			judge(&im, !control->no_restore, out);
	}
	image_release(&im);
}

static void run(uint64_t logs, int images, const struct control *control,
		struct outcome *out)
{
	memset(out, 0, sizeof(*out));
	for (uint64_t seed = 1; seed <= logs; seed++) {
		struct scratch log;

		scratch = scratch_new();
		log = scratch_at(&scratch, "log");
		make_log(log.path, seed);
		cut_log(log.path, seed, images, control, out);
		scratch_remove(&scratch);
	}
}

/* How many logs: four, twenty in a long run, or as many as one asks for. */
static uint64_t seeds(void)
{
	const char *asked = getenv("PIPCACHEFS_SEEDS");

	if (asked)
		return strtoull(asked, NULL, 10);
	if (SLOW_BUILD)
		return 2;
	return getenv("PIPCACHEFS_LONG") ? 20 : 4;
}

static const struct control as_it_is;

START_TEST(every_image_recovers)
{
	struct outcome out;

	run(seeds(), SLOW_BUILD ? 30 : 80, &as_it_is, &out);
	for (int v = GOOD + 1; v < VERDICTS; v++)
		ck_assert_msg(out.n[v] == 0, "%d of %d images: verdict %d",
			      out.n[v], out.images, v);
	ck_assert_int_gt(out.images, SLOW_BUILD ? 20 : 200);
	printf("%d images, all good\n", out.images);
}
END_TEST

static void expect_bad(const char *what, const struct control *control)
{
	struct outcome out;

	quiet = true;
	run(1, SLOW_BUILD ? 20 : 60, control, &out);
	printf("%s: %d of %d images bad\n", what, out.images - out.n[GOOD],
	       out.images);
	ck_assert_int_gt(out.images - out.n[GOOD], out.images / 20);
}

START_TEST(control_without_restore_is_bad)
{
	expect_bad("without restore", &(struct control){ .no_restore = true });
}
END_TEST

START_TEST(control_without_pin_is_bad)
{
	no_pin = true;
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

	scratch_in_memory();
	tcase_set_timeout(tc, 3000); /* CTest has its own */
	suite_add_tcase(suite, tc);
	tcase_add_test(tc, every_image_recovers);
	tcase_add_test(tc, control_without_restore_is_bad);
	tcase_add_test(tc, control_without_pin_is_bad);
	tcase_add_test(tc, control_without_sync_of_the_index_is_bad);
	tcase_add_test(tc, control_without_sync_of_packs_is_bad);
	tcase_add_test(tc, control_without_sync_of_the_rename_is_bad);
	return kit_run_suite(suite);
}
