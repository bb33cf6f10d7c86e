/* SPDX-License-Identifier: MIT */
#include "store/index.h"

#include <check.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

#include "indexkit.h"
#include "store/mdbfile.h"

/* -- News ----------------------------------------------------------------- */

START_TEST(first_commit_after_a_pin_is_told_once)
{
	struct index_snap *snap;

	ck_assert_int_eq(told, 0);
	put_now(INDEX_INODE, 1, "x");
	ck_assert_int_eq(told, 1);
	put_now(INDEX_INODE, 2, "x");
	ck_assert_int_eq(told, 1);
	ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
	put_now(INDEX_INODE, 3, "x");
	put_now(INDEX_INODE, 4, "x");
	ck_assert_int_eq(told, 2);
	index_unpin(ix, snap);
}
END_TEST

START_TEST(growth_is_told_once)
{
	struct index_snap *snap;
	uint64_t i;

	put_now(INDEX_INODE, 1, "x");
	ck_assert(!index_grown(ix));
	for (i = 1; i < 10000 && told < 2; i++)
		put_now(INDEX_COOKIE, i, "some bytes for the file to grow by");
	ck_assert_int_eq(told, 2);
	ck_assert(index_grown(ix));
	put_now(INDEX_COOKIE, i, "x");
	ck_assert_int_eq(told, 2);
	ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
	ck_assert(!index_grown(ix));
	index_unpin(ix, snap);
}
END_TEST

/* -- Snapshots ------------------------------------------------------------ */

static void count_call(void *arg)
{
	(*(int *)arg)++;
}

static void put_many(uint64_t first, uint64_t n)
{
	for (uint64_t i = first; i < first + n; i++)
		put_now(INDEX_ENTRY, i % 40, i % 2 ? "odd" : "even");
}

START_TEST(pinned_snapshot_can_be_put_back)
{
	struct index_snap *snap;
	uint8_t *meta;
	uint64_t page_size;
	uint64_t txnid;
	int calls = 0;
	int dir_fd = scratch_open_dir(&dir);

	put_many(0, 200);
	put_now(INDEX_INODE, 1, "then");
	ck_assert_int_eq(index_pin(ix, count_call, &calls, &snap), 0);
	ck_assert_int_eq(calls, 1);
	ck_assert_uint_eq(snap->txnid, index_txnid(ix));
	ck_assert(mdbfile_sane(snap->meta, snap->page_size, snap->txnid));
	put_now(INDEX_INODE, 1, "later");
	put_many(1, 500);
	txnid = snap->txnid;
	page_size = snap->page_size;
	meta = malloc(2 * page_size);
	memcpy(meta, snap->meta, 2 * page_size);
	index_unpin(ix, snap);
	index_close(ix);

	ck_assert_int_eq(mdbfile_restore(dir_fd, meta, page_size), 0);
	ck_assert_int_eq(try_open(INDEX_RDONLY), 0);
	ck_assert_uint_eq(index_txnid(ix), txnid);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "then");
	ck_assert_str_eq(get_now(INDEX_ENTRY, 7), "odd");
	free(meta);
	close(dir_fd);
}
END_TEST

START_TEST(compact_copy_holds_the_same)
{
	struct scratch copy = scratch_at(&dir, "copy");
	struct index_stat before;
	struct index_stat after;

	put_many(0, 1000);
	ck_assert_int_eq(index_stat(ix, &before), 0);
	ck_assert_int_eq(mkdir(copy.path, 0700), 0);
	ck_assert_int_eq(index_copy_compact(ix, copy.path), 0);
	ck_assert_int_eq(index_copy_compact(ix, copy.path), -EEXIST);
	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(index_open(copy.path, 0, MIB,
				    (struct notify){ NULL, NULL }, &ix),
			 0);
	ck_assert_int_eq(index_stat(ix, &after), 0);
	ck_assert_uint_lt(after.file_pages, before.file_pages);
	for (int t = 0; t < INDEX_TABLES; t++)
		ck_assert_uint_eq(after.entries[t], before.entries[t]);
	ck_assert_str_eq(get_now(INDEX_ENTRY, 7), "odd");
}
END_TEST

START_TEST(stat_counts)
{
	struct index_stat stat;

	put_many(0, 1000);
	put_now(INDEX_ORPHAN, 1, "");
	ck_assert_int_eq(index_stat(ix, &stat), 0);
	ck_assert_uint_eq(stat.page_size, (uint64_t)sysconf(_SC_PAGESIZE));
	ck_assert_uint_eq(stat.entries[INDEX_ENTRY], 40);
	ck_assert_uint_eq(stat.entries[INDEX_ORPHAN], 1);
	ck_assert_uint_eq(stat.entries[INDEX_META], INDEX_IDS);
	ck_assert_uint_gt(stat.free_pages, 0);
	ck_assert_uint_lt(stat.free_pages, stat.file_pages);
	ck_assert_uint_ge(index_disk_bytes(ix),
			  stat.file_pages * stat.page_size / 2);
}
END_TEST

