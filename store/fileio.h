/* SPDX-License-Identifier: MIT */
/*
 * Reading and changing the bytes of open files.
 *
 * Errors and meanings as in store.h, whose names these calls stand behind.
 * Threads: any number at once, also on one file.
 */
#ifndef STORE_FILEIO_H
#define STORE_FILEIO_H

#include <sys/types.h>

#include "store/file.h"

/* What a read of a file leads to: memory or a pack's descriptor. */
struct fileio_read {
	size_t len;	   /* bytes, in @mem or in @pack at @pos */
	uint8_t *mem;	   /* owned, or NULL */
	struct pack *pack; /* one use, or NULL */
	uint64_t pos;
};

int fileio_read_begin(struct store_file *f, uint64_t off, size_t len,
		      struct fileio_read *ret);
void fileio_read_end(struct fileio_read *rd);

int fileio_write(struct store_file *f, uint64_t off, const void *buf,
		 size_t len, bool writeback);
bool fileio_is_bad(struct store_file *f);
int fileio_fallocate(struct store_file *f, int mode, uint64_t off,
		     uint64_t len);
off_t fileio_seek(struct store_file *f, off_t off, int whence);
ssize_t fileio_copy(struct store_file *from, uint64_t from_off,
		    struct store_file *to, uint64_t to_off, uint64_t len);

#endif
