/* SPDX-License-Identifier: MIT */
#include "store/scrub.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "store/compact.h"
#include "store/idle.h"
#include "store/loss.h"
#include "store/proof.h"
#include "store/table.h"
#include "store/walk.h"

#define SCRUB_REST_MS 100     /* between two slices */
#define SCRUB_TICK_RESTS 100  /* at most so long without a look at the clock */
#define SCRUB_USE_RESTS 10    /* while the store is in use */
#define SCRUB_RETRY_RESTS 100 /* after an error */
#define SCRUB_SLICE_NS (20 * (NSEC_PER_SEC / 1000))
#define SCRUB_WALK_AGAIN_SEC 3600 /* after a walk that could not be done */
#define SCRUB_LATE 8		  /* an eighth of the pass behind */
#define SCRUB_TIME_MAX (UINT64_C(1) << 40) /* unix seconds */

enum scrub_stage { SCRUB_FILES, SCRUB_BLOCKS, SCRUB_OVER };

struct scrub {
	struct scrub_config cfg;
	struct tree *t;
	pthread_t thread;

	/* The thread's own. */
	struct scrub_stat st;
	enum scrub_stage stage;
	struct proof proof;    /* its @at is the place within the stage */
	struct survey_set bad; /* blocks found in this slice */
	uint64_t missing;      /* the last pack that was told to be */
	uint64_t uses;	       /* of the store, when it looked last */
	bool moved;	       /* since it was recorded */
	int64_t saved_ns;
	int64_t not_walked; /* unix seconds: when that could not be done */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	bool stop;
	struct scrub_stat shown;
};

static int64_t scrub_now(const struct scrub *s)
{
	return s->cfg.now_ns ? s->cfg.now_ns() : base_now_ns();
}

/* Wait; false: end. */
static bool scrub_wait(struct scrub *s, int64_t us)
{
	struct timespec until = base_deadline(us);

	LOCK_SCOPE(&s->lock);
	while (!s->stop && us > 0 &&
	       pthread_cond_timedwait(&s->wake, &s->lock, &until) != ETIMEDOUT)
		;
	return !s->stop;
}

static void scrub_show(struct scrub *s)
{
	s->st.over = s->stage == SCRUB_OVER;
	LOCK_SCOPE(&s->lock);
	s->shown = s->st;
}

static void scrub_tell(struct scrub *s, int priority, const char *text)
{
	s->cfg.fs->report(s->cfg.fs->report_arg, priority, text);
}

/* -- What is recorded ------------------------------------------------------- */

static uint64_t scrub_get(struct index_txn *txn, const char *name)
{
	uint64_t v;

	return table_meta_get(txn, name, &v) < 0 ? 0 : v;
}

/* What is no time counts as none. */
static int64_t scrub_get_time(struct index_txn *txn, const char *name)
{
	uint64_t sec = scrub_get(txn, name);

	return sec > SCRUB_TIME_MAX ? 0 : (int64_t)sec;
}

int scrub_recorded(struct tree *t, struct scrub_stat *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	*ret = (struct scrub_stat){
		.done = scrub_get(txn, TABLE_META_SCRUB_DONE),
		.all = scrub_get(txn, TABLE_META_SCRUB_ALL),
		.began = scrub_get_time(txn, TABLE_META_SCRUB_BEGAN),
		.ended = scrub_get_time(txn, TABLE_META_SCRUB_ENDED),
		.walked = scrub_get_time(txn, TABLE_META_WALKED),
	};
	ret->over = !ret->began ||
		    scrub_get(txn, TABLE_META_SCRUB_STAGE) >= SCRUB_OVER;
	return 0;
}

/* None: as if a pass had ended long ago. */
static int scrub_load(struct scrub *s)
{
	cleanup_txn struct index_txn *txn = NULL;
	uint64_t stage;
	int r = scrub_recorded(s->t, &s->st);

	if (r >= 0)
		r = index_begin(s->t->ix, false, &txn);
	if (r < 0)
		return r;
	stage = scrub_get(txn, TABLE_META_SCRUB_STAGE);
	s->stage = s->st.over ? SCRUB_OVER : (enum scrub_stage)stage;
	s->proof.at = scrub_get(txn, TABLE_META_SCRUB_AT);
	return 0;
}

