/* SPDX-License-Identifier: MIT */
#include "rebuildfix.h"

START_TEST(a_sound_store_stays_as_it_is)
{
	uint64_t entries = fx_count(INDEX_ENTRY),
		 blocks = fx_count(INDEX_BLOCK);
	uint64_t next, after;

	ck_assert_int_eq(index_new_id(fx.kit.ix, INDEX_ID_INO, &next), 0);
	repair(true);
	ck_assert_uint_eq(n_said, 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), entries);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), blocks);
	ck_assert_uint_eq(at_path("small"), made.small);
	left(ALL);
	ck_assert_int_eq(index_new_id(fx.kit.ix, INDEX_ID_INO, &after), 0);
	ck_assert_uint_gt(after, next);
}
END_TEST

/* -- Damage ---------------------------------------------------------------- */

static void hurt_value(enum index_table table, struct record_key key)
{
	change(table, key, "x", 1);
}

static void wrong_references(void)
{
	uint64_t id = block_of(made.wheel, 3);
	struct block_rec bl = block(id);

	bl.refs = 1;
	put_block(id, &bl);
}

static void missing_block(void)
{
	uint64_t id = block_of(made.small, 0);
	struct block_rec bl = block(id);

	begin();
	ck_assert_int_eq(block_del(txn, id, &bl), 0);
	commit();
}

static void shared_block_record(void)
{
	hurt_value(INDEX_BLOCK, record_key_id(block_of(made.wheel, 3)));
}

static void endless_run(void)
{
	put_runs(fx_inode(made.small).recipe, 0,
		 (struct run){ .first = block_of(made.small, 0),
			       .count = UINT32_MAX });
}

static void wrong_digests(void)
{
	uint64_t id = block_of(made.wheel, 3);
	struct block_rec bl = block(id);

	change(INDEX_DIGEST, record_key_pair(record_sha256_head(bl.sha256), id),
	       NULL, 0);
	change(INDEX_DIGEST, record_key_pair(7, id), "", 0);
	change(INDEX_DIGEST, record_key_pair(8, 99999), "", 0);
}

static void nobodys_recipe(void)
{
	uint64_t id = block_of(made.small, 0);

	put_runs(7777, 0, (struct run){ .first = id, .count = 1 });
	begin();
	ck_assert_int_eq(recipe_set_pending(txn, fx_inode(made.next).recipe,
					    RECIPE_DROPPING),
			 0);
	commit();
}

static void recipe_of_two(void)
{
	struct inode in = fx_inode(made.copy), other = fx_inode(made.next);

	other.recipe = in.recipe;
	other.size = in.size;
	fx_put_inode(&other);
}

static void recipe_chunk(void)
{
	hurt_value(INDEX_RECIPE,
		   record_key_pair(fx_inode(made.copy).recipe, 0));
}

static void pack_counters(void)
{
	uint64_t id = fx_inode(made.wheel).pack;
	struct pack_rec rec = pack(id);

	rec.live -= 10;
	rec.bytes -= 1;
	rec.owner = made.staged;
	put_pack(id, &rec);
	rec = (struct pack_rec){ .state = PACK_CUT };
	put_pack(fx_inode(made.staged).pack, &rec);
}

static void pack_records(void)
{
	change(INDEX_PACK, record_key_id(fx_inode(made.wheel).pack), NULL, 0);
	hurt_value(INDEX_PACK,
		   record_key_id(block(block_of(made.small, 0)).pack));
}

static void pack_of_two(void)
{
	struct inode in = fx_inode(made.staged);

	in.pack = fx_inode(made.wheel).pack;
	in.size = 1000;
	fx_put_inode(&in);
}

static void overlap(void)
{
	uint64_t id = block_of(made.next, 20);
	struct block_rec bl = block(id);

	bl.offset = block(block_of(made.next, 20) - 1).offset;
	bl.pack = block(block_of(made.next, 20) - 1).pack;
	put_block(id, &bl);
}

static void flipped_bytes(void)
{
	struct block_rec bl = block(block_of(made.next, 20));

	flip(bl.pack, bl.offset + 100);
	flip(fx_inode(made.staged).pack, 70000);
}

static void inline_bytes(void)
{
	uint8_t buf[RECORD_INLINE_HEAD + 100] = { 0 };

	change(INDEX_INLINE, record_key_id(made.inlined), buf, sizeof(buf));
	change(INDEX_INLINE, record_key_id(123456), buf, sizeof(buf));
}

