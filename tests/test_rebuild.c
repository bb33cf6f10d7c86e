/* SPDX-License-Identifier: MIT */
#include "store/rebuild.h"

#include <sys/syscall.h>

#include "checkfix.h"
#include "store/tidy.h"

/* What is said to be done. */
static char said[FOUND_MAX][SURVEY_TEXT_MAX];
static size_t n_said;

static void note_said(void *arg, const char *text)
{
	(void)arg;
	if (n_said < FOUND_MAX)
		(void)snprintf(said[n_said++], sizeof(said[0]), "%s", text);
}

static bool was_said(const char *text)
{
	for (size_t i = 0; i < n_said; i++)
		if (strstr(said[i], text))
			return true;
	return false;
}

/* -- Rebuilding the fixture's store ---------------------------------------- */

static struct scratch beside(const char *name)
{
	return scratch_at(&fx.kit.dir, name);
}

static int build(struct rebuild *rb)
{
	struct scratch new = beside("index.new");
	int r;

	(void)mkdir(new.path, 0700);
	rb->new_fd = scratch_open_dir(&new);
	rb->index_fd = fx.kit.index_dir;
	rb->packs_fd = fx.kit.packs_dir;
	if (!rb->most_bytes)
		rb->most_bytes = GIB;
	rb->said = note_said;
	n_said = 0;
	r = rebuild_run(rb);
	close(rb->new_fd);
	return r;
}

/* The new index takes the place of the old one. */
static void swap(void)
{
	struct scratch new = beside("index.new"), old = beside("index");

	ck_assert_int_eq(syscall(SYS_renameat2, AT_FDCWD, new.path, AT_FDCWD,
				 old.path, 2),
			 0);
	scratch_remove(&new);
	close(fx.kit.index_dir);
	fx.kit.index_dir = scratch_open_dir(&old);
}

static void rescan(void)
{
	for (int i = 0; i < 4; i++) {
		struct tidy_pos pos = { .part = 0 };
		int r;

		while ((r = tidy_rescan(T, &pos)) > 0)
			;
		ck_assert_int_eq(r, 0);
	}
}

/* Then nothing is wrong any more, by the check or by the fixture's own. */
static void repair(bool data)
{
	struct rebuild rb = { .bad_index_fd = -1,
			      .bad_packs_fd = -1,
			      .data = data };

	fx_close();
	ck_assert_int_eq(build(&rb), 0);
	swap();
	fx_open();
	ck_assert_int_eq(fx.kit.found, CHECKPOINT_CLEAN);
	home.packs_fd = fx.kit.packs_dir;
	rescan();
	clean();
	fx.hurt = false;
}

/* -- What is left ---------------------------------------------------------- */

enum {
	SMALL = 1,
	INLINE = 2,
	STAGED = 4,
	WHEEL = 8,
	COPY = 16,
	NEXT = 32,
	ALL = 63
};

static const struct {
	unsigned bit;
	bool wheel;
	const char *name;
} files[] = {
	{ SMALL, false, "small" },
	{ INLINE, false, "inline" },
	{ STAGED, false, "staged" },
	{ WHEEL, true, "p-1-py3-none-any.whl" },
	{ COPY, true, "p-1-py2-none-any.whl" },
	{ NEXT, true, "p-2-py3-none-any.whl" },
};

static uint64_t at_path(const char *path)
{
	uint64_t at = ROOT;
	char buf[512], *save, *name;

	(void)snprintf(buf, sizeof(buf), "%s", path);
	for (name = strtok_r(buf, "/", &save); name && at;
	     name = strtok_r(NULL, "/", &save))
		at = fx_find(at, name);
	return at;
}

