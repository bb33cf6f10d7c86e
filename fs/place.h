/* SPDX-License-Identifier: MIT */
/*
 * The directories of a mount that its configuration does not name: made where
 * they are missing.
 *
 * The mount point belongs to nobody who runs pip: as long as nothing is mounted
 * there pip turns its cache off, instead of filling the disk below. The
 * directory above it stays an ordinary one, for containers that bind it and
 * see mounts come and go in it.
 *
 * Threads: one.
 */
#ifndef FS_PLACE_H
#define FS_PLACE_H

#include "fs/configfile.h"

#define PLACE_USER "pipcachefs" /* owner of mount points; without it, nobody */

/* Both: 0, or -errno and one line of @why. The first makes the directories above
 * store and mount point, the second the mount point: nothing must be mounted
 * there. */
int place_make_above(const struct configfile *f, char *why, size_t why_size);
int place_make_mountpoint(const struct configfile *f, char *why,
			  size_t why_size);

#endif
