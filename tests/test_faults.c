/* SPDX-License-Identifier: MIT */
/*
 * The system refuses: the n-th call of a kind fails, for every n of a fixed
 * workload, that opens a store, fills it, shares, evicts, moves and checks,
 * and closes it again. Then
 *  - every operation succeeded, or said what the system said, or missed;
 *  - nobody was given a wrong byte;
 *  - what was stored is there, unless the disk itself failed or the store
 *    says that it is read-only;
 *  - the store passes its check, opens again, and the workload works on it.
 *
 * PIPCACHEFS_LONG=1 tries every n, in several processes at once, for most of
 * the time is spent waiting; else some of each kind, in each part of the
 * workload. FAULTS_ONLY=i tries only line i of the table below.
 */
#include "store/store.h"

#include <check.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "faultfiles.h"
#include "faultresult.h"
#include "scratch.h"

#define POLLS 150 /* until nothing is under way, of 2 ms */
#define POLL_USEC 2000
#define LONG_PARTS 16
#define PIP "http-v2/0/a/1/b/2/"

static struct scratch dir;

/* Background work waits for nobody here, on a machine with much else to do. */
int sched_setscheduler(pid_t pid, int policy, const struct sched_param *param)
{
	(void)pid;
	(void)policy;
	(void)param;
	return 0;
}

/* -- Operations -------------------------------------------------------------- */

static int open_store(struct store **ret)
{
	const struct store_config cfg = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "24M", .min_free = "0", .grace_sec = 0 },
		.report = note
	};
	char why[256] = "";
	int r = store_open(&cfg, ret, why, sizeof(why));

	if (r < 0)
		(void)snprintf(said, sizeof(said), "%s", why);
	return r;
}

static int find(struct store *st, const char *path, struct stat *ret)
{
	char part[64];
	int r;

	ret->st_ino = STORE_ROOT_INO;
	while (*path) {
		size_t len = strcspn(path, "/");

		(void)snprintf(part, sizeof(part), "%.*s", (int)len, path);
		r = store_lookup(st, ret->st_ino, part, ret);
		if (r < 0)
			return r;
		path += len + (path[len] == '/');
	}
	return 0;
}

static uint64_t make_dirs(struct store *st, const char *path)
{
	struct stat at = { .st_ino = STORE_ROOT_INO };
	char part[64];

	while (*path) {
		size_t len = strcspn(path, "/");
		struct store_new what = { .parent = at.st_ino,
					  .name = part,
					  .mode = 0755 };
		int r;

		(void)snprintf(part, sizeof(part), "%.*s", (int)len, path);
		r = store_mkdir(st, &what, &at);
		if (r == -EEXIST)
			r = store_lookup(st, what.parent, part, &at);
		if (expect("mkdir", r) < 0)
			return 0;
		path += len + 1;
	}
	return at.st_ino;
}

static int write_bytes(struct store_file *f, const uint8_t *buf, size_t size)
{
	size_t half = size / 2;
	ssize_t n = half ? store_file_write(f, 0, buf, half, false) : 0;

	if (n >= 0 && size > half)
		n = store_file_write(f, half, buf + half, size - half, false);
	return n < 0 ? (int)n : 0;
}

/* As pip does: a temporary name, all bytes, the name. */
static int put(struct store *st, uint64_t parent, const char *name,
	       const uint8_t *buf, size_t size)
{
	static unsigned n; /* one that could not be removed may be left */
	char tmp[32];
	const struct store_new what = { .parent = parent,
					.name = tmp,
					.mode = 0644 };
	struct store_file *f;
	struct stat attr;
	int r;

	(void)snprintf(tmp, sizeof(tmp), "%u.tmp", n++);
	r = expect("create", store_file_create(st, &what, O_RDWR, &attr, &f));
	if (r < 0) {
		/* Then there is nothing. */
		if (!now.lasting && store_lookup(st, parent, tmp, &attr) == 0)
			ck_abort_msg("left by a creation: %s", strerror(-r));
		return r;
	}
	r = expect("write", write_bytes(f, buf, size));
	if (r >= 0)
		r = expect("fsync", store_file_sync(f));
	store_file_close(f);
	if (r >= 0)
		r = expect("rename",
			   store_rename(st, parent, tmp, parent, name, 0));
	if (r < 0)
		(void)expect("unlink", store_unlink(st, parent, tmp));
	return r;
}

