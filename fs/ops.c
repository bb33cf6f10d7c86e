/* SPDX-License-Identifier: MIT */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>

#include <fuse_lowlevel.h>

#include "fs/reply.h"
#include "fs/slot.h"
#include "store/base.h"

/* A copy_file_range() longer than this is answered short: it holds a worker. */
#define COPY_MAX (64 * MIB)

static struct ops *ops_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct store *store_of(fuse_req_t req)
{
	return ops_of(req)->store;
}

static int file_of(fuse_req_t req, const struct fuse_file_info *fi,
		   struct store_file **ret)
{
	return handles_get(ops_of(req)->handles, fi->fh, ret);
}

static struct store_new new_of(fuse_req_t req, fuse_ino_t parent,
			       const char *name, mode_t mode)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	return (struct store_new){ .parent = parent,
				   .name = name,
				   .mode = mode,
				   .uid = ctx->uid,
				   .gid = ctx->gid };
}

/* ---- requests taken over ---- */

/*
 * Each operation that changes something asks first: if who had the request
 * before has done it, there is but the answer left. @ret: the result.
 */
static bool is_done(int *ret)
{
	enum slot_known known = slot_known();

	if (known != SLOT_SETTLED && known != SLOT_DONE)
		return false;
	*ret = (int)slot_result();
	return true;
}

/* The same where the answer shows an inode: as it is now. */
static bool is_made(fuse_req_t req, int *ret, struct stat *attr)
{
	if (!is_done(ret))
		return false;
	if (*ret >= 0)
		*ret = store_getattr(store_of(req), slot_value(), attr);
	return true;
}

/* ---- names ---- */

static void ops_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct stat attr;
	int r = store_lookup(store_of(req), parent, name, &attr);

	if (r == -ENOENT)
		reply_no_entry(req);
	else
		reply_entry(req, r, &attr);
}

/* Inode numbers are keys of the store: what the kernel holds costs nothing. */
static void ops_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	(void)ino;
	(void)nlookup;
	fuse_reply_none(req);
}

static void ops_getattr(fuse_req_t req, fuse_ino_t ino,
			struct fuse_file_info *fi)
{
	struct stat attr;
	int r = store_getattr(store_of(req), ino, &attr);

	(void)fi;
	reply_attr(req, r, &attr);
}

static int setattr_mask(int to_set)
{
	static const struct {
		int fuse;
		int store;
	} map[] = {
		{ FUSE_SET_ATTR_MODE, STORE_SET_MODE },
		{ FUSE_SET_ATTR_UID, STORE_SET_UID },
		{ FUSE_SET_ATTR_GID, STORE_SET_GID },
		{ FUSE_SET_ATTR_SIZE, STORE_SET_SIZE },
		{ FUSE_SET_ATTR_ATIME, STORE_SET_ATIME },
		{ FUSE_SET_ATTR_MTIME, STORE_SET_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, STORE_SET_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, STORE_SET_MTIME_NOW },
		{ FUSE_SET_ATTR_CTIME, STORE_SET_CTIME },
	};
	int mask = 0;

	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (to_set & map[i].fuse)
			mask |= map[i].store;
	return mask;
}

static void ops_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr,
			int to_set, struct fuse_file_info *fi)
{
	struct stat now;
	int r;

	(void)fi;
	if (!is_made(req, &r, &now))
		r = store_setattr(store_of(req), ino, attr,
				  setattr_mask(to_set), &now);
	reply_attr(req, r, &now);
}

static void ops_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[PATH_MAX];
	int r = store_readlink(store_of(req), ino, target, sizeof(target));

	if (r < 0)
		reply_err(req, r);
	else
		fuse_reply_readlink(req, target);
}

static void ops_mknod(fuse_req_t req, fuse_ino_t parent, const char *name,
		      mode_t mode, dev_t rdev)
{
	struct store_new what = new_of(req, parent, name, mode);
	struct stat attr;
	int r;

	what.rdev = rdev;
	if (!is_made(req, &r, &attr))
		r = store_mknod(store_of(req), &what, &attr);
	reply_entry(req, r, &attr);
}

