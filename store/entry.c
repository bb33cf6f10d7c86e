/* SPDX-License-Identifier: MIT */
#include "store/entry.h"

#include <string.h>

#include "store/layout.h"
#include "store/table.h"

#define ENTRY_FLUSH_BATCH 64
/* A batch changes at most four leaf pages a use: what three small transactions
 * may take. */
#define ENTRY_FLUSH_BOUNDS 3
#define ENTRY_SLOTS (2 * ENTRY_USES_MAX) /* never full */

struct entry_use {
	uint64_t id; /* 0: free slot */
	int64_t last_use_ns;
	uint64_t hits;
};

struct entries {
	struct notify due;     /* constant */
	pthread_mutex_t flush; /* held by the one flush; before @lock */
	pthread_mutex_t lock;  /* guards all below */
	size_t used;
	int64_t first_ns;		  /* oldest use in memory, 0: none */
	const struct entry_use *flushing; /* on their way to the index, by id */
	size_t n_flushing;
	struct entry_use uses[ENTRY_SLOTS];
};

int entries_new(struct notify due, struct entries **ret)
{
	struct entries *es = calloc(1, sizeof(*es));

	if (!es)
		return -ENOMEM;
	pthread_mutex_init(&es->flush, NULL);
	pthread_mutex_init(&es->lock, NULL);
	es->due = due;
	*ret = es;
	return 0;
}

void entries_free(struct entries *es)
{
	if (!es)
		return;
	pthread_mutex_destroy(&es->lock);
	pthread_mutex_destroy(&es->flush);
	free(es);
}

/* The slot of @id, or the free one where it would go. Never full. */
static struct entry_use *entry_slot_locked(struct entries *es, uint64_t id)
{
	size_t mask = ARRAY_SIZE(es->uses) - 1;
	size_t i = (size_t)(id * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;

	while (es->uses[i].id && es->uses[i].id != id)
		i = (i + 1) & mask;
	return &es->uses[i];
}

/* Add a use. When the table is full, only those of known entries. */
static void entry_note_locked(struct entries *es, const struct entry_use *more)
{
	struct entry_use *use = entry_slot_locked(es, more->id);

	if (!use->id && es->used == ENTRY_USES_MAX)
		return;
	if (!use->id)
		es->used++;
	use->id = more->id;
	use->hits += more->hits;
	if (more->last_use_ns > use->last_use_ns)
		use->last_use_ns = more->last_use_ns;
	if (!es->first_ns || more->last_use_ns < es->first_ns)
		es->first_ns = more->last_use_ns;
}

void entry_touch(struct entries *es, uint64_t entry, bool hit)
{
	const struct entry_use use = { .id = entry,
				       .last_use_ns = base_now_ns(),
				       .hits = hit };
	bool full;

	if (!entry)
		return;
	pthread_mutex_lock(&es->lock);
	entry_note_locked(es, &use);
	full = es->used >= ENTRY_USES_MAX / 4 * 3;
	pthread_mutex_unlock(&es->lock);
	if (full)
		notify_call(&es->due);
}

static int entry_by_id(const void *a, const void *b)
{
	const struct entry_use *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

void entry_overlay(struct entries *es, uint64_t id, int64_t *last_use_ns,
		   uint64_t *hits)
{
	struct entry_use want = { .id = id };
	const struct entry_use *use[2];

	LOCK_SCOPE(&es->lock);
	use[0] = entry_slot_locked(es, id);
	use[1] = es->n_flushing ? bsearch(&want, es->flushing, es->n_flushing,
					  sizeof(want), entry_by_id)
				: NULL;
	for (unsigned i = 0; i < ARRAY_SIZE(use); i++) {
		if (!use[i] || !use[i]->id)
			continue;
		if (use[i]->last_use_ns > *last_use_ns)
			*last_use_ns = use[i]->last_use_ns;
		*hits += use[i]->hits;
	}
}

int64_t entry_last_use(struct entries *es, uint64_t id,
		       const struct entry_rec *en)
{
	int64_t last = en->last_use_ns;
	uint64_t hits = 0;

	entry_overlay(es, id, &last, &hits);
	return last;
}

bool entry_flush_due(struct entries *es)
{
	LOCK_SCOPE(&es->lock);
	return es->first_ns &&
	       base_now_ns() - es->first_ns > ENTRY_FLUSH_SEC * NSEC_PER_SEC;
}

static int entry_flush_one(struct index_txn *txn, const struct entry_use *use)
{
	struct entry_rec old, en;
	int r = table_entry_get(txn, use->id, &old);

	if (r < 0) /* gone, or damaged: not to hold up the others */
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	en = old;
	if (use->last_use_ns > en.last_use_ns)
		en.last_use_ns = use->last_use_ns;
	en.hits += use->hits;
	return table_entry_put(txn, use->id, &old, &en);
}

static int entry_write_batch(struct index *ix, const struct entry_use *uses,
			     size_t n)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(ix, true, &txn);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		r = entry_flush_one(txn, &uses[i]);
		if (r < 0)
			return r;
	}
	return index_commit(steal_ptr(txn));
}

