/* SPDX-License-Identifier: MIT */
/*
 * The store: a POSIX tree of names and files under a hard size limit, in a
 * directory of an ordinary file system. The facade and only public header of
 * store/; it knows nothing of FUSE.
 *
 *	store_open()		after any fork
 *	store_lookup(), store_create(), store_file_read(), ...
 *	store_close()		no file is open any more
 *
 * Inode numbers are never reused; STORE_ROOT_INO is the root. An inode that is
 * gone (evicted, or unlinked and closed) is -ESTALE. Names are bytes, 1..255,
 * without '/'.
 *
 * All calls return 0 (or a count) or a negative errno:
 *   -ENOENT, -EEXIST, -ENOTDIR, -EISDIR, -ENOTEMPTY, -ENAMETOOLONG, -EINVAL,
 *   -EMLINK, -EFBIG as POSIX has them; -ESTALE see above; -ENOSPC no room
 *   under the limit or on the disk, after waiting for eviction; -EROFS the
 *   store is read-only (an I/O error happened); -EBADMSG a record is damaged;
 *   -EIO, -ENOMEM.
 * Permissions are checked by the caller (the kernel, with
 * default_permissions), also sticky bits and the clearing of setuid.
 *
 * Threads: any number at once, unless a call says otherwise. No call keeps a
 * lock when it returns.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include "store/base.h"

#define STORE_ROOT_INO 1
#define STORE_NAME_MAX 255
#define STORE_LINK_MAX 65000	      /* names of one inode, as ext4 has it */
#define STORE_BLKSIZE (1 * MIB)	      /* st_blksize */
#define STORE_FILE_MIN_MAX (16 * GIB) /* the largest file: max(limit, this) */

struct store;
struct store_file; /* an open file or directory */

/*
 * The limits. Text as the user wrote it: a size is "5G", "512M" or "10%";
 * NULL means the default (limit: what `limit` last recorded in the store,
 * else 10 % of the disk, at most 20 GiB; low: 90 % of the limit; min_free:
 * 5 % of the disk).
 */
struct store_limits {
	const char *limit;
	const char *low;
	const char *min_free;
	int64_t grace_sec; /* < 0: the default, 600 */
};

/* CREATE, for a daemon: make an empty store where there is none, and in the
 * place of one whose index is unreadable. */
enum store_open_flags {
	STORE_OPEN_CREATE = 1 << 0,
};

/* An open file of a mount that goes on in another process. */
struct store_resume {
	uint64_t ino;
	int flags; /* as of store_file_open() */
	bool bad;  /* as store_file_is_bad() said */
	/* store_open() fills it in: the caller's to close; NULL: it has gone. */
	struct store_file *file;
};

#define STORE_WITNESS_SIZE 16

struct store_config {
	const char *path; /* of the store; borrowed during store_open() only */
	int flags;
	struct store_limits limits;
	bool sync_strict; /* fsync makes durable, else it only accepts */
	bool distrust;	  /* walk the index before it is used */
	/* A daemon reads all that is stored once in so many seconds and compares
	 * it with its checksums; 0: it does not. */
	int64_t scrub_sec;
	uid_t root_uid; /* owner of the root directory of a new store */
	gid_t root_gid;
	/*
	 * Told what an operator should know: damage found, files dropped,
	 * the store made read-only. @priority is a syslog level. Any thread.
	 */
	void (*report)(void *arg, int priority, const char *text);
	void *report_arg;
	const char *owner_note; /* written to the lock file behind the pid */
	/*
	 * STORE_WITNESS_SIZE random bytes (see recover.h), kept by somebody who
	 * outlives this process. Borrowed, outlives the store. NULL: none.
	 */
	const uint8_t *witness;
	/*
	 * Kept beside the witness: the errno that made the store read-only, 0
	 * while it is not. Who comes with another value and the witness serves
	 * what the last process left, and writes nothing: the page cache may
	 * have lost what could not be written. NULL: there is no witness.
	 */
	_Atomic uint32_t *frozen;
	/*
	 * The mount goes on: inode numbers are known outside, and @files are
	 * open. A store that is not as the last process left it is -ESTALE.
	 * Where the file system has become read-only, the store is too.
	 */
	bool resume;
	/* The store's lock, held since the last process took it: taken over.
	 * 0: there is none. */
	int lock_fd;
	struct store_resume *files; /* borrowed during store_open() only */
	size_t n_files;
};

