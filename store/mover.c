/* SPDX-License-Identifier: MIT */
#include "store/mover.h"

#include <fcntl.h>

#include "store/block.h"
#include "store/digest.h"
#include "store/idle.h"
#include "store/pieces.h"

#define MOVER_TARGET_MAX (16 * MIB) /* bytes of a target; then another */
#define MOVER_CHUNK (1 * MIB)
#define MOVER_SLACK (64 * KIB) /* of a file beyond its bytes */

/* Of one transaction. A single block may have more bytes. */
#define MOVER_BATCH 256
#define MOVER_BATCH_BYTES (4 * MIB)
#define MOVER_BATCH_SOURCES (EDIT_DROPS_MAX / 2)

/* The target on its way. */
struct mover_run {
	struct mover *m;
	struct tree *t;
	struct pack *to; /* owned use */
	bool to_new;	 /* no record names it yet */
	uint64_t at;	 /* the end of what was written to it */
	uint64_t disk;	 /* bytes that took, of this batch */
	uint8_t *buf;	 /* owned, MOVER_CHUNK bytes: what comes behind @at */
	size_t held;
};

/* Some moves that one transaction makes. */
struct batch {
	struct move *v;
	size_t n;
	uint64_t bytes;
	size_t n_from;
	struct {
		struct pack *pk; /* owned use; NULL: it is gone */
		size_t first, end;
		uint64_t moved;
		bool changed; /* some were moved, or lost */
		bool doomed;
	} from[MOVER_BATCH_SOURCES];
};

/* --- Copying ------------------------------------------------------------ */

/* Write what is held to the end of the target; measured, with the space lock
 * held. */
static int mover_write(struct mover_run *rd)
{
	uint64_t size, before = 0, after = 0;
	int r;

	holes_lock(rd->t->holes);
	r = pack_stat(rd->to, &size, &before);
	if (r >= 0)
		r = pack_fallocate(rd->to, FALLOC_FL_KEEP_SIZE, rd->at,
				   rd->held);
	if (r >= 0 || r == -EOPNOTSUPP)
		r = pack_write(rd->to, rd->buf, rd->held, rd->at);
	if (pack_stat(rd->to, &size, &after) < 0)
		after = before + rd->held;
	holes_unlock(rd->t->holes);
	rd->disk += after > before ? after - before : 0;
	if (r >= 0)
		rd->at += rd->held;
	rd->held = 0;
	return r;
}

static int mover_flush(struct mover_run *rd)
{
	int r;

	if (!rd->held)
		return 0;
	idle_leave();
	r = rd->m->go_on(rd->m->arg) ? mover_write(rd) : -ECANCELED;
	idle_enter();
	return r;
}

/* Nothing behind @at is of any use. */
static void mover_cut_off(struct mover_run *rd, uint64_t at)
{
	uint64_t size, before, after;

	rd->held = 0;
	rd->at = at;
	holes_lock(rd->t->holes);
	if (pack_stat(rd->to, &size, &before) >= 0 && size > at &&
	    pack_truncate(rd->to, at) >= 0 &&
	    pack_stat(rd->to, &size, &after) >= 0 && after < before)
		rd->disk -=
			before - after < rd->disk ? before - after : rd->disk;
	holes_unlock(rd->t->holes);
}

/* Its bytes, with the stamp zeroed, behind what is there. 1: they are right, 0:
 * they are not. */
static int mover_append(struct mover_run *rd, struct pack *from,
			const struct move *mv)
{
	cleanup_digest struct digest *sum = NULL;
	uint64_t done = 0;
	int r = digest_new(&sum);

	while (done < mv->len && r >= 0) {
		uint64_t left = mv->len - done;
		size_t want = MOVER_CHUNK - rd->held;
		uint8_t *to = rd->buf + rd->held;

		/* All of it if it fits: its header must be in one piece. */
		if (want < left && rd->held) {
			r = mover_flush(rd);
			continue;
		}
		if (want > left)
			want = (size_t)left;
		if (pack_read(from, to, want, mv->off + done) != (ssize_t)want)
			return 0;
		if (!done)
			pieces_mask(to, mv->len);
		digest_update(sum, to, want);
		rd->held += want;
		done += want;
	}
	return r < 0 ? r : digest_value(sum) == mv->xxh3;
}

