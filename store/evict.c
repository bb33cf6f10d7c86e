/* SPDX-License-Identifier: MIT */
#include "store/evict.h"

#include "store/layout.h"
#include "store/linger.h"
#include "store/table.h"
#include "store/tidy.h"
#include "store/unit.h"

#define EVICT_TIE_NS (60 * NSEC_PER_SEC) /* ages closer than this are equal */
#define EVICT_UNITS_PER_CHECKPOINT 16	 /* bounds the growth of the index */
#define EVICT_RETRY_MS 1000
#define EVICT_IDLE_MS (60 * 1000)

/* What the housekeeping does, one after the other. */
enum evict_chore {
	EVICT_CHORE_TMP,
	EVICT_CHORE_EMPTY,
	EVICT_CHORE_RESCAN,
	EVICT_CHORE_ORPHANS,
	EVICT_CHORES
};

struct evict {
	struct evict_config cfg;
	pthread_t thread;
	enum evict_chore chore; /* the thread's, with the next two */
	struct tidy_pos pos;	/* in this chore */
	int64_t due_ms;		/* monotonic: of the next slice of it */
	pthread_mutex_t pass;	/* held for the length of a pass */
	atomic_int_fast64_t grace_sec;
	atomic_uint_fast64_t evictions;
	atomic_uint_fast64_t evicted_bytes;
	atomic_uint_fast64_t reaped;
};

/* One queue of the LRU, read from its old end. */
struct evict_queue {
	enum layout_queue queue;
	struct record_key at; /* to read on from */
	bool end;
	bool loaded; /* id and last_use_ns are the next candidate */
	uint64_t id;
	int64_t last_use_ns;
};

struct evict_run {
	const struct evict_how *how;
	int64_t now_ns;
	int64_t next_ns;	   /* nearest end of a grace, INT64_MAX */
	unsigned since_checkpoint; /* units */
	struct evict_queue queues[2];
};

/* May the unit go now? Notes when it may, if only grace keeps it. */
static bool evict_may_go(struct evict *ev, struct evict_run *run,
			 const struct entry_rec *en, int64_t last_use_ns)
{
	int64_t grace_ns =
		layout_grace_sec(en->kind, atomic_load(&ev->grace_sec)) *
		NSEC_PER_SEC;
	int64_t free_ns = last_use_ns + grace_ns;

	if (last_use_ns >= run->how->older_than_ns)
		return false;
	if (last_use_ns > run->now_ns + EVICT_TIE_NS)
		return true; /* the clock was set back: no grace until then */
	if (run->how->no_grace ||
	    (run->how->no_grace_http && en->kind != LAYOUT_WHEEL))
		return true;
	if (free_ns <= run->now_ns)
		return true;
	if (free_ns < run->next_ns)
		run->next_ns = free_ns;
	return false;
}

/* Find the next candidate of a queue. */
static int evict_load(struct evict *ev, struct evict_run *run,
		      struct evict_queue *q)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct entry_rec en;
	uint8_t none[1];
	int64_t last;
	size_t len;
	int r = index_begin(ev->cfg.t->ix, false, &txn);

	if (r < 0)
		return r;
	r = index_iter(txn, INDEX_LRU, &q->at, 1, &it);
	while (r >= 0 &&
	       (r = index_next(&it, &q->at, none, sizeof(none), &len)) > 0) {
		r = record_key_get(&q->at, 9, &q->id);
		if (r >= 0)
			r = table_entry_get(txn, q->id, &en);
		if (r == -ENOENT || r == -EBADMSG) {
			r = 0; /* a damaged record must not end eviction */
			continue;
		}
		if (r < 0)
			return r;
		last = entry_last_use(ev->cfg.t->entries, q->id, &en);
		if (last != en.last_use_ns)
			continue;
		if (!evict_may_go(ev, run, &en, last))
			break; /* all behind it are younger */
		q->last_use_ns = last;
		q->loaded = true;
		q->at.bytes[q->at.len++] = 0; /* behind this key */
		return 0;
	}
	q->end = true;
	return r < 0 ? r : 0;
}

/* The older of the two heads; the first queue's at equal age. */
static int evict_next(struct evict *ev, struct evict_run *run,
		      struct evict_queue **ret)
{
	struct evict_queue *best = NULL;
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(run->queues); i++) {
		struct evict_queue *q = &run->queues[i];

		if (!q->loaded && !q->end) {
			r = evict_load(ev, run, q);
			if (r < 0)
				return r;
		}
		if (q->loaded && (!best || q->last_use_ns + EVICT_TIE_NS <
						   best->last_use_ns))
			best = q;
	}
	*ret = best;
	return 0;
}

