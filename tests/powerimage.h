/* SPDX-License-Identifier: MIT */
/*
 * What a disk may hold at a moment of a log (powerlog.h):
 *
 * Each sector of 512 bytes (or page of 4096) of a file has any one of its
 * versions since the last sync of that file that was completed: what was
 * written after that sync began may be there or not. The length is anything
 * between the shortest and the longest of then and since; what was never
 * written is zero. The versions are mixed in seven ways: nothing new, all, each
 * sector as of some time, newest or oldest, any subset of the writes, the
 * file's head first, all but the holes.
 *
 * A directory is as it was at its last completed sync, and then a part of
 * what came after it, in order.
 *
 * This header replays a log and keeps all that; powercut.h makes a choice.
 */
#ifndef TESTS_POWERIMAGE_H
#define TESTS_POWERIMAGE_H

#include <check.h>
#include <sys/mman.h>

#include "powerlog.h"
#include "scratch.h"
#include "store/base.h"

#define IMAGE_UNIT 512
#define IMAGE_PAGE 4096
#define IMAGE_HEAD 8192 /* LMDB's two meta pages */

struct image_node;

struct image_write { /* since the last completed sync */
	uint64_t at; /* record number */
	uint64_t off;
	uint64_t len;
	uint64_t size;	      /* of the file, after it */
	const uint8_t *bytes; /* in the log; NULL: zeros */
};

/* The side file that "ckpt" names, and what it stands for. */
struct image_saved {
	uint64_t at; /* record that put it there, 0: none ever was */
	uint64_t txnid;
	uint64_t state;
	uint64_t time_sec; /* unix */
	bool empty;	   /* the snapshot of a new index, or none at all */
};

struct image_name {
	char name[48];
	struct image_node *node; /* NULL: unused */
};

struct image_names {
	unsigned n, room;
	struct image_name *name; /* owned */
	struct image_saved saved;
};

struct image_node {
	uint64_t ino;
	bool dir;
	bool old; /* the number is another's by now */

	/* A file: */
	uint8_t *bytes; /* as synced; owned */
	uint64_t len;	/* as synced */
	uint64_t room;
	uint64_t len_now;
	uint64_t end; /* no byte other than zero behind it */
	struct image_write *writes;
	size_t n, writes_room;

	/* A directory: as synced, and as it is now. */
	struct image_names synced, now;
};

struct image_change { /* of a directory, since its last completed sync */
	uint64_t at;
	enum powerlog_type type;
	const struct powerlog_names *names;
	struct image_node *dir;
	struct image_node *node; /* that is created */
	struct image_saved saved;
};

struct image_sync {
	uint64_t id;
	uint64_t at;
};

struct image {
	const uint8_t *log;
	size_t log_len;
	size_t pos;
	uint64_t at; /* records replayed */
	uint64_t seed;
	struct image_node **nodes;
	size_t n_nodes;
	struct image_node *root;
	struct image_change *changes;
	size_t n_changes, room_changes;
	struct image_sync syncs[64];
	unsigned n_syncs;
	uint64_t *state; /* by transaction; 0: not known */
	uint64_t promised;
	uint64_t note;
	/* Controls: syncs that are taken for nothing. */
	bool ignore_data_sync;
	bool ignore_pack_sync;
	bool ignore_dir_sync;
	bool no_torn_meta;
};

#define IMAGE_TXNS_MAX (1 << 20)

