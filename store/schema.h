/* SPDX-License-Identifier: MIT */
/*
 * What an index has: its tables, and the counters of ids that are never handed
 * out twice. Pure.
 */
#ifndef STORE_SCHEMA_H
#define STORE_SCHEMA_H

#include <stdint.h>

/* In the order in which they were added: a store of an earlier version lacks
 * the last ones. */
enum index_table {
	INDEX_META,
	INDEX_INODE,
	INDEX_INLINE,
	INDEX_DIRENT,
	INDEX_COOKIE,
	INDEX_PACK,
	INDEX_LRU,
	INDEX_ENTRY,
	INDEX_ORPHAN, /* key ino, no value: unlinked but open */
	INDEX_RECIPE,
	INDEX_BLOCK,
	INDEX_DIGEST,
	INDEX_PENDING,
	INDEX_REPLAY,
	INDEX_TABLES
};

enum index_id {
	INDEX_ID_INO,
	INDEX_ID_PACK,
	INDEX_ID_ENTRY,
	INDEX_ID_BLOCK,
	INDEX_ID_RECIPE,
	INDEX_IDS
};

/* As LMDB knows them. */
extern const char *const schema_tables[INDEX_TABLES];

/* The record in table meta with the mark of used ids, and the first id of all. */
struct schema_id {
	const char *name;
	uint64_t first;
};
extern const struct schema_id schema_ids[INDEX_IDS];

#endif
