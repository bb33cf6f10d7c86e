/* SPDX-License-Identifier: MIT */
/*
 * The table of open files and directories: what the kernel's 64-bit fh means.
 *
 *	handles_new()
 *	handles_add()		an open: yields the fh to reply
 *	handles_get()		a read, a write, ...: fh -> store_file
 *	handles_remove()	the release
 *	handles_free()
 *
 * fh = generation of the row << 32 | number of the row. A row's generation
 * rises with each use, so an fh released before, or never given out, is found
 * out: -EBADF.
 *
 * What has to outlive the process (struct handle_row) is plain data without
 * pointers, in one array of its own, apart from the store_files that belong to
 * this process.
 *
 * Threads: any number at once. handles_get() lends: the caller relies on the
 * kernel, which sends the release only after all answers on that fh.
 */
#ifndef FS_HANDLE_H
#define FS_HANDLE_H

#include <stdint.h>

#include "store/store.h"

#define HANDLE_ROWS_MAX (UINT32_C(1) << 20) /* files open at one time */

struct handles;

struct handle_row {
	uint64_t ino;
	uint32_t generation; /* of the fh that it has or had last */
	int32_t flags;	     /* of open(2); -1: the row is free */
};

struct handles *handles_new(void);

/* Frees the table; closes what is still open. NULL is fine. */
void handles_free(struct handles *t);

/*
 * Enter an open file.
 * @f:       becomes the table's on success.
 * Returns:  0, -ENFILE when HANDLE_ROWS_MAX are open, -ENOMEM.
 */
int handles_add(struct handles *t, struct store_file *f, uint64_t ino,
		int flags, uint64_t *ret_fh);

/* 0 and the file, still the table's; or -EBADF. */
int handles_get(struct handles *t, uint64_t fh, struct store_file **ret);

/* 0 and the file, now the caller's to close; or -EBADF. */
int handles_remove(struct handles *t, uint64_t fh, struct store_file **ret);

/* How many are open. */
uint32_t handles_count(struct handles *t);

#endif
