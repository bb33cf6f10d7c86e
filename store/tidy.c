/* SPDX-License-Identifier: MIT */
#include "store/tidy.h"

#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/table.h"
#include "store/unit.h"

#define TIDY_BATCH 64 /* records looked at in one read transaction */

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

/* What the housekeeping looks for among all names. */
struct tidy_scan {
	struct tree *t;
	int64_t before_ns;
	bool dirs; /* empty directories, else temporary files */
	struct record_key at;
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
	size_t name_len = ts->at.len - sizeof(uint64_t);
	struct dirent_rec de;
	struct inode in;
	uint64_t dir;
	int r = record_key_get(&ts->at, 0, &dir);

	if (r >= 0)
		r = name_len > RECORD_NAME_MAX ? -EBADMSG : 0;
	if (r >= 0)
		r = record_dirent_decode(buf, len, &de);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r < 0)
		return r;
	memcpy(name, ts->at.bytes + sizeof(uint64_t), name_len);
	name[name_len] = '\0';
	if (tidy_wanted(ts, txn, dir, name, &in))
		ts->inos[ts->n++] = in.ino;
	return 0;
}

/* Look at the next TIDY_BATCH names behind ts->at. Returns how many were
 * looked at, 0 at the end; what is wanted goes to ts->inos. */
static int tidy_scan_batch(struct tidy_scan *ts)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len;
	int n = 0, r = index_begin(ts->t->ix, false, &txn);

	ts->n = 0;
	if (r >= 0)
		r = index_iter(txn, INDEX_DIRENT, &ts->at, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &ts->at, buf, sizeof(buf), &len)) != 0) {
		n++;
		/* A damaged record is not ours to judge. */
		if (r > 0)
			(void)tidy_look(ts, txn, buf, len);
		else if (r == -EBADMSG)
			r = 0;
	}
	/* Go on behind the last key. */
	if (n && ts->at.len < RECORD_KEY_MAX)
		ts->at.bytes[ts->at.len++] = 0;
	return r < 0 ? r : n;
}

int tidy_tmp(struct tree *t, int64_t before_ns, uint64_t *ret_n)
{
	struct tidy_scan ts = { .t = t,
				.before_ns = before_ns,
				.at = record_key_id(0) };
	uint64_t done = 0;
	int r;

	while ((r = tidy_scan_batch(&ts)) > 0)
		for (unsigned i = 0; i < ts.n; i++)
			if (unit_drop_name(t, ts.inos[i], true) >= 0)
				done++;
	*ret_n = done;
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

int tidy_empty(struct tree *t, int64_t before_ns)
{
	struct tidy_scan ts = { .t = t,
				.before_ns = before_ns,
				.dirs = true,
				.at = record_key_id(0) };
	int r;

	while ((r = tidy_scan_batch(&ts)) > 0) {
		for (unsigned i = 0; i < ts.n; i++) {
			r = tidy_prune_dir(t, ts.inos[i]);
			if (r < 0)
				return r;
		}
	}
	return r;
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

static int tidy_rescan_batch(struct tree *t, uint64_t *at, uint64_t *inos,
			     unsigned *n_inos)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(*at), key = from;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	size_t len;
	int n = 0, r = index_begin(t->ix, false, &txn);

	*n_inos = 0;
	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	while (r >= 0 && n < TIDY_BATCH &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (r == -EBADMSG) /* of a damaged record the key is known */
			r = record_key_get(&key, 0, at);
		else if (r > 0 && record_key_get(&key, 0, at) >= 0 &&
			 record_inode_decode(*at, buf, len, &in) >= 0 &&
			 tidy_misplaced(txn, &in))
			inos[(*n_inos)++] = *at;
	}
	*at += 1;
	return r < 0 ? r : n;
}

static int tidy_rescan_wanted(struct tree *t, uint64_t *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_meta_get(txn, TABLE_META_RESCAN, ret);
	return r == -ENOENT ? 0 : r;
}

static int tidy_rescan_want(struct tree *t, uint64_t wanted)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, wanted);
	return r < 0 ? r : edit_commit(&e);
}

/* The wish is taken back first: a move meanwhile makes another. */
int tidy_rescan(struct tree *t)
{
	uint64_t inos[TIDY_BATCH], at = 0, wanted = 0;
	unsigned n;
	int r = tidy_rescan_wanted(t, &wanted);

	if (r < 0 || !wanted)
		return r;
	r = tidy_rescan_want(t, 0);
	while (r >= 0 && (r = tidy_rescan_batch(t, &at, inos, &n)) > 0)
		for (unsigned i = 0; i < n && r >= 0; i++)
			r = tidy_reclassify(t, inos[i]);
	if (r < 0) /* not all was seen */
		(void)tidy_rescan_want(t, 1);
	return r;
}
