/* SPDX-License-Identifier: MIT */
/* Compaction: what moves, what stays, and what a failure leaves. */
#include "store/compact.h"

#include "compactfix.h"

/* The first one: what @gone of put_wasteful() left. */
static uint64_t wasteful_pack(void)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	struct index_txn *txn;
	uint8_t buf[RECORD_PACK_SIZE];
	uint64_t id = 0;
	size_t len;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &txn), 0);
	ck_assert_int_eq(index_iter(txn, INDEX_PACK, &from, 0, &it), 0);
	ck_assert_int_eq(index_next(&it, &key, buf, sizeof(buf), &len), 1);
	ck_assert_int_eq(record_key_get(&key, 0, &id), 0);
	index_iter_release(&it);
	index_abort(txn);
	return id;
}

START_TEST(blocks_move_and_their_readers_follow)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z);
	uint64_t blocks = fx_count(INDEX_BLOCK);
	struct store_file *f = fx_open_file(ino, FILE_QUIET);
	struct store_file *lazy = fx_open_file(ino, FILE_QUIET);
	struct compact_stat before = measure(), after;

	handle_holds(f, &z, 5000);
	ck_assert_uint_eq(before.packs, 2);
	ck_assert_int_eq(compact_round(&mover), 1);
	handle_holds(f, &z, 5000);
	holds(ino, &z);
	fx_checkpoint();
	handle_holds(f, &z, 5000);
	file_close(f);
	handle_holds(lazy, &z, 5000);
	file_close(lazy);
	holds(ino, &z);
	after = measure();
	ck_assert_uint_eq(after.packs, 2);
	ck_assert_uint_eq(after.live, before.live);
	ck_assert_uint_lt(after.waste, 16 * KIB);
	ck_assert_uint_lt(after.allocated, before.allocated - 200 * KIB);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), blocks);
	ck_assert_int_eq(compact_round(&mover), 0);
	ck_assert_uint_eq(damaged, 0);
	fx_reopen();
	holds(ino, &z);
	zip_release(&z);
}
END_TEST

/* Somebody looks bytes up, they move, and only then he opens the pack. */
START_TEST(a_pack_that_was_in_nobodys_use_has_moved_too)
{
	struct zip z;
	uint64_t generation, id;
	struct pack *pk;

	put_wasteful("a", "b", &z);
	generation = packs_generation(fx.kit.packs);
	id = wasteful_pack();
	packs_moved(fx.kit.packs, id);
	ck_assert_int_eq(pack_get(fx.kit.packs, id, &pk), 0);
	ck_assert_uint_gt(pack_moved(pk), generation);
	pack_put(pk);
	zip_release(&z);
}
END_TEST

START_TEST(many_sources_go_into_one_target)
{
	struct zip b, d;
	uint64_t first = put_wasteful("a", "b", &b), second, target;

	ck_assert_uint_eq(compact_all(), 1);
	target = mover.target;
	fx_checkpoint();
	second = put_wasteful("c", "d", &d);
	(void)compact_all();
	ck_assert_uint_eq(mover.target, target);
	fx_checkpoint();
	holds(first, &b);
	holds(second, &d);
	zip_release(&b);
	zip_release(&d);
}
END_TEST

/* Longer than what is written at a time; its stamp is masked all the same. */
START_TEST(a_large_block_moves)
{
	struct zip a = { 0 }, b = { 0 };
	uint64_t ino;
	char name[16];

	zip_member(&a, "all/lib.so", 5 * MIB + 77, STAMP);
	zip_member(&b, "all/lib.so", 5 * MIB + 77, STAMP + 1);
	for (unsigned i = 0; i < 50; i++) {
		(void)snprintf(name, sizeof(name), "a%u", i);
		zip_member(&a, name, 40000, STAMP);
	}
	zip_finish(&a, "");
	zip_finish(&b, "");
	put_cut("a", &a);
	ino = put_cut("b", &b);
	no_punch = true;
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	drain();
	fx_checkpoint();
	ck_assert_uint_eq(compact_all(), 1);
	fx_checkpoint();
	ck_assert_uint_eq(damaged, 0);
	ck_assert_uint_lt(measure().waste, 64 * KIB);
	holds(ino, &b);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

/* A pack that is read linearly, whatever it takes. */
START_TEST(what_an_inode_owns_stays)
{
	struct zip z = wheel("a", "a");
	uint64_t ino = put_cut("a", &z), pack = fx_inode(ino).pack;
	uint64_t size, disk, more;
	struct pack *pk;

	ck_assert_uint_ne(pack, 0);
	ck_assert_int_eq(pack_get(fx.kit.packs, pack, &pk), 0);
	ck_assert_int_eq(pack_stat(pk, &size, &disk), 0);
	ck_assert_int_eq(pack_fallocate(pk, FALLOC_FL_KEEP_SIZE, 0, MIB), 0);
	ck_assert_int_eq(pack_stat(pk, &size, &more), 0);
	room_settle(fx.room, 0, more - disk);
	pack_put(pk);
	ck_assert_uint_gt(measure().waste, 500 * KIB);
	ck_assert_int_eq(compact_round(&mover), 0);
	ck_assert_uint_eq(fx_inode(ino).pack, pack);
	holds(ino, &z);
	zip_release(&z);
}
END_TEST

START_TEST(what_somebody_uses_waits)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z);
	struct pack *pk;

	ck_assert_int_eq(pack_get(fx.kit.packs, wasteful_pack(), &pk), 0);
	ck_assert_int_eq(compact_round(&mover), -EAGAIN);
	pack_put(pk);
	ck_assert_int_eq(compact_round(&mover), 1);
	holds(ino, &z);
	zip_release(&z);
}
END_TEST

