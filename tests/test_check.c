/* SPDX-License-Identifier: MIT */
#include "store/check.h"

#include "checkfix.h"

/* -- Nothing wrong --------------------------------------------------------- */

START_TEST(what_was_stored_cut_and_removed_is_clean)
{
	uint64_t bytes, sum;

	clean();
	ck_assert_uint_eq(checked.files, 6);
	ck_assert_uint_eq(checked.recipes, 4);
	ck_assert_uint_eq(checked.blocks, 25);
	ck_assert_uint_eq(checked.forgotten, 0);
	ck_assert_uint_ge(checked.charged, checked.used);
	ck_assert_uint_gt(checked.used, 0);
	ck_assert_uint_gt(checked.bytes, 4 * fx_inode(made.wheel).size);
	ck_assert_uint_le(checked.bytes, checked.bytes_all + KIB);
	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	clean();
	/* Recipes that wait, and then what is left. */
	ck_assert_int_eq(fx_unlink(made.dir, "p-1-py3-none-any.whl"), 0);
	clean();
	ck_assert_int_eq(gc_drain(fx.gc, &sum), 0);
	clean();
	fx_checkpoint();
	clean();
	ck_assert_int_eq(fx_unlink(made.dir, "p-2-py3-none-any.whl"), 0);
	ck_assert_int_eq(fx_unlink(made.dir, "p-1-py2-none-any.whl"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "small"), 0);
	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	fx_checkpoint();
	clean();
	ck_assert_uint_eq(checked.blocks, 0);
	ck_assert_uint_eq(checked.packs, 0);
}
END_TEST

START_TEST(open_files_are_clean)
{
	struct store_file *gone = fx_open_file(made.next, FILE_QUIET);
	struct store_file *f = fx_open_file(made.wheel, FILE_WRITE);

	ck_assert_int_eq(fileio_write(f, 50, "hello", 5, false), 0);
	ck_assert_int_eq(fx_unlink(made.dir, "p-2-py3-none-any.whl"), 0);
	clean();
	file_close(f);
	clean();
	file_close(gone);
	clean();
}
END_TEST

START_TEST(it_goes_on_where_it_was_left)
{
	uint64_t bytes = 0, at;
	unsigned calls = 0;

	run(true);
	at = checked.bytes;
	checked = (struct check){ .t = T, .home = &home, .data = true };
	for (; checked.stage != CHECK_DONE; calls++) {
		checked.stop_ms = -1; /* over at once */
		ck_assert_int_eq(check_run(&checked), 0);
		ck_assert_uint_eq(checked.findings, 0);
		bytes += checked.bytes;
	}
	ck_assert_uint_gt(calls, 20);
	ck_assert_uint_eq(bytes, at);
}
END_TEST

/* -- Names ----------------------------------------------------------------- */

START_TEST(a_name_without_an_inode_is_found)
{
	struct dirent_rec de = { .ino = 4711, .cookie = 3, .type = DT_REG };
	uint8_t buf[RECORD_DIRENT_SIZE];

	record_dirent_encode(&de, buf);
	change(INDEX_DIRENT, record_key_name(ROOT, "a\n\"b"), buf, sizeof(buf));
	finds(false,
	      "name \"a\\x0a\\x22b\" in directory 1: inode 4711 is not there",
	      "name \"a\\x0a\\x22b\" in directory 1: offset 3 does not lead to it",
	      NULL);
}
END_TEST

START_TEST(an_offset_that_leads_nowhere_is_found)
{
	change(INDEX_COOKIE, record_key_pair(ROOT, 900), "gone", 4);
	finds(false,
	      "directory 1: offset 900 leads to \"gone\", which is not there",
	      NULL);
}
END_TEST

START_TEST(an_inode_without_a_name_is_found)
{
	struct inode in = fx_inode(made.inlined);

	begin();
	ck_assert_int_eq(table_dirent_del(txn, ROOT, "inline", in.cookie), 0);
	commit();
	finds(false,
	      LINE("inode %ju: it has no name and is no orphan", U(in.ino)),
	      NULL);
}
END_TEST

START_TEST(wrong_link_counts_are_found)
{
	struct inode in = fx_inode(made.inlined), dir = fx_inode(ROOT);

	in.nlink = 3;
	fx_put_inode(&in);
	dir.nlink = 7;
	fx_put_inode(&dir);
	finds(false, LINE("inode %ju: 3 links, counted are 1", U(in.ino)),
	      "inode 1: 7 links, counted are 3", NULL);
}
END_TEST

