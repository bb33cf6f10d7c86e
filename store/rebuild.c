/* SPDX-License-Identifier: MIT */
#include "store/rebuild.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/checkpoint.h"
#include "store/recount.h"
#include "store/recover.h"
#include "store/regraft.h"
#include "store/relink.h"
#include "store/rework.h"
#include "store/salvage.h"
#include "store/table.h"

#define REBUILD_BATCH 1000 /* records in one transaction */
#define REBUILD_ID_MAX (UINT64_C(1) << 62)
#define REBUILD_STEP INDEX_RESTORE_STEP /* numbers of the second begin at one */
#define REBUILD_MARKS "next_"

/* Filling the new index. */
struct rebuild_load {
	struct rework *rw;
	uint64_t base; /* goes onto each number */
	uint64_t last; /* the greatest so far, shifted */
	unsigned n;    /* in this transaction */
};

/* --- Numbers ------------------------------------------------------------- */

static int rebuild_shift(struct rebuild_load *ld, uint64_t *id)
{
	if (!*id)
		return 0;
	if (*id >= REBUILD_ID_MAX)
		return -EBADMSG;
	*id += ld->base;
	if (*id > ld->last)
		ld->last = *id;
	return 0;
}

/* The number at byte @at of a key. */
static int rebuild_shift_key(struct rebuild_load *ld, struct record_key *key,
			     size_t at)
{
	struct record_key part;
	uint64_t id;
	int r = record_key_get(key, at, &id);

	if (r >= 0)
		r = rebuild_shift(ld, &id);
	if (r < 0)
		return r;
	part = record_key_id(id);
	memcpy(key->bytes + at, part.bytes, part.len);
	return 0;
}

/* A value, changed in place or encoded to @buf. */
struct rebuild_value {
	const uint8_t *val;
	size_t len;
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];
};

_Static_assert(RECORD_RUNS_MAX *RECORD_RUN_SIZE >= RECORD_ENTRY_MAX &&
		       RECORD_RUNS_MAX * RECORD_RUN_SIZE >= RECORD_INODE_SIZE,
	       "any record fits");

static int rebuild_inode(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct inode in;
	int r = record_inode_decode(0, v->val, v->len, &in);

	if (r >= 0)
		r = rebuild_shift(ld, &in.parent);
	if (r >= 0)
		r = rebuild_shift(ld, &in.entry);
	if (r >= 0)
		r = rebuild_shift(ld, &in.pack);
	if (r >= 0)
		r = rebuild_shift(ld, &in.recipe);
	if (r >= 0)
		record_inode_encode(&in, v->buf);
	return r;
}

static int rebuild_dirent(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct dirent_rec de;
	int r = record_dirent_decode(v->val, v->len, &de);

	if (r >= 0)
		r = rebuild_shift(ld, &de.ino);
	if (r >= 0)
		record_dirent_encode(&de, v->buf);
	return r;
}

static int rebuild_pack(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct pack_rec rec;
	int r = record_pack_decode(v->val, v->len, &rec);

	if (r >= 0)
		r = rebuild_shift(ld, &rec.owner);
	if (r >= 0)
		record_pack_encode(&rec, v->buf);
	return r;
}

static int rebuild_entry(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct entry_rec en;
	int r = record_entry_decode(v->val, v->len, &en);

	if (r >= 0)
		r = rebuild_shift(ld, &en.dir);
	if (r >= 0)
		v->len = record_entry_encode(&en, v->buf);
	return r;
}

static int rebuild_block(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct block_rec bl;
	int r = record_block_decode(v->val, v->len, &bl);

	if (r >= 0)
		r = rebuild_shift(ld, &bl.pack);
	if (r >= 0)
		v->len = record_block_encode(&bl, v->buf);
	return r;
}

static int rebuild_runs(struct rebuild_load *ld, struct rebuild_value *v)
{
	struct run runs[RECORD_RUNS_MAX];
	size_t n = 0;
	int r = record_runs_decode(v->val, v->len, runs, &n);

	for (size_t i = 0; i < n && r >= 0; i++)
		r = rebuild_shift(ld, &runs[i].first);
	if (r >= 0)
		v->len = record_runs_encode(runs, n, v->buf);
	return r;
}

/* Which tables are taken over, where in their keys numbers are, and who shifts
 * those in values. What is not here is made anew. */
