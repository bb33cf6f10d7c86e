/* SPDX-License-Identifier: MIT */
/*
 * The store of checkfix.h, rebuilt: what is said, what is left, and that no
 * check finds anything then.
 */
#ifndef TESTS_REBUILDFIX_H
#define TESTS_REBUILDFIX_H

#include <sys/syscall.h>

#include "checkfix.h"
#include "store/rebuild.h"
#include "store/tidy.h"

/* What is said to be done. */
static char said[FOUND_MAX][SURVEY_TEXT_MAX];
static size_t n_said;

static inline void note_said(void *arg, const char *text)
{
	(void)arg;
	if (n_said < FOUND_MAX)
		(void)snprintf(said[n_said++], sizeof(said[0]), "%s", text);
}

static inline bool was_said(const char *text)
{
	for (size_t i = 0; i < n_said; i++)
		if (strstr(said[i], text))
			return true;
	return false;
}

/* -- Rebuilding the fixture's store ---------------------------------------- */

static inline struct scratch beside(const char *name)
{
	return scratch_at(&fx.kit.dir, name);
}

static inline int build(struct rebuild *rb)
{
	struct scratch new = beside("index.new");
	int r;

	(void)mkdir(new.path, 0700);
	rb->new_fd = scratch_open_dir(&new);
	rb->index_fd = fx.kit.index_dir;
	rb->packs_fd = fx.kit.packs_dir;
	if (!rb->most_bytes)
		rb->most_bytes = GIB;
	rb->said = note_said;
	n_said = 0;
	r = rebuild_run(rb);
	close(rb->new_fd);
	return r;
}

/* The new index takes the place of the old one. */
static inline void swap(void)
{
	struct scratch new = beside("index.new"), old = beside("index");

	ck_assert_int_eq(syscall(SYS_renameat2, AT_FDCWD, new.path, AT_FDCWD,
				 old.path, 2),
			 0);
	scratch_remove(&new);
	close(fx.kit.index_dir);
	fx.kit.index_dir = scratch_open_dir(&old);
}

static inline void rescan(void)
{
	for (int i = 0; i < 4; i++) {
		struct tidy_pos pos = { .part = 0 };
		int r;

		while ((r = tidy_rescan(T, &pos)) > 0)
			;
		ck_assert_int_eq(r, 0);
	}
}

/* Then nothing is wrong any more, by the check or by the fixture's own. */
static inline void repair(bool data)
{
	struct rebuild rb = { .bad_index_fd = -1,
			      .bad_packs_fd = -1,
			      .data = data };

	fx_close();
	ck_assert_int_eq(build(&rb), 0);
	swap();
	fx_open();
	ck_assert_int_eq(fx.kit.found, RECOVER_CLEAN);
	home.packs_fd = fx.kit.packs_dir;
	rescan();
	clean();
	fx.hurt = false;
}

/* -- What is left ---------------------------------------------------------- */

enum {
	SMALL = 1,
	INLINE = 2,
	STAGED = 4,
	WHEEL = 8,
	COPY = 16,
	NEXT = 32,
	ALL = 63
};

static const struct {
	unsigned bit;
	bool wheel;
	const char *name;
} files[] = {
	{ SMALL, false, "small" },
	{ INLINE, false, "inline" },
	{ STAGED, false, "staged" },
	{ WHEEL, true, "p-1-py3-none-any.whl" },
	{ COPY, true, "p-1-py2-none-any.whl" },
	{ NEXT, true, "p-2-py3-none-any.whl" },
};

static inline uint64_t at_path(const char *path)
{
	uint64_t at = ROOT;
	char buf[512], *save, *name;

	(void)snprintf(buf, sizeof(buf), "%s", path);
	for (name = strtok_r(buf, "/", &save); name && at;
	     name = strtok_r(NULL, "/", &save))
		at = fx_find(at, name);
	return at;
}

/* These files have their names and their bytes, the others are gone. */
static inline void left(unsigned bits)
{
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		uint64_t dir = files[i].wheel ? at_path(FX_WHEEL_DIRS) : ROOT;
		uint64_t ino = dir ? fx_find(dir, files[i].name) : 0;

		ck_assert_msg(!!ino == !!(bits & files[i].bit), "%s is %s",
			      files[i].name, ino ? "there" : "gone");
		/* The open compares all bytes with the checksum. */
		if (ino)
			ck_assert_int_eq(fx_try_open(ino, FILE_QUIET), 0);
	}
	if (bits & SMALL)
		ck_assert_int_eq(fx_holds(at_path("small"), 20000, 1), 0);
	if (bits & INLINE)
		ck_assert_int_eq(fx_holds(at_path("inline"), 100, 3), 0);
}

#endif
