/* SPDX-License-Identifier: MIT */
/*
 * The functions that look at the file return 1 to go on, 0 when it does not
 * add up, or a negative errno. Offsets in the ZIP are relative to its start,
 * which is @shift bytes into the file.
 */
#include "store/wheel.h"

#include <endian.h>
#include <string.h>
#include <strings.h>

#define SIG_LOCAL UINT32_C(0x04034b50)
#define SIG_CENTRAL UINT32_C(0x02014b50)
#define SIG_END UINT32_C(0x06054b50)
#define SIG_END64 UINT32_C(0x06064b50)
#define SIG_LOCATOR UINT32_C(0x07064b50)

#define CENTRAL_LEN 46
#define END_LEN 22
#define END64_LEN 56 /* version 1; version 2 is for encrypted directories */
#define LOCATOR_LEN 20

#define PREFIX_MAX 64		/* bytes before the first member */
#define TRAILING_MAX (64 * KIB) /* bytes behind the comment */
#define TAIL_MIN (4 * KIB)	/* what is searched first */
#define TAIL_MAX (END_LEN + UINT16_MAX + TRAILING_MAX)

#define FLAG_DESCRIPTOR (1 << 3)
#define FLAG_MASKED (1 << 13) /* local headers hide their values */
#define EXTRA_ZIP64 1

/* A local header is read along with those behind it while the next one begins
 * within NEAR: to copy a few KiB costs less than another read. */
#define WINDOW (64 * KIB)
#define NEAR (8 * KIB)
#define WINDOW_MAX (WINDOW + WHEEL_HEADER_LEN + UINT16_MAX)

struct member {
	uint64_t at;	  /* of the local header, in the file */
	uint64_t stream;  /* bytes, compressed */
	uint32_t central; /* where its record stands in the directory */
};

struct cutter {
	const struct wheel_source *src;

	uint64_t shift;	    /* bytes before the ZIP */
	uint64_t at;	    /* of the central directory, in the file */
	uint64_t size;	    /* of it, bytes */
	uint64_t entries;   /* as the end record says */
	uint64_t end;	    /* of the ZIP, in the file */
	uint8_t *directory; /* owned; @size bytes */

	struct member *members; /* owned; in the order of the file */
	size_t n;

	struct wheel_cut *cuts; /* owned */
	size_t made, room;
	uint64_t done; /* bytes of the file that @cuts cover */

	uint8_t *window; /* owned; @len bytes of the file from @from on */
	uint64_t from;
	size_t len;
};

static void wheel_release(struct cutter *c)
{
	free(c->directory);
	free(c->members);
	free(c->cuts);
	free(c->window);
}
#define cleanup_cutter __attribute__((cleanup(wheel_release)))

