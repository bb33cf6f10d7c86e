/* SPDX-License-Identifier: MIT */
/*
 * Results of the store as answers to the kernel. Each function ends
 * the request: @req is gone when it returns. What changes something is settled
 * (slot.h) before it is sent.
 *
 * Threads: any number at once, one per request.
 */
#ifndef FS_REPLY_H
#define FS_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

/* How long the kernel may answer from what it has been told. */
#define REPLY_TIMEOUT_SEC 10.0
/* The largest request, a read or a write. */
#define REPLY_IO_MAX (1 * MIB)

struct fuse_req; /* *fuse_req_t of <fuse_lowlevel.h> */
struct fuse_file_info;

/*
 * The one place where a result becomes an error of the kernel. 0 is fine, and
 * positive is a bug. -EBADMSG goes out as EIO, and is logged.
 */
void reply_err(struct fuse_req *req, int r);

/* These take the result of the call, and what it yielded if that is >= 0. */
void reply_attr(struct fuse_req *req, int r, const struct stat *attr);
void reply_entry(struct fuse_req *req, int r, const struct stat *attr);
void reply_written(struct fuse_req *req, ssize_t n);
void reply_offset(struct fuse_req *req, off_t at);

/* There is no such name: an answer too, which the kernel keeps. */
void reply_no_entry(struct fuse_req *req);

/* False: nobody waits for it any more, nor will release what was opened; of a
 * request that was new. */
bool reply_open(struct fuse_req *req, const struct fuse_file_info *fi);
bool reply_create(struct fuse_req *req, const struct stat *attr,
		  const struct fuse_file_info *fi);

/* The pieces of a read that has begun; the caller ends it afterwards. */
void reply_data(struct fuse_req *req, const struct store_read *rd);

/* What @dir lists from @off on, in at most @size bytes. */
void reply_listing(struct fuse_req *req, struct store_file *dir, off_t off,
		   size_t size, bool plus);

#endif
