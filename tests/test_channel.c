/* SPDX-License-Identifier: MIT */
#include "fs/channel.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <check.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "store/base.h"

#define UNIQUE 7

/* A socket stands for the device: the kernel's end of it is ours. */
static int kernel;
static struct fuse_session *fuse;
static struct ops ops;

struct request {
	struct fuse_in_header header;
	struct fuse_init_in init;
};

struct answer {
	struct fuse_out_header header;
	struct fuse_init_out init;
};

static void set_up(void)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	kernel = pair[0];
	ck_assert_int_eq(channel_open(pair[1], &ops, &fuse), 0);
}

static void tear_down(void)
{
	fuse_session_destroy(fuse);
	close(kernel);
}

static struct request offer(uint64_t flags)
{
	return (struct request){
		.header = { .len = sizeof(struct request),
			    .opcode = FUSE_INIT,
			    .unique = UNIQUE },
		.init = { .major = FUSE_KERNEL_VERSION,
			  .minor = FUSE_KERNEL_MINOR_VERSION,
			  .max_readahead = 128 * KIB,
			  .flags = (uint32_t)flags | FUSE_MAX_PAGES |
				   FUSE_ATOMIC_O_TRUNC,
			  .flags2 = (uint32_t)(flags >> 32) },
	};
}

/* What the kernel gets for @q: its one answer. */
static struct answer answer_to(struct request *q, int expected)
{
	struct answer a = { .header = { .len = 0 } };
	ssize_t n;

	ck_assert_int_eq(channel_agree(fuse, q, sizeof(*q)), expected);
	n = recv(kernel, &a, sizeof(a), MSG_DONTWAIT);
	ck_assert_int_eq(n, a.header.len);
	ck_assert_uint_eq(a.header.unique, UNIQUE);
	ck_assert_int_eq(recv(kernel, &a, 0, MSG_DONTWAIT), -1);
	return a;
}

static uint64_t accepted(uint64_t flags)
{
	struct request q = offer(flags);
	struct answer a = answer_to(&q, 0);

	ck_assert_int_eq(a.header.error, 0);
	ck_assert_uint_eq(a.init.major, FUSE_KERNEL_VERSION);
	ck_assert_uint_eq(a.init.flags & FUSE_ATOMIC_O_TRUNC,
			  FUSE_ATOMIC_O_TRUNC);
	return (uint64_t)a.init.flags2 << 32 | a.init.flags;
}

START_TEST(ids_may_be_mapped_where_that_is_offered)
{
	uint64_t got = accepted(FUSE_INIT_EXT | CHANNEL_ALLOW_IDMAP);

	ck_assert(got & FUSE_INIT_EXT);
	ck_assert_uint_eq(got >> 32, CHANNEL_ALLOW_IDMAP >> 32);
}
END_TEST

START_TEST(nothing_is_accepted_that_is_not_offered)
{
	ck_assert_uint_eq(accepted(FUSE_INIT_EXT) >> 32, 0);
}
END_TEST

START_TEST(a_second_word_of_flags_counts_only_if_announced)
{
	ck_assert_uint_eq(accepted(CHANNEL_ALLOW_IDMAP) >> 32, 0);
}
END_TEST

START_TEST(a_refusal_reaches_the_kernel)
{
	struct request q = offer(0);
	struct answer a;

	q.init.major = 6;
	a = answer_to(&q, 0);
	ck_assert_int_eq(a.header.error, -EPROTO);
	ck_assert_uint_eq(a.header.len, sizeof(a.header));
}
END_TEST

START_TEST(the_connection_is_the_session_s_own_again)
{
	char byte = 0;

	accepted(0);
	ck_assert_int_eq(write(fuse_session_fd(fuse), &byte, 1), 1);
	ck_assert_int_eq(recv(kernel, &byte, 1, MSG_DONTWAIT), 1);
}
END_TEST

START_TEST(a_broken_connection_is_told)
{
	struct request q = offer(0);

	signal(SIGPIPE, SIG_IGN);
	close(kernel);
	ck_assert_int_eq(channel_agree(fuse, &q, sizeof(q)), -EPIPE);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("channel");
	TCase *tc = tcase_create("channel");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, ids_may_be_mapped_where_that_is_offered);
	tcase_add_test(tc, nothing_is_accepted_that_is_not_offered);
	tcase_add_test(tc, a_second_word_of_flags_counts_only_if_announced);
	tcase_add_test(tc, a_refusal_reaches_the_kernel);
	tcase_add_test(tc, the_connection_is_the_session_s_own_again);
	tcase_add_test(tc, a_broken_connection_is_told);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
