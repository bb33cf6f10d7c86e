/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <syslog.h>

#include "store/layout.h"
#include "store/parts.h"
#include "store/sweep.h"
#include "store/table.h"
#include "store/tree.h"

#define SETUP_REASON_MAX 256
#define SETUP_COMPACT_BYTES (16 * MIB) /* smaller indexes stay as they are */

static void setup_report(void *arg, int priority, const char *text)
{
	struct store *st = arg;

	if (st->report)
		st->report(st->report_arg, priority, text);
}

static int64_t setup_disk_free(void *arg)
{
	const struct store *st = arg;
	struct statvfs vfs;

	if (fstatvfs(st->home.dir_fd, &vfs) < 0)
		return -errno;
	return (int64_t)(vfs.f_bavail * vfs.f_frsize);
}

static void setup_credit(void *arg, uint64_t bytes)
{
	struct store *st = arg;

	room_credit(st->room, bytes);
}

static void setup_changed(void *arg)
{
	struct store *st = arg;
	struct checkpoint *cp = atomic_load(&st->cp);

	if (cp)
		checkpoint_changed(cp);
}

/* Many dirty bytes, or many uses in memory. */
static void setup_due(void *arg)
{
	struct store *st = arg;
	struct checkpoint *cp = atomic_load(&st->cp);

	if (cp)
		checkpoint_due(cp);
}

static void setup_before_checkpoint(void *arg)
{
	struct store *st = arg;

	/* What fails costs recency only. */
	(void)entry_flush(st->entries, st->ix, st->room);
}

static void setup_after_checkpoint(void *arg)
{
	struct store *st = arg;

	room_raise_part(st->room, ROOM_INDEX, index_disk_bytes(st->ix));
	room_raise_part(st->room, ROOM_DIRS, packs_dir_bytes(st->packs));
}

static void setup_checkpoint_failed(void *arg, int error, bool frozen)
{
	char text[160];

	snprintf(text, sizeof(text), "saving the store failed: %s; %s",
		 strerror(-error),
		 frozen ? "it is read-only until the next mount"
			: "nothing is lost, it is tried again every second");
	setup_report(arg, frozen ? LOG_ERR : LOG_WARNING, text);
}

/* As it is, nobody else runs. */
static void setup_charge_parts(struct store *st)
{
	room_set_part(st->room, ROOM_INDEX, index_disk_bytes(st->ix));
	room_set_part(st->room, ROOM_DIRS, packs_dir_bytes(st->packs));
}

static int setup_wait_checkpoint(void *arg)
{
	struct store *st = arg;
	struct checkpoint *cp = atomic_load(&st->cp);

	return cp ? checkpoint_run(cp) : 0;
}

static void setup_dropped(void *arg)
{
	struct store *st = arg;

	gc_wake(st->gc);
}

static void setup_closed(void *arg, uint64_t ino, uint64_t bytes)
{
	struct store *st = arg;

	if (st->ingest)
		ingest_add(st->ingest, ino, bytes);
}

/* What an earlier mount left holds nobody up. */
static void setup_left(void *arg, uint64_t ino)
{
	setup_closed(arg, ino, 0);
}

static uint64_t setup_reclaim(void *arg)
{
	struct store *st = arg;
	uint64_t bytes = home_reclaim(&st->home);

	room_credit(st->room, bytes);
	return bytes;
}

/* Take back what opening the index has committed; nothing was built on it. */
static void setup_put_back(struct store *st)
{
	char said[SETUP_REASON_MAX];

	index_close(steal_ptr(st->ix));
	(void)checkpoint_recover(st->home.index_fd, false, said, sizeof(said));
}

/* Is there a root, or nothing yet that would hang on one? -EBADMSG: no. */
static int setup_check_root(struct index *ix)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct index_stat is;
	struct inode root;
	int r = index_begin(ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, STORE_ROOT_INO, &root);
	if (r >= 0)
		return S_ISDIR(root.mode) ? 0 : -EBADMSG;
	if (r != -ENOENT)
		return r;
	r = index_stat(ix, &is);
	if (r < 0)
		return r;
	return is.entries[INDEX_INODE] || is.entries[INDEX_DIRENT] ? -EBADMSG
								   : 0;
}

