/* SPDX-License-Identifier: MIT */
/*
 * What a disk may hold at a moment of a log (powerlog.h):
 *
 * Each sector of 512 bytes (or page of 4096) of a file has any one of its
 * versions since the last sync of that file that was completed: what was
 * written after that sync began may be there or not. The length is anything
 * between that of then and that of now; what was never written is zero. The
 * versions are mixed in six ways: nothing new, all, each sector as of some
 * time, newest or oldest, any subset of the writes, the file's head first.
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
#define IMAGE_FILE_MAX (UINT64_C(64) << 20)

struct image_write { /* since the last completed sync */
	uint64_t at; /* record number */
	uint64_t off;
	uint64_t len;
	const uint8_t *bytes; /* in the log */
};

struct image_file {
	uint64_t ino;
	uint8_t *bytes; /* as synced; IMAGE_FILE_MAX of address space */
	uint64_t len;	/* as synced */
	uint64_t len_now;
	uint64_t len_was; /* the shortest since the sync */
	struct image_write *writes;
	size_t n, room;
};

/* The side file that "ckpt" names, and what it stands for. */
struct image_saved {
	uint64_t txnid;
	uint64_t state;
	bool empty; /* the snapshot of a new index, or none at all */
};

struct image_name {
	char name[48];
	uint64_t ino; /* 0: unused */
};

#define IMAGE_NAMES_MAX 4096

struct image_dir {
	uint64_t ino;
	unsigned n;
	struct image_name *names;
	struct image_saved saved;
};

struct image_change { /* of a directory, since its last completed sync */
	uint64_t at;
	enum powerlog_type type;
	const struct powerlog_names *names;
	uint64_t dir;
	uint64_t ino;
	struct image_saved saved;
};

struct image_sync {
	uint64_t id;
	uint64_t at;
};

enum { IMAGE_INDEX_DIR, IMAGE_PACKS_DIR, IMAGE_DIRS };

