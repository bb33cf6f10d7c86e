/* SPDX-License-Identifier: MIT */
#include "store/walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/apart.h"
#include "store/audit.h"
#include "store/digest.h"
#include "store/env.h"
#include "store/value.h"

#define WALK_KEY_SHOWN 24	 /* bytes of a key in a text */
#define WALK_ID sizeof(uint64_t) /* in a key */

struct walker {
	struct walk *w;
	const char *name; /* of the table that @table is of */
	int table;	  /* enum index_table; -1: none of ours */
	uint8_t val[INDEX_VALUE_MAX];
};

/* -- Records --------------------------------------------------------------- */

static int walk_empty(const uint8_t *val, size_t len)
{
	(void)val;
	return len ? -EBADMSG : 0;
}

static int walk_name(const uint8_t *val, size_t len)
{
	return !len || len > RECORD_NAME_MAX || memchr(val, '/', len) ||
			       memchr(val, '\0', len)
		       ? -EBADMSG
		       : 0;
}

static int walk_inode(const uint8_t *val, size_t len)
{
	struct inode in;

	return record_inode_decode(RECORD_ROOT_INO, val, len, &in);
}

static int walk_inline(const uint8_t *val, size_t len)
{
	uint64_t sum;

	if (len < RECORD_INLINE_HEAD ||
	    record_u64_decode(val, RECORD_INLINE_HEAD, &sum) < 0)
		return -EBADMSG;
	return sum == digest_xxh3(val + RECORD_INLINE_HEAD,
				  len - RECORD_INLINE_HEAD)
		       ? 0
		       : -EBADMSG;
}

static int walk_dirent(const uint8_t *val, size_t len)
{
	struct dirent_rec de;

	return record_dirent_decode(val, len, &de);
}

static int walk_pack(const uint8_t *val, size_t len)
{
	struct pack_rec pk;

	return record_pack_decode(val, len, &pk);
}

static int walk_entry(const uint8_t *val, size_t len)
{
	struct entry_rec en;

	return record_entry_decode(val, len, &en);
}

static int walk_runs(const uint8_t *val, size_t len)
{
	struct run runs[RECORD_RUNS_MAX];
	size_t n;

	return record_runs_decode(val, len, runs, &n);
}

static int walk_block(const uint8_t *val, size_t len)
{
	struct block_rec bl;

	return record_block_decode(val, len, &bl);
}

static int walk_pending(const uint8_t *val, size_t len)
{
	return len == 1 && (val[0] == RECIPE_BUILDING ||
			    val[0] == RECIPE_DROPPING)
		       ? 0
		       : -EBADMSG;
}

static int walk_replay(const uint8_t *val, size_t len)
{
	(void)val;
	return len == RECORD_REPLAY_SIZE ? 0 : -EBADMSG;
}

/* What keys and values look like. Of a table that is not here only checksums
 * are compared. */
static const struct walk_kind {
	size_t key_min, key_max;
	int (*decode)(const uint8_t *val, size_t len); /* NULL: anything */
} walk_kinds[INDEX_TABLES] = {
	[INDEX_META] = { 1, RECORD_KEY_MAX, NULL },
	[INDEX_INODE] = { WALK_ID, WALK_ID, walk_inode },
	[INDEX_INLINE] = { WALK_ID, WALK_ID, walk_inline },
	[INDEX_DIRENT] = { WALK_ID + 1, WALK_ID + RECORD_NAME_MAX,
			   walk_dirent },
	[INDEX_COOKIE] = { 2 * WALK_ID, 2 * WALK_ID, walk_name },
	[INDEX_PACK] = { WALK_ID, WALK_ID, walk_pack },
	[INDEX_LRU] = { 1 + 2 * WALK_ID, 1 + 2 * WALK_ID, walk_empty },
	[INDEX_ENTRY] = { WALK_ID, WALK_ID, walk_entry },
	[INDEX_ORPHAN] = { WALK_ID, WALK_ID, walk_empty },
	[INDEX_RECIPE] = { 2 * WALK_ID, 2 * WALK_ID, walk_runs },
	[INDEX_BLOCK] = { WALK_ID, WALK_ID, walk_block },
	[INDEX_DIGEST] = { 2 * WALK_ID, 2 * WALK_ID, walk_empty },
	[INDEX_PENDING] = { WALK_ID, WALK_ID, walk_pending },
	[INDEX_REPLAY] = { WALK_ID, WALK_ID, walk_replay },
};

/* -- The walk -------------------------------------------------------------- */

static int walk_table_of(const char *name)
{
	for (int i = 0; i < INDEX_TABLES; i++)
		if (strcmp(name, schema_tables[(enum index_table)i]) == 0)
			return i;
	return -1;
}

