/* SPDX-License-Identifier: MIT */
#include "store/damage.h"

#include <syslog.h>

#include "store/block.h"
#include "store/datacheck.h"
#include "store/recipe.h"

static int damage_get(struct tree *t, uint64_t id, struct block_rec *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	return r < 0 ? r : block_get(txn, id, ret);
}

/* In the edit, if the block is still where it was seen. *@ret_dead: what it took
 * of its pack is to be given back. */
static int damage_lose(struct edit *e, uint64_t id,
		       const struct block_rec *seen, bool *ret_dead)
{
	struct pack_rec pack = { .owner = 0 };
	struct block_rec bl;
	int r = block_get(e->txn, id, &bl);

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (bl.pack != seen->pack || bl.offset != seen->offset)
		return 0;
	r = block_pack_get(e->txn, bl.pack, &pack);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	/* A file that is read as one keeps its bytes. */
	*ret_dead = r >= 0 && !pack.owner;
	r = block_lose(e->txn, id, &bl);
	if (r > 0) {
		edit_doom(e, bl.pack);
		*ret_dead = false;
	}
	return r < 0 ? r : 1;
}

static int damage_commit(struct tree *t, uint64_t id,
			 const struct block_rec *seen)
{
	cleanup_edit struct edit e = EDIT_INIT;
	bool dead = false;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = damage_lose(&e, id, seen, &dead);
	if (r <= 0)
		return r;
	/* A pack that goes at once is not to be punched meanwhile. */
	holes_lock(t->holes);
	r = edit_commit(&e);
	holes_unlock(t->holes);
	if (r < 0)
		return r;
	/* Who reads there looks again, and finds that it is lost. */
	packs_moved(t->packs, seen->pack);
	if (dead)
		holes_add(t->holes, seen->pack, seen->offset, seen->length);
	return 1;
}

/* With a use of its pack, so that whoever comes to it meanwhile is told too. */
static int damage_take(struct tree *t, uint64_t id,
		       const struct block_rec *seen)
{
	struct pack *pk = NULL;
	int r = pack_get_blocks(t->packs, seen->pack, &pk);

	if (r < 0 && r != -ENOENT)
		return r;
	r = damage_commit(t, id, seen);
	if (pk)
		pack_put_blocks(pk);
	return r;
}

int damage_block(const struct damage *dm, uint64_t id)
{
	const char *why = NULL;
	struct block_rec bl;
	int r = damage_get(dm->t, id, &bl);

	if (r < 0 || !bl.pack)
		return r == -ENOENT || r == -EBADMSG ? 0 : r < 0 ? r : 0;
	r = datacheck_block_bytes(dm->t, &bl, &why);
	if (r == -ENOENT) {
		why = "are missing with their pack";
		r = 1;
	}
	if (r > 0)
		r = damage_take(dm->t, id, &bl);
	if (r <= 0)
		return r;
	atomic_fetch_add(&dm->t->bad_blocks, 1);
	dm->report(
		dm->report_arg, LOG_ERR,
		block_lost_text(id, bl.pack, bl.offset, bl.length, why).text);
	return r;
}

/* The next chunk of the recipe, in a transaction of its own. */
static int damage_chunk(struct tree *t, uint64_t recipe, uint64_t *n,
			struct run runs[static RECORD_RUNS_MAX], size_t *count)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	return r < 0 ? r : recipe_next(txn, recipe, n, runs, count);
}

static int damage_run(const struct damage *dm, const struct run *run)
{
	int lost = 0, r = 0;

	for (uint32_t i = 0; i < run->count && r >= 0; i++) {
		r = damage_block(dm, run->first + i);
		lost += r > 0;
	}
	return r < 0 ? r : lost;
}

int damage_recipe(const struct damage *dm, uint64_t recipe)
{
	struct run runs[RECORD_RUNS_MAX];
	uint64_t n = 0;
	size_t count;
	int lost = 0, r;

	while ((r = damage_chunk(dm->t, recipe, &n, runs, &count)) > 0) {
		for (size_t i = 0; i < count && r >= 0; i++) {
			r = damage_run(dm, &runs[i]);
			lost += r > 0 ? r : 0;
		}
		if (r < 0)
			return r;
		n++;
	}
	return r < 0 && r != -EBADMSG ? r : lost;
}
