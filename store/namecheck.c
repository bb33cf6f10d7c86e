/* SPDX-License-Identifier: MIT */
#include "store/namecheck.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/table.h"

/* In survey_item.other of an inode: how many directories are in it, and how far
 * it is known to be below the root. */
#define NAMECHECK_CLIMBED (UINT32_C(1) << 30) /* on the way that is looked at */
#define NAMECHECK_REACHED (UINT32_C(1) << 31) /* it is, or was told */
#define NAMECHECK_MARKS (NAMECHECK_CLIMBED | NAMECHECK_REACHED)

struct namecheck {
	struct survey *s;
	struct survey_set inodes;  /* count: names, other: see above */
	struct survey_set entries; /* count: files that carry it */
	struct inode dir;	   /* the last parent; ino 0: none */
	uint64_t moved;		   /* directories did: entries are stale */
	struct namecheck_result res;
};

static int namecheck_id(struct namecheck *nc, const struct record_key *key,
			const char *table, uint64_t *ret)
{
	if (record_key_get(key, 0, ret) == 0)
		return 0;
	survey_found(nc->s, "table %s: a key of %zu bytes", table, key->len);
	return -EBADMSG;
}

/* 1: *@ret is filled; 0: that is not there or damaged (which is told where the
 * table of inodes is walked). */
static int namecheck_inode(struct namecheck *nc, uint64_t ino,
			   struct inode *ret)
{
	int r = table_inode_get(nc->s->txn, ino, ret);

	if (r == -ENOENT || r == -EBADMSG)
		return 0;
	return r < 0 ? r : 1;
}

static int namecheck_add_inode(void *arg, const struct record_key *key,
			       const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	struct survey_item *it;
	struct inode in;
	uint64_t ino;
	int r;

	if (namecheck_id(nc, key, "inode", &ino) < 0)
		return 0;
	r = survey_add(&nc->inodes, ino, &it);
	if (r < 0)
		return r;
	if (!val || record_inode_decode(ino, val, len, &in) < 0) {
		survey_found(nc->s, "inode %" PRIu64 ": its record is damaged",
			     ino);
		return 0;
	}
	if (!S_ISREG(in.mode))
		return 0;
	nc->res.files++;
	if ((in.flags & INODE_SUMMED) && in.data != INODE_DATA_INLINE)
		nc->res.sum_bytes += in.size;
	return 0;
}

/* --- Names ------------------------------------------------------------- */

/* The directory that names are in; they come in order of it. */
static int namecheck_parent(struct namecheck *nc, uint64_t ino)
{
	int r;

	if (nc->dir.ino == ino)
		return 1;
	nc->dir.ino = 0;
	r = namecheck_inode(nc, ino, &nc->dir);
	if (r <= 0)
		nc->dir.ino = 0;
	return r;
}

struct namecheck_at {
	uint64_t parent;
	struct survey_name name;
	struct dirent_rec de;
};

static void namecheck_in_dir(struct namecheck *nc,
			     const struct namecheck_at *at)
{
	if (!S_ISDIR(nc->dir.mode))
		survey_found(nc->s,
			     "name \"%s\": inode %" PRIu64
			     ", in which it is, is no directory",
			     at->name.text, at->parent);
	else if (at->de.cookie >= nc->dir.next_cookie)
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": offset %" PRIu64
			     ", the next to be given is %" PRIu64,
			     at->name.text, at->parent, at->de.cookie,
			     nc->dir.next_cookie);
}

/* The inode that is named. */
static void namecheck_target(struct namecheck *nc,
			     const struct namecheck_at *at,
			     const struct inode *in)
{
	struct survey_item *up = survey_find(&nc->inodes, at->parent);

	if (at->de.type != in->mode >> 12)
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": type %u, inode %" PRIu64 " has %u",
			     at->name.text, at->parent, at->de.type, in->ino,
			     in->mode >> 12);
	if (!S_ISDIR(in->mode))
		return;
	if (up)
		up->other++;
	if (in->parent != at->parent || in->cookie != at->de.cookie)
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": directory %" PRIu64
			     " says that it is in %" PRIu64,
			     at->name.text, at->parent, in->ino, in->parent);
}

