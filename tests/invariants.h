/* SPDX-License-Identifier: MIT */
/*
 * What must hold between the tables of a store that nobody has open:
 *  - names, cookies, inodes and link counts tell the same story;
 *  - orphans are the inodes without a name, and there is none;
 *  - entries and the LRU are one to one, and an entry counts the files that
 *    carry it;
 *  - inline bytes and staged packs belong to exactly one inode each;
 *  - a block is referred to as often as it occurs in recipes, each of which is
 *    an inode's; a pack's live bytes are those of its blocks, which do not
 *    overlap and end where it says; a lost block has no pack;
 *  - what is charged covers what is on disk, and not by much.
 *
 * The tail of fixture.h, whose names it uses.
 */
#ifndef TESTS_INVARIANTS_H
#define TESTS_INVARIANTS_H

#include <dirent.h>

#include "store/block.h"

#define INVARIANTS_INODES_MAX 20000

#define INVARIANTS_REFS_MAX 20000

struct invariants_block {
	uint64_t id;
	struct block_rec rec;
};

/* An inode and what was counted for it. */
struct invariants_inode {
	struct inode in;
	uint32_t names;
	uint32_t dirs; /* below it */
};

struct invariants {
	struct index_txn *txn;
	size_t n;
	struct invariants_inode inodes[INVARIANTS_INODES_MAX]; /* by number */
	uint64_t disk_bytes;
	size_t n_refs, n_blocks, n_counted, n_placed, n_lost;
	uint64_t refs[INVARIANTS_REFS_MAX]; /* block ids, as recipes say */
	struct invariants_block blocks[INVARIANTS_REFS_MAX];
};
static struct invariants inv;

static inline int invariants_order(const void *a, const void *b)
{
	const struct invariants_inode *x = a, *y = b;

	return (x->in.ino > y->in.ino) - (x->in.ino < y->in.ino);
}

static inline struct invariants_inode *invariants_find(uint64_t ino)
{
	struct invariants_inode want = { .in.ino = ino }, *found;

	found = bsearch(&want, inv.inodes, inv.n, sizeof(want),
			invariants_order);
	ck_assert_msg(found != NULL, "inode %ju is named but not there",
		      (uintmax_t)ino);
	return found;
}

/* Calls @fn with each record of a table. */
static inline uint64_t invariants_each(enum index_table table,
				       void (*fn)(const struct record_key *key,
						  const uint8_t *val,
						  size_t len))
{
	static uint8_t val[INDEX_VALUE_MAX];
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = { .len = 0 }, key;
	uint64_t n = 0;
	size_t len;
	int r;

	from = record_key_id(0);
	r = index_iter(inv.txn, table, &from, 0, &it);
	ck_assert_int_eq(r, 0);
	while ((r = index_next(&it, &key, val, sizeof(val), &len)) > 0) {
		fn(&key, val, len);
		n++;
	}
	ck_assert_int_eq(r, 0);
	return n;
}

static inline uint64_t invariants_id(const struct record_key *key, size_t at)
{
	uint64_t id;

	ck_assert_int_eq(record_key_get(key, at, &id), 0);
	return id;
}

static inline void invariants_add_inode(const struct record_key *key,
					const uint8_t *val, size_t len)
{
	ck_assert_uint_lt(inv.n, INVARIANTS_INODES_MAX);
	inv.inodes[inv.n] = (struct invariants_inode){ .names = 0 };
	ck_assert_int_eq(record_inode_decode(invariants_id(key, 0), val, len,
					     &inv.inodes[inv.n].in),
			 0);
	inv.n++;
}

static inline void invariants_name(const struct record_key *key,
				   const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1], back[RECORD_NAME_MAX + 1];
	struct invariants_inode *dir, *in;
	struct dirent_rec de;

	memcpy(name, key->bytes + 8, key->len - 8);
	name[key->len - 8] = '\0';
	ck_assert_int_eq(record_dirent_decode(val, len, &de), 0);
	dir = invariants_find(invariants_id(key, 0));
	in = invariants_find(de.ino);
	ck_assert(S_ISDIR(dir->in.mode));
	ck_assert_uint_eq(de.type, in->in.mode >> 12);
	ck_assert_uint_lt(de.cookie, dir->in.next_cookie);
	ck_assert_int_eq(
		table_cookie_get(inv.txn, dir->in.ino, de.cookie, back), 0);
	ck_assert_str_eq(back, name);
	in->names++;
	if (!S_ISDIR(in->in.mode))
		return;
	dir->dirs++;
	ck_assert_uint_eq(in->in.parent, dir->in.ino);
	ck_assert_uint_eq(in->in.cookie, de.cookie);
}

static inline void invariants_links(void)
{
	for (size_t i = 0; i < inv.n; i++) {
		const struct invariants_inode *x = &inv.inodes[i];
		uint32_t names = x->names;

		if (x->in.ino == RECORD_ROOT_INO)
			names++;
		ck_assert_msg(names > 0, "inode %ju has no name",
			      (uintmax_t)x->in.ino);
		if (S_ISDIR(x->in.mode)) {
			ck_assert_uint_eq(names, 1);
			ck_assert_uint_eq(x->in.nlink, 2 + x->dirs);
		} else {
			ck_assert_uint_eq(x->in.nlink, names);
		}
		ck_assert(!(x->in.flags & INODE_WRITERS));
	}
}

