/* SPDX-License-Identifier: MIT */
#include "store/package.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "store/compact.h"
#include "store/table.h"

#define PACKAGE_BATCH 1000 /* inodes looked at in one transaction */

/* What packages are told apart by. */
struct package_key {
	char project[IDENT_PROJECT_MAX + 1];
	char version[IDENT_VERSION_MAX + 1]; /* "" unless they count */
	enum list_kind kind; /* of no project, else LIST_WHEEL */
};

struct package_entry {
	struct package_key key;
	uint64_t id;
	int64_t last_use_ns;
	uint64_t hits;
};

/* All entries. */
struct package_all {
	bool versions;
	struct package_entry *v; /* owned */
	size_t n, room;
};

/* Those that are one package. */
struct package {
	struct share set;
	struct list_item item;
};

static struct package_key package_key(const struct list_item *item,
				      bool versions)
{
	struct package_key key = { .kind = LIST_WHEEL };

	memcpy(key.project, item->project, sizeof(key.project));
	if (!*key.project)
		key.kind = item->kind;
	else if (versions)
		memcpy(key.version, item->version, sizeof(key.version));
	return key;
}

/* What has no project is last. */
static int package_compare(const struct package_key *a,
			   const struct package_key *b)
{
	int d = !*a->project - !*b->project;

	if (!d)
		d = strcmp(a->project, b->project);
	if (!d)
		d = strcmp(a->version, b->version);
	return d ? d : (int)a->kind - (int)b->kind;
}

static int package_by_key(const void *a, const void *b)
{
	const struct package_entry *x = a, *y = b;
	int d = package_compare(&x->key, &y->key);

	return d ? d : (x->id > y->id) - (x->id < y->id);
}

static int package_keep(void *arg, const struct list_item *item)
{
	struct package_all *all = arg;

	if (all->n == all->room) {
		size_t room = all->room ? all->room * 2 : 64;
		struct package_entry *more =
			reallocarray(all->v, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		all->v = more;
		all->room = room;
	}
	all->v[all->n++] = (struct package_entry){
		.key = package_key(item, all->versions),
		.id = item->id,
		.last_use_ns = item->last_use_ns,
		.hits = item->hits,
	};
	return 0;
}

static int package_add(struct package *p, struct tree *t,
		       const struct package_entry *e)
{
	p->item.entries++;
	p->item.hits += e->hits;
	if (e->last_use_ns > p->item.last_use_ns)
		p->item.last_use_ns = e->last_use_ns;
	return list_gather(t, e->id, &p->set);
}

static int package_tell(struct package *p, struct tree *t,
			const struct package_key *key, list_fn fn, void *arg)
{
	int r = share_measure(&p->set, t->ix, &p->item.sum);

	memcpy(p->item.project, key->project, sizeof(key->project));
	memcpy(p->item.version, key->version, sizeof(key->version));
	p->item.kind = key->kind;
	return r < 0 ? r : fn(arg, &p->item);
}

/* --- Files of no entry ---------------------------------------------------- */

/* A walk over all inodes. */
struct package_walk {
	uint64_t at;
	uint64_t linear;   /* bytes of all files without blocks */
	struct share *set; /* gets those of no entry; or NULL */
};

static int package_walk_inode(struct package_walk *w, const struct inode *in)
{
	if (S_ISREG(in->mode) && !in->recipe)
		w->linear += in->size;
	return w->set && !in->entry ? share_add(w->set, in) : 0;
}

/* Some of them; returns how many, 0 at the end. */
static int package_walk_some(struct tree *t, struct package_walk *w)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(w->at), key;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	size_t len;
	int n = 0, r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	while (r >= 0 && n < PACKAGE_BATCH &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		if (record_key_get(&key, 0, &w->at) < 0)
			return -EBADMSG;
		if (r > 0 && record_inode_decode(w->at, buf, len, &in) >= 0)
			r = package_walk_inode(w, &in);
		else
			r = 0;
	}
	w->at++;
	return r < 0 ? r : n;
}

static int package_walk(struct tree *t, struct package_walk *w)
{
	int r;

	while ((r = package_walk_some(t, w)) > 0)
		;
	return r;
}

