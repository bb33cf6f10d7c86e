/* SPDX-License-Identifier: MIT */
/*
 * The table of open files and directories: what the kernel's 64-bit fh means.
 *
 *	handles_new()		over rows that may hold what was open before
 *	handles_list()		those, for store_open()
 *	handles_resume()	with what it made of them
 *	handles_add()		an open: yields the fh to reply
 *	handles_get()		a read, a write, ...: fh -> store_file
 *	handles_take()		the release: it is closed,
 *	handles_forget()	and then its row is free
 *	handles_free()
 *
 * fh = generation of the row << 32 | number of the row. A row's generation
 * rises with each use, so an fh released before, or never given out, is found
 * out: -EBADF. The rows outlive the process (kept.h), the store_files do not.
 *
 * Threads: any number at once, but for handles_list() and handles_resume().
 * handles_get() lends: the caller relies on the kernel, which sends the release
 * only after all answers on that fh.
 */
#ifndef FS_HANDLE_H
#define FS_HANDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/kept.h"
#include "store/store.h"

struct handles;

/* @kept: borrowed, outlives the table. NULL when out of memory. */
struct handles *handles_new(struct kept *kept);

/* Frees the table; closes what is still open, and its rows. NULL is fine. */
void handles_free(struct handles *t);

/* What the rows say is open: *@ret is the caller's to free. -ENOMEM. */
int handles_list(struct handles *t, struct store_resume **ret, size_t *ret_n);
/* The files, in the same order, become the table's; those that have gone are
 * -EBADF from now on. -ENOMEM: they are still the caller's. */
int handles_resume(struct handles *t, const struct store_resume *files,
		   size_t n);

/*
 * Enter an open file.
 * @f:       becomes the table's on success.
 * @opener:  unique of the request that opens it, see handles_opened().
 * Returns:  0, -ENFILE when KEPT_ROWS are open, -ENOMEM.
 */
int handles_add(struct handles *t, struct store_file *f, uint64_t ino,
		int flags, uint64_t opener, uint64_t *ret_fh);

/* What did the request @opener open? 0, or -ENOENT. Looks at all rows. */
int handles_opened(struct handles *t, uint64_t opener, uint64_t *ret_fh);

/* 0 and the file, still the table's; or -EBADF. */
int handles_get(struct handles *t, uint64_t fh, struct store_file **ret);

/* It is to be dropped at its last close, also by who goes on with the rows. */
void handles_set_bad(struct handles *t, uint64_t fh);

/*
 * 0 and the file, now the caller's to close; or -EBADF. Its row stays until
 * handles_forget(): who goes on when this process is killed in the close has
 * to close it as well, as the writer that it had, bad or not.
 */
int handles_take(struct handles *t, uint64_t fh, struct store_file **ret);
void handles_forget(struct handles *t, uint64_t fh);

/* How many are open. */
uint32_t handles_count(struct handles *t);

#endif