/*
 * Open (and recover) a store, for a daemon or for one command.
 * @why:     on failure: one line that names path, reason and what to do.
 * Returns:  -EBUSY held by another process (named in @why; one that is ending
 *           is waited for, up to 10 s), -EMEDIUMTYPE not a store or of a newer
 *           format, -EBADMSG unreadable index (without STORE_OPEN_CREATE),
 *           -ENOTSUP network file system below, -ENOENT, -EINVAL bad
 *           limits, -ESTALE see resume, -EROFS, -EIO, ...; the directory is
 *           unchanged then.
 */
int store_open(const struct store_config *cfg, struct store **ret, char *why,
	       size_t why_size);

/*
 * Is there anything wrong with @limits for a store at @path, which need not
 * exist? Looks, and makes nothing. Where the limit is too small or contradicts
 * the low mark: -EINVAL or -ERANGE, and @why.
 */
int store_check_limits(const char *path, const struct store_limits *limits,
		       char *why, size_t why_size);

/* Stop everything: sums what waits, last checkpoint, marks clean. The store
 * is closed whatever it returns. */
int store_close(struct store *st);

/* The lock: while anybody has a duplicate of it open, nobody else can open the
 * store, and its file system stays mounted. */
int store_lock_fd(const struct store *st);

/* From now on the lock file tells others that this process is ending. */
void store_ending(struct store *st);

/*
 * Requests that somebody may have to take over, if this process is killed: what
 * the thread does between the two calls is the request @number, never 0, that
 * came through @slot. Changes of names and new files remember that they were
 * done, and store_request_done() tells a successor.
 * Returns: 1 and the inode that the answer shows (0: none); 0 not done, or
 *          nothing came of it: do it; or an error.
 */
void store_request_begin(unsigned slot, uint64_t number);
void store_request_end(void);
int store_request_done(struct store *st, unsigned slot, uint64_t number,
		       uint64_t *ret_ino);

/* Takes the locks that all operations need, for a moment: one that never
 * returns tells that they do not either. */
void store_alive(struct store *st);

/* Names. All of these fill @ret (unless NULL) with the inode's attributes. */
int store_lookup(struct store *st, uint64_t parent, const char *name,
		 struct stat *ret);
int store_getattr(struct store *st, uint64_t ino, struct stat *ret);

enum store_setattr_mask {
	STORE_SET_MODE = 1 << 0,
	STORE_SET_UID = 1 << 1,
	STORE_SET_GID = 1 << 2,
	STORE_SET_SIZE = 1 << 3,
	STORE_SET_ATIME = 1 << 4,
	STORE_SET_MTIME = 1 << 5,
	STORE_SET_ATIME_NOW = 1 << 6,
	STORE_SET_MTIME_NOW = 1 << 7,
	STORE_SET_CTIME = 1 << 8,
};
int store_setattr(struct store *st, uint64_t ino, const struct stat *attr,
		  int mask, struct stat *ret);

/* What is to be made. In a setgid directory its group takes the place of
 * @gid. */
struct store_new {
	uint64_t parent;
	const char *name;
	mode_t mode; /* mknod: with a type other than directory or symlink */
	dev_t rdev;  /* mknod */
	uid_t uid;
	gid_t gid;
};
int store_mknod(struct store *st, const struct store_new *what,
		struct stat *ret);
int store_mkdir(struct store *st, const struct store_new *what,
		struct stat *ret);
int store_symlink(struct store *st, const struct store_new *what,
		  const char *target, struct stat *ret);
int store_readlink(struct store *st, uint64_t ino, char *buf, size_t size);
int store_link(struct store *st, uint64_t ino, uint64_t parent,
	       const char *name, struct stat *ret);
