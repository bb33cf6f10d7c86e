/* SPDX-License-Identifier: MIT */
#include "fs/control.h"

#include <check.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "scratch.h"
#include "store/base.h"

static struct scratch dir;
static struct control *server;
static int answered; /* counted by the server's threads */

/* Answers {"echo": request}; nothing to {"silent": true}. */
static json_t *echo(void *arg, const json_t *request)
{
	ck_assert_ptr_eq(arg, &dir);
	__atomic_add_fetch(&answered, 1, __ATOMIC_SEQ_CST);
	if (json_is_true(json_object_get(request, "silent")))
		return NULL;
	return json_pack("{s:O}", "echo", request);
}

static void set_up(void)
{
	dir = scratch_new();
	ck_assert_int_eq(control_start(dir.path, -1, echo, &dir, &server), 0);
}

static void tear_down(void)
{
	struct scratch path = scratch_at(&dir, CONTROL_SOCKET);

	control_stop(server);
	ck_assert_int_eq(access(path.path, F_OK), -1);
	scratch_remove(&dir);
}

static void ask_and_check(const char *where)
{
	json_t *request = json_pack("{s:i}", "n", 5), *reply = NULL;
	json_t *echoed;

	ck_assert_int_eq(control_ask(where, request, 5, &reply), 0);
	echoed = json_object_get(reply, "echo");
	ck_assert_int_eq(json_equal(echoed, request), 1);
	json_decref(request);
	json_decref(reply);
}

