/* SPDX-License-Identifier: MIT */
/*
 * `pipcachefs check --repair`: makes a store that is not mounted consistent
 * again, and tells line by line what was wrong and what was done.
 *
 * Threads: one.
 */
#ifndef FS_REPAIR_H
#define FS_REPAIR_H

#include <stdbool.h>

#include "fs/cmd.h"

/* CMD_OK: nothing is wrong any more; or CMD_FAILED. */
int repair_store(const struct cmd_target *target, bool data, bool json);

#endif