static void missing_files(void)
{
	ck_assert_int_eq(unlink(pack_path(fx_inode(made.staged).pack).path), 0);
	ck_assert_int_eq(
		unlink(pack_path(block(block_of(made.small, 0)).pack).path), 0);
}

static void short_files(void)
{
	ck_assert_int_eq(
		truncate(pack_path(fx_inode(made.staged).pack).path, 99999), 0);
	ck_assert_int_eq(
		truncate(pack_path(block(block_of(made.small, 0)).pack).path,
			 10),
		0);
}

static void stray_file(void)
{
	struct scratch path = pack_path(0xabcdef);
	int fd = open(path.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	close(fd);
}

static void dirent_gone(void)
{
	change(INDEX_DIRENT, record_key_name(ROOT, "small"), NULL, 0);
	hurt_value(INDEX_DIRENT,
		   record_key_name(made.dir, "p-1-py3-none-any.whl"));
}

static void dirent_and_cookie_gone(void)
{
	uint64_t cookie = fx_inode(made.small).cookie;

	change(INDEX_DIRENT, record_key_name(ROOT, "small"), NULL, 0);
	hurt_value(INDEX_COOKIE, record_key_pair(ROOT, cookie));
}

static void cookies(void)
{
	change(INDEX_COOKIE, record_key_pair(ROOT, fx_inode(made.small).cookie),
	       "inline", 6);
	change(INDEX_COOKIE, record_key_pair(ROOT, 4711), "nobody", 6);
}

static void inode_gone(void)
{
	change(INDEX_INODE, record_key_id(made.small), NULL, 0);
	hurt_value(INDEX_INODE, record_key_id(made.wheel));
}

static void directory_gone(void)
{
	hurt_value(INDEX_INODE, record_key_id(made.dir));
}

static void directory_and_name_gone(void)
{
	struct inode in = fx_inode(made.dir);

	change(INDEX_INODE, record_key_id(made.dir), NULL, 0);
	change(INDEX_DIRENT, record_key_name(in.parent, FX_WHEEL_REST), NULL,
	       0);
}

static void root_gone(void)
{
	hurt_value(INDEX_INODE, record_key_id(ROOT));
}

static void circle(void)
{
	struct inode in = fx_inode(made.dir);
	struct dirent_rec de = { .ino = in.parent, .cookie = 99, .type = 4 };

	begin();
	ck_assert_int_eq(table_dirent_put(txn, made.dir, "up", &de), 0);
	commit();
}

static void two_names_of_a_directory(void)
{
	struct dirent_rec de = { .ino = made.dir, .cookie = 99, .type = 4 };

	begin();
	ck_assert_int_eq(table_dirent_put(txn, ROOT, "again", &de), 0);
	commit();
}

static void links(void)
{
	struct inode in = fx_inode(made.small);

	in.nlink = 7;
	fx_put_inode(&in);
	in = fx_inode(made.dir);
	in.nlink = 9;
	in.next_cookie = 3;
	fx_put_inode(&in);
}

static void unnamed(void)
{
	struct inode in = fx_inode(made.small);

	in.ino = 98765;
	in.data = INODE_DATA_NONE;
	in.recipe = 0;
	fx_put_inode(&in);
	change(INDEX_ORPHAN, record_key_id(made.inlined), "", 0);
}

static void entries_wrong(void)
{
	uint64_t id = fx_inode(made.wheel).entry;
	struct entry_rec en, old;

	ck_assert(fx_entry(id, &old));
	en = old;
	en.members = 9;
	begin();
	ck_assert_int_eq(table_entry_put(txn, id, &old, &en), 0);
	commit();
	change(INDEX_LRU, record_key_lru(1, 5, 88), "", 0);
}

static void entry_record(void)
{
	hurt_value(INDEX_ENTRY, record_key_id(fx_inode(made.wheel).entry));
}

static void known_bad(void)
{
	struct inode in = fx_inode(made.small);

	in.flags |= INODE_BAD;
	fx_put_inode(&in);
}

static const struct {
	const char *what;
	void (*hurt)(void);
	bool data;     /* only bytes tell */
	unsigned left; /* afterwards */
} cases[] = {
	{ "references", wrong_references, false, ALL },
	{ "block missing", missing_block, false, ALL & ~SMALL },
	/* The whole one is read linearly, and stays. */
	{ "shared block", shared_block_record, false, ALL & ~(COPY | NEXT) },
	{ "endless run", endless_run, false, ALL & ~SMALL },
	{ "digests", wrong_digests, false, ALL },
	{ "nobody's recipe", nobodys_recipe, false, ALL },
	{ "recipe of two", recipe_of_two, true, ALL & ~NEXT },
	{ "recipe chunk", recipe_chunk, false, ALL & ~COPY },
	{ "pack counters", pack_counters, false, ALL },
	{ "pack records", pack_records, false, ALL },
	{ "pack of two", pack_of_two, false, ALL & ~STAGED },
	{ "overlap", overlap, false, ALL & ~NEXT },
	{ "flipped bytes", flipped_bytes, true, ALL & ~(NEXT | STAGED) },
	{ "inline bytes", inline_bytes, false, ALL & ~INLINE },
	{ "files missing", missing_files, false, INLINE | WHEEL | COPY },
	{ "files short", short_files, false, INLINE | WHEEL | COPY },
	{ "stray file", stray_file, false, ALL },
	{ "dirent", dirent_gone, false, ALL },
	{ "dirent and cookie", dirent_and_cookie_gone, false, ALL & ~SMALL },
	{ "cookies", cookies, false, ALL },
	{ "inode", inode_gone, false, ALL & ~(SMALL | WHEEL) },
	{ "directory", directory_gone, false, ALL },
	{ "directory and name", directory_and_name_gone, false,
	  SMALL | INLINE | STAGED },
	{ "root", root_gone, false, ALL },
	{ "circle", circle, false, ALL },
	{ "two names", two_names_of_a_directory, false, ALL },
	{ "links", links, false, ALL },
	{ "unnamed", unnamed, false, ALL },
	{ "entries", entries_wrong, false, ALL },
	{ "entry record", entry_record, false, ALL },
	{ "known bad", known_bad, false, ALL & ~SMALL },
};

START_TEST(what_is_found_is_repaired)
{
	fx_reopen(); /* no pack is open any more */
	home.packs_fd = fx.kit.packs_dir;
	cases[_i].hurt();
	fx.hurt = true;
	run(cases[_i].data);
	ck_assert_msg(n_found || cases[_i].hurt == known_bad,
		      "%s: the check finds nothing", cases[_i].what);
	repair(cases[_i].data);
	left(cases[_i].left);
	/* Each file that is gone was told. */
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		ck_assert_msg((cases[_i].left & files[i].bit) ||
				      was_said(files[i].name) ||
				      cases[_i].hurt == dirent_and_cookie_gone,
			      "%s: the loss of %s is not told", cases[_i].what,
			      files[i].name);
}
END_TEST

/* Half a pair is of no use. */
START_TEST(a_pair_goes_together)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS), body;

	(void)fx_put(dir, FX_HASH, 500, 1);
	body = fx_put(dir, FX_HASH ".body", 700, 2);
	change(INDEX_INLINE, record_key_id(body), NULL, 0);
	fx.hurt = true;
	repair(false);
	ck_assert_uint_eq(fx_find(dir, FX_HASH), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
	ck_assert(was_said(
		FX_HASH_DIRS
		"/" FX_HASH
		".body: lost, its bytes in the index are missing or damaged"));
	ck_assert(was_said(FX_HASH_DIRS
			   "/" FX_HASH
			   ": lost, the other half of its pair is lost"));
	left(ALL);
}
END_TEST

START_TEST(an_index_that_does_not_fit_is_refused)
{
	struct rebuild rb = { .bad_index_fd = -1,
			      .bad_packs_fd = -1,
			      .most_bytes = 8192 };
	struct scratch new = beside("index.new");

	fx_close();
	ck_assert_int_eq(build(&rb), -ENOSPC);
	scratch_remove(&new);
	fx_open();
	home.packs_fd = fx.kit.packs_dir;
	clean();
	left(ALL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rebuild");
	TCase *tc = kit_case(suite, "rebuild", setup, teardown);

	scratch_in_memory();
	tcase_add_test(tc, a_sound_store_stays_as_it_is);
	tcase_add_loop_test(tc, what_is_found_is_repaired, 0,
			    sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(tc, a_pair_goes_together);
	tcase_add_test(tc, an_index_that_does_not_fit_is_refused);
	return kit_run_suite(suite);
}
