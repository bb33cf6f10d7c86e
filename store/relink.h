/* SPDX-License-Identifier: MIT */
/*
 * Names and inodes of an index that is being rebuilt.
 *
 *	relink_inodes()	what there is; names that only their inode and their
 *			offset know are put back; a directory whose inode is
 *			lost keeps what is in it
 *	... a second source is joined in (regraft.h), bytes are looked at
 *	    (recount.h) ...
 *	relink_names()	a name stays if it leads from a root to an inode that
 *			stays; the other half of a lost file's pair goes too
 *	relink_links()	inodes without a name go; links, offsets and entries
 *			of the others are as counted
 *
 * Of what is found twice the first stays.
 */
#ifndef STORE_RELINK_H
#define STORE_RELINK_H

#include "store/rework.h"

int relink_inodes(struct rework *rw);
/* Which directories lead to a root? Known after relink_inodes(), and to be
 * found out anew when some have moved. */
void relink_reach(struct rework *rw);
int relink_names(struct rework *rw);
int relink_links(struct rework *rw);

#endif
