/* SPDX-License-Identifier: MIT */
/* What recover_index() makes of what it finds. */
#include "store/checkpoint.h"

#include <check.h>
#include <dirent.h>
#include <string.h>

#include "iotap.h"
#include "store/digest.h"
#include "store/mdbfile.h"
#include "store/side.h"
#include "storekit.h"

static struct kit kit;

static void setup(void)
{
	kit_dirs(&kit, scratch_new());
}

static void teardown(void)
{
	kit_remove(&kit);
}

static struct scratch path_of(const char *name)
{
	return scratch_at(&kit.dir, name);
}

/* A sum over all files of index/, lock.mdb left out. */
static uint64_t sum_of_index(void)
{
	static const char *const names[] = { "index/" MDBFILE_NAME,
					     "index/" SIDE_NAME,
					     "index/" SIDE_TMP_NAME };
	struct digest *d;
	uint64_t sum;

	ck_assert_int_eq(digest_new(&d), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct scratch path = path_of(names[i]);
		struct scratch_bytes bytes;

		digest_update(d, names[i], strlen(names[i]));
		if (access(path.path, F_OK) < 0)
			continue;
		bytes = scratch_read(path.path);
		digest_update(d, bytes.data, bytes.len);
		free(bytes.data);
	}
	sum = digest_value(d);
	digest_free(d);
	return sum;
}

static void expect_unreadable(const char *why)
{
	uint64_t before = sum_of_index();

	ck_assert_int_eq(kit_recover(&kit), RECOVER_UNREADABLE);
	ck_assert_msg(strstr(kit.why, why), "it says: %s", kit.why);
	ck_assert_uint_eq(sum_of_index(), before);
}

static void truncate_file(const char *name, off_t size)
{
	struct scratch path = path_of(name);

	ck_assert_int_eq(truncate(path.path, size), 0);
}

static void overwrite(const char *name, off_t off, const void *buf, size_t len)
{
	struct scratch path = path_of(name);
	int fd = open(path.path, O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, buf, len, off), (int)len);
	close(fd);
}

/* A store with some content, closed cleanly. */
static void make_clean_store(void)
{
	ck_assert_int_eq(kit_open(&kit), 0);
	kit_put(&kit, 1, "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
}

static void commit_more_than_is_saved(struct kit *k)
{
	if (kit_open(k) < 0)
		exit(1);
	kit_put(k, 2, "saved");
	if (checkpoint_run(k->cp) < 0)
		exit(1);
	for (uint64_t i = 0; i < 300; i++)
		kit_put(k, 3 + i % 50, "lost");
}

/* A store whose daemon was killed with commits behind its checkpoint. */
static void make_killed_store(void)
{
	make_clean_store();
	kit_killed(&kit, commit_more_than_is_saved);
}

static void expect_checkpoint(void)
{
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_str_eq(kit_get(&kit, 2), "saved");
	ck_assert_str_eq(kit_get(&kit, 3), "");
}

/* -- New ------------------------------------------------------------------ */

START_TEST(empty_directory_is_created_and_stays_new)
{
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CREATED);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CREATED);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit_close(&kit, true), 0);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CLEAN);
}
END_TEST

START_TEST(index_without_first_checkpoint_is_new)
{
	struct scratch data = path_of("index/" MDBFILE_NAME);

	ck_assert_int_eq(kit_recover(&kit), RECOVER_CREATED);
	ck_assert_int_eq(kit_open_index(&kit), 0);
	index_close(kit.ix);
	ck_assert_int_eq(access(data.path, F_OK), 0);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CREATED);
	ck_assert_int_lt(access(data.path, F_OK), 0);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

START_TEST(empty_data_file_is_new)
{
	scratch_write(path_of("index/" MDBFILE_NAME).path, "", 0);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CREATED);
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

/* -- Clean or not --------------------------------------------------------- */

START_TEST(clean_store_is_taken_as_it_is)
{
	make_clean_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CLEAN);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

START_TEST(first_checkpoint_takes_the_clean_mark_away)
{
	make_clean_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit_close(&kit, false), 0);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_RESTORED);
}
END_TEST

