/* SPDX-License-Identifier: MIT */
/*
 * ZIPs built in memory, good ones and bad ones. Their streams are not deflated
 * and their checksums are 0: what is tested looks at neither.
 *
 *	struct zip z = { 0 };
 *	zip_member(&z, "a.py", 100, stamp);
 *	zip_finish(&z, "comment");
 *	... z.buf, z.len ...; patch at z.members[i].local, .central, z.end
 *	zip_release(&z);
 */
#ifndef TESTS_ZIPKIT_H
#define TESTS_ZIPKIT_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZIP_MEMBERS_MAX 64

struct zip_member {
	char name[64];
	size_t local;	/* where its local header stands */
	size_t central; /* where its central record stands */
	uint64_t stream;
	uint16_t flags;
	bool wide; /* lengths and offset in a zip64 extra field */
};

struct zip {
	uint8_t *buf; /* owned */
	size_t len, room;
	size_t shift; /* bytes before the ZIP */
	struct zip_member members[ZIP_MEMBERS_MAX];
	size_t n;
	size_t directory, end64, locator, end; /* where they stand */
};

static inline void zip_release(struct zip *z)
{
	free(z->buf);
	*z = (struct zip){ 0 };
}

/* Append @len bytes of a pattern that depends on @seed. */
static inline void zip_fill(struct zip *z, size_t len, unsigned seed)
{
	if (z->len + len > z->room) {
		z->room = (z->len + len) * 2;
		z->buf = realloc(z->buf, z->room);
		assert(z->buf);
	}
	for (size_t i = 0; i < len; i++)
		z->buf[z->len++] = (uint8_t)(seed + i * 7 % 251);
}

static inline void zip_bytes(struct zip *z, const void *p, size_t len)
{
	zip_fill(z, len, 0);
	memcpy(z->buf + z->len - len, p, len);
}

/* Append a little-endian number of @len bytes. */
static inline void zip_put(struct zip *z, size_t len, uint64_t v)
{
	zip_fill(z, len, 0);
	for (size_t i = 0; i < len; i++)
		z->buf[z->len - len + i] = (uint8_t)(i < 8 ? v >> 8 * i : 0);
}

static inline void zip_patch(struct zip *z, size_t at, size_t len, uint64_t v)
{
	assert(at + len <= z->len);
	for (size_t i = 0; i < len; i++)
		z->buf[at + i] = (uint8_t)(i < 8 ? v >> 8 * i : 0);
}

/* What stands before the ZIP; before any member. */
static inline void zip_prefix(struct zip *z, size_t len)
{
	zip_fill(z, len, 1);
	z->shift = z->len;
}

/* Append a member with a stream of @stream bytes and no descriptor. */
static inline struct zip_member *zip_member(struct zip *z, const char *name,
					    size_t stream, uint32_t stamp)
{
	struct zip_member *m = z->members + z->n++;

	assert(z->n <= ZIP_MEMBERS_MAX);
	snprintf(m->name, sizeof(m->name), "%s", name);
	m->local = z->len;
	m->stream = stream;
	zip_put(z, 4, 0x04034b50);
	zip_put(z, 6, 20);
	zip_put(z, 4, stamp);
	zip_put(z, 4, 0);
	zip_put(z, 8, stream | (uint64_t)stream << 32);
	zip_put(z, 4, strlen(name));
	zip_bytes(z, name, strlen(name));
	zip_fill(z, stream, 2 + (unsigned)z->n);
	return m;
}

/* Append what looks like a data descriptor of @len bytes to the last one. */
static inline void zip_descriptor(struct zip *z, size_t len)
{
	struct zip_member *m = z->members + z->n - 1;

	m->flags |= 1 << 3;
	zip_patch(z, m->local + 6, 2, m->flags);
	zip_fill(z, len, 3);
}

static inline void zip_record(struct zip *z, struct zip_member *m)
{
	uint64_t at = m->local - z->shift;
	uint64_t lens = m->stream | m->stream << 32;

	m->central = z->len;
	zip_put(z, 4, 0x02014b50);
	zip_put(z, 4, 20);
	zip_put(z, 2, m->flags);
	zip_put(z, 10, 0);
	zip_put(z, 8, m->wide ? UINT64_MAX : lens);
	zip_put(z, 2, strlen(m->name));
	zip_put(z, 12, m->wide ? 32 : 0);
	zip_put(z, 4, m->wide ? UINT32_MAX : at);
	zip_bytes(z, m->name, strlen(m->name));
	if (!m->wide)
		return;
	zip_put(z, 4, 0xcafe); /* a field of another kind, empty */
	zip_put(z, 4, 1 | 24 << 16);
	zip_put(z, 8, m->stream);
	zip_put(z, 8, m->stream);
	zip_put(z, 8, at);
}

static inline void zip_directory(struct zip *z)
{
	z->directory = z->len;
	for (size_t i = 0; i < z->n; i++)
		zip_record(z, z->members + i);
}

/* The end record; with @wide its numbers stand only in the zip64 one. */
static inline void zip_end(struct zip *z, bool wide, const char *comment)
{
	uint64_t n = wide ? UINT16_MAX : z->n;

	z->end = z->len;
	zip_put(z, 4, 0x06054b50);
	zip_put(z, 4, 0);
	zip_put(z, 2, n);
	zip_put(z, 2, n);
	zip_put(z, 4,
		wide ? UINT32_MAX
		     : (z->end64 ? z->end64 : z->end) - z->directory);
	zip_put(z, 4, wide ? UINT32_MAX : z->directory - z->shift);
	zip_put(z, 2, strlen(comment));
	zip_bytes(z, comment, strlen(comment));
}

/* The zip64 end record and its locator. */
static inline void zip_end64(struct zip *z)
{
	z->end64 = z->len;
	zip_put(z, 4, 0x06064b50);
	zip_put(z, 8, 44);
	zip_put(z, 4, 45 | 45 << 16);
	zip_put(z, 8, 0);
	zip_put(z, 8, z->n);
	zip_put(z, 8, z->n);
	zip_put(z, 8, z->end64 - z->directory);
	zip_put(z, 8, z->directory - z->shift);
	z->locator = z->len;
	zip_put(z, 8, 0x07064b50);
	zip_put(z, 8, z->end64 - z->shift);
	zip_put(z, 4, 1);
}

static inline void zip_finish(struct zip *z, const char *comment)
{
	zip_directory(z);
	zip_end(z, false, comment);
}

/* Two members. The second one is stamped ZIP_STAMP + 1. */
#define ZIP_STAMP 0x5c21a3b4

static inline void zip_small(struct zip *z, const char *comment)
{
	zip_member(z, "a.py", 100, ZIP_STAMP);
	zip_member(z, "b.py", 5000, ZIP_STAMP + 1);
	zip_finish(z, comment);
}

/* The same with zip64 records behind @prefix bytes. @wide: the end record
 * leaves its numbers to the zip64 one. */
static inline void zip_wide(struct zip *z, size_t prefix, bool wide)
{
	zip_prefix(z, prefix);
	zip_member(z, "a.py", 100, ZIP_STAMP)->wide = true;
	zip_member(z, "b.py", 5000, ZIP_STAMP + 1);
	zip_directory(z);
	zip_end64(z);
	zip_end(z, wide, "c");
}

#endif
