/* SPDX-License-Identifier: MIT */
#include "store/tree.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO

static char long_name[RECORD_NAME_MAX + 2]; /* one byte too many */

static void setup(void)
{
	memset(long_name, 'n', RECORD_NAME_MAX + 1);
	fx_setup();
}

static int try_file(uint64_t parent, const char *name)
{
	uint64_t ino;

	return fx_try_make(parent, name, S_IFREG | 0644, &ino);
}

static int try_link(uint64_t ino, const char *name)
{
	struct inode in;

	return tree_link(T, ino, ROOT, name, &in);
}

/* -- Making --------------------------------------------------------------- */

START_TEST(a_new_inode_is_what_was_asked_for)
{
	struct tree_new what = { .parent = ROOT,
				 .name = "null",
				 .mode = S_IFCHR | 0640,
				 .uid = 7,
				 .gid = 8,
				 .rdev = 0x103 };
	struct inode made, found;

	ck_assert_int_eq(tree_make(T, &what, &made), 0);
	ck_assert_int_eq(tree_lookup(T, ROOT, "null", &found), 0);
	ck_assert_uint_eq(found.ino, made.ino);
	ck_assert_uint_eq(found.mode, S_IFCHR | 0640);
	ck_assert_uint_eq(found.uid, 7);
	ck_assert_uint_eq(found.gid, 8);
	ck_assert_uint_eq(found.rdev, 0x103);
	ck_assert_uint_eq(found.nlink, 1);
	ck_assert_int_eq(found.mtime_ns, found.ctime_ns);
	ck_assert_int_eq(fx_inode(ROOT).mtime_ns, found.mtime_ns);
}
END_TEST

START_TEST(impossible_names_are_refused)
{
	struct inode in;

	ck_assert_int_eq(try_file(ROOT, ""), -EINVAL);
	ck_assert_int_eq(try_file(ROOT, "."), -EINVAL);
	ck_assert_int_eq(try_file(ROOT, ".."), -EINVAL);
	ck_assert_int_eq(try_file(ROOT, "a/b"), -EINVAL);
	ck_assert_int_eq(try_file(ROOT, long_name), -ENAMETOOLONG);
	ck_assert_int_eq(tree_lookup(T, ROOT, long_name, &in), -ENAMETOOLONG);
	ck_assert_int_eq(fx_unlink(ROOT, long_name), -ENAMETOOLONG);
	long_name[RECORD_NAME_MAX] = '\0';
	ck_assert_int_eq(try_file(ROOT, long_name), 0);
	ck_assert_uint_ne(fx_find(ROOT, long_name), 0);
}
END_TEST

START_TEST(a_name_that_is_taken_stays_as_it_was)
{
	uint64_t ino = fx_put(ROOT, "f", 5000, 1);

	ck_assert_int_eq(try_file(ROOT, "f"), -EEXIST);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
	ck_assert_uint_eq(fx_inode(ROOT).nlink, 2);
}
END_TEST

START_TEST(names_are_made_in_directories_that_are_there_only)
{
	uint64_t file = fx_file(ROOT, "f"), dir = fx_dir(ROOT, "d");
	struct store_file *open = fx_open_file(dir, FILE_DIRECTORY);
	struct inode in;

	ck_assert_int_eq(try_file(file, "x"), -ENOTDIR);
	ck_assert_int_eq(tree_lookup(T, file, "x", &in), -ENOTDIR);
	ck_assert_int_eq(try_file(4711, "x"), -ESTALE);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert_int_eq(try_file(dir, "x"), -ENOENT);
	ck_assert_int_eq(tree_lookup(T, dir, "x", &in), -ENOENT);
	file_close(open);
	ck_assert_int_eq(try_file(dir, "x"), -ESTALE);
}
END_TEST

