/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <syslog.h>
#include <unistd.h>

#include "store/compact.h"
#include "store/layout.h"
#include "store/parts.h"
#include "store/table.h"
#include "store/tidy.h"
#include "store/unit.h"

#define STATUS_BLOCK 4096 /* f_bsize of statfs: a unit, not a page */
#define STATUS_CHUNK 1024 /* inodes looked at in one read transaction */
/* The index may grow by this share of the limit between two checkpoints. */
#define STATUS_GROWTH_SHARE 32
/* And commits between two may rewrite this share, at most so many bytes; three
 * times that is what it takes on disk beyond what is live. */
#define STATUS_REWRITE_SHARE 16
#define STATUS_REWRITE_BYTES (8 * MIB)
/* The smallest limit must hold this many of the largest transactions. */
#define STATUS_TXNS_MIN 32
#define STATUS_AGE_MAX_SEC (INT64_MAX / NSEC_PER_SEC) /* 292 years */
#define STATUS_LOOKS 8 /* at a directory that changes */
#define STATUS_FILES_PER_GIB (UINT64_C(1) << 16) /* of statfs: no real bound */

/* One of the limits as text, or a default. */
static int status_parse(const char *what, const char *text, uint64_t whole,
			uint64_t *value, char *why, size_t why_size)
{
	int r;

	if (!text)
		return 0;
	r = quota_parse_size(text, whole, value);
	if (r < 0)
		snprintf(why, why_size,
			 "%s=%s is not a size: write 512M, 5G or 10%%", what,
			 text);
	return r;
}

/* The limit and the low mark that were asked for; what is NULL stays, but for
 * a limit below @least. */
static int status_parse_limit(const struct store_limits *text, uint64_t disk,
			      uint64_t least, struct quota *q, char *why,
			      size_t why_size)
{
	int r = status_parse("limit", text->limit, disk, &q->limit, why,
			     why_size);

	if (r < 0)
		return r;
	if (text->limit && q->limit < least) {
		snprintf(why, why_size,
			 "limit=%s is too small: at least %" PRIu64 "M",
			 text->limit, least / MIB);
		return -EINVAL;
	}
	if (q->limit < least)
		q->limit = least;
	r = status_parse("low", text->low, q->limit, &q->low, why, why_size);
	if (r < 0)
		return r;
	if (text->limit && text->low && q->low > q->limit) {
		snprintf(
			why, why_size,
			"low=%s is more than limit=%s: eviction stops at low, write a smaller size or a share of the limit, as 90%%",
			text->low, text->limit);
		return -EINVAL;
	}
	return 0;
}

static uint64_t status_least(uint64_t txn_bytes)
{
	uint64_t least = txn_bytes * STATUS_TXNS_MIN;

	return least < QUOTA_LIMIT_MIN ? QUOTA_LIMIT_MIN : least;
}

/* The disk of @path, or of the directory it will be made in. */
static int status_disk_of(const char *path, struct statvfs *ret)
{
	cleanup_free char *copy = NULL;

	if (statvfs(path, ret) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	return statvfs(dirname(copy), ret) < 0 ? -errno : 0;
}

int store_check_limits(const char *path, const struct store_limits *limits,
		       char *why, size_t why_size)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t disk;
	struct quota q = { 0 };
	struct statvfs vfs;
	int r;

	/* A path that cannot be looked at is for store_open() to judge. */
	if (status_disk_of(path, &vfs) < 0)
		return 0;
	disk = vfs.f_blocks * vfs.f_frsize;
	r = status_parse_limit(limits, disk,
			       status_least(INDEX_TXN_PAGES * page), &q, why,
			       why_size);
	return r < 0 ? r
		     : status_parse("min_free", limits->min_free, disk,
				    &q.min_free, why, why_size);
}

