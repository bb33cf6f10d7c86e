/* SPDX-License-Identifier: MIT */
#include "store/unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/recipe.h"
#include "store/table.h"

/* A name that layout takes for a wheel: stands for all below a wheel's dir. */
#define UNIT_PROBE_WHEEL "probe-1-py3-none-any.whl"

/* Directories above each other. Nobody has more; a damaged index may lead in a
 * circle. */
#define UNIT_LEVELS_MAX 65536
/* Names of one unit that are looked at; nobody has more, as above. */
#define UNIT_NAMES_MAX (1u << 20)

/* Is the entry still what its directory's path says? */
static bool unit_in_place(const struct table_path *path,
			  const struct entry_rec *en)
{
	struct layout_unit unit;
	bool is_dir = !*en->name;

	if (path->n > TABLE_PATH_MAX)
		return false;
	unit = layout_classify(path->dirs, path->n,
			       is_dir ? UNIT_PROBE_WHEEL : en->name);
	return unit.kind == en->kind && unit.dir == path->n &&
	       (unit.name_len == 0) == is_dir;
}

/* The names of a pair: the unit's own and with ".body". */
static bool unit_pair_name(const struct entry_rec *en, unsigned i,
			   char name[static RECORD_NAME_MAX + 1])
{
	if (i == 1)
		return layout_partner(en->name, name);
	snprintf(name, RECORD_NAME_MAX + 1, "%s", en->name);
	return true;
}

int unit_remove_name(struct edit *e, struct inode *dir, const char *name,
		     struct inode *in, bool idle_only)
{
	struct dirent_rec de;
	int r = table_dirent_get(e->txn, dir->ino, name, &de);

	if (r < 0)
		return r;
	r = edit_del_name(e, dir, name, &de, in);
	if (r < 0)
		return r;
	if (S_ISDIR(in->mode)) {
		dir->nlink--;
		return edit_drop(e, in, idle_only);
	}
	in->nlink--;
	if (!in->nlink)
		return edit_drop(e, in, idle_only);
	return table_inode_put(e->txn, in);
}

/* Both names of a pair, as far as they are there. Returns how many. */
static int unit_remove_pair(struct edit *e, uint64_t entry,
			    const struct entry_rec *en, bool idle_only)
{
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	struct dirent_rec de;
	int r = edit_dir(e, en->dir, &dir), n = 0;

	if (r < 0)
		return r;
	for (unsigned i = 0; i < 2; i++) {
		if (!unit_pair_name(en, i, name))
			continue;
		r = table_dirent_get(e->txn, dir.ino, name, &de);
		if (r >= 0)
			r = table_inode_get(e->txn, de.ino, &in);
		if (r == -ENOENT || (r >= 0 && in.entry != entry))
			continue;
		if (r >= 0)
			r = unit_remove_name(e, &dir, name, &in, idle_only);
		if (r < 0)
			return r;
		n++;
	}
	r = table_inode_put(e->txn, &dir);
	return r < 0 ? r : n;
}

/* A name in a directory, with both inodes. */
struct unit_name {
	struct inode dir;
	char name[RECORD_NAME_MAX + 1];
	struct inode in;
};

/* The first name in @dir, or the first that is no directory's. Returns 1, or
 * 0 if there is none. */
static int unit_first_name(struct index_txn *txn, uint64_t dir, bool files,
			   struct unit_name *ret)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(dir), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	struct dirent_rec de = { .type = 0 };
	size_t len;
	int r = index_iter(txn, INDEX_DIRENT, &from, sizeof(dir), &it);

	do {
		if (r >= 0)
			r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r <= 0)
			return r;
		r = record_dirent_decode(buf, len, &de);
	} while (r >= 0 && files && de.type == S_IFDIR >> 12);
	if (r >= 0)
		r = table_inode_get(txn, dir, &ret->dir);
	if (r >= 0)
		r = table_inode_get(txn, de.ino, &ret->in);
	if (r < 0)
		return r;
	if (key.len - sizeof(dir) > RECORD_NAME_MAX)
		return -EBADMSG;
	memcpy(ret->name, key.bytes + sizeof(dir), key.len - sizeof(dir));
	ret->name[key.len - sizeof(dir)] = '\0';
	return 1;
}

