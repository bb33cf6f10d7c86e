/* SPDX-License-Identifier: MIT */
#include "store/recount.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "store/block.h"
#include "store/datacheck.h"
#include "store/digest.h"
#include "store/layout.h"
#include "store/recipe.h"
#include "store/table.h"
#include "store/wheel.h"

/* What inodes that stay make of a pack. */
struct recount_pack {
	uint64_t id;
	uint64_t live;
	uint64_t end;
	uint64_t owner;
};

/* --- Blocks -------------------------------------------------------------- */

static int recount_has_digest(struct rework *rw, uint64_t id,
			      const struct block_rec *bl)
{
	struct record_key key =
		record_key_pair(record_sha256_head(bl->sha256), id);
	uint8_t none[1];
	ssize_t n = index_get(rw->txn, INDEX_DIGEST, &key, none, sizeof(none));

	return n == -ENOENT || n == -EBADMSG ? 0 : n < 0 ? (int)n : 1;
}

static int recount_compare_block(struct rework *rw, struct rework_block *b,
				 const struct block_rec *bl)
{
	const char *why = NULL;
	int r = datacheck_block_bytes(&rw->t, bl, &why);

	b->ok = r == 0;
	if (r > 0)
		survey_found(&rw->s,
			     "block %" PRIu64 ": lost, its %" PRIu64
			     " bytes in pack %" PRIu64 " at %" PRIu64 " %s",
			     b->id, b->len, b->pack, b->off, why);
	return r < 0 ? r : 0;
}

static int recount_add_block(struct rework *rw, const struct rework_block *b)
{
	size_t size = rw->size_blocks ? rw->size_blocks * 2 : 256;
	struct rework_block *more;

	if (rw->n_blocks == rw->size_blocks) {
		more = reallocarray(rw->blocks, size, sizeof(*more));
		if (!more)
			return -ENOMEM;
		rw->blocks = more;
		rw->size_blocks = size;
	}
	rw->blocks[rw->n_blocks++] = *b;
	return 0;
}

static int recount_block(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	const struct survey_item *file;
	struct rework_block b = { .refs = 0 };
	struct block_rec bl;
	int r = record_key_get(key, 0, &b.id);

	if (r < 0 || record_block_decode(val, len, &bl) < 0)
		return index_del(rw->txn, INDEX_BLOCK, key);
	b.pack = bl.pack;
	b.off = bl.offset;
	b.len = bl.length;
	file = survey_find(&rw->files, bl.pack);
	b.ok = file && bl.length && bl.offset <= file->ref &&
	       bl.length <= file->ref - bl.offset;
	r = b.ok && !rw->data && !rework_is_other(rw, b.id)
		    ? recount_has_digest(rw, b.id, &bl)
		    : 0;
	if (b.ok && r == 0)
		r = recount_compare_block(rw, &b, &bl);
	return r < 0 ? r : recount_add_block(rw, &b);
}

static int recount_place(const void *a, const void *b)
{
	const struct rework_block *x = *(struct rework_block *const *)a;
	const struct rework_block *y = *(struct rework_block *const *)b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

/* The blocks in the order of their places; owned by the caller. */
static int recount_places(const struct rework *rw, struct rework_block ***ret)
{
	struct rework_block **v = calloc(rw->n_blocks + 1, sizeof(void *));

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < rw->n_blocks; i++)
		v[i] = &rw->blocks[i];
	if (rw->n_blocks)
		qsort(v, rw->n_blocks, sizeof(void *), recount_place);
	*ret = v;
	return 0;
}

static int recount_doubt(struct rework *rw, struct rework_block *b)
{
	struct block_rec bl;
	int r = block_get(rw->txn, b->id, &bl);

	if (r < 0)
		return r;
	return b->ok ? recount_compare_block(rw, b, &bl) : 0;
}

/* Of two blocks that overlap, the one whose bytes are wrong is lost; the second
 * one if neither is. */