static int status_recorded_limit(struct store *st, uint64_t *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(st->ix, false, &txn);

	if (r >= 0 && !st->daemon &&
	    table_meta_get(txn, TABLE_META_MOUNTED, ret) >= 0)
		return 0;
	return r < 0 ? r : table_meta_get(txn, TABLE_META_LIMIT, ret);
}

/*
 * What is in force when nothing is said. low 0: the default share. A command
 * that opens the store for itself must not evict what the last mount had room
 * for.
 */
static void status_default_limits(struct store *st, uint64_t disk, bool keep,
				  struct quota *q)
{
	struct room_stat rs;

	if (keep) {
		room_stat(st->room, &rs);
		*q = rs.quota;
		return;
	}
	*q = (struct quota){ 0 };
	if (st->daemon)
		q->min_free = disk / 100 * QUOTA_DEFAULT_MIN_FREE_PERCENT;
	if (status_recorded_limit(st, &q->limit) >= 0)
		return;
	q->limit = disk / 100 * QUOTA_DEFAULT_DISK_PERCENT;
	if (q->limit > QUOTA_DEFAULT_MAX)
		q->limit = QUOTA_DEFAULT_MAX;
}

void store_apply_growth(struct store *st)
{
	struct room_stat rs;
	uint64_t growth, most;

	room_stat(st->room, &rs);
	growth = rs.quota.limit / STATUS_GROWTH_SHARE;
	if (growth > CHECKPOINT_GROWTH_BYTES)
		growth = CHECKPOINT_GROWTH_BYTES;
	most = rs.quota.limit / STATUS_REWRITE_SHARE;
	if (most > STATUS_REWRITE_BYTES)
		most = STATUS_REWRITE_BYTES;
	index_set_growth(st->ix, growth, most);
}

/* The limit is the recorded one, or the default: no reason not to mount. */
static void status_tell_low(struct store *st, const char *low, uint64_t limit)
{
	char text[160];

	if (!st->report)
		return;
	snprintf(text, sizeof(text),
		 "low=%s is more than the limit of %" PRIu64
		 "M: eviction goes no further than it must",
		 low, limit / MIB);
	st->report(st->report_arg, LOG_WARNING, text);
}

int store_apply_limits(struct store *st, const struct store_limits *text,
		       bool keep, char *why, size_t why_size)
{
	struct statvfs vfs;
	struct quota q, before;
	uint64_t disk;
	int r;

	if (fstatvfs(st->home.dir_fd, &vfs) < 0)
		return -errno;
	disk = vfs.f_blocks * vfs.f_frsize;
	status_default_limits(st, disk, keep, &q);
	before = q;
	r = status_parse_limit(text, disk,
			       status_least(index_txn_bound(st->ix)), &q, why,
			       why_size);
	if (r >= 0)
		r = status_parse("min_free", text->min_free, disk, &q.min_free,
				 why, why_size);
	if (r < 0)
		return r;
	if (keep && !text->low)
		q.low = quota_low_for(&before, q.limit);
	if (q.low > q.limit)
		status_tell_low(st, text->low, q.limit);
	room_set_limit(st->room, q.limit, q.low, q.min_free);
	store_apply_growth(st);
	atomic_store(&st->files.max_size, q.limit > STORE_FILE_MIN_MAX
						  ? q.limit
						  : STORE_FILE_MIN_MAX);
	return 0;
}

static int status_record_limit(struct store *st)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct room_stat rs;
	int r = edit_begin(&st->tree, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	room_stat(st->room, &rs);
	r = table_meta_put(e.txn, TABLE_META_LIMIT, rs.quota.limit);
	if (r >= 0)
		r = table_meta_put(e.txn, TABLE_META_MOUNTED, rs.quota.limit);
	return r < 0 ? r : edit_commit(&e);
}

