/* SPDX-License-Identifier: MIT */
#include "store/blockcheck.h"

#include <inttypes.h>
#include <string.h>

#include "store/block.h"
#include "store/recipe.h"
#include "store/table.h"
#include "store/wheel.h"

/* In survey_item.other of a block, where its pack's ordinal is else. */
#define BLOCKCHECK_NO_PACK UINT32_MAX
#define BLOCKCHECK_DAMAGED (UINT32_MAX - 1)

struct blockcheck {
	struct survey *s;
	struct survey_set files;   /* recipe, ref: the inode that has it */
	struct survey_set linear;  /* pack, ref: the inode that reads it */
	struct survey_set pending; /* recipe, other: what is to be done */
	struct survey_set packs;
	struct survey_set blocks; /* count: in recipes, other: the pack's */
				  /* place in @packs */
	bool building;		  /* a recipe is */
	uint64_t lost;		  /* chunks that cannot be read */
	struct {
		uint64_t id; /* 0: none */
		uint64_t bytes;
		bool whole; /* all of it could be read, and is there */
	} recipe;
	struct blockcheck_result res;
};

static int blockcheck_id(struct blockcheck *bc, const struct record_key *key,
			 const char *table, uint64_t *ret)
{
	if (record_key_get(key, 0, ret) == 0)
		return 0;
	survey_found(bc->s, "table %s: a key of %zu bytes", table, key->len);
	return -EBADMSG;
}

/* --- Inodes ------------------------------------------------------------ */

static int blockcheck_inode(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	struct survey_item *it;
	struct inode in;
	uint64_t ino;
	int r = 0;

	if (!val || record_key_get(key, 0, &ino) < 0 ||
	    record_inode_decode(ino, val, len, &in) < 0)
		return 0; /* told with the names */
	if (in.recipe && in.data != INODE_DATA_PACK &&
	    in.data != INODE_DATA_RECIPE)
		survey_found(bc->s, "inode %" PRIu64 ": it reads no recipe",
			     ino);
	if (in.recipe) {
		r = survey_add(&bc->files, in.recipe, &it);
		if (r >= 0)
			it->ref = ino;
	}
	if (r >= 0 && in.data == INODE_DATA_PACK) {
		r = survey_add(&bc->linear, in.pack, &it);
		if (r >= 0)
			it->ref = ino;
	}
	return r;
}

/* One inode each. */
static void blockcheck_shared(struct blockcheck *bc, struct survey_set *set,
			      const char *what)
{
	survey_sort(set);
	for (size_t i = 1; i < set->n; i++)
		if (set->v[i].id == set->v[i - 1].id)
			survey_found(bc->s,
				     "%s %" PRIu64 ": inodes %" PRIu64
				     " and %" PRIu64 " have it",
				     what, set->v[i].id, set->v[i - 1].ref,
				     set->v[i].ref);
}

/* A pack that an inode reads. */
static int blockcheck_reader(struct blockcheck *bc,
			     const struct survey_item *it)
{
	struct pack_rec rec;
	struct inode in;
	int r = table_inode_get(bc->s->txn, it->ref, &in);

	if (r < 0)
		return r;
	r = block_pack_get(bc->s->txn, it->id, &rec);
	if (r == -EBADMSG) /* told with the packs */
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	if (r < 0 && in.recipe)
		survey_found(bc->s,
			     "inode %" PRIu64 ": its pack %" PRIu64
			     " has no record",
			     in.ino, it->id);
	if (r >= 0 && rec.owner != in.ino)
		survey_found(bc->s,
			     "pack %" PRIu64 ": inode %" PRIu64
			     " reads it, owner is %" PRIu64,
			     it->id, in.ino, rec.owner);
	return 0;
}