/* Read the n-th file: 1 it is there and right, 0 it is not, or an error. */
static int get(struct store *st, unsigned n)
{
	static uint8_t got[1 << 20];
	char path[64];
	struct store_file *f;
	struct stat attr;
	ssize_t len;
	int r;

	(void)snprintf(path, sizeof(path), PIP "%s", names[n]);
	r = find(st, path, &attr);
	if (r >= 0)
		r = store_file_open(st, attr.st_ino, O_RDONLY, &f);
	if (r < 0)
		return r == -ENOENT || r == -ESTALE ? 0 : r;
	len = store_file_read(f, 0, got, sizeof(got));
	store_file_close(f);
	if (len < 0)
		return (int)len;
	if ((size_t)len != lengths[n] ||
	    memcmp(got, content[n], lengths[n]) != 0)
		ck_abort_msg("wrong bytes of %s", names[n]);
	return 1;
}

/* Until nothing goes on in the background, or for a while. */
static void settle(struct store *st)
{
	struct store_status s;

	for (int i = 0; i < POLLS; i++) {
		if (store_status(st, &s) == 0 && !s.unsummed && !s.used_freed)
			return;
		(void)usleep(POLL_USEC);
	}
}

static void found(void *arg, const char *text)
{
	unsigned *n = arg;

	(void)snprintf(said, sizeof(said), "%s", text);
	(*n)++;
}

static int check(struct store *st, unsigned *ret_findings)
{
	struct store_check how = { .data = true,
				   .found = found,
				   .arg = ret_findings };
	struct store_checked res;

	return store_check(st, &how, &res);
}

/* -- The workloads ------------------------------------------------------------ */

static void store_all(struct store *st)
{
	uint64_t parent = make_dirs(st, PIP);

	if (!parent)
		return;
	for (unsigned i = 0; i < FILES; i++) {
		/* What was there is replaced, or stays. */
		if (put(st, parent, names[i], content[i], lengths[i]) >= 0)
			stored[i] = true;
		if (i == 3)
			(void)expect("sync", store_sync(st));
	}
}

static void read_all(struct store *st)
{
	for (unsigned i = 0; i < FILES; i++)
		(void)expect("read", get(st, i));
}

static int fill(void *arg, const char *name, const struct stat *st, off_t next)
{
	++*(unsigned *)arg;
	return !name || !st || !next;
}

/* What is done with names and attributes; nothing is left of it. */
static void juggle(struct store *st)
{
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = "d",
				  .mode = 0755 };
	struct store_file *f;
	struct statvfs vfs;
	struct stat attr = { .st_mode = 0600, .st_size = 40000 };
	unsigned n = 0;
	struct stat ret;
	int r;

	(void)expect("mkdir", store_mkdir(st, &what, NULL));
	what.name = "link";
	(void)expect("symlink", store_symlink(st, &what, "target", NULL));
	r = find(st, PIP "middle", &ret);
	if (expect("lookup", r) >= 0) {
		(void)expect("link", store_link(st, ret.st_ino, STORE_ROOT_INO,
						"other", NULL));
		(void)expect("chmod", store_setattr(st, ret.st_ino, &attr,
						    STORE_SET_MODE, NULL));
		(void)expect("unlink",
			     store_unlink(st, STORE_ROOT_INO, "other"));
	}
	if (put(st, STORE_ROOT_INO, "loose", content[4], lengths[4]) >= 0 &&
	    find(st, "loose", &ret) >= 0) {
		(void)expect("truncate", store_setattr(st, ret.st_ino, &attr,
						       STORE_SET_SIZE, NULL));
		r = store_file_open(st, ret.st_ino, O_RDWR, &f);
		if (expect("open to write", r) >= 0) {
			(void)expect("append",
				     (int)store_file_write(f, 40000, content[3],
							   100000, false));
			(void)expect("allocate",
				     store_file_fallocate(f, 0, 0, 200000));
			store_file_close(f);
		}
	}
	r = store_file_open(st, STORE_ROOT_INO, O_RDONLY | O_DIRECTORY, &f);
	if (expect("opendir", r) >= 0) {
		(void)expect("readdir", store_readdir(f, 0, true, fill, &n));
		store_file_close(f);
	}
	(void)expect("statfs", store_statfs(st, &vfs));
	(void)expect("unlink", store_unlink(st, STORE_ROOT_INO, "link"));
	(void)expect("unlink", store_unlink(st, STORE_ROOT_INO, "loose"));
	(void)expect("rmdir", store_rmdir(st, STORE_ROOT_INO, "d"));
}

/* Dead blocks, holes, a pack that goes; the limit; eviction of all. */
static void shrink(struct store *st)
{
	const struct store_limits limits = { .limit = "20M", .grace_sec = -1 };
	const struct store_prune all = { .older_than_sec = -1,
					 .no_grace = true };
	struct store_pruned gone;
	unsigned findings = 0;
	struct stat at;
	char why[256] = "";

	stored[1] = false; /* it may go in spite of an error, or stay */
	if (expect("lookup", find(st, PIP, &at)) >= 0)
		(void)expect("unlink", store_unlink(st, at.st_ino, names[1]));
	(void)expect("sync", store_sync(st));
	settle(st);
	(void)expect("limit", store_set_limits(st, &limits, why, sizeof(why)));
	(void)expect("check", check(st, &findings));
	memset(stored, 0, sizeof(stored));
	(void)expect("prune", store_prune(st, &all, &gone));
	(void)expect("sync", store_sync(st));
	settle(st);
}