static void ops_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name,
		      mode_t mode)
{
	struct store_new what = new_of(req, parent, name, mode);
	struct stat attr;
	int r;

	if (!is_made(req, &r, &attr))
		r = store_mkdir(store_of(req), &what, &attr);
	reply_entry(req, r, &attr);
}

static void ops_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
			const char *name)
{
	struct store_new what = new_of(req, parent, name, 0777);
	struct stat attr;
	int r;

	if (!is_made(req, &r, &attr))
		r = store_symlink(store_of(req), &what, target, &attr);
	reply_entry(req, r, &attr);
}

static void ops_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent,
		     const char *name)
{
	struct stat attr;
	int r;

	if (!is_made(req, &r, &attr))
		r = store_link(store_of(req), ino, parent, name, &attr);
	reply_entry(req, r, &attr);
}

static void ops_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int r;

	if (!is_done(&r))
		r = store_unlink(store_of(req), parent, name);
	reply_err(req, r);
}

static void ops_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int r;

	if (!is_done(&r))
		r = store_rmdir(store_of(req), parent, name);
	reply_err(req, r);
}

static void ops_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
		       fuse_ino_t new_parent, const char *new_name,
		       unsigned int flags)
{
	int store_flags = 0, r;

	if (flags == RENAME_NOREPLACE)
		store_flags = STORE_RENAME_NOREPLACE;
	else if (flags == RENAME_EXCHANGE)
		store_flags = STORE_RENAME_EXCHANGE;
	else if (flags != 0) {
		reply_err(req, -EINVAL);
		return;
	}
	if (!is_done(&r))
		r = store_rename(store_of(req), parent, name, new_parent,
				 new_name, store_flags);
	reply_err(req, r);
}

/* ---- opening and closing ---- */

/*
 * Truncation by open(2) reaches us as a flag of the open, without the SETATTR
 * that would take the setuid bits along: so do it here, as the kernel does for
 * all who are not the superuser; for him too where the kernel does not tell who
 * opens (see channel.h).
 */
static int drop_setuid(fuse_req_t req, fuse_ino_t ino)
{
	struct stat attr;
	int r = store_getattr(store_of(req), ino, &attr);
	mode_t drop = S_ISUID;

	if (r < 0 || fuse_req_ctx(req)->uid == 0)
		return r;
	if (attr.st_mode & S_IXGRP)
		drop |= S_ISGID;
	if (!(attr.st_mode & drop))
		return 0;
	attr.st_mode &= ~drop;
	return store_setattr(store_of(req), ino, &attr, STORE_SET_MODE, &attr);
}

/* An fh for @f, which is taken over, on failure too. */
static int enter_handle(struct ops *ops, struct store_file *f,
			struct fuse_file_info *fi)
{
	uint64_t fh;
	int r = handles_add(ops->handles, f, store_file_ino(f), fi->flags,
			    slot_unique(), &fh);

	if (r < 0) {
		store_file_close(f);
		return r;
	}
	fi->fh = fh;
	/* Nothing changes but through this mount: cached pages stay valid. */
	fi->keep_cache = 1;
	return 0;
}

static int leave_handle(struct ops *ops, uint64_t fh)
{
	struct store_file *f;
	int r = handles_take(ops->handles, fh, &f);

	if (r < 0)
		return r;
	store_file_close(f);
	handles_forget(ops->handles, fh);
	return 0;
}

static int do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct store_file *f;
	int r = store_file_open(store_of(req), ino, fi->flags, &f);

	if (r < 0)
		return r;
	if (fi->flags & O_TRUNC) {
		r = drop_setuid(req, ino);
		if (r < 0) {
			store_file_close(f);
			return r;
		}
	}
	return enter_handle(ops_of(req), f, fi);
}