static int blockcheck_inodes(struct blockcheck *bc)
{
	int r = survey_walk(bc->s, INDEX_INODE, blockcheck_inode, bc);

	if (r < 0)
		return r;
	blockcheck_shared(bc, &bc->files, "recipe");
	blockcheck_shared(bc, &bc->linear, "pack");
	for (size_t i = 0; i < bc->linear.n && r >= 0; i++)
		r = blockcheck_reader(bc, &bc->linear.v[i]);
	return r;
}

/* --- What there is ----------------------------------------------------- */

static int blockcheck_add_pack(void *arg, const struct record_key *key,
			       const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	struct survey_item *it;
	struct pack_rec rec;
	uint64_t id;

	if (blockcheck_id(bc, key, "pack", &id) < 0)
		return 0;
	bc->res.packs++;
	if (!val || record_pack_decode(val, len, &rec) < 0)
		survey_found(bc->s, "pack %" PRIu64 ": its record is damaged",
			     id);
	return survey_add(&bc->packs, id, &it);
}

static int blockcheck_add_block(void *arg, const struct record_key *key,
				const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	const struct survey_item *pack;
	struct survey_item *it;
	struct block_rec bl;
	uint64_t id;
	int r;

	if (blockcheck_id(bc, key, "block", &id) < 0)
		return 0;
	bc->res.blocks++;
	r = survey_add(&bc->blocks, id, &it);
	if (r < 0)
		return r;
	it->other = BLOCKCHECK_DAMAGED;
	if (!val || record_block_decode(val, len, &bl) < 0) {
		survey_found(bc->s, "block %" PRIu64 ": its record is damaged",
			     id);
		return 0;
	}
	if (!bl.pack) { /* lost: it was told when it was found damaged */
		it->other = BLOCKCHECK_NO_PACK;
		bc->res.forgotten++;
		return 0;
	}
	bc->res.bytes += bl.length;
	pack = survey_find(&bc->packs, bl.pack);
	it->other = pack ? (uint32_t)(pack - bc->packs.v) : BLOCKCHECK_NO_PACK;
	if (!pack)
		survey_found(bc->s,
			     "block %" PRIu64 ": its pack %" PRIu64
			     " has no record",
			     id, bl.pack);
	return 0;
}

static int blockcheck_add_pending(void *arg, const struct record_key *key,
				  const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	const struct survey_item *file;
	struct survey_item *it;
	uint64_t id;
	int r;

	if (blockcheck_id(bc, key, "pending", &id) < 0)
		return 0;
	r = survey_add(&bc->pending, id, &it);
	if (r < 0)
		return r;
	if (!val || len != 1 ||
	    (val[0] != RECIPE_BUILDING && val[0] != RECIPE_DROPPING))
		survey_found(bc->s,
			     "recipe %" PRIu64
			     ": what is to become of it is damaged",
			     id);
	bc->building |= val && val[0] == RECIPE_BUILDING;
	file = survey_find(&bc->files, id);
	if (file)
		survey_found(bc->s,
			     "recipe %" PRIu64
			     ": it is to be dropped, but inode %" PRIu64
			     " has it",
			     id, file->ref);
	return 0;
}

/* --- Recipes ----------------------------------------------------------- */

/* The chunks of one recipe are through. */
static int blockcheck_end_recipe(struct blockcheck *bc)
{
	uint64_t id = bc->recipe.id;
	struct survey_item *file = survey_find(&bc->files, id);
	struct inode in;
	int r;

	bc->recipe.id = 0;
	if (!id || (!file && survey_find(&bc->pending, id)))
		return 0;
	if (!file) {
		survey_found(bc->s, "recipe %" PRIu64 ": no inode has it", id);
		return 0;
	}
	r = table_inode_get(bc->s->txn, file->ref, &in);
	if (r >= 0 && bc->recipe.whole && bc->recipe.bytes != in.size)
		survey_found(bc->s,
			     "recipe %" PRIu64 ": %" PRIu64
			     " bytes, its inode %" PRIu64 " has %" PRIu64,
			     id, bc->recipe.bytes, in.ino, in.size);
	for (; file < bc->files.v + bc->files.n && file->id == id; file++)
		file->ref = 0; /* seen */
	return r < 0 ? r : 0;
}