static unsigned get_u16(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

static uint32_t get_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static int wheel_read(const struct cutter *c, uint64_t off, void *buf,
		      size_t len)
{
	int r = c->src->read(c->src->arg, off, buf, len);

	return r < 0 ? r : 1;
}

/* Does the file begin like a ZIP? Most that are none end here. */
static int wheel_begins(const struct cutter *c)
{
	uint8_t buf[PREFIX_MAX + 4];
	int r;

	if (c->src->size < sizeof(buf))
		return 0;
	r = wheel_read(c, 0, buf, sizeof(buf));
	if (r < 0)
		return r;
	for (size_t i = 0; i <= PREFIX_MAX; i++)
		if (get_u32(buf + i) == SIG_LOCAL)
			return 1;
	return 0;
}

/* ---- The end records ------------------------------------------------------ */

/* Find the last end record in the last @len bytes of the file: as for any
 * reader of ZIPs, it decides. */
static int wheel_find_end(const struct cutter *c, size_t len, uint64_t *ret_at,
			  uint8_t end[END_LEN])
{
	uint64_t off = c->src->size - len;
	cleanup_free uint8_t *tail = malloc(len);
	int r;

	if (!tail)
		return -ENOMEM;
	r = wheel_read(c, off, tail, len);
	if (r < 0)
		return r;
	for (size_t i = len - END_LEN + 1; i--;) {
		if (tail[i] != 'P' || get_u32(tail + i) != SIG_END)
			continue;
		memcpy(end, tail + i, END_LEN);
		*ret_at = off + i;
		return 1;
	}
	return 0;
}

/* A field of the end record says the same as the one of 64 bits, or nothing. */
static bool wheel_agrees(uint64_t narrow, uint64_t none, uint64_t wide)
{
	return narrow == none || narrow == wide;
}

/*
 * The zip64 end record and its locator, if they stand before the end record
 * @end at @at. They must follow one another without a gap: the locator alone
 * can't tell where its record is while the shift is unknown.
 *
 * @ret_at: the end of the directory; @ret_offset: its start as the records say.
 */
static int wheel_end64(struct cutter *c, const uint8_t *end, uint64_t at,
		       uint64_t *ret_at, uint64_t *ret_offset)
{
	uint8_t buf[END64_LEN + LOCATOR_LEN];
	const uint8_t *locator = buf + END64_LEN;
	uint64_t claimed;
	int r;

	if (at < sizeof(buf))
		return 1;
	at -= sizeof(buf);
	r = wheel_read(c, at, buf, sizeof(buf));
	if (r < 0)
		return r;
	if (get_u32(locator) != SIG_LOCATOR)
		return 1;
	claimed = get_u64(locator + 8);
	if (get_u32(locator + 4) || get_u32(locator + 16) > 1 || claimed > at)
		return 0;
	if (get_u32(buf) != SIG_END64 || get_u64(buf + 4) != END64_LEN - 12 ||
	    get_u32(buf + 16) || get_u32(buf + 20) ||
	    get_u64(buf + 24) != get_u64(buf + 32))
		return 0;
	if (!wheel_agrees(get_u16(end + 4), UINT16_MAX, 0) ||
	    !wheel_agrees(get_u16(end + 6), UINT16_MAX, 0) ||
	    !wheel_agrees(c->entries, UINT16_MAX, get_u64(buf + 32)) ||
	    !wheel_agrees(c->size, UINT32_MAX, get_u64(buf + 40)) ||
	    !wheel_agrees(get_u32(end + 16), UINT32_MAX, get_u64(buf + 48)))
		return 0;
	c->entries = get_u64(buf + 32);
	c->size = get_u64(buf + 40);
	c->shift = at - claimed;
	*ret_offset = get_u64(buf + 48);
	*ret_at = at;
	return 1;
}

/* Find the end of the ZIP and, from there, its directory. */
static int wheel_find_directory(struct cutter *c)
{
	size_t most = c->src->size < TAIL_MAX ? (size_t)c->src->size : TAIL_MAX;
	size_t first = most < TAIL_MIN ? most : TAIL_MIN;
	uint8_t end[END_LEN];
	uint64_t at, end_at, offset;
	int r;

	r = wheel_find_end(c, first, &end_at, end);
	if (!r && first < most)
		r = wheel_find_end(c, most, &end_at, end);
	if (r <= 0)
		return r;
	if (get_u16(end + 8) != get_u16(end + 10) ||
	    get_u16(end + 20) > c->src->size - end_at - END_LEN)
		return 0;
	c->end = end_at + END_LEN + get_u16(end + 20);
	c->entries = get_u16(end + 10);
	c->size = get_u32(end + 12);
	offset = get_u32(end + 16);
	at = end_at;
	r = wheel_end64(c, end, end_at, &at, &offset);
	if (r <= 0)
		return r;
	/* Without a zip64 record there is but one disk. */
	if (at == end_at && (get_u16(end + 4) || get_u16(end + 6)))
		return 0;
	if (c->size > at || offset > at - c->size)
		return 0;
	c->at = at - c->size;
	/* The zip64 record has told the shift: then this must tell the same. */
	if (at != end_at && c->at - offset != c->shift)
		return 0;
	c->shift = c->at - offset;
	return c->size <= WHEEL_DIRECTORY_MAX && c->entries &&
	       c->entries <= c->size / CENTRAL_LEN;
}

/* ---- The central directory ------------------------------------------------ */

/* Find extra field @id among the @len bytes @p. */
static const uint8_t *wheel_extra(const uint8_t *p, size_t len, unsigned id,
				  size_t *ret_len)
{
	while (len >= 4) {
		size_t field = get_u16(p + 2);

		if (field > len - 4)
			return NULL;
		if (get_u16(p) == id) {
			*ret_len = field;
			return p + 4;
		}
		p += 4 + field;
		len -= 4 + field;
	}
	return NULL;
}

/* The fields of record @p that are too large for it stand in its extra field,
 * in this order, and only those. False if one is missing. */
static bool wheel_wide(const uint8_t *p, uint64_t *stream, uint64_t *offset)
{
	const uint8_t *extra = p + CENTRAL_LEN + get_u16(p + 28);
	unsigned disk = get_u16(p + 34);
	size_t left = 0;
	uint64_t length = get_u32(p + 24);
	uint64_t *fields[] = { &length, stream, offset };

	extra = wheel_extra(extra, get_u16(p + 30), EXTRA_ZIP64, &left);
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		if (*fields[i] != UINT32_MAX)
			continue;
		if (left < 8)
			return false;
		*fields[i] = get_u64(extra);
		extra += 8;
		left -= 8;
	}
	return !disk || (disk == UINT16_MAX && left >= 4 && !get_u32(extra));
}