static int scrub_put(struct scrub *s, struct index_txn *txn)
{
	const struct {
		const char *name;
		uint64_t value;
	} v[] = {
		{ TABLE_META_SCRUB_BEGAN, (uint64_t)s->st.began },
		{ TABLE_META_SCRUB_ENDED, (uint64_t)s->st.ended },
		{ TABLE_META_SCRUB_STAGE, s->stage },
		{ TABLE_META_SCRUB_AT, s->proof.at },
		{ TABLE_META_SCRUB_DONE, s->st.done },
		{ TABLE_META_SCRUB_ALL, s->st.all },
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(v) && r >= 0; i++)
		r = table_meta_put(txn, v[i].name, v[i].value);
	return r;
}

static uint64_t scrub_uses(const struct scrub *s)
{
	return index_txnid(s->t->ix) + atomic_load(&s->t->hits) +
	       atomic_load(&s->t->misses);
}

/* What cannot be recorded is done again some day. */
static void scrub_save(struct scrub *s)
{
	cleanup_edit struct edit e = EDIT_INIT;
	bool in_use = scrub_uses(s) != s->uses;
	int r;

	if (!s->moved || index_frozen(s->t->ix))
		return;
	r = edit_begin(s->t, QUOTA_SYSTEM, &e);
	if (r >= 0)
		r = scrub_put(s, e.txn);
	if (r >= 0)
		r = edit_commit(&e);
	s->moved = r < 0;
	s->saved_ns = scrub_now(s);
	if (!in_use) /* but by us */
		s->uses = scrub_uses(s);
}

/* -- The index -------------------------------------------------------------- */

static bool scrub_walk_on(void *arg)
{
	return scrub_wait(arg, 0);
}

static int scrub_walked(struct scrub *s, bool damaged)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(s->t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_WALKED,
				   (uint64_t)s->st.walked);
	if (r >= 0 && damaged)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, 1);
	return r < 0 ? r : edit_commit(&e);
}

/* By a clock that may have been wrong. */
static bool scrub_is_ago(int64_t now_sec, int64_t then_sec, int64_t sec)
{
	return then_sec > now_sec || now_sec - then_sec >= sec;
}

static void scrub_walk(struct scrub *s, int64_t now_sec)
{
	struct walk w = { .go_on = scrub_walk_on, .arg = s };
	int r;

	idle_io(false); /* what is pinned meanwhile makes the index grow */
	r = walk_index(&w, s->t->ix);
	idle_io(true);
	if (r < 0 && r != -EBADMSG && r != -EIO) {
		s->not_walked = now_sec;
		return;
	}
	s->st.walked = now_sec;
	if (r == -EBADMSG || r == -EIO)
		s->cfg.index_bad(s->cfg.arg, w.text);
	if (r >= 0 && w.damaged)
		s->cfg.index_damaged(s->cfg.arg, w.damaged, w.text);
	if (r >= 0)
		(void)scrub_walked(s, w.damaged > 0);
}

/* -- Slices ----------------------------------------------------------------- */

/* No faster than the ceiling. */
static bool scrub_pace(void *arg, size_t len)
{
	struct scrub *s = arg;

	return scrub_wait(s,
			  (int64_t)(len * UINT64_C(1000000) / s->cfg.ceiling));
}

/* Told once: of blocks whose pack is not there, the first. */
static int scrub_note_block(struct scrub *s)
{
	const struct proof *p = &s->proof;
	struct survey_item *item;
	char text[PROOF_TEXT_MAX + 32];

	if (!p->missing || p->pack != s->missing) {
		snprintf(text, sizeof(text), "damage: %s", p->text);
		scrub_tell(s, LOG_ERR, text);
	}
	if (p->missing)
		s->missing = p->pack;
	return survey_add(&s->bad, p->bad, &item);
}

