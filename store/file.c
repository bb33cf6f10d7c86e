/* SPDX-License-Identifier: MIT */
#include "store/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

#include "store/content.h"
#include "store/damage.h"
#include "store/digest.h"
#include "store/layout.h"
#include "store/table.h"
#include "store/tree.h"
#include "store/unit.h"

#define FILE_OVERLAY_TRIES 8 /* each lost to another open and close */

void file_set_verified(struct files *fs, uint64_t ino)
{
	LOCK_SCOPE(&fs->lock);
	if (fs->verified.used >= FILE_VERIFIED_MAX)
		idset_release(&fs->verified);
	/* Out of memory: it is verified once more at its next open. */
	(void)idset_add(&fs->verified, ino);
}

bool file_verified(struct files *fs, uint64_t ino)
{
	LOCK_SCOPE(&fs->lock);
	return idset_has(&fs->verified, ino);
}

/* Others have those blocks too; they are looked at anew at their next open. */
static void file_find_damage(struct files *fs, uint64_t recipe)
{
	const struct damage dm = { .t = fs->t,
				   .report = fs->report,
				   .report_arg = fs->report_arg };

	if (damage_recipe(&dm, recipe) <= 0)
		return;
	LOCK_SCOPE(&fs->lock);
	idset_release(&fs->verified);
}

/* Wrong bytes: the file is dropped with its unit, its open is a miss. */
static int file_damaged(struct files *fs, const struct inode *in,
			const char *why)
{
	char text[160];

	snprintf(text, sizeof(text),
		 "inode %" PRIu64 " (%s %" PRIu64 ", %" PRIu64
		 " bytes) is damaged: %s; dropped from the cache",
		 in->ino, in->data == INODE_DATA_RECIPE ? "recipe" : "pack",
		 in->data == INODE_DATA_RECIPE ? in->recipe : in->pack,
		 in->size, why);
	fs->report(fs->report_arg, LOG_ERR, text);
	atomic_fetch_add(&fs->damaged, 1);
	if (in->recipe)
		file_find_damage(fs, in->recipe);
	(void)unit_drop_file(fs->t, in->ino);
	return -ENOENT;
}

static int file_load_pack(struct files *fs, struct node *nd,
			  const struct inode *in)
{
	uint64_t size, disk;
	int r = pack_get(fs->t->packs, in->pack, &nd->pack);

	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	r = pack_stat(nd->pack, &size, &disk);
	if (r < 0)
		return r;
	return size < in->size ? -EBADMSG : 0;
}

/* Are they the bytes that were written? Asked once a mount. */
static int file_verify(struct files *fs, struct node *nd,
		       const struct inode *in)
{
	uint64_t sum;
	int r;

	if (!(in->flags & INODE_SUMMED) || file_verified(fs, in->ino))
		return 0;
	r = content_sum(fs->t, nd, &sum);
	if (r < 0)
		return r;
	if (sum != in->xxh3)
		return -EBADMSG;
	file_set_verified(fs, in->ino);
	return 0;
}

/* Fill the node from the index. @verify: the bytes will be wanted. */
static int file_load(struct files *fs, struct node *nd, const struct inode *in,
		     bool verify)
{
	int r = 0;

	if (nd->loaded)
		return 0;
	if (in->flags & INODE_BAD)
		return -ENOENT;
	nd->size = in->size;
	nd->recipe = in->recipe;
	nd->inlined = in->data == INODE_DATA_INLINE;
	if (nd->inlined)
		r = content_check_inline(fs->t, nd);
	else if (in->data == INODE_DATA_PACK)
		r = file_load_pack(fs, nd, in);
	else if (in->data == INODE_DATA_RECIPE)
		r = content_remap(fs->t, nd);
	if (r >= 0 && verify && (nd->pack || nd->map))
		r = file_verify(fs, nd, in);
	if (r < 0) {
		node_unload(nd);
		if (r == -EBADMSG || r == -EIO)
			return file_damaged(fs, in, strerror(-r));
		return r;
	}
	nd->kind = in->kind;
	nd->mtime_ns = in->mtime_ns;
	nd->ctime_ns = in->ctime_ns;
	nd->loaded = true;
	return 0;
}

/* Under the node's lock; @in is the inode as the index has it. */
static int file_open_node(struct files *fs, struct node *nd, int flags,
			  const struct inode *in)
{
	bool fresh = !nd->loaded;
	int r;

	if (flags & FILE_DIRECTORY)
		return S_ISDIR(in->mode) ? 0 : -ENOTDIR;
	if (S_ISDIR(in->mode))
		return -EISDIR;
	if (!S_ISREG(in->mode))
		return -ENXIO;
	r = file_load(fs, nd, in, !(flags & FILE_TRUNCATE));
	if (r < 0)
		return r;
	if (flags & FILE_TRUNCATE) {
		r = stage_truncate(fs, nd, 0);
		if (r < 0 && fresh && !nd->live)
			node_unload(nd); /* not verified: for nobody else */
		if (r < 0)
			return r;
	}
	if (flags & FILE_WRITE)
		nd->writers++;
	return 0;
}

int file_flags(int flags)
{
	int how = 0;

	if (flags & O_DIRECTORY)
		return FILE_DIRECTORY;
	if ((flags & O_ACCMODE) != O_RDONLY)
		how |= FILE_WRITE;
	if (flags & O_TRUNC)
		how |= FILE_WRITE | FILE_TRUNCATE;
	return how;
}

int file_open(struct files *fs, uint64_t ino, int flags,
	      struct store_file **ret)
{
	cleanup_free struct store_file *f = calloc(1, sizeof(*f));
	struct inode in;
	int r;

