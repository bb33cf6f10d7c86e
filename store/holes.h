/* SPDX-License-Identifier: MIT */
/*
 * Dead ranges of packs: bytes inside a pack that others go on using, to be
 * given back. What pack_doom() is for a whole pack.
 *
 *	commit what no longer names the range
 *	holes_add()
 *	holes_pin()		with packs_pin(), at a checkpoint
 *	holes_release()		before packs_release()
 *
 * A range is punched once a checkpoint that began after holes_add() is safe,
 * and all read sections that were entered before have ended: no snapshot that
 * may come back names it and nobody is about to read it.
 *
 * What comes back is credited when the holes are on the disk: a power cut that
 * undid them would leave more than there was room for.
 *
 * Only the bytes of the range and bytes that are zero anyway are touched. A
 * file system gives whole blocks back; a block at the edge of the range that
 * holds nothing else but zeros, as punching leaves them, goes too. So of dead
 * neighbours nothing stays, whenever they died.
 *
 * What is not punched (no memory for the list, an error, a file system that
 * cannot, a daemon that ended before) stays as waste until the pack is
 * compacted or freed. No call fails for it.
 *
 * All ranges of a pack are added before the pack is doomed. Ranges do not
 * overlap, and their bytes are not written again.
 *
 * The space lock: punching changes a pack's disk bytes and looks at bytes
 * beside the range. Whoever else writes to a pack that may have dead ranges
 * holds it around the write and both measurements of what that took, so that
 * each byte is charged and credited once.
 *
 * holes_release() waits for the space lock and for read sections: nobody waits
 * for a checkpoint, nor for room, which one may have to make, in either.
 *
 * Threads: all calls, any number at once; pin and release in turns.
 */
#ifndef STORE_HOLES_H
#define STORE_HOLES_H

#include <stdbool.h>
#include <stdint.h>

#include "store/pack.h"
#include "store/section.h"

/* Ranges beyond that many, apart from each other, are left as waste. */
#define HOLES_MAX (UINT64_C(1) << 20)

struct holes;

/*
 * @dir_fd:   of packs/.
 * @io:       NULL: the real calls.
 * @packs:    a pack that is in use otherwise than for reading blocks keeps its
 *            ranges until the next checkpoint; NULL: none is.
 * @readers:  of packs; NULL: there are none.
 * @credit:   told how many bytes came back; called without locks. May be NULL.
 *
 * All borrowed, and outlive us.
 */
struct holes_config {
	int dir_fd;
	const struct pack_io *io;
	struct packs *packs;
	struct section *readers;
	void (*credit)(void *arg, uint64_t bytes);
	void *credit_arg;
	struct notify
		changed; /* ranges wait for a checkpoint; must not block */
};
int holes_open(const struct holes_config *cfg,
	       struct holes **ret); /* -ENOMEM */
void holes_close(struct holes *h);  /* NULL is fine; no batch is taken */

/* [@off, @off + @len) of the pack is dead: what named it was removed in a
 * transaction that has been committed. */
void holes_add(struct holes *h, uint64_t pack, uint64_t off, uint64_t len);

/* Under the index's write lock: the ranges added so far become the batch. */
void holes_pin(struct holes *h);

/* The end of the batch: punched if the checkpoint is safe, else forgotten: the
 * store is frozen or ends. An error is that of a sync: bytes of packs may be
 * lost. */
int holes_release(struct holes *h, bool safe);

/* Bytes that were added and not released yet. At most so much comes back. */
uint64_t holes_bytes(struct holes *h);

void holes_lock(struct holes *h); /* the space lock; short */
void holes_unlock(struct holes *h);

#endif
