/* SPDX-License-Identifier: MIT */
#include "store/digest.h"

#include <errno.h>
#include <stdlib.h>

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
