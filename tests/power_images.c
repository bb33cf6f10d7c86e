/* SPDX-License-Identifier: MIT */
/*
 * Power cuts of a daemon that ran with the recorder of powertap.c:
 *
 *	power_images LOG WORK LIMIT IMAGES SEED [WITHOUT]
 *
 * At each checkpoint of the log the store as it was, with all that had been
 * written, is put back to that checkpoint: the reference, WORK/ref.RECORD. Then
 * IMAGES images of what the disk may hold (powercut.h) are opened by the real
 * code, each in a process of its own. It must open without complaint, pass a
 * check of all bytes, hold the very tree of the reference of its checkpoint,
 * take no more than LIMIT on the disk, and go on from there.
 *
 * WITHOUT is a control, "data", "packs" or "rename": syncs of these count for
 * nothing.
 *
 * A tree is what powertree.h makes of it.
 *
 * Printed are lines: "ref RECORD", "note NUMBER RECORD" (the checkpoint that
 * was the newest at that note), "bad record RECORD: WHY", "punches NUMBER"
 * (holes, in the log), "images NUMBER bad NUMBER".
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>

#include "clocktap.h"
#include "powercut.h"
#include "powertree.h"

#define BAD_SHOWN 5
#define NEVER_SEC 86400
#define JUDGE_SEC 600 /* then it hangs */

struct ref {
	uint64_t at;
	char *tree; /* owned */
};

static struct {
	const char *log;
	struct scratch work;
	uint64_t limit;
	uint64_t images;
	uint64_t seed;
	const char *without;
	struct ref *refs;
	size_t n_refs, room_refs;
	uint64_t promised; /* record of the checkpoint */
	uint64_t judged, bad;
} run;

/* -- The judge: a child that looks at one image --------------------------- */

static void judge_report(void *arg, int priority, const char *text)
{
	(void)arg;
	if (priority <= LOG_WARNING)
		judge_bad("reported: %s", text);
}

static void judge_finding(void *arg, const char *text)
{
	(void)arg;
	judge_bad("check: %s", text);
}

static struct store *judge_open(const struct scratch *path)
{
	char limit[32], why[512] = "";
	struct store_config cfg = {
		.path = path->path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = limit,
			    .min_free = "0",
			    .grace_sec = NEVER_SEC },
		.report = judge_report,
	};
	struct store *st = NULL;

	(void)snprintf(limit, sizeof(limit), "%ju", (uintmax_t)run.limit);
	if (store_open(&cfg, &st, why, sizeof(why)) < 0)
		judge_bad("opening: %s", why);
	return st;
}

static void judge_check(struct store *st)
{
	const struct store_check how = { .data = true,
					 .alone = true,
					 .found = judge_finding };
	struct store_checked checked;
	int r = store_check(st, &how, &checked);

	if (r < 0 || !checked.done)
		judge_bad("check ended with %d", r);
}

static uint64_t disk_bytes;

static int judge_add_disk(const char *path, const struct stat *st, int flag,
			  struct FTW *ftw)
{
	(void)path;
	(void)flag;
	(void)ftw;
	disk_bytes += (uint64_t)st->st_blocks * 512;
	return 0;
}

static uint64_t judge_disk_bytes(const struct scratch *path)
{
	disk_bytes = 0;
	if (nftw(path->path, judge_add_disk, 16, FTW_PHYS) < 0)
		judge_bad("du: %m");
	return disk_bytes;
}

static void judge_limit(const struct scratch *path)
{
	if (judge_disk_bytes(path) > run.limit)
		judge_bad("limit: %ju bytes on the disk",
			  (uintmax_t)disk_bytes);
}

/* Store, save, close and open again. */
static void judge_go_on(struct store *st, const struct scratch *path)
{
	const struct store_new what = { .parent = STORE_ROOT_INO,
					.name = "\x01new",
					.mode = S_IFREG | 0644 };
	const struct torn none = { .n = 0 };
	uint8_t buf[100000];
	struct store_file *f = NULL;
	cleanup_free char *was = NULL, *is = NULL;
	char why[512] = "";
	struct stat attr;
	uint64_t seed = run.seed;
	int r = store_file_create(st, &what, O_RDWR, &attr, &f);

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)image_random(&seed);
	if (r >= 0)
		r = (int)store_file_write(f, 0, buf, sizeof(buf), false);
	if (r == -ENOSPC) { /* it may be full up to the limit */
		if (f)
			store_file_close(f);
		f = NULL;
	} else if (r < 0) {
		judge_bad("going on: %s", strerror(-r));
	}
	if (f)
		store_file_close(f);
	was = tree_text(st, &none);
	r = store_close(st);
	if (r < 0 || store_look(path->path, why, sizeof(why)) != 0)
		judge_bad("closing: %d %s", r, why);
	st = judge_open(path);
	judge_check(st);
	is = tree_text(st, &none);
	if (strcmp(was, is) != 0)
		judge_bad("closed and opened again it is another:\n%s---\n%s",
			  was, is);
	judge_limit(path);
	(void)store_close(st);
}