/*
 * Was the candidate used since it was found? The head of a queue may wait long
 * for its turn. Memory is asked first: uses go from there to the index.
 */
static int evict_used(struct evict *ev, const struct evict_queue *q)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct entry_rec en = { .last_use_ns = 0 };
	int64_t last = entry_last_use(ev->cfg.t->entries, q->id, &en);
	int r = index_begin(ev->cfg.t->ix, false, &txn);

	if (r >= 0)
		r = table_entry_get(txn, q->id, &en);
	if (r == -ENOENT || r == -EBADMSG)
		return 1;
	if (r < 0)
		return r;
	return last > q->last_use_ns || en.last_use_ns != q->last_use_ns;
}

static int evict_unit(struct evict *ev, struct evict_run *run, uint64_t id,
		      struct evict_result *res)
{
	uint64_t bytes = 0, drained, before;
	bool open = false;
	int r, r2 = 0;

	if (run->how->dry_run) {
		r = unit_measure(ev->cfg.t, id, &bytes, &open);
		if (r < 0 || open)
			return r == -ENOENT ? 0 : r;
		res->units++;
		res->bytes += bytes;
		return 0;
	}
	before = gc_freed(ev->cfg.gc);
	r = unit_remove(ev->cfg.t, id, true, &bytes);
	if (r == -EBUSY || r == -ENOENT || r == -EBADMSG)
		return 0;
	/* What others share of it does not come back. */
	if (r > 0)
		r2 = gc_drain(ev->cfg.gc, &drained);
	bytes += gc_freed(ev->cfg.gc) - before;
	if (r < 0 || r2 < 0)
		return r < 0 ? r : r2;
	res->units += (unsigned)r;
	res->bytes += bytes;
	if (r) {
		atomic_fetch_add(&ev->evictions, 1);
		atomic_fetch_add(&ev->evicted_bytes, bytes);
	}
	if (++run->since_checkpoint < EVICT_UNITS_PER_CHECKPOINT)
		return 0;
	run->since_checkpoint = 0;
	return checkpoint_run(ev->cfg.cp);
}

static int evict_loop(struct evict *ev, struct evict_run *run,
		      struct evict_result *res)
{
	struct evict_queue *q;
	int r;

