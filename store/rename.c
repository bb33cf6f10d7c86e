/* SPDX-License-Identifier: MIT */
#include "store/rename.h"

#include <sys/stat.h>

#include "store/linger.h"
#include "store/mend.h"
#include "store/replay.h"
#include "store/table.h"
#include "store/tree.h"

/* In a directory this deep or higher another may carry a cache. */
#define RENAME_RESCAN_DEPTH 2

/* Directories above each other. Nobody has more; a damaged index may lead in a
 * circle. */
#define RENAME_LEVELS_MAX 65536

/* One side of a rename. */
struct rename_side {
	const char *name;
	struct inode *dir;
	struct dirent_rec de;
	struct inode in;
	bool exists;
	struct node *lingering; /* owned use of @in, if it is to linger */
};

static int rename_load_side(struct edit *e, struct rename_side *side)
{
	int r = table_dirent_get(e->txn, side->dir->ino, side->name, &side->de);

	if (r == -ENOENT)
		return 0;
	if (r >= 0)
		r = table_inode_get(e->txn, side->de.ino, &side->in);
	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	side->exists = true;
	return 0;
}

/* -EINVAL if the directory @dir is @ino or lies below it; -ELOOP. */
static int rename_check_loop(struct edit *e, uint64_t ino, uint64_t dir)
{
	struct inode in;
	unsigned n = 0;
	int r;

	for (; dir != RECORD_ROOT_INO; dir = in.parent) {
		if (dir == ino)
			return -EINVAL;
		if (++n > RENAME_LEVELS_MAX)
			return -ELOOP;
		r = table_inode_get(e->txn, dir, &in);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Files keep the entry they got from their path. A directory that comes from
 * near the root or goes there may carry a whole cache out of or into a layout:
 * look again later.
 */
static int rename_note_move(struct edit *e, const struct rename_side *from,
			    const struct rename_side *to)
{
	const struct inode *dirs[] = { from->dir, to->dir };
	struct table_path path;
	int r;

	if (!S_ISDIR(from->in.mode) && !(to->exists && S_ISDIR(to->in.mode)))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		r = table_path(e->txn, dirs[i]->ino, &path);
		if (r < 0)
			return r;
		if (path.n <= RENAME_RESCAN_DEPTH)
			return table_meta_put(e->txn, TABLE_META_RESCAN, 1);
	}
	return 0;
}

/* Take @side's name away; its directory's link count goes with it. */
static int rename_detach_side(struct edit *e, struct rename_side *side)
{
	int r = edit_del_name(e, side->dir, side->name, &side->de, &side->in);

	if (r < 0)
		return r;
	if (S_ISDIR(side->in.mode))
		side->dir->nlink--;
	return table_inode_put(e->txn, side->dir);
}

/* Give the inode of @from the name of @side. */
static int rename_attach_side(struct edit *e, struct rename_side *side,
			      struct inode *in)
{
	int r;

	in->ctime_ns = e->now_ns;
	r = edit_add_name(e, side->dir, side->name, in);
	if (r < 0)
		return r;
	if (S_ISDIR(in->mode))
		side->dir->nlink++;
	r = table_inode_put(e->txn, in);
	if (r < 0)
		return r;
	return table_inode_put(e->txn, side->dir);
}

static int rename_over(struct edit *e, struct rename_side *from,
		       struct rename_side *to)
{
	int r;

	if (to->exists) {
		if (S_ISDIR(from->in.mode) && !S_ISDIR(to->in.mode))
			return -ENOTDIR;
		r = tree_removable(e, &to->in, S_ISDIR(from->in.mode));
		if (r < 0)
			return r;
		r = edit_del_name(e, to->dir, to->name, &to->de, &to->in);
		if (r < 0)
			return r;
		to->lingering = linger_hold(e->t, &to->in);
		r = tree_lost_name(e, to->dir, &to->in);
		if (r < 0)
			return r;
	}
	r = rename_detach_side(e, from);
	if (r >= 0)
		r = rename_attach_side(e, to, &from->in);
	if (r >= 0 && to->exists && to->in.nlink == 1)
		r = tree_rejoin_entry(e, to->in.ino);
	return r;
}

static int rename_exchange(struct edit *e, struct rename_side *from,
			   struct rename_side *to)
{
	int r;

	if (!to->exists)
		return -ENOENT;
	if (S_ISDIR(to->in.mode)) {
		r = rename_check_loop(e, to->in.ino, from->dir->ino);
		if (r < 0)
			return r;
	}
	r = rename_detach_side(e, from);
	if (r < 0)
		return r;
	r = rename_detach_side(e, to);
	if (r < 0)
		return r;
	r = rename_attach_side(e, to, &from->in);
	if (r < 0)
		return r;
	/* That may have given the directory above, of a wheel, an entry. */
	r = table_inode_get(e->txn, from->dir->ino, from->dir);
	if (r < 0)
		return r;
	return rename_attach_side(e, from, &to->in);
}

static int rename_sides(struct edit *e, struct rename_side *from,
			struct rename_side *to, int flags)
{
	int r = rename_load_side(e, from);

	if (r < 0)
		return r;
	if (!from->exists)
		return -ENOENT;
	r = rename_load_side(e, to);
	if (r < 0)
		return r;
	if (to->exists && (flags & RENAME_NAMES_NOREPLACE))
		return -EEXIST;
	if (S_ISDIR(from->in.mode)) {
		r = rename_check_loop(e, from->in.ino, to->dir->ino);
		if (r < 0)
			return r;
	}
	r = rename_note_move(e, from, to);
	if (r < 0)
		return r;
	if (to->exists && to->in.ino == from->in.ino)
		return 0;
	if (flags & RENAME_NAMES_EXCHANGE)
		return rename_exchange(e, from, to);
	return rename_over(e, from, to);
}

static int rename_whole(struct tree *t, struct rename_at from,
			struct rename_at to, int flags)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode dirs[2];
	struct rename_side a = { .name = from.name, .dir = &dirs[0] };
	struct rename_side b = { .name = to.name, .dir = &dirs[0] };
	int r = tree_begin(t, to.parent, to.name, &e);

	if (r < 0)
		return r;
	r = edit_dir(&e, from.parent, &dirs[0]);
	if (r < 0)
		return r;
	if (from.parent != to.parent) {
		b.dir = &dirs[1];
		r = edit_dir(&e, to.parent, &dirs[1]);
		if (r < 0)
			return r;
	}
	r = rename_sides(&e, &a, &b, flags);
	if (r >= 0)
		r = replay_put(e.txn, 0);
	if (r >= 0)
		r = edit_commit(&e);
	else
		edit_abort(&e);
	if (r >= 0)
		linger_begin(t, b.lingering);
	else if (b.lingering)
		edit_put_node(t, b.lingering);
	return r;
}

int rename_names(struct tree *t, struct rename_at from, struct rename_at to,
		 int flags)
{
	int r = tree_check_name(from.name);

	if (r >= 0)
		r = tree_check_name(to.name);
	if (r >= 0)
		r = rename_whole(t, from, to, flags);
	if (r != -EBADMSG)
		return r;
	if (mend_name(t, from.parent, from.name) < 0 ||
	    mend_name(t, to.parent, to.name) < 0)
		return r;
	return rename_whole(t, from, to, flags);
}
