/* SPDX-License-Identifier: MIT */
#include "store/tidy.h"

#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/mend.h"
#include "store/sweep.h"
#include "store/table.h"
#include "store/unit.h"

/* TABLE_META_RESCAN: a rescan has a reason; it is at work. */
#define TIDY_RESCAN_WANTED 1
#define TIDY_RESCAN_BEGUN 2

/* Emptied fan-out directories, from path->ino[n] up. */
static int tidy_prune_dirs(struct edit *e, const struct table_path *path)
{
	struct inode dir, parent;
	int r;

	for (unsigned n = path->n; n && n <= TABLE_PATH_MAX; n--) {
		if (!layout_dir_prunable(path->dirs, n))
			return 0;
		r = table_dir_used(e->txn, path->ino[n]);
		if (r)
			return r < 0 ? r : 0;
		r = table_inode_get(e->txn, path->ino[n], &dir);
		if (r >= 0)
			r = table_inode_get(e->txn, path->ino[n - 1], &parent);
		if (r >= 0)
			r = unit_remove_name(e, &parent, path->dirs[n - 1],
					     &dir, false);
		if (r >= 0)
			r = table_inode_put(e->txn, &parent);
		if (r < 0)
			return r;
	}
	return 0;
}

/* What a slice looks for among all names. */
struct tidy_scan {
	struct tree *t;
	struct tidy_pos *pos;
	int64_t before_ns;
	bool dirs;    /* empty directories, else temporary files */
	bool damaged; /* set when damage was seen */
	unsigned n;
	uint64_t inos[TIDY_BATCH];
};

/* Is @name in @dir, the inode @in, old, idle, and of the kind wanted? */
static bool tidy_wanted(struct tidy_scan *ts, struct index_txn *txn,
			uint64_t dir, const char *name, const struct inode *in)
{
	struct table_path path;

	if (in->mtime_ns >= ts->before_ns ||
	    node_is_open(ts->t->nodes, in->ino))
		return false;
	if (ts->dirs)
		return S_ISDIR(in->mode) &&
		       table_path(txn, in->ino, &path) >= 0 &&
		       path.n <= TABLE_PATH_MAX &&
		       layout_dir_prunable(path.dirs, path.n) &&
		       !table_dir_used(txn, in->ino);
	return S_ISREG(in->mode) && in->nlink == 1 &&
	       layout_is_tmp_name(name) && table_path(txn, dir, &path) >= 0 &&
	       layout_classify(path.dirs, path.n, name).kind == LAYOUT_TMP;
}

/* The directory and the name that a key stands for; false for a key that no
 * name can have. */
static bool tidy_name(const struct record_key *key, uint64_t *ret_dir,
		      char name[static RECORD_NAME_MAX + 1])
{
	const uint8_t *from = key->bytes + sizeof(*ret_dir);
	size_t len = key->len - sizeof(*ret_dir);

	if (record_key_get(key, 0, ret_dir) < 0 || !len ||
	    len > RECORD_NAME_MAX || memchr(from, '\0', len))
		return false;
	memcpy(name, from, len);
	name[len] = '\0';
	return true;
}

/* A name as the table of names has it; @r: -EBADMSG if it is damaged. */
static void tidy_look(struct tidy_scan *ts, struct index_txn *txn, int r,
		      const uint8_t *buf, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	struct inode in;
	uint64_t dir;

	if (!tidy_name(&ts->pos->at, &dir, name))
		return;
	if (r >= 0)
		r = record_dirent_decode(buf, len, &de);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r == -EBADMSG || r == -ENOENT)
		ts->damaged = true;
	else if (r >= 0 && tidy_wanted(ts, txn, dir, name, &in))
		ts->inos[ts->n++] = in.ino;
}

static void tidy_begin(struct tidy_pos *pos)
{
	if (!pos->at.len)
		pos->at = record_key_id(0);
}

/* Go on behind the last key. */
static void tidy_go_on(struct tidy_pos *pos)
{
	if (pos->at.len < RECORD_KEY_MAX)
		pos->at.bytes[pos->at.len++] = 0;
}

/* A rescan has a reason. */
static int tidy_want_rescan(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t state = 0;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = table_meta_get(e.txn, TABLE_META_RESCAN, &state);
	if ((r < 0 && r != -ENOENT) || state == TIDY_RESCAN_WANTED)
		return r;
	r = table_meta_put(e.txn, TABLE_META_RESCAN, TIDY_RESCAN_WANTED);
	return r < 0 ? r : edit_commit(&e);
}

