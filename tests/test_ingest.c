/* SPDX-License-Identifier: MIT */
#include "store/ingest.h"

#include "fixture.h"

#define ROOT RECORD_ROOT_INO
#define LARGE 100000 /* bytes: a pack of its own */

static uint64_t ino;

static void setup(void)
{
	fx_setup();
	ino = fx_put(ROOT, "f", LARGE, 1);
}

static struct ingest *start(void)
{
	struct ingest *in = NULL;

	ck_assert_int_eq(ingest_start(&fx.files, &in), 0);
	return in;
}

/* Have @which ingested, and wait for it. */
static void ingest(uint64_t which)
{
	struct ingest *in = start();

	ingest_add(in, which, LARGE);
	ingest_stop(in);
}

static bool is_summed(uint64_t which)
{
	return fx_inode(which).flags & INODE_SUMMED;
}

START_TEST(a_closed_file_gets_the_sum_of_its_bytes)
{
	struct scratch pack = fx_pack_path(ino);

	ck_assert(!is_summed(ino));
	ingest(ino);
	ck_assert(is_summed(ino));
	ck_assert(file_verified(&fx.files, ino));
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert_uint_eq(fx.tree.hits, 0);
	fx_reopen();
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
	fx_reopen();
	ck_assert_int_eq(truncate(pack.path, LARGE - 1), 0);
	ck_assert_int_eq(truncate(pack.path, LARGE), 0);
	ck_assert_int_eq(fx_try_open(ino, 0), -ENOENT);
}
END_TEST

START_TEST(many_files_are_summed_before_the_thread_ends)
{
	uint64_t inos[300];
	struct ingest *in = start();
	char name[16];

	for (size_t i = 0; i < ARRAY_SIZE(inos); i++) {
		(void)snprintf(name, sizeof(name), "f%zu", i);
		inos[i] = fx_put(ROOT, name, 3000, (unsigned)i);
		ingest_add(in, inos[i], LARGE);
	}
	ck_assert_uint_le(ingest_pending(in), ARRAY_SIZE(inos));
	ingest_stop(in);
	for (size_t i = 0; i < ARRAY_SIZE(inos); i++)
		ck_assert(is_summed(inos[i]));
}
END_TEST

static int64_t paced_ns(struct ingest *in)
{
	struct timespec begin = base_deadline(0), end;

	ingest_pace(in);
	end = base_deadline(0);
	return (end.tv_sec - begin.tv_sec) * NSEC_PER_SEC + end.tv_nsec -
	       begin.tv_nsec;
}

/* The thread is held up at the first file; only a lower bound is asserted. */
START_TEST(a_writer_pauses_while_much_waits)
{
	const int64_t pause_ns = INGEST_PAUSE_MS * INT64_C(1000000);
	uint64_t other = fx_put(ROOT, "g", LARGE, 2);
	struct ingest *in = start();
	struct node *nd = NULL;

	ck_assert_int_eq(node_get(fx.nodes, ino, &nd), 0);
	pthread_rwlock_wrlock(&nd->lock);
	ingest_add(in, ino, 0);
	ingest_add(in, other, INGEST_BACKLOG_BYTES + 1);
	ck_assert_int_ge(paced_ns(in), pause_ns);
	pthread_rwlock_unlock(&nd->lock);
	edit_put_node(T, nd);
	ingest_stop(in);
	ck_assert(is_summed(ino) && is_summed(other));
}
END_TEST

START_TEST(a_thread_without_work_ends)
{
	struct ingest *in = start();

	ck_assert_uint_eq(ingest_pending(in), 0);
	ingest_stop(in);
	ingest_stop(NULL);
}
END_TEST

START_TEST(what_has_no_bytes_of_its_own_is_left_alone)
{
	uint64_t small = fx_put(ROOT, "g", 100, 1);

	ingest(small);
	ingest(fx_file(ROOT, "empty"));
	ingest(fx_dir(ROOT, "d"));
	ingest(4711);
	ck_assert_uint_eq(fx.reports, 0);
	ck_assert_int_eq(fx_holds(small, 100, 1), 0);
}
END_TEST

START_TEST(a_file_that_was_unlinked_is_left_alone)
{
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
	ingest(ino);
	fx_check_bytes(f, LARGE, 1);
	file_close(f);
	ck_assert(fx_gone(ino));
	ingest(ino);
	ck_assert_uint_eq(fx.reports, 0);
}
END_TEST