/*
 * One name below @dir that can be removed: a file, or an empty directory,
 * however deep. Returns 1, or 0 if @dir is empty.
 */
static int unit_find_leaf(struct index_txn *txn, uint64_t dir,
			  struct unit_name *ret)
{
	int r;

	for (unsigned depth = 0; depth < UNIT_LEVELS_MAX; depth++) {
		r = unit_first_name(txn, dir, false, ret);
		if (r <= 0)
			return r < 0 ? r : depth > 0;
		if (!S_ISDIR(ret->in.mode))
			return 1;
		dir = ret->in.ino;
	}
	return -EBADMSG;
}

/*
 * What is below a wheel's directory, as much as one edit can take: first the
 * files right in it, which are all that pip looks at. Returns how many names
 * went; 0 when it is empty.
 */
static int unit_remove_below(struct edit *e, uint64_t dir, bool idle_only)
{
	struct unit_name at;
	bool files = true;
	int r, n = 0;

	while (e->n_claims < EDIT_DROPS_MAX / 2) {
		r = files ? unit_first_name(e->txn, dir, true, &at) : 0;
		if (!r) {
			files = false;
			r = unit_find_leaf(e->txn, dir, &at);
		}
		if (r <= 0)
			return r < 0 ? r : n;
		r = unit_remove_name(e, &at.dir, at.name, &at.in, idle_only);
		if (r >= 0)
			r = table_inode_put(e->txn, &at.dir);
		if (r < 0)
			return r;
		n++;
	}
	return n;
}

/* Returns 1 when there is more to remove, 0 when the unit is gone. */
static int unit_remove_step(struct edit *e, uint64_t entry, bool idle_only,
			    bool *ret_some)
{
	struct table_path path;
	struct entry_rec en;
	int r = table_entry_get(e->txn, entry, &en);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	r = table_path(e->txn, en.dir, &path);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == -ENOENT || !unit_in_place(&path, &en))
		return table_entry_del(e->txn, entry, &en);
	r = *en.name ? unit_remove_pair(e, entry, &en, idle_only)
		     : unit_remove_below(e, en.dir, idle_only);
	if (r < 0)
		return r;
	if (r)
		*ret_some = true;
	if (!*en.name && table_dir_used(e->txn, en.dir) > 0)
		return 1;
	r = table_entry_get(e->txn, entry, &en);
	if (r >= 0) /* names were counted that are not there */
		r = table_entry_del(e->txn, entry, &en);
	return r < 0 && r != -ENOENT ? r : 0;
}

/* One edit of it: 1 when there is more to remove. What went is added up. */
static int unit_remove_some(struct tree *t, uint64_t entry, bool idle_only,
			    bool *some, uint64_t *bytes)
{
	cleanup_edit struct edit e = EDIT_INIT;
	bool went = false;
	int r = edit_begin(t, QUOTA_EVICT, &e), more;
	uint64_t freed;

	if (r < 0)
		return r;
	more = unit_remove_step(&e, entry, idle_only, &went);
	if (more < 0)
		return more;
	freed = e.freed_bytes;
	r = edit_commit(&e);
	if (r < 0)
		return r;
	*bytes += freed;
	*some |= went;
	return more;
}

int unit_remove(struct tree *t, uint64_t entry, bool idle_only,
		uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	bool some = false, open = false;
	int r;

	/* A large unit takes several edits: don't begin if it is in use. */
	if (idle_only) {
		r = unit_measure(t, entry, NULL, &open);
		if (r < 0)
			return r;
		if (open)
			return -EBUSY;
	}
	do
		r = unit_remove_some(t, entry, idle_only, &some, &bytes);
	while (r > 0);
	/* Opened between two edits: the rest goes another time. */
	if (r < 0 && !(r == -EBUSY && some))
		return r;
	*ret_bytes = bytes;
	return some;
}

/* What unit_measure() adds up. */
struct unit_sum {
	struct tree *t;
	uint64_t bytes;
	bool weigh; /* bytes are wanted */
	bool open;
};

