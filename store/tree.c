/* SPDX-License-Identifier: MIT */
#include "store/tree.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/digest.h"
#include "store/layout.h"
#include "store/mend.h"
#include "store/replay.h"
#include "store/table.h"

int tree_check_name(const char *name)
{
	if (!*name || strchr(name, '/') || !strcmp(name, ".") ||
	    !strcmp(name, ".."))
		return -EINVAL;
	return strlen(name) > RECORD_NAME_MAX ? -ENAMETOOLONG : 0;
}

static bool tree_is_wheels(struct tree *t, uint64_t dir, const char *name)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct table_path path;

	if (index_begin(t->ix, false, &txn) < 0 ||
	    table_path(txn, dir, &path) < 0 || path.n >= TABLE_PATH_MAX)
		return false;
	path.dirs[path.n++] = name; /* may be wheels/ itself, a first time */
	return layout_below_wheels(path.dirs, path.n);
}

int tree_begin(struct tree *t, uint64_t dir, const char *name, struct edit *e)
{
	int r = edit_begin(t, QUOTA_OTHER, e);

	if (r == -ENOSPC && tree_is_wheels(t, dir, name))
		r = edit_begin(t, QUOTA_WHEELS, e);
	return r;
}

int tree_create_root(struct tree *t, uint32_t uid, uint32_t gid)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);
	struct inode root = { .ino = RECORD_ROOT_INO,
			      .mode = S_IFDIR | 0755,
			      .uid = uid,
			      .gid = gid,
			      .parent = RECORD_ROOT_INO };
	uint32_t dirs;

	if (r >= 0)
		r = mend_count(e.txn, root.ino, &dirs, &root.next_cookie);
	if (r < 0)
		return r;
	root.nlink = 2 + dirs;
	root.atime_ns = root.mtime_ns = root.ctime_ns = e.now_ns;
	r = table_inode_put(e.txn, &root);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

int tree_get(struct tree *t, uint64_t ino, struct inode *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_inode_get(txn, ino, ret);
	return r == -ENOENT ? -ESTALE : r;
}

static bool tree_is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static int tree_find(struct tree *t, uint64_t parent, const char *name,
		     struct inode *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct dirent_rec de;
	struct inode dir;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	if (tree_is_dots(name)) {
		r = table_inode_get(txn, parent, &dir);
		if (r >= 0)
			r = table_inode_get(txn, name[1] ? dir.parent : parent,
					    ret);
		return r == -ENOENT ? -ESTALE : r;
	}
	r = table_dirent_get(txn, parent, name, &de);
	if (r >= 0) {
		r = table_inode_get(txn, de.ino, ret);
		return r == -ENOENT ? -EBADMSG : r;
	}
	if (r != -ENOENT)
		return r;

	/* Of a directory that is gone too: the kernel looks a path up again for
	 * an ESTALE of mkdir(2) itself, but not of the look-up before it. */
	r = table_inode_get(txn, parent, &dir);
	if (r < 0)
		return r;
	return S_ISDIR(dir.mode) ? -ENOENT : -ENOTDIR;
}

int tree_lookup(struct tree *t, uint64_t parent, const char *name,
		struct inode *ret)
{
	int r;

	if (strlen(name) > RECORD_NAME_MAX)
		return -ENAMETOOLONG;
	r = tree_find(t, parent, name, ret);
	if (r != -EBADMSG || tree_is_dots(name))
		return r;
	if (mend_name(t, parent, name) < 0)
		return r;
	return tree_find(t, parent, name, ret);
}

static int tree_put_target(struct edit *e, uint64_t ino, const char *target)
{
	struct record_key key = record_key_id(ino);
	uint8_t buf[RECORD_INLINE_HEAD + TREE_SYMLINK_MAX];
	size_t len = strnlen(target, TREE_SYMLINK_MAX + 1);

	if (len > TREE_SYMLINK_MAX)
		return -ENAMETOOLONG;
	record_u64_encode(digest_xxh3(target, len), buf);
	for (size_t i = 0; i < len; i++)
		buf[RECORD_INLINE_HEAD + i] = (uint8_t)target[i];
	return index_put(e->txn, INDEX_INLINE, &key, buf,
			 RECORD_INLINE_HEAD + len, true);
}