static int mover_copy_block(struct mover_run *rd, struct pack *from,
			    struct move *mv)
{
	uint64_t begin = rd->at + rd->held;
	int r = mover_append(rd, from, mv);

	if (r < 0)
		return r;
	mv->at = begin;
	mv->good = r;
	if (r)
		return 0;
	/* The next one takes its place. */
	if (begin >= rd->at) {
		rd->held = (size_t)(begin - rd->at);
	} else {
		rd->held = 0;
		rd->at = begin;
	}
	return 0;
}

static int mover_copy(struct mover_run *rd, struct batch *b)
{
	int r = 0;

	idle_enter();
	for (size_t i = 0; i < b->n_from && r >= 0; i++) {
		for (size_t k = b->from[i].first;
		     k < b->from[i].end && b->from[i].pk && r >= 0; k++)
			r = mover_copy_block(rd, b->from[i].pk, &b->v[k]);
	}
	if (r >= 0)
		r = mover_flush(rd);
	idle_leave();
	return r;
}

/* --- Transactions ------------------------------------------------------- */

/* The record of the target; -EAGAIN when it was given up meanwhile. */
static int mover_put_target(struct mover_run *rd, struct edit *e)
{
	struct pack_rec rec = { .state = PACK_CUT };
	uint64_t id = pack_id(rd->to);
	int r = block_pack_get(e->txn, id, &rec);

	if (r == -ENOENT && !rd->to_new)
		return -EAGAIN;
	if (r < 0 && r != -ENOENT)
		return r;
	rec.bytes = rd->at;
	return block_pack_put(e->txn, id, &rec);
}

/* One block, if it is still where it was. 1: the pack is of no use any more. */
static int mover_move_block(struct mover_run *rd, struct edit *e,
			    struct move *mv)
{
	struct block_rec bl;
	int r = block_get(e->txn, mv->id, &bl);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (bl.pack != mv->pack || bl.offset != mv->off)
		return 0;
	if (!mv->good) {
		mv->state = MOVE_DAMAGED;
		return block_lose(e->txn, mv->id, &bl);
	}
	bl.pack = pack_id(rd->to);
	bl.offset = mv->at;
	mv->state = MOVE_DONE;
	return block_put(e->txn, mv->id, &bl);
}

/* The blocks of one source. */
static int mover_move_pack(struct mover_run *rd, struct edit *e,
			   struct batch *b, size_t i)
{
	uint64_t id = b->v[b->from[i].first].pack, moved = 0;
	int r = 0;

	/* Gone; or the cutter adds to it, it must not go now. */
	if (!b->from[i].pk || packs_busy(rd->t->packs, id))
		return 0;
	for (size_t k = b->from[i].first; k < b->from[i].end && r >= 0; k++) {
		r = mover_move_block(rd, e, &b->v[k]);
		b->from[i].doomed |= r > 0;
		b->from[i].changed |= b->v[k].state != MOVE_LEFT;
		if (b->v[k].state == MOVE_DONE)
			moved += b->v[k].len;
	}
	b->from[i].moved = moved;
	if (r >= 0 && moved)
		r = block_pack_add(e->txn, id, -(int64_t)moved);
	b->from[i].doomed |= r > 0;
	if (b->from[i].doomed)
		edit_doom(e, id);
	return r < 0 ? r : 0;
}

/* *@ret_emptied: there is nothing in the target any more. */
static int mover_move_all(struct mover_run *rd, struct edit *e, struct batch *b,
			  bool *ret_emptied)
{
	uint64_t moved = 0;
	int r = mover_put_target(rd, e);

	for (size_t i = 0; i < b->n_from && r >= 0; i++) {
		r = mover_move_pack(rd, e, b, i);
		moved += b->from[i].moved;
	}
	if (r >= 0)
		r = block_pack_add(e->txn, pack_id(rd->to), (int64_t)moved);
	*ret_emptied = r > 0;
	if (r > 0)
		edit_doom(e, pack_id(rd->to));
	return r < 0 ? r : 0;
}

