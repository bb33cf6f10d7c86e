/* SPDX-License-Identifier: MIT */
/*
 * Staging: how the bytes of a file become writable, and how that ends.
 *
 * States of a file's node:
 *	closed	bytes inline or in a pack that a checkpoint may name; the index
 *		knows all. Never changed in place.
 *	live	staged: a pack of its own that is written in place, flagged
 *		INODE_WRITERS in the index; size and times are in the node.
 *
 *	stage_begin()	closed -> live: a copy, unless no checkpoint can have
 *			named the pack
 *	...		the pack is changed; stage_settle(), stage_truncate()
 *	stage_end()	live -> closed, when the last writer is gone: small
 *			files move into the index, others wait for their
 *			checksum (@closed is told)
 *
 * What a writer knows of times goes with its process. Who goes on after a kill
 * takes the time of the last change from the pack's file, or from the index if
 * the pack has PACK_MTIME_NONE. So the file of a live pack is only changed
 * where the bytes are too (and then the node is mtime_dirty), or where NONE
 * follows within the same request, which is done again if it was killed. Closing
 * cuts a tail, and cannot be told from a change: only a dirty node has one.
 *
 * The caller of each holds the node's lock for writing; it comes before the
 * index's write lock. Errors as in store.h.
 */
#ifndef STORE_STAGE_H
#define STORE_STAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"
#include "store/idset.h"
#include "store/node.h"

/* An act on a pack may take this much more than its bytes: partial blocks at
 * both ends and the file system's own (extent) blocks. */
#define STAGE_SLACK_BYTES (64 * KIB)

/* What open files share. */
struct files {
	struct tree *t; /* borrowed */
	/* A file waits for its checksum; @arg is borrowed. Must not block. */
	void (*closed)(void *arg, uint64_t ino, uint64_t bytes);
	void *closed_arg;
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
	atomic_uint_fast64_t max_size; /* of a file: -EFBIG above */
	atomic_uint_fast64_t damaged;  /* files dropped for wrong bytes */

	pthread_mutex_t lock;  /* guards @verified; a leaf */
	struct idset verified; /* inodes whose bytes were found right */
};

/* What the bytes of the file are charged as. */
enum quota_class stage_class(const struct node *nd);

/* Make the file live, with its bytes. -EROFS if it is and the index is frozen:
 * no checkpoint would ever name what is changed now. */
int stage_begin(struct files *fs, struct node *nd);

/* Make the file live and of @size, and set its times. What fails leaves the
 * bytes as they were. One that gets smaller is only copied up to @size. */
int stage_truncate(struct files *fs, struct node *nd, uint64_t size);

/* End an act for which @reserved bytes were charged; live or not. */
void stage_settle(struct files *fs, struct node *nd, uint64_t reserved);

/* An act on a live file failed: what it wrote or allocated must not show up
 * later, nor its time. */
void stage_undo(struct node *nd);

/* The index is about to be told a time of last change, of a live file. */
void stage_forget_mtime(struct files *fs, struct node *nd);

/*
 * The file was live in a process that was killed: its pack knows its size, and
 * when it was changed. It is live again if it has writers.
 */
int stage_resume(struct node *nd, const struct inode *in);

/* The last writer is gone. When the index cannot be told, the node stays live
 * and stuck, and the ingest and the next close try again. */
void stage_end(struct files *fs, struct node *nd);

#endif
