/* SPDX-License-Identifier: MIT */
#include "store/mend.h"

#include <string.h>
#include <sys/stat.h>

#include "store/block.h"
#include "store/idset.h"
#include "store/table.h"

#define MEND_RECIPES 64 /* given up after one walk */

#define MEND_TYPE_DIR (S_IFDIR >> 12)

/* A name under repair. */
struct mend {
	struct edit *e;
	uint64_t parent;
	const char *name;
	struct dirent_rec de;
};

/* At which offset is the name listed? -ENOENT: at none that can be read. */
static int mend_find_cookie(struct mend *m, uint64_t *ret)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(m->parent), key;
	char name[RECORD_NAME_MAX];
	size_t len, want = strlen(m->name);
	int r = index_iter(m->e->txn, INDEX_COOKIE, &from, sizeof(m->parent),
			   &it);

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, name, sizeof(name), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		if (r > 0 && len == want && !memcmp(name, m->name, len))
			return record_key_get(&key, sizeof(m->parent), ret);
	}
	return -ENOENT;
}

/* Which inode says that it is at @cookie? -ENOENT: none that can be read. */
static int mend_find_inode(struct mend *m, uint64_t cookie)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	uint64_t ino;
	size_t len;
	int r = index_iter(m->e->txn, INDEX_INODE, &from, 0, &it);

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		if (r < 0 || record_key_get(&key, 0, &ino) < 0 ||
		    record_inode_decode(ino, buf, len, &in) < 0)
			continue;
		if (in.parent != m->parent || in.cookie != cookie ||
		    !in.nlink || ino == RECORD_ROOT_INO)
			continue;
		m->de = (struct dirent_rec){ .ino = ino,
					     .cookie = cookie,
					     .type = (uint8_t)(in.mode >> 12) };
		return 0;
	}
	return -ENOENT;
}

int mend_count(struct index_txn *txn, uint64_t dir, uint32_t *ret_dirs,
	       uint64_t *ret_next)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(dir), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	uint64_t next = RECORD_FIRST_COOKIE;
	struct dirent_rec de;
	uint32_t dirs = 0;
	size_t len;
	int r = index_iter(txn, INDEX_DIRENT, &from, sizeof(dir), &it);

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		if (r < 0 || record_dirent_decode(buf, len, &de) < 0)
			continue;
		dirs += de.type == MEND_TYPE_DIR;
		if (de.cookie >= next)
			next = de.cookie + 1;
	}
	*ret_dirs = dirs;
	*ret_next = next;
	return 0;
}

/* Links and times of the directory in which a name went. */
static int mend_touch_dir(struct mend *m)
{
	struct inode dir;
	uint64_t next;
	uint32_t dirs;
	int r = table_inode_get(m->e->txn, m->parent, &dir);

	if (r >= 0)
		r = mend_count(m->e->txn, m->parent, &dirs, &next);
	if (r < 0) /* it is mended where a name leads to it */
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	dir.nlink = 2 + dirs;
	dir.mtime_ns = dir.ctime_ns = m->e->now_ns;
	return table_inode_put(m->e->txn, &dir);
}

/* The name and its offset, 0 if that is not known. */
static int mend_drop_name(struct mend *m, uint64_t cookie)
{
	struct record_key key = record_key_name(m->parent, m->name);
	struct record_key at = record_key_pair(m->parent, cookie);
	int r = index_del(m->e->txn, INDEX_DIRENT, &key);

	if (r >= 0 && cookie)
		r = index_del(m->e->txn, INDEX_COOKIE, &at);
	if (r < 0 && r != -ENOENT)
		return r;
	return mend_touch_dir(m);
}

/* The record of the name, from those of its offset and of the inode. Returns
 * 1 with m->de filled in, 0 if the name was dropped. */
static int mend_dirent(struct mend *m)
{
	struct record_key key = record_key_name(m->parent, m->name);
	uint8_t buf[RECORD_DIRENT_SIZE];
	uint64_t cookie = 0;
	int r = mend_find_cookie(m, &cookie);

	if (r >= 0)
		r = mend_find_inode(m, cookie);
	if (r == -ENOENT)
		return mend_drop_name(m, cookie);
	if (r < 0)
		return r;
	record_dirent_encode(&m->de, buf);
	r = index_put(m->e->txn, INDEX_DIRENT, &key, buf, sizeof(buf), false);
	return r < 0 ? r : 1;
}