/* Open what was recovered. -EBADMSG: it is whole, but nothing to build on. */
static int setup_index(struct store *st, int found, char *reason, size_t size)
{
	struct notify changed = { .fn = setup_changed, .arg = st };
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", st->home.index_fd);
	r = index_open(path, found == CHECKPOINT_RESTORED ? INDEX_RESTORED : 0,
		       CHECKPOINT_GROWTH_BYTES, changed, &st->ix);
	if (r == -EBADMSG)
		snprintf(
			reason, size,
			"index/data.mdb: a table or the mark of used ids is missing or damaged");
	else if (r < 0)
		snprintf(reason, size, "opening the index: %s", strerror(-r));
	if (r < 0)
		return r;
	r = setup_check_root(st->ix);
	if (r == -EBADMSG)
		snprintf(
			reason, size,
			"index/data.mdb: the root directory is missing or damaged");
	else if (r < 0)
		snprintf(reason, size, "reading the root directory: %s",
			 strerror(-r));
	if (r < 0)
		setup_put_back(st);
	return r;
}

/* Recover the index and open it. Returns what was found, or an error and
 * @reason; -EBADMSG: the index is of no use. */
static int setup_recover(struct store *st, char *reason, size_t size)
{
	char said[SETUP_REASON_MAX] = "", text[SETUP_REASON_MAX + 80];
	int found, r;

	found = checkpoint_recover(st->home.index_fd, false, said,
				   sizeof(said));
	if (found == CHECKPOINT_UNREADABLE) {
		snprintf(reason, size, "%s", said);
		return -EBADMSG;
	}
	if (found < 0) {
		snprintf(reason, size, "reading the index: %s",
			 *said ? said : strerror(-found));
		return found;
	}
	r = setup_index(st, found, reason, size);
	if (r < 0)
		return r;
	if (found == CHECKPOINT_RESTORED) {
		snprintf(
			text, sizeof(text),
			"the store was not closed: back at its last checkpoint (%s)",
			said);
		setup_report(st, LOG_NOTICE, text);
	}
	return found;
}

/* The same; an index that is of no use is set aside, or refused. */
static int setup_some_index(struct store *st, bool set_aside, char *reason,
			    size_t size)
{
	char wrong[SETUP_REASON_MAX] = "", text[SETUP_REASON_MAX + 120];
	int found, r;

	home_drop_new_index(&st->home); /* of a rewrite that was cut off */
	found = setup_recover(st, wrong, sizeof(wrong));
	if (found != -EBADMSG) {
		snprintf(reason, size, "%s", wrong);
		return found;
	}
	if (!set_aside) {
		snprintf(
			reason, size,
			"the index is unreadable (%s); mount the store to begin with an empty one",
			wrong);
		return -EBADMSG;
	}
	r = home_set_aside(&st->home);
	if (r < 0) {
		snprintf(reason, size, "setting the damaged index aside: %s",
			 strerror(-r));
		return r;
	}
	snprintf(
		text, sizeof(text),
		"the index is unreadable (%s): set aside as index.bad, its packs as packs.bad; the cache starts empty",
		wrong);
	setup_report(st, LOG_ERR, text);
	return setup_recover(st, reason, size);
}

static int setup_parts(struct store *st)
{
	struct packs_config pc = {
		.dir_fd = st->home.packs_fd,
		.dirty_bytes = CHECKPOINT_DIRTY_BYTES,
		.due = { .fn = setup_due, .arg = st },
		.credit = setup_credit,
		.credit_arg = st,
	};
	struct room_disk disk = { .free_bytes = setup_disk_free, .arg = st };
	struct notify due = { .fn = setup_due, .arg = st };
	struct holes_config hc = {
		.dir_fd = st->home.packs_fd,
		.credit = setup_credit,
		.credit_arg = st,
		.changed = { .fn = setup_changed, .arg = st },
	};
	int r = packs_open(&pc, &st->packs);

	if (r >= 0)
		r = section_new(&st->readers);
	hc.readers = st->readers;
	hc.packs = st->packs;
	if (r >= 0)
		r = holes_open(&hc, &st->holes);
	if (r >= 0)
		r = gc_new(&st->tree, &st->gc);
	if (r >= 0)
		r = room_new(disk, &st->room);
	if (r >= 0)
		r = nodes_new(&st->nodes);
	if (r >= 0)
		r = linger_new(LINGER_MS, &st->linger);
	if (r >= 0)
		r = entries_new(due, &st->entries);
	if (r < 0)
		return r;
	st->tree = (struct tree){ .ix = st->ix,
				  .packs = st->packs,
				  .nodes = st->nodes,
				  .entries = st->entries,
				  .room = st->room,
				  .linger = st->linger,
				  .readers = st->readers,
				  .holes = st->holes,
				  .dropped = { .fn = setup_dropped, .arg = st },
				  .checkpoint = setup_wait_checkpoint,
				  .checkpoint_arg = st };
	st->files.t = &st->tree;
	st->files.closed = setup_closed;
	st->files.closed_arg = st;
	st->files.report = setup_report;
	st->files.report_arg = st;
	gc_set_report(st->gc, setup_report, st);
	pthread_mutex_init(&st->files.lock, NULL);
	return 0;
}

