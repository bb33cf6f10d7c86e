/* SPDX-License-Identifier: MIT */
#include "store/packio.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#define OPEN_FLAGS (O_CLOEXEC | O_NOFOLLOW)
#define COPY_BYTES 65536 /* on the stack, at a time */

static int real_openat(int dir_fd, const char *path, int flags, mode_t mode)
{
	return openat(dir_fd, path, flags, mode);
}

const struct pack_io pack_io_real = {
	.openat = real_openat,
	.pread = pread,
	.pwrite = pwrite,
	.fallocate = fallocate,
	.ftruncate = ftruncate,
	.fdatasync = fdatasync,
	.fsync = fsync,
	.unlinkat = unlinkat,
};

struct packio_name packio_name(uint64_t id)
{
	struct packio_name name;

	(void)snprintf(name.text, sizeof(name.text), "%016" PRIx64, id);
	return name;
}

bool packio_parse(const char *name, uint64_t *ret_id)
{
	if (strspn(name, "0123456789abcdef") != PACKIO_NAME_DIGITS ||
	    name[PACKIO_NAME_DIGITS])
		return false;
	*ret_id = strtoull(name, NULL, 16);
	return true;
}

uint64_t packio_disk_bytes(const struct stat *st)
{
	return (uint64_t)st->st_blocks * 512;
}

int packio_create(const struct pack_io *io, int dir_fd, uint64_t id)
{
	struct packio_name name = packio_name(id);
	int fd = io->openat(dir_fd, name.text,
			    OPEN_FLAGS | O_CREAT | O_EXCL | O_RDWR, 0600);

	return fd < 0 ? -errno : fd;
}

int packio_open(const struct pack_io *io, int dir_fd, uint64_t id)
{
	struct packio_name name = packio_name(id);
	int fd = io->openat(dir_fd, name.text, OPEN_FLAGS | O_RDWR, 0);

	if (fd < 0 && errno == EROFS)
		fd = io->openat(dir_fd, name.text, OPEN_FLAGS | O_RDONLY, 0);
	return fd < 0 ? -errno : fd;
}

/* The blocks are truncated away before the name goes: xfs frees those of an
 * unlinked file only some time later. */
