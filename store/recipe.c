/* SPDX-License-Identifier: MIT */
#include "store/recipe.h"

#include <assert.h>
#include <string.h>

#include "store/wheel.h"

/* A stretch of the file: [off, off + len) lies in @pack from @at on. */
struct extent {
	uint64_t off;
	uint64_t len;
	uint64_t at;
	struct pack *pack; /* borrowed from the map's list */
};

struct stamp {
	uint64_t off; /* in the file, of its first byte */
	uint32_t value;
};

struct recipe_map {
	struct packs *all;   /* borrowed */
	uint64_t want;	     /* the size that it is to have */
	uint64_t size;	     /* and has, as it is made */
	uint64_t generation; /* of the packs, before the index was asked */
	struct pack **packs; /* owned, a use each */
	size_t n_packs, packs_size;
	struct extent *extents; /* owned, in order, without gaps */
	size_t n_extents, extents_size;
	struct stamp *stamps; /* owned, in order */
	size_t n_stamps, stamps_size;
};

/* --- Records ------------------------------------------------------------ */

int recipe_put(struct index_txn *txn, uint64_t recipe, uint64_t n,
	       const struct run *runs, size_t count)
{
	struct record_key key = record_key_pair(recipe, n);
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
	size_t len = record_runs_encode(runs, count, buf);

	return index_put(txn, INDEX_RECIPE, &key, buf, len, false);
}

int recipe_next(struct index_txn *txn, uint64_t recipe, uint64_t *n,
		struct run runs[static RECORD_RUNS_MAX], size_t *ret_count)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_pair(recipe, *n), key;
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
	size_t len;
	int bad,
		r = index_iter(txn, INDEX_RECIPE, &from, sizeof(uint64_t), &it);

	if (r >= 0)
		r = index_next(&it, &key, buf, sizeof(buf), &len);
	/* Of a damaged one, its number is known. */
	if (r == 0 || (r < 0 && !(r == -EBADMSG && it.cursor)))
		return r;
	bad = r;
	r = record_key_get(&key, sizeof(uint64_t), n);
	if (r >= 0)
		r = bad < 0 ? bad
			    : record_runs_decode(buf, len, runs, ret_count);
	return r < 0 ? r : 1;
}

int recipe_del(struct index_txn *txn, uint64_t recipe, uint64_t n)
{
	struct record_key key = record_key_pair(recipe, n);

	return index_del(txn, INDEX_RECIPE, &key);
}

int recipe_set_pending(struct index_txn *txn, uint64_t recipe, int pending)
{
	struct record_key key = record_key_id(recipe);
	uint8_t val = (uint8_t)pending;

	if (!pending)
		return index_del(txn, INDEX_PENDING, &key);
	return index_put(txn, INDEX_PENDING, &key, &val, sizeof(val), false);
}

/* Calls @fn with each block of a run; their records lie side by side. */
static int run_each(struct index_txn *txn, const struct run *run,
		    int (*fn)(void *arg, const struct run *run,
			      const struct block_rec *bl),
		    void *arg)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(run->first), key;
	uint8_t buf[RECORD_BLOCK_MAX];
	struct block_rec bl;
	uint64_t id;
	size_t len;
	int r = index_iter(txn, INDEX_BLOCK, &from, 0, &it);

	for (uint32_t i = 0; i < run->count && r >= 0; i++) {
		r = index_next(&it, &key, buf, sizeof(buf), &len);
		if (r == 0)
			return -EBADMSG;
		if (r > 0)
			r = record_key_get(&key, 0, &id);
		if (r >= 0)
			r = id == run->first + i
				    ? record_block_decode(buf, len, &bl)
				    : -EBADMSG;
		if (r >= 0)
			r = fn(arg, run, &bl);
	}
	return r < 0 ? r : 0;
}

/* The same with each block of a recipe. */
static int recipe_each(struct index_txn *txn, uint64_t recipe,
		       int (*fn)(void *arg, const struct run *run,
				 const struct block_rec *bl),
		       void *arg)
{
	struct run runs[RECORD_RUNS_MAX];
	uint64_t n = 0;
	size_t count;
	int r;

	while ((r = recipe_next(txn, recipe, &n, runs, &count)) > 0) {
		for (size_t i = 0; i < count && r >= 0; i++)
			r = run_each(txn, &runs[i], fn, arg);
		if (r < 0)
			return r;
		n++;
	}
	return r;
}

