/* SPDX-License-Identifier: MIT */
/*
 * A tree of names and files over a real index, packs and room, in a directory
 * of its own: what store_open() builds, without its threads and its facade.
 * No checkpoint runs but those a test asks for; a test that wants the ingest
 * or the evictor starts it.
 *
 * fx_teardown() checks the invariants of the store (invariants.h), so each
 * test does.
 */
#ifndef TESTS_FIXTURE_H
#define TESTS_FIXTURE_H

#include <stdatomic.h>
#include <sys/stat.h>

#include "store/content.h"
#include "store/fileio.h"
#include "store/gc.h"
#include "store/layout.h"
#include "store/rename.h"
#include "store/sweep.h"
#include "store/table.h"
#include "store/tree.h"
#include "storekit.h"

#define FX_NEVER_MS 100000000
#define FX_LIMIT (64 * MIB)
#define FX_FIXED_BYTES (256 * KIB) /* directories and small files */

/* A name in pip's layout, and the directories it lies in. */
#define FX_HASH "0a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef01234567"
#define FX_HASH_DIRS "http-v2/0/a/1/b/2"
#define FX_WHEEL_REST "0123456789abcdef0123456789abcdef0123456789abcdef01"
#define FX_WHEEL_DIRS "wheels/aa/bb/cc/" FX_WHEEL_REST

struct fixture {
	struct kit kit;
	struct room *room;
	struct nodes *nodes;
	struct entries *entries;
	struct tree tree;
	struct files files;
	struct section *readers;
	struct gc *gc;		   /* its thread does not run: gc_drain() */
	struct sweep_result swept; /* by sweep_packs() at open */
	struct pack_io io;	   /* of the packs; a test replaces calls */
	unsigned due;		   /* calls of the entries' @due */
	uint64_t filled;	   /* by fx_fill_room() */
	int64_t disk_free;	   /* bytes, on the disk below */
	void (*on_credit)(void);   /* when bytes come back, or NULL */
	bool hurt;		   /* records were damaged: not to be checked */

	atomic_uint reports;
	char report[200]; /* the last one */
	atomic_uint closed;
	uint64_t last_closed; /* inode */
};
static struct fixture fx;
#define T (&fx.tree)

/* -- What the parts tell the store ---------------------------------------- */

static inline void fx_credit(void *arg, uint64_t bytes)
{
	(void)arg;
	room_credit(fx.room, bytes);
	if (fx.on_credit)
		fx.on_credit();
}

static inline int64_t fx_disk_free(void *arg)
{
	(void)arg;
	return fx.disk_free;
}

static inline void fx_due(void *arg)
{
	(void)arg;
	fx.due++;
}

static inline void fx_before_checkpoint(void *arg)
{
	(void)arg;
	(void)entry_flush(fx.entries, fx.kit.ix, fx.room);
}

static inline void fx_raise_parts(void *arg)
{
	(void)arg;
	room_raise_part(fx.room, ROOM_INDEX, index_disk_bytes(fx.kit.ix));
	room_raise_part(fx.room, ROOM_DIRS, packs_dir_bytes(fx.kit.packs));
}

static inline void fx_set_parts(void)
{
	room_set_part(fx.room, ROOM_INDEX, index_disk_bytes(fx.kit.ix));
	room_set_part(fx.room, ROOM_DIRS, packs_dir_bytes(fx.kit.packs));
}

static inline void fx_report(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)snprintf(fx.report, sizeof(fx.report), "%s", text);
	fx.reports++;
}

static inline void fx_closed(void *arg, uint64_t ino, uint64_t bytes)
{
	(void)arg;
	(void)bytes;
	fx.last_closed = ino;
	fx.closed++;
}

/* -- Open and close ------------------------------------------------------- */