static inline void invariants_entry(const struct record_key *key,
				    const uint8_t *val, size_t len)
{
	uint64_t id = invariants_id(key, 0);
	struct record_key lru;
	struct entry_rec en;
	uint8_t none[1];
	uint32_t n = 0;

	ck_assert_int_eq(record_entry_decode(val, len, &en), 0);
	ck_assert(S_ISDIR(invariants_find(en.dir)->in.mode));
	for (size_t i = 0; i < inv.n; i++)
		n += S_ISREG(inv.inodes[i].in.mode) &&
		     inv.inodes[i].in.entry == id;
	ck_assert_msg(n == en.members, "entry %ju counts %u files, has %u",
		      (uintmax_t)id, en.members, n);
	lru = record_key_lru((uint8_t)layout_queue(en.kind), en.last_use_ns,
			     id);
	ck_assert_int_eq(index_get(inv.txn, INDEX_LRU, &lru, none, 1), 0);
}

/* The entry of a file is there, unless directories moved (tidy_rescan()). */
static inline void invariants_entries(void)
{
	uint64_t moved = 0;
	struct entry_rec en;
	int r = table_meta_get(inv.txn, TABLE_META_RESCAN, &moved);

	ck_assert(r == 0 || r == -ENOENT);
	for (size_t i = 0; i < inv.n && !moved; i++) {
		const struct inode *in = &inv.inodes[i].in;

		if (!S_ISREG(in->mode) || !in->entry)
			continue;
		r = table_entry_get(inv.txn, in->entry, &en);
		ck_assert_msg(r == 0, "inode %ju carries no entry",
			      (uintmax_t)in->ino);
	}
	ck_assert_uint_eq(invariants_each(INDEX_ENTRY, invariants_entry),
			  fx_count(INDEX_LRU));
}

static inline void invariants_inline(const struct record_key *key,
				     const uint8_t *val, size_t len)
{
	const struct inode *in = &invariants_find(invariants_id(key, 0))->in;

	(void)val;
	ck_assert_int_eq(in->data, INODE_DATA_INLINE);
	ck_assert_uint_eq(len, RECORD_INLINE_HEAD + in->size);
}

/* How many inodes read the pack linearly. */
static inline size_t invariants_readers(uint64_t pack)
{
	size_t n = 0;

	for (size_t i = 0; i < inv.n; i++)
		n += inv.inodes[i].in.data == INODE_DATA_PACK &&
		     inv.inodes[i].in.pack == pack;
	return n;
}

/* Pack files: staged ones and those with a record. */
static inline void invariants_packs(void)
{
	DIR *dir = fdopendir(dup(fx.kit.packs_dir));
	const struct dirent *de;
	size_t files = 0, named = 0;
	struct pack_rec rec;
	uint64_t id;

	ck_assert_ptr_nonnull(dir);
	rewinddir(dir);
	while ((de = readdir(dir))) {
		size_t n;
		int r;

		if (!packio_parse(de->d_name, &id))
			continue;
		files++;
		n = invariants_readers(id);
		r = block_pack_get(inv.txn, id, &rec);
		ck_assert_msg(r == 0 || n == 1,
			      "pack %s is named by %zu inodes", de->d_name, n);
		if (r == 0)
			ck_assert_uint_eq(n, rec.owner != 0);
		named += r == 0 || n;
	}
	closedir(dir);
	ck_assert_uint_eq(named, files);
	for (size_t i = 0; i < inv.n; i++) {
		const struct inode *in = &inv.inodes[i].in;

		if (in->data == INODE_DATA_PACK &&
		    block_pack_get(inv.txn, in->pack, &rec) == 0)
			ck_assert_uint_eq(rec.owner, in->ino);
	}
}

static inline void invariants_runs(const struct record_key *key,
				   const uint8_t *val, size_t len)
{
	struct run runs[RECORD_RUNS_MAX];
	uint64_t recipe = invariants_id(key, 0);
	size_t n, owners = 0;

	ck_assert_int_eq(record_runs_decode(val, len, runs, &n), 0);
	for (size_t i = 0; i < inv.n; i++)
		owners += inv.inodes[i].in.recipe == recipe;
	ck_assert_msg(owners == 1, "recipe %ju has %zu inodes",
		      (uintmax_t)recipe, owners);
	for (size_t i = 0; i < n; i++) {
		for (uint32_t k = 0; k < runs[i].count; k++) {
			ck_assert_uint_lt(inv.n_refs, INVARIANTS_REFS_MAX);
			inv.refs[inv.n_refs++] = runs[i].first + k;
		}
	}
}

