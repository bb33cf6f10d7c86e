/* SPDX-License-Identifier: MIT */
/* Bytes against checksums one by one, and what damaged blocks cost. */
#include "store/proof.h"

#include "checkfix.h"
#include "store/block.h"
#include "store/loss.h"

static struct proof p;
static unsigned pieces;
static void (*meanwhile)(void); /* once, behind the first piece */
static bool stop;

static bool on_piece(void *arg, size_t len)
{
	void (*fn)(void) = meanwhile;

	ck_assert_ptr_eq(arg, &p);
	ck_assert_uint_gt(len, 0);
	pieces++;
	meanwhile = NULL;
	if (fn)
		fn();
	return !stop;
}

static void begin_proof(void)
{
	p = (struct proof){ .t = T, .go_on = on_piece, .arg = &p };
	pieces = 0;
	meanwhile = NULL;
	stop = false;
}

/* Up to the first finding: true; false: there is none. @ret_bytes adds up. */
static bool next_bad(int (*next)(struct proof *p), uint64_t *ret_bytes)
{
	int r;

	while ((r = next(&p)) > 0) {
		*ret_bytes += p.bytes;
		if (p.bad)
			return true;
	}
	ck_assert_int_eq(r, 0);
	return false;
}

static void expect_only(int (*next)(struct proof *p), uint64_t id,
			const char *text)
{
	uint64_t bytes = 0;

	begin_proof();
	ck_assert(next_bad(next, &bytes));
	ck_assert_uint_eq(p.bad, id);
	ck_assert_str_eq(p.text, text);
	ck_assert(!next_bad(next, &bytes));
}

static void expect_nothing(int (*next)(struct proof *p))
{
	uint64_t bytes = 0;

	ck_assert_msg(!next_bad(next, &bytes), "found: %s", p.text);
}

/* -- Findings --------------------------------------------------------------- */

START_TEST(all_bytes_are_read_once)
{
	uint64_t bytes = 0, sum = 0;

	begin_proof();
	ck_assert(!next_bad(proof_next_block, &bytes));
	for (uint64_t id = 1; id <= fx_count(INDEX_BLOCK); id++)
		sum += block(id).length;
	ck_assert_uint_eq(bytes, sum);
	ck_assert_uint_eq(pieces, fx_count(INDEX_BLOCK));
	bytes = 0;
	begin_proof();
	ck_assert(!next_bad(proof_next_file, &bytes));
	ck_assert_uint_eq(bytes, 100000 + 100 + RECORD_INLINE_HEAD);
	ck_assert_uint_eq(pieces, 1); /* the bytes of files in blocks are not */
}
END_TEST

START_TEST(flipped_byte_of_a_block_is_found)
{
	uint64_t id = block_of(made.next, 20);
	struct block_rec bl = block(id);

	flip(bl.pack, bl.offset + 100);
	expect_only(proof_next_block, id,
		    LINE("block %ju, %ju bytes at %ju of packs/%016jx: "
			 "they do not match their checksum",
			 U(id), U(bl.length), U(bl.offset), U(bl.pack)));
	ck_assert(!p.missing);
	begin_proof();
	expect_nothing(proof_next_file);
	fx.hurt = true;
}
END_TEST

START_TEST(stamp_on_disk_is_no_finding)
{
	struct block_rec bl = block(block_of(made.next, 20));

	flip(bl.pack, bl.offset + 10);
	begin_proof();
	expect_nothing(proof_next_block);
}
END_TEST

START_TEST(blocks_of_a_pack_that_is_not_there_are_found)
{
	uint64_t id = block_of(made.small, 0), bytes = 0;
	struct block_rec bl = block(id);

	fx_reopen(); /* nobody has it open */
	home.packs_fd = fx.kit.packs_dir;
	ck_assert_int_eq(unlink(pack_path(bl.pack).path), 0);
	begin_proof();
	while (next_bad(proof_next_block, &bytes)) {
		ck_assert(p.missing);
		ck_assert_uint_eq(p.pack, bl.pack);
		ck_assert_ptr_nonnull(strstr(p.text, "no such file"));
		stop |= p.bad == id;
	}
	ck_assert(stop);
	fx.hurt = true;
}
END_TEST