	while (res->bytes < run->how->bytes) {
		r = evict_next(ev, run, &q);
		if (r < 0)
			return r;
		if (!q)
			return 0;
		q->loaded = false;
		r = evict_used(ev, q);
		if (!r)
			r = evict_unit(ev, run, q->id, res);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What lies aside goes first; what was given up before only waits for the
 * checkpoint that ends the pass. */
static uint64_t evict_pending(struct evict *ev)
{
	uint64_t bytes;

	/* An error is that of the checkpoint too. */
	(void)gc_drain(ev->cfg.gc, &bytes);
	bytes = packs_doomed_bytes(ev->cfg.t->packs) +
		holes_bytes(ev->cfg.t->holes);
	if (ev->cfg.reclaim)
		bytes += ev->cfg.reclaim(ev->cfg.reclaim_arg);
	return bytes;
}

int evict_pass(struct evict *ev, const struct evict_how *how,
	       struct evict_result *ret)
{
	struct evict_result res = { .next_ms = -1 };
	struct evict_run run = {
		.how = how,
		.now_ns = base_now_ns(),
		.next_ns = INT64_MAX,
		.queues = { { .queue = LAYOUT_QUEUE_HTTP },
			    { .queue = LAYOUT_QUEUE_WHEELS } },
	};
	int r;

	/* Before the lock: it may wait for a pass. */
	if (!how->dry_run)
		linger_end(ev->cfg.t, true);
	LOCK_SCOPE(&ev->pass);
	(void)entry_flush(ev->cfg.t->entries, ev->cfg.t->ix, ev->cfg.t->room);
	for (unsigned i = 0; i < ARRAY_SIZE(run.queues); i++)
		run.queues[i].at =
			record_key_lru((uint8_t)run.queues[i].queue, 0, 0);
	if (!how->dry_run)
		res.bytes = evict_pending(ev);
	r = evict_loop(ev, &run, &res);
	if (res.bytes && !how->dry_run) {
		int r2 = checkpoint_run(ev->cfg.cp);

		r = r < 0 ? r : r2;
	}
	if (run.next_ns != INT64_MAX)
		res.next_ms = (run.next_ns - run.now_ns) / 1000000;
	*ret = res;
	return r;
}

static void evict_serve(struct evict *ev, const struct room_need *need)
{
	struct evict_how how = { .bytes = need->bytes,
				 .older_than_ns = INT64_MAX };
	struct evict_result res = { .next_ms = -1 };
	int64_t retry = EVICT_RETRY_MS;
	int r = 0;

	(void)tidy_orphans(ev->cfg.t); /* evict_pending() counts them */
	/* Pages of the index come back with a checkpoint too. */
	if (need->checkpoint)
		r = checkpoint_run(ev->cfg.cp);
	if (r >= 0)
		r = evict_pass(ev, &how, &res);
	if (r >= 0 && res.bytes < need->bytes && need->wheels) {
		uint64_t before = res.bytes;

		how.bytes -= before;
		how.no_grace_http = true;
		r = evict_pass(ev, &how, &res);
		res.bytes += before;
	}
	if (res.next_ms > 0 && res.next_ms < retry)
		retry = res.next_ms;
	room_pass_done(ev->cfg.t->room, res.bytes,
		       r < 0 || res.bytes < need->bytes, (int)retry);
}

static int64_t evict_clock_ms(void)
{
	struct timespec ts = base_deadline(0);

	return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

/* A slice of the chore under way: 1 with more to come, else it is over. */
static int evict_chore(struct evict *ev)
{
	struct tree *t = ev->cfg.t;
	int64_t now = base_now_ns();
	uint64_t n = 0;
	int r;

	switch (ev->chore) {
	case EVICT_CHORE_TMP:
		r = tidy_tmp(t, &ev->pos,
			     now - LAYOUT_TMP_AGE_SEC * NSEC_PER_SEC, &n);
		atomic_fetch_add(&ev->reaped, n);
		return r;
	case EVICT_CHORE_EMPTY:
		return tidy_empty(t, &ev->pos,
				  now - EVICT_EMPTY_SEC * NSEC_PER_SEC);
	case EVICT_CHORE_RESCAN:
		return tidy_rescan(t, &ev->pos);
	default:
		return tidy_orphans(t);
	}
}

/* One slice only: who wants room is asked for before the next. What fails is
 * tried again in the next round. */
static void evict_housekeeping(struct evict *ev)
{
	if (evict_chore(ev) > 0)
		return;
	ev->pos = (struct tidy_pos){ 0 };
	if (++ev->chore < EVICT_CHORES)
		return;
	ev->chore = 0;
	ev->due_ms = evict_clock_ms() + EVICT_HOUSEKEEPING_SEC * INT64_C(1000);
}

static void *evict_main(void *arg)
{
	struct evict *ev = arg;
	struct room_need need;
	bool due;
	int r;

	for (;;) {
		linger_end(ev->cfg.t, false);
		due = evict_clock_ms() >= ev->due_ms;
		r = room_wait(ev->cfg.t->room,
			      due ? 0
				  : linger_wait_ms(ev->cfg.t, EVICT_IDLE_MS),
			      &need);
		if (r == -ESHUTDOWN)
			return NULL;
		if (r > 0)
			evict_serve(ev, &need);
		else if (due)
			evict_housekeeping(ev);
		if (entry_flush_due(ev->cfg.t->entries))
			checkpoint_changed(ev->cfg.cp);
	}
}

int evict_start(const struct evict_config *cfg, struct evict **ret)
{
	struct evict *ev = calloc(1, sizeof(*ev));
	int r;

	if (!ev)
		return -ENOMEM;
	ev->cfg = *cfg;
	atomic_store(&ev->grace_sec, cfg->grace_sec);
	pthread_mutex_init(&ev->pass, NULL);
	r = pthread_create(&ev->thread, NULL, evict_main, ev);
	if (r) {
		free(ev);
		return base_thread_error(r);
	}
	*ret = ev;
	return 0;
}

void evict_stop(struct evict *ev)
{
	if (!ev)
		return;
	room_stop(ev->cfg.t->room);
	pthread_join(ev->thread, NULL);
	pthread_mutex_destroy(&ev->pass);
	free(ev);
}

void evict_set_grace(struct evict *ev, int64_t grace_sec)
{
	atomic_store(&ev->grace_sec, grace_sec);
	room_kick(ev->cfg.t->room);
}

void evict_stat(struct evict *ev, struct evict_stat *ret)
{
	ret->grace_sec = atomic_load(&ev->grace_sec);
	ret->evictions = atomic_load(&ev->evictions);
	ret->evicted_bytes = atomic_load(&ev->evicted_bytes);
	ret->reaped = atomic_load(&ev->reaped);
}
