/* SPDX-License-Identifier: MIT */
#include "store/store.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>

#include "store/check.h"
#include "store/fileio.h"
#include "store/parts.h"
#include "store/rename.h"
#include "store/replay.h"
#include "store/tree.h"

static struct timespec store_timespec(int64_t ns)
{
	struct timespec ts = { .tv_sec = ns / NSEC_PER_SEC,
			       .tv_nsec = ns % NSEC_PER_SEC };

	if (ts.tv_nsec < 0) { /* before 1970: C rounds towards zero */
		ts.tv_sec--;
		ts.tv_nsec += NSEC_PER_SEC;
	}
	return ts;
}

static void store_fill_stat(const struct inode *in, struct stat *ret)
{
	struct stat st = { .st_ino = in->ino,
			   .st_mode = in->mode,
			   .st_nlink = in->nlink,
			   .st_uid = in->uid,
			   .st_gid = in->gid,
			   .st_rdev = in->rdev,
			   .st_size = (off_t)in->size,
			   .st_blksize = STORE_BLKSIZE };

	/* An inline file has no blocks of its own; none at all would tell
	 * archivers that it is one big hole. */
	st.st_blocks = (blkcnt_t)((in->data == INODE_DATA_PACK ? in->alloc
							       : in->size) +
				  511) /
		       512;
	st.st_atim = store_timespec(in->atime_ns);
	st.st_mtim = store_timespec(in->mtime_ns);
	st.st_ctim = store_timespec(in->ctime_ns);
	*ret = st;
}

/* Turn an inode as the index has it into what stat(2) shows. */
static int store_answer(struct store *st, int r, struct inode *in,
			struct stat *ret)
{
	if (r < 0 || !ret)
		return r;
	if (S_ISREG(in->mode)) {
		r = file_overlay(&st->files, in);
		if (r < 0)
			return r;
	}
	store_fill_stat(in, ret);
	return 0;
}

void store_request_begin(unsigned slot, uint64_t number)
{
	replay_enter(slot, number);
}

void store_request_end(void)
{
	replay_leave();
}

int store_request_done(struct store *st, unsigned slot, uint64_t number,
		       uint64_t *ret_ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(st->ix, false, &txn);

	return r < 0 ? r : replay_get(txn, slot, number, ret_ino);
}

void store_alive(struct store *st)
{
	struct index_txn *txn;
	struct room_stat rs;

	(void)nodes_count(st->nodes);
	room_stat(st->room, &rs);
	if (index_begin(st->ix, true, &txn) >= 0)
		index_abort(txn);
}

int store_lookup(struct store *st, uint64_t parent, const char *name,
		 struct stat *ret)
{
	struct inode in;
	int r;

	/* -ESTALE: the inode went after its name was read. Then the name is
	 * another's by now, or nobody's. */
	do {
		r = tree_lookup(&st->tree, parent, name, &in);
		if (r < 0)
			return r;
		r = store_answer(st, 0, &in, ret);
	} while (r == -ESTALE);
	return r;
}

int store_getattr(struct store *st, uint64_t ino, struct stat *ret)
{
	struct inode in;

	return store_answer(st, tree_get(&st->tree, ino, &in), &in, ret);
}

/* Times that 64 bits of nanoseconds cannot count become the first or last they
 * can (in 1677 and 2262), as file systems do with what they cannot store. */
static int64_t store_time(const struct timespec *ts)
{
	const int64_t last = INT64_MAX / NSEC_PER_SEC;

	if (ts->tv_sec >= last)
		return last * NSEC_PER_SEC;
	if (ts->tv_sec <= -last)
		return -last * NSEC_PER_SEC;
	return ts->tv_sec * NSEC_PER_SEC + ts->tv_nsec;
}

/* Returns the mask for tree_setattr(). */
static int store_setattr_fields(const struct stat *attr, int mask,
				struct inode *in)
{
	int64_t now = base_now_ns();
	int set = 0;

	in->mode = attr->st_mode;
	in->uid = attr->st_uid;
	in->gid = attr->st_gid;
	in->atime_ns =
		mask & STORE_SET_ATIME_NOW ? now : store_time(&attr->st_atim);
	in->mtime_ns =
		mask & STORE_SET_MTIME_NOW ? now : store_time(&attr->st_mtim);
	if (mask & STORE_SET_MODE)
		set |= TREE_SET_MODE;
	if (mask & STORE_SET_UID)
		set |= TREE_SET_UID;
	if (mask & STORE_SET_GID)
		set |= TREE_SET_GID;
	if (mask & (STORE_SET_ATIME | STORE_SET_ATIME_NOW))
		set |= TREE_SET_ATIME;
	if (mask & (STORE_SET_MTIME | STORE_SET_MTIME_NOW))
		set |= TREE_SET_MTIME;
	return set;
}