START_TEST(block_that_is_cut_off_is_found)
{
	uint64_t id = block_of(made.small, 0);
	struct block_rec bl = block(id);

	ck_assert_int_eq(truncate(pack_path(bl.pack).path,
				  (off_t)(bl.offset + bl.length - 1)),
			 0);
	expect_only(proof_next_block, id,
		    LINE("block %ju, 20000 bytes at %ju of packs/%016jx: "
			 "they are not all there",
			 U(id), U(bl.offset), U(bl.pack)));
	fx.hurt = true;
}
END_TEST

START_TEST(flipped_byte_of_an_uncut_file_is_found)
{
	uint64_t id = fx_inode(made.staged).pack;

	flip(id, 70000);
	expect_only(proof_next_file, made.staged,
		    LINE("inode %ju, 100000 bytes at 0 of packs/%016jx: "
			 "they do not match their checksum",
			 U(made.staged), U(id)));
	fx.hurt = true;
}
END_TEST

START_TEST(wrong_bytes_in_the_index_are_found)
{
	uint8_t buf[RECORD_INLINE_HEAD + 100] = { 0 };

	change(INDEX_INLINE, record_key_id(made.inlined), buf, sizeof(buf));
	expect_only(proof_next_file, made.inlined,
		    LINE("inode %ju, 100 bytes in the index: "
			 "they do not match their checksum",
			 U(made.inlined)));
	change(INDEX_INLINE, record_key_id(made.inlined), NULL, 0);
	expect_only(proof_next_file, made.inlined,
		    LINE("inode %ju, 100 bytes in the index: "
			 "they are not there",
			 U(made.inlined)));
	fx.hurt = true;
}
END_TEST

/* -- What changes meanwhile ------------------------------------------------- */

static void remove_staged(void)
{
	ck_assert_int_eq(fx_unlink(ROOT, "staged"), 0);
}

START_TEST(file_that_goes_meanwhile_is_no_finding)
{
	flip(fx_inode(made.staged).pack, 70000);
	begin_proof();
	meanwhile = remove_staged;
	expect_nothing(proof_next_file);
	ck_assert_uint_eq(pieces, 1);
}
END_TEST

static struct block_rec moved;
static uint64_t moved_id;

static void move_back(void)
{
	put_block(moved_id, &moved);
}

/* The record leads to where it is not: then it has moved. */
START_TEST(block_that_moves_meanwhile_is_looked_at_again)
{
	struct block_rec bl;

	moved_id = block_of(made.wheel, 0);
	bl = moved = block(moved_id);
	bl.offset += 200;
	put_block(moved_id, &bl);
	begin_proof();
	p.at = moved_id;
	meanwhile = move_back;
	ck_assert_int_eq(proof_next_block(&p), 1);
	ck_assert_uint_eq(p.bad, 0);
	ck_assert_uint_eq(p.at, moved_id);
	ck_assert_int_eq(proof_next_block(&p), 1);
	ck_assert_uint_eq(p.bad, 0);
	ck_assert_uint_eq(p.at, moved_id + 1);
	ck_assert_uint_eq(pieces, 2);
}
END_TEST

START_TEST(who_is_told_to_end_stays_where_he_was)
{
	begin_proof();
	stop = true;
	ck_assert_int_eq(proof_next_block(&p), -ECANCELED);
	ck_assert_uint_eq(p.at, 0);
	ck_assert_int_eq(proof_next_file(&p), -ECANCELED);
	ck_assert_uint_le(p.at, made.staged);
	ck_assert_uint_eq(pieces, 2);
}
END_TEST

/* -- What it costs ---------------------------------------------------------- */

static uint64_t lose(uint64_t block_id)
{
	struct survey_set bad = { .v = NULL };
	struct survey_item *item;
	uint64_t files, bytes;

	ck_assert_int_eq(survey_add(&bad, block_id, &item), 0);
	ck_assert_int_eq(loss_blocks(&fx.files, &bad, &files), 0);
	survey_release(&bad);
	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	fx_checkpoint();
	return files;
}