static int blockcheck_ref(struct blockcheck *bc, const struct run *run,
			  struct survey_item *it)
{
	struct block_rec bl;
	int r;

	it->count += it->count < UINT32_MAX;
	if (it->other == BLOCKCHECK_DAMAGED) {
		bc->recipe.whole = false;
		return 0;
	}
	r = block_get(bc->s->txn, it->id, &bl);
	if (r < 0)
		return r;
	bc->recipe.bytes += bl.length;
	if (run->stamped && bl.length < WHEEL_STAMP_AT + WHEEL_STAMP_LEN)
		survey_found(bc->s,
			     "recipe %" PRIu64 ": a stamp on block %" PRIu64
			     ", which has only %" PRIu64 " bytes",
			     bc->recipe.id, it->id, bl.length);
	return 0;
}

static int blockcheck_run_of(struct blockcheck *bc, const struct run *run)
{
	struct survey_item *it = survey_from(&bc->blocks, run->first);
	const struct survey_item *end = bc->blocks.v + bc->blocks.n;
	uint64_t last = run->first + run->count - 1;
	uint64_t n = 0;
	int r = 0;

	for (; it && it < end && it->id <= last && r >= 0; it++, n++)
		r = blockcheck_ref(bc, run, it);
	if (r < 0 || n == run->count)
		return r;
	bc->recipe.whole = false;
	if (run->count == 1)
		survey_found(bc->s,
			     "recipe %" PRIu64 ": block %" PRIu64
			     " is not there",
			     bc->recipe.id, run->first);
	else
		survey_found(bc->s,
			     "recipe %" PRIu64 ": %" PRIu64
			     " of the blocks %" PRIu64 " to %" PRIu64
			     " are not there",
			     bc->recipe.id, run->count - n, run->first, last);
	return 0;
}

static int blockcheck_chunk(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	struct run runs[RECORD_RUNS_MAX];
	uint64_t id;
	size_t n;
	int r = 0;

	if (blockcheck_id(bc, key, "recipe", &id) < 0)
		return 0;
	if (id != bc->recipe.id) {
		r = blockcheck_end_recipe(bc);
		bc->recipe.id = id;
		bc->recipe.bytes = 0;
		bc->recipe.whole = true;
		bc->res.recipes++;
	}
	if (r < 0)
		return r;
	if (!val || record_runs_decode(val, len, runs, &n) < 0) {
		survey_found(bc->s,
			     "recipe %" PRIu64 ": a part of it is damaged", id);
		bc->recipe.whole = false;
		bc->lost++;
		return 0;
	}
	for (size_t i = 0; i < n && r >= 0; i++)
		r = blockcheck_run_of(bc, &runs[i]);
	return r;
}

static int blockcheck_recipes(struct blockcheck *bc)
{
	int r = survey_walk(bc->s, INDEX_RECIPE, blockcheck_chunk, bc);

	if (r >= 0)
		r = blockcheck_end_recipe(bc);
	for (size_t i = 0; i < bc->files.n && r >= 0; i++)
		if (bc->files.v[i].ref)
			survey_found(bc->s,
				     "inode %" PRIu64 ": its recipe %" PRIu64
				     " is not there",
				     bc->files.v[i].ref, bc->files.v[i].id);
	return r;
}

/* --- Blocks ------------------------------------------------------------ */

static int blockcheck_has_digest(struct blockcheck *bc, uint64_t id,
				 const struct block_rec *bl)
{
	struct record_key key =
		record_key_pair(record_sha256_head(bl->sha256), id);
	uint8_t none[1];
	ssize_t n =
		index_get(bc->s->txn, INDEX_DIGEST, &key, none, sizeof(none));

	if (n < 0 && n != -ENOENT && n != -EBADMSG)
		return (int)n;
	return n != -ENOENT; /* a damaged one is told with the digests */
}

