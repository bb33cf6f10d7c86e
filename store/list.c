/* SPDX-License-Identifier: MIT */
#include "store/list.h"

#include <stdio.h>
#include <string.h>

#include "store/content.h"
#include "store/layout.h"
#include "store/recipe.h"
#include "store/table.h"
#include "store/unit.h"

#define LIST_TRIES 3 /* with what changes meanwhile */

/* --- The bytes of a file -------------------------------------------------- */

/* A file as a source: nobody else has the node. */
struct list_file {
	struct tree *t;
	struct node as;
};

static int list_read(void *arg, uint64_t off, void *buf, size_t len)
{
	struct list_file *f = arg;
	ssize_t n = content_read_locked(f->t, &f->as, buf, len, off);

	if (n < 0)
		return (int)n;
	return (size_t)n == len ? 0 : -EIO;
}

/* Ends with list_close(), whatever it returned. */
static int list_open(struct tree *t, const struct inode *in,
		     struct list_file *f)
{
	*f = (struct list_file){
		.t = t,
		.as = { .ino = in->ino, .size = in->size, .recipe = in->recipe }
	};
	if (in->flags & (INODE_WRITERS | INODE_BAD))
		return -EBUSY;
	switch (in->data) {
	case INODE_DATA_INLINE:
		f->as.inlined = true;
		return content_check_inline(t, &f->as);
	case INODE_DATA_PACK:
		return pack_get_blocks(t->packs, in->pack, &f->as.pack);
	case INODE_DATA_RECIPE:
		return content_remap(t, &f->as);
	case INODE_DATA_NONE:
		break;
	}
	return -ENODATA;
}

static void list_close(struct list_file *f)
{
	if (f->as.pack)
		pack_put_blocks(f->as.pack);
	recipe_map_free(f->as.map);
}

/* --- One entry ------------------------------------------------------------ */

/* What is found out about one. */
struct list_look {
	struct tree *t;
	struct list_item *item;
	uint8_t layout; /* enum layout_kind */
	struct share set;
	struct inode head, body; /* ino 0: there is none */
	bool wheel;		 /* the name is a wheel's */
};

static void list_set_name(struct list_item *item, const char *name)
{
	size_t i = 0;

	for (; name[i] && i < RECORD_NAME_MAX; i++)
		item->name[i] =
			(char)(name[i] > ' ' && name[i] < 0x7f ? name[i] : '?');
	item->name[i] = '\0';
}

/* A file below a built wheel's directory: the first wheel names it. */
static int list_look_built(struct list_look *l, struct index_txn *txn,
			   const struct inode *in)
{
	char name[RECORD_NAME_MAX + 1];
	struct ident id;
	int r;

	if (l->wheel)
		return 0;
	r = table_cookie_get(txn, in->parent, in->cookie, name);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	l->wheel = ident_wheel_name(name, &id);
	if (l->wheel) {
		memcpy(l->item->project, id.project, sizeof(id.project));
		memcpy(l->item->version, id.version, sizeof(id.version));
	}
	if (l->wheel || !*l->item->name)
		list_set_name(l->item, name);
	return 0;
}

static int list_look_file(void *arg, struct index_txn *txn,
			  const struct inode *in)
{
	struct list_look *l = arg;

	if (!S_ISREG(in->mode))
		return 0;
	if (l->layout == LAYOUT_WHEEL) {
		int r = list_look_built(l, txn, in);

		if (r < 0)
			return r;
	} else if (in->flags & INODE_BODY) {
		l->body = *in;
	} else {
		l->head = *in;
	}
	return share_add(&l->set, in);
}

static enum list_kind list_kind_of(enum ident_kind kind)
{
	switch (kind) {
	case IDENT_WHEEL:
		return LIST_WHEEL;
	case IDENT_SDIST:
		return LIST_SDIST;
	case IDENT_METADATA:
		return LIST_METADATA;
	case IDENT_PAGE:
		return LIST_PAGE;
	case IDENT_OTHER:
		break;
	}
	return LIST_OTHER;
}

/* Read what a response is of. In http/ one file is head and body. An error
 * tells what was in the way; all that could be read is in the item. */
