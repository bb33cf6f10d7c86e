/* SPDX-License-Identifier: MIT */
/*
 * What the kernel may ask of a FUSE file system, each request answered by one
 * call into the store: decode, one call down, one reply. Keeps no state but
 * the table of open files, and holds no lock.
 *
 * Threads: the functions of the table run in any number of workers.
 */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "fs/handle.h"
#include "store/store.h"

/* What the functions work on: the user data of the FUSE session. */
struct ops {
	struct store *store;	 /* borrowed, outlives the session */
	struct handles *handles; /* likewise */
};

struct fuse_lowlevel_ops;
extern const struct fuse_lowlevel_ops ops_table;

#endif
