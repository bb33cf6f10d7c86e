/* SPDX-License-Identifier: MIT */
/*
 * What LMDB's pages look like, for those who read them without the library.
 * Meta pages are mdbfile's.
 */
#ifndef STORE_MDBPAGE_H
#define STORE_MDBPAGE_H

#include <stdint.h>
#include <string.h>

/*
 * A page, as LMDB 0.9 lays it out on 64-bit machines:
 *   0 u64 page number   10 u16 flags   12 u16 lower   14 u16 upper
 *  16 u16 offsets of the nodes, up to lower; the nodes lie from upper on.
 *  An overflow page has 12 u32 number of pages, and bytes from 16 on.
 * A node:
 *   0 u32 value length, in a branch the low half of the page number
 *   4 u16 flags, in a branch the rest of it      6 u16 key length
 *   8 key, value; with NODE_BIG the value is a u64 overflow page
 */
enum {
	PAGE_NUMBER = 0,
	PAGE_FLAGS = 10,
	PAGE_LOWER = 12,
	PAGE_UPPER = 14,
	PAGE_HEAD = 16,
	NODE_LENGTH = 0,
	NODE_FLAGS = 4,
	NODE_KEY_LENGTH = 6,
	NODE_HEAD = 8,
};

#define PAGE_BRANCH 0x01
#define PAGE_LEAF 0x02
#define PAGE_OVERFLOW 0x04
#define NODE_BIG 0x01
#define NODE_TABLE 0x02 /* the value is a table record */

/* In the byte order of the machine, as LMDB writes them. */
static inline uint16_t mdbpage_u16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t mdbpage_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t mdbpage_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

#endif
