/* SPDX-License-Identifier: MIT */
#include "store/cut.h"

#include "store/draft.h"
#include "store/recipe.h"

#include "fixture.h"
#include "zipkit.h"

#define ROOT RECORD_ROOT_INO
#define STAMP 0x5a215a21
#define LARGE 100000

static atomic_bool hurry;
static struct cutter cutter;

static void setup(void)
{
	fx_setup();
	atomic_store(&hurry, false);
	cutter = (struct cutter){ .fs = &fx.files, .stop = &hurry };
}

static int cut(uint64_t ino)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);
	int r = cut_file(&cutter, f);

	file_close(f);
	return r;
}

static uint64_t put(const char *name, const uint8_t *buf, size_t len)
{
	uint64_t ino = fx_file(ROOT, name);
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fileio_write(f, 0, buf, len, false), 0);
	file_close(f);
	return ino;
}

static uint64_t put_cut(const char *name, const struct zip *z)
{
	uint64_t ino = put(name, z->buf, z->len);

	ck_assert_int_eq(cut(ino), 0);
	return ino;
}

/* All of the bytes, in reads of @step. */
static void holds(uint64_t ino, const uint8_t *buf, size_t len, size_t step)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);
	struct fileio_read rd;
	uint8_t got[65536];

	for (size_t off = 0; off < len; off += rd.len) {
		const uint8_t *is = got;

		ck_assert_int_eq(fileio_read_begin(f, off, step, &rd), 0);
		ck_assert_uint_gt(rd.len, 0);
		if (rd.mem)
			is = rd.mem;
		else
			ck_assert_int_eq(pack_read(rd.pack, got, rd.len,
						   rd.pos),
					 rd.len);
		ck_assert_msg(!memcmp(is, buf + off, rd.len),
			      "wrong bytes behind %zu", off);
		fileio_read_end(&rd);
	}
	file_close(f);
}

static void holds_zip(uint64_t ino, const struct zip *z)
{
	holds(ino, z->buf, z->len, 65536);
	holds(ino, z->buf, z->len, 37);
}

/* Wheel number @version: most members are the same in all of them. */
static struct zip wheel(unsigned version, uint32_t stamp)
{
	struct zip z = { 0 };
	char name[32];

	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "p/m%u.py", i);
		zip_member(&z, name, 5000 + 100 * i, stamp);
	}
	(void)snprintf(name, sizeof(name), "p-%u/METADATA", version);
	zip_member(&z, name, 6000, stamp);
	zip_finish(&z, "");
	return z;
}

static uint64_t data_of(uint64_t ino)
{
	return fx_inode(ino).data;
}

static uint64_t drain(void)
{
	uint64_t bytes;

	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	fx_checkpoint();
	return bytes;
}

START_TEST(the_first_of_its_kind_keeps_its_pack)
{
	struct zip z = wheel(1, STAMP);
	uint64_t ino = put_cut("a", &z);

	ck_assert_uint_eq(data_of(ino), INODE_DATA_PACK);
	ck_assert_uint_ne(fx_inode(ino).recipe, 0);
	ck_assert(fx_inode(ino).flags & INODE_SUMMED);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 22);
	holds_zip(ino, &z);
	zip_release(&z);
}
END_TEST

START_TEST(the_next_version_shares_what_is_the_same)
{
	struct zip a = wheel(1, STAMP), b = wheel(2, STAMP + 77);
	uint64_t first = put_cut("a", &a), second = put_cut("b", &b);

	ck_assert_uint_eq(data_of(second), INODE_DATA_RECIPE);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 24);
	holds_zip(first, &a);
	holds_zip(second, &b);
	fx_reopen();
	holds_zip(first, &a);
	holds_zip(second, &b);
	/* The first goes, the second stays whole. */
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	drain();
	holds_zip(second, &b);
	fx_reopen();
	holds_zip(second, &b);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

START_TEST(a_copy_costs_no_bytes_and_nothing_is_left_of_all)
{
	struct zip z = wheel(1, STAMP);
	uint64_t first = put_cut("a", &z), second, blocks;
	uint64_t packs = fx_count(INDEX_PACK);

	blocks = fx_count(INDEX_BLOCK);
	second = put_cut("b", &z);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), blocks);
	ck_assert_uint_eq(fx_count(INDEX_PACK), packs);
	holds_zip(second, &z);
	holds_zip(first, &z);
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert_uint_eq(drain(), 0);
	holds_zip(second, &z);
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	ck_assert_uint_eq(drain(), z.len);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 0);
	ck_assert_uint_eq(fx_count(INDEX_PACK), 0);
	zip_release(&z);
}
END_TEST