	if (!f)
		return -ENOMEM;
	f->fs = fs;
	f->writable = flags & FILE_WRITE;
	f->dir = flags & FILE_DIRECTORY;
	r = node_get_settled(fs->t->nodes, ino, &f->nd);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&f->nd->lock);
	r = tree_get(fs->t, ino, &in);
	if (r >= 0)
		r = file_open_node(fs, f->nd, flags, &in);
	if (r < 0 && f->nd->live && !f->nd->writers)
		stage_end(fs, f->nd);
	pthread_rwlock_unlock(&f->nd->lock);
	if (r < 0) {
		edit_put_node(fs->t, f->nd);
		return r;
	}
	if (!(flags & (FILE_QUIET | FILE_DIRECTORY))) {
		bool hit = (in.flags & INODE_BODY) && !f->writable;

		entry_touch(fs->t->entries, in.entry, hit);
		atomic_fetch_add(&fs->t->hits, hit);
	}
	f->background = flags & FILE_BACKGROUND;
	if (f->background)
		node_set_background(f->nd, true);
	*ret = steal_ptr(f);
	return 0;
}

static int file_resume_node(struct files *fs, struct node *nd, int flags,
			    const struct inode *in)
{
	bool was_live =
		(in->flags & INODE_WRITERS) && in->data == INODE_DATA_PACK;
	struct inode now = *in;
	int r;

	if (flags & FILE_DIRECTORY)
		return S_ISDIR(in->mode) ? 0 : -ENOTDIR;
	if (was_live) /* the record is older than the pack */
		now.size = 0;
	r = file_load(fs, nd, &now, false);
	if (r < 0)
		return r;
	if (flags & FILE_WRITE)
		nd->writers++;
	return was_live && !nd->live ? stage_resume(nd, in) : 0;
}

int file_resume(struct files *fs, uint64_t ino, int flags, bool bad,
		struct store_file **ret)
{
	cleanup_free struct store_file *f = calloc(1, sizeof(*f));
	struct inode in;
	int r;

	if (!f)
		return -ENOMEM;
	f->fs = fs;
	f->writable = flags & FILE_WRITE;
	f->dir = flags & FILE_DIRECTORY;
	r = node_get(fs->t->nodes, ino, &f->nd);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&f->nd->lock);
	r = tree_get(fs->t, ino, &in);
	if (r >= 0)
		r = file_resume_node(fs, f->nd, flags, &in);
	f->nd->bad |= bad;
	pthread_rwlock_unlock(&f->nd->lock);
	if (r < 0) {
		(void)node_put(f->nd); /* what it was of is swept */
		return r;
	}
	*ret = steal_ptr(f);
	return 0;
}

void file_close(struct store_file *f)
{
	struct files *fs = f->fs;
	struct node *nd = f->nd;
	bool drop = false;

	if (!f->dir) {
		pthread_rwlock_wrlock(&nd->lock);
		nd->writers -= f->writable;
		if (!nd->writers && nd->live)
			stage_end(fs, nd);
		drop = !nd->writers && nd->bad;
		pthread_rwlock_unlock(&nd->lock);
	}
	if (f->background)
		node_set_background(nd, false);
	if (drop)
		(void)unit_drop_file(fs->t, nd->ino);
	edit_put_node(fs->t, nd);
	free(f);
}

/* True if the node knows better than @in, which it then corrected. */
static bool file_overlay_node(struct files *fs, struct inode *in)
{
	struct node *nd = node_find(fs->t->nodes, in->ino);
	bool live;

	if (!nd)
		return false;
	pthread_rwlock_rdlock(&nd->lock);
	live = nd->live;
	if (live) {
		in->size = nd->size;
		in->alloc = nd->disk;
		if (nd->mtime_dirty)
			in->mtime_ns = nd->mtime_ns;
		if (nd->ctime_ns > in->ctime_ns)
			in->ctime_ns = nd->ctime_ns;
	}
	pthread_rwlock_unlock(&nd->lock);
	edit_put_node(fs->t, nd);
	return live;
}

/* A record with the flag of a writer is only good together with its node: if
 * that was closed in between, the record is read again. */
int file_overlay(struct files *fs, struct inode *in)
{
	int r;

	for (unsigned i = 0; i < FILE_OVERLAY_TRIES; i++) {
		if (file_overlay_node(fs, in) || !(in->flags & INODE_WRITERS))
			return 0;
		r = tree_get(fs->t, in->ino, in);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The node's lock is held. */
static int file_set_mtime(struct files *fs, struct node *nd,
			  const struct inode *from, int mask, struct inode *ret)
{
	int r;

	if (nd->live)
		stage_forget_mtime(fs, nd);
	r = tree_setattr(fs->t, nd->ino, from, mask, ret);
	if (r >= 0)
		nd->mtime_dirty = false;
	else if (nd->mtime_dirty)
		pack_set_mtime(nd->pack, nd->mtime_ns);
	return r;
}

int file_setattr(struct files *fs, uint64_t ino, const struct inode *from,
		 int mask, struct inode *ret)
{
	struct node *nd = NULL;
	int r;

	if (mask & TREE_SET_MTIME)
		nd = node_find(fs->t->nodes, ino);
	if (!nd)
		return tree_setattr(fs->t, ino, from, mask, ret);
	pthread_rwlock_wrlock(&nd->lock);
	r = file_set_mtime(fs, nd, from, mask, ret);
	pthread_rwlock_unlock(&nd->lock);
	edit_put_node(fs->t, nd);
	return r;
}

int file_truncate(struct files *fs, uint64_t ino, uint64_t size)
{
	struct store_file *f;
	int r = file_open(fs, ino, FILE_WRITE | FILE_QUIET, &f);

	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&f->nd->lock);
	r = stage_truncate(fs, f->nd, size);
	pthread_rwlock_unlock(&f->nd->lock);
	file_close(f);
	return r;
}
