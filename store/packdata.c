/* SPDX-License-Identifier: MIT */
/* The part of pack.h that reads and writes. */
#include "store/pack.h"

ssize_t pack_read(struct pack *pk, void *buf, size_t len, uint64_t off)
{
	int fd = pack_fd_get(pk);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = packio_read(pack_io(pk), fd, buf, len, off);
	pack_fd_put(pk);
	return n;
}

/* The end of a change that was begun with pack_fd_get(). */
static void changed(struct pack *pk, uint64_t bytes)
{
	pack_fd_put(pk);
	pack_changed(pk, bytes);
}

int pack_write(struct pack *pk, const void *buf, size_t len, uint64_t off)
{
	int fd = pack_fd_get(pk);
	int r;

	if (fd < 0)
		return fd;
	r = packio_write(pack_io(pk), fd, buf, len, off);
	changed(pk, len);
	return r;
}

int pack_truncate(struct pack *pk, uint64_t size)
{
	int fd = pack_fd_get(pk);
	int r;

	if (fd < 0)
		return fd;
	r = packio_truncate(pack_io(pk), fd, size);
	changed(pk, 0);
	return r;
}

int pack_fallocate(struct pack *pk, int mode, uint64_t off, uint64_t len)
{
	int fd = pack_fd_get(pk);
	int r;

	if (fd < 0)
		return fd;
	r = packio_fallocate(pack_io(pk), fd, mode, off, len);
	changed(pk, 0);
	return r;
}

int pack_preallocate(struct pack *pk, uint64_t off, uint64_t len)
{
	int fd = pack_fd_get(pk);
	int r;

	if (fd < 0)
		return fd;
	r = packio_preallocate(pack_io(pk), fd, off, len);
	changed(pk, 0);
	return r;
}

int pack_clone(struct pack *from, struct pack *to, uint64_t len)
{
	int from_fd = pack_fd_get(from);
	int to_fd = from_fd < 0 ? from_fd : pack_fd_get(to);
	int r = to_fd;

	if (to_fd >= 0) {
		r = packio_clone(pack_io(to), from_fd, to_fd, len);
		changed(to, len);
	}
	if (from_fd >= 0)
		pack_fd_put(from);
	return r;
}

ssize_t pack_copy_range(struct pack *from, uint64_t from_off, struct pack *to,
			uint64_t to_off, uint64_t len)
{
	int from_fd = pack_fd_get(from);
	int to_fd = from_fd < 0 ? from_fd : pack_fd_get(to);
	ssize_t n = to_fd;

	if (to_fd >= 0) {
		n = packio_copy_range(from_fd, from_off, to_fd, to_off, len);
		changed(to, n > 0 ? (uint64_t)n : 0);
	}
	if (from_fd >= 0)
		pack_fd_put(from);
	return n;
}

static int pack_fstat(struct pack *pk, struct stat *ret)
{
	int fd = pack_fd_get(pk);
	int r;

	if (fd < 0)
		return fd;
	r = fstat(fd, ret) < 0 ? -errno : 0;
	pack_fd_put(pk);
	return r;
}

int pack_mtime(struct pack *pk, int64_t *ret_ns)
{
	struct stat st;
	int r = pack_fstat(pk, &st);

	if (r < 0)
		return r;
	*ret_ns = st.st_mtim.tv_sec * NSEC_PER_SEC + st.st_mtim.tv_nsec;
	return 0;
}

void pack_set_mtime(struct pack *pk, int64_t ns)
{
	const struct timespec times[] = { { .tv_nsec = UTIME_OMIT },
					  { .tv_sec = ns / NSEC_PER_SEC,
					    .tv_nsec = ns % NSEC_PER_SEC } };
	int fd = pack_fd_get(pk);

	if (fd < 0)
		return;
	(void)futimens(fd, times);
	pack_fd_put(pk);
}

int pack_stat(struct pack *pk, uint64_t *ret_size, uint64_t *ret_disk_bytes)
{
	struct stat st;
	int r = pack_fstat(pk, &st);

	if (r < 0)
		return r;
	*ret_size = (uint64_t)st.st_size;
	*ret_disk_bytes = packio_disk_bytes(&st);
	return 0;
}
