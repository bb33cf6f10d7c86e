/* SPDX-License-Identifier: MIT */
#include "store/fileio.h"

#include <fcntl.h>
#include <string.h>

#include "store/content.h"

#define FILEIO_AHEAD_MAX (1 * MIB) /* preallocated ahead of an append */
#define FILEIO_COPY_MAX (16 * MIB) /* per call: in memory, or under a lock */

/* -EAGAIN: blocks have moved. */
static int fileio_read_memory(struct store_file *f, struct fileio_read *rd)
{
	ssize_t n;

	rd->mem = malloc(rd->len);
	if (!rd->mem)
		return -ENOMEM;
	n = content_read(f->fs->t, f->nd, rd->mem, rd->len, rd->pos);
	if (n == (ssize_t)rd->len)
		return 0;
	free(steal_ptr(rd->mem));
	return n < 0 ? (int)n : -EIO;
}

/* The node's lock is held. */
static int fileio_read_locked(struct store_file *f, uint64_t off, size_t len,
			      struct fileio_read *rd)
{
	struct node *nd = f->nd;

	*rd = (struct fileio_read){ .pos = off };
	if (off >= nd->size)
		return 0;
	rd->len = nd->size - off < len ? (size_t)(nd->size - off) : len;
	if (rd->len && !nd->pack)
		return fileio_read_memory(f, rd);
	if (rd->len)
		rd->pack = pack_ref(nd->pack);
	return 0;
}

/* The blocks have moved: find them again, nobody else reading. */
static int fileio_read_remap(struct store_file *f, uint64_t off, size_t len,
			     struct fileio_read *rd)
{
	struct node *nd = f->nd;
	int r = -EAGAIN;

	pthread_rwlock_wrlock(&nd->lock);
	while (r == -EAGAIN) {
		r = nd->map ? content_remap(f->fs->t, nd) : 0;
		if (r >= 0)
			r = fileio_read_locked(f, off, len, rd);
	}
	pthread_rwlock_unlock(&nd->lock);
	return r;
}

int fileio_read_begin(struct store_file *f, uint64_t off, size_t len,
		      struct fileio_read *ret)
{
	struct fileio_read rd;
	int r;

	if (f->dir)
		return -EISDIR;
	pthread_rwlock_rdlock(&f->nd->lock);
	r = fileio_read_locked(f, off, len, &rd);
	pthread_rwlock_unlock(&f->nd->lock);
	if (r == -EAGAIN)
		r = fileio_read_remap(f, off, len, &rd);
	if (r < 0)
		return r == -EBADMSG ? -EIO : r;
	*ret = rd;
	return 0;
}

void fileio_read_end(struct fileio_read *rd)
{
	pack_put(steal_ptr(rd->pack));
	free(steal_ptr(rd->mem));
}

/*
 * How far to preallocate for a write of @len bytes at @off: as much again as
 * the file has when it grows at its end, so that appends in small pieces cost
 * few calls and the file system's own speculation stays out of the way.
 */
static uint64_t fileio_ahead(const struct node *nd, uint64_t off, uint64_t len)
{
	uint64_t ahead = len;

	if (off != nd->size || off + len <= nd->alloc_end)
		return len;
	if (ahead < nd->size)
		ahead = nd->size;
	if (ahead > FILEIO_AHEAD_MAX)
		ahead = FILEIO_AHEAD_MAX;
	return ahead < len ? len : ahead;
}

/* Room on the disk for @len bytes at @off, and if that is beyond what there is
 * so far, for @ahead in all. */
static int fileio_allocate(struct node *nd, uint64_t off, uint64_t len,
			   uint64_t ahead)
{
	int r;

	if (off + len <= nd->alloc_end)
		return 0;
	r = pack_preallocate(nd->pack, off, ahead);
	if (r < 0)
		return r;
	if (off <= nd->alloc_end)
		nd->alloc_end = off + ahead;
	return 0;
}

static int fileio_put(struct node *nd, uint64_t off, const void *buf,
		      uint64_t len, uint64_t ahead)
{
	int r = fileio_allocate(nd, off, len, ahead);

	return r < 0 ? r : pack_write(nd->pack, buf, len, off);
}