/* A fresh inode in @dir, its bytes (a symlink's target) included. */
static int tree_new_inode(struct edit *e, const struct tree_new *what,
			  struct inode *dir, struct inode *ret)
{
	struct inode in = { .view = e->t->view,
			    .mode = what->mode,
			    .uid = what->uid,
			    .gid = what->gid,
			    .nlink = 1,
			    .rdev = what->rdev,
			    .atime_ns = e->now_ns,
			    .mtime_ns = e->now_ns,
			    .ctime_ns = e->now_ns };
	int r = index_new_id(e->t->ix, INDEX_ID_INO, &in.ino);

	if (r < 0)
		return r;
	if (dir->mode & S_ISGID) {
		in.gid = dir->gid;
		in.mode |= S_ISDIR(in.mode) ? S_ISGID : 0;
	}
	if (S_ISDIR(in.mode)) {
		in.nlink = 2;
		in.next_cookie = RECORD_FIRST_COOKIE;
		dir->nlink++;
	}
	if (what->target) {
		in.data = INODE_DATA_INLINE;
		in.size = strlen(what->target);
		r = tree_put_target(e, in.ino, what->target);
		if (r < 0)
			return r;
	}
	*ret = in;
	return 0;
}

int tree_make(struct tree *t, const struct tree_new *what, struct inode *ret)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode dir, in;
	int r = tree_check_name(what->name);

	if (r < 0)
		return r;
	r = tree_begin(t, what->parent, what->name, &e);
	if (r < 0)
		return r;
	r = edit_dir(&e, what->parent, &dir);
	if (r < 0)
		return r;
	r = tree_new_inode(&e, what, &dir, &in);
	if (r < 0)
		return r;
	r = edit_add_name(&e, &dir, what->name, &in);
	if (r < 0)
		return r;
	r = table_inode_put(e.txn, &dir);
	if (r < 0)
		return r;
	r = table_inode_put(e.txn, &in);
	if (r >= 0)
		r = replay_put(e.txn, in.ino);
	if (r < 0)
		return r;
	r = edit_commit(&e);
	if (r >= 0)
		*ret = in;
	return r;
}

int tree_readlink(struct tree *t, uint64_t ino, char *buf, size_t size)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct record_key key = record_key_id(ino);
	uint8_t val[RECORD_INLINE_HEAD + TREE_SYMLINK_MAX];
	struct inode in;
	uint64_t sum;
	ssize_t n;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_inode_get(txn, ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (!S_ISLNK(in.mode))
		return -EINVAL;
	n = index_get(txn, INDEX_INLINE, &key, val, sizeof(val));
	if (n < RECORD_INLINE_HEAD)
		return n < 0 ? (int)n : -EBADMSG;
	r = record_u64_decode(val, RECORD_INLINE_HEAD, &sum);
	n -= RECORD_INLINE_HEAD;
	if (r < 0 || sum != digest_xxh3(val + RECORD_INLINE_HEAD, (size_t)n))
		return -EBADMSG;
	if ((size_t)n >= size)
		return -ENAMETOOLONG;
	memcpy(buf, val + RECORD_INLINE_HEAD, (size_t)n);
	buf[n] = '\0';
	return 0;
}

/*
 * A file with two names belongs to no cache layout that we know: it leaves
 * its entry, and is not evicted until it has one again (tree_rejoin_entry()).
 */
