/* SPDX-License-Identifier: MIT */
#include "store/digest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include <openssl/evp.h>
#include <xxhash.h>

struct digest {
	XXH3_state_t *state; /* owned; xxhash wants it aligned to 64 bytes */
};

uint64_t digest_xxh3(const void *buf, size_t len)
{
	return XXH3_64bits(buf, len);
}

uint32_t digest_check32(const void *buf, size_t len)
{
	return (uint32_t)XXH3_64bits(buf, len);
}

int digest_new(struct digest **ret)
{
	struct digest *d = malloc(sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->state = XXH3_createState();
	if (!d->state) {
		free(d);
		return -ENOMEM;
	}
	XXH3_64bits_reset(d->state);
	*ret = d;
	return 0;
}

void digest_update(struct digest *d, const void *buf, size_t len)
{
	XXH3_64bits_update(d->state, buf, len);
}

uint64_t digest_value(const struct digest *d)
{
	return XXH3_64bits_digest(d->state);
}

void digest_free(struct digest *d)
{
	if (!d)
		return;
	XXH3_freeState(d->state);
	free(d);
}

struct digest_block {
	XXH3_state_t *xxh3; /* owned */
	EVP_MD *md;	    /* owned: fetched once, not for every block */
	EVP_MD_CTX *sha256; /* owned */
	bool failed;
};

int digest_block_new(struct digest_block **ret)
{
	struct digest_block *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->xxh3 = XXH3_createState();
	d->md = EVP_MD_fetch(NULL, "SHA256", NULL);
	d->sha256 = EVP_MD_CTX_new();
	if (!d->xxh3 || !d->md || !d->sha256) {
		digest_block_free(d);
		return -ENOMEM;
	}
	*ret = d;
	return 0;
}

void digest_block_free(struct digest_block *d)
{
	if (!d)
		return;
	EVP_MD_CTX_free(d->sha256);
	EVP_MD_free(d->md);
	XXH3_freeState(d->xxh3);
	free(d);
}

void digest_block_begin(struct digest_block *d)
{
	XXH3_64bits_reset(d->xxh3);
	d->failed = !EVP_DigestInit_ex(d->sha256, d->md, NULL);
}

void digest_block_update(struct digest_block *d, const void *buf, size_t len)
{
	XXH3_64bits_update(d->xxh3, buf, len);
	if (!d->failed)
		d->failed = !EVP_DigestUpdate(d->sha256, buf, len);
}

int digest_block_end(struct digest_block *d,
		     uint8_t sha256[static DIGEST_SHA256_SIZE],
		     uint64_t *ret_xxh3)
{
	if (!d->failed)
		d->failed = !EVP_DigestFinal_ex(d->sha256, sha256, NULL);
	*ret_xxh3 = XXH3_64bits_digest(d->xxh3);
	return d->failed ? -ENOMEM : 0;
}