START_TEST(a_setgid_directory_hands_its_group_down)
{
	struct tree_new what = { .parent = ROOT,
				 .name = "g",
				 .mode = S_IFDIR | S_ISGID | 0775,
				 .gid = 50 };
	struct inode dir, in;

	ck_assert_int_eq(tree_make(T, &what, &dir), 0);
	what = (struct tree_new){ .parent = dir.ino,
				  .name = "sub",
				  .mode = S_IFDIR | 0755 };
	ck_assert_int_eq(tree_make(T, &what, &in), 0);
	ck_assert_uint_eq(in.gid, 50);
	ck_assert(in.mode & S_ISGID);
	what.name = "file";
	what.mode = S_IFREG | 0644;
	ck_assert_int_eq(tree_make(T, &what, &in), 0);
	ck_assert_uint_eq(in.gid, 50);
	ck_assert(!(in.mode & S_ISGID));
}
END_TEST

START_TEST(dot_and_dot_dot_are_found)
{
	uint64_t dir = fx_dir(ROOT, "d"), sub = fx_dir(dir, "s");
	struct inode in;

	ck_assert_int_eq(tree_lookup(T, sub, ".", &in), 0);
	ck_assert_uint_eq(in.ino, sub);
	ck_assert_int_eq(tree_lookup(T, sub, "..", &in), 0);
	ck_assert_uint_eq(in.ino, dir);
	ck_assert_int_eq(tree_lookup(T, ROOT, "..", &in), 0);
	ck_assert_uint_eq(in.ino, ROOT);
	ck_assert_int_eq(tree_lookup(T, 4711, "..", &in), -ESTALE);
}
END_TEST

START_TEST(a_symlink_keeps_its_target)
{
	char target[TREE_SYMLINK_MAX + 2], buf[TREE_SYMLINK_MAX + 1];
	struct tree_new what = { .parent = ROOT,
				 .name = "l",
				 .target = target,
				 .mode = S_IFLNK | 0777 };
	struct inode in;

	memset(target, 't', sizeof(target) - 1);
	target[sizeof(target) - 1] = '\0';
	ck_assert_int_eq(tree_make(T, &what, &in), -ENAMETOOLONG);
	target[TREE_SYMLINK_MAX] = '\0';
	ck_assert_int_eq(tree_make(T, &what, &in), 0);
	ck_assert_uint_eq(in.size, TREE_SYMLINK_MAX);
	ck_assert_int_eq(tree_readlink(T, in.ino, buf, sizeof(buf)), 0);
	ck_assert_str_eq(buf, target);
	ck_assert_int_eq(tree_readlink(T, in.ino, buf, 10), -ENAMETOOLONG);
	ck_assert_int_eq(tree_readlink(T, ROOT, buf, sizeof(buf)), -EINVAL);
	ck_assert_int_eq(fx_unlink(ROOT, "l"), 0);
	ck_assert_int_eq(tree_readlink(T, in.ino, buf, sizeof(buf)), -ESTALE);
}
END_TEST

START_TEST(a_target_with_wrong_bytes_is_damaged)
{
	uint8_t val[RECORD_INLINE_HEAD + 3] = { 1, 2, 3, 4, 5, 6, 7, 8, 'x' };
	struct tree_new what = { .parent = ROOT,
				 .name = "l",
				 .target = "abc",
				 .mode = S_IFLNK | 0777 };
	struct index_txn *txn;
	struct record_key key;
	struct inode in;
	char buf[16];

	ck_assert_int_eq(tree_make(T, &what, &in), 0);
	key = record_key_id(in.ino);
	txn = kit_begin(&fx.kit);
	ck_assert_int_eq(
		index_put(txn, INDEX_INLINE, &key, val, sizeof(val), false), 0);
	ck_assert_int_eq(index_commit(txn), 0);
	ck_assert_int_eq(tree_readlink(T, in.ino, buf, sizeof(buf)), -EBADMSG);
}
END_TEST

/* -- Links ---------------------------------------------------------------- */

START_TEST(a_second_name_leads_to_the_same_file)
{
	uint64_t ino = fx_put(ROOT, "a", 5000, 1);

	ck_assert_int_eq(try_link(ino, "b"), 0);
	ck_assert_uint_eq(fx_find(ROOT, "b"), ino);
	ck_assert_uint_eq(fx_inode(ino).nlink, 2);
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert_uint_eq(fx_inode(ino).nlink, 1);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "b"), 0);
	ck_assert(fx_gone(ino));
}
END_TEST

