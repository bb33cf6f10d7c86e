/* SPDX-License-Identifier: MIT */
#include "store/holes.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>

#define FIRST_SIZE 64
#define PIECE_BYTES 4096
/* A larger block is not looked through for zeros. */
#define BLOCK_MAX (64 * KIB)

struct hole {
	uint64_t pack;
	uint64_t off;
	uint64_t end;
};

struct hole_list {
	struct hole *at; /* owned */
	size_t n;
	size_t size;
	uint64_t bytes;
};

struct holes {
	struct holes_config cfg;
	pthread_mutex_t space;
	/* Bytes that came back and are not credited yet. Negative where packs
	 * grew as they were punched: a hole can cost a block of the map of a
	 * file. Whoever releases. */
	int64_t came_back;

	pthread_mutex_t lock; /* guards the rest */
	struct hole_list added;
	/* Between pin and release its ranges belong to who releases. */
	struct hole_list batch;
	bool taken;
};

int holes_open(const struct holes_config *cfg, struct holes **ret)
{
	struct holes *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->cfg = *cfg;
	if (!h->cfg.io)
		h->cfg.io = &pack_io_real;
	pthread_mutex_init(&h->space, NULL);
	pthread_mutex_init(&h->lock, NULL);
	*ret = h;
	return 0;
}

