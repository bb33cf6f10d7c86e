/* SPDX-License-Identifier: MIT */
#include "store/env.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "store/base.h"
#include "store/mdbfile.h"

#define PAGE_HEADER 16 /* LMDB: bytes before the first node of a page */
#define NODE_HEADER 8  /* LMDB: bytes before the key of a node */
#define TOUCH_STEP 512 /* bytes; pages are larger */

int env_errno(int rc)
{
	switch (rc) {
	case MDB_SUCCESS:
		return 0;
	case MDB_NOTFOUND:
		return -ENOENT;
	case MDB_KEYEXIST:
		return -EEXIST;
	case MDB_MAP_FULL:
	case MDB_TXN_FULL:
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return -ENOSPC;
	case MDB_CORRUPTED:
	case MDB_PAGE_NOTFOUND:
	case MDB_CURSOR_FULL:
	case MDB_PAGE_FULL:
	case MDB_INVALID:
	case MDB_INCOMPATIBLE:
	case MDB_VERSION_MISMATCH:
		return -EBADMSG;
	case MDB_READERS_FULL:
		return -ENOMEM;
	default:
		return rc > 0 ? -rc : -EIO;
	}
}

/*
 * xfs preallocates behind a growing file, as much again as it has: far more
 * than the limit allows for. A hint for the size of its extents, to be given
 * while the file is empty, stops that; other file systems don't know it and
 * need it not.
 */
static void tame_growth(int fd)
{
	struct fsxattr attr;
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size > 0 ||
	    ioctl(fd, FS_IOC_FSGETXATTR, &attr) < 0)
		return;
	attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
	attr.fsx_extsize = ENV_EXTENT_BYTES;
	(void)ioctl(fd, FS_IOC_FSSETXATTR, &attr);
}

