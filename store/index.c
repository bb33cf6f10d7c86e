/* SPDX-License-Identifier: MIT */
#include "store/index.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <lmdb.h>

#include "store/digest.h"
#include "store/env.h"
#include "store/ids.h"
#include "store/mdbfile.h"
#include "store/record.h"
#include "store/value.h"

/* Of each block that comes or goes: its record, mostly beside the last one's,
 * and its digest anywhere. */
#define TXN_BLOCK_PAGES 2
#define AHEAD_PAGES 64
#define AHEAD_STEP_PAGES 32

struct index {
	struct env env;
	MDB_dbi dbi[INDEX_TABLES];
	uint64_t growth_bytes;
	uint64_t most_bytes; /* of pages rewritten between two pins; 0: any */
	uint64_t rewritten;  /* pages, about, since the last pin */
	struct notify changed;
	atomic_bool frozen;
	struct ids ids;
	pthread_mutex_t lock;  /* guards what follows */
	uint64_t pinned_pages; /* length of the file at the last pin */
	bool told_changed;     /* since the last pin */
	bool told_grown;
};

struct index_txn {
	struct index *ix;
	MDB_txn *mdb; /* owned */
	bool write;
	bool touched;	  /* to be committed though nothing was changed */
	unsigned changes; /* records put and deleted */
	int error;	  /* the first that LMDB cannot go on from */
};

int index_begin(struct index *ix, bool write, struct index_txn **ret)
{
	struct index_txn *txn;
	MDB_txn *mdb;
	int r;

	if (write && index_frozen(ix))
		return -EROFS;
	r = env_begin(&ix->env, write, &mdb);
	if (r < 0)
		return r;
	txn = malloc(sizeof(*txn));
	if (!txn || (write && index_frozen(ix))) {
		mdb_txn_abort(mdb);
		r = txn ? -EROFS : -ENOMEM;
		free(txn);
		return r;
	}
	*txn = (struct index_txn){ .ix = ix, .mdb = mdb, .write = write };
	*ret = txn;
	return 0;
}

void index_abort(struct index_txn *txn)
{
	if (!txn)
		return;
	mdb_txn_abort(txn->mdb);
	free(txn);
}

/* LMDB's result of an operation; what it cannot go on from sticks. */
static int txn_result(struct index_txn *txn, int rc)
{
	int r = env_errno(rc);

	if (r < 0 && r != -ENOENT && r != -EEXIST && !txn->error)
		txn->error = r;
	return r;
}

/* Raise what runs low in @txn. @marks gets the marks as they will be. */
static int raise_marks(struct index_txn *txn, uint64_t marks[INDEX_IDS])
{
	struct index *ix = txn->ix;
	uint8_t val[sizeof(uint64_t)];
	struct record_key key;
	bool raised;
	int i, r;

	for (i = 0; i < INDEX_IDS; i++) {
		marks[i] = ids_mark(&ix->ids, i, &raised);
		if (!raised)
			continue;
		key = record_key_text(schema_ids[i].name);
		record_u64_encode(marks[i], val);
		r = index_put(txn, INDEX_META, &key, val, sizeof(val), false);
		if (r < 0)
			return r;
	}
	return 0;
}

void index_set_growth(struct index *ix, uint64_t bytes, uint64_t most_bytes)
{
	LOCK_SCOPE(&ix->lock);
	ix->growth_bytes = bytes;
	ix->most_bytes = most_bytes;
}

/* There is news again from here on. */
static void pinned(struct index *ix, uint64_t pages)
{
	LOCK_SCOPE(&ix->lock);
	ix->pinned_pages = pages;
	ix->rewritten = 0;
	ix->told_changed = false;
	ix->told_grown = false;
}

/* After a commit: take over its marks, and tell what there is to tell. */
static void committed(struct index *ix, const uint64_t marks[INDEX_IDS],
		      uint64_t rewritten)
{
	uint64_t pages = env_file_pages(&ix->env);
	bool tell;
	int i;

	for (i = 0; i < INDEX_IDS; i++)
		ids_committed(&ix->ids, i, marks[i]);
	{
		LOCK_SCOPE(&ix->lock);
		ix->rewritten += rewritten;
		tell = !ix->told_changed;
		ix->told_changed = true;
		if (!ix->told_grown && pages > ix->pinned_pages &&
		    (pages - ix->pinned_pages) * ix->env.page_size >=
			    ix->growth_bytes)
			tell = ix->told_grown = true;
	}
	if (tell)
		notify_call(&ix->changed);
}

/* About how many pages the commit will have rewritten: one for each record, but
 * no more than there are. */