/* A connection without our client. */
static int raw_connection(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 20 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path),
		       "%.80s/" CONTROL_SOCKET, dir.path);
	ck_assert_int_eq(
		connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* Sends @text and expects a reply whose "error" contains @error. */
static void refuses(const char *text, size_t len, const char *error)
{
	char reply[512];
	ssize_t n = 0, got;
	int fd = raw_connection();

	(void)send(fd, text, len, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while ((got = recv(fd, reply + n, sizeof(reply) - 1 - (size_t)n, 0)) >
	       0)
		n += got;
	reply[n] = '\0';
	ck_assert_msg(strstr(reply, error), "%s", reply);
	ck_assert_ptr_nonnull(strstr(reply, "\"ok\":false"));
	close(fd);
}

START_TEST(a_request_gets_its_reply)
{
	for (int i = 0; i < 50; i++)
		ask_and_check(dir.path);
}
END_TEST

START_TEST(the_socket_is_for_its_owner_only)
{
	struct scratch path = scratch_at(&dir, CONTROL_SOCKET);
	struct stat st;

	ck_assert_int_eq(lstat(path.path, &st), 0);
	ck_assert(S_ISSOCK(st.st_mode));
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
}
END_TEST

START_TEST(what_is_no_json_object_is_refused)
{
	static const char *const bad[] = {
		"", "{", "[]", "nonsense", "{\"a\":1,\"a\":2}", "\"x\"", "{}{}"
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refuses(bad[i], strlen(bad[i]), "not a JSON object");
	refuses("{\0}", 3, "not a JSON object");
	ck_assert_int_eq(answered, 0);
	ask_and_check(dir.path);
}
END_TEST

START_TEST(a_request_that_is_too_large_is_refused)
{
	static char large[CONTROL_REQUEST_MAX + 2];

	memset(large, ' ', sizeof(large));
	refuses(large, sizeof(large), "too large");
	ck_assert_int_eq(answered, 0);
	ask_and_check(dir.path);
}
END_TEST

START_TEST(deep_nesting_does_no_harm)
{
	static char deep[CONTROL_REQUEST_MAX];

	memset(deep, '[', sizeof(deep));
	refuses(deep, sizeof(deep), "not a JSON object");
	ask_and_check(dir.path);
}
END_TEST

START_TEST(clients_that_hang_do_not_keep_others_waiting_for_long)
{
	int stuck[CONTROL_THREADS];
	time_t begin = time(NULL);

	for (size_t i = 0; i < ARRAY_SIZE(stuck); i++) {
		stuck[i] = raw_connection();
		ck_assert_int_eq(send(stuck[i], "{", 1, 0), 1);
	}
	/* Each thread has one: they wait for the rest, but not for ever. */
	json_t *request = json_object(), *reply = NULL;

	ck_assert_int_eq(
		control_ask(dir.path, request, 4 * CONTROL_IO_SEC, &reply), 0);
	ck_assert_int_le(time(NULL) - begin, CONTROL_IO_SEC + 3);
	json_decref(request);
	json_decref(reply);
	for (size_t i = 0; i < ARRAY_SIZE(stuck); i++)
		close(stuck[i]);
}
END_TEST

START_TEST(stopping_does_not_wait_for_clients_that_hang)
{
	time_t begin = time(NULL);
	int fd = raw_connection();

	ck_assert_int_eq(send(fd, "{", 1, 0), 1);
	usleep(50000);
	control_stop(server);
	ck_assert_int_le(time(NULL) - begin, 2);
	close(fd);
	ck_assert_int_eq(control_start(dir.path, -1, echo, &dir, &server), 0);
}
END_TEST

/* Who called while nobody served is answered by the next one. */
START_TEST(a_listener_that_was_left_is_gone_on_with)
{
	int listener = fcntl(control_listener(server), F_DUPFD_CLOEXEC, 0);
	struct pollfd hung_up = { .events = POLLIN };
	json_t *reply = NULL;
	int early;

	ck_assert_int_ge(listener, 0);
	control_leave(server);
	early = raw_connection();
	ck_assert_int_eq(send(early, "{}", 2, 0), 2);
	ck_assert_int_eq(shutdown(early, SHUT_WR), 0);
	ck_assert_int_eq(control_start(dir.path, listener, echo, &dir, &server),
			 0);
	reply = json_loadfd(early, 0, NULL);
	ck_assert(json_is_object(reply));
	json_decref(reply);
	close(early);
	ask_and_check(dir.path);
	control_stop(server);
	server = NULL;
	/* That was the last one, whoever still holds the listener. */
	hung_up.fd = listener;
	ck_assert_int_eq(poll(&hung_up, 1, 0), 1);
	ck_assert_int_ne(hung_up.revents & POLLHUP, 0);
	close(listener);
}
END_TEST

START_TEST(a_listener_without_a_name_is_not)
{
	int listener = fcntl(control_listener(server), F_DUPFD_CLOEXEC, 0);

	ck_assert_int_ge(listener, 0);
	control_leave(server);
	ck_assert_int_eq(unlink(scratch_at(&dir, CONTROL_SOCKET).path), 0);
	ck_assert_int_eq(control_start(dir.path, listener, echo, &dir, &server),
			 0);
	close(listener);
	ask_and_check(dir.path);
}
END_TEST

START_TEST(a_client_that_leaves_does_no_harm)
{
	for (int i = 0; i < 20; i++)
		close(raw_connection());
	ask_and_check(dir.path);
}
END_TEST

START_TEST(no_answer_is_an_error)
{
	json_t *request = json_pack("{s:b}", "silent", 1), *reply = NULL;

	ck_assert_int_eq(control_ask(dir.path, request, 5, &reply), -EPROTO);
	ck_assert_ptr_null(reply);
	json_decref(request);
}
END_TEST

START_TEST(a_socket_left_over_is_replaced)
{
	struct scratch path = scratch_at(&dir, CONTROL_SOCKET);

	control_stop(server);
	scratch_write(path.path, "", 0);
	ck_assert_int_eq(control_start(dir.path, -1, echo, &dir, &server), 0);
	ask_and_check(dir.path);
}
END_TEST

START_TEST(nobody_listening_is_told_apart)
{
	struct scratch path = scratch_at(&dir, CONTROL_SOCKET);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	json_t *request = json_object(), *reply = NULL;

	control_stop(server);
	server = NULL;
	ck_assert_int_eq(control_ask(dir.path, request, 1, &reply), -ENOENT);
	ck_assert_int_eq(control_ask("/no/such/store", request, 1, &reply),
			 -ENOENT);
	/* What a killed daemon leaves behind. */
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "%.100s",
		       path.path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)),
			 0);
	close(fd);
	ck_assert_int_eq(control_ask(dir.path, request, 1, &reply),
			 -ECONNREFUSED);
	ck_assert_int_eq(unlink(path.path), 0);
	json_decref(request);
}
END_TEST

START_TEST(a_link_to_a_socket_is_not_followed)
{
	struct scratch other = scratch_new();
	struct scratch link = scratch_at(&other, CONTROL_SOCKET);
	struct scratch socket_path = scratch_at(&dir, CONTROL_SOCKET);
	json_t *request = json_object(), *reply = NULL;

	ck_assert_int_eq(symlink(socket_path.path, link.path), 0);
	ck_assert_int_eq(control_ask(other.path, request, 5, &reply),
			 -ECONNREFUSED);
	ck_assert_int_eq(answered, 0);
	json_decref(request);
	scratch_remove(&other);
}
END_TEST

