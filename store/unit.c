/* SPDX-License-Identifier: MIT */
#include "store/unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/table.h"

/* A name that layout takes for a wheel: stands for all below a wheel's dir. */
#define UNIT_PROBE_WHEEL "probe-1-py3-none-any.whl"
#define UNIT_BATCH 64 /* records looked at in one read transaction */

/* Is the entry still what its directory's path says? */
static bool unit_in_place(const struct table_path *path,
			  const struct entry_rec *en)
{
	struct layout_unit unit;
	bool is_dir = !*en->name;

	if (path->n > TABLE_PATH_MAX)
		return false;
	unit = layout_classify(path->dirs, path->n,
			       is_dir ? UNIT_PROBE_WHEEL : en->name);
	return unit.kind == en->kind && unit.dir == path->n &&
	       (unit.name_len == 0) == is_dir;
}

/* The names of a pair: the unit's own and with ".body". */
static bool unit_name(const struct entry_rec *en, unsigned i,
		      char name[static RECORD_NAME_MAX + 1])
{
	if (i == 1)
		return layout_partner(en->name, name);
	snprintf(name, RECORD_NAME_MAX + 1, "%s", en->name);
	return true;
}

/* Remove one name; the inode goes if it was the last. */
static int unit_remove_name(struct edit *e, struct inode *dir, const char *name,
			    struct inode *in, bool idle_only)
{
	struct dirent_rec de;
	int r = table_dirent_get(e->txn, dir->ino, name, &de);

	if (r < 0)
		return r;
	r = edit_del_name(e, dir, name, &de, in);
	if (r < 0)
		return r;
	if (S_ISDIR(in->mode)) {
		dir->nlink--;
		return edit_drop(e, in, idle_only);
	}
	in->nlink--;
	if (!in->nlink)
		return edit_drop(e, in, idle_only);
	return table_inode_put(e->txn, in);
}

/* Both names of a pair, as far as they are there. Returns how many. */
static int unit_remove_pair(struct edit *e, uint64_t entry,
			    const struct entry_rec *en, bool idle_only)
{
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	struct dirent_rec de;
	int r = edit_dir(e, en->dir, &dir), n = 0;

	if (r < 0)
		return r;
	for (unsigned i = 0; i < 2; i++) {
		if (!unit_name(en, i, name))
			continue;
		r = table_dirent_get(e->txn, dir.ino, name, &de);
		if (r >= 0)
			r = table_inode_get(e->txn, de.ino, &in);
		if (r == -ENOENT || (r >= 0 && in.entry != entry))
			continue;
		if (r >= 0)
			r = unit_remove_name(e, &dir, name, &in, idle_only);
		if (r < 0)
			return r;
		n++;
	}
	r = table_inode_put(e->txn, &dir);
	return r < 0 ? r : n;
}

/*
 * One name below @dir that can be removed: a file, or an empty directory,
 * however deep. Returns 1 with the directory it is in, 0 if @dir is empty.
 */
static int unit_find_leaf(struct index_txn *txn, uint64_t dir,
			  struct inode *ret_dir, char *ret_name,
			  struct inode *ret)
{
	struct record_key from, key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	struct dirent_rec de;
	size_t len;
	int r;

	for (unsigned depth = 0;; depth++) {
		cleanup_iter struct index_iter it = INDEX_ITER_INIT;

		from = record_key_id(dir);
		r = index_iter(txn, INDEX_DIRENT, &from, sizeof(dir), &it);
		if (r >= 0)
			r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r <= 0)
			return r < 0 ? r : depth > 0;
		r = record_dirent_decode(buf, len, &de);
		if (r >= 0)
			r = table_inode_get(txn, dir, ret_dir);
		if (r >= 0)
			r = table_inode_get(txn, de.ino, ret);
		if (r < 0)
			return r;
		memcpy(ret_name, key.bytes + sizeof(dir),
		       key.len - sizeof(dir));
		ret_name[key.len - sizeof(dir)] = '\0';
		if (!S_ISDIR(ret->mode))
			return 1;
		dir = de.ino;
	}
}

/* What is below a wheel's directory, as much as one edit can take. Returns
 * how many names went; 0 when it is empty. */
static int unit_remove_below(struct edit *e, uint64_t dir, bool idle_only)
{
	char name[RECORD_NAME_MAX + 1];
	struct inode parent, in;
	int r, n = 0;

	while (e->n_claims < EDIT_DROPS_MAX / 2) {
		r = unit_find_leaf(e->txn, dir, &parent, name, &in);
		if (r <= 0)
			return r < 0 ? r : n;
		r = unit_remove_name(e, &parent, name, &in, idle_only);
		if (r >= 0)
			r = table_inode_put(e->txn, &parent);
		if (r < 0)
			return r;
		n++;
	}
	return n;
}

/* Emptied fan-out directories, from path->ino[n] up. */
static int unit_prune_dirs(struct edit *e, const struct table_path *path)
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

