/* SPDX-License-Identifier: MIT */
#include "store/response.h"

#include <string.h>
#include <strings.h>

#define RESPONSE_MAGIC "cc=4,"
#define RESPONSE_WINDOW 512 /* read at a time */
#define RESPONSE_NOT 1	    /* it is no response: ends the reading */

/* Reads forward, through a window. */
struct response_reader {
	const struct wheel_source *src;
	uint64_t at;	 /* what comes next */
	uint64_t budget; /* bytes that may still be read */
	uint64_t off;	 /* of the window */
	size_t len;	 /* bytes in it */
	uint8_t window[RESPONSE_WINDOW];
};

/* One value begins: its payload is next. */
struct response_token {
	enum { TOKEN_SCALAR, TOKEN_BYTES, TOKEN_ARRAY, TOKEN_MAP } type;
	uint64_t n; /* bytes, values or pairs */
};

/* The window from the next byte on. */
static int response_fill(struct response_reader *rd)
{
	uint64_t left = rd->src->size - rd->at;
	size_t len =
		left < sizeof(rd->window) ? (size_t)left : sizeof(rd->window);

	if (!len || len > rd->budget)
		return RESPONSE_NOT;
	rd->budget -= len;
	rd->off = rd->at;
	rd->len = len;
	return rd->src->read(rd->src->arg, rd->off, rd->window, len);
}

static int response_bytes(struct response_reader *rd, void *buf, size_t len)
{
	uint8_t *p = buf;
	int r;

	if (len > rd->src->size - rd->at)
		return RESPONSE_NOT;
	while (len) {
		size_t have;

		if (rd->at < rd->off || rd->at - rd->off >= rd->len) {
			r = response_fill(rd);
			if (r)
				return r;
		}
		have = rd->len - (size_t)(rd->at - rd->off);
		if (have > len)
			have = len;
		memcpy(p, rd->window + (rd->at - rd->off), have);
		p += have;
		len -= have;
		rd->at += have;
	}
	return 0;
}

static int response_step(struct response_reader *rd, uint64_t len)
{
	if (len > rd->src->size - rd->at)
		return RESPONSE_NOT;
	rd->at += len;
	return 0;
}

/* A big-endian number of @len bytes. */
static int response_number(struct response_reader *rd, unsigned len,
			   uint64_t *ret)
{
	uint8_t b[8];
	int r = response_bytes(rd, b, len);

	if (r)
		return r;
	*ret = 0;
	for (unsigned i = 0; i < len; i++)
		*ret = *ret << 8 | b[i];
	return 0;
}

/*
 * Types 0xc0 to 0xdf of MessagePack: @count bytes hold how many bytes, values
 * or pairs follow, and @more bytes follow in any case.
 */
static const struct {
	uint8_t count, more, type;
} response_types[32] = {
	[0x04] = { 1, 0, TOKEN_BYTES },	  [0x05] = { 2, 0, TOKEN_BYTES },
	[0x06] = { 4, 0, TOKEN_BYTES },	  [0x07] = { 1, 1, TOKEN_BYTES },
	[0x08] = { 2, 1, TOKEN_BYTES },	  [0x09] = { 4, 1, TOKEN_BYTES },
	[0x0a] = { 0, 4, TOKEN_SCALAR },  [0x0b] = { 0, 8, TOKEN_SCALAR },
	[0x0c] = { 0, 1, TOKEN_SCALAR },  [0x0d] = { 0, 2, TOKEN_SCALAR },
	[0x0e] = { 0, 4, TOKEN_SCALAR },  [0x0f] = { 0, 8, TOKEN_SCALAR },
	[0x10] = { 0, 1, TOKEN_SCALAR },  [0x11] = { 0, 2, TOKEN_SCALAR },
	[0x12] = { 0, 4, TOKEN_SCALAR },  [0x13] = { 0, 8, TOKEN_SCALAR },
	[0x14] = { 0, 2, TOKEN_SCALAR },  [0x15] = { 0, 3, TOKEN_SCALAR },
	[0x16] = { 0, 5, TOKEN_SCALAR },  [0x17] = { 0, 9, TOKEN_SCALAR },
	[0x18] = { 0, 17, TOKEN_SCALAR }, [0x19] = { 1, 0, TOKEN_BYTES },
	[0x1a] = { 2, 0, TOKEN_BYTES },	  [0x1b] = { 4, 0, TOKEN_BYTES },
	[0x1c] = { 2, 0, TOKEN_ARRAY },	  [0x1d] = { 4, 0, TOKEN_ARRAY },
	[0x1e] = { 2, 0, TOKEN_MAP },	  [0x1f] = { 4, 0, TOKEN_MAP },
};

static int response_token(struct response_reader *rd,
			  struct response_token *ret)
{
	struct response_token t = { .type = TOKEN_SCALAR };
	uint8_t b;
	int r = response_bytes(rd, &b, 1);

