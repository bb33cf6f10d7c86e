/* SPDX-License-Identifier: MIT */
/*
 * A block whose bytes are damaged: files with it are misses, it is told once,
 * and the same bytes heal what still refers to it.
 */
#include "store/damage.h"

#include <syslog.h>

#include "checkfix.h"

#define TOLD_MAX 32

static char told[TOLD_MAX][300];
static unsigned n_told;

static void note_told(void *arg, int priority, const char *text)
{
	(void)arg;
	ck_assert_int_eq(priority, LOG_ERR);
	ck_assert_uint_lt(n_told, TOLD_MAX);
	(void)snprintf(told[n_told++], sizeof(told[0]), "%s", text);
}

/* How many lines have @part in them. */
static unsigned count_told(const char *part)
{
	unsigned n = 0;

	for (unsigned i = 0; i < n_told; i++)
		n += strstr(told[i], part) != NULL;
	return n;
}

static void reopen(void)
{
	fx_reopen();
	home.packs_fd = fx.kit.packs_dir;
	fx.files.report = note_told;
}

/* Each of the wheels is evicted for itself. */
static void set_up(void)
{
	static const char *const names[] = { "p-1-py3-none-any.whl",
					     "p-1-py2-none-any.whl",
					     "p-2-py3-none-any.whl" };

	setup();
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		ck_assert_int_eq(fx_rename(made.dir, names[i], ROOT, names[i]),
				 0);
	n_told = 0;
	reopen();
}

static struct line place_of(uint64_t id)
{
	struct block_rec bl = block(id);

	return line("block %ju is damaged: its %ju bytes in packs/%s at %ju",
		    U(id), U(bl.length), packio_name(bl.pack).text,
		    U(bl.offset));
}

static void spoil(uint64_t id)
{
	struct block_rec bl = block(id);

	flip(bl.pack, bl.offset + bl.length / 2);
}

/* The file is there, or a miss and then gone. */
static void opens(uint64_t ino, bool there)
{
	if (there)
		ck_assert_int_eq(fx_try_open(ino, 0), 0);
	else if (!fx_gone(ino))
		ck_assert_int_eq(fx_try_open(ino, 0), -ENOENT);
	ck_assert(there != fx_gone(ino));
}

static void drop_rest(void)
{
	uint64_t freed;

	ck_assert_int_eq(gc_drain(fx.gc, &freed), 0);
	fx_checkpoint();
	clean();
}

START_TEST(a_file_with_it_is_a_miss_and_told_with_the_place)
{
	uint64_t id = block_of(made.small, 0);
	struct line where = place_of(id);

	spoil(id);
	opens(made.small, false);
	ck_assert_uint_eq(count_told(where.text), 1);
	ck_assert_uint_eq(count_told("dropped from the cache"), 1);
	ck_assert_uint_eq(fx.files.damaged, 1);
	opens(made.wheel, true);
	opens(made.copy, true);
	opens(made.next, true);
	ck_assert_uint_eq(n_told, 2);
	drop_rest();
}
END_TEST

/* The first one is a whole pack, which is read linearly and was verified. */
START_TEST(it_is_told_once_and_costs_all_files_with_it)
{
	uint64_t id = block_of(made.wheel, 3);
	struct line where = place_of(id);

	opens(made.wheel, true);
	opens(made.copy, true);
	spoil(id);
	opens(made.next, false);
	ck_assert_uint_eq(count_told(where.text), 1);
	ck_assert_uint_eq(block(id).pack, 0);
	opens(made.copy, false);
	opens(made.wheel, false);
	ck_assert_uint_eq(count_told("block "), 1);
	ck_assert_uint_eq(count_told("dropped from the cache"), 3);
	ck_assert_uint_eq(fx.files.damaged, 3);
	opens(made.small, true);
	drop_rest();
}
END_TEST

