/* SPDX-License-Identifier: MIT */
#include "store/gc.h"

#include <stdbool.h>
#include <syslog.h>

#include "store/block.h"
#include "store/compact.h"
#include "store/idle.h"
#include "store/recipe.h"

#define GC_RETRY_MS 10000 /* after an error */
/* From then on that something was dropped: dead ranges go with the next
 * checkpoint, what is left is for the compaction. */
#define GC_LOOK_MS 8000
#define GC_LOOK_MAX_MS 600000 /* twice as long each time that it cannot */

struct gc {
	struct tree *t;
	pthread_t thread;
	bool running;	      /* the thread; start and free only */
	pthread_mutex_t step; /* held for one transaction; before @lock */
	uint64_t freed;	      /* bytes so far; guarded by it */
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	bool stop;
	bool due;
	bool planned;		 /* the thread looks at @look_at */
	struct timespec look_at; /* monotonic */
	int64_t look_ms;	 /* from the last time on */

	struct mover mover; /* the thread alone */
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
};

/* Bytes of a pack that die in one step, neighbours merged. */
struct gc_range {
	uint64_t pack;
	uint64_t off;
	uint64_t len;
};

struct gc_step {
	struct edit e;
	unsigned n;
	unsigned most; /* blocks that it takes */
	struct gc_range ranges[EDIT_BLOCKS_MAX];
	uint64_t pack; /* of what is not yet told to its record: */
	uint64_t dead;
	unsigned first; /* its first range */
	uint64_t bytes;
};

/* Tell the pack of the last blocks what it lost. */
static int gc_tell_pack(struct gc_step *st)
{
	struct pack_rec rec;
	uint64_t dead = st->dead;
	int r;

	st->dead = 0;
	if (!dead)
		return 0;
	r = block_pack_get(st->e.txn, st->pack, &rec);
	if (r >= 0)
		r = block_pack_add(st->e.txn, st->pack, -(int64_t)dead);
	if (r == -ENOENT || r == -EBADMSG) {
		/* A damaged record: its file stays until it is repaired. */
		st->n = st->first;
		return 0;
	}
	if (r < 0)
		return r;
	/* The file goes whole, or is still read as one. */
	if (r || rec.owner)
		st->n = st->first;
	if (r)
		edit_doom(&st->e, st->pack);
	return 0;
}

static void gc_add_range(struct gc_step *st, const struct block_rec *bl)
{
	struct gc_range *last = &st->ranges[st->n - (st->n > st->first)];

	if (st->n > st->first && last->off + last->len == bl->offset) {
		last->len += bl->length;
		return;
	}
	st->ranges[st->n++] =
		(struct gc_range){ bl->pack, bl->offset, bl->length };
}

/* One reference less. A block that cannot be read is passed over. */
static int gc_unref(struct gc_step *st, uint64_t id)
{
	struct index_txn *txn = st->e.txn;
	struct block_rec bl;
	int r = block_get(txn, id, &bl);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (--bl.refs)
		return block_put(txn, id, &bl);
	r = block_del(txn, id, &bl);
	if (r >= 0 && !bl.pack) /* it was lost: there is no more of it */
		return 0;
	if (r >= 0 && bl.pack != st->pack) {
		r = gc_tell_pack(st);
		st->pack = bl.pack;
		st->first = st->n;
	}
	if (r < 0)
		return r;
	gc_add_range(st, &bl);
	st->dead += bl.length;
	st->bytes += bl.length;
	return 0;
}

/* Blocks from the front of a chunk, as many as one step takes. */
static int gc_drop_runs(struct gc_step *st, struct run *runs, size_t *count)
{
	unsigned left = st->most;
	size_t i;
	int r;

	for (i = 0; i < *count; i++) {
		for (; runs[i].count; runs[i].count--, left--) {
			if (!left || st->e.n_doomed + 2 > EDIT_DROPS_MAX)
				goto out;
			r = gc_unref(st, runs[i].first++);
			if (r < 0)
				return r;
		}
	}
out:
	*count -= i;
	for (size_t k = 0; k < *count; k++)
		runs[k] = runs[i + k];
	return gc_tell_pack(st);
}

static int gc_drop_chunk(struct gc_step *st, uint64_t recipe)
{
	struct index_txn *txn = st->e.txn;
	struct run runs[RECORD_RUNS_MAX];
	uint64_t n = 0;
	size_t count;
	int r = recipe_next(txn, recipe, &n, runs, &count);

	if (r == 0)
		return recipe_set_pending(txn, recipe, 0);
	if (r == -EBADMSG) { /* what it refers to stays until it is repaired */
		r = recipe_del(txn, recipe, n);
		return r == -ENOENT ? recipe_set_pending(txn, recipe, 0) : r;
	}
	if (r > 0)
		r = gc_drop_runs(st, runs, &count);
	if (r < 0)
		return r;
	return count ? recipe_put(txn, recipe, n, runs, count)
		     : recipe_del(txn, recipe, n);
}