START_TEST(a_file_that_is_written_again_waits_for_its_next_close)
{
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fx_write(f, LARGE, 2), 0);
	ingest(ino);
	ck_assert(!is_summed(ino));
	file_close(f);
	ck_assert_uint_eq(fx.last_closed, ino);
	ingest(ino);
	ck_assert(is_summed(ino));
	fx_reopen();
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

/* -- In the middle of it -------------------------------------------------- */

static void (*meanwhile)(void); /* once, before the first read */

static ssize_t pread_and_more(int fd, void *buf, size_t len, off_t off)
{
	void (*now)(void) = meanwhile;

	meanwhile = NULL;
	if (now)
		now();
	return pread(fd, buf, len, off);
}

static void ingest_while(void (*fn)(void))
{
	meanwhile = fn;
	fx.io.pread = pread_and_more;
	ingest(ino);
	ck_assert_ptr_null(meanwhile);
}

static void write_again(void)
{
	fx_rewrite(ino, LARGE, 2);
}

static void write_to_a_copy(void)
{
	fx_checkpoint();
	fx_rewrite(ino, LARGE, 2);
}

static void unlink_it(void)
{
	ck_assert_int_eq(fx_unlink(ROOT, "f"), 0);
}

static void make_it_small(void)
{
	ck_assert_int_eq(file_truncate(&fx.files, ino, 10), 0);
}

/* As who copies a file with its times does when it is closed. */
static void set_its_times(void)
{
	const struct inode old = { .mtime_ns = 12345 };
	struct inode in;

	ck_assert_int_eq(
		file_setattr(&fx.files, ino, &old, TREE_SET_MTIME, &in), 0);
}