static int scrub_drop_file(struct scrub *s)
{
	char text[PROOF_TEXT_MAX + 64];
	int r = loss_file(s->cfg.fs, s->proof.bad);

	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "damage: %s; dropped from the cache",
		 s->proof.text);
	scrub_tell(s, LOG_ERR, text);
	return 0;
}

/* An error leaves them to the next slice. */
static int scrub_drop_blocks(struct scrub *s)
{
	uint64_t files = 0;
	char text[128];
	int r;

	if (!s->bad.n)
		return 0;
	r = loss_blocks(s->cfg.fs, &s->bad, &files);
	if (r >= 0)
		s->bad.n = 0;
	if (files) {
		snprintf(
			text, sizeof(text),
			"%" PRIu64
			" files with damaged blocks are dropped from the cache",
			files);
		scrub_tell(s, LOG_ERR, text);
	}
	return r;
}

/* 1: more of this stage, 0: it is through. */
static int scrub_step(struct scrub *s)
{
	struct proof *p = &s->proof;
	int r, dropped = 0;

	if (s->stage == SCRUB_FILES) {
		r = proof_next_file(p);
		if (r > 0 && p->bad)
			dropped = scrub_drop_file(s);
		s->st.all += r > 0 ? p->bytes : 0; /* are not in packs' sums */
	} else {
		r = proof_next_block(p);
		if (r > 0 && p->bad)
			dropped = scrub_note_block(s);
	}
	s->st.done += r > 0 ? p->bytes : 0;
	if (dropped < 0)
		p->at = p->bad; /* once more */
	return dropped < 0 ? dropped : r;
}

static void scrub_next_stage(struct scrub *s, int64_t now)
{
	s->stage++;
	s->proof.at = 0;
	if (s->stage == SCRUB_OVER)
		s->st.ended = now / NSEC_PER_SEC;
}

