/* SPDX-License-Identifier: MIT */
#include "store/relink.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/table.h"

#define RELINK_TYPE_DIR (S_IFDIR >> 12)

/* --- What there is ------------------------------------------------------ */

/* The name of @in is not known in its directory any more, but the inode and
 * the record of the offset agree on it. */
static int relink_put_back(struct rework *rw, const struct inode *in,
			   const char *name)
{
	struct record_key key = record_key_name(in->parent, name);
	struct dirent_rec de = { .ino = in->ino,
				 .cookie = in->cookie,
				 .type = (uint8_t)(in->mode >> 12) };
	uint8_t buf[RECORD_DIRENT_SIZE];

	record_dirent_encode(&de, buf);
	survey_found(&rw->s,
		     "name \"%s\" in directory %" PRIu64
		     ": put back, it leads to inode %" PRIu64,
		     survey_name(name, strlen(name)).text, in->parent, in->ino);
	return index_put(rw->txn, INDEX_DIRENT, &key, buf, sizeof(buf), true);
}

/* The name that the inode knows. 1: it leads to it. */
static int relink_own_name(struct rework *rw, const struct inode *in)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	int r;

	if (!in->nlink || !in->cookie || rework_is_root(rw, in->ino))
		return 0;
	r = table_cookie_get(rw->txn, in->parent, in->cookie, name);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	r = table_dirent_get(rw->txn, in->parent, name, &de);
	if (r == -ENOENT || r == -EBADMSG) {
		r = relink_put_back(rw, in, name);
		return r < 0 ? r : 1;
	}
	return r < 0 ? r : de.ino == in->ino && de.cookie == in->cookie;
}

static int relink_inode(struct rework *rw, const struct record_key *key,
			const uint8_t *val, size_t len)
{
	struct survey_item *claim;
	struct rework_ino it = { 0 };
	struct inode in;
	int r = record_key_get(key, 0, &it.ino);

	if (r < 0 || record_inode_decode(it.ino, val, len, &in) < 0)
		return index_del(rw->txn, INDEX_INODE, key);
	it.type = (uint8_t)(in.mode >> 12);
	it.kind = in.kind;
	it.next = in.next_cookie < RECORD_FIRST_COOKIE ? RECORD_FIRST_COOKIE
						       : in.next_cookie;
	r = relink_own_name(rw, &in);
	if (r > 0 && S_ISDIR(in.mode)) {
		it.up = in.parent;
		it.cookie = in.cookie;
	}
	if (r >= 0 && in.data == INODE_DATA_PACK)
		r = survey_add(&rw->claims, in.pack, &claim);
	return r < 0 ? r : rework_add(rw, &it);
}

/* A directory that a name says is there: with owner and permissions of the one
 * above, if that is known. */
static int relink_make_dir(struct rework *rw, uint64_t ino, uint64_t up,
			   uint64_t cookie)
{
	int64_t now = base_now_ns();
	struct rework_ino it = { .ino = ino,
				 .up = up,
				 .cookie = cookie,
				 .next = RECORD_FIRST_COOKIE,
				 .type = RELINK_TYPE_DIR };
	struct inode in, parent;
	int r = up ? table_inode_get(rw->txn, up, &parent) : -ENOENT;

	if (r == -ENOENT || r == -EBADMSG)
		parent = (struct inode){ .mode = S_IFDIR | 0755,
					 .uid = geteuid(),
					 .gid = getegid() };
	else if (r < 0)
		return r;
	in = (struct inode){ .ino = ino,
			     .view = parent.view,
			     .mode = S_IFDIR | (parent.mode & 07777),
			     .uid = parent.uid,
			     .gid = parent.gid,
			     .nlink = 2,
			     .atime_ns = now,
			     .mtime_ns = now,
			     .ctime_ns = now,
			     .parent = up ? up : ino,
			     .cookie = cookie,
			     .next_cookie = RECORD_FIRST_COOKIE };
	survey_found(&rw->s, "directory %" PRIu64 ": made anew", ino);
	r = table_inode_put(rw->txn, &in);
	if (r >= 0)
		r = idset_add(&rw->made, ino);
	return r < 0 ? r : rework_add(rw, &it);
}

static int relink_missing_dir(struct rework *rw, const struct record_key *key,
			      const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	uint64_t dir;

	if (!rework_name(key, &dir, name) ||
	    record_dirent_decode(val, len, &de) < 0)
		return index_del(rw->txn, INDEX_DIRENT, key);
	if (de.type != RELINK_TYPE_DIR || rework_find(rw, de.ino) ||
	    idset_has(&rw->made, de.ino) || !de.ino)
		return 0;
	return relink_make_dir(rw, de.ino, dir, de.cookie);
}

