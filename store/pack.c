/* SPDX-License-Identifier: MIT */
#include "store/pack.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "store/fdcache.h"

#define BUCKETS 4096

/*
 * A pack is in the table while anything keeps it there: uses, one of the lists
 * below, or the freeing of its file. Its descriptor may be open while it has
 * uses.
 *
 *   changed   written to, or created, since the last pin
 *   sync      in the batch: changed before the last pin
 *   doomed    waits for the next pin; from then on in the batch, for its end
 *
 * With @freeable no checkpoint names it any more: the file goes with the last
 * use.
 */
struct pack {
	struct packs *ps; /* borrowed */
	uint64_t id;
	struct fdslot slot;  /* shut without uses */
	atomic_bool changed; /* changes under the lock, read without it */
	atomic_uint_least64_t moved; /* generation of the last move away */

	/* Guarded by the lock of @ps. */
	SLIST_ENTRY(pack) by_id;
	LIST_ENTRY(pack) by_change;
	SLIST_ENTRY(pack) by_sync;
	SLIST_ENTRY(pack) by_doom;
	unsigned uses;
	unsigned block_uses; /* of these */
	bool fresh;
	bool syncing;
	bool doomed;
	bool freeable;
	bool freeing;
	uint64_t doomed_bytes;
};

SLIST_HEAD(pack_slist, pack);
LIST_HEAD(pack_list, pack);

struct packs_batch {
	bool taken;
	bool new_names; /* some were created since the pin before */
	struct pack_slist sync;
	struct pack_slist doomed;
};

struct packs {
	struct packs_config cfg;
	atomic_uint_least64_t dirty_bytes;
	atomic_uint_least64_t generation; /* moves so far */
	struct fdcache fds;		  /* locked inside the lock */

	pthread_mutex_t lock; /* guards the rest */
	struct pack_slist by_id[BUCKETS];
	struct pack_list changed;
	struct pack_slist doomed;
	uint64_t doomed_bytes;
	struct packs_batch batch; /* its lists belong to who pinned */
};

int packs_open(const struct packs_config *cfg, struct packs **ret)
{
	struct packs *ps = calloc(1, sizeof(*ps));

	if (!ps)
		return -ENOMEM;
	ps->cfg = *cfg;
	if (!ps->cfg.io)
		ps->cfg.io = &pack_io_real;
	fdcache_init(&ps->fds, cfg->fds);
	pthread_mutex_init(&ps->lock, NULL);
	*ret = ps;
	return 0;
}

void packs_close(struct packs *ps)
{
	struct pack *pk;

	if (!ps)
		return;
	for (size_t i = 0; i < BUCKETS; i++) {
		while ((pk = SLIST_FIRST(&ps->by_id[i]))) {
			SLIST_REMOVE_HEAD(&ps->by_id[i], by_id);
			assert(!pk->uses);
			free(pk);
		}
	}
	fdcache_release(&ps->fds);
	pthread_mutex_destroy(&ps->lock);
	free(ps);
}

/* --- The table ---------------------------------------------------------- */

static struct pack_slist *bucket_of(struct packs *ps, uint64_t id)
{
	return &ps->by_id[id % BUCKETS];
}

static struct pack *find_locked(struct packs *ps, uint64_t id)
{
	struct pack *pk = SLIST_FIRST(bucket_of(ps, id));

	while (pk && pk->id != id)
		pk = SLIST_NEXT(pk, by_id);
	return pk;
}

/* The pack, added to the table if it is not there; NULL without memory. */
static struct pack *obtain_locked(struct packs *ps, uint64_t id)
{
	struct pack *pk = find_locked(ps, id);

	if (pk)
		return pk;
	pk = calloc(1, sizeof(*pk));
	if (!pk)
		return NULL;
	pk->ps = ps;
	pk->id = id;
	pk->slot = (struct fdslot)FDSLOT_INIT;
	/* What moved away while nobody used it may have been looked up before. */
	atomic_init(&pk->moved, atomic_load(&ps->generation));
	SLIST_INSERT_HEAD(bucket_of(ps, id), pk, by_id);
	return pk;
}

static void forget_locked(struct pack *pk)
{
	SLIST_REMOVE(bucket_of(pk->ps, pk->id), pk, pack, by_id);
	if (pk->changed)
		LIST_REMOVE(pk, by_change);
	free(pk);
}