/* The same, charged. */
static int entry_flush_batch(struct index *ix, struct room *rm,
			     const struct entry_use *uses, size_t n)
{
	uint64_t bytes = ENTRY_FLUSH_BOUNDS * index_txn_bound(ix);
	int r = room_try(rm, bytes);

	if (r < 0)
		return r;
	r = entry_write_batch(ix, uses, n);
	room_raise_part(rm, ROOM_INDEX, index_disk_bytes(ix));
	room_settle(rm, bytes, 0);
	return r;
}

/* Move the uses from the table to es->flushing, sorted by id. */
static size_t entry_flush_take(struct entries *es, struct entry_use *uses)
{
	size_t n = 0;

	LOCK_SCOPE(&es->lock);
	for (size_t i = 0; i < ARRAY_SIZE(es->uses); i++)
		if (es->uses[i].id)
			uses[n++] = es->uses[i];
	memset(es->uses, 0, sizeof(es->uses));
	es->used = 0;
	es->first_ns = 0;
	qsort(uses, n, sizeof(*uses), entry_by_id);
	es->flushing = uses;
	es->n_flushing = n;
	return n;
}

/* What did not reach the index goes back into the table. */
static void entry_flush_done(struct entries *es, const struct entry_use *left,
			     size_t n)
{
	LOCK_SCOPE(&es->lock);
	for (size_t i = 0; i < n; i++)
		entry_note_locked(es, &left[i]);
	es->flushing = NULL;
	es->n_flushing = 0;
}

int entry_flush(struct entries *es, struct index *ix, struct room *rm)
{
	cleanup_free struct entry_use *uses = NULL;
	size_t n, batch, done = 0;
	int r = 0;

	uses = calloc(ENTRY_USES_MAX, sizeof(*uses));
	if (!uses)
		return -ENOMEM;
	/* A second one would put what is on its way out of sight. */
	LOCK_SCOPE(&es->flush);
	n = entry_flush_take(es, uses);
	for (; done < n; done += batch) {
		batch = n - done < ENTRY_FLUSH_BATCH ? n - done
						     : ENTRY_FLUSH_BATCH;
		r = entry_flush_batch(ix, rm, uses + done, batch);
		if (r < 0)
			break;
	}
	entry_flush_done(es, uses + done, n - done);
	return r;
}

/* Join entry @id if it is still there: a damaged one is not. */
static int entry_join(struct index_txn *txn, uint64_t id, enum layout_kind kind)
{
	struct entry_rec old, en;
	int r;

	if (!id)
		return -ENOENT;
	r = table_entry_get(txn, id, &old);
	if (r < 0)
		return r == -EBADMSG ? -ENOENT : r;
	if (old.kind != kind)
		return -ENOENT;
	en = old;
	en.members++;
	en.last_use_ns = base_now_ns();
	return table_entry_put(txn, id, &old, &en);
}