START_TEST(what_a_checkpoint_gives_back_is_no_waste)
{
	struct zip a = wheel("a", "a");
	struct zip b = wheel("b", "a");

	put_cut("a", &a);
	put_cut("b", &b);
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	drain();
	ck_assert_uint_lt(measure().waste, 50 * KIB);
	ck_assert_int_le(compact_round(&mover), 0);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

START_TEST(without_room_nothing_moves)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z), charged;

	fx_fill_room(300 * KIB);
	charged = fx_charged();
	ck_assert_int_eq(compact_round(&mover), -ENOSPC);
	ck_assert_uint_eq(fx_charged(), charged);
	ck_assert_uint_eq(measure().packs, 2);
	fx_empty_room();
	ck_assert_int_eq(compact_round(&mover), 1);
	holds(ino, &z);
	zip_release(&z);
}
END_TEST

START_TEST(it_ends_when_it_is_told)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z);

	no_steps = true;
	ck_assert_int_eq(compact_round(&mover), -ECANCELED);
	no_steps = false;
	ck_assert_int_eq(compact_round(&mover), 1);
	holds(ino, &z);
	zip_release(&z);
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

START_TEST(a_full_disk_leaves_all_where_it_was)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z);

	fx.io.pwrite = failing_pwrite;
	refuse_writes = true;
	ck_assert_int_eq(compact_round(&mover), -ENOSPC);
	refuse_writes = false;
	holds(ino, &z);
	ck_assert_int_eq(compact_round(&mover), 1);
	holds(ino, &z);
	zip_release(&z);
}
END_TEST

/* @_i: it is so long that it was written before that showed. */
START_TEST(a_damaged_block_is_lost)
{
	struct zip a = { 0 }, b = { 0 };
	struct scratch path;
	char name[16];
	int fd;

	for (unsigned i = 0; i < 20; i++) {
		size_t len = i == 5 && _i ? 3 * MIB : 7000;

		(void)snprintf(name, sizeof(name), "all/m%u", i);
		zip_member(&a, name, len, STAMP);
		zip_member(&b, name, len, STAMP);
	}
	for (unsigned i = 0; i < 40; i++) {
		(void)snprintf(name, sizeof(name), "a%u", i);
		zip_member(&a, name, 40000, STAMP);
	}
	zip_finish(&a, "");
	zip_finish(&b, "");
	path = fx_pack_path(put_cut("a", &a));
	put_cut("b", &b);
	no_punch = true;
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	drain();
	fx_checkpoint();
	no_punch = false;
	fd = open(path.path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, "XXXX", 4, (off_t)a.members[6].local - 100),
			 4);
	close(fd);
	ck_assert_int_eq(compact_round(&mover), 1);
	ck_assert_uint_eq(damaged, 1);
	ck_assert_int_eq(fx_try_open(fx_find(ROOT, "b"), 0), -ENOENT);
	fx_checkpoint();
	ck_assert_int_eq(compact_round(&mover), 0);
	ck_assert_uint_eq(damaged, 1);
	ck_assert_uint_eq(fx_find(ROOT, "b"), 0);
	drain();
	fx_checkpoint();
	ck_assert_uint_eq(fx_count(INDEX_PACK), 0);
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 0);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

/* Small files that are added after all that was there has moved away. */
START_TEST(a_shared_pack_that_was_emptied_is_followed_by_another)
{
	char name[16];
	uint64_t ino;

	for (unsigned i = 0; i < 60; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		ck_assert_int_eq(cut(fx_put(ROOT, name, 5000 + i, i)), 0);
	}
	no_punch = true;
	for (unsigned i = 0; i < 60; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		if (i % 6)
			ck_assert_int_eq(fx_unlink(ROOT, name), 0);
	}
	drain();
	fx_checkpoint();
	no_punch = false;
	ck_assert_int_eq(compact_round(&mover), 1);
	ino = fx_put(ROOT, "more", 7000, 99);
	ck_assert_int_eq(cut(ino), 0);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_RECIPE);
	fx_checkpoint();
	ck_assert_int_eq(fx_holds(ino, 7000, 99), 0);
	for (unsigned i = 0; i < 60; i += 6) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		ck_assert_int_eq(fx_holds(fx_find(ROOT, name), 5000 + i, i), 0);
	}
}
END_TEST

