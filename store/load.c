/* SPDX-License-Identifier: MIT */
/*
 * The index of a store that is being opened: recovered, vetted, set aside where
 * it is of no use, rewritten where it is mostly free pages.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>

#include "store/parts.h"
#include "store/recover.h"
#include "store/table.h"

#define LOAD_COMPACT_BYTES (16 * MIB) /* smaller indexes stay as they are */

/* Take back what opening the index has committed; nothing was built on it. */
void store_put_back_index(struct store *st)
{
	char said[STORE_REASON_MAX];

	index_close(steal_ptr(st->ix));
	if (st->found_frozen)
		return;
	(void)recover_index(st->home.index_fd, st->witness, 0, said,
			    sizeof(said));
}

/* Is there a root, or nothing yet that would hang on one? -EBADMSG: no. */
static int load_check_root(struct index *ix)
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
static int load_open(struct store *st, int found, char *reason, size_t size)
{
	struct notify changed = { .fn = store_changed, .arg = st };
	char path[64];
	int flags = 0, r;

	if (found == RECOVER_RESTORED)
		flags = INDEX_RESTORED;
	else if (found == RECOVER_LIVE)
		flags = INDEX_LIVE;
	else if (found == RECOVER_CREATED && st->resume)
		flags = INDEX_ANEW;
	if (st->found_frozen)
		flags = INDEX_RDONLY;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", st->home.index_fd);
	r = index_open(path, flags, CHECKPOINT_GROWTH_BYTES, changed, &st->ix);
	if (r == -EBADMSG)
		snprintf(
			reason, size,
			"index/data.mdb: a table or the mark of used ids is missing or damaged");
	else if (r < 0)
		snprintf(reason, size, "opening the index: %s", strerror(-r));
	if (r < 0)
		return r;
	r = load_check_root(st->ix);
	if (r == -EBADMSG)
		snprintf(
			reason, size,
			"index/data.mdb: the root directory is missing or damaged");
	else if (r < 0)
		snprintf(reason, size, "reading the root directory: %s",
			 strerror(-r));
	if (r < 0)
		store_put_back_index(st);
	return r;
}

/* Recover the index and open it. Returns what was found, or an error and
 * @reason; -EBADMSG: the index is of no use. */
static int load_recovered(struct store *st, char *reason, size_t size)
{
	char said[STORE_REASON_MAX] = "", text[STORE_REASON_MAX + 80];
	int flags = (st->distrust ? RECOVER_DISTRUST : 0) |
		    (st->found_frozen ? RECOVER_RDONLY : 0);
	int found, r;

	found = recover_index(st->home.index_fd, st->witness, flags, said,
			      sizeof(said));
	if (found == RECOVER_UNREADABLE) {
		snprintf(reason, size, "%s", said);
		return -EBADMSG;
	}
	if (found < 0) {
		snprintf(reason, size, "reading the index: %s",
			 *said ? said : strerror(-found));
		return found;
	}
	r = store_vet_closed(st, found, reason, size);
	if (r == 0)
		r = load_open(st, found, reason, size);
	if (r < 0)
		return r;
	r = store_vet(st, found, reason, size);
	if (r < 0) {
		store_put_back_index(st);
		return r;
	}
	if (found == RECOVER_RESTORED) {
		snprintf(
			text, sizeof(text),
			"the store was not closed: back at its last checkpoint (%s)",
			said);
		store_report(st, LOG_NOTICE, text);
	}
	return found;
}

/* As the last process left it, or not at all. LMDB may have worked with pages
 * that are not on the disk and not in memory any more: all are looked at. */
static int load_frozen(struct store *st, char *reason, size_t size)
{
	int found;

	st->distrust = true;
	found = load_recovered(st, reason, size);
	if (found != RECOVER_LIVE && found != RECOVER_CLEAN && found >= 0)
		snprintf(reason, size, "it is not as the last process left it");
	else if (found != -EBADMSG)
		return found;
	return -ESTALE;
}

/* The same; an index that is of no use is set aside, or refused. */
int store_load_index(struct store *st, bool set_aside, char *reason,
		     size_t size)
{
	char wrong[STORE_REASON_MAX] = "", text[STORE_REASON_MAX + 120];
	int found, r;

	if (st->found_frozen)
		return load_frozen(st, reason, size);
	home_drop_new_index(&st->home); /* of a rewrite that was cut off */
	found = load_recovered(st, wrong, sizeof(wrong));
	if (found != -EBADMSG) {
		snprintf(reason, size, "%s", wrong);
		return found;
	}
	if (!set_aside) {
		snprintf(
			reason, size,
			"the index is unreadable (%s): run check --repair to save what is sound, or mount the store to begin with an empty one",
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
	store_report(st, LOG_ERR, text);
	return load_recovered(st, reason, size);
}

/* A compact copy of the index, with the side file of one that was closed. */
static int load_copy(struct store *st, int new_fd)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", new_fd);
	r = index_copy_compact(st->ix, path);
	return r < 0 ? r : recover_seal(new_fd);
}

/* An index that is mostly free pages is replaced by a compact copy. What
 * fails leaves the old one in place. */
int store_compact_index(struct store *st, const struct index_stat *is,
			char *reason, size_t size)
{
	uint64_t bytes;
	int new_fd = -1, r;

	if (is->free_pages * 2 <= is->file_pages ||
	    is->file_pages * is->page_size <= LOAD_COMPACT_BYTES)
		return 0;
	bytes = (is->file_pages - is->free_pages) * is->page_size + MIB;
	if (room_reserve(st->room, QUOTA_SYSTEM, bytes) < 0)
		return 0;
	r = home_new_index(&st->home, &new_fd);
	if (r >= 0)
		r = load_copy(st, new_fd);
	if (r >= 0) {
		index_close(steal_ptr(st->ix));
		r = home_swap_index(&st->home, new_fd);
		if (r >= 0)
			r = load_open(st, RECOVER_CLEAN, reason, size);
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
