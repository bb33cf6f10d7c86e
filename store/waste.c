/* SPDX-License-Identifier: MIT */
#include "store/waste.h"

#include "store/block.h"

#define WASTE_SHARE 20 /* 1/20 of what all packs take may be waste */
#define WASTE_MIN (64 * KIB)
#define WASTE_GAIN_SHARE 16	 /* gains less than 1/16: not worth it */
#define WASTE_FS_BLOCK (4 * KIB) /* of the file system */

/* Chosen at a time. A single pack may have more bytes. */
#define WASTE_BYTES_MIN (4 * MIB)
#define WASTE_BYTES_MAX (64 * MIB)
#define WASTE_SOURCES_MAX 4096

#define WASTE_SCAN 4096 /* records read in one transaction */

/* --- What packs take ---------------------------------------------------- */

static int waste_list_add(struct waste_list *l, struct waste_pack pk)
{
	size_t size = l->size ? 2 * l->size : 256;
	struct waste_pack *v;

	if (l->n == l->size) {
		v = reallocarray(l->v, size, sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->size = size;
	}
	l->v[l->n++] = pk;
	return 0;
}

/* Records from *@id on: 1 when there may be more. */
static int waste_read_some(struct tree *t, uint64_t *id, struct waste_list *l)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(*id), key;
	uint8_t buf[RECORD_PACK_SIZE];
	struct pack_rec rec;
	size_t len;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_PACK, &from, 0, &it);
	for (int i = 0; i < WASTE_SCAN && r >= 0; i++) {
		r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r == 0)
			return 0;
		if ((r < 0 && r != -EBADMSG) || record_key_get(&key, 0, id) < 0)
			return r < 0 ? r : -EBADMSG;
		if (r > 0)
			r = record_pack_decode(buf, len, &rec);
		++*id;
		/* A damaged record is passed over. */
		if (r >= 0)
			r = waste_list_add(
				l,
				(struct waste_pack){ .id = *id - 1,
						     .live = rec.live,
						     .owned = rec.owner != 0 });
		else
			r = 0;
	}
	return r < 0 ? r : 1;
}

int waste_read(struct tree *t, struct waste_list *l)
{
	uint64_t id = 0;
	size_t n = 0;
	int r = 1;

	while (r > 0)
		r = waste_read_some(t, &id, l);
	if (r < 0)
		return r;
	for (size_t i = 0; i < l->n; i++) {
		/* One that is gone meanwhile takes nothing. */
		if (packs_stat(t->packs, l->v[i].id, &l->v[i].disk) >= 0)
			l->v[n++] = l->v[i];
	}
	l->n = n;
	return 0;
}

static uint64_t waste_of(const struct waste_pack *pk)
{
	return pk->disk > pk->live ? pk->disk - pk->live : 0;
}

void waste_sum(struct tree *t, const struct waste_list *l,
	       struct waste_stat *ret)
{
	uint64_t dying = holes_bytes(t->holes);

	*ret = (struct waste_stat){ .waste = 0 };
	for (size_t i = 0; i < l->n; i++) {
		ret->allocated += l->v[i].disk;
		ret->live += l->v[i].live;
		ret->waste += waste_of(&l->v[i]);
	}
	ret->waste -= dying < ret->waste ? dying : ret->waste;
}

/* --- Which to empty ----------------------------------------------------- */

static bool waste_is_worth(const struct waste_pack *pk)
{
	return waste_of(pk) && waste_of(pk) >= pk->disk / WASTE_GAIN_SHARE;
}

/* Those with the largest share of waste first. */
static int waste_by_share(const void *a, const void *b)
{
	const struct waste_pack *x = a, *y = b;
	double p = (double)waste_of(x) / (double)x->disk;
	double q = (double)waste_of(y) / (double)y->disk;

	if (p != q)
		return p > q ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

static int waste_by_id(const void *a, const void *b)
{
	const struct waste_pack *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

/* How much may be copied at a time, so that nothing is evicted for it. */
static uint64_t waste_budget(struct tree *t)
{
	struct room_stat rs;
	uint64_t high, left;

	room_stat(t->room, &rs);
	high = quota_high(&rs.quota);
	left = high > rs.quota.charged ? high - rs.quota.charged : 0;
	if (left < WASTE_BYTES_MIN)
		return WASTE_BYTES_MIN;
	return left < WASTE_BYTES_MAX ? left : WASTE_BYTES_MAX;
}

/* Keep of the list what is worth it. Returns whether some are in use. */
static bool waste_keep_worth(struct tree *t, const struct idset *left,
			     struct waste_list *l)
{
	bool busy = false;
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++) {
		const struct waste_pack *pk = &l->v[i];

		if (pk->owned || !waste_is_worth(pk) || idset_has(left, pk->id))
			continue;
		/* The cutter uses a pack of its own from before it has a
		 * record until it is complete. */
		if (packs_busy(t->packs, pk->id))
			busy = true;
		else
			l->v[n++] = *pk;
	}
	l->n = n;
	return busy;
}

/* Cut the list, the worst packs first, to what one round takes: until @excess
 * bytes of waste are gone. False: not worth it. */
static bool waste_keep_worst(struct waste_list *l, uint64_t excess,
			     uint64_t budget)
{
	uint64_t live = 0, disk = 0, wasted = 0;
	size_t n;

	qsort(l->v, l->n, sizeof(*l->v), waste_by_share);
	for (n = 0; n < l->n && n < WASTE_SOURCES_MAX && wasted < excess; n++) {
		const struct waste_pack *pk = &l->v[n];

		if (n && live + pk->live > budget)
			break;
		live += pk->live;
		disk += pk->disk;
		wasted += waste_of(pk);
	}
	l->n = n;
	/* Together they take whole blocks of the file system, too. */
	live += (WASTE_FS_BLOCK - live % WASTE_FS_BLOCK) % WASTE_FS_BLOCK;
	return disk > live && disk - live >= disk / WASTE_GAIN_SHARE;
}

int waste_choose(struct tree *t, const struct idset *left, struct waste_list *l)
{
	struct waste_stat st;
	uint64_t allowed;
	bool busy;
	int r = waste_read(t, l);

	if (r < 0)
		return r;
	waste_sum(t, l, &st);
	allowed = st.allocated / WASTE_SHARE;
	if (st.waste <= allowed || st.waste < WASTE_MIN)
		return 0;
	/* Which packs are to lose them is not known here. */
	if (holes_bytes(t->holes) > st.waste / 4)
		return -EAGAIN;
	busy = waste_keep_worth(t, left, l);
	if (!waste_keep_worst(l, st.waste - allowed, waste_budget(t)))
		return busy ? -EAGAIN : 0;
	qsort(l->v, l->n, sizeof(*l->v), waste_by_id);
	return 1;
}

struct waste_pack *waste_find(const struct waste_list *l, uint64_t id)
{
	const struct waste_pack key = { .id = id };

	return l->n ? bsearch(&key, l->v, l->n, sizeof(key), waste_by_id)
		    : NULL;
}

void waste_release(struct waste_list *l)
{
	free(steal_ptr(l->v));
}