/* Has who had the request before opened the file? Then *@ret is the result. */
static bool is_open(fuse_req_t req, struct fuse_file_info *fi, int *ret)
{
	enum slot_known known = slot_known();

	if (known == SLOT_SETTLED) {
		*ret = (int)slot_result();
		fi->fh = slot_value();
	} else if (known == SLOT_NEW ||
		   handles_opened(ops_of(req)->handles, slot_unique(),
				  &fi->fh) < 0) {
		return false;
	} else {
		*ret = 0;
	}
	fi->keep_cache = 1;
	return true;
}

static void ops_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct ops *ops = ops_of(req);
	int r;

	if (!is_open(req, fi, &r))
		r = do_open(req, ino, fi);
	if (r < 0)
		reply_err(req, r);
	else if (!reply_open(req, fi))
		leave_handle(ops, fi->fh);
}

static void ops_opendir(fuse_req_t req, fuse_ino_t ino,
			struct fuse_file_info *fi)
{
	fi->flags |= O_DIRECTORY;
	ops_open(req, ino, fi);
}

static int do_create(struct ops *ops, const struct store_new *what,
		     struct fuse_file_info *fi, struct stat *attr)
{
	struct store_file *f;
	int r = store_file_create(ops->store, what, fi->flags, attr, &f);

	return r < 0 ? r : enter_handle(ops, f, fi);
}

/* What was created by who had the request before is still to be opened. */
static int open_made(struct ops *ops, uint64_t ino, struct fuse_file_info *fi,
		     struct stat *attr)
{
	struct store_file *f;
	int r = store_getattr(ops->store, ino, attr);

	if (r >= 0)
		r = store_file_open(ops->store, ino, fi->flags & ~O_TRUNC, &f);
	return r < 0 ? r : enter_handle(ops, f, fi);
}

static int handle_attr(struct ops *ops, uint64_t fh, struct stat *attr)
{
	struct store_file *f;
	int r = handles_get(ops->handles, fh, &f);

	return r < 0 ? r : store_getattr(ops->store, store_file_ino(f), attr);
}

static void ops_create(fuse_req_t req, fuse_ino_t parent, const char *name,
		       mode_t mode, struct fuse_file_info *fi)
{
	struct ops *ops = ops_of(req);
	struct store_new what = new_of(req, parent, name, mode);
	struct stat attr;
	int r;

	if (is_open(req, fi, &r))
		r = r < 0 ? r : handle_attr(ops, fi->fh, &attr);
	else if (slot_known() == SLOT_DONE)
		r = open_made(ops, slot_value(), fi, &attr);
	else
		r = do_create(ops, &what, fi, &attr);
	if (r < 0)
		reply_err(req, r);
	else if (!reply_create(req, &attr, fi))
		leave_handle(ops, fi->fh);
}

static void ops_release(fuse_req_t req, fuse_ino_t ino,
			struct fuse_file_info *fi)
{
	(void)ino;
	reply_err(req, leave_handle(ops_of(req), fi->fh));
}

/* ---- bytes ---- */

static void ops_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		     struct fuse_file_info *fi)
{
	struct store_read rd;
	struct store_file *f;
	ssize_t n;

	(void)ino;
	n = file_of(req, fi, &f);
	if (n == 0)
		n = store_read_begin(f, (uint64_t)off, size, &rd);
	if (n < 0) {
		reply_err(req, (int)n);
		return;
	}
	reply_data(req, &rd);
	store_read_end(&rd);
}

static ssize_t do_write(fuse_req_t req, const char *buf, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	struct store_file *f;
	ssize_t n = file_of(req, fi, &f);

	if (n < 0)
		return n;
	n = store_file_write(f, (uint64_t)off, buf, size, fi->writepage);
	if (n < 0 && store_file_is_bad(f))
		handles_set_bad(ops_of(req)->handles, fi->fh);
	return n;
}

static void ops_write(fuse_req_t req, fuse_ino_t ino, const char *buf,
		      size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	reply_written(req, slot_known() == SLOT_SETTLED
				   ? slot_result()
				   : do_write(req, buf, size, off, fi));
}

