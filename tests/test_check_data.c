/* SPDX-License-Identifier: MIT */
#include "store/check.h"

#include "checkfix.h"
#include "store/mdbfile.h"

/* -- Blocks ---------------------------------------------------------------- */

START_TEST(wrong_references_are_found)
{
	uint64_t id = block_of(made.wheel, 3);
	struct block_rec bl = block(id);

	ck_assert_uint_eq(bl.refs, 3);
	bl.refs = 2;
	put_block(id, &bl);
	finds(false, LINE("block %ju: 2 references, 3 in recipes", U(id)),
	      NULL);
}
END_TEST

START_TEST(a_block_that_is_missing_is_found)
{
	uint64_t id = block_of(made.small, 0);
	struct block_rec bl = block(id);
	uint64_t live = pack(bl.pack).live;

	begin();
	ck_assert_int_eq(block_del(txn, id, &bl), 0);
	commit();
	finds(false,
	      LINE("recipe %ju: block %ju is not there",
		   U(fx_inode(made.small).recipe), U(id)),
	      LINE("pack %ju: %ju bytes are live, its blocks are %ju",
		   U(bl.pack), U(live), U(live - 20000)),
	      NULL);
}
END_TEST

START_TEST(a_run_without_end_is_found)
{
	struct inode in = fx_inode(made.small);
	uint64_t id = block_of(made.small, 0);

	put_runs(in.recipe, 0,
		 (struct run){ .first = id, .count = UINT32_MAX });
	finds(false,
	      LINE("recipe %ju: %ju of the blocks %ju to %ju are not there",
		   U(in.recipe), U(UINT32_MAX - 1), U(id),
		   U(id + UINT32_MAX - 1)),
	      NULL);
}
END_TEST

START_TEST(a_digest_that_is_missing_or_wrong_is_found)
{
	uint64_t id = block_of(made.wheel, 3);
	struct block_rec bl = block(id);
	struct record_key key =
		record_key_pair(record_sha256_head(bl.sha256), id);

	change(INDEX_DIGEST, key, NULL, 0);
	finds(false, LINE("block %ju: no digest leads to it", U(id)), NULL);
	change(INDEX_DIGEST, key, "", 0);
	change(INDEX_DIGEST, record_key_pair(7, id), "", 0);
	change(INDEX_DIGEST, record_key_pair(8, 99999), "", 0);
	finds(false,
	      LINE("digest 0000000000000007: block %ju, to which it leads, has another",
		   U(id)),
	      "digest 0000000000000008: block 99999, to which it leads, is not there",
	      NULL);
}
END_TEST

START_TEST(recipes_that_are_nobodys_or_too_short_are_found)
{
	struct inode in = fx_inode(made.small);
	uint64_t id = block_of(made.small, 0);
	struct block_rec bl = block(id);

	put_runs(7777, 0, (struct run){ .first = id, .count = 1 });
	bl.refs = 2;
	put_block(id, &bl);
	in.size = 30000;
	fx_put_inode(&in);
	begin();
	ck_assert_int_eq(recipe_set_pending(txn, fx_inode(made.next).recipe,
					    RECIPE_DROPPING),
			 0);
	commit();
	finds(false, "recipe 7777: no inode has it",
	      LINE("recipe %ju: 20000 bytes, its inode %ju has 30000",
		   U(in.recipe), U(in.ino)),
	      LINE("recipe %ju: it is to be dropped, but inode %ju has it",
		   U(fx_inode(made.next).recipe), U(made.next)),
	      NULL);
}
END_TEST