uint64_t packio_free(const struct pack_io *io, int dir_fd, uint64_t id)
{
	struct packio_name name = packio_name(id);
	cleanup_close int fd = packio_open(io, dir_fd, id);
	struct stat before;
	struct stat after;

	if (fstatat(dir_fd, name.text, &before, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	if (fd >= 0)
		(void)!io->ftruncate(fd, 0);
	if (!io->unlinkat(dir_fd, name.text, 0))
		return packio_disk_bytes(&before);
	if (fd < 0 || fstat(fd, &after) < 0 ||
	    after.st_blocks > before.st_blocks)
		return 0;
	return packio_disk_bytes(&before) - packio_disk_bytes(&after);
}

/* A descriptor that was opened for reading only gives EBADF. */
static int change_error(void)
{
	return errno == EBADF ? -EROFS : -errno;
}

static bool range_valid(uint64_t off, uint64_t len)
{
	return off <= INT64_MAX && len <= INT64_MAX - off;
}

ssize_t packio_read(const struct pack_io *io, int fd, void *buf, size_t len,
		    uint64_t off)
{
	size_t done = 0;
	ssize_t r;

	if (off > INT64_MAX)
		return 0;
	if (len > INT64_MAX - off)
		len = INT64_MAX - off;
	while (done < len) {
		r = io->pread(fd, (char *)buf + done, len - done,
			      (off_t)(off + done));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (!r)
			break;
		done += (size_t)r;
	}
	return (ssize_t)done;
}

int packio_write(const struct pack_io *io, int fd, const void *buf, size_t len,
		 uint64_t off)
{
	size_t done = 0;
	ssize_t r;

	if (!range_valid(off, len))
		return -EFBIG;
	while (done < len) {
		r = io->pwrite(fd, (const char *)buf + done, len - done,
			       (off_t)(off + done));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return change_error();
		if (!r)
			return -EIO;
		done += (size_t)r;
	}
	return 0;
}

int packio_truncate(const struct pack_io *io, int fd, uint64_t size)
{
	if (size > INT64_MAX)
		return -EFBIG;
	while (io->ftruncate(fd, (off_t)size) < 0) {
		if (errno == EINVAL) /* what EBADF is elsewhere */
			return -EROFS;
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

int packio_fallocate(const struct pack_io *io, int fd, int mode, uint64_t off,
		     uint64_t len)
{
	if (!range_valid(off, len))
		return -EFBIG;
	while (io->fallocate(fd, mode, (off_t)off, (off_t)len) < 0) {
		if (errno != EINTR)
			return change_error();
	}
	return 0;
}

int packio_preallocate(const struct pack_io *io, int fd, uint64_t off,
		       uint64_t len)
{
	int r = !len ? 0
		     : packio_fallocate(io, fd, FALLOC_FL_KEEP_SIZE, off, len);

	return r == -EOPNOTSUPP ? 0 : r;
}

/* Copy [@off, @end). */
static int copy_bytes(const struct pack_io *io, int from, int to, uint64_t off,
		      uint64_t end)
{
	char buf[COPY_BYTES];
	size_t want;
	ssize_t n;
	int r = packio_preallocate(io, to, off, end - off);

	if (r < 0)
		return r;
	while (off < end) {
		want = end - off < sizeof(buf) ? end - off : sizeof(buf);
		n = packio_read(io, from, buf, want, off);
		if (n < 0)
			return (int)n;
		if (!n)
			return -EIO; /* ends early */
		r = packio_write(io, to, buf, (size_t)n, off);
		if (r < 0)
			return r;
		off += (uint64_t)n;
	}
	return 0;
}

/* The next piece of data in [@off, @end): where it begins and ends. At @end
 * if there is none. */
static int next_data(int fd, uint64_t off, uint64_t end, uint64_t piece[2])
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA);
	off_t hole;

	piece[0] = end;
	piece[1] = end;
	if (data < 0)
		return errno == ENXIO ? 0 : -errno;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	if ((uint64_t)data < end)
		piece[0] = (uint64_t)data;
	if ((uint64_t)hole < end)
		piece[1] = (uint64_t)hole;
	return 0;
}

static int copy_data(const struct pack_io *io, int from, int to, uint64_t len)
{
	uint64_t piece[2] = { 0, 0 };
	int r;

	while (piece[1] < len) {
		r = next_data(from, piece[1], len, piece);
		if (r < 0)
			return r;
		r = copy_bytes(io, from, to, piece[0], piece[1]);
		if (r < 0)
			return r;
	}
	return 0;
}

int packio_clone(const struct pack_io *io, int from, int to, uint64_t len)
{
	int r;

	if (len > INT64_MAX)
		return -EFBIG;
	if (ioctl(to, FICLONE, from) < 0) {
		r = copy_data(io, from, to, len);
		if (r < 0)
			return r;
	}
	return packio_truncate(io, to, len);
}

ssize_t packio_copy_range(int from, uint64_t from_off, int to, uint64_t to_off,
			  uint64_t len)
{
	off_t in = (off_t)from_off;
	off_t out = (off_t)to_off;
	ssize_t r;

	if (!range_valid(from_off, len) || !range_valid(to_off, len))
		return -EFBIG;
	do
		r = copy_file_range(from, &in, to, &out, len, 0);
	while (r < 0 && errno == EINTR);
	return r < 0 ? change_error() : r;
}

/* One name: unlink it if it is a pack's and not to be kept. Returns its bytes
 * if it stays. */
static int64_t sweep_name(const struct pack_io *io, int dir_fd,
			  const char *name, int (*keep)(void *arg, uint64_t id),
			  void *arg)
{
	struct stat st;
	uint64_t id;
	int r = 1;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (packio_parse(name, &id) && !S_ISDIR(st.st_mode))
		r = S_ISREG(st.st_mode) ? keep(arg, id) : 0;
	if (r < 0)
		return r;
	if (r > 0)
		return (int64_t)packio_disk_bytes(&st);
	return io->unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
}

int packio_sweep(const struct pack_io *io, int dir_fd,
		 int (*keep)(void *arg, uint64_t id), void *arg,
		 uint64_t *ret_bytes)
{
	cleanup_close int fd =
		openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	uint64_t total = 0;
	int64_t r;

	if (!dir)
		return -errno;
	(void)steal_fd(&fd);
	while (errno = 0, (de = readdir(dir))) {
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		r = sweep_name(io, dir_fd, de->d_name, keep, arg);
		if (r < 0)
			return (int)r;
		total += (uint64_t)r;
	}
	if (errno)
		return -errno;
	*ret_bytes = total;
	return 0;
}
