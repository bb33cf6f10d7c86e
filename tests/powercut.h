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
	MIX_FULL,   /* all that was written, and no hole: most bytes */
	MIXES
};

struct image_cut {
	enum image_mix mix;
	uint64_t unit;
	uint64_t salt;
	uint64_t percent; /* of what is new that is there */
	bool torn_recovery;
	bool now; /* all names are as they are now */
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
	case MIX_FULL:
		return w->bytes;
	default:
		return unit * cut->unit < IMAGE_HEAD || x < cut->percent;
	}
}

static inline uint64_t image_len(struct image *im, const struct image_cut *cut,
				 const struct image_node *node)
{
	uint64_t low = node->len;
	uint64_t high = node->len;

	if (cut->mix == MIX_ALL)
		return node->len_now;
	for (size_t i = 0; i < node->n; i++) {
		uint64_t size = node->writes[i].size;

		low = size < low ? size : low;
		high = size > high ? size : high;
	}
	switch (image_random(&im->seed) % 3) {
	case 0:
		return node->len;
	case 1:
		return node->len_now;
	default:
		return low + image_random(&im->seed) % (high - low + 1);
	}
}

/* The part of @w in its unit @unit, up to @len of the file. */
static inline void image_put_unit(const struct image_write *w, uint64_t from,
				  uint64_t to, uint64_t len, uint8_t *ret)
{
	if (to > len)
		to = len;
	if (from >= to)
		return;
	if (w->bytes)
		memcpy(ret + from, w->bytes + (from - w->off), to - from);
	else
		memset(ret + from, 0, to - from);
}

/* The first @len bytes of the file as it might be. */
static inline void image_bytes(struct image *im, const struct image_cut *cut,
			       const struct image_node *node, uint8_t *ret,
			       uint64_t len)
{
	uint64_t synced = node->len < node->room ? node->len : node->room;

	if (synced)
		memcpy(ret, node->bytes, synced < len ? synced : len);
	for (size_t i = 0; i < node->n; i++) {
		const struct image_write *w = &node->writes[i];
		uint64_t end = w->off + w->len;
		uint64_t from = w->off;
		uint64_t to;

		for (; from < end; from = to) {
			to = (from / cut->unit + 1) * cut->unit;
			if (to > end)
				to = end;
			if (image_has(im, cut, w, from / cut->unit))
				image_put_unit(w, from, to, len, ret);
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

/* Holes in packs were holes; an index has its blocks before it is written. */
static inline void image_write_file(const struct scratch *path,
				    const uint8_t *bytes, uint64_t len,
				    bool holes)
{
	static const uint8_t zeros[IMAGE_PAGE];
	int fd =
		open(path->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_msg(fd >= 0, "%s: %m", path->path);
	for (uint64_t at = 0; at < len; at += IMAGE_PAGE) {
		size_t n = len - at < IMAGE_PAGE ? len - at : IMAGE_PAGE;

		if (!holes || memcmp(bytes + at, zeros, n) != 0)
			ck_assert_int_eq(pwrite(fd, bytes + at, n, (off_t)at),
					 (int)n);
	}
	ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
	close(fd);
}

/* @side: of an index of which a recovery was cut, or NULL. */
static inline void image_make_file(struct image *im,
				   const struct image_cut *cut,
				   const struct image_name *name,
				   const uint8_t *side,
				   const struct scratch *path)
{
	bool data = strcmp(name->name, "data.mdb") == 0;
	uint64_t len = image_len(im, cut, name->node);
	uint64_t end = len < name->node->end ? len : name->node->end;
	uint8_t *bytes = calloc(1, len + 1);

	ck_assert_ptr_nonnull(bytes);
	image_bytes(im, cut, name->node, bytes, end);
	if (side && data)
		image_torn_recovery(im, bytes, len, side);
	image_write_file(path, bytes, len, !data);
	free(bytes);
}

/* The directory with what it may hold, and below. */
static inline void image_make_dir(struct image *im, const struct image_cut *cut,
				  const struct image_node *dir,
				  const struct scratch *path);

static inline void image_make(struct image *im, const struct image_cut *cut,
			      const struct image_names *names,
			      const struct scratch *path)
{
	const struct image_node *ckpt = image_lookup(names, "ckpt");
	const uint8_t *side = NULL;

	if (ckpt && !names->saved.empty && !im->no_torn_meta &&
	    cut->torn_recovery)
		side = ckpt->bytes;
	for (unsigned i = 0; i < names->n; i++) {
		const struct image_name *name = &names->name[i];
		struct scratch sub = scratch_at(path, name->name);

		if (!name->node)
			continue;
		if (name->node->dir)
			image_make_dir(im, cut, name->node, &sub);
		else
			image_make_file(im, cut, name, side, &sub);
	}
}

/* The names in it: a part of what came after the last sync. */
static inline struct image_names image_cut_names(struct image *im,
						 const struct image_cut *cut,
						 const struct image_node *dir)
{
	struct image_names names;
	size_t pending = 0;
	size_t n;

	if (cut->now)
		return image_names_copy(&dir->now);
	names = image_names_copy(&dir->synced);
	for (size_t k = 0; k < im->n_changes; k++)
		pending += im->changes[k].dir == dir;
	n = image_random(&im->seed) % (pending + 1);
	for (size_t k = 0; n > 0 && k < im->n_changes; k++) {
		if (im->changes[k].dir != dir)
			continue;
		(void)image_apply(&names, &im->changes[k]);
		n--;
	}
	return names;
}

static inline void image_make_dir(struct image *im, const struct image_cut *cut,
				  const struct image_node *dir,
				  const struct scratch *path)
{
	struct image_names names = image_cut_names(im, cut, dir);

	ck_assert_int_eq(mkdir(path->path, 0700), 0);
	image_make(im, cut, &names, path);
	free(names.name);
}

/* Make @path the store's directory as a cut now might leave it. Returns the
 * snapshot that must be found in it. */
static inline struct image_saved image_cut_as(struct image *im,
					      const struct image_cut *cut,
					      const struct scratch *path)
{
	struct image_names root = image_cut_names(im, cut, im->root);
	struct image_node *index = image_lookup(&root, "index");
	struct image_names names = { .n = 0 };
	struct image_saved saved = { .empty = true };

	ck_assert_int_eq(mkdir(path->path, 0700), 0);
	if (index) { /* chosen once, for its snapshot is told */
		struct scratch sub = scratch_at(path, "index");

		names = image_cut_names(im, cut, index);
		saved = names.saved;
		ck_assert_int_eq(mkdir(sub.path, 0700), 0);
		image_make(im, cut, &names, &sub);
		image_set(&root, "index", NULL);
		free(names.name);
	}
	image_make(im, cut, &root, path);
	free(root.name);
	return saved;
}

static inline struct image_saved image_cut(struct image *im,
					   const struct scratch *path)
{
	const struct image_cut cut = {
		.mix = (enum image_mix)(image_random(&im->seed) % MIXES),
		.unit = image_random(&im->seed) % 2 ? IMAGE_UNIT : IMAGE_PAGE,
		.salt = image_random(&im->seed),
		.percent = image_random(&im->seed) % 101,
		.torn_recovery = image_random(&im->seed) % 4 == 0,
	};

	return image_cut_as(im, &cut, path);
}

/* All that was done, as if it had been synced. */
static inline struct image_saved image_all(struct image *im,
					   const struct scratch *path)
{
	const struct image_cut cut = { .mix = MIX_ALL,
				       .unit = IMAGE_PAGE,
				       .now = true };

	return image_cut_as(im, &cut, path);
}

#endif
