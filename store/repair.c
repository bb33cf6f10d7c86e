/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "store/parts.h"
#include "store/rebuild.h"
#include "store/table.h"
#include "store/tidy.h"

/* Of the side file, the lock file and the directory of the new index. */
#define REPAIR_SLACK (256 * KIB)
#define REPAIR_RESCANS 16 /* each finds what the one before it made visible */

struct repair {
	const struct store_config *cfg;
	const struct store_repair *how;
	struct store_repaired *ret;
	uint64_t limit; /* that the store recorded; 0: none */
	uint64_t index_bytes;
	char *why;
	size_t why_size;
};

static int repair_failed(struct repair *rp, const char *what, int r)
{
	if (!*rp->why)
		snprintf(rp->why, rp->why_size, "repairing %s: %s: %s",
			 rp->cfg->path, what, strerror(-r));
	return r;
}

/* --- The store, open ----------------------------------------------------- */

/* As large as it may be: nothing is to be evicted. An index that is unreadable
 * is set aside by that. */
static int repair_open(struct repair *rp, struct store **ret)
{
	struct store_config cfg = *rp->cfg;
	int r;

	cfg.flags = 0;
	cfg.limits = (struct store_limits){ .limit = "100%",
					    .min_free = "0",
					    .grace_sec = -1 };
	r = store_open(&cfg, ret, rp->why, rp->why_size);
	if (r != -EBADMSG)
		return r;
	*rp->why = '\0';
	cfg.flags = STORE_OPEN_CREATE;
	return store_open(&cfg, ret, rp->why, rp->why_size);
}

static int repair_check(struct repair *rp, struct store *st,
			void (*found)(void *arg, const char *text),
			uint64_t *ret)
{
	struct store_check how = { .data = rp->how->data,
				   .alone = true,
				   .found = found,
				   .arg = rp->how->arg };
	struct store_checked checked;
	int r = store_check(st, &how, &checked);

	if (r >= 0)
		*ret = checked.findings;
	return r;
}

static int repair_read_limit(struct repair *rp, struct store *st)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(st->ix, false, &txn);

	if (r >= 0)
		r = table_meta_get(txn, TABLE_META_LIMIT, &rp->limit);
	rp->index_bytes = index_disk_bytes(st->ix);
	return r == -ENOENT || r == -EBADMSG ? 0 : r;
}

/* What is wrong now? */
static int repair_look(struct repair *rp)
{
	struct store *st = NULL;
	int r = repair_open(rp, &st), end;

	if (r < 0)
		return r;
	r = repair_check(rp, st, rp->how->found, &rp->ret->found);
	if (r >= 0)
		r = repair_read_limit(rp, st);
	end = store_close(st);
	return r < 0 ? r : end;
}

/* Entries of names that moved, as the daemon's housekeeping would. */
static int repair_rescan(struct store *st)
{
	int r = 0;

	for (int i = 0; i < REPAIR_RESCANS && r >= 0; i++) {
		struct tidy_pos pos = { .part = 0 };

		while ((r = tidy_rescan(&st->tree, &pos)) > 0)
			;
	}
	return r;
}

/* Is nothing wrong any more? */
static int repair_look_again(struct repair *rp)
{
	struct store *st = NULL;
	int r = repair_open(rp, &st), end;

	if (r < 0)
		return r;
	r = repair_rescan(st);
	if (r >= 0)
		r = repair_check(rp, st, rp->how->found, &rp->ret->left);
	end = store_close(st);
	return r < 0 ? r : end;
}

/* Evict what is used least, so that another index fits. */
static int repair_make_room(struct repair *rp)
{
	struct store_prune how = { .older_than_sec = -1, .no_grace = true };
	uint64_t need = 2 * rp->index_bytes + 2 * REPAIR_SLACK;
	struct store_pruned gone;
	struct store *st = NULL;
	int r, end;

	if (!rp->limit || rp->limit <= need)
		return -ENOSPC;
	how.to_bytes = rp->limit - need;
	r = repair_open(rp, &st);
	if (r < 0)
		return r;
	r = store_prune(st, &how, &gone);
	end = store_close(st);
	return r < 0 ? r : end;
}