START_TEST(directories_that_hold_each_other_are_found)
{
	uint64_t a = fx_dir(ROOT, "a"), b = fx_dir(a, "b"), c = fx_dir(b, "c");
	struct inode root, in, up;
	struct dirent_rec de;

	/* a moves into c, behind the back of everybody. */
	root = fx_inode(ROOT);
	up = fx_inode(c);
	in = fx_inode(a);
	begin();
	ck_assert_int_eq(table_dirent_del(txn, ROOT, "a", in.cookie), 0);
	de = (struct dirent_rec){ a, up.next_cookie++, DT_DIR };
	ck_assert_int_eq(table_dirent_put(txn, c, "a", &de), 0);
	in.parent = c;
	in.cookie = de.cookie;
	root.nlink--;
	up.nlink++;
	ck_assert_int_eq(table_inode_put(txn, &root), 0);
	ck_assert_int_eq(table_inode_put(txn, &up), 0);
	ck_assert_int_eq(table_inode_put(txn, &in), 0);
	commit();
	finds(false,
	      LINE("directory %ju: it is below itself, not below the root",
		   U(a)),
	      NULL);
}
END_TEST

START_TEST(an_orphan_with_a_name_is_found)
{
	change(INDEX_ORPHAN, record_key_id(made.small), "", 0);
	change(INDEX_ORPHAN, record_key_id(5000), "", 0);
	finds(false, LINE("orphan %ju: the inode has a name", U(made.small)),
	      "orphan 5000: the inode is not there", NULL);
}
END_TEST

START_TEST(entries_and_the_lru_are_compared)
{
	uint64_t id = fx_inode(made.wheel).entry;
	struct entry_rec en;
	uint8_t buf[RECORD_ENTRY_MAX];
	struct record_key lru;

	ck_assert(fx_entry(id, &en));
	lru = record_key_lru((uint8_t)layout_queue(en.kind), en.last_use_ns,
			     id);
	change(INDEX_LRU, lru, NULL, 0);
	change(INDEX_LRU, record_key_lru(1, 5, id), "", 0);
	en.members = 9;
	change(INDEX_ENTRY, record_key_id(id), buf,
	       record_entry_encode(&en, buf));
	finds(false, LINE("entry %ju: 9 files, 3 carry it", U(id)),
	      LINE("entry %ju: it has no place in the LRU", U(id)),
	      LINE("entry %ju: a place in the LRU is not its own", U(id)),
	      NULL);
}
END_TEST

START_TEST(bytes_in_the_index_belong_to_an_inode)
{
	struct inode in = fx_inode(made.inlined);

	in.size++;
	fx_put_inode(&in);
	change(INDEX_INLINE, record_key_id(made.small), "12345678x", 9);
	finds(false,
	      LINE("inode %ju: 101 bytes, in the index are 100", U(in.ino)),
	      LINE("inode %ju: there are bytes in the index, its own are elsewhere",
		   U(made.small)),
	      NULL);
	change(INDEX_INLINE, record_key_id(in.ino), NULL, 0);
	change(INDEX_INLINE, record_key_id(made.small), NULL, 0);
	finds(false,
	      LINE("inode %ju: its bytes are to be in the index, but are not",
		   U(in.ino)),
	      NULL);
}
END_TEST

START_TEST(records_that_cannot_be_read_are_found)
{
	uint64_t id = block_of(made.small, 0), in = block(id).pack;
	uint64_t live = pack(in).live;

	change(INDEX_INODE, record_key_id(made.inlined), "x", 1);
	change(INDEX_BLOCK, record_key_id(id), "x", 1);
	finds(true, LINE("inode %ju: its record is damaged", U(made.inlined)),
	      LINE("block %ju: its record is damaged", U(id)),
	      LINE("inode %ju (small): its bytes are not all there",
		   U(made.small)),
	      LINE("pack %ju: %ju bytes are live, its blocks are %ju", U(in),
		   U(live), U(live - 20000)),
	      NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check");
	TCase *tc = kit_case(suite, "clean", setup, teardown);

	tcase_add_test(tc, what_was_stored_cut_and_removed_is_clean);
	tcase_add_test(tc, open_files_are_clean);
	tcase_add_test(tc, it_goes_on_where_it_was_left);

	tc = kit_case(suite, "names", setup, teardown);
	tcase_add_test(tc, a_name_without_an_inode_is_found);
	tcase_add_test(tc, an_offset_that_leads_nowhere_is_found);
	tcase_add_test(tc, an_inode_without_a_name_is_found);
	tcase_add_test(tc, wrong_link_counts_are_found);
	tcase_add_test(tc, directories_that_hold_each_other_are_found);
	tcase_add_test(tc, an_orphan_with_a_name_is_found);
	tcase_add_test(tc, entries_and_the_lru_are_compared);
	tcase_add_test(tc, bytes_in_the_index_belong_to_an_inode);
	tcase_add_test(tc, records_that_cannot_be_read_are_found);

	return kit_run_suite(suite);
}