static inline void fx_open_parts(void)
{
	struct packs_config pc = { .dir_fd = fx.kit.packs_dir,
				   .io = &fx.io,
				   .dirty_bytes = UINT64_MAX,
				   .credit = fx_credit };
	struct holes_config hc;

	ck_assert_int_eq(section_new(&fx.readers), 0);
	ck_assert_int_eq(packs_open(&pc, &fx.kit.packs), 0);
	ck_assert_int_eq(room_new((struct room_disk){ fx_disk_free, NULL },
				  &fx.room),
			 0);
	hc = (struct holes_config){ .dir_fd = fx.kit.packs_dir,
				    .io = &fx.io,
				    .packs = fx.kit.packs,
				    .readers = fx.readers,
				    .credit = fx_credit };
	ck_assert_int_eq(holes_open(&hc, &fx.kit.holes), 0);
	ck_assert_int_eq(nodes_new(&fx.nodes), 0);
	ck_assert_int_eq(
		entries_new((struct notify){ .fn = fx_due }, &fx.entries), 0);
	room_set_limit(fx.room, FX_LIMIT, 0, 0);
	fx.tree = (struct tree){ .ix = fx.kit.ix,
				 .packs = fx.kit.packs,
				 .nodes = fx.nodes,
				 .entries = fx.entries,
				 .room = fx.room,
				 .readers = fx.readers,
				 .holes = fx.kit.holes };
	ck_assert_int_eq(gc_new(T, &fx.gc), 0);
	fx.files = (struct files){ .t = T,
				   .closed = fx_closed,
				   .report = fx_report,
				   .max_size = GIB };
	pthread_mutex_init(&fx.files.lock, NULL);
}

/* Everything but sweep_inodes(), which is left to the tests. */
static inline void fx_open(void)
{
	struct inode root;

	fx.swept = (struct sweep_result){ 0 };
	ck_assert_int_ne(kit_recover(&fx.kit), RECOVER_UNREADABLE);
	ck_assert_int_eq(kit_open_index(&fx.kit), 0);
	index_set_growth(fx.kit.ix, INDEX_MAP_BYTES, 0);
	fx_open_parts();
	ck_assert_int_eq(sweep_packs(T, &fx.swept), 0);
	room_settle(fx.room, 0, FX_FIXED_BYTES + fx.swept.pack_bytes);
	fx_set_parts();
	ck_assert_int_eq(kit_start(&fx.kit), 0);
	if (tree_get(T, RECORD_ROOT_INO, &root) == -ESTALE)
		ck_assert_int_eq(tree_create_root(T, 0, 0), 0);
}

static inline void fx_close(void)
{
	bool clean = !index_frozen(fx.kit.ix);
	int r = checkpoint_stop(fx.kit.cp, clean);

	ck_assert(r == 0 || !clean);
	gc_free(fx.gc);
	holes_close(fx.kit.holes);
	section_free(fx.readers);
	nodes_free(fx.nodes);
	entries_free(fx.entries);
	packs_close(fx.kit.packs);
	index_close(fx.kit.ix);
	idset_release(&fx.files.verified);
	pthread_mutex_destroy(&fx.files.lock);
	room_free(fx.room);
	fx.kit.cp = NULL;
}

static inline void fx_reopen(void)
{
	fx_close();
	fx_open();
}

/* Run @fn on the store in a process that is killed after it, and come back:
 * the store is then at its last checkpoint. */
static inline void fx_run_killed(void (*fn)(void))
{
	pid_t pid;
	int status;

	fx_close();
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		fx_open();
		fn();
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
		      "the child ended with 0x%x", status);
	fx_open();
	ck_assert_int_eq(fx.kit.found, RECOVER_RESTORED);
}

static inline void fx_checkpoint(void)
{
	ck_assert_int_eq(checkpoint_run(fx.kit.cp), 0);
}

/* -- Names ---------------------------------------------------------------- */

static inline int fx_try_make(uint64_t parent, const char *name, uint32_t mode,
			      uint64_t *ret)
{
	struct tree_new what = { .parent = parent, .name = name, .mode = mode };
	struct inode in;
	int r = tree_make(T, &what, &in);

	if (r >= 0)
		*ret = in.ino;
	return r;
}

static inline uint64_t fx_make(uint64_t parent, const char *name, uint32_t mode)
{
	uint64_t ino = 0;
	int r = fx_try_make(parent, name, mode, &ino);

	ck_assert_msg(r == 0, "making %s: %d", name, r);
	return ino;
}

static inline uint64_t fx_file(uint64_t parent, const char *name)
{
	return fx_make(parent, name, S_IFREG | 0644);
}

