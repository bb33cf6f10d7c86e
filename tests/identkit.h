/* SPDX-License-Identifier: MIT */
/*
 * Responses as pip's cache has them, built in memory.
 *
 *	struct reply p = { 0 };
 *	reply_begin(&p, body, body_len, n_headers);
 *	reply_header(&p, "x-pypi-file-project", "numpy"); ...
 *	reply_end(&p);
 *	... p.buf, p.len ...
 */
#ifndef TESTS_IDENTKIT_H
#define TESTS_IDENTKIT_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "store/ident.h"

struct reply {
	uint8_t buf[256 * 1024];
	size_t len;
};

static inline void reply_bytes(struct reply *p, const void *bytes, size_t len)
{
	assert(len <= sizeof(p->buf) - p->len);
	memcpy(p->buf + p->len, bytes, len);
	p->len += len;
}

static inline void reply_byte(struct reply *p, unsigned b)
{
	const uint8_t byte = (uint8_t)b;

	reply_bytes(p, &byte, 1);
}

/* A text: fixstr, or str 16. */
static inline void reply_text(struct reply *p, const char *text)
{
	size_t len = strlen(text);

	if (len < 32) {
		reply_byte(p, 0xa0 | (unsigned)len);
	} else {
		reply_byte(p, 0xda);
		reply_byte(p, (unsigned)len >> 8);
		reply_byte(p, len & 0xff);
	}
	reply_bytes(p, text, len);
}

/* bin 32 */
static inline void reply_blob(struct reply *p, const void *bytes, size_t len)
{
	reply_byte(p, 0xc6);
	for (int shift = 24; shift >= 0; shift -= 8)
		reply_byte(p, len >> shift & 0xff);
	reply_bytes(p, bytes, len);
}

/* Up to the headers, of which there will be @headers. */
static inline void reply_begin(struct reply *p, const void *body, size_t len,
			       unsigned headers)
{
	p->len = 0;
	reply_bytes(p, "cc=4,", 5);
	reply_byte(p, 0x82);
	reply_text(p, "response");
	reply_byte(p, 0x84);
	reply_text(p, "body");
	reply_blob(p, body, len);
	reply_text(p, "headers");
	reply_byte(p, 0xde);
	reply_byte(p, headers >> 8);
	reply_byte(p, headers & 0xff);
}

static inline void reply_header(struct reply *p, const char *name,
				const char *value)
{
	reply_text(p, name);
	reply_text(p, value);
}

static inline void reply_end(struct reply *p)
{
	reply_text(p, "status");
	reply_byte(p, 0xcc); /* uint 8 */
	reply_byte(p, 200);
	reply_text(p, "decode_content");
	reply_byte(p, 0xc2); /* false */
	reply_text(p, "vary");
	reply_byte(p, 0x80);
}

/* A source that reads from memory, and counts. */
struct identkit_file {
	const uint8_t *buf; /* borrowed */
	size_t len;
	uint64_t bytes; /* read so far */
	unsigned reads;
	unsigned fail_at; /* the call that fails with -EIO, 1 is the first */
};

static inline int identkit_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct identkit_file *f = arg;

	assert(len && len <= f->len && off <= f->len - len);
	if (++f->reads == f->fail_at)
		return -EIO;
	f->bytes += len;
	memcpy(buf, f->buf + off, len);
	return 0;
}

/* @body may be NULL. */
static inline int identkit_response(struct identkit_file *head,
				    struct identkit_file *body,
				    struct ident *ret)
{
	struct wheel_source h = { identkit_read, head, head->len };
	struct wheel_source b = { identkit_read, body, body ? body->len : 0 };

	return ident_response(&h, body ? &b : NULL, ret);
}

/* What holds of any answer. */
static inline void identkit_check(const struct ident *id)
{
	size_t n = strnlen(id->project, sizeof(id->project));
	size_t m = strnlen(id->version, sizeof(id->version));

	assert(id->kind <= IDENT_PAGE);
	assert(n <= IDENT_PROJECT_MAX && m <= IDENT_VERSION_MAX);
	assert(!n == !m);
	for (size_t i = 0; i < n; i++)
		assert(strchr("abcdefghijklmnopqrstuvwxyz0123456789-",
			      id->project[i]));
	for (size_t i = 0; i < m; i++)
		assert(strchr("abcdefghijklmnopqrstuvwxyz0123456789._+!-",
			      id->version[i]));
}

#endif