static int64_t scrub_monotonic(void)
{
	struct timespec ts = base_deadline(0);

	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* As much as a slice takes, or until @due bytes are done. */
static int scrub_slice(struct scrub *s, int64_t now, uint64_t due)
{
	int64_t end = scrub_monotonic() + SCRUB_SLICE_NS;
	int lost, r = 1;

	while (r > 0 && s->st.done < due && s->bad.n < LOSS_BLOCKS_MAX &&
	       scrub_monotonic() < end)
		r = scrub_step(s);
	s->moved = true;
	lost = scrub_drop_blocks(s);
	if (r == 0)
		scrub_next_stage(s, now);
	if (s->stage == SCRUB_OVER || now < s->saved_ns ||
	    now - s->saved_ns >= SCRUB_SAVE_SEC * NSEC_PER_SEC)
		scrub_save(s);
	return lost < 0 ? lost : r;
}

/* -- When ------------------------------------------------------------------- */

static int scrub_begin_pass(struct scrub *s, int64_t now)
{
	struct compact_stat packs;
	int r = compact_measure(s->t, &packs);

	if (r < 0)
		return r;
	s->stage = SCRUB_FILES;
	s->proof.at = 0;
	s->missing = 0;
	s->st.began = now / NSEC_PER_SEC;
	s->st.done = 0;
	s->st.all = packs.live;
	s->moved = true;
	scrub_show(s);
	return 0;
}

/* The part of the period that is over: 1 and more is all of it. */
static double scrub_elapsed(struct scrub *s, int64_t now)
{
	double sec = (double)now / (double)NSEC_PER_SEC - (double)s->st.began;

	if (sec < -1) { /* the clock was set back */
		s->st.began = now / NSEC_PER_SEC;
		sec = 0;
	}
	return sec / (double)s->cfg.period_sec;
}

static bool scrub_in_use(struct scrub *s)
{
	uint64_t uses = scrub_uses(s);
	bool changed = uses != s->uses;

	s->uses = uses;
	return changed;
}

/* Rests until @part of the period is over. */
static int scrub_rests(const struct scrub *s, double elapsed, double part)
{
	double rests = (part - elapsed) * (double)s->cfg.period_sec * 1000 /
		       s->cfg.rest_ms;

	return rests < 1		  ? 1
	       : rests < SCRUB_TICK_RESTS ? (int)rests
					  : SCRUB_TICK_RESTS;
}

/* In rests. */
static int scrub_bytes(struct scrub *s, int64_t now)
{
	double elapsed = scrub_elapsed(s, now);
	uint64_t due = UINT64_MAX;
	int r;

	if (scrub_drop_blocks(s) < 0) /* those that could not be */
		return SCRUB_RETRY_RESTS;
	if (s->stage == SCRUB_OVER) {
		if (elapsed <= 1)
			return scrub_rests(s, elapsed, 1);
		if (scrub_begin_pass(s, now) < 0)
			return SCRUB_RETRY_RESTS;
		elapsed = 0;
	}
	/* One more: what is through is known to be. */
	if (elapsed < 1)
		due = (uint64_t)((double)s->st.all * elapsed) + 1;
	if (s->st.done >= due)
		return scrub_rests(s, elapsed,
				   (double)s->st.done / (double)s->st.all);
	if (scrub_in_use(s) && due - s->st.done <= s->st.all / SCRUB_LATE)
		return SCRUB_USE_RESTS;
	r = scrub_slice(s, now, due);
	return r < 0 ? SCRUB_RETRY_RESTS : 1;
}

/* Returns how many rests to take. */
static int scrub_round(struct scrub *s)
{
	int64_t now = scrub_now(s), sec = now / NSEC_PER_SEC;

	if (index_frozen(s->t->ix))
		return SCRUB_TICK_RESTS;
	if (scrub_is_ago(sec, s->st.walked, WALK_EVERY_SEC) &&
	    scrub_is_ago(sec, s->not_walked, SCRUB_WALK_AGAIN_SEC))
		scrub_walk(s, sec);
	return s->cfg.period_sec ? scrub_bytes(s, now) : SCRUB_TICK_RESTS;
}

static void *scrub_main(void *arg)
{
	struct scrub *s = arg;
	/* Those who mount want the disk first. */
	int rests = scrub_rests(s, 0, 1);

	(void)pthread_setname_np(pthread_self(), "scrub");
	/* Not idle as a whole: it holds the index's write lock now and then. */
	idle_io(true);
	while (scrub_wait(s, (int64_t)rests * s->cfg.rest_ms * 1000)) {
		rests = scrub_round(s);
		scrub_show(s);
	}
	return NULL;
}

/* -- Calls ------------------------------------------------------------------ */

static int scrub_init(struct scrub *s, const struct scrub_config *cfg)
{
	int r = base_cond_init(&s->wake);

	if (r < 0)
		return r;
	pthread_mutex_init(&s->lock, NULL);
	s->cfg = *cfg;
	if (!s->cfg.ceiling)
		s->cfg.ceiling = SCRUB_CEILING;
	if (!s->cfg.rest_ms)
		s->cfg.rest_ms = SCRUB_REST_MS;
	s->t = cfg->fs->t;
	s->proof = (struct proof){ .t = s->t, .go_on = scrub_pace, .arg = s };
	s->saved_ns = scrub_now(s);
	s->uses = scrub_uses(s);
	r = scrub_load(s);
	if (r < 0)
		return r;
	scrub_show(s);
	return base_thread_error(
		pthread_create(&s->thread, NULL, scrub_main, s));
}

int scrub_start(const struct scrub_config *cfg, struct scrub **ret)
{
	struct scrub *s = calloc(1, sizeof(*s));
	int r = s ? scrub_init(s, cfg) : -ENOMEM;

	if (r < 0)
		free(s);
	else
		*ret = s;
	return r;
}

void scrub_stop(struct scrub *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	idle_join(s->thread);
	scrub_save(s);
	survey_release(&s->bad);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void scrub_stat(struct scrub *s, struct scrub_stat *ret)
{
	LOCK_SCOPE(&s->lock);
	*ret = s->shown;
}