int store_unlink(struct store *st, uint64_t parent, const char *name);
int store_rmdir(struct store *st, uint64_t parent, const char *name);

enum store_rename_flags {
	STORE_RENAME_NOREPLACE = 1 << 0,
	STORE_RENAME_EXCHANGE = 1 << 1,
};
int store_rename(struct store *st, uint64_t parent, const char *name,
		 uint64_t new_parent, const char *new_name, int flags);

/*
 * Files. @flags are those of open(2): access mode, O_TRUNC; O_APPEND is the
 * caller's affair (offsets come with each write). The first open of a file
 * after a mount for anything but O_TRUNC reads it whole and compares its
 * checksum: -ENOENT if it does not match (it is dropped, with its pair).
 */
int store_file_open(struct store *st, uint64_t ino, int flags,
		    struct store_file **ret);
/* Create and open in one; the name must be new (-EEXIST). */
int store_file_create(struct store *st, const struct store_new *what, int flags,
		      struct stat *ret_attr, struct store_file **ret);
/* Ends the handle, never fails for the caller: what goes wrong is reported. */
void store_file_close(struct store_file *f);

/*
 * A read, as pieces: each is @len bytes in memory (@mem) or in a file (@fd at
 * @pos). Valid until store_read_end(), which must be called if begin returned
 * >= 0. Returns the bytes in all, short only at the end of the file.
 */
#define STORE_READ_PIECES 8
struct store_piece {
	const void *mem; /* NULL: use fd and pos */
	int fd;
	off_t pos;
	size_t len;
};
struct store_read {
	unsigned n;
	struct store_piece piece[STORE_READ_PIECES];
	void *held[2]; /* private */
};
ssize_t store_read_begin(struct store_file *f, uint64_t off, size_t len,
			 struct store_read *rd);
void store_read_end(struct store_read *rd);

/* Plain read into memory, for commands and tests. */
ssize_t store_file_read(struct store_file *f, uint64_t off, void *buf,
			size_t len);

/* All of it, or an error. A failure marks the file bad if nobody may be told of
 * it (@writeback: page cache of a mapping), or if it is a wheel that pip built:
 * it is dropped when it is closed for the last time. */
ssize_t store_file_write(struct store_file *f, uint64_t off, const void *buf,
			 size_t len, bool writeback);
bool store_file_is_bad(struct store_file *f);
/* fallocate(2): mode 0, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE; else -EOPNOTSUPP. */
int store_file_fallocate(struct store_file *f, int mode, uint64_t off,
			 uint64_t len);
/* lseek(2) with SEEK_DATA or SEEK_HOLE: the offset, or -ENXIO. */
off_t store_file_seek(struct store_file *f, off_t off, int whence);
ssize_t store_file_copy(struct store_file *from, uint64_t from_off,
			struct store_file *to, uint64_t to_off, size_t len);
/* sync=strict: a checkpoint. Also of directories. */
int store_file_sync(struct store_file *f);
uint64_t store_file_ino(const struct store_file *f);

/*
 * Directories: open with store_file_open(..., O_DIRECTORY | O_RDONLY).
 * Entries come in the order of their offsets, which stay valid while entries
 * come and go. @fill gets "." and ".." too, and returns non-zero to stop:
 * that entry will be the first of the next call. @st is complete only if
 * @plus, else ino and type. @next: offset to continue behind this entry.
 */
typedef int (*store_fill_fn)(void *arg, const char *name, const struct stat *st,
			     off_t next);
int store_readdir(struct store_file *dir, off_t off, bool plus,
		  store_fill_fn fill, void *arg);

/* The limit and what is used of it, as a file system would show it. */
int store_statfs(struct store *st, struct statvfs *ret);

/* Make all that is done so far durable. */
int store_sync(struct store *st);

