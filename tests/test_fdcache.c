/* SPDX-License-Identifier: MIT */
#include "store/fdcache.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

#define FILES 20
#define MOST 4

static struct scratch dir;
static struct fdcache cache;
static struct fdslot slots[FILES];
static struct scratch paths[FILES];
static atomic_uint opened;
static int refuse; /* -EMFILE while so many are open; 0: never */
static unsigned refuse_above;

static int open_path(const void *arg)
{
	int fd;

	if (refuse && cache.n > refuse_above)
		return refuse;
	fd = open(arg, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		opened++;
	return fd < 0 ? -errno : fd;
}

static int pin(unsigned i)
{
	const struct fdopener how = { open_path, paths[i].path };

	return fdslot_pin(&cache, &slots[i], &how);
}

/* The descriptor is that of file @i, whose text is one byte. */
static void is_file(int fd, unsigned i)
{
	char c = 0;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &c, 1, 0), 1);
	ck_assert_int_eq(c, 'a' + (int)i);
}

static void use(unsigned i)
{
	is_file(pin(i), i);
	fdslot_unpin(&slots[i]);
}

static bool is_open(unsigned i)
{
	return atomic_load(&slots[i].pins) != FDSLOT_SHUT;
}

static void setup(void)
{
	char name[16], c;

	dir = scratch_new();
	opened = 0;
	refuse = 0;
	for (unsigned i = 0; i < FILES; i++) {
		(void)snprintf(name, sizeof(name), "f%u", i);
		paths[i] = scratch_at(&dir, name);
		c = (char)('a' + (int)i);
		scratch_write(paths[i].path, &c, 1);
		slots[i] = (struct fdslot)FDSLOT_INIT;
	}
	fdcache_init(&cache, MOST);
}

static void teardown(void)
{
	for (unsigned i = 0; i < FILES; i++) {
		int fd = fdslot_take(&cache, &slots[i]);

		base_closep(&fd);
	}
	fdcache_release(&cache);
	scratch_remove(&dir);
}

START_TEST(no_more_than_the_limit_stay_open)
{
	for (unsigned i = 0; i < FILES; i++) {
		use(i);
		ck_assert_uint_le(cache.n, MOST);
	}
	for (unsigned i = 0; i < FILES; i++)
		use(i);
	ck_assert_uint_eq(cache.n, MOST);
}
END_TEST

START_TEST(what_is_open_is_not_opened_again)
{
	for (int round = 0; round < 5; round++)
		for (unsigned i = 0; i < MOST; i++)
			use(i);
	ck_assert_uint_eq(opened, MOST);
}
END_TEST

START_TEST(what_is_used_all_the_time_stays_open)
{
	for (unsigned i = 0; i < FILES; i++) {
		use(0);
		use(i);
	}
	/* Now and then the hand catches it; without a clock it would be each
	 * time. */
	ck_assert_uint_le(opened, FILES + MOST);
}
END_TEST

START_TEST(what_is_pinned_is_never_closed)
{
	int fds[FILES];

	for (unsigned i = 0; i < FILES; i++) {
		fds[i] = pin(i);
		ck_assert_int_ge(fds[i], 0);
	}
	ck_assert_uint_eq(cache.n, FILES); /* above the limit */
	for (unsigned i = 0; i < FILES; i++)
		is_file(fds[i], i);
	for (unsigned i = 0; i < FILES; i++)
		fdslot_unpin(&slots[i]);
	for (unsigned i = 0; i < FILES; i++)
		use(i);
	/* Nobody needs them: the next that is opened brings it down. */
	for (unsigned i = 0; i < 2; i++) {
		int fd = fdslot_take(&cache, &slots[i]);

		base_closep(&fd);
		use(i);
	}
	ck_assert_uint_le(cache.n, MOST);
}
END_TEST

