/* SPDX-License-Identifier: MIT */
#include "store/pieces.h"

#include <string.h>

#include "store/digest.h"
#include "store/idle.h"
#include "store/wheel.h"

#define PIECES_WINDOW (1 * MIB)

/* A stretch of the file in memory. */
struct window {
	struct pack *pk;
	uint64_t size; /* of the file */
	uint64_t off;
	size_t len;
	uint8_t *buf;	 /* owned, PIECES_WINDOW bytes */
	uint64_t summed; /* @sum has all bytes before */
	struct digest *sum;
	struct digest_block *block;
	bool (*go_on)(void *arg);
	void *arg;
};

static const uint8_t member_signature[] = { 'P', 'K', 3, 4 };

bool pieces_is_stamped(const uint8_t *buf, uint64_t len)
{
	return len > WHEEL_HEADER_LEN &&
	       !memcmp(buf, member_signature, sizeof(member_signature));
}

void pieces_mask(uint8_t *buf, uint64_t len)
{
	if (pieces_is_stamped(buf, len))
		memset(buf + WHEEL_STAMP_AT, 0, WHEEL_STAMP_LEN);
}

ssize_t pieces_fetch(struct packs *ps, uint64_t id, void *buf, size_t len,
		     uint64_t off, bool idle)
{
	struct pack *pk;
	ssize_t n;
	int r = pack_get_blocks(ps, id, &pk);

	if (r < 0)
		return r;
	if (idle)
		idle_enter();
	n = pack_read(pk, buf, len, off);
	if (idle)
		idle_leave();
	pack_put_blocks(pk);
	return n;
}

int pieces_digest_block(struct packs *ps, const struct block_rec *bl,
			bool (*go_on)(void *arg, size_t len), void *arg,
			uint8_t sha256[static RECORD_SHA256_SIZE],
			uint64_t *ret_xxh3)
{
	size_t window =
		bl->length < PIECES_WINDOW ? (size_t)bl->length : PIECES_WINDOW;
	cleanup_free uint8_t *buf = malloc(window);
	cleanup_digest_block struct digest_block *d = NULL;
	int r = buf ? digest_block_new(&d) : -ENOMEM;
	ssize_t n;

	if (r < 0)
		return r;
	digest_block_begin(d);
	for (uint64_t off = 0; off < bl->length; off += (uint64_t)n) {
		uint64_t left = bl->length - off;

		n = pieces_fetch(ps, bl->pack, buf,
				 left < window ? (size_t)left : window,
				 bl->offset + off, go_on != NULL);
		if (n <= 0)
			return n < 0 ? (int)n : -EBADMSG;
		/* A window is longer than a header. */
		if (!off)
			pieces_mask(buf, bl->length);
		if (go_on)
			idle_enter();
		digest_block_update(d, buf, (size_t)n);
		if (go_on)
			idle_leave();
		if (go_on && !go_on(arg, (size_t)n))
			return -ECANCELED;
	}
	return digest_block_end(d, sha256, ret_xxh3);
}

static int pieces_source(void *arg, uint64_t off, void *buf, size_t len)
{
	ssize_t n = pack_read(arg, buf, len, off);

	if (n < 0)
		return (int)n;
	return (size_t)n == len ? 0 : -EBADMSG;
}

/* Where to cut: one piece if that is not known or not worth it. */
static int pieces_cut(struct pack *pk, uint64_t size, struct wheel_cut **ret,
		      size_t *n)
{
	const struct wheel_source src = { pieces_source, pk, size };
	int r = wheel_cut(&src, ret, n);

	if (r < 0)
		return r;
	if (r > 0 && *n <= PIECES_MAX && size / *n >= PIECES_AVERAGE_MIN)
		return 0;
	free(r ? *ret : NULL);
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	(*ret)[0].len = size;
	*n = 1;
	return 0;
}

/* Read on at @off, and sum what is new of it. */
static int window_fill(struct window *w, uint64_t off)
{
	uint64_t left = w->size - off;
	size_t want = left < PIECES_WINDOW ? (size_t)left : PIECES_WINDOW;
	size_t known;
	ssize_t n;

	idle_leave();
	if (!w->go_on(w->arg))
		return -ECANCELED;
	idle_enter();
	n = pack_read(w->pk, w->buf, want, off);
	if (n < 0)
		return (int)n;
	if ((size_t)n != want)
		return -EBADMSG;
	w->off = off;
	w->len = want;
	known = (size_t)(w->summed - off);
	digest_update(w->sum, w->buf + known, want - known);
	w->summed = off + want;
	return 0;
}