static void work(struct store *st)
{
	store_all(st);
	settle(st);
	read_all(st);
	juggle(st);
}

/* -- After it ------------------------------------------------------------------ */

/* An injected error of the disk may have cost files; nothing else may. */
static bool may_lose(const struct store_status *s)
{
	return s->state == STORE_READ_ONLY || drops_files() || now.lasting;
}

static void verify(struct store *st)
{
	struct store_status s;
	unsigned findings = 0;
	int r = store_status(st, &s);

	ck_assert_int_eq(r, 0);
	ck_assert_uint_ge(s.charged, s.used);
	ck_assert_uint_le(s.used, s.limit);
	for (unsigned i = 0; i < FILES; i++) {
		r = get(st, i);
		if (s.state == STORE_READ_ONLY && r < 0)
			continue; /* the index may be closed */
		ck_assert_msg(r >= 0, "reading %s: %s (%s)", names[i],
			      strerror(-r), said);
		ck_assert_msg(r == 1 || !stored[i] || may_lose(&s),
			      "%s is lost (%s)", names[i], said);
	}
	if (s.state == STORE_READ_ONLY)
		return;
	if (!may_lose(&s))
		ck_assert_msg(s.damaged == 0, "damage was found: %s", said);
	ck_assert_int_eq(check(st, &findings), 0);
	ck_assert_msg(findings == 0, "the check says: %s", said);
}

static void reopen_and_verify(bool lost)
{
	struct store *st;
	int r;

	if (lost)
		memset(stored, 0, sizeof(stored));
	r = open_store(&st);
	ck_assert_msg(r == 0, "opening it again: %s", said);
	settle(st);
	verify(st);
	store_all(st);
	settle(st);
	verify(st);
	for (unsigned i = 0; i < FILES; i++)
		ck_assert_int_eq(get(st, i), 1);
	ck_assert_int_eq(store_close(st), 0);
}

enum phase { PHASE_OPEN, PHASE_WORK, PHASE_SHRINK, PHASE_CLOSE, PHASES };

/* One life of a store, in one phase of which the fault lies in wait. Returns
 * what fault_disarm() says. */
static long live(enum phase phase, long n)
{
	struct store *st = NULL;
	long hits = 0;
	int r;

	memset(stored, 0, sizeof(stored));
	*said = '\0';
	if (phase == PHASE_OPEN) {
		fault_arm(now.kind, n, now.error, now.lasting);
		r = open_store(&st);
		hits = fault_disarm();
		if (expect("open", r) < 0)
			r = open_store(&st);
		ck_assert_msg(r == 0, "opening it once more: %s", said);
	} else {
		ck_assert_int_eq(open_store(&st), 0);
	}
	if (phase == PHASE_WORK)
		fault_arm(now.kind, n, now.error, now.lasting);
	work(st);
	if (phase == PHASE_WORK) {
		hits = fault_disarm();
		settle(st);
		verify(st);
	}
	if (phase == PHASE_SHRINK) {
		fault_arm(now.kind, n, now.error, now.lasting);
		shrink(st);
		hits = fault_disarm();
		settle(st);
		verify(st);
	}
	if (phase == PHASE_CLOSE)
		fault_arm(now.kind, n, now.error, now.lasting);
	r = expect("close", store_close(st));
	if (phase == PHASE_CLOSE)
		hits = fault_disarm();
	reopen_and_verify(r < 0);
	scratch_remove(&dir);
	dir = scratch_new();
	return hits;
}

/* -- Every n -------------------------------------------------------------------- */

struct injected {
	enum fault_kind kind;
	int error;
	bool lasting;
	long ci_tries; /* in each phase, without PIPCACHEFS_LONG */
};

