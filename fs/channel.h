/* SPDX-License-Identifier: MIT */
/*
 * libfuse on a connection to the kernel that is there already, and what the two
 * agree on. Not here: what requests do (ops), who reads them (session).
 *
 * Threads: one, before any request but the first is looked at.
 */
#ifndef FS_CHANNEL_H
#define FS_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "fs/ops.h"

/* Of the flags of INIT: Linux 6.12 has it, headers and libfuse are older. */
#define CHANNEL_ALLOW_IDMAP (UINT64_C(1) << 40)

struct fuse_session;

/*
 * A libfuse session whose requests go to ops_table.
 *
 * @fd:      of the connection; the session's own from then on.
 * @ops:     borrowed, outlives the session.
 * Returns:  0, or -EIO libfuse refused.
 */
int channel_open(int fd, struct ops *ops, struct fuse_session **ret);

/*
 * Answer the INIT, the first request of a connection. If it was answered before
 * us, libfuse now knows what was agreed on, and the kernel refuses the answer.
 *
 * Besides what libfuse knows of, the kernel is allowed to map user ids (Linux
 * 6.12): an idmapped mount of ours then shows, and makes, files of other owners
 * than the store holds. From there on only requests that create something say
 * whose they are; all others come with the user id -1.
 *
 * Returns:  0; -EPROTO kernel and libfuse do not agree; another negative errno.
 */
int channel_agree(struct fuse_session *fuse, void *init, size_t bytes);

#endif