static void ops_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
		      struct fuse_file_info *fi)
{
	struct store_file *f;
	int r = file_of(req, fi, &f);

	(void)ino;
	(void)datasync;
	if (r == 0)
		r = store_file_sync(f);
	reply_err(req, r);
}

static void ops_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off,
			  off_t len, struct fuse_file_info *fi)
{
	struct store_file *f;
	int r;

	(void)ino;
	if (!is_done(&r)) {
		r = file_of(req, fi, &f);
		if (r == 0)
			r = store_file_fallocate(f, mode, (uint64_t)off,
						 (uint64_t)len);
	}
	reply_err(req, r);
}

static void ops_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
		      struct fuse_file_info *fi)
{
	struct store_file *f;
	off_t at;

	(void)ino;
	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		reply_err(req, -EINVAL);
		return;
	}
	at = file_of(req, fi, &f);
	if (at == 0)
		at = store_file_seek(f, off, whence);
	reply_offset(req, at);
}

/* NOLINTNEXTLINE(readability-function-size): libfuse's parameters */
static void ops_copy_file_range(fuse_req_t req, fuse_ino_t ino, off_t off,
				struct fuse_file_info *fi, fuse_ino_t to_ino,
				off_t to_off, struct fuse_file_info *to_fi,
				size_t len, int flags)
{
	struct store_file *from, *to;
	ssize_t n = flags ? -EINVAL : 0;

	(void)ino;
	(void)to_ino;
	if (slot_known() == SLOT_SETTLED) {
		reply_written(req, slot_result());
		return;
	}
	if (n == 0)
		n = file_of(req, fi, &from);
	if (n == 0)
		n = file_of(req, to_fi, &to);
	if (n == 0)
		n = store_file_copy(from, (uint64_t)off, to, (uint64_t)to_off,
				    len < COPY_MAX ? len : COPY_MAX);
	reply_written(req, n);
}

/* ---- directories ---- */

static void list(fuse_req_t req, const struct fuse_file_info *fi, off_t off,
		 size_t size, bool plus)
{
	struct store_file *dir;
	int r = file_of(req, fi, &dir);

	if (r < 0)
		reply_err(req, r);
	else
		reply_listing(req, dir, off, size, plus);
}

static void ops_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			struct fuse_file_info *fi)
{
	(void)ino;
	list(req, fi, off, size, false);
}

static void ops_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size,
			    off_t off, struct fuse_file_info *fi)
{
	(void)ino;
	list(req, fi, off, size, true);
}

/* ---- the rest ---- */

static void ops_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs s;
	int r = store_statfs(store_of(req), &s);

	(void)ino;
	if (r < 0)
		reply_err(req, r);
	else
		fuse_reply_statfs(req, &s);
}

/*
 * What is not here the kernel does itself: access (default_permissions), locks;
 * or it is answered ENOSYS once and not asked again: extended attributes, flush
 * (errors of a write went to its writer, nothing is left to be told at close).
 */
const struct fuse_lowlevel_ops ops_table = {
	.lookup = ops_lookup,
	.forget = ops_forget,
	.getattr = ops_getattr,
	.setattr = ops_setattr,
	.readlink = ops_readlink,
	.mknod = ops_mknod,
	.mkdir = ops_mkdir,
	.symlink = ops_symlink,
	.link = ops_link,
	.unlink = ops_unlink,
	.rmdir = ops_rmdir,
	.rename = ops_rename,
	.open = ops_open,
	.create = ops_create,
	.read = ops_read,
	.write = ops_write,
	.release = ops_release,
	.fsync = ops_fsync,
	.opendir = ops_opendir,
	.readdir = ops_readdir,
	.readdirplus = ops_readdirplus,
	.releasedir = ops_release,
	.fsyncdir = ops_fsync,
	.statfs = ops_statfs,
	.lseek = ops_lseek,
	.fallocate = ops_fallocate,
	.copy_file_range = ops_copy_file_range,
};