static int blockcheck_block(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	const struct survey_item *it;
	struct block_rec bl;
	uint64_t id;
	int r;

	if (!val || record_key_get(key, 0, &id) < 0 ||
	    record_block_decode(val, len, &bl) < 0)
		return 0; /* told already */
	it = survey_find(&bc->blocks, id);
	/* What cannot be read may refer to it. */
	r = blockcheck_has_digest(bc, id, &bl);
	if (r < 0)
		return r;
	if (!r)
		survey_found(bc->s, "block %" PRIu64 ": no digest leads to it",
			     id);
	if (it && it->count != bl.refs && !(bc->lost && it->count < bl.refs))
		survey_found(bc->s,
			     "block %" PRIu64 ": %u references, %u in recipes",
			     id, bl.refs, it->count);
	return 0;
}

static int blockcheck_digest(void *arg, const struct record_key *key,
			     const uint8_t *val, size_t len)
{
	struct blockcheck *bc = arg;
	struct block_rec bl;
	uint64_t head, id;
	int r;

	(void)len;
	if (blockcheck_id(bc, key, "digest", &head) < 0)
		return 0;
	if (!val || record_key_get(key, sizeof(uint64_t), &id) < 0) {
		survey_found(bc->s,
			     "digest %016" PRIx64 ": its record is damaged",
			     head);
		return 0;
	}
	r = block_get(bc->s->txn, id, &bl);
	if (r == -EBADMSG) /* told already */
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	if (r < 0 || record_sha256_head(bl.sha256) != head)
		survey_found(bc->s,
			     "digest %016" PRIx64 ": block %" PRIu64
			     ", to which it leads, %s",
			     head, id, r < 0 ? "is not there" : "has another");
	return 0;
}

/* --- Packs ------------------------------------------------------------- */

struct blockcheck_extent {
	uint64_t off;
	uint64_t len;
	uint64_t block;
};

static int blockcheck_extent_order(const void *a, const void *b)
{
	const struct blockcheck_extent *x = a, *y = b;

	return (x->off > y->off) - (x->off < y->off);
}