static int relink_missing_root(struct rework *rw, uint64_t ino)
{
	int r;

	if (rework_find(rw, ino))
		return 0;
	r = rework_begin(rw);
	if (r >= 0)
		r = relink_make_dir(rw, ino, 0, 0);
	if (r < 0)
		return r;
	r = rework_commit(rw);
	rework_sort(rw);
	return r;
}

/* --- Which directory is where ------------------------------------------- */

/* Cookies that are taken; and where directories are whose own record does not
 * tell: the first name counts. */
static int relink_up(struct rework *rw, const struct record_key *key,
		     const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct rework_ino *dir, *it;
	struct dirent_rec de;
	uint64_t up;

	if (!rework_name(key, &up, name) ||
	    record_dirent_decode(val, len, &de) < 0)
		return 0;
	dir = rework_find(rw, up);
	it = rework_find(rw, de.ino);
	if (dir && de.cookie >= dir->next && de.cookie < INT64_MAX)
		dir->next = de.cookie + 1;
	if (dir && it && it->type == RELINK_TYPE_DIR && !it->up &&
	    !rework_is_root(rw, it->ino)) {
		it->up = up;
		it->cookie = de.cookie;
	}
	return 0;
}

/* Mark the directory and those above it, as far as they are not marked yet.
 * Returns what the first one behind them is, NULL: nothing. */
static struct rework_ino *relink_climb(struct rework *rw, struct rework_ino *it)
{
	while (it && it->type == RELINK_TYPE_DIR &&
	       !(it->state &
		 (REWORK_REACHED | REWORK_CUT_OFF | REWORK_CLIMBED))) {
		it->state |= REWORK_CLIMBED;
		if (rework_is_root(rw, it->ino)) {
			it->state |= REWORK_REACHED;
			return it;
		}
		it = it->up ? rework_find(rw, it->up) : NULL;
	}
	return it;
}

static void relink_reach_one(struct rework *rw, struct rework_ino *it)
{
	const struct rework_ino *end = relink_climb(rw, it);
	bool reached = end && (end->state & REWORK_REACHED);

	while (it && (it->state & REWORK_CLIMBED)) {
		it->state &= (uint8_t)~REWORK_CLIMBED;
		it->state |= reached ? REWORK_REACHED : REWORK_CUT_OFF;
		it = it->up ? rework_find(rw, it->up) : NULL;
	}
}

void relink_reach(struct rework *rw)
{
	const uint8_t marks = REWORK_REACHED | REWORK_CUT_OFF | REWORK_CLIMBED;

	for (size_t i = 0; i < rw->n_inos; i++)
		rw->inos[i].state &= (uint8_t)~marks;
	for (size_t i = 0; i < rw->n_inos; i++)
		if (rw->inos[i].type == RELINK_TYPE_DIR)
			relink_reach_one(rw, &rw->inos[i]);
}

int relink_inodes(struct rework *rw)
{
	int r = rework_each(rw, INDEX_INODE, relink_inode);

	rework_sort(rw);
	survey_sort(&rw->claims);
	if (r >= 0)
		r = relink_missing_root(rw, RECORD_ROOT_INO);
	if (r >= 0 && rw->other)
		r = relink_missing_root(rw, rw->other + RECORD_ROOT_INO);
	if (r >= 0)
		r = rework_each(rw, INDEX_DIRENT, relink_missing_dir);
	rework_sort(rw);
	if (r >= 0)
		r = rework_each(rw, INDEX_DIRENT, relink_up);
	if (r >= 0)
		relink_reach(rw);
	return r;
}

/* --- Names --------------------------------------------------------------- */

/* The other half of a pair is of no use without a lost one. */
static int relink_pair(struct rework *rw, const struct record_key *key,
		       const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1], partner[RECORD_NAME_MAX + 1];
	struct rework_ino *it, *other;
	struct dirent_rec de;
	uint64_t dir;
	int r;

	if (!rework_name(key, &dir, name) ||
	    record_dirent_decode(val, len, &de) < 0 ||
	    !layout_partner(name, partner))
		return 0;
	it = rework_find(rw, de.ino);
	if (it && (!(it->state & REWORK_LOST) || it->kind != LAYOUT_HTTP))
		return 0;
	r = table_dirent_get(rw->txn, dir, partner, &de);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	other = rework_find(rw, de.ino);
	if (other && other->kind == LAYOUT_HTTP &&
	    !(other->state & REWORK_LOST)) {
		other->state |= REWORK_LOST;
		other->why = "the other half of its pair is lost";
	}
	return 0;
}