void store_note_limit(struct store *st)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct room_stat rs;
	uint64_t noted;

	room_stat(st->room, &rs);
	if (edit_begin(&st->tree, QUOTA_SYSTEM, &e) < 0)
		return;
	if (table_meta_get(e.txn, TABLE_META_MOUNTED, &noted) >= 0 &&
	    noted == rs.quota.limit)
		return;
	if (table_meta_put(e.txn, TABLE_META_MOUNTED, rs.quota.limit) >= 0)
		(void)edit_commit(&e);
}

int store_set_limits(struct store *st, const struct store_limits *limits,
		     char *why, size_t why_size)
{
	int r;

	*why = '\0';
	r = store_apply_limits(st, limits, true, why, why_size);
	if (r >= 0 && limits->grace_sec >= 0)
		evict_set_grace(st->evict, limits->grace_sec);
	if (r >= 0 && limits->limit)
		r = status_record_limit(st);
	if (r < 0 && !*why)
		snprintf(why, why_size, "setting the limit: %s", strerror(-r));
	return r;
}

int store_statfs(struct store *st, struct statvfs *ret)
{
	struct room_stat rs;
	uint64_t room, files;

	room_stat(st->room, &rs);
	room = rs.quota.limit > rs.quota.charged
		       ? rs.quota.limit - rs.quota.charged
		       : 0;
	if (rs.disk_full)
		room = 0;
	else if (room > rs.quota.disk_free - rs.quota.min_free)
		room = rs.quota.disk_free - rs.quota.min_free;
	files = (rs.quota.limit / GIB + 1) * STATUS_FILES_PER_GIB;
	*ret = (struct statvfs){
		.f_bsize = STATUS_BLOCK,
		.f_frsize = STATUS_BLOCK,
		.f_blocks = rs.quota.limit / STATUS_BLOCK,
		.f_bfree = room / STATUS_BLOCK,
		.f_bavail = room / STATUS_BLOCK,
		.f_files = files,
		.f_ffree = files,
		.f_favail = files,
		.f_namemax = STORE_NAME_MAX,
	};
	return 0;
}

/* What is added up over all inodes. */
struct status_sum {
	uint64_t at;		       /* inode to go on from */
	uint64_t disk[LAYOUT_KINDS];   /* of files that are not in blocks */
	uint64_t blocks[LAYOUT_KINDS]; /* sizes of files that are */
};

static void status_add_inode(const struct inode *in, struct status_sum *sum,
			     struct store_status *ret)
{
	if (!S_ISREG(in->mode) || in->kind >= LAYOUT_KINDS)
		return;
	ret->files++;
	ret->logical += in->size;
	if (in->recipe) {
		sum->blocks[in->kind] += in->size;
		ret->recipes++;
		ret->whole += in->data == INODE_DATA_PACK;
		return;
	}
	sum->disk[in->kind] += in->alloc;
	ret->data += in->size;
}