/* Also after the next mount, and a check tells how many are lost. */
START_TEST(it_stays_lost)
{
	uint64_t id = block_of(made.wheel, 3);

	spoil(id);
	opens(made.next, false);
	opens(made.wheel, false);
	finds(true,
	      LINE("inode %ju (p-1-py2-none-any.whl): its bytes are not all there",
		   U(made.copy)),
	      NULL);
	fx.hurt = false;
	ck_assert_uint_eq(checked.forgotten, 1);
	reopen();
	n_told = 0;
	opens(made.copy, false);
	ck_assert_uint_eq(count_told("block "), 0);
	ck_assert_uint_eq(count_told("dropped from the cache"), 1);
}
END_TEST

START_TEST(the_same_bytes_heal_it)
{
	uint64_t id = block_of(made.copy, 3), again;

	spoil(id);
	opens(made.next, false);
	/* The pack that it was in is read linearly, and damaged. */
	opens(made.wheel, false);
	ck_assert_uint_eq(block(id).pack, 0);
	again = put_wheel(ROOT, "p-1-cp3-none-any.whl", 1);
	ck_assert_uint_ne(block(id).pack, 0);
	opens(again, true);
	opens(made.copy, true);
	reopen();
	opens(again, true);
	opens(made.copy, true);
	drop_rest();
	ck_assert_uint_eq(checked.forgotten, 0);
}
END_TEST

/* Who has it open gets an error, not what is there instead. */
START_TEST(an_open_file_with_it_cannot_be_read_there)
{
	uint64_t id = block_of(made.next, 21);
	struct block_rec bl = block(id);
	struct store_file *f = fx_open_file(made.next, 0);
	const struct damage dm = { .t = T, .report = note_told };
	struct node *nd = f->nd;
	uint8_t *buf = malloc(nd->size);
	ssize_t n;

	ck_assert_ptr_nonnull(buf);
	spoil(id);
	ck_assert_int_eq(damage_block(&dm, id), 1);
	ck_assert_int_eq(damage_block(&dm, id), 0);
	fx_checkpoint(); /* the hole is punched */
	ck_assert_uint_eq(block(id).pack, 0);
	pthread_rwlock_wrlock(&nd->lock);
	n = content_read_locked(T, nd, buf, nd->size, 0);
	pthread_rwlock_unlock(&nd->lock);
	ck_assert_int_lt(n, 0);
	file_close(f);
	free(buf);
	ck_assert_uint_eq(count_told("block "), 1);
	ck_assert_uint_eq(bl.refs, 1);
	opens(made.next, false);
	drop_rest();
	ck_assert_uint_eq(checked.forgotten, 0);
}
END_TEST

START_TEST(right_bytes_are_not_lost)
{
	const struct damage dm = { .t = T, .report = note_told };

	ck_assert_int_eq(damage_recipe(&dm, fx_inode(made.copy).recipe), 0);
	ck_assert_int_eq(damage_block(&dm, 123456), 0);
	ck_assert_uint_eq(n_told, 0);
	clean();
}
END_TEST

START_TEST(a_pack_that_is_gone_loses_all_its_blocks)
{
	uint64_t id = block_of(made.small, 0);

	ck_assert_int_eq(unlink(pack_path(block(id).pack).path), 0);
	opens(made.small, false);
	ck_assert_uint_eq(count_told("are missing with their pack"), 1);
	opens(made.next, false);
	drop_rest();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("lost");
	TCase *tc = kit_case(suite, "lost", set_up, teardown);

	scratch_in_memory();
	tcase_add_test(tc, a_file_with_it_is_a_miss_and_told_with_the_place);
	tcase_add_test(tc, it_is_told_once_and_costs_all_files_with_it);
	tcase_add_test(tc, it_stays_lost);
	tcase_add_test(tc, the_same_bytes_heal_it);
	tcase_add_test(tc, an_open_file_with_it_cannot_be_read_there);
	tcase_add_test(tc, right_bytes_are_not_lost);
	tcase_add_test(tc, a_pack_that_is_gone_loses_all_its_blocks);
	return kit_run_suite(suite);
}