static uint64_t rewritten_pages(const struct index_txn *txn)
{
	uint64_t all = 0;
	MDB_stat stat;

	if (txn->changes <= INDEX_COMMIT_PAGES)
		return INDEX_COMMIT_PAGES;
	for (int i = 0; i < INDEX_TABLES; i++)
		if (!mdb_stat(txn->mdb, txn->ix->dbi[i], &stat))
			all += stat.ms_leaf_pages + stat.ms_branch_pages;
	return txn->changes < all ? txn->changes : all;
}

int index_commit(struct index_txn *txn)
{
	struct index *ix = txn->ix;
	MDB_txn *mdb = txn->mdb;
	uint64_t marks[INDEX_IDS] = { 0 };
	bool wanted = txn->touched || txn->changes;
	uint64_t pages;
	int r = txn->error;

	if (r == 0 && txn->write && wanted)
		r = raise_marks(txn, marks);
	if (r < 0 || !wanted) {
		index_abort(txn);
		return r;
	}
	if (txn->write)
		env_allocate(&ix->env, AHEAD_PAGES, AHEAD_STEP_PAGES);
	pages = rewritten_pages(txn);
	free(txn); /* as LMDB does with its own, also when it fails */
	r = env_commit(&ix->env, mdb, index_txn_bound(ix));
	if (r == 0)
		committed(ix, marks, pages);
	else if (r == -EROFS) /* the file system has become so */
		index_freeze(ix);
	else if (index_frozen(ix))
		notify_call(&ix->changed);
	return r;
}

/* LMDB does not write to keys, but does not say so. */
static MDB_val mdb_key(const struct record_key *key)
{
	union {
		const void *in;
		void *out;
	} bytes = { key->bytes };

	assert(key->len > 0 && key->len <= RECORD_KEY_MAX);
	return (MDB_val){ key->len, bytes.out };
}

static struct value_place value_at(enum index_table table, const MDB_val *key)
{
	return (struct value_place){ (uint8_t)table, key->mv_data,
				     key->mv_size };
}

ssize_t index_get(struct index_txn *txn, enum index_table table,
		  const struct record_key *key, void *buf, size_t size)
{
	MDB_val k = mdb_key(key), v;
	int r;

	if (txn->error)
		return txn->error;
	r = txn_result(txn, mdb_get(txn->mdb, txn->ix->dbi[table], &k, &v));
	if (r < 0)
		return r;
	return value_out(value_at(table, &k), v.mv_data, v.mv_size, buf, size);
}

int index_put(struct index_txn *txn, enum index_table table,
	      const struct record_key *key, const void *val, size_t len,
	      bool fresh)
{
	MDB_val k = mdb_key(key);
	MDB_val v = { len + VALUE_CHECK_SIZE, NULL };
	unsigned flags = MDB_RESERVE | (fresh ? MDB_NOOVERWRITE : 0);
	int r;

	assert(txn->write);
	if (txn->error)
		return txn->error;
	if (len > INDEX_VALUE_MAX)
		return -EINVAL;
	r = txn_result(txn,
		       mdb_put(txn->mdb, txn->ix->dbi[table], &k, &v, flags));
	if (r < 0)
		return r;
	value_in(value_at(table, &k), val, len, v.mv_data);
	txn->changes++;
	return 0;
}

int index_del(struct index_txn *txn, enum index_table table,
	      const struct record_key *key)
{
	MDB_val k = mdb_key(key);
	int r;

	assert(txn->write);
	if (txn->error)
		return txn->error;
	r = txn_result(txn, mdb_del(txn->mdb, txn->ix->dbi[table], &k, NULL));
	if (r < 0)
		return r;
	txn->changes++;
	return 0;
}

int index_iter(struct index_txn *txn, enum index_table table,
	       const struct record_key *from, size_t prefix_len,
	       struct index_iter *it)
{
	MDB_cursor *cursor;
	int r;

	assert(prefix_len <= from->len);
	if (txn->error)
		return txn->error;
	r = txn_result(txn,
		       mdb_cursor_open(txn->mdb, txn->ix->dbi[table], &cursor));
	if (r < 0)
		return r;
	*it = (struct index_iter){ .txn = txn,
				   .cursor = cursor,
				   .table = table,
				   .prefix_len = prefix_len,
				   .at = *from };
	return 0;
}

/* Move behind the last key. A writer may have moved records under the
 * cursor, so it looks for that key again. */
static int iter_step(struct index_iter *it, MDB_val *key, MDB_val *val)
{
	if (it->started && !it->txn->write)
		return txn_result(it->txn, mdb_cursor_get(it->cursor, key, val,
							  MDB_NEXT));
	*key = mdb_key(&it->at);
	return txn_result(it->txn, env_seek(it->cursor, it->started, key, val));
}