START_TEST(files_of_a_lost_block_go_with_their_unit)
{
	uint64_t id = block_of(made.wheel, 3);

	ck_assert_uint_eq(block(id).refs, 3);
	ck_assert_uint_eq(lose(id), 3);
	ck_assert_uint_eq(fx.files.damaged, 3);
	ck_assert(fx_gone(made.wheel) && fx_gone(made.copy) &&
		  fx_gone(made.next));
	ck_assert(!fx_gone(made.small) && !fx_gone(made.staged) &&
		  !fx_gone(made.inlined));
	ck_assert_uint_eq(fx_count(INDEX_BLOCK), 1);
	clean();
}
END_TEST

START_TEST(pair_of_a_lost_body_goes_whole)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS), head, body;

	head = fx_put(dir, FX_HASH, 300, 8);
	body = fx_put(dir, FX_HASH ".body", 30000, 9);
	ck_assert_int_eq(cut(body), 0);
	ck_assert_uint_eq(lose(block_of(body, 0)), 1);
	ck_assert(fx_gone(head) && fx_gone(body));
	ck_assert(!fx_gone(made.wheel));
	clean();
}
END_TEST

/* What is damaged is no block for what comes again. */
START_TEST(same_bytes_that_come_again_are_stored_again)
{
	uint64_t id = block_of(made.small, 0), again;
	struct block_rec bl = block(id);

	flip(bl.pack, bl.offset + 100);
	ck_assert_uint_eq(lose(id), 1);
	again = fx_put(ROOT, "again", 20000, 1);
	ck_assert_int_eq(cut(again), 0);
	ck_assert_uint_ne(block_of(again, 0), id);
	clean();
}
END_TEST

START_TEST(users_are_found_among_many)
{
	char name[32];
	uint64_t ino = 0, id;

	for (unsigned i = 0; i < 300; i++) {
		if (i % 50 == 0)
			fx_checkpoint();
		(void)snprintf(name, sizeof(name), "many-%u", i);
		ino = fx_put(ROOT, name, 4000, i / 2 * 7 + 100);
		ck_assert_int_eq(cut(ino), 0);
	}
	id = block_of(ino, 0);
	ck_assert_uint_eq(block(id).refs, 2);
	ck_assert_uint_eq(lose(id), 2);
	ck_assert(fx_gone(ino) && !fx_find(ROOT, "many-298") &&
		  fx_find(ROOT, "many-297"));
	clean();
}
END_TEST

START_TEST(block_that_is_gone_costs_nothing)
{
	ck_assert_uint_eq(lose(123456), 0);
	ck_assert_uint_eq(fx.files.damaged, 0);
	clean();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proof");
	TCase *tc = kit_case(suite, "findings", setup, teardown);

	tcase_add_test(tc, all_bytes_are_read_once);
	tcase_add_test(tc, flipped_byte_of_a_block_is_found);
	tcase_add_test(tc, stamp_on_disk_is_no_finding);
	tcase_add_test(tc, blocks_of_a_pack_that_is_not_there_are_found);
	tcase_add_test(tc, block_that_is_cut_off_is_found);
	tcase_add_test(tc, flipped_byte_of_an_uncut_file_is_found);
	tcase_add_test(tc, wrong_bytes_in_the_index_are_found);

	tc = kit_case(suite, "meanwhile", setup, teardown);
	tcase_add_test(tc, file_that_goes_meanwhile_is_no_finding);
	tcase_add_test(tc, block_that_moves_meanwhile_is_looked_at_again);
	tcase_add_test(tc, who_is_told_to_end_stays_where_he_was);

	tc = kit_case(suite, "cost", setup, teardown);
	tcase_add_test(tc, files_of_a_lost_block_go_with_their_unit);
	tcase_add_test(tc, pair_of_a_lost_body_goes_whole);
	tcase_add_test(tc, same_bytes_that_come_again_are_stored_again);
	tcase_add_test(tc, users_are_found_among_many);
	tcase_add_test(tc, block_that_is_gone_costs_nothing);
	return kit_run_suite(suite);
}