static const struct injected injected[] = {
	{ FAULT_READ, EIO, false, 4 },
	{ FAULT_WRITE, EIO, false, 6 },
	{ FAULT_WRITE, ENOSPC, false, 5 },
	{ FAULT_WRITE, EDQUOT, false, 2 },
	{ FAULT_WRITE, ENOSPC, true, 2 },
	{ FAULT_SYNC, EIO, false, 4 },
	{ FAULT_SYNC, ENOSPC, false, 2 },
	{ FAULT_SYNC, EDQUOT, false, 1 },
	{ FAULT_ALLOCATE, ENOSPC, false, 3 },
	{ FAULT_ALLOCATE, EDQUOT, false, 1 },
	{ FAULT_ALLOCATE, EIO, false, 2 },
	{ FAULT_ALLOCATE, ENOSPC, true, 1 },
	{ FAULT_TRUNCATE, EIO, false, 3 },
	{ FAULT_TRUNCATE, ENOSPC, false, 1 },
	{ FAULT_OPEN, EMFILE, false, 5 },
	{ FAULT_OPEN, ENOMEM, false, 3 },
	{ FAULT_OPEN, EIO, false, 3 },
	{ FAULT_OPEN, ENOSPC, false, 2 },
	{ FAULT_OPEN, EDQUOT, false, 1 },
	{ FAULT_OPEN, EMFILE, true, 2 },
	{ FAULT_NAME, EIO, false, 3 },
	{ FAULT_NAME, ENOSPC, false, 2 },
	{ FAULT_NAME, EDQUOT, false, 1 },
	{ FAULT_NAME, ENOMEM, false, 1 },
	{ FAULT_MEMORY, ENOMEM, false, 8 },
	{ FAULT_MEMORY, ENOMEM, true, 2 },
};

#define INJECTED ((int)(sizeof(injected) / sizeof(*injected)))

/* How many calls there are when none fails. */
static long calls[PHASES][FAULT_KINDS];

static void count_calls(void)
{
	scratch_in_memory();
	make_bytes();
	dir = scratch_new();
	for (int phase = 0; phase < PHASES; phase++) {
		ck_assert_int_eq(live((enum phase)phase, -1), 0);
		for (int kind = 0; kind < FAULT_KINDS; kind++)
			calls[phase][kind] = fault_calls((enum fault_kind)kind);
	}
	scratch_remove(&dir);
}

/* The tries of a line are dealt out to so many processes. */
static long part, parts = 1;

/* Of each line; in memory that all of them share. */
struct tally {
	atomic_long tries, hits;
};
static struct tally *tallies;

/* Where there are few or all may be tried, all are; else some of each part. */
static long step_of(const struct injected *in, long n)
{
	long tries = SLOW_BUILD ? 1 : (in->ci_tries + 1) / 2;

	if (getenv("PIPCACHEFS_LONG") || n <= tries)
		return 1;
	return (n + tries - 1) / tries;
}

START_TEST(any_call_may_fail)
{
	const struct injected *in = &injected[_i];
	struct tally *tally = &tallies[_i];

	now.kind = in->kind;
	now.error = in->error;
	now.lasting = in->lasting;
	for (int phase = 0; phase < PHASES; phase++) {
		long n = calls[phase][in->kind], step = step_of(in, n);

		for (long at = part * step; at < n; at += parts * step) {
			atomic_fetch_add(&tally->tries, 1);
			if (live((enum phase)phase, at) > 0)
				atomic_fetch_add(&tally->hits, 1);
		}
	}
}
END_TEST

static void setup(void)
{
	dir = scratch_new();
}

static void teardown(void)
{
	(void)fault_disarm();
	scratch_remove(&dir);
}

/* The part of a process; the number of failures. */
static int run(int first, int last)
{
	Suite *s = suite_create("faults");
	TCase *tc = tcase_create("nth call");
	SRunner *sr = srunner_create(s);
	int failed;

	tcase_add_unchecked_fixture(tc, count_calls, NULL);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, getenv("PIPCACHEFS_LONG") ? 3600 : 110);
	tcase_add_loop_test(tc, any_call_may_fail, first, last + 1);
	suite_add_tcase(s, tc);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed;
}

/* Was enough tried of line @i, and did it hit? Threads do not make the same
 * calls each time, but nearly. */
static bool is_enough(int i)
{
	const struct injected *in = &injected[i];
	long tries = atomic_load(&tallies[i].tries);
	long hits = atomic_load(&tallies[i].hits);

	printf("%s of kind %d%s: %ld of %ld tries hit\n",
	       strerrorname_np(in->error), (int)in->kind,
	       in->lasting ? ", lasting" : "", hits, tries);
	return tries > 0 && hits * 2 >= tries;
}

int main(void)
{
	const char *only = getenv("FAULTS_ONLY");
	int first = only ? (int)strtol(only, NULL, 10) : 0;
	int last = only ? first : INJECTED - 1;
	bool failed = first < 0 || last >= INJECTED;
	int status;

	tallies =
		mmap(NULL, INJECTED * sizeof(*tallies), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (failed || tallies == MAP_FAILED) {
		(void)fprintf(stderr, "%s\n",
			      failed ? "FAULTS_ONLY: no such line"
				     : strerror(errno));
		return EXIT_FAILURE;
	}
	parts = getenv("PIPCACHEFS_LONG") ? LONG_PARTS : 1;
	for (part = 0; part < parts; part++) {
		pid_t pid = fork();

		if (pid == 0)
			exit(run(first, last) ? EXIT_FAILURE : EXIT_SUCCESS);
		failed |= pid < 0;
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	for (int i = first; i <= last; i++)
		failed |= !is_enough(i);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