/* A file that is byte for byte a masked member, and one with its stamp. */
START_TEST(a_masked_member_as_a_file_reads_back_right)
{
	struct zip z = wheel(1, STAMP);
	size_t at = z.members[3].local;
	size_t len = z.members[4].local - at;
	cleanup_free uint8_t *masked = malloc(len);
	uint64_t wheel_ino, raw, stamped;

	ck_assert_ptr_nonnull(masked);
	memcpy(masked, z.buf + at, len);
	memset(masked + 10, 0, 4);
	if (_i) { /* in the other order */
		raw = put("raw", masked, len);
		ck_assert_int_eq(cut(raw), 0);
		wheel_ino = put_cut("a", &z);
	} else {
		wheel_ino = put_cut("a", &z);
		raw = put("raw", masked, len);
		ck_assert_int_eq(cut(raw), 0);
	}
	stamped = put("stamped", z.buf + at, len);
	ck_assert_int_eq(cut(stamped), 0);
	for (int i = 0; i < 2; i++) {
		holds(raw, masked, len, 65536);
		holds(raw, masked, len, 3);
		holds(stamped, z.buf + at, len, 65536);
		holds_zip(wheel_ino, &z);
		fx_reopen();
	}
	zip_release(&z);
}
END_TEST

START_TEST(small_files_go_to_a_shared_pack)
{
	uint64_t a = fx_put(ROOT, "a", 5000, 1), b = fx_put(ROOT, "b", 6000, 2);
	uint64_t c = fx_put(ROOT, "c", 5000, 1);

	ck_assert_int_eq(cut(a), 0);
	ck_assert_int_eq(cut(b), 0);
	ck_assert_int_eq(cut(c), 0);
	ck_assert_uint_eq(fx_count(INDEX_PACK), 1);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 2);
	ck_assert_int_eq(fx_holds(a, 5000, 1), 0);
	ck_assert_int_eq(fx_holds(b, 6000, 2), 0);
	ck_assert_int_eq(fx_holds(c, 5000, 1), 0);
	/* The pack goes with its last block; the next file begins another. */
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "c"), 0);
	drain();
	ck_assert_uint_eq(fx_count(INDEX_PACK), 0);
	a = fx_put(ROOT, "d", 5000, 3);
	ck_assert_int_eq(cut(a), 0);
	ck_assert_int_eq(fx_holds(a, 5000, 3), 0);
}
END_TEST

START_TEST(a_cut_file_is_written_again_without_harm_to_others)
{
	struct zip a = wheel(1, STAMP), b = wheel(2, STAMP);
	uint64_t first = put_cut("a", &a), second = put_cut("b", &b);
	struct store_file *f;

	for (int i = 0; i < 2; i++) {
		uint64_t ino = i ? second : first;
		struct zip *z = i ? &b : &a;

		f = fx_open_file(ino, FILE_WRITE);
		ck_assert_int_eq(fileio_write(f, 50, "hello", 5, false), 0);
		file_close(f);
		memcpy(z->buf + 50, "hello", 5);
		drain();
		holds_zip(first, &a);
		holds_zip(second, &b);
		ck_assert_uint_eq(fx_inode(ino).recipe, 0);
		ck_assert_int_eq(cut(ino), 0);
		holds_zip(first, &a);
		holds_zip(second, &b);
	}
	zip_release(&a);
	zip_release(&b);
}
END_TEST

START_TEST(who_has_it_open_reads_on)
{
	struct zip a = wheel(1, STAMP), b = wheel(2, STAMP);
	uint64_t ino;
	struct store_file *f;
	uint8_t got[100];
	struct fileio_read rd, early;

	put_cut("a", &a);
	ino = put("b", b.buf, b.len);
	f = fx_open_file(ino, 0);
	ck_assert_int_eq(fileio_read_begin(f, 1000, 100, &early), 0);
	ck_assert_int_eq(cut(ino), 0);
	ck_assert_uint_eq(data_of(ino), INODE_DATA_RECIPE);
	fx_checkpoint();
	ck_assert_int_eq(pack_read(early.pack, got, 100, early.pos), 100);
	ck_assert(!memcmp(got, b.buf + 1000, 100));
	fileio_read_end(&early);
	ck_assert_int_eq(fileio_read_begin(f, 1000, 100, &rd), 0);
	ck_assert(!memcmp(rd.mem, b.buf + 1000, 100));
	fileio_read_end(&rd);
	/* Unlinked, it goes with the last close. */
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	drain();
	ck_assert_int_eq(fileio_read_begin(f, b.len - 10, 100, &rd), 0);
	ck_assert_uint_eq(rd.len, 10);
	ck_assert(!memcmp(rd.mem, b.buf + b.len - 10, 10));
	fileio_read_end(&rd);
	file_close(f);
	ck_assert(fx_gone(ino));
	zip_release(&a);
	zip_release(&b);
}
END_TEST

