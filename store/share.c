/* SPDX-License-Identifier: MIT */
#include "store/share.h"

#include <string.h>
#include <sys/stat.h>

#include "store/block.h"
#include "store/recipe.h"

#define SHARE_BATCH 1000 /* blocks looked at in one transaction */

/* Block ids, one for each occurrence. */
struct share_blocks {
	uint64_t *v; /* owned */
	size_t n, room;
};

/* Room for one more. */
static int share_grow(void *array, size_t n, size_t *room, size_t each)
{
	void *old, *more;

	if (n < *room)
		return 0;
	memcpy(&old, array, sizeof(old));
	more = reallocarray(old, *room ? *room * 2 : 16, each);
	if (!more)
		return -ENOMEM;
	*room = *room ? *room * 2 : 16;
	memcpy(array, &more, sizeof(more));
	return 0;
}

int share_add(struct share *s, const struct inode *in)
{
	int r = S_ISREG(in->mode)
			? share_grow(&s->v, s->n, &s->room, sizeof(*s->v))
			: 0;

	if (r < 0 || !S_ISREG(in->mode))
		return r;
	s->v[s->n++] = (struct share_file){ .ino = in->ino,
					    .recipe = in->recipe,
					    .size = in->size };
	return 0;
}

void share_release(struct share *s)
{
	free(s->v);
	*s = (struct share)SHARE_INIT;
}

static int share_by_ino(const void *a, const void *b)
{
	const struct share_file *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

static int share_by_id(const void *a, const void *b)
{
	uint64_t x, y;

	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	return (x > y) - (x < y);
}

/* Blocks are not empty: a file has no more of them than bytes. */
static int share_add_run(struct share_blocks *b, const struct run *run,
			 uint64_t *left)
{
	int r = run->count <= *left ? 0 : -EBADMSG;

	for (uint32_t i = 0; i < run->count && r >= 0; i++) {
		r = share_grow(&b->v, b->n, &b->room, sizeof(*b->v));
		if (r >= 0)
			b->v[b->n++] = run->first + i;
	}
	*left -= run->count;
	return r;
}

static int share_add_recipe(struct share_blocks *b, struct index *ix,
			    const struct share_file *f, struct share_sum *sum)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct run runs[RECORD_RUNS_MAX];
	uint64_t n = 0, left = f->size;
	size_t count;
	uint64_t extents = 0;
	int r = index_begin(ix, false, &txn);

	/* Also finds out whether all of its blocks are there. */
	if (r >= 0)
		r = recipe_extents(txn, f->recipe, &extents);
	sum->extents += extents;
	while (r >= 0 &&
	       (r = recipe_next(txn, f->recipe, &n, runs, &count)) > 0) {
		for (size_t i = 0; i < count && r >= 0; i++)
			r = share_add_run(b, &runs[i], &left);
		n++;
	}
	return r == -EBADMSG ? 0 : r; /* what is readable counts */
}

/* The blocks from @at on, sorted: @max of them, each once. Returns where it
 * ended. */
static int share_weigh_some(const struct share_blocks *b, struct index *ix,
			    size_t *at, struct share_sum *sum)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(ix, false, &txn);

	for (unsigned i = 0; i < SHARE_BATCH && *at < b->n && r >= 0; i++) {
		uint64_t id = b->v[*at], times = 0;
		struct block_rec bl;

		for (; *at < b->n && b->v[*at] == id; ++*at)
			times++;
		r = block_get(txn, id, &bl);
		if (r >= 0 && bl.refs <= times)
			sum->own += bl.length;
		else if (r >= 0)
			sum->shared += bl.length * times;
		if (r == -ENOENT || r == -EBADMSG)
			r = 0;
	}
	return r < 0 ? r : 0;
}

static int share_weigh(struct share_blocks *b, struct index *ix,
		       struct share_sum *sum)
{
	int r = 0;

	if (b->n)
		qsort(b->v, b->n, sizeof(*b->v), share_by_id);
	for (size_t at = 0; at < b->n && r >= 0;)
		r = share_weigh_some(b, ix, &at, sum);
	return r;
}

int share_measure(struct share *s, struct index *ix, struct share_sum *ret)
{
	struct share_blocks blocks = { .v = NULL };
	struct share_sum sum = { 0 };
	int r = 0;

	if (s->n)
		qsort(s->v, s->n, sizeof(*s->v), share_by_ino);
	for (size_t i = 0; i < s->n && r >= 0; i++) {
		if (i && s->v[i].ino == s->v[i - 1].ino)
			continue;
		sum.files++;
		sum.size += s->v[i].size;
		if (s->v[i].recipe) {
			r = share_add_recipe(&blocks, ix, &s->v[i], &sum);
			continue;
		}
		sum.own += s->v[i].size;
		sum.extents += s->v[i].size != 0;
	}
	if (r >= 0)
		r = share_weigh(&blocks, ix, &sum);
	free(blocks.v);
	if (r >= 0)
		*ret = sum;
	return r < 0 ? r : 0;
}
