/* SPDX-License-Identifier: MIT */
#include "store/audit.h"

#include <check.h>
#include <signal.h>
#include <sys/wait.h>

#include "indexkit.h"
#include "store/mdbfile.h"

static struct scratch_bytes file;
static uint64_t page_size;

static uint64_t random_next(uint64_t *seed)
{
	uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/* Records of many shapes: small, as large as a leaf takes, on pages of their
 * own, under short and long keys; deletions, so that pages are free. */
static void change(struct index_txn *txn, uint64_t *seed)
{
	static const uint8_t val[9000];
	uint64_t id = random_next(seed) % 800;
	char name[RECORD_NAME_MAX + 1];
	struct record_key key = record_key_id(id);
	size_t len = random_next(seed) % 300;
	int r;

	memset(name, 'a' + (int)(id % 26), sizeof(name));
	name[id % 250 + 1] = '\0';
	if (id % 16 == 0)
		len = id % 32 ? index_leaf_max(ix) : 3000 + id * 7 % 6000;
	if (random_next(seed) % 10 < 6) {
		r = index_put(txn, INDEX_INLINE, &key, val, len, false);
		ck_assert_int_eq(r, 0);
		key = record_key_name(id, name);
		r = index_put(txn, INDEX_DIRENT, &key, val, 17, false);
		ck_assert_int_eq(r, 0);
	} else {
		r = index_del(txn, INDEX_INLINE, &key);
		ck_assert(r == 0 || r == -ENOENT);
		key = record_key_name(id, name);
		r = index_del(txn, INDEX_DIRENT, &key);
		ck_assert(r == 0 || r == -ENOENT);
	}
}

static void changes(uint64_t seed, int txns)
{
	for (int i = 0; i < txns; i++) {
		struct index_txn *txn = begin(true);
		uint64_t n = random_next(&seed) % 10 ? 3 : 300;

		while (n--)
			change(txn, &seed);
		ck_assert_int_eq(index_commit(txn), 0);
	}
}

/* Close the index and read its file. */
static void take_file(void)
{
	char path[SCRATCH_PATH_MAX];
	struct index_snap *snap;

	ck_assert_int_eq(index_pin(ix, NULL, NULL, &snap), 0);
	page_size = snap->page_size;

	index_unpin(ix, snap);
	index_close(ix);
	ix = NULL;
	file_of_index(path);
	file = scratch_read(path);
}

static int audit(struct audit_found *ret)
{
	char path[SCRATCH_PATH_MAX];
	int fd;
	int r;

	file_of_index(path);
	scratch_write(path, file.data, file.len);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	r = audit_snapshot(fd, file.data, page_size, ret);
	close(fd);
	return r;
}

START_TEST(every_snapshot_of_a_busy_index_is_whole)
{
	struct audit_found found;

	for (uint64_t seed = 0; seed < 40; seed++) {
		changes(seed, seed < 20 ? 1 : 20);
		take_file();
		ck_assert_msg(audit(&found) == 0, "page %llu %s",
			      (unsigned long long)found.page, found.what);
		ck_assert_uint_eq(found.lost, 0);
		ck_assert_uint_eq(2 + found.used + found.free,
				  mdbfile_pages(file.data, page_size));
		free(file.data);
		ck_assert_int_eq(try_open(0), 0);
	}
}
END_TEST

START_TEST(new_index_is_whole)
{
	struct audit_found found;

	take_file();
	ck_assert_int_eq(audit(&found), 0);
	free(file.data);
}
END_TEST

START_TEST(short_file_is_found)
{
	struct audit_found found;

	changes(1, 30);
	take_file();
	file.len = 20 * page_size; /* the end may be free pages only */
	ck_assert_int_eq(audit(&found), -EBADMSG);
	ck_assert_str_eq(found.what, "is not in the file");
	free(file.data);
}
END_TEST

START_TEST(stale_page_is_found)
{
	struct scratch_bytes old;
	struct audit_found found;
	unsigned n = 0;
	unsigned bad = 0;

	changes(2, 60);
	take_file();
	old = file;
	ck_assert_int_eq(try_open(0), 0);
	changes(3, 6);
	take_file();
	/* A page as it was some transactions ago: what a copy of a file in
	 * use, or a torn write, leaves. */
	for (uint64_t page = 2; (page + 1) * page_size <= old.len; page++) {
		uint8_t now[32768];
		uint8_t *at = file.data + page * page_size;

		memcpy(now, at, page_size);
		if (memcmp(now, old.data + page * page_size, page_size) == 0)
			continue;
		n++;
		memcpy(at, old.data + page * page_size, page_size);
		bad += audit(&found) == -EBADMSG;
		memcpy(at, now, page_size);
	}
	ck_assert_uint_gt(n, 20);
	ck_assert_uint_gt(bad, n / 2); /* the rest is free, or only values */
	free(old.data);
	free(file.data);
}
END_TEST

/* -- Whatever the audit lets through, LMDB can work with ------------------ */

/* Walk every table, then write: false if it did not go as it should. */
static bool use_index(void)
{
	static uint8_t buf[INDEX_VALUE_MAX];
	struct record_key from = { .len = 0 };
	struct record_key key;
	struct index_txn *txn;
	size_t len;
	int r;

	if (try_open(0) < 0)
		return true; /* an id mark or a table's name is damaged */
	for (int t = 0; t < INDEX_TABLES; t++) {
		struct index_iter it = INDEX_ITER_INIT;

		txn = begin(false);
		from = record_key_id(0);
		r = index_iter(txn, t, &from, 0, &it);
		while (r == 0 || r == 1 || r == -EBADMSG) {
			r = index_next(&it, &key, buf, sizeof(buf), &len);
			if (r == 0)
				break;
		}
		index_iter_release(&it);
		index_abort(txn);
		if (r < 0)
			return false;
	}
	changes(4, 10);
	index_close(ix);
	ix = NULL;
	return true;
}

static uint64_t used[1000];
static unsigned n_used;

/* A page in use is one whose flags matter. */
static void find_used(void)
{
	struct audit_found found;
	uint8_t *flags;

	n_used = 0;
	for (uint64_t page = 2; page < file.len / page_size; page++) {
		flags = file.data + page * page_size + 10;
		*flags ^= 0x80;
		if (audit(&found) == -EBADMSG && n_used < ARRAY_SIZE(used))
			used[n_used++] = page;
		*flags ^= 0x80;
	}
}

/* Change a bit or a byte of one, often in its head or its list of nodes. */
static void hit(uint64_t *seed)
{
	uint64_t page = used[random_next(seed) % n_used];
	uint8_t *at = file.data + page * page_size;
	uint64_t off = random_next(seed) % page_size;

	if (random_next(seed) % 2)
		off = random_next(seed) % 64;
	if (random_next(seed) % 4)
		at[off] ^= (uint8_t)(1 << random_next(seed) % 8);
	else
		at[off] = (uint8_t)random_next(seed);
}

START_TEST(damage_is_found_or_harmless)
{
	struct scratch_bytes good;
	struct audit_found found;
	int rounds = getenv("PIPCACHEFS_LONG") ? 6000 : 600;
	int caught = 0;
	int status;
	uint64_t seed = 5;
	pid_t pid;

	if (SLOW_BUILD)
		rounds /= 6;
	changes(6, 80);
	take_file();
	find_used();
	good = file;
	file.data = malloc(good.len);
	for (int i = 0; i < rounds; i++) {
		memcpy(file.data, good.data, good.len);
		hit(&seed);
		if (audit(&found) == -EBADMSG) {
			caught++;
			continue;
		}
		pid = fork();
		if (pid == 0)
			_exit(use_index() ? 0 : 1);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(status == 0, "round %d: status 0x%x", i, status);
	}
	ck_assert_int_gt(caught, rounds / 5);
	free(file.data);
	free(good.data);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("audit");
	TCase *tc = new_case(suite, "snapshot");

	scratch_in_memory();
	tcase_add_test(tc, new_index_is_whole);
	tcase_add_test(tc, every_snapshot_of_a_busy_index_is_whole);
	tcase_add_test(tc, short_file_is_found);
	tcase_add_test(tc, stale_page_is_found);
	tcase_add_test(tc, damage_is_found_or_harmless);
	return run_suite(suite);
}
