/* SPDX-License-Identifier: MIT */
/*
 * A log of everything that a store does to its files, in the order in which
 * it happens, with the bytes: what powerimage.h makes power cuts from. The
 * process that writes it can be killed before, in the middle of or after any
 * write, sync or rename; the next one goes on in the same log.
 */
#ifndef TESTS_POWERLOG_H
#define TESTS_POWERLOG_H

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "iotap.h"

enum powerlog_type {
	/* a file or directory, by its inode number */
	POWERLOG_WRITE, /* a: offset; bytes */
	POWERLOG_SIZE,	/* a: the new one */
	POWERLOG_PUNCH, /* a: offset, b: length of what is zero now */
	POWERLOG_SYNC,	/* a: process and number of the sync, which begins */
	POWERLOG_SYNCED,
	/* a directory; bytes are struct powerlog_names */
	POWERLOG_CREATE, /* a: inode number of what is new, b: a directory */
	POWERLOG_UNLINK,
	POWERLOG_RENAME,
	POWERLOG_EXCHANGE,
	/* what the store means by it */
	POWERLOG_INTENT, /* a: transaction about to commit, b: its state */
	POWERLOG_SAVED,	 /* a: transaction that was promised to be durable */
	POWERLOG_OPENED, /* a: transaction recovered, b: its state */
	/* of the log itself */
	POWERLOG_ROOT, /* the store's directory; comes first */
	POWERLOG_NOTE, /* a: what the test knows of this moment */
	POWERLOG_LIFE, /* a process begins */
};

struct powerlog_rec {
	uint32_t type;
	uint32_t pad;
	uint64_t ino;
	uint64_t a;
	uint64_t b;
	uint64_t len; /* of the bytes that follow */
};

struct powerlog_names {
	char name[48];
	char new_name[48];
};

enum powerlog_kill_how { KILL_BEFORE, KILL_AFTER, KILL_WITHIN, KILL_HOWS };

struct powerlog_kill {
	long calls; /* until the end, < 0: never */
	enum powerlog_kill_how how;
	enum iotap_op from; /* what counts, and all that follows it there */
	const char *once;   /* a file that goes with it; without it no end */
};

static struct {
	pthread_mutex_t lock; /* held over each change and its record */
	int fd;
	size_t root_len;
	char root[PATH_MAX]; /* files elsewhere are not of interest */
	struct powerlog_kill kill;
	atomic_uint syncs;
} powerlog = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

static inline void powerlog_append(const struct powerlog_rec *rec,
				   const void *bytes)
{
	const struct iovec iov[2] = {
		{ (void *)(uintptr_t)rec, sizeof(*rec) },
		{ (void *)(uintptr_t)bytes, rec->len },
	};

	if (syscall(SYS_writev, powerlog.fd, iov, rec->len ? 2 : 1) !=
	    (long)(sizeof(*rec) + rec->len))
		abort();
}

/* From inside a write transaction, so that the order is that of commits. */
static inline void powerlog_mark(enum powerlog_type type, uint64_t a,
				 uint64_t b)
{
	struct powerlog_rec rec = { .type = type, .a = a, .b = b };

	pthread_mutex_lock(&powerlog.lock);
	powerlog_append(&rec, NULL);
	pthread_mutex_unlock(&powerlog.lock);
}

/* Files that only mean anything to running processes. */
static inline bool powerlog_passing(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;

	return !strcmp(name, "lock.mdb") || !strcmp(name, "control.sock");
}

/* The inode number of what is logged, 0 for all else. */
static inline uint64_t powerlog_ino(int fd)
{
	char link[64];
	char path[PATH_MAX];
	struct stat st;
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || (size_t)n < powerlog.root_len ||
	    memcmp(path, powerlog.root, powerlog.root_len) != 0)
		return 0;
	path[n] = '\0';
	if (powerlog_passing(path) || fstat(fd, &st) < 0)
		return 0;
	return st.st_ino;
}

/* True when the end has come for @call, in @phase; counts. */
static inline bool powerlog_end(const struct iotap_call *call,
				enum iotap_phase phase)
{
	struct powerlog_kill *k = &powerlog.kill;
	enum iotap_phase last =
		k->how == KILL_AFTER ? IOTAP_DONE : IOTAP_BEFORE;

	if (call->op < k->from || phase != last || k->calls < 0)
		return false;
	return k->calls-- == 0 && (!k->once || unlink(k->once) == 0);
}

static inline void powerlog_die(void)
{
	(void)kill(getpid(), SIGKILL);
	(void)pause();
}

/* Part of the write is done. */
static inline void powerlog_torn_write(const struct iotap_call *call,
				       uint64_t ino)
{
	struct powerlog_rec rec = { .type = POWERLOG_WRITE,
				    .ino = ino,
				    .a = (uint64_t)call->off,
				    .len = call->len / 2 / 512 * 512 };

	if (rec.len == 0)
		return;
	if (syscall(SYS_pwrite64, call->fd, call->buf, rec.len, call->off) !=
	    (long)rec.len)
		abort();
	powerlog_append(&rec, call->buf);
}

