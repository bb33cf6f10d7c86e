/* SPDX-License-Identifier: MIT */
#include "store/salvage.h"

#include "rebuildfix.h"

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

/* -- Meta pages and side file ---------------------------------------------- */

static void spoil(const char *name, off_t at, size_t len)
{
	struct scratch index = beside("index");
	struct scratch path = scratch_at(&index, name);
	int fd = open(path.path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	for (size_t i = 0; i < len; i++)
		ck_assert_int_eq(pwrite(fd, "Z", 1, at + (off_t)i), 1);
	close(fd);
}

static void rebuild_spoiled(int want)
{
	struct rebuild rb = { .bad_index_fd = -1, .bad_packs_fd = -1 };

	ck_assert_int_eq(build(&rb), want);
	if (want < 0) {
		struct scratch new = beside("index.new");

		scratch_remove(&new);
		return;
	}
	swap();
	fx_open();
	home.packs_fd = fx.kit.packs_dir;
	rescan();
	clean();
	left(ALL);
}

/* Either of the two places does. */
START_TEST(without_a_side_file_the_meta_pages_do)
{
	fx_close();
	spoil("ckpt", 100, 8);
	rebuild_spoiled(0);
}
END_TEST

START_TEST(with_a_side_file_no_meta_page_is_needed)
{
	fx_close();
	spoil("data.mdb", 0, 2 * 4096);
	rebuild_spoiled(0);
}
END_TEST

/* The older one lacks what the last transaction did. */
START_TEST(one_meta_page_is_enough)
{
	struct rebuild rb = { .bad_index_fd = -1, .bad_packs_fd = -1 };

	fx_close();
	spoil("ckpt", 100, 8);
	spoil("data.mdb", _i * 4096, 4096);
	ck_assert_int_eq(build(&rb), 0);
	swap();
	fx_open();
	home.packs_fd = fx.kit.packs_dir;
	rescan();
	clean();
	ck_assert_uint_ne(fx_find(ROOT, "small"), 0);
}
END_TEST

START_TEST(without_any_nothing_is_found)
{
	struct scratch kept = scratch_new();
	struct rebuild rb = { .bad_index_fd = -1, .bad_packs_fd = -1 };
	struct scratch new = beside("index.new");

	fx_close();
	copy("index", &fx.kit.dir, &kept);
	copy("packs", &fx.kit.dir, &kept);
	spoil("ckpt", 100, 8);
	spoil("data.mdb", 0, 2 * 4096);
	ck_assert_int_eq(build(&rb), -EBADMSG);
	scratch_remove(&new);
	restore(&kept);
	scratch_remove(&kept);
	fx_open();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("salvage");
	TCase *tc = kit_case(suite, "salvage", setup, teardown);

	scratch_in_memory();
	tcase_add_test(tc, any_page_may_be_damaged);
	tcase_add_test(tc, without_a_side_file_the_meta_pages_do);
	tcase_add_test(tc, with_a_side_file_no_meta_page_is_needed);
	tcase_add_loop_test(tc, one_meta_page_is_enough, 0, 2);
	tcase_add_test(tc, without_any_nothing_is_found);
	return kit_run_suite(suite);
}
