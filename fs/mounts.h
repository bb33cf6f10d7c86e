/* SPDX-License-Identifier: MIT */
/*
 * The mounts of pipcachefs that this process sees, and the paths users name
 * them by. Reads /proc/self/mountinfo only: never asks a file system, so a
 * mount whose daemon hangs or is dead does no harm.
 *
 *	mounts_load()
 *	mounts_at(), mounts_of()
 *	mounts_release()
 *
 * Threads: any number, each with its own struct mounts.
 */
#ifndef FS_MOUNTS_H
#define FS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define MOUNTS_SUBTYPE "pipcachefs"
#define MOUNTS_TYPE "fuse." MOUNTS_SUBTYPE

struct mounts_entry {
	char *store;	  /* owned */
	char *mountpoint; /* owned */
	char *root;	  /* owned; "/" but for a bind mount of a part */
	unsigned major, minor;
};

struct mounts {
	struct mounts_entry *entry; /* owned, in the order of the kernel */
	size_t n;
};
#define MOUNTS_INIT                                                            \
	{                                                                      \
		.entry = NULL, .n = 0                                          \
	}

/* 0, -ENOMEM, or what opening /proc/self/mountinfo said. */
int mounts_load(struct mounts *ret);
/* The same from any stream of that form. Lines that are not are skipped. */
int mounts_read(FILE *in, struct mounts *ret);
void mounts_release(struct mounts *m);
#define cleanup_mounts __attribute__((cleanup(mounts_release)))

/* The uppermost mount at that path, NULL if there is none of ours. */
const struct mounts_entry *mounts_at(const struct mounts *m,
				     const char *mountpoint);

/* The first mount of that store, whole ones before parts; NULL if none. */
const struct mounts_entry *mounts_of(const struct mounts *m, const char *store);

/*
 * Make @path absolute and free of symbolic links; its last component need not
 * exist, nor answer. Returns 0 and a string for free(), -ENOENT if the
 * directory above does not exist, or another negative errno.
 */
int mounts_resolve(const char *path, char **ret);

/* Is @path the directory @dir or below it? Both as mounts_resolve() has it. */
bool mounts_inside(const char *dir, const char *path);

#endif
