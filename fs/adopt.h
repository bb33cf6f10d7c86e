/* SPDX-License-Identifier: MIT */
/*
 * Take what a plain cache directory holds over into another one, as if pip had
 * written it there: a response and its body together, each file under a
 * temporary name first, nothing that is there already is touched. Anything but
 * directories and regular files stays where it is; the source may be hostile.
 *
 * Threads: any number, each with its own directories.
 */
#ifndef FS_ADOPT_H
#define FS_ADOPT_H

#include <stdbool.h>
#include <stdint.h>

struct adopt_result {
	uint64_t files, bytes; /* copied */
	uint64_t left;	       /* files that stay in the source */
	bool full;	       /* the destination has no room for more */
};

/*
 * Copy all below directory @from to below directory @to.
 *
 * @from:    open for reading; its offset is used.
 * @remove:  delete from @from what @to has then, and emptied directories. Only
 *           when nobody uses @from.
 * @res:     added to, also on failure.
 * Returns:  0, also when @to is full, or a negative errno.
 */
int adopt_tree(int from, int to, bool remove, struct adopt_result *res);

#endif
