/* SPDX-License-Identifier: MIT */
/*
 * What the tests of checks share: a store with files of all kinds, a check of
 * it whose findings are kept, and records to be damaged.
 */
#ifndef TESTS_CHECKFIX_H
#define TESTS_CHECKFIX_H

#include <dirent.h>
#include <stdarg.h>

#include "fixture.h"
#include "store/check.h"
#include "store/cut.h"
#include "store/recipe.h"
#include "store/survey.h"
#include "zipkit.h"

#define ROOT RECORD_ROOT_INO
#define STAMP 0x5a215a21
#define FOUND_MAX 64

static atomic_bool hurry;
static struct cutter cutter;
static struct home home;
static struct check checked; /* the last one */
static char found[FOUND_MAX][SURVEY_TEXT_MAX];
static size_t n_found;

/* -- A store with files of all kinds --------------------------------------- */

static struct {
	uint64_t dir, small, inlined, wheel, copy, next, staged;
} made;

static inline int cut(uint64_t ino)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);
	int r = cut_file(&cutter, f);

	file_close(f);
	return r;
}

static inline uint64_t put_wheel(uint64_t dir, const char *name,
				 unsigned version)
{
	uint64_t ino = fx_file(dir, name);
	struct store_file *f = fx_open_file(ino, FILE_WRITE);
	struct zip z = { 0 };
	char member[32];

	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(member, sizeof(member), "p/m%u.py", i);
		zip_member(&z, member, 5000 + 100 * i, STAMP + version);
	}
	(void)snprintf(member, sizeof(member), "p-%u/METADATA", version);
	zip_member(&z, member, 6000, STAMP + version);
	zip_finish(&z, "");
	ck_assert_int_eq(fileio_write(f, 0, z.buf, z.len, false), 0);
	file_close(f);
	zip_release(&z);
	ck_assert_int_eq(cut(ino), 0);
	return ino;
}

static inline void setup(void)
{
	fx_setup();
	atomic_store(&hurry, false);
	cutter = (struct cutter){ .fs = &fx.files, .stop = &hurry };
	home = (struct home)HOME_INIT;
	home.dir_fd = scratch_open_dir(&fx.kit.dir);
	home.packs_fd = fx.kit.packs_dir;
	made.dir = fx_dirs(FX_WHEEL_DIRS);
	made.wheel = put_wheel(made.dir, "p-1-py3-none-any.whl", 1);
	made.copy = put_wheel(made.dir, "p-1-py2-none-any.whl", 1);
	made.next = put_wheel(made.dir, "p-2-py3-none-any.whl", 2);
	made.small = fx_put(ROOT, "small", 20000, 1);
	ck_assert_int_eq(cut(made.small), 0);
	made.staged = fx_put(ROOT, "staged", 100000, 2);
	fx_sum(made.staged);
	made.inlined = fx_put(ROOT, "inline", 100, 3);
}

static inline void teardown(void)
{
	close(home.dir_fd);
	fx_teardown();
}

/* -- Checks ---------------------------------------------------------------- */

static inline void note(void *arg, const char *text)
{
	(void)arg;
	ck_assert_uint_lt(n_found, FOUND_MAX);
	(void)snprintf(found[n_found++], sizeof(found[0]), "%s", text);
}

static inline void run(bool data)
{
	n_found = 0;
	checked = (struct check){ .t = T,
				  .home = &home,
				  .data = data,
				  .alone = true,
				  .found = note };
	ck_assert_int_eq(check_run(&checked), 0);
	ck_assert_uint_eq(checked.stage, CHECK_DONE);
	ck_assert_uint_eq(checked.findings, n_found);
}

static inline void clean(void)
{
	run(true);
	ck_assert_msg(!n_found, "found: %s", found[0]);
}

static inline bool was_found(const char *line)
{
	for (size_t i = 0; i < n_found; i++)
		if (strcmp(found[i], line) == 0)
			return true;
	return false;
}

/* Exactly these lines, in any order, up to NULL. */
static inline void finds(bool data, const char *line, ...)
{
	size_t n = 0;
	va_list args;

	fx.hurt = true;
	run(data);
	va_start(args, line);
	for (; line; line = va_arg(args, const char *), n++)
		ck_assert_msg(was_found(line), "not found: %s; but: %s", line,
			      n_found ? found[0] : "nothing");
	va_end(args);
	ck_assert_msg(n == n_found, "%zu lines more, such as %s | %s",
		      n_found - n, found[0], found[n_found - 1]);
}

struct line {
	char text[SURVEY_TEXT_MAX];
};

static inline struct line line(const char *format, ...)
	__attribute__((format(printf, 1, 2)));
static inline struct line line(const char *format, ...)
{
	struct line ret;
	va_list args;

	va_start(args, format);
	(void)vsnprintf(ret.text, sizeof(ret.text), format, args);
	va_end(args);
	return ret;
}

#define LINE(...) line(__VA_ARGS__).text
#define U(x) ((uintmax_t)(x))

/* -- Damage ---------------------------------------------------------------- */

static struct index_txn *txn;

static inline void begin(void)
{
	txn = kit_begin(&fx.kit);
}

static inline void commit(void)
{
	ck_assert_int_eq(index_commit(txn), 0);
}

static inline void change(enum index_table table, struct record_key key,
			  const void *val, size_t len)
{
	begin();
	if (val)
		ck_assert_int_eq(index_put(txn, table, &key, val, len, false),
				 0);
	else
		ck_assert_int_eq(index_del(txn, table, &key), 0);
	commit();
}

/* The block that a file has at place @i. */
static inline uint64_t block_of(uint64_t ino, unsigned i)
{
	struct run runs[RECORD_RUNS_MAX];
	struct index_txn *read;
	uint64_t n = 0;
	size_t count;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
	ck_assert_int_eq(
		recipe_next(read, fx_inode(ino).recipe, &n, runs, &count), 1);
	index_abort(read);
	for (size_t k = 0; k < count; k++) {
		if (i < runs[k].count)
			return runs[k].first + i;
		i -= runs[k].count;
	}
	ck_abort_msg("inode %ju has no block %u", U(ino), i);
}

static inline struct block_rec block(uint64_t id)
{
	struct index_txn *read;
	struct block_rec bl;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
	ck_assert_int_eq(block_get(read, id, &bl), 0);
	index_abort(read);
	return bl;
}

static inline struct pack_rec pack(uint64_t id)
{
	struct index_txn *read;
	struct pack_rec rec;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
	ck_assert_int_eq(block_pack_get(read, id, &rec), 0);
	index_abort(read);
	return rec;
}

static inline void put_block(uint64_t id, const struct block_rec *bl)
{
	begin();
	ck_assert_int_eq(block_put(txn, id, bl), 0);
	commit();
}

static inline void put_pack(uint64_t id, const struct pack_rec *rec)
{
	begin();
	ck_assert_int_eq(block_pack_put(txn, id, rec), 0);
	commit();
}

static inline void put_runs(uint64_t recipe, uint64_t n, struct run run)
{
	begin();
	ck_assert_int_eq(recipe_put(txn, recipe, n, &run, 1), 0);
	commit();
}

static inline struct scratch pack_path(uint64_t id)
{
	struct scratch packs = scratch_at(&fx.kit.dir, "packs");

	return scratch_at(&packs, packio_name(id).text);
}

static inline void flip(uint64_t pack_id, uint64_t off)
{
	struct scratch path = pack_path(pack_id);
	int fd = open(path.path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &byte, 1, (off_t)off), 1);
	byte ^= 0x40;
	ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)off), 1);
	close(fd);
}

#endif