/* Returns 1 when there is more to remove, 0 when the unit is gone. */
static int unit_remove_step(struct edit *e, uint64_t entry, bool idle_only,
			    bool *ret_some)
{
	struct table_path path;
	struct entry_rec en;
	int r = table_entry_get(e->txn, entry, &en);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = table_path(e->txn, en.dir, &path);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == -ENOENT || !unit_in_place(&path, &en))
		return table_entry_del(e->txn, entry, &en);
	r = *en.name ? unit_remove_pair(e, entry, &en, idle_only)
		     : unit_remove_below(e, en.dir, idle_only);
	if (r < 0)
		return r;
	if (r)
		*ret_some = true;
	if (!*en.name && table_dir_used(e->txn, en.dir) > 0)
		return 1;
	r = table_entry_get(e->txn, entry, &en);
	if (r >= 0) /* names were counted that are not there */
		r = table_entry_del(e->txn, entry, &en);
	return r < 0 && r != -ENOENT ? r : 0;
}

int unit_remove(struct tree *t, uint64_t entry, bool idle_only,
		uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	bool some = false, open = false;
	int more = 1, r;

	/* A large unit takes several edits: don't begin if it is in use. */
	if (idle_only) {
		r = unit_measure(t, entry, &bytes, &open);
		if (r < 0)
			return r;
		if (open)
			return -EBUSY;
	}
	bytes = 0;
	while (more) {
		cleanup_edit struct edit e = EDIT_INIT;

		r = edit_begin(t, QUOTA_EVICT, &e);
		if (r < 0)
			return r;
		more = unit_remove_step(&e, entry, idle_only, &some);
		if (more < 0)
			return more;
		bytes += e.freed_bytes;
		r = edit_commit(&e);
		if (r < 0)
			return r;
	}
	*ret_bytes = bytes;
	return some;
}

/* Add up the files below @dir; depth is bounded by what layout knows. */
static int unit_measure_dir(struct tree *t, struct index_txn *txn, uint64_t dir,
			    unsigned depth, uint64_t *bytes, bool *open)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(dir), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	struct dirent_rec de;
	struct inode in;
	size_t len;
	int r = index_iter(txn, INDEX_DIRENT, &from, sizeof(dir), &it);

	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0) {
		r = record_dirent_decode(buf, len, &de);
		if (r >= 0)
			r = table_inode_get(txn, de.ino, &in);
		if (r < 0)
			return r;
		*bytes += in.alloc;
		*open |= node_is_open(t->nodes, de.ino);
		if (S_ISDIR(in.mode) && depth < TABLE_PATH_MAX)
			r = unit_measure_dir(t, txn, de.ino, depth + 1, bytes,
					     open);
	}
	return r;
}

int unit_measure(struct tree *t, uint64_t entry, uint64_t *ret_bytes,
		 bool *ret_open)
{
	cleanup_txn struct index_txn *txn = NULL;
	char name[RECORD_NAME_MAX + 1];
	struct entry_rec en;
	struct dirent_rec de;
	struct inode in;
	uint64_t bytes = 0;
	bool open = false;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_entry_get(txn, entry, &en);
	if (r < 0)
		return r;
	if (!*en.name)
		r = unit_measure_dir(t, txn, en.dir, 0, &bytes, &open);
	for (unsigned i = 0; i < 2 && *en.name && r >= 0; i++) {
		if (!unit_name(&en, i, name))
			continue;
		r = table_dirent_get(txn, en.dir, name, &de);
		if (r >= 0)
			r = table_inode_get(txn, de.ino, &in);
		if (r >= 0 && in.entry == entry) {
			bytes += in.alloc;
			open |= node_is_open(t->nodes, de.ino);
		}
		r = r == -ENOENT ? 0 : r;
	}
	if (r < 0)
		return r;
	*ret_bytes = bytes;
	*ret_open = open;
	return 0;
}

/* The newest name of @ino goes; if others are left the inode is marked bad.
 * @idle_only: -EBUSY if it is open. */
static int unit_drop_name(struct tree *t, uint64_t ino, bool idle_only)
{
	cleanup_edit struct edit e = EDIT_INIT;
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r < 0 || !in.nlink)
		return r == -ENOENT ? 0 : r;
	in.flags |= INODE_BAD;
	r = table_cookie_get(e.txn, in.parent, in.cookie, name);
	if (r >= 0)
		r = edit_dir(&e, in.parent, &dir);
	if (r >= 0)
		r = unit_remove_name(&e, &dir, name, &in, idle_only);
	if (r >= 0)
		r = table_inode_put(e.txn, &dir);
	if (r == -ENOENT) /* the newest name went before: others are left */
		r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

