/* SPDX-License-Identifier: MIT */
/*
 * What the tests of dead ranges share: packs full of bytes that are not zero,
 * and what became of them. On top of storekit.h and packfix.h.
 */
#ifndef TESTS_HOLEFIX_H
#define TESTS_HOLEFIX_H

#include "store/holes.h"
#include "storekit.h"
#include "tests/packfix.h"

#define BLOCK 4096

static struct holes *h;
static struct section *readers;

static inline void open_holes(const struct pack_io *io)
{
	struct holes_config cfg = { .dir_fd = dir_fd,
				    .io = io,
				    .readers = readers,
				    .credit = note_credit };

	ck_assert_int_eq(holes_open(&cfg, &h), 0);
}

static inline uint8_t byte_at(uint64_t i)
{
	return (uint8_t)(1 + i * 31 % 251); /* never 0 */
}

/* A pack of @len bytes, on disk. */
static inline void make_pack(uint64_t id, size_t len)
{
	cleanup_free uint8_t *buf = malloc(len);
	struct pack *pk = NULL;

	ck_assert_ptr_nonnull(buf);
	for (size_t i = 0; i < len; i++)
		buf[i] = byte_at(i);
	ck_assert_int_eq(pack_create(ps, id, &pk), 0);
	ck_assert_int_eq(pack_write(pk, buf, len, 0), 0);
	ck_assert_int_eq(fdatasync(pack_fd_get(pk)), 0);
	pack_fd_put(pk);
	pack_put(pk);
}

static inline uint64_t disk(uint64_t id)
{
	struct pack *pk = got(id);
	uint64_t bytes = disk_of(pk);

	pack_put(pk);
	return bytes;
}

/* The bytes of [@off, @end) are zero, or what was written. */
static inline void check_range(uint64_t id, uint64_t off, uint64_t end,
			       bool zero)
{
	cleanup_free uint8_t *buf = malloc(end - off + 1);
	struct pack *pk = got(id);
	size_t wrong = 0;

	ck_assert_ptr_nonnull(buf);
	ck_assert_int_eq(pack_read(pk, buf, end - off, off),
			 (ssize_t)(end - off));
	for (uint64_t i = off; i < end; i++)
		wrong += buf[i - off] != (zero ? 0 : byte_at(i));
	ck_assert_msg(!wrong, "%zu bytes of [%ju, %ju) are wrong", wrong,
		      (uintmax_t)off, (uintmax_t)end);
	pack_put(pk);
}

#endif
