/* SPDX-License-Identifier: MIT */
/*
 * What holds for the cuts of any bytes, for the test and the fuzz target of
 * the ZIP cutter; and a source that reads from memory.
 */
#ifndef TESTS_WHEELKIT_H
#define TESTS_WHEELKIT_H

#include "store/wheel.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct wheelkit_file {
	const uint8_t *buf; /* borrowed */
	size_t len;
	unsigned reads;	  /* calls so far */
	uint64_t bytes;	  /* read so far */
	unsigned fail_at; /* the call that fails with -EIO, 1 is the first */
};

static int wheelkit_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct wheelkit_file *f = arg;

	assert(len && len <= f->len && off <= f->len - len);
	if (++f->reads == f->fail_at)
		return -EIO;
	f->bytes += len;
	memcpy(buf, f->buf + off, len);
	return 0;
}

static inline int wheelkit_cut(struct wheelkit_file *f, struct wheel_cut **ret,
			       size_t *n)
{
	const struct wheel_source src = { .read = wheelkit_read,
					  .arg = f,
					  .size = f->len };

	return wheel_cut(&src, ret, n);
}

/* Zero the stamps of a copy, as the pieces are stored, and put them back. */
static inline void wheelkit_check_stamps(const uint8_t *buf, size_t len,
					 const struct wheel_cut *cuts, size_t n)
{
	static const uint8_t zeros[WHEEL_STAMP_LEN];
	cleanup_free uint8_t *copy = malloc(len);
	uint8_t *p = copy;

	assert(copy);
	memcpy(copy, buf, len);
	for (size_t i = 0; i < n; p += cuts[i++].len)
		if (cuts[i].stamped)
			memcpy(p + WHEEL_STAMP_AT, zeros, sizeof(zeros));
	p = copy;
	for (size_t i = 0; i < n; p += cuts[i++].len)
		if (cuts[i].stamped)
			memcpy(p + WHEEL_STAMP_AT, &cuts[i].stamp,
			       sizeof(cuts[i].stamp));
	assert(!memcmp(copy, buf, len));
}

/* With other stamps the same bytes are cut at the same places. */
static inline void wheelkit_check_restamped(const uint8_t *buf, size_t len,
					    const struct wheel_cut *cuts,
					    size_t n)
{
	cleanup_free uint8_t *copy = malloc(len);
	cleanup_free struct wheel_cut *again = NULL;
	struct wheelkit_file f = { .buf = copy, .len = len };
	uint8_t *p = copy;
	size_t m = 0;

	assert(copy);
	memcpy(copy, buf, len);
	for (size_t i = 0; i < n; p += cuts[i++].len)
		for (size_t j = 0; cuts[i].stamped && j < WHEEL_STAMP_LEN; j++)
			p[WHEEL_STAMP_AT + j] ^= 0xa5;
	assert(wheelkit_cut(&f, &again, &m) == 1 && m == n);
	for (size_t i = 0; i < n; i++)
		assert(again[i].len == cuts[i].len &&
		       again[i].stamped == cuts[i].stamped &&
		       again[i].stamp == (cuts[i].stamped
						  ? cuts[i].stamp ^ 0xa5a5a5a5
						  : 0));
}

/* Cut any bytes and check what must hold. Returns what wheel_cut() returned,
 * and in @ret_n the number of cuts, 0 unless that is 1. */
static inline int wheelkit_check(const uint8_t *buf, size_t len, size_t *ret_n)
{
	struct wheelkit_file f = { .buf = buf, .len = len };
	cleanup_free struct wheel_cut *cuts = NULL;
	size_t n = 0, at = 0;
	int r = wheelkit_cut(&f, &cuts, &n);

	assert(r == 0 || r == 1);
	assert(r ? cuts && n >= 2 : !cuts && !n);
	/* Nothing but the end and single headers is read twice. */
	assert(f.bytes <= 4 * (uint64_t)len + 512);
	*ret_n = n;
	for (size_t i = 0; i < n; at += cuts[i++].len) {
		assert(cuts[i].len && cuts[i].len <= len - at);
		assert(cuts[i].stamped || !cuts[i].stamp);
		if (cuts[i].stamped)
			assert(cuts[i].len >= WHEEL_HEADER_LEN &&
			       !memcmp(buf + at, "PK\3\4", 4));
	}
	if (!r)
		return 0;
	assert(at == len);
	wheelkit_check_stamps(buf, len, cuts, n);
	wheelkit_check_restamped(buf, len, cuts, n);
	return 1;
}

#endif