/* -- Open ----------------------------------------------------------------- */

START_TEST(read_only_index_changes_nothing)
{
	struct scratch_bytes before;
	struct scratch_bytes after;
	struct index_txn *txn;
	char path[SCRATCH_PATH_MAX];

	put_now(INDEX_INODE, 1, "x");
	index_close(ix);
	file_of_index(path);
	before = scratch_read(path);
	ck_assert_int_eq(try_open(INDEX_RDONLY), 0);
	ck_assert_str_eq(get_now(INDEX_INODE, 1), "x");
	ck_assert_int_eq(index_begin(ix, true, &txn), -EACCES);
	index_close(ix);
	ix = NULL;
	after = scratch_read(path);
	ck_assert_uint_eq(before.len, after.len);
	ck_assert_mem_eq(before.data, after.data, before.len);
	free(before.data);
	free(after.data);
}
END_TEST

START_TEST(foreign_file_is_refused)
{
	static char junk[10000];
	char path[SCRATCH_PATH_MAX];

	index_close(ix);
	ix = NULL;
	file_of_index(path);
	memset(junk, 'j', sizeof(junk));
	scratch_write(path, junk, sizeof(junk));
	ck_assert_int_eq(try_open(0), -EBADMSG);
	ck_assert_int_eq(try_open(INDEX_RDONLY), -EBADMSG);
}
END_TEST

START_TEST(missing_directory_is_refused)
{
	struct scratch none = scratch_at(&dir, "none");
	struct index *other;

	ck_assert_int_eq(index_open(none.path, 0, MIB,
				    (struct notify){ NULL, NULL }, &other),
			 -ENOENT);
}
END_TEST

