/* SPDX-License-Identifier: MIT */
/*
 * A file cut, masked, stored piece by piece, and put together again is the
 * file, whatever its bytes are.
 *
 * One input in eight is read behind so many other bytes that it lies across the
 * end of the window in which a file is read.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "store/digest.h"
#include "store/pieces.h"
#include "store/wheel.h"

#define FAR MIB /* the window */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* -- A pack in memory ----------------------------------------------------- */

static int memory_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
	(void)dir_fd;
	(void)flags;
	(void)mode;
	return memfd_create(path, MFD_CLOEXEC);
}

static struct pack *open_pack(void)
{
	static struct pack_io io;
	struct packs_config cfg = { .dir_fd = -1,
				    .io = &io,
				    .dirty_bytes = UINT64_MAX };
	struct packs *ps;
	struct pack *pk;
	int r;

	io = pack_io_real;
	io.openat = memory_openat;
	r = packs_open(&cfg, &ps);
	assert(r == 0);
	r = pack_create(ps, 1, &pk);
	assert(r == 0);
	return pk;
}

static bool go_on(void *arg)
{
	(void)arg;
	return true;
}

/* -- Storing -------------------------------------------------------------- */

/* Digests of the same bytes taken in one go. */
static void check_digests(const struct piece *p, const uint8_t *masked)
{
	cleanup_digest_block struct digest_block *d = NULL;
	uint8_t sha256[DIGEST_SHA256_SIZE];
	uint64_t xxh3;
	int r = digest_block_new(&d);

	assert(r == 0);
	digest_block_begin(d);
	digest_block_update(d, masked, p->len);
	r = digest_block_end(d, sha256, &xxh3);
	assert(r == 0 && xxh3 == p->xxh3);
	assert(!memcmp(sha256, p->sha256, sizeof(sha256)));
}

/* The first piece that is the same as piece @i. */
static size_t find_equal(const struct pieces *p, size_t i)
{
	size_t k = 0;

	while (memcmp(p->v[k].sha256, p->v[i].sha256, RECORD_SHA256_SIZE) != 0)
		k++;
	return k;
}

/* Mask @file in place piece by piece: what is in the blocks. */
static void store(const struct pieces *p, uint8_t *file, size_t len)
{
	size_t at = 0;

	for (size_t i = 0; i < p->n; at += p->v[i++].len) {
		assert(p->v[i].len && p->v[i].len <= len - at);
		assert(p->v[i].stamped ==
		       pieces_is_stamped(file + at, p->v[i].len));
		assert(p->v[i].stamped || !p->v[i].stamp);
		pieces_mask(file + at, p->v[i].len);
		check_digests(&p->v[i], file + at);
	}
	assert(at == len);
}

/* Read each piece from the first one that is the same, with its own stamp. */
static void assemble(const struct pieces *p, const uint8_t *blocks,
		     uint8_t *ret)
{
	size_t *from = calloc(p->n, sizeof(*from));

	assert(from);
	for (size_t i = 0, at = 0; i < p->n; at += p->v[i++].len) {
		size_t same = find_equal(p, i);

		from[i] = at;
		assert(p->v[same].len == p->v[i].len);
		memcpy(ret + at, blocks + from[same], p->v[i].len);
		if (p->v[i].stamped)
			memcpy(ret + at + WHEEL_STAMP_AT, &p->v[i].stamp,
			       sizeof(p->v[i].stamp));
	}
	free(from);
}

/* -- Deciding ------------------------------------------------------------- */

/* No run of known pieces is short but if all are known. */
static void check_runs(const struct pieces *p)
{
	uint64_t run = 0;

	for (size_t i = 0; i <= p->n; i++) {
		if (i < p->n && p->v[i].known) {
			run += p->v[i].len;
			continue;
		}
		assert(!run || run == p->size || run >= PIECES_RUN_MIN);
		run = 0;
	}
}

/* Some are known, as @salt says. */
static void check_decision(struct pieces *p, uint8_t salt)
{
	struct pieces_plan plan;
	uint64_t unknown = 0;

	for (size_t i = 0; i < p->n; i++)
		p->v[i].known = (p->v[i].xxh3 ^ salt) % 4 < salt % 5u;
	pieces_decide(p, &plan);
	for (size_t i = 0; i < p->n; i++)
		unknown += p->v[i].known ? 0 : p->v[i].len;
	assert(plan.new_bytes == unknown);
	assert(!plan.whole || unknown == p->size);
	assert(!plan.whole || p->size >= PIECES_SMALL);
	check_runs(p);
}

static void check_file(const uint8_t *file, size_t len, uint8_t salt)
{
	static struct pack *pk;
	cleanup_pieces struct pieces p = PIECES_INIT;
	uint8_t *blocks = malloc(len), *again = malloc(len);
	int r;

	if (!pk)
		pk = open_pack();
	assert(blocks && again);
	r = pack_truncate(pk, 0);
	assert(r == 0);
	r = pack_write(pk, file, len, 0);
	assert(r == 0);
	r = pieces_read(pk, len, go_on, NULL, &p);
	assert(r == 0 && p.size == len && p.sum == digest_xxh3(file, len));
	memcpy(blocks, file, len);
	store(&p, blocks, len);
	assemble(&p, blocks, again);
	assert(!memcmp(again, file, len));
	check_decision(&p, salt);
	free(blocks);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t salt = size ? data[size - 1] : 0;
	size_t before = 0;
	uint8_t *file;

	if (!size)
		return 0;
	/* It begins or ends near the end of the window. */
	if (salt % 8 == 7)
		before = salt % 16 == 15 ? FAR - salt : FAR - size / 2;
	if (before > FAR)
		return 0;
	file = malloc(before + size);
	assert(file);
	for (size_t i = 0; i < before; i++)
		file[i] = (uint8_t)(i * 2654435761u >> 13);
	memcpy(file + before, data, size);
	check_file(file, before + size, salt);
	free(file);
	return 0;
}