int tree_link(struct tree *t, uint64_t ino, uint64_t parent, const char *name,
	      struct inode *ret)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode dir, in;
	int r = tree_check_name(name);

	if (r < 0)
		return r;
	r = tree_begin(t, parent, name, &e);
	if (r < 0)
		return r;
	r = edit_dir(&e, parent, &dir);
	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (S_ISDIR(in.mode))
		return -EPERM;
	if (!in.nlink)
		return -ENOENT;
	if (in.nlink >= TREE_LINK_MAX)
		return -EMLINK;
	r = entry_detach(e.txn, in.entry);
	if (r < 0)
		return r;
	/* Of two names the one to know is that of a cache: likely to stay. */
	if (!in.entry && in.nlink == 1)
		in.cookie = 0;
	in.entry = 0;
	in.kind = 0;
	in.flags &= ~(uint32_t)INODE_BODY;
	in.nlink++;
	in.ctime_ns = e.now_ns;
	r = edit_add_name(&e, &dir, name, &in);
	if (r < 0)
		return r;
	r = table_inode_put(e.txn, &dir);
	if (r >= 0)
		r = table_inode_put(e.txn, &in);
	if (r >= 0)
		r = replay_put(e.txn, in.ino);
	if (r < 0)
		return r;
	r = edit_commit(&e);
	if (r >= 0)
		*ret = in;
	return r;
}

int tree_removable(struct edit *e, const struct inode *in, bool dir)
{
	int r;

	if (dir && !S_ISDIR(in->mode))
		return -ENOTDIR;
	if (!dir && S_ISDIR(in->mode))
		return -EISDIR;
	if (!dir)
		return 0;
	r = table_dir_used(e->txn, in->ino);
	return r > 0 ? -ENOTEMPTY : r;
}

int tree_lost_name(struct edit *e, struct inode *dir, struct inode *in)
{
	if (S_ISDIR(in->mode)) {
		dir->nlink--;
		return edit_drop(e, in, false);
	}
	in->nlink--;
	if (!in->nlink)
		return edit_drop(e, in, false);
	in->ctime_ns = e->now_ns;
	return table_inode_put(e->txn, in);
}

int tree_rejoin_entry(struct edit *e, uint64_t ino)
{
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	int r = table_inode_get(e->txn, ino, &in);

	if (r < 0) /* it lost its last name */
		return r == -ENOENT ? 0 : r;
	if (!S_ISREG(in.mode) || in.nlink != 1)
		return 0;
	r = in.cookie ? table_cookie_get(e->txn, in.parent, in.cookie, name)
		      : -ENOENT;
	if (r == -ENOENT || r == -EBADMSG)
		return table_meta_put(e->txn, TABLE_META_RESCAN, 1);
	if (r < 0)
		return r;
	r = table_inode_get(e->txn, in.parent, &dir);
	if (r >= 0)
		r = entry_attach(e->t->ix, e->txn, &dir, name, &in);
	if (r >= 0)
		r = table_inode_put(e->txn, &dir);
	return r < 0 ? r : table_inode_put(e->txn, &in);
}

static int tree_remove_whole(struct tree *t, uint64_t parent, const char *name,
			     bool dir)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode pi, in;
	struct dirent_rec de;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	r = edit_dir(&e, parent, &pi);
	if (r < 0)
		return r;
	r = table_dirent_get(e.txn, parent, name, &de);
	if (r < 0)
		return r;
	r = table_inode_get(e.txn, de.ino, &in);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	r = tree_removable(&e, &in, dir);
	if (r < 0)
		return r;
	r = edit_del_name(&e, &pi, name, &de, &in);
	if (r < 0)
		return r;
	r = tree_lost_name(&e, &pi, &in);
	if (r < 0)
		return r;
	r = table_inode_put(e.txn, &pi);
	if (r >= 0 && in.nlink == 1)
		r = tree_rejoin_entry(&e, de.ino);
	if (r >= 0)
		r = replay_put(e.txn, 0);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

int tree_remove(struct tree *t, uint64_t parent, const char *name, bool dir)
{
	int r = tree_check_name(name), mended;

	if (r < 0)
		return r;
	r = tree_remove_whole(t, parent, name, dir);
	if (r != -EBADMSG)
		return r;
	mended = mend_name(t, parent, name);
	if (mended <= 0) /* what cannot be mended is gone: all that was asked */
		return mended < 0 ? r : 0;
	return tree_remove_whole(t, parent, name, dir);
}