/* These files have their names and their bytes, the others are gone. */
static void left(unsigned bits)
{
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		uint64_t dir = files[i].wheel ? at_path(FX_WHEEL_DIRS) : ROOT;
		uint64_t ino = dir ? fx_find(dir, files[i].name) : 0;

		ck_assert_msg(!!ino == !!(bits & files[i].bit), "%s is %s",
			      files[i].name, ino ? "there" : "gone");
		/* The open compares all bytes with the checksum. */
		if (ino)
			ck_assert_int_eq(fx_try_open(ino, FILE_QUIET), 0);
	}
	if (bits & SMALL)
		ck_assert_int_eq(fx_holds(at_path("small"), 20000, 1), 0);
	if (bits & INLINE)
		ck_assert_int_eq(fx_holds(at_path("inline"), 100, 3), 0);
}

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

	begin();
	ck_assert_int_eq(block_forget(txn, id, &bl), 0);
	commit();
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
	{ "shared block", shared_block_record, false,
	  ALL & ~(WHEEL | COPY | NEXT) },
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

/* -- Pages that are damaged ------------------------------------------------ */

static void copy(const char *name, const struct scratch *from,
		 const struct scratch *to)
{
	struct scratch a = scratch_at(from, name), b = scratch_at(to, name);
	char cmd[4 * SCRATCH_PATH_MAX];

	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s && cp -a %s %s", b.path,
		       a.path, b.path);
	ck_assert_int_eq(system(cmd), 0);
}

static void restore(const struct scratch *kept)
{
	struct scratch index = beside("index"), packs = beside("packs");

	copy("index", kept, &fx.kit.dir);
	copy("packs", kept, &fx.kit.dir);
	close(fx.kit.index_dir);
	close(fx.kit.packs_dir);
	fx.kit.index_dir = scratch_open_dir(&index);
	fx.kit.packs_dir = scratch_open_dir(&packs);
}

static void spoil_page(off_t at)
{
	static const char bytes[] = "\xff\x5a\0\1\2\3\4\5";
	struct scratch index = beside("index");
	struct scratch data = scratch_at(&index, "data.mdb");
	int fd = open(data.path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	for (int i = 0; i < 4096; i += 8)
		ck_assert_int_eq(pwrite(fd, bytes, 8, at + i), 8);
	close(fd);
}

/* Overwrite one page after the other: whatever it was, a sound store comes of
 * it, and mostly all of it. */
START_TEST(any_page_may_be_damaged)
{
	struct scratch index = beside("index");
	struct scratch data = scratch_at(&index, "data.mdb");
	struct scratch keep = scratch_new();
	unsigned lost = 0, kept = 0, bad = 0;
	struct stat st;

	fx_close();
	copy("index", &fx.kit.dir, &keep);
	copy("packs", &fx.kit.dir, &keep);
	ck_assert_int_eq(stat(data.path, &st), 0);
	for (off_t at = 2 * 4096; at < st.st_size; at += 4096) {
		struct rebuild rb = { .bad_index_fd = -1, .bad_packs_fd = -1 };

		spoil_page(at);
		ck_assert_int_eq(build(&rb), 0);
		lost += rb.lost != 0;
		bad += rb.bad_records || rb.bad_pages;
		swap();
		fx_open();
		home.packs_fd = fx.kit.packs_dir;
		rescan();
		clean();
		kept += fx_find(ROOT, "small") && fx_find(ROOT, "inline");
		fx_close();
		restore(&keep);
	}
	printf("%ju pages: %u of use, %u lost names\n",
	       U(st.st_size / 4096 - 2), bad, lost);
	ck_assert_uint_ge(bad, 10);
	ck_assert_uint_ge(lost, 3);
	ck_assert_uint_ge(kept, 10);
	scratch_remove(&keep);
	fx_open();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rebuild");
	TCase *tc = kit_case(suite, "rebuild", setup, teardown);

	tcase_add_test(tc, a_sound_store_stays_as_it_is);
	tcase_add_loop_test(tc, what_is_found_is_repaired, 0,
			    sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(tc, a_pair_goes_together);
	tcase_add_test(tc, an_index_that_does_not_fit_is_refused);
	tcase_add_test(tc, any_page_may_be_damaged);
	return kit_run_suite(suite);
}