/* @en: all but members and last use is filled in. */
static int entry_make(struct index *ix, struct index_txn *txn,
		      struct entry_rec *en, uint64_t *ret)
{
	uint64_t id;
	int r = index_new_id(ix, INDEX_ID_ENTRY, &id);

	if (r < 0)
		return r;
	en->members = 1;
	en->last_use_ns = base_now_ns();
	r = table_entry_put(txn, id, NULL, en);
	if (r < 0)
		return r;
	*ret = id;
	return 0;
}

/* The entry that the other half of the pair belongs to, or 0: there is none,
 * or it is damaged. */
static int entry_of_partner(struct index_txn *txn, uint64_t dir,
			    const char *name, uint64_t *ret)
{
	char partner[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	struct inode in;
	int r;

	*ret = 0;
	if (!layout_partner(name, partner))
		return 0;
	r = table_dirent_get(txn, dir, partner, &de);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	*ret = in.entry;
	return 0;
}

/* The unit is the directory @ino: its entry stands in its inode. */
static int entry_attach_dir(struct index *ix, struct index_txn *txn,
			    uint64_t ino, struct inode *dir,
			    enum layout_kind kind, uint64_t *ret)
{
	struct entry_rec en = { .kind = (uint8_t)kind, .dir = ino };
	struct inode other, *unit = dir;
	int r;

	if (ino != dir->ino) {
		r = table_inode_get(txn, ino, &other);
		if (r < 0)
			return r;
		unit = &other;
	}
	r = entry_join(txn, unit->entry, kind);
	if (r == -ENOENT) {
		r = entry_make(ix, txn, &en, &unit->entry);
		if (r >= 0 && unit == &other)
			r = table_inode_put(txn, unit);
	}
	if (r < 0)
		return r;
	*ret = unit->entry;
	return 0;
}

int entry_attach(struct index *ix, struct index_txn *txn, struct inode *dir,
		 const char *name, struct inode *in)
{
	struct table_path path;
	struct entry_rec en = { 0 };
	struct layout_unit unit;
	uint64_t id = 0;
	int r = table_path(txn, dir->ino, &path);

	if (r < 0)
		return r;
	unit = layout_classify(path.dirs, path.n, name);
	in->kind = (uint8_t)unit.kind;
	in->entry = 0;
	in->flags &= ~(uint32_t)INODE_BODY;
	if (unit.body)
		in->flags |= INODE_BODY;
	if (!layout_evictable(unit.kind))
		return 0;

	if (!unit.name_len) {
		r = entry_attach_dir(ix, txn, path.ino[unit.dir], dir,
				     unit.kind, &in->entry);
		return r;
	}
	en.kind = (uint8_t)unit.kind;
	en.dir = path.ino[unit.dir];
	memcpy(en.name, name, unit.name_len);
	r = entry_of_partner(txn, dir->ino, name, &id);
	if (r < 0)
		return r;
	r = entry_join(txn, id, unit.kind);
	if (r == -ENOENT)
		r = entry_make(ix, txn, &en, &id);
	if (r < 0)
		return r;
	in->entry = id;
	return 0;
}

int entry_detach(struct index_txn *txn, uint64_t entry)
{
	struct record_key key = record_key_id(entry);
	struct entry_rec old, en;
	int r;

	if (!entry)
		return 0;
	r = table_entry_get(txn, entry, &old);
	if (r == -EBADMSG) /* its files must be removable all the same */
		return index_del(txn, INDEX_ENTRY, &key);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (old.members <= 1)
		return table_entry_del(txn, entry, &old);
	en = old;
	en.members--;
	return table_entry_put(txn, entry, &old, &en);
}