static void judge_compare(const char *is, const char *ref)
{
	size_t i = 0, begin = 0;

	if (strcmp(is, ref) == 0)
		return;
	for (; is[i] && is[i] == ref[i]; i++) {
		if (is[i] == '\n')
			begin = i + 1;
	}
	judge_bad("tree: '%.*s' should be '%.*s'",
		  (int)strcspn(is + begin, "\n"), is + begin,
		  (int)strcspn(ref + begin, "\n"), ref + begin);
}

/* @ref: the tree it must have, or NULL: it is written to WORK/tree. */
static void judge_image(const struct scratch *path, const char *ref,
			uint64_t time_sec, bool go_on)
{
	struct torn torn = { .n = 0 };
	cleanup_free char *tree = NULL;
	struct store *st;

	(void)alarm(JUDGE_SEC);
	/* What was used last is as long ago as it was then. */
	clocktap_wall_sec = (long)time_sec - time(NULL);
	iotap_fake_sync = true;
	torn_find(&torn, path);
	st = judge_open(path);
	judge_limit(path);
	judge_check(st);
	tree = tree_text(st, &torn);
	if (ref)
		judge_compare(tree, ref);
	else
		scratch_write(scratch_at(&run.work, "tree").path, tree,
			      strlen(tree));
	if (go_on)
		judge_go_on(st, path);
	_exit(0);
}

/* -- The images ----------------------------------------------------------- */

static void tell_bad(uint64_t at, int status, const struct scratch *path)
{
	run.bad++;
	if (run.bad > BAD_SHOWN)
		return;
	if (access(tree_why.path, F_OK) == 0) {
		struct scratch_bytes why = scratch_read(tree_why.path);

		printf("bad record %ju: %.*s\n", (uintmax_t)at, (int)why.len,
		       (char *)why.data);
		free(why.data);
	} else {
		printf("bad record %ju: status 0x%x\n", (uintmax_t)at, status);
	}
	if (getenv("PIPCACHEFS_KEEP")) {
		printf("kept: %s\n", path->path);
		exit(1);
	}
}

/* Returns true if it is good. */
static bool judge(uint64_t at, const struct scratch *path, const char *ref,
		  uint64_t time_sec, bool go_on)
{
	int status;
	pid_t pid;

	(void)unlink(tree_why.path);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		if (run.without && !freopen("/dev/null", "w", stderr))
			_exit(2);
		judge_image(path, ref, time_sec, go_on);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (status != 0)
		tell_bad(at, status, path);
	return status == 0;
}

static const struct ref *find_ref(uint64_t at)
{
	for (size_t i = run.n_refs; i-- > 0;) {
		if (run.refs[i].at == at)
			return &run.refs[i];
	}
	return NULL;
}

/* The tree of the checkpoint that was just put in place. */
static void make_ref(struct image *im, uint64_t at)
{
	struct scratch image = scratch_at(&run.work, "image");
	struct scratch tree = scratch_at(&run.work, "tree");
	struct scratch keep;
	struct scratch_bytes bytes;
	struct image_saved saved;
	char name[64];

	(void)snprintf(name, sizeof(name), "ref.%ju", (uintmax_t)at);
	keep = scratch_at(&run.work, name);
	if (!run.without) {
		saved = image_all(im, &image);
		ck_assert_msg(judge(at, &image, NULL, saved.time_sec, false),
			      "the reference of record %ju", (uintmax_t)at);
		scratch_remove(&image);
		ck_assert_int_eq(rename(tree.path, keep.path), 0);
		printf("ref %ju\n", (uintmax_t)at);
	}
	bytes = scratch_read(keep.path); /* a control has them from before */
	bytes.data[bytes.len] = '\0';
	run.refs = image_grow(run.refs, run.n_refs, &run.room_refs,
			      sizeof(*run.refs));
	run.refs[run.n_refs++] =
		(struct ref){ .at = at, .tree = (char *)bytes.data };
}

