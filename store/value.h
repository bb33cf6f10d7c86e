/* SPDX-License-Identifier: MIT */
/*
 * Values as the index stores them: the bytes, then a 4-byte checksum, for LMDB
 * has none. The checksum covers table and key too, so that a value in the
 * wrong place does not match.
 *
 * Pure: no I/O, no allocation, no locks; any thread.
 */
#ifndef STORE_VALUE_H
#define STORE_VALUE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define VALUE_CHECK_SIZE sizeof(uint32_t)

/* Where a value is. @key: at most RECORD_KEY_MAX bytes. */
struct value_place {
	uint8_t table;
	const void *key;
	size_t key_len;
};

/* @stored gets @len bytes of @val and the checksum. */
void value_in(struct value_place at, const void *val, size_t len, void *stored);

/* Verify and copy out; the length, or -EBADMSG (also when it exceeds @size). */
ssize_t value_out(struct value_place at, const void *stored, size_t stored_len,
		  void *buf, size_t size);

#endif