int store_setattr(struct store *st, uint64_t ino, const struct stat *attr,
		  int mask, struct stat *ret)
{
	struct inode from = { .ino = ino }, in;
	int set = store_setattr_fields(attr, mask, &from), r = 0;

	if (mask & STORE_SET_SIZE) {
		if (attr->st_size < 0)
			return -EINVAL;
		r = file_truncate(&st->files, ino, (uint64_t)attr->st_size);
		if (r < 0)
			return r;
	}
	if (set || !(mask & STORE_SET_SIZE))
		r = file_setattr(&st->files, ino, &from, set, &in);
	else
		r = tree_get(&st->tree, ino, &in);
	return store_answer(st, r, &in, ret);
}

static int store_make(struct store *st, const struct store_new *what,
		      mode_t mode, const char *target, struct stat *ret)
{
	struct tree_new node = { .parent = what->parent,
				 .name = what->name,
				 .target = target,
				 .mode = mode,
				 .uid = what->uid,
				 .gid = what->gid,
				 .rdev = what->rdev };
	struct inode in;
	int r = tree_make(&st->tree, &node, &in);

	if (r >= 0 && ret)
		store_fill_stat(&in, ret);
	return r;
}

int store_mknod(struct store *st, const struct store_new *what,
		struct stat *ret)
{
	if (S_ISDIR(what->mode) || S_ISLNK(what->mode) ||
	    !(what->mode & S_IFMT))
		return -EINVAL;
	return store_make(st, what, what->mode, NULL, ret);
}

int store_mkdir(struct store *st, const struct store_new *what,
		struct stat *ret)
{
	return store_make(st, what, S_IFDIR | (what->mode & 07777), NULL, ret);
}

int store_symlink(struct store *st, const struct store_new *what,
		  const char *target, struct stat *ret)
{
	return store_make(st, what, S_IFLNK | 0777, target, ret);
}

int store_readlink(struct store *st, uint64_t ino, char *buf, size_t size)
{
	return tree_readlink(&st->tree, ino, buf, size);
}

int store_link(struct store *st, uint64_t ino, uint64_t parent,
	       const char *name, struct stat *ret)
{
	struct inode in;

	return store_answer(st, tree_link(&st->tree, ino, parent, name, &in),
			    &in, ret);
}

int store_unlink(struct store *st, uint64_t parent, const char *name)
{
	return tree_remove(&st->tree, parent, name, false);
}

int store_rmdir(struct store *st, uint64_t parent, const char *name)
{
	return tree_remove(&st->tree, parent, name, true);
}

int store_rename(struct store *st, uint64_t parent, const char *name,
		 uint64_t new_parent, const char *new_name, int flags)
{
	struct rename_at from = { .parent = parent, .name = name };
	struct rename_at to = { .parent = new_parent, .name = new_name };
	int known = STORE_RENAME_NOREPLACE | STORE_RENAME_EXCHANGE, how = 0;

	if ((flags & ~known) || flags == known)
		return -EINVAL;
	if (flags & STORE_RENAME_NOREPLACE)
		how = RENAME_NAMES_NOREPLACE;
	if (flags & STORE_RENAME_EXCHANGE)
		how = RENAME_NAMES_EXCHANGE;
	return rename_names(&st->tree, from, to, how);
}

int store_file_open(struct store *st, uint64_t ino, int flags,
		    struct store_file **ret)
{
	return file_open(&st->files, ino, file_flags(flags), ret);
}

/* Made, but not to be opened: no file that nobody asked for. */
static void store_undo_create(struct store *st, const struct store_new *what,
			      uint64_t ino)
{
	struct stat now;

	if (store_lookup(st, what->parent, what->name, &now) == 0 &&
	    now.st_ino == ino)
		(void)store_unlink(st, what->parent, what->name);
}

int store_file_create(struct store *st, const struct store_new *what, int flags,
		      struct stat *ret_attr, struct store_file **ret)
{
	struct stat attr;
	int r;

	ingest_pace(st->ingest);
	r = store_make(st, what, S_IFREG | (what->mode & 07777), NULL, &attr);
	if (r < 0)
		return r;
	r = file_open(&st->files, attr.st_ino, file_flags(flags & ~O_TRUNC),
		      ret);
	if (r < 0) {
		store_undo_create(st, what, attr.st_ino);
		return r;
	}
	*ret_attr = attr;
	return r;
}

void store_file_close(struct store_file *f)
{
	file_close(f);
}

ssize_t store_read_begin(struct store_file *f, uint64_t off, size_t len,
			 struct store_read *rd)
{
	struct fileio_read one;
	int fd = -1, r = fileio_read_begin(f, off, len, &one);