/* Make an empty data.mdb where there is none, before LMDB does. */
static int create_file(const char *path)
{
	cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int fd = -1;

	if (dir < 0)
		return -errno;
	fd = openat(dir, MDBFILE_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	tame_growth(fd);
	return 0;
}

int env_open(struct env *env, const char *path, uint64_t map_bytes,
	     unsigned tables, bool rdonly)
{
	/* Without writers there are no locks, whose file would be written. */
	unsigned flags =
		MDB_NOSYNC | MDB_NOTLS | (rdonly ? MDB_RDONLY | MDB_NOLOCK : 0);
	struct stat st;
	MDB_stat stat;
	int rc = rdonly ? 0 : create_file(path);

	if (rc < 0)
		return rc;
	env->rdonly = rdonly;
	rc = mdb_env_create(&env->mdb);
	if (!rc)
		rc = mdb_env_set_mapsize(env->mdb, map_bytes);
	if (!rc)
		rc = mdb_env_set_maxdbs(env->mdb, tables);
	if (!rc)
		rc = mdb_env_set_maxreaders(env->mdb, ENV_READERS_MAX);
	if (!rc)
		rc = mdb_env_open(env->mdb, path, flags, 0600);
	if (!rc)
		rc = mdb_env_get_fd(env->mdb, &env->fd);
	if (!rc)
		rc = mdb_env_stat(env->mdb, &stat);
	if (rc)
		return env_errno(rc);
	if (fstat(env->fd, &st) < 0)
		return -errno;
	env->page_size = stat.ms_psize;
	env->allocated = (uint64_t)st.st_size / stat.ms_psize * stat.ms_psize;
	return 0;
}

void env_close(struct env *env)
{
	if (env->mdb)
		mdb_env_close(env->mdb);
	env->mdb = NULL;
}

int env_begin(struct env *env, bool write, MDB_txn **ret)
{
	unsigned flags = write ? 0 : MDB_RDONLY;
	int rc = mdb_txn_begin(env->mdb, NULL, flags, ret);

	if (rc == MDB_READERS_FULL) {
		mdb_reader_check(env->mdb, NULL);
		rc = mdb_txn_begin(env->mdb, NULL, flags, ret);
	}
	if (rc == MDB_PANIC)
		atomic_store(&env->broken, true);
	return env_errno(rc);
}

/* LMDB tells that it gave up only to whoever begins a transaction. */
static void look_if_broken(struct env *env)
{
	MDB_txn *mdb;

	if (env_begin(env, false, &mdb) == 0)
		mdb_txn_abort(mdb);
}

int env_open_tables(MDB_txn *mdb, const char *const *names, unsigned n,
		    MDB_dbi *ret_tables, bool *ret_made)
{
	bool fresh = mdb_txn_id(mdb) <= 1, made = false;
	unsigned i;
	int rc;

	for (i = 0; i < n; i++) {
		rc = mdb_dbi_open(mdb, names[i], 0, &ret_tables[i]);
		if (rc != MDB_NOTFOUND) {
			if (rc || made)
				return rc ? env_errno(rc) : -EBADMSG;
			continue;
		}
		if (i == 0 && !fresh)
			return -EBADMSG;
		rc = mdb_dbi_open(mdb, names[i], MDB_CREATE, &ret_tables[i]);
		if (rc)
			return rc == EACCES ? -EBADMSG : env_errno(rc);
		*ret_made = made = true;
	}
	return 0;
}

void env_allocate(struct env *env, uint64_t pages, uint64_t step)
{
	uint64_t want = (env_file_pages(env) + pages) * env->page_size;
	uint64_t len;

	if (want <= env->allocated)
		return;
	step *= env->page_size;
	len = (want - env->allocated + step - 1) / step * step;
	if (fallocate(env->fd, FALLOC_FL_KEEP_SIZE, (off_t)env->allocated,
		      (off_t)len) == 0)
		env->allocated += len;
	else if (errno == EOPNOTSUPP || errno == ENOSYS)
		env->allocated = UINT64_MAX;
}

int env_commit(struct env *env, MDB_txn *mdb, uint64_t room)
{
	struct statvfs vfs;
	int rc = mdb_txn_commit(mdb);

	if (rc)
		look_if_broken(env);
	if (rc == EIO && !fstatvfs(env->fd, &vfs) &&
	    (uint64_t)vfs.f_bavail * vfs.f_frsize < room)
		return -ENOSPC;
	return env_errno(rc);
}

uint64_t env_file_pages(const struct env *env)
{
	MDB_envinfo info;

	mdb_env_info(env->mdb, &info);
	return info.me_last_pgno + 1;
}

uint64_t env_txnid(const struct env *env)
{
	MDB_envinfo info;

	mdb_env_info(env->mdb, &info);
	return info.me_last_txnid;
}

size_t env_leaf_max(const struct env *env, size_t key_len)
{
	/* A node stays in the leaf if two of its size fit the page. */
	size_t node = (env->page_size - PAGE_HEADER) / 2;

	node = (node & ~(size_t)1) - sizeof(uint16_t);
	return node - NODE_HEADER - key_len;
}

int env_seek(MDB_cursor *cursor, bool behind, MDB_val *key, MDB_val *val)
{
	MDB_val from = *key;
	int rc = mdb_cursor_get(cursor, key, val, MDB_SET_RANGE);

	if (rc || !behind || key->mv_size != from.mv_size ||
	    memcmp(key->mv_data, from.mv_data, from.mv_size) != 0)
		return rc;
	return mdb_cursor_get(cursor, key, val, MDB_NEXT);
}

uint64_t env_disk_bytes(const struct env *env)
{
	struct stat st;
	uint64_t blocks;

	if (fstat(env->fd, &st) < 0)
		return 0;
	blocks = (uint64_t)st.st_blocks * 512;
	return blocks > (uint64_t)st.st_size ? blocks : (uint64_t)st.st_size;
}

int env_count_free(MDB_txn *mdb, uint64_t *ret)
{
	MDB_cursor *cursor;
	MDB_val key;
	MDB_val val;
	uint64_t n;
	uint64_t sum = 0;
	int rc = mdb_cursor_open(mdb, ENV_FREE_DBI, &cursor);

	if (rc)
		return env_errno(rc);
	/* Each record is a list of pages that begins with their number. */
	while (!(rc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT))) {
		if (val.mv_size < sizeof(n))
			continue;
		memcpy(&n, val.mv_data, sizeof(n));
		sum += n;
	}
	mdb_cursor_close(cursor);
	if (rc != MDB_NOTFOUND)
		return env_errno(rc);
	*ret = sum;
	return 0;
}