/* A recipe that waits to be dropped: 1, or 0. */
static int gc_find(struct index_txn *txn, uint64_t *ret)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t what;
	size_t len;
	int r = index_iter(txn, INDEX_PENDING, &from, 0, &it);

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, &what, sizeof(what), &len)) != 0) {
		if (r > 0 && (len != sizeof(what) || what != RECIPE_DROPPING))
			continue;
		if (r < 0 && r != -EBADMSG)
			return r;
		return record_key_get(&key, 0, ret) < 0 ? -EBADMSG : 1;
	}
	return 0;
}

/* Asked in a read transaction first: mostly nothing waits. */
static int gc_waiting(struct tree *t)
{
	cleanup_txn struct index_txn *txn = NULL;
	uint64_t recipe;
	int r = index_begin(t->ix, false, &txn);

	return r < 0 ? r : gc_find(txn, &recipe);
}

/* One transaction: 1, or 0 when nothing waits. */
static int gc_step(struct tree *t, struct gc_step *st)
{
	uint64_t recipe;
	int r = gc_waiting(t);

	if (r <= 0)
		return r;
	st->most = edit_blocks_max(t);
	r = edit_begin_blocks(t, QUOTA_EVICT, st->most, &st->e);
	if (r >= 0)
		r = gc_find(st->e.txn, &recipe);
	if (r > 0)
		r = gc_drop_chunk(st, recipe);
	if (r < 0) {
		edit_abort(&st->e);
		return r;
	}
	/* A pack that goes at once is not to be punched meanwhile. */
	holes_lock(t->holes);
	r = edit_commit(&st->e);
	holes_unlock(t->holes);
	if (r < 0)
		return r;
	for (unsigned i = 0; i < st->n; i++)
		holes_add(t->holes, st->ranges[i].pack, st->ranges[i].off,
			  st->ranges[i].len);
	return 1;
}

/* Have the thread look in @ms, if it does not before. */
static void gc_plan_locked(struct gc *gc, int64_t ms)
{
	if (gc->planned)
		return;
	gc->planned = true;
	gc->look_at = base_deadline(ms * 1000);
	pthread_cond_signal(&gc->wake);
}

/* What was dropped may leave waste behind. */
static void gc_dropped(struct gc *gc)
{
	LOCK_SCOPE(&gc->lock);
	gc->look_ms = GC_LOOK_MS;
	gc_plan_locked(gc, GC_LOOK_MS);
}

int gc_drain(struct gc *gc, uint64_t *ret_bytes)
{
	struct gc_step *st = malloc(sizeof(*st));
	uint64_t bytes = 0;
	bool stop = false;
	int r = st ? 1 : -ENOMEM;

	while (r > 0 && !stop) {
		*st = (struct gc_step){ .e = EDIT_INIT };
		r = edit_pause(gc->t);
		if (r >= 0) {
			LOCK_SCOPE(&gc->step);
			r = gc_step(gc->t, st);
			if (r < 0) /* undone */
				st->bytes = 0;
			gc->freed += st->bytes;
		}
		bytes += st->bytes;
		LOCK_SCOPE(&gc->lock);
		stop = gc->stop;
	}
	free(st);
	if (bytes)
		gc_dropped(gc);
	*ret_bytes = bytes;
	return r < 0 ? r : 0;
}

/* The compaction gives way to what waits to be dropped. */
static bool gc_go_on(void *arg)
{
	struct gc *gc = arg;

	LOCK_SCOPE(&gc->lock);
	return !gc->stop && !gc->due;
}

static void gc_damaged(void *arg, const struct move *mv)
{
	struct gc *gc = arg;

	atomic_fetch_add(&gc->t->bad_blocks, 1);
	if (gc->report)
		gc->report(gc->report_arg, LOG_ERR,
			   block_lost_text(mv->id, mv->pack, mv->off, mv->len,
					   "do not match their XXH3")
				   .text);
}

