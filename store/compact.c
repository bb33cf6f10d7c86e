/* SPDX-License-Identifier: MIT */
#include "store/compact.h"

#include "store/block.h"
#include "store/waste.h"

#define COMPACT_MOVES_MAX 65536 /* of one round */
#define COMPACT_SCAN 4096	/* records read in one transaction */

struct round {
	struct mover *m;
	struct tree *t;
	struct waste_list from;
	size_t n, size;
	struct move *moves; /* owned; in the order of packs, offsets */
};

int compact_measure(struct tree *t, struct compact_stat *ret)
{
	cleanup_waste struct waste_list l = WASTE_LIST_INIT;
	struct waste_stat st;
	int r = waste_read(t, &l);

	if (r < 0)
		return r;
	waste_sum(t, &l, &st);
	*ret = (struct compact_stat){ .packs = l.n,
				      .allocated = st.allocated,
				      .live = st.live,
				      .waste = st.waste };
	return 0;
}

static int compact_add_move(struct round *rd, uint64_t id,
			    const struct block_rec *bl)
{
	size_t size = rd->size ? 2 * rd->size : 256;
	struct waste_pack *from = waste_find(&rd->from, bl->pack);
	struct move *v;

	if (!from)
		return 0;
	from->found = true;
	if (rd->n == rd->size) {
		v = reallocarray(rd->moves, size, sizeof(*v));
		if (!v)
			return -ENOMEM;
		rd->moves = v;
		rd->size = size;
	}
	rd->moves[rd->n++] = (struct move){ .id = id,
					    .pack = bl->pack,
					    .off = bl->offset,
					    .len = bl->length,
					    .xxh3 = bl->xxh3 };
	return 0;
}

/* Blocks from *@id on: 1 when there may be more. */
static int compact_scan_some(struct round *rd, uint64_t *id)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(*id), key;
	uint8_t buf[RECORD_BLOCK_MAX];
	struct block_rec bl;
	size_t len;
	int r = index_begin(rd->t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_BLOCK, &from, 0, &it);
	for (int i = 0; i < COMPACT_SCAN && r >= 0; i++) {
		r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r == 0 || rd->n == COMPACT_MOVES_MAX)
			return 0;
		if ((r < 0 && r != -EBADMSG) || record_key_get(&key, 0, id) < 0)
			return r < 0 ? r : -EBADMSG;
		if (r > 0)
			r = record_block_decode(buf, len, &bl);
		if (r >= 0)
			r = compact_add_move(rd, *id, &bl);
		else
			r = 0;
		++*id;
	}
	return r < 0 ? r : 1;
}

static int compact_by_place(const void *a, const void *b)
{
	const struct move *x = a, *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	return (x->off > y->off) - (x->off < y->off);
}

static int compact_scan(struct round *rd)
{
	uint64_t id = 0;
	int r = 1;

	while (r > 0)
		r = rd->m->go_on(rd->m->arg) ? compact_scan_some(rd, &id)
					     : -ECANCELED;
	if (rd->n)
		qsort(rd->moves, rd->n, sizeof(*rd->moves), compact_by_place);
	for (size_t i = 0;
	     i < rd->from.n && rd->n < COMPACT_MOVES_MAX && r >= 0; i++) {
		/* Emptied meanwhile, or its blocks' records are damaged. */
		if (!rd->from.v[i].found)
			r = idset_add(&rd->m->left, rd->from.v[i].id);
	}
	return r;
}

/* As compact_round(). */
static int compact_run(struct round *rd)
{
	int r = waste_choose(rd->t, &rd->m->left, &rd->from);

	if (r <= 0)
		return r;
	if (waste_find(&rd->from, rd->m->target))
		rd->m->target = 0;
	r = compact_scan(rd);
	if (r >= 0)
		r = mover_run(rd->m, rd->moves, rd->n);
	return r ? r : -EAGAIN;
}

int compact_round(struct mover *m)
{
	struct round rd = { .m = m, .t = m->t };
	int r = compact_run(&rd);

	waste_release(&rd.from);
	free(rd.moves);
	return r;
}
