/* SPDX-License-Identifier: MIT */
#include "store/tidy.h"

#include "fixture.h"
#include "store/unit.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */
#define OLD_NS (-7200 * NSEC_PER_SEC)
#define TMP_NAME FX_HASH "abcd_123.tmp"

static uint64_t dir; /* of pairs */

static uint64_t entry_of(uint64_t ino)
{
	return fx_inode(ino).entry;
}

/* A header and a body in @dir. Returns their entry. */
static uint64_t put_pair(void)
{
	dir = fx_dirs(FX_HASH_DIRS);
	fx_put(dir, FX_HASH, 100, 1);
	return entry_of(fx_put(dir, FX_HASH ".body", LARGE, 2));
}

static bool pair_is_whole(void)
{
	uint64_t head = fx_find(dir, FX_HASH);
	uint64_t body = fx_find(dir, FX_HASH ".body");

	return head && body && fx_holds(head, 100, 1) == 0 &&
	       fx_holds(body, LARGE, 2) == 0;
}

static int remove_unit(uint64_t entry, bool idle_only)
{
	uint64_t bytes;

	return unit_remove(T, entry, idle_only, &bytes);
}

static void set_mtime(uint64_t ino, int64_t mtime_ns)
{
	const struct inode from = { .mtime_ns = mtime_ns };
	struct inode in;

	ck_assert_int_eq(tree_setattr(T, ino, &from, TREE_SET_MTIME, &in), 0);
}

/* -- Temporary files ------------------------------------------------------ */

static uint64_t reap(void)
{
	struct tidy_pos pos = { 0 };
	uint64_t n = 0;
	int r;

	while ((r = tidy_tmp(T, &pos, -3600 * NSEC_PER_SEC, &n)) > 0)
		;
	ck_assert_int_eq(r, 0);
	return n;
}

static uint64_t put_old(uint64_t parent, const char *name)
{
	uint64_t ino = fx_put(parent, name, 10, 1);

	set_mtime(ino, OLD_NS);
	return ino;
}

START_TEST(only_old_idle_temporary_files_of_pip_are_reaped)
{
	struct store_file *f;
	uint64_t open, linked, young;
	struct inode in;

	put_pair();
	set_mtime(fx_find(dir, FX_HASH), OLD_NS);
	put_old(dir, FX_HASH "aaaaaaaa.tmp");
	put_old(dir, FX_HASH ".bodyaaaaaaaa.tmp");
	open = put_old(dir, FX_HASH "bbbbbbbb.tmp");
	linked = put_old(dir, FX_HASH "cccccccc.tmp");
	young = fx_put(dir, FX_HASH "dddddddd.tmp", 10, 1);
	set_mtime(young, -3600 * NSEC_PER_SEC);
	put_old(ROOT, TMP_NAME);
	put_old(dir, "notes.tmp");
	fx_dir(dir, FX_HASH "eeeeeeee.tmp");
	ck_assert_int_eq(tree_link(T, linked, ROOT, "mine", &in), 0);
	f = fx_open_file(open, 0);

	ck_assert_uint_eq(reap(), 2);
	ck_assert_uint_eq(fx_find(dir, FX_HASH "aaaaaaaa.tmp"), 0);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".bodyaaaaaaaa.tmp"), 0);
	ck_assert(fx_find(dir, FX_HASH "bbbbbbbb.tmp"));
	ck_assert(fx_find(dir, FX_HASH "cccccccc.tmp"));
	ck_assert(fx_find(dir, FX_HASH "dddddddd.tmp"));
	ck_assert(fx_find(ROOT, TMP_NAME));
	ck_assert(fx_find(dir, "notes.tmp"));
	ck_assert(pair_is_whole());
	file_close(f);
	ck_assert_uint_eq(reap(), 1);
	ck_assert(fx_gone(open));
}
END_TEST

static void put_many_old(unsigned n)
{
	char name[80];

	dir = fx_dirs(FX_HASH_DIRS);
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), FX_HASH "%08u.tmp", i);
		put_old(dir, name);
	}
}