/* Wait for work. True when it is time to look what can be compacted. */
static bool gc_wait_locked(struct gc *gc)
{
	struct timespec now;
	int r = 0;

	while (!gc->due && !gc->stop && r != ETIMEDOUT)
		r = gc->planned ? pthread_cond_timedwait(&gc->wake, &gc->lock,
							 &gc->look_at)
				: pthread_cond_wait(&gc->wake, &gc->lock);
	now = base_deadline(0);
	if (!gc->planned || now.tv_sec < gc->look_at.tv_sec ||
	    (now.tv_sec == gc->look_at.tv_sec &&
	     now.tv_nsec < gc->look_at.tv_nsec))
		return false;
	gc->planned = false;
	return true;
}

/* Drop what waits, then compact: when to look again, or -1. */
static int64_t gc_work(struct gc *gc, bool look)
{
	uint64_t bytes;
	int r = gc_drain(gc, &bytes);

	if (r < 0)
		return GC_RETRY_MS;
	if (!look)
		return -1;
	r = compact_round(&gc->mover);
	if (!r || r == -EROFS)
		return -1;
	if (r > 0 || r == -ECANCELED)
		return 0;
	LOCK_SCOPE(&gc->lock);
	gc->look_ms *= 2;
	if (gc->look_ms > GC_LOOK_MAX_MS)
		gc->look_ms = GC_LOOK_MAX_MS;
	return gc->look_ms / 2;
}

static void *gc_main(void *arg)
{
	struct gc *gc = arg;
	int64_t again;
	bool look;

	(void)pthread_setname_np(pthread_self(), "gc");
	/* Not idle as a whole: it holds the index's write lock now and then. */
	idle_io(true);
	pthread_mutex_lock(&gc->lock);
	for (;;) {
		look = gc_wait_locked(gc);
		if (gc->stop)
			break;
		gc->due = false;
		pthread_mutex_unlock(&gc->lock);
		again = gc_work(gc, look);
		pthread_mutex_lock(&gc->lock);
		if (again >= 0)
			gc_plan_locked(gc, again);
	}
	pthread_mutex_unlock(&gc->lock);
	return NULL;
}

int gc_new(struct tree *t, struct gc **ret)
{
	struct gc *gc = calloc(1, sizeof(*gc));

	if (!gc)
		return -ENOMEM;
	if (base_cond_init(&gc->wake) < 0) {
		free(gc);
		return -ENOMEM;
	}
	gc->t = t;
	gc->due = true;
	gc->look_ms = GC_LOOK_MS;
	gc_plan_locked(gc, GC_LOOK_MS); /* what an earlier mount left */
	gc->mover = (struct mover){ .t = t,
				    .go_on = gc_go_on,
				    .damaged = gc_damaged,
				    .arg = gc,
				    .step = &gc->step };
	pthread_mutex_init(&gc->step, NULL);
	pthread_mutex_init(&gc->lock, NULL);
	*ret = gc;
	return 0;
}

void gc_set_report(struct gc *gc,
		   void (*report)(void *arg, int priority, const char *text),
		   void *arg)
{
	gc->report = report;
	gc->report_arg = arg;
}

int gc_start(struct gc *gc)
{
	int r = pthread_create(&gc->thread, NULL, gc_main, gc);

	gc->running = !r;
	return base_thread_error(r);
}

static void gc_stop(struct gc *gc)
{
	pthread_mutex_lock(&gc->lock);
	gc->stop = true;
	pthread_cond_signal(&gc->wake);
	pthread_mutex_unlock(&gc->lock);
	idle_join(gc->thread);
}

void gc_free(struct gc *gc)
{
	if (!gc)
		return;
	if (gc->running)
		gc_stop(gc);
	mover_release(&gc->mover);
	pthread_cond_destroy(&gc->wake);
	pthread_mutex_destroy(&gc->lock);
	pthread_mutex_destroy(&gc->step);
	free(gc);
}

void gc_wake(struct gc *gc)
{
	LOCK_SCOPE(&gc->lock);
	gc->due = true;
	pthread_cond_signal(&gc->wake);
}

uint64_t gc_freed(struct gc *gc)
{
	LOCK_SCOPE(&gc->step);
	return gc->freed;
}

int gc_adopt(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint64_t recipe;
	uint8_t what;
	size_t len;
	int n = 0, r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = index_iter(e.txn, INDEX_PENDING, &from, 0, &it);
	while (r >= 0 &&
	       (r = index_next(&it, &key, &what, sizeof(what), &len)) != 0) {
		if (r == -EBADMSG || (r > 0 && what != RECIPE_BUILDING)) {
			r = 0; /* a damaged one is dropped without this */
			continue;
		}
		if (r > 0)
			r = record_key_get(&key, 0, &recipe);
		if (r >= 0)
			r = edit_drop_recipe(&e, recipe);
		n++;
	}
	if (r < 0 || !n)
		return r;
	index_iter_release(&it);
	return edit_commit(&e);
}
