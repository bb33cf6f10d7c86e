/* SPDX-License-Identifier: MIT */
#include "store/mdbfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "store/base.h"

/*
 * A meta page, as the compiler lays out LMDB's structs on 64-bit machines:
 *   0 u64 page number  8 u16 0  10 u16 flags (P_META)  12 u32 0
 *  16 u32 magic       20 u32 version   24 u64 address  32 u64 map size
 *  40 record of the free list (48 bytes; the page size stands in its first 4)
 *  88 record of the names of tables (48)
 * 136 u64 last page  144 u64 transaction
 *
 * A table record:
 *   0 u32 0   4 u16 flags   6 u16 depth   8 u64 branch pages
 *  16 u64 leaf pages   24 u64 overflow pages   32 u64 entries   40 u64 root
 */
enum {
	META_FLAGS = 10,
	META_MAGIC = 16,
	META_VERSION = 20,
	META_FREE = 40,
	META_PAGE_SIZE = META_FREE,
	META_MAIN = 88,
	META_LAST_PAGE = 136,
	META_TXNID = 144,
	META_END = 152,
};

#define FLAG_META 0x08
#define MAGIC 0xBEEFC0DEu
#define VERSION 1

_Static_assert(sizeof(size_t) == 8, "the layout above is that of 64 bits");

static uint64_t get_u64(const uint8_t *meta, size_t at)
{
	uint64_t v;

	memcpy(&v, meta + at, sizeof(v));
	return v;
}

static uint32_t get_u32(const uint8_t *meta, size_t at)
{
	uint32_t v;

	memcpy(&v, meta + at, sizeof(v));
	return v;
}

static bool page_sane(const uint8_t *meta)
{
	uint16_t flags;

	memcpy(&flags, meta + META_FLAGS, sizeof(flags));
	return (flags & FLAG_META) && get_u32(meta, META_MAGIC) == MAGIC &&
	       get_u32(meta, META_VERSION) == VERSION &&
	       get_u64(meta, META_LAST_PAGE) >= 1 &&
	       get_u64(meta, META_LAST_PAGE) < UINT32_MAX;
}

/* Transactions take turns: each writes the page of its own parity. */
static bool page_has_turn(const uint8_t *meta, uint64_t which)
{
	uint64_t txnid = get_u64(meta, META_TXNID);

	return !txnid || (txnid & 1) == which;
}

bool mdbfile_in_turn(const uint8_t *meta, uint64_t page_size)
{
	return page_has_turn(meta, 0) && page_has_turn(meta + page_size, 1);
}

/* The newer page: LMDB's own choice. */
static const uint8_t *newer(const uint8_t *meta, uint64_t page_size)
{
	const uint8_t *second = meta + page_size;

	return get_u64(meta, META_TXNID) < get_u64(second, META_TXNID) ? second
								       : meta;
}

bool mdbfile_page_size_sane(uint64_t page_size)
{
	return page_size >= MDBFILE_PAGE_MIN && page_size <= MDBFILE_PAGE_MAX &&
	       (page_size & (page_size - 1)) == 0;
}

bool mdbfile_sane(const uint8_t *meta, uint64_t page_size, uint64_t txnid)
{
	const uint8_t *second = meta + page_size;

	return mdbfile_page_size_sane(page_size) && page_sane(meta) &&
	       page_sane(second) &&
	       get_u32(meta, META_PAGE_SIZE) == page_size &&
	       get_u32(second, META_PAGE_SIZE) == page_size &&
	       mdbfile_txnid(meta, page_size) == txnid;
}

uint64_t mdbfile_pages(const uint8_t *meta, uint64_t page_size)
{
	return get_u64(newer(meta, page_size), META_LAST_PAGE) + 1;
}

uint64_t mdbfile_txnid(const uint8_t *meta, uint64_t page_size)
{
	return get_u64(newer(meta, page_size), META_TXNID);
}

struct mdbfile_table mdbfile_table(
	const uint8_t record[static MDBFILE_TABLE_SIZE])
{
	uint16_t flags;
	uint16_t depth;

	memcpy(&flags, record + 4, sizeof(flags));
	memcpy(&depth, record + 6, sizeof(depth));
	return (struct mdbfile_table){ .flags = flags,
				       .depth = depth,
				       .branch_pages = get_u64(record, 8),
				       .leaf_pages = get_u64(record, 16),
				       .overflow_pages = get_u64(record, 24),
				       .entries = get_u64(record, 32),
				       .root = get_u64(record, 40) };
}

struct mdbfile_table mdbfile_free_table(const uint8_t *meta, uint64_t page_size)
{
	return mdbfile_table(newer(meta, page_size) + META_FREE);
}

struct mdbfile_table mdbfile_main_table(const uint8_t *meta, uint64_t page_size)
{
	return mdbfile_table(newer(meta, page_size) + META_MAIN);
}

int mdbfile_page_size(int fd, uint64_t *ret)
{
	uint8_t head[META_END];
	ssize_t n = pread(fd, head, sizeof(head), 0);

	if (n < 0)
		return -errno;
	if (n != sizeof(head) || !page_sane(head) ||
	    !mdbfile_page_size_sane(get_u32(head, META_PAGE_SIZE)))
		return -EBADMSG;
	*ret = get_u32(head, META_PAGE_SIZE);
	return 0;
}

int mdbfile_restore(int dir_fd, const uint8_t *meta, uint64_t page_size)
{
	cleanup_close int fd =
		openat(dir_fd, MDBFILE_NAME, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	size_t len = 2 * page_size;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = pwrite(fd, meta, len, 0);
	if (n < 0)
		return -errno;
	if ((size_t)n != len)
		return -EIO;
	return fdatasync(fd) < 0 ? -errno : 0;
}
