/* SPDX-License-Identifier: MIT */
#include "store/draft.h"

#include <string.h>

#include "store/block.h"
#include "store/recipe.h"

/* The record of the pack, before the first block is added to it. */
static int draft_put_pack(struct draft *d, struct edit *e)
{
	struct pack_rec rec = { .live = 0 };
	int r = block_pack_get(e->txn, d->pack, &rec);

	if (r < 0 && r != -ENOENT)
		return r;
	/* A shared pack may have been given up after its last block went. */
	if (r == -ENOENT && !d->fresh)
		return -EAGAIN;
	rec.state = d->state;
	rec.owner = d->owner;
	rec.bytes = d->off + d->new_bytes;
	return block_pack_put(e->txn, d->pack, &rec);
}

static int draft_begin(struct draft *d, struct edit *e)
{
	int r = index_new_id(d->t->ix, INDEX_ID_RECIPE, &d->recipe);

	return r < 0 ? r
		     : recipe_set_pending(e->txn, d->recipe, RECIPE_BUILDING);
}

/* One more reference to a block that was there when it was looked up. */
static int draft_ref(struct edit *e, const struct piece *p)
{
	struct block_rec bl;
	int r = block_get(e->txn, p->known, &bl);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? -EAGAIN : r;
	if (!bl.pack || bl.length != p->len || bl.refs == UINT32_MAX ||
	    memcmp(bl.sha256, p->sha256, sizeof(bl.sha256)) != 0)
		return -EAGAIN;
	bl.refs++;
	return block_put(e->txn, p->known, &bl);
}

/* A new block, or one that was lost and has its bytes again. */
static int draft_add(struct draft *d, struct edit *e, const struct piece *p,
		     uint64_t at, bool heal, uint64_t *ret_id)
{
	struct block_rec bl = { .pack = d->pack,
				.offset = at,
				.length = p->len,
				.xxh3 = p->xxh3,
				.refs = 1 };
	int r = -ENOENT;

	memcpy(bl.sha256, p->sha256, sizeof(bl.sha256));
	if (heal)
		r = block_heal(e->txn, &bl, ret_id);
	if (r != -ENOENT)
		return r;
	r = index_new_id(d->t->ix, INDEX_ID_BLOCK, ret_id);
	return r < 0 ? r : block_add(e->txn, *ret_id, &bl);
}

/* Runs on their way into chunks. */
struct draft_runs {
	size_t n;
	struct run v[RECORD_RUNS_MAX];
};

static int draft_flush(struct draft *d, struct edit *e, struct draft_runs *runs)
{
	int r = 0;

	if (runs->n)
		r = recipe_put(e->txn, d->recipe, d->chunks++, runs->v,
			       runs->n);
	runs->n = 0;
	return r;
}

static int draft_append(struct draft *d, struct edit *e,
			struct draft_runs *runs, const struct piece *p,
			uint64_t id)
{
	struct run *last = runs->n ? &runs->v[runs->n - 1] : NULL;
	int r;

	if (last && last->first + last->count == id &&
	    last->stamped == p->stamped && last->stamp == p->stamp) {
		last->count++;
		return 0;
	}
	if (runs->n == RECORD_RUNS_MAX) {
		r = draft_flush(d, e, runs);
		if (r < 0)
			return r;
	}
	runs->v[runs->n++] = (struct run){ .first = id,
					   .count = 1,
					   .stamped = p->stamped,
					   .stamp = p->stamp };
	return 0;
}

/* Where a batch is. */
struct draft_at {
	size_t from, to; /* pieces */
	uint64_t off;	 /* in the pack, of the next new one */
	bool packed;	 /* its record was put */
	bool heal;	 /* there may be lost blocks */
};

static int draft_put_piece(struct draft *d, struct edit *e, size_t i,
			   struct draft_at *at, uint64_t *ret_id)
{
	const struct piece *p = &d->p->v[i];
	int r = 0;

	*ret_id = p->known;
	if (p->known)
		return draft_ref(e, p);
	if (!at->packed)
		r = draft_put_pack(d, e);
	at->packed = true;
	if (r >= 0)
		r = draft_add(d, e, p, at->off, at->heal, ret_id);
	at->off += p->len;
	return r;
}

static int draft_put_pieces(struct draft *d, struct edit *e,
			    struct draft_at *at)
{
	struct draft_runs runs = { .n = 0 };
	uint64_t begin = at->off, id;
	int r = 0;

	for (size_t i = at->from; i < at->to && r >= 0; i++) {
		r = draft_put_piece(d, e, i, at, &id);
		if (r >= 0)
			r = draft_append(d, e, &runs, &d->p->v[i], id);
	}
	if (r >= 0)
		r = draft_flush(d, e, &runs);
	if (r >= 0 && at->off > begin)
		r = block_pack_add(e->txn, d->pack, (int64_t)(at->off - begin));
	return r < 0 ? r : 0;
}

static int draft_put_batch(struct draft *d, struct draft_at *at)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin_blocks(d->t, d->class, (unsigned)(at->to - at->from),
				  &e);

	at->packed = false;
	if (r >= 0)
		r = d->go_on(d->arg, &e);
	if (r >= 0 && !at->from)
		r = draft_begin(d, &e);
	if (r >= 0)
		r = block_any_lost(e.txn);
	at->heal = r > 0;
	if (r >= 0)
		r = draft_put_pieces(d, &e, at);
	if (r >= 0)
		r = edit_commit(&e);
	if (r < 0 && !at->from)
		d->recipe = 0;
	if (r >= 0 && at->packed)
		d->fresh = false;
	return r;
}

int draft_build(struct draft *d)
{
	size_t n = d->p->n, batch = edit_blocks_max(d->t);
	struct draft_at at = { .off = d->off };
	int r = 0;

	for (; at.from < n && r >= 0; at.from = at.to) {
		at.to = n - at.from < batch ? n : at.from + batch;
		r = draft_put_batch(d, &at);
	}
	return r;
}

void draft_drop(struct draft *d)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r;

	if (!d->recipe)
		return;
	/* What fails here is found at the next open. */
	r = edit_begin(d->t, QUOTA_SYSTEM, &e);
	if (r >= 0)
		r = edit_drop_recipe(&e, d->recipe);
	if (r >= 0)
		(void)edit_commit(&e);
	d->recipe = 0;
}
