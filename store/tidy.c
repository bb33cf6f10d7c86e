/* SPDX-License-Identifier: MIT */
#include "store/tidy.h"

#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/sweep.h"
#include "store/table.h"
#include "store/unit.h"

/* TABLE_META_RESCAN: somebody moved a directory; a rescan is at work. */
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
	bool dirs; /* empty directories, else temporary files */
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

/* A name as the table of names has it. */
static int tidy_look(struct tidy_scan *ts, struct index_txn *txn,
		     const uint8_t *buf, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	size_t name_len = ts->pos->at.len - sizeof(uint64_t);
	struct dirent_rec de;
	struct inode in;
	uint64_t dir;
	int r = record_key_get(&ts->pos->at, 0, &dir);

	if (r >= 0)
		r = name_len > RECORD_NAME_MAX ? -EBADMSG : 0;
	if (r >= 0)
		r = record_dirent_decode(buf, len, &de);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r < 0)
		return r;
	memcpy(name, ts->pos->at.bytes + sizeof(uint64_t), name_len);
	name[name_len] = '\0';
	if (tidy_wanted(ts, txn, dir, name, &in))
		ts->inos[ts->n++] = in.ino;
	return 0;
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

/* Look at the next names; what is wanted goes to ts->inos. Returns 1 with more
 * to come, 0 at the end. */
static int tidy_scan_names(struct tidy_scan *ts)
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
		/* A damaged record is not ours to judge. */
		if (r > 0)
			(void)tidy_look(ts, txn, buf, len);
		else if (r == -EBADMSG)
			r = 0;
	}
	tidy_go_on(ts->pos);
	return r < 0 ? r : n == TIDY_BATCH;
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

/* Give @ino the entry that its path has now. */
static int tidy_reclassify(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r >= 0)
		r = table_cookie_get(e.txn, in.parent, in.cookie, name);
	if (r >= 0)
		r = edit_dir(&e, in.parent, &dir);
	if (r >= 0)
		r = entry_detach(e.txn, in.entry);
	if (r >= 0)
		r = entry_attach(t->ix, e.txn, &dir, name, &in);
	if (r >= 0)
		r = table_inode_put(e.txn, &dir);
	if (r >= 0)
		r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return edit_commit(&e);
}

static bool tidy_misplaced(struct index_txn *txn, const struct inode *in)
{
	char name[RECORD_NAME_MAX + 1];
	struct table_path path;
	struct layout_unit unit;

	if (!S_ISREG(in->mode) || in->nlink != 1 ||
	    table_cookie_get(txn, in->parent, in->cookie, name) < 0 ||
	    table_path(txn, in->parent, &path) < 0)
		return false;
	unit = layout_classify(path.dirs, path.n, name);
	return unit.kind != in->kind ||
	       layout_evictable(unit.kind) != (in->entry != 0);
}

/* Look at the next inodes; the misplaced go to @inos. Returns 1 with more to
 * come, 0 at the end. */
static int tidy_scan_inodes(struct tree *t, struct tidy_pos *pos,
			    uint64_t inos[static TIDY_BATCH], unsigned *n_inos)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	uint64_t ino;
	size_t len;
	int n = 0, r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &pos->at, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &pos->at, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (r > 0 && record_key_get(&pos->at, 0, &ino) >= 0 &&
		    record_inode_decode(ino, buf, len, &in) >= 0 &&
		    tidy_misplaced(txn, &in))
			inos[(*n_inos)++] = ino;
		else if (r == -EBADMSG) /* a damaged record: its key is known */
			r = 0;
	}
	tidy_go_on(pos);
	return r < 0 ? r : n == TIDY_BATCH;
}

static int tidy_rescan_state(struct tree *t, uint64_t *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_meta_get(txn, TABLE_META_RESCAN, ret);
	return r == -ENOENT ? 0 : r;
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
	uint64_t inos[TIDY_BATCH];
	unsigned n = 0;
	int more, r;

	if (!pos->at.len) {
		r = tidy_rescan_begin(t);
		if (r <= 0)
			return r;
		tidy_begin(pos);
	}
	more = tidy_scan_inodes(t, pos, inos, &n);
	for (unsigned i = 0; i < n && more >= 0; i++) {
		r = tidy_reclassify(t, inos[i]);
		if (r < 0)
			return r;
	}
	return more ? more : tidy_rescan_end(t);
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
