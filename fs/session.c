/* SPDX-License-Identifier: MIT */
#include "fs/session.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "fs/channel.h"
#include "fs/log.h"
#include "fs/slot.h"
#include "store/base.h"

/* Gets a worker out of read(2). */
#define SESSION_WAKE_SIGNAL SIGUSR1
#define SESSION_WAKE_INTERVAL_USEC 5000

struct worker {
	struct session *session;
	pthread_t thread;
	struct slot slot; /* with the request in work */
	atomic_bool ended;
};

struct session {
	struct fuse_session *fuse; /* owned; it owns fd */
	struct kept *kept;	   /* borrowed */
	struct ops *ops;	   /* borrowed */
	int fd;
	int signals;	       /* owned, a signalfd */
	int ended;	       /* owned, an eventfd: how many workers ended */
	atomic_bool stop;      /* take no more requests */
	atomic_bool broken;    /* the connection failed, it was not unmounted */
	struct worker *worker; /* owned, SESSION_WORKERS_MAX of them */
	pthread_mutex_t
		lock;  /* guards n and idle until stop is set, the gate */
	unsigned n;    /* workers that were started */
	unsigned idle; /* of those, that have no request in work */
	/* Nobody reads a request before all are finished that were found. */
	pthread_cond_t moved; /* the gate, or who waits at it */
	unsigned waiting;     /* at the gate */
	bool open;
};

/* ---- signals ---- */

static void end_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGUSR2);
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

/* ---- requests ---- */

/*
 * Wait for a request and read it into the slot, which is empty.
 * Returns: its bytes; 0 nothing yet, try again; -ENODEV unmounted; ...
 */
static ssize_t take_request(const struct session *s, struct slot *slot)
{
	ssize_t n = read(s->fd, slot->request, KEPT_REQUEST_BYTES);

	if (n > 0) {
		/* What it may release is out of the hands of all others. */
		(void)atomic_load(&s->kept->answered);
		return n;
	}
	slot_clear(slot);
	/* ENOENT: the request was interrupted before it could be read. */
	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
		return 0;
	return n < 0 ? -errno : -ENODEV;
}

/* What the slot holds, or a copy of it. */
static void process_request(struct session *s, struct slot *slot, void *mem,
			    size_t bytes)
{
	struct fuse_buf request = { .mem = mem, .size = bytes };

	slot_enter(slot);
	store_request_begin(slot->number, slot_unique());
	fuse_session_process_buf(s->fuse, &request);
	store_request_end();
	slot_leave();
}

/* ---- the first request ---- */

/* Keep the INIT for those who come after us, and empty the slot. */
static int keep_init(struct session *s, struct slot *slot)
{
	struct slot_request q = slot_look(slot);

	if (q.opcode != FUSE_INIT || q.bytes > KEPT_INIT_MAX)
		return -EPROTO;
	memcpy(s->kept->init, slot->request, q.bytes);
	atomic_store(&s->kept->init_bytes, q.bytes);
	slot_clear(slot);
	return 0;
}

static int receive_init(struct session *s, struct slot *slot)
{
	ssize_t n = slot_look(slot).bytes;

	while (n == 0)
		n = take_request(s, slot);
	return n < 0 ? (int)n : keep_init(s, slot);
}

/*
 * The first request of a connection negotiates it. None of the others may be
 * looked at before, so there are no workers yet. If somebody has answered it
 * before us, it tells libfuse what was agreed on, and the kernel refuses the
 * answer.
 */
static int negotiate(struct session *s)
{
	uint8_t init[KEPT_INIT_MAX];
	struct slot slot;
	uint32_t bytes;
	int r = slot_open(s->kept, 0, &slot);

	if (r == 0 && !atomic_load(&s->kept->init_bytes))
		r = receive_init(s, &slot);
	if (r < 0)
		return r;
	bytes = atomic_load(&s->kept->init_bytes);
	if (bytes > KEPT_INIT_MAX)
		return -EPROTO;
	memcpy(init, s->kept->init, bytes);
	return channel_agree(s->fuse, init, bytes);
}

/* ---- requests that a killed daemon had in work ---- */

/* Not by way of libfuse, which knows the request only by doing it. */
static void refuse_request(const struct session *s, uint64_t unique)
{
	struct fuse_out_header out = { .len = sizeof(out),
				       .error = -EIO,
				       .unique = unique };

	log_write(LOG_ERR,
		  "a request that %d daemons have died of is answered with EIO",
		  SLOT_TRIES_MAX);
	if (write(s->fd, &out, sizeof(out)) < 0 && errno != ENOENT)
		log_write(LOG_ERR, "answering it: %s", strerror(errno));
}

static bool is_release(const struct slot_request *q)
{
	return q->opcode == FUSE_RELEASE || q->opcode == FUSE_RELEASEDIR;
}