/* The node's lock is held, @reserved bytes are charged. */
static int fileio_write_locked(struct store_file *f, uint64_t off,
			       const void *buf, uint64_t len, uint64_t ahead)
{
	struct node *nd = f->nd;
	int r = stage_begin(f->fs, nd);

	if (r < 0)
		return r;
	r = fileio_put(nd, off, buf, len, ahead);
	if (r < 0) {
		stage_undo(nd);
		return r;
	}
	if (off + len > nd->size)
		nd->size = off + len;
	nd->version++;
	nd->mtime_ns = nd->ctime_ns = base_now_ns();
	nd->mtime_dirty = true;
	return 0;
}

/* *@ret_room: there was room, an error is that of the disk. */
static int fileio_write_once(struct store_file *f, uint64_t off,
			     const void *buf, uint64_t len, bool *ret_room)
{
	struct node *nd = f->nd;
	uint64_t ahead, bound;
	int r;

	pthread_rwlock_rdlock(&nd->lock);
	ahead = fileio_ahead(nd, off, len);
	pthread_rwlock_unlock(&nd->lock);
	bound = ahead + STAGE_SLACK_BYTES;
	r = room_reserve(f->fs->t->room, stage_class(nd), bound);
	*ret_room = r >= 0;
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&nd->lock);
	r = fileio_write_locked(f, off, buf, len, ahead);
	stage_settle(f->fs, nd, bound);
	pthread_rwlock_unlock(&nd->lock);
	return r;
}

int fileio_write(struct store_file *f, uint64_t off, const void *buf,
		 size_t len, bool writeback)
{
	struct node *nd = f->nd;
	bool room;
	int r;

	if (!f->writable)
		return -EBADF;
	if (off > INT64_MAX || len > INT64_MAX - off ||
	    off + len > atomic_load(&f->fs->max_size))
		return -EFBIG;
	if (!len)
		return 0;
	r = fileio_write_once(f, off, buf, len, &room);
	if (r == -ENOSPC && room &&
	    !room_disk_full(f->fs->t->room, stage_class(nd), len))
		r = fileio_write_once(f, off, buf, len, &room);
	/* pip writes a wheel in its place, and would take half of one for
	 * whole ever after. */
	if (r < 0 && (writeback || stage_class(nd) == QUOTA_WHEELS)) {
		pthread_rwlock_wrlock(&nd->lock);
		nd->bad = true;
		pthread_rwlock_unlock(&nd->lock);
	}
	return r;
}

bool fileio_is_bad(struct store_file *f)
{
	bool bad;

	pthread_rwlock_rdlock(&f->nd->lock);
	bad = f->nd->bad;
	pthread_rwlock_unlock(&f->nd->lock);
	return bad;
}

/* The modes that a linear pack can follow. */
static bool fileio_mode_known(int mode)
{
	return mode == 0 || mode == FALLOC_FL_KEEP_SIZE ||
	       mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) ||
	       (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
}

int fileio_fallocate(struct store_file *f, int mode, uint64_t off, uint64_t len)
{
	struct node *nd = f->nd;
	bool punch = mode & FALLOC_FL_PUNCH_HOLE;
	uint64_t bound = (punch ? 0 : len) + STAGE_SLACK_BYTES;
	int r;

	if (!f->writable)
		return -EBADF;
	if (!fileio_mode_known(mode))
		return -EOPNOTSUPP;
	if (!len || off > INT64_MAX || len > INT64_MAX - off)
		return -EINVAL;
	if (off + len > atomic_load(&f->fs->max_size))
		return -EFBIG;
	r = room_reserve(f->fs->t->room, stage_class(nd), bound);
	if (r < 0)
		return r;
	pthread_rwlock_wrlock(&nd->lock);
	r = stage_begin(f->fs, nd);
	if (r >= 0) {
		r = pack_fallocate(nd->pack, mode, off, len);
		if (r < 0)
			stage_undo(nd);
	}
	if (r >= 0) {
		if (!(mode & FALLOC_FL_KEEP_SIZE) && off + len > nd->size)
			nd->size = off + len;
		if (punch && off < nd->alloc_end)
			nd->alloc_end = off;
		nd->version++;
		nd->mtime_ns = nd->ctime_ns = base_now_ns();
		nd->mtime_dirty = true;
	}
	stage_settle(f->fs, nd, bound);
	pthread_rwlock_unlock(&nd->lock);
	return r;
}

