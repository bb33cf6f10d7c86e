/* SPDX-License-Identifier: MIT */
#include "store/cut.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "store/block.h"
#include "store/content.h"
#include "store/damage.h"
#include "store/draft.h"
#include "store/pieces.h"
#include "store/recipe.h"
#include "store/table.h"

#define CUT_LOOKUPS 1024 /* in one read transaction */
#define CUT_CHUNK (1 * MIB)
#define CUT_TRIES 3 /* each lost to blocks that went meanwhile */

/* One file on its way. */
struct cut {
	struct cutter *c;
	struct tree *t;
	struct node *nd;
	struct pack *staged; /* owned use */
	uint64_t size;
	uint64_t version; /* of the node */
	struct pieces p;
	struct pieces_plan plan;

	struct pack *to; /* owned use: where new blocks are; @staged if whole */
	uint64_t to_off; /* the first new one */
	bool to_new;	 /* it was made for this */
	struct draft d;
	struct recipe_map *map; /* owned */
};

/* --- Is it still worth going on ----------------------------------------- */

static bool cut_unlinked(struct cut *ct)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	int r = index_begin(ct->t->ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, ct->nd->ino, &in);
	return r < 0 || !in.nlink;
}

static bool cut_changed_locked(const struct cut *ct)
{
	return ct->nd->live || ct->nd->version != ct->version;
}

static bool cut_goes_on(void *arg)
{
	struct cut *ct = arg;
	bool changed;

	pthread_rwlock_rdlock(&ct->nd->lock);
	changed = cut_changed_locked(ct);
	pthread_rwlock_unlock(&ct->nd->lock);
	return !changed && !cut_unlinked(ct);
}

/* --- What is known ------------------------------------------------------ */

static int cut_lookup_some(struct cut *ct, size_t from, size_t to)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(ct->t->ix, false, &txn);

	for (size_t i = from; i < to && r >= 0; i++) {
		struct piece *p = &ct->p.v[i];
		uint64_t next = i && p[-1].known ? p[-1].known + 1 : 0;

		p->known = 0;
		r = block_find(txn, p->sha256, p->len, next, &p->known);
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

static int cut_lookup(struct cut *ct)
{
	size_t n = ct->p.n;
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i += CUT_LOOKUPS)
		r = cut_lookup_some(ct, i,
				    n - i < CUT_LOOKUPS ? n : i + CUT_LOOKUPS);
	return r;
}

/* --- The new bytes ------------------------------------------------------ */

/* Copy [off, off + len) of the file to where new bytes go next. */
static int cut_copy(struct cut *ct, uint8_t *buf, uint64_t off, uint64_t len,
		    uint64_t *at)
{
	ssize_t n;
	int r;

	for (; len; off += (uint64_t)n, len -= (uint64_t)n) {
		size_t want = len < CUT_CHUNK ? (size_t)len : CUT_CHUNK;

		n = pack_read(ct->staged, buf, want, off);
		if (n <= 0)
			return n < 0 ? (int)n : -EBADMSG;
		r = pack_write(ct->to, buf, (size_t)n, *at);
		if (r < 0)
			return r;
		*at += (uint64_t)n;
	}
	return 0;
}

/* Neighbours in one go. */
static int cut_copy_new(struct cut *ct)
{
	cleanup_free uint8_t *buf = malloc(CUT_CHUNK);
	uint64_t off = 0, from = 0, at = ct->to_off;
	int r = buf ? 0 : -ENOMEM;

	for (size_t i = 0; i < ct->p.n && r >= 0; i++) {
		if (ct->p.v[i].known) {
			r = cut_copy(ct, buf, from, off - from, &at);
			from = off + ct->p.v[i].len;
		}
		off += ct->p.v[i].len;
	}
	return r < 0 ? r : cut_copy(ct, buf, from, off - from, &at);
}

/* The shared pack, if there is room in it, else another one. */
static int cut_open_shared(struct cut *ct)
{
	struct cutter *c = ct->c;
	uint64_t disk;
	int r = c->shared ? pack_get(ct->t->packs, c->shared, &ct->to)
			  : -ENOENT;

	if (r >= 0)
		r = pack_stat(ct->to, &ct->to_off, &disk);
	if (r >= 0 && ct->to_off + ct->plan.new_bytes <= CUT_SHARED_MAX)
		return 0;
	pack_put(steal_ptr(ct->to));
	r = index_new_id(ct->t->ix, INDEX_ID_PACK, &c->shared);
	if (r >= 0)
		r = pack_create(ct->t->packs, c->shared, &ct->to);
	ct->to_off = 0;
	ct->to_new = true;
	return r;
}

static int cut_open_own(struct cut *ct)
{
	uint64_t id;
	int r = index_new_id(ct->t->ix, INDEX_ID_PACK, &id);

	ct->to_new = true;
	return r < 0 ? r : pack_create(ct->t->packs, id, &ct->to);
}

static bool cut_is_small(const struct cut *ct)
{
	return ct->plan.new_bytes < PIECES_SMALL;
}