/* A daemon of another user in the directory of this one's store. */
START_TEST(a_stranger_who_listens_is_not_asked)
{
	struct scratch path = scratch_at(&dir, CONTROL_SOCKET);
	json_t *request = json_object(), *reply = NULL;
	int ready[2], status;
	char c;
	pid_t pid;

	if (geteuid() != 0) /* only root can be two users */
		return;
	control_stop(server);
	server = NULL;
	ck_assert_int_eq(pipe(ready), 0);
	ck_assert_int_eq(chmod(dir.path, 0777), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct control *theirs;

		if (setgid(65534) < 0 || setuid(65534) < 0 ||
		    control_start(dir.path, -1, echo, &dir, &theirs) < 0 ||
		    write(ready[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	ck_assert_int_eq(control_ask(dir.path, request, 5, &reply),
			 -EKEYREJECTED);
	/* The same socket of the directory's owner. */
	ck_assert_int_eq(chown(dir.path, 65534, 65534), 0);
	ck_assert_int_eq(control_ask(dir.path, request, 5, &reply), 0);
	json_decref(reply);
	json_decref(request);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(chown(dir.path, 0, 0), 0);
	ck_assert_int_eq(unlink(path.path), 0);
	close(ready[0]);
}
END_TEST

START_TEST(many_connections_at_once_do_no_harm)
{
	int fds[200];
	unsigned connected = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		struct sockaddr_un address = { .sun_family = AF_UNIX };

		fds[i] = socket(AF_UNIX,
				SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		ck_assert_int_ge(fds[i], 0);
		(void)snprintf(address.sun_path, sizeof(address.sun_path),
			       "%.80s/" CONTROL_SOCKET, dir.path);
		if (connect(fds[i], (struct sockaddr *)&address,
			    sizeof(address)) == 0)
			connected += send(fds[i], "{", 1, MSG_NOSIGNAL) == 1;
	}
	ck_assert_uint_ge(connected, 64); /* those that wait, too */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	ask_and_check(dir.path);
	ck_assert_int_eq(answered, 1);
}
END_TEST

/* Asks for much and takes none of it: its thread is free again after a time,
 * and the others are all along. */
START_TEST(a_client_that_reads_nothing_does_not_hold_up_others)
{
	static char text[CONTROL_REQUEST_MAX - 64];
	char request[CONTROL_REQUEST_MAX];
	int small = 1, fd = raw_connection();

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	memset(text, 'x', sizeof(text) - 1);
	(void)snprintf(request, sizeof(request), "{\"a\":\"%s\"}", text);
	ck_assert_int_eq(send(fd, request, strlen(request), 0),
			 strlen(request));
	shutdown(fd, SHUT_WR);
	ask_and_check(dir.path);
	close(fd);
	ask_and_check(dir.path);
}
END_TEST

START_TEST(a_path_longer_than_an_address_will_do)
{
	struct scratch deep = dir;
	struct control *other;

	for (int i = 0; i < 3; i++) {
		deep = scratch_at(&deep, "0123456789012345678901234567890123456"
					 "789012345678901234567890123456789");
		ck_assert_int_eq(mkdir(deep.path, 0700), 0);
	}
	ck_assert_uint_gt(strlen(deep.path),
			  sizeof(((struct sockaddr_un *)0)->sun_path));
	ck_assert_int_eq(control_start(deep.path, -1, echo, &dir, &other), 0);
	ask_and_check(deep.path);
	control_stop(other);
}
END_TEST

START_TEST(a_directory_that_is_not_there_is_an_error)
{
	struct control *none = NULL;

	ck_assert_int_eq(control_start("/no/such/store", -1, echo, &dir, &none),
			 -ENOENT);
	ck_assert_ptr_null(none);
	control_stop(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control");
	TCase *tc = tcase_create("control");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, a_request_gets_its_reply);
	tcase_add_test(tc, the_socket_is_for_its_owner_only);
	tcase_add_test(tc, what_is_no_json_object_is_refused);
	tcase_add_test(tc, a_request_that_is_too_large_is_refused);
	tcase_add_test(tc, deep_nesting_does_no_harm);
	tcase_add_test(tc,
		       clients_that_hang_do_not_keep_others_waiting_for_long);
	tcase_add_test(tc, stopping_does_not_wait_for_clients_that_hang);
	tcase_add_test(tc, a_listener_that_was_left_is_gone_on_with);
	tcase_add_test(tc, a_listener_without_a_name_is_not);
	tcase_add_test(tc, a_client_that_leaves_does_no_harm);
	tcase_add_test(tc, no_answer_is_an_error);
	tcase_add_test(tc, a_socket_left_over_is_replaced);
	tcase_add_test(tc, nobody_listening_is_told_apart);
	tcase_add_test(tc, a_link_to_a_socket_is_not_followed);
	tcase_add_test(tc, a_stranger_who_listens_is_not_asked);
	tcase_add_test(tc, many_connections_at_once_do_no_harm);
	tcase_add_test(tc, a_client_that_reads_nothing_does_not_hold_up_others);
	tcase_add_test(tc, a_path_longer_than_an_address_will_do);
	tcase_add_test(tc, a_directory_that_is_not_there_is_an_error);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