START_TEST(index_without_marks_is_refused)
{
	struct record_key key = record_key_text("next_pack");
	struct index_txn *txn = begin(true);

	/* What is dirty gets its marks raised only when they run low. */
	ck_assert_int_eq(index_del(txn, INDEX_META, &key), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(try_open(0), -EBADMSG);
}
END_TEST

/* -- Growth --------------------------------------------------------------- */

#define MANY (SLOW_BUILD ? 10000 : 100000)
#define OPERATIONS (SLOW_BUILD ? 500 : 3000)

static uint64_t random_next(uint64_t *seed)
{
	uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Keys of all tables around inode @id of a directory, with long names. */
static void operation_keys(uint64_t id, struct record_key key[INDEX_TABLES])
{
	char name[RECORD_NAME_MAX + 1];
	uint64_t seed = id;

	memset(name, 'n', sizeof(name));
	(void)snprintf(name, 32, "%016llx",
		       (unsigned long long)random_next(&seed));
	name[16] = '-';
	name[200 + id % 56] = '\0';
	key[INDEX_META] = record_key_text("limit");
	key[INDEX_INODE] = record_key_id(random_next(&seed));
	key[INDEX_INLINE] = record_key_id(random_next(&seed));
	key[INDEX_DIRENT] = record_key_name(id % 97, name);
	key[INDEX_COOKIE] = record_key_pair(id % 97, id);
	key[INDEX_PACK] = record_key_id(random_next(&seed));
	key[INDEX_LRU] = record_key_lru(1, (int64_t)(seed >> 2), id);
	key[INDEX_ENTRY] = record_key_id(random_next(&seed));
	key[INDEX_ORPHAN] = record_key_id(random_next(&seed));
}

/* Put records of @id into every table. */
static void create(struct index_txn *txn, uint64_t id)
{
	static const size_t size[INDEX_TABLES] = {
		[INDEX_META] = 8,    [INDEX_INODE] = RECORD_INODE_SIZE,
		[INDEX_INLINE] = 0,  [INDEX_DIRENT] = RECORD_DIRENT_SIZE,
		[INDEX_COOKIE] = 40, [INDEX_PACK] = RECORD_PACK_SIZE,
		[INDEX_LRU] = 0,     [INDEX_ENTRY] = RECORD_ENTRY_MAX,
		[INDEX_ORPHAN] = 0,
	};
	static uint8_t val[4096];
	struct record_key key[INDEX_TABLES];
	size_t len;

	operation_keys(id, key);
	for (int t = 0; t <= INDEX_ORPHAN; t++) {
		len = size[t];
		if (t == INDEX_INLINE)
			len = id % 8 ? id % 100 : index_leaf_max(ix);
		ck_assert_int_eq(index_put(txn, t, &key[t], val, len, false),
				 0);
	}
}

static void destroy(struct index_txn *txn, uint64_t id)
{
	struct record_key key[INDEX_TABLES];

	operation_keys(id, key);
	for (int t = INDEX_INODE; t <= INDEX_ORPHAN; t++)
		ck_assert_int_eq(index_del(txn, t, &key[t]), 0);
}

/* An operation that replaces two files in all tables: more than any does. */
static uint64_t worst_growth(uint64_t *seed, uint64_t *newest)
{
	uint64_t worst = 0;
	uint64_t before;
	uint64_t after;

	for (int i = 0; i < OPERATIONS; i++) {
		struct index_txn *txn = begin(true);
		uint64_t old = random_next(seed) % MANY;

		destroy(txn, *newest - MANY + old);
		create(txn, *newest - MANY + old);
		destroy(txn, *newest - MANY);
		create(txn, *newest);
		(*newest)++;
		before = index_disk_bytes(ix);
		ck_assert_int_eq(index_commit(txn), 0);
		after = index_disk_bytes(ix);
		if (after - before > worst)
			worst = after - before;
	}
	return worst;
}

/*
 * The bound by which the growth of the index is charged ahead, in an index of
 * 10^5 files with long names, under a pin, with a long list of free pages.
 */
START_TEST(one_operation_stays_below_the_bound)
{
	struct index_snap *snap = NULL;
	struct index_snap *older = NULL;
	uint64_t seed = 1;
	uint64_t newest = MANY;
	uint64_t worst = 0;
	uint64_t growth;

	for (uint64_t id = 0; id < MANY;) {
		struct index_txn *txn = begin(true);

		for (int i = 0; i < 1000; i++)
			create(txn, id++);
		ck_assert_int_eq(index_commit(txn), 0);
	}
	for (int round = 0; round < 4; round++) {
		ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
		index_unpin(ix, older);
		older = snap;
		growth = worst_growth(&seed, &newest);
		if (growth > worst)
			worst = growth;
	}
	index_unpin(ix, snap);
	ck_assert_msg(worst <= index_txn_bound(ix),
		      "grew by %llu pages, the bound is %llu",
		      (unsigned long long)(worst / sysconf(_SC_PAGESIZE)),
		      (unsigned long long)(index_txn_bound(ix) /
					   sysconf(_SC_PAGESIZE)));
	if (getenv("PIPCACHEFS_LONG"))
		printf("largest step of the file: %llu pages\n",
		       (unsigned long long)(worst / sysconf(_SC_PAGESIZE)));
}
END_TEST

/* A disk of @size bytes at @path, for this process alone; false if we may not
 * have one. */
static bool mount_small_disk(const char *path, const char *size)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", path, "tmpfs", 0, size) == 0;
}

static void fill_disk(const struct scratch *at)
{
	static const char junk[4096];
	struct scratch file = scratch_at(at, "junk");
	int fd = open(file.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	while (write(fd, junk, sizeof(junk)) > 0)
		;
	ck_assert_int_eq(errno, ENOSPC);
	close(fd);
}

START_TEST(full_disk_leaves_room_for_some_commits)
{
	struct scratch disk = scratch_at(&dir, "disk");
	struct index_snap *snap;
	struct index_txn *txn;
	int r = 0;
	int n = -1;

	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(mkdir(disk.path, 0700), 0);
	if (!mount_small_disk(disk.path, "size=4M"))
		return;
	ck_assert_int_eq(index_open(disk.path, 0, MIB,
				    (struct notify){ NULL, NULL }, &ix),
			 0);
	put_many(0, 50);
	fill_disk(&disk);
	/* Enough for evictions to begin to make room again. Under a pin no
	 * page is used twice. */
	ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
	for (uint64_t id = 1000; r == 0; id++) {
		txn = begin(true);
		put(txn, INDEX_ENTRY, id, "x");
		r = index_commit(txn);
		n++;
	}
	index_unpin(ix, snap);
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_int_gt(n, 5);
	index_close(ix);
	ix = NULL;
	ck_assert_int_eq(umount2(disk.path, MNT_DETACH), 0);
}
END_TEST

/* -- Suite ---------------------------------------------------------------- */

static void add_snapshots(Suite *suite)
{
	TCase *tc = new_case(suite, "snapshots");

	tcase_add_test(tc, first_commit_after_a_pin_is_told_once);
	tcase_add_test(tc, growth_is_told_once);
	tcase_add_test(tc, pinned_snapshot_can_be_put_back);
	tcase_add_test(tc, compact_copy_holds_the_same);
	tcase_add_test(tc, stat_counts);
}

static void add_open(Suite *suite)
{
	TCase *tc = new_case(suite, "open");

	tcase_add_test(tc, read_only_index_changes_nothing);
	tcase_add_test(tc, foreign_file_is_refused);
	tcase_add_test(tc, missing_directory_is_refused);
	tcase_add_test(tc, index_without_marks_is_refused);
}

int main(void)
{
	Suite *suite = suite_create("snapshot");
	TCase *growth = new_case(suite, "growth");

	add_snapshots(suite);
	add_open(suite);
	tcase_add_test(growth, one_operation_stays_below_the_bound);
	tcase_add_test(growth, full_disk_leaves_room_for_some_commits);
	return run_suite(suite);
}