START_TEST(many_temporary_files_go_in_one_reaping)
{
	put_many_old(300);
	ck_assert_uint_eq(reap(), 300);
	ck_assert_uint_eq(reap(), 0);
}
END_TEST

START_TEST(a_slice_looks_at_a_batch_and_goes_on_where_the_last_was)
{
	struct tidy_pos pos = { 0 };
	uint64_t n = 0, before;
	unsigned slices = 1;

	put_many_old(300);
	ck_assert_int_eq(tidy_tmp(T, &pos, 0, &n), 1);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_le(n, TIDY_BATCH);
	for (before = n; tidy_tmp(T, &pos, 0, &n) > 0; before = n) {
		ck_assert_uint_le(n - before, TIDY_BATCH);
		slices++;
	}
	ck_assert_uint_eq(n, 300);
	ck_assert_uint_le(slices, 300 / TIDY_BATCH + 1);
}
END_TEST

/* -- Empty directories ---------------------------------------------------- */

static void prune(int64_t before_ns)
{
	struct tidy_pos pos = { 0 };
	int r;

	while ((r = tidy_empty(T, &pos, before_ns)) > 0)
		;
	ck_assert_int_eq(r, 0);
}

START_TEST(empty_fan_out_directories_go_from_the_bottom_up)
{
	uint64_t top = fx_dir(ROOT, "http-v2"), other = fx_dir(ROOT, "mine");

	put_pair();
	fx_dirs("http-v2/0/a/1/c/3");
	fx_dirs("http-v2/1/2/3/4/5");
	prune(INT64_MAX);
	ck_assert(pair_is_whole());
	ck_assert_uint_eq(fx_find(top, "1"), 0);
	ck_assert_uint_eq(fx_find(fx_dirs("http-v2/0/a/1"), "c"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "mine"), other);
	ck_assert_uint_eq(fx_find(ROOT, "http-v2"), top);
	ck_assert_uint_eq(fx_inode(top).nlink, 3);
}
END_TEST

START_TEST(directories_that_just_became_empty_or_are_open_stay)
{
	uint64_t deep = fx_dirs("http-v2/1/2/3/4/5");
	struct store_file *f = fx_open_file(deep, FILE_DIRECTORY);

	prune(fx_inode(deep).mtime_ns);
	ck_assert_uint_eq(fx_dirs("http-v2/1/2/3/4/5"), deep);
	prune(INT64_MAX);
	ck_assert_uint_eq(fx_dirs("http-v2/1/2/3/4/5"), deep);
	file_close(f);
	prune(INT64_MAX);
	ck_assert(fx_gone(deep));
}
END_TEST

START_TEST(directories_under_wheels_stay)
{
	uint64_t deep = fx_dirs(FX_WHEEL_DIRS);

	prune(INT64_MAX);
	ck_assert_uint_eq(fx_dirs(FX_WHEEL_DIRS), deep);
}
END_TEST

/* -- Moved directories ---------------------------------------------------- */

static int try_rescan(void)
{
	struct tidy_pos pos = { 0 };
	int r;

	while ((r = tidy_rescan(T, &pos)) > 0)
		;
	return r;
}

static void rescan(void)
{
	ck_assert_int_eq(try_rescan(), 0);
}

START_TEST(a_cache_that_is_moved_out_of_its_layout_is_evicted_no_more)
{
	uint64_t body;

	put_pair();
	body = fx_find(dir, FX_HASH ".body");
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	rescan();
	ck_assert_uint_eq(entry_of(body), 0);
	ck_assert_uint_eq(fx_inode(body).kind, LAYOUT_OTHER);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	ck_assert(pair_is_whole());
}
END_TEST

START_TEST(a_cache_that_is_moved_into_its_layout_becomes_one)
{
	uint64_t head, body, deep;

	deep = fx_dirs("some/where/deep/down/0/a/1/b/2");
	head = fx_put(deep, FX_HASH, 100, 1);
	body = fx_put(deep, FX_HASH ".body", LARGE, 2);
	ck_assert_uint_eq(entry_of(body), 0);
	ck_assert_int_eq(fx_rename(fx_dirs("some/where/deep"), "down", ROOT,
				   "http-v2"),
			 0);
	rescan();
	ck_assert_uint_ne(entry_of(head), 0);
	ck_assert_uint_eq(entry_of(head), entry_of(body));
	ck_assert(fx_inode(body).flags & INODE_BODY);
}
END_TEST