static struct zip killed_a, killed_b;

/* Two wheels, checkpoint, then more that is lost. */
static void work_and_die(void)
{
	put_cut("a", &killed_a);
	put_cut("b", &killed_b);
	fx_checkpoint();
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	drain();
	put_cut("c", &killed_a);
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
}

START_TEST(a_checkpoint_has_recipes_and_blocks_whole)
{
	killed_a = wheel(1, STAMP);
	killed_b = wheel(2, STAMP);
	fx_run_killed(work_and_die);
	holds_zip(fx_find(ROOT, "b"), &killed_b);
	zip_release(&killed_a);
	zip_release(&killed_b);
}
END_TEST

static void die_half_way(void)
{
	struct index_txn *txn;

	put_cut("a", &killed_a);
	put_cut("b", &killed_b);
	/* As if it had been cut off before the swap. */
	txn = kit_begin(&fx.kit);
	ck_assert_int_eq(recipe_set_pending(txn,
					    fx_inode(fx_find(ROOT, "b")).recipe,
					    RECIPE_BUILDING),
			 0);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	fx_checkpoint();
}

START_TEST(a_recipe_that_was_being_built_is_dropped)
{
	killed_a = wheel(1, STAMP);
	killed_b = wheel(2, STAMP);
	fx_run_killed(die_half_way);
	ck_assert_int_eq(gc_adopt(T), 0);
	drain();
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 22);
	holds_zip(fx_find(ROOT, "a"), &killed_a);
	zip_release(&killed_a);
	zip_release(&killed_b);
}
END_TEST

START_TEST(without_room_it_stays_as_it_is)
{
	struct zip a = wheel(1, STAMP), b = wheel(2, STAMP);
	uint64_t ino;

	put_cut("a", &a);
	ino = put("b", b.buf, b.len);
	fx_fill_room(700 * KIB);
	ck_assert_int_eq(cut(ino), 0);
	ck_assert_uint_eq(data_of(ino), INODE_DATA_PACK);
	ck_assert(fx_inode(ino).flags & INODE_SUMMED);
	holds_zip(ino, &b);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

START_TEST(a_damaged_block_is_not_shared)
{
	struct zip a = wheel(1, STAMP);
	uint64_t first = put_cut("a", &a), second;
	struct scratch pack = fx_pack_path(first);
	int fd = open(pack.path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, "XXXX", 4, 20000), 4);
	close(fd);
	second = put_cut("b", &a);
	ck_assert_uint_gt(fx.reports, 0);
	holds_zip(second, &a);
	fx_reopen();
	ck_assert_int_eq(fx_try_open(first, 0), -ENOENT);
	holds_zip(second, &a);
	zip_release(&a);
}
END_TEST

static bool refuse_writes;

static ssize_t failing_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	if (refuse_writes) {
		errno = ENOSPC;
		return -1;
	}
	return pwrite(fd, buf, len, off);
}

