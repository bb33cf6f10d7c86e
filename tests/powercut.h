/* SPDX-License-Identifier: MIT */
/* Power cuts: one of the many states that powerimage.h allows, as files. */
#ifndef TESTS_POWERCUT_H
#define TESTS_POWERCUT_H

#include "powerimage.h"

enum image_mix {
	MIX_NOTHING,
	MIX_ALL,
	MIX_TIMES,  /* each unit as of some time */
	MIX_UNITS,  /* each unit newest or oldest */
	MIX_WRITES, /* any subset of the writes */
	MIX_HEAD,   /* the head, and some units of the rest */
	MIXES
};

struct image_cut {
	enum image_mix mix;
	uint64_t unit;
	uint64_t salt;
	uint64_t percent; /* of what is new that is there */
};

static inline bool image_has(const struct image *im,
			     const struct image_cut *cut,
			     const struct image_write *w, uint64_t unit)
{
	uint64_t salt = cut->salt + unit * 3;
	uint64_t x = image_random(&salt) % 100;

	switch (cut->mix) {
	case MIX_NOTHING:
		return false;
	case MIX_ALL:
		return true;
	case MIX_TIMES:
		return w->at < im->at * x / 100;
	case MIX_UNITS:
		return x < cut->percent;
	case MIX_WRITES:
		salt += w->at;
		return image_random(&salt) % 100 < cut->percent;
	default:
		return unit * cut->unit < IMAGE_HEAD || x < cut->percent;
	}
}

static inline uint64_t image_len(struct image *im, const struct image_cut *cut,
				 const struct image_file *file)
{
	uint64_t low = file->len_was < file->len ? file->len_was : file->len;
	uint64_t high = file->len_now > file->len ? file->len_now : file->len;

	if (cut->mix == MIX_ALL)
		return file->len_now;
	switch (image_random(&im->seed) % 3) {
	case 0:
		return file->len;
	case 1:
		return file->len_now;
	default:
		return low + image_random(&im->seed) % (high - low + 1);
	}
}

/* The file as it might be: *@ret of *@ret_len bytes. */
static inline void image_bytes(struct image *im, const struct image_cut *cut,
			       const struct image_file *file, uint8_t *ret)
{
	memcpy(ret, file->bytes, file->len);
	if (file->len_now > file->len)
		memset(ret + file->len, 0, file->len_now - file->len);
	for (size_t i = 0; i < file->n; i++) {
		const struct image_write *w = &file->writes[i];
		uint64_t end = w->off + w->len;
		uint64_t from = w->off;
		uint64_t to;

		for (; from < end; from = to) {
			to = (from / cut->unit + 1) * cut->unit;
			if (to > end)
				to = end;
			if (image_has(im, cut, w, from / cut->unit))
				memcpy(ret + from, w->bytes + (from - w->off),
				       to - from);
		}
	}
}

/* An earlier recovery was itself cut, while it wrote the meta pages back. */
static inline void image_torn_recovery(struct image *im, uint8_t *data,
				       uint64_t len, const uint8_t *side)
{
	for (uint64_t at = 0; at < IMAGE_HEAD && at + 512 <= len; at += 512) {
		if (image_random(&im->seed) % 2)
			memcpy(data + at, side + 64 + at, 512);
	}
}

static inline void image_write_dir(struct image *im,
				   const struct image_cut *cut,
				   const struct image_dir *dir,
				   const struct scratch *path)
{
	static uint8_t buf[IMAGE_FILE_MAX];
	static uint8_t side[64 + IMAGE_HEAD];
	struct image_name *name =
		image_find((struct image_dir *)(uintptr_t)dir, "ckpt", false);
	bool torn = name && !dir->saved.empty && !im->no_torn_meta &&
		    image_random(&im->seed) % 4 == 0;

	if (torn)
		memcpy(side, image_file(im, name->ino)->bytes, sizeof(side));
	for (unsigned i = 0; i < dir->n; i++) {
		struct image_file *file;
		uint64_t len;

		name = &dir->names[i];
		if (name->ino == 0)
			continue;
		file = image_file(im, name->ino);
		len = image_len(im, cut, file);
		image_bytes(im, cut, file, buf);
		if (torn && strcmp(name->name, "data.mdb") == 0)
			image_torn_recovery(im, buf, len, side);
		scratch_write(scratch_at(path, name->name).path, buf, len);
	}
}

/* Make the directory @path/(index|packs) as a cut now might leave it. Returns
 * the snapshot that must be found in it. */
static inline struct image_saved image_cut(struct image *im,
					   const struct scratch *path)
{
	static const char *const names[IMAGE_DIRS] = { "index", "packs" };
	struct image_cut cut = {
		.mix = (enum image_mix)(image_random(&im->seed) % MIXES),
		.unit = image_random(&im->seed) % 2 ? IMAGE_UNIT : IMAGE_PAGE,
		.salt = image_random(&im->seed),
		.percent = image_random(&im->seed) % 101,
	};
	struct image_saved saved = { .empty = true };

	for (int i = 0; i < IMAGE_DIRS; i++) {
		struct image_dir dir = im->dir[i];
		struct scratch sub = scratch_at(path, names[i]);
		size_t pending = 0;
		size_t n;

		dir.names = malloc(IMAGE_NAMES_MAX * sizeof(*dir.names));
		ck_assert_ptr_nonnull(dir.names);
		memcpy(dir.names, im->dir[i].names, dir.n * sizeof(*dir.names));
		for (size_t k = 0; k < im->n_changes; k++)
			pending += im->changes[k].dir == dir.ino;
		n = image_random(&im->seed) % (pending + 1);
		for (size_t k = 0; n > 0 && k < im->n_changes; k++) {
			if (im->changes[k].dir != dir.ino)
				continue;
			image_apply(&dir, &im->changes[k]);
			n--;
		}
		ck_assert_int_eq(mkdir(sub.path, 0700), 0);
		image_write_dir(im, &cut, &dir, &sub);
		if (i == IMAGE_INDEX_DIR)
			saved = dir.saved;
		free(dir.names);
	}
	return saved;
}

#endif