START_TEST(a_recipe_of_two_inodes_or_of_none_is_found)
{
	struct inode in = fx_inode(made.copy), other = fx_inode(made.small);
	uint64_t recipe = other.recipe;

	other.recipe = in.recipe;
	other.size = in.size;
	fx_put_inode(&other);
	finds(false,
	      LINE("recipe %ju: inodes %ju and %ju have it", U(in.recipe),
		   U(made.copy < made.small ? made.copy : made.small),
		   U(made.copy < made.small ? made.small : made.copy)),
	      LINE("recipe %ju: no inode has it", U(recipe)), NULL);
	other.recipe = 888;
	fx_put_inode(&other);
	finds(false,
	      LINE("inode %ju: its recipe 888 is not there", U(made.small)),
	      LINE("recipe %ju: no inode has it", U(recipe)), NULL);
}
END_TEST

/* -- Packs ----------------------------------------------------------------- */

START_TEST(a_pack_that_counts_wrong_is_found)
{
	uint64_t id = fx_inode(made.wheel).pack;
	struct pack_rec rec = pack(id);
	uint64_t live = rec.live, bytes = rec.bytes;

	rec.live -= 10;
	put_pack(id, &rec);
	finds(false,
	      LINE("pack %ju: %ju bytes are live, its blocks are %ju", U(id),
		   U(live - 10), U(live)),
	      NULL);
	rec.live = live;
	rec.bytes = bytes - 1;
	put_pack(id, &rec);
	finds(false,
	      LINE("pack %ju: block %ju ends at %ju, the pack at %ju", U(id),
		   U(block_of(made.wheel, 21)), U(bytes), U(bytes - 1)),
	      NULL);
}
END_TEST

START_TEST(blocks_that_overlap_are_found)
{
	uint64_t id = block_of(made.wheel, 3);
	struct block_rec bl = block(id);

	bl.offset -= 1;
	put_block(id, &bl);
	finds(false,
	      LINE("pack %ju: blocks %ju and %ju overlap", U(bl.pack),
		   U(id - 1), U(id)),
	      NULL);
	finds(true,
	      LINE("pack %ju: blocks %ju and %ju overlap", U(bl.pack),
		   U(id - 1), U(id)),
	      LINE("block %ju: its %ju bytes in pack %ju at %ju do not match their XXH3",
		   U(id), U(bl.length), U(bl.pack), U(bl.offset)),
	      LINE("inode %ju (" FX_WHEEL_DIRS
		   "/p-1-py2-none-any.whl): its bytes do not match their checksum",
		   U(made.copy)),
	      LINE("inode %ju (" FX_WHEEL_DIRS
		   "/p-2-py3-none-any.whl): its bytes do not match their checksum",
		   U(made.next)),
	      NULL);
}
END_TEST

START_TEST(owners_are_compared)
{
	uint64_t id = fx_inode(made.wheel).pack;
	uint64_t other = block(block_of(made.small, 0)).pack;
	struct pack_rec rec = pack(id);

	rec.owner = made.staged;
	put_pack(id, &rec);
	rec = pack(other);
	rec.owner = made.small;
	put_pack(other, &rec);
	rec = (struct pack_rec){ .state = PACK_CUT };
	put_pack(fx_inode(made.staged).pack, &rec);
	finds(false,
	      LINE("pack %ju: inode %ju reads it, owner is %ju", U(id),
		   U(made.wheel), U(made.staged)),
	      LINE("pack %ju: it has an owner, but was never a file's",
		   U(other)),
	      LINE("pack %ju: its owner, inode %ju, does not read it", U(other),
		   U(made.small)),
	      LINE("pack %ju: inode %ju reads it, owner is 0",
		   U(fx_inode(made.staged).pack), U(made.staged)),
	      LINE("pack %ju: there is nothing in it, and nobody reads it",
		   U(fx_inode(made.staged).pack)),
	      NULL);
}
END_TEST

