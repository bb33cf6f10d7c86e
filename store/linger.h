/* SPDX-License-Identifier: MIT */
/*
 * Lingering: a file that a rename replaced can be opened a moment longer.
 *
 * Between the look-up of a name and the open of its inode the name may get
 * another inode. The kernel looks the path up once more when the open says
 * ESTALE, but where names are replaced all the time, the second open may be
 * late too. So the inode stays for LINGER_MS as what it is when somebody has
 * it open, an orphan, and goes as with its last close. Unlinked and evicted
 * files do not linger: the second look-up finds no name.
 *
 *	linger_hold()		before the rename drops the inode
 *	linger_begin()		after the commit, or node_put() without one
 *	linger_end()		now and then; due in linger_wait_ms()
 *
 * At most LINGER_MAX files linger, then the oldest go for the next, some at
 * once: one transaction for all. What lingers is charged: who wants room ends
 * it for all (linger_end()).
 *
 * Threads: any. The mutex is a leaf. linger_begin() and linger_end() remove
 * inodes: the caller has no node's lock and no transaction.
 */
#ifndef STORE_LINGER_H
#define STORE_LINGER_H

#include <stdbool.h>
#include <stdint.h>

#include "store/edit.h"

#define LINGER_MS 1500
#define LINGER_MAX 256

/* @ms: how long; LINGER_MS but in tests. */
int linger_new(int ms, struct linger **ret);
/* NULL is fine; nothing lingers any more. */
void linger_free(struct linger *lg);

/* A use of the inode that is to linger, or NULL: it need not, or cannot, and
 * goes at once. */
struct node *linger_hold(struct tree *t, const struct inode *in);
/* The inode lost its name. Takes over the use. NULL is fine. */
void linger_begin(struct tree *t, struct node *nd);
/* Let go of those whose time is over, or of @all. */
void linger_end(struct tree *t, bool all);

/* Until linger_end() has something to do; @most_ms if that is sooner. */
int linger_wait_ms(struct tree *t, int most_ms);
uint64_t linger_count(struct tree *t);

#endif
