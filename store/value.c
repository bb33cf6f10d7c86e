/* SPDX-License-Identifier: MIT */
#include "store/value.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "store/digest.h"
#include "store/record.h"

static uint32_t value_check(struct value_place at, const void *val, size_t len)
{
	uint8_t buf[1 + RECORD_KEY_MAX + VALUE_CHECK_SIZE];
	uint32_t check = htole32(digest_check32(len ? val : "", len));

	assert(at.key_len <= RECORD_KEY_MAX);
	buf[0] = at.table;
	memcpy(buf + 1, at.key, at.key_len);
	memcpy(buf + 1 + at.key_len, &check, VALUE_CHECK_SIZE);
	return digest_check32(buf, 1 + at.key_len + VALUE_CHECK_SIZE);
}

void value_in(struct value_place at, const void *val, size_t len, void *stored)
{
	uint32_t check = htole32(value_check(at, val, len));

	if (len)
		memcpy(stored, val, len);
	memcpy((uint8_t *)stored + len, &check, VALUE_CHECK_SIZE);
}

ssize_t value_out(struct value_place at, const void *stored, size_t stored_len,
		  void *buf, size_t size)
{
	uint32_t check;
	size_t len;

	if (stored_len < VALUE_CHECK_SIZE ||
	    stored_len - VALUE_CHECK_SIZE > size)
		return -EBADMSG;
	len = stored_len - VALUE_CHECK_SIZE;
	memcpy(&check, (const uint8_t *)stored + len, VALUE_CHECK_SIZE);
	if (le32toh(check) != value_check(at, stored, len))
		return -EBADMSG;
	if (len)
		memcpy(buf, stored, len);
	return (ssize_t)len;
}