static int namecheck_dirent_at(struct namecheck *nc,
			       const struct namecheck_at *at)
{
	struct survey_item *it = survey_find(&nc->inodes, at->de.ino);
	struct inode in;
	int r = namecheck_parent(nc, at->parent);

	if (r < 0)
		return r;
	if (r > 0)
		namecheck_in_dir(nc, at);
	else if (!survey_find(&nc->inodes, at->parent))
		survey_found(nc->s,
			     "name \"%s\": directory %" PRIu64
			     ", in which it is, is not there",
			     at->name.text, at->parent);
	if (!it) {
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": inode %" PRIu64 " is not there",
			     at->name.text, at->parent, at->de.ino);
		return 0;
	}
	it->count++;
	r = namecheck_inode(nc, at->de.ino, &in);
	if (r > 0)
		namecheck_target(nc, at, &in);
	return r < 0 ? r : 0;
}

/* The name has its cookie. */
static int namecheck_cookie_of(struct namecheck *nc,
			       const struct namecheck_at *at,
			       const uint8_t *name, size_t len)
{
	char back[RECORD_NAME_MAX + 1];
	int r = table_cookie_get(nc->s->txn, at->parent, at->de.cookie, back);

	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r < 0 || strlen(back) != len || memcmp(back, name, len) != 0)
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": offset %" PRIu64 " does not lead to it",
			     at->name.text, at->parent, at->de.cookie);
	return 0;
}

static int namecheck_dirent(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	const uint8_t *name = key->bytes + sizeof(uint64_t);
	struct namecheck *nc = arg;
	struct namecheck_at at;
	size_t name_len;
	int r;

	if (namecheck_id(nc, key, "dirent", &at.parent) < 0)
		return 0;
	name_len = key->len - sizeof(uint64_t);
	at.name = survey_name(name, name_len);
	if (!name_len || name_len > RECORD_NAME_MAX || !val ||
	    record_dirent_decode(val, len, &at.de) < 0) {
		survey_found(nc->s,
			     "name \"%s\" in directory %" PRIu64
			     ": its record is damaged",
			     at.name.text, at.parent);
		return 0;
	}
	r = namecheck_dirent_at(nc, &at);
	return r < 0 ? r : namecheck_cookie_of(nc, &at, name, name_len);
}

static int namecheck_cookie(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de = { .ino = 0 };
	uint64_t parent, cookie;
	int r;

	if (namecheck_id(nc, key, "cookie", &parent) < 0)
		return 0;
	if (record_key_get(key, sizeof(uint64_t), &cookie) < 0 || !val ||
	    !len || len > RECORD_NAME_MAX || memchr(val, '\0', len)) {
		survey_found(nc->s,
			     "directory %" PRIu64
			     ": the record of an offset is damaged",
			     parent);
		return 0;
	}
	memcpy(name, val, len);
	name[len] = '\0';
	r = table_dirent_get(nc->s->txn, parent, name, &de);
	if (r == -EBADMSG) /* told already */
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	if (de.cookie != cookie)
		survey_found(nc->s,
			     "directory %" PRIu64 ": offset %" PRIu64
			     " leads to \"%s\", which is %s",
			     parent, cookie, survey_name(name, len).text,
			     r < 0 ? "not there" : "elsewhere");
	return 0;
}

/* --- Inodes ------------------------------------------------------------ */

static int namecheck_nameless(struct namecheck *nc, const struct inode *in)
{
	struct record_key key = record_key_id(in->ino);
	uint8_t none[1];
	ssize_t n = index_get(nc->s->txn, INDEX_ORPHAN, &key, none, 1);

	if (n < 0 && n != -ENOENT && n != -EBADMSG)
		return (int)n;
	if (n == -ENOENT)
		survey_found(nc->s,
			     "inode %" PRIu64
			     ": it has no name and is no orphan",
			     in->ino);
	else if (in->nlink)
		survey_found(nc->s,
			     "inode %" PRIu64 ": %u links, it has no name",
			     in->ino, in->nlink);
	return 0;
}

