/* SPDX-License-Identifier: MIT */
/*
 * A daemon without descriptors or memory, or with connections that break: the
 * n-th call of its control socket fails, for every n of a row of requests, once
 * or from then on. A command may get no answer then, never a wrong one; the
 * daemon goes on, and answers when the shortage is over.
 *
 * The daemon is another process, so that only its calls fail.
 */
#include "fs/control.h"

#include <check.h>
#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "faultkit.h"
#include "fs/log.h"
#include "fs/request.h"
#include "scratch.h"
#include "store/base.h"

#define ASK_SEC 20

/* What the test wants of the daemon's process, and gets. */
static struct order {
	enum { WAIT, ARM, DISARM, END } what;
	enum fault_kind kind;
	long n;
	int error;
	bool lasting;
	long calls, hits;
	_Atomic bool given; /* by the test, until it is carried out */
} * order;

static struct scratch dir;
static pid_t daemon_pid;

/* ---- the daemon ---- */

static json_t *answer(void *arg, const json_t *request)
{
	return request_perform(arg, request);
}

static void carry_out(void)
{
	if (order->what == ARM) {
		fault_arm(order->kind, order->n, order->error, order->lasting);
	} else {
		order->hits = fault_disarm();
		order->calls = fault_calls(order->kind);
	}
}

/* Does not return. */
static void serve(void)
{
	struct request_context ctx = { .source = { .store = dir.path,
						   .mountpoint = "/mnt" } };
	const struct store_config config = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "64M", .grace_sec = -1 },
	};
	struct control *control = NULL;
	char why[256];
	int r = store_open(&config, &ctx.store, why, sizeof(why));

	if (r == 0)
		r = control_start(dir.path, -1, answer, &ctx, &control);
	order->given = false;
	while (r == 0) {
		if (!order->given) {
			(void)usleep(500);
			continue;
		}
		if (order->what == END)
			break;
		carry_out();
		order->given = false;
	}
	control_stop(control);
	if (r == 0)
		r = store_close(ctx.store);
	exit(r == 0 ? 0 : 1);
}

/* ---- the test's side ---- */

static void give(struct order what)
{
	int status;

	what.given = false;
	*order = what;
	order->given = true;
	while (order->given) {
		ck_assert_int_eq(waitpid(daemon_pid, &status, WNOHANG), 0);
		(void)usleep(500);
	}
}

static const char *const requests[] = {
	"{\"command\": \"status\"}",
	"{\"command\": \"list\", \"after\": 0}",
	"{\"command\": \"packages\", \"versions\": true}",
	"{\"command\": \"sync\"}",
	"{\"command\": \"check\", \"seconds\": 5}",
	"{\"command\": \"prune\", \"all\": true, \"dry_run\": true}",
	"{\"command\": \"limit\", \"limit\": \"32M\"}",
	"{\"command\": \"none\"}",
};

/* True if each got the answer that it should get. */
static bool ask_all(void)
{
	bool all = true;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		json_t *request = json_loads(requests[i], 0, NULL);
		json_t *reply = NULL;
		bool wanted = i + 1 < ARRAY_SIZE(requests), ok;
		int r;

		ck_assert_ptr_nonnull(request);
		r = control_ask(dir.path, request, ASK_SEC, &reply);
		ck_assert_int_ne(r, -ETIMEDOUT);
		ok = r == 0 && json_is_true(json_object_get(reply, "ok"));
		/* A refusal says why. */
		ck_assert(r < 0 || ok ||
			  json_is_string(json_object_get(reply, "error")));
		all &= r == 0 && ok == wanted;
		json_decref(reply);
		json_decref(request);
	}
	return all;
}

static void setup(void)
{
	scratch_in_memory();
	dir = scratch_new();
	order = mmap(NULL, sizeof(*order), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(order != MAP_FAILED);
	order->given = true; /* until it serves */
	daemon_pid = fork();
	ck_assert_int_ge(daemon_pid, 0);
	if (daemon_pid == 0)
		serve();
	while (order->given) {
		ck_assert_int_eq(waitpid(daemon_pid, NULL, WNOHANG), 0);
		(void)usleep(500);
	}
}

static void teardown(void)
{
	int status;

	*order = (struct order){ .what = END };
	order->given = true;
	ck_assert_int_eq(waitpid(daemon_pid, &status, 0), daemon_pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(munmap(order, sizeof(*order)), 0);
	scratch_remove(&dir);
}

/* Returns true if a call failed. */
static bool try_one(enum fault_kind kind, long n, int error, bool lasting)
{
	bool answered;

	give((struct order){ .what = ARM,
			     .kind = kind,
			     .n = n,
			     .error = error,
			     .lasting = lasting });
	answered = ask_all();
	give((struct order){ .what = DISARM, .kind = kind });
	ck_assert(answered || order->hits > 0);
	ck_assert(ask_all());
	return order->hits > 0;
}

static const struct {
	enum fault_kind kind;
	int error;
	bool lasting;
	long ci_tries; /* without PIPCACHEFS_LONG */
} injected[] = {
	{ FAULT_SOCKET, EMFILE, false, 40 },
	{ FAULT_SOCKET, ENOMEM, false, 10 },
	{ FAULT_SOCKET, ECONNRESET, false, 40 },
	{ FAULT_SOCKET, EIO, false, 10 },
	{ FAULT_MEMORY, ENOMEM, false, 120 },
	{ FAULT_MEMORY, ENOMEM, true, 10 },
};

START_TEST(any_call_may_fail)
{
	long calls, step, tries = 0, hits = 0;

	ck_assert(!try_one(injected[_i].kind, -1, 0, false));
	calls = order->calls;
	step = getenv("PIPCACHEFS_LONG") ? 1
					 : calls / injected[_i].ci_tries + 1;
	for (long n = 0; n < calls; n += step, tries++)
		hits += try_one(injected[_i].kind, n, injected[_i].error,
				injected[_i].lasting);
	printf("%s of kind %d: %ld of %ld tries hit\n",
	       strerrorname_np(injected[_i].error), (int)injected[_i].kind,
	       hits, tries);
	ck_assert_int_ge(tries, 5);
	ck_assert_int_ge(hits * 2, tries);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control faults");
	TCase *tc = tcase_create("nth call");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, getenv("PIPCACHEFS_LONG") ? 3600 : 110);
	tcase_add_loop_test(tc, any_call_may_fail, 0,
			    (int)ARRAY_SIZE(injected));
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