static const struct {
	bool wanted;
	uint8_t key_at;
	int (*shift)(struct rebuild_load *ld, struct rebuild_value *v);
} rebuild_tables[INDEX_TABLES] = {
	[INDEX_INODE] = { true, 0, rebuild_inode },
	[INDEX_INLINE] = { true, 0, NULL },
	[INDEX_DIRENT] = { true, 0, rebuild_dirent },
	[INDEX_COOKIE] = { true, 0, NULL },
	[INDEX_PACK] = { true, 0, rebuild_pack },
	[INDEX_ENTRY] = { true, 0, rebuild_entry },
	[INDEX_RECIPE] = { true, 0, rebuild_runs },
	[INDEX_BLOCK] = { true, 0, rebuild_block },
	[INDEX_DIGEST] = { true, sizeof(uint64_t), NULL },
};

/* --- Loading ------------------------------------------------------------- */

static int rebuild_next_txn(struct rebuild_load *ld)
{
	int r = 0;

	if (ld->rw->txn && ++ld->n < REBUILD_BATCH)
		return 0;
	if (ld->rw->txn)
		r = rework_commit(ld->rw);
	ld->n = 0;
	return r < 0 ? r : rework_begin(ld->rw);
}

/* Of what is found twice the first stays. */
static int rebuild_put(struct rebuild_load *ld, enum index_table table,
		       const struct record_key *key, const uint8_t *val,
		       size_t len)
{
	int r = rebuild_next_txn(ld);

	if (r >= 0)
		r = index_put(ld->rw->txn, table, key, val, len, true);
	return r == -EEXIST ? 0 : r;
}

/* The marks are put when all numbers are known. */
static int rebuild_meta(struct rebuild_load *ld, const struct record_key *key,
			const uint8_t *val, size_t len)
{
	uint64_t mark;

	if (key->len <= strlen(REBUILD_MARKS) ||
	    memcmp(key->bytes, REBUILD_MARKS, strlen(REBUILD_MARKS)) != 0)
		return rebuild_put(ld, INDEX_META, key, val, len);
	if (record_u64_decode(val, len, &mark) >= 0)
		(void)rebuild_shift(ld, &mark);
	return 0;
}

/* salvage_fn */
static int rebuild_record(void *arg, enum index_table table,
			  const struct record_key *from, const uint8_t *val,
			  size_t len)
{
	struct rebuild_load *ld = arg;
	struct rebuild_value v = { .val = val, .len = len };
	struct record_key key = *from;
	int r;

	if (table == INDEX_META)
		return rebuild_meta(ld, &key, val, len);
	if (!rebuild_tables[table].wanted)
		return 0;
	r = rebuild_shift_key(ld, &key, rebuild_tables[table].key_at);
	if (r >= 0 && rebuild_tables[table].shift) {
		r = rebuild_tables[table].shift(ld, &v);
		v.val = v.buf;
	}
	return r < 0 ? 0 : rebuild_put(ld, table, &key, v.val, v.len);
}

static int rebuild_source(struct rebuild *rb, struct rebuild_load *ld, int fd)
{
	struct salvage_stat st = { 0 };
	int r = salvage_read(fd, rebuild_record, ld, &st);

	if (ld->rw->txn) {
		int end = r < 0 ? 0 : rework_commit(ld->rw);

		index_abort(steal_ptr(ld->rw->txn));
		r = end < 0 ? end : r;
	}
	rb->records += st.records;
	rb->bad_records += st.bad_records;
	rb->bad_pages += st.bad_pages;
	return r;
}

/* Numbers that were ever given stay so; and all is to be looked through. */
static int rebuild_put_marks(struct rebuild_load *ld)
{
	int r = rework_begin(ld->rw);

	for (int i = 0; i < INDEX_IDS && r >= 0; i++)
		r = table_meta_put(ld->rw->txn, schema_ids[i].name,
				   ld->last + 1);
	if (r >= 0)
		r = table_meta_put(ld->rw->txn, TABLE_META_RESCAN, 1);
	if (r >= 0)
		r = table_meta_put(ld->rw->txn, TABLE_META_LOST, 0);
	return r < 0 ? r : rework_commit(ld->rw);
}

static int rebuild_load(struct rebuild *rb, struct rework *rw)
{
	struct rebuild_load ld = { .rw = rw, .last = RECORD_ROOT_INO };
	int r = -ENOENT, bad = -ENOENT;

	if (rb->index_fd >= 0)
		r = rebuild_source(rb, &ld, rb->index_fd);
	if (r < 0 && r != -ENOENT && r != -EBADMSG)
		return r;
	if (rb->bad_index_fd >= 0) {
		ld.base = (ld.last / REBUILD_STEP + 1) * REBUILD_STEP;
		rw->other = ld.base;
		bad = rebuild_source(rb, &ld, rb->bad_index_fd);
	}
	if (bad < 0 && bad != -ENOENT && bad != -EBADMSG)
		return bad;
	if (r < 0 && bad < 0)
		return -EBADMSG;
	return rebuild_put_marks(&ld);
}

