/* SPDX-License-Identifier: MIT */
/*
 * Checksums. XXH3-64 guards what is read back and every index value; it is
 * no defence against forgery and is never used as identity. That is SHA-256.
 *
 * The only file that knows xxhash and openssl. No locks; one struct digest per
 * stream.
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

#define DIGEST_SHA256_SIZE 32

/*
 * Both digests of one block after the other:
 *	digest_block_begin(), digest_block_update()..., digest_block_end()
 * What openssl refuses (no memory, no such algorithm) sticks, and is the result
 * of the end: -ENOMEM.
 */
struct digest_block;

int digest_block_new(struct digest_block **ret); /* -ENOMEM */
void digest_block_free(struct digest_block *d);	 /* NULL is fine */
void digest_block_begin(struct digest_block *d);
void digest_block_update(struct digest_block *d, const void *buf, size_t len);
int digest_block_end(struct digest_block *d,
		     uint8_t sha256[static DIGEST_SHA256_SIZE],
		     uint64_t *ret_xxh3);

static inline void digest_block_freep(struct digest_block **d)
{
	digest_block_free(*d);
}
#define cleanup_digest_block __attribute__((cleanup(digest_block_freep)))

#endif
