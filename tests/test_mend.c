/* SPDX-License-Identifier: MIT */
#include "store/mend.h"

#include "fixture.h"
#include "store/block.h"
#include "store/recipe.h"
#include "store/tidy.h"

#define ROOT RECORD_ROOT_INO

/* Overwrite a record with what is none. */
static void hurt(enum index_table table, struct record_key key)
{
	struct index_txn *txn = kit_begin(&fx.kit);

	ck_assert_int_eq(index_put(txn, table, &key, "\0bad", 4, false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

static void hurt_name(uint64_t dir, const char *name)
{
	hurt(INDEX_DIRENT, record_key_name(dir, name));
}

static void hurt_offset(uint64_t ino)
{
	struct inode in = fx_inode(ino);

	hurt(INDEX_COOKIE, record_key_pair(in.parent, in.cookie));
}

static void hurt_inode(uint64_t ino)
{
	hurt(INDEX_INODE, record_key_id(ino));
}

static int try_find(uint64_t dir, const char *name)
{
	struct inode in;

	return tree_lookup(T, dir, name, &in);
}

static int list_name(void *arg, const char *name, uint64_t ino, uint8_t type,
		     uint64_t next)
{
	char *text = arg;

	(void)ino;
	(void)type;
	(void)next;
	if (*name != '.')
		strncat(text, name, 100 - strlen(text));
	return 0;
}

/* The names in @dir, one after the other. */
static const char *list(uint64_t dir)
{
	static char text[128];

	*text = '\0';
	ck_assert_int_eq(tree_readdir(T, dir, 0, list_name, text), 0);
	return text;
}

static void rescan(void)
{
	struct tidy_pos pos = { 0 };
	int r;

	while ((r = tidy_rescan(T, &pos)) > 0)
		;
	ck_assert_int_eq(r, 0);
}

/* Housekeeping comes across damage by itself. */
static void round_of_housekeeping(void)
{
	struct tidy_pos pos = { 0 };
	uint64_t n = 0;
	int r;

	while ((r = tidy_tmp(T, &pos, INT64_MIN, &n)) > 0)
		;
	ck_assert_int_eq(r, 0);
	rescan();
}

/* -- Names ---------------------------------------------------------------- */

START_TEST(a_damaged_name_leads_to_its_file_again)
{
	uint64_t dir = fx_dir(ROOT, "d"), ino = fx_put(dir, "f", 5000, 1);

	hurt_name(dir, "f");
	ck_assert_uint_eq(fx_find(dir, "f"), ino);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
}
END_TEST

START_TEST(a_damaged_name_of_a_directory_leads_to_it_again)
{
	uint64_t dir = fx_dirs("a/b"), ino = fx_file(dir, "f");

	hurt_name(fx_find(ROOT, "a"), "b");
	ck_assert_uint_eq(fx_find(fx_dirs("a/b"), "f"), ino);
}
END_TEST

START_TEST(a_damaged_name_can_be_removed_and_replaced)
{
	uint64_t a = fx_file(ROOT, "a"), b = fx_file(ROOT, "b");
	uint64_t c = fx_file(ROOT, "c");

	hurt_name(ROOT, "a");
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert(fx_gone(a));
	hurt_name(ROOT, "b");
	ck_assert_int_eq(fx_rename(ROOT, "c", ROOT, "b"), 0);
	ck_assert(fx_gone(b));
	hurt_name(ROOT, "b");
	ck_assert_int_eq(fx_rename(ROOT, "b", ROOT, "d"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "d"), c);
	ck_assert_uint_eq(fx_find(ROOT, "b"), 0);
}
END_TEST

/* Nothing says any more where the name led. */
START_TEST(a_name_that_cannot_be_mended_is_free_again)
{
	uint64_t dir = fx_dir(ROOT, "d"), ino = fx_file(dir, "f");

	hurt_name(dir, "f");
	hurt_inode(ino);
	ck_assert_uint_eq(fx_find(dir, "f"), 0);
	ck_assert_uint_ne(fx_file(dir, "f"), ino);
	ck_assert_str_eq(list(dir), "f");
	rescan(); /* the inode */
}
END_TEST

START_TEST(removing_what_cannot_be_mended_succeeds)
{
	hurt_inode(fx_file(ROOT, "f"));
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), -ENOENT);
}
END_TEST

START_TEST(a_damaged_further_name_of_a_file_goes_alone)
{
	uint64_t ino = fx_file(ROOT, "selfcheck.json");
	struct inode in;

	ck_assert_int_eq(tree_link(T, ino, ROOT, "further", &in), 0);
	hurt_name(ROOT, "further");
	ck_assert_uint_eq(fx_find(ROOT, "further"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "selfcheck.json"), ino);
	fx.hurt = true; /* it counts one name too many */
}
END_TEST

/* -- Listings ------------------------------------------------------------- */

START_TEST(a_listing_mends_names_and_offsets)
{
	uint64_t dir = fx_dir(ROOT, "d");
	static const char *const names[] = { "a", "b", "c", "d", "e" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		fx_file(dir, names[i]);
	hurt_name(dir, "a");
	hurt_offset(fx_find(dir, "c"));
	hurt_offset(fx_find(dir, "d"));
	hurt_name(dir, "e");
	ck_assert_str_eq(list(dir), "abcde");
}
END_TEST

START_TEST(an_offset_that_nobody_has_is_dropped)
{
	uint64_t dir = fx_dir(ROOT, "d");

	fx_file(dir, "a");
	hurt(INDEX_COOKIE, record_key_pair(dir, 4711));
	fx_file(dir, "b");
	ck_assert_str_eq(list(dir), "ab");
	ck_assert_uint_eq(fx_count(INDEX_COOKIE), fx_count(INDEX_DIRENT));
}
END_TEST

START_TEST(a_listing_passes_over_what_it_cannot_mend_now)
{
	uint64_t dir = fx_dir(ROOT, "d");

	fx_file(dir, "a");
	hurt_name(dir, "a");
	fx_file(dir, "b");
	index_freeze(fx.kit.ix);
	ck_assert_str_eq(list(dir), "b");
	ck_assert_int_eq(try_find(dir, "a"), -EBADMSG);
	fx.hurt = true;
}
END_TEST

/* -- Inodes --------------------------------------------------------------- */

START_TEST(a_file_is_lost_with_its_inode)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);

	fx_file(dir, FX_HASH);
	hurt_inode(fx_file(dir, FX_HASH ".body"));
	ck_assert_int_eq(try_find(dir, FX_HASH ".body"), -ENOENT);
	ck_assert_str_eq(list(dir), FX_HASH);
	ck_assert_uint_ne(fx_file(dir, FX_HASH ".body"), 0);
	rescan();
}
END_TEST