/* And measure what the new bytes take of the disk; in a shared pack with the
 * space lock. */
static int cut_write_measured(struct cut *ct, uint64_t *ret_disk)
{
	uint64_t size, before = 0, after = 0;
	int r = pack_stat(ct->to, &size, &before);

	if (r >= 0)
		r = pack_fallocate(ct->to, FALLOC_FL_KEEP_SIZE, ct->to_off,
				   ct->plan.new_bytes);
	if (r >= 0 || r == -EOPNOTSUPP)
		r = cut_copy_new(ct);
	if (r < 0) /* for nobody: not to be charged for long */
		(void)pack_truncate(ct->to, ct->to_off);
	if (pack_stat(ct->to, &size, &after) < 0)
		after = before + ct->plan.new_bytes + STAGE_SLACK_BYTES;
	*ret_disk = after - before;
	return r;
}

/* What is new, into the shared pack or one of its own. -ENOSPC: no room. */
static int cut_write(struct cut *ct)
{
	uint64_t bound = ct->plan.new_bytes + STAGE_SLACK_BYTES, disk = 0;
	bool shared = cut_is_small(ct);
	struct room *rm = ct->t->room;
	int r = room_try(rm, bound);

	if (r < 0)
		return r;
	r = shared ? cut_open_shared(ct) : cut_open_own(ct);
	if (r >= 0) {
		room_raise_part(rm, ROOM_DIRS, packs_dir_bytes(ct->t->packs));
		if (shared)
			holes_lock(ct->t->holes);
		r = cut_write_measured(ct, &disk);
		if (shared)
			holes_unlock(ct->t->holes);
	}
	room_settle(rm, bound, disk);
	return r;
}

/* --- Transactions ------------------------------------------------------- */

/* Is the inode what was read? Its record, inside a transaction. Whoever changes
 * bytes changes the node's version; times are no sign of it. */
static int cut_inode(struct cut *ct, struct edit *e, struct inode *ret)
{
	int r = table_inode_get(e->txn, ct->nd->ino, ret);

	if (r < 0)
		return r == -ENOENT ? -ECANCELED : r;
	if (ret->data != INODE_DATA_PACK || ret->recipe ||
	    ret->pack != pack_id(ct->staged) || (ret->flags & INODE_WRITERS) ||
	    !ret->nlink)
		return -ECANCELED;
	return 0;
}

/* draft.go_on */
static int cut_check_inode(void *arg, struct edit *e)
{
	struct inode in;

	return cut_inode(arg, e, &in);
}

static int cut_build(struct cut *ct)
{
	bool whole = ct->plan.whole;

	ct->d = (struct draft){
		.t = ct->t,
		.class = stage_class(ct->nd),
		.p = &ct->p,
		.pack = ct->to ? pack_id(ct->to) : 0,
		.off = ct->to_off,
		.new_bytes = ct->plan.new_bytes,
		.state = whole ? PACK_WHOLE
			       : (cut_is_small(ct) ? PACK_SHARED : PACK_CUT),
		.owner = whole ? ct->nd->ino : 0,
		.fresh = ct->to_new || whole,
		.go_on = cut_check_inode,
		.arg = ct,
	};
	return draft_build(&ct->d);
}

/* --- Reading back ------------------------------------------------------- */

/* The piece that @off is in is not what its block says: it is looked at. */
static void cut_suspect_block(struct cut *ct, uint64_t off)
{
	struct files *fs = ct->c->fs;
	const struct damage dm = { .t = ct->t,
				   .report = fs->report,
				   .report_arg = fs->report_arg };
	char text[160];
	size_t i = 0;

	for (; i + 1 < ct->p.n && off >= ct->p.v[i].len; i++)
		off -= ct->p.v[i].len;
	snprintf(text, sizeof(text),
		 "inode %" PRIu64 " reads back wrong in blocks (block %" PRIu64
		 "): it stays whole",
		 ct->nd->ino, ct->p.v[i].known);
	fs->report(fs->report_arg, LOG_ERR, text);
	if (ct->p.v[i].known)
		(void)damage_block(&dm, ct->p.v[i].known);
}