/* Decode the record at @pos of the directory. Its member must not begin behind
 * the directory; where it ends is looked at when all are in order.
 * @ret_next: where the next record stands. */
static int wheel_record(const struct cutter *c, size_t pos, struct member *ret,
			size_t *ret_next)
{
	const uint8_t *p = c->directory + pos;
	uint64_t stream, offset;
	size_t len;

	if (c->size - pos < CENTRAL_LEN || get_u32(p) != SIG_CENTRAL)
		return 0;
	len = CENTRAL_LEN + get_u16(p + 28) + get_u16(p + 30) + get_u16(p + 32);
	if (c->size - pos < len || (get_u16(p + 8) & FLAG_MASKED))
		return 0;
	stream = get_u32(p + 20);
	offset = get_u32(p + 42);
	if (!wheel_wide(p, &stream, &offset))
		return 0;
	if (offset > c->at - c->shift)
		return 0;
	*ret = (struct member){ .at = c->shift + offset,
				.stream = stream,
				.central = (uint32_t)pos };
	*ret_next = pos + len;
	return 1;
}

static int wheel_compare(const void *a, const void *b)
{
	const struct member *x = a, *y = b;

	return (x->at > y->at) - (x->at < y->at);
}

/* Read the directory: its records must fill it, and be as many as it says. */
static int wheel_read_directory(struct cutter *c)
{
	bool sorted = true;
	size_t pos = 0;
	int r;

	c->directory = malloc(c->size);
	c->members = calloc(c->entries, sizeof(*c->members));
	if (!c->directory || !c->members)
		return -ENOMEM;
	r = wheel_read(c, c->at, c->directory, c->size);
	if (r < 0)
		return r;
	for (; c->n < c->entries; c->n++) {
		struct member *m = c->members + c->n;

		if (!wheel_record(c, pos, m, &pos))
			return 0;
		sorted = sorted && (!c->n || m[-1].at < m->at);
	}
	if (pos != c->size)
		return 0;
	if (!sorted)
		qsort(c->members, c->n, sizeof(*c->members), wheel_compare);
	return 1;
}

/* ---- The members ---------------------------------------------------------- */

/* Where what follows member @i begins. */
static uint64_t wheel_limit(const struct cutter *c, size_t i)
{
	return i + 1 < c->n ? c->members[i + 1].at : c->at;
}

static size_t wheel_name_len(const struct cutter *c, size_t i)
{
	return get_u16(c->directory + c->members[i].central + 28);
}

/* Bytes worth reading at member @i: its local header and those near it. */
static size_t wheel_ahead(const struct cutter *c, size_t i)
{
	const struct member *m = c->members;
	uint64_t at = m[i].at, end;

	while (i + 1 < c->n && m[i + 1].at - m[i].at <= NEAR &&
	       m[i + 1].at - at <= WINDOW)
		i++;
	end = m[i].at + WHEEL_HEADER_LEN + wheel_name_len(c, i);
	return (end < c->at ? end : c->at) - at;
}

