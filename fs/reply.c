/* SPDX-License-Identifier: MIT */
#include "fs/reply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <fuse_lowlevel.h>

#include "fs/log.h"
#include "fs/slot.h"
#include "store/base.h"

/* The kernel refuses an answer whose error is this or more. */
#define ERROR_END 512

void reply_err(fuse_req_t req, int r)
{
	if (r == -EBADMSG)
		log_write(LOG_ERR, "a request got EIO: its record is damaged");
	else if (r == -EIO)
		log_write(LOG_ERR, "a request got EIO: the disk refused");
	if (r == -EBADMSG || r > 0 || r <= -ERROR_END)
		r = -EIO;
	slot_settle(r, 0);
	fuse_reply_err(req, -r);
}

void reply_written(fuse_req_t req, ssize_t n)
{
	if (n < 0) {
		reply_err(req, (int)n);
		return;
	}
	slot_settle(n, 0);
	fuse_reply_write(req, (size_t)n);
}

void reply_offset(fuse_req_t req, off_t at)
{
	if (at < 0) {
		reply_err(req, (int)at);
		return;
	}
	slot_settle(0, 0);
	fuse_reply_lseek(req, at);
}

void reply_attr(fuse_req_t req, int r, const struct stat *attr)
{
	if (r < 0) {
		reply_err(req, r);
		return;
	}
	slot_settle(0, attr->st_ino);
	fuse_reply_attr(req, attr, REPLY_TIMEOUT_SEC);
}

/* Inode numbers are never used again, so the generation stays 0. */
static struct fuse_entry_param entry_param(const struct stat *attr)
{
	return (struct fuse_entry_param){
		.ino = attr->st_ino,
		.attr = *attr,
		.attr_timeout = REPLY_TIMEOUT_SEC,
		.entry_timeout = REPLY_TIMEOUT_SEC,
	};
}

void reply_entry(fuse_req_t req, int r, const struct stat *attr)
{
	struct fuse_entry_param e;

	if (r < 0) {
		reply_err(req, r);
		return;
	}
	e = entry_param(attr);
	slot_settle(0, attr->st_ino);
	fuse_reply_entry(req, &e);
}

static void reply_bytes(fuse_req_t req, const char *buf, size_t size)
{
	slot_settle(0, 0);
	fuse_reply_buf(req, buf, size);
}

void reply_no_entry(fuse_req_t req)
{
	struct fuse_entry_param none = { .entry_timeout = REPLY_TIMEOUT_SEC };

	fuse_reply_entry(req, &none);
}

/* libfuse says -ENOENT when the request was interrupted meanwhile; or answered,
 * by who had it before us. */
bool reply_open(fuse_req_t req, const struct fuse_file_info *fi)
{
	slot_settle(0, fi->fh);
	return fuse_reply_open(req, fi) != -ENOENT || slot_known() != SLOT_NEW;
}

bool reply_create(fuse_req_t req, const struct stat *attr,
		  const struct fuse_file_info *fi)
{
	struct fuse_entry_param e = entry_param(attr);

	slot_settle(0, fi->fh);
	return fuse_reply_create(req, &e, fi) != -ENOENT ||
	       slot_known() != SLOT_NEW;
}

/* ---- bytes ---- */

/* libfuse's vector ends in an array of one: this has room for all pieces. */
union read_vec {
	struct fuse_bufvec vec;
	char room[sizeof(struct fuse_bufvec) +
		  (STORE_READ_PIECES - 1) * sizeof(struct fuse_buf)];
};

static void fill_vec(struct fuse_bufvec *vec, const struct store_read *rd)
{
	struct fuse_buf *buf = vec->buf;

	vec->count = rd->n;
	vec->idx = 0;
	vec->off = 0;
	for (unsigned i = 0; i < rd->n; i++) {
		const struct store_piece *piece = &rd->piece[i];

		buf[i] = (struct fuse_buf){ .size = piece->len };
		if (piece->mem) {
			/* Not const there, though only read from. */
			memcpy(&buf[i].mem, &piece->mem, sizeof(buf[i].mem));
		} else {
			buf[i].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
			buf[i].fd = piece->fd;
			buf[i].pos = piece->pos;
		}
	}
}

void reply_data(fuse_req_t req, const struct store_read *rd)
{
	union read_vec u;

	slot_settle(0, 0);
	if (rd->n == 0) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	fill_vec(&u.vec, rd);
	fuse_reply_data(req, &u.vec, FUSE_BUF_SPLICE_MOVE);
}

/* ---- directories ---- */

struct listing {
	fuse_req_t req;
	char *buf; /* owned by the caller of store_readdir() */
	size_t size, used;
	bool plus, full;
};

static int list_entry(void *arg, const char *name, const struct stat *st,
		      off_t next)
{
	struct listing *l = arg;
	struct fuse_entry_param e = entry_param(st);
	size_t room = l->size - l->used, need;
	char *at = l->buf + l->used;

	/* Of "." and ".." the kernel wants no node, and an inode that is gone
	 * has no attributes. */
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !st->st_nlink)
		e.ino = 0;
	if (l->plus)
		need = fuse_add_direntry_plus(l->req, at, room, name, &e, next);
	else
		need = fuse_add_direntry(l->req, at, room, name, st, next);
	if (need > room) {
		l->full = true;
		return 1;
	}
	l->used += need;
	return 0;
}

void reply_listing(fuse_req_t req, struct store_file *dir, off_t off,
		   size_t size, bool plus)
{
	struct listing l = {
		.req = req,
		.size = size < REPLY_IO_MAX ? size : REPLY_IO_MAX,
		.plus = plus,
	};
	cleanup_free char *buf = malloc(l.size + 1);
	int r = -ENOMEM;

	l.buf = buf;
	if (buf)
		r = store_readdir(dir, off, plus, list_entry, &l);
	if (r >= 0 && l.used == 0 && l.full)
		r = -EINVAL;
	/* What was listed before an error is good: it comes with the next. */
	if (r < 0 && l.used == 0)
		reply_err(req, r);
	else
		reply_bytes(req, buf, l.used);
}
