/* SPDX-License-Identifier: MIT */
#include "store/loss.h"

#include <string.h>

#include "store/damage.h"
#include "store/unit.h"

#define LOSS_BATCH 256 /* records read in one transaction */

struct loss {
	struct tree *t;
	const struct survey_set *bad;
	struct idset recipes;	 /* that have bad blocks */
	struct survey_set files; /* that have these */
};

/* A table whose keys begin with a number. */
typedef int (*loss_fn)(struct loss *l, uint64_t id, const uint8_t *val,
		       size_t len);

/* A batch of records, from *@at on. 1: there may be more. */
static int loss_read_some(struct loss *l, enum index_table table,
			  struct record_key *at, loss_fn fn, uint8_t *val)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key key;
	uint64_t id;
	size_t len;
	int r = index_begin(l->t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, table, at, 0, &it);
	for (int n = 0; n < LOSS_BATCH && r >= 0; n++) {
		r = index_next(&it, &key, val, INDEX_VALUE_MAX, &len);
		if (r == 0 || (r < 0 && (r != -EBADMSG || !it.cursor)))
			return r;
		*at = key;
		at->bytes[at->len++] = 0; /* the first one behind it */
		if (r < 0 || record_key_get(&key, 0, &id) < 0 || !id)
			r = 0; /* damaged itself */
		else
			r = fn(l, id, val, len);
	}
	return r < 0 ? r : 1;
}

static int loss_read(struct loss *l, enum index_table table, loss_fn fn)
{
	cleanup_free uint8_t *val = malloc(INDEX_VALUE_MAX);
	struct record_key at = record_key_id(0);
	int r = val ? 1 : -ENOMEM;

	while (r > 0)
		r = loss_read_some(l, table, &at, fn, val);
	return r;
}

static bool loss_has_bad(const struct loss *l, const struct run *run)
{
	const struct survey_item *it = survey_from(l->bad, run->first);

	return it && it->id - run->first < run->count;
}

static int loss_note_recipe(struct loss *l, uint64_t id, const uint8_t *val,
			    size_t len)
{
	struct run runs[RECORD_RUNS_MAX];
	size_t n;

	if (record_runs_decode(val, len, runs, &n) < 0)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (loss_has_bad(l, &runs[i]))
			return idset_add(&l->recipes, id);
	return 0;
}

static int loss_note_file(struct loss *l, uint64_t ino, const uint8_t *val,
			  size_t len)
{
	struct survey_item *item;
	struct inode in;

	if (record_inode_decode(ino, val, len, &in) < 0 || !in.recipe ||
	    !idset_has(&l->recipes, in.recipe))
		return 0;
	return survey_add(&l->files, ino, &item);
}

/* Who found it has told of it. */
static void loss_be_quiet(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)text;
}

int loss_file(struct files *fs, uint64_t ino)
{
	int r = unit_drop_file(fs->t, ino);

	if (r >= 0)
		atomic_fetch_add(&fs->damaged, 1);
	return r < 0 ? r : 0;
}

/* In this order: what is built on a block meanwhile is found. */
static int loss_find(struct loss *l)
{
	struct damage dm = { .t = l->t, .report = loss_be_quiet };
	int r = 0;

	for (size_t i = 0; i < l->bad->n && r >= 0; i++)
		r = damage_block(&dm, l->bad->v[i].id);
	if (r >= 0)
		r = loss_read(l, INDEX_RECIPE, loss_note_recipe);
	if (r >= 0 && l->recipes.used)
		r = loss_read(l, INDEX_INODE, loss_note_file);
	return r;
}

int loss_blocks(struct files *fs, struct survey_set *bad, uint64_t *ret)
{
	struct loss l = { .t = fs->t, .bad = bad };
	uint64_t files = 0;
	int r;

	survey_sort(bad);
	r = loss_find(&l);
	for (size_t i = 0; i < l.files.n && r >= 0; i++) {
		r = loss_file(fs, l.files.v[i].id);
		files += r >= 0;
	}
	*ret = files;
	idset_release(&l.recipes);
	survey_release(&l.files);
	return r;
}