	if (r < 0)
		return r;
	if (one.pack) {
		fd = pack_fd_get(one.pack);
		if (fd < 0) {
			fileio_read_end(&one);
			return fd;
		}
	}
	*rd = (struct store_read){ .n = one.len > 0 };
	rd->piece[0].mem = one.mem;
	rd->piece[0].len = one.len;
	rd->held[0] = one.mem;
	rd->held[1] = one.pack;
	if (one.pack) {
		rd->piece[0].fd = fd;
		rd->piece[0].pos = (off_t)one.pos;
	}
	return (ssize_t)one.len;
}

void store_read_end(struct store_read *rd)
{
	struct fileio_read one = { .mem = rd->held[0], .pack = rd->held[1] };

	if (one.pack)
		pack_fd_put(one.pack);
	fileio_read_end(&one);
	rd->held[0] = rd->held[1] = NULL;
}

ssize_t store_file_read(struct store_file *f, uint64_t off, void *buf,
			size_t len)
{
	struct fileio_read one;
	ssize_t n = fileio_read_begin(f, off, len, &one);

	if (n < 0)
		return n;
	n = (ssize_t)one.len;
	if (one.pack)
		n = pack_read(one.pack, buf, one.len, one.pos);
	else if (one.mem)
		memcpy(buf, one.mem, one.len);
	fileio_read_end(&one);
	return n;
}

ssize_t store_file_write(struct store_file *f, uint64_t off, const void *buf,
			 size_t len, bool writeback)
{
	int r = fileio_write(f, off, buf, len, writeback);

	return r < 0 ? r : (ssize_t)len;
}

bool store_file_is_bad(struct store_file *f)
{
	return fileio_is_bad(f);
}

int store_file_fallocate(struct store_file *f, int mode, uint64_t off,
			 uint64_t len)
{
	return fileio_fallocate(f, mode, off, len);
}

off_t store_file_seek(struct store_file *f, off_t off, int whence)
{
	return fileio_seek(f, off, whence);
}

ssize_t store_file_copy(struct store_file *from, uint64_t from_off,
			struct store_file *to, uint64_t to_off, size_t len)
{
	return fileio_copy(from, from_off, to, to_off, len);
}

int store_file_sync(struct store_file *f)
{
	struct store *st = f->fs->report_arg;

	return st->sync_strict ? store_sync(st) : 0;
}

uint64_t store_file_ino(const struct store_file *f)
{
	return f->nd->ino;
}

/* From the tree's names to what the caller of store_readdir() wants. */
struct store_listing {
	struct store *st;
	bool plus;
	store_fill_fn fill;
	void *arg;
};

static int store_list_name(void *arg, const char *name, uint64_t ino,
			   uint8_t type, uint64_t next)
{
	struct store_listing *ls = arg;
	struct stat st = { .st_ino = ino, .st_mode = (mode_t)type << 12 };

	/* An inode that is gone meanwhile is listed without attributes. */
	if (ls->plus)
		(void)store_getattr(ls->st, ino, &st);
	return ls->fill(ls->arg, name, &st, (off_t)next);
}

int store_readdir(struct store_file *dir, off_t off, bool plus,
		  store_fill_fn fill, void *arg)
{
	struct store_listing ls = { .st = dir->fs->report_arg,
				    .plus = plus,
				    .fill = fill,
				    .arg = arg };

	if (!dir->dir)
		return -ENOTDIR;
	return tree_readdir(&ls.st->tree, dir->nd->ino,
			    off < 0 ? 0 : (uint64_t)off, store_list_name, &ls);
}

int store_sync(struct store *st)
{
	uint64_t bytes;

	/* So that what was removed comes back with it; an error is that of the
	 * checkpoint too, or costs only this. */
	(void)gc_drain(st->gc, &bytes);
	return checkpoint_run(st->cp);
}

int store_check(struct store *st, const struct store_check *how,
		struct store_checked *ret)
{
	struct check c = { .t = &st->tree,
			   .home = &st->home,
			   .data = how->data,
			   .alone = how->alone,
			   .stop_ms = how->stop_ms,
			   .found = how->found,
			   .arg = how->arg,
			   .stage = (enum check_stage)how->stage,
			   .at = how->at };
	int r = how->stage > CHECK_DONE ? -EINVAL : check_run(&c);

	if (r < 0)
		return r;
	*ret = (struct store_checked){ .findings = c.findings,
				       .bytes = c.bytes,
				       .bytes_all = c.bytes_all,
				       .files = c.files,
				       .recipes = c.recipes,
				       .blocks = c.blocks,
				       .packs = c.packs,
				       .charged = c.charged,
				       .used = c.used,
				       .forgotten = c.forgotten,
				       .done = c.stage == CHECK_DONE,
				       .stage = c.stage,
				       .at = c.at };
	return 0;
}