START_TEST(a_project_that_is_renamed_keeps_its_entries)
{
	uint64_t deep = fx_dirs("project/" FX_WHEEL_DIRS), entry;

	entry = entry_of(fx_put(deep, "a-1-py3-none-any.whl", LARGE, 2));
	ck_assert_uint_ne(entry, 0);
	ck_assert_int_eq(fx_rename(ROOT, "project", ROOT, "renamed"), 0);
	rescan();
	ck_assert_uint_eq(entry_of(fx_find(deep, "a-1-py3-none-any.whl")),
			  entry);
	ck_assert_int_eq(remove_unit(entry, true), 1);
}
END_TEST

START_TEST(an_entry_evicted_before_the_rescan_is_no_loss)
{
	uint64_t entry = put_pair();

	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_int_eq(remove_unit(entry, true), 0);
	rescan();
	ck_assert_int_eq(fx_rename(ROOT, "backup", ROOT, "http-v2"), 0);
	rescan();
	entry = entry_of(fx_find(dir, FX_HASH));
	ck_assert_uint_ne(entry, 0);
	ck_assert_int_eq(remove_unit(entry, true), 1);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
}
END_TEST

/* An entry given up while its files were elsewhere, and they know it still. */
START_TEST(a_cache_that_comes_back_after_its_entry_went_has_one_again)
{
	uint64_t entry = put_pair();

	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	ck_assert_int_eq(remove_unit(entry, true), 0);
	ck_assert_int_eq(fx_rename(ROOT, "backup", ROOT, "http-v2"), 0);
	rescan();
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 1);
	entry = entry_of(fx_find(dir, FX_HASH));
	ck_assert_uint_eq(entry_of(fx_find(dir, FX_HASH ".body")), entry);
	ck_assert_int_eq(remove_unit(entry, true), 1);
	ck_assert_uint_eq(fx_find(dir, FX_HASH ".body"), 0);
}
END_TEST

/* Hard links, as `cp -al` makes them; then the originals go. */
START_TEST(the_name_that_is_left_of_two_is_found)
{
	uint64_t copy = fx_dirs("http/0/a/1/b/2"), head, body;
	struct inode in;

	put_pair();
	rescan();
	head = fx_find(dir, FX_HASH);
	body = fx_find(dir, FX_HASH ".body");
	ck_assert_int_eq(tree_link(T, head, copy, FX_HASH, &in), 0);
	ck_assert_int_eq(tree_link(T, body, copy, FX_HASH ".body", &in), 0);
	ck_assert_uint_eq(fx_count(INDEX_ENTRY), 0);
	ck_assert_int_eq(fx_unlink(dir, FX_HASH), 0);
	ck_assert_int_eq(fx_unlink(dir, FX_HASH ".body"), 0);
	rescan();
	ck_assert_uint_ne(entry_of(head), 0);
	ck_assert_uint_eq(entry_of(head), entry_of(body));
	ck_assert_uint_eq(fx_inode(body).parent, copy);
	ck_assert_int_eq(remove_unit(entry_of(head), true), 1);
	ck_assert(fx_gone(head) && fx_gone(body));
}
END_TEST

/* As an earlier version left it, which asked for no rescan. */
START_TEST(a_file_that_knows_a_name_which_is_gone_is_found)
{
	uint64_t body;
	struct inode in;

	put_pair();
	body = fx_find(dir, FX_HASH ".body");
	in = fx_inode(body);
	in.cookie = 4711;
	fx_put_inode(&in);
	rescan();
	ck_assert_uint_eq(entry_of(body), entry_of(fx_find(dir, FX_HASH)));
	ck_assert_uint_ne(fx_inode(body).cookie, 4711);
}
END_TEST

