/* SPDX-License-Identifier: MIT */
/*
 * An index, packs and checkpoints in a directory of their own: a store
 * without the layers above. Shorthands fail the test when they fail.
 */
#ifndef TESTS_STOREKIT_H
#define TESTS_STOREKIT_H

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "scratch.h"
#include "store/checkpoint.h"
#include "store/index.h"
#include "store/pack.h"
#include "store/recover.h"

struct kit {
	struct scratch dir;
	int index_dir;
	int packs_dir;
	int found; /* by recover_index() */
	char why[256];
	struct index *ix;
	struct packs *packs;
	struct holes *holes; /* a test's own, or NULL */
	struct checkpoint *cp;
	const struct pack_io *io;
	struct notify before;
	struct notify after;
	void (*failed)(void *arg, int error, bool frozen);
	int interval_ms;
	const uint8_t *witness; /* or NULL */
	bool as_if_clean; /* a control: a live index, and nothing is synced */
};

static inline void kit_dirs(struct kit *kit, struct scratch dir)
{
	struct scratch index = scratch_at(&dir, "index");
	struct scratch packs = scratch_at(&dir, "packs");

	memset(kit, 0, sizeof(*kit));
	kit->dir = dir;
	(void)mkdir(index.path, 0700);
	(void)mkdir(packs.path, 0700);
	kit->index_dir = scratch_open_dir(&index);
	kit->packs_dir = scratch_open_dir(&packs);
}

static inline void kit_changed(void *arg)
{
	struct kit *kit = arg;

	if (kit->cp)
		checkpoint_changed(kit->cp);
}

static inline void kit_due(void *arg)
{
	struct kit *kit = arg;

	if (kit->cp)
		checkpoint_due(kit->cp);
}

static inline int kit_recover(struct kit *kit)
{
	kit->why[0] = '\0';
	kit->found = recover_index(kit->index_dir, kit->witness, 0, kit->why,
				   sizeof(kit->why));
	return kit->found;
}

static inline int kit_open_index(struct kit *kit)
{
	struct scratch index = scratch_at(&kit->dir, "index");
	int flags = kit->found == RECOVER_RESTORED ? INDEX_RESTORED
		    : kit->found == RECOVER_LIVE   ? INDEX_LIVE
						   : 0;

	return index_open(index.path, flags, CHECKPOINT_GROWTH_BYTES,
			  (struct notify){ kit_changed, kit }, &kit->ix);
}

static inline int kit_open_packs(struct kit *kit)
{
	struct packs_config cfg = { .dir_fd = kit->packs_dir,
				    .io = kit->io,
				    .dirty_bytes = CHECKPOINT_DIRTY_BYTES,
				    .due = { kit_due, kit } };

	return packs_open(&cfg, &kit->packs);
}

static inline int kit_start(struct kit *kit)
{
	struct checkpoint_config cfg = { .index_dir_fd = kit->index_dir,
					 .ix = kit->ix,
					 .packs = kit->packs,
					 .holes = kit->holes,
					 .before = kit->before,
					 .after = kit->after,
					 .failed = kit->failed,
					 .interval_ms = kit->interval_ms,
					 .witness = kit->witness,
					 .live = kit->found == RECOVER_LIVE &&
						 !kit->as_if_clean };
	int r = checkpoint_start(&cfg, &kit->cp);

	return r < 0 ? r : index_top_up_ids(kit->ix);
}

/* Everything from recovery to the running thread. */
static inline int kit_open(struct kit *kit)
{
	int r = kit_recover(kit);

	if (r == RECOVER_UNREADABLE)
		return -EBADMSG;
	if (r >= 0)
		r = kit_open_index(kit);
	if (r == 0)
		r = kit_open_packs(kit);
	if (r == 0)
		r = kit_start(kit);
	return r;
}

/* Returns what checkpoint_stop() does. */
static inline int kit_close(struct kit *kit, bool clean)
{
	int r = checkpoint_stop(kit->cp, clean);

	packs_close(kit->packs);
	index_close(kit->ix);
	kit->cp = NULL;
	kit->packs = NULL;
	kit->ix = NULL;
	return r;
}

static inline void kit_remove(struct kit *kit)
{
	close(kit->index_dir);
	close(kit->packs_dir);
	scratch_remove(&kit->dir);
}

static inline struct index_txn *kit_begin(struct kit *kit)
{
	struct index_txn *txn;

	ck_assert_int_eq(index_begin(kit->ix, true, &txn), 0);
	return txn;
}

static inline void kit_put(struct kit *kit, uint64_t id, const char *text)
{
	struct index_txn *txn = kit_begin(kit);
	struct record_key key = record_key_id(id);

	ck_assert_int_eq(index_put(txn, INDEX_INODE, &key, text, strlen(text),
				   false),
			 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

/* The value as text, "" if there is none. */
static inline const char *kit_get(struct kit *kit, uint64_t id)
{
	static char buf[256];
	struct record_key key = record_key_id(id);
	struct index_txn *txn;
	ssize_t n;

	ck_assert_int_eq(index_begin(kit->ix, false, &txn), 0);
	n = index_get(txn, INDEX_INODE, &key, buf, sizeof(buf) - 1);
	ck_assert(n >= 0 || n == -ENOENT);
	buf[n < 0 ? 0 : n] = '\0';
	index_abort(txn);
	return buf;
}

/* Run @fn in a child that is killed after it. */
static inline void kit_killed(struct kit *kit, void (*fn)(struct kit *kit))
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		fn(kit);
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
		      "the child ended with 0x%x", status);
}

static inline uint64_t kit_count(struct kit *kit)
{
	struct checkpoint_stat stat;

	checkpoint_stat(kit->cp, &stat);
	return stat.count;
}

/* Wait until @n checkpoints were made; fails the test after 5 s. */
static inline void kit_wait_count(struct kit *kit, uint64_t n)
{
	for (int i = 0; i < 5000 && kit_count(kit) < n; i++)
		usleep(1000);
	ck_assert_uint_eq(kit_count(kit), n);
}

static inline TCase *kit_case(Suite *suite, const char *name,
			      void (*setup)(void), void (*teardown)(void))
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 100);
	suite_add_tcase(suite, tc);
	return tc;
}

static inline int kit_run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

#endif
