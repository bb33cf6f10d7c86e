/* SPDX-License-Identifier: MIT */
/*
 * A realistic store behind its facade, and what must be in it: wheels that
 * share pieces and are cut, one that stays whole, small files in a shared pack,
 * headers and a symlink in the index, directories. All files have the bytes
 * that their path says, so that a wrong byte is known without a list.
 */
#ifndef TESTS_DAMAGEKIT_H
#define TESTS_DAMAGEKIT_H

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "scratch.h"
#include "store/store.h"
#include "zipkit.h"

#define DK_LIMIT "64M"
#define DK_PAIRS 12  /* response and wheel */
#define DK_SMALL 8   /* below 64 KiB, raw */
#define DK_INLINE 40 /* in the index */
#define DK_FILES (2 * DK_PAIRS + DK_SMALL + DK_INLINE + 2)
#define DK_MAX 250000 /* bytes of a file */

struct dk_bytes {
	uint8_t *buf; /* owned */
	size_t len;
};

static struct scratch dk_dir;
static struct store *dk_st;
static char dk_why[1024];
static unsigned dk_reports;
static char dk_reported[16][200]; /* the last ones */
static bool dk_child_died;	  /* of the index: what it died of is a bug */

/* -- Files ----------------------------------------------------------------- */

struct dk_path {
	char text[200];
};

static inline struct dk_path dk_path(unsigned n)
{
	struct dk_path p;

	if (n < 2 * DK_PAIRS)
		(void)snprintf(p.text, sizeof(p.text),
			       "http-v2/%x/0/0/0/0/%x%055x%s", n / 2 % 4,
			       n / 2 % 4, n / 2, n % 2 ? ".body" : "");
	else if (n < 2 * DK_PAIRS + DK_SMALL)
		(void)snprintf(p.text, sizeof(p.text), "small/%03u", n);
	else if (n < 2 * DK_PAIRS + DK_SMALL + DK_INLINE)
		(void)snprintf(p.text, sizeof(p.text), "in/%u/%0*u", n % 3,
			       n % 60 + 3, n);
	else
		(void)snprintf(p.text, sizeof(p.text),
			       "wheels/aa/bb/cc/%054u/p-%u-py3-none-any.whl", n,
			       n);
	return p;
}

/* A byte of the file @n that is no wheel. */
static inline uint8_t dk_byte(unsigned n, size_t i)
{
	return (uint8_t)((i * 2654435761u + n * 40503u) >> 13);
}

static inline struct dk_bytes dk_wheel(unsigned n)
{
	unsigned v = n / 2;
	struct zip z = { 0 };
	char name[32];

	for (unsigned i = 0; i < 10; i++) {
		(void)snprintf(name, sizeof(name), "p%u/%u.py",
			       i % 3 ? 0 : 1 + v % 4, i);
		zip_member(&z, name, 4500 + 600 * i, v);
	}
	(void)snprintf(name, sizeof(name), "own%u", v);
	zip_member(&z, name, 9000 + v, v);
	if (v % 4 == 3) /* of its own: it stays whole */
		zip_member(&z, "large", 120000 + v, v);
	zip_finish(&z, "");
	return (struct dk_bytes){ z.buf, z.len };
}

static inline struct dk_bytes dk_bytes(unsigned n)
{
	struct dk_bytes b = { .len = 0 };

	if ((n < 2 * DK_PAIRS && n % 2) || n >= DK_FILES - 2)
		return dk_wheel(n);
	if (n >= 2 * DK_PAIRS && n < 2 * DK_PAIRS + DK_SMALL)
		b.len = 4000 + n * 997 % 30000;
	else
		b.len = 20 + n * 37 % 1200;
	b.buf = malloc(b.len);
	ck_assert_ptr_nonnull(b.buf);
	for (size_t i = 0; i < b.len; i++)
		b.buf[i] = dk_byte(n, i);
	return b;
}

/* -- The store ------------------------------------------------------------- */

static inline void dk_look_for_death(const char *text)
{
	if (strstr(text, "the process that read it"))
		dk_child_died = true;
}

static inline void dk_report(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	dk_look_for_death(text);
	(void)snprintf(dk_reported[dk_reports++ % 16], sizeof(dk_reported[0]),
		       "%s", text);
}

static inline bool dk_was_reported(const char *part)
{
	for (unsigned i = 0; i < 16; i++)
		if (strstr(dk_reported[i], part))
			return true;
	return false;
}

static inline struct store_config dk_config(void)
{
	return (struct store_config){
		.path = dk_dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = DK_LIMIT,
			    .min_free = "0",
			    .grace_sec = 0 },
		.report = dk_report,
	};
}

static inline int dk_open(void)
{
	struct store_config cfg = dk_config();

	return store_open(&cfg, &dk_st, dk_why, sizeof(dk_why));
}

static inline int dk_close(void)
{
	return store_close(steal_ptr(dk_st));
}

/* The directory of @path, made where it is missing; *@ret_name: the rest. */
static inline int dk_parent(const char *path, bool make, uint64_t *ret,
			    const char **ret_name)
{
	struct store_new what = { .mode = 0755 };
	uint64_t at = STORE_ROOT_INO;
	char name[STORE_NAME_MAX + 1];
	const char *slash;
	struct stat st;
	int r = 0;

	for (; (slash = strchr(path, '/')) && r >= 0; path = slash + 1) {
		(void)snprintf(name, sizeof(name), "%.*s", (int)(slash - path),
			       path);
		what.parent = at;
		what.name = name;
		r = store_lookup(dk_st, at, name, &st);
		if (r == -ENOENT && make)
			r = store_mkdir(dk_st, &what, &st);
		at = st.st_ino;
	}
	*ret = at;
	*ret_name = path;
	return r;
}

