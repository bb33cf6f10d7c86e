/* SPDX-License-Identifier: MIT */
#include "store/edit.h"

#include <assert.h>
#include <sys/stat.h>

#include "store/block.h"
#include "store/recipe.h"
#include "store/table.h"

/* Of the limit, what one edit may charge for blocks; and how many it takes in
 * any case. */
#define EDIT_BLOCKS_SHARE 64
#define EDIT_BLOCKS_MIN 64

int edit_begin(struct tree *t, enum quota_class class, struct edit *e)
{
	return edit_begin_blocks(t, class, 0, e);
}

unsigned edit_blocks_max(struct tree *t)
{
	struct room_stat rs;
	uint64_t most;

	room_stat(t->room, &rs);
	most = rs.quota.limit / EDIT_BLOCKS_SHARE /
	       (index_blocks_bound(t->ix, 1) - index_blocks_bound(t->ix, 0));
	if (most > EDIT_BLOCKS_MAX)
		most = EDIT_BLOCKS_MAX;
	/* Near the limit in small steps. */
	if (rs.quota.charged + index_blocks_bound(t->ix, (unsigned)most) >
	    rs.quota.limit)
		return EDIT_BLOCKS_MIN;
	return most > EDIT_BLOCKS_MIN ? (unsigned)most : EDIT_BLOCKS_MIN;
}

int edit_pause(struct tree *t)
{
	if (!t->checkpoint || !index_overgrown(t->ix))
		return 0;
	return t->checkpoint(t->checkpoint_arg);
}

int edit_begin_blocks(struct tree *t, enum quota_class class, unsigned blocks,
		      struct edit *e)
{
	uint64_t bound = index_blocks_bound(t->ix, blocks);
	int r;

	/* Faster than checkpoints can follow, the index would only grow. */
	r = class == QUOTA_EVICT ? 0 : edit_pause(t);
	if (r < 0)
		return r;
	r = room_reserve(t->room, class, bound);
	if (r < 0)
		return r;
	r = index_begin(t->ix, true, &e->txn);
	if (r < 0) {
		room_settle(t->room, bound, 0);
		return r;
	}
	e->t = t;
	e->reserved = bound;
	e->now_ns = base_now_ns();
	return 0;
}

/* The transaction is over: let go of what was claimed and charged. */
static void edit_end(struct edit *e, bool committed)
{
	struct tree *t = e->t;
	bool reap[EDIT_DROPS_MAX];

	e->t = NULL;
	room_raise_part(t->room, ROOM_INDEX, index_disk_bytes(t->ix));
	room_settle(t->room, e->reserved, 0);
	for (unsigned i = 0; i < e->n_claims; i++)
		reap[i] = node_claim_end(e->claims[i].nd) && e->claims[i].open;
	if (committed) {
		for (unsigned i = 0; i < e->n_doomed; i++)
			pack_doom(t->packs, e->doomed[i]);
		atomic_fetch_add(&t->misses, e->misses);
		if (e->dropped)
			notify_call(&t->dropped);
	}
	/* An orphan whose last handle was closed while it became one. What
	 * fails here is found again by the housekeeping. */
	for (unsigned i = 0; i < e->n_claims; i++)
		if (reap[i])
			(void)edit_reap(t, e->claims[i].ino);
}

int edit_commit(struct edit *e)
{
	int r = index_commit(steal_ptr(e->txn));

	edit_end(e, r >= 0);
	return r;
}

void edit_abort(struct edit *e)
{
	if (!e->t)
		return;
	index_abort(steal_ptr(e->txn));
	edit_end(e, false);
}

int edit_dir(struct edit *e, uint64_t ino, struct inode *ret)
{
	struct inode in;
	int r = table_inode_get(e->txn, ino, &in);

	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (!S_ISDIR(in.mode))
		return -ENOTDIR;
	if (!in.nlink)
		return -ENOENT;
	*ret = in;
	return 0;
}

int edit_add_name(struct edit *e, struct inode *dir, const char *name,
		  struct inode *in)
{
	struct dirent_rec de = { .ino = in->ino,
				 .cookie = dir->next_cookie,
				 .type = (uint8_t)(in->mode >> 12) };
	int r = table_dirent_put(e->txn, dir->ino, name, &de);

	if (r < 0)
		return r;
	dir->next_cookie++;
	dir->mtime_ns = dir->ctime_ns = e->now_ns;
	/* A further name is not known to the inode. */
	if (S_ISDIR(in->mode) || in->nlink <= 1 || !in->cookie) {
		in->parent = dir->ino;
		in->cookie = de.cookie;
	}
	if (!S_ISREG(in->mode) || in->nlink > 1)
		return 0;

	r = entry_attach(e->t->ix, e->txn, dir, name, in);
	if (r < 0)
		return r;
	e->misses += (in->flags & INODE_BODY) != 0;
	return 0;
}

int edit_del_name(struct edit *e, struct inode *dir, const char *name,
		  const struct dirent_rec *de, struct inode *in)
{
	int r = table_dirent_del(e->txn, dir->ino, name, de->cookie);

	if (r < 0)
		return r;
	dir->mtime_ns = dir->ctime_ns = e->now_ns;
	if (in->parent == dir->ino && in->cookie == de->cookie)
		in->cookie = 0;
	if (!S_ISREG(in->mode))
		return 0;

	r = entry_detach(e->txn, in->entry);
	in->entry = 0;
	return r;
}