/* The inode of @name, or 0. */
static inline uint64_t fx_find(uint64_t parent, const char *name)
{
	struct inode in = { 0 };
	int r = tree_lookup(T, parent, name, &in);

	ck_assert_msg(r == 0 || r == -ENOENT, "looking up %s: %d", name, r);
	return in.ino;
}

static inline uint64_t fx_dir(uint64_t parent, const char *name)
{
	uint64_t ino = fx_find(parent, name);

	return ino ? ino : fx_make(parent, name, S_IFDIR | 0755);
}

/* The directory @path below the root, made where it is missing. */
static inline uint64_t fx_dirs(const char *path)
{
	uint64_t at = RECORD_ROOT_INO;
	char buf[512], *save, *name;

	(void)snprintf(buf, sizeof(buf), "%s", path);
	for (name = strtok_r(buf, "/", &save); name;
	     name = strtok_r(NULL, "/", &save))
		at = fx_dir(at, name);
	return at;
}

static inline int fx_unlink(uint64_t parent, const char *name)
{
	return tree_remove(T, parent, name, false);
}

static inline int fx_rename(uint64_t from, const char *name, uint64_t to,
			    const char *new_name)
{
	return rename_names(T, (struct rename_at){ from, name },
			    (struct rename_at){ to, new_name }, 0);
}

/* -- Records -------------------------------------------------------------- */

static inline struct inode fx_inode(uint64_t ino)
{
	struct inode in;
	int r = tree_get(T, ino, &in);

	ck_assert_msg(r == 0, "inode %ju: %d", (uintmax_t)ino, r);
	return in;
}

static inline bool fx_gone(uint64_t ino)
{
	struct inode in;

	return tree_get(T, ino, &in) == -ESTALE;
}

/* Overwrite the record of an inode. */
static inline void fx_put_inode(const struct inode *in)
{
	struct index_txn *txn = kit_begin(&fx.kit);

	ck_assert_int_eq(table_inode_put(txn, in), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

/* False if there is no such entry. */
static inline bool fx_entry(uint64_t id, struct entry_rec *ret)
{
	struct index_txn *txn;
	int r;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &txn), 0);
	r = table_entry_get(txn, id, ret);
	index_abort(txn);
	ck_assert(r == 0 || r == -ENOENT);
	return r == 0;
}

static inline void fx_flush(void)
{
	ck_assert_int_eq(entry_flush(fx.entries, fx.kit.ix, fx.room), 0);
}

/* The entry was last used @sec ago. */
static inline void fx_age(uint64_t entry, int64_t sec)
{
	struct index_txn *txn;
	struct entry_rec old, en;

	fx_flush();
	txn = kit_begin(&fx.kit);
	ck_assert_int_eq(table_entry_get(txn, entry, &old), 0);
	en = old;
	en.last_use_ns = base_now_ns() - sec * NSEC_PER_SEC;
	ck_assert_int_eq(table_entry_put(txn, entry, &old, &en), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

static inline uint64_t fx_count(enum index_table table)
{
	struct index_stat is;

	ck_assert_int_eq(index_stat(fx.kit.ix, &is), 0);
	return is.entries[table];
}

/* -- Bytes ---------------------------------------------------------------- */

static inline uint8_t fx_byte(unsigned seed, uint64_t i)
{
	return (uint8_t)((i + seed) * 2654435761u >> 11);
}

static inline void fx_fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = fx_byte(seed, i);
}

static inline struct store_file *fx_open_file(uint64_t ino, int flags)
{
	struct store_file *f = NULL;
	int r = file_open(&fx.files, ino, flags, &f);

	ck_assert_msg(r == 0, "opening inode %ju: %d", (uintmax_t)ino, r);
	return f;
}

/* 0 or the error of an open. */
static inline int fx_try_open(uint64_t ino, int flags)
{
	struct store_file *f;
	int r = file_open(&fx.files, ino, flags, &f);

	if (r >= 0)
		file_close(f);
	return r;
}

/* Write @len bytes from the start on. */
static inline int fx_write(struct store_file *f, size_t len, unsigned seed)
{
	cleanup_free uint8_t *buf = malloc(len + 1);

	ck_assert_ptr_nonnull(buf);
	fx_fill(buf, len, seed);
	return fileio_write(f, 0, buf, len, false);
}

/* Open for writing, overwrite from the start, close. */
static inline void fx_rewrite(uint64_t ino, size_t len, unsigned seed)
{
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, len, seed), 0);
	file_close(f);
}

