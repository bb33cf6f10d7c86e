/* SPDX-License-Identifier: MIT */
/*
 * What packs with blocks take of the disk beyond their live bytes, and which of
 * them are worth being emptied (see compact.h).
 *
 * Bytes that wait for the next checkpoint to be given back are no waste. What
 * rounding to blocks of the file system takes is, and whatever could not be
 * punched out.
 *
 * No state; any threads.
 */
#ifndef STORE_WASTE_H
#define STORE_WASTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/edit.h"
#include "store/idset.h"

struct waste_pack {
	uint64_t id;
	uint64_t live;
	uint64_t disk; /* bytes */
	bool owned;    /* an inode reads it linearly */
	bool found;    /* for the caller */
};

struct waste_list {
	size_t n, size;
	struct waste_pack *v; /* owned */
};
#define WASTE_LIST_INIT                                                        \
	{                                                                      \
		.v = NULL                                                      \
	}

/* All packs with a record that can be read; in the order of ids. */
int waste_read(struct tree *t, struct waste_list *l);
void waste_release(struct waste_list *l);
#define cleanup_waste __attribute__((cleanup(waste_release)))

struct waste_stat {
	uint64_t allocated;
	uint64_t live;
	uint64_t waste;
};
void waste_sum(struct tree *t, const struct waste_list *l,
	       struct waste_stat *ret);

/*
 * The packs to be emptied next, in the order of ids: those with the largest
 * share of waste, until little enough is left. 1; 0: it is little, or nothing
 * would be gained; -EAGAIN: not now, dead ranges wait for a checkpoint or packs
 * are in use. @left: packs to be left alone.
 */
int waste_choose(struct tree *t, const struct idset *left,
		 struct waste_list *l);

/* In a chosen list; NULL: it is not there. */
struct waste_pack *waste_find(const struct waste_list *l, uint64_t id);

#endif
