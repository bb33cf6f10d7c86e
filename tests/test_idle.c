/* SPDX-License-Identifier: MIT */
#include "store/idle.h"

#include <check.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "storekit.h"

struct worker {
	sem_t idle;
	int at_the_end, once_more;
};

static int policy_now(void)
{
	return sched_getscheduler(0);
}

static int policy_of(pthread_t thread)
{
	struct sched_param param;
	int policy = -1;

	ck_assert_int_eq(pthread_getschedparam(thread, &policy, &param), 0);
	return policy;
}

/* Works until somebody waits for it, as its policy tells. */
static void *worker_run(void *arg)
{
	struct worker *w = arg;

	idle_enter();
	sem_post(&w->idle);
	while (policy_now() == SCHED_IDLE)
		sched_yield();
	w->at_the_end = policy_now();
	idle_leave();
	idle_enter();
	w->once_more = policy_now();
	return NULL;
}

START_TEST(a_thread_is_idle_between_enter_and_leave)
{
	idle_enter();
	ck_assert_int_eq(policy_now(), geteuid() ? SCHED_OTHER : SCHED_IDLE);
	idle_leave();
	ck_assert_int_eq(policy_now(), SCHED_OTHER);
}
END_TEST

/* As in a service that may not raise its priority. */
START_TEST(who_could_not_return_is_never_idle)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
	const struct rlimit no_nice = { 0, 0 };

	if (geteuid())
		return;
	ck_assert_int_eq(setrlimit(RLIMIT_NICE, &no_nice), 0);
	ck_assert_int_eq(syscall(SYS_capset, &head, none), 0);
	idle_enter();
	ck_assert_int_eq(policy_now(), SCHED_OTHER);
	idle_leave();
}
END_TEST

START_TEST(who_is_waited_for_is_not_idle)
{
	struct worker w = { .at_the_end = -1 };
	pthread_t thread;

	if (geteuid())
		return; /* then nobody is idle */
	ck_assert_int_eq(sem_init(&w.idle, 0, 0), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, worker_run, &w), 0);
	while (sem_wait(&w.idle))
		;
	ck_assert_int_eq(policy_of(thread), SCHED_IDLE);
	idle_join(thread);
	ck_assert_int_eq(w.at_the_end, SCHED_OTHER);
	ck_assert_int_eq(w.once_more, SCHED_OTHER);
	idle_enter();
	ck_assert_int_eq(policy_now(), SCHED_IDLE);
	idle_leave();
	sem_destroy(&w.idle);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("idle");
	TCase *tc = kit_case(suite, "idle", NULL, NULL);

	tcase_add_test(tc, a_thread_is_idle_between_enter_and_leave);
	tcase_add_test(tc, who_could_not_return_is_never_idle);
	tcase_add_test(tc, who_is_waited_for_is_not_idle);
	return kit_run_suite(suite);
}