static int own_add(void *arg, const struct run *run, const struct block_rec *bl)
{
	uint64_t *bytes = arg;

	(void)run;
	*bytes += bl->refs == 1 ? bl->length : 0;
	return 0;
}

int recipe_own_bytes(struct index_txn *txn, uint64_t recipe, uint64_t *ret)
{
	*ret = 0;
	return recipe_each(txn, recipe, own_add, ret);
}

struct recipe_place {
	uint64_t pack;
	uint64_t end;
	uint64_t extents;
};

static int place_add(void *arg, const struct run *run,
		     const struct block_rec *bl)
{
	struct recipe_place *at = arg;

	(void)run;
	at->extents += at->pack != bl->pack || at->end != bl->offset;
	at->pack = bl->pack;
	at->end = bl->offset + bl->length;
	return 0;
}

int recipe_extents(struct index_txn *txn, uint64_t recipe, uint64_t *ret)
{
	struct recipe_place at = { .extents = 0 };
	int r = recipe_each(txn, recipe, place_add, &at);

	*ret = at.extents;
	return r;
}

/* --- Maps --------------------------------------------------------------- */

/* The array, with room for one more than the @n that are used; NULL without
 * memory, and it stays as it was. */
static void *map_room(void *array, size_t n, size_t *size, size_t each)
{
	size_t more = *size ? *size * 2 : 8;
	void *bigger;

	if (n < *size)
		return array;
	bigger = reallocarray(array, more, each);
	if (bigger)
		*size = more;
	return bigger;
}

/* The array, without room that is not used: maps are open by the thousand. */
static void *map_trim(void *array, size_t n, size_t *size, size_t each)
{
	void *smaller = n ? reallocarray(array, n, each) : NULL;

	if (!smaller)
		return array;
	*size = n;
	return smaller;
}

/* The pack, with a use that the map holds. */
static int map_pack(struct recipe_map *map, uint64_t id, struct pack **ret)
{
	struct pack **v;
	int r;

	/* Mostly the last one, or one of few. */
	for (size_t i = map->n_packs; i-- > 0;) {
		if (pack_id(map->packs[i]) == id) {
			*ret = map->packs[i];
			return 0;
		}
	}
	v = map_room(map->packs, map->n_packs, &map->packs_size,
		     sizeof(struct pack *));
	if (!v)
		return -ENOMEM;
	map->packs = v;
	r = pack_get_blocks(map->all, id, ret);
	if (r >= 0)
		v[map->n_packs++] = *ret;
	return r;
}

static int map_add_extent(struct recipe_map *map, const struct block_rec *bl)
{
	struct extent *last =
		map->n_extents ? &map->extents[map->n_extents - 1] : NULL;
	struct extent *v;
	struct pack *pk;
	int r;

	if (!bl->pack) /* lost */
		return -EBADMSG;
	if (last && pack_id(last->pack) == bl->pack &&
	    last->at + last->len == bl->offset) {
		last->len += bl->length;
		return 0;
	}
	r = map_pack(map, bl->pack, &pk);
	if (r < 0)
		return r;
	v = map_room(map->extents, map->n_extents, &map->extents_size,
		     sizeof(*v));
	if (!v)
		return -ENOMEM;
	map->extents = v;
	v[map->n_extents++] = (struct extent){ .off = map->size,
					       .len = bl->length,
					       .at = bl->offset,
					       .pack = pk };
	return 0;
}

static int map_add_stamp(struct recipe_map *map, uint32_t value)
{
	struct stamp *v = map_room(map->stamps, map->n_stamps,
				   &map->stamps_size, sizeof(*v));

	if (!v)
		return -ENOMEM;
	map->stamps = v;
	v[map->n_stamps++] = (struct stamp){ .off = map->size + WHEEL_STAMP_AT,
					     .value = value };
	return 0;
}

static int map_add_block(void *arg, const struct run *run,
			 const struct block_rec *bl)
{
	struct recipe_map *map = arg;
	int r;

	if (bl->length > map->want - map->size ||
	    (run->stamped && bl->length < WHEEL_STAMP_AT + sizeof(run->stamp)))
		return -EBADMSG;
	r = map_add_extent(map, bl);
	if (r >= 0 && run->stamped)
		r = map_add_stamp(map, run->stamp);
	map->size += bl->length;
	return r;
}