	if (r)
		return r;
	if (b >= 0x80 && b < 0x90) {
		t = (struct response_token){ TOKEN_MAP, b & 0x0f };
	} else if (b >= 0x90 && b < 0xa0) {
		t = (struct response_token){ TOKEN_ARRAY, b & 0x0f };
	} else if (b >= 0xa0 && b < 0xc0) {
		t = (struct response_token){ TOKEN_BYTES, b & 0x1f };
	} else if (b >= 0xc0 && b < 0xe0) {
		t.type = response_types[b - 0xc0].type;
		r = response_number(rd, response_types[b - 0xc0].count, &t.n);
		if (!r)
			r = response_step(rd, response_types[b - 0xc0].more);
	}
	*ret = t;
	return r;
}

/* One value, with all that is in it. Each costs a byte of the budget. */
static int response_skip(struct response_reader *rd)
{
	struct response_token t;
	int r = 0;

	for (uint64_t left = 1; left && !r; left--) {
		r = response_token(rd, &t);
		if (r)
			return r;
		if (t.type == TOKEN_BYTES)
			r = response_step(rd, t.n);
		else if (t.type == TOKEN_ARRAY)
			left += t.n;
		else if (t.type == TOKEN_MAP)
			left += 2 * t.n;
	}
	return r;
}

/* A text; "" if it is longer than fits or holds a NUL. */
static int response_text(struct response_reader *rd,
			 char buf[static RESPONSE_TEXT_MAX])
{
	struct response_token t;
	int r = response_token(rd, &t);

	*buf = '\0';
	if (r || t.type != TOKEN_BYTES)
		return r ? r : RESPONSE_NOT;
	if (t.n >= RESPONSE_TEXT_MAX)
		return response_step(rd, t.n);
	r = response_bytes(rd, buf, (size_t)t.n);
	buf[t.n] = '\0';
	if (!r && strlen(buf) != t.n)
		*buf = '\0';
	return r;
}

static int response_map(struct response_reader *rd, uint64_t *ret_pairs)
{
	struct response_token t;
	int r = response_token(rd, &t);

	if (r || t.type != TOKEN_MAP)
		return r ? r : RESPONSE_NOT;
	*ret_pairs = t.n;
	return 0;
}

static int response_headers(struct response_reader *rd, struct response *res)
{
	const struct {
		const char *name;
		char *value;
	} wanted[] = {
		{ "x-pypi-file-project", res->project },
		{ "x-pypi-file-version", res->version },
		{ "x-pypi-file-package-type", res->package_type },
		{ "content-type", res->content_type },
	};
	char name[RESPONSE_TEXT_MAX];
	uint64_t pairs;
	int r = response_map(rd, &pairs);

	for (; !r && pairs; pairs--) {
		size_t i = 0;

		r = response_text(rd, name);
		if (r)
			return r;
		while (i < ARRAY_SIZE(wanted) &&
		       strcasecmp(name, wanted[i].name) != 0)
			i++;
		r = i < ARRAY_SIZE(wanted) ? response_text(rd, wanted[i].value)
					   : response_skip(rd);
	}
	return r;
}

static int response_body(struct response_reader *rd, struct response *res)
{
	struct response_token t;
	int r = response_token(rd, &t);

	if (r || t.type != TOKEN_BYTES)
		return r ? r : RESPONSE_NOT;
	res->body_off = rd->at;
	res->body_len = t.n;
	return response_step(rd, t.n);
}

/* The map behind "response". */
static int response_fields(struct response_reader *rd, struct response *res)
{
	char name[RESPONSE_TEXT_MAX];
	bool headers = false;
	uint64_t pairs;
	int r = response_map(rd, &pairs);

	for (; !r && pairs; pairs--) {
		r = response_text(rd, name);
		if (r)
			return r;
		if (strcmp(name, "body") == 0) {
			r = response_body(rd, res);
		} else if (strcmp(name, "headers") == 0) {
			r = response_headers(rd, res);
			headers = true;
		} else {
			r = response_skip(rd);
		}
	}
	return r ? r : headers ? 0 : RESPONSE_NOT;
}

static int response_all(struct response_reader *rd, struct response *res)
{
	char name[RESPONSE_TEXT_MAX];
	uint64_t pairs;
	int r = response_bytes(rd, name, strlen(RESPONSE_MAGIC));

	if (!r && memcmp(name, RESPONSE_MAGIC, strlen(RESPONSE_MAGIC)) != 0)
		return RESPONSE_NOT;
	if (!r)
		r = response_map(rd, &pairs);
	while (!r && pairs--) {
		r = response_text(rd, name);
		if (!r && strcmp(name, "response") == 0)
			return response_fields(rd, res);
		if (!r)
			r = response_skip(rd);
	}
	return r ? r : RESPONSE_NOT;
}

int response_read(const struct wheel_source *src, struct response *ret)
{
	struct response_reader rd = { .src = src, .budget = RESPONSE_READ_MAX };
	struct response res = { .body_len = 0 };
	int r = response_all(&rd, &res);

	if (r < 0)
		return r;
	if (r == RESPONSE_NOT)
		return 0;
	*ret = res;
	return 1;
}
