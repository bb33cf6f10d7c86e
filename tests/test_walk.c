/* SPDX-License-Identifier: MIT */
/* The walk through an index: what it finds, and that it finds nothing else. */
#include "store/walk.h"

#include <check.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "indexkit.h"
#include "store/digest.h"

static struct walk w;

static int walk(void)
{
	w = (struct walk){ .go_on = NULL };
	return walk_index(&w, ix);
}

static void put_raw(enum index_table table, struct record_key key,
		    const void *val, size_t len)
{
	struct index_txn *txn = begin(true);

	ck_assert_int_eq(index_put(txn, table, &key, val, len, false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
}

static void put_inode(uint64_t ino)
{
	struct inode in = { .mode = S_IFREG | 0644, .nlink = 1 };
	uint8_t buf[RECORD_INODE_SIZE];

	record_inode_encode(&in, buf);
	put_raw(INDEX_INODE, record_key_id(ino), buf, sizeof(buf));
}

static void put_inline(uint64_t ino, const char *text)
{
	uint8_t buf[RECORD_INLINE_HEAD + 64];

	record_u64_encode(digest_xxh3(text, strlen(text)), buf);
	memcpy(buf + RECORD_INLINE_HEAD, text, strlen(text));
	put_raw(INDEX_INLINE, record_key_id(ino), buf,
		RECORD_INLINE_HEAD + strlen(text));
}

/* One good record in each table; how many that is. */
static unsigned put_all(void)
{
	struct dirent_rec de = { .ino = 2, .cookie = 3, .type = 8 };
	struct pack_rec pk = { .state = PACK_CUT, .bytes = 10, .live = 10 };
	struct entry_rec en = { .members = 1, .dir = 1, .name = "name" };
	struct block_rec bl = { .pack = 1, .length = 10, .refs = 1 };
	struct run run = { .first = 1, .count = 1 };
	uint8_t buf[RECORD_ENTRY_MAX];
	size_t n;

	put_inode(2);
	put_inline(2, "some bytes");
	record_dirent_encode(&de, buf);
	put_raw(INDEX_DIRENT, record_key_name(1, "name"), buf,
		RECORD_DIRENT_SIZE);
	put_raw(INDEX_COOKIE, record_key_pair(1, 3), "name", 4);
	record_pack_encode(&pk, buf);
	put_raw(INDEX_PACK, record_key_id(1), buf, RECORD_PACK_SIZE);
	n = record_entry_encode(&en, buf);
	put_raw(INDEX_ENTRY, record_key_id(1), buf, n);
	put_raw(INDEX_LRU, record_key_lru(0, 5, 1), "", 0);
	put_raw(INDEX_ORPHAN, record_key_id(9), "", 0);
	n = record_block_encode(&bl, buf);
	put_raw(INDEX_BLOCK, record_key_id(1), buf, n);
	put_raw(INDEX_DIGEST, record_key_pair(0, 1), "", 0);
	n = record_runs_encode(&run, 1, buf);
	put_raw(INDEX_RECIPE, record_key_pair(1, 0), buf, n);
	buf[0] = RECIPE_BUILDING;
	put_raw(INDEX_PENDING, record_key_id(7), buf, 1);
	return 12;
}

/* -- Records --------------------------------------------------------------- */

START_TEST(good_records_of_all_tables_are_good)
{
	unsigned marks = INDEX_IDS;

	ck_assert_int_eq(walk(), 0);
	ck_assert_uint_eq(w.records, marks);
	marks += put_all();
	ck_assert_int_eq(walk(), 0);
	ck_assert_uint_eq(w.records, marks);
	ck_assert_msg(w.damaged == 0, "%s", w.text);
	ck_assert_str_eq(w.text, "");
}
END_TEST

/* What has its checksum, but cannot be. */
static const struct {
	enum index_table table;
	size_t key_len;
	const char *val;
	size_t len;
} wrong[] = {
	{ INDEX_INODE, 8, "short", 5 },
	{ INDEX_INODE, 9, "", 0 },
	{ INDEX_INLINE, 8, "short", 5 },
	{ INDEX_INLINE, 8, "a sum that is none, and bytes", 29 },
	{ INDEX_DIRENT, 8, "", 0 },
	{ INDEX_DIRENT, 12, "", 0 },
	{ INDEX_COOKIE, 16, "", 0 },
	{ INDEX_COOKIE, 16, "a/b", 3 },
	{ INDEX_COOKIE, 16, "a\0b", 3 },
	{ INDEX_COOKIE, 8, "name", 4 },
	{ INDEX_PACK, 8, "short", 5 },
	{ INDEX_LRU, 17, "x", 1 },
	{ INDEX_LRU, 16, "", 0 },
	{ INDEX_ENTRY, 8, "short", 5 },
	{ INDEX_ORPHAN, 8, "x", 1 },
	{ INDEX_RECIPE, 16, "short", 5 },
	{ INDEX_BLOCK, 8, "short", 5 },
	{ INDEX_DIGEST, 16, "x", 1 },
	{ INDEX_DIGEST, 8, "", 0 },
	{ INDEX_PENDING, 8, "x", 1 },
	{ INDEX_PENDING, 8, "", 0 },
};

START_TEST(record_that_cannot_be_is_told)
{
	struct record_key key = { .len = wrong[_i].key_len };
	char start[64];

	put_all();
	memset(key.bytes, 0x5a, key.len);
	put_raw(wrong[_i].table, key, wrong[_i].val, wrong[_i].len);
	ck_assert_int_eq(walk(), 0);
	ck_assert_uint_eq(w.damaged, 1);
	(void)snprintf(start, sizeof(start), "table %s, key 5a5a",
		       schema_tables[wrong[_i].table]);
	ck_assert_msg(strstr(w.text, start) == w.text, "%s", w.text);
}
END_TEST

START_TEST(record_that_does_not_match_is_told)
{
	put_all();
	put_inline(0x17, "where this is stored");
	put_inline(0x18, "where this is stored");
	index_close(ix);
	ix = NULL;
	damage("where this is stored", "Where");
	ck_assert_int_eq(try_open(0), 0);
	ck_assert_int_eq(walk(), 0);
	ck_assert_uint_eq(w.damaged, 2);
	ck_assert_str_eq(
		w.text,
		"table inline, key 0000000000000017: the record is damaged");
}
END_TEST

/* -- Pages ----------------------------------------------------------------- */

static void overwrite_pages(const void *buf, size_t len, off_t off, size_t n)
{
	char path[SCRATCH_PATH_MAX];
	int fd;

	file_of_index(path);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_eq(pwrite(fd, buf, len, off + (off_t)(i * len)),
				 (int)len);
	close(fd);
}

/* What LMDB has in its map is wrong too: nobody may use it any more. */
START_TEST(wrong_pages_are_told_and_kill_nobody)
{
	static const uint8_t junk[4096] = { 0xee };
	struct stat st;
	char path[SCRATCH_PATH_MAX];

	put_all();
	file_of_index(path);
	ck_assert_int_eq(stat(path, &st), 0);
	overwrite_pages(junk, sizeof(junk), 2 * sizeof(junk),
			(size_t)st.st_size / sizeof(junk) - 2);
	ck_assert_int_eq(walk(), -EBADMSG);
	ck_assert_msg(strstr(w.text, "page ") == w.text, "%s", w.text);
	ck_assert_int_eq(truncate(path, 2 * sizeof(junk)), 0);
	/* The pin makes it longer again, but what was there is gone. */
	ck_assert_int_eq(walk(), -EBADMSG);
}
END_TEST

/* -- Beside a store in use --------------------------------------------------- */

static atomic_bool done;

static void *write_on(void *arg)
{
	uint64_t i = 0;

	(void)arg;
	while (!done) {
		put_inode(2 + i % 300);
		put_inline(2 + i * 7 % 300, "bytes that are of no length");
		i++;
	}
	return NULL;
}

START_TEST(walks_beside_a_writer_find_nothing)
{
	pthread_t thread;
	uint64_t txnid = 0;
	int rounds = 0;

	put_all();
	done = false;
	ck_assert_int_eq(pthread_create(&thread, NULL, write_on, NULL), 0);
	/* Until the writer has got on between two of them often enough. */
	for (int i = 0; i < 100000 && rounds < 100; i++) {
		uint64_t now = index_txnid(ix);

		rounds += now != txnid;
		txnid = now;
		ck_assert_int_eq(walk(), 0);
		ck_assert_msg(w.damaged == 0, "%s", w.text);
	}
	done = true;
	pthread_join(thread, NULL);
	ck_assert_int_eq(rounds, 100);
}
END_TEST

static bool no(void *arg)
{
	(*(unsigned *)arg)++;
	return false;
}

START_TEST(walk_ends_when_it_is_told_to)
{
	unsigned asked = 0;

	w = (struct walk){ .go_on = no, .arg = &asked };
	ck_assert_int_eq(walk_index(&w, ix), -ECANCELED);
	ck_assert_uint_eq(asked, 1);
}
END_TEST

/* What it counts since the last checkpoint goes on. */
START_TEST(walk_is_no_checkpoint)
{
	put_now(INDEX_ORPHAN, 1, "");
	for (uint64_t i = 2; i < 10000 && !index_grown(ix); i++)
		put_now(INDEX_COOKIE, i, "some bytes for the file to grow by");
	ck_assert(index_grown(ix));
	ck_assert_int_eq(walk(), 0);
	ck_assert(index_grown(ix));
}
END_TEST

/* -- LMDB itself ------------------------------------------------------------- */

static int walk_closed(void)
{
	int fd, r;

	index_close(ix);
	ix = NULL;
	fd = scratch_open_dir(&dir);
	w = (struct walk){ .go_on = NULL };
	r = walk_by_lmdb(&w, fd);
	close(fd);
	return r;
}

/* Values of several pages, and a list of free ones. */
static void put_much(void)
{
	uint8_t buf[3 * 4096];

	put_all();
	memset(buf, 'v', sizeof(buf));
	put_raw(INDEX_META, record_key_text("large"), buf, sizeof(buf));
	for (uint64_t i = 0; i < 300; i++)
		put_now(INDEX_COOKIE, i, "some bytes");
}

START_TEST(lmdb_reads_what_it_wrote)
{
	put_much();
	ck_assert_msg(walk_closed() == 0, "%s", w.text);
	ck_assert_str_eq(w.text, "");
}
END_TEST

/* Made before the last tables were thought of. */
START_TEST(missing_table_is_none)
{
	put_much();
	index_close(ix);
	ix = NULL;
	damage(schema_tables[INDEX_TABLES - 1], "~");
	ck_assert_msg(walk_closed() == 0, "%s", w.text);
}
END_TEST

/* What LMDB says, or a signal. */
START_TEST(what_lmdb_cannot_read_kills_nobody)
{
	static const uint8_t junk[4096] = { 0xee };
	struct stat st;
	char path[SCRATCH_PATH_MAX];

	put_much();
	file_of_index(path);
	ck_assert_int_eq(stat(path, &st), 0);
	if (_i == 0)
		ck_assert_int_eq(truncate(path, 2 * sizeof(junk)), 0);
	else
		overwrite_pages(junk, sizeof(junk), 2 * sizeof(junk),
				(size_t)st.st_size / sizeof(junk) - 2);
	ck_assert_int_eq(walk_closed(), -EBADMSG);
	ck_assert_msg(strstr(w.text, _i == 0 ? "died of it" : "damaged"), "%s",
		      w.text);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("walk");
	TCase *tc = new_case(suite, "records");

	scratch_in_memory();
	tcase_add_test(tc, good_records_of_all_tables_are_good);
	tcase_add_loop_test(tc, record_that_cannot_be_is_told, 0,
			    ARRAY_SIZE(wrong));
	tcase_add_test(tc, record_that_does_not_match_is_told);

	tc = new_case(suite, "pages");
	tcase_add_test(tc, wrong_pages_are_told_and_kill_nobody);

	tc = new_case(suite, "beside");
	tcase_add_test(tc, walks_beside_a_writer_find_nothing);
	tcase_add_test(tc, walk_ends_when_it_is_told_to);
	tcase_add_test(tc, walk_is_no_checkpoint);

	tc = new_case(suite, "lmdb");
	tcase_add_test(tc, lmdb_reads_what_it_wrote);
	tcase_add_test(tc, missing_table_is_none);
	tcase_add_loop_test(tc, what_lmdb_cannot_read_kills_nobody, 0, 2);
	return run_suite(suite);
}
