/* SPDX-License-Identifier: MIT */
/*
 * Whatever is changed in a record, the check finds it: each field of each
 * record is overwritten, one after the other, with a checksum that matches.
 * What may be anything (times, owners, hits) is left out, and nothing else.
 */
#include "checkfix.h"

static unsigned tried, missed;
static char first_missed[200];

/* The record as it is, to be put back. */
static struct record_key at;
static uint8_t was[INDEX_VALUE_MAX];
static size_t was_len;

/* The check with another value finds something. */
static void tries(enum index_table table, const void *val, size_t len,
		  const char *what)
{
	change(table, at, val, len);
	fx_raise_parts(NULL);
	run(true);
	tried++;
	if (!n_found && !missed++)
		(void)snprintf(first_missed, sizeof(first_missed), "%s", what);
	change(table, at, was_len || val ? (const void *)was : "", was_len);
}

/* Calls @fn with each record: collected first, for they change. */
static void each(enum index_table table, void (*fn)(void))
{
	static struct record_key keys[600];
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = { .len = 1 };
	struct index_txn *read;
	size_t n = 0;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
	ck_assert_int_eq(index_iter(read, table, &from, 0, &it), 0);
	while (n < 600 &&
	       index_next(&it, &keys[n], was, sizeof(was), &was_len) > 0)
		n++;
	index_iter_release(&it);
	index_abort(read);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, 600);
	for (size_t i = 0; i < n; i++) {
		ssize_t len;

		at = keys[i];
		ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
		len = index_get(read, table, &at, was, sizeof(was));
		index_abort(read);
		ck_assert_int_ge(len, 0);
		was_len = (size_t)len;
		fn();
	}
}

static void without(enum index_table table, const char *what)
{
	cleanup_free uint8_t *keep = malloc(was_len + 1);

	ck_assert_ptr_nonnull(keep);
	memcpy(keep, was, was_len);
	begin();
	ck_assert_int_eq(index_del(txn, table, &at), 0);
	commit();
	fx_raise_parts(NULL);
	run(true);
	tried++;
	if (!n_found && !missed++)
		(void)snprintf(first_missed, sizeof(first_missed), "%s gone",
			       what);
	change(table, at, keep, was_len);
}

/* -- Inodes ---------------------------------------------------------------- */

static void inode_with(const struct inode *in, const char *what)
{
	uint8_t buf[RECORD_INODE_SIZE];

	record_inode_encode(in, buf);
	tries(INDEX_INODE, buf, sizeof(buf), what);
}

