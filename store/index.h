/* SPDX-License-Identifier: MIT */
/*
 * The index: named tables in one LMDB environment, with checksummed values.
 *
 * With env.c below it the only place that knows LMDB. Commits go to the page
 * cache, not to the disk (MDB_NOSYNC, no WRITEMAP, MDB_NOTLS): a killed
 * process loses nothing, a power cut loses what came after the last
 * checkpoint (see checkpoint.h).
 *
 *	index_open()	once per process, after any fork, under the store's lock
 *	index_begin() ... index_get/put/del ... index_commit() | index_abort()
 *	index_close()
 *
 * Write transactions exclude each other; readers see the last commit. Keep
 * both short, never hold one across a reply, a wait or a fork.
 *
 * Errors of all calls: -ENOENT no such key, -EEXIST, -EBADMSG a value does not
 * match its checksum or its size, -ENOSPC the map or the disk is full, -EROFS
 * the index is frozen (index_freeze()), -EIO, -ENOMEM. After -ENOSPC,
 * -EIO or -ENOMEM in a write transaction its other calls, and its commit, fail
 * with the same.
 */
#ifndef STORE_INDEX_H
#define STORE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base.h"
#include "store/record.h"
#include "store/schema.h"

#define INDEX_MAP_BYTES (64 * GIB) /* address space only */
#define INDEX_VALUE_MAX 65536	   /* bytes; larger values are refused */
#define INDEX_COMMIT_PAGES 8 /* that a small transaction rewrites on average */
#define INDEX_ID_STEP 4096   /* ids reserved at a time */
#define INDEX_RESTORE_STEP (UINT64_C(1) << 32) /* skipped after a restore */
/* INDEX_ANEW begins at the unix seconds times two to this, which leaves each
 * second as many ids, and room for restores, up to the year 2106. */
#define INDEX_ANEW_SHIFT 31

enum index_flags {
	INDEX_RDONLY = 1 << 0,	 /* open: no writer will begin, nowhere */
	INDEX_RESTORED = 1 << 1, /* open: skip INDEX_RESTORE_STEP ids */
	INDEX_LIVE = 1 << 2,	 /* open: commit nothing */
	INDEX_ANEW = 1 << 3,	 /* open a new one: no inode number of an */
				 /* earlier one may come again */
};

struct index;
struct index_txn;

/*
 * Open or create the environment in directory @path (data.mdb, lock.mdb).
 * Unless INDEX_RDONLY or INDEX_LIVE is given this commits once, to make missing
 * tables and to go on with ids that were never handed out. INDEX_LIVE is for an
 * index whose newest snapshot is not that of the last checkpoint: there are no
 * ids before index_top_up_ids(), which must not come before a checkpoint.
 * @changed:  called (from committing threads, no lock held that the callee
 *            could want, but possibly in the middle of a store operation: it
 *            must not block) at the first commit after a pin, and when the
 *            file has grown by @growth_bytes since the last pin.
 */
int index_open(const char *path, int flags, uint64_t growth_bytes,
	       struct notify changed, struct index **ret);
void index_close(struct index *ix); /* NULL is fine; no transaction is open */

/* Bytes of a value that still fit a leaf page (an overflow page costs 4 KiB)
 * under an 8-byte key, the checksum already deducted. */
size_t index_leaf_max(const struct index *ix);

/* The newest commit. */
uint64_t index_txnid(const struct index *ix);

/* Bytes that data.mdb takes on disk now (st_blocks, at least its size). */
uint64_t index_disk_bytes(const struct index *ix);

/*
 * What one operation adds to the file. Measured in an index of 10^5 files
 * under a pin, with a long free list: one file replaced by another in all
 * tables takes 48 new pages at most, two of them in one transaction 73. As
 * the file gets its blocks ahead, in steps, that is 96 pages of disk
 * (tests/test_snapshot.c).
 */
#define INDEX_TXN_PAGES 128

/* The most that one small transaction (a namespace operation) can add to the
 * file, in bytes. */
uint64_t index_txn_bound(const struct index *ix);
/* The same of one that adds or drops @blocks blocks. */
uint64_t index_blocks_bound(const struct index *ix, unsigned blocks);

struct index_stat {
	uint64_t page_size;
	uint64_t file_pages; /* up to the last one in use */
	uint64_t free_pages; /* of those, in the free list */
	uint64_t txnid;	     /* newest commit */
	uint64_t entries[INDEX_TABLES];
};
int index_stat(struct index *ix, struct index_stat *ret);

/*
 * All further write transactions get -EROFS. Never undone; @changed is called.
 * The index freezes by itself when a commit says that the file system has
 * become read-only, and when one fails after which LMDB refuses every
 * transaction: reading is -EIO then.
 */
void index_freeze(struct index *ix);
bool index_frozen(const struct index *ix);