int index_next(struct index_iter *it, struct record_key *ret_key, void *buf,
	       size_t size, size_t *ret_len)
{
	MDB_val k = { 0, NULL }, v = { 0, NULL };
	ssize_t len;
	int r;

	if (!it->cursor)
		return 0;
	r = it->txn->error;
	if (r == 0)
		r = iter_step(it, &k, &v);
	if (r == 0 && (k.mv_size == 0 || k.mv_size > RECORD_KEY_MAX))
		r = -EBADMSG;
	if (r != 0 || k.mv_size < it->prefix_len ||
	    memcmp(k.mv_data, it->at.bytes, it->prefix_len) != 0) {
		index_iter_release(it);
		return r == -ENOENT ? 0 : r;
	}
	it->started = true;
	it->at.len = k.mv_size;
	memcpy(it->at.bytes, k.mv_data, k.mv_size);
	*ret_key = it->at;
	len = value_out(value_at(it->table, &k), v.mv_data, v.mv_size, buf,
			size);
	if (len < 0)
		return (int)len;
	*ret_len = (size_t)len;
	return 1;
}

void index_iter_release(struct index_iter *it)
{
	if (it->cursor)
		mdb_cursor_close(it->cursor);
	it->cursor = NULL;
}

int index_new_id(struct index *ix, enum index_id which, uint64_t *ret)
{
	bool low;
	int r = ids_take(&ix->ids, which, ret, &low);

	/* Lets a checkpoint come, which tops up. */
	if (r == 0 && low)
		notify_call(&ix->changed);
	return r;
}

int index_top_up_ids(struct index *ix)
{
	struct index_txn *txn;
	int r;

	if (!ids_low(&ix->ids))
		return 0;
	r = index_begin(ix, true, &txn);
	if (r < 0)
		return r;
	txn->touched = true; /* the commit raises the marks */
	return index_commit(txn);
}

/* Read a mark and skip what may have been handed out before. */
static int load_mark(struct index_txn *txn, enum index_id which, bool created,
		     uint64_t skip)
{
	struct record_key key = record_key_text(schema_ids[which].name);
	uint64_t first = schema_ids[which].first;
	uint8_t val[sizeof(uint64_t)];
	ssize_t len = index_get(txn, INDEX_META, &key, val, sizeof(val));
	int r;

	if (len == -ENOENT && !created)
		return -EBADMSG;
	if (len < 0 && len != -ENOENT)
		return (int)len;
	if (len >= 0) {
		r = record_u64_decode(val, (size_t)len, &first);
		if (r < 0)
			return r;
	}
	ids_begin(&txn->ix->ids, which, first + skip);
	return 0;
}

/* What is passed over when the index begins to hand out ids. */
static uint64_t skipped(int flags, enum index_id which)
{
	if (flags & INDEX_RESTORED)
		return INDEX_RESTORE_STEP;
	if ((flags & INDEX_ANEW) && which == INDEX_ID_INO)
		return (uint64_t)time(NULL) << INDEX_ANEW_SHIFT;
	return 0;
}

/*
 * Open the tables and raise the marks: one commit and no more. It is safe
 * before the first checkpoint, because one transaction after snapshot S
 * reuses only pages that S and the snapshot before it don't use.
 */
static int prepare(struct index *ix, int flags)
{
	struct index_txn *txn;
	bool created = false;
	int r = index_begin(ix, !(flags & (INDEX_RDONLY | INDEX_LIVE)), &txn);

	if (r < 0)
		return r;
	r = env_open_tables(txn->mdb, schema_tables, INDEX_TABLES, ix->dbi,
			    &created);
	for (int i = 0; r == 0 && i < INDEX_IDS; i++)
		r = load_mark(txn, i, created, skipped(flags, i));
	/* Commit a reader too: an abort would close the tables again. */
	txn->touched = true;
	txn->error = r;
	return index_commit(txn);
}

int index_open(const char *path, int flags, uint64_t growth_bytes,
	       struct notify changed, struct index **ret)
{
	struct index *ix = calloc(1, sizeof(*ix));
	int r;

	if (!ix)
		return -ENOMEM;
	pthread_mutex_init(&ix->lock, NULL);
	ids_init(&ix->ids, INDEX_IDS, INDEX_ID_STEP);
	ix->growth_bytes = growth_bytes;
	r = env_open(&ix->env, path, INDEX_MAP_BYTES, INDEX_TABLES,
		     flags & INDEX_RDONLY);
	if (r == 0)
		r = prepare(ix, flags);
	if (r < 0) {
		index_close(ix);
		return r;
	}
	pinned(ix, env_file_pages(&ix->env));
	ix->changed = changed; /* but not of its own commit */
	*ret = ix;
	return 0;
}

