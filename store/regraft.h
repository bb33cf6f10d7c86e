/* SPDX-License-Identifier: MIT */
/*
 * Joining the tree of a second source into the first one, in an index that is
 * being rebuilt. Names move over, directories whole where they can; what the
 * first source has stays as it is: neither does a file take the place of
 * another, nor does half a pair come to the other half of a newer one.
 *
 * After relink_inodes(). What does not move is left without a root, and goes.
 */
#ifndef STORE_REGRAFT_H
#define STORE_REGRAFT_H

#include "store/rework.h"

int regraft(struct rework *rw);

#endif