static int recount_overlaps(struct rework *rw)
{
	cleanup_free struct rework_block **v = NULL;
	struct rework_block *last = NULL;
	int r = recount_places(rw, &v);

	for (size_t i = 0; i < rw->n_blocks && r >= 0; i++) {
		if (!v[i]->ok)
			continue;
		if (last && last->pack == v[i]->pack &&
		    v[i]->off < last->off + last->len) {
			r = recount_doubt(rw, last);
			if (r >= 0 && last->ok)
				r = recount_doubt(rw, v[i]);
			if (last->ok)
				v[i]->ok = false;
		}
		if (v[i]->ok)
			last = v[i];
	}
	return r;
}

/* --- Bytes of files ------------------------------------------------------ */

static const char recount_no_block[] = "a block of it is missing or damaged";

/* What the blocks of a run are in all; false: one is not there. */
static bool recount_run(struct rework *rw, const struct run *run,
			uint64_t *bytes)
{
	struct rework_block *b = rework_block(rw, run->first);
	const struct rework_block *end = rw->blocks + rw->n_blocks;

	if (!b)
		return false;
	for (uint32_t i = 0; i < run->count; i++, b++) {
		if (b >= end || b->id != run->first + i || !b->ok ||
		    (run->stamped && b->len < WHEEL_STAMP_AT + WHEEL_STAMP_LEN))
			return false;
		*bytes += b->len;
	}
	return true;
}

static int recount_recipe(struct rework *rw, const struct inode *in,
			  const char **ret_why)
{
	struct run runs[RECORD_RUNS_MAX];
	uint64_t n = 0, bytes = 0, next = 0;
	size_t count;
	int r;

	while ((r = recipe_next(rw->txn, in->recipe, &n, runs, &count)) > 0) {
		if (n != next)
			break;
		for (size_t i = 0; i < count; i++) {
			if (recount_run(rw, &runs[i], &bytes))
				continue;
			*ret_why = recount_no_block;
			return 0;
		}
		next = ++n;
	}
	if (r < 0 && r != -EBADMSG)
		return r;
	if (r || !next || bytes != in->size)
		*ret_why = recount_no_block;
	return 0;
}

static int recount_inline(struct rework *rw, const struct inode *in,
			  const char **ret_why)
{
	cleanup_free uint8_t *buf = malloc(INDEX_VALUE_MAX);
	struct record_key key = record_key_id(in->ino);
	uint64_t sum;
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	n = index_get(rw->txn, INDEX_INLINE, &key, buf, INDEX_VALUE_MAX);
	if (n < 0 && n != -ENOENT && n != -EBADMSG)
		return (int)n;
	if (n < RECORD_INLINE_HEAD ||
	    (uint64_t)n - RECORD_INLINE_HEAD != in->size ||
	    record_u64_decode(buf, RECORD_INLINE_HEAD, &sum) < 0 ||
	    sum != digest_xxh3(buf + RECORD_INLINE_HEAD, in->size))
		*ret_why = "its bytes in the index are missing or damaged";
	return 0;
}

static bool recount_is_double(const struct rework *rw, uint64_t pack)
{
	const struct survey_item *it = survey_find(&rw->claims, pack);

	return it && it + 1 < rw->claims.v + rw->claims.n && it[1].id == pack;
}

/* What is read from packs. */
static int recount_packed(struct rework *rw, const struct inode *in,
			  const char **ret_why)
{
	bool linear = in->data == INODE_DATA_PACK;
	bool other = rework_is_other(rw, in->ino);
	const struct survey_item *file;

	file = linear ? survey_find(&rw->files, in->pack) : NULL;
	if (linear && (!file || file->ref < in->size))
		*ret_why = "its pack is missing or too short";
	else if ((linear && idset_has(&rw->has_pack, in->pack)) ||
		 (in->recipe && idset_has(&rw->has_recipe, in->recipe)))
		*ret_why = "another file has its bytes";
	else if (other && !(in->flags & INODE_SUMMED))
		*ret_why = "it has no checksum";
	else if (in->recipe)
		return recount_recipe(rw, in, ret_why);
	return 0;
}