/* What comes back when the file goes, as far as one file can tell. */
static int unit_add(void *arg, struct index_txn *txn, const struct inode *in)
{
	struct unit_sum *sum = arg;
	uint64_t bytes = in->alloc;
	int r = 0;

	sum->open |= node_is_open(sum->t->nodes, in->ino);
	if (in->recipe && sum->weigh)
		r = recipe_own_bytes(txn, in->recipe, &bytes);
	sum->bytes += bytes;
	return r == -EBADMSG || r == -ENOENT ? 0 : r;
}

struct unit_visit {
	unit_fn fn;
	void *arg;
	unsigned names; /* seen so far */
};

/* Calls @fn with the inodes below @dir; depth is bounded by what layout
 * knows. */
static int unit_each_below(struct index_txn *txn, uint64_t dir, unsigned depth,
			   struct unit_visit *v)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(dir), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	struct dirent_rec de;
	struct inode in;
	size_t len;
	int r = index_iter(txn, INDEX_DIRENT, &from, sizeof(dir), &it);

	while (r >= 0 && v->names < UNIT_NAMES_MAX &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0) {
		r = record_dirent_decode(buf, len, &de);
		if (r >= 0)
			r = table_inode_get(txn, de.ino, &in);
		if (r >= 0)
			r = v->fn(v->arg, txn, &in);
		if (r < 0)
			return r;
		v->names++;
		if (S_ISDIR(in.mode) && depth < TABLE_PATH_MAX)
			r = unit_each_below(txn, de.ino, depth + 1, v);
	}
	return r;
}

int unit_each(struct index_txn *txn, uint64_t entry, const struct entry_rec *en,
	      unit_fn fn, void *arg)
{
	struct unit_visit v = { .fn = fn, .arg = arg };
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	struct inode in;
	int r = 0;

	if (!*en->name)
		return unit_each_below(txn, en->dir, 0, &v);
	for (unsigned i = 0; i < 2 && r >= 0; i++) {
		if (!unit_pair_name(en, i, name))
			continue;
		r = table_dirent_get(txn, en->dir, name, &de);
		if (r >= 0)
			r = table_inode_get(txn, de.ino, &in);
		if (r >= 0 && in.entry == entry)
			r = fn(arg, txn, &in);
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

int unit_measure(struct tree *t, uint64_t entry, uint64_t *ret_bytes,
		 bool *ret_open)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct unit_sum sum = { .t = t, .weigh = ret_bytes };
	struct entry_rec en;
	int r = index_begin(t->ix, false, &txn);

	if (r >= 0)
		r = table_entry_get(txn, entry, &en);
	if (r >= 0)
		r = unit_each(txn, entry, &en, unit_add, &sum);
	if (r < 0)
		return r;
	if (ret_bytes)
		*ret_bytes = sum.bytes;
	*ret_open = sum.open;
	return 0;
}

int unit_drop_name(struct tree *t, uint64_t ino, bool idle_only)
{
	cleanup_edit struct edit e = EDIT_INIT;
	char name[RECORD_NAME_MAX + 1];
	struct inode dir, in;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, ino, &in);
	if (r < 0 || !in.nlink)
		return r == -ENOENT ? 0 : r;
	in.flags |= INODE_BAD;
	r = table_cookie_get(e.txn, in.parent, in.cookie, name);
	if (r >= 0 && idle_only && !layout_is_tmp_name(name))
		return 0;
	if (r >= 0)
		r = edit_dir(&e, in.parent, &dir);
	if (r >= 0)
		r = unit_remove_name(&e, &dir, name, &in, idle_only);
	if (r >= 0)
		r = table_inode_put(e.txn, &dir);
	if (r == -ENOENT) /* the name it knew went before: others are left */
		r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

int unit_drop_file(struct tree *t, uint64_t ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	uint64_t bytes;
	int r = index_begin(t->ix, false, &txn);

	if (r < 0)
		return r;
	r = table_inode_get(txn, ino, &in);
	index_abort(steal_ptr(txn));
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (in.entry) {
		r = unit_remove(t, in.entry, false, &bytes);
		if (r < 0 && r != -ENOENT && r != -EBADMSG)
			return r;
	}
	return unit_drop_name(t, ino, false);
}
