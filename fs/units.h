/* SPDX-License-Identifier: MIT */
/*
 * Sizes and spans of time as people write and read them.
 *
 * Pure: no I/O, no locks.
 */
#ifndef FS_UNITS_H
#define FS_UNITS_H

#include <stddef.h>
#include <stdint.h>

/*
 * Parse "5G", "512M", "4096", also with KiB or KB: all powers of 1024.
 * Returns: 0, -EINVAL for anything else, -ERANGE beyond 2^64 - 1.
 */
int units_parse_size(const char *text, uint64_t *ret_bytes);

/*
 * Is @text a size, or a share of something, "0%" to "100%"? A limit is one
 * that is not 0. Return 0, -EINVAL or -ERANGE.
 */
int units_check_amount(const char *text);
int units_check_limit(const char *text);

/*
 * Parse "600" or "600s", "10m", "2h", "7d", "1w" into seconds.
 * Returns: 0, -EINVAL for anything else, -ERANGE beyond 100 years.
 */
int units_parse_span(const char *text, int64_t *ret_sec);

/* Room for whatever the two functions below write. */
#define UNITS_TEXT_MAX 32

/* "1.5 GiB", "17 KiB", "0 B". Returns @buf. */
const char *units_format_size(uint64_t bytes, char *buf, size_t size);

/* "10 min", "90 s", "7 days". Returns @buf. */
const char *units_format_span(int64_t sec, char *buf, size_t size);

#endif
