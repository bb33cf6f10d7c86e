/* SPDX-License-Identifier: MIT */
/*
 * The byte tables of the index: what each table's keys and values look like.
 *
 * Keys are big-endian, so that LMDB's byte order is numeric order. Values are
 * little-endian and start with a version byte where they may grow. The index
 * appends a 4-byte checksum to every value and takes it off again; it is not
 * part of the sizes here. Decoders take hostile bytes: a wrong length, an
 * unknown version or an impossible field is -EBADMSG and leaves the output
 * untouched.
 *
 * Pure: no I/O, no allocation, no locks; any thread.
 */
#ifndef STORE_RECORD_H
#define STORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORD_FORMAT 1	      /* of the store; a newer one is refused */
#define RECORD_NAME_MAX 255   /* bytes of one name, no NUL, no '/' */
#define RECORD_ROOT_INO 1     /* FUSE's root node id */
#define RECORD_KEY_MAX 511    /* LMDB's mdb_env_get_maxkeysize() */
#define RECORD_FIRST_COOKIE 3 /* 1 is ".", 2 is ".." */
#define RECORD_KINDS 5	      /* LAYOUT_KINDS, which is not seen from here */

/* Where an inode's bytes are. */
enum inode_data {
	INODE_DATA_NONE = 0,   /* no bytes (size is 0 or a hole), or no file */
	INODE_DATA_INLINE = 1, /* table inline, whole; symlink targets too */
	INODE_DATA_PACK = 2,   /* a linear pack of its own: offset = offset */
	INODE_DATA_RECIPE = 3, /* blocks, wherever they are */
};

enum inode_flags {
	INODE_WRITERS = 1 << 0, /* has, or had at the last kill, a writer */
	INODE_SUMMED = 1 << 1,	/* xxh3 is that of the bytes */
	INODE_BAD = 1 << 2,	/* known to be damaged: opens are misses */
	INODE_BODY = 1 << 3,	/* its name is that of a cached body */
};

/*
 * inode: key ino (8). Value, 136 bytes:
 *   0 u8 version (1)   1 u8 data   2 u8 kind (enum layout_kind)  3 u8 0
 *   4 u32 flags        8 u32 view  12 u32 mode   16 u32 uid      20 u32 gid
 *  24 u32 nlink       28 u32 0     32 u64 size   40 i64 atime_ns
 *  48 i64 mtime_ns    56 i64 ctime_ns            64 u64 rdev
 *  72 u64 parent      80 u64 cookie              88 u64 next_cookie
 *  96 u64 entry      104 u64 pack 112 u64 xxh3  120 u64 alloc
 * 128 u64 recipe
 */
#define RECORD_INODE_SIZE 136

struct inode {
	uint64_t ino; /* from the key */
	enum inode_data data;
	uint8_t kind; /* enum layout_kind of a regular file's last name */
	uint32_t flags;
	uint32_t view; /* 0 until there are views */
	uint32_t mode; /* type and permissions */
	uint32_t uid;
	uint32_t gid;
	uint32_t nlink;
	uint64_t size; /* bytes; stale while INODE_WRITERS is set */
	int64_t atime_ns;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t rdev;
	uint64_t parent;      /* directory of a name; of a dir: ".." */
	uint64_t cookie;      /* of that name in @parent; 0: it went */
	uint64_t next_cookie; /* directories: for the next new name */
	uint64_t entry;	      /* what it is evicted with, 0: nothing */
	uint64_t pack;	      /* INODE_DATA_PACK */
	uint64_t xxh3;	      /* of all bytes, when INODE_SUMMED */
	uint64_t alloc;	 /* bytes on disk when last closed; of a recipe 0 */
	uint64_t recipe; /* its blocks; 0: not cut. With a pack too: a whole */
			 /* one, read linearly */
};

/*
 * dirent: key parent (8), name. Value, 17 bytes:
 *   0 u64 ino   8 u64 cookie   16 u8 type (DT_*)
 * cookie: key parent (8), cookie (8). Value: the name.
 */
#define RECORD_DIRENT_SIZE 17

struct dirent_rec {
	uint64_t ino;
	uint64_t cookie;
	uint8_t type;
};

/* inline: key ino (8). Value: u64 xxh3 of the bytes, the bytes. */
#define RECORD_INLINE_HEAD 8

/*
 * pack: key pack id (8). Only packs with blocks have one. Value, 32 bytes:
 *   0 u8 version (1)  1 u8 state  2 u16 0  4 u32 0  8 u64 owner ino
 *  16 u64 bytes (end of what is in use)   24 u64 live bytes
 */
#define RECORD_PACK_SIZE 32

enum pack_state {
	PACK_WHOLE = 1,	 /* was staged: the linear bytes of one file */
	PACK_CUT = 2,	 /* blocks that one file brought, or compaction moved */
	PACK_SHARED = 3, /* blocks of many small files */
};

struct pack_rec {
	enum pack_state state;
	uint64_t
		owner; /* the inode that reads it linearly; 0: none (any more) */
	uint64_t bytes;
	uint64_t live; /* sum of the lengths of its blocks */
};

/*
 * block: key block id (8). Value, 44 to RECORD_BLOCK_MAX bytes:
 *   0 SHA-256 (32 bytes)  32 u64 xxh3  40 pack, offset, length, references:
 *  LEB128, for blocks are what the index has most of
 *
 * A block that begins like a ZIP member (see wheel.h) is masked: its stamp is
 * zero in both checksums, and anything on disk. Pack 0, offset 0: it is lost
 * (block.h).
 */