/* Digest the piece at @off. */
static int window_piece(struct window *w, uint64_t off, struct piece *p)
{
	uint64_t end = off + p->len;
	uint8_t *at;
	int r = 0;

	/* Its header in one piece, so that it can be masked. */
	if (off + WHEEL_HEADER_LEN >= w->off + w->len)
		r = window_fill(w, off);
	if (r < 0)
		return r;
	at = w->buf + (off - w->off);
	p->stamped = pieces_is_stamped(at, p->len);
	p->stamp = 0;
	if (p->stamped)
		memcpy(&p->stamp, at + WHEEL_STAMP_AT, sizeof(p->stamp));
	pieces_mask(at, p->len);
	digest_block_begin(w->block);
	while (off < end) {
		uint64_t stop = w->off + w->len < end ? w->off + w->len : end;

		digest_block_update(w->block, w->buf + (off - w->off),
				    (size_t)(stop - off));
		off = stop;
		if (off < end)
			r = window_fill(w, off);
		if (r < 0)
			return r;
	}
	return digest_block_end(w->block, p->sha256, &p->xxh3);
}

static int pieces_digest(struct window *w, struct pieces *p)
{
	uint64_t off = 0;
	int r;

	w->buf = malloc(PIECES_WINDOW);
	if (!w->buf)
		return -ENOMEM;
	r = digest_new(&w->sum);
	if (r >= 0)
		r = digest_block_new(&w->block);
	for (size_t i = 0; i < p->n && r >= 0; i++) {
		r = window_piece(w, off, &p->v[i]);
		off += p->v[i].len;
	}
	idle_leave();
	if (r >= 0)
		p->sum = digest_value(w->sum);
	return r;
}

int pieces_read(struct pack *pk, uint64_t size, bool (*go_on)(void *arg),
		void *arg, struct pieces *ret)
{
	struct window w = {
		.pk = pk, .size = size, .go_on = go_on, .arg = arg
	};
	cleanup_free struct wheel_cut *cuts = NULL;
	cleanup_pieces struct pieces p = { .size = size };
	size_t n;
	int r = pieces_cut(pk, size, &cuts, &n);

	if (r < 0)
		return r;
	p.v = calloc(n, sizeof(*p.v));
	if (!p.v)
		return -ENOMEM;
	for (p.n = 0; p.n < n; p.n++)
		p.v[p.n].len = cuts[p.n].len;
	r = pieces_digest(&w, &p);
	free(w.buf);
	digest_free(w.sum);
	digest_block_free(w.block);
	if (r < 0)
		return r;
	*ret = p;
	p.v = NULL;
	return 0;
}

void pieces_release(struct pieces *p)
{
	free(steal_ptr(p->v));
}

/* Forget runs of known blocks that are too short. */
static void pieces_drop_short(struct pieces *p)
{
	for (size_t i = 0, end; i < p->n; i = end) {
		uint64_t len = p->v[i].len;

		for (end = i + 1;
		     end < p->n && p->v[i].known && p->v[end].known; end++)
			len += p->v[end].len;
		for (size_t k = i; k < end && len < PIECES_RUN_MIN; k++)
			p->v[k].known = 0;
	}
}

static uint64_t pieces_known(const struct pieces *p)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < p->n; i++)
		bytes += p->v[i].known ? p->v[i].len : 0;
	return bytes;
}

void pieces_decide(struct pieces *p, struct pieces_plan *ret)
{
	uint64_t known = pieces_known(p);

	if (known < p->size) {
		pieces_drop_short(p);
		known = pieces_known(p);
	}
	ret->whole = false;
	ret->new_bytes = p->size - known;
	if (p->size >= PIECES_SMALL && known < p->size / PIECES_SHARE_MIN)
		pieces_keep_whole(p, ret);
}

void pieces_keep_whole(struct pieces *p, struct pieces_plan *ret)
{
	for (size_t i = 0; i < p->n; i++)
		p->v[i].known = 0;
	ret->whole = true;
	ret->new_bytes = p->size;
}
