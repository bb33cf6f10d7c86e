/* SPDX-License-Identifier: MIT */
#include "store/datacheck.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/block.h"
#include "store/content.h"
#include "store/digest.h"
#include "store/pieces.h"
#include "store/recipe.h"
#include "store/table.h"

#define DATACHECK_BATCH 256 /* records in one transaction */
#define DATACHECK_TRIES 4   /* with what changes meanwhile */
#define DATACHECK_STRAY_LOOKS 50
#define DATACHECK_STRAY_USEC 100000

static bool datacheck_is_over(const struct datacheck *dc)
{
	struct timespec ts;

	if (!dc->stop_ns)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec >= dc->stop_ns;
}

/* Numbers of a table from *@at on, a batch of them. */
static int datacheck_gather(struct datacheck *dc, enum index_table table,
			    uint64_t at)
{
	cleanup_free uint8_t *val = malloc(INDEX_VALUE_MAX);
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(at), key;
	struct survey_item *item;
	uint64_t id;
	size_t len;
	int r = val ? index_begin(dc->t->ix, false, &txn) : -ENOMEM;

	dc->set.n = 0;
	if (r >= 0)
		r = index_iter(txn, table, &from, 0, &it);
	while (r >= 0 && dc->set.n < DATACHECK_BATCH &&
	       (r = index_next(&it, &key, val, INDEX_VALUE_MAX, &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		r = 0; /* damaged ones are told elsewhere */
		if (record_key_get(&key, 0, &id) == 0 && id < UINT64_MAX)
			r = survey_add(&dc->set, id, &item);
	}
	return r < 0 ? r : 0;
}

/* Calls @fn with each number. */
static int datacheck_each(struct datacheck *dc, enum index_table table,
			  uint64_t *at,
			  int (*fn)(struct datacheck *dc, uint64_t id))
{
	int r;

	for (;;) {
		r = datacheck_gather(dc, table, *at);
		if (r < 0 || !dc->set.n)
			return r;
		for (size_t i = 0; i < dc->set.n; i++) {
			r = fn(dc, dc->set.v[i].id);
			if (r < 0)
				return r;
			*at = dc->set.v[i].id + 1;
			if (datacheck_is_over(dc))
				return 1;
		}
	}
}

/* What can be wrong with bytes; other errors end the check. */
static bool datacheck_is_finding(int r)
{
	return r == -EBADMSG || r == -EIO || r == -ENOENT;
}

/* --- Files ------------------------------------------------------------- */

/* "inode 7 (wheels/.../a.whl)" */
struct datacheck_who {
	char text[SURVEY_TEXT_MAX / 4 * 3];
};

static struct datacheck_who datacheck_who(struct datacheck *dc,
					  const struct inode *in)
{
	cleanup_txn struct index_txn *txn = NULL;
	char path[SURVEY_TEXT_MAX] = "", name[RECORD_NAME_MAX + 1];
	struct datacheck_who ret;
	struct table_path up;
	size_t len = 0;

	if (in->nlink && index_begin(dc->t->ix, false, &txn) >= 0 &&
	    table_cookie_get(txn, in->parent, in->cookie, name) >= 0 &&
	    table_path(txn, in->parent, &up) >= 0 && up.n <= TABLE_PATH_MAX) {
		for (unsigned i = 0; i < up.n && len < sizeof(path); i++)
			len += (size_t)snprintf(path + len, sizeof(path) - len,
						"%s/", up.dirs[i]);
		if (len < sizeof(path))
			(void)snprintf(path + len, sizeof(path) - len, "%s",
				       name);
	}
	snprintf(ret.text, sizeof(ret.text), "inode %" PRIu64 "%s%s%s", in->ino,
		 *path ? " (" : "", survey_name(path, strlen(path)).text,
		 *path ? ")" : "");
	return ret;
}

/* Is the file still what was looked at? -ENOENT: it is gone. */
static int datacheck_is_same(struct datacheck *dc, const struct inode *in,
			     struct inode *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(dc->t->ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, in->ino, ret);
	if (r < 0)
		return r == -EBADMSG ? -ENOENT : r;
	return ret->data == in->data && ret->pack == in->pack &&
	       ret->recipe == in->recipe && ret->size == in->size &&
	       ret->xxh3 == in->xxh3 && ret->flags == in->flags &&
	       ret->mtime_ns == in->mtime_ns && ret->ctime_ns == in->ctime_ns;
}

struct datacheck_why {
	char text[SURVEY_TEXT_MAX / 4];
};

/* The pack that the inode reads. 1: @why says what is wrong. */
static int datacheck_look_pack(struct datacheck *dc, const struct inode *in,
			       struct datacheck_why *why)
{
	struct pack *pk;
	uint64_t size, disk;
	int r = pack_get_blocks(dc->t->packs, in->pack, &pk);

	if (r == -ENOENT) {
		snprintf(why->text, sizeof(why->text),
			 "its pack %" PRIu64 " has no file", in->pack);
		return 1;
	}
	if (r < 0)
		return r;
	r = pack_stat(pk, &size, &disk);
	pack_put_blocks(pk);
	if (r < 0 || size >= in->size)
		return r;
	snprintf(why->text, sizeof(why->text),
		 "%" PRIu64 " bytes, its pack %" PRIu64 " has %" PRIu64,
		 in->size, in->pack, size);
	return 1;
}

static int datacheck_sum(struct tree *t, const struct inode *in, uint64_t *ret)
{
	struct node as = { .ino = in->ino,
			   .size = in->size,
			   .recipe = in->recipe };
	int r;

	if (in->data == INODE_DATA_RECIPE)
		r = content_remap(t, &as);
	else
		r = pack_get_blocks(t->packs, in->pack, &as.pack);
	if (r >= 0)
		r = content_sum(t, &as, ret);
	if (as.pack)
		pack_put_blocks(as.pack);
	recipe_map_free(as.map);
	return r;
}

int datacheck_file_bytes(struct tree *t, const struct inode *in, bool *ret_good)
{
	uint64_t sum = 0;
	int r = datacheck_sum(t, in, &sum);

	if (r < 0 && !datacheck_is_finding(r))
		return r;
	*ret_good = r >= 0 && sum == in->xxh3;
	return !*ret_good;
}

/* All bytes of the file. 1: @why says what is wrong. */
static int datacheck_look_bytes(struct datacheck *dc, const struct inode *in,
				struct datacheck_why *why)
{
	uint64_t sum = 0;
	int r = datacheck_sum(dc->t, in, &sum);

	if (r < 0 && !datacheck_is_finding(r))
		return r;
	if (r >= 0 && sum == in->xxh3) {
		dc->bytes += in->size;
		return 0;
	}
	snprintf(why->text, sizeof(why->text), "its bytes %s%s",
		 r < 0 && r != -EBADMSG ? "cannot be read: "
		 : r < 0		? "are not all there"
					: "do not match their checksum",
		 r < 0 && r != -EBADMSG ? strerror(-r) : "");
	return 1;
}

static int datacheck_look(struct datacheck *dc, const struct inode *in,
			  struct datacheck_why *why)
{
	bool has_pack = in->data == INODE_DATA_PACK;
	int r = 0;

	/* While it is written the index does not know its size. */
	if ((in->flags & INODE_WRITERS) ||
	    (!has_pack && in->data != INODE_DATA_RECIPE))
		return 0;
	if (has_pack)
		r = datacheck_look_pack(dc, in, why);
	if (r == 0 && dc->data && (in->flags & INODE_SUMMED))
		r = datacheck_look_bytes(dc, in, why);
	return r;
}

/* Bytes in the index: all in one transaction. */
static int datacheck_inline(struct datacheck *dc, struct index_txn *txn,
			    const struct inode *in)
{
	cleanup_free uint8_t *buf = malloc(INDEX_VALUE_MAX);
	struct record_key key = record_key_id(in->ino);
	uint64_t sum;
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	n = index_get(txn, INDEX_INLINE, &key, buf, INDEX_VALUE_MAX);
	if (n == -ENOENT || n == -EBADMSG)
		return 0; /* told with the names */
	if (n < 0)
		return (int)n;
	if (n < RECORD_INLINE_HEAD ||
	    record_u64_decode(buf, RECORD_INLINE_HEAD, &sum) < 0 ||
	    sum != digest_xxh3(buf + RECORD_INLINE_HEAD,
			       (size_t)n - RECORD_INLINE_HEAD))
		survey_found(
			dc->s,
			"%s: its bytes in the index do not match their checksum",
			datacheck_who(dc, in).text);
	dc->bytes += (uint64_t)n;
	return 0;
}

static int datacheck_first_look(struct datacheck *dc, uint64_t ino,
				struct inode *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(dc->t->ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, ino, ret);
	if (r >= 0 && dc->data && ret->data == INODE_DATA_INLINE)
		r = datacheck_inline(dc, txn, ret);
	return r;
}

static int datacheck_file(struct datacheck *dc, uint64_t ino)
{
	struct datacheck_why why;
	struct inode in, now;
	int r = datacheck_first_look(dc, ino, &now);

	for (int i = 0; i < DATACHECK_TRIES && r >= 0; i++) {
		in = now;
		r = datacheck_look(dc, &in, &why);
		if (r <= 0)
			break;
		r = datacheck_is_same(dc, &in, &now);
		if (r > 0) {
			survey_found(dc->s, "%s: %s",
				     datacheck_who(dc, &in).text, why.text);
			break;
		}
	}
	/* Gone meanwhile, or damaged, which is told with the names. */
	return r < 0 && r != -ENOENT && r != -EBADMSG ? r : 0;
}

int datacheck_files(struct datacheck *dc, uint64_t *at)
{
	return datacheck_each(dc, INDEX_INODE, at, datacheck_file);
}

/* --- Packs ------------------------------------------------------------- */

static int datacheck_pack_rec(struct datacheck *dc, uint64_t id,
			      struct pack_rec *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(dc->t->ix, false, &txn);

	return r < 0 ? r : block_pack_get(txn, id, ret);
}

static int datacheck_pack(struct datacheck *dc, uint64_t id)
{
	struct pack *pk = NULL;
	struct pack_rec rec, now;
	uint64_t size = 0, disk;
	int r = datacheck_pack_rec(dc, id, &rec), found;

	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	found = pack_get_blocks(dc->t->packs, id, &pk);
	if (found >= 0) {
		found = pack_stat(pk, &size, &disk);
		pack_put_blocks(pk);
	}
	if (found < 0 && found != -ENOENT)
		return found;
	if (found >= 0 && size >= rec.bytes)
		return 0;
	/* A pack only grows, and its file goes after its record. */
	r = datacheck_pack_rec(dc, id, &now);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	if (found < 0)
		survey_found(dc->s, "pack %" PRIu64 ": it has no file", id);
	else
		survey_found(dc->s,
			     "pack %" PRIu64 ": %" PRIu64
			     " bytes, its file has %" PRIu64,
			     id, rec.bytes, size);
	return 0;
}

int datacheck_packs(struct datacheck *dc, uint64_t *at)
{
	return datacheck_each(dc, INDEX_PACK, at, datacheck_pack);
}

/* --- Blocks ------------------------------------------------------------ */

static int datacheck_block_rec(struct datacheck *dc, uint64_t id,
			       struct block_rec *ret)
{
	cleanup_txn struct index_txn *txn = NULL;
	int r = index_begin(dc->t->ix, false, &txn);

	return r < 0 ? r : block_get(txn, id, ret);
}

int datacheck_block_bytes(struct tree *t, const struct block_rec *bl,
			  const char **ret_why)
{
	uint8_t sha256[RECORD_SHA256_SIZE];
	uint64_t xxh3 = 0;
	int r = pieces_digest_block(t->packs, bl, NULL, NULL, sha256, &xxh3);

	if (r == -ENOENT)
		return r;
	if (r < 0 && !datacheck_is_finding(r))
		return r;
	if (r == -EBADMSG)
		*ret_why = "are not all there";
	else if (r < 0)
		*ret_why = "cannot be read";
	else if (xxh3 != bl->xxh3)
		*ret_why = "do not match their XXH3";
	else if (memcmp(sha256, bl->sha256, sizeof(sha256)) != 0)
		*ret_why = "do not match their SHA-256";
	return *ret_why != NULL;
}

/* 1: @why says what is wrong with it. */
static int datacheck_look_block(struct datacheck *dc,
				const struct block_rec *bl,
				const char **ret_why)
{
	int r = datacheck_block_bytes(dc->t, bl, ret_why);

	if (r == 0)
		dc->bytes += bl->length;
	return r == -ENOENT ? 0 : r; /* told with the packs */
}

static int datacheck_block(struct datacheck *dc, uint64_t id)
{
	const char *why = NULL;
	struct block_rec bl, now;
	int r = datacheck_block_rec(dc, id, &now);

	for (int i = 0; i < DATACHECK_TRIES && r >= 0; i++) {
		bl = now;
		why = NULL;
		r = datacheck_look_block(dc, &bl, &why);
		if (r <= 0)
			break;
		r = datacheck_block_rec(dc, id, &now);
		if (r < 0 || now.pack != bl.pack || now.offset != bl.offset)
			continue;
		survey_found(dc->s,
			     "block %" PRIu64 ": its %" PRIu64
			     " bytes in pack %" PRIu64 " at %" PRIu64 " %s",
			     id, bl.length, bl.pack, bl.offset, why);
		break;
	}
	return r < 0 && r != -ENOENT && r != -EBADMSG ? r : 0;
}

int datacheck_blocks(struct datacheck *dc, uint64_t *at)
{
	return dc->data ? datacheck_each(dc, INDEX_BLOCK, at, datacheck_block)
			: 0;
}

/* --- Pack files -------------------------------------------------------- */

static int datacheck_name_pack(struct datacheck *dc, uint64_t id)
{
	return idset_add(dc->named, id);
}

static int datacheck_name_linear(struct datacheck *dc, uint64_t ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode in;
	int r = index_begin(dc->t->ix, false, &txn);

	if (r >= 0)
		r = table_inode_get(txn, ino, &in);
	if (r < 0)
		return r == -ENOENT || r == -EBADMSG ? 0 : r;
	return in.data == INODE_DATA_PACK ? idset_add(dc->named, in.pack) : 0;
}

/* Packs that the index names, those with damaged records included. */
static int datacheck_named(struct datacheck *dc, struct idset *ret)
{
	uint64_t at = 0;
	int r;

	dc->named = ret;
	r = datacheck_each(dc, INDEX_PACK, &at, datacheck_name_pack);
	at = 0;
	if (r >= 0)
		r = datacheck_each(dc, INDEX_INODE, &at, datacheck_name_linear);
	dc->named = NULL;
	return r;
}

/* Calls @fn with the number of each file that is not in @named. */
static int datacheck_list(const struct idset *named, int packs_fd,
			  int (*fn)(void *arg, uint64_t id), void *arg)
{
	int fd = openat(packs_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *de;
	uint64_t id;
	int r = 0;

	if (!dir) {
		r = -errno;
		base_closep(&fd);
		return r;
	}
	while (r >= 0 && (de = readdir(dir)))
		if (packio_parse(de->d_name, &id) && !idset_has(named, id))
			r = fn(arg, id);
	closedir(dir);
	return r;
}

static int datacheck_note(void *arg, uint64_t id)
{
	return idset_add(arg, id);
}

struct datacheck_stray {
	struct datacheck *dc;
	const struct idset *before;
	int packs_fd;
	int looks; /* that are left, for all of them */
};

/* Between the commit that gives it up and the word to the packs there is a
 * moment, and background threads may be held up in it. */
static bool datacheck_stays(struct datacheck_stray *ds, uint64_t id)
{
	struct packio_name name = packio_name(id);

	for (;; ds->looks--) {
		if (packs_busy(ds->dc->t->packs, id) ||
		    packs_doomed(ds->dc->t->packs, id) ||
		    faccessat(ds->packs_fd, name.text, F_OK,
			      AT_SYMLINK_NOFOLLOW) < 0)
			return false;
		if (ds->looks <= 0)
			return true;
		(void)usleep(DATACHECK_STRAY_USEC);
	}
}

static int datacheck_stray(void *arg, uint64_t id)
{
	struct datacheck_stray *ds = arg;

	if (idset_has(ds->before, id) && datacheck_stays(ds, id))
		survey_found(ds->dc->s,
			     "pack %" PRIu64 ": there is a file (packs/%s), "
			     "but nothing names it",
			     id, packio_name(id).text);
	return 0;
}

/* What was given up before the checkpoint is gone after it; what is new was
 * not there before. */
int datacheck_strays(struct datacheck *dc, int packs_fd,
		     int (*checkpoint)(void *arg), void *arg)
{
	cleanup_idset struct idset before = { .slots = NULL };
	cleanup_idset struct idset named = { .slots = NULL };
	cleanup_idset struct idset after = { .slots = NULL };
	struct datacheck_stray ds = { .dc = dc,
				      .before = &before,
				      .packs_fd = packs_fd,
				      .looks = DATACHECK_STRAY_LOOKS };
	int r;

	dc->stop_ns = 0; /* it cannot go on half-way */
	r = datacheck_named(dc, &named);
	if (r >= 0)
		r = datacheck_list(&named, packs_fd, datacheck_note, &before);
	if (r < 0 || !before.used)
		return r;
	r = checkpoint ? checkpoint(arg) : 0;
	if (r >= 0)
		r = datacheck_named(dc, &after);
	return r < 0 ? r
		     : datacheck_list(&after, packs_fd, datacheck_stray, &ds);
}

void datacheck_release(struct datacheck *dc)
{
	survey_release(&dc->set);
}