START_TEST(a_pack_without_a_record_is_found)
{
	uint64_t id = block(block_of(made.small, 0)).pack;

	change(INDEX_PACK, record_key_id(fx_inode(made.wheel).pack), NULL, 0);
	fx.hurt = true;
	run(false);
	ck_assert(was_found(LINE("inode %ju: its pack %ju has no record",
				 U(made.wheel), U(fx_inode(made.wheel).pack))));
	ck_assert(was_found(LINE("block %ju: its pack %ju has no record",
				 U(block_of(made.wheel, 0)),
				 U(fx_inode(made.wheel).pack))));
	ck_assert_uint_eq(n_found, 23);
	change(INDEX_PACK, record_key_id(id), "x", 1);
	run(false);
	ck_assert(was_found(LINE("pack %ju: its record is damaged", U(id))));
	ck_assert_uint_eq(n_found, 24);
}
END_TEST

/* -- Files and their bytes ------------------------------------------------- */

START_TEST(a_flipped_byte_is_found)
{
	uint64_t id = block_of(made.next, 20);
	struct block_rec bl = block(id);
	struct line where = line("block %ju: its %ju bytes in pack %ju at %ju "
				 "do not match their XXH3",
				 U(id), U(bl.length), U(bl.pack), U(bl.offset));

	flip(bl.pack, bl.offset + 100);
	flip(fx_inode(made.staged).pack, 70000);
	fx.hurt = true;
	run(false);
	ck_assert_uint_eq(n_found, 0);
	finds(true, where.text,
	      LINE("inode %ju (" FX_WHEEL_DIRS
		   "/p-2-py3-none-any.whl): its bytes do not match their checksum",
		   U(made.next)),
	      LINE("inode %ju (staged): its bytes do not match their checksum",
		   U(made.staged)),
	      NULL);
}
END_TEST

/* On disk a stamp may be anything. */
START_TEST(a_stamp_on_disk_is_no_finding)
{
	struct block_rec bl = block(block_of(made.next, 20));

	flip(bl.pack, bl.offset + 10);
	clean();
}
END_TEST

START_TEST(each_of_the_digests_is_compared)
{
	uint64_t id = block_of(made.small, 0);
	struct block_rec bl = block(id);

	bl.sha256[31] ^= 1;
	put_block(id, &bl);
	finds(true,
	      LINE("block %ju: its 20000 bytes in pack %ju at %ju do not match their SHA-256",
		   U(id), U(bl.pack), U(bl.offset)),
	      NULL);
}
END_TEST

START_TEST(bytes_in_the_index_are_compared)
{
	uint8_t buf[RECORD_INLINE_HEAD + 100] = { 0 };

	change(INDEX_INLINE, record_key_id(made.inlined), buf, sizeof(buf));
	finds(true,
	      LINE("inode %ju (inline): its bytes in the index do not match their checksum",
		   U(made.inlined)),
	      NULL);
}
END_TEST

START_TEST(files_that_are_gone_are_found)
{
	uint64_t staged = fx_inode(made.staged).pack;
	uint64_t shared = block(block_of(made.small, 0)).pack;

	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	ck_assert_int_eq(unlink(pack_path(staged).path), 0);
	ck_assert_int_eq(unlink(pack_path(shared).path), 0);
	finds(false,
	      LINE("inode %ju (staged): its pack %ju has no file",
		   U(made.staged), U(staged)),
	      LINE("pack %ju: it has no file", U(shared)), NULL);
}
END_TEST

START_TEST(files_that_are_too_short_are_found)
{
	uint64_t staged = fx_inode(made.staged).pack;
	uint64_t id = block_of(made.small, 0);
	uint64_t shared = block(id).pack, end = pack(shared).bytes;

	ck_assert_int_eq(truncate(pack_path(staged).path, 99999), 0);
	ck_assert_int_eq(truncate(pack_path(shared).path, 10), 0);
	finds(false,
	      LINE("inode %ju (staged): 100000 bytes, its pack %ju has 99999",
		   U(made.staged), U(staged)),
	      LINE("pack %ju: %ju bytes, its file has 10", U(shared), U(end)),
	      NULL);
	run(true);
	ck_assert(was_found(LINE(
		"inode %ju (small): its bytes cannot be read: Input/output error",
		U(made.small))));
	ck_assert(was_found(LINE(
		"block %ju: its 20000 bytes in pack %ju at %ju are not all there",
		U(id), U(shared), U(block(id).offset))));
}
END_TEST

