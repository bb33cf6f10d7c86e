/* SPDX-License-Identifier: MIT */
/*
 * Open files: from the first open to the last close.
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

#include <stdbool.h>
#include <stdint.h>

#include "store/stage.h"

struct store_file {
	struct files *fs;
	struct node *nd;
	bool writable;
	bool dir;
	bool background;
};

enum file_open_flags {
	FILE_WRITE = 1 << 0,
	FILE_TRUNCATE = 1 << 1,
	FILE_DIRECTORY = 1 << 2,
	FILE_QUIET = 1 << 3,	  /* our own use: no hit, no recency */
	FILE_BACKGROUND = 1 << 4, /* nor does it keep the file from going */
};

/* What those of open(2) ask for. */
int file_flags(int open_flags);

int file_open(struct files *fs, uint64_t ino, int flags,
	      struct store_file **ret);
void file_close(struct store_file *f);

/*
 * A handle that another process had, of a mount that goes on: nothing is
 * truncated, counted or verified. Before any thread works on the store.
 * -ENOENT, -ESTALE: the file has gone.
 */
int file_resume(struct files *fs, uint64_t ino, int flags, bool bad,
		struct store_file **ret);

/* Lay what open files know over @in, as read from the index. -ESTALE: it has
 * gone meanwhile. */
int file_overlay(struct files *fs, struct inode *in);

/* truncate(2) of a file that may be closed. */
int file_truncate(struct files *fs, uint64_t ino, uint64_t size);

/* tree_setattr(), of a file that may be open: a time of last change is newer
 * than what its node remembers. */
int file_setattr(struct files *fs, uint64_t ino, const struct inode *from,
		 int mask, struct inode *ret);

/* Remember that the bytes of @ino are right, or ask. Of so many files at most;
 * with one more all are forgotten, and verified at their next open again. */
#define FILE_VERIFIED_MAX (UINT64_C(1) << 20)
void file_set_verified(struct files *fs, uint64_t ino);
bool file_verified(struct files *fs, uint64_t ino);

#endif