START_TEST(a_rescan_looks_at_more_than_one_batch)
{
	char name[] = FX_HASH;
	uint64_t inos[200];

	dir = fx_dirs(FX_HASH_DIRS);
	for (size_t i = 0; i < ARRAY_SIZE(inos); i++) {
		(void)snprintf(name + 50, 7, "%06zx", i);
		inos[i] = fx_file(dir, name);
	}
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	rescan();
	for (size_t i = 0; i < ARRAY_SIZE(inos); i++)
		ck_assert_uint_eq(entry_of(inos[i]), 0);
}
END_TEST

/* A cache of more than two slices, moved out of its layout. */
static uint64_t put_many_moved(void)
{
	char name[] = FX_HASH;
	uint64_t last = 0;

	dir = fx_dirs(FX_HASH_DIRS);
	for (unsigned i = 0; i < 2 * TIDY_BATCH; i++) {
		(void)snprintf(name + 50, 7, "%06x", i);
		last = fx_file(dir, name);
	}
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	return last;
}

START_TEST(a_rescan_that_a_remount_cut_off_is_begun_anew)
{
	struct tidy_pos pos = { 0 };
	uint64_t last = put_many_moved();

	ck_assert_int_eq(tidy_rescan(T, &pos), 1);
	ck_assert_uint_ne(entry_of(last), 0);
	fx_reopen();
	rescan();
	ck_assert_uint_eq(entry_of(last), 0);
}
END_TEST

START_TEST(a_move_while_a_rescan_is_under_way_makes_another)
{
	struct tidy_pos pos = { 0 };
	uint64_t first, last = put_many_moved();

	first = fx_find(dir,
			"0a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef01"
			"000000");
	ck_assert_int_eq(tidy_rescan(T, &pos), 1);
	ck_assert_uint_eq(entry_of(first), 0);
	ck_assert_int_eq(fx_rename(ROOT, "backup", ROOT, "http-v2"), 0);
	while (tidy_rescan(T, &pos) > 0)
		;
	ck_assert_uint_eq(entry_of(first), 0);
	rescan();
	ck_assert_uint_ne(entry_of(first), 0);
	ck_assert_uint_ne(entry_of(last), 0);
	/* None is wanted any more. */
	pos = (struct tidy_pos){ 0 };
	ck_assert_int_eq(tidy_rescan(T, &pos), 0);
	ck_assert_uint_eq(pos.at.len, 0);
}
END_TEST

START_TEST(a_rescan_that_failed_is_done_again)
{
	uint64_t body;

	put_pair();
	body = fx_find(dir, FX_HASH ".body");
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	fx_fill_room(1000);
	ck_assert_int_eq(try_rescan(), -ENOSPC);
	fx_empty_room();
	rescan();
	ck_assert_uint_eq(entry_of(body), 0);
}
END_TEST

/* -- Orphans -------------------------------------------------------------- */

/* As a last close leaves it whose transaction failed. */
static uint64_t put_orphan(const char *name)
{
	uint64_t ino = fx_put(ROOT, name, LARGE, 1);
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(fx_unlink(ROOT, name), 0);
	node_put(f->nd);
	free(f);
	return ino;
}

START_TEST(orphans_go_unless_they_are_open)
{
	uint64_t a = put_orphan("a"), open = fx_put(ROOT, "b", 10, 1);
	struct store_file *f = fx_open_file(open, 0);
	uint64_t c;

	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	c = put_orphan("c");
	ck_assert_int_eq(tidy_orphans(T), 0);
	ck_assert(fx_gone(a) && fx_gone(c));
	fx_check_bytes(f, 10, 1);
	file_close(f);
	ck_assert(fx_gone(open));
}
END_TEST

START_TEST(orphans_that_cannot_go_now_go_later)
{
	uint64_t a = put_orphan("a");

	fx_fill_room(1000);
	ck_assert_int_eq(tidy_orphans(T), -ENOSPC);
	ck_assert(!fx_gone(a));
	fx_empty_room();
	ck_assert_int_eq(tidy_orphans(T), 0);
	ck_assert(fx_gone(a));
}
END_TEST

