/* SPDX-License-Identifier: MIT */
#include "store/rework.h"

#include <stdio.h>
#include <string.h>

#include "store/table.h"

#define REWORK_BATCH 1000  /* records in one transaction */
#define REWORK_PATH_MAX 64 /* directories shown of a path */

int rework_begin(struct rework *rw)
{
	return index_begin(rw->t.ix, true, &rw->txn);
}

int rework_commit(struct rework *rw)
{
	int r = index_commit(steal_ptr(rw->txn));

	if (r >= 0 && index_disk_bytes(rw->t.ix) + rw->copied > rw->most_bytes)
		r = -ENOSPC;
	return r;
}

/* Some records from *@at on. 1: there may be more. */
static int rework_some(struct rework *rw, enum index_table table,
		       struct record_key *at, uint8_t *val, rework_fn fn)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key key;
	size_t len;
	int n = 0, r = index_iter(rw->txn, table, at, 0, &it);

	while (r >= 0 && n < REWORK_BATCH &&
	       (r = index_next(&it, &key, val, INDEX_VALUE_MAX, &len)) > 0) {
		r = fn(rw, &key, val, len);
		*at = key;
		n++;
	}
	if (at->len < RECORD_KEY_MAX)
		at->bytes[at->len++] = 0;
	return r < 0 ? r : n == REWORK_BATCH;
}

int rework_each(struct rework *rw, enum index_table table, rework_fn fn)
{
	cleanup_free uint8_t *val = malloc(INDEX_VALUE_MAX);
	struct record_key at = { .len = 1 };
	int r = val ? 1 : -ENOMEM, end;

	while (r > 0) {
		r = rework_begin(rw);
		if (r >= 0)
			r = rework_some(rw, table, &at, val, fn);
		if (r < 0) {
			index_abort(steal_ptr(rw->txn));
			return r;
		}
		end = rework_commit(rw);
		if (end < 0)
			return end;
	}
	return r;
}

static int rework_order(const void *a, const void *b)
{
	const struct rework_ino *x = a, *y = b;

	return (x->ino > y->ino) - (x->ino < y->ino);
}

struct rework_ino *rework_find(const struct rework *rw, uint64_t ino)
{
	struct rework_ino want = { .ino = ino };

	return rw->n_sorted ? bsearch(&want, rw->inos, rw->n_sorted,
				      sizeof(want), rework_order)
			    : NULL;
}

int rework_add(struct rework *rw, const struct rework_ino *it)
{
	size_t size = rw->size_inos ? rw->size_inos + rw->size_inos / 2 : 256;
	struct rework_ino *more;

	if (rw->n_inos == rw->size_inos) {
		more = reallocarray(rw->inos, size, sizeof(*more));
		if (!more)
			return -ENOMEM;
		rw->inos = more;
		rw->size_inos = size;
	}
	rw->inos[rw->n_inos++] = *it;
	return 0;
}

void rework_sort(struct rework *rw)
{
	if (rw->n_inos)
		qsort(rw->inos, rw->n_inos, sizeof(rw->inos[0]), rework_order);
	rw->n_sorted = rw->n_inos;
}

static int rework_block_order(const void *a, const void *b)
{
	const struct rework_block *x = a, *y = b;

	return (x->id > y->id) - (x->id < y->id);
}

struct rework_block *rework_block(const struct rework *rw, uint64_t id)
{
	struct rework_block want = { .id = id };

	return rw->n_blocks ? bsearch(&want, rw->blocks, rw->n_blocks,
				      sizeof(want), rework_block_order)
			    : NULL;
}

bool rework_is_root(const struct rework *rw, uint64_t ino)
{
	return ino == RECORD_ROOT_INO ||
	       (rw->other && !rw->joined && ino == rw->other + RECORD_ROOT_INO);
}

bool rework_name(const struct record_key *key, uint64_t *ret_dir,
		 char name[static RECORD_NAME_MAX + 1])
{
	size_t len = key->len - sizeof(*ret_dir);

	if (record_key_get(key, 0, ret_dir) < 0 || !len ||
	    len > RECORD_NAME_MAX ||
	    memchr(key->bytes + sizeof(*ret_dir), '\0', len) ||
	    memchr(key->bytes + sizeof(*ret_dir), '/', len))
		return false;
	memcpy(name, key->bytes + sizeof(*ret_dir), len);
	name[len] = '\0';
	return true;
}

/* From the end to the front. */
struct rework_path rework_path(const struct rework *rw, uint64_t dir,
			       const char *name)
{
	char buf[sizeof(((struct rework_path *)0)->text)];
	size_t at = sizeof(buf) - 1;
	struct rework_path ret;
	char part[RECORD_NAME_MAX + 1];

	buf[at] = '\0';
	(void)snprintf(part, sizeof(part), "%s", name);
	for (unsigned i = 0; i < REWORK_PATH_MAX; i++) {
		const struct rework_ino *it = rework_find(rw, dir);
		struct survey_name shown = survey_name(part, strlen(part));
		size_t len = strlen(shown.text);

		if (len + 1 > at)
			break;
		if (buf[at])
			buf[--at] = '/';
		at -= len;
		memcpy(buf + at, shown.text, len);
		if (rework_is_root(rw, dir) || !it)
			break;
		if (!it->up ||
		    table_cookie_get(rw->txn, it->up, it->cookie, part) < 0)
			(void)snprintf(part, sizeof(part), "?");
		dir = it->up ? it->up : RECORD_ROOT_INO;
	}
	memcpy(ret.text, buf + at, sizeof(buf) - at);
	return ret;
}

void rework_release(struct rework *rw)
{
	index_abort(steal_ptr(rw->txn));
	free(rw->inos);
	free(rw->blocks);
	idset_release(&rw->made);
	idset_release(&rw->has_recipe);
	idset_release(&rw->has_pack);
	survey_release(&rw->files);
	survey_release(&rw->claims);
	survey_release(&rw->recipes);
	survey_release(&rw->entries);
	survey_release(&rw->owners);
}
