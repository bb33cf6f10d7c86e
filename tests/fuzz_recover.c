/* SPDX-License-Identifier: MIT */
/*
 * An index after damage of any kind: opened, read and written to, it never
 * crashes and always comes to an end, and the audit agrees with LMDB.
 *
 * A small index is made once. The input changes it:
 *   0 u8 flags: 1 the side file's checksum is made right, 2 its pages are those
 *     of data.mdb, 4 nothing is marked clean
 *   1 u8: pages cut off from the end
 *   then pieces of { u8 page, u16 offset, u8 length, bytes }; page 255 is the
 *   side file. With length 0: one byte, XORed with 1 << offset % 8.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base.h"
#include "store/checkpoint.h"
#include "store/digest.h"
#include "store/mdbfile.h"
#include "store/recover.h"
#include "store/side.h"
#include "store/walk.h"

#define SIDE_PAGE 255
#define SIDE_FLAGS_AT 8
#define SIDE_META_AT 64
#define RECORDS 120
#define STEPS_MAX 100000 /* of reading one table: more is no end */
#define FLAG_SUM 1
#define FLAG_META 2
#define FLAG_DIRTY 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct file {
	uint8_t *data; /* owned */
	size_t len;
};

static char dir[64];
static int dir_fd = -1;
static struct file data_file, side_file; /* as they were made */

static void nothing(void *arg)
{
	(void)arg;
}

static void write_file(const char *name, const uint8_t *data, size_t len)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
			0600);
	ssize_t n = write(fd, data, len);

	assert(fd >= 0 && (size_t)n == len);
	close(fd);
}

static struct file read_file(const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;
	struct file f;
	ssize_t n;
	int r = fd < 0 ? -1 : fstat(fd, &st);

	assert(r == 0);
	f.len = (size_t)st.st_size;
	f.data = malloc(f.len);
	assert(f.data);
	n = read(fd, f.data, f.len);
	assert((size_t)n == f.len);
	close(fd);
	return f;
}

static void clean_up(void)
{
	static const char *const names[] = { MDBFILE_NAME, "lock.mdb",
					     SIDE_NAME, SIDE_TMP_NAME };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlinkat(dir_fd, names[i], 0);
	(void)rmdir(dir);
}

/* -- Using an index --------------------------------------------------------- */

/* Records of many shapes come and go; what fails fails. */
static void write_some(struct index *ix, unsigned seed, unsigned n)
{
	static const uint8_t val[6000];
	struct record_key id, name;
	struct index_txn *txn;
	char text[200];
	int r = index_begin(ix, true, &txn);

	if (r < 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		unsigned k = (seed + i) * 2654435761u >> 12;

		(void)snprintf(text, sizeof(text), "%0*u", 1 + (int)(k % 180),
			       k % 97);
		id = record_key_id(k % 61);
		name = record_key_name(k % 7, text);
		if (k % 5 < 3) {
			(void)index_put(txn, INDEX_INLINE, &id, val,
					k % 11 ? k % 900 : 5000, false);
			(void)index_put(txn, INDEX_DIRENT, &name, val, 17,
					false);
		} else {
			(void)index_del(txn, INDEX_INLINE, &id);
			(void)index_del(txn, INDEX_DIRENT, &name);
		}
	}
	(void)index_commit(txn);
}

static void read_table(struct index_txn *txn, enum index_table table)
{
	static uint8_t buf[INDEX_VALUE_MAX];
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = { .len = 1 }, key;
	unsigned steps = 0;
	size_t len;
	int r = index_iter(txn, table, &from, 0, &it);

	while (r >= 0 || r == -EBADMSG) {
		r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r == 0 || !it.cursor)
			break;
		assert(++steps < STEPS_MAX);
	}
}

static void read_all(struct index *ix)
{
	struct index_txn *txn;
	struct index_stat is;

	(void)index_stat(ix, &is);
	if (index_begin(ix, false, &txn) < 0)
		return;
	for (int i = 0; i < INDEX_TABLES; i++)
		read_table(txn, (enum index_table)i);
	index_abort(txn);
}

static int open_index(int flags, struct index **ret)
{
	return index_open(dir, flags, GIB,
			  (struct notify){ .fn = nothing, .arg = NULL }, ret);
}