/* What status shows; amounts in bytes, times in unix seconds. */
enum store_state { STORE_OK, STORE_READ_ONLY, STORE_DISK_FULL };
struct store_status {
	enum store_state state;
	char reason[160]; /* "" when ok */
	uint64_t limit, low, min_free, charged, used, excess, disk_free;
	int64_t grace_sec;
	uint64_t used_http, used_wheels, used_selfcheck, used_other;
	uint64_t used_index, used_freed;
	/* @logical: what is in files; @data: of that, after sharing, what is
	 * kept; @waste: what packs take beyond that; @index_live: pages in use
	 * of the index. */
	uint64_t logical, data, waste, index_live;
	uint64_t blocks, recipes, whole; /* files in blocks; of them linear */
	uint64_t files, entries, open_files, unsummed;
	uint64_t hits, misses, evictions, evicted_bytes, damaged, reaped;
	uint64_t checkpoints;
	int64_t last_checkpoint, since;
	/* @damaged are files; since the mount, the records by the last walk. */
	uint64_t damaged_blocks, damaged_records;
	/* Of the scrub under way or the last one: bytes read, of about so many. */
	uint64_t scrub_bytes, scrub_all;
	int64_t last_scrub, last_walk; /* ended; 0: never */
};
int store_status(struct store *st, struct store_status *ret);

/* New limits at run time, recorded as the store's own; NULL fields stay, and
 * low its share of the limit. */
int store_set_limits(struct store *st, const struct store_limits *limits,
		     char *why, size_t why_size);

/*
 * Evict now. Open files stay.
 * @older_than_sec:  >= 0: only units not used for so long.
 * @to_bytes:        stop when no more than this is used; 0: go on.
 * @no_grace:        also what is within its grace.
 * Results: what was (or with @dry_run would be) evicted.
 */
struct store_prune {
	int64_t older_than_sec; /* < 0: any age */
	uint64_t to_bytes;
	bool no_grace;
	bool dry_run;
};
struct store_pruned {
	uint64_t units;
	uint64_t bytes;
};
int store_prune(struct store *st, const struct store_prune *how,
		struct store_pruned *ret);

/*
 * What is cached: entries (what is evicted as one), named after what their
 * files say (ident.h), and packages, which are all entries of one project.
 * Nothing counts as used by that. What comes or goes meanwhile is in or not.
 */
#define STORE_PROJECT_MAX 95
#define STORE_VERSION_MAX 63
enum store_item_kind {
	STORE_ITEM_WHEEL, /* that was downloaded; also a package */
	STORE_ITEM_BUILT, /* a wheel that pip built */
	STORE_ITEM_SDIST,
	STORE_ITEM_METADATA, /* of a wheel, served beside it */
	STORE_ITEM_PAGE,     /* of an index */
	STORE_ITEM_SELFCHECK,
	STORE_ITEM_OTHER,
	STORE_ITEM_LOOSE, /* only in packages: files of no entry */
};
struct store_item {
	uint64_t id; /* of an entry */
	enum store_item_kind kind;
	char project[STORE_PROJECT_MAX + 1]; /* "": not known */
	char version[STORE_VERSION_MAX + 1]; /* "": not known, or any */
	char name[STORE_NAME_MAX + 1]; /* of an entry's file; what is not */
				       /* printable ASCII is '?' */
	uint64_t entries, files;
	uint64_t size;	  /* bytes in the files */
	uint64_t own;	  /* bytes that come back when all of it is removed */
	uint64_t shared;  /* bytes of the files that others have too */
	uint64_t extents; /* stretches that they lie in */
	int64_t last_use; /* unix seconds */
	uint64_t hits;
};
/* Not 0: an error that ends the list. */
typedef int (*store_item_fn)(void *arg, const struct store_item *item);

/* The entries with ids above @after, @most of them (0: all), in the order of
 * ids. Returns 1 if there are more, or 0. */
int store_list(struct store *st, uint64_t after, unsigned most,
	       store_item_fn fn, void *arg);

/*
 * Packages in the order of their names; then, without a project, what else
 * there is by kind. Returns 1 if there are more, or 0; -EINVAL: a text is
 * neither a project nor project==version.
 */
