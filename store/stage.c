/* SPDX-License-Identifier: MIT */
#include "store/stage.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "store/block.h"
#include "store/content.h"
#include "store/digest.h"
#include "store/layout.h"
#include "store/table.h"

#define STAGE_COPY_CHUNK (1 * MIB)
/* The reserve is kept for many acts: one copy takes no more of it. */
#define STAGE_RESERVE_MAX (128 * KIB)

enum quota_class stage_class(const struct node *nd)
{
	switch ((enum layout_kind)nd->kind) {
	case LAYOUT_HTTP:
	case LAYOUT_TMP:
		return QUOTA_HTTP;
	case LAYOUT_WHEEL:
		return QUOTA_WHEELS;
	default:
		return QUOTA_OTHER;
	}
}

/* Its records, when @keep bytes of it stay. They may push out what its bytes
 * may; who makes a file smaller is about to free some. */
static enum quota_class stage_record_class(const struct node *nd, uint64_t keep)
{
	if (keep < nd->size)
		return QUOTA_SYSTEM;
	return stage_class(nd) == QUOTA_WHEELS ? QUOTA_WHEELS : QUOTA_OTHER;
}

/* A copy of @keep bytes of it. */
static enum quota_class stage_copy_class(const struct node *nd, uint64_t keep)
{
	return keep < nd->size && keep <= STAGE_RESERVE_MAX ? QUOTA_SYSTEM
							    : stage_class(nd);
}

void stage_settle(struct files *fs, struct node *nd, uint64_t reserved)
{
	uint64_t size, disk;

	if (!nd->live) { /* it never came to the act */
		room_settle(fs->t->room, reserved, 0);
		return;
	}
	if (pack_stat(nd->pack, &size, &disk) < 0)
		disk = nd->disk + reserved; /* the worst case stays charged */
	if (disk >= nd->disk) {
		room_settle(fs->t->room, reserved, disk - nd->disk);
	} else {
		room_settle(fs->t->room, reserved, 0);
		room_credit(fs->t->room, nd->disk - disk);
	}
	nd->disk = disk;
}

/*
 * Make the pack writable in place if no checkpoint can have named it. That
 * must be asked inside the transaction that sets the flag: a checkpoint takes
 * its snapshot under the same lock. Returns 1 if it is done, 0 if not.
 */
static int stage_in_place(struct files *fs, struct node *nd, uint64_t keep)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct pack_rec rec;
	struct inode in;
	int r;

	if (!nd->pack)
		return 0;
	r = edit_begin(fs->t, stage_record_class(nd, keep), &e);
	if (r < 0)
		return r;
	if (!pack_fresh(nd->pack))
		return 0;
	r = table_inode_get(e.txn, nd->ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	/* Blocks in it are, or may soon be, those of other files. */
	r = block_pack_get(e.txn, in.pack, &rec);
	if (r != -ENOENT)
		return r == -EBADMSG || r >= 0 ? 0 : r;
	in.flags |= INODE_WRITERS;
	in.flags &= ~(uint32_t)INODE_SUMMED;
	r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	r = edit_commit(&e);
	if (r < 0)
		return r;
	nd->disk = in.alloc;
	return 1;
}

/* The first @len bytes from the blocks, piece by piece. */
static int stage_copy_map(struct files *fs, struct node *nd, struct pack *pk,
			  uint64_t len)
{
	cleanup_free uint8_t *buf = malloc(STAGE_COPY_CHUNK);
	uint64_t want;
	ssize_t n;
	int r;

	if (!buf)
		return -ENOMEM;
	for (uint64_t off = 0; off < len; off += (uint64_t)n) {
		want = len - off < STAGE_COPY_CHUNK ? len - off
						    : STAGE_COPY_CHUNK;
		n = content_read_locked(fs->t, nd, buf, want, off);
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		r = pack_write(pk, buf, (size_t)n, off);
		if (r < 0)
			return r;
	}
	return 0;
}

static int stage_copy_inline(struct files *fs, struct node *nd, struct pack *pk,
			     uint64_t len)
{
	cleanup_free uint8_t *buf = malloc(len + 1);
	ssize_t n = buf ? content_read(fs->t, nd, buf, len, 0) : -ENOMEM;

	if (n < 0)
		return (int)n;
	return (uint64_t)n == len ? pack_write(pk, buf, len, 0) : -EIO;
}

/* The first @len bytes of the file, wherever they are. */
static int stage_copy_from(struct files *fs, struct node *nd, struct pack *pk,
			   uint64_t len)
{
	int r;

	if (nd->pack)
		return pack_clone(nd->pack, pk, len);
	r = pack_preallocate(pk, 0, len);
	if (r >= 0 && nd->map)
		r = stage_copy_map(fs, nd, pk, len);
	else if (r >= 0 && nd->inlined)
		r = stage_copy_inline(fs, nd, pk, len);
	return r;
}