static void mover_moved_one(struct mover_run *rd, const struct move *mv,
			    bool doomed, bool emptied)
{
	struct mover *m = rd->m;

	if (mv->state != MOVE_LEFT && !doomed)
		holes_add(rd->t->holes, mv->pack, mv->off, mv->len);
	/* The block went meanwhile. */
	if (mv->good && mv->state == MOVE_LEFT && !emptied)
		holes_add(rd->t->holes, pack_id(rd->to), mv->at, mv->len);
	if (mv->state == MOVE_DAMAGED && m->damaged)
		m->damaged(m->arg, mv);
}

/* After the commit, in this order: readers look again, then the old bytes may
 * go. */
static void mover_moved(struct mover_run *rd, struct batch *b, bool emptied)
{
	for (size_t i = 0; i < b->n_from; i++)
		if (b->from[i].changed)
			packs_moved(rd->t->packs, b->v[b->from[i].first].pack);
	for (size_t i = 0; i < b->n_from; i++) {
		for (size_t k = b->from[i].first; k < b->from[i].end; k++)
			mover_moved_one(rd, &b->v[k], b->from[i].doomed,
					emptied);
	}
}

/* 1 if some were moved. */
static int mover_commit_locked(struct mover_run *rd, struct batch *b)
{
	cleanup_edit struct edit e = EDIT_INIT;
	bool emptied, changed = false;
	int r = edit_begin_blocks(rd->t, QUOTA_EVICT, (unsigned)b->n, &e);

	if (r >= 0)
		r = mover_move_all(rd, &e, b, &emptied);
	if (r >= 0) {
		/* A pack that goes at once is not to be punched meanwhile. */
		holes_lock(rd->m->t->holes);
		r = edit_commit(&e);
		holes_unlock(rd->m->t->holes);
	}
	if (r < 0)
		return r;
	rd->to_new = false;
	if (emptied)
		rd->m->target = 0;
	for (size_t i = 0; i < b->n_from; i++)
		changed |= b->from[i].changed;
	mover_moved(rd, b, emptied);
	return changed;
}

static int mover_commit(struct mover_run *rd, struct batch *b)
{
	pthread_mutex_t *step = rd->m->step;
	int r;

	/* Not with the lock, which the evictor may want: */
	r = edit_pause(rd->t);
	if (r < 0)
		return r;
	if (step)
		pthread_mutex_lock(step);
	r = mover_commit_locked(rd, b);
	if (step)
		pthread_mutex_unlock(step);
	return r;
}

/* --- Targets ------------------------------------------------------------ */

/* Does the pack have blocks? */
static int mover_is_there(struct tree *t, uint64_t id)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct pack_rec rec;
	int r = index_begin(t->ix, false, &txn);

	return r < 0 ? r : block_pack_get(txn, id, &rec);
}

static void mover_close_target(struct mover_run *rd)
{
	if (rd->to && rd->to_new) {
		pack_doom(rd->t->packs, pack_id(rd->to));
		rd->m->target = 0;
	}
	pack_put(steal_ptr(rd->to));
}

/* A pack that takes @bytes more: the last one, or another. */
static int mover_open_target(struct mover_run *rd, uint64_t bytes)
{
	struct mover *m = rd->m;
	uint64_t disk;
	int r = -ENOENT;

	if (rd->to && m->target &&
	    (!rd->at || rd->at + bytes <= MOVER_TARGET_MAX))
		return 0;
	mover_close_target(rd);
	if (m->target)
		r = mover_is_there(rd->t, m->target);
	if (r >= 0)
		r = pack_get(rd->t->packs, m->target, &rd->to);
	if (r >= 0)
		r = pack_stat(rd->to, &rd->at, &disk);
	if (r >= 0 && rd->at + bytes <= MOVER_TARGET_MAX)
		return 0;
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	pack_put(steal_ptr(rd->to));
	m->target = 0;
	r = index_new_id(rd->t->ix, INDEX_ID_PACK, &m->target);
	if (r >= 0)
		r = pack_create(rd->t->packs, m->target, &rd->to);
	if (r < 0)
		m->target = 0;
	rd->at = 0;
	rd->to_new = true;
	room_raise_part(rd->t->room, ROOM_DIRS, packs_dir_bytes(rd->t->packs));
	return r;
}