struct store_packages {
	bool versions; /* each version for itself */
	/* NULL, or only these, in this order and with nothing if there is none;
	 * then (project "") all of these together. */
	const char *const *select;
	size_t n_select;
	size_t from;   /* without so many at the beginning; not with @select */
	unsigned most; /* so many of them; 0: all */
};
int store_packages(struct store *st, const struct store_packages *how,
		   store_item_fn fn, void *arg);

/* Bytes of all files, equal pieces once: @data of store_status(). What packages
 * have for themselves, and what they share, add up to it. */
int store_stored(struct store *st, uint64_t *ret);

/*
 * Is the store what it should be (check.h)? Changes nothing; others may go on
 * meanwhile. It can be done in pieces: the results say where to go on.
 *
 * Returns 0 or an error that ended it; what is wrong is told to @found.
 */
struct store_check {
	bool data;	 /* compare all bytes with their checksums */
	bool alone;	 /* the store is not mounted */
	int64_t stop_ms; /* after that it is left, to go on later; 0: never */
	unsigned stage;	 /* where to go on; 0: at the start */
	uint64_t at;
	/* Each finding: one line of printable ASCII. */
	void (*found)(void *arg, const char *text);
	void *arg;
};
struct store_checked {
	/* Of this call: */
	uint64_t findings;
	uint64_t bytes; /* compared */
	bool done;
	unsigned stage; /* where to go on, if not done */
	uint64_t at;
	/* Of the store; known by the call that begins at stage 0: */
	uint64_t files, recipes, blocks, packs;
	uint64_t forgotten; /* blocks that were found damaged, and are lost */
	uint64_t charged, used;
	uint64_t bytes_all; /* to be compared, about */
};
int store_check(struct store *st, const struct store_check *how,
		struct store_checked *ret);

/*
 * Make a store that no process holds consistent again (rebuild.h): what is
 * sound in it stays, and what is sound in an index and packs that were set aside
 * (index.bad) comes back where it takes nothing's place; those are then
 * deleted. Cut off at any point it leaves the store as it was or as it will be.
 * @cfg:     its limits and flags are not used; nothing is evicted, unless the
 *           new index would not fit below the limit otherwise.
 * @why:     on failure: one line.
 * Returns:  0, and @ret tells whether anything was wrong and what is left of
 *           it; -ENOSPC no room for the new index beside the old one; -EBUSY
 *           and others as store_open().
 */
struct store_repair {
	bool data; /* compare all bytes; those set aside always are */
	/* What is wrong, and what was done: lines of printable ASCII. */
	void (*found)(void *arg, const char *text);
	void (*done)(void *arg, const char *text);
	void *arg;
};
struct store_repaired {
	uint64_t found;	  /* findings before */
	bool rebuilt;	  /* the index is a new one */
	bool aside;	  /* there was one that had been set aside */
	uint64_t unread;  /* records and pages that could not be read */
	uint64_t done;	  /* lines */
	uint64_t lost;	  /* names */
	uint64_t rescued; /* files that came back */
	uint64_t left;	  /* findings afterwards: 0 */
};
int store_repair(const struct store_config *cfg, const struct store_repair *how,
		 struct store_repaired *ret, char *why, size_t why_size);

/* What doctor asks about a path: 0 a store of this format, -ENOENT nothing
 * there yet, -EMEDIUMTYPE / -ENOTSUP / others as store_open(); changes
 * nothing. *@ret_pid: its daemon, or 0. */
int store_probe(const char *path, pid_t *ret_pid, char *why, size_t why_size);

/*
 * What would a mount of the store at @path, which no process holds, make of
 * its index? Changes nothing.
 * @why:     if < 0: one line that names path and reason.
 * Returns:  0 it goes on with it, 1 it goes back to the last checkpoint, or
 *           -EBADMSG it begins with an empty one; -ENOENT, -EACCES, -EIO,
 *           -ENOMEM it cannot be told.
 */
int store_look(const char *path, char *why, size_t why_size);

#endif