static int recount_compare(struct rework *rw, const struct inode *in,
			   const char **ret_why)
{
	bool doubt = rw->data || rework_is_other(rw, in->ino) ||
		     (in->data == INODE_DATA_PACK &&
		      recount_is_double(rw, in->pack));
	bool good = true;
	int r = 0;

	if (doubt && (in->flags & INODE_SUMMED))
		r = datacheck_file_bytes(&rw->t, in, &good);
	if (!good)
		*ret_why = "its bytes do not match their checksum";
	return r;
}

/* --- A file whose recipe is lost, but not its bytes ----------------------- */

static int recount_copy_pack(struct rework *rw, const struct inode *in,
			     uint64_t to)
{
	const struct pack_io *io = &pack_io_real;
	cleanup_close int from = packio_open(io, rw->packs_fd, in->pack);
	cleanup_close int fd = -1;
	int r = from;

	if (r >= 0)
		r = fd = packio_create(io, rw->packs_fd, to);
	if (r >= 0)
		r = packio_clone(io, from, fd, in->size);
	if (r >= 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0 && fd >= 0)
		(void)packio_free(io, rw->packs_fd, to);
	return r < 0 ? r : 0;
}

/* It gets a pack to itself, for blocks of others may lie in its own: it is cut
 * anew later. 1: it has one; 0: not all of its bytes are right, or there is no
 * room for them. */
static int recount_detach(struct rework *rw, const struct inode *in)
{
	struct inode as = *in;
	bool good = false;
	int r;

	as.recipe = 0;
	if (in->data != INODE_DATA_PACK || !(in->flags & INODE_SUMMED) ||
	    index_disk_bytes(rw->t.ix) + rw->copied + in->size + MIB >
		    rw->most_bytes)
		return 0;
	r = datacheck_file_bytes(&rw->t, &as, &good);
	if (r < 0 || !good)
		return r < 0 ? r : 0;
	r = index_new_id(rw->t.ix, INDEX_ID_PACK, &as.pack);
	if (r >= 0)
		r = recount_copy_pack(rw, in, as.pack);
	if (r < 0)
		return r == -ENOSPC ? 0 : r;
	rw->copied += in->size;
	survey_found(&rw->s,
		     "inode %" PRIu64 ": its recipe is damaged, its bytes are "
		     "not: it reads pack %" PRIu64 " from now on",
		     in->ino, as.pack);
	r = table_inode_put(rw->txn, &as);
	return r < 0 ? r : 1;
}

static int recount_contents(struct rework *rw, const struct inode *in,
			    const char **ret_why)
{
	int r;

	if (in->flags & INODE_BAD)
		*ret_why = "it was found damaged before";
	else if (in->recipe && in->data != INODE_DATA_PACK &&
		 in->data != INODE_DATA_RECIPE)
		*ret_why = "its record contradicts itself";
	if (*ret_why || in->data == INODE_DATA_NONE)
		return 0;
	if (in->data == INODE_DATA_INLINE)
		return recount_inline(rw, in, ret_why);
	r = recount_packed(rw, in, ret_why);
	if (r >= 0 && *ret_why == recount_no_block)
		r = recount_detach(rw, in);
	if (r > 0)
		*ret_why = NULL;
	if (r)
		return r < 0 ? r : 0;
	if (!*ret_why)
		r = recount_compare(rw, in, ret_why);
	if (r < 0 || *ret_why)
		return r;
	r = in->recipe ? idset_add(&rw->has_recipe, in->recipe) : 0;
	return r >= 0 && in->data == INODE_DATA_PACK
		       ? idset_add(&rw->has_pack, in->pack)
		       : r;
}