/* Forget the pack if its file needs no watching any more. */
static void settle_locked(struct pack *pk)
{
	if (!pk->uses && !pk->changed && !pk->syncing && !pk->doomed)
		forget_locked(pk);
}

static int open_file(const void *arg)
{
	const struct pack *pk = arg;
	const struct packs_config *cfg = &pk->ps->cfg;

	return packio_open(cfg->io, cfg->dir_fd, pk->id);
}

static int pin_fd(struct pack *pk)
{
	const struct fdopener how = { open_file, pk };

	return fdslot_pin(&pk->ps->fds, &pk->slot, &how);
}

/* The first use finds out whether there is such a file. */
static int use_locked(struct pack *pk)
{
	int fd;

	if (pk->freeing)
		return -ENOENT;
	if (!pk->uses) {
		fd = pin_fd(pk);
		if (fd < 0)
			return fd;
		fdslot_unpin(&pk->slot);
	}
	pk->uses++;
	return 0;
}

static void change_locked(struct pack *pk)
{
	if (pk->changed)
		return;
	LIST_INSERT_HEAD(&pk->ps->changed, pk, by_change);
	pk->changed = true;
}

/* True if the caller is now to free the pack's file, with pack_free_file()
 * and without the lock; nobody can use it from here on. */
static bool claim_locked(struct pack *pk)
{
	if (!pk->freeable || pk->uses || pk->freeing)
		return false;
	pk->freeing = true;
	return true;
}

static void pack_free_file(struct pack *pk)
{
	struct packs *ps = pk->ps;
	uint64_t bytes = packio_free(ps->cfg.io, ps->cfg.dir_fd, pk->id);

	{
		LOCK_SCOPE(&ps->lock);
		ps->doomed_bytes -= pk->doomed_bytes;
		forget_locked(pk);
	}
	if (ps->cfg.credit)
		ps->cfg.credit(ps->cfg.credit_arg, bytes);
}

/* --- Uses --------------------------------------------------------------- */

int pack_create(struct packs *ps, uint64_t id, struct pack **ret)
{
	const struct packs_config *cfg = &ps->cfg;
	int fd = packio_create(cfg->io, cfg->dir_fd, id);
	struct pack *pk;

	if (fd < 0)
		return fd;
	LOCK_SCOPE(&ps->lock);
	pk = obtain_locked(ps, id);
	if (!pk) {
		(void)close(fd);
		(void)packio_free(cfg->io, cfg->dir_fd, id);
		return -ENOMEM;
	}
	assert(!pk->uses && !pk->fresh);
	fdslot_fill(&ps->fds, &pk->slot, fd);
	pk->uses = 1;
	pk->fresh = true;
	change_locked(pk);
	*ret = pk;
	return 0;
}

static int get(struct packs *ps, uint64_t id, unsigned block_uses,
	       struct pack **ret)
{
	LOCK_SCOPE(&ps->lock);
	struct pack *pk = obtain_locked(ps, id);
	int r = pk ? use_locked(pk) : -ENOMEM;

	if (r < 0) {
		if (pk)
			settle_locked(pk);
		return r;
	}
	pk->block_uses += block_uses;
	*ret = pk;
	return 0;
}

int pack_get(struct packs *ps, uint64_t id, struct pack **ret)
{
	return get(ps, id, 0, ret);
}

int pack_get_blocks(struct packs *ps, uint64_t id, struct pack **ret)
{
	return get(ps, id, 1, ret);
}

struct pack *pack_ref(struct pack *pk)
{
	LOCK_SCOPE(&pk->ps->lock);
	assert(pk->uses);
	pk->uses++;
	return pk;
}

void pack_put(struct pack *pk)
{
	bool claimed;
	int fd;

	if (!pk)
		return;
	{
		LOCK_SCOPE(&pk->ps->lock);
		assert(pk->uses);
		if (--pk->uses)
			return;
		fd = fdslot_take(&pk->ps->fds, &pk->slot);
		claimed = claim_locked(pk);
		settle_locked(pk);
	}
	base_closep(&fd);
	if (claimed)
		pack_free_file(pk);
}

void pack_put_blocks(struct pack *pk)
{
	pthread_mutex_lock(&pk->ps->lock);
	pk->block_uses--;
	pthread_mutex_unlock(&pk->ps->lock);
	pack_put(pk);
}

