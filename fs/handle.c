/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "store/base.h"

#define ROWS_FIRST UINT32_C(64)

struct handles {
	struct kept *kept;	   /* borrowed */
	struct kept_row *rows;	   /* borrowed; kept->rows of them were used */
	pthread_mutex_t lock;	   /* of the rows and all below */
	struct store_file **files; /* owned, n_files of them; NULL: none */
	uint32_t *free_rows;	   /* owned, a stack of n_free numbers, with */
				   /* room for n_files */
	uint32_t n_files, n_free;
};

struct handles *handles_new(struct kept *kept)
{
	struct handles *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->kept = kept;
	t->rows = kept_rows(kept);
	pthread_mutex_init(&t->lock, NULL);
	return t;
}

static uint32_t used_rows(const struct handles *t)
{
	uint32_t n = atomic_load(&t->kept->rows);

	return n < KEPT_ROWS ? n : KEPT_ROWS;
}

static bool is_free(const struct handles *t, uint32_t i)
{
	return atomic_load(&t->rows[i].state) == KEPT_ROW_FREE;
}

void handles_free(struct handles *t)
{
	if (!t)
		return;
	for (uint32_t i = 0; i < t->n_files; i++) {
		if (!t->files[i])
			continue;
		store_file_close(t->files[i]);
		atomic_store(&t->rows[i].state, KEPT_ROW_FREE);
	}
	free(t->files);
	free(t->free_rows);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* Room for at least @want rows. */
static int grow_locked(struct handles *t, uint32_t want)
{
	uint32_t n = t->n_files ? t->n_files : ROWS_FIRST, *free_rows;
	struct store_file **files;

	while (n < want)
		n *= 2;
	/* Each is enlarged and kept on its own: what failed can be repeated. */
	files = reallocarray(t->files, n, sizeof(struct store_file *));
	if (!files)
		return -ENOMEM;
	t->files = files;
	free_rows = reallocarray(t->free_rows, n, sizeof(*free_rows));
	if (!free_rows)
		return -ENOMEM;
	t->free_rows = free_rows;
	for (uint32_t i = t->n_files; i < n; i++)
		t->files[i] = NULL;
	t->n_files = n;
	return 0;
}

/* ---- rows of another process ---- */

int handles_list(struct handles *t, struct store_resume **ret, size_t *ret_n)
{
	uint32_t used = used_rows(t);
	struct store_resume *list = calloc((size_t)used + 1, sizeof(*list));
	size_t n = 0;

	if (!list)
		return -ENOMEM;
	for (uint32_t i = 0; i < used; i++) {
		if (is_free(t, i))
			continue;
		list[n].ino = t->rows[i].ino;
		list[n].flags = t->rows[i].flags;
		list[n].bad = atomic_load(&t->rows[i].state) == KEPT_ROW_BAD;
		n++;
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

int handles_resume(struct handles *t, const struct store_resume *files,
		   size_t n)
{
	LOCK_SCOPE(&t->lock);
	uint32_t used = used_rows(t);
	size_t at = 0;
	int r = grow_locked(t, used);

	if (r < 0)
		return r;
	/* The lowest number on top, so that the table stays dense. */
	for (uint32_t i = used; i-- > 0;)
		if (is_free(t, i))
			t->free_rows[t->n_free++] = i;
	for (uint32_t i = 0; i < used && at < n; i++)
		if (!is_free(t, i))
			t->files[i] = files[at++].file;
	return 0;
}

/* ---- opening and closing ---- */

/* A free row, or one that was never used. */
static int take_row_locked(struct handles *t, uint32_t *ret)
{
	uint32_t used = used_rows(t);
	int r;

	if (t->n_free > 0) {
		*ret = t->free_rows[--t->n_free];
		return 0;
	}
	if (used == KEPT_ROWS)
		return -ENFILE;
	if (used >= t->n_files) {
		r = grow_locked(t, used + 1);
		if (r < 0)
			return r;
	}
	atomic_store(&t->kept->rows, used + 1);
	*ret = used;
	return 0;
}

static uint64_t fh_of(const struct handles *t, uint32_t i)
{
	return (uint64_t)t->rows[i].generation << 32 | i;
}

int handles_add(struct handles *t, struct store_file *f, uint64_t ino,
		int flags, uint64_t opener, uint64_t *ret_fh)
{
	LOCK_SCOPE(&t->lock);
	struct kept_row *row;
	uint32_t i;
	int r = take_row_locked(t, &i);

	if (r < 0)
		return r;
	row = &t->rows[i];
	row->ino = ino;
	row->flags = flags;
	row->opener = opener;
	row->backing_id = 0;
	row->generation++;
	t->files[i] = f;
	atomic_store(&row->state, KEPT_ROW_OPEN);
	*ret_fh = fh_of(t, i);
	return 0;
}

int handles_opened(struct handles *t, uint64_t opener, uint64_t *ret_fh)
{
	LOCK_SCOPE(&t->lock);
	uint32_t used = used_rows(t);

	for (uint32_t i = 0; i < used; i++) {
		if (is_free(t, i) || t->rows[i].opener != opener)
			continue;
		*ret_fh = fh_of(t, i);
		return 0;
	}
	return -ENOENT;
}

/* The row of @fh, or -EBADF. */
static int64_t find_locked(const struct handles *t, uint64_t fh)
{
	uint32_t i = (uint32_t)fh, generation = (uint32_t)(fh >> 32);

	if (i >= used_rows(t) || is_free(t, i) ||
	    t->rows[i].generation != generation)
		return -EBADF;
	return i;
}

int handles_get(struct handles *t, uint64_t fh, struct store_file **ret)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i < 0 || !t->files[i])
		return -EBADF;
	*ret = t->files[i];
	return 0;
}

void handles_set_bad(struct handles *t, uint64_t fh)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i >= 0)
		atomic_store(&t->rows[i].state, KEPT_ROW_BAD);
}

static void free_row_locked(struct handles *t, uint32_t i)
{
	atomic_store(&t->rows[i].state, KEPT_ROW_FREE);
	t->free_rows[t->n_free++] = i;
}

int handles_take(struct handles *t, uint64_t fh, struct store_file **ret)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i < 0)
		return (int)i;
	if (!t->files[i]) { /* it has gone, its row now too */
		free_row_locked(t, (uint32_t)i);
		return -EBADF;
	}
	*ret = t->files[i];
	t->files[i] = NULL;
	return 0;
}

void handles_forget(struct handles *t, uint64_t fh)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i >= 0 && !t->files[i])
		free_row_locked(t, (uint32_t)i);
}

uint32_t handles_count(struct handles *t)
{
	LOCK_SCOPE(&t->lock);

	return used_rows(t) - t->n_free;
}