static int recount_file(struct rework *rw, const struct record_key *key,
			const uint8_t *val, size_t len)
{
	struct rework_ino *it;
	struct inode in;
	uint64_t ino;
	int r = record_key_get(key, 0, &ino);

	if (r >= 0)
		r = record_inode_decode(ino, val, len, &in);
	it = r < 0 ? NULL : rework_find(rw, ino);
	if (!it)
		return 0;
	r = recount_contents(rw, &in, &it->why);
	if (it->why)
		it->state |= REWORK_LOST;
	return r;
}

int recount_files(struct rework *rw)
{
	int r = rework_each(rw, INDEX_BLOCK, recount_block);

	if (r >= 0)
		r = rework_begin(rw);
	if (r >= 0)
		r = recount_overlaps(rw);
	if (r >= 0)
		r = rework_commit(rw);
	return r < 0 ? r : rework_each(rw, INDEX_INODE, recount_file);
}

/* --- Recipes and blocks -------------------------------------------------- */

static int recount_chunk(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	struct run runs[RECORD_RUNS_MAX];
	struct rework_block *b;
	uint64_t id;
	size_t n;

	if (record_key_get(key, 0, &id) < 0 || !survey_find(&rw->recipes, id) ||
	    record_runs_decode(val, len, runs, &n) < 0)
		return index_del(rw->txn, INDEX_RECIPE, key);
	for (size_t i = 0; i < n; i++) {
		b = rework_block(rw, runs[i].first);
		/* All of them are there: recount_run(). */
		for (uint32_t k = 0; b && k < runs[i].count; k++)
			b[k].refs++;
	}
	return 0;
}

/* Its record as it is to be, and its digest. */
static int recount_put_block(struct rework *rw, const struct record_key *key,
			     const uint8_t *val, size_t len)
{
	const struct rework_block *b;
	struct block_rec bl;
	uint64_t id;
	int r;

	if (record_key_get(key, 0, &id) < 0 ||
	    record_block_decode(val, len, &bl) < 0)
		return index_del(rw->txn, INDEX_BLOCK, key);
	b = rework_block(rw, id);
	if (!b || !b->refs)
		return block_del(rw->txn, id, &bl);
	r = recount_has_digest(rw, id, &bl);
	if (r == 0) {
		struct record_key digest =
			record_key_pair(record_sha256_head(bl.sha256), id);

		r = index_put(rw->txn, INDEX_DIGEST, &digest, NULL, 0, false);
	}
	if (r < 0 || bl.refs == b->refs)
		return r < 0 ? r : 0;
	bl.refs = b->refs;
	return block_put(rw->txn, id, &bl);
}

static int recount_digest(struct rework *rw, const struct record_key *key,
			  const uint8_t *val, size_t len)
{
	const struct rework_block *b = NULL;
	struct block_rec bl = { .refs = 0 };
	uint64_t head, id;
	int r = record_key_get(key, 0, &head);

	(void)val;
	(void)len;
	if (r >= 0)
		r = record_key_get(key, sizeof(head), &id);
	if (r >= 0)
		b = rework_block(rw, id);
	if (b && b->refs) {
		r = block_get(rw->txn, id, &bl);
		if (r >= 0 && record_sha256_head(bl.sha256) == head)
			return 0;
	}
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	return index_del(rw->txn, INDEX_DIGEST, key);
}

/* --- Packs --------------------------------------------------------------- */

static struct recount_pack *recount_find_pack(struct recount_pack *v, size_t n,
					      uint64_t id)
{
	size_t low = 0;

	while (n - low > 1) {
		size_t mid = low + (n - low) / 2;

		if (v[mid].id <= id)
			low = mid;
		else
			n = mid;
	}
	return n && v[low].id == id ? &v[low] : NULL;
}