#define WITH(rec, field, value, fn)                                            \
	do {                                                                   \
		__typeof__(rec) _rec = (rec);                                  \
                                                                               \
		_rec.field = (value);                                          \
		fn(&_rec, #field);                                             \
	} while (0)

static void hurt_inode(void)
{
	struct inode in;
	uint64_t ino;
	bool file;

	ck_assert_int_eq(record_key_get(&at, 0, &ino), 0);
	ck_assert_int_eq(record_inode_decode(ino, was, was_len, &in), 0);
	file = S_ISREG(in.mode);
	without(INDEX_INODE, "inode");
	WITH(in, nlink, in.nlink + 1, inode_with);
	WITH(in, mode, (in.mode & 07777) | (file ? S_IFIFO : S_IFREG),
	     inode_with);
	if (ino != ROOT) {
		WITH(in, parent, in.parent + 1, inode_with);
		WITH(in, cookie, in.cookie + 1, inode_with);
	}
	if (!file && in.nlink > 2)
		WITH(in, next_cookie, RECORD_FIRST_COOKIE, inode_with);
	if (!file)
		return;
	WITH(in, size, in.size - 1, inode_with);
	WITH(in, size, in.size + 1, inode_with);
	WITH(in, entry, in.entry + 7777, inode_with);
	if (in.entry)
		WITH(in, kind, in.kind ^ 1, inode_with);
	if (in.data != INODE_DATA_INLINE)
		WITH(in, xxh3, in.xxh3 ^ 1, inode_with);
	if (in.recipe)
		WITH(in, recipe, in.recipe + 1, inode_with);
	if (in.data == INODE_DATA_PACK)
		WITH(in, pack, in.pack + 1, inode_with);
	WITH(in, data, INODE_DATA_NONE, inode_with);
}

START_TEST(fields_of_inodes)
{
	each(INDEX_INODE, hurt_inode);
}
END_TEST

/* -- Names ----------------------------------------------------------------- */

static void dirent_with(const struct dirent_rec *de, const char *what)
{
	uint8_t buf[RECORD_DIRENT_SIZE];

	record_dirent_encode(de, buf);
	tries(INDEX_DIRENT, buf, sizeof(buf), what);
}

static void hurt_dirent(void)
{
	struct dirent_rec de;

	ck_assert_int_eq(record_dirent_decode(was, was_len, &de), 0);
	without(INDEX_DIRENT, "dirent");
	WITH(de, ino, de.ino + 1, dirent_with);
	WITH(de, cookie, de.cookie + 1, dirent_with);
	WITH(de, type, de.type == 4 ? 8 : 4, dirent_with);
}

static void hurt_cookie(void)
{
	without(INDEX_COOKIE, "cookie");
	tries(INDEX_COOKIE, "zz", 2, "name");
}

START_TEST(fields_of_names)
{
	each(INDEX_DIRENT, hurt_dirent);
	each(INDEX_COOKIE, hurt_cookie);
}
END_TEST

static void hurt_inline(void)
{
	uint8_t buf[INDEX_VALUE_MAX];

	without(INDEX_INLINE, "inline");
	memcpy(buf, was, was_len);
	buf[0] ^= 1;
	tries(INDEX_INLINE, buf, was_len, "checksum");
	buf[0] ^= 1;
	buf[was_len - 1] ^= 1;
	tries(INDEX_INLINE, buf, was_len, "bytes");
	tries(INDEX_INLINE, was, was_len - 1, "length");
}

START_TEST(bytes_in_the_index)
{
	each(INDEX_INLINE, hurt_inline);
}
END_TEST

/* -- Entries --------------------------------------------------------------- */

static void entry_with(const struct entry_rec *en, const char *what)
{
	uint8_t buf[RECORD_ENTRY_MAX];

	tries(INDEX_ENTRY, buf, record_entry_encode(en, buf), what);
}

static void hurt_entry(void)
{
	struct entry_rec en, other;

	ck_assert_int_eq(record_entry_decode(was, was_len, &en), 0);
	without(INDEX_ENTRY, "entry");
	WITH(en, kind, en.kind ^ 2, entry_with);
	WITH(en, members, en.members + 1, entry_with);
	WITH(en, last_use_ns, en.last_use_ns + 1, entry_with);
	WITH(en, dir, en.dir + 7777, entry_with);
	other = en;
	memcpy(other.name, "zz", 3);
	entry_with(&other, "name");
}

static void hurt_lru(void)
{
	without(INDEX_LRU, "lru");
}

START_TEST(fields_of_entries)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);

	(void)fx_put(dir, FX_HASH, 500, 1);
	(void)fx_put(dir, FX_HASH ".body", 700, 2);
	clean();
	each(INDEX_ENTRY, hurt_entry);
	each(INDEX_LRU, hurt_lru);
}
END_TEST

/* -- Recipes, blocks, packs ------------------------------------------------ */

static struct run runs[RECORD_RUNS_MAX];
static size_t n_runs;

static void runs_with(size_t n, const char *what)
{
	uint8_t buf[RECORD_RUNS_MAX * RECORD_RUN_SIZE];

	tries(INDEX_RECIPE, buf, record_runs_encode(runs, n, buf), what);
}

static void hurt_recipe(void)
{
	uint64_t recipe;
	bool linear;

	ck_assert_int_eq(record_key_get(&at, 0, &recipe), 0);
	linear = recipe == fx_inode(made.wheel).recipe;
	ck_assert_int_eq(record_runs_decode(was, was_len, runs, &n_runs), 0);
	without(INDEX_RECIPE, "recipe");
	for (size_t i = 0; i < n_runs; i++) {
		struct run keep = runs[i];

		runs[i].first++;
		runs_with(n_runs, "first");
		runs[i] = keep;
		runs[i].count++;
		runs_with(n_runs, "count");
		runs[i] = keep;
		runs[i].stamp ^= 1;
		/* One that is read linearly needs none. */
		if (keep.stamped && !linear)
			runs_with(n_runs, "stamp");
		runs[i] = keep;
	}
	if (n_runs > 1)
		runs_with(n_runs - 1, "runs");
}