START_TEST(a_file_with_two_names_is_evicted_with_nothing)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);
	uint64_t body = fx_file(dir, FX_HASH ".body");
	struct entry_rec en;

	ck_assert_int_eq(try_link(body, "mine"), 0);
	ck_assert_uint_eq(fx_inode(body).entry, 0);
	ck_assert_uint_eq(fx_inode(body).kind, LAYOUT_OTHER);
	ck_assert(!(fx_inode(body).flags & INODE_BODY));
	ck_assert(fx_entry(fx_inode(head).entry, &en));
	ck_assert_uint_eq(en.members, 1);
}
END_TEST

START_TEST(a_file_that_has_one_name_again_is_evicted_with_its_unit)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH), body;
	struct inode in;

	body = fx_put(ROOT, "tmp", 5000, 1);
	ck_assert_int_eq(tree_link(T, body, dir, FX_HASH ".body", &in), 0);
	ck_assert_uint_eq(fx_inode(body).entry, 0);
	ck_assert_int_eq(fx_unlink(ROOT, "tmp"), 0);
	ck_assert_uint_ne(fx_inode(body).entry, 0);
	ck_assert_uint_eq(fx_inode(body).entry, fx_inode(head).entry);
	ck_assert(fx_inode(body).flags & INODE_BODY);
}
END_TEST

START_TEST(whichever_name_is_left_has_its_entry)
{
	uint64_t ino = fx_put(ROOT, "a", 5000, 1);

	ck_assert_int_eq(try_link(ino, "selfcheck.json"), 0);
	fx_file(ROOT, "b");
	ck_assert_int_eq(fx_rename(ROOT, "b", ROOT, "a"), 0);
	ck_assert_uint_ne(fx_inode(ino).entry, 0);

	ck_assert_int_eq(try_link(ino, "c"), 0);
	ck_assert_int_eq(try_link(ino, "d"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "c"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "d"), 0);
	ck_assert_uint_eq(fx_inode(ino).nlink, 1);
	ck_assert_uint_ne(fx_inode(ino).entry, 0);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
}
END_TEST

START_TEST(a_pair_is_whole_again_when_a_link_to_its_body_goes)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);
	uint64_t head = fx_file(dir, FX_HASH);
	uint64_t body = fx_put(dir, FX_HASH ".body", 5000, 1);
	struct entry_rec en;

	ck_assert_int_eq(try_link(body, "mine"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "mine"), 0);
	ck_assert_uint_eq(fx_inode(body).entry, fx_inode(head).entry);
	ck_assert(fx_entry(fx_inode(head).entry, &en));
	ck_assert_uint_eq(en.members, 2);
}
END_TEST

START_TEST(links_that_cannot_be_are_refused)
{
	uint64_t ino = fx_file(ROOT, "f");
	struct store_file *f = fx_open_file(ino, 0);
	struct inode in = fx_inode(ino);

	ck_assert_int_eq(try_link(ROOT, "r"), -EPERM);
	ck_assert_int_eq(try_link(4711, "r"), -ESTALE);
	ck_assert_int_eq(try_link(ino, "f"), -EEXIST);
	ck_assert_int_eq(try_link(ino, "a/b"), -EINVAL);
	in.nlink = TREE_LINK_MAX;
	fx_put_inode(&in);
	ck_assert_int_eq(try_link(ino, "g"), -EMLINK);
	in.nlink = 1;
	fx_put_inode(&in);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert_int_eq(try_link(ino, "g"), -ENOENT);
	file_close(f);
}
END_TEST

/* -- Removal -------------------------------------------------------------- */

