/* SPDX-License-Identifier: MIT */
/*
 * Attach a mount to buildah and `podman build`: they keep cache mounts below
 * their directory for temporary files, under names that follow from the id or
 * the target, so that they can be covered before there is a build.
 *
 * Threads: one.
 */
#ifndef FS_BUILDAH_H
#define FS_BUILDAH_H

#include <stddef.h>

#include "fs/covers.h"

/*
 * @tmp:     their directory for temporary files.
 * @why:     on failure: what failed, why, and what to do.
 * Returns:  0 once told to end, and detached; or a negative errno.
 */
int buildah_attach(const struct covers_config *config, const char *tmp,
		   char *why, size_t why_size);

/* How often a cache mount's directory may be called. */
#define BUILDAH_NAMES 4
#define BUILDAH_NAME_MAX 1024

/*
 * What versions of buildah call the directory of a cache mount with that id;
 * without one, its id is its target. Fills @ret, each below @tmp.
 * Returns: 0, -EINVAL an id that cannot be a path, -ENAMETOOLONG.
 */
int buildah_names(const char *id, unsigned uid,
		  char ret[BUILDAH_NAMES][BUILDAH_NAME_MAX]);

#endif
