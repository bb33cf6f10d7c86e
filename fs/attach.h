/* SPDX-License-Identifier: MIT */
/*
 * Mount and unmount: the kernel's side of a FUSE mount, without libfuse, so
 * that whoever holds the device's descriptor holds the mount. The superuser
 * mounts by himself, others through fusermount3.
 *
 *	attach_mount()		yields the descriptor of the connection
 *	attach_unmount()
 *
 * Threads: any number at once.
 */
#ifndef FS_ATTACH_H
#define FS_ATTACH_H

#include <stdbool.h>
#include <stddef.h>

#define ATTACH_DEVICE "/dev/fuse"

struct attach {
	const char *source;	/* what mountinfo shows as the source */
	const char *mountpoint; /* an existing directory, absolute */
	unsigned long flags;	/* of mount(2) */
	bool allow_other;
};

/*
 * @why:     on failure: what failed, why, and what to do.
 * Returns:  the descriptor (close on exec), or a negative errno.
 */
int attach_mount(const struct attach *a, char *why, size_t why_size);

/*
 * @lazy:    take the mount out of sight at once, though it is busy.
 * Returns:  0; -EBUSY; -EINVAL nothing is mounted there; -EPERM; ...
 */
int attach_unmount(const char *mountpoint, bool lazy, char *why,
		   size_t why_size);

#endif
