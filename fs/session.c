/* SPDX-License-Identifier: MIT */
#include "fs/session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <fuse_lowlevel.h>

#include "fs/log.h"
#include "fs/reply.h"
#include "store/base.h"

/* A request is its header and at most REPLY_IO_MAX bytes. */
#define SESSION_BUF_BYTES (REPLY_IO_MAX + 4096)
/* Reads ahead that the kernel keeps under way; its default is 12. */
#define SESSION_BACKGROUND 64
/* Gets a worker out of read(2). */
#define SESSION_WAKE_SIGNAL SIGUSR1
#define SESSION_WAKE_INTERVAL_USEC 5000

struct worker {
	struct session *session;
	pthread_t thread;
	void *buf; /* owned; holds the request in work */
	atomic_bool ended;
};

struct session {
	struct fuse_session *fuse; /* owned; it owns fd */
	int fd;
	int signals;	       /* owned, a signalfd */
	int ended;	       /* owned, an eventfd: how many workers ended */
	atomic_bool stop;      /* take no more requests */
	atomic_bool broken;    /* the connection failed, it was not unmounted */
	struct worker *worker; /* owned, SESSION_WORKERS_MAX of them */
	pthread_mutex_t lock;  /* guards n and idle until stop is set */
	unsigned n;	       /* workers that were started */
	unsigned idle;	       /* of those, that have no request in work */
};

/* ---- signals ---- */

static void end_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
}

static void on_wake(int sig)
{
	(void)sig;
}

void session_block_signals(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct sigaction wake = { .sa_handler = on_wake };
	sigset_t set;

	end_signals(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL);
	/* Without SA_RESTART: read(2) is to return. */
	sigaction(SESSION_WAKE_SIGNAL, &wake, NULL);
}

/* ---- the connection ---- */

static void want(struct fuse_conn_info *conn, uint32_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	fuse_set_feature_flag(conn, flag);
#else
	conn->want |= conn->capable & flag;
#endif
}

static void want_not(struct fuse_conn_info *conn, uint32_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	fuse_unset_feature_flag(conn, flag);
#else
	conn->want &= ~flag;
#endif
}

/*
 * Besides what libfuse wants by itself (asynchronous reads, truncation within
 * open, readdirplus where it pays). No write-back cache: a write is accepted,
 * or refused for lack of room, before its caller goes on.
 */
static void session_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = REPLY_IO_MAX;
	conn->max_background = SESSION_BACKGROUND;
	conn->congestion_threshold = SESSION_BACKGROUND;
	want(conn, FUSE_CAP_SPLICE_WRITE);
	want(conn, FUSE_CAP_SPLICE_MOVE);
	want(conn, FUSE_CAP_PARALLEL_DIROPS);
	want(conn, FUSE_CAP_ATOMIC_O_TRUNC);
	want(conn, FUSE_CAP_ASYNC_READ);
	want_not(conn, FUSE_CAP_SPLICE_READ);
	want_not(conn, FUSE_CAP_WRITEBACK_CACHE);
	/* The kernel then clears setuid bits by a SETATTR of its own. */
	want_not(conn, FUSE_CAP_HANDLE_KILLPRIV);
	/* Bytes change only through this mount, whose kernel has seen it: a
	 * new mtime is no reason to throw cached pages away. */
	want_not(conn, FUSE_CAP_AUTO_INVAL_DATA);
}

static void session_log(enum fuse_log_level level, const char *format,
			va_list args) __attribute__((format(printf, 2, 0)));
static void session_log(enum fuse_log_level level, const char *format,
			va_list args)
{
	log_writev((int)level, format, args);
}

/* A libfuse session on @fd, which is its own from then on. */
static int open_fuse(int fd, struct ops *ops, struct fuse_session **ret)
{
	static char name[] = "pipcachefs";
	char *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_lowlevel_ops table = ops_table;
	struct fuse_session *fuse;
	char path[32];

	table.init = session_init;
	fuse_set_log_func(session_log);
	fuse = fuse_session_new(&args, &table, sizeof(table), ops);
	fuse_opt_free_args(&args);
	if (!fuse)
		return -EIO;
	/* The path by which libfuse takes over what is mounted already. */
	snprintf(path, sizeof(path), "/dev/fd/%d", fd);
	if (fuse_session_mount(fuse, path) != 0) {
		fuse_session_destroy(fuse);
		return -EIO;
	}
	*ret = fuse;
	return 0;
}

/* ---- workers ---- */

/*
 * Wait for a request and read it into @buf, of SESSION_BUF_BYTES.
 * Returns: its bytes; 0 nothing yet, try again; -ENODEV unmounted; ...
 */
static ssize_t take_request(const struct session *s, void *buf)
{
	ssize_t n = read(s->fd, buf, SESSION_BUF_BYTES);

	if (n > 0)
		return n;
	/* ENOENT: the request was interrupted before it could be read. */
	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
		return 0;
	return n < 0 ? -errno : -ENODEV;
}

static void process_request(struct session *s, void *buf, ssize_t n)
{
	struct fuse_buf request = { .mem = buf, .size = (size_t)n };

	fuse_session_process_buf(s->fuse, &request);
}