static size_t cut_differ(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

/* All of the file through its recipe, as a reader would. -EBADMSG. */
static int cut_compare(struct cut *ct)
{
	struct node as = { .recipe = ct->d.recipe, .size = ct->size };
	cleanup_free uint8_t *was = malloc(CUT_CHUNK);
	cleanup_free uint8_t *is = malloc(CUT_CHUNK);
	ssize_t n;
	int r = was && is ? content_remap(ct->t, &as) : -ENOMEM;

	for (uint64_t off = 0; off < ct->size && r >= 0; off += (uint64_t)n) {
		n = pack_read(ct->staged, was, CUT_CHUNK, off);
		if (n <= 0) {
			r = n < 0 ? (int)n : -EBADMSG;
			break;
		}
		r = (int)content_read_locked(ct->t, &as, is, (size_t)n, off);
		if (r < 0 || (r == n && !memcmp(was, is, (size_t)n)))
			continue;
		/* What is written meanwhile differs of course. */
		r = cut_goes_on(ct) ? -EBADMSG : -ECANCELED;
		if (r == -EBADMSG)
			cut_suspect_block(ct,
					  off + cut_differ(was, is, (size_t)n));
	}
	if (r >= 0)
		ct->map = steal_ptr(as.map);
	recipe_map_free(as.map);
	return r < 0 ? r : 0;
}

/* --- The swap ----------------------------------------------------------- */

/* The node's lock is held. With a recipe it becomes the inode's; the checksum
 * does in any case. */
static int cut_swap_locked(struct cut *ct)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(ct->t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = cut_inode(ct, &e, &in);
	if (r >= 0 && ct->map) {
		r = edit_forget_bytes(&e, &in);
		in.data = INODE_DATA_RECIPE;
	}
	if (r >= 0 && ct->d.recipe)
		r = recipe_set_pending(e.txn, ct->d.recipe, 0);
	if (r < 0)
		return r;
	in.recipe = ct->d.recipe;
	in.xxh3 = ct->p.sum;
	in.flags |= INODE_SUMMED;
	r = table_inode_put(e.txn, &in);
	return r < 0 ? r : edit_commit(&e);
}

static int cut_swap(struct cut *ct)
{
	struct node *nd = ct->nd;
	int r = -ECANCELED;

	pthread_rwlock_wrlock(&nd->lock);
	if (!cut_changed_locked(ct))
		r = cut_swap_locked(ct);
	if (r >= 0)
		file_set_verified(ct->c->fs, nd->ino);
	if (r >= 0 && ct->map) { /* who has it open reads on, from blocks */
		pack_put(steal_ptr(nd->pack));
		nd->map = steal_ptr(ct->map);
		nd->recipe = ct->d.recipe;
	}
	pthread_rwlock_unlock(&nd->lock);
	if (r >= 0)
		ct->d.recipe = 0;
	return r;
}

/* Leave no trace. */
static void cut_undo(struct cut *ct)
{
	struct cutter *c = ct->c;
	uint64_t to = ct->to ? pack_id(ct->to) : 0;

	recipe_map_free(steal_ptr(ct->map));
	/* Given up, or not to be trusted: the next file begins another. */
	if (to && to == c->shared)
		c->shared = 0;
	if (ct->to_new && (!ct->d.pack || ct->d.fresh))
		pack_doom(ct->t->packs, to);
	draft_drop(&ct->d);
}

static int cut_try(struct cut *ct)
{
	uint64_t size, disk;
	int r = cut_lookup(ct);

	if (r < 0)
		return r;
	pieces_decide(&ct->p, &ct->plan);
	r = pack_stat(ct->staged, &size, &disk);
	if (r < 0)
		return r;
	if (ct->plan.new_bytes > disk) /* holes are not to be written out */
		pieces_keep_whole(&ct->p, &ct->plan);
	ct->to = NULL;
	ct->to_off = 0;
	ct->to_new = false;
	ct->d = (struct draft){ .t = ct->t };
	if (ct->plan.whole)
		ct->to = pack_ref(ct->staged);
	else if (ct->plan.new_bytes)
		r = cut_write(ct);
	if (r >= 0)
		r = cut_build(ct);
	if (r >= 0 && !ct->plan.whole)
		r = cut_compare(ct);
	if (r >= 0)
		r = cut_swap(ct);
	if (r < 0)
		cut_undo(ct);
	pack_put(steal_ptr(ct->to));
	return r;
}

/* False: there is nothing to cut. */
static bool cut_begin(struct cut *ct)
{
	struct node *nd = ct->nd;

	pthread_rwlock_rdlock(&nd->lock);
	if (!nd->live && nd->pack && nd->size)
		ct->staged = pack_ref(nd->pack);
	ct->size = nd->size;
	ct->version = nd->version;
	pthread_rwlock_unlock(&nd->lock);
	return ct->staged;
}

/* There is no time for more than the checksum. */
static int cut_sum(struct cut *ct)
{
	struct node as = { .pack = ct->staged, .size = ct->size };

	return content_sum(ct->t, &as, &ct->p.sum);
}

int cut_file(struct cutter *c, struct store_file *f)
{
	struct cut ct = { .c = c, .t = c->fs->t, .nd = f->nd };
	int r;

	if (!cut_begin(&ct))
		return 0;
	r = atomic_load(c->stop)
		    ? cut_sum(&ct)
		    : pieces_read(ct.staged, ct.size, cut_goes_on, &ct, &ct.p);
	if (r >= 0) {
		r = -EAGAIN;
		for (int i = 0; i < CUT_TRIES && !atomic_load(c->stop) &&
				(r == -EAGAIN || r == -EBADMSG);
		     i++)
			r = cut_try(&ct);
		if (r < 0 && r != -ECANCELED)
			r = cut_swap(&ct); /* the checksum at least */
	}
	/* What is read while it changes may be anything. */
	if (r < 0 && !cut_goes_on(&ct))
		r = 0;
	pieces_release(&ct.p);
	pack_put(ct.staged);
	return r == -ECANCELED ? 0 : r;
}
