/* SPDX-License-Identifier: MIT */
#include "store/home.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "store/base.h"
#include "store/record.h"

#define HOME_FORMAT "pipcachefs store\nformat "
#define HOME_TEXT_MAX 256
#define HOME_POLL_MS 50

/* See home_fixed_bytes(). */
#define HOME_FIXED_MIN (256 * KIB)
#define HOME_FIXED_FILES 8	      /* of one block, directories too */
#define HOME_READERS_BYTES (32 * KIB) /* lock.mdb */
#define HOME_BLOCK_MIN UINT64_C(4096)
/* Larger ones are advice for I/O, not what a small file takes. */
#define HOME_BLOCK_MAX (64 * KIB)

/* f_type of file systems that live on another machine, from linux/magic.h and
 * statfs(2): locks and mmap of LMDB don't hold there. */
static const long home_network_types[] = {
	0x6969,	    /* nfs */
	0x517b,	    /* smb */
	0xff534d42, /* cifs */
	0xfe534d42, /* smb2 */
	0x01021997, /* 9p */
	0x65735546, /* fuse: unknown what is below */
	0x00c36400, /* ceph */
	0x5346414f, /* afs */
	0x73757245, /* coda */
	0x0bd00bd0, /* lustre */
	0x47504653, /* gpfs */
};

/*
 * Whoever owns the directory may have put anything there, and whoever opens
 * the store may be root: a name that is not a file of its own, but leads
 * elsewhere or blocks (a symbolic link, a FIFO), is not opened.
 * Returns: a descriptor, or -ELOOP or -EINVAL for such a name, ...
 */
static int home_open_file(int dir_fd, const char *name, int flags)
{
	cleanup_close int fd =
		openat(dir_fd, name,
		       flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		       0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode))
		return steal_fd(&fd);
	return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
}

