/* SPDX-License-Identifier: MIT */
/*
 * Runs of the power-cut tests: make a log of several lives of a store, cut it
 * at many places, have each image judged in a process of its own.
 *
 * What a life does and what must hold in an image is the test program's:
 * powerrun.live, powerrun.verify.
 */
#ifndef TESTS_POWERRUN_H
#define TESTS_POWERRUN_H

#include <check.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "powercut.h"
#include "powerlog.h"
#include "scratch.h"
#include "storekit.h"

#define LIVES 4
#define CONTROL_LOGS 4 /* at most */

enum verdict {
	GOOD,
	BAD_CHECK,   /* an assertion of check's failed, and exited */
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

static struct {
	/* One process: until it is killed, or to a clean end. */
	void (*live)(const char *log, uint64_t seed, struct powerlog_kill kill);
	/* In a child of its own: what @saved says must be in the image. */
	enum verdict (*verify)(struct scratch image, struct image_saved saved,
			       bool restore, uint64_t seed);
	bool may_abort; /* a life may find what it recovered unusable */
	bool quiet;	/* what crashes is expected to, and need not say so */
	struct scratch dir;
} powerrun;

static inline void hush(void)
{
	if (powerrun.quiet && !freopen("/dev/null", "w", stderr))
		abort();
}

/* -- Lives ----------------------------------------------------------------- */

/* At any call, or at a sync or rename, or at the rename of a side file. */
static inline struct powerlog_kill choose_kill(uint64_t *seed)
{
	static const struct {
		enum iotap_op from;
		unsigned calls;
	} kinds[] = { { IOTAP_WRITE, 3000 },
		      { IOTAP_SYNC, 60 },
		      { IOTAP_RENAME, 6 } };
	size_t kind = image_random(seed) % ARRAY_SIZE(kinds);

	return (struct powerlog_kill){
		.how = (enum powerlog_kill_how)(image_random(seed) % KILL_HOWS),
		.from = kinds[kind].from,
		.calls = (long)(image_random(seed) % kinds[kind].calls),
	};
}

/* A log of several lives; those but every third are killed. */
static inline void make_log(const char *log, uint64_t seed)
{
	struct scratch store = scratch_at(&powerrun.dir, "store");
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
			powerrun.live(log, seed, kill);
			_exit(0);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (powerrun.may_abort && status == SIGABRT)
			break;
		ck_assert_msg(status == 0 || status == SIGKILL,
			      "life %d ended with 0x%x", i, status);
	}
	close(kit.index_dir);
	close(kit.packs_dir);
}

/* -- Images ---------------------------------------------------------------- */

struct outcome {
	int images;
	int punches; /* holes, in the logs */
	int n[VERDICTS];
};

static inline void judge(struct image *im, bool restore, struct outcome *out)
{
	struct scratch image = scratch_at(&powerrun.dir, "image");
	struct image_saved saved;
	enum verdict verdict;
	int status;
	pid_t pid;

	saved = image_cut(im, &image);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		hush();
		_exit(powerrun.verify(image, saved, restore, im->seed));
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
static inline uint64_t weight(enum powerlog_type type, unsigned *since_open)
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
static inline void cut_log(const char *log, uint64_t seed, int images,
			   const struct control *control, struct outcome *out)
{
	enum powerlog_type type;
	unsigned since_open = 0;
	struct image im;
	uint64_t sum = 0;

	image_init(&im, log, seed);
	while (image_step(&im, &type)) {
		sum += weight(type, &since_open);
		out->punches += type == POWERLOG_PUNCH;
	}
	image_release(&im);
	image_init(&im, log, seed);
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

static inline void powerrun_log(uint64_t seed, int images,
				const struct control *control,
				struct outcome *out)
{
	struct scratch log;

	powerrun.dir = scratch_new();
	log = scratch_at(&powerrun.dir, "log");
	make_log(log.path, seed);
	cut_log(log.path, seed, images, control, out);
	scratch_remove(&powerrun.dir);
}

static inline void powerrun_all(uint64_t logs, int images,
				const struct control *control,
				struct outcome *out)
{
	memset(out, 0, sizeof(*out));
	for (uint64_t seed = 1; seed <= logs; seed++)
		powerrun_log(seed, images, control, out);
}

/* What is broken on purpose is found in one of the first logs: one whose lives
 * are all killed early may hold nothing of it. */
static inline void powerrun_expect_bad(const char *what, int images,
				       const struct control *control)
{
	struct outcome out;
	int bad = 0;

	powerrun.quiet = true;
	for (uint64_t seed = 1; seed <= CONTROL_LOGS && !bad; seed++) {
		memset(&out, 0, sizeof(out));
		powerrun_log(seed, images, control, &out);
		bad = out.images - out.n[GOOD];
		printf("%s: %d of %d images bad\n", what, bad, out.images);
		if (bad <= out.images / 20)
			bad = 0;
	}
	ck_assert_int_gt(bad, 0);
}

/* How many logs: four, twenty in a long run, or as many as one asks for. */
static inline uint64_t seeds(void)
{
	const char *asked = getenv("PIPCACHEFS_SEEDS");

	if (asked)
		return strtoull(asked, NULL, 10);
	if (SLOW_BUILD)
		return 2;
	return getenv("PIPCACHEFS_LONG") ? 20 : 4;
}

#endif
