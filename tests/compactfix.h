/* SPDX-License-Identifier: MIT */
/*
 * A cutter and a mover on the fixture, and packs that waste space.
 *
 * @no_punch makes the file system one that cannot give ranges back, or stands
 * for an earlier mount that did not get to it.
 */
#ifndef TESTS_COMPACTFIX_H
#define TESTS_COMPACTFIX_H

#include "store/compact.h"
#include "store/cut.h"

#include "fixture.h"
#include "zipkit.h"

#define ROOT RECORD_ROOT_INO
#define STAMP 0x5a215a21
#define MEMBERS 60
#define MEMBER_BYTES 6000

static atomic_bool hurry;
static struct cutter cutter;
static struct mover mover;
static unsigned damaged;
static bool no_punch, no_steps;

static inline int fallocate_without_holes(int fd, int mode, off_t off,
					  off_t len)
{
	if (no_punch && (mode & FALLOC_FL_PUNCH_HOLE)) {
		errno = EOPNOTSUPP;
		return -1;
	}
	return fallocate(fd, mode, off, len);
}

static inline bool go_on(void *arg)
{
	(void)arg;
	return !no_steps;
}

static inline void count_damaged(void *arg, const struct move *mv)
{
	(void)arg;
	(void)mv;
	damaged++;
}

static inline void set_up_movers(void)
{
	cutter = (struct cutter){ .fs = &fx.files, .stop = &hurry };
	mover = (struct mover){ .t = T,
				.go_on = go_on,
				.damaged = count_damaged };
	fx.io.fallocate = fallocate_without_holes;
}

static inline void setup(void)
{
	fx_setup();
	set_up_movers();
	damaged = 0;
	no_punch = no_steps = false;
}

static inline void teardown(void)
{
	mover_release(&mover);
	fx_teardown();
}

static inline int cut(uint64_t ino)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);
	int r = cut_file(&cutter, f);

	file_close(f);
	return r;
}

static inline uint64_t put_cut(const char *name, const struct zip *z)
{
	uint64_t ino = fx_file(ROOT, name);
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fileio_write(f, 0, z->buf, z->len, false), 0);
	file_close(f);
	ck_assert_int_eq(cut(ino), 0);
	return ino;
}

static inline void handle_holds(struct store_file *f, const struct zip *z,
				size_t step)
{
	struct fileio_read rd;
	uint8_t got[65536];

	for (size_t off = 0; off < z->len; off += rd.len) {
		const uint8_t *is = got;

		ck_assert_int_eq(fileio_read_begin(f, off, step, &rd), 0);
		ck_assert_uint_gt(rd.len, 0);
		if (rd.mem)
			is = rd.mem;
		else
			ck_assert_int_eq(pack_read(rd.pack, got, rd.len,
						   rd.pos),
					 rd.len);
		ck_assert_msg(!memcmp(is, z->buf + off, rd.len),
			      "wrong bytes behind %zu", off);
		fileio_read_end(&rd);
	}
}

static inline void holds(uint64_t ino, const struct zip *z)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);

	handle_holds(f, z, 65536);
	handle_holds(f, z, 997);
	file_close(f);
}

/* Every third member is like those of others with @common. */
static inline struct zip wheel(const char *who, const char *common)
{
	struct zip z = { 0 };
	char name[32];

	for (unsigned i = 0; i < MEMBERS; i++) {
		(void)snprintf(name, sizeof(name), "%s/m%u",
			       i % 3 ? who : common, i);
		zip_member(&z, name, MEMBER_BYTES + 10 * i, STAMP + i);
	}
	zip_finish(&z, "");
	return z;
}

static inline void drain(void)
{
	uint64_t bytes;

	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
}

static inline struct compact_stat measure(void)
{
	struct compact_stat st;

	ck_assert_int_eq(compact_measure(T, &st), 0);
	return st;
}

/* Until there is nothing to gain. */
static inline unsigned compact_all(void)
{
	unsigned n = 0;

	while (compact_round(&mover) == 1)
		ck_assert_uint_lt(++n, 100);
	return n;
}

/* The other file, a third of whose members were @gone's too, which is not
 * there any more; its bytes still are. */
static inline uint64_t put_wasteful(const char *gone, const char *name,
				    struct zip *ret)
{
	struct zip z = wheel(gone, gone);
	uint64_t ino;

	*ret = wheel(name, gone);
	put_cut(gone, &z);
	ino = put_cut(name, ret);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_RECIPE);
	no_punch = true;
	ck_assert_int_eq(fx_unlink(ROOT, gone), 0);
	drain();
	fx_checkpoint();
	no_punch = false;
	ck_assert_uint_gt(measure().waste, 200 * KIB);
	zip_release(&z);
	return ino;
}

#endif
