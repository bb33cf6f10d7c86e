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
#include "store/recover.h"
#include "store/resume.h"
#include "store/sweep.h"
#include "store/table.h"
#include "store/tree.h"

void store_report(void *arg, int priority, const char *text)
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

void store_changed(void *arg)
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
	struct store *st = arg;
	char text[160];

	if (frozen && st->frozen)
		atomic_store(st->frozen, (uint32_t)-error);
	snprintf(text, sizeof(text), "saving the store failed: %s; %s",
		 strerror(-error),
		 frozen ? "it is read-only until the next mount"
			: "nothing is lost, it is tried again every second");
	store_report(arg, frozen ? LOG_ERR : LOG_WARNING, text);
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
		.changed = { .fn = store_changed, .arg = st },
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
	st->files.report = store_report;
	st->files.report_arg = st;
	gc_set_report(st->gc, store_report, st);
	pthread_mutex_init(&st->files.lock, NULL);
	return 0;
}

/* The first checkpoint, and those after it. */
static int setup_checkpoints(struct store *st, bool live)
{
	struct checkpoint_config cc = {
		.packs = st->packs,
		.holes = st->holes,
		.before = { .fn = setup_before_checkpoint, .arg = st },
		.after = { .fn = setup_after_checkpoint, .arg = st },
		.failed = setup_checkpoint_failed,
		.failed_arg = st,
		.index_dir_fd = st->home.index_fd,
		.ix = st->ix,
		.witness = st->witness,
		.live = live,
		.frozen = st->found_frozen,
	};
	struct checkpoint *cp = NULL;
	int r = checkpoint_start(&cc, &cp);

	atomic_store(&st->cp, cp);
	return r < 0 || !live || st->found_frozen ? r
						  : index_top_up_ids(st->ix);
}

/* Charge what is there, and a small transaction that nobody reserves room
 * for; then run the first checkpoint. A live index may name other packs than
 * the last checkpoint does: it is saved before any of them goes. */
static int setup_start(struct store *st, int found, struct sweep_result *res,
		       char *reason, size_t size)
{
	bool live = found == RECOVER_LIVE || st->found_frozen;
	struct index_stat is;
	int r = live ? setup_checkpoints(st, true) : 0;

	if (r >= 0)
		r = sweep_packs(&st->tree, res);
	if (r >= 0)
		r = index_stat(st->ix, &is);
	if (r < 0)
		return r;
	room_settle(st->room, 0,
		    home_fixed_bytes(&st->home, is.page_size) +
			    index_txn_bound(st->ix) + res->pack_bytes +
			    home_bad_bytes(&st->home));
	setup_charge_parts(st);
	if (found == RECOVER_CLEAN && !st->found_frozen) {
		r = store_compact_index(st, &is, reason, size);
		if (r < 0)
			return r;
		setup_charge_parts(st);
	}
	return live ? 0 : setup_checkpoints(st, false);
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
	struct scrub_config sc = {
		.fs = &st->files,
		.period_sec = cfg->scrub_sec,
		.index_bad = store_found_bad,
		.index_damaged = store_found_damaged,
		.arg = st,
	};
	int r = st->found_frozen ? 0 : gc_adopt(&st->tree);

	/* Before anything can evict, ingest or sweep what is open. */
	if (r >= 0)
		r = st->resume
			    ? resume_files(&st->files, cfg->files, cfg->n_files)
			    : resume_forget(&st->tree);
	if (r >= 0)
		r = ingest_start(&st->files, &st->ingest);
	if (r >= 0)
		r = gc_start(st->gc);
	if (r >= 0)
		r = evict_start(&ec, &st->evict);
	return r < 0 || !(cfg->flags & STORE_OPEN_CREATE)
		       ? r
		       : scrub_start(&sc, &st->scrub);
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
		store_report(st, LOG_NOTICE, text);
	}
	if (res->unreadable) {
		snprintf(
			text, sizeof(text),
			"%" PRIu64
			" inode records are damaged: their files are lost, all packs are kept until the next mount",
			res->unreadable);
		store_report(st, LOG_ERR, text);
	}
}

static int setup_store(struct store *st, const struct store_config *cfg,
		       char *why, size_t why_size)
{
	bool create = cfg->flags & STORE_OPEN_CREATE;
	char reason[2 * STORE_REASON_MAX] = "";
	struct sweep_result res = { 0 };
	int found = store_load_index(st, create, reason, sizeof(reason));
	int r = found < 0 ? found : setup_parts(st);

	if (r >= 0 && st->resume && found == RECOVER_RESTORED) {
		snprintf(reason, sizeof(reason),
			 "it is not as the last process left it");
		r = -ESTALE;
	}
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
		store_vetted(st);
	if (r >= 0)
		r = setup_threads(st, cfg);
	if (r >= 0 && !st->found_frozen)
		r = sweep_inodes(&st->tree, found == RECOVER_RESTORED,
				 setup_left, st, &res);
	if (r >= 0 && st->daemon && !st->found_frozen)
		store_note_limit(st);
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

	scrub_stop(st->scrub);
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
		store_put_back_index(st);
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
	if (cfg->lock_fd > 0)
		st->home.lock_fd = cfg->lock_fd;
	st->daemon = cfg->flags & STORE_OPEN_CREATE;
	st->sync_strict = cfg->sync_strict;
	st->resume = cfg->resume;
	st->witness = cfg->witness;
	st->frozen = cfg->frozen;
	if (cfg->resume && cfg->frozen)
		st->found_frozen = -(int)atomic_load(cfg->frozen);
	st->home.read_only = st->found_frozen;
	st->distrust = cfg->distrust;
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
	if (st->home.read_only && !st->found_frozen)
		st->found_frozen = -EROFS;
	r = setup_store(st, cfg, why, why_size);
	if (r < 0) {
		(void)setup_close(st, false);
		return r;
	}
	*ret = st;
	return 0;
}

int store_close(struct store *st)
{
	store_ending(st);
	return setup_close(st, true);
}