/* The whole of a small text file. Returns its length. */
static ssize_t home_read_text(int dir_fd, const char *name,
			      char buf[static HOME_TEXT_MAX])
{
	cleanup_close int fd = home_open_file(dir_fd, name, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = read(fd, buf, HOME_TEXT_MAX - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

/* Never empty in between, for those who read it meanwhile. */
static int home_write_text(int fd, const char *text)
{
	size_t len = strlen(text);
	ssize_t n = pwrite(fd, text, len, 0);

	if (n < 0 || ftruncate(fd, n) < 0)
		return -errno;
	return (size_t)n == len ? 0 : -ENOSPC; /* the disk became full */
}

/* 0 ours, -ENOENT nothing there yet (empty), -EMEDIUMTYPE not ours. */
static int home_check_format(int dir_fd, const char *path, char *why,
			     size_t why_size)
{
	char text[HOME_TEXT_MAX];
	ssize_t n = home_read_text(dir_fd, "format", text);
	const struct dirent *de;
	DIR *dir;
	int fd, r = -ENOENT;

	if (n >= 0) {
		unsigned long version;

		if (strncmp(text, HOME_FORMAT, strlen(HOME_FORMAT)) != 0) {
			snprintf(
				why, why_size,
				"%s/format is not that of a pipcachefs store; choose another directory",
				path);
			return -EMEDIUMTYPE;
		}
		version = strtoul(text + strlen(HOME_FORMAT), NULL, 10);
		if (version == RECORD_FORMAT)
			return 0;
		snprintf(
			why, why_size,
			"%s is a store of format %lu, this program knows format %d; use a newer pipcachefs",
			path, version, RECORD_FORMAT);
		return -EMEDIUMTYPE;
	}
	if (n != -ENOENT) {
		snprintf(why, why_size, "reading %s/format: %s", path,
			 strerror((int)-n));
		return (int)n;
	}
	fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		r = -errno;
		snprintf(why, why_size, "reading %s: %s", path, strerror(-r));
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == -ENOENT && (de = readdir(dir)))
		if (strcmp(de->d_name, ".") != 0 &&
		    strcmp(de->d_name, "..") != 0 &&
		    strcmp(de->d_name, "lock") != 0 &&
		    strcmp(de->d_name, "format.tmp") != 0 &&
		    strcmp(de->d_name, "lost+found") != 0)
			r = -EMEDIUMTYPE;
	closedir(dir);
	snprintf(
		why, why_size,
		r == -ENOENT
			? "%s: no store there yet; mount makes one"
			: "%s is not empty and not a pipcachefs store; choose an empty directory",
		path);
	return r;
}

static int home_check_fs(int dir_fd, const char *path, char *why,
			 size_t why_size)
{
	struct statfs sfs;

	if (fstatfs(dir_fd, &sfs) < 0) {
		snprintf(why, why_size, "statfs of %s: %s", path,
			 strerror(errno));
		return -errno;
	}
	for (size_t i = 0; i < ARRAY_SIZE(home_network_types); i++) {
		if ((uint32_t)sfs.f_type != (uint32_t)home_network_types[i])
			continue;
		snprintf(
			why, why_size,
			"%s is on a network or FUSE file system (type 0x%lx); put the store on a local ext4, xfs or btrfs",
			path, (unsigned long)sfs.f_type);
		return -ENOTSUP;
	}
	return 0;
}

/* The pid in the lock file, 0 if there is none. @ret_ending may be NULL. */
static pid_t home_holder(int dir_fd, bool *ret_ending)
{
	char text[HOME_TEXT_MAX];
	ssize_t n = home_read_text(dir_fd, "lock", text);
	char *end;
	long pid;

	if (ret_ending)
		*ret_ending = false;
	if (n <= 0)
		return 0;
	pid = strtol(text, &end, 10);
	if (ret_ending)
		*ret_ending = !strncmp(end, "\nending", 7);
	return pid > 0 ? (pid_t)pid : 0;
}

/* Wait for a holder that says it is ending; any other is soon refused. */
static int home_take_lock(struct home *h, const char *path, char *why,
			  size_t why_size)
{
	struct timespec pause = { .tv_nsec = HOME_POLL_MS * 1000000L };
	bool ending;
	pid_t pid;

	h->lock_fd = home_open_file(h->dir_fd, "lock", O_RDWR | O_CREAT);
	if (h->lock_fd < 0) {
		int r = h->lock_fd;

		snprintf(why, why_size, "opening %s/lock: %s", path,
			 strerror(-r));
		return r;
	}
	for (int ms = 0;; ms += HOME_POLL_MS) {
		if (!flock(h->lock_fd, LOCK_EX | LOCK_NB))
			return 0;
		if (errno != EWOULDBLOCK) {
			snprintf(why, why_size, "locking %s/lock: %s", path,
				 strerror(errno));
			return -errno;
		}
		pid = home_holder(h->dir_fd, &ending);
		if (ms >= (ending ? HOME_WAIT_ENDING_MS : HOME_WAIT_RUNNING_MS))
			break;
		nanosleep(&pause, NULL);
	}
	snprintf(
		why, why_size,
		"%s is in use by process %d%s; end it (pipcachefs umount) or use another store",
		path, (int)pid,
		ending ? ", which has not ended within 10 seconds" : "");
	return -EBUSY;
}

/* Is what the caller brought the lock of this store? */
static int home_check_lock(const struct home *h, const char *path, char *why,
			   size_t why_size)
{
	struct stat brought, ours;

	if (fstat(h->lock_fd, &brought) == 0 &&
	    fstatat(h->dir_fd, "lock", &ours, AT_SYMLINK_NOFOLLOW) == 0 &&
	    brought.st_dev == ours.st_dev && brought.st_ino == ours.st_ino)
		return 0;
	snprintf(why, why_size, "%s/lock is not the file that was locked",
		 path);
	return -EINVAL;
}

static int home_write_lock(struct home *h, const char *state, const char *note)
{
	char text[HOME_TEXT_MAX];

	snprintf(text, sizeof(text), "%d\n%s\n%s\n", (int)getpid(), state,
		 note ? note : "");
	return home_write_text(h->lock_fd, text);
}

static int home_write_format(struct home *h)
{
	cleanup_close int fd =
		home_open_file(h->dir_fd, "format.tmp", O_WRONLY | O_CREAT);
	char text[HOME_TEXT_MAX];
	uint64_t id[2] = { 0 };
	int r;

	if (fd < 0)
		return fd;
	if (getrandom(id, sizeof(id), 0) < 0)
		return -errno;
	snprintf(text, sizeof(text), "%s%d\nid %016" PRIx64 "%016" PRIx64 "\n",
		 HOME_FORMAT, RECORD_FORMAT, id[0], id[1]);
	r = home_write_text(fd, text);
	if (r < 0)
		return r;
	if (fsync(fd) < 0 ||
	    renameat(h->dir_fd, "format.tmp", h->dir_fd, "format") < 0 ||
	    fsync(h->dir_fd) < 0)
		return -errno;
	return 0;
}

static int home_open_dir(struct home *h, const char *name, int *ret)
{
	if (mkdirat(h->dir_fd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	*ret = openat(h->dir_fd, name,
		      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

/* LMDB opens its files by name and follows links, and makes one of them as
 * large as it wants; a FIFO in place of any would block who opens it. */
static int home_check_index(const struct home *h)
{
	static const char *const names[] = { "data.mdb", "lock.mdb", "ckpt",
					     "ckpt.tmp" };
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (fstatat(h->index_fd, names[i], &st, AT_SYMLINK_NOFOLLOW) <
		    0) {
			if (errno != ENOENT)
				return -errno;
			continue;
		}
		if (!S_ISREG(st.st_mode))
			return S_ISLNK(st.st_mode) ? -ELOOP : -EINVAL;
	}
	return 0;
}

/* The lock is held, the directory is ours or empty. */
static int home_fill(struct home *h, bool fresh, bool goes_on, const char *note)
{
	int r = h->read_only ? 0 : home_write_lock(h, "running", note);

	if (goes_on && r == -EROFS)
		h->read_only = true;
	/* The pid is for the reader; who goes on has the lock without it. */
	if (goes_on)
		r = 0;
	if (r >= 0 && fresh)
		r = home_write_format(h);
	if (r >= 0)
		r = home_open_dir(h, "index", &h->index_fd);
	if (r >= 0)
		r = home_open_dir(h, "packs", &h->packs_fd);
	if (r >= 0)
		r = home_check_index(h);
	if (r >= 0 && !h->read_only && fsync(h->dir_fd) < 0)
		r = -errno;
	return r;
}

static int home_open_at(struct home *h, const char *path, bool create,
			const char *note, char *why, size_t why_size)
{
	bool fresh, goes_on = h->lock_fd >= 0;
	int r = home_check_fs(h->dir_fd, path, why, why_size);

	if (r < 0)
		return r;
	r = home_check_format(h->dir_fd, path, why, why_size);
	fresh = r == -ENOENT && create;
	if (r < 0 && !fresh)
		return r;
	r = goes_on ? home_check_lock(h, path, why, why_size)
		    : home_take_lock(h, path, why, why_size);
	if (r < 0)
		return r;
	r = home_fill(h, fresh, goes_on, note);
	if (r < 0)
		snprintf(why, why_size, "preparing the store %s: %s", path,
			 strerror(-r));
	return r;
}

int home_open(struct home *h, const char *path, bool create, const char *note,
	      char *why, size_t why_size)
{
	int r;

	if (create && mkdir(path, 0700) < 0 && errno != EEXIST) {
		r = -errno;
		snprintf(why, why_size, "making the store directory %s: %s",
			 path, strerror(-r));
		return r;
	}
	h->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (h->dir_fd < 0) {
		r = -errno;
		snprintf(why, why_size, "opening the store %s: %s", path,
			 strerror(-r));
		return r;
	}
	r = home_open_at(h, path, create, note, why, why_size);
	if (r < 0)
		home_close(h);
	return r;
}

void home_close(struct home *h)
{
	base_closep(&h->packs_fd);
	base_closep(&h->index_fd);
	base_closep(&h->lock_fd);
	base_closep(&h->dir_fd);
}

void home_ending(struct home *h, const char *note)
{
	/* Without it the next one is refused instead of waiting. */
	(void)home_write_lock(h, "ending", note);
}

int home_probe(const char *path, pid_t *ret_pid, char *why, size_t why_size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int lock = -1;
	int r;

	*ret_pid = 0;
	if (fd < 0) {
		r = -errno;
		snprintf(why, why_size, "%s: %s", path, strerror(-r));
		return r;
	}
	r = home_check_fs(fd, path, why, why_size);
	if (r >= 0)
		r = home_check_format(fd, path, why, why_size);
	if (r < 0)
		return r;
	lock = home_open_file(fd, "lock", O_RDONLY);
	if (lock >= 0 && flock(lock, LOCK_SH | LOCK_NB) < 0 &&
	    errno == EWOULDBLOCK)
		*ret_pid = home_holder(fd, NULL);
	return 0;
}

/* Sum, and with @remove delete, what is in directory @name and below. */
static uint64_t home_walk(int dir_fd, const char *name, bool remove)
{
	int fd = openat(dir_fd, name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	uint64_t bytes = 0;
	struct stat st;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	if (!fstat(fd, &st))
		bytes += (uint64_t)st.st_blocks * 512;
	while ((de = readdir(dir))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..") ||
		    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISDIR(st.st_mode)) {
			bytes += home_walk(fd, de->d_name, remove);
			continue;
		}
		bytes += (uint64_t)st.st_blocks * 512;
		if (remove)
			(void)unlinkat(fd, de->d_name, 0);
	}
	closedir(dir);
	if (remove)
		(void)unlinkat(dir_fd, name, AT_REMOVEDIR);
	return bytes;
}

static bool home_has(const struct home *h, const char *name)
{
	return !faccessat(h->dir_fd, name, F_OK, 0);
}

/* The packs go first: when that is cut off in between, the index is still the
 * unreadable one, and the packs set aside before are not given up for it. */
int home_set_aside(struct home *h)
{
	int r;

	if (home_has(h, "index.bad"))
		(void)home_reclaim(h);
	base_closep(&h->index_fd);
	base_closep(&h->packs_fd);
	if (!home_has(h, "packs.bad") &&
	    renameat(h->dir_fd, "packs", h->dir_fd, "packs.bad") < 0)
		return -errno;
	if (renameat(h->dir_fd, "index", h->dir_fd, "index.bad") < 0)
		return -errno;
	r = home_open_dir(h, "index", &h->index_fd);
	if (r >= 0)
		r = home_open_dir(h, "packs", &h->packs_fd);
	if (r >= 0 && fsync(h->dir_fd) < 0)
		r = -errno;
	return r;
}

int home_open_bad(struct home *h, int *ret_index_fd, int *ret_packs_fd)
{
	int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	int fd = openat(h->dir_fd, "index.bad", flags);

	if (fd < 0)
		return -errno;
	*ret_packs_fd = openat(h->dir_fd, "packs.bad", flags);
	*ret_index_fd = fd;
	return 0;
}

int home_new_index(struct home *h, int *ret_fd)
{
	home_drop_new_index(h);
	return home_open_dir(h, "index.new", ret_fd);
}

int home_swap_index(struct home *h, int new_fd)
{
	if (fsync(new_fd) < 0 || renameat2(h->dir_fd, "index.new", h->dir_fd,
					   "index", RENAME_EXCHANGE) < 0) {
		close(new_fd);
		return 0;
	}
	close(h->index_fd);
	h->index_fd = new_fd;
	return fsync(h->dir_fd) < 0 ? -errno : 1;
}

/* Not before an exchange is on the disk: else a power cut could bring the old
 * name back to what is deleted here. */
void home_drop_new_index(struct home *h)
{
	if (fsync(h->dir_fd) < 0)
		return;
	(void)home_walk(h->dir_fd, "index.new", true);
}

uint64_t home_bad_bytes(struct home *h)
{
	return home_walk(h->dir_fd, "index.bad", false) +
	       home_walk(h->dir_fd, "packs.bad", false);
}

uint64_t home_reclaim(struct home *h)
{
	return home_walk(h->dir_fd, "packs.bad", true) +
	       home_walk(h->dir_fd, "index.bad", true);
}

static uint64_t home_round_up(uint64_t bytes, uint64_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

/* What a file of one byte takes. */
static uint64_t home_block_bytes(const struct home *h)
{
	uint64_t block = HOME_BLOCK_MIN;
	struct statfs sfs;
	struct stat st;

	if (!fstatfs(h->dir_fd, &sfs) && (uint64_t)sfs.f_frsize > block)
		block = (uint64_t)sfs.f_frsize;
	if (!fstat(h->dir_fd, &st) && (uint64_t)st.st_blksize > block)
		block = (uint64_t)st.st_blksize;
	return block < HOME_BLOCK_MAX ? block : HOME_BLOCK_MAX;
}

uint64_t home_fixed_bytes(const struct home *h, uint64_t page_size)
{
	uint64_t block = home_block_bytes(h), mapped = block, bytes;
	long page = sysconf(_SC_PAGESIZE);

	/* A page that was written to through a mapping is there as a whole. */
	if (page > 0 && (uint64_t)page > mapped)
		mapped = (uint64_t)page;
	bytes = HOME_FIXED_FILES * block +
		home_round_up(HOME_READERS_BYTES, mapped);
	/* The side file and the one before it: two pages and a head. */
	bytes += 2 * home_round_up(2 * page_size + HOME_BLOCK_MIN, block);
	return bytes > HOME_FIXED_MIN ? bytes : HOME_FIXED_MIN;
}

uint64_t home_disk_bytes(struct home *h)
{
	return home_walk(h->dir_fd, ".", false);
}
