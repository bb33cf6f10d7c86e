/* SPDX-License-Identifier: MIT */
#include "store/schema.h"

#include "store/record.h"

const char *const schema_tables[INDEX_TABLES] = {
	[INDEX_META] = "meta",	     [INDEX_INODE] = "inode",
	[INDEX_INLINE] = "inline",   [INDEX_DIRENT] = "dirent",
	[INDEX_COOKIE] = "cookie",   [INDEX_PACK] = "pack",
	[INDEX_LRU] = "lru",	     [INDEX_ENTRY] = "entry",
	[INDEX_ORPHAN] = "orphan",   [INDEX_RECIPE] = "recipe",
	[INDEX_BLOCK] = "block",     [INDEX_DIGEST] = "digest",
	[INDEX_PENDING] = "pending", [INDEX_REPLAY] = "replay",
};

const struct schema_id schema_ids[INDEX_IDS] = {
	[INDEX_ID_INO] = { "next_ino", RECORD_ROOT_INO + 1 },
	[INDEX_ID_PACK] = { "next_pack", 1 },
	[INDEX_ID_ENTRY] = { "next_entry", 1 },
	[INDEX_ID_BLOCK] = { "next_block", 1 },
	[INDEX_ID_RECIPE] = { "next_recipe", 1 },
};