/* Look at the next names; what is wanted goes to ts->inos. Returns 1 with more
 * to come, 0 at the end. */
static int tidy_read_names(struct tidy_scan *ts)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len;
	int n = 0, r = index_begin(ts->t->ix, false, &txn);

	tidy_begin(ts->pos);
	if (r >= 0)
		r = index_iter(txn, INDEX_DIRENT, &ts->pos->at, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &ts->pos->at, buf, sizeof(buf), &len)) !=
		       0) {
		n++;
		if (r < 0 && r != -EBADMSG)
			break;
		tidy_look(ts, txn, r, buf, len);
		r = 0;
	}
	tidy_go_on(ts->pos);
	return r < 0 ? r : n == TIDY_BATCH;
}

/* The same; damage is left to the rescan. */
static int tidy_scan_names(struct tidy_scan *ts)
{
	int more = tidy_read_names(ts);
	int r = ts->damaged ? tidy_want_rescan(ts->t) : 0;

	return more < 0 ? more : r < 0 ? r : more;
}

int tidy_tmp(struct tree *t, struct tidy_pos *pos, int64_t before_ns,
	     uint64_t *n)
{
	struct tidy_scan ts = { .t = t, .pos = pos, .before_ns = before_ns };
	int r = tidy_scan_names(&ts);

	for (unsigned i = 0; i < ts.n && r >= 0; i++)
		if (unit_drop_name(t, ts.inos[i], true) >= 0)
			++*n;
	return r;
}

/* The empty directory @ino, and what becomes empty above it. */
static int tidy_prune_dir(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct table_path path;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_path(e.txn, ino, &path);
	if (r >= 0)
		r = tidy_prune_dirs(&e, &path);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return edit_commit(&e);
}

int tidy_empty(struct tree *t, struct tidy_pos *pos, int64_t before_ns)
{
	struct tidy_scan ts = {
		.t = t, .pos = pos, .before_ns = before_ns, .dirs = true
	};
	int more = tidy_scan_names(&ts), r;

	for (unsigned i = 0; i < ts.n && more >= 0; i++) {
		r = tidy_prune_dir(t, ts.inos[i]);
		if (r < 0)
			return r;
	}
	return more;
}

/* What a rescan has to do with a name. */
struct tidy_task {
	enum tidy_verdict {
		TIDY_FINE,
		TIDY_MISPLACED, /* the entry is another's, or missing */
		TIDY_DAMAGED,
	} verdict;
	uint64_t dir;
	char name[RECORD_NAME_MAX + 1];
};

/* Give the file the entry that its path has now: it has one name, this. */
static int tidy_reclassify(struct tree *t, const struct tidy_task *task)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct dirent_rec de;
	struct inode dir, in;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_dirent_get(e.txn, task->dir, task->name, &de);
	if (r >= 0)
		r = table_inode_get(e.txn, de.ino, &in);
	if (r >= 0 && in.nlink != 1)
		return 0;
	if (r >= 0)
		r = edit_dir(&e, task->dir, &dir);
	if (r >= 0)
		r = entry_detach(e.txn, in.entry);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	in.parent = task->dir;
	in.cookie = de.cookie;
	r = entry_attach(t->ix, e.txn, &dir, task->name, &in);
	if (r >= 0)
		r = table_inode_put(e.txn, &dir);
	if (r >= 0)
		r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return edit_commit(&e);
}

static bool tidy_misplaced(struct index_txn *txn, const struct tidy_task *task,
			   const struct dirent_rec *de, const struct inode *in)
{
	struct table_path path;
	struct layout_unit unit;
	struct entry_rec en;

	if (!S_ISREG(in->mode) || in->nlink != 1 ||
	    table_path(txn, task->dir, &path) < 0)
		return false;
	if (in->parent != task->dir || in->cookie != de->cookie ||
	    (in->entry && table_entry_get(txn, in->entry, &en) < 0))
		return true;
	unit = layout_classify(path.dirs, path.n, task->name);
	return unit.kind != in->kind ||
	       layout_evictable(unit.kind) != (in->entry != 0);
}