/*
 * A fresh id, never handed out before, also not by an earlier process or
 * before a restore. Any thread, in or outside of transactions. Calls @changed
 * when half of a step is used up, so that a checkpoint brings more if no
 * commit does.
 * -EAGAIN: at least INDEX_ID_STEP ids were taken without one commit.
 */
int index_new_id(struct index *ix, enum index_id which, uint64_t *ret);

/* Make ids available again in a transaction of its own, where they run low.
 * Called by each checkpoint; not inside a write transaction. */
int index_top_up_ids(struct index *ix);

/* Transactions. One thread each. */
int index_begin(struct index *ix, bool write, struct index_txn **ret);
int index_commit(struct index_txn *txn); /* frees @txn, on failure too */
void index_abort(struct index_txn *txn); /* NULL is fine */

static inline void index_abortp(struct index_txn **txn)
{
	index_abort(*txn);
}
/* Abort at the end of scope unless committed: index_commit(steal_ptr(txn)). */
#define cleanup_txn __attribute__((cleanup(index_abortp)))

/* Copy a value out. Returns its length; -EBADMSG if it exceeds @size. */
ssize_t index_get(struct index_txn *txn, enum index_table table,
		  const struct record_key *key, void *buf, size_t size);

/* Insert or replace; with @fresh -EEXIST if the key is there. */
int index_put(struct index_txn *txn, enum index_table table,
	      const struct record_key *key, const void *val, size_t len,
	      bool fresh);
int index_del(struct index_txn *txn, enum index_table table,
	      const struct record_key *key);

/*
 * Iterate over keys >= @from in order that share its first @prefix_len bytes.
 *
 *	struct index_iter it = INDEX_ITER_INIT; // with cleanup_iter
 *	r = index_iter(txn, table, &from, 8, &it);
 *	while (r >= 0 && (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0)
 *
 * index_next(): 1 = one record copied out, 0 = end, < 0 error. A value that
 * fails its checksum is -EBADMSG with @key filled in; the next call goes on
 * behind it. In a write transaction the records of the table may be changed
 * or deleted between calls: iteration goes on behind the last key.
 */
struct index_iter {
	struct index_txn *txn;
	void *cursor; /* owned; private */
	enum index_table table;
	size_t prefix_len;
	bool started;
	struct record_key at; /* last key returned, or where to begin */
};
#define INDEX_ITER_INIT                                                        \
	{                                                                      \
		.txn = NULL                                                    \
	}
int index_iter(struct index_txn *txn, enum index_table table,
	       const struct record_key *from, size_t prefix_len,
	       struct index_iter *it);
int index_next(struct index_iter *it, struct record_key *ret_key, void *buf,
	       size_t size, size_t *ret_len);
void index_iter_release(struct index_iter *it); /* before the txn ends */
#define cleanup_iter __attribute__((cleanup(index_iter_release)))

/*
 * Snapshots for checkpoints.
 *
 * index_pin() takes the write lock for a moment (no writer is inside a
 * transaction then), pins the newest snapshot, and calls @under_lock (may be
 * NULL; not when the pin failed): LMDB reuses none of its pages until
 * index_unpin(). @ret->meta gets pages 0 and 1; mdbfile_restore() puts them
 * back. Works on a frozen index too.
 */
struct index_snap {
	void *txn; /* private */
	uint64_t txnid;
	int fd; /* of data.mdb; the index's */
	uint64_t page_size;
	uint8_t *meta; /* 2 * page_size bytes, in the same allocation */
};
int index_pin(struct index *ix, void (*under_lock)(void *arg), void *arg,
	      struct index_snap **ret);
void index_unpin(struct index *ix, struct index_snap *snap); /* NULL fine */

/* The same for who only wants to read the snapshot from the file: it is no
 * checkpoint, what is counted since the last pin goes on. */
int index_snapshot(struct index *ix, struct index_snap **ret);

/* Another @growth_bytes from now on, and how much may be rewritten between two
 * pins (see index_overgrown()). Any thread. */
void index_set_growth(struct index *ix, uint64_t bytes, uint64_t most_bytes);

/* True when the file has grown by @growth_bytes since the last pin: what
 * tells the two reasons for calling @changed apart. */
bool index_grown(struct index *ix);

/*
 * True when the commits since the last pin have rewritten as much as they may:
 * writers should wait for a checkpoint. Pages that a commit replaces are free
 * only two pins later, so it is the rate of commits, not the growth so far,
 * that decides how large the file becomes.
 */
bool index_overgrown(struct index *ix);

/* Everything committed so far to the disk (fdatasync). */
int index_sync(struct index *ix);

/* Write a compact copy of the environment to the (empty) directory @path. */
int index_copy_compact(struct index *ix, const char *path);

#endif
