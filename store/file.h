/* SPDX-License-Identifier: MIT */
/*
 * Open files: from the first open to the last close.
 *
 * States of a file's node:
 *	closed	bytes inline or in a pack that a checkpoint may name; the index
 *		knows all. Never changed in place.
 *	live	staged: a pack of its own that is written in place, flagged
 *		INODE_WRITERS in the index; size and times are in the node.
 * file_stage() leads from closed to live (a copy, unless no checkpoint can
 * have named the pack), the last writer's close back: small files move into
 * the index, others wait for their checksum (@closed is told).
 *
 * Verification: the first open since the mount compares the bytes with their
 * XXH3; what does not match is dropped and the open is -ENOENT.
 *
 * Locks: a node's lock is held for the length of one operation on the file,
 * its I/O included, as the kernel holds an inode's. It comes before the
 * index's write lock.
 */
#ifndef STORE_FILE_H
#define STORE_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"
#include "store/idset.h"
#include "store/node.h"

struct files {
	struct tree *t; /* borrowed */
	/* A file waits for its checksum; @arg is borrowed. Must not block. */
	void (*closed)(void *arg, uint64_t ino);
	void *closed_arg;
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
	atomic_uint_fast64_t max_size; /* of a file: -EFBIG above */
	atomic_uint_fast64_t damaged;  /* files dropped for wrong bytes */

	pthread_mutex_t lock;  /* guards @verified; a leaf */
	struct idset verified; /* inodes whose bytes were found right */
};

struct store_file {
	struct files *fs;
	struct node *nd;
	bool writable;
	bool dir;
};

enum file_open_flags {
	FILE_WRITE = 1 << 0,
	FILE_TRUNCATE = 1 << 1,
	FILE_DIRECTORY = 1 << 2,
	FILE_QUIET = 1 << 3, /* our own use: no hit, no recency */
};

int file_open(struct files *fs, uint64_t ino, int flags,
	      struct store_file **ret);
void file_close(struct store_file *f);

/* Lay what open files know over @in, as read from the index. */
void file_overlay(struct files *fs, struct inode *in);

/* truncate(2) of a file that may be closed. */
int file_truncate(struct files *fs, uint64_t ino, uint64_t size);

/* A time was set by hand: what the node remembers is older. */
void file_forget_mtime(struct files *fs, uint64_t ino);

/* Remember that the bytes of @ino are right, or ask. */
void file_set_verified(struct files *fs, uint64_t ino);
bool file_verified(struct files *fs, uint64_t ino);

/* The XXH3 of @size bytes of @pk; -EBADMSG if it is shorter. */
int file_sum_pack(struct pack *pk, uint64_t size, uint64_t *ret);

/*
 * For fileio: the node's lock is held for writing.
 * file_stage() makes the file live, with its bytes if @keep, else empty.
 * file_resize() sets the size of a live file.
 * file_settle() ends an act for which @reserved bytes were charged.
 */
int file_stage(struct files *fs, struct node *nd, bool keep);
int file_resize(struct files *fs, struct node *nd, uint64_t size);
void file_settle(struct files *fs, struct node *nd, uint64_t reserved);
enum quota_class file_class(const struct node *nd);

/* An act on a pack may take this much more than its bytes: partial blocks at
 * both ends and the file system's own (extent) blocks. */
#define FILE_SLACK_BYTES (64 * KIB)

#endif