static struct zip killed;
static int killed_when;

static void compact_and_die(void)
{
	set_up_movers();
	put_wasteful("a", "b", &killed);
	ck_assert_int_eq(compact_round(&mover), 1);
	if (!killed_when)
		return;
	fx_checkpoint();
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	drain();
}

START_TEST(a_cut_off_at_any_point_loses_nothing)
{
	killed_when = _i;
	fx_run_killed(compact_and_die);
	set_up_movers();
	killed = wheel("b", "a");
	holds(fx_find(ROOT, "b"), &killed);
	(void)compact_all();
	fx_checkpoint();
	holds(fx_find(ROOT, "b"), &killed);
	zip_release(&killed);
}
END_TEST

#define ZIPS 60

/* Ten members, a third of them its own, the others one of four each. */
static struct zip mixed(unsigned n)
{
	struct zip z = { 0 };
	char name[32];

	for (unsigned i = 0; i < 10; i++) {
		bool own = (n + i) % 3 == 0;

		(void)snprintf(name, sizeof(name), "%s%u-%u", own ? "u" : "s",
			       i, own ? n : (n * 7 + i) % 4);
		zip_member(&z, name, 900 + 1300 * i, STAMP + n);
	}
	zip_finish(&z, "");
	return z;
}

/* @_i: nothing is punched out. */
START_TEST(waste_is_a_tenth_at_most)
{
	struct zip zips[ZIPS];
	uint64_t inos[ZIPS], before;
	struct compact_stat st;
	char name[16];
	unsigned rounds;

	srand(7);
	for (unsigned i = 0; i < ZIPS; i++) {
		zips[i] = mixed(i);
		(void)snprintf(name, sizeof(name), "z%u", i);
		inos[i] = put_cut(name, &zips[i]);
	}
	fx_checkpoint();
	no_punch = _i;
	for (unsigned i = 0; i < ZIPS; i++) {
		(void)snprintf(name, sizeof(name), "z%u", i);
		if (rand() % 3 == 0)
			continue;
		ck_assert_int_eq(fx_unlink(ROOT, name), 0);
		inos[i] = 0;
	}
	drain();
	fx_checkpoint();
	no_punch = false;
	before = measure().waste;
	rounds = compact_all();
	fx_checkpoint();
	st = measure();
	invariants_room();
	(void)fprintf(stderr,
		      "waste %ju before, %ju after %u rounds, of %ju in packs, "
		      "%ju used\n",
		      (uintmax_t)before, (uintmax_t)st.waste, rounds,
		      (uintmax_t)st.allocated, (uintmax_t)inv.disk_bytes);
	if (_i)
		ck_assert_uint_gt(before, 10 * st.waste);
	ck_assert_uint_le(st.waste, inv.disk_bytes / 10);
	for (unsigned i = 0; i < ZIPS; i++) {
		if (inos[i])
			holds(inos[i], &zips[i]);
		zip_release(&zips[i]);
	}
	ck_assert_int_eq(compact_round(&mover), 0);
}
END_TEST

START_TEST(the_thread_does_it_by_itself)
{
	struct zip z;
	uint64_t ino = put_wasteful("a", "b", &z), pack = wasteful_pack();

	ck_assert_int_eq(gc_start(fx.gc), 0);
	for (int i = 0; i < 300 && wasteful_pack() == pack; i++)
		(void)usleep(100000);
	ck_assert_uint_ne(wasteful_pack(), pack);
	holds(ino, &z);
	zip_release(&z);
	fx_reopen();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("compact");
	TCase *tc = kit_case(suite, "move", setup, teardown);

	tcase_add_test(tc, blocks_move_and_their_readers_follow);
	tcase_add_test(tc, a_pack_that_was_in_nobodys_use_has_moved_too);
	tcase_add_test(tc, many_sources_go_into_one_target);
	tcase_add_test(tc, a_large_block_moves);
	tcase_add_loop_test(tc, waste_is_a_tenth_at_most, 0, 2);
	tcase_add_test(tc, the_thread_does_it_by_itself);

	tc = kit_case(suite, "leave", setup, teardown);
	tcase_add_test(tc, what_an_inode_owns_stays);
	tcase_add_test(tc, what_somebody_uses_waits);
	tcase_add_test(tc, what_a_checkpoint_gives_back_is_no_waste);
	tcase_add_test(tc, without_room_nothing_moves);
	tcase_add_test(tc, it_ends_when_it_is_told);

	tc = kit_case(suite, "fail", setup, teardown);
	tcase_add_test(tc, a_full_disk_leaves_all_where_it_was);
	tcase_add_loop_test(tc, a_damaged_block_is_lost, 0, 2);
	tcase_add_test(tc,
		       a_shared_pack_that_was_emptied_is_followed_by_another);
	tcase_add_loop_test(tc, a_cut_off_at_any_point_loses_nothing, 0, 2);
	return kit_run_suite(suite);
}