/* All packs that have blocks which stay, in order. */
static int recount_gather(struct rework *rw, struct recount_pack **ret,
			  size_t *ret_n)
{
	cleanup_free struct rework_block **b = NULL;
	cleanup_free struct recount_pack *v = NULL;
	const struct survey_item *it;
	size_t n = 0;
	int r = recount_places(rw, &b);

	if (r >= 0)
		v = calloc(rw->n_blocks + 1, sizeof(*v));
	if (r < 0 || !v)
		return r < 0 ? r : -ENOMEM;
	for (size_t i = 0; i < rw->n_blocks; i++) {
		if (!b[i]->refs)
			continue;
		if (!n || v[n - 1].id != b[i]->pack)
			v[n++].id = b[i]->pack;
		v[n - 1].live += b[i]->len;
		if (b[i]->off + b[i]->len > v[n - 1].end)
			v[n - 1].end = b[i]->off + b[i]->len;
	}
	for (size_t i = 0; i < n; i++) {
		it = survey_find(&rw->owners, v[i].id);
		v[i].owner = it ? it->ref : 0;
	}
	*ret = steal_ptr(v);
	*ret_n = n;
	return 0;
}

/* Its file ends where it has been written to: what lies behind the last block
 * is nobody's. */
static int recount_put_pack(struct rework *rw, const struct recount_pack *pk)
{
	struct pack_rec rec, was;
	int r = block_pack_get(rw->txn, pk->id, &was);
	bool old = r >= 0;

	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	rec = (struct pack_rec){ .state = old ? was.state : PACK_CUT,
				 .owner = pk->owner,
				 .bytes = pk->end,
				 .live = pk->live };
	if (pk->owner)
		rec.state = PACK_WHOLE;
	return block_pack_put(rw->txn, pk->id, &rec);
}

/* Few enough for one transaction. */
static int recount_packs(struct rework *rw)
{
	cleanup_free struct recount_pack *v = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = { .len = 1 }, key;
	uint8_t buf[RECORD_PACK_SIZE];
	size_t n = 0, len;
	uint64_t id;
	int r = recount_gather(rw, &v, &n);

	if (r >= 0)
		r = rework_begin(rw);
	if (r >= 0)
		r = index_iter(rw->txn, INDEX_PACK, &from, 0, &it);
	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0)
		if (record_key_get(&key, 0, &id) < 0 ||
		    !recount_find_pack(v, n, id))
			r = index_del(rw->txn, INDEX_PACK, &key);
	index_iter_release(&it);
	for (size_t i = 0; i < n && r >= 0; i++)
		r = recount_put_pack(rw, &v[i]);
	return r < 0 ? r : rework_commit(rw);
}

/* --- Entries ------------------------------------------------------------- */

static int recount_entry(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	const struct survey_item *it, *end = rw->entries.v + rw->entries.n;
	const struct rework_ino *dir;
	uint8_t buf[RECORD_ENTRY_MAX];
	struct record_key lru;
	struct entry_rec en;
	uint32_t n = 0;
	uint64_t id;
	int r;

	if (record_key_get(key, 0, &id) < 0 ||
	    record_entry_decode(val, len, &en) < 0)
		return index_del(rw->txn, INDEX_ENTRY, key);
	for (it = survey_find(&rw->entries, id); it && it < end && it->id == id;
	     it++)
		n++;
	dir = rework_find(rw, en.dir);
	if (!n || !dir || !(dir->state & REWORK_REACHED) ||
	    !layout_evictable(en.kind))
		return index_del(rw->txn, INDEX_ENTRY, key);
	lru = record_key_lru((uint8_t)layout_queue(en.kind), en.last_use_ns,
			     id);
	r = index_put(rw->txn, INDEX_LRU, &lru, NULL, 0, false);
	if (r < 0 || n == en.members)
		return r;
	en.members = n;
	return index_put(rw->txn, INDEX_ENTRY, key, buf,
			 record_entry_encode(&en, buf), false);
}

int recount_tables(struct rework *rw)
{
	int r = rework_each(rw, INDEX_RECIPE, recount_chunk);

	if (r >= 0)
		r = rework_each(rw, INDEX_BLOCK, recount_put_block);
	if (r >= 0)
		r = rework_each(rw, INDEX_DIGEST, recount_digest);
	if (r >= 0)
		r = recount_packs(rw);
	return r < 0 ? r : rework_each(rw, INDEX_ENTRY, recount_entry);
}