/* The record of the offset, from that of the name. */
static int mend_cookie(struct mend *m)
{
	struct record_key at = record_key_pair(m->parent, m->de.cookie);
	char name[RECORD_NAME_MAX + 1];
	int r = table_cookie_get(m->e->txn, m->parent, m->de.cookie, name);

	if (r != -ENOENT && r != -EBADMSG)
		return r;
	return index_put(m->e->txn, INDEX_COOKIE, &at, m->name, strlen(m->name),
			 false);
}

/* A directory with the names that are in it. */
static int mend_dir(struct mend *m)
{
	struct inode in, parent;
	uint32_t dirs;
	int r = table_inode_get(m->e->txn, m->parent, &parent);

	if (r == -ENOENT || r == -EBADMSG)
		parent = (struct inode){ .mode = S_IFDIR | 0755 };
	else if (r < 0)
		return r;
	in = (struct inode){ .ino = m->de.ino,
			     .view = parent.view,
			     .mode = parent.mode,
			     .uid = parent.uid,
			     .gid = parent.gid,
			     .atime_ns = m->e->now_ns,
			     .mtime_ns = m->e->now_ns,
			     .ctime_ns = m->e->now_ns,
			     .parent = m->parent,
			     .cookie = m->de.cookie };
	r = mend_count(m->e->txn, in.ino, &dirs, &in.next_cookie);
	if (r < 0)
		return r;
	in.nlink = 2 + dirs;
	r = table_inode_put(m->e->txn, &in);
	return r < 0 ? r : 1;
}

/* What is left of an inode: its bytes in the index. The rescan finds its entry,
 * its recipe and further names, the sweep of the next open its own pack. */
static int mend_drop_inode(struct edit *e, uint64_t ino)
{
	struct record_key key = record_key_id(ino);
	int r = index_del(e->txn, INDEX_INLINE, &key);

	if (r >= 0 || r == -ENOENT)
		r = index_del(e->txn, INDEX_INODE, &key);
	if (r >= 0)
		r = table_meta_put(e->txn, TABLE_META_LOST, 1);
	if (r >= 0)
		r = table_meta_put(e->txn, TABLE_META_RESCAN, 1);
	return r == -ENOENT ? 0 : r;
}

/* Returns 1 if the name leads to an inode now, 0 if it was dropped. */
static int mend_target(struct mend *m)
{
	struct inode in;
	int r = table_inode_get(m->e->txn, m->de.ino, &in);

	if (r != -ENOENT && r != -EBADMSG)
		return r < 0 ? r : 1;
	if (m->de.type == MEND_TYPE_DIR)
		return mend_dir(m);
	r = mend_drop_inode(m->e, m->de.ino);
	return r < 0 ? r : mend_drop_name(m, m->de.cookie);
}

int mend_name(struct tree *t, uint64_t dir, const char *name)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct mend m = { .e = &e, .parent = dir, .name = name };
	int r = edit_begin(t, QUOTA_EVICT, &e), kept;

	if (r < 0)
		return r;
	r = table_dirent_get(e.txn, dir, name, &m.de);
	if (r == -ENOENT)
		return 0;
	kept = r == -EBADMSG ? mend_dirent(&m) : r < 0 ? r : 1;
	if (kept > 0) {
		r = mend_cookie(&m);
		kept = r < 0 ? r : mend_target(&m);
	}
	if (kept < 0)
		return kept;
	r = edit_commit(&e);
	return r < 0 ? r : kept;
}

/* The name in m->parent that is listed at @cookie: made known at it again.
 * -ENOENT if there is none. */
static int mend_name_at(struct mend *m, uint64_t cookie)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(m->parent), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len;
	int r = index_iter(m->e->txn, INDEX_DIRENT, &from, sizeof(m->parent),
			   &it);

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		if (r < 0 || record_dirent_decode(buf, len, &m->de) < 0 ||
		    m->de.cookie != cookie)
			continue;
		len = key.len - sizeof(m->parent);
		from = record_key_pair(m->parent, cookie);
		return index_put(m->e->txn, INDEX_COOKIE, &from,
				 key.bytes + sizeof(m->parent), len, false);
	}
	return -ENOENT;
}

int mend_offset(struct tree *t, uint64_t dir, uint64_t cookie)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct mend m = { .e = &e, .parent = dir };
	struct record_key key = record_key_pair(dir, cookie);
	char name[RECORD_NAME_MAX + 1];
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	r = table_cookie_get(e.txn, dir, cookie, name);
	if (r != -EBADMSG)
		return r == -ENOENT ? 0 : r;
	r = mend_name_at(&m, cookie);
	if (r == -ENOENT)
		r = index_del(e.txn, INDEX_COOKIE, &key);
	return r < 0 ? r : edit_commit(&e);
}