static off_t fileio_seek_pack(struct pack *pk, off_t off, int whence)
{
	int fd = pack_fd_get(pk);
	off_t r;

	if (fd < 0)
		return fd;
	r = lseek(fd, off, whence);
	if (r < 0)
		r = -errno;
	pack_fd_put(pk);
	return r;
}

off_t fileio_seek(struct store_file *f, off_t off, int whence)
{
	struct node *nd = f->nd;
	off_t r = off;

	pthread_rwlock_rdlock(&nd->lock);
	if (off < 0 || (uint64_t)off >= nd->size)
		r = -ENXIO;
	else if (nd->pack)
		r = fileio_seek_pack(nd->pack, off, whence);
	else if (whence == SEEK_HOLE)
		r = (off_t)nd->size;
	if (r > (off_t)nd->size)
		r = (off_t)nd->size;
	pthread_rwlock_unlock(&nd->lock);
	return r;
}

/* Inline bytes, or what the file system below cannot copy by itself. */
static ssize_t fileio_copy_plain(struct store_file *to, uint64_t to_off,
				 struct fileio_read *rd)
{
	cleanup_free uint8_t *buf = NULL;
	size_t len = rd->len < FILEIO_AHEAD_MAX ? rd->len : FILEIO_AHEAD_MAX;
	ssize_t n = (ssize_t)len;
	int r;

	if (!rd->mem) {
		buf = malloc(len);
		if (!buf)
			return -ENOMEM;
		n = pack_read(rd->pack, buf, len, rd->pos);
		if (n <= 0)
			return n;
	}
	r = fileio_write(to, to_off, rd->mem ? rd->mem : buf, (size_t)n, false);
	return r < 0 ? r : n;
}

/* The node's lock is held, @rd->len bytes are charged. */
static ssize_t fileio_copy_locked(struct store_file *to, uint64_t to_off,
				  struct fileio_read *rd)
{
	struct node *nd = to->nd;
	ssize_t n = stage_begin(to->fs, nd);

	if (n < 0)
		return n;
	n = fileio_allocate(nd, to_off, rd->len, rd->len);
	if (n >= 0)
		n = pack_copy_range(rd->pack, rd->pos, nd->pack, to_off,
				    rd->len);
	if (n <= 0) {
		stage_undo(nd);
		return n;
	}
	if (to_off + (uint64_t)n > nd->size)
		nd->size = to_off + (uint64_t)n;
	nd->version++;
	nd->mtime_ns = nd->ctime_ns = base_now_ns();
	nd->mtime_dirty = true;
	return n;
}

static ssize_t fileio_copy_packs(struct store_file *to, uint64_t to_off,
				 struct fileio_read *rd)
{
	struct node *nd = to->nd;
	uint64_t bound = rd->len + STAGE_SLACK_BYTES;
	ssize_t n = room_reserve(to->fs->t->room, stage_class(nd), bound);

	if (n < 0)
		return n;
	pthread_rwlock_wrlock(&nd->lock);
	n = fileio_copy_locked(to, to_off, rd);
	stage_settle(to->fs, nd, bound);
	pthread_rwlock_unlock(&nd->lock);
	return n;
}

ssize_t fileio_copy(struct store_file *from, uint64_t from_off,
		    struct store_file *to, uint64_t to_off, uint64_t len)
{
	struct fileio_read rd;
	ssize_t n;
	int r;

	if (!to->writable)
		return -EBADF;
	if (len > FILEIO_COPY_MAX)
		len = FILEIO_COPY_MAX;
	if (to_off > INT64_MAX - len ||
	    to_off + len > atomic_load(&to->fs->max_size))
		return -EFBIG;
	r = fileio_read_begin(from, from_off, len, &rd);
	if (r < 0)
		return r;
	if (!rd.len) {
		n = 0;
	} else if (rd.mem) {
		n = fileio_copy_plain(to, to_off, &rd);
	} else {
		n = fileio_copy_packs(to, to_off, &rd);
		if (n == -EXDEV || n == -EOPNOTSUPP || n == -EINVAL)
			n = fileio_copy_plain(to, to_off, &rd);
	}
	fileio_read_end(&rd);
	return n;
}
