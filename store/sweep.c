/* SPDX-License-Identifier: MIT */
#include "store/sweep.h"

#include <sys/stat.h>

#include "store/idset.h"
#include "store/layout.h"
#include "store/table.h"
#include "store/unit.h"

/* Calls @fn for each inode; an error of its ends the walk. Records that
 * cannot be read are counted. */
static int sweep_walk(struct tree *t,
		      int (*fn)(void *arg, const struct inode *in), void *arg,
		      uint64_t *unreadable)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	uint64_t ino;
	size_t len;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r > 0)
			r = record_key_get(&key, 0, &ino);
		if (r >= 0)
			r = record_inode_decode(ino, buf, len, &in);
		if (r == -EBADMSG) {
			++*unreadable;
			continue;
		}
		if (r >= 0)
			r = fn(arg, &in);
		if (r < 0)
			return r;
	}
	return 0;
}

struct sweep_names {
	struct idset packs;
	bool keep_all;
};

static int sweep_note_pack(void *arg, const struct inode *in)
{
	struct sweep_names *names = arg;

	if (in->data != INODE_DATA_PACK)
		return 0;
	return idset_add(&names->packs, in->pack);
}

/* Packs with blocks; also those whose record cannot be read. */
static int sweep_note_blocks(struct tree *t, struct sweep_names *names)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_PACK_SIZE];
	uint64_t id;
	size_t len;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_PACK, &from, 0, &it);
	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && r != -EBADMSG)
			return r;
		r = record_key_get(&key, 0, &id);
		if (r >= 0)
			r = idset_add(&names->packs, id);
	}
	return r;
}

static int sweep_keep(void *arg, uint64_t id)
{
	const struct sweep_names *names = arg;

	return names->keep_all || idset_has(&names->packs, id);
}

int sweep_packs(struct tree *t, struct sweep_result *res)
{
	struct sweep_names names = { .keep_all = false };
	int r = sweep_walk(t, sweep_note_pack, &names, &res->unreadable);

	/* What a checkpoint names, but a frozen index does not, stays. */
	names.keep_all = res->unreadable > 0 || index_frozen(t->ix);
	if (r >= 0)
		r = sweep_note_blocks(t, &names);
	if (r >= 0)
		r = packs_sweep(t->packs, sweep_keep, &names, &res->pack_bytes);
	idset_release(&names.packs);
	return r;
}

/* Inodes to look after, gathered in one read, worked off afterwards. */
struct sweep_work {
	bool restored;
	uint64_t *inos; /* owned */
	size_t n;
	size_t size;
};

/* A wheel, which pip writes in its place, that was made, and its first byte was
 * still to come? */
static bool sweep_is_empty(const struct inode *in)
{
	return in->kind == LAYOUT_WHEEL && S_ISREG(in->mode) &&
	       in->data == INODE_DATA_NONE;
}

static int sweep_note_unfinished(void *arg, const struct inode *in)
{
	struct sweep_work *work = arg;

	if (!(in->flags & INODE_WRITERS) &&
	    (in->data != INODE_DATA_PACK || in->recipe) &&
	    !(work->restored && sweep_is_empty(in)))
		return 0;
	if (work->n == work->size) {
		size_t size = work->size ? work->size * 2 : 64;
		uint64_t *more = reallocarray(work->inos, size, sizeof(*more));

		if (!more)
			return -ENOMEM;
		work->inos = more;
		work->size = size;
	}
	work->inos[work->n++] = in->ino;
	return 0;
}

/* Bytes that nobody vouches for: size and all as the pack has them. */
static int sweep_adopt(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct pack *pk = NULL;
	struct inode in;
	uint64_t size = 0, disk = 0;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (!(in.flags & INODE_WRITERS))
		return 0;
	r = in.data == INODE_DATA_PACK ? pack_get(t->packs, in.pack, &pk)
				       : -ENOENT;
	if (r >= 0)
		r = pack_stat(pk, &size, &disk);
	pack_put(pk);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == -ENOENT || !size) { /* created, no byte reached the disk */
		if (in.data == INODE_DATA_PACK)
			edit_doom(&e, in.pack);
		in.data = INODE_DATA_NONE;
		in.pack = 0;
	}
	in.size = size;
	in.alloc = disk;
	in.flags &= ~(uint32_t)(INODE_WRITERS | INODE_SUMMED);
	r = table_inode_put(e.txn, &in);
	return r < 0 ? r : edit_commit(&e);
}

/* Were its bytes still on their way at the checkpoint? */
static bool sweep_is_torn(const struct inode *in)
{
	return (in->flags & INODE_WRITERS) || sweep_is_empty(in) ||
	       (in->data == INODE_DATA_PACK && !(in->flags & INODE_SUMMED));
}

/* Does a writer of a mount that goes on have it open? */
static bool sweep_is_live(struct tree *t, uint64_t ino)
{
	struct node *nd = node_find(t->nodes, ino);
	bool live = nd && nd->live;

	if (nd) /* never the last use */
		(void)node_put(nd);
	return live;
}

static int sweep_one(struct tree *t, uint64_t ino, bool restored,
		     struct sweep_result *res)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	int r;

	if (sweep_is_live(t, ino))
		return 0;
	r = index_begin(t->ix, false, &txn);
	if (r >= 0)
		r = table_inode_get(txn, ino, &in);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	index_abort(steal_ptr(txn));
	if (restored && in.kind != LAYOUT_OTHER && sweep_is_torn(&in)) {
		res->dropped++;
		return unit_drop_file(t, ino);
	}
	return in.flags & INODE_WRITERS ? sweep_adopt(t, ino) : 0;
}

/* A damaged record costs its file, not the store. */
static int sweep_pass_over(int r, struct sweep_result *res)
{
	if (r != -EBADMSG)
		return r;
	res->unreadable++;
	return 0;
}

int sweep_next_orphan(struct tree *t, uint64_t *ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(*ino), key;
	uint8_t none[1];
	size_t len;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_ORPHAN, &from, 0, &it);
	if (r >= 0)
		r = index_next(&it, &key, none, sizeof(none), &len);
	if (r <= 0)
		return r;
	r = record_key_get(&key, 0, ino);
	return r < 0 ? r : 1;
}

static int sweep_orphans(struct tree *t, struct sweep_result *res)
{
	uint64_t ino = 0;
	int r;

	while ((r = sweep_next_orphan(t, &ino)) > 0) {
		r = sweep_pass_over(edit_reap(t, ino), res);
		if (r < 0)
			return r;
		res->orphans++;
		ino++;
	}
	return r;
}

/* Damage is mended in the background. */
static int sweep_want_rescan(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, 1);
	return r < 0 ? r : edit_commit(&e);
}

int sweep_inodes(struct tree *t, bool restored,
		 void (*sum)(void *arg, uint64_t ino), void *sum_arg,
		 struct sweep_result *res)
{
	struct sweep_work work = { .restored = restored };
	uint64_t unreadable = 0;
	int r = sweep_orphans(t, res);

	if (r >= 0)
		r = sweep_walk(t, sweep_note_unfinished, &work, &unreadable);
	for (size_t i = 0; i < work.n && r >= 0; i++) {
		r = sweep_one(t, work.inos[i], restored, res);
		if (r >= 0)
			sum(sum_arg, work.inos[i]);
		r = sweep_pass_over(r, res);
	}
	free(work.inos);
	return r < 0 || !res->unreadable ? r : sweep_want_rescan(t);
}