/* @r: -EBADMSG if the record of the name is damaged. */
static enum tidy_verdict tidy_judge(struct index_txn *txn,
				    const struct tidy_task *task, int r,
				    const uint8_t *buf, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	struct inode in;

	if (r >= 0)
		r = record_dirent_decode(buf, len, &de);
	if (r >= 0)
		r = table_cookie_get(txn, task->dir, de.cookie, name);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r == -EBADMSG || r == -ENOENT)
		return TIDY_DAMAGED;
	return r >= 0 && tidy_misplaced(txn, task, &de, &in) ? TIDY_MISPLACED
							     : TIDY_FINE;
}

/* Judge the next names; those that need something go to @tasks. Returns 1 with
 * more to come, 0 at the end. */
static int tidy_judge_names(struct tree *t, struct tidy_pos *pos,
			    struct tidy_task tasks[static TIDY_BATCH],
			    unsigned *n_tasks)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len = 0;
	int n = 0, r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_DIRENT, &pos->at, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &pos->at, buf, sizeof(buf), &len)) != 0) {
		struct tidy_task *task = &tasks[*n_tasks];

		n++;
		if (r < 0 && r != -EBADMSG)
			break;
		if (tidy_name(&pos->at, &task->dir, task->name)) {
			task->verdict = tidy_judge(txn, task, r, buf, len);
			*n_tasks += task->verdict != TIDY_FINE;
		}
		r = 0;
	}
	tidy_go_on(pos);
	return r < 0 ? r : n == TIDY_BATCH;
}

/* What was mended may have hidden what is below it: a further rescan. */
static int tidy_rescan_names(struct tree *t, struct tidy_pos *pos)
{
	cleanup_free struct tidy_task *tasks =
		calloc(TIDY_BATCH, sizeof(*tasks));
	unsigned n = 0;
	int more, r = 0;

	if (!tasks)
		return -ENOMEM;
	more = tidy_judge_names(t, pos, tasks, &n);
	for (unsigned i = 0; i < n && more >= 0 && r >= 0; i++) {
		if (tasks[i].verdict == TIDY_MISPLACED) {
			r = tidy_reclassify(t, &tasks[i]);
			continue;
		}
		r = mend_name(t, tasks[i].dir, tasks[i].name);
		if (r >= 0)
			r = tidy_want_rescan(t);
		else if (r == -EBADMSG || r == -ENOENT)
			r = 0;
	}
	return r < 0 ? r : more;
}

/* How many files a unit has that carry its entry. */
struct tidy_members {
	uint64_t entry;
	uint32_t n;
};

static int tidy_add_member(void *arg, struct index_txn *txn,
			   const struct inode *in)
{
	struct tidy_members *members = arg;

	(void)txn;
	members->n += S_ISREG(in->mode) && in->entry == members->entry;
	return 0;
}

/* Returns 1 if the entry counts others than there are, else 0. */
static int tidy_miscounted(struct index_txn *txn, uint64_t id,
			   struct entry_rec *ret_en, uint32_t *ret_n)
{
	struct tidy_members members = { .entry = id };
	int r = table_entry_get(txn, id, ret_en);

	if (r >= 0)
		r = unit_each(txn, id, ret_en, tidy_add_member, &members);
	if (r == -ENOENT || r == -EBADMSG)
		return 0;
	*ret_n = members.n;
	return r < 0 ? r : members.n != ret_en->members;
}

static int tidy_recount(struct tree *t, uint64_t id)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct entry_rec old, en;
	uint32_t n = 0;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = tidy_miscounted(e.txn, id, &old, &n);
	if (r <= 0)
		return r;
	en = old;
	en.members = n;
	r = n ? table_entry_put(e.txn, id, &old, &en)
	      : table_entry_del(e.txn, id, &old);
	return r < 0 ? r : edit_commit(&e);
}

/* What a rescan looks for, besides names. @r: -EBADMSG if the record is
 * damaged. */

static bool tidy_bad_inode(struct index_txn *txn, uint64_t id, int r,
			   const uint8_t *buf, size_t len)
{
	struct inode in;

	(void)txn;
	return r < 0 || record_inode_decode(id, buf, len, &in) < 0;
}

static bool tidy_bad_entry(struct index_txn *txn, uint64_t id, int r,
			   const uint8_t *buf, size_t len)
{
	struct entry_rec en;
	uint32_t n;

	(void)buf;
	(void)len;
	return r >= 0 && tidy_miscounted(txn, id, &en, &n) > 0;
}