static int list_read_response(struct list_look *l)
{
	bool two = l->head.ino && l->body.ino;
	const struct inode *first = l->head.ino ? &l->head : &l->body;
	struct list_file head, body = { .t = l->t };
	struct wheel_source head_src = { list_read, &head, first->size };
	struct wheel_source body_src = { list_read, &body, l->body.size };
	struct ident id = { .kind = IDENT_OTHER };
	int r = list_open(l->t, first, &head), other = 0;

	if (r >= 0 && two)
		other = list_open(l->t, &l->body, &body);
	if (r >= 0)
		r = ident_response(&head_src,
				   two && other >= 0 ? &body_src : NULL, &id);
	if (r >= 0)
		r = other;
	list_close(&head);
	list_close(&body);
	l->item->kind = list_kind_of(id.kind);
	memcpy(l->item->project, id.project, sizeof(id.project));
	memcpy(l->item->version, id.version, sizeof(id.version));
	return r;
}

/* The files of the entry. -ENOENT: it is gone. */
static int list_look_unit(struct list_look *l, struct list_item *item)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct entry_rec en;
	int r = index_begin(l->t->ix, false, &txn);

	if (r >= 0)
		r = table_entry_get(txn, item->id, &en);
	if (r < 0)
		return r;
	l->layout = en.kind;
	list_set_name(item, en.name);
	item->last_use_ns = en.last_use_ns;
	item->hits = en.hits;
	r = unit_each(txn, item->id, &en, list_look_file, l);
	/* What is there of a damaged unit. */
	return r == -EBADMSG || r == -ENOENT ? 0 : r;
}

/* 1: it may have been cut, or put elsewhere, while it was looked at. */
static int list_look_once(struct list_look *l, struct list_item *item)
{
	int r = list_look_unit(l, item);

	if (r < 0)
		return r;
	entry_overlay(l->t->entries, item->id, &item->last_use_ns, &item->hits);
	if (l->layout == LAYOUT_WHEEL)
		item->kind = LIST_BUILT;
	else if (l->layout == LAYOUT_SELFCHECK)
		item->kind = LIST_SELFCHECK;
	else if (l->layout == LAYOUT_HTTP && (l->head.ino || l->body.ino))
		r = list_read_response(l);
	if (r == -ENOMEM)
		return r;
	return r == -ENOENT || r == -EBADMSG;
}

/* Fill all of @item but its id and, unless @weigh, the sums. */
static int list_look(struct tree *t, bool weigh, struct list_item *item)
{
	struct list_look l;
	int r = 1;

	item->entries = 1;
	for (unsigned i = 0; i < LIST_TRIES && r > 0; i++) {
		l = (struct list_look){ .t = t, .item = item };
		r = list_look_once(&l, item);
		if (r >= 0 && weigh) {
			int w = share_measure(&l.set, t->ix, &item->sum);

			r = w < 0 ? w : r;
		}
		share_release(&l.set);
	}
	return r < 0 ? r : 0;
}

/* --- All of them ---------------------------------------------------------- */

/* The ids behind @after; returns how many. Damaged ones are passed over when
 * they are looked at. */
static int list_ids(struct tree *t, uint64_t after, uint64_t *ids, int max)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(after + 1), key;
	uint8_t buf[RECORD_ENTRY_MAX];
	size_t len;
	int n = 0, r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_ENTRY, &from, 0, &it);
	while (r >= 0 && n < max &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		r = record_key_get(&key, 0, &ids[n++]);
	}
	return r < 0 ? r : n;
}

int list_entries(struct tree *t, const struct list_range *range, list_fn fn,
		 void *arg)
{
	uint64_t ids[LIST_BATCH], after = range->after;
	unsigned done = 0;
	int n, r = 0;

	while (after < UINT64_MAX &&
	       (n = list_ids(t, after, ids, LIST_BATCH))) {
		for (int i = 0; i < n; i++) {
			struct list_item item = { .id = ids[i],
						  .kind = LIST_OTHER };

			if (done == range->most)
				return 1;
			after = ids[i];
			r = list_look(t, range->weigh, &item);
			if (r >= 0)
				r = fn(arg, &item);
			else if (r == -ENOENT || r == -EBADMSG)
				continue;
			if (r < 0)
				return r;
			done++;
		}
		if (n < 0)
			return n;
	}
	return 0;
}

static int list_gather_file(void *arg, struct index_txn *txn,
			    const struct inode *in)
{
	(void)txn;
	return share_add(arg, in);
}

int list_gather(struct tree *t, uint64_t id, struct share *set)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct entry_rec en;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_entry_get(txn, id, &en);
	if (r >= 0)
		r = unit_each(txn, id, &en, list_gather_file, set);
	return r == -ENOENT || r == -EBADMSG ? 0 : r;
}