/* --- The store, closed --------------------------------------------------- */

/* What the new index may take beside all that is there. */
static uint64_t repair_room(struct repair *rp, struct home *home)
{
	uint64_t used = home_disk_bytes(home) + REPAIR_SLACK, disk;
	struct statvfs vfs;

	if (fstatvfs(home->dir_fd, &vfs) < 0)
		return 0;
	disk = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	if (!rp->limit)
		return disk;
	if (used >= rp->limit)
		return 0;
	return rp->limit - used < disk ? rp->limit - used : disk;
}

/* From here on it is the store's. The old one, and what was set aside, go when
 * that is on the disk. */
static int repair_swap(struct repair *rp, struct home *home, int *new_fd)
{
	int r = home_swap_index(home, *new_fd);

	if (r < 0)
		return r;
	*new_fd = -1;
	rp->ret->rebuilt = true;
	if (fsync(home->dir_fd) < 0)
		return -errno;
	if (rp->ret->aside)
		(void)home_reclaim(home);
	return 0;
}

static int repair_rebuild(struct repair *rp, struct home *home)
{
	cleanup_close int bad_index = -1, bad_packs = -1, new_fd = -1;
	struct rebuild rb = { .index_fd = home->index_fd,
			      .packs_fd = home->packs_fd,
			      .data = rp->how->data,
			      .said = rp->how->done,
			      .arg = rp->how->arg };
	int r;

	(void)home_open_bad(home, &bad_index, &bad_packs);
	rb.bad_index_fd = bad_index;
	rb.bad_packs_fd = bad_packs;
	rp->ret->aside = bad_index >= 0;
	rb.most_bytes = repair_room(rp, home);
	r = home_new_index(home, &new_fd);
	rb.new_fd = new_fd;
	if (r >= 0)
		r = rebuild_run(&rb);
	if (r >= 0)
		r = repair_swap(rp, home, &new_fd);
	home_drop_new_index(home);
	if (r < 0)
		return r;
	rp->ret->unread = rb.bad_records + rb.bad_pages;
	rp->ret->done = rb.lines;
	rp->ret->lost = rb.lost;
	rp->ret->rescued = rb.found;
	return 0;
}

static int repair_closed(struct repair *rp, bool *ret_aside)
{
	struct home home = HOME_INIT;
	cleanup_close int bad_index = -1, bad_packs = -1;
	int r = home_open(&home, rp->cfg->path, false, rp->cfg->owner_note,
			  rp->why, rp->why_size);

	if (r < 0)
		return r;
	*ret_aside = home_open_bad(&home, &bad_index, &bad_packs) >= 0;
	if (rp->ret->found || *ret_aside)
		r = repair_rebuild(rp, &home);
	home_close(&home);
	return r;
}

int store_repair(const struct store_config *cfg, const struct store_repair *how,
		 struct store_repaired *ret, char *why, size_t why_size)
{
	struct store_repaired none = { .found = 0 };
	struct repair rp = { .cfg = cfg,
			     .how = how,
			     .ret = &none,
			     .why = why,
			     .why_size = why_size };
	bool aside = false;
	int r;

	*why = '\0';
	r = repair_look(&rp);
	if (r < 0)
		return repair_failed(&rp, "looking at it", r);
	r = repair_closed(&rp, &aside);
	/* What was set aside is the first to go when room is made. */
	if (r == -ENOSPC && !aside && repair_make_room(&rp) >= 0)
		r = repair_closed(&rp, &aside);
	if (r == -ENOSPC)
		snprintf(
			why, why_size,
			"repairing %s: no room below the limit for a new index; raise it (pipcachefs limit), repair, and lower it again",
			cfg->path);
	if (r < 0)
		return repair_failed(&rp, "building a new index", r);
	if (none.rebuilt)
		r = repair_look_again(&rp);
	if (r < 0)
		return repair_failed(&rp, "looking at it again", r);
	*ret = none;
	return 0;
}
