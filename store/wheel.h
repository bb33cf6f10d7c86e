/* SPDX-License-Identifier: MIT */
/*
 * Where to cut a wheel so that equal content of two wheels is equal bytes.
 *
 *   | prefix | member | member | gap | member | directory, end | trailing |
 *     plain    stamped  stamped  plain  stamped  plain            plain
 *
 * A member is its local header, its compressed stream and, if there is one, its
 * data descriptor. Two versions of a wheel mostly differ only in the time and
 * date of local headers: those 4 bytes are the stamp, zeroed before the piece
 * is digested. A .gz or .tgz has a time of its own in its first bytes, so that
 * such members are cut once more, WHEEL_HEAD bytes into their stream. Large
 * ones are cut behind their header: some writers put times into its extra
 * fields (measured: torchvision 99.7 % unique without that, 77.4 % with). The
 * central directory is one piece with the end records and their comment. What
 * stands before and after the ZIP does not touch its pieces: a response of
 * pip's http/ shares them with the bare body of http-v2/.
 *
 * Nothing is inflated and no checksum compared. The input is hostile: anything
 * that does not add up is left uncut, and memory follows the bytes that exist
 * (a directory of WHEEL_DIRECTORY_MAX at most), not what they claim.
 *
 * Pure: no I/O but through the source. No state, any threads.
 */
#ifndef STORE_WHEEL_H
#define STORE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base.h"

#define WHEEL_STAMP_AT 10	       /* of a stamped piece */
#define WHEEL_STAMP_LEN 4	       /* DOS time, DOS date */
#define WHEEL_HEADER_LEN 30	       /* a stamped piece has more bytes */
#define WHEEL_HEAD 64		       /* bytes, of the stream of a .gz */
#define WHEEL_HEAD_MIN (4 * KIB)       /* what must follow such a head */
#define WHEEL_LARGE (64 * KIB)	       /* a stream that stands alone */
#define WHEEL_DIRECTORY_MAX (64 * MIB) /* a larger one: not cut */

struct wheel_source {
	/* Exactly @len bytes at @off and 0, or a negative errno. Called at the
	 * start and end of the file, then in increasing order. */
	int (*read)(void *arg, uint64_t off, void *buf, size_t len);
	void *arg;     /* borrowed */
	uint64_t size; /* bytes */
};

struct wheel_cut {
	uint64_t len;	/* bytes, never 0; the cuts follow one another from 0 */
	uint32_t stamp; /* four bytes as they stand in the file; 0 if plain */
	bool stamped;	/* @stamp goes over the zeros at WHEEL_STAMP_AT */
};

/*
 * Cut a file. The cuts cover it exactly.
 *
 * @ret: an array of @n cuts, the caller's to free(); untouched unless 1.
 * Returns:  1        cut, @n is 2 or more
 *           0        not a ZIP, or one that does not add up: leave it whole
 *           -ENOMEM, or what the source returned
 */
int wheel_cut(const struct wheel_source *src, struct wheel_cut **ret,
	      size_t *n);

#endif