void edit_doom(struct edit *e, uint64_t pack)
{
	assert(e->n_doomed < EDIT_DROPS_MAX);
	e->doomed[e->n_doomed++] = pack;
}

int edit_drop_recipe(struct edit *e, uint64_t recipe)
{
	e->dropped = true;
	return recipe_set_pending(e->txn, recipe, RECIPE_DROPPING);
}

/* Packs with blocks stay for these. */
static int edit_forget_pack(struct edit *e, const struct inode *in)
{
	int r = block_pack_disown(e->txn, in->pack);

	if (r == -EBADMSG)
		return 0; /* the file stays until it is repaired */
	if (r > 0) {
		edit_doom(e, in->pack);
		e->freed_bytes += in->alloc;
	}
	return r < 0 ? r : 0;
}

int edit_forget_bytes(struct edit *e, struct inode *in)
{
	struct record_key key = record_key_id(in->ino);
	int r = 0;

	if (in->data == INODE_DATA_PACK)
		r = edit_forget_pack(e, in);
	if (in->data == INODE_DATA_INLINE)
		r = index_del(e->txn, INDEX_INLINE, &key);
	if (r < 0 && r != -ENOENT)
		return r;
	r = in->recipe ? edit_drop_recipe(e, in->recipe) : 0;
	in->data = INODE_DATA_NONE;
	in->pack = 0;
	in->recipe = 0;
	in->alloc = 0;
	return r;
}

/* The records of an inode that nobody has open. */
static int edit_erase(struct edit *e, struct inode *in)
{
	int r = edit_forget_bytes(e, in);

	return r < 0 ? r : table_inode_del(e->txn, in->ino);
}

int edit_drop(struct edit *e, struct inode *in, bool idle_only)
{
	struct record_key key = record_key_id(in->ino);
	struct node *nd;
	bool open;
	int r;

	if (e->n_claims == EDIT_DROPS_MAX)
		return -ENOBUFS;
	r = node_claim(e->t->nodes, in->ino, &nd, &open);
	if (r < 0)
		return r;
	e->claims[e->n_claims].nd = nd;
	e->claims[e->n_claims].ino = in->ino;
	e->claims[e->n_claims++].open = open;
	if (!open)
		return edit_erase(e, in);
	if (idle_only && node_is_open(e->t->nodes, in->ino))
		return -EBUSY;

	in->nlink = 0;
	in->ctime_ns = e->now_ns;
	r = table_inode_put(e->txn, in);
	if (r < 0)
		return r;
	return index_put(e->txn, INDEX_ORPHAN, &key, NULL, 0, false);
}

/* Asked in a read transaction first: nearly every close ends here. */
static int edit_is_orphan(struct tree *t, const struct record_key *key)
{
	cleanup_txn struct index_txn *txn = NULL;
	uint8_t none[1];
	ssize_t n = index_begin(t->ix, false, &txn);

	if (n >= 0)
		n = index_get(txn, INDEX_ORPHAN, key, none, sizeof(none));
	return n < 0 ? (int)n : 1;
}

/* -EBUSY: it is open again, the edit must be left. */
static int edit_drop_orphan(struct edit *e, uint64_t ino)
{
	struct record_key key = record_key_id(ino);
	struct inode in;
	int r = index_del(e->txn, INDEX_ORPHAN, &key);

	if (r >= 0)
		r = table_inode_get(e->txn, ino, &in);
	if (r >= 0)
		r = edit_drop(e, &in, true);
	return r == -ENOENT ? 0 : r;
}

static int edit_drop_orphans(struct tree *t, const uint64_t *inos, unsigned n)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	for (unsigned i = 0; i < n && r >= 0; i++)
		r = edit_drop_orphan(&e, inos[i]);
	return r < 0 ? r : edit_commit(&e);
}

int edit_reap(struct tree *t, uint64_t ino)
{
	struct record_key key = record_key_id(ino);
	int r = edit_is_orphan(t, &key);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = edit_drop_orphans(t, &ino, 1);
	return r == -EBUSY ? 0 : r;
}

/* What fails is found again by the housekeeping. */
void edit_put_node(struct tree *t, struct node *nd)
{
	uint64_t ino = nd->ino;

	if (node_put(nd))
		(void)edit_reap(t, ino);
}

void edit_put_orphans(struct tree *t, struct node *const *nds, unsigned n)
{
	uint64_t inos[EDIT_PUT_MAX];
	unsigned idle = 0;
	int r;

	assert(n <= EDIT_PUT_MAX);
	for (unsigned i = 0; i < n; i++) {
		inos[idle] = nds[i]->ino;
		idle += node_put(nds[i]);
	}
	if (!idle)
		return;
	r = edit_drop_orphans(t, inos, idle);
	if (r != -EBUSY && r != -EBADMSG)
		return;
	/* One of them is open again, or damaged: not to hold up the others. */
	for (unsigned i = 0; i < idle; i++)
		(void)edit_reap(t, inos[i]);
}