/* Offsets that are not those of their names. */
static int relink_cookie(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	uint64_t dir, cookie;
	int r = record_key_get(key, 0, &dir);

	if (r >= 0)
		r = record_key_get(key, sizeof(dir), &cookie);
	if (r >= 0 && len && len <= RECORD_NAME_MAX &&
	    !memchr(val, '\0', len)) {
		memcpy(name, val, len);
		name[len] = '\0';
		r = table_dirent_get(rw->txn, dir, name, &de);
		if (r >= 0 && de.cookie == cookie)
			return 0;
	}
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	return index_del(rw->txn, INDEX_COOKIE, key);
}

/* Why the name is not to stay; NULL: it is. */
static const char *relink_judge(const struct rework *rw,
				const struct rework_ino *dir,
				const struct rework_ino *it,
				const struct dirent_rec *de)
{
	if (!dir || !(dir->state & REWORK_REACHED))
		return "its directory is lost";
	if (!it)
		return "its inode is lost";
	if (it->state & REWORK_LOST)
		return it->why;
	if (it->type == RELINK_TYPE_DIR &&
	    (rework_is_root(rw, it->ino) || it->names ||
	     !(it->state & REWORK_REACHED) || it->up != dir->ino ||
	     it->cookie != de->cookie))
		return "the directory is elsewhere";
	return NULL;
}

/* Its offset, if that leads to it. */
static int relink_drop_cookie(struct rework *rw, uint64_t dir, const char *name,
			      uint64_t cookie)
{
	struct record_key key = record_key_pair(dir, cookie);
	char other[RECORD_NAME_MAX + 1];
	int r = table_cookie_get(rw->txn, dir, cookie, other);

	if (r >= 0 && strcmp(other, name) == 0)
		r = index_del(rw->txn, INDEX_COOKIE, &key);
	return r == -ENOENT || r == -EBADMSG ? 0 : r;
}

static int relink_drop_name(struct rework *rw, const struct record_key *key,
			    uint64_t cookie, const char *why)
{
	char name[RECORD_NAME_MAX + 1];
	const struct rework_ino *up;
	uint64_t dir = 0;
	int r;

	(void)rework_name(key, &dir, name);
	up = rework_find(rw, dir);
	rw->lost++;
	if (up && (up->state & REWORK_REACHED))
		survey_found(&rw->s, "%s: lost, %s",
			     rework_path(rw, dir, name).text, why);
	else
		survey_found(&rw->s,
			     "name \"%s\" in directory %" PRIu64 ": lost, %s",
			     survey_name(name, strlen(name)).text, dir, why);
	r = relink_drop_cookie(rw, dir, name, cookie);
	return r < 0 ? r : index_del(rw->txn, INDEX_DIRENT, key);
}

/* Its offset leads to it; one that another name has is given anew. */
static int relink_list(struct rework *rw, struct rework_ino *dir,
		       const char *name, struct dirent_rec *de)
{
	struct record_key key = record_key_pair(dir->ino, de->cookie);
	char other[RECORD_NAME_MAX + 1];
	int r = table_cookie_get(rw->txn, dir->ino, de->cookie, other);

	if (r >= 0 && strcmp(other, name) == 0 &&
	    de->cookie >= RECORD_FIRST_COOKIE && de->cookie < INT64_MAX)
		return 0;
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r >= 0 || de->cookie < RECORD_FIRST_COOKIE ||
	    de->cookie >= INT64_MAX) {
		de->cookie = dir->next++;
		key = record_key_pair(dir->ino, de->cookie);
	}
	return index_put(rw->txn, INDEX_COOKIE, &key, name, strlen(name),
			 false);
}

static int relink_name(struct rework *rw, const struct record_key *key,
		       const uint8_t *val, size_t len)
{
	char name[RECORD_NAME_MAX + 1];
	struct rework_ino *dir, *it;
	struct dirent_rec de;
	uint8_t buf[RECORD_DIRENT_SIZE];
	const char *why;
	uint64_t up;
	int r;

	if (!rework_name(key, &up, name) ||
	    record_dirent_decode(val, len, &de) < 0)
		return index_del(rw->txn, INDEX_DIRENT, key);
	dir = rework_find(rw, up);
	it = rework_find(rw, de.ino);
	why = relink_judge(rw, dir, it, &de);
	if (why)
		return relink_drop_name(rw, key, de.cookie, why);
	r = relink_list(rw, dir, name, &de);
	if (r < 0)
		return r;
	if (!it->names++ || it->type == RELINK_TYPE_DIR) {
		it->up = up;
		it->cookie = de.cookie;
	}
	dir->dirs += it->type == RELINK_TYPE_DIR;
	de.type = it->type;
	record_dirent_encode(&de, buf);
	return memcmp(buf, val, sizeof(buf)) == 0
		       ? 0
		       : index_put(rw->txn, INDEX_DIRENT, key, buf, sizeof(buf),
				   false);
}