/*
 * The first request of a connection negotiates it. None of the others may be
 * looked at before, so there are no workers yet.
 */
static int negotiate(struct session *s)
{
	cleanup_free void *buf = malloc(SESSION_BUF_BYTES);
	ssize_t n;

	if (!buf)
		return -ENOMEM;
	do
		n = take_request(s, buf);
	while (n == 0);
	if (n < 0)
		return (int)n;
	process_request(s, buf, n);
	return fuse_session_exited(s->fuse) ? -EPROTO : 0;
}

static void add_worker(struct session *s);

/* The last idle one brings in another, or what comes next would wait for a
 * request that may take seconds. */
static void begin_work(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->idle--;
	if (s->idle == 0)
		add_worker(s);
	pthread_mutex_unlock(&s->lock);
}

static void end_work(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->idle++;
	pthread_mutex_unlock(&s->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct session *s = w->session;
	uint64_t one = 1;
	ssize_t n = 0;

	while (n >= 0 && !atomic_load(&s->stop)) {
		n = take_request(s, w->buf);
		if (n <= 0)
			continue;
		begin_work(s);
		process_request(s, w->buf, n);
		end_work(s);
	}
	if (n < 0 && n != -ENODEV && !atomic_exchange(&s->broken, true))
		log_write(LOG_ERR, "the connection to the kernel broke: %s",
			  strerror((int)-n));
	atomic_store(&w->ended, true);
	if (write(s->ended, &one, sizeof(one)) < 0)
		log_write(LOG_ERR, "waking the main thread: %s",
			  strerror(errno));
	return NULL;
}

/* With the lock held. Idle from now on, though it has yet to begin. */
static int start_worker(struct session *s)
{
	struct worker *w = &s->worker[s->n];
	int r;

	w->session = s;
	w->buf = malloc(SESSION_BUF_BYTES);
	if (!w->buf)
		return -ENOMEM;
	r = pthread_create(&w->thread, NULL, worker_main, w);
	if (r) {
		free(steal_ptr(w->buf));
		return -r;
	}
	s->n++;
	s->idle++;
	return 0;
}

/* With the lock held. Without memory or a thread for it, the others do. */
static void add_worker(struct session *s)
{
	if (s->n < SESSION_WORKERS_MAX && !atomic_load(&s->stop))
		(void)start_worker(s);
}

/* Wakes whoever sleeps in read(2), again and again: a worker may have looked
 * at @stop before it was set, and not yet be asleep. */
static void join_worker(struct worker *w)
{
	while (!atomic_load(&w->ended)) {
		pthread_kill(w->thread, SESSION_WAKE_SIGNAL);
		usleep(SESSION_WAKE_INTERVAL_USEC);
	}
	pthread_join(w->thread, NULL);
	free(w->buf);
}

static int start_workers(struct session *s, unsigned n)
{
	int r = 0;

	s->worker = calloc(SESSION_WORKERS_MAX, sizeof(*s->worker));
	if (!s->worker)
		return -ENOMEM;
	/* Those that run already may add others. */
	pthread_mutex_lock(&s->lock);
	while (s->n < n && r == 0)
		r = start_worker(s);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* No more of them from here on: s->n stays. */
static void stop_workers(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->stop, true);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->n; i++)
		join_worker(&s->worker[i]);
	free(s->worker);
}

/* ---- the session ---- */

int session_start(int fd, struct ops *ops, unsigned workers,
		  struct session **ret)
{
	cleanup_close int owned = fd;
	struct session *s = calloc(1, sizeof(*s));
	sigset_t set;
	int r;

	if (!s)
		return -ENOMEM;
	s->fd = fd;
	pthread_mutex_init(&s->lock, NULL);
	end_signals(&set);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	s->ended = eventfd(0, EFD_CLOEXEC);
	r = s->signals < 0 || s->ended < 0 ? -errno : 0;
	if (r == 0)
		r = open_fuse(fd, ops, &s->fuse);
	if (r == 0) {
		steal_fd(&owned);
		r = negotiate(s);
	}
	if (r == 0)
		r = start_workers(s, workers);
	if (r < 0) {
		session_stop(s);
		return r;
	}
	*ret = s;
	return 0;
}

int session_wait(struct session *s, int timeout_ms)
{
	struct pollfd fds[] = {
		{ .fd = s->signals, .events = POLLIN },
		{ .fd = s->ended, .events = POLLIN },
	};
	struct signalfd_siginfo info;
	int n;

	for (;;) {
		n = poll(fds, ARRAY_SIZE(fds), timeout_ms);
		if (n == 0)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && (fds[1].revents & POLLIN))
			return atomic_load(&s->broken) ? -EIO : 0;
		if (n > 0 && read(s->signals, &info, sizeof(info)) ==
				     (ssize_t)sizeof(info))
			return (int)info.ssi_signo;
	}
}

void session_stop(struct session *s)
{
	if (!s)
		return;
	stop_workers(s);
	if (s->fuse)
		fuse_session_destroy(s->fuse);
	if (s->ended >= 0)
		close(s->ended);
	if (s->signals >= 0)
		close(s->signals);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

const char *session_libfuse_version(void)
{
	return fuse_pkgversion();
}
