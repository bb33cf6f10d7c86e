/* SPDX-License-Identifier: MIT */
/*
 * Looking for the blocks that are damaged, where there is a reason to: those
 * that are lose their place (block_lose()), so that nobody is served them,
 * and each is told once, with pack and offset.
 *
 * Threads: any. In a caller that holds a node's lock too: none is taken.
 */
#ifndef STORE_DAMAGE_H
#define STORE_DAMAGE_H

#include "store/edit.h"

/* Who is told: see syslog(3). */
struct damage {
	struct tree *t; /* borrowed */
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
};

/* Compare the bytes of block @id with its checksums. 1: they are damaged, and
 * it is lost; 0: they are right, or it is not there (any more); or an error. */
int damage_block(const struct damage *dm, uint64_t id);

/* The same with all blocks of a recipe. How many were lost, or an error. */
int damage_recipe(const struct damage *dm, uint64_t recipe);

#endif