START_TEST(killed_store_is_put_back_to_its_checkpoint)
{
	make_killed_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	ck_assert_ptr_nonnull(strstr(kit.why, "not closed cleanly"));
	expect_checkpoint();
	ck_assert_int_eq(kit_close(&kit, true), 0);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CLEAN);
}
END_TEST

/* Opening commits before the first checkpoint has taken the mark away. */
START_TEST(commit_behind_the_clean_mark_is_noticed)
{
	make_clean_store();
	for (int i = 0; i < 3; i++) {
		ck_assert_int_ge(kit_recover(&kit), RECOVER_CLEAN);
		ck_assert_int_eq(kit_open_index(&kit), 0);
		index_close(kit.ix);
		ck_assert_int_eq(kit_recover(&kit), RECOVER_RESTORED);
	}
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

static void start_and_be_killed(struct kit *k)
{
	if (kit_open(k) < 0)
		exit(1);
	for (uint64_t i = 0; i < 100; i++)
		kit_put(k, 100 + i, "lost");
}

START_TEST(restoring_again_and_again_ends_at_the_same_place)
{
	make_killed_store();
	for (int i = 0; i < 4; i++)
		kit_killed(&kit, start_and_be_killed);
	ck_assert_int_eq(kit_open(&kit), 0);
	expect_checkpoint();
	ck_assert_str_eq(kit_get(&kit, 150), "");
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

static int fail_data_write(const struct iotap_call *call,
			   enum iotap_phase phase)
{
	return phase == IOTAP_BEFORE && call->op == IOTAP_WRITE &&
			       iotap_is(call->fd, "/" MDBFILE_NAME)
		       ? EIO
		       : 0;
}

START_TEST(restore_cut_short_is_done_again)
{
	uint64_t seed = 1;

	make_killed_store();
	iotap_hook = fail_data_write;
	ck_assert_int_eq(kit_recover(&kit), -EIO);
	iotap_hook = NULL;
	for (int i = 0; i < 20; i++) {
		/* some sectors of the meta pages are of the side file */
		struct side side;
		size_t sector = (seed = seed * 25214903917 + 11) / 65536 % 16;

		ck_assert_int_eq(side_read(kit.index_dir, &side), 0);
		overwrite("index/" MDBFILE_NAME, (off_t)sector * 512,
			  side.meta + sector * 512, 512);
		side_release(&side);
	}
	ck_assert_int_eq(kit_open(&kit), 0);
	expect_checkpoint();
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

START_TEST(ids_of_a_restored_store_are_new)
{
	uint64_t before;
	uint64_t after;

	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(index_new_id(kit.ix, INDEX_ID_INO, &before), 0);
	ck_assert_int_eq(kit_close(&kit, false), 0);
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(index_new_id(kit.ix, INDEX_ID_INO, &after), 0);
	ck_assert_uint_gt(after, before + INDEX_RESTORE_STEP - 1);
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

static int look(void)
{
	char why[256];

	return recover_index(kit.index_dir, NULL, RECOVER_RDONLY, why,
			     sizeof(why));
}

START_TEST(read_only_look_changes_nothing)
{
	uint64_t sum = sum_of_index();

	ck_assert_int_eq(look(), RECOVER_CREATED);
	ck_assert_uint_eq(sum_of_index(), sum);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CREATED);
	ck_assert_int_eq(kit_open_index(&kit), 0);
	index_close(kit.ix);
	sum = sum_of_index();
	ck_assert_int_eq(look(), RECOVER_CREATED);
	ck_assert_uint_eq(sum_of_index(), sum);
	make_killed_store();
	sum = sum_of_index();
	ck_assert_int_eq(look(), RECOVER_RESTORED);
	ck_assert_uint_eq(sum_of_index(), sum);
}
END_TEST

/* -- Copies --------------------------------------------------------------- */

static void copy_store(void)
{
	struct scratch copy = scratch_at(&kit.dir, "copy");
	char command[3 * SCRATCH_PATH_MAX + 64];
	struct kit there;

	ck_assert_int_eq(mkdir(copy.path, 0700), 0);
	(void)snprintf(command, sizeof(command), "cp -a %s/index %s/packs %s",
		       kit.dir.path, kit.dir.path, copy.path);
	ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c) */
	kit_dirs(&there, copy);
	close(kit.index_dir);
	close(kit.packs_dir);
	kit.index_dir = there.index_dir;
	kit.packs_dir = there.packs_dir;
	kit.dir = copy;
}

START_TEST(copy_of_a_clean_store_is_clean)
{
	struct scratch all = kit.dir;

	make_clean_store();
	copy_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_CLEAN);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
	kit.dir = all;
}
END_TEST

START_TEST(copy_of_a_killed_store_is_put_back)
{
	struct scratch all = kit.dir;

	make_killed_store();
	copy_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	expect_checkpoint();
	ck_assert_int_eq(kit_close(&kit, true), 0);
	kit.dir = all;
}
END_TEST

/* The data file was copied before the side file, with much in between. */
START_TEST(copy_made_while_in_use_is_unreadable)
{
	struct scratch_bytes old;

	make_killed_store();
	old = scratch_read(path_of("index/" MDBFILE_NAME).path);
	ck_assert_int_eq(kit_open(&kit), 0);
	for (uint64_t i = 0; i < 200; i++)
		kit_put(&kit, i, "new");
	ck_assert_int_eq(kit_close(&kit, true), 0);
	overwrite("index/" MDBFILE_NAME, 0, old.data, old.len);
	free(old.data);
	expect_unreadable(MDBFILE_NAME);
}
END_TEST

START_TEST(compact_copy_is_sealed)
{
	struct scratch copy = scratch_at(&kit.dir, "copy");
	struct scratch index = scratch_at(&copy, "index");
	struct scratch all = kit.dir;
	struct kit there;

	make_killed_store();
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(mkdir(copy.path, 0700), 0);
	kit_dirs(&there, copy);
	ck_assert_int_eq(index_copy_compact(kit.ix, index.path), 0);
	ck_assert_int_eq(kit_close(&kit, true), 0);
	ck_assert_int_eq(recover_seal(there.index_dir), 0);
	ck_assert_int_eq(kit_open(&there), 0);
	ck_assert_int_eq(there.found, RECOVER_CLEAN);
	ck_assert_str_eq(kit_get(&there, 2), "saved");
	ck_assert_int_eq(kit_close(&there, true), 0);
	close(there.index_dir);
	close(there.packs_dir);
	kit.dir = all;
}
END_TEST

START_TEST(seal_refuses_what_is_no_index)
{
	ck_assert_int_eq(recover_seal(kit.index_dir), -ENOENT);
	scratch_write(path_of("index/" MDBFILE_NAME).path, "junk", 4);
	ck_assert_int_eq(recover_seal(kit.index_dir), -EBADMSG);
}
END_TEST

/* -- Unreadable ----------------------------------------------------------- */

START_TEST(missing_side_file_is_unreadable)
{
	make_clean_store();
	ck_assert_int_eq(unlinkat(kit.index_dir, SIDE_NAME, 0), 0);
	expect_unreadable(SIDE_NAME " is missing");
}
END_TEST

START_TEST(any_damage_to_the_side_file_is_found)
{
	struct scratch path = path_of("index/" SIDE_NAME);
	struct scratch_bytes side;

	make_clean_store();
	side = scratch_read(path.path);
	for (size_t at = 0; at < side.len; at += at < 80 ? 1 : 97) {
		side.data[at] ^= 0x10;
		scratch_write(path.path, side.data, side.len);
		side.data[at] ^= 0x10;
		expect_unreadable(SIDE_NAME " is damaged");
	}
	for (size_t len = 0; len < side.len; len += len < 80 ? 1 : 97) {
		scratch_write(path.path, side.data, len);
		expect_unreadable(SIDE_NAME " is damaged");
	}
	scratch_write(path.path, side.data, side.len);
	ck_assert_int_eq(kit_recover(&kit), RECOVER_CLEAN);
	free(side.data);
}
END_TEST

START_TEST(missing_data_file_is_unreadable)
{
	make_clean_store();
	ck_assert_int_eq(unlinkat(kit.index_dir, MDBFILE_NAME, 0), 0);
	expect_unreadable(MDBFILE_NAME " is missing");
}
END_TEST

START_TEST(short_data_file_is_unreadable)
{
	struct stat st;

	make_clean_store();
	ck_assert_int_eq(fstatat(kit.index_dir, MDBFILE_NAME, &st, 0), 0);
	for (off_t size = 0; size < st.st_size; size += 1000) {
		truncate_file("index/" MDBFILE_NAME, st.st_size - 1 - size);
		expect_unreadable(MDBFILE_NAME " is too short");
	}
}
END_TEST

START_TEST(damaged_page_is_unreadable)
{
	struct stat st;
	off_t page = sysconf(_SC_PAGESIZE);
	char junk[64];
	int bad = 0;

	memset(junk, 0xee, sizeof(junk));
	make_clean_store();
	ck_assert_int_eq(fstatat(kit.index_dir, MDBFILE_NAME, &st, 0), 0);
	for (off_t off = 2 * page; off < st.st_size; off += page) {
		overwrite("index/" MDBFILE_NAME, off, junk, sizeof(junk));
		bad += kit_recover(&kit) == RECOVER_UNREADABLE;
	}
	ck_assert_int_gt(bad, 0);
	expect_unreadable(MDBFILE_NAME ": page");
}
END_TEST

START_TEST(damaged_meta_pages_are_put_back)
{
	char junk[8192];

	memset(junk, 0xee, sizeof(junk));
	make_clean_store();
	overwrite("index/" MDBFILE_NAME, 0, junk, sizeof(junk));
	ck_assert_int_eq(kit_open(&kit), 0);
	ck_assert_int_eq(kit.found, RECOVER_RESTORED);
	ck_assert_str_eq(kit_get(&kit, 1), "one");
	ck_assert_int_eq(kit_close(&kit, true), 0);
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_found(Suite *suite)
{
	TCase *tc = kit_case(suite, "found", setup, teardown);

	tcase_add_test(tc, empty_directory_is_created_and_stays_new);
	tcase_add_test(tc, index_without_first_checkpoint_is_new);
	tcase_add_test(tc, empty_data_file_is_new);
	tcase_add_test(tc, clean_store_is_taken_as_it_is);
	tcase_add_test(tc, first_checkpoint_takes_the_clean_mark_away);
	tcase_add_test(tc, killed_store_is_put_back_to_its_checkpoint);
	tcase_add_test(tc, commit_behind_the_clean_mark_is_noticed);
	tcase_add_test(tc, restoring_again_and_again_ends_at_the_same_place);
	tcase_add_test(tc, restore_cut_short_is_done_again);
	tcase_add_test(tc, ids_of_a_restored_store_are_new);
	tcase_add_test(tc, read_only_look_changes_nothing);
}

static void add_copies(Suite *suite)
{
	TCase *tc = kit_case(suite, "copies", setup, teardown);

	tcase_add_test(tc, copy_of_a_clean_store_is_clean);
	tcase_add_test(tc, copy_of_a_killed_store_is_put_back);
	tcase_add_test(tc, copy_made_while_in_use_is_unreadable);
	tcase_add_test(tc, compact_copy_is_sealed);
	tcase_add_test(tc, seal_refuses_what_is_no_index);
}

static void add_unreadable(Suite *suite)
{
	TCase *tc = kit_case(suite, "unreadable", setup, teardown);

	tcase_add_test(tc, missing_side_file_is_unreadable);
	tcase_add_test(tc, any_damage_to_the_side_file_is_found);
	tcase_add_test(tc, missing_data_file_is_unreadable);
	tcase_add_test(tc, short_data_file_is_unreadable);
	tcase_add_test(tc, damaged_page_is_unreadable);
	tcase_add_test(tc, damaged_meta_pages_are_put_back);
}

int main(void)
{
	Suite *suite = suite_create("recover");

	add_found(suite);
	add_copies(suite);
	add_unreadable(suite);
	return kit_run_suite(suite);
}
