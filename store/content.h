/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a node, wherever they are: in the index, in a linear pack, or
 * in blocks. None are kept in memory: there may be very many nodes.
 *
 * The caller has the node's lock: for reading, unless it says otherwise.
 */
#ifndef STORE_CONTENT_H
#define STORE_CONTENT_H

#include <sys/types.h>

#include "store/edit.h"
#include "store/node.h"

/* Short only at the end of the file. -EAGAIN: blocks have moved, see below;
 * -EIO, -EBADMSG: they are not there. */
ssize_t content_read(struct tree *t, const struct node *nd, void *buf,
		     size_t len, uint64_t off);

/* Those in the index: are they what was written? -EBADMSG: they are not. */
int content_check_inline(struct tree *t, const struct node *nd);

/* Find out anew where the blocks are. The lock is held for writing. */
int content_remap(struct tree *t, struct node *nd);

/* The same as content_read(), the lock held for writing: what moved is found. */
ssize_t content_read_locked(struct tree *t, struct node *nd, void *buf,
			    size_t len, uint64_t off);

/* XXH3 of all of them; the lock is held for writing. -EBADMSG: fewer. */
int content_sum(struct tree *t, struct node *nd, uint64_t *ret);

#endif