/* The inode number of what @call has made. */
static inline uint64_t powerlog_made(const struct iotap_call *call)
{
	uint64_t ino;
	int fd;

	if (call->op == IOTAP_CREATE)
		return powerlog_ino(call->fd);
	fd = (int)syscall(SYS_openat, call->dir, call->name,
			  O_PATH | O_CLOEXEC);
	ino = powerlog_ino(fd);
	(void)syscall(SYS_close, fd);
	return ino;
}

static inline void powerlog_name_done(const struct iotap_call *call,
				      uint64_t dir)
{
	static const enum powerlog_type type[] = {
		[IOTAP_CREATE] = POWERLOG_CREATE,
		[IOTAP_MKDIR] = POWERLOG_CREATE,
		[IOTAP_UNLINK] = POWERLOG_UNLINK,
		[IOTAP_RENAME] = POWERLOG_RENAME,
		[IOTAP_EXCHANGE] = POWERLOG_EXCHANGE,
	};
	const char *slash = strrchr(call->name, '/');
	struct powerlog_names names = { .name = "" };
	struct powerlog_rec rec = { .type = type[call->op],
				    .ino = dir,
				    .len = sizeof(names) };

	(void)snprintf(names.name, sizeof(names.name), "%s",
		       slash ? slash + 1 : call->name);
	if (call->new_name)
		(void)snprintf(names.new_name, sizeof(names.new_name), "%s",
			       call->new_name);
	if (rec.type == POWERLOG_CREATE)
		rec.a = powerlog_made(call);
	rec.b = call->op == IOTAP_MKDIR;
	powerlog_append(&rec, &names);
}

static inline void powerlog_done(const struct iotap_call *call, uint64_t ino)
{
	static const enum powerlog_type type[] = {
		[IOTAP_WRITE] = POWERLOG_WRITE,
		[IOTAP_TRUNCATE] = POWERLOG_SIZE,
		[IOTAP_PUNCH] = POWERLOG_PUNCH,
	};
	struct powerlog_rec rec = { .type = type[call->op],
				    .ino = ino,
				    .a = (uint64_t)call->off };

	if (call->op == IOTAP_WRITE)
		rec.len = (uint64_t)call->result;
	if (call->op == IOTAP_PUNCH)
		rec.b = call->len;
	powerlog_append(&rec, rec.len ? call->buf : NULL);
}

/* The directory a name is in, 0 where it is not of interest. */
static inline uint64_t powerlog_dir(const struct iotap_call *call)
{
	const char *slash = strrchr(call->name, '/');
	char path[PATH_MAX];
	uint64_t ino;
	int fd;

	if (powerlog_passing(call->name))
		return 0;
	if (!slash)
		return call->dir == AT_FDCWD ? 0 : powerlog_ino(call->dir);
	(void)snprintf(path, sizeof(path), "%.*s",
		       (int)(slash == call->name ? 1 : slash - call->name),
		       call->name);
	fd = (int)syscall(SYS_openat, call->dir, path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ino = powerlog_ino(fd);
	(void)syscall(SYS_close, fd);
	return ino;
}

/* The inode number of all that is synced at once. */
#define POWERLOG_ALL UINT64_MAX

static inline void powerlog_sync(uint64_t ino, enum iotap_phase phase)
{
	static _Thread_local uint64_t mine;
	struct powerlog_rec rec = { .ino = ino };

	if (phase == IOTAP_BEFORE)
		mine = (uint64_t)getpid() << 32 | ++powerlog.syncs;
	rec.type = phase == IOTAP_BEFORE ? POWERLOG_SYNC : POWERLOG_SYNCED;
	rec.a = mine;
	powerlog_append(&rec, NULL);
}

static inline int powerlog_hook(const struct iotap_call *call,
				enum iotap_phase phase)
{
	uint64_t ino = iotap_on_name(call->op) ? powerlog_dir(call)
					       : powerlog_ino(call->fd);
	bool sync = iotap_on_disk(call->op);

	if (ino == 0)
		return 0;
	if (call->op == IOTAP_SYNCFS)
		ino = POWERLOG_ALL;
	/* The lock is held from before a change until it is logged, but not
	 * over a sync, which takes a while: others write meanwhile. */
	if (phase == IOTAP_BEFORE || sync)
		pthread_mutex_lock(&powerlog.lock);
	if (phase == IOTAP_BEFORE && powerlog_end(call, phase)) {
		if (powerlog.kill.how == KILL_WITHIN && call->op == IOTAP_WRITE)
			powerlog_torn_write(call, ino);
		powerlog_die();
	}
	if (sync)
		powerlog_sync(ino, phase);
	else if (phase == IOTAP_DONE && iotap_on_name(call->op))
		powerlog_name_done(call, ino);
	else if (phase == IOTAP_DONE)
		powerlog_done(call, ino);
	if (phase == IOTAP_DONE && powerlog_end(call, phase))
		powerlog_die();
	if (phase != IOTAP_BEFORE || sync)
		pthread_mutex_unlock(&powerlog.lock);
	if (phase == IOTAP_BEFORE && sync)
		(void)usleep((useconds_t)(powerlog.syncs * 7919 % 2000));
	return 0;
}

/* -- What is there before all else ---------------------------------------- */

static inline void powerlog_have(enum powerlog_type type, uint64_t dir,
				 const char *name, const char *new_name,
				 const struct stat *st)
{
	struct powerlog_names names = { .name = "" };
	struct powerlog_rec rec = { .type = type,
				    .ino = dir,
				    .a = st->st_ino,
				    .b = S_ISDIR(st->st_mode),
				    .len = sizeof(names) };

	if (strlen(name) >= sizeof(names.name))
		abort();
	memcpy(names.name, name, strlen(name));
	memcpy(names.new_name, new_name, strlen(new_name));
	powerlog_append(&rec, &names);
}

static inline void powerlog_have_synced(uint64_t ino)
{
	powerlog_sync(ino, IOTAP_BEFORE);
	powerlog_sync(ino, IOTAP_DONE);
}

static inline void powerlog_have_bytes(const char *path, uint64_t ino)
{
	static uint8_t buf[1 << 20];
	struct powerlog_rec rec = { .type = POWERLOG_WRITE, .ino = ino };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0) {
		rec.len = (uint64_t)n;
		powerlog_append(&rec, buf);
		rec.a += rec.len;
	}
	if (fd < 0 || close(fd) < 0)
		abort();
	powerlog_have_synced(ino);
}