static int namecheck_links(struct namecheck *nc, const struct inode *in,
			   const struct survey_item *it)
{
	uint32_t names = it->count + (in->ino == RECORD_ROOT_INO);
	uint32_t links = names;

	if (!names)
		return namecheck_nameless(nc, in);
	if (S_ISDIR(in->mode)) {
		links = 2 + (it->other & ~NAMECHECK_MARKS);
		if (names > 1)
			survey_found(nc->s, "directory %" PRIu64 ": %u names",
				     in->ino, names);
	}
	if (in->nlink != links)
		survey_found(nc->s,
			     "inode %" PRIu64 ": %u links, counted are %u",
			     in->ino, in->nlink, links);
	return 0;
}

/* Change the marks of a directory and those above it, as long as they are
 * @from. *@ret_ino: the first that was not marked so; 0: there is none. */
static int namecheck_climb(struct namecheck *nc, uint64_t ino, uint32_t from,
			   uint32_t to, uint64_t *ret_ino)
{
	struct survey_item *it;
	struct inode in;
	int r;

	while ((it = survey_find(&nc->inodes, ino)) &&
	       (it->other & NAMECHECK_MARKS) == from) {
		it->other = (it->other & ~NAMECHECK_MARKS) | to;
		r = ino == RECORD_ROOT_INO ? 0 : namecheck_inode(nc, ino, &in);
		*ret_ino = 0;
		if (r <= 0)
			return r;
		ino = in.parent;
	}
	*ret_ino = it ? ino : 0;
	return 0;
}

/* Does the way up end at the root, or at what was told already? */
static int namecheck_reach(struct namecheck *nc, uint64_t ino)
{
	const struct survey_item *it;
	uint64_t end = 0;
	int r = namecheck_climb(nc, ino, 0, NAMECHECK_CLIMBED, &end);

	it = end ? survey_find(&nc->inodes, end) : NULL;
	if (r >= 0 && it && (it->other & NAMECHECK_CLIMBED))
		survey_found(nc->s,
			     "directory %" PRIu64
			     ": it is below itself, not below the root",
			     end);
	if (r >= 0)
		r = namecheck_climb(nc, ino, NAMECHECK_CLIMBED,
				    NAMECHECK_REACHED, &end);
	return r;
}

/* A file with one name knows it, and its entry is of that. */
static int namecheck_own(struct namecheck *nc, const struct inode *in)
{
	struct entry_rec en = { .name = "" };
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de = { .ino = 0 };
	int r = table_cookie_get(nc->s->txn, in->parent, in->cookie, name);

	if (r >= 0)
		r = table_dirent_get(nc->s->txn, in->parent, name, &de);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r != -EBADMSG && de.ino != in->ino) {
		survey_found(nc->s,
			     "inode %" PRIu64 ": it is not at offset %" PRIu64
			     " of directory %" PRIu64 ", where it says it is",
			     in->ino, in->cookie, in->parent);
		return 0;
	}
	r = r < 0 || !in->entry ? -ENOENT
				: table_entry_get(nc->s->txn, in->entry, &en);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (!table_entry_fits(&en, in, name))
		survey_found(nc->s,
			     "inode %" PRIu64 ": its entry %" PRIu64
			     " is of another name or kind",
			     in->ino, in->entry);
	return 0;
}

/* Its entry is there, unless directories moved (tidy_rescan()). */
static int namecheck_count_entry(struct namecheck *nc, const struct inode *in,
				 uint32_t names)
{
	struct survey_item *it = survey_find(&nc->entries, in->entry);

	if (it && in->entry)
		it->count++;
	if (nc->moved)
		return 0;
	if (!it && in->entry)
		survey_found(nc->s,
			     "inode %" PRIu64 ": its entry %" PRIu64
			     " is not there",
			     in->ino, in->entry);
	return names == 1 && in->nlink == 1 ? namecheck_own(nc, in) : 0;
}