static inline uint64_t image_random(uint64_t *seed)
{
	uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Room for one more of @size bytes in an array of @n. */
static inline void *image_grow(void *array, size_t n, size_t *room, size_t size)
{
	if (n < *room)
		return array;
	*room = *room ? 2 * *room : 64;
	array = reallocarray(array, *room, size);
	ck_assert_ptr_nonnull(array);
	return array;
}

/* -- Files ---------------------------------------------------------------- */

static inline struct image_node *image_node(struct image *im, uint64_t ino)
{
	for (size_t i = im->n_nodes; i-- > 0;) {
		if (im->nodes[i]->ino == ino && !im->nodes[i]->old)
			return im->nodes[i];
	}
	ck_abort_msg("inode %ju is not known", (uintmax_t)ino);
	return NULL;
}

/* A number that a removed file had may be given to a new one. */
static inline struct image_node *image_new(struct image *im, uint64_t ino,
					   bool dir)
{
	struct image_node *node = calloc(1, sizeof(*node));

	ck_assert_ptr_nonnull(node);
	for (size_t i = 0; i < im->n_nodes; i++)
		im->nodes[i]->old |= im->nodes[i]->ino == ino;
	im->nodes = reallocarray(im->nodes, im->n_nodes + 1, sizeof(node));
	ck_assert_ptr_nonnull(im->nodes);
	im->nodes[im->n_nodes++] = node;
	node->ino = ino;
	node->dir = dir;
	node->synced.saved.empty = node->now.saved.empty = true;
	return node;
}

/* Nothing of it comes back. */
static inline void image_forget(struct image_node *node)
{
	free(node->bytes);
	free(node->writes);
	node->bytes = NULL;
	node->writes = NULL;
	node->n = node->writes_room = 0;
	node->len = node->len_now = node->room = node->end = 0;
}

/* Zeros, in pieces: some may be there, and others not. */
static inline void image_note(struct image *im, struct image_node *node,
			      const struct image_write *what)
{
	const uint64_t most = what->bytes ? UINT64_MAX : 64 * 1024;
	uint64_t end = what->off + what->len;
	struct image_write w = *what;

	w.at = im->at;
	node->len_now = w.size;
	do {
		w.len = end - w.off < most ? end - w.off : most;
		node->writes = image_grow(node->writes, node->n,
					  &node->writes_room, sizeof(w));
		node->writes[node->n++] = w;
		w.off += w.len;
	} while (w.off < end);
}

static inline void image_write(struct image *im, struct image_node *node,
			       const struct powerlog_rec *rec,
			       const uint8_t *bytes)
{
	uint64_t end = rec->a + rec->len;
	uint64_t size = end > node->len_now ? end : node->len_now;

	if (node->end < end)
		node->end = end;
	image_note(im, node,
		   &(struct image_write){ .off = rec->a,
					  .len = rec->len,
					  .size = size,
					  .bytes = bytes });
}

/* [@from, @to) is zero from now on, and the file @size long. */
static inline void image_zero(struct image *im, struct image_node *node,
			      uint64_t from, uint64_t to, uint64_t size)
{
	if (to > node->end)
		to = node->end;
	if (from > to)
		from = to;
	image_note(im, node,
		   &(struct image_write){
			   .off = from, .len = to - from, .size = size });
}

static inline void image_apply_write(struct image_node *node,
				     const struct image_write *w)
{
	uint64_t end = w->off + w->len;

	if (end > node->room) {
		uint64_t room = end + end / 2;

		node->bytes = realloc(node->bytes, room);
		ck_assert_ptr_nonnull(node->bytes);
		memset(node->bytes + node->room, 0, room - node->room);
		node->room = room;
	}
	if (w->bytes)
		memcpy(node->bytes + w->off, w->bytes, w->len);
	else if (w->len)
		memset(node->bytes + w->off, 0, w->len);
	node->len = w->size;
}

/* All that was written before record @at is on the disk. */
static inline void image_file_synced(struct image_node *node, uint64_t at)
{
	size_t kept = 0;

	for (size_t i = 0; i < node->n; i++) {
		if (node->writes[i].at >= at)
			node->writes[kept++] = node->writes[i];
		else
			image_apply_write(node, &node->writes[i]);
	}
	node->n = kept;
}

/* -- Directories ---------------------------------------------------------- */

static inline struct image_node *image_lookup(const struct image_names *names,
					      const char *name)
{
	for (unsigned i = 0; i < names->n; i++) {
		if (names->name[i].node &&
		    strcmp(names->name[i].name, name) == 0)
			return names->name[i].node;
	}
	return NULL;
}

/* @node has the name from now on; NULL: nothing has it. */
static inline void image_set(struct image_names *names, const char *name,
			     struct image_node *node)
{
	size_t room = names->room;
	unsigned at = names->n; /* or an unused one */

	for (unsigned i = 0; i < names->n; i++) {
		if (names->name[i].node &&
		    strcmp(names->name[i].name, name) != 0)
			continue;
		at = i;
		if (names->name[i].node)
			break;
	}
	names->name = image_grow(names->name, at, &room, sizeof(*names->name));
	names->room = (unsigned)room;
	names->n += at == names->n;
	memset(&names->name[at], 0, sizeof(*names->name));
	(void)snprintf(names->name[at].name, sizeof(names->name[at].name), "%s",
		       name);
	names->name[at].node = node;
}

static inline struct image_names image_names_copy(
	const struct image_names *names)
{
	struct image_names copy = *names;

	copy.room = copy.n;
	copy.name = calloc(copy.n + 1, sizeof(*copy.name));
	ck_assert_ptr_nonnull(copy.name);
	if (copy.n)
		memcpy(copy.name, names->name, copy.n * sizeof(*copy.name));
	return copy;
}

/* Returns the file that has no name any more, or NULL. */
static inline struct image_node *image_apply(struct image_names *names,
					     const struct image_change *c)
{
	const char *name = c->names->name;
	const char *new_name = c->names->new_name;
	struct image_node *moved = image_lookup(names, name);
	struct image_node *lost;

	if (c->type == POWERLOG_CREATE) {
		image_set(names, name, c->node);
		return NULL;
	}
	ck_assert_msg(moved, "%s is not there", name);
	if (c->type == POWERLOG_UNLINK) {
		image_set(names, name, NULL);
		return moved;
	}
	lost = image_lookup(names, new_name);
	if (c->saved.at)
		names->saved = c->saved;
	image_set(names, new_name, moved);
	image_set(names, name, c->type == POWERLOG_EXCHANGE ? lost : NULL);
	return c->type == POWERLOG_EXCHANGE ? NULL : lost;
}

static inline void image_dir_gone(struct image_names *names)
{
	for (unsigned i = 0; i < names->n; i++) {
		if (names->name[i].node)
			image_forget(names->name[i].node);
	}
}

static inline void image_dir_synced(struct image *im, struct image_node *dir,
				    uint64_t at)
{
	struct image_node *lost;
	size_t kept = 0;

	for (size_t i = 0; i < im->n_changes; i++) {
		const struct image_change *c = &im->changes[i];

		if (c->dir != dir || c->at >= at) {
			im->changes[kept++] = *c;
			continue;
		}
		lost = image_apply(&dir->synced, c);
		if (!lost)
			continue;
		image_forget(lost);
		image_dir_gone(&lost->synced);
	}
	im->n_changes = kept;
}

/* What the side file in @file, whole by now, stands for. */
static inline struct image_saved image_saved(const struct image *im,
					     const struct image_node *file)
{
	struct image_saved saved = { .at = im->at, .empty = true };
	uint32_t flags;
	uint64_t txnid;

	/* Not synced before its rename: then any content is fine here, the
	 * bytes of the image will tell. */
	ck_assert(file && file->room >= 64);
	memcpy(&flags, file->bytes + 8, sizeof(flags));
	memcpy(&txnid, file->bytes + 16, sizeof(txnid));
	memcpy(&saved.time_sec, file->bytes + 56, sizeof(saved.time_sec));
	if (flags & 2)
		return saved;
	ck_assert_uint_lt(txnid, IMAGE_TXNS_MAX);
	saved.empty = false;
	saved.txnid = txnid;
	while (txnid > 0 && !im->state[txnid])
		txnid--; /* commits that only raise id marks */
	saved.state = im->state[txnid];
	return saved;
}

static inline void image_change(struct image *im,
				const struct powerlog_rec *rec,
				const struct powerlog_names *names)
{
	struct image_change c = { .at = im->at,
				  .type = rec->type,
				  .names = names,
				  .dir = image_node(im, rec->ino) };

	if (rec->type == POWERLOG_CREATE)
		c.node = image_new(im, rec->a, rec->b);
	if (rec->type >= POWERLOG_RENAME && !strcmp(names->new_name, "ckpt"))
		c.saved =
			image_saved(im, image_lookup(&c.dir->now, names->name));
	(void)image_apply(&c.dir->now, &c);
	im->changes = image_grow(im->changes, im->n_changes, &im->room_changes,
				 sizeof(c));
	im->changes[im->n_changes++] = c;
}

/* -- Replay --------------------------------------------------------------- */

/* Is a sync of @node one that the control takes for nothing? */
static inline bool image_ignored(const struct image *im,
				 const struct image_node *node)
{
	const struct image_node *index = image_lookup(&im->root->now, "index");
	const struct image_node *packs = image_lookup(&im->root->now, "packs");

	if (im->ignore_dir_sync && node == index)
		return true;
	if (im->ignore_data_sync && index &&
	    node == image_lookup(&index->now, "data.mdb"))
		return true;
	for (unsigned i = 0; packs && i < packs->now.n; i++) {
		if (im->ignore_pack_sync && node == packs->now.name[i].node)
			return true;
	}
	return false;
}

/* Those of a killed process never end. */
static inline void image_sync(struct image *im, uint64_t id)
{
	if (im->n_syncs && im->syncs[0].id >> 32 != id >> 32)
		im->n_syncs = 0;
	ck_assert_uint_lt(im->n_syncs, ARRAY_SIZE(im->syncs));
	im->syncs[im->n_syncs++] = (struct image_sync){ id, im->at };
}

static inline void image_synced_one(struct image *im, struct image_node *node,
				    uint64_t at)
{
	if (image_ignored(im, node))
		return;
	if (node->dir)
		image_dir_synced(im, node, at);
	else
		image_file_synced(node, at);
}

static inline void image_synced(struct image *im,
				const struct powerlog_rec *rec)
{
	for (unsigned i = 0; i < im->n_syncs; i++) {
		if (im->syncs[i].id != rec->a)
			continue;
		if (rec->ino != POWERLOG_ALL)
			image_synced_one(im, image_node(im, rec->ino),
					 im->syncs[i].at);
		for (size_t n = 0; rec->ino == POWERLOG_ALL && n < im->n_nodes;
		     n++)
			if (!im->nodes[n]->old)
				image_synced_one(im, im->nodes[n],
						 im->syncs[i].at);
		im->syncs[i] = im->syncs[--im->n_syncs];
		return;
	}
}

/* A killed process took its last transactions with it. */
static inline void image_opened(struct image *im,
				const struct powerlog_rec *rec)
{
	memset(im->state + rec->a, 0,
	       (IMAGE_TXNS_MAX - rec->a) * sizeof(*im->state));
	im->state[rec->a] = rec->b;
}

static inline void image_on_file(struct image *im,
				 const struct powerlog_rec *rec,
				 const uint8_t *bytes)
{
	struct image_node *node = image_node(im, rec->ino);

	if (rec->type == POWERLOG_WRITE)
		image_write(im, node, rec, bytes);
	else if (rec->type == POWERLOG_PUNCH)
		image_zero(im, node, rec->a, rec->a + rec->b, node->len_now);
	else
		image_zero(im, node, rec->a, node->len_now, rec->a);
}

/* Replay one record; false at the end. *@ret: its type. */
static inline bool image_step(struct image *im, enum powerlog_type *ret)
{
	struct powerlog_rec rec;
	const uint8_t *bytes;

	if (im->pos + sizeof(rec) > im->log_len)
		return false;
	memcpy(&rec, im->log + im->pos, sizeof(rec));
	bytes = im->log + im->pos + sizeof(rec);
	im->pos += sizeof(rec) + rec.len;
	im->at++;
	*ret = rec.type;
	if (rec.type < POWERLOG_SYNC) {
		image_on_file(im, &rec, bytes);
	} else if (rec.type == POWERLOG_SYNC) {
		image_sync(im, rec.a);
	} else if (rec.type == POWERLOG_SYNCED) {
		image_synced(im, &rec);
	} else if (rec.type < POWERLOG_INTENT) {
		image_change(im, &rec, (const void *)bytes);
	} else if (rec.type == POWERLOG_INTENT) {
		im->state[rec.a] = rec.b;
	} else if (rec.type == POWERLOG_SAVED) {
		im->promised = rec.a;
	} else if (rec.type == POWERLOG_OPENED) {
		image_opened(im, &rec);
	} else if (rec.type == POWERLOG_ROOT) {
		im->root = image_new(im, rec.ino, true);
	} else if (rec.type == POWERLOG_NOTE) {
		im->note = rec.a;
	}
	return true;
}

static inline void image_init(struct image *im, const char *log, uint64_t seed)
{
	struct stat st;
	int fd = open(log, O_RDONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	memset(im, 0, sizeof(*im));
	im->log_len = (size_t)st.st_size;
	im->log = mmap(NULL, im->log_len, PROT_READ, MAP_PRIVATE, fd, 0);
	ck_assert(im->log != MAP_FAILED);
	close(fd);
	im->seed = seed;
	im->state = calloc(IMAGE_TXNS_MAX, sizeof(*im->state));
	ck_assert_ptr_nonnull(im->state);
}

static inline void image_release(struct image *im)
{
	for (size_t i = 0; i < im->n_nodes; i++) {
		image_forget(im->nodes[i]);
		free(im->nodes[i]->synced.name);
		free(im->nodes[i]->now.name);
		free(im->nodes[i]);
	}
	free(im->nodes);
	free(im->changes);
	free(im->state);
	(void)munmap((void *)(uintptr_t)im->log, im->log_len);
}

#endif