/* A compact copy of the index, with the side file of one that was closed. */
static int setup_copy_index(struct store *st, int new_fd)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", new_fd);
	r = index_copy_compact(st->ix, path);
	return r < 0 ? r : checkpoint_seal(new_fd);
}

/* An index that is mostly free pages is replaced by a compact copy. What
 * fails leaves the old one in place. */
static int setup_compact(struct store *st, const struct index_stat *is,
			 char *reason, size_t size)
{
	uint64_t bytes;
	int new_fd = -1, r;

	if (is->free_pages * 2 <= is->file_pages ||
	    is->file_pages * is->page_size <= SETUP_COMPACT_BYTES)
		return 0;
	bytes = (is->file_pages - is->free_pages) * is->page_size + MIB;
	if (room_reserve(st->room, QUOTA_SYSTEM, bytes) < 0)
		return 0;
	r = home_new_index(&st->home, &new_fd);
	if (r >= 0)
		r = setup_copy_index(st, new_fd);
	if (r >= 0) {
		index_close(steal_ptr(st->ix));
		r = home_swap_index(&st->home, new_fd);
		if (r < 0)
			base_closep(&new_fd);
		r = setup_index(st, CHECKPOINT_CLEAN, reason, size);
		st->tree.ix = st->ix;
		if (r >= 0)
			store_apply_growth(st);
	} else {
		base_closep(&new_fd);
		r = 0;
	}
	home_drop_new_index(&st->home);
	room_settle(st->room, bytes, 0);
	return r;
}

/* Charge what is there, and a small transaction that nobody reserves room
 * for; then run the first checkpoint. */
static int setup_start(struct store *st, int found, struct sweep_result *res,
		       char *reason, size_t size)
{
	struct checkpoint_config cc = {
		.packs = st->packs,
		.holes = st->holes,
		.before = { .fn = setup_before_checkpoint, .arg = st },
		.after = { .fn = setup_after_checkpoint, .arg = st },
		.failed = setup_checkpoint_failed,
		.failed_arg = st,
	};
	struct checkpoint *cp = NULL;
	struct index_stat is;
	int r = sweep_packs(&st->tree, res);

	if (r >= 0)
		r = index_stat(st->ix, &is);
	if (r < 0)
		return r;
	room_settle(st->room, 0,
		    home_fixed_bytes(&st->home, is.page_size) +
			    index_txn_bound(st->ix) + res->pack_bytes +
			    home_bad_bytes(&st->home));
	setup_charge_parts(st);
	if (found == CHECKPOINT_CLEAN) {
		r = setup_compact(st, &is, reason, size);
		if (r < 0)
			return r;
		setup_charge_parts(st);
	}
	cc.index_dir_fd = st->home.index_fd;
	cc.ix = st->ix;
	r = checkpoint_start(&cc, &cp);
	atomic_store(&st->cp, cp);
	return r;
}

static int setup_root(struct store *st, const struct store_config *cfg)
{
	struct inode root;
	int r = tree_get(&st->tree, STORE_ROOT_INO, &root);

	return r == -ESTALE || r == -EBADMSG
		       ? tree_create_root(&st->tree, cfg->root_uid,
					  cfg->root_gid)
		       : r;
}

static int setup_threads(struct store *st, const struct store_config *cfg)
{
	struct evict_config ec = {
		.t = &st->tree,
		.cp = st->cp,
		.gc = st->gc,
		.grace_sec = cfg->limits.grace_sec < 0 ? LAYOUT_GRACE_SEC
						       : cfg->limits.grace_sec,
		.reclaim = setup_reclaim,
		.reclaim_arg = st,
	};
	int r = gc_adopt(&st->tree);

	if (r >= 0)
		r = ingest_start(&st->files, &st->ingest);
	if (r >= 0)
		r = gc_start(st->gc);
	return r < 0 ? r : evict_start(&ec, &st->evict);
}

static void setup_tell_sweep(struct store *st, const struct sweep_result *res)
{
	char text[160];

	if (res->dropped) {
		snprintf(
			text, sizeof(text),
			"%" PRIu64
			" files were being written at the last checkpoint: dropped",
			res->dropped);
		setup_report(st, LOG_NOTICE, text);
	}
	if (res->unreadable) {
		snprintf(
			text, sizeof(text),
			"%" PRIu64
			" inode records are damaged: their files are lost, all packs are kept until the next mount",
			res->unreadable);
		setup_report(st, LOG_ERR, text);
	}
}