/* Adds up the inodes from @sum->at on; returns how many were seen, 0 at the end. */
static int status_add_inodes(struct store *st, struct status_sum *sum,
			     struct store_status *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(sum->at), key;
	uint8_t buf[RECORD_INODE_SIZE];
	struct inode in;
	size_t len;
	int n = 0, r = index_begin(st->ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	while (r >= 0 && n < STATUS_CHUNK &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		n++;
		if (record_key_get(&key, 0, &sum->at) < 0)
			return -EBADMSG;
		if (r == -EBADMSG)
			r = 0; /* counted as damaged when it is opened */
		if (r > 0 && record_inode_decode(sum->at, buf, len, &in) >= 0)
			status_add_inode(&in, sum, ret);
	}
	sum->at++;
	return r < 0 ? r : n;
}

/* What the packs of blocks take is everybody's: each kind has its part of it by
 * the sizes of its files. */
static void status_share_packs(const struct status_sum *sum, uint64_t disk,
			       struct store_status *ret)
{
	uint64_t *const used[LAYOUT_KINDS] = {
		[LAYOUT_OTHER] = &ret->used_other,
		[LAYOUT_HTTP] = &ret->used_http,
		[LAYOUT_WHEEL] = &ret->used_wheels,
		[LAYOUT_SELFCHECK] = &ret->used_selfcheck,
		[LAYOUT_TMP] = &ret->used_http,
	};
	uint64_t all = 0;

	for (int i = 0; i < LAYOUT_KINDS; i++)
		all += sum->blocks[i];
	for (int i = 0; i < LAYOUT_KINDS; i++) {
		double part = all ? (double)sum->blocks[i] / (double)all : 0;

		*used[i] += sum->disk[i] + (uint64_t)(part * (double)disk);
	}
}

/* @readable: the index still is. */
static void status_read_only(struct store *st, bool readable,
			     struct store_status *ret)
{
	int error = checkpoint_error(st->cp);

	ret->state = STORE_READ_ONLY;
	if (atomic_load(&st->index_is_bad)) {
		snprintf(
			ret->reason, sizeof(ret->reason),
			"the index is damaged (%.60s): nothing is stored, the next mount begins with an empty cache",
			st->bad_index);
		return;
	}
	snprintf(ret->reason, sizeof(ret->reason),
		 "writing to the disk failed (%s): %s until the next mount",
		 strerror(error ? -error : EIO),
		 readable ? "hits are served, nothing is stored"
			  : "the index is closed, nothing is served or stored");
}

static void status_reason(const struct room_stat *rs,
			  const struct checkpoint_stat *cs,
			  struct store_status *ret)
{
	if (rs->disk_full) {
		ret->state = STORE_DISK_FULL;
		snprintf(
			ret->reason, sizeof(ret->reason),
			"less than min_free is left on the disk below: hits are served, only wheels built here are stored");
	} else if (rs->exhausted) {
		snprintf(
			ret->reason, sizeof(ret->reason),
			"full: nothing more may be evicted now (within grace, open, or of no layout known to be safe)");
	} else if (cs->shortage) {
		snprintf(
			ret->reason, sizeof(ret->reason),
			"what is stored cannot be made durable now (%s): tried again every second",
			strerror(-cs->shortage));
	}
}

/* What only the index knows. */
static int status_count(struct store *st, struct store_status *ret)
{
	struct status_sum sum = { .at = 0 };
	struct compact_stat packs;
	struct index_stat is;
	int r = index_stat(st->ix, &is);

	if (r < 0)
		return r;
	ret->entries = is.entries[INDEX_ENTRY];
	ret->blocks = is.entries[INDEX_BLOCK];
	ret->index_live = (is.file_pages - is.free_pages) * is.page_size;
	while ((r = status_add_inodes(st, &sum, ret)) > 0)
		;
	if (r >= 0)
		r = compact_measure(&st->tree, &packs);
	if (r < 0)
		return r;
	ret->data += packs.live;
	ret->waste = packs.waste;
	status_share_packs(&sum, packs.allocated, ret);
	return 0;
}

/* Without those that only linger. */
static uint64_t status_open_files(struct store *st)
{
	uint64_t lingering = linger_count(&st->tree);
	uint64_t nodes = nodes_count(st->nodes);

	return nodes > lingering ? nodes - lingering : 0;
}

/* What du says, which takes a moment, and what is charged at that moment. */
static uint64_t status_used(struct store *st, struct room_stat *rs)
{
	uint64_t used = 0, before;

	for (int i = 0; i < STATUS_LOOKS; i++) {
		room_stat(st->room, rs);
		before = rs->quota.charged;
		used = home_disk_bytes(&st->home);
		room_stat(st->room, rs);
		if (used <= rs->quota.charged)
			break;
		if (used <= before) { /* given back meanwhile */
			rs->quota.charged = before;
			break;
		}
	}
	return used;
}

static void status_health(struct store *st, struct store_status *ret)
{
	struct scrub_stat ss = { .over = true };

	if (st->scrub)
		scrub_stat(st->scrub, &ss);
	else
		(void)scrub_recorded(&st->tree, &ss);
	ret->damaged = atomic_load(&st->files.damaged);
	ret->damaged_blocks = atomic_load(&st->tree.bad_blocks);
	ret->damaged_records = atomic_load(&st->bad_records);
	ret->scrub_bytes = ss.done;
	ret->scrub_all = ss.over || ss.all < ss.done ? ss.done : ss.all;
	ret->last_scrub = ss.ended;
	ret->last_walk = ss.walked;
}

int store_status(struct store *st, struct store_status *ret)
{
	struct store_status s = { .state = STORE_OK, .since = st->since };
	struct checkpoint_stat cs;
	struct evict_stat es;
	struct room_stat rs;
	int r = status_count(st, &s);

	if (r < 0 && !index_frozen(st->ix))
		return r;
	s.used = status_used(st, &rs);
	evict_stat(st->evict, &es);
	checkpoint_stat(st->cp, &cs);
	s.limit = rs.quota.limit;
	s.low = rs.quota.low;
	s.min_free = rs.quota.min_free;
	s.disk_free = rs.quota.disk_free;
	s.charged = rs.quota.charged;
	s.excess = quota_excess(&rs.quota);
	s.grace_sec = es.grace_sec;
	s.used_index = index_disk_bytes(st->ix);
	s.used_freed = packs_doomed_bytes(st->packs) + holes_bytes(st->holes);
	/* In this order: with none pending the ingest has no file open. */
	s.unsummed = ingest_pending(st->ingest);
	s.open_files = status_open_files(st);
	s.hits = atomic_load(&st->tree.hits);
	s.misses = atomic_load(&st->tree.misses);
	s.evictions = es.evictions;
	s.evicted_bytes = es.evicted_bytes;
	status_health(st, &s);
	s.reaped = es.reaped;
	s.checkpoints = cs.count;
	s.last_checkpoint = cs.last_ns / NSEC_PER_SEC;
	if (index_frozen(st->ix))
		status_read_only(st, r >= 0, &s);
	else
		status_reason(&rs, &cs, &s);
	*ret = s;
	return 0;
}

/* Bytes that have to go until no more than @to are charged. */
static uint64_t status_too_much(struct store *st, uint64_t to)
{
	struct room_stat rs;

	if (!to)
		return UINT64_MAX;
	room_stat(st->room, &rs);
	return rs.quota.charged > to ? rs.quota.charged - to : 0;
}

/* Evicting makes the index grow a little: a mark is met by going on until it
 * is, or until nothing more goes. */
int store_prune(struct store *st, const struct store_prune *how,
		struct store_pruned *ret)
{
	struct evict_how eh = { .older_than_ns = INT64_MAX,
				.no_grace = how->no_grace,
				.dry_run = how->dry_run };
	struct store_pruned sum = { 0 };
	struct tidy_pos pos = { 0 };
	struct evict_result res;
	int64_t idle_ns;
	int64_t age_sec = how->older_than_sec;
	int r;

	if (age_sec > STATUS_AGE_MAX_SEC)
		age_sec = STATUS_AGE_MAX_SEC;
	if (age_sec >= 0)
		eh.older_than_ns = base_now_ns() - age_sec * NSEC_PER_SEC;
	do {
		eh.bytes = status_too_much(st, how->to_bytes);
		r = evict_pass(st->evict, &eh, &res);
		sum.units += res.units;
		sum.bytes += res.bytes;
	} while (r >= 0 && res.units && how->to_bytes && !how->dry_run);
	/* Not those that a pip has just made to store something in. */
	idle_ns = base_now_ns() - EVICT_EMPTY_SEC * NSEC_PER_SEC;
	if (r >= 0 && !how->dry_run)
		while ((r = tidy_empty(&st->tree, &pos, idle_ns)) > 0)
			;
	*ret = sum;
	return r;
}