static int namecheck_bytes(struct namecheck *nc, const struct inode *in)
{
	cleanup_free uint8_t *buf = malloc(INDEX_VALUE_MAX);
	struct record_key key = record_key_id(in->ino);
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	n = index_get(nc->s->txn, INDEX_INLINE, &key, buf, INDEX_VALUE_MAX);
	if (n == -EBADMSG) /* told where the table is walked */
		return 0;
	if (n == -ENOENT)
		survey_found(nc->s,
			     "inode %" PRIu64
			     ": its bytes are to be in the index, but are not",
			     in->ino);
	else if (n >= 0 && (uint64_t)n != RECORD_INLINE_HEAD + in->size)
		survey_found(nc->s,
			     "inode %" PRIu64 ": %" PRIu64
			     " bytes, in the index are %zd",
			     in->ino, in->size, n - RECORD_INLINE_HEAD);
	return n < 0 && n != -ENOENT ? (int)n : 0;
}

static int namecheck_one(void *arg, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	struct survey_item *it;
	struct inode in;
	uint64_t ino;
	int r;

	if (!val || record_key_get(key, 0, &ino) < 0 ||
	    record_inode_decode(ino, val, len, &in) < 0)
		return 0; /* told already */
	it = survey_find(&nc->inodes, ino);
	r = it ? namecheck_links(nc, &in, it) : 0;
	if (r >= 0 && S_ISDIR(in.mode) && in.nlink)
		r = namecheck_reach(nc, ino);
	if (r >= 0 && in.data == INODE_DATA_INLINE)
		r = namecheck_bytes(nc, &in);
	if (r >= 0 && S_ISREG(in.mode))
		r = namecheck_count_entry(nc, &in, it ? it->count : 0);
	return r < 0 ? r : 0;
}

/* Inodes that are to go are there, and have no name. */
static int namecheck_orphan(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	const struct survey_item *it;
	uint64_t ino;

	(void)val;
	(void)len;
	if (namecheck_id(nc, key, "orphan", &ino) < 0)
		return 0;
	it = survey_find(&nc->inodes, ino);
	if (!it || it->count)
		survey_found(nc->s, "orphan %" PRIu64 ": the inode %s", ino,
			     it ? "has a name" : "is not there");
	return 0;
}

static int namecheck_inline(void *arg, const struct record_key *key,
			    const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	struct inode in;
	uint64_t ino;
	int r;

	(void)len;
	if (namecheck_id(nc, key, "inline", &ino) < 0)
		return 0;
	if (!val)
		survey_found(nc->s,
			     "inode %" PRIu64
			     ": its bytes in the index are damaged",
			     ino);
	r = namecheck_inode(nc, ino, &in);
	if (r < 0)
		return r;
	if (r ? in.data != INODE_DATA_INLINE : !survey_find(&nc->inodes, ino))
		survey_found(nc->s,
			     "inode %" PRIu64
			     ": there are bytes in the index, %s",
			     ino, r ? "its own are elsewhere" : "but no inode");
	return 0;
}

/* --- Entries ----------------------------------------------------------- */

static int namecheck_add_entry(void *arg, const struct record_key *key,
			       const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	struct survey_item *it;
	uint64_t id;

	(void)val;
	(void)len;
	if (namecheck_id(nc, key, "entry", &id) < 0)
		return 0;
	return survey_add(&nc->entries, id, &it);
}