int unit_drop_file(struct tree *t, uint64_t ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	uint64_t bytes;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_inode_get(txn, ino, &in);
	index_abort(steal_ptr(txn));
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (in.entry) {
		r = unit_remove(t, in.entry, false, &bytes);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return unit_drop_name(t, ino, false);
}

/* What the housekeeping looks for among all names. */
struct unit_sweep {
	struct tree *t;
	int64_t before_ns;
	bool dirs; /* empty directories, else temporary files */
	struct record_key at;
	unsigned n;
	uint64_t inos[UNIT_BATCH];
};

/* Is @name in @dir, the inode @in, old, idle, and of the kind wanted? */
static bool unit_wanted(struct unit_sweep *us, struct index_txn *txn,
			uint64_t dir, const char *name, const struct inode *in)
{
	struct table_path path;

	if (in->mtime_ns >= us->before_ns ||
	    node_is_open(us->t->nodes, in->ino))
		return false;
	if (us->dirs)
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
static int unit_look(struct unit_sweep *us, struct index_txn *txn,
		     const uint8_t *buf, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	size_t name_len = us->at.len - sizeof(uint64_t);
	struct dirent_rec de;
	struct inode in;
	uint64_t dir;
	int r = record_key_get(&us->at, 0, &dir);

	if (r >= 0)
		r = record_dirent_decode(buf, len, &de);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &in);
	if (r < 0)
		return r;
	memcpy(name, us->at.bytes + sizeof(uint64_t), name_len);
	name[name_len] = '\0';
	if (unit_wanted(us, txn, dir, name, &in))
		us->inos[us->n++] = in.ino;
	return 0;
}

/* Look at the next UNIT_BATCH names behind us->at. Returns how many were
 * looked at, 0 at the end; what is wanted goes to us->inos. */
static int unit_sweep_batch(struct unit_sweep *us)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len;
	int n = 0, r = index_begin(us->t->ix, false, &txn);

	us->n = 0;
	if (r >= 0)
		r = index_iter(txn, INDEX_DIRENT, &us->at, 0, &it);
	while (r >= 0 && n < UNIT_BATCH &&
	       (r = index_next(&it, &us->at, buf, sizeof(buf), &len)) != 0) {
		n++;
		/* A damaged record is not ours to judge. */
		if (r > 0)
			(void)unit_look(us, txn, buf, len);
		else if (r == -EBADMSG)
			r = 0;
	}
	/* Go on behind the last key. */
	if (n && us->at.len < RECORD_KEY_MAX)
		us->at.bytes[us->at.len++] = 0;
	return r < 0 ? r : n;
}

int unit_reap_tmp(struct tree *t, int64_t before_ns, uint64_t *ret_n)
{
	struct unit_sweep us = { .t = t,
				 .before_ns = before_ns,
				 .at = record_key_id(0) };
	uint64_t done = 0;
	int r;

	while ((r = unit_sweep_batch(&us)) > 0)
		for (unsigned i = 0; i < us.n; i++)
			if (unit_drop_name(t, us.inos[i], true) >= 0)
				done++;
	*ret_n = done;
	return r;
}

/* The empty directory @ino, and what becomes empty above it. */
static int unit_prune_dir(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct table_path path;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_path(e.txn, ino, &path);
	if (r >= 0)
		r = unit_prune_dirs(&e, &path);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return edit_commit(&e);
}

int unit_prune_empty(struct tree *t, int64_t before_ns)
{
	struct unit_sweep us = { .t = t,
				 .before_ns = before_ns,
				 .dirs = true,
				 .at = record_key_id(0) };
	int r;

	while ((r = unit_sweep_batch(&us)) > 0) {
		for (unsigned i = 0; i < us.n; i++) {
			r = unit_prune_dir(t, us.inos[i]);
			if (r < 0)
				return r;
		}
	}
	return r;
}

/* Give @ino the entry that its path has now. */
static int unit_reclassify(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	int r = edit_begin(t, QUOTA_OTHER, &e);

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

static bool unit_misplaced(struct index_txn *txn, const struct inode *in)
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

static int unit_rescan_batch(struct tree *t, uint64_t *at, uint64_t *inos,
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
	while (r >= 0 && n < UNIT_BATCH &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (r == -EBADMSG) /* of a damaged record the key is known */
			r = record_key_get(&key, 0, at);
		else if (r > 0 && record_key_get(&key, 0, at) >= 0 &&
			 record_inode_decode(*at, buf, len, &in) >= 0 &&
			 unit_misplaced(txn, &in))
			inos[(*n_inos)++] = *at;
	}
	*at += 1;
	return r < 0 ? r : n;
}

static int unit_rescan_wanted(struct tree *t, uint64_t *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_meta_get(txn, TABLE_META_RESCAN, ret);
	return r == -ENOENT ? 0 : r;
}

static int unit_rescan_want(struct tree *t, uint64_t wanted)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_RESCAN, wanted);
	return r < 0 ? r : edit_commit(&e);
}

/* The wish is taken back first: a move meanwhile makes another. */
int unit_rescan(struct tree *t)
{
	uint64_t inos[UNIT_BATCH], at = 0, wanted = 0;
	unsigned n;
	int r = unit_rescan_wanted(t, &wanted);

	if (r < 0 || !wanted)
		return r;
	r = unit_rescan_want(t, 0);
	while (r >= 0 && (r = unit_rescan_batch(t, &at, inos, &n)) > 0)
		for (unsigned i = 0; i < n && r >= 0; i++)
			r = unit_reclassify(t, inos[i]);
	if (r < 0) /* not all was seen */
		(void)unit_rescan_want(t, 1);
	return r;
}
