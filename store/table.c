/* SPDX-License-Identifier: MIT */
#include "store/table.h"

#include <string.h>

#include "store/layout.h"

_Static_assert(TABLE_PATH_MAX == LAYOUT_DEPTH_MAX, "one depth for both");

int table_inode_get(struct index_txn *txn, uint64_t ino, struct inode *ret)
{
	struct record_key key = record_key_id(ino);
	uint8_t buf[RECORD_INODE_SIZE];
	ssize_t n = index_get(txn, INDEX_INODE, &key, buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	return record_inode_decode(ino, buf, (size_t)n, ret);
}

int table_inode_put(struct index_txn *txn, const struct inode *in)
{
	struct record_key key = record_key_id(in->ino);
	uint8_t buf[RECORD_INODE_SIZE];

	record_inode_encode(in, buf);
	return index_put(txn, INDEX_INODE, &key, buf, sizeof(buf), false);
}

int table_inode_del(struct index_txn *txn, uint64_t ino)
{
	struct record_key key = record_key_id(ino);

	return index_del(txn, INDEX_INODE, &key);
}

int table_dirent_get(struct index_txn *txn, uint64_t parent, const char *name,
		     struct dirent_rec *ret)
{
	struct record_key key = record_key_name(parent, name);
	uint8_t buf[RECORD_DIRENT_SIZE];
	ssize_t n = index_get(txn, INDEX_DIRENT, &key, buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	return record_dirent_decode(buf, (size_t)n, ret);
}

int table_dirent_put(struct index_txn *txn, uint64_t parent, const char *name,
		     const struct dirent_rec *de)
{
	struct record_key key = record_key_name(parent, name);
	struct record_key cookie = record_key_pair(parent, de->cookie);
	uint8_t buf[RECORD_DIRENT_SIZE];
	int r;

	record_dirent_encode(de, buf);
	r = index_put(txn, INDEX_DIRENT, &key, buf, sizeof(buf), true);
	if (r < 0)
		return r;

	return index_put(txn, INDEX_COOKIE, &cookie, name, strlen(name), true);
}

int table_dirent_del(struct index_txn *txn, uint64_t parent, const char *name,
		     uint64_t cookie)
{
	struct record_key key = record_key_name(parent, name);
	struct record_key ckey = record_key_pair(parent, cookie);
	int r = index_del(txn, INDEX_DIRENT, &key);

	if (r < 0)
		return r;

	return index_del(txn, INDEX_COOKIE, &ckey);
}

int table_cookie_get(struct index_txn *txn, uint64_t parent, uint64_t cookie,
		     char name[static RECORD_NAME_MAX + 1])
{
	struct record_key key = record_key_pair(parent, cookie);
	ssize_t n = index_get(txn, INDEX_COOKIE, &key, name, RECORD_NAME_MAX);

	if (n < 0)
		return (int)n;
	if (!n || memchr(name, '\0', (size_t)n) || memchr(name, '/', (size_t)n))
		return -EBADMSG;
	name[n] = '\0';
	return 0;
}

int table_dir_used(struct index_txn *txn, uint64_t dir)
{
	struct record_key from = record_key_id(dir), key;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	uint8_t buf[RECORD_DIRENT_SIZE];
	size_t len;
	int r = index_iter(txn, INDEX_DIRENT, &from, sizeof(uint64_t), &it);

	if (r < 0)
		return r;

	r = index_next(&it, &key, buf, sizeof(buf), &len);
	return r == -EBADMSG ? 1 : r;
}

int table_entry_get(struct index_txn *txn, uint64_t id, struct entry_rec *ret)
{
	struct record_key key = record_key_id(id);
	uint8_t buf[RECORD_ENTRY_MAX];
	ssize_t n = index_get(txn, INDEX_ENTRY, &key, buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	return record_entry_decode(buf, (size_t)n, ret);
}

static struct record_key table_lru_key(uint64_t id, const struct entry_rec *en)
{
	return record_key_lru((uint8_t)layout_queue(en->kind), en->last_use_ns,
			      id);
}

int table_entry_put(struct index_txn *txn, uint64_t id,
		    const struct entry_rec *old, const struct entry_rec *en)
{
	struct record_key key = record_key_id(id), lru;
	uint8_t buf[RECORD_ENTRY_MAX];
	size_t len = record_entry_encode(en, buf);
	int r = index_put(txn, INDEX_ENTRY, &key, buf, len, !old);

	if (r < 0)
		return r;
	if (old && old->last_use_ns == en->last_use_ns)
		return 0;
	if (old) {
		lru = table_lru_key(id, old);
		r = index_del(txn, INDEX_LRU, &lru);
		if (r < 0 && r != -ENOENT)
			return r;
	}

	lru = table_lru_key(id, en);
	return index_put(txn, INDEX_LRU, &lru, NULL, 0, false);
}

int table_entry_del(struct index_txn *txn, uint64_t id,
		    const struct entry_rec *en)
{
	struct record_key key = record_key_id(id), lru = table_lru_key(id, en);
	int r = index_del(txn, INDEX_ENTRY, &key);

	if (r < 0)
		return r;

	r = index_del(txn, INDEX_LRU, &lru);
	return r == -ENOENT ? 0 : r;
}

bool table_entry_fits(const struct entry_rec *en, const struct inode *in,
		      const char *name)
{
	size_t len = strlen(en->name);

	if (en->kind != in->kind)
		return false;
	return !len ||
	       (en->dir == in->parent && !strncmp(name, en->name, len) &&
		(!name[len] || !strcmp(name + len, ".body")));
}

int table_meta_get(struct index_txn *txn, const char *name, uint64_t *ret)
{
	struct record_key key = record_key_text(name);
	uint8_t buf[sizeof(uint64_t)];
	ssize_t n = index_get(txn, INDEX_META, &key, buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	return record_u64_decode(buf, (size_t)n, ret);
}

int table_meta_put(struct index_txn *txn, const char *name, uint64_t value)
{
	struct record_key key = record_key_text(name);
	uint8_t buf[sizeof(uint64_t)];

	record_u64_encode(value, buf);
	return index_put(txn, INDEX_META, &key, buf, sizeof(buf), false);
}

/* Filled from the bottom up, then moved to the front. */
int table_path(struct index_txn *txn, uint64_t dir, struct table_path *ret)
{
	uint64_t up[TABLE_PATH_MAX];
	struct inode in;
	unsigned n = 0;
	int r;

	ret->ino[0] = RECORD_ROOT_INO;
	for (; dir != RECORD_ROOT_INO; n++) {
		if (n == TABLE_PATH_MAX) {
			ret->n = TABLE_PATH_MAX + 1;
			return 0;
		}
		r = table_inode_get(txn, dir, &in);
		if (r < 0)
			return r;
		r = table_cookie_get(txn, in.parent, in.cookie, ret->names[n]);
		if (r < 0)
			return r;
		up[n] = dir;
		dir = in.parent;
	}
	for (unsigned i = 0; i < n; i++) {
		ret->ino[i + 1] = up[n - 1 - i];
		ret->dirs[i] = ret->names[n - 1 - i];
	}
	ret->n = n;
	return 0;
}