int relink_names(struct rework *rw)
{
	int r = rework_each(rw, INDEX_DIRENT, relink_pair);

	if (r >= 0)
		r = rework_each(rw, INDEX_COOKIE, relink_cookie);
	return r < 0 ? r : rework_each(rw, INDEX_DIRENT, relink_name);
}

/* --- Inodes -------------------------------------------------------------- */

/* Does the name that the inode knows lead to it? Else it is the first one. */
static int relink_settle_name(struct rework *rw, const struct rework_ino *it,
			      struct inode *in)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de = { .ino = 0 };
	int r;

	if (rework_is_root(rw, in->ino))
		return 0;
	r = table_cookie_get(rw->txn, in->parent, in->cookie, name);
	if (r >= 0)
		r = table_dirent_get(rw->txn, in->parent, name, &de);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r >= 0 && de.ino == in->ino && !S_ISDIR(in->mode))
		return 0;
	in->parent = it->up;
	in->cookie = it->cookie;
	return 0;
}

/* What it is evicted with is there, and where it is; what is not known is found
 * out by the rescan (tidy.h). */
static int relink_settle_entry(struct rework *rw, struct inode *in)
{
	struct survey_item *item;
	struct entry_rec en;
	int r;

	if (!in->entry)
		return 0;
	r = table_entry_get(rw->txn, in->entry, &en);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r < 0 || (*en.name && en.dir != in->parent) ||
	    (S_ISDIR(in->mode) && en.dir != in->ino)) {
		in->entry = 0;
		return 0;
	}
	return S_ISREG(in->mode) ? survey_add(&rw->entries, in->entry, &item)
				 : 0;
}

static int relink_settle_data(struct rework *rw, const struct inode *in)
{
	struct survey_item *item;
	int r = 0;

	if (in->recipe) {
		r = survey_add(&rw->recipes, in->recipe, &item);
		if (r >= 0)
			item->ref = in->ino;
	}
	if (r >= 0 && in->recipe && in->data == INODE_DATA_PACK) {
		r = survey_add(&rw->owners, in->pack, &item);
		if (r >= 0)
			item->ref = in->ino;
	}
	return r;
}

static int relink_link(struct rework *rw, const struct record_key *key,
		       const uint8_t *val, size_t len)
{
	uint8_t buf[RECORD_INODE_SIZE];
	const struct rework_ino *it;
	struct inode in;
	uint64_t ino;
	int r;

	if (record_key_get(key, 0, &ino) < 0 ||
	    record_inode_decode(ino, val, len, &in) < 0)
		return index_del(rw->txn, INDEX_INODE, key);
	it = rework_find(rw, ino);
	if (!it || (!it->names && ino != RECORD_ROOT_INO))
		return index_del(rw->txn, INDEX_INODE, key);
	in.nlink = S_ISDIR(in.mode) ? 2 + it->dirs : it->names;
	if (S_ISDIR(in.mode))
		in.next_cookie = it->next;
	r = relink_settle_name(rw, it, &in);
	if (r >= 0)
		r = relink_settle_entry(rw, &in);
	if (r >= 0)
		r = relink_settle_data(rw, &in);
	if (r < 0)
		return r;
	rw->found += rework_is_other(rw, ino) && S_ISREG(in.mode);
	record_inode_encode(&in, buf);
	return memcmp(buf, val, sizeof(buf)) == 0
		       ? 0
		       : index_put(rw->txn, INDEX_INODE, key, buf, sizeof(buf),
				   false);
}

/* Bytes in the index that are no inode's. */
static int relink_inline(struct rework *rw, const struct record_key *key,
			 const uint8_t *val, size_t len)
{
	struct inode in;
	uint64_t ino;
	int r = record_key_get(key, 0, &ino);

	(void)val;
	(void)len;
	if (r >= 0)
		r = table_inode_get(rw->txn, ino, &in);
	if (r >= 0 && in.data == INODE_DATA_INLINE)
		return 0;
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	return index_del(rw->txn, INDEX_INLINE, key);
}

int relink_links(struct rework *rw)
{
	int r = rework_each(rw, INDEX_INODE, relink_link);

	survey_sort(&rw->recipes);
	survey_sort(&rw->entries);
	survey_sort(&rw->owners);
	return r < 0 ? r : rework_each(rw, INDEX_INLINE, relink_inline);
}
