/* SPDX-License-Identifier: MIT */
#include "fs/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/log.h"
#include "store/base.h"

#define MSEC_PER_SEC INT64_C(1000)
#define BACKLOG 64

struct server {
	struct control *control;
	pthread_t thread;
	int connection; /* being served, or -1; under control->lock */
};

struct control {
	control_answer_fn answer;
	void *arg;
	int dir;      /* owned, the store's directory */
	int listener; /* owned; never waits in accept4() */
	int ending;   /* owned eventfd: readable when the servers are to end */
	atomic_bool stop;
	pthread_mutex_t lock;
	struct server server[CONTROL_THREADS];
	unsigned n; /* servers that were started */
};

/* ---- the address ---- */

/*
 * A path may be longer than sun_path: go through the open directory. Its
 * descriptor must stay open for as long as the address is used.
 */
static void set_address(int dir, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof(ret->sun_path),
		 "/proc/self/fd/%d/" CONTROL_SOCKET, dir);
}

/* The address of what @socket, a descriptor with O_PATH, is open on. */
static void set_open_address(int socket, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d",
		 socket);
}

static int open_dir(const char *dir)
{
	int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* ---- bytes, up to a deadline ---- */

/* Wait until @fd is ready for @events: 0, -ETIMEDOUT or another error. */
static int wait_ready(int fd, short events, int64_t deadline_msec)
{
	struct pollfd p = { .fd = fd, .events = events };

	for (;;) {
		int64_t left = deadline_msec - base_now_ms();
		int n = left > 0 ? poll(&p, 1, (int)left) : 0;

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int send_all(int fd, const char *text, int64_t deadline_msec)
{
	size_t left = strlen(text);
	ssize_t n;
	int r;

	while (left > 0) {
		r = wait_ready(fd, POLLOUT, deadline_msec);
		if (r < 0)
			return r;
		n = send(fd, text, left, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			left -= (size_t)n;
		}
	}
	return 0;
}

/* Read up to the end, at most @max bytes (else -EMSGSIZE). */
static int receive_all(int fd, size_t max, int64_t deadline_msec,
		       char **ret_text, size_t *ret_len)
{
	cleanup_free char *text = malloc(max + 1);
	size_t len = 0;
	ssize_t n;
	int r;

	if (!text)
		return -ENOMEM;
	for (;;) {
		r = wait_ready(fd, POLLIN, deadline_msec);
		if (r < 0)
			return r;
		n = recv(fd, text + len, max + 1 - len, MSG_DONTWAIT);
		if (n == 0)
			break;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (n > 0)
			len += (size_t)n;
		if (len > max)
			return -EMSGSIZE;
	}
	*ret_text = steal_ptr(text);
	*ret_len = len;
	return 0;
}

static int send_json(int fd, const json_t *object, int64_t deadline_msec)
{
	cleanup_free char *text = json_dumps(object, JSON_COMPACT);
	int r;

	if (!text)
		return -ENOMEM;
	r = send_all(fd, text, deadline_msec);
	if (r < 0)
		return r;
	return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

/* -EPROTO if what came is no JSON object. */
static int receive_json(int fd, size_t max, int64_t deadline_msec, json_t **ret)
{
	cleanup_free char *text = NULL;
	size_t len = 0;
	json_t *object;
	int r;

	r = receive_all(fd, max, deadline_msec, &text, &len);
	if (r < 0)
		return r;
	object = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(object)) {
		json_decref(object);
		return -EPROTO;
	}
	*ret = object;
	return 0;
}

/* ---- server ---- */

static json_t *answer_or_refuse(struct control *c, int r, const json_t *request)
{
	const char *error = "the request is not a JSON object";

	if (r == 0)
		return c->answer(c->arg, request);
	if (r == -ETIMEDOUT)
		error = "the request did not arrive in time";
	else if (r == -EMSGSIZE)
		error = "the request is too large";
	return json_pack("{s:b, s:s}", "ok", 0, "error", error);
}

static void serve_connection(struct control *c, int fd)
{
	json_t *request = NULL, *reply;
	int r;

	r = receive_json(fd, CONTROL_REQUEST_MAX,
			 base_now_ms() + CONTROL_IO_SEC * MSEC_PER_SEC,
			 &request);
	reply = answer_or_refuse(c, r, request);
	r = -ENOMEM;
	if (reply)
		r = send_json(fd, reply,
			      base_now_ms() + CONTROL_IO_SEC * MSEC_PER_SEC);
	/* A client that went away is no news. */
	if (r < 0 && r != -EPIPE && r != -ECONNRESET && r != -ENOTCONN)
		log_write(LOG_WARNING,
			  "a command got no answer on " CONTROL_SOCKET ": %s",
			  strerror(-r));
	json_decref(request);
	json_decref(reply);
}

/* Note which connection is served, so that control_stop() can break it off. */
static void set_connection(struct server *s, int fd)
{
	LOCK_SCOPE(&s->control->lock);

	s->connection = fd;
	if (fd >= 0 && atomic_load(&s->control->stop))
		shutdown(fd, SHUT_RD);
}

static void *server_main(void *arg)
{
	struct server *s = arg;
	struct control *c = s->control;
	struct timespec pause = { .tv_nsec = 100000000 };

	while (!atomic_load(&c->stop)) {
		struct pollfd p[] = { { .fd = c->listener, .events = POLLIN },
				      { .fd = c->ending, .events = POLLIN } };
		int fd;

		if (poll(p, ARRAY_SIZE(p), -1) < 0 || !p[0].revents)
			continue;
		fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0) {
			/* Out of descriptors or memory: that may pass. */
			if (errno != EINTR && errno != EAGAIN)
				nanosleep(&pause, NULL);
			continue;
		}
		set_connection(s, fd);
		serve_connection(c, fd);
		set_connection(s, -1);
		close(fd);
	}
	return NULL;
}

/* The mode that the socket has when it is bound becomes that of its name. */
static int listen_in(int dir)
{
	cleanup_close int fd =
		socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un address;

	if (fd < 0)
		return -errno;
	set_address(dir, &address);
	if (unlinkat(dir, CONTROL_SOCKET, 0) < 0 && errno != ENOENT)
		return -errno;
	if (fchmod(fd, S_IRUSR | S_IWUSR) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, BACKLOG) < 0)
		return -errno;
	return steal_fd(&fd);
}

static int start_servers(struct control *c)
{
	int r;

	for (; c->n < CONTROL_THREADS; c->n++) {
		c->server[c->n] =
			(struct server){ .control = c, .connection = -1 };
		r = pthread_create(&c->server[c->n].thread, NULL, server_main,
				   &c->server[c->n]);
		if (r)
			return -r;
	}
	return 0;
}

/* What was listening is of use as long as its name is there. */
static int take_listener(struct control *c, int listener)
{
	struct stat st;

	if (listener >= 0 &&
	    fstatat(c->dir, CONTROL_SOCKET, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISSOCK(st.st_mode))
		c->listener = fcntl(listener, F_DUPFD_CLOEXEC, 0);
	if (c->listener < 0)
		c->listener = listen_in(c->dir);
	return c->listener < 0 ? c->listener : 0;
}

int control_start(const char *dir, int listener, control_answer_fn answer,
		  void *arg, struct control **ret)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->answer = answer;
	c->arg = arg;
	c->listener = -1;
	pthread_mutex_init(&c->lock, NULL);
	c->dir = open_dir(dir);
	c->ending = eventfd(0, EFD_CLOEXEC);
	r = c->dir >= 0 && c->ending < 0 ? -errno : c->dir;
	if (r >= 0)
		r = take_listener(c, listener);
	if (r >= 0)
		r = start_servers(c);
	if (r < 0) {
		if (listener < 0)
			control_stop(c);
		else
			control_leave(c);
		return r;
	}
	*ret = c;
	return 0;
}

int control_listener(const struct control *c)
{
	return c->listener;
}

static void break_off_locked(struct control *c)
{
	for (unsigned i = 0; i < c->n; i++)
		if (c->server[i].connection >= 0)
			shutdown(c->server[i].connection, SHUT_RD);
}

void control_leave(struct control *c)
{
	if (!c)
		return;
	atomic_store(&c->stop, true);
	if (c->ending >= 0)
		(void)eventfd_write(c->ending, 1);
	pthread_mutex_lock(&c->lock);
	break_off_locked(c);
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < c->n; i++)
		pthread_join(c->server[i].thread, NULL);
	base_closep(&c->listener);
	base_closep(&c->ending);
	base_closep(&c->dir);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void control_stop(struct control *c)
{
	if (!c)
		return;
	unlinkat(c->dir, CONTROL_SOCKET, 0);
	/* Also for those who still have it open. */
	shutdown(c->listener, SHUT_RDWR);
	control_leave(c);
}

/* ---- client ---- */

/* The socket itself, not where a link leads that somebody put in its place. */
static int open_socket(int dir)
{
	cleanup_close int fd =
		openat(dir, CONTROL_SOCKET, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	return S_ISSOCK(st.st_mode) ? steal_fd(&fd) : -ECONNREFUSED;
}

/* Is who listens the superuser, the owner of the store, or who asks? */
static int check_peer(int fd, int dir)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);
	struct stat st;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 ||
	    fstat(dir, &st) < 0)
		return -errno;
	if (peer.uid == 0 || peer.uid == st.st_uid || peer.uid == geteuid())
		return 0;
	return -EKEYREJECTED;
}

static int connect_to(int dir, int timeout_sec)
{
	struct timeval timeout = { .tv_sec = timeout_sec };
	cleanup_close int listener = open_socket(dir);
	cleanup_close int fd = -1;
	struct sockaddr_un address;
	int r;

	if (listener < 0)
		return listener;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Bounds connect(2), which waits while the daemon accepts nobody. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	set_open_address(listener, &address);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	r = check_peer(fd, dir);
	return r < 0 ? r : steal_fd(&fd);
}

int control_ask(const char *dir, const json_t *request, int timeout_sec,
		json_t **ret)
{
	int64_t deadline = base_now_ms() + timeout_sec * MSEC_PER_SEC;
	cleanup_close int dir_fd = open_dir(dir);
	cleanup_close int fd = -1;
	int r;

	if (dir_fd < 0)
		return dir_fd;
	fd = connect_to(dir_fd, timeout_sec);
	if (fd < 0)
		return fd;
	r = send_json(fd, request, deadline);
	if (r < 0)
		return r;
	return receive_json(fd, CONTROL_REPLY_MAX, deadline, ret);
}