/* --- Packs --------------------------------------------------------------- */

/* Calls @fn with each pack file in a directory. */
static int rebuild_each_pack(int dir_fd,
			     int (*fn)(void *arg, uint64_t id,
				       const struct stat *st),
			     void *arg)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	struct stat st;
	uint64_t id;
	int r = 0;

	if (!dir) {
		r = -errno;
		base_closep(&fd);
		return r;
	}
	while (r >= 0 && (de = readdir(dir)))
		if (packio_parse(de->d_name, &id) && id < REBUILD_ID_MAX &&
		    fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(st.st_mode))
			r = fn(arg, id, &st);
	closedir(dir);
	return r;
}

struct rebuild_link {
	const struct rebuild *rb;
	uint64_t base;
};

static int rebuild_link_pack(void *arg, uint64_t id, const struct stat *st)
{
	const struct rebuild_link *ln = arg;

	(void)st;
	if (linkat(ln->rb->bad_packs_fd, packio_name(id).text, ln->rb->packs_fd,
		   packio_name(id + ln->base).text, 0) < 0 &&
	    errno != EEXIST)
		return -errno;
	return 0;
}

static int rebuild_note_pack(void *arg, uint64_t id, const struct stat *st)
{
	struct rework *rw = arg;
	struct survey_item *item;
	int r = survey_add(&rw->files, id, &item);

	if (r >= 0)
		item->ref = (uint64_t)st->st_size;
	return r;
}

static int rebuild_packs(struct rebuild *rb, struct rework *rw)
{
	struct rebuild_link ln = { .rb = rb, .base = rw->other };
	int r = rw->other && rb->bad_packs_fd >= 0
			? rebuild_each_pack(rb->bad_packs_fd, rebuild_link_pack,
					    &ln)
			: 0;

	if (r >= 0)
		r = rebuild_each_pack(rb->packs_fd, rebuild_note_pack, rw);
	survey_sort(&rw->files);
	return r;
}

/* --- All ----------------------------------------------------------------- */

static int rebuild_work(struct rework *rw)
{
	int r = relink_inodes(rw);

	if (r >= 0 && rw->other)
		r = regraft(rw);
	if (r >= 0)
		r = recount_files(rw);
	if (r >= 0)
		r = relink_names(rw);
	if (r >= 0)
		r = relink_links(rw);
	return r < 0 ? r : recount_tables(rw);
}

static int rebuild_open(const struct rebuild *rb, struct rework *rw)
{
	struct notify none = { .fn = NULL };
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", rb->new_fd);
	return index_open(path, 0, INDEX_MAP_BYTES, none, &rw->t.ix);
}

/* The index is opened anew for the numbers to go on from their marks. */
static int rebuild_fill(struct rebuild *rb, struct rework *rw)
{
	struct packs_config pc = { .dir_fd = rb->packs_fd,
				   .dirty_bytes = UINT64_MAX };
	int r = rebuild_open(rb, rw);

	if (r >= 0)
		r = rebuild_load(rb, rw);
	index_close(steal_ptr(rw->t.ix));
	if (r >= 0)
		r = rebuild_packs(rb, rw);
	if (r >= 0)
		r = packs_open(&pc, &rw->t.packs);
	if (r >= 0)
		r = section_new(&rw->t.readers);
	if (r >= 0)
		r = rebuild_open(rb, rw);
	return r < 0 ? r : rebuild_work(rw);
}

int rebuild_run(struct rebuild *rb)
{
	struct rework rw = { .s = { .found = rb->said, .arg = rb->arg },
			     .data = rb->data,
			     .packs_fd = rb->packs_fd,
			     .most_bytes = rb->most_bytes };
	int r = rebuild_fill(rb, &rw);

	rework_release(&rw);
	index_close(rw.t.ix);
	packs_close(rw.t.packs);
	section_free(rw.t.readers);
	rb->lost = rw.lost;
	rb->found = rw.found;
	rb->lines = rw.s.findings;
	if (r < 0)
		return r;
	/* Second links before the index that names them. */
	if (fsync(rb->packs_fd) < 0)
		return -errno;
	return recover_seal(rb->new_fd);
}