int tree_setattr(struct tree *t, uint64_t ino, const struct inode *from,
		 int mask, struct inode *ret)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	if (mask & TREE_SET_MODE)
		in.mode = (in.mode & S_IFMT) | (from->mode & ~(mode_t)S_IFMT);
	if (mask & TREE_SET_UID)
		in.uid = from->uid;
	if (mask & TREE_SET_GID)
		in.gid = from->gid;
	if (mask & TREE_SET_ATIME)
		in.atime_ns = from->atime_ns;
	if (mask & TREE_SET_MTIME)
		in.mtime_ns = from->mtime_ns;
	in.ctime_ns = e.now_ns;
	r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	r = edit_commit(&e);
	if (r >= 0)
		*ret = in;
	return r;
}

/* "." and "..", at offsets 0 and 1. Returns 1 when @fill wants no more. */
static int tree_fill_dots(const struct inode *in, uint64_t off,
			  tree_fill_fn fill, void *arg)
{
	if (off < 1 && fill(arg, ".", in->ino, DT_DIR, 1))
		return 1;
	if (off < 2 && fill(arg, "..", in->parent, DT_DIR, 2))
		return 1;
	return 0;
}

/* A listing under way. */
struct tree_list {
	uint64_t dir;
	uint64_t off;
	tree_fill_fn fill;
	void *arg;
	uint64_t at; /* the name, or damaged offset, that was looked at last */
	/* After -EBADMSG: what is damaged. */
	char bad_name[RECORD_NAME_MAX + 1]; /* "": its offset */
};

/* One name, @r as index_next() gave it. Returns 1 when no more is wanted. */
static int tree_list_name(struct index_txn *txn, struct tree_list *ls,
			  const char *name, int r)
{
	struct dirent_rec de;

	if (r >= 0)
		r = table_dirent_get(txn, ls->dir, name, &de);
	if (r == -ENOENT || r == -EBADMSG) {
		snprintf(ls->bad_name, sizeof(ls->bad_name), "%s", name);
		return -EBADMSG;
	}
	if (r < 0)
		return r;
	if (ls->fill(ls->arg, name, de.ino, de.type, ls->at + 1))
		return 1;
	ls->off = ls->at + 1;
	return 0;
}

/* The names from ls->off on, which moves on behind the last one. */
static int tree_list_names(struct index_txn *txn, struct tree_list *ls)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_pair(ls->dir, ls->off), key;
	char name[RECORD_NAME_MAX + 1];
	size_t len = 0;
	int r = index_iter(txn, INDEX_COOKIE, &from, sizeof(ls->dir), &it);

	while (r >= 0 &&
	       (r = index_next(&it, &key, name, RECORD_NAME_MAX, &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r == -EBADMSG ? -EIO : r;
		if (record_key_get(&key, sizeof(ls->dir), &ls->at) < 0)
			return -EIO;
		name[r < 0 ? 0 : len] = '\0';
		r = tree_list_name(txn, ls, name, r);
		if (r)
			return r < 0 ? r : 0;
	}
	return r;
}

/* Up to the end or the first damaged name. */
static int tree_list_some(struct tree *t, struct tree_list *ls)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_inode_get(txn, ls->dir, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r == -EBADMSG ? -EIO : r;
	if (!in.nlink)
		return 0;
	if (tree_fill_dots(&in, ls->off, ls->fill, ls->arg))
		return 0;
	if (ls->off < RECORD_FIRST_COOKIE)
		ls->off = RECORD_FIRST_COOKIE;
	return tree_list_names(txn, ls);
}

int tree_readdir(struct tree *t, uint64_t dir, uint64_t off, tree_fill_fn fill,
		 void *arg)
{
	struct tree_list ls = {
		.dir = dir, .off = off, .fill = fill, .arg = arg
	};
	uint64_t tried = 0;
	int r;

	while ((r = tree_list_some(t, &ls)) == -EBADMSG) {
		bool again = ls.at == tried;

		tried = ls.at;
		r = again	   ? -EBADMSG
		    : *ls.bad_name ? mend_name(t, dir, ls.bad_name)
				   : mend_offset(t, dir, ls.at);
		if (r < 0) /* not now: the others are listed all the same */
			ls.off = ls.at + 1;
	}
	return r;
}
