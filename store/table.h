/* SPDX-License-Identifier: MIT */
/*
 * Typed access to the index: one record in, one record out.
 *
 * Everything here runs inside the caller's transaction and returns 0 or the
 * index's errors; -ENOENT when there is no such record.
 */
#ifndef STORE_TABLE_H
#define STORE_TABLE_H

#include "store/index.h"
#include "store/record.h"

int table_inode_get(struct index_txn *txn, uint64_t ino, struct inode *ret);
int table_inode_put(struct index_txn *txn, const struct inode *in);
int table_inode_del(struct index_txn *txn, uint64_t ino);

/* A name and its cookie are put and deleted together. */
int table_dirent_get(struct index_txn *txn, uint64_t parent, const char *name,
		     struct dirent_rec *ret);
int table_dirent_put(struct index_txn *txn, uint64_t parent, const char *name,
		     const struct dirent_rec *de);
int table_dirent_del(struct index_txn *txn, uint64_t parent, const char *name,
		     uint64_t cookie);
/* The name at @cookie of @parent, NUL-terminated. */
int table_cookie_get(struct index_txn *txn, uint64_t parent, uint64_t cookie,
		     char name[static RECORD_NAME_MAX + 1]);
/* 1 if @dir has a name in it, be it damaged, 0 if it is empty. */
int table_dir_used(struct index_txn *txn, uint64_t dir);

/*
 * An entry and its place in the LRU change together. @old is the record as
 * last read (its last use is the LRU's key), NULL for a new one.
 */
int table_entry_get(struct index_txn *txn, uint64_t id, struct entry_rec *ret);
int table_entry_put(struct index_txn *txn, uint64_t id,
		    const struct entry_rec *old, const struct entry_rec *en);
int table_entry_del(struct index_txn *txn, uint64_t id,
		    const struct entry_rec *en);

/* Is it what the file @in of that name would be evicted with? */
bool table_entry_fits(const struct entry_rec *en, const struct inode *in,
		      const char *name);

/* Small numbers in table meta. */
/* Not 0: directories moved, or something is damaged; tidy_rescan(). None: as
 * 1, but nobody knows. */
#define TABLE_META_RESCAN "rescan.names"
#define TABLE_META_LOST "lost"	 /* not 0: inodes went, their recipes did not */
#define TABLE_META_LIMIT "limit" /* bytes, as `pipcachefs limit` set it */
#define TABLE_META_MOUNTED "limit.mounted" /* bytes, of the last mount */
#define TABLE_META_WALKED "walked" /* when the index was, unix seconds */
/* Of scrub.h: times in unix seconds, and where it is. */
#define TABLE_META_SCRUB_BEGAN "scrub.began"
#define TABLE_META_SCRUB_ENDED "scrub.ended"
#define TABLE_META_SCRUB_STAGE "scrub.stage"
#define TABLE_META_SCRUB_AT "scrub.at"
#define TABLE_META_SCRUB_DONE "scrub.done"
#define TABLE_META_SCRUB_ALL "scrub.all"
int table_meta_get(struct index_txn *txn, const char *name, uint64_t *ret);
int table_meta_put(struct index_txn *txn, const char *name, uint64_t value);

/*
 * The directories from the root down to a directory: what layout wants.
 * @n > LAYOUT_DEPTH_MAX: deeper than anything we know; names are not filled.
 */
#define TABLE_PATH_MAX 16
struct table_path {
	unsigned n;
	uint64_t ino[TABLE_PATH_MAX + 1]; /* ino[0] is the root, ino[n] @dir */
	const char
		*dirs[TABLE_PATH_MAX]; /* dirs[i] is the name of ino[i + 1] */
	char names[TABLE_PATH_MAX][RECORD_NAME_MAX + 1];
};
int table_path(struct index_txn *txn, uint64_t dir, struct table_path *ret);

#endif
