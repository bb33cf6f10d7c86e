/* SPDX-License-Identifier: MIT */
/* Read sections: who is waited for, who is not, and many at once. */
#include "store/section.h"

#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "storekit.h"

#define LONG_ENOUGH_US 30000 /* for a thread that does not wait to end */
#define READERS 4
#define QUIESCERS 2
#define SLOTS 16
#define ROUNDS (SLOW_BUILD ? 300 : 2000)

static struct section *s;
static atomic_bool quiesced;

static void setup(void)
{
	ck_assert_int_eq(section_new(&s), 0);
	atomic_store(&quiesced, false);
}

static void teardown(void)
{
	section_free(s);
	section_free(NULL);
}

static void *quiesce_main(void *arg)
{
	(void)arg;
	section_quiesce(s);
	atomic_store(&quiesced, true);
	return NULL;
}

static pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, fn, arg), 0);
	return thread;
}

START_TEST(without_sections_quiesce_returns)
{
	for (int i = 0; i < 5; i++) {
		section_quiesce(s);
		section_leave(s, section_enter(s));
	}
}
END_TEST

START_TEST(sections_entered_before_are_waited_for)
{
	unsigned first = section_enter(s);
	unsigned second = section_enter(s);
	pthread_t thread = start(quiesce_main, NULL);

	usleep(LONG_ENOUGH_US);
	ck_assert(!atomic_load(&quiesced));
	section_leave(s, first);
	usleep(LONG_ENOUGH_US);
	ck_assert(!atomic_load(&quiesced));
	section_leave(s, second);
	pthread_join(thread, NULL);
	ck_assert(atomic_load(&quiesced));
}
END_TEST

START_TEST(sections_entered_later_are_not_waited_for)
{
	unsigned before = section_enter(s);
	pthread_t thread = start(quiesce_main, NULL);
	unsigned later;

	usleep(LONG_ENOUGH_US);
	later = section_enter(s);
	section_leave(s, before);
	pthread_join(thread, NULL);
	section_leave(s, later);
}
END_TEST

START_TEST(sections_are_waited_for_at_every_turn)
{
	for (int before = 0; before < 3; before++) {
		unsigned t;
		pthread_t thread;

		for (int i = 0; i < before; i++)
			section_quiesce(s);
		t = section_enter(s);
		atomic_store(&quiesced, false);
		thread = start(quiesce_main, NULL);
		usleep(LONG_ENOUGH_US);
		ck_assert(!atomic_load(&quiesced));
		section_leave(s, t);
		pthread_join(thread, NULL);
	}
}
END_TEST

/* -- Many at once --------------------------------------------------------- */

/* A cell is reached through @cells. Its old one is destroyed, by a plain write
 * that a sanitizer can see, after a quiesce. */
static int memory[SLOTS * QUIESCERS * 2];
static _Atomic(int *) cells[SLOTS * QUIESCERS];
static atomic_bool stop;
static atomic_uint wrong;
static atomic_uint reads;

static void *reader_main(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	unsigned n = 0;

	while (!atomic_load(&stop)) {
		unsigned t = section_enter(s);
		int *cell;

		seed = seed * 1103515245u + 12345;
		cell = atomic_load(&cells[(seed >> 16) % ARRAY_SIZE(cells)]);
		if (++n % 16 == 0)
			sched_yield();
		if (*cell != 1)
			atomic_fetch_add(&wrong, 1);
		section_leave(s, t);
	}
	atomic_fetch_add(&reads, n);
	return NULL;
}

static void *writer_main(void *arg)
{
	size_t first = (size_t)(uintptr_t)arg * SLOTS;

	for (size_t i = 0; i < ROUNDS; i++) {
		size_t n = first + i % SLOTS;
		int *old = atomic_load(&cells[n]);
		int *new = &memory[2 * n] == old ? old + 1 : old - 1;

		*new = 1;
		atomic_store(&cells[n], new);
		section_quiesce(s);
		*old = 0;
	}
	return NULL;
}

START_TEST(nothing_is_destroyed_under_a_reader)
{
	pthread_t readers[READERS];
	pthread_t writers[QUIESCERS];

	for (size_t i = 0; i < ARRAY_SIZE(cells); i++) {
		memory[2 * i] = 1;
		atomic_store(&cells[i], &memory[2 * i]);
	}
	for (uintptr_t i = 0; i < READERS; i++)
		readers[i] = start(reader_main, (void *)(i + 1));
	for (uintptr_t i = 0; i < QUIESCERS; i++)
		writers[i] = start(writer_main, (void *)i);
	for (int i = 0; i < QUIESCERS; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_gt(atomic_load(&reads), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("section");
	TCase *tc = kit_case(suite, "section", setup, teardown);

	tcase_add_test(tc, without_sections_quiesce_returns);
	tcase_add_test(tc, sections_entered_before_are_waited_for);
	tcase_add_test(tc, sections_entered_later_are_not_waited_for);
	tcase_add_test(tc, sections_are_waited_for_at_every_turn);
	tcase_add_test(tc, nothing_is_destroyed_under_a_reader);
	return kit_run_suite(suite);
}