START_TEST(further_names_of_a_lost_file_go_too)
{
	uint64_t ino = fx_file(ROOT, "a");
	struct inode in;

	ck_assert_int_eq(tree_link(T, ino, ROOT, "b", &in), 0);
	hurt_inode(ino);
	ck_assert_int_eq(try_find(ROOT, "a"), -ENOENT);
	ck_assert_int_eq(try_find(ROOT, "b"), -ENOENT);
	ck_assert_str_eq(list(ROOT), "");
}
END_TEST

START_TEST(a_directory_keeps_what_is_in_it)
{
	uint64_t dir = fx_dirs("a/b"), file = fx_file(dir, "f");
	uint64_t below = fx_dir(dir, "sub");
	struct inode in;

	hurt_inode(dir);
	ck_assert_uint_eq(fx_dirs("a/b"), dir);
	in = fx_inode(dir);
	ck_assert_uint_eq(in.mode, fx_inode(fx_find(ROOT, "a")).mode);
	ck_assert_uint_eq(in.nlink, 3);
	ck_assert_uint_eq(fx_find(dir, "f"), file);
	ck_assert_uint_eq(fx_find(dir, "sub"), below);
	ck_assert_uint_ne(fx_file(dir, "new"), 0);
	ck_assert_str_eq(list(dir), "fsubnew");
}
END_TEST

START_TEST(the_root_keeps_what_is_in_it)
{
	uint64_t ino = fx_file(fx_dir(ROOT, "d"), "f");

	hurt_inode(ROOT);
	ck_assert_int_eq(tree_create_root(T, 7, 8), 0);
	ck_assert_uint_eq(fx_inode(ROOT).uid, 7);
	ck_assert_uint_eq(fx_find(fx_find(ROOT, "d"), "f"), ino);
	ck_assert_uint_ne(fx_file(ROOT, "new"), 0);
}
END_TEST