START_TEST(unlink_and_rmdir_take_what_is_theirs)
{
	uint64_t dir = fx_dir(ROOT, "d");

	fx_file(ROOT, "f");
	fx_file(dir, "x");
	ck_assert_int_eq(fx_unlink(ROOT, "d"), -EISDIR);
	ck_assert_int_eq(tree_remove(T, ROOT, "f", true), -ENOTDIR);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), -ENOTEMPTY);
	ck_assert_int_eq(fx_unlink(ROOT, "none"), -ENOENT);
	ck_assert_int_eq(fx_unlink(4711, "none"), -ESTALE);
	ck_assert_int_eq(fx_unlink(dir, "x"), 0);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert(fx_gone(dir));
	ck_assert_uint_eq(fx_inode(ROOT).nlink, 2);
}
END_TEST

START_TEST(removal_needs_no_room)
{
	struct tree_new what = { .parent = ROOT,
				 .name = "new",
				 .mode = S_IFREG };
	uint64_t dir = fx_dir(ROOT, "d"), file = fx_file(ROOT, "f");
	struct inode in = fx_inode(file);

	/* Beyond what names may take, within what deletions may. */
	fx_fill_room(MIB);
	ck_assert_int_eq(tree_make(T, &what, &in), -ENOSPC);
	ck_assert_int_eq(try_link(file, "new"), -ENOSPC);
	ck_assert_int_eq(tree_setattr(T, file, &in, TREE_SET_MODE, &in), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert(fx_gone(dir));
}
END_TEST

START_TEST(a_frozen_index_can_be_read_only)
{
	uint64_t ino = fx_put(ROOT, "f", 5000, 1);
	struct inode in = fx_inode(ino);

	index_freeze(fx.kit.ix);
	ck_assert_int_eq(try_file(ROOT, "g"), -EROFS);
	ck_assert_int_eq(try_link(ino, "g"), -EROFS);
	ck_assert_int_eq(fx_unlink(ROOT, "f"), -EROFS);
	ck_assert_int_eq(fx_rename(ROOT, "f", ROOT, "g"), -EROFS);
	ck_assert_int_eq(tree_setattr(T, ino, &in, TREE_SET_MODE, &in), -EROFS);
	ck_assert_uint_eq(fx_find(ROOT, "f"), ino);
	ck_assert_int_eq(fx_holds(ino, 5000, 1), 0);
}
END_TEST

/* -- Attributes ----------------------------------------------------------- */

START_TEST(setattr_changes_what_is_named_and_ctime)
{
	uint64_t ino = fx_file(ROOT, "f");
	const struct inode before = fx_inode(ino);
	const struct inode from = {
		.mode = 04751, .uid = 3, .gid = 4, .atime_ns = 5, .mtime_ns = -6
	};
	struct inode in;

	ck_assert_int_eq(tree_setattr(T, ino, &from, TREE_SET_MODE, &in), 0);
	ck_assert_uint_eq(in.mode, S_IFREG | 04751);
	ck_assert_uint_eq(in.uid, 0);
	ck_assert_int_eq(in.mtime_ns, before.mtime_ns);
	ck_assert_int_ge(in.ctime_ns, before.ctime_ns);
	ck_assert_int_eq(tree_setattr(T, ino, &from,
				      TREE_SET_UID | TREE_SET_GID |
					      TREE_SET_ATIME | TREE_SET_MTIME,
				      &in),
			 0);
	in = fx_inode(ino);
	ck_assert_uint_eq(in.uid, 3);
	ck_assert_uint_eq(in.gid, 4);
	ck_assert_int_eq(in.atime_ns, 5);
	ck_assert_int_eq(in.mtime_ns, -6);
	ck_assert_int_eq(tree_setattr(T, 4711, &from, 0, &in), -ESTALE);
}
END_TEST

/* -- Listing -------------------------------------------------------------- */

struct listing {
	char text[512];
	unsigned left; /* names wanted */
	uint64_t next;
};

static int list_name(void *arg, const char *name, uint64_t ino, uint8_t type,
		     uint64_t next)
{
	struct listing *ls = arg;

	ck_assert_uint_ne(ino, 0);
	if (!ls->left--)
		return 1;
	(void)snprintf(ls->text + strlen(ls->text),
		       sizeof(ls->text) - strlen(ls->text), "%s%s ", name,
		       type == DT_DIR ? "/" : "");
	ls->next = next;
	return 0;
}

/* The next @n names of @dir from *@off on, which moves behind them. */
static const char *list(uint64_t dir, unsigned n, uint64_t *off)
{
	static struct listing ls;

	ls = (struct listing){ .left = n, .next = *off };
	ck_assert_int_eq(tree_readdir(T, dir, *off, list_name, &ls), 0);
	*off = ls.next;
	return ls.text;
}

START_TEST(offsets_stay_good_while_names_come_and_go)
{
	uint64_t off = 0;

	fx_file(ROOT, "a");
	fx_dir(ROOT, "b");
	fx_file(ROOT, "c");
	fx_file(ROOT, "d");
	ck_assert_str_eq(list(ROOT, 1, &off), "./ ");
	ck_assert_str_eq(list(ROOT, 3, &off), "../ a b/ ");
	ck_assert_int_eq(fx_unlink(ROOT, "a"), 0);
	ck_assert_int_eq(fx_unlink(ROOT, "c"), 0);
	fx_file(ROOT, "e");
	ck_assert_str_eq(list(ROOT, 9, &off), "d e ");
	ck_assert_str_eq(list(ROOT, 9, &off), "");
	off = 0;
	ck_assert_str_eq(list(ROOT, 9, &off), "./ ../ b/ d e ");
}
END_TEST

START_TEST(a_directory_lists_its_own_names_only)
{
	uint64_t dir = fx_dir(ROOT, "d"), off = 0;

	fx_file(fx_dir(ROOT, "e"), "other");
	fx_file(dir, "x");
	ck_assert_str_eq(list(dir, 9, &off), "./ ../ x ");
}
END_TEST

START_TEST(a_removed_directory_lists_nothing)
{
	uint64_t dir = fx_dir(ROOT, "d"), off = 0;
	struct store_file *open = fx_open_file(dir, FILE_DIRECTORY);

	ck_assert_int_eq(tree_remove(T, ROOT, "d", true), 0);
	ck_assert_str_eq(list(dir, 9, &off), "");
	file_close(open);
	ck_assert_int_eq(tree_readdir(T, dir, 0, list_name, NULL), -ESTALE);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, setup, fx_teardown);
}