bool packs_busy(struct packs *ps, uint64_t id)
{
	LOCK_SCOPE(&ps->lock);
	const struct pack *pk = find_locked(ps, id);

	return pk && pk->uses > pk->block_uses;
}

bool packs_doomed(struct packs *ps, uint64_t id)
{
	LOCK_SCOPE(&ps->lock);
	const struct pack *pk = find_locked(ps, id);

	return pk && pk->doomed;
}

uint64_t pack_id(const struct pack *pk)
{
	return pk->id;
}

int pack_fd_get(struct pack *pk)
{
	int fd = pin_fd(pk);

	return fd == -ENOENT ? -EIO : fd;
}

void pack_fd_put(struct pack *pk)
{
	fdslot_unpin(&pk->slot);
}

bool pack_fresh(struct pack *pk)
{
	LOCK_SCOPE(&pk->ps->lock);
	return pk->fresh;
}

uint64_t packs_generation(const struct packs *ps)
{
	return atomic_load(&ps->generation);
}

uint64_t pack_moved(const struct pack *pk)
{
	return atomic_load(&pk->moved);
}

/* For a pack that is not in the table see obtain_locked(). */
void packs_moved(struct packs *ps, uint64_t id)
{
	LOCK_SCOPE(&ps->lock);
	uint64_t generation = atomic_fetch_add(&ps->generation, 1) + 1;
	struct pack *pk = find_locked(ps, id);

	if (pk)
		atomic_store(&pk->moved, generation);
}

/* --- Bytes -------------------------------------------------------------- */

const struct pack_io *pack_io(const struct pack *pk)
{
	return pk->ps->cfg.io;
}

void pack_changed(struct pack *pk, uint64_t bytes)
{
	struct packs *ps = pk->ps;
	uint64_t due = ps->cfg.dirty_bytes;
	uint64_t before;

	if (!pk->changed) {
		LOCK_SCOPE(&ps->lock);
		change_locked(pk);
	}
	before = atomic_fetch_add(&ps->dirty_bytes, bytes);
	if (before < due && before + bytes >= due)
		notify_call(&ps->cfg.due);
}