/* -- Housekeeping --------------------------------------------------------- */

START_TEST(housekeeping_mends_what_nobody_asks_for)
{
	uint64_t dir = fx_dirs("a/b/c"), lost = fx_file(dir, "lost");
	uint64_t kept = fx_put(dir, "kept", 5000, 1);

	fx_put(dir, "other", 5000, 2);
	rescan();
	hurt_inode(fx_dirs("a/b"));
	hurt_name(dir, "other");
	hurt_offset(kept);
	hurt_inode(lost);
	round_of_housekeeping();
	index_freeze(fx.kit.ix); /* no look-up of ours mends it */
	ck_assert_str_eq(list(fx_dirs("a/b/c")), "keptother");
	ck_assert_int_eq(fx_holds(kept, 5000, 1), 0);
}
END_TEST

/* With its recipe and its pack. */
START_TEST(what_a_lost_file_had_is_given_up)
{
	const struct run run = { .first = 1, .count = 1 };
	struct inode in = fx_inode(fx_put(ROOT, "f", 100000, 1));
	struct pack_rec rec = { .state = PACK_WHOLE,
				.owner = in.ino,
				.bytes = in.size,
				.live = in.size };
	struct block_rec bl = { .pack = in.pack, .length = in.size, .refs = 1 };
	uint64_t recipe, freed;
	struct index_txn *txn;

	ck_assert_int_eq(index_new_id(fx.kit.ix, INDEX_ID_RECIPE, &recipe), 0);
	txn = kit_begin(&fx.kit);
	ck_assert_int_eq(recipe_put(txn, recipe, 0, &run, 1), 0);
	ck_assert_int_eq(block_add(txn, run.first, &bl), 0);
	ck_assert_int_eq(block_pack_put(txn, in.pack, &rec), 0);
	in.recipe = recipe;
	ck_assert_int_eq(table_inode_put(txn, &in), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	rescan();
	ck_assert_uint_eq(fx_count(INDEX_PENDING), 0);
	hurt_inode(in.ino);
	ck_assert_int_eq(try_find(ROOT, "f"), -ENOENT);
	rescan();
	ck_assert_uint_eq(fx_count(INDEX_PENDING), 1);
	ck_assert_int_eq(gc_drain(fx.gc, &freed), 0);
	ck_assert_uint_eq(fx_count(INDEX_RECIPE), 0);
	ck_assert_uint_eq(fx_count(INDEX_PACK), 0);
	fx_checkpoint();
}
END_TEST

START_TEST(an_unnamed_damaged_inode_goes)
{
	hurt(INDEX_INODE, record_key_id(4711));
	rescan();
	ck_assert_uint_eq(fx_count(INDEX_INODE), 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("mend");
	TCase *tc = fx_case(suite, "names");

	tcase_add_test(tc, a_damaged_name_leads_to_its_file_again);
	tcase_add_test(tc, a_damaged_name_of_a_directory_leads_to_it_again);
	tcase_add_test(tc, a_damaged_name_can_be_removed_and_replaced);
	tcase_add_test(tc, a_name_that_cannot_be_mended_is_free_again);
	tcase_add_test(tc, removing_what_cannot_be_mended_succeeds);
	tcase_add_test(tc, a_damaged_further_name_of_a_file_goes_alone);

	tc = fx_case(suite, "listings");
	tcase_add_test(tc, a_listing_mends_names_and_offsets);
	tcase_add_test(tc, an_offset_that_nobody_has_is_dropped);
	tcase_add_test(tc, a_listing_passes_over_what_it_cannot_mend_now);

	tc = fx_case(suite, "inodes");
	tcase_add_test(tc, a_file_is_lost_with_its_inode);
	tcase_add_test(tc, further_names_of_a_lost_file_go_too);
	tcase_add_test(tc, a_directory_keeps_what_is_in_it);
	tcase_add_test(tc, the_root_keeps_what_is_in_it);

	tc = fx_case(suite, "housekeeping");
	tcase_add_test(tc, housekeeping_mends_what_nobody_asks_for);
	tcase_add_test(tc, what_a_lost_file_had_is_given_up);
	tcase_add_test(tc, an_unnamed_damaged_inode_goes);
	return kit_run_suite(suite);
}