static inline void invariants_block(const struct record_key *key,
				    const uint8_t *val, size_t len)
{
	struct invariants_block *b = &inv.blocks[inv.n_blocks++];
	struct record_key digest;
	uint8_t none[1];
	uint64_t refs = 0;

	ck_assert_uint_le(inv.n_blocks, INVARIANTS_REFS_MAX);
	b->id = invariants_id(key, 0);
	ck_assert_int_eq(record_block_decode(val, len, &b->rec), 0);
	for (size_t i = 0; i < inv.n_refs; i++)
		refs += inv.refs[i] == b->id;
	ck_assert_msg(refs == b->rec.refs,
		      "block %ju has %u references, not %ju", (uintmax_t)b->id,
		      b->rec.refs, (uintmax_t)refs);
	inv.n_counted += refs;
	inv.n_lost += b->rec.pack == 0;
	digest = record_key_pair(record_sha256_head(b->rec.sha256), b->id);
	ck_assert_int_eq(index_get(inv.txn, INDEX_DIGEST, &digest, none, 1), 0);
}

static inline int invariants_place(const void *a, const void *b)
{
	const struct invariants_block *x = a, *y = b;

	if (x->rec.pack != y->rec.pack)
		return x->rec.pack < y->rec.pack ? -1 : 1;
	return (x->rec.offset > y->rec.offset) -
	       (x->rec.offset < y->rec.offset);
}

static inline void invariants_live(const struct record_key *key,
				   const uint8_t *val, size_t len)
{
	uint64_t id = invariants_id(key, 0), live = 0, end = 0;
	struct pack_rec rec;

	ck_assert_int_eq(record_pack_decode(val, len, &rec), 0);
	for (size_t i = 0; i < inv.n_blocks; i++) {
		const struct block_rec *b = &inv.blocks[i].rec;

		if (b->pack != id)
			continue;
		ck_assert_msg(b->offset >= end, "blocks of pack %ju overlap",
			      (uintmax_t)id);
		end = b->offset + b->length;
		live += b->length;
		inv.n_placed++;
	}
	ck_assert_uint_le(end, rec.bytes);
	ck_assert_uint_eq(live, rec.live);
	ck_assert(live || rec.owner);
}

/* Recipes, blocks and packs count the same. */
static inline void invariants_blocks(void)
{
	inv.n_refs = inv.n_blocks = inv.n_counted = inv.n_placed = 0;
	inv.n_lost = 0;
	invariants_each(INDEX_RECIPE, invariants_runs);
	invariants_each(INDEX_BLOCK, invariants_block);
	ck_assert_uint_eq(inv.n_counted, inv.n_refs);
	ck_assert_uint_eq(fx_count(INDEX_DIGEST), inv.n_blocks);
	qsort(inv.blocks, inv.n_blocks, sizeof(inv.blocks[0]),
	      invariants_place);
	invariants_each(INDEX_PACK, invariants_live);
	ck_assert_uint_eq(inv.n_placed + inv.n_lost, inv.n_blocks);
	ck_assert_uint_eq(fx_count(INDEX_PENDING), 0);
}

static inline void invariants_bytes(void)
{
	uint64_t wanted = 0;

	for (size_t i = 0; i < inv.n; i++)
		wanted += inv.inodes[i].in.data == INODE_DATA_INLINE;
	ck_assert_uint_eq(invariants_each(INDEX_INLINE, invariants_inline),
			  wanted);
	invariants_packs();
	invariants_blocks();
}

static inline int invariants_add_disk(const char *path, const struct stat *st,
				      int flag, struct FTW *ftw)
{
	(void)path;
	(void)flag;
	(void)ftw;
	inv.disk_bytes += (uint64_t)st->st_blocks * 512;
	return 0;
}

/* Every test runs this at its end; one may at any moment without writers. */
static inline void invariants_room(void)
{
	inv.disk_bytes = 0;
	ck_assert_int_eq(
		nftw(fx.kit.dir.path, invariants_add_disk, 16, FTW_PHYS), 0);
	ck_assert_uint_ge(fx_charged(), inv.disk_bytes);
	ck_assert_uint_le(fx_charged(),
			  inv.disk_bytes + inv.disk_bytes / 100 + MIB);
}

static inline void invariants_check(void)
{
	uint64_t freed;

	if (fx.hurt)
		return;
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert(gc_drain(fx.gc, &freed) == 0 || index_frozen(fx.kit.ix));
	if (!index_frozen(fx.kit.ix)) {
		/* Without a change there would be no checkpoint. */
		const struct inode root = fx_inode(RECORD_ROOT_INO);

		fx_put_inode(&root);
		fx_checkpoint();
	}
	ck_assert_int_eq(index_begin(fx.kit.ix, false, &inv.txn), 0);
	inv.n = 0;
	invariants_each(INDEX_INODE, invariants_add_inode);
	ck_assert_uint_eq(invariants_each(INDEX_DIRENT, invariants_name),
			  fx_count(INDEX_COOKIE));
	invariants_links();
	ck_assert_uint_eq(fx_count(INDEX_ORPHAN), 0);
	invariants_entries();
	invariants_bytes();
	index_abort(inv.txn);
	invariants_room();
}

#endif