int package_stored(struct tree *t, uint64_t *ret)
{
	struct package_walk w = { .at = 0 };
	struct compact_stat packs;
	int r = package_walk(t, &w);

	if (r >= 0)
		r = compact_measure(t, &packs);
	if (r >= 0)
		*ret = w.linear + packs.live;
	return r;
}

/* --- Lists ---------------------------------------------------------------- */

/* Behind the package that begins at @from. */
static size_t package_end(const struct package_all *all, size_t from)
{
	size_t i = from + 1;

	while (i < all->n &&
	       !package_compare(&all->v[i].key, &all->v[from].key))
		i++;
	return i;
}

static int package_one(struct tree *t, const struct package_all *all,
		       size_t from, size_t end, list_fn fn, void *arg)
{
	struct package p = { .set = SHARE_INIT };
	int r = 0;

	for (size_t i = from; i < end && r >= 0; i++)
		r = package_add(&p, t, &all->v[i]);
	if (r >= 0)
		r = package_tell(&p, t, &all->v[from].key, fn, arg);
	share_release(&p.set);
	return r;
}

static int package_loose(struct tree *t, list_fn fn, void *arg)
{
	const struct package_key key = { .kind = LIST_LOOSE };
	struct package p = { .set = SHARE_INIT };
	struct package_walk w = { .set = &p.set };
	int r = package_walk(t, &w);

	if (r >= 0 && p.set.n)
		r = package_tell(&p, t, &key, fn, arg);
	share_release(&p.set);
	return r < 0 ? r : 0;
}

static int package_list_all(struct tree *t, const struct package_how *how,
			    const struct package_all *all, list_fn fn,
			    void *arg)
{
	size_t i = 0, next, at = 0, end = how->from + (size_t)how->most;
	int r = 0;

	while (i < all->n && at < end && r >= 0) {
		next = package_end(all, i);
		if (at++ >= how->from)
			r = package_one(t, all, i, next, fn, arg);
		i = next;
	}
	if (r < 0 || at == end)
		return r < 0 ? r : 1;
	return at >= how->from ? package_loose(t, fn, arg) : 0;
}

static bool package_selected(const struct package_key *key,
			     const struct package_select *sel)
{
	return strcmp(key->project, sel->project) == 0 &&
	       (!*sel->version || strcmp(key->version, sel->version) == 0);
}

/* The entries that any of @n selects. */
static int package_select(struct tree *t, const struct package_all *all,
			  const struct package_select *sel, size_t n,
			  struct package *p)
{
	int r = 0;

	for (size_t i = 0; i < all->n && r >= 0; i++) {
		size_t k = 0;

		while (k < n && !package_selected(&all->v[i].key, &sel[k]))
			k++;
		if (k < n)
			r = package_add(p, t, &all->v[i]);
	}
	return r;
}

static int package_list_selected(struct tree *t, const struct package_how *how,
				 const struct package_all *all, list_fn fn,
				 void *arg)
{
	int r = 0;

	for (size_t i = 0; i <= how->n_select && r >= 0; i++) {
		bool last = i == how->n_select;
		struct package p = { .set = SHARE_INIT };
		struct package_key key = { .kind = LIST_WHEEL };

		if (!last) {
			memcpy(key.project, how->select[i].project,
			       sizeof(key.project));
			memcpy(key.version, how->select[i].version,
			       sizeof(key.version));
		}
		r = package_select(t, all, last ? how->select : how->select + i,
				   last ? how->n_select : 1, &p);
		if (r >= 0)
			r = package_tell(&p, t, &key, fn, arg);
		share_release(&p.set);
	}
	return r;
}

int package_list(struct tree *t, const struct package_how *how, list_fn fn,
		 void *arg)
{
	struct package_all all = { .versions = how->versions || how->select };
	const struct list_range range = { .most = UINT_MAX };
	int r = list_entries(t, &range, package_keep, &all);

	if (r >= 0 && all.n)
		qsort(all.v, all.n, sizeof(*all.v), package_by_key);
	if (r >= 0)
		r = how->select ? package_list_selected(t, how, &all, fn, arg)
				: package_list_all(t, how, &all, fn, arg);
	free(all.v);
	return r;
}