int main(void)
{
	Suite *suite = suite_create("tree");
	TCase *tc = new_case(suite, "making");

	tcase_add_test(tc, a_new_inode_is_what_was_asked_for);
	tcase_add_test(tc, impossible_names_are_refused);
	tcase_add_test(tc, a_name_that_is_taken_stays_as_it_was);
	tcase_add_test(tc, names_are_made_in_directories_that_are_there_only);
	tcase_add_test(tc, a_setgid_directory_hands_its_group_down);
	tcase_add_test(tc, dot_and_dot_dot_are_found);
	tcase_add_test(tc, a_symlink_keeps_its_target);
	tcase_add_test(tc, a_target_with_wrong_bytes_is_damaged);

	tc = new_case(suite, "links");
	tcase_add_test(tc, a_second_name_leads_to_the_same_file);
	tcase_add_test(tc, a_file_with_two_names_is_evicted_with_nothing);
	tcase_add_test(tc,
		       a_file_that_has_one_name_again_is_evicted_with_its_unit);
	tcase_add_test(tc, whichever_name_is_left_has_its_entry);
	tcase_add_test(tc, a_pair_is_whole_again_when_a_link_to_its_body_goes);
	tcase_add_test(tc, links_that_cannot_be_are_refused);

	tc = new_case(suite, "removal");
	tcase_add_test(tc, unlink_and_rmdir_take_what_is_theirs);
	tcase_add_test(tc, removal_needs_no_room);
	tcase_add_test(tc, a_frozen_index_can_be_read_only);

	tc = new_case(suite, "attributes");
	tcase_add_test(tc, setattr_changes_what_is_named_and_ctime);

	tc = new_case(suite, "listing");
	tcase_add_test(tc, offsets_stay_good_while_names_come_and_go);
	tcase_add_test(tc, a_directory_lists_its_own_names_only);
	tcase_add_test(tc, a_removed_directory_lists_nothing);
	return kit_run_suite(suite);
}