#define RECORD_SHA256_SIZE 32
#define RECORD_BLOCK_HEAD (RECORD_SHA256_SIZE + 8)
#define RECORD_BLOCK_MAX (RECORD_BLOCK_HEAD + 4 * 10)

struct block_rec {
	uint64_t pack;
	uint64_t offset;
	uint64_t length;
	uint64_t xxh3;
	uint32_t refs; /* times that it occurs in recipes */
	uint8_t sha256[RECORD_SHA256_SIZE];
};

/* digest: key first 8 bytes of the SHA-256, block id (8). Value empty. */

/*
 * recipe: key recipe id (8), n (8). Value: runs, 17 bytes each:
 *   0 u64 first block  8 u32 count  12 u8 kind (0 plain, 1 stamped)
 *  13 u32 stamp
 * pending: key recipe id (8). Value, 1 byte: enum recipe_pending. Recipes that
 * no inode has.
 */
#define RECORD_RUN_SIZE 17
#define RECORD_RUNS_MAX 96 /* of a chunk: it fits a leaf of 4 KiB pages */

struct run {
	uint64_t first;
	uint32_t count; /* block ids first .. first + count - 1, in order */
	bool stamped;	/* @stamp goes over the zeros of each */
	uint32_t stamp; /* four bytes as they stand in the file */
};

enum recipe_pending {
	RECIPE_BUILDING = 1,
	RECIPE_DROPPING = 2,
};

/*
 * entry: key entry id (8). Value, 36 bytes and the unit's name:
 *   0 u8 version (1)  1 u8 kind  2 u16 0  4 u32 members  8 u64 dir ino
 *  16 i64 last_use_ns 24 u64 hits  32 u32 0  36 name (0..255 bytes)
 * lru: key queue (1), last use ns (8), entry id (8). Value empty.
 */
#define RECORD_ENTRY_HEAD 36
#define RECORD_ENTRY_MAX (RECORD_ENTRY_HEAD + RECORD_NAME_MAX)

struct entry_rec {
	uint8_t kind;	  /* enum layout_kind */
	uint32_t members; /* names that belong to it */
	uint64_t dir;	  /* directory that holds it, or is it (name empty) */
	int64_t last_use_ns;
	uint64_t hits;
	char name[RECORD_NAME_MAX + 1]; /* of a pair: without ".body" */
};

/* replay: key slot (8). Value: u64 number of the request, u64 ino. */
#define RECORD_REPLAY_SIZE 16

/* meta: key name. Values: u64 each (format, next ids, limit), or bytes. */

/* One key, built in place. */
struct record_key {
	size_t len;
	uint8_t bytes[RECORD_KEY_MAX];
};

struct record_key record_key_id(uint64_t id);
struct record_key record_key_pair(uint64_t id, uint64_t second);
/* @name must be at most RECORD_NAME_MAX bytes (asserted); "" is the first key
 * of a directory. */
struct record_key record_key_name(uint64_t parent, const char *name);
/* A time before 1970 counts as 1970. */
struct record_key record_key_lru(uint8_t queue, int64_t last_use_ns,
				 uint64_t entry);
struct record_key record_key_text(const char *text);

/* The big-endian id at byte @at of a key; -EBADMSG if it does not fit. */
int record_key_get(const struct record_key *key, size_t at, uint64_t *ret);

/* Fixed values: encode fills exactly the size of the table above. */
void record_inode_encode(const struct inode *in,
			 uint8_t buf[static RECORD_INODE_SIZE]);
int record_inode_decode(uint64_t ino, const uint8_t *buf, size_t len,
			struct inode *ret);
void record_dirent_encode(const struct dirent_rec *de,
			  uint8_t buf[static RECORD_DIRENT_SIZE]);
int record_dirent_decode(const uint8_t *buf, size_t len,
			 struct dirent_rec *ret);
void record_pack_encode(const struct pack_rec *pk,
			uint8_t buf[static RECORD_PACK_SIZE]);
int record_pack_decode(const uint8_t *buf, size_t len, struct pack_rec *ret);
/* Returns the bytes used of @buf. */
size_t record_block_encode(const struct block_rec *bl,
			   uint8_t buf[static RECORD_BLOCK_MAX]);
int record_block_decode(const uint8_t *buf, size_t len, struct block_rec *ret);
/* The first 8 bytes of a SHA-256, as table digest has them in its keys. */
uint64_t record_sha256_head(const uint8_t sha256[static RECORD_SHA256_SIZE]);
/* @n runs, at most RECORD_RUNS_MAX; returns the bytes used of @buf. */
size_t record_runs_encode(const struct run *runs, size_t n, uint8_t *buf);
int record_runs_decode(const uint8_t *buf, size_t len,
		       struct run ret[static RECORD_RUNS_MAX], size_t *ret_n);
/* Returns the bytes used of @buf. */
size_t record_entry_encode(const struct entry_rec *en,
			   uint8_t buf[static RECORD_ENTRY_MAX]);
int record_entry_decode(const uint8_t *buf, size_t len, struct entry_rec *ret);
void record_u64_encode(uint64_t v, uint8_t buf[static 8]);
int record_u64_decode(const uint8_t *buf, size_t len, uint64_t *ret);

#endif
