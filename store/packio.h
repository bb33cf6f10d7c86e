/* SPDX-License-Identifier: MIT */
/*
 * One pack file: its name, and whole reads and writes on its descriptor.
 *
 * Knows nothing of uses, checkpoints or locks: that is pack. Nothing here has
 * state; calls on different descriptors are independent, those on one are as
 * safe as the system calls below them.
 *
 * Errors are those of the system calls, except that a change through a
 * descriptor that could only be opened for reading is -EROFS.
 */
#ifndef STORE_PACKIO_H
#define STORE_PACKIO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "store/base.h"

/* The system calls packs make; tests put faults in between. Each behaves as
 * the call of its name (-1 and errno). */
struct pack_io {
	int (*openat)(int dir_fd, const char *path, int flags, mode_t mode);
	ssize_t (*pread)(int fd, void *buf, size_t len, off_t off);
	ssize_t (*pwrite)(int fd, const void *buf, size_t len, off_t off);
	int (*fallocate)(int fd, int mode, off_t off, off_t len);
	int (*ftruncate)(int fd, off_t size);
	int (*fdatasync)(int fd);
	int (*fsync)(int fd); /* of the directory */
	int (*unlinkat)(int dir_fd, const char *path, int flags);
};
extern const struct pack_io pack_io_real;

#define PACKIO_NAME_DIGITS 16

struct packio_name {
	char text[PACKIO_NAME_DIGITS + 1];
};
struct packio_name packio_name(uint64_t id);
bool packio_parse(const char *name, uint64_t *ret_id);

uint64_t packio_disk_bytes(const struct stat *st);

/* A new, empty file; -EEXIST. */
int packio_create(const struct pack_io *io, int dir_fd, uint64_t id);

/* Open an existing file; for reading only if the file system has become
 * read-only, so that hits go on being served. */
int packio_open(const struct pack_io *io, int dir_fd, uint64_t id);

/*
 * Give a file's blocks back and remove it. Returns the bytes that came back
 * (0 when the file is not there). What cannot be removed is left for a sweep.
 */
uint64_t packio_free(const struct pack_io *io, int dir_fd, uint64_t id);

/* Short only at the end of the file. */
ssize_t packio_read(const struct pack_io *io, int fd, void *buf, size_t len,
		    uint64_t off);
/* All or an error; then part of it may have been written. */
int packio_write(const struct pack_io *io, int fd, const void *buf, size_t len,
		 uint64_t off);
int packio_truncate(const struct pack_io *io, int fd, uint64_t size);
int packio_fallocate(const struct pack_io *io, int fd, int mode, uint64_t off,
		     uint64_t len);

/* Allocate the range without a change of the size, where the file system can.
 * Writes that follow take no more than that: left to itself xfs allocates far
 * ahead of an append. */
int packio_preallocate(const struct pack_io *io, int fd, uint64_t off,
		       uint64_t len);

/* The first @len bytes of @from to the empty file @to, which is @len long
 * afterwards: shared where the file system can, else copied, holes left out. */
int packio_clone(const struct pack_io *io, int from, int to, uint64_t len);

/* copy_file_range(2): bytes copied, may be short. */
ssize_t packio_copy_range(int from, uint64_t from_off, int to, uint64_t to_off,
			  uint64_t len);

/* packs_sweep(). What has no pack's name, and directories, are not ours: they
 * stay, and of directories only they themselves are counted. */
int packio_sweep(const struct pack_io *io, int dir_fd,
		 int (*keep)(void *arg, uint64_t id), void *arg,
		 uint64_t *ret_bytes);

#endif
