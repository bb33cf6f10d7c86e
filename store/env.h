/* SPDX-License-Identifier: MIT */
/*
 * An LMDB environment the way the index uses it: commits go to the page
 * cache only (MDB_NOSYNC, no WRITEMAP), readers belong to no thread
 * (MDB_NOTLS). Knows nothing of what is stored. Together with index.c the
 * only place that knows LMDB.
 *
 *	env_open()
 *	env_begin() ... mdb_txn_commit() | mdb_txn_abort()
 *	env_close()	no transaction is open
 */
#ifndef STORE_ENV_H
#define STORE_ENV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lmdb.h>

#define ENV_READERS_MAX 256
#define ENV_EXTENT_BYTES 65536 /* of data.mdb on xfs, a multiple of blocks */
#define ENV_FREE_DBI 0	       /* LMDB's own table of free pages */

struct env {
	MDB_env *mdb; /* owned */
	int fd;	      /* of data.mdb; LMDB's */
	bool rdonly;  /* nobody writes: there are no locks */
	uint64_t page_size;
	uint64_t allocated; /* bytes of the file that have blocks; write lock */
	atomic_bool broken; /* LMDB has given it up: see env_begin() */
};

/* LMDB's codes as ours: the errors that index.h lists. */
int env_errno(int rc);

/* @env is zeroed. On failure env_close() is still to be called.
 * -EBADMSG: not an LMDB file, or of another format. */
int env_open(struct env *env, const char *path, uint64_t map_bytes,
	     unsigned tables, bool rdonly);
void env_close(struct env *env); /* zeroed is fine */

/* Once LMDB could not write a meta page it refuses every transaction, to read
 * too, until the environment is opened anew: -EIO, and @env->broken is set. */
int env_begin(struct env *env, bool write, MDB_txn **ret);

/*
 * Open tables by name, once in a process. The handles are good when @mdb has
 * been committed. In a write transaction missing ones are made, which sets
 * *@ret_made: all of them in a new file, and the last ones in a file from
 * before they were there. Any other that is missing is -EBADMSG.
 */
int env_open_tables(MDB_txn *mdb, const char *const *names, unsigned n,
		    MDB_dbi *ret_tables, bool *ret_made);

/*
 * Give the file blocks for @pages more than are in use, in steps of @step
 * pages: on a disk that is full, the next transactions find room. What fails
 * does no harm. The caller has the write lock.
 */
void env_allocate(struct env *env, uint64_t pages, uint64_t step);

/* Commit; @mdb is gone whatever comes back. -ENOSPC also when the disk is so
 * full that less than @room bytes are left: LMDB says EIO then. A failure that
 * breaks @env has told so when this returns. */
int env_commit(struct env *env, MDB_txn *mdb, uint64_t room);

/* Of the newest commit. */
uint64_t env_file_pages(const struct env *env); /* up to the last in use */
uint64_t env_txnid(const struct env *env);

/* The most bytes of a value that stay in the leaf under a key of @key_len. */
size_t env_leaf_max(const struct env *env, size_t key_len);

/* Move @cursor to the first record at or, with @behind, after *@key.
 * Returns LMDB's code. */
int env_seek(MDB_cursor *cursor, bool behind, MDB_val *key, MDB_val *val);

uint64_t env_disk_bytes(const struct env *env);
int env_count_free(MDB_txn *mdb, uint64_t *ret); /* pages */

/*
 * Let LMDB read all that is in directory @path, free pages included, where no
 * environment is open and nobody writes. A table that is not there is none.
 * -EBADMSG: it cannot, or finds other than it counts.
 */
int env_read_all(const char *path, uint64_t map_bytes, const char *const *names,
		 unsigned n);

/*
 * Pin the newest snapshot: LMDB reuses none of its pages until *@ret_pin is
 * aborted. @meta gets pages 0 and 1 as they are with it. From this moment the
 * file is long enough for every page the snapshot names: LMDB may have left
 * out pages at the end that were allocated and given up in one transaction.
 * The caller holds the write lock (an open write transaction).
 */
int env_pin(struct env *env, uint8_t *meta, MDB_txn **ret_pin);

/* Never a shortage (base_is_shortage()): what fails may have lost pages. */
int env_sync(struct env *env);

/* A compact and synced copy as data.mdb in the directory @path. */
int env_copy(struct env *env, const char *path);

#endif