START_TEST(a_disk_that_is_full_leaves_the_file_whole)
{
	struct zip a = wheel(1, STAMP), b = wheel(2, STAMP);
	uint64_t ino;

	put_cut("a", &a);
	ino = put("b", b.buf, b.len);
	fx.io.pwrite = failing_pwrite;
	refuse_writes = true;
	ck_assert_int_eq(cut(ino), 0);
	refuse_writes = false;
	ck_assert_uint_eq(data_of(ino), INODE_DATA_PACK);
	holds_zip(ino, &b);
	ck_assert_int_eq(cut(ino), 0);
	ck_assert_uint_eq(data_of(ino), INODE_DATA_RECIPE);
	holds_zip(ino, &b);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

/* More blocks than one transaction takes, and more runs than a chunk has. */
START_TEST(many_blocks_take_several_transactions)
{
	struct zip a[12], whole = { 0 };
	uint64_t inos[ARRAY_SIZE(a)];
	char name[16];

	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		a[i] = (struct zip){ 0 };
		for (unsigned k = 0; k < 60; k++) {
			(void)snprintf(name, sizeof(name), "m%u", i * 60 + k);
			zip_member(&a[i], name, 2000, STAMP + i * 60 + k);
		}
		zip_finish(&a[i], "");
		(void)snprintf(name, sizeof(name), "w%u", i);
		inos[i] = put_cut(name, &a[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(a); i++) {
		holds(inos[i], a[i].buf, a[i].len, 65536);
		ck_assert_int_eq(
			fx_unlink(ROOT, (snprintf(name, sizeof(name), "w%u", i),
					 name)),
			0);
		zip_release(&a[i]);
	}
	drain();
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 0);
	zip_release(&whole);
}
END_TEST

/* A recipe that is to be dropped and has nothing but a chunk, too long to be
 * one, under a number that is not 0. */
START_TEST(a_damaged_recipe_does_not_hold_up_others)
{
	static const uint8_t junk[4000] = { 1 };
	struct zip z = wheel(1, STAMP);
	struct record_key key = record_key_pair(1, 3);
	struct index_txn *txn;
	uint64_t ino;

	txn = kit_begin(&fx.kit);
	ck_assert_int_eq(index_put(txn, INDEX_RECIPE, &key, junk, sizeof(junk),
				   true),
			 0);
	ck_assert_int_eq(recipe_set_pending(txn, 1, RECIPE_DROPPING), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	ino = put_cut("a", &z);
	ck_assert_uint_ne(fx_inode(ino).recipe, 0);
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert_uint_eq(drain(), z.len);
	ck_assert_uint_eq(fx_count(INDEX_PENDING), 0);
	ck_assert_uint_eq(fx_count(INDEX_RECIPE), 0);
	zip_release(&z);
}
END_TEST

static int asked;

static int ask_twice(void *arg, struct edit *e)
{
	(void)arg;
	(void)e;
	return ++asked == 2 ? -ECANCELED : 0;
}

static bool always(void *arg)
{
	(void)arg;
	return true;
}

START_TEST(each_transaction_asks_whether_to_go_on)
{
	struct zip z = { 0 };
	struct pieces p = PIECES_INIT;
	struct draft d = { .t = T, .p = &p, .fresh = true, .go_on = ask_twice };
	struct pack *pk;
	char name[16];

	for (int i = 0; i < ZIP_MEMBERS_MAX; i++) {
		(void)snprintf(name, sizeof(name), "m%d", i);
		zip_member(&z, name, 1000, STAMP);
	}
	zip_finish(&z, "");
	room_set_limit(fx.room, 16 * MIB, 0, 0);
	asked = 0;
	ck_assert_int_eq(pack_get(fx.kit.packs,
				  fx_inode(put("a", z.buf, z.len)).pack, &pk),
			 0);
	ck_assert_int_eq(pieces_read(pk, z.len, always, NULL, &p), 0);
	ck_assert_uint_eq(p.n, ZIP_MEMBERS_MAX + 1);
	d.pack = pack_id(pk);
	d.new_bytes = z.len;
	d.state = PACK_WHOLE;
	d.owner = fx_find(ROOT, "a");
	ck_assert_int_eq(draft_build(&d), -ECANCELED);
	ck_assert_int_eq(asked, 2);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), ZIP_MEMBERS_MAX);
	draft_drop(&d);
	drain();
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 0);
	pieces_release(&p);
	pack_put(pk);
	zip_release(&z);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cut");
	TCase *tc = kit_case(suite, "share", setup, fx_teardown);

	tcase_add_test(tc, the_first_of_its_kind_keeps_its_pack);
	tcase_add_test(tc, the_next_version_shares_what_is_the_same);
	tcase_add_test(tc, a_copy_costs_no_bytes_and_nothing_is_left_of_all);
	tcase_add_loop_test(tc, a_masked_member_as_a_file_reads_back_right, 0,
			    2);
	tcase_add_test(tc, small_files_go_to_a_shared_pack);
	tcase_add_test(tc, many_blocks_take_several_transactions);

	tc = kit_case(suite, "change", setup, fx_teardown);
	tcase_add_test(tc, a_cut_file_is_written_again_without_harm_to_others);
	tcase_add_test(tc, who_has_it_open_reads_on);

	tc = kit_case(suite, "fail", setup, fx_teardown);
	tcase_add_test(tc, a_checkpoint_has_recipes_and_blocks_whole);
	tcase_add_test(tc, a_recipe_that_was_being_built_is_dropped);
	tcase_add_test(tc, without_room_it_stays_as_it_is);
	tcase_add_test(tc, a_damaged_block_is_not_shared);
	tcase_add_test(tc, a_disk_that_is_full_leaves_the_file_whole);
	tcase_add_test(tc, a_damaged_recipe_does_not_hold_up_others);
	tcase_add_test(tc, each_transaction_asks_whether_to_go_on);
	return kit_run_suite(suite);
}