/* A new file of @len bytes. */
static inline uint64_t fx_put(uint64_t parent, const char *name, size_t len,
			      unsigned seed)
{
	uint64_t ino = fx_file(parent, name);

	fx_rewrite(ino, len, seed);
	return ino;
}

/* The path of the pack that holds @ino. */
static inline struct scratch fx_pack_path(uint64_t ino)
{
	struct scratch packs = scratch_at(&fx.kit.dir, "packs");

	return scratch_at(&packs, packio_name(fx_inode(ino).pack).text);
}

/* Give a closed file its checksum, as the ingest would. */
static inline void fx_sum(uint64_t ino)
{
	struct inode in = fx_inode(ino);
	struct node as = { .size = in.size };

	ck_assert_int_eq(pack_get(fx.kit.packs, in.pack, &as.pack), 0);
	ck_assert_int_eq(content_sum(T, &as, &in.xxh3), 0);
	pack_put(as.pack);
	in.flags |= INODE_SUMMED;
	fx_put_inode(&in);
}

/* The bytes of an open file are those of fx_write(). */
static inline void fx_check_bytes(struct store_file *f, size_t len,
				  unsigned seed)
{
	cleanup_free uint8_t *got = malloc(len + 1);
	struct fileio_read rd;
	size_t wrong = 0;

	ck_assert_ptr_nonnull(got);
	ck_assert_int_eq(fileio_read_begin(f, 0, len + 1, &rd), 0);
	ck_assert_uint_eq(rd.len, len);
	ck_assert(!len || rd.pack || rd.mem);
	if (rd.pack)
		ck_assert_int_eq(pack_read(rd.pack, got, len, rd.pos), len);
	for (size_t i = 0; i < len; i++)
		wrong += (rd.pack ? got : rd.mem)[i] != fx_byte(seed, i);
	ck_assert_uint_eq(wrong, 0);
	fileio_read_end(&rd);
}

/* 0 if the file can be opened and has those bytes, or the open's error. */
static inline int fx_holds(uint64_t ino, size_t len, unsigned seed)
{
	struct store_file *f;
	int r = file_open(&fx.files, ino, FILE_QUIET, &f);

	if (r < 0)
		return r;
	fx_check_bytes(f, len, seed);
	file_close(f);
	return 0;
}

/* A read that the disk refuses: for fx.io.pread. */
static inline ssize_t fx_failing_pread(int fd, void *buf, size_t len, off_t off)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)off;
	errno = EIO;
	return -1;
}

static inline uint64_t fx_charged(void)
{
	struct room_stat rs;

	room_stat(fx.room, &rs);
	return rs.quota.charged;
}

/* Leave only @left bytes under the limit, and no evictor to wait for: what
 * needs more fails. */
static inline void fx_fill_room(uint64_t left)
{
	fx.filled = FX_LIMIT - left - fx_charged();
	room_settle(fx.room, 0, fx.filled);
	room_stop(fx.room);
}

static inline void fx_empty_room(void)
{
	room_credit(fx.room, fx.filled);
	fx.filled = 0;
}

#include "invariants.h"

/* -- Setup ---------------------------------------------------------------- */

static inline void fx_setup(void)
{
	memset(&fx, 0, sizeof(fx));
	kit_dirs(&fx.kit, scratch_new());
	fx.kit.interval_ms = FX_NEVER_MS;
	fx.kit.before = (struct notify){ .fn = fx_before_checkpoint };
	fx.kit.after = (struct notify){ .fn = fx_raise_parts };
	fx.io = pack_io_real;
	fx.disk_free = INT64_MAX;
	fx_open();
}

static inline void fx_teardown(void)
{
	fx.io = pack_io_real;
	fx.on_credit = NULL;
	fx_empty_room();
	invariants_check();
	fx_close();
	kit_remove(&fx.kit);
}

static inline TCase *fx_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, fx_setup, fx_teardown);
}

#endif