static bool walk_is_good(struct walker *wr, const struct audit_record *rec)
{
	const struct walk_kind *kind = &walk_kinds[wr->table];
	const struct value_place at = { (uint8_t)wr->table, rec->key,
					rec->key_len };
	ssize_t n =
		value_out(at, rec->value, rec->len, wr->val, sizeof(wr->val));

	if (n < 0)
		return false;
	if (!kind->key_max)
		return true;
	return rec->key_len >= kind->key_min && rec->key_len <= kind->key_max &&
	       (!kind->decode || kind->decode(wr->val, (size_t)n) >= 0);
}

/* "table inode, key 0000000000000007: the record is damaged" */
static void walk_tell(struct walk *w, const struct audit_record *rec)
{
	const uint8_t *key = rec->key;
	char hex[2 * WALK_KEY_SHOWN + 1] = "";
	size_t n =
		rec->key_len < WALK_KEY_SHOWN ? rec->key_len : WALK_KEY_SHOWN;

	for (size_t i = 0; i < n; i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", key[i]);
	(void)snprintf(w->text, sizeof(w->text),
		       "table %s, key %s%s: the record is damaged", rec->table,
		       hex, n < rec->key_len ? "..." : "");
}

static int walk_record(void *arg, const struct audit_record *rec)
{
	struct walker *wr = arg;
	struct walk *w = wr->w;

	if (wr->name != rec->table) {
		wr->name = rec->table;
		wr->table = walk_table_of(rec->table);
	}
	w->records++;
	if (wr->table < 0 || walk_is_good(wr, rec))
		return 0;
	if (!w->damaged++)
		walk_tell(w, rec);
	return 0;
}

int walk_snapshot(struct walk *w, const struct index_snap *snap)
{
	struct audit_found found = { .what = "" };
	cleanup_free struct walker *wr = calloc(1, sizeof(*wr));
	int r;

	if (!wr)
		return -ENOMEM;
	wr->w = w;
	*w = (struct walk){ .go_on = w->go_on, .arg = w->arg };
	r = audit_records(snap->fd, snap->meta, snap->page_size, walk_record,
			  wr, &found);
	if (r == -EBADMSG)
		(void)snprintf(w->text, sizeof(w->text), "page %" PRIu64 ": %s",
			       found.page, found.what);
	return r;
}

static int walk_records(void *arg, void *out)
{
	return walk_snapshot(out, arg);
}

static int walk_lmdb(void *arg, void *out)
{
	const int *dir_fd = arg;
	struct walk *w = out;
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", *dir_fd);
	r = env_read_all(path, INDEX_MAP_BYTES, schema_tables, INDEX_TABLES);
	if (r == -EBADMSG)
		(void)snprintf(w->text, sizeof(w->text),
			       "LMDB finds it damaged");
	return r;
}

/* -- In a process of its own ------------------------------------------------ */

static void walk_tell_death(struct walk *w, int signal)
{
	const char *what = signal ? sigdescr_np(signal) : "it left";

	(void)snprintf(w->text, sizeof(w->text),
		       "the process that read it %s (%s)",
		       base_is_fault(signal) ? "died of it" : "was ended",
		       what ? what : "a signal");
}

static int walk_apart(struct walk *w, int (*fn)(void *arg, void *out),
		      void *arg, int fd)
{
	struct apart a = { .fn = fn,
			   .arg = arg,
			   .fd = fd,
			   .go_on = w->go_on,
			   .go_on_arg = w->arg };
	struct walk got = { .go_on = NULL };
	int r = apart_run(&a, &got, sizeof(got));

	w->records = got.records;
	w->damaged = got.damaged;
	(void)snprintf(w->text, sizeof(w->text), "%.*s", WALK_TEXT_MAX - 1,
		       got.text);
	if (r == -EIO)
		(void)snprintf(w->text, sizeof(w->text),
			       "it cannot be read: %s", strerror(EIO));
	if (r == -EFAULT || r == -EINTR)
		walk_tell_death(w, a.signal);
	return r == -EFAULT ? -EBADMSG : r;
}

int walk_index(struct walk *w, struct index *ix)
{
	struct index_snap *snap;
	int r = index_snapshot(ix, &snap);

	if (r < 0)
		return r;
	r = walk_apart(w, walk_records, snap, snap->fd);
	index_unpin(ix, snap);
	return r;
}

int walk_by_lmdb(struct walk *w, int index_dir_fd)
{
	return walk_apart(w, walk_lmdb, &index_dir_fd, index_dir_fd);
}