/* -- Damaged records ------------------------------------------------------ */

/* Change the byte behind each @what in the index. */
static void damage_behind(const void *what, size_t len)
{
	struct scratch file = scratch_at(&fx.kit.dir, "index/data.mdb");
	struct scratch_bytes bytes;
	uint8_t *at;
	size_t n = 0;

	fx_close();
	bytes = scratch_read(file.path);
	at = bytes.data;
	while ((at = memmem(at, (size_t)(bytes.data + bytes.len - at), what,
			    len))) {
		at[len] ^= 0xff;
		at += len;
		n++;
	}
	ck_assert_uint_gt(n, 0);
	scratch_write(file.path, bytes.data, bytes.len);
	free(bytes.data);
	fx_open();
	fx.hurt = true;
}

START_TEST(a_rescan_goes_on_behind_a_damaged_inode)
{
	const int64_t mark = INT64_C(0x0badcafe0badcafe);
	uint64_t body;

	set_mtime(fx_file(ROOT, "bad"), mark);
	put_pair();
	body = fx_find(dir, FX_HASH ".body");
	ck_assert_int_eq(fx_rename(ROOT, "http-v2", ROOT, "backup"), 0);
	damage_behind(&mark, sizeof(mark));
	rescan();
	ck_assert_uint_eq(entry_of(body), 0);
}
END_TEST

START_TEST(reaping_goes_on_behind_damaged_names)
{
	fx_file(ROOT, "damaged-1");
	fx_file(ROOT, "damaged-2");
	put_old(fx_dirs(FX_HASH_DIRS), TMP_NAME);
	damage_behind("damaged-1", strlen("damaged-1"));
	damage_behind("damaged-2", strlen("damaged-2"));
	ck_assert_uint_eq(reap(), 1);
}
END_TEST

static void add_moves(TCase *tc)
{
	tcase_add_test(
		tc, a_cache_that_is_moved_out_of_its_layout_is_evicted_no_more);
	tcase_add_test(tc, a_cache_that_is_moved_into_its_layout_becomes_one);
	tcase_add_test(tc, a_project_that_is_renamed_keeps_its_entries);
	tcase_add_test(tc, an_entry_evicted_before_the_rescan_is_no_loss);
	tcase_add_test(
		tc, a_cache_that_comes_back_after_its_entry_went_has_one_again);
	tcase_add_test(tc, the_name_that_is_left_of_two_is_found);
	tcase_add_test(tc, a_file_that_knows_a_name_which_is_gone_is_found);
	tcase_add_test(tc, a_rescan_looks_at_more_than_one_batch);
	tcase_add_test(tc, a_rescan_that_a_remount_cut_off_is_begun_anew);
	tcase_add_test(tc, a_move_while_a_rescan_is_under_way_makes_another);
	tcase_add_test(tc, a_rescan_that_failed_is_done_again);
	tcase_add_test(tc, a_rescan_goes_on_behind_a_damaged_inode);
	tcase_add_test(tc, reaping_goes_on_behind_damaged_names);
}

int main(void)
{
	Suite *suite = suite_create("tidy");
	TCase *tc;

	tc = fx_case(suite, "housekeeping");
	tcase_add_test(tc, only_old_idle_temporary_files_of_pip_are_reaped);
	tcase_add_test(tc, many_temporary_files_go_in_one_reaping);
	tcase_add_test(tc,
		       a_slice_looks_at_a_batch_and_goes_on_where_the_last_was);
	tcase_add_test(tc, empty_fan_out_directories_go_from_the_bottom_up);
	tcase_add_test(tc, directories_that_just_became_empty_or_are_open_stay);
	tcase_add_test(tc, directories_under_wheels_stay);
	add_moves(fx_case(suite, "moves"));

	tc = fx_case(suite, "orphans");
	tcase_add_test(tc, orphans_go_unless_they_are_open);
	tcase_add_test(tc, orphans_that_cannot_go_now_go_later);
	return kit_run_suite(suite);
}