struct image {
	const uint8_t *log;
	size_t log_len;
	size_t pos;
	uint64_t at; /* records replayed */
	uint64_t seed;
	struct image_file *files;
	size_t n_files;
	struct image_dir dir[IMAGE_DIRS];
	struct image_change *changes;
	size_t n_changes, room_changes;
	struct image_sync syncs[64];
	unsigned n_syncs;
	uint64_t *state; /* by transaction; 0: not known */
	uint64_t promised;
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

/* -- Replay --------------------------------------------------------------- */

static inline struct image_file *image_file(struct image *im, uint64_t ino)
{
	struct image_file *file;

	for (size_t i = 0; i < im->n_files; i++) {
		if (im->files[i].ino == ino)
			return &im->files[i];
	}
	im->files = realloc(im->files, (im->n_files + 1) * sizeof(*file));
	ck_assert_ptr_nonnull(im->files);
	file = &im->files[im->n_files++];
	*file = (struct image_file){ .ino = ino };
	file->bytes = mmap(NULL, IMAGE_FILE_MAX, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert(file->bytes != MAP_FAILED);
	return file;
}

/* A number that a removed file had is given to a new one. */
static inline void image_new_file(struct image *im, uint64_t ino)
{
	struct image_file *file = image_file(im, ino);

	(void)madvise(file->bytes, IMAGE_FILE_MAX, MADV_DONTNEED);
	file->len = file->len_now = file->len_was = 0;
	file->n = 0;
}

static inline void image_write(struct image *im, struct image_file *file,
			       const struct powerlog_rec *rec,
			       const uint8_t *bytes)
{
	ck_assert_uint_le(rec->a + rec->len, IMAGE_FILE_MAX);
	if (file->n == file->room) {
		file->room = file->room ? 2 * file->room : 64;
		file->writes = realloc(file->writes,
				       file->room * sizeof(*file->writes));
		ck_assert_ptr_nonnull(file->writes);
	}
	file->writes[file->n++] = (struct image_write){
		.at = im->at, .off = rec->a, .len = rec->len, .bytes = bytes
	};
	if (rec->a + rec->len > file->len_now)
		file->len_now = rec->a + rec->len;
}

/* A hole is punched piece by piece: some may be there, and others not. */
static inline void image_punch(struct image *im, struct image_file *file,
			       const struct powerlog_rec *rec)
{
	static const uint8_t zeros[64 * 1024];
	struct powerlog_rec part = *rec;
	uint64_t end = rec->a + rec->b;

	if (end > file->len_now) /* it does not make the file longer */
		end = file->len_now;
	for (; part.a < end; part.a += part.len) {
		part.len = end - part.a < sizeof(zeros) ? end - part.a
							: sizeof(zeros);
		image_write(im, file, &part, zeros);
	}
}

/* All that was written before record @at is on the disk. */
static inline void image_file_synced(struct image_file *file, uint64_t at)
{
	size_t kept = 0;

	for (size_t i = 0; i < file->n; i++) {
		const struct image_write *w = &file->writes[i];

		if (w->at >= at) {
			file->writes[kept++] = *w;
			continue;
		}
		memcpy(file->bytes + w->off, w->bytes, w->len);
		if (w->off + w->len > file->len)
			file->len = w->off + w->len;
	}
	file->n = kept;
	if (kept == 0)
		file->len = file->len_now;
	file->len_was = file->len;
}

static inline struct image_name *image_find(struct image_dir *dir,
					    const char *name, bool make)
{
	for (unsigned i = 0; i < dir->n; i++) {
		if (dir->names[i].ino && strcmp(dir->names[i].name, name) == 0)
			return &dir->names[i];
	}
	if (!make)
		return NULL;
	for (unsigned i = 0; i < dir->n; i++) {
		if (!dir->names[i].ino) {
			memcpy(dir->names[i].name, name, strlen(name) + 1);
			return &dir->names[i];
		}
	}
	ck_assert_uint_lt(dir->n, IMAGE_NAMES_MAX);
	memcpy(dir->names[dir->n].name, name, strlen(name) + 1);
	return &dir->names[dir->n++];
}

static inline void image_apply(struct image_dir *dir,
			       const struct image_change *c)
{
	struct image_name *from =
		image_find(dir, c->names->name, c->type == POWERLOG_CREATE);
	struct image_name *to = NULL;
	uint64_t ino;

	ck_assert_ptr_nonnull(from);
	switch (c->type) {
	case POWERLOG_CREATE:
		from->ino = c->ino;
		break;
	case POWERLOG_UNLINK:
		from->ino = 0;
		break;
	case POWERLOG_RENAME:
		ino = from->ino;
		from->ino = 0;
		to = image_find(dir, c->names->new_name, true);
		to->ino = ino;
		dir->saved = c->saved;
		break;
	default:
		to = image_find(dir, c->names->new_name, false);
		ck_assert_ptr_nonnull(to);
		ino = from->ino;
		from->ino = to->ino;
		to->ino = ino;
		dir->saved = c->saved;
	}
}

static inline void image_dir_synced(struct image *im, struct image_dir *dir,
				    uint64_t at)
{
	size_t kept = 0;

	for (size_t i = 0; i < im->n_changes; i++) {
		const struct image_change *c = &im->changes[i];

		if (c->dir != dir->ino || c->at >= at)
			im->changes[kept++] = *c;
		else
			image_apply(dir, c);
	}
	im->n_changes = kept;
}

static inline struct image_dir *image_dir(struct image *im, uint64_t ino)
{
	for (int i = 0; i < IMAGE_DIRS; i++) {
		if (im->dir[i].ino == ino)
			return &im->dir[i];
	}
	return NULL;
}

/* What the side file in @file, whole by now, stands for. */
static inline struct image_saved image_saved(const struct image *im,
					     const struct image_file *file)
{
	struct image_saved saved = { .empty = true };
	uint32_t flags;
	uint64_t txnid;

	/* Not synced before its rename: then any content is fine here, the
	 * bytes of the image will tell. */
	memcpy(&flags, file->bytes + 8, sizeof(flags));
	memcpy(&txnid, file->bytes + 16, sizeof(txnid));
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
				  .dir = rec->ino,
				  .ino = rec->a };
	struct image_dir *dir = image_dir(im, rec->ino);
	struct image_name *tmp = NULL;

	if (rec->type == POWERLOG_CREATE)
		image_new_file(im, rec->a);
	if (rec->type == POWERLOG_RENAME || rec->type == POWERLOG_EXCHANGE) {
		/* The name of now: play what is pending on a copy. */
		struct image_dir now = *dir;

		now.names = malloc(IMAGE_NAMES_MAX * sizeof(*now.names));
		ck_assert_ptr_nonnull(now.names);
		memcpy(now.names, dir->names, now.n * sizeof(*now.names));
		for (size_t i = 0; i < im->n_changes; i++) {
			if (im->changes[i].dir == dir->ino)
				image_apply(&now, &im->changes[i]);
		}
		tmp = image_find(&now, names->name, false);
		ck_assert_ptr_nonnull(tmp);
		c.saved = image_saved(im, image_file(im, tmp->ino));
		free(now.names);
	}
	if (im->n_changes == im->room_changes) {
		im->room_changes = im->room_changes ? 2 * im->room_changes : 64;
		im->changes =
			realloc(im->changes, im->room_changes * sizeof(c));
		ck_assert_ptr_nonnull(im->changes);
	}
	im->changes[im->n_changes++] = c;
}

static inline bool image_ignored(const struct image *im, uint64_t ino)
{
	bool is_dir = false;
	uint64_t data = 0;

	for (int i = 0; i < IMAGE_DIRS; i++)
		is_dir |= im->dir[i].ino == ino;
	if (is_dir)
		return im->ignore_dir_sync &&
		       ino == im->dir[IMAGE_INDEX_DIR].ino;
	for (unsigned i = 0; i < im->dir[IMAGE_INDEX_DIR].n; i++) {
		const struct image_name *n = &im->dir[IMAGE_INDEX_DIR].names[i];

		if (n->ino == ino && strcmp(n->name, "data.mdb") == 0)
			return im->ignore_data_sync;
		if (n->ino == ino)
			data = ino;
	}
	return data == 0 && im->ignore_pack_sync;
}

static inline void image_synced(struct image *im,
				const struct powerlog_rec *rec)
{
	for (unsigned i = 0; i < im->n_syncs; i++) {
		struct image_dir *dir = image_dir(im, rec->ino);

		if (im->syncs[i].id != rec->a)
			continue;
		if (image_ignored(im, rec->ino))
			;
		else if (dir)
			image_dir_synced(im, dir, im->syncs[i].at);
		else
			image_file_synced(image_file(im, rec->ino),
					  im->syncs[i].at);
		im->syncs[i] = im->syncs[--im->n_syncs];
		return;
	}
}

/* A killed process took its syncs, and its last transactions, with it. */
static inline void image_opened(struct image *im,
				const struct powerlog_rec *rec)
{
	im->n_syncs = 0;
	memset(im->state + rec->a, 0,
	       (IMAGE_TXNS_MAX - rec->a) * sizeof(*im->state));
	im->state[rec->a] = rec->b;
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
	if (rec.type == POWERLOG_WRITE) {
		image_write(im, image_file(im, rec.ino), &rec, bytes);
	} else if (rec.type == POWERLOG_PUNCH) {
		image_punch(im, image_file(im, rec.ino), &rec);
	} else if (rec.type == POWERLOG_SIZE) {
		struct image_file *file = image_file(im, rec.ino);

		file->len_now = rec.a;
		if (rec.a < file->len_was)
			file->len_was = rec.a;
	} else if (rec.type == POWERLOG_SYNC) {
		ck_assert_uint_lt(im->n_syncs, ARRAY_SIZE(im->syncs));
		im->syncs[im->n_syncs++] = (struct image_sync){ rec.a, im->at };
	} else if (rec.type == POWERLOG_SYNCED) {
		image_synced(im, &rec);
	} else if (rec.type < POWERLOG_INTENT) {
		image_change(im, &rec, (const void *)bytes);
	} else if (rec.type == POWERLOG_INTENT) {
		im->state[rec.a] = rec.b;
	} else if (rec.type == POWERLOG_SAVED) {
		im->promised = rec.a;
	} else {
		image_opened(im, &rec);
	}
	return true;
}

static inline void image_init(struct image *im, const char *log,
			      const uint64_t dirs[IMAGE_DIRS], uint64_t seed)
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
	for (int i = 0; i < IMAGE_DIRS; i++) {
		im->dir[i].ino = dirs[i];
		im->dir[i].saved.empty = true;
		im->dir[i].names =
			calloc(IMAGE_NAMES_MAX, sizeof(*im->dir[i].names));
		ck_assert_ptr_nonnull(im->dir[i].names);
	}
}

static inline void image_release(struct image *im)
{
	for (size_t i = 0; i < im->n_files; i++) {
		(void)munmap(im->files[i].bytes, IMAGE_FILE_MAX);
		free(im->files[i].writes);
	}
	for (int i = 0; i < IMAGE_DIRS; i++)
		free(im->dir[i].names);
	free(im->files);
	free(im->changes);
	free(im->state);
	(void)munmap((void *)(uintptr_t)im->log, im->log_len);
}

#endif