/* What was recovered is whole, and stays so when it is changed. */
static void use_index(int found)
{
	struct walk w = { .go_on = NULL };
	struct index_snap *snap;
	struct index *ix;
	int r = open_index(found == RECOVER_RESTORED ? INDEX_RESTORED : 0, &ix);

	if (r < 0)
		return;
	read_all(ix);
	for (unsigned i = 0; i < 12; i++)
		write_some(ix, i * 31, i % 4 == 3 ? 60 : 4);
	read_all(ix);
	r = index_snapshot(ix, &snap);
	assert(r == 0);
	r = walk_snapshot(&w, snap);
	index_unpin(ix, snap);
	if (r < 0)
		fprintf(stderr, "the index was whole, and now: %s\n", w.text);
	assert(r == 0);
	index_close(ix);
}

/* -- The input -------------------------------------------------------------- */

static void make_template(void)
{
	struct index *ix;
	int r;

	(void)snprintf(dir, sizeof(dir), "/dev/shm/fuzz-recover.XXXXXX");
	if (!mkdtemp(dir)) {
		(void)snprintf(dir, sizeof(dir), "/tmp/fuzz-recover.XXXXXX");
		assert(mkdtemp(dir));
	}
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert(dir_fd >= 0);
	(void)atexit(clean_up);
	r = open_index(0, &ix);
	assert(r == 0);
	for (unsigned i = 0; i < 40; i++)
		write_some(ix, i, i < 4 ? RECORDS : 5);
	index_close(ix);
	r = recover_seal(dir_fd);
	assert(r == 0);
	data_file = read_file(MDBFILE_NAME);
	side_file = read_file(SIDE_NAME);
}

static struct file copy_of(const struct file *f)
{
	struct file copy = { .data = malloc(f->len), .len = f->len };

	assert(copy.data);
	memcpy(copy.data, f->data, f->len);
	return copy;
}

static size_t page_size(void)
{
	return (side_file.len - SIDE_META_AT - sizeof(uint64_t)) / 2;
}

static void change(struct file *f, size_t at, const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len && at + i < f->len; i++)
		f->data[at + i] = bytes[i];
}

static void apply(const uint8_t *in, size_t size, struct file *data,
		  struct file *side)
{
	while (size >= 4) {
		size_t at = in[1] | (size_t)in[2] << 8, len = in[3];
		struct file *f = in[0] == SIDE_PAGE ? side : data;

		if (f == data)
			at = in[0] % (data->len / page_size()) * page_size() +
			     at % page_size();
		else
			at %= side->len;
		if (!len && at < f->len)
			f->data[at] ^= (uint8_t)(1 << in[1] % 8);
		if (len > size - 4)
			len = size - 4;
		change(f, at, in + 4, len);
		in += 4 + len;
		size -= 4 + len;
	}
}

static void seal(uint8_t flags, const struct file *data, struct file *side)
{
	uint64_t sum;

	if (flags & FLAG_META)
		memcpy(side->data + SIDE_META_AT, data->data, 2 * page_size());
	if (flags & FLAG_DIRTY)
		side->data[SIDE_FLAGS_AT] = 0;
	if (!(flags & FLAG_SUM))
		return;
	sum = digest_xxh3(side->data, side->len - sizeof(sum));
	memcpy(side->data + side->len - sizeof(sum), &sum, sizeof(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	struct file data, side;
	char why[256] = "";
	int found;

	if (!data_file.data)
		make_template();
	if (size < 2)
		return 0;
	data = copy_of(&data_file);
	side = copy_of(&side_file);
	apply(in + 2, size - 2, &data, &side);
	seal(in[0], &data, &side);
	data.len -= in[1] % (data.len / page_size()) * page_size();
	write_file(MDBFILE_NAME, data.data, data.len);
	write_file(SIDE_NAME, side.data, side.len);
	free(data.data);
	free(side.data);
	found = recover_index(dir_fd, NULL, 0, why, sizeof(why));
	assert(found >= 0);
	if (found == RECOVER_UNREADABLE)
		assert(*why);
	else
		use_index(found);
	return 0;
}