/* What is known of it? -errno: the store cannot tell. */
static int recall(struct session *s, struct slot *slot, uint64_t unique)
{
	int r;

	slot->known = SLOT_AGAIN;
	if (atomic_load(&slot->kept->settled) == unique) {
		slot->known = SLOT_SETTLED;
		slot->result = slot->kept->result;
		slot->value = slot->kept->value;
		return 0;
	}
	r = store_request_done(s->ops->store, slot->number, unique,
			       &slot->value);
	if (r <= 0)
		return r;
	slot->known = SLOT_DONE;
	slot->result = 0;
	atomic_fetch_add(&s->kept->replayed, 1);
	return 0;
}

static void finish_request(struct session *s, struct slot *slot)
{
	struct slot_request q = slot_look(slot);
	int r;

	/* Interrupts end nothing here, and want no answer. */
	if (!q.bytes || !q.unique || q.opcode == FUSE_INIT ||
	    q.opcode == FUSE_INTERRUPT) {
		slot_clear(slot);
		return;
	}
	atomic_fetch_add(&s->kept->taken_over, 1);
	r = slot->kept->tries++ < SLOT_TRIES_MAX ? recall(s, slot, q.unique)
						 : -EIO;
	if (r < 0) {
		refuse_request(s, q.unique);
		atomic_fetch_add(&s->kept->given_up, 1);
	} else {
		process_request(s, slot, slot->request, q.bytes);
	}
	slot_clear(slot);
}

/* ---- workers ---- */

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

/* Until all requests that were found are finished. */
static void pass_gate(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	s->waiting++;
	pthread_cond_broadcast(&s->moved);
	while (!s->open)
		pthread_cond_wait(&s->moved, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

/* All workers have finished theirs; the releases are left. */
static void open_gate(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	while (s->waiting < s->n)
		pthread_cond_wait(&s->moved, &s->lock);
	for (unsigned i = 0; i < s->n; i++)
		finish_request(s, &s->worker[i].slot);
	s->open = true;
	pthread_cond_broadcast(&s->moved);
	pthread_mutex_unlock(&s->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct session *s = w->session;
	struct slot_request found = slot_look(&w->slot);
	uint64_t one = 1;
	ssize_t n = 0;

	if (!is_release(&found))
		finish_request(s, &w->slot);
	pass_gate(s);
	while (n >= 0 && !atomic_load(&s->stop)) {
		n = take_request(s, &w->slot);
		if (n <= 0)
			continue;
		begin_work(s);
		process_request(s, &w->slot, w->slot.request, (size_t)n);
		slot_clear(&w->slot);
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
	r = slot_open(s->kept, s->n, &w->slot);
	if (r < 0)
		return r;
	r = pthread_create(&w->thread, NULL, worker_main, w);
	if (r)
		return -r;
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
}

/* So many that each slot with a request in it has its worker. */
static unsigned workers_wanted(const struct session *s, unsigned n)
{
	struct slot slot = { .number = 0 };

	for (unsigned i = n; i < SESSION_WORKERS_MAX; i++) {
		slot.request = kept_request(s->kept, i);
		if (slot_look(&slot).bytes)
			n = i + 1;
	}
	return n;
}

static int start_workers(struct session *s, unsigned n)
{
	int r = 0;

	s->worker = calloc(SESSION_WORKERS_MAX, sizeof(*s->worker));
	if (!s->worker)
		return -ENOMEM;
	n = workers_wanted(s, n);
	/* Those that run already may add others. */
	pthread_mutex_lock(&s->lock);
	while (s->n < n && r == 0)
		r = start_worker(s);
	pthread_mutex_unlock(&s->lock);
	if (r == 0)
		open_gate(s);
	return r;
}

/* No more of them from here on: s->n stays. */
void session_pause(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->stop, true);
	s->open = true;
	pthread_cond_broadcast(&s->moved);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->n; i++)
		join_worker(&s->worker[i]);
	s->n = 0;
}

/* ---- the session ---- */

int session_start(int fd, struct kept *kept, struct ops *ops, unsigned workers,
		  struct session **ret)
{
	cleanup_close int owned = fd;
	struct session *s = calloc(1, sizeof(*s));
	sigset_t set;
	int r;

	if (!s)
		return -ENOMEM;
	s->fd = fd;
	s->kept = kept;
	s->ops = ops;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->moved, NULL);
	end_signals(&set);
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	s->ended = eventfd(0, EFD_CLOEXEC);
	r = s->signals < 0 || s->ended < 0 ? -errno : 0;
	if (r == 0)
		r = channel_open(fd, ops, &s->fuse);
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
	session_pause(s);
	free(s->worker);
	if (s->fuse)
		fuse_session_destroy(s->fuse);
	if (s->ended >= 0)
		close(s->ended);
	if (s->signals >= 0)
		close(s->signals);
	pthread_cond_destroy(&s->moved);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

const char *session_libfuse_version(void)
{
	return fuse_pkgversion();
}