/* The first @keep bytes into the new pack @pk. *@ret_disk is charged for it,
 * also on failure. */
static int stage_copy_bytes(struct files *fs, struct node *nd, struct pack *pk,
			    uint64_t keep, uint64_t *ret_disk)
{
	uint64_t bytes = keep + STAGE_SLACK_BYTES;
	int r = room_reserve(fs->t->room, stage_copy_class(nd, keep), bytes);
	struct node copy = { .pack = pk, .live = true };

	if (r < 0)
		return r;
	r = stage_copy_from(fs, nd, pk, keep);
	stage_settle(fs, &copy, bytes);
	*ret_disk = copy.disk;
	return r;
}

/* Point the inode at the new pack, flagged; give up where its bytes were. */
static int stage_switch_pack(struct files *fs, struct node *nd, uint64_t id,
			     uint64_t keep)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(fs->t, stage_record_class(nd, keep), &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, nd->ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	r = edit_forget_bytes(&e, &in);
	if (r < 0)
		return r;
	in.data = INODE_DATA_PACK;
	in.pack = id;
	in.flags |= INODE_WRITERS;
	in.flags &= ~(uint32_t)INODE_SUMMED;
	r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

/* A new pack for the file, with its first @keep bytes. */
static int stage_copy(struct files *fs, struct node *nd, uint64_t keep)
{
	struct pack *pk;
	uint64_t id, disk = 0;
	int r = index_new_id(fs->t->ix, INDEX_ID_PACK, &id);

	if (r < 0)
		return r;
	r = pack_create(fs->t->packs, id, &pk);
	if (r == -EROFS) /* no change can be made any more, of any kind */
		index_freeze(fs->t->ix);
	if (r < 0)
		return r;
	room_raise_part(fs->t->room, ROOM_DIRS, packs_dir_bytes(fs->t->packs));
	if (keep)
		r = stage_copy_bytes(fs, nd, pk, keep, &disk);
	if (r >= 0)
		r = stage_switch_pack(fs, nd, id, keep);
	if (r < 0) {
		pack_put(pk);
		pack_doom(fs->t->packs, id);
		return r;
	}
	node_unload(nd);
	nd->loaded = true;
	nd->pack = pk;
	nd->disk = disk;
	nd->size = keep;
	return 0;
}

/* closed -> live. Where the bytes cannot stay, the first @keep are copied.
 * Returns 1 if the pack is another now, of that size; 0 if not. */
static int stage_make_live(struct files *fs, struct node *nd, uint64_t keep)
{
	int r = stage_in_place(fs, nd, keep);
	bool other = !r;

	if (other)
		r = stage_copy(fs, nd, keep);
	if (r < 0)
		return r;
	nd->live = true;
	nd->alloc_end = nd->size;
	nd->version++;
	/* The file system may have taken more for it, or less, since it was
	 * charged: blocks are allocated when they are written back. */
	stage_settle(fs, nd, 0);
	return other;
}

/* stage_make_live(), live or not. */
static int stage_open(struct files *fs, struct node *nd, uint64_t keep)
{
	if (nd->live)
		return index_frozen(fs->t->ix) ? -EROFS : 0;
	return stage_make_live(fs, nd, keep);
}

int stage_begin(struct files *fs, struct node *nd)
{
	int r = stage_open(fs, nd, nd->size);

	return r < 0 ? r : 0;
}

static void stage_note_change(struct node *nd)
{
	nd->version++;
	nd->mtime_ns = nd->ctime_ns = base_now_ns();
	nd->mtime_dirty = true;
}

/* What was allocated ahead. */
static int stage_trim(struct node *nd)
{
	int r = pack_truncate(nd->pack, nd->size);

	if (r >= 0)
		nd->alloc_end = nd->size;
	return r;
}

void stage_undo(struct node *nd)
{
	(void)stage_trim(nd);
	if (!nd->mtime_dirty)
		pack_set_mtime(nd->pack, PACK_MTIME_NONE);
}

/* Of a live file. */
static int stage_resize(struct files *fs, struct node *nd, uint64_t size)
{
	int r = room_reserve(fs->t->room, QUOTA_SYSTEM, STAGE_SLACK_BYTES);
	bool charged = r >= 0;

	if (charged)
		r = pack_truncate(nd->pack, size);
	if (r < 0)
		stage_undo(nd);
	stage_settle(fs, nd, charged ? STAGE_SLACK_BYTES : 0);
	if (r < 0)
		return r;
	nd->size = size;
	if (nd->alloc_end > size)
		nd->alloc_end = size;
	stage_note_change(nd);
	return 0;
}

int stage_truncate(struct files *fs, struct node *nd, uint64_t size)
{
	int r;

	if (size > atomic_load(&fs->max_size))
		return -EFBIG;
	r = stage_open(fs, nd, size < nd->size ? size : nd->size);
	if (r < 0)
		return r;
	if (!r || nd->size != size)
		return stage_resize(fs, nd, size);
	/* It was copied up to there: past the commit nothing may fail. */
	stage_note_change(nd);
	return 0;
}

void stage_forget_mtime(struct files *fs, struct node *nd)
{
	if (nd->mtime_dirty)
		(void)stage_trim(nd);
	pack_set_mtime(nd->pack, PACK_MTIME_NONE);
	stage_settle(fs, nd, 0);
}

int stage_resume(struct node *nd, const struct inode *in)
{
	int64_t changed_ns;
	int r = pack_mtime(nd->pack, &changed_ns);

	if (r >= 0)
		r = pack_stat(nd->pack, &nd->size, &nd->disk);
	if (r < 0)
		return r;
	nd->alloc_end = nd->size;
	nd->live = nd->writers > 0;
	if (changed_ns == PACK_MTIME_NONE)
		return 0;
	nd->mtime_ns = changed_ns;
	nd->mtime_dirty = nd->live;
	if (changed_ns > in->ctime_ns)
		nd->ctime_ns = changed_ns;
	return 0;
}

/* Where the bytes of a closed file go: none, the index, or its pack. */
static int stage_place_data(struct files *fs, struct edit *e, struct node *nd,
			    struct inode *in)
{
	struct record_key key = record_key_id(nd->ino);
	size_t max = index_leaf_max(fs->t->ix);
	uint8_t buf[INDEX_VALUE_MAX];
	ssize_t n;

	if (nd->size && nd->size + RECORD_INLINE_HEAD > max)
		return 0;
	edit_doom(e, in->pack);
	in->pack = 0;
	in->alloc = 0;
	in->data = INODE_DATA_NONE;
	if (!nd->size)
		return 0;

	n = pack_read(nd->pack, buf + RECORD_INLINE_HEAD, nd->size, 0);
	if (n < 0)
		return (int)n;
	if ((uint64_t)n != nd->size)
		return -EIO;
	record_u64_encode(digest_xxh3(buf + RECORD_INLINE_HEAD, nd->size), buf);
	in->data = INODE_DATA_INLINE;
	in->flags |= INODE_SUMMED;
	return index_put(e->txn, INDEX_INLINE, &key, buf,
			 RECORD_INLINE_HEAD + nd->size, false);
}

/* The transaction of a last writer's close. *@ret_pack: it keeps its pack. */
static int stage_commit_end(struct files *fs, struct node *nd, bool *ret_pack)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(fs->t, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, nd->ino, &in);
	if (r < 0)
		return r == -ENOENT ? -ESTALE : r;
	in.flags &= ~(uint32_t)INODE_WRITERS;
	in.size = nd->size;
	in.alloc = nd->disk;
	if (nd->mtime_dirty)
		in.mtime_ns = nd->mtime_ns;
	if (nd->ctime_ns > in.ctime_ns)
		in.ctime_ns = nd->ctime_ns;
	r = stage_place_data(fs, &e, nd, &in);
	if (r < 0)
		return r;
	r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	r = edit_commit(&e);
	if (r >= 0)
		*ret_pack = in.data == INODE_DATA_PACK;
	return r;
}