static bool tidy_bad_pack(struct index_txn *txn, uint64_t id, int r,
			  const uint8_t *buf, size_t len)
{
	struct pack_rec rec;

	(void)id;
	return r >= 0 && record_pack_decode(buf, len, &rec) >= 0 &&
	       mend_pack_lost(txn, &rec);
}

static const struct tidy_part {
	enum index_table table;
	bool (*is_bad)(struct index_txn *txn, uint64_t id, int r,
		       const uint8_t *buf, size_t len);
	int (*mend)(struct tree *t, uint64_t id);
} tidy_parts[] = {
	{ INDEX_INODE, tidy_bad_inode, mend_inode },
	{ INDEX_ENTRY, tidy_bad_entry, tidy_recount },
	{ INDEX_PACK, tidy_bad_pack, mend_pack },
};

/* The next few records of a part; what is bad goes to @ids. Returns 1 with more
 * to come, 0 at the end. */
static int tidy_scan_part(struct tree *t, struct tidy_pos *pos,
			  uint64_t ids[static TIDY_BATCH], unsigned *n_ids)
{
	const struct tidy_part *part = &tidy_parts[pos->part - 1];
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_ENTRY_MAX];
	uint64_t id;
	size_t len = 0;
	int n = 0, r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, part->table, &pos->at, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &pos->at, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (r < 0 && r != -EBADMSG)
			break;
		if (record_key_get(&pos->at, 0, &id) >= 0 &&
		    part->is_bad(txn, id, r, buf, len))
			ids[(*n_ids)++] = id;
		r = 0;
	}
	tidy_go_on(pos);
	return r < 0 ? r : n == TIDY_BATCH;
}

static int tidy_rescan_part(struct tree *t, struct tidy_pos *pos)
{
	const struct tidy_part *part = &tidy_parts[pos->part - 1];
	uint64_t ids[TIDY_BATCH];
	unsigned n = 0;
	int more = tidy_scan_part(t, pos, ids, &n), r = 0;

	for (unsigned i = 0; i < n && more >= 0 && r >= 0; i++)
		r = part->mend(t, ids[i]);
	return r < 0 ? r : more;
}

static int tidy_rescan_state(struct tree *t, uint64_t *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_meta_get(txn, TABLE_META_RESCAN, ret);
	if (r != -ENOENT)
		return r;
	*ret = TIDY_RESCAN_WANTED;
	return 0;
}

/* A rescan begins. Returns 1, or 0 if none is wanted. */
static int tidy_rescan_begin(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t state = 0;
	int r = tidy_rescan_state(t, &state);

	if (r < 0 || !state)
		return r;
	r = edit_begin(t, QUOTA_SYSTEM, &e);
	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, TIDY_RESCAN_BEGUN);
	if (r >= 0)
		r = edit_commit(&e);
	return r < 0 ? r : 1;
}

/* All was seen: unless a directory moved meanwhile, that was it. */
static int tidy_rescan_end(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	uint64_t state = TIDY_RESCAN_WANTED;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = table_meta_get(e.txn, TABLE_META_RESCAN, &state);
	if (r < 0 || state != TIDY_RESCAN_BEGUN)
		return r;
	r = table_meta_put(e.txn, TABLE_META_RESCAN, 0);
	return r < 0 ? r : edit_commit(&e);
}

int tidy_rescan(struct tree *t, struct tidy_pos *pos)
{
	int r;

	if (!pos->at.len) {
		r = tidy_rescan_begin(t);
		if (r <= 0)
			return r;
		tidy_begin(pos);
	}
	r = pos->part ? tidy_rescan_part(t, pos) : tidy_rescan_names(t, pos);
	if (r)
		return r;
	if (pos->part < ARRAY_SIZE(tidy_parts)) {
		pos->part++;
		pos->at = record_key_id(0);
		return 1;
	}
	r = mend_recipes(t);
	return r < 0 ? r : tidy_rescan_end(t);
}

int tidy_orphans(struct tree *t)
{
	uint64_t ino = 0;
	int first = 0, r;

	for (; (r = sweep_next_orphan(t, &ino)) > 0; ino++) {
		if (node_is_open(t->nodes, ino))
			continue;
		r = edit_reap(t, ino);
		if (!first)
			first = r;
	}
	return first < 0 ? first : r;
}