int mend_inode(struct tree *t, uint64_t ino)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r < 0)
		return r;
	if (ino == RECORD_ROOT_INO ||
	    table_inode_get(e.txn, ino, &in) != -EBADMSG)
		return 0;
	r = mend_drop_inode(&e, ino);
	return r < 0 ? r : edit_commit(&e);
}

/* Recipes that inodes have. -EBADMSG if one cannot be read. */
static int mend_note_recipes(struct index_txn *txn, struct idset *set)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in = { .recipe = 0 };
	uint64_t ino;
	size_t len;
	int r = index_iter(txn, INDEX_INODE, &from, 0, &it);

	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0) {
		r = record_key_get(&key, 0, &ino);
		if (r >= 0)
			r = record_inode_decode(ino, buf, len, &in);
		if (r >= 0 && in.recipe)
			r = idset_add(set, in.recipe);
	}
	return r;
}

/* Is it nobody's, and not about to be built or dropped either? 1, 0. */
static int mend_recipe_lost(struct index_txn *txn, const struct idset *set,
			    uint64_t id)
{
	struct record_key key = record_key_id(id);
	uint8_t val;
	ssize_t n;

	if (idset_has(set, id))
		return 0;
	n = index_get(txn, INDEX_PENDING, &key, &val, sizeof(val));
	return n == -ENOENT ? 1 : n < 0 && n != -EBADMSG ? (int)n : 0;
}

/* The first recipes that no inode has go to @ids. Returns how many. */
static int mend_find_recipes(struct tree *t, uint64_t ids[static MEND_RECIPES])
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	cleanup_idset struct idset set = { .slots = NULL };
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
	uint64_t id = 0, last = 0;
	size_t len;
	int r = index_begin(t->ix, false, &txn), n = 0;

	if (r >= 0)
		r = mend_note_recipes(txn, &set);
	if (r >= 0)
		r = index_iter(txn, INDEX_RECIPE, &from, 0, &it);
	while (r >= 0 && n < MEND_RECIPES &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		r = record_key_get(&key, 0, &id);
		if (r >= 0 && id != last)
			r = mend_recipe_lost(txn, &set, id);
		else if (r >= 0)
			continue;
		last = id;
		if (r > 0)
			ids[n++] = id;
	}
	return r < 0 ? r : n;
}

static int mend_drop_recipe(struct tree *t, uint64_t id)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = edit_drop_recipe(&e, id);
	return r < 0 ? r : edit_commit(&e);
}

static int mend_set_lost(struct tree *t, uint64_t value)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_LOST, value);
	return r < 0 ? r : edit_commit(&e);
}

static bool mend_any_lost(struct tree *t)
{
	cleanup_txn struct index_txn *txn = NULL;
	uint64_t lost = 0;

	return index_begin(t->ix, false, &txn) >= 0 &&
	       table_meta_get(txn, TABLE_META_LOST, &lost) >= 0 && lost;
}

int mend_recipes(struct tree *t)
{
	uint64_t ids[MEND_RECIPES];
	int r, n;

	if (!mend_any_lost(t))
		return 0;
	/* Before the walk: what is lost meanwhile asks for another. */
	r = mend_set_lost(t, 0);
	do {
		n = r < 0 ? r : mend_find_recipes(t, ids);
		for (int i = 0; i < n && r >= 0; i++)
			r = mend_drop_recipe(t, ids[i]);
	} while (r >= 0 && n == MEND_RECIPES);
	if (r >= 0 && n >= 0)
		return 0;
	(void)mend_set_lost(t, 1);
	return r < 0 ? r : n;
}

bool mend_pack_lost(struct index_txn *txn, const struct pack_rec *rec)
{
	struct inode in;

	return rec->owner && table_inode_get(txn, rec->owner, &in) == -ENOENT;
}

int mend_pack(struct tree *t, uint64_t id)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct pack_rec rec;
	int r = edit_begin(t, QUOTA_EVICT, &e);

	if (r >= 0)
		r = block_pack_get(e.txn, id, &rec);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (!mend_pack_lost(e.txn, &rec))
		return 0;
	r = block_pack_disown(e.txn, id);
	if (r > 0)
		edit_doom(&e, id);
	return r < 0 ? r : edit_commit(&e);
}