START_TEST(a_file_whose_times_are_set_while_it_is_read_gets_its_sum)
{
	ingest_while(set_its_times);
	ck_assert(is_summed(ino));
	ck_assert_int_eq(fx_inode(ino).mtime_ns, 12345);
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

START_TEST(a_file_written_while_it_is_read_gets_no_sum_of_mixed_bytes)
{
	ingest_while(write_again);
	ck_assert(!is_summed(ino));
	ck_assert(!file_verified(&fx.files, ino));
	ck_assert_uint_eq(fx.closed, 2);
	ingest(ino);
	ck_assert(is_summed(ino));
	fx_reopen();
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

START_TEST(a_copy_written_while_the_old_bytes_are_read_gets_no_sum)
{
	ingest_while(write_to_a_copy);
	ck_assert(!is_summed(ino));
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

START_TEST(a_file_that_becomes_small_while_it_is_read_is_no_error)
{
	ingest_while(make_it_small);
	ck_assert_int_eq(fx_inode(ino).data, INODE_DATA_INLINE);
	ck_assert_int_eq(fx_holds(ino, 10, 1), 0);
	ck_assert_uint_eq(fx.reports, 0);
}
END_TEST

START_TEST(a_file_unlinked_while_it_is_read_goes_afterwards)
{
	ingest_while(unlink_it);
	ck_assert(fx_gone(ino));
	ck_assert_uint_eq(fx.reports, 0);
}
END_TEST

/* -- Errors --------------------------------------------------------------- */

START_TEST(bytes_that_cannot_be_read_are_told_of)
{
	fx.io.pread = fx_failing_pread;
	ingest(ino);
	fx.io.pread = pread;
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert_msg(strstr(fx.report, "checksum of inode") != NULL, "%s",
		      fx.report);
	ck_assert(!is_summed(ino));
	ck_assert_int_eq(fx_holds(ino, LARGE, 1), 0);
}
END_TEST

START_TEST(a_pack_cut_short_meanwhile_is_told_of)
{
	struct store_file *f = fx_open_file(ino, 0);

	ck_assert_int_eq(truncate(fx_pack_path(ino).path, LARGE / 2), 0);
	ingest(ino);
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert(!is_summed(ino));
	file_close(f);
	ck_assert_int_eq(fx_try_open(ino, 0), -ENOENT);
}
END_TEST

START_TEST(a_frozen_index_is_no_news)
{
	index_freeze(fx.kit.ix);
	ingest(ino);
	ck_assert_uint_eq(fx.reports, 0);
	ck_assert(!is_summed(ino));
}
END_TEST

START_TEST(without_room_the_file_stays_without_a_sum)
{
	fx_fill_room(1000);
	ingest(ino);
	ck_assert_uint_eq(fx.reports, 1);
	ck_assert(!is_summed(ino));
}
END_TEST

/* -- Closes that could not be committed ----------------------------------- */

static atomic_bool refuse;

static int refusing_ftruncate(int fd, off_t size)
{
	if (!refuse)
		return ftruncate(fd, size);
	errno = EIO;
	return -1;
}

/* Write to the file, whose close then fails, and fails again in @in. */
static void close_in_vain(struct ingest *in)
{
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	fx.io.ftruncate = refusing_ftruncate;
	ck_assert_int_eq(fx_write(f, LARGE, 2), 0);
	refuse = true;
	file_close(f);
	ck_assert_uint_eq(fx.last_closed, ino);
	ingest_add(in, ino, LARGE);
	while (ingest_pending(in))
		usleep(1000);
	ck_assert_uint_eq(nodes_count(fx.nodes), 1);
	refuse = false;
}

START_TEST(a_close_that_failed_twice_is_made_up_for)
{
	struct ingest *in = start();

	close_in_vain(in);
	for (unsigned ms = 0; ms < 20000 && nodes_count(fx.nodes); ms++)
		usleep(1000);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert(!(fx_inode(ino).flags & INODE_WRITERS));
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
	ck_assert_uint_eq(fx.reports, 1);
	ingest_stop(in);
}
END_TEST

START_TEST(closes_that_failed_are_tried_once_more_at_the_end)
{
	struct ingest *in = start();

	close_in_vain(in);
	ingest_stop(in);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
	ck_assert_int_eq(fx_holds(ino, LARGE, 2), 0);
}
END_TEST

START_TEST(a_close_that_fails_for_ever_does_not_keep_the_thread)
{
	struct ingest *in = start();

	close_in_vain(in);
	refuse = true;
	ingest_stop(in);
	ck_assert_uint_eq(nodes_count(fx.nodes), 1);
	ck_assert_uint_eq(fx.reports, 1);
	refuse = false;
	ingest(ino);
	ck_assert_uint_eq(nodes_count(fx.nodes), 0);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	return kit_case(suite, name, setup, fx_teardown);
}

int main(void)
{
	Suite *suite = suite_create("ingest");
	TCase *tc = new_case(suite, "sums");

	tcase_add_test(tc, a_closed_file_gets_the_sum_of_its_bytes);
	tcase_add_test(tc, many_files_are_summed_before_the_thread_ends);
	tcase_add_test(tc, a_writer_pauses_while_much_waits);
	tcase_add_test(tc, a_thread_without_work_ends);
	tcase_add_test(tc, what_has_no_bytes_of_its_own_is_left_alone);
	tcase_add_test(tc, a_file_that_was_unlinked_is_left_alone);
	tcase_add_test(tc,
		       a_file_that_is_written_again_waits_for_its_next_close);

	tc = new_case(suite, "meanwhile");
	tcase_add_test(
		tc, a_file_whose_times_are_set_while_it_is_read_gets_its_sum);
	tcase_add_test(
		tc, a_file_written_while_it_is_read_gets_no_sum_of_mixed_bytes);
	tcase_add_test(tc,
		       a_copy_written_while_the_old_bytes_are_read_gets_no_sum);
	tcase_add_test(tc,
		       a_file_that_becomes_small_while_it_is_read_is_no_error);
	tcase_add_test(tc, a_file_unlinked_while_it_is_read_goes_afterwards);

	tc = new_case(suite, "errors");
	tcase_add_test(tc, bytes_that_cannot_be_read_are_told_of);
	tcase_add_test(tc, a_pack_cut_short_meanwhile_is_told_of);
	tcase_add_test(tc, a_frozen_index_is_no_news);
	tcase_add_test(tc, without_room_the_file_stays_without_a_sum);

	tc = new_case(suite, "closes");
	tcase_add_test(tc, a_close_that_failed_twice_is_made_up_for);
	tcase_add_test(tc, closes_that_failed_are_tried_once_more_at_the_end);
	tcase_add_test(tc,
		       a_close_that_fails_for_ever_does_not_keep_the_thread);
	return kit_run_suite(suite);
}