START_TEST(a_filled_slot_is_open)
{
	int fd = open(paths[3].path, O_RDONLY | O_CLOEXEC);

	fdslot_fill(&cache, &slots[3], fd);
	ck_assert_int_eq(pin(3), fd);
	fdslot_unpin(&slots[3]);
	ck_assert_uint_eq(opened, 0);
	ck_assert_int_eq(fdslot_take(&cache, &slots[3]), fd);
	ck_assert_int_eq(fdslot_take(&cache, &slots[3]), -1);
	close(fd);
}
END_TEST

START_TEST(errors_of_opening_are_told_and_pin_nothing)
{
	ck_assert_int_eq(unlink(paths[2].path), 0);
	ck_assert_int_eq(pin(2), -ENOENT);
	ck_assert(!is_open(2));
	ck_assert_uint_eq(cache.n, 0);
	scratch_write(paths[2].path, "c", 1);
	use(2);
}
END_TEST

static const int no_more[] = { -EMFILE, -ENFILE };

START_TEST(without_descriptors_others_are_closed)
{
	for (unsigned i = 0; i < MOST; i++)
		use(i);
	refuse = no_more[_i];
	refuse_above = 1; /* only one may be open when another comes */
	use(MOST);
	ck_assert_uint_eq(cache.n, 2);
	refuse_above = 0; /* none */
	use(MOST + 1);
	ck_assert_uint_eq(cache.n, 1);
}
END_TEST

START_TEST(without_descriptors_pinned_ones_stay_and_it_fails)
{
	int fd = pin(0);

	refuse = no_more[_i];
	refuse_above = 0;
	ck_assert_int_eq(pin(1), no_more[_i]);
	is_file(fd, 0);
	fdslot_unpin(&slots[0]);
	use(1);
	ck_assert(!is_open(0));
}
END_TEST

START_TEST(the_default_leaves_half_of_the_descriptors)
{
	struct rlimit before, few = { .rlim_cur = 200 };
	struct fdcache c;

	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	few.rlim_max = before.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	fdcache_init(&c, 0);
	ck_assert_uint_eq(c.max, 100);
	fdcache_release(&c);
	setrlimit(RLIMIT_NOFILE, &before);
}
END_TEST

#define THREADS 4
#define ROUNDS 20000

static void *use_at_random(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int n = 0; n < ROUNDS; n++) {
		unsigned i = (unsigned)rand_r(&seed) % FILES;
		struct stat st;
		char c = 0;
		int fd = pin(i);

		if (fd < 0 || pread(fd, &c, 1, 0) != 1 || c != 'a' + (char)i ||
		    fstat(fd, &st) < 0)
			return (void *)1;
		fdslot_unpin(&slots[i]);
	}
	return NULL;
}

START_TEST(threads_get_the_file_they_asked_for)
{
	pthread_t thread[THREADS];
	void *bad;

	for (size_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, use_at_random,
						(void *)(i + 1)),
				 0);
	for (size_t i = 0; i < THREADS; i++) {
		ck_assert_int_eq(pthread_join(thread[i], &bad), 0);
		ck_assert_ptr_null(bad);
	}
	ck_assert_uint_gt(opened, FILES); /* else none was ever closed */
	ck_assert_uint_le(cache.n, MOST + THREADS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fdcache");
	TCase *tc = tcase_create("fdcache");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, no_more_than_the_limit_stay_open);
	tcase_add_test(tc, what_is_open_is_not_opened_again);
	tcase_add_test(tc, what_is_used_all_the_time_stays_open);
	tcase_add_test(tc, what_is_pinned_is_never_closed);
	tcase_add_test(tc, a_filled_slot_is_open);
	tcase_add_test(tc, errors_of_opening_are_told_and_pin_nothing);
	tcase_add_loop_test(tc, without_descriptors_others_are_closed, 0, 2);
	tcase_add_loop_test(
		tc, without_descriptors_pinned_ones_stay_and_it_fails, 0, 2);
	tcase_add_test(tc, the_default_leaves_half_of_the_descriptors);
	tcase_add_test(tc, threads_get_the_file_they_asked_for);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
