/* SPDX-License-Identifier: MIT */
/*
 * Checksums. XXH3-64 guards what is read back and every index value; it is
 * no defence against forgery and is never used as identity.
 *
 * The only file that knows xxhash. No locks; one struct digest per stream.
 */
#ifndef STORE_DIGEST_H
#define STORE_DIGEST_H

#include <stddef.h>
#include <stdint.h>

struct digest; /* XXH3-64 of a stream */

uint64_t digest_xxh3(const void *buf, size_t len);
uint32_t digest_check32(const void *buf, size_t len); /* of index values */

int digest_new(struct digest **ret); /* -ENOMEM */
void digest_update(struct digest *d, const void *buf, size_t len);
uint64_t digest_value(const struct digest *d);
void digest_free(struct digest *d); /* NULL is fine */

static inline void digest_freep(struct digest **d)
{
	digest_free(*d);
}
#define cleanup_digest __attribute__((cleanup(digest_freep)))

#endif