/* --- One batch ---------------------------------------------------------- */

/* Those of the first moves that go in one transaction. */
static void mover_batch_fill(struct tree *t, struct move *moves, size_t n,
			     struct batch *b)
{
	size_t most = edit_blocks_max(t);

	if (n > most)
		n = most;

	*b = (struct batch){ .v = moves };
	for (; b->n < n && b->n < MOVER_BATCH; b->n++) {
		const struct move *mv = &moves[b->n];

		if (b->n && b->bytes + mv->len > MOVER_BATCH_BYTES)
			return;
		if (!b->n || mv[-1].pack != mv->pack) {
			if (b->n_from == MOVER_BATCH_SOURCES)
				return;
			b->from[b->n_from++].first = b->n;
		}
		b->from[b->n_from - 1].end = b->n + 1;
		b->bytes += mv->len;
	}
}

/* The use keeps each from going before packs_moved() has told its readers. */
static int mover_batch_open(struct mover_run *rd, struct batch *b)
{
	for (size_t i = 0; i < b->n_from; i++) {
		int r = pack_get_blocks(rd->t->packs,
					b->v[b->from[i].first].pack,
					&b->from[i].pk);

		if (r < 0 && r != -ENOENT)
			return r;
	}
	return 0;
}

static void mover_batch_close(struct batch *b)
{
	for (size_t i = 0; i < b->n_from; i++)
		if (b->from[i].pk)
			pack_put_blocks(steal_ptr(b->from[i].pk));
}

/* There is room for the batch. 1 if something was moved. */
static int mover_batch_run(struct mover_run *rd, struct batch *b)
{
	uint64_t begin;
	int r = mover_open_target(rd, b->bytes);

	if (r < 0)
		return r;
	begin = rd->at;
	r = mover_batch_open(rd, b);
	if (r >= 0)
		r = mover_copy(rd, b);
	if (r >= 0)
		r = mover_commit(rd, b);
	mover_cut_off(rd, r < 0 ? begin : rd->at);
	mover_batch_close(b);
	if (r == -EAGAIN)
		rd->m->target = 0;
	return r;
}

static int mover_batch(struct mover_run *rd, struct batch *b)
{
	struct room *rm = rd->t->room;
	uint64_t bound = b->bytes + MOVER_SLACK;
	uint64_t index = index_blocks_bound(rd->t->ix, (unsigned)b->n);
	int r = room_try(rm, bound + index);

	if (r < 0)
		return r;
	room_settle(rm, index, 0); /* the transaction reserves it itself */
	rd->disk = 0;
	r = mover_batch_run(rd, b);
	room_settle(rm, bound, rd->disk);
	return r;
}

int mover_run(struct mover *m, struct move *moves, size_t n)
{
	struct mover_run rd = { .m = m, .t = m->t };
	struct batch b;
	bool moved = false;
	int r = 0;

	rd.buf = malloc(MOVER_CHUNK);
	if (!rd.buf)
		return -ENOMEM;
	for (size_t i = 0; i < n && r >= 0; i += b.n) {
		mover_batch_fill(m->t, moves + i, n - i, &b);
		r = m->go_on(m->arg) ? mover_batch(&rd, &b) : -ECANCELED;
		moved |= r > 0;
	}
	mover_close_target(&rd);
	free(rd.buf);
	return r < 0 ? r : moved;
}

void mover_release(struct mover *m)
{
	idset_release(&m->left);
}
