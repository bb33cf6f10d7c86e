/* SPDX-License-Identifier: MIT */
/*
 * The file data.mdb from outside, while LMDB does not have it open: its two
 * meta pages, which are all that a restore has to put back.
 *
 * Knows the data format 1 of LMDB 0.9 on 64-bit machines, not the library.
 * Meta pages may hold anything: every field is checked before it is used.
 */
#ifndef STORE_MDBFILE_H
#define STORE_MDBFILE_H

#include <stdbool.h>
#include <stdint.h>

#define MDBFILE_NAME "data.mdb"
#define MDBFILE_PAGE_MIN 512
#define MDBFILE_PAGE_MAX 32768 /* LMDB's own limit */

/* True if @page_size can be one. */
bool mdbfile_page_size_sane(uint64_t page_size);

/* True if @meta (2 * @page_size bytes: pages 0 and 1) is two well-formed meta
 * pages that LMDB 0.9 can read, the newer of which is of transaction @txnid. */
bool mdbfile_sane(const uint8_t *meta, uint64_t page_size, uint64_t txnid);

/* Of two sane ones: is each that of a transaction that writes there? If not,
 * LMDB's next one may overwrite what it goes on from. */
bool mdbfile_in_turn(const uint8_t *meta, uint64_t page_size);

/* Pages up to the last one in use, by the newer of two sane meta pages. */
uint64_t mdbfile_pages(const uint8_t *meta, uint64_t page_size);

/* The newer transaction of two sane meta pages. */
uint64_t mdbfile_txnid(const uint8_t *meta, uint64_t page_size);

/* A table record: of the free list and of the tables' names in the newer meta
 * page, of each table in the tree of names. */
#define MDBFILE_TABLE_SIZE 48

struct mdbfile_table {
	unsigned flags; /* 0: byte order, one value for a key */
	unsigned depth;
	uint64_t branch_pages;
	uint64_t leaf_pages;
	uint64_t overflow_pages;
	uint64_t entries;
	uint64_t root; /* UINT64_MAX: empty */
};

struct mdbfile_table mdbfile_table(
	const uint8_t record[static MDBFILE_TABLE_SIZE]);
struct mdbfile_table mdbfile_free_table(const uint8_t *meta,
					uint64_t page_size);
struct mdbfile_table mdbfile_main_table(const uint8_t *meta,
					uint64_t page_size);

/* The page size that a data.mdb says it has: read from page 0 of @fd.
 * -EBADMSG: not an LMDB file. */
int mdbfile_page_size(int fd, uint64_t *ret);

/* Write @meta to the head of data.mdb in @dir_fd and sync the file. Cut short
 * it can simply be done again. */
int mdbfile_restore(int dir_fd, const uint8_t *meta, uint64_t page_size);

#endif