/* The index could not be told: keep the node, and try again later. */
static void stage_keep_stuck(struct files *fs, struct node *nd, int error)
{
	char text[128];

	if (nd->stuck || !node_find(fs->t->nodes, nd->ino))
		return;
	nd->stuck = true;
	snprintf(text, sizeof(text),
		 "closing inode %" PRIu64 " after writing: %s", nd->ino,
		 strerror(-error));
	fs->report(fs->report_arg, LOG_ERR, text);
	fs->closed(fs->closed_arg, nd->ino, nd->size);
}

/* The bytes are in the index now; those who have the file open read on there. */
static void stage_leave_pack(struct node *nd)
{
	node_unload(nd);
	nd->inlined = nd->size > 0;
	nd->loaded = true;
}

void stage_end(struct files *fs, struct node *nd)
{
	bool keeps_pack = false;
	int r = nd->mtime_dirty ? stage_trim(nd) : 0;

	stage_settle(fs, nd, 0);
	if (r >= 0)
		r = stage_commit_end(fs, nd, &keeps_pack);
	if (r < 0) {
		stage_keep_stuck(fs, nd, r);
		return;
	}
	nd->live = false;
	nd->mtime_dirty = false;
	if (keeps_pack)
		fs->closed(fs->closed_arg, nd->ino, nd->size);
	else
		stage_leave_pack(nd);
	if (nd->stuck) /* never the last use: the caller has one */
		(void)node_put(nd);
	nd->stuck = false;
}