START_TEST(a_file_that_nothing_names_is_found)
{
	struct scratch path = pack_path(0xabcdef);
	int fd = open(path.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	close(fd);
	finds(false,
	      "pack 11259375: there is a file (packs/0000000000abcdef), but nothing names it",
	      NULL);
	checked.alone = false;
	checked.stage = CHECK_INDEX;
	n_found = 0;
	ck_assert_int_eq(check_run(&checked), 0);
	ck_assert_uint_eq(n_found, 0);
}
END_TEST

START_TEST(what_is_not_charged_is_found)
{
	uint64_t charged = fx_charged();

	room_credit(fx.room, charged - 1000);
	fx.hurt = true;
	run(false);
	ck_assert_uint_eq(n_found, 1);
	ck_assert_str_eq(
		found[0],
		LINE("store: 1000 bytes are charged, on the disk are %ju",
		     U(checked.used)));
	room_settle(fx.room, 0, charged - 1000);
}
END_TEST

/* -- The index itself ------------------------------------------------------- */

static void overwrite_index(const void *data, size_t len)
{
	struct scratch path = scratch_at(&fx.kit.dir, "index/" MDBFILE_NAME);
	int fd = open(path.path, O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, data, len, 2 * 4096), (int)len);
	close(fd);
}

/* LMDB would not live to tell. */
START_TEST(wrong_pages_are_found_before_they_are_used)
{
	struct scratch path = scratch_at(&fx.kit.dir, "index/" MDBFILE_NAME);
	struct scratch_bytes file;
	uint8_t *junk;

	fx_checkpoint();
	file = scratch_read(path.path);
	junk = malloc(file.len);
	memset(junk, 0xee, file.len);
	overwrite_index(junk, file.len - 2 * 4096);
	run(true);
	overwrite_index(file.data + 2 * 4096, file.len - 2 * 4096);
	free(junk);
	free(file.data);
	ck_assert_uint_eq(n_found, 1);
	ck_assert_msg(strstr(found[0], "index: page ") == found[0], "%s",
		      found[0]);
	ck_assert_ptr_nonnull(strstr(found[0], "nothing else can be checked"));
	clean();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check_data");
	TCase *tc = kit_case(suite, "blocks", setup, teardown);
	tcase_add_test(tc, wrong_references_are_found);
	tcase_add_test(tc, a_block_that_is_missing_is_found);
	tcase_add_test(tc, a_run_without_end_is_found);
	tcase_add_test(tc, a_digest_that_is_missing_or_wrong_is_found);
	tcase_add_test(tc, recipes_that_are_nobodys_or_too_short_are_found);
	tcase_add_test(tc, a_recipe_of_two_inodes_or_of_none_is_found);

	tc = kit_case(suite, "packs", setup, teardown);
	tcase_add_test(tc, a_pack_that_counts_wrong_is_found);
	tcase_add_test(tc, blocks_that_overlap_are_found);
	tcase_add_test(tc, owners_are_compared);
	tcase_add_test(tc, a_pack_without_a_record_is_found);

	tc = kit_case(suite, "bytes", setup, teardown);
	tcase_add_test(tc, a_flipped_byte_is_found);
	tcase_add_test(tc, a_stamp_on_disk_is_no_finding);
	tcase_add_test(tc, each_of_the_digests_is_compared);
	tcase_add_test(tc, bytes_in_the_index_are_compared);
	tcase_add_test(tc, files_that_are_gone_are_found);
	tcase_add_test(tc, files_that_are_too_short_are_found);
	tcase_add_test(tc, a_file_that_nothing_names_is_found);
	tcase_add_test(tc, what_is_not_charged_is_found);

	tc = kit_case(suite, "index", setup, teardown);
	tcase_add_test(tc, wrong_pages_are_found_before_they_are_used);
	return kit_run_suite(suite);
}