/* Each page that it is on; what it says is nothing to us. */
static void touch(const MDB_val *val)
{
	const volatile uint8_t *bytes = val->mv_data;

	for (size_t i = 0; i < val->mv_size; i += TOUCH_STEP)
		(void)bytes[i];
	if (val->mv_size)
		(void)bytes[val->mv_size - 1];
}

static int read_table(MDB_txn *mdb, MDB_dbi table)
{
	MDB_cursor *cursor;
	MDB_val key, val;
	MDB_stat stat;
	size_t n = 0;
	int rc = mdb_stat(mdb, table, &stat);

	if (!rc)
		rc = mdb_cursor_open(mdb, table, &cursor);
	if (rc)
		return env_errno(rc);
	while (!(rc = mdb_cursor_get(cursor, &key, &val, MDB_NEXT))) {
		touch(&key);
		touch(&val);
		n++;
	}
	mdb_cursor_close(cursor);
	if (rc != MDB_NOTFOUND)
		return env_errno(rc);
	return n == stat.ms_entries ? 0 : -EBADMSG;
}

static int read_tables(MDB_txn *mdb, const char *const *names, unsigned n)
{
	MDB_dbi table;
	int rc, r = read_table(mdb, ENV_FREE_DBI);

	for (unsigned i = 0; r == 0 && i < n; i++) {
		rc = mdb_dbi_open(mdb, names[i], 0, &table);
		if (rc == MDB_NOTFOUND)
			continue;
		r = rc ? env_errno(rc) : read_table(mdb, table);
	}
	return r;
}

int env_read_all(const char *path, uint64_t map_bytes, const char *const *names,
		 unsigned n)
{
	struct env env = { .mdb = NULL };
	MDB_txn *mdb;
	int r = env_open(&env, path, map_bytes, n, true);

	if (r == 0)
		r = env_begin(&env, false, &mdb);
	if (r == 0) {
		r = read_tables(mdb, names, n);
		mdb_txn_abort(mdb);
	}
	env_close(&env);
	return r;
}

static int pin_meta(struct env *env, uint64_t txnid, uint8_t *meta)
{
	size_t len = 2 * env->page_size;
	struct stat st;
	off_t need;
	ssize_t n = pread(env->fd, meta, len, 0);

	if (n < 0)
		return -errno;
	if ((size_t)n != len || !mdbfile_sane(meta, env->page_size, txnid))
		return -EBADMSG;
	need = (off_t)(mdbfile_pages(meta, env->page_size) * env->page_size);
	if (fstat(env->fd, &st) < 0)
		return -errno;
	if (st.st_size < need && ftruncate(env->fd, need) < 0)
		return -errno;
	return 0;
}

int env_pin(struct env *env, uint8_t *meta, MDB_txn **ret_pin)
{
	MDB_txn *pin;
	int r = env_begin(env, false, &pin);

	if (r < 0)
		return r;
	r = pin_meta(env, mdb_txn_id(pin), meta);
	if (r < 0) {
		mdb_txn_abort(pin);
		return r;
	}
	*ret_pin = pin;
	return 0;
}

int env_sync(struct env *env)
{
	int r = env_errno(mdb_env_sync(env->mdb, 1));

	return base_is_shortage(r) ? -EIO : r;
}

int env_copy(struct env *env, const char *path)
{
	cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int fd = -1;
	int r;

	if (dir < 0)
		return -errno;
	fd = openat(dir, MDBFILE_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	tame_growth(fd);
	r = env_errno(mdb_env_copyfd2(env->mdb, fd, MDB_CP_COMPACT));
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir, MDBFILE_NAME, 0);
	return r;
}
