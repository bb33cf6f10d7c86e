/* SPDX-License-Identifier: MIT */
/*
 * Covers: our mount, mounted once more over directories that a container
 * engine gives to builds as their cache. The engine may have a mount namespace
 * of its own; covers are made where it sees them, by a child process that
 * enters that namespace.
 *
 * Paths are untrusted: below the base no symbolic link is followed, and each
 * directory must belong to the owner of our mount.
 *
 *	cover_open()
 *	cover_list()	which there are, by the engine's mount table
 *	cover_put(), cover_take()
 *
 * No state is kept: a cover is known by its file system and its place, so one
 * process may go on with what another one made.
 * Threads: one; it forks.
 */
#ifndef FS_COVER_H
#define FS_COVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fs/adopt.h"
#include "fs/mounts.h"

struct cover_place {
	pid_t pid;  /* whose mount namespace */
	char *base; /* owned; the directory above all covers, as seen there */
};
#define COVER_PLACE_INIT                                                       \
	{                                                                      \
		.pid = 0, .base = NULL                                         \
	}

/*
 * Find @path as process @pid sees it, symbolic links resolved.
 * Returns: 0, -ESRCH no such process, -ENOENT, -ENOTDIR, -EACCES, ...
 */
int cover_open(pid_t pid, const char *path, struct cover_place *ret);
void cover_close(struct cover_place *place);

/* A descriptor that gets readable when a directory is made right below the
 * base; to be emptied by cover_drain(). Or a negative errno. */
int cover_watch(const struct cover_place *place);
void cover_drain(int watch);

/* The mounts of pipcachefs in the place's namespace. */
int cover_list(const struct cover_place *place, struct mounts *ret);

/* The path of one of them below the base; NULL if it is elsewhere. */
const char *cover_name(const struct cover_place *place,
		       const struct mounts_entry *e);

/*
 * The file system that shows at @name; a mount may be there, and hidden by
 * another one over a directory above. Does not ask the file system.
 */
int cover_shows(const struct cover_place *place, const char *name,
		unsigned *ret_major, unsigned *ret_minor);

/* What is put over directories. */
struct cover_source {
	const char *mountpoint; /* borrowed; of ours, in this namespace */
	unsigned major, minor;	/* of the file system that is to be there */
};

enum cover_flags {
	COVER_MAKE = 1 << 0,   /* make the directory where it is missing */
	COVER_MOUNT = 1 << 1,  /* put our mount over it */
	COVER_REMOVE = 1 << 2, /* delete from below what was taken over */
	COVER_EMPTY = 1 << 3,  /* only if nothing is in there */
};

/*
 * Take over what is in a directory, below any cover; then cover it.
 *
 * @name:        of the directory, below the base.
 * @cancel:      readable: give up; -1: never.
 * @res:         what was taken over, also on failure.
 * Returns:      0, or -ECANCELED, -ENOENT no such directory, -ENOTCONN our mount
 *               is dead, -ESTALE it is not there any more, -ENOTEMPTY (and not covered), -EKEYREJECTED a
 *               directory on the way belongs to somebody else, or another
 *               negative errno.
 */
int cover_put(const struct cover_place *place,
	      const struct cover_source *source, const char *name,
	      unsigned flags, int cancel, struct adopt_result *res);

/*
 * Unmount what covers @name. A busy one is waited for a moment, then only taken
 * out of sight: *@ret_lazy. Returns 0 or a negative errno.
 */
int cover_take(const struct cover_place *place, const char *name,
	       bool *ret_lazy);

/* Does @mountpoint answer? 0, -ENOTCONN, -ECANCELED, ... */
int cover_probe(const char *mountpoint, int cancel);

/*
 * Is a directory bound into a container? So says any process that has a mount
 * whose root ends with "/@name", which must hold no blanks or backslashes.
 */
bool cover_in_use(const char *name);

#endif