int packs_stat(struct packs *ps, uint64_t id, uint64_t *ret_disk_bytes)
{
	struct packio_name name = packio_name(id);
	struct stat st;

	if (fstatat(ps->cfg.dir_fd, name.text, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*ret_disk_bytes = packio_disk_bytes(&st);
	return 0;
}

/* --- Freeing and checkpoints -------------------------------------------- */

/* Returns the pack if the caller is to free its file. */
static struct pack *doom_locked(struct packs *ps, uint64_t id, uint64_t bytes)
{
	struct pack *pk = obtain_locked(ps, id);

	if (!pk || pk->doomed) /* no memory: left to the next sweep */
		return NULL;
	pk->doomed = true;
	pk->doomed_bytes = bytes;
	ps->doomed_bytes += bytes;
	pk->freeable = pk->fresh;
	if (!pk->freeable)
		SLIST_INSERT_HEAD(&ps->doomed, pk, by_doom);
	return claim_locked(pk) ? pk : NULL;
}

void pack_doom(struct packs *ps, uint64_t id)
{
	struct pack *claimed;
	uint64_t bytes = 0;

	if (packs_stat(ps, id, &bytes) < 0)
		return;
	{
		LOCK_SCOPE(&ps->lock);
		claimed = doom_locked(ps, id, bytes);
	}
	if (claimed)
		pack_free_file(claimed);
}

static void pin_changed_locked(struct packs *ps)
{
	struct packs_batch *batch = &ps->batch;
	struct pack *pk;

	while ((pk = LIST_FIRST(&ps->changed))) {
		LIST_REMOVE(pk, by_change);
		pk->changed = false;
		batch->new_names |= pk->fresh;
		pk->fresh = false;
		/* The snapshot does not name a doomed pack. */
		if (pk->doomed)
			continue;
		pk->syncing = true;
		SLIST_INSERT_HEAD(&batch->sync, pk, by_sync);
	}
}

struct packs_batch *packs_pin(struct packs *ps)
{
	LOCK_SCOPE(&ps->lock);
	struct packs_batch *batch = &ps->batch;

	assert(!batch->taken);
	batch->taken = true;
	batch->new_names = false;
	pin_changed_locked(ps);
	batch->doomed = ps->doomed;
	SLIST_INIT(&ps->doomed);
	atomic_store(&ps->dirty_bytes, 0);
	return batch;
}

static int start_writeback(const struct pack_io *io, int fd)
{
	(void)io;
	if (sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) == 0)
		return 0;
	return errno == ENOSYS ? 0 : base_sync_error();
}

static int finish_writeback(const struct pack_io *io, int fd)
{
	return io->fdatasync(fd) < 0 ? base_sync_error() : 0;
}

/* @fn on each changed pack of the batch, so that one at most is opened. */
static int batch_each(struct packs *ps, struct packs_batch *batch,
		      int (*fn)(const struct pack_io *io, int fd))
{
	struct pack *pk;
	int r, fd;

	for (pk = SLIST_FIRST(&batch->sync); pk; pk = SLIST_NEXT(pk, by_sync)) {
		{
			LOCK_SCOPE(&ps->lock);
			r = use_locked(pk);
		}
		if (r == -ENOENT) /* shows when the file is verified */
			continue;
		if (r < 0)
			return r;
		fd = pack_fd_get(pk);
		r = fd < 0 ? fd : fn(ps->cfg.io, fd);
		if (fd >= 0)
			pack_fd_put(pk);
		pack_put(pk);
		if (r < 0)
			return r;
	}
	return 0;
}

int packs_sync(struct packs *ps, struct packs_batch *batch)
{
	int r = batch_each(ps, batch, start_writeback);

	if (r >= 0)
		r = batch_each(ps, batch, finish_writeback);
	if (r >= 0 && batch->new_names && ps->cfg.io->fsync(ps->cfg.dir_fd) < 0)
		r = base_sync_error();
	return r;
}

/* True if the caller is to free the pack's file. */
static bool release_locked(struct pack *pk, bool safe)
{
	pk->freeable = safe;
	if (claim_locked(pk))
		return true;
	pk->ps->doomed_bytes -= pk->doomed_bytes;
	pk->doomed_bytes = 0;
	if (safe) /* with its last use */
		return false;
	pk->doomed = false;
	settle_locked(pk);
	return false;
}

/* One doomed pack less; false when there was none left. */
static bool release_doomed(struct packs *ps, struct packs_batch *batch,
			   bool safe)
{
	struct pack *pk = SLIST_FIRST(&batch->doomed);
	bool claimed;

	if (!pk)
		return false;
	SLIST_REMOVE_HEAD(&batch->doomed, by_doom);
	{
		LOCK_SCOPE(&ps->lock);
		claimed = release_locked(pk, safe);
	}
	if (claimed)
		pack_free_file(pk);
	return true;
}

void packs_release(struct packs *ps, struct packs_batch *batch, bool safe)
{
	struct pack *pk;

	{
		LOCK_SCOPE(&ps->lock);
		while ((pk = SLIST_FIRST(&batch->sync))) {
			SLIST_REMOVE_HEAD(&batch->sync, by_sync);
			pk->syncing = false;
			settle_locked(pk);
		}
	}
	while (release_doomed(ps, batch, safe)) {
	}
	LOCK_SCOPE(&ps->lock);
	batch->taken = false;
}

uint64_t packs_doomed_bytes(struct packs *ps)
{
	LOCK_SCOPE(&ps->lock);
	return ps->doomed_bytes;
}

uint64_t packs_dirty_bytes(struct packs *ps)
{
	return atomic_load(&ps->dirty_bytes);
}

bool packs_changed(struct packs *ps)
{
	LOCK_SCOPE(&ps->lock);
	return !LIST_EMPTY(&ps->changed);
}

/* --- All of them -------------------------------------------------------- */

int packs_sweep(struct packs *ps, int (*keep)(void *arg, uint64_t id),
		void *arg, uint64_t *ret_bytes)
{
	return packio_sweep(ps->cfg.io, ps->cfg.dir_fd, keep, arg, ret_bytes);
}

uint64_t packs_dir_bytes(struct packs *ps)
{
	struct stat st;

	return fstat(ps->cfg.dir_fd, &st) < 0 ? 0 : packio_disk_bytes(&st);
}