static int namecheck_entry(void *arg, const struct record_key *key,
			   const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	const struct survey_item *it;
	struct record_key lru;
	struct entry_rec en;
	struct inode dir;
	uint8_t none[1];
	uint64_t id;
	ssize_t n;
	int r;

	if (record_key_get(key, 0, &id) < 0)
		return 0;
	if (!val || record_entry_decode(val, len, &en) < 0) {
		survey_found(nc->s, "entry %" PRIu64 ": its record is damaged",
			     id);
		return 0;
	}
	it = survey_find(&nc->entries, id);
	if (it && it->count != en.members)
		survey_found(nc->s, "entry %" PRIu64 ": %u files, %u carry it",
			     id, en.members, it->count);
	r = namecheck_inode(nc, en.dir, &dir);
	if (r < 0)
		return r;
	if (r ? !S_ISDIR(dir.mode) : !survey_find(&nc->inodes, en.dir))
		survey_found(nc->s,
			     "entry %" PRIu64 ": its directory %" PRIu64
			     " is not there",
			     id, en.dir);
	lru = record_key_lru((uint8_t)layout_queue(en.kind), en.last_use_ns,
			     id);
	n = index_get(nc->s->txn, INDEX_LRU, &lru, none, sizeof(none));
	if (n == -ENOENT)
		survey_found(nc->s,
			     "entry %" PRIu64 ": it has no place in the LRU",
			     id);
	return n < 0 && n != -ENOENT && n != -EBADMSG ? (int)n : 0;
}

#define NAMECHECK_LRU_ENTRY (1 + sizeof(uint64_t)) /* where in the key */

/* A place in the LRU is that of its entry. */
static int namecheck_lru(void *arg, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	struct namecheck *nc = arg;
	struct record_key lru = { .len = 0 };
	struct entry_rec en;
	uint64_t id;
	int r;

	(void)len;
	if (record_key_get(key, NAMECHECK_LRU_ENTRY, &id) < 0) {
		survey_found(nc->s, "table lru: a key of %zu bytes", key->len);
		return 0;
	}
	r = table_entry_get(nc->s->txn, id, &en);
	if (r == -EBADMSG) /* told already */
		return 0;
	if (r < 0 && r != -ENOENT)
		return r;
	if (r >= 0)
		lru = record_key_lru((uint8_t)layout_queue(en.kind),
				     en.last_use_ns, id);
	if (!val || lru.len != key->len ||
	    memcmp(lru.bytes, key->bytes, lru.len) != 0)
		survey_found(nc->s, "entry %" PRIu64 ": a place in the LRU %s",
			     id,
			     r < 0 ? "without the entry" : "is not its own");
	return 0;
}

/* --- All --------------------------------------------------------------- */

int namecheck_run(struct survey *s, struct namecheck_result *ret)
{
	static const struct {
		enum index_table table;
		survey_fn fn;
	} steps[] = {
		{ INDEX_INODE, namecheck_add_inode },
		{ INDEX_ENTRY, namecheck_add_entry },
		{ INDEX_DIRENT, namecheck_dirent },
		{ INDEX_COOKIE, namecheck_cookie },
		{ INDEX_INODE, namecheck_one },
		{ INDEX_ORPHAN, namecheck_orphan },
		{ INDEX_INLINE, namecheck_inline },
		{ INDEX_ENTRY, namecheck_entry },
		{ INDEX_LRU, namecheck_lru },
	};
	struct namecheck nc = { .s = s };
	int r = table_meta_get(s->txn, TABLE_META_RESCAN, &nc.moved);

	if (r == -ENOENT)
		r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(steps) && r >= 0; i++)
		r = survey_walk(s, steps[i].table, steps[i].fn, &nc);
	if (r >= 0)
		r = survey_mark(s, INDEX_ID_INO, &nc.inodes);
	if (r >= 0)
		r = survey_mark(s, INDEX_ID_ENTRY, &nc.entries);
	if (r >= 0 && !survey_find(&nc.inodes, RECORD_ROOT_INO))
		survey_found(s, "the root directory is not there");
	survey_release(&nc.inodes);
	survey_release(&nc.entries);
	if (r >= 0)
		*ret = nc.res;
	return r < 0 ? r : 0;
}
