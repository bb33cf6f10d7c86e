/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "store/base.h"

#define ROWS_FIRST UINT32_C(64)
#define ROW_FREE (-1)

struct handles {
	pthread_mutex_t lock;	 /* of all below */
	struct handle_row *rows; /* owned, n_rows of them */
	struct store_file *
		*files;	     /* owned, likewise; NULL where a row is free */
	uint32_t *free_rows; /* owned, a stack of n_free numbers */
	uint32_t n_rows, n_free;
};

struct handles *handles_new(void)
{
	struct handles *t = calloc(1, sizeof(*t));

	if (t)
		pthread_mutex_init(&t->lock, NULL);
	return t;
}

void handles_free(struct handles *t)
{
	if (!t)
		return;
	for (uint32_t i = 0; i < t->n_rows; i++)
		if (t->files[i])
			store_file_close(t->files[i]);
	free(t->rows);
	free(t->files);
	free(t->free_rows);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int grow_locked(struct handles *t)
{
	uint32_t n = t->n_rows ? t->n_rows * 2 : ROWS_FIRST, *free_rows;
	struct handle_row *rows;
	struct store_file **files;

	if (n > HANDLE_ROWS_MAX)
		return -ENFILE;
	/* Each is enlarged and kept on its own: what failed can be repeated. */
	rows = reallocarray(t->rows, n, sizeof(*rows));
	if (!rows)
		return -ENOMEM;
	t->rows = rows;
	files = reallocarray(t->files, n, sizeof(struct store_file *));
	if (!files)
		return -ENOMEM;
	t->files = files;
	free_rows = reallocarray(t->free_rows, n, sizeof(*free_rows));
	if (!free_rows)
		return -ENOMEM;
	t->free_rows = free_rows;

	/* The lowest number on top, so that a table stays dense. */
	for (uint32_t i = n; i-- > t->n_rows;) {
		t->rows[i] = (struct handle_row){ .flags = ROW_FREE };
		t->files[i] = NULL;
		t->free_rows[t->n_free++] = i;
	}
	t->n_rows = n;
	return 0;
}

int handles_add(struct handles *t, struct store_file *f, uint64_t ino,
		int flags, uint64_t *ret_fh)
{
	LOCK_SCOPE(&t->lock);
	struct handle_row *row;
	uint32_t i;
	int r;

	if (t->n_free == 0) {
		r = grow_locked(t);
		if (r < 0)
			return r;
	}
	i = t->free_rows[--t->n_free];
	row = &t->rows[i];
	row->ino = ino;
	row->flags = flags;
	row->generation++;
	t->files[i] = f;
	*ret_fh = (uint64_t)row->generation << 32 | i;
	return 0;
}

/* The row of @fh, or -EBADF. */
static int64_t find_locked(const struct handles *t, uint64_t fh)
{
	uint32_t i = (uint32_t)fh, generation = (uint32_t)(fh >> 32);

	if (i >= t->n_rows || !t->files[i] ||
	    t->rows[i].generation != generation)
		return -EBADF;
	return i;
}

int handles_get(struct handles *t, uint64_t fh, struct store_file **ret)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i < 0)
		return (int)i;
	*ret = t->files[i];
	return 0;
}

int handles_remove(struct handles *t, uint64_t fh, struct store_file **ret)
{
	LOCK_SCOPE(&t->lock);
	int64_t i = find_locked(t, fh);

	if (i < 0)
		return (int)i;
	*ret = t->files[i];
	t->files[i] = NULL;
	t->rows[i].flags = ROW_FREE;
	t->free_rows[t->n_free++] = (uint32_t)i;
	return 0;
}

uint32_t handles_count(struct handles *t)
{
	LOCK_SCOPE(&t->lock);

	return t->n_rows - t->n_free;
}