void index_close(struct index *ix)
{
	if (!ix)
		return;
	env_close(&ix->env);
	ids_release(&ix->ids);
	pthread_mutex_destroy(&ix->lock);
	free(ix);
}

size_t index_leaf_max(const struct index *ix)
{
	return env_leaf_max(&ix->env, sizeof(uint64_t)) - VALUE_CHECK_SIZE;
}

uint64_t index_disk_bytes(const struct index *ix)
{
	return env_disk_bytes(&ix->env);
}

uint64_t index_txn_bound(const struct index *ix)
{
	return INDEX_TXN_PAGES * ix->env.page_size;
}

uint64_t index_blocks_bound(const struct index *ix, unsigned blocks)
{
	return (INDEX_TXN_PAGES + TXN_BLOCK_PAGES * (uint64_t)blocks) *
	       ix->env.page_size;
}

uint64_t index_txnid(const struct index *ix)
{
	return env_txnid(&ix->env);
}

bool index_grown(struct index *ix)
{
	LOCK_SCOPE(&ix->lock);
	return ix->told_grown;
}

bool index_overgrown(struct index *ix)
{
	LOCK_SCOPE(&ix->lock);
	return ix->most_bytes &&
	       ix->rewritten * ix->env.page_size >= ix->most_bytes;
}

int index_stat(struct index *ix, struct index_stat *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct index_stat out = { .page_size = ix->env.page_size };
	MDB_stat stat;
	int i, r = index_begin(ix, false, &txn);

	if (r < 0)
		return r;
	out.txnid = mdb_txn_id(txn->mdb);
	out.file_pages = env_file_pages(&ix->env);
	r = env_count_free(txn->mdb, &out.free_pages);
	for (i = 0; r == 0 && i < INDEX_TABLES; i++) {
		r = env_errno(mdb_stat(txn->mdb, ix->dbi[i], &stat));
		out.entries[i] = r == 0 ? stat.ms_entries : 0;
	}
	if (r == 0)
		*ret = out;
	return r;
}

void index_freeze(struct index *ix)
{
	if (!atomic_exchange(&ix->frozen, true))
		notify_call(&ix->changed);
}

bool index_frozen(const struct index *ix)
{
	return atomic_load(&ix->frozen) || atomic_load(&ix->env.broken);
}

/* @under_lock (may be NULL) and the count of growth are a checkpoint's. */
static int pin(struct index *ix, bool checkpoint, void (*under_lock)(void *arg),
	       void *arg, struct index_snap **ret)
{
	size_t meta_len = 2 * ix->env.page_size;
	cleanup_free struct index_snap *snap = malloc(sizeof(*snap) + meta_len);
	MDB_txn *lock, *txn;
	int r;

	if (!snap)
		return -ENOMEM;
	snap->meta = (uint8_t *)(snap + 1);
	/* Also heals the lock table after the death of a process that had the
	 * lock, before the pin looks for the newest snapshot. Where nobody
	 * writes, any transaction will do. */
	r = env_begin(&ix->env, !ix->env.rdonly, &lock);
	if (r < 0)
		return r;
	r = env_pin(&ix->env, snap->meta, &txn);
	if (r == 0) {
		snap->txn = txn;
		snap->txnid = mdb_txn_id(txn);
		snap->fd = ix->env.fd;
		snap->page_size = ix->env.page_size;
		if (under_lock)
			under_lock(arg);
		if (checkpoint)
			pinned(ix, mdbfile_pages(snap->meta, snap->page_size));
	}
	mdb_txn_abort(lock);
	if (r == 0)
		*ret = steal_ptr(snap);
	return r;
}

int index_pin(struct index *ix, void (*under_lock)(void *arg), void *arg,
	      struct index_snap **ret)
{
	return pin(ix, true, under_lock, arg, ret);
}

int index_snapshot(struct index *ix, struct index_snap **ret)
{
	return pin(ix, false, NULL, NULL, ret);
}

void index_unpin(struct index *ix, struct index_snap *snap)
{
	(void)ix;
	if (snap)
		mdb_txn_abort(snap->txn);
	free(snap);
}

int index_sync(struct index *ix)
{
	return env_sync(&ix->env);
}

int index_copy_compact(struct index *ix, const char *path)
{
	return env_copy(&ix->env, path);
}