/* A side file comes as the store makes it, by a rename. */
static inline void powerlog_have_file(const char *path, uint64_t dir,
				      const char *name, const struct stat *st)
{
	bool side = strcmp(name, "ckpt") == 0;

	powerlog_have(POWERLOG_CREATE, dir, side ? "ckpt.new" : name, "", st);
	powerlog_have_bytes(path, st->st_ino);
	if (side)
		powerlog_have(POWERLOG_RENAME, dir, "ckpt.new", name, st);
}

/* What is in the directory; @last: that which says what all else is. */
static inline void powerlog_have_names(const char *path, uint64_t ino,
				       bool last);

static inline void powerlog_have_dir(const char *path, uint64_t ino)
{
	powerlog_have_names(path, ino, false);
	powerlog_have_names(path, ino, true);
	powerlog_have_synced(ino);
}

static inline void powerlog_have_names(const char *path, uint64_t ino,
				       bool last)
{
	char sub[PATH_MAX + 300];
	DIR *dir = opendir(path);
	struct dirent *de;
	struct stat st;

	while (dir && (de = readdir(dir))) {
		const char *name = de->d_name;

		(void)snprintf(sub, sizeof(sub), "%s/%s", path, name);
		if (!strcmp(name, ".") || !strcmp(name, "..") ||
		    (!strcmp(name, "index") || !strcmp(name, "ckpt")) != last ||
		    powerlog_passing(sub) || lstat(sub, &st) < 0)
			continue;
		if (S_ISREG(st.st_mode))
			powerlog_have_file(sub, ino, name, &st);
		if (!S_ISDIR(st.st_mode))
			continue;
		powerlog_have(POWERLOG_CREATE, ino, name, "", &st);
		powerlog_have_dir(sub, st.st_ino);
	}
	if (!dir || closedir(dir) < 0)
		abort();
}

static inline void powerlog_begin(const char *root)
{
	struct powerlog_rec rec = { .type = POWERLOG_ROOT };
	struct stat st;

	if (stat(root, &st) < 0)
		abort();
	rec.ino = st.st_ino;
	powerlog_append(&rec, NULL);
	powerlog_have_dir(root, st.st_ino);
}

/* Log what this process does below @root from here on. */
static inline void powerlog_start(const char *path, const char *root,
				  struct powerlog_kill kill)
{
	struct stat st;

	powerlog.fd =
		(int)syscall(SYS_openat, AT_FDCWD, path,
			     O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (powerlog.fd < 0 || !realpath(root, powerlog.root))
		abort();
	powerlog.root_len = strlen(powerlog.root);
	powerlog.kill = kill;
	if (fstat(powerlog.fd, &st) < 0)
		abort();
	if (st.st_size == 0)
		powerlog_begin(powerlog.root);
	powerlog_mark(POWERLOG_LIFE, 0, 0);
	iotap_fake_sync = true;
	iotap_hook = powerlog_hook;
}

#endif
