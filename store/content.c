/* SPDX-License-Identifier: MIT */
#include "store/content.h"

#include <fcntl.h>
#include <string.h>

#include "store/digest.h"
#include "store/recipe.h"

#define CONTENT_CHUNK (1 * MIB)

static ssize_t content_read_map(struct tree *t, const struct node *nd,
				void *buf, size_t len, uint64_t off)
{
	unsigned ticket = section_enter(t->readers);
	ssize_t n = recipe_map_read(nd->map, buf, len, off);

	section_leave(t->readers, ticket);
	return n;
}

/* All bytes behind RECORD_INLINE_HEAD, compared with their sum. */
static int content_get_inline(struct tree *t, const struct node *nd,
			      uint8_t **ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_free uint8_t *buf = NULL;
	struct record_key key = record_key_id(nd->ino);
	uint64_t sum;
	ssize_t n;
	int r;

	if (nd->size > INDEX_VALUE_MAX - RECORD_INLINE_HEAD)
		return -EBADMSG;
	buf = malloc(INDEX_VALUE_MAX);
	r = buf ? index_begin(t->ix, false, &txn) : -ENOMEM;
	if (r < 0)
		return r;
	n = index_get(txn, INDEX_INLINE, &key, buf, INDEX_VALUE_MAX);
	if (n < 0)
		return n == -ENOENT ? -EBADMSG : (int)n;
	if ((uint64_t)n != nd->size + RECORD_INLINE_HEAD)
		return -EBADMSG;
	r = record_u64_decode(buf, RECORD_INLINE_HEAD, &sum);
	if (r < 0 || sum != digest_xxh3(buf + RECORD_INLINE_HEAD, nd->size))
		return -EBADMSG;
	*ret = steal_ptr(buf);
	return 0;
}

int content_check_inline(struct tree *t, const struct node *nd)
{
	cleanup_free uint8_t *bytes = NULL;

	return content_get_inline(t, nd, &bytes);
}

static ssize_t content_read_inline(struct tree *t, const struct node *nd,
				   void *buf, size_t len, uint64_t off)
{
	cleanup_free uint8_t *bytes = NULL;
	int r = content_get_inline(t, nd, &bytes);

	if (r < 0)
		return r;
	memcpy(buf, bytes + RECORD_INLINE_HEAD + off, len);
	return (ssize_t)len;
}

ssize_t content_read(struct tree *t, const struct node *nd, void *buf,
		     size_t len, uint64_t off)
{
	if (off >= nd->size)
		return 0;
	if (len > nd->size - off)
		len = (size_t)(nd->size - off);
	if (nd->pack)
		return pack_read(nd->pack, buf, len, off);
	if (nd->map)
		return content_read_map(t, nd, buf, len, off);
	return nd->inlined ? content_read_inline(t, nd, buf, len, off) : -EIO;
}

int content_remap(struct tree *t, struct node *nd)
{
	struct recipe_map *map;
	int r = recipe_map_new(t->ix, t->packs, nd->recipe, nd->size, &map);

	if (r < 0)
		return r == -ENOENT ? -EBADMSG : r;
	recipe_map_free(nd->map);
	nd->map = map;
	return 0;
}

ssize_t content_read_locked(struct tree *t, struct node *nd, void *buf,
			    size_t len, uint64_t off)
{
	ssize_t n;
	int r;

	while ((n = content_read(t, nd, buf, len, off)) == -EAGAIN) {
		r = content_remap(t, nd);
		if (r < 0)
			return r;
	}
	return n;
}

/* How a linear file will be read: only a hint. */
static void content_advise(const struct node *nd, int advice)
{
	int fd = nd->pack ? pack_fd_get(nd->pack) : -1;

	if (fd < 0)
		return;
	(void)posix_fadvise(fd, 0, 0, advice);
	pack_fd_put(nd->pack);
}

int content_sum(struct tree *t, struct node *nd, uint64_t *ret)
{
	cleanup_free uint8_t *buf = malloc(CONTENT_CHUNK);
	cleanup_digest struct digest *d = NULL;
	ssize_t n;
	int r;

	if (!buf)
		return -ENOMEM;
	r = digest_new(&d);
	if (r < 0)
		return r;
	content_advise(nd, POSIX_FADV_SEQUENTIAL);
	for (uint64_t off = 0; off < nd->size; off += (uint64_t)n) {
		n = content_read_locked(t, nd, buf, CONTENT_CHUNK, off);
		if (n <= 0)
			return n < 0 ? (int)n : -EBADMSG;
		digest_update(d, buf, (size_t)n);
	}
	content_advise(nd, POSIX_FADV_NORMAL);
	*ret = digest_value(d);
	return 0;
}