static void cut(struct image *im)
{
	struct scratch path = scratch_at(&run.work, "image");
	struct image_saved saved = image_cut(im, &path);
	const struct ref *ref = find_ref(saved.at);
	bool go_on = image_random(&im->seed) % 4 == 0;
	bool good;

	ck_assert_msg(ref || saved.empty, "no reference for record %ju",
		      (uintmax_t)saved.at);
	good = judge(im->at, &path, saved.empty ? "" : ref->tree,
		     saved.empty ? (uint64_t)time(NULL) : saved.time_sec,
		     go_on);
	run.judged++;
	if (good && saved.at < run.promised) {
		printf("bad record %ju: an older checkpoint, %ju, than was "
		       "promised, %ju\n",
		       (uintmax_t)im->at, (uintmax_t)saved.at,
		       (uintmax_t)run.promised);
		run.bad++;
	}
	scratch_remove(&path);
}

static const struct image_saved *newest(const struct image *im)
{
	static const struct image_saved none = { .empty = true };
	const struct image_node *index =
		im->root ? image_lookup(&im->root->now, "index") : NULL;

	return index ? &index->now.saved : &none;
}

/* More around syncs, and what is done to names; none in what comes before the
 * first process. */
static uint64_t weight(enum powerlog_type type, bool *alive)
{
	*alive |= type == POWERLOG_LIFE;
	if (!*alive)
		return 0;
	return type >= POWERLOG_SYNC && type < POWERLOG_INTENT ? 8 : 1;
}

static void start(struct image *im)
{
	const char *without = run.without ? run.without : "";

	image_init(im, run.log, run.seed);
	im->ignore_data_sync = !strcmp(without, "data");
	im->ignore_pack_sync = !strcmp(without, "packs");
	im->ignore_dir_sync = !strcmp(without, "rename");
}

static void take_note(const struct image *im, uint64_t note)
{
	uint64_t at = newest(im)->at;

	run.promised = at;
	printf("note %ju %ju\n", (uintmax_t)note, (uintmax_t)at);
}

START_TEST(every_image_is_its_checkpoint)
{
	enum powerlog_type type;
	struct image im;
	uint64_t sum = 0, due, was = 0, punches = 0, now;
	bool alive = false;

	tree_why = scratch_at(&run.work, "why");
	start(&im);
	while (image_step(&im, &type)) {
		sum += weight(type, &alive);
		punches += type == POWERLOG_PUNCH;
	}
	image_release(&im);
	alive = false;
	start(&im);
	due = image_random(&im.seed) % sum;
	while (image_step(&im, &type)) {
		now = newest(&im)->at;
		if (now != was && !newest(&im)->empty && !find_ref(now))
			make_ref(&im, now);
		was = now;
		if (type == POWERLOG_NOTE)
			take_note(&im, im.note);
		for (due += weight(type, &alive) * run.images; due >= sum;
		     due -= sum)
			cut(&im);
	}
	image_release(&im);
	for (size_t i = 0; i < run.n_refs; i++)
		free(run.refs[i].tree);
	free(run.refs);
	printf("punches %ju\n", (uintmax_t)punches);
	printf("images %ju bad %ju\n", (uintmax_t)run.judged,
	       (uintmax_t)run.bad);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *suite = suite_create("power_images");
	TCase *tc = tcase_create("images");
	SRunner *runner;
	int failed;

	if (argc < 6 || argc > 7) {
		(void)fprintf(stderr, "usage: power_images LOG WORK LIMIT "
				      "IMAGES SEED [data|packs|rename]\n");
		return 2;
	}
	run.log = argv[1];
	(void)snprintf(run.work.path, sizeof(run.work.path), "%s", argv[2]);
	run.limit = strtoull(argv[3], NULL, 10);
	run.images = strtoull(argv[4], NULL, 10);
	run.seed = strtoull(argv[5], NULL, 10);
	run.without = argv[6];
	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* what fails ends at once */
	suite_add_tcase(suite, tc);
	tcase_set_timeout(tc, 7200); /* who runs it has its own */
	tcase_add_test(tc, every_image_is_its_checkpoint);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