/* By pack, for the packs. */
static int blockcheck_pack_order(const void *a, const void *b)
{
	const struct survey_item *x = a, *y = b;

	if (x->other != y->other)
		return x->other < y->other ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

/* Its @n blocks, in any order. */
static void blockcheck_extents(struct blockcheck *bc, uint64_t pack,
			       const struct pack_rec *rec,
			       struct blockcheck_extent *v, size_t n)
{
	uint64_t live = 0, end = 0;

	if (n)
		qsort(v, n, sizeof(*v), blockcheck_extent_order);
	for (size_t i = 0; i < n; i++) {
		if (v[i].off < end)
			survey_found(bc->s,
				     "pack %" PRIu64 ": blocks %" PRIu64
				     " and %" PRIu64 " overlap",
				     pack, v[i - 1].block, v[i].block);
		live += v[i].len;
		if (v[i].off + v[i].len > rec->bytes)
			survey_found(bc->s,
				     "pack %" PRIu64 ": block %" PRIu64
				     " ends at %" PRIu64
				     ", the pack at %" PRIu64,
				     pack, v[i].block, v[i].off + v[i].len,
				     rec->bytes);
		if (v[i].off + v[i].len > end)
			end = v[i].off + v[i].len;
	}
	if (live != rec->live)
		survey_found(bc->s,
			     "pack %" PRIu64 ": %" PRIu64
			     " bytes are live, its blocks are %" PRIu64,
			     pack, rec->live, live);
}

static void blockcheck_owner(struct blockcheck *bc, uint64_t pack,
			     const struct pack_rec *rec)
{
	const struct survey_item *it = survey_find(&bc->linear, pack);

	/* That of the blocks that are being put has none for a moment. */
	if (!rec->owner && !rec->live && !bc->building)
		survey_found(bc->s,
			     "pack %" PRIu64
			     ": there is nothing in it, and nobody reads it",
			     pack);
	if (!rec->owner)
		return;
	if (rec->state != PACK_WHOLE)
		survey_found(bc->s,
			     "pack %" PRIu64
			     ": it has an owner, but was never a file's",
			     pack);
	if (!it) /* another reader is told with the inodes */
		survey_found(bc->s,
			     "pack %" PRIu64 ": its owner, inode %" PRIu64
			     ", does not read it",
			     pack, rec->owner);
}

/* The pack at place @i, with its blocks from *@at on. */
static int blockcheck_pack(struct blockcheck *bc, uint32_t i, size_t *at)
{
	const struct survey_item *b = bc->blocks.v;
	cleanup_free struct blockcheck_extent *v = NULL;
	uint64_t id = bc->packs.v[i].id;
	size_t from = *at, n = 0;
	struct block_rec bl;
	struct pack_rec rec;
	int r = block_pack_get(bc->s->txn, id, &rec);

	while (*at < bc->blocks.n && b[*at].other == i)
		++*at;
	if (r < 0)
		return r == -EBADMSG ? 0 : r; /* told already */
	v = malloc((*at - from + 1) * sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (; from < *at; from++) {
		r = block_get(bc->s->txn, b[from].id, &bl);
		if (r < 0)
			return r;
		v[n++] = (struct blockcheck_extent){ bl.offset, bl.length,
						     b[from].id };
	}
	blockcheck_extents(bc, id, &rec, v, n);
	blockcheck_owner(bc, id, &rec);
	return 0;
}

static int blockcheck_marks(struct blockcheck *bc)
{
	int r = survey_mark(bc->s, INDEX_ID_BLOCK, &bc->blocks);

	if (r >= 0)
		r = survey_mark(bc->s, INDEX_ID_PACK, &bc->packs);
	if (r >= 0)
		r = survey_mark(bc->s, INDEX_ID_PACK, &bc->linear);
	return r < 0 ? r : survey_mark(bc->s, INDEX_ID_RECIPE, &bc->files);
}

/* The last step: the blocks are then no more in order of their ids. */
static int blockcheck_packs(struct blockcheck *bc)
{
	size_t at = 0;
	int r = 0;

	if (bc->blocks.n)
		qsort(bc->blocks.v, bc->blocks.n, sizeof(bc->blocks.v[0]),
		      blockcheck_pack_order);
	for (uint32_t i = 0; i < bc->packs.n && r >= 0; i++)
		r = blockcheck_pack(bc, i, &at);
	return r;
}

static int blockcheck_all(struct blockcheck *bc)
{
	struct survey *s = bc->s;
	int r = blockcheck_inodes(bc);

	if (r >= 0)
		r = survey_walk(s, INDEX_PACK, blockcheck_add_pack, bc);
	if (r >= 0)
		r = survey_walk(s, INDEX_BLOCK, blockcheck_add_block, bc);
	if (r >= 0)
		r = survey_walk(s, INDEX_PENDING, blockcheck_add_pending, bc);
	if (r >= 0)
		r = blockcheck_recipes(bc);
	if (r >= 0)
		r = survey_walk(s, INDEX_BLOCK, blockcheck_block, bc);
	if (r >= 0)
		r = survey_walk(s, INDEX_DIGEST, blockcheck_digest, bc);
	if (r >= 0)
		r = blockcheck_marks(bc);
	if (r >= 0)
		r = blockcheck_packs(bc);
	return r;
}

int blockcheck_run(struct survey *s, struct blockcheck_result *ret)
{
	struct blockcheck bc = { .s = s };
	int r = blockcheck_all(&bc);

	survey_release(&bc.files);
	survey_release(&bc.linear);
	survey_release(&bc.pending);
	survey_release(&bc.packs);
	survey_release(&bc.blocks);
	if (r < 0)
		return r;
	*ret = bc.res;
	return 0;
}