static inline int dk_write(const char *path, struct dk_bytes b)
{
	struct store_new what = { .mode = 0644 };
	struct store_file *f;
	struct stat st;
	int r = dk_parent(path, true, &what.parent, &what.name);

	if (r >= 0)
		r = store_file_create(dk_st, &what, O_RDWR, &st, &f);
	if (r < 0)
		return r;
	r = (int)store_file_write(f, 0, b.buf, b.len, false);
	store_file_close(f);
	return r;
}

static inline int dk_put(unsigned n)
{
	struct dk_bytes b = dk_bytes(n);
	int r = dk_write(dk_path(n).text, b);

	free(b.buf);
	return r;
}

/* Wait until everything is cut. */
static inline void dk_settle(void)
{
	struct store_status s;

	for (int i = 0; i < 60000; i++) {
		ck_assert_int_eq(store_status(dk_st, &s), 0);
		if (!s.unsummed)
			return;
		usleep(1000);
	}
	ck_abort_msg("the files are not cut");
}

static inline void dk_fill(void)
{
	const struct store_new link = { .parent = STORE_ROOT_INO,
					.name = "link" };
	struct dk_bytes b;

	for (unsigned n = 0; n < DK_FILES; n++)
		ck_assert_int_ge(dk_put(n), 0);
	ck_assert_int_eq(store_symlink(dk_st, &link, "in/1", NULL), 0);
	dk_settle();
	/* What goes leaves dead ranges behind. */
	b = dk_bytes(1);
	ck_assert_int_ge(dk_write("gone", b), 0);
	free(b.buf);
	dk_settle();
	ck_assert_int_eq(store_unlink(dk_st, STORE_ROOT_INO, "gone"), 0);
}

/* -- What is there --------------------------------------------------------- */

struct dk_seen {
	unsigned there, gone,
		failed; /* files; failed: neither bytes nor miss */
	unsigned wrong; /* with other bytes */
};

static inline int dk_read(const char *path, struct dk_bytes *ret)
{
	struct store_file *f;
	const char *name;
	uint64_t dir;
	struct stat st;
	ssize_t n;
	int r = dk_parent(path, false, &dir, &name);

	if (r >= 0)
		r = store_lookup(dk_st, dir, name, &st);
	if (r >= 0 && !S_ISREG(st.st_mode))
		r = -EISDIR;
	if (r >= 0)
		r = store_file_open(dk_st, st.st_ino, O_RDONLY, &f);
	if (r < 0)
		return r;
	ret->buf = malloc(DK_MAX);
	n = store_file_read(f, 0, ret->buf, DK_MAX);
	store_file_close(f);
	if (n < 0) {
		free(ret->buf);
		return (int)n;
	}
	ret->len = (size_t)n;
	return 0;
}

/* Does the path have the bytes of @n? 1, 0; or the error. */
static inline int dk_has(const char *path, unsigned n)
{
	struct dk_bytes want = dk_bytes(n), got = { .buf = NULL };
	int r = dk_read(path, &got);

	if (r >= 0)
		r = got.len == want.len &&
		    memcmp(got.buf, want.buf, got.len) == 0;
	free(want.buf);
	free(got.buf);
	return r;
}

static inline struct dk_seen dk_look(void)
{
	struct dk_seen s = { 0 };

	for (unsigned n = 0; n < DK_FILES; n++) {
		int r = dk_has(dk_path(n).text, n);

		s.there += r == 1;
		s.wrong += r == 0;
		s.gone += r == -ENOENT || r == -ESTALE;
		s.failed += r < 0 && r != -ENOENT && r != -ESTALE;
	}
	return s;
}

struct dk_findings {
	unsigned n;
	char first[400];
};

static inline void dk_found(void *arg, const char *text)
{
	struct dk_findings *f = arg;

	dk_look_for_death(text);
	if (!f->n++)
		(void)snprintf(f->first, sizeof(f->first), "%s", text);
}

/* All of it is what it should be; @ret gets what is not. */
static inline int dk_check(bool data, struct dk_findings *ret)
{
	struct store_checked c;
	struct store_check how = {
		.data = data, .alone = true, .found = dk_found, .arg = ret
	};

	*ret = (struct dk_findings){ 0 };
	return store_check(dk_st, &how, &c);
}

static inline void dk_copy(const struct scratch *from, const struct scratch *to)
{
	char cmd[4 * SCRATCH_PATH_MAX];

	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s && cp -a %s %s", to->path,
		       from->path, to->path);
	ck_assert_int_eq(system(cmd), 0);
}

static uint64_t dk_disk;

static inline int dk_add_disk(const char *path, const struct stat *st, int flag,
			      struct FTW *ftw)
{
	(void)path;
	(void)flag;
	(void)ftw;
	/* What has two names is there once. */
	if (st->st_nlink < 2 || S_ISDIR(st->st_mode))
		dk_disk += (uint64_t)st->st_blocks * 512;
	else
		dk_disk += (uint64_t)st->st_blocks * 512 / st->st_nlink;
	return 0;
}

static inline uint64_t dk_disk_bytes(void)
{
	dk_disk = 0;
	ck_assert_int_eq(nftw(dk_dir.path, dk_add_disk, 16, FTW_PHYS), 0);
	return dk_disk;
}

#endif