static void block_with(const struct block_rec *bl, const char *what)
{
	uint8_t buf[RECORD_BLOCK_MAX];

	tries(INDEX_BLOCK, buf, record_block_encode(bl, buf), what);
}

static void hurt_block(void)
{
	struct block_rec bl, other;

	ck_assert_int_eq(record_block_decode(was, was_len, &bl), 0);
	without(INDEX_BLOCK, "block");
	WITH(bl, pack, bl.pack + 1, block_with);
	WITH(bl, offset, bl.offset + 1, block_with);
	WITH(bl, length, bl.length - 1, block_with);
	WITH(bl, xxh3, bl.xxh3 ^ 1, block_with);
	WITH(bl, refs, bl.refs + 1, block_with);
	other = bl;
	other.sha256[31] ^= 1;
	block_with(&other, "sha256");
	other = bl;
	other.sha256[0] ^= 1;
	block_with(&other, "sha256");
}

static void hurt_digest(void)
{
	without(INDEX_DIGEST, "digest");
}

static void pack_with(const struct pack_rec *rec, const char *what)
{
	uint8_t buf[RECORD_PACK_SIZE];

	record_pack_encode(rec, buf);
	tries(INDEX_PACK, buf, sizeof(buf), what);
}

static void hurt_pack(void)
{
	struct pack_rec rec;

	ck_assert_int_eq(record_pack_decode(was, was_len, &rec), 0);
	without(INDEX_PACK, "pack");
	WITH(rec, owner, rec.owner + 1, pack_with);
	WITH(rec, live, rec.live + 1, pack_with);
	WITH(rec, bytes, rec.bytes - 1, pack_with);
	WITH(rec, bytes, rec.bytes + 1, pack_with);
}

START_TEST(fields_of_recipes)
{
	each(INDEX_RECIPE, hurt_recipe);
}
END_TEST

START_TEST(fields_of_blocks_and_packs)
{
	each(INDEX_BLOCK, hurt_block);
	each(INDEX_DIGEST, hurt_digest);
	each(INDEX_PACK, hurt_pack);
}
END_TEST

/* -- Numbers --------------------------------------------------------------- */

START_TEST(numbers_that_are_given_next)
{
	uint8_t one[sizeof(uint64_t)];

	record_u64_encode(1, one);
	for (int i = 0; i < INDEX_IDS; i++) {
		struct index_txn *read;
		ssize_t n;

		at = record_key_text(schema_ids[i].name);
		ck_assert_int_eq(index_begin(fx.kit.ix, false, &read), 0);
		n = index_get(read, INDEX_META, &at, was, sizeof(was));
		index_abort(read);
		ck_assert_int_eq(n, sizeof(one));
		was_len = (size_t)n;
		tries(INDEX_META, one, sizeof(one), schema_ids[i].name);
	}
}
END_TEST

static void all_up(void)
{
	uint8_t zero[sizeof(uint64_t)] = { 0 };

	setup();
	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	/* As after the first rescan. */
	change(INDEX_META, record_key_text(TABLE_META_RESCAN), zero,
	       sizeof(zero));
	clean();
	tried = missed = 0;
}

static void all_down(void)
{
	printf("%u changes\n", tried);
	fx_raise_parts(NULL);
	ck_assert_msg(!missed, "%u of %u changes are not found, such as: %s",
		      missed, tried, first_missed);
	clean();
	teardown();
}

int main(void)
{
	Suite *suite = suite_create("check_all");
	TCase *tc = kit_case(suite, "fields", all_up, all_down);

	scratch_in_memory();
	tcase_set_timeout(tc, 600);
	tcase_add_test(tc, fields_of_inodes);
	tcase_add_test(tc, fields_of_names);
	tcase_add_test(tc, bytes_in_the_index);
	tcase_add_test(tc, fields_of_entries);
	tcase_add_test(tc, fields_of_recipes);
	tcase_add_test(tc, fields_of_blocks_and_packs);
	tcase_add_test(tc, numbers_that_are_given_next);
	return kit_run_suite(suite);
}
