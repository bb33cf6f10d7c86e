/* SPDX-License-Identifier: MIT */
#include "store/regraft.h"

#include <string.h>
#include <sys/stat.h>

#include "store/layout.h"
#include "store/relink.h"
#include "store/table.h"

#define REGRAFT_BATCH 256 /* names in one transaction */
#define REGRAFT_TYPE_DIR (S_IFDIR >> 12)

/* Directories of one name in both trees: item.id of the second one's, item.ref
 * of the first one's. */
struct regraft {
	struct rework *rw;
	struct survey_set queue;
	uint64_t from;
	struct rework_ino *to;
};

static int regraft_push(struct regraft *g, uint64_t from, uint64_t to)
{
	struct survey_item *item;
	int r = survey_add(&g->queue, from, &item);

	if (r >= 0)
		item->ref = to;
	return r;
}

/* Is there a half of a pair, in the first tree, that this one is not of? */
static int regraft_is_foreign(const struct regraft *g, const char *name)
{
	char partner[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	int r;

	if (!layout_partner(name, partner))
		return 0;
	r = table_dirent_get(g->rw->txn, g->to->ino, partner, &de);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return de.ino < g->rw->other;
}

/* The entry of a file goes where the file is; one of a whole directory is found
 * anew by the rescan. */
static int regraft_entry(struct regraft *g, struct inode *in)
{
	struct record_key key = record_key_id(in->entry);
	uint8_t buf[RECORD_ENTRY_MAX];
	struct entry_rec en;
	int r = in->entry ? table_entry_get(g->rw->txn, in->entry, &en)
			  : -ENOENT;

	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (r < 0 || !*en.name) {
		in->entry = 0;
		return 0;
	}
	en.dir = g->to->ino;
	return index_put(g->rw->txn, INDEX_ENTRY, &key, buf,
			 record_entry_encode(&en, buf), false);
}

/* @it becomes @name in the first tree. */
static int regraft_move(struct regraft *g, const char *name,
			struct rework_ino *it, struct dirent_rec *de)
{
	struct inode in;
	int r;

	de->cookie = g->to->next++;
	r = table_dirent_put(g->rw->txn, g->to->ino, name, de);
	if (r >= 0)
		r = table_inode_get(g->rw->txn, it->ino, &in);
	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	in.parent = g->to->ino;
	in.cookie = de->cookie;
	if (S_ISREG(in.mode))
		r = regraft_entry(g, &in);
	if (it->type == REGRAFT_TYPE_DIR) {
		it->up = in.parent;
		it->cookie = in.cookie;
	}
	return r < 0 ? r : table_inode_put(g->rw->txn, &in);
}

/* One name of the second tree, which is no more there. */
static int regraft_name(struct regraft *g, const char *name,
			struct dirent_rec *de)
{
	struct rework_ino *it = rework_find(g->rw, de->ino), *has;
	struct dirent_rec there;
	bool dir = it && it->type == REGRAFT_TYPE_DIR;
	int r = table_dirent_get(g->rw->txn, g->to->ino, name, &there);

	if (!it)
		return 0;
	if (dir && (it->up != g->from || it->cookie != de->cookie))
		return 0; /* it is elsewhere */
	if (dir)
		it->up = 0; /* until it moves */
	if (r >= 0) {
		has = rework_find(g->rw, there.ino);
		return dir && has && has->type == REGRAFT_TYPE_DIR
			       ? regraft_push(g, it->ino, has->ino)
			       : 0;
	}
	if (r != -ENOENT && r != -EBADMSG)
		return r;
	r = dir ? 0 : regraft_is_foreign(g, name);
	return r ? (r < 0 ? r : 0) : regraft_move(g, name, it, de);
}

/* The next name of the directory goes from the second tree. 0: there is none. */
static int regraft_take(struct regraft *g,
			char name[static RECORD_NAME_MAX + 1],
			struct dirent_rec *ret)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(g->from), key;
	uint8_t buf[RECORD_DIRENT_SIZE];
	uint64_t dir;
	size_t len;
	int r = index_iter(g->rw->txn, INDEX_DIRENT, &from, sizeof(dir), &it);

	if (r >= 0)
		r = index_next(&it, &key, buf, sizeof(buf), &len);
	if (r <= 0)
		return r;
	if (!rework_name(&key, &dir, name) ||
	    record_dirent_decode(buf, len, ret) < 0)
		return -EBADMSG; /* such are gone already */
	r = index_del(g->rw->txn, INDEX_DIRENT, &key);
	return r < 0 ? r : 1;
}

/* 1: there may be more of this directory. */
static int regraft_some(struct regraft *g)
{
	char name[RECORD_NAME_MAX + 1];
	struct dirent_rec de;
	int n = 0, r = 1;

	while (n++ < REGRAFT_BATCH && r > 0) {
		r = regraft_take(g, name, &de);
		if (r <= 0)
			return r;
		r = regraft_name(g, name, &de);
		if (r < 0)
			return r;
		r = 1;
	}
	return 1;
}

static int regraft_dir(struct regraft *g)
{
	int r = 1, end;

	while (r > 0) {
		r = rework_begin(g->rw);
		if (r >= 0)
			r = regraft_some(g);
		if (r < 0) {
			index_abort(steal_ptr(g->rw->txn));
			return r;
		}
		end = rework_commit(g->rw);
		if (end < 0)
			return end;
	}
	return r;
}

int regraft(struct rework *rw)
{
	struct regraft g = { .rw = rw };
	int r = regraft_push(&g, rw->other + RECORD_ROOT_INO, RECORD_ROOT_INO);

	for (size_t i = 0; i < g.queue.n && r >= 0; i++) {
		g.from = g.queue.v[i].id;
		g.to = rework_find(rw, g.queue.v[i].ref);
		if (g.to && (g.to->state & REWORK_REACHED))
			r = regraft_dir(&g);
	}
	survey_release(&g.queue);
	rw->joined = true;
	relink_reach(rw);
	return r;
}
