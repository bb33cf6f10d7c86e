/* SPDX-License-Identifier: MIT */
/*
 * Can an index be relied on? Its pages were audited when it was recovered
 * (recover.h). A process that may die of it then lets LMDB read it, and walks
 * through its records where there is a reason to.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "store/parts.h"
#include "store/recover.h"
#include "store/table.h"
#include "store/walk.h"

#define VET_REASON_MAX 256
#define VET_TIME_MAX (UINT64_C(1) << 40) /* unix seconds */

/* When it was walked last; 0: nobody knows. */
static int64_t vet_walked(struct index *ix)
{
	cleanup_txn struct index_txn *txn = NULL;
	uint64_t sec;

	if (index_begin(ix, false, &txn) < 0 ||
	    table_meta_get(txn, TABLE_META_WALKED, &sec) < 0 ||
	    sec > VET_TIME_MAX)
		return 0;
	return (int64_t)sec;
}

/* What a walk of the index returned; -EBADMSG: it is of no use. */
static int vet_result(const struct walk *w, int r, char *reason, size_t size)
{
	if (r == -EBADMSG || r == -EIO || r == -EINTR)
		snprintf(reason, size, "index/data.mdb: %s", w->text);
	else if (r < 0)
		snprintf(reason, size, "walking the index: %s", strerror(-r));
	return r == -EIO ? -EBADMSG : r;
}

int store_vet_closed(struct store *st, int found, char *reason, size_t size)
{
	struct walk w = { .go_on = NULL };

	if (found == RECOVER_CREATED ||
	    (found == RECOVER_LIVE && !st->distrust))
		return 0;
	return vet_result(&w, walk_by_lmdb(&w, st->home.index_fd), reason,
			  size);
}

int store_vet(struct store *st, int found, char *reason, size_t size)
{
	struct walk w = { .go_on = NULL };
	int64_t now = base_now_ns() / NSEC_PER_SEC, walked;
	int r;

	if (found != RECOVER_CREATED) {
		walked = vet_walked(st->ix);
		if (found != RECOVER_RESTORED && !st->distrust &&
		    walked <= now && now - walked < WALK_EVERY_SEC)
			return 0;
		r = vet_result(&w, walk_index(&w, st->ix), reason, size);
		if (r < 0)
			return r;
	}
	st->vetted = (struct store_vetted){ .sec = now, .damaged = w.damaged };
	memcpy(st->vetted.text, w.text, sizeof(st->vetted.text));
	return 0;
}

void store_found_damaged(void *arg, uint64_t records, const char *first)
{
	struct store *st = arg;
	char text[VET_REASON_MAX + WALK_TEXT_MAX];

	atomic_store(&st->bad_records, records);
	snprintf(
		text, sizeof(text),
		"%" PRIu64
		" records of the index are damaged: what they tell of is lost, the rest is mended (the first: %s)",
		records, first);
	if (st->report)
		st->report(st->report_arg, LOG_ERR, text);
}

/* LMDB may crash on it with the next operation, and would spread what is wrong:
 * nothing is written any more. The next mount sets it aside. */
void store_found_bad(void *arg, const char *first)
{
	struct store *st = arg;
	char text[VET_REASON_MAX + WALK_TEXT_MAX];

	snprintf(st->bad_index, sizeof(st->bad_index), "%s", first);
	atomic_store(&st->index_is_bad, true);
	index_freeze(st->ix);
	snprintf(
		text, sizeof(text),
		"the index is damaged (index/data.mdb: %s): the cache is read-only, and starts empty with the next mount",
		first);
	if (st->report)
		st->report(st->report_arg, LOG_ERR, text);
}

/* What cannot be recorded, for there is no room, is walked again next time. */
void store_vetted(struct store *st)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r;

	if (!st->vetted.sec)
		return;
	r = edit_begin(&st->tree, QUOTA_SYSTEM, &e);
	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_WALKED,
				   (uint64_t)st->vetted.sec);
	if (r >= 0 && st->vetted.damaged)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, 1);
	if (r >= 0)
		(void)edit_commit(&e);
	if (st->vetted.damaged)
		store_found_damaged(st, st->vetted.damaged, st->vetted.text);
}