static int setup_store(struct store *st, const struct store_config *cfg,
		       char *why, size_t why_size)
{
	bool create = cfg->flags & STORE_OPEN_CREATE;
	char reason[2 * SETUP_REASON_MAX] = "";
	struct sweep_result res = { 0 };
	int found = setup_some_index(st, create, reason, sizeof(reason));
	int r = found < 0 ? found : setup_parts(st);

	if (r >= 0) {
		*why = '\0';
		r = store_apply_limits(st, &cfg->limits, false, why, why_size);
		if (r < 0 && *why)
			return r;
	}
	if (r >= 0)
		r = setup_start(st, found, &res, reason, sizeof(reason));
	if (r >= 0)
		r = setup_root(st, cfg);
	if (r >= 0)
		r = setup_threads(st, cfg);
	if (r >= 0)
		r = sweep_inodes(&st->tree, found == CHECKPOINT_RESTORED,
				 setup_left, st, &res);
	if (r < 0)
		snprintf(why, why_size, "opening the store %s: %s", cfg->path,
			 *reason ? reason : strerror(-r));
	else
		setup_tell_sweep(st, &res);
	return r;
}

/* Whatever of it is there; the index stays unclean unless @clean. */
static int setup_close(struct store *st, bool clean)
{
	struct checkpoint *cp;
	int r;

	linger_end(&st->tree, true);
	evict_stop(st->evict);
	ingest_stop(st->ingest);
	gc_free(st->gc);
	cp = atomic_load(&st->cp);
	r = checkpoint_stop(cp, clean && !nodes_count(st->nodes));
	linger_free(st->linger);
	holes_close(st->holes);
	section_free(st->readers);
	nodes_free(st->nodes);
	packs_close(st->packs);
	if (!cp && st->ix)
		setup_put_back(st);
	index_close(st->ix);
	entries_free(st->entries);
	room_free(st->room);
	idset_release(&st->files.verified);
	home_close(&st->home);
	free(st);
	return r;
}

int store_open(const struct store_config *cfg, struct store **ret, char *why,
	       size_t why_size)
{
	int r = store_check_limits(cfg->path, &cfg->limits, why, why_size);
	struct store *st;

	if (r < 0)
		return r;
	st = calloc(1, sizeof(*st));
	if (!st) {
		snprintf(why, why_size, "opening %s: out of memory", cfg->path);
		return -ENOMEM;
	}
	st->home = (struct home)HOME_INIT;
	st->sync_strict = cfg->sync_strict;
	st->report = cfg->report;
	st->report_arg = cfg->report_arg;
	st->since = base_now_ns() / NSEC_PER_SEC;
	snprintf(st->note, sizeof(st->note), "%s",
		 cfg->owner_note ? cfg->owner_note : "");
	r = home_open(&st->home, cfg->path, cfg->flags & STORE_OPEN_CREATE,
		      st->note, why, why_size);
	if (r < 0) {
		free(st);
		return r;
	}
	r = setup_store(st, cfg, why, why_size);
	if (r < 0) {
		(void)setup_close(st, false);
		return r;
	}
	*ret = st;
	return 0;
}

void store_ending(struct store *st)
{
	home_ending(&st->home, st->note);
}

int store_close(struct store *st)
{
	store_ending(st);
	return setup_close(st, true);
}

int store_probe(const char *path, pid_t *ret_pid, char *why, size_t why_size)
{
	return home_probe(path, ret_pid, why, why_size);
}

int store_look(const char *path, char *why, size_t why_size)
{
	cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int index = -1;
	char said[SETUP_REASON_MAX] = "";
	int found = -1;

	if (dir >= 0)
		index = openat(dir, "index",
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir >= 0 && index < 0 && errno == ENOENT)
		return 0; /* a first mount that was cut off makes it */
	if (index >= 0)
		found = checkpoint_recover(index, true, said, sizeof(said));
	else
		found = -errno;
	if (found == CHECKPOINT_UNREADABLE) {
		snprintf(why, why_size, "%s: the index is unreadable (%s)",
			 path, said);
		return -EBADMSG;
	}
	if (found < 0)
		snprintf(why, why_size, "reading the index of %s: %s", path,
			 strerror(-found));
	return found < 0 ? found : found == CHECKPOINT_RESTORED;
}