/* Local header and name of member @i, @len bytes, in the window. */
static int wheel_header(struct cutter *c, size_t i, size_t len,
			const uint8_t **ret)
{
	uint64_t at = c->members[i].at;
	int r;

	if (at < c->from || at + len > c->from + c->len) {
		c->from = at;
		c->len = wheel_ahead(c, i);
		r = wheel_read(c, at, c->window, c->len);
		if (r < 0)
			return r;
	}
	*ret = c->window + (at - c->from);
	return 1;
}

static int wheel_add(struct cutter *c, uint64_t len, const uint8_t *header)
{
	struct wheel_cut cut = { .len = len, .stamped = header != NULL };

	if (!len)
		return 1;
	if (c->made == c->room) {
		size_t room = c->room ? c->room * 2 : c->n + 16;
		struct wheel_cut *cuts =
			reallocarray(c->cuts, room, sizeof(*cuts));

		if (!cuts)
			return -ENOMEM;
		c->cuts = cuts;
		c->room = room;
	}
	if (header)
		memcpy(&cut.stamp, header + WHEEL_STAMP_AT, sizeof(cut.stamp));
	c->cuts[c->made++] = cut;
	c->done += len;
	return 1;
}

/* A data descriptor is a checksum and two lengths, of 32 or 64 bits, with or
 * without a signature. It is known by what follows right behind it. */
static uint64_t wheel_descriptor(const uint8_t *central, uint64_t left)
{
	bool fits = left == 12 || left == 16 || left == 20 || left == 24;

	return fits && (get_u16(central + 8) & FLAG_DESCRIPTOR) ? left : 0;
}

static bool wheel_is_gz(const char *name, size_t len)
{
	return (len >= 3 && !strncasecmp(name + len - 3, ".gz", 3)) ||
	       (len >= 4 && !strncasecmp(name + len - 4, ".tgz", 4));
}

/* Cut member @i, and what lies between it and the one before. */
static int wheel_member(struct cutter *c, size_t i)
{
	const struct member *m = c->members + i;
	const uint8_t *central = c->directory + m->central;
	const char *name = (const char *)central + CENTRAL_LEN;
	size_t name_len = wheel_name_len(c, i);
	uint64_t left = wheel_limit(c, i) - m->at;
	const uint8_t *header;
	uint64_t head, rest = 0;
	int r;

	if (left < WHEEL_HEADER_LEN + name_len)
		return 0;
	r = wheel_header(c, i, WHEEL_HEADER_LEN + name_len, &header);
	if (r < 0)
		return r;
	head = WHEEL_HEADER_LEN + name_len + get_u16(header + 28);
	if (get_u32(header) != SIG_LOCAL || get_u16(header + 26) != name_len ||
	    memcmp(header + WHEEL_HEADER_LEN, name, name_len) != 0 ||
	    head > left || m->stream > left - head)
		return 0;
	left = m->stream + wheel_descriptor(central, left - head - m->stream);
	if (m->stream > WHEEL_HEAD_MIN + WHEEL_HEAD &&
	    wheel_is_gz(name, name_len))
		rest = left - WHEEL_HEAD;
	else if (m->stream >= WHEEL_LARGE)
		rest = left;
	r = wheel_add(c, m->at - c->done, NULL);
	if (r > 0)
		r = wheel_add(c, head + left - rest, header);
	return r > 0 ? wheel_add(c, rest, NULL) : r;
}

static int wheel_members(struct cutter *c)
{
	int r;

	c->window = malloc(WINDOW_MAX);
	if (!c->window)
		return -ENOMEM;
	for (size_t i = 0; i < c->n; i++) {
		r = wheel_member(c, i);
		if (r <= 0)
			return r;
	}
	return 1;
}

int wheel_cut(const struct wheel_source *src, struct wheel_cut **ret, size_t *n)
{
	cleanup_cutter struct cutter c = { .src = src };
	int r = wheel_begins(&c);

	if (r > 0)
		r = wheel_find_directory(&c);
	if (r > 0)
		r = wheel_read_directory(&c);
	if (r > 0)
		r = wheel_members(&c);
	if (r > 0)
		r = wheel_add(&c, c.at - c.done, NULL);
	if (r > 0)
		r = wheel_add(&c, c.end - c.at, NULL);
	if (r > 0)
		r = wheel_add(&c, src->size - c.end, NULL);
	if (r <= 0)
		return r;
	*ret = steal_ptr(c.cuts);
	*n = c.made;
	return 1;
}