static int map_fill(struct recipe_map *map, struct index *ix, uint64_t recipe)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(ix, false, &txn);

	if (r >= 0)
		r = recipe_each(txn, recipe, map_add_block, map);
	if (r < 0)
		return r;
	map->packs = map_trim(map->packs, map->n_packs, &map->packs_size,
			      sizeof(struct pack *));
	map->extents = map_trim(map->extents, map->n_extents,
				&map->extents_size, sizeof(*map->extents));
	map->stamps = map_trim(map->stamps, map->n_stamps, &map->stamps_size,
			       sizeof(*map->stamps));
	return map->size == map->want ? 0 : -EBADMSG;
}

static int map_new(struct index *ix, struct packs *packs, uint64_t recipe,
		   uint64_t size, struct recipe_map **ret)
{
	struct recipe_map *map = calloc(1, sizeof(*map));
	int r;

	if (!map)
		return -ENOMEM;
	map->all = packs;
	map->want = size;
	map->generation = packs_generation(packs);
	r = map_fill(map, ix, recipe);
	if (r < 0) {
		recipe_map_free(map);
		return r;
	}
	*ret = map;
	return 0;
}

int recipe_map_new(struct index *ix, struct packs *packs, uint64_t recipe,
		   uint64_t size, struct recipe_map **ret)
{
	uint64_t generation;
	int r;

	/* A pack may have been emptied, and gone, since the index was asked. */
	do {
		generation = packs_generation(packs);
		r = map_new(ix, packs, recipe, size, ret);
	} while (r == -ENOENT && packs_generation(packs) != generation);
	return r;
}

void recipe_map_free(struct recipe_map *map)
{
	if (!map)
		return;
	for (size_t i = 0; i < map->n_packs; i++)
		pack_put_blocks(map->packs[i]);
	free(map->packs);
	free(map->extents);
	free(map->stamps);
	free(map);
}

unsigned recipe_map_extents(const struct recipe_map *map)
{
	return (unsigned)map->n_extents;
}

/* The extent that @off is in; there is one. */
static size_t map_find_extent(const struct recipe_map *map, uint64_t off)
{
	size_t low = 0, high = map->n_extents;

	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;

		if (map->extents[mid].off <= off)
			low = mid;
		else
			high = mid;
	}
	return low;
}

/* The first stamp that ends behind @off. */
static size_t map_find_stamp(const struct recipe_map *map, uint64_t off)
{
	size_t low = 0, high = map->n_stamps;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (map->stamps[mid].off + sizeof(uint32_t) <= off)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Lay the stamps over @len bytes read at @off, in part at the ends. */
static void map_stamp(const struct recipe_map *map, uint8_t *buf, size_t len,
		      uint64_t off)
{
	size_t i = map_find_stamp(map, off);

	for (; i < map->n_stamps && map->stamps[i].off < off + len; i++) {
		uint8_t bytes[sizeof(uint32_t)];

		memcpy(bytes, &map->stamps[i].value, sizeof(bytes));
		for (size_t k = 0; k < sizeof(bytes); k++) {
			uint64_t at = map->stamps[i].off + k;

			if (at >= off && at < off + len)
				buf[at - off] = bytes[k];
		}
	}
}

ssize_t recipe_map_read(const struct recipe_map *map, void *buf, size_t len,
			uint64_t off)
{
	size_t done = 0, i;
	ssize_t n;

	if (off >= map->size)
		return 0;
	if (len > map->size - off)
		len = (size_t)(map->size - off);
	for (i = map_find_extent(map, off); done < len; i++) {
		const struct extent *x = &map->extents[i];
		uint64_t skip = off + done - x->off;
		size_t want = len - done;

		assert(i < map->n_extents && skip < x->len);
		if (want > x->len - skip)
			want = (size_t)(x->len - skip);
		if (pack_moved(x->pack) > map->generation)
			return -EAGAIN;
		n = pack_read(x->pack, (uint8_t *)buf + done, want,
			      x->at + skip);
		if (n < 0)
			return n;
		if ((size_t)n != want)
			return -EIO;
		done += want;
	}
	map_stamp(map, buf, len, off);
	return (ssize_t)len;
}