void holes_close(struct holes *h)
{
	if (!h)
		return;
	assert(!h->taken);
	free(h->added.at);
	pthread_mutex_destroy(&h->space);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

void holes_lock(struct holes *h)
{
	pthread_mutex_lock(&h->space);
}

void holes_unlock(struct holes *h)
{
	pthread_mutex_unlock(&h->space);
}

uint64_t holes_bytes(struct holes *h)
{
	LOCK_SCOPE(&h->lock);
	return h->added.bytes + h->batch.bytes;
}

/* --- Adding -------------------------------------------------------------- */

/* Make @to one with a range that touches it. */
static bool join(struct hole *to, const struct hole *with)
{
	if (to->pack != with->pack || to->end < with->off ||
	    with->end < to->off)
		return false;
	if (with->off < to->off)
		to->off = with->off;
	if (with->end > to->end)
		to->end = with->end;
	return true;
}

/* Room for one more. */
static bool grow(struct hole_list *list)
{
	size_t size = list->size ? 2 * list->size : FIRST_SIZE;
	struct hole *at;

	if (list->n < list->size)
		return true;
	if (list->n >= HOLES_MAX)
		return false;
	at = realloc(list->at, size * sizeof(*at));
	if (!at)
		return false;
	list->at = at;
	list->size = size;
	return true;
}

static void add_locked(struct hole_list *list, const struct hole *hole)
{
	if (!list->n || !join(&list->at[list->n - 1], hole)) {
		if (!grow(list))
			return;
		list->at[list->n++] = *hole;
	}
	list->bytes += hole->end - hole->off;
}

void holes_add(struct holes *h, uint64_t pack, uint64_t off, uint64_t len)
{
	struct hole hole = { pack, off, off + len };

	if (!len || off > INT64_MAX || len > INT64_MAX - off)
		return;
	pthread_mutex_lock(&h->lock);
	add_locked(&h->added, &hole);
	pthread_mutex_unlock(&h->lock);
	/* The commit before it may be behind the last pin, the range not. */
	notify_call(&h->cfg.changed);
}

void holes_pin(struct holes *h)
{
	LOCK_SCOPE(&h->lock);
	assert(!h->taken);
	h->taken = true;
	h->batch = h->added;
	h->added = (struct hole_list){ .at = NULL };
}

/* --- Punching ------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
	const struct hole *x = a;
	const struct hole *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return 0;
}

/* In the order of packs and offsets, with none that touch. */
static void tidy(struct hole_list *list)
{
	size_t last = 0;

	if (!list->n)
		return;
	qsort(list->at, list->n, sizeof(*list->at), compare);
	for (size_t i = 1; i < list->n; i++) {
		if (!join(&list->at[last], &list->at[i]))
			list->at[++last] = list->at[i];
	}
	list->n = last + 1;
}

/* True if [@off, @end) reads as zeros, or lies behind the end of the file. */
static bool is_zero(const struct pack_io *io, int fd, uint64_t off,
		    uint64_t end)
{
	uint8_t buf[PIECE_BYTES];
	size_t want;
	ssize_t n;

	while (off < end) {
		want = end - off < sizeof(buf) ? end - off : sizeof(buf);
		n = packio_read(io, fd, buf, want, off);
		if (n < 0)
			return false;
		if (n && (buf[0] || memcmp(buf, buf + 1, (size_t)n - 1) != 0))
			return false;
		if ((size_t)n < want)
			return true;
		off += want;
	}
	return true;
}

/*
 * Widen the range to whole blocks where there are only zeros in the rest of a
 * block. That can be what was punched before, or zeros of somebody's: as a
 * hole they read the same.
 */
static void widen(const struct pack_io *io, int fd, uint64_t block,
		  struct hole *hole)
{
	uint64_t off = hole->off - hole->off % block;
	uint64_t end = hole->end + (block - hole->end % block) % block;

	if (is_zero(io, fd, off, hole->off))
		hole->off = off;
	if (end <= INT64_MAX && is_zero(io, fd, hole->end, end))
		hole->end = end;
}

/* Returns by how much the pack became smaller; an error changes nothing or
 * less than was asked for. */
static int64_t punch(struct holes *h, int fd, struct hole hole)
{
	const struct pack_io *io = h->cfg.io;
	struct stat before;
	struct stat after;

	LOCK_SCOPE(&h->space);
	if (fstat(fd, &before) < 0)
		return 0;
	if (before.st_blksize > 0 && (uint64_t)before.st_blksize <= BLOCK_MAX)
		widen(io, fd, (uint64_t)before.st_blksize, &hole);
	(void)packio_fallocate(io, fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       hole.off, hole.end - hole.off);
	if (fstat(fd, &after) < 0)
		return 0;
	return (int64_t)(packio_disk_bytes(&before) -
			 packio_disk_bytes(&after));
}

static void settle(struct holes *h)
{
	if (h->came_back <= 0)
		return;
	if (h->cfg.credit)
		h->cfg.credit(h->cfg.credit_arg, (uint64_t)h->came_back);
	h->came_back = 0;
}

/* For the next batch. */
static void keep(struct holes *h, const struct hole *hole, size_t n)
{
	for (size_t i = 0; i < n; i++)
		holes_add(h, hole[i].pack, hole[i].off,
			  hole[i].end - hole[i].off);
}

/* Punch the ranges of one pack, or keep them while it is in use. A doomed one
 * gives all back when it goes. */
static void punch_pack(struct holes *h, const struct hole *hole, size_t n)
{
	cleanup_close int fd = -1;

	if (h->cfg.packs && packs_doomed(h->cfg.packs, hole->pack))
		return;
	if (h->cfg.packs && packs_busy(h->cfg.packs, hole->pack)) {
		keep(h, hole, n);
		return;
	}
	fd = packio_open(h->cfg.io, h->cfg.dir_fd, hole->pack);
	for (size_t i = 0; i < n && fd >= 0; i++)
		h->came_back += punch(h, fd, hole[i]);
}

/* One that is gone needs it no more. */
static int sync_pack(struct holes *h, uint64_t pack)
{
	cleanup_close int fd = packio_open(h->cfg.io, h->cfg.dir_fd, pack);

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	return h->cfg.io->fdatasync(fd) < 0 ? base_sync_error() : 0;
}

/*
 * A power cut must not bring the bytes back when others have taken their room:
 * no byte is credited before the holes are on the disk. All are punched first,
 * so that where one sync saves them all, the others find nothing to do. Where
 * there is no descriptor for that, all are saved, and credited, the next time.
 */
static int punch_all(struct holes *h, struct hole_list *list)
{
	size_t first = 0;
	int r = 0;

	tidy(list);
	for (size_t i = 1; i <= list->n; i++) {
		if (i < list->n && list->at[i].pack == list->at[first].pack)
			continue;
		punch_pack(h, &list->at[first], i - first);
		first = i;
	}
	for (size_t i = 0; i < list->n && r == 0; i++) {
		if (i == 0 || list->at[i].pack != list->at[i - 1].pack)
			r = sync_pack(h, list->at[i].pack);
	}
	if (base_is_shortage(r)) {
		keep(h, list->at, list->n);
		return 0;
	}
	if (r == 0)
		settle(h);
	else /* the store is frozen: no room is given away any more */
		h->came_back = 0;
	return r;
}

int holes_release(struct holes *h, bool safe)
{
	struct hole_list *batch = &h->batch;
	int r = 0;

	assert(h->taken);
	if (safe && batch->n) {
		if (h->cfg.readers)
			section_quiesce(h->cfg.readers);
		r = punch_all(h, batch);
	}
	LOCK_SCOPE(&h->lock);
	free(batch->at);
	*batch = (struct hole_list){ .at = NULL };
	h->taken = false;
	return r;
}
