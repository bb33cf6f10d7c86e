/* SPDX-License-Identifier: MIT */
/*
 * Pack files: the bytes. STORE/packs/<id in hex>, one file each.
 *
 * In the staged form a pack is linear: byte n of the inode is byte n of the
 * pack, holes are holes. struct packs knows every pack that is open, changed
 * since the last checkpoint, or waiting to be freed; others are just files.
 *
 *	pack_create() or pack_get()	a use: the file is there
 *	pack_read/write/...		any number of threads
 *	pack_put()
 *
 * Freeing: pack_doom() once no committed record names the pack. If no
 * checkpoint can have named it either (it was created after the last pin) it
 * is freed at once, else when the next checkpoint is safe (packs_release());
 * with uses left, at the last put after that. Freeing is ftruncate(0), then
 * unlink: the blocks are back when it returns, on xfs too, and are told to
 * @credit.
 *
 * Threads: all calls, any number at once. One mutex guards the table; no I/O
 * happens under it but open() and close().
 *
 * Errors: -ENOENT no such pack file, -ENOSPC, -EDQUOT, -EFBIG, -EIO, -EMFILE,
 * -ENOMEM.
 */
#ifndef STORE_PACK_H
#define STORE_PACK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base.h"
#include "store/packio.h"

struct packs;
struct pack;

/*
 * @dir_fd:       of packs/; borrowed, outlives us.
 * @dirty_bytes:  @due is called when that much was written since the last
 *                packs_pin() (may be called from any writer; must not block).
 * @credit:       told how many bytes each freed pack gave back.
 */
struct packs_config {
	int dir_fd;
	const struct pack_io *io; /* borrowed, NULL: the real calls */
	unsigned fds;		  /* packs open at one time; 0: see fdcache.h */
	uint64_t dirty_bytes;
	struct notify due;
	void (*credit)(void *arg, uint64_t bytes);
	void *credit_arg;
};
int packs_open(const struct packs_config *cfg, struct packs **ret);
void packs_close(struct packs *ps); /* NULL is fine; no pack is in use */

/* @id must be fresh. The new file is empty; the caller has one use. */
int pack_create(struct packs *ps, uint64_t id, struct pack **ret);
int pack_get(struct packs *ps, uint64_t id, struct pack **ret);
struct pack *pack_ref(struct pack *pk); /* one more use */
void pack_put(struct pack *pk);		/* NULL is fine */

/* A use for reading blocks that the index names: it keeps the file, but not
 * ranges that die (see holes.h). All other uses keep them. */
int pack_get_blocks(struct packs *ps, uint64_t id, struct pack **ret);
void pack_put_blocks(struct pack *pk);
/* Somebody uses the pack otherwise. */
bool packs_busy(struct packs *ps, uint64_t id);
/* It is given up, and goes whole. */
bool packs_doomed(struct packs *ps, uint64_t id);

uint64_t pack_id(const struct pack *pk);

/* Its descriptor, or a negative errno: files are opened and closed as they are
 * wanted, so that many more can be in use than may be open. Borrowed, within
 * a use, until pack_fd_put(), which comes soon. -EIO: the file was taken away
 * while it was in use. */
int pack_fd_get(struct pack *pk);
void pack_fd_put(struct pack *pk);

/* True while no checkpoint can have named the pack. An answer that is acted on
 * must be asked for under the index's write lock, as packs_pin() is called. */
bool pack_fresh(struct pack *pk);

/*
 * Blocks may move from one pack to another. packs_moved() is called after the
 * commit that moved some away from @id; whoever found out where bytes are
 * before that, and noted packs_generation() before he asked the index, sees
 * from pack_moved() being greater that he has to ask again.
 */
uint64_t packs_generation(const struct packs *ps);
uint64_t pack_moved(const struct pack *pk);
void packs_moved(struct packs *ps, uint64_t id);

/* For what is written past the calls below: the system calls to make, and
 * to be told of @bytes written, after the act and before anything commits that
 * names them: a pin that comes in between takes a snapshot without them, and
 * the next one finds the pack again. */
const struct pack_io *pack_io(const struct pack *pk);
void pack_changed(struct pack *pk, uint64_t bytes);

/* Whole requests: short reads only at the end of the pack, no short writes
 * (after an error part of it may be there). -EROFS when the file system was
 * read-only already as the pack was opened. */
ssize_t pack_read(struct pack *pk, void *buf, size_t len, uint64_t off);
int pack_write(struct pack *pk, const void *buf, size_t len, uint64_t off);
int pack_truncate(struct pack *pk, uint64_t size);
/* fallocate(2) with its own modes; changes the pack. */
int pack_fallocate(struct pack *pk, int mode, uint64_t off, uint64_t len);
/* Before an append, so that it takes no more than that (packio.h). */
int pack_preallocate(struct pack *pk, uint64_t off, uint64_t len);
/* The first @len bytes of @from, to the empty @to: reflink where the file
 * system can. */
int pack_clone(struct pack *from, struct pack *to, uint64_t len);
/* copy_file_range(2) between packs; bytes copied, may be short. */
ssize_t pack_copy_range(struct pack *from, uint64_t from_off, struct pack *to,
			uint64_t to_off, uint64_t len);
/* When its file was changed last, in ns since 1970: the file system below sets
 * that at each change, and pack_set_mtime(), which nobody needs to succeed. */
#define PACK_MTIME_NONE 0
int pack_mtime(struct pack *pk, int64_t *ret_ns);
void pack_set_mtime(struct pack *pk, int64_t ns);
int pack_stat(struct pack *pk, uint64_t *ret_size, uint64_t *ret_disk_bytes);

/* The same of a pack's file, without a use. */
int packs_stat(struct packs *ps, uint64_t id, uint64_t *ret_disk_bytes);

/* See "Freeing" above. A pack that is not there is fine. Uses that are left
 * go on reading and writing. */
void pack_doom(struct packs *ps, uint64_t id);

/*
 * Checkpoints. packs_pin() is called under the index's write lock: the packs
 * changed so far and those doomed so far become @ret's. packs_sync() makes
 * the former durable (and directory entries of new packs); packs_release()
 * frees the latter once the checkpoint is safe, or after a failed one
 * (@safe false) only drops the list and keeps the files. One batch at a time.
 *
 * packs_sync() returns the first error; a pack whose file somebody removed is
 * none (it shows when that file is verified). After -EMFILE, -ENFILE or
 * -ENOMEM nothing is lost and it can be called again with the same batch.
 */
struct packs_batch;
struct packs_batch *packs_pin(struct packs *ps);
int packs_sync(struct packs *ps, struct packs_batch *batch);
void packs_release(struct packs *ps, struct packs_batch *batch, bool safe);

/* Bytes in doomed packs (what a checkpoint would give back; not what waits for
 * its last use after that), and bytes written since the last pin. */
uint64_t packs_doomed_bytes(struct packs *ps);
uint64_t packs_dirty_bytes(struct packs *ps);
/* Some changed since the last pin: written, cut, allocated or created. */
bool packs_changed(struct packs *ps);

/*
 * At open, before any other thread runs: walk packs/. @keep decides for each
 * id whether its file stays: 1 yes, 0 no, < 0 an error that ends the sweep.
 * Others are unlinked; what has no pack's name, and directories, are
 * left alone. The sum of what stays on disk goes to *@ret_bytes.
 */
int packs_sweep(struct packs *ps, int (*keep)(void *arg, uint64_t id),
		void *arg, uint64_t *ret_bytes);

/* Disk bytes of the directory packs/ itself. */
uint64_t packs_dir_bytes(struct packs *ps);

#endif
