/* SPDX-License-Identifier: MIT */
/* The part of pack.h that reads and writes. */
#include "store/pack.h"

ssize_t pack_read(struct pack *pk, void *buf, size_t len, uint64_t off)
{
	return packio_read(pack_io(pk), pack_fd(pk), buf, len, off);
}

int pack_write(struct pack *pk, const void *buf, size_t len, uint64_t off)
{
	int r = packio_write(pack_io(pk), pack_fd(pk), buf, len, off);

	pack_changed(pk, len);
	return r;
}

int pack_truncate(struct pack *pk, uint64_t size)
{
	int r = packio_truncate(pack_io(pk), pack_fd(pk), size);

	pack_changed(pk, 0);
	return r;
}

int pack_fallocate(struct pack *pk, int mode, uint64_t off, uint64_t len)
{
	int r = packio_fallocate(pack_io(pk), pack_fd(pk), mode, off, len);

	pack_changed(pk, 0);
	return r;
}

int pack_preallocate(struct pack *pk, uint64_t off, uint64_t len)
{
	int r = packio_preallocate(pack_io(pk), pack_fd(pk), off, len);

	pack_changed(pk, 0);
	return r;
}

int pack_clone(struct pack *from, struct pack *to, uint64_t len)
{
	int r = packio_clone(pack_io(to), pack_fd(from), pack_fd(to), len);

	pack_changed(to, len);
	return r;
}

ssize_t pack_copy_range(struct pack *from, uint64_t from_off, struct pack *to,
			uint64_t to_off, uint64_t len)
{
	ssize_t n = packio_copy_range(pack_fd(from), from_off, pack_fd(to),
				      to_off, len);

	pack_changed(to, n > 0 ? (uint64_t)n : 0);
	return n;
}

int pack_stat(struct pack *pk, uint64_t *ret_size, uint64_t *ret_disk_bytes)
{
	struct stat st;

	if (fstat(pack_fd(pk), &st) < 0)
		return -errno;
	*ret_size = (uint64_t)st.st_size;
	*ret_disk_bytes = packio_disk_bytes(&st);
	return 0;
}
