/* SPDX-License-Identifier: MIT */
#include "fs/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fs/config.h"
#include "fs/kept.h"
#include "fs/link.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/notify.h"
#include "fs/spawn.h"
#include "fs/trace.h"
#include "store/base.h"

#define ARGS_MAX 64
#define TICK_MSEC 1000
#define TRACE_WAIT_MSEC 500
/* While it starts or ends, a manager is to wait so long for the next tick. */
#define EXTEND_SEC 60

_Static_assert(CONFIG_OPTIONS_MAX < LINK_TEXT_MAX, "options are one message");

struct keeper {
	const struct keeper_config *cfg;
	char *argv[ARGS_MAX + 4]; /* ends with the three that are added */
	size_t n_args;
	char options[LINK_TEXT_MAX];
	char options_next[LINK_TEXT_MAX];
	bool has_options_next;
	uint64_t limit_before, low_before; /* set before options_next came */
	struct kept *kept;
	/* Owned, -1 when there is none. */
	int kept_fd, device, lock, control, signals;
	int exe, exe_next; /* the program, and the one that is to follow it */
	int trace;	   /* what the daemon writes there comes out here */
	/* Of the daemon that runs. */
	pid_t pid;
	int link;
	int trace_in;
	bool ready, ending;
	bool is_new; /* it is the program that is to follow, or has its options */
	int64_t begun_ms;
	uint64_t answered;
	uint64_t beat;
	int64_t silent; /* ticks without a beat */
	/* Of the mount. */
	bool was_ready;
	int told; /* a signal for the daemon that comes next */
	unsigned short_lives;
	unsigned unable; /* in a row, that could not start */
	int64_t unable_since_ms;
	char *why;
	size_t why_size;
};

static void move_fd(int *slot, int fd)
{
	base_closep(slot);
	*slot = fd;
}

/* ---- starting a daemon ---- */

static void set_arguments(struct keeper *k)
{
	static char resume[] = "--resume";

	k->argv[k->n_args + 1] =
		k->has_options_next ? k->options_next : k->options;
	k->argv[k->n_args + 2] = k->device >= 0 ? resume : NULL;
}

static int start_daemon(struct keeper *k)
{
	const struct spawn daemon = {
		.exe = k->exe_next >= 0 ? k->exe_next : k->exe,
		.argv = k->argv,
		.kept = k->kept_fd,
		.trace = k->trace_in,
		.lock = k->lock,
		.device = k->device,
		.control = k->control,
	};
	int link, r;

	set_arguments(k);
	r = spawn_daemon(&daemon, &link);
	if (r < 0)
		return r;
	k->pid = r;
	move_fd(&k->link, link);
	k->ready = k->ending = false;
	k->is_new = k->exe_next >= 0 || k->has_options_next;
	k->begun_ms = base_now_ms();
	k->answered = atomic_load(&k->kept->answered);
	k->beat = atomic_load(&k->kept->beat);
	k->silent = 0;
	if (k->told)
		(void)kill(k->pid, k->told);
	return 0;
}

/* ---- what it says ---- */

static void mount_store(struct keeper *k, int lock)
{
	char why[LINK_TEXT_MAX] = "";

	move_fd(&k->lock, lock);
	move_fd(&k->device, attach_mount(&k->cfg->attach, why, sizeof(why)));
	if (k->device < 0) {
		(void)link_send(k->link, LINK_FAILED, -1, why);
		return;
	}
	fdstore_keep(&(struct fdstore){
		.kept = k->kept_fd, .device = k->device, .lock = k->lock });
	(void)link_send(k->link, LINK_DEVICE, k->device, NULL);
}

/* To a manager. */
static void say_serving(const struct keeper *k)
{
	unsigned long long deaths = atomic_load(&k->kept->deaths);

	if (deaths)
		notify_status("%s on %s, process %d; %llu daemons have died",
			      k->cfg->attach.source, k->cfg->attach.mountpoint,
			      (int)k->pid, deaths);
	else
		notify_status("%s on %s, process %d", k->cfg->attach.source,
			      k->cfg->attach.mountpoint, (int)k->pid);
}

static void daemon_is_ready(struct keeper *k)
{
	k->ready = true;
	k->silent = 0;
	k->unable = 0;
	if (k->exe_next >= 0) {
		move_fd(&k->exe, k->exe_next);
		k->exe_next = -1;
	}
	if (k->has_options_next)
		memcpy(k->options, k->options_next, sizeof(k->options));
	k->has_options_next = false;
	if (!k->was_ready && k->cfg->ready)
		k->cfg->ready(k->cfg->arg);
	if (!k->was_ready)
		notify_ready();
	k->was_ready = true;
	if (!k->told)
		say_serving(k);
}

/* They hold again, whatever limit was set since the mount. */
static void note_options(struct keeper *k, const char *text)
{
	snprintf(k->options_next, sizeof(k->options_next), "%s", text);
	k->has_options_next = true;
	k->limit_before = atomic_exchange(&k->kept->limit, 0);
	k->low_before = atomic_exchange(&k->kept->low, 0);
}

/* False: nothing more comes. */
static bool hear(struct keeper *k)
{
	struct link_message m;

	if (link_receive(k->link, &m) < 0 || m.type == LINK_NONE) {
		base_closep(&k->link);
		return false;
	}
	switch (m.type) {
	case LINK_STORE:
		if (k->lock < 0)
			mount_store(k, steal_fd(&m.fd));
		break;
	case LINK_READY:
		daemon_is_ready(k);
		break;
	case LINK_UPGRADE:
		move_fd(&k->exe_next, steal_fd(&m.fd));
		break;
	case LINK_OPTIONS:
		note_options(k, m.text);
		break;
	case LINK_STATUS:
		notify_status("%s", m.text);
		break;
	case LINK_ENDING:
		k->ending = true;
		break;
	case LINK_CONTROL:
		move_fd(&k->control, steal_fd(&m.fd));
		fdstore_keep_control(k->control);
		break;
	default:
		if (!k->was_ready)
			snprintf(k->why, k->why_size, "%s", m.text);
		break;
	}
	base_closep(&m.fd);
	return true;
}

/* The last words of one that has ended. */
static void hear_rest(struct keeper *k)
{
	struct pollfd p = { .fd = k->link, .events = POLLIN };

	while (k->link >= 0 && poll(&p, 1, 0) == 1)
		if (!hear(k))
			return;
}

/* ---- is it well? ---- */

/*
 * In ticks that the keeper itself lived through: where both are frozen, no time
 * passes for either.
 */
static void tick(struct keeper *k)
{
	uint64_t beat = atomic_load(&k->kept->beat);
	int64_t most = k->cfg->watchdog_sec;

	/* As long as the watchdog says who is well. */
	if (most && (!k->was_ready || k->told))
		notify_extend(EXTEND_SEC);
	if (beat != k->beat) {
		k->beat = beat;
		k->silent = 0;
		return;
	}
	k->silent++;
	if (!k->ready || k->ending)
		most *= KEEPER_START_FACTOR;
	if (!most || k->silent < most)
		return;
	log_write(
		LOG_ERR,
		"the daemon %d has shown no sign of life for %lld s: killing it; its stacks:",
		(int)k->pid, (long long)k->silent);
	trace_ask(k->pid);
	(void)poll(NULL, 0, TRACE_WAIT_MSEC);
	trace_log(k->trace);
	(void)kill(k->pid, SIGKILL);
	k->silent = 0;
}

/* True: the daemon has ended, with *@status. Signals for it are passed on. */
static bool on_signal(struct keeper *k, int *status)
{
	struct signalfd_siginfo info;

	if (read(k->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return false;
	if (info.ssi_signo != SIGCHLD) {
		k->told = (int)info.ssi_signo;
		notify_stopping();
		if (k->pid > 0)
			(void)kill(k->pid, k->told);
		return false;
	}
	return k->pid > 0 && waitpid(k->pid, status, WNOHANG) == k->pid;
}

/* Until the daemon has ended; returns its status. */
static int watch(struct keeper *k)
{
	struct pollfd p[] = { { .fd = k->signals, .events = POLLIN },
			      { .events = POLLIN } };
	int64_t next = base_now_ms() + TICK_MSEC, left;
	int status = 0;

	for (;;) {
		left = next - base_now_ms();
		p[1].fd = k->link;
		if (left > 0 && poll(p, ARRAY_SIZE(p), (int)left) > 0) {
			if (p[1].revents && k->link >= 0)
				(void)hear(k);
			if (p[0].revents && on_signal(k, &status))
				break;
		}
		if (base_now_ms() >= next) {
			tick(k);
			next = base_now_ms() + TICK_MSEC;
		}
	}
	hear_rest(k);
	trace_log(k->trace);
	k->pid = 0;
	return status;
}

/* ---- what next? ---- */

enum next { NEXT_DAEMON, NEXT_END, NEXT_FAILED };

static void say_death(const struct keeper *k, int status)
{
	if (WIFSIGNALED(status))
		log_write(
			LOG_WARNING,
			"the daemon was ended by signal %d; another one goes on",
			WTERMSIG(status));
	else
		log_write(
			LOG_WARNING,
			"the daemon ended with code %d%s; another one goes on",
			WEXITSTATUS(status),
			k->ready ? "" : " before it was ready");
}

/* The end of the first, before there was a mount or because it cannot serve
 * it. */
static enum next first_failed(const struct keeper *k, int status)
{
	if (!*k->why && WIFSIGNALED(status))
		snprintf(
			k->why, k->why_size,
			"the daemon was ended by signal %d before the mount answered",
			WTERMSIG(status));
	return NEXT_FAILED;
}

/* Would a program at fault die like that? */
static bool is_crash(int status)
{
	return !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
}

static enum next mourn(struct keeper *k, int status)
{
	bool is_short = base_now_ms() - k->begun_ms < KEEPER_SHORT_MSEC;
	uint64_t crashes = atomic_load(&k->kept->crashes);

	atomic_fetch_add(&k->kept->deaths, 1);
	if (is_short && atomic_load(&k->kept->answered) == k->answered)
		k->short_lives++;
	else
		k->short_lives = 0;
	crashes = is_crash(status) ? (is_short ? crashes : 0) + 1 : 0;
	atomic_store(&k->kept->crashes, crashes);
	if (k->short_lives < KEEPER_SHORT_LIVES && crashes < KEEPER_CRASHES) {
		say_death(k, status);
		return NEXT_DAEMON;
	}
	log_write(
		LOG_CRIT,
		"too many daemons in a row died at once: giving up; the mount on %s answers errors until it is unmounted, or mounted anew",
		k->cfg->attach.mountpoint);
	return NEXT_FAILED;
}

/* What was to follow, a program or options or both, cannot. */
static void give_up_new(struct keeper *k, int code)
{
	log_write(
		LOG_ERR, "%s: the one before goes on",
		code == DAEMON_NOT_MINE
			? "the new program does not know this layout of the kept memory"
		: k->exe_next >= 0
			? "the new program could not start"
			: "a daemon with the new options could not start");
	base_closep(&k->exe_next);
	if (k->has_options_next) {
		atomic_store(&k->kept->low, k->low_before);
		atomic_store(&k->kept->limit, k->limit_before);
	}
	k->has_options_next = false;
}

/* What it lacks (memory, descriptors, room) may come back. Or the index is why:
 * counted so far that it is looked at. */
static enum next could_not_start(struct keeper *k)
{
	if (!k->unable++)
		k->unable_since_ms = k->begun_ms;
	if (atomic_load(&k->kept->crashes) < KEEPER_PAUSE_AFTER)
		atomic_fetch_add(&k->kept->crashes, 1);
	if (base_now_ms() - k->unable_since_ms < KEEPER_UNABLE_MSEC)
		return NEXT_DAEMON;
	log_write(
		LOG_CRIT,
		"no daemon could start for %d s: giving up; the mount on %s answers errors until it is unmounted, or mounted anew",
		KEEPER_UNABLE_MSEC / 1000, k->cfg->attach.mountpoint);
	return NEXT_FAILED;
}

static enum next judge(struct keeper *k, int status)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

	/* However it ended: it may be any program. */
	if (k->is_new && !k->ready) {
		give_up_new(k, code);
		return NEXT_DAEMON;
	}
	if (code == DAEMON_ENDED)
		return NEXT_END;
	/* Where there is a mount, somebody may wait for its answer already. */
	if (!k->was_ready && (code == DAEMON_FAILED || k->device < 0))
		return first_failed(k, status);
	if (code == DAEMON_FAILED)
		return NEXT_FAILED;
	if (code == DAEMON_HANDOVER)
		return NEXT_DAEMON;
	if (code == DAEMON_LOST) {
		log_write(
			LOG_CRIT,
			"the mount on %s cannot go on: it answers errors until it is unmounted, or mounted anew",
			k->cfg->attach.mountpoint);
		return NEXT_FAILED;
	}
	if (code != DAEMON_AGAIN)
		return mourn(k, status);
	atomic_fetch_add(&k->kept->deaths, 1);
	say_death(k, status);
	return could_not_start(k);
}

/* The more daemons died at once, the longer. Signals are kept for the next. */
static void pause_before_next(struct keeper *k)
{
	struct pollfd p = { .fd = k->signals, .events = POLLIN };
	int64_t deaths = (int64_t)atomic_load(&k->kept->crashes);
	int64_t until = base_now_ms(), left;
	int status;

	if (deaths < k->short_lives)
		deaths = k->short_lives;
	if (deaths < k->unable)
		deaths = k->unable;
	if (deaths > KEEPER_PAUSE_AFTER)
		until += deaths * KEEPER_PAUSE_MSEC < KEEPER_PAUSE_MAX_MSEC
				 ? deaths * KEEPER_PAUSE_MSEC
				 : KEEPER_PAUSE_MAX_MSEC;
	while ((left = until - base_now_ms()) > 0)
		if (poll(&p, 1, (int)left) > 0)
			(void)on_signal(k, &status);
}

/* ---- the keeper itself ---- */

static int block_signals(void)
{
	sigset_t set;

	/* Who reads what we say may end; and who waits for the mount. */
	(void)signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int prepare(struct keeper *k)
{
	static char dash_o[] = "-o";
	int trace[2], r;

	for (; k->n_args < ARGS_MAX && k->cfg->argv[k->n_args]; k->n_args++)
		k->argv[k->n_args] = k->cfg->argv[k->n_args];
	k->argv[k->n_args] = dash_o;
	snprintf(k->options, sizeof(k->options), "%s", k->cfg->options);
	if (k->kept_fd < 0)
		k->kept_fd = kept_create();
	if (k->kept_fd < 0)
		return k->kept_fd;
	r = kept_map(k->kept_fd, &k->kept);
	if (r < 0)
		return r;
	kept_lock(k->kept);
	atomic_store(&k->kept->keeper_pid, getpid());
	if (pipe2(trace, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	k->trace = trace[0];
	k->trace_in = trace[1];
	k->exe = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (k->exe < 0)
		return -errno;
	k->signals = block_signals();
	return k->signals < 0 ? -errno : 0;
}

static int keep(struct keeper *k)
{
	enum next next = NEXT_DAEMON;
	int r;

	while (next == NEXT_DAEMON) {
		pause_before_next(k);
		r = start_daemon(k);
		if (r < 0 && !k->was_ready)
			return r;
		if (r < 0) {
			log_write(LOG_ERR, "starting a daemon: %s",
				  strerror(-r));
			k->begun_ms = base_now_ms();
			next = could_not_start(k);
			continue;
		}
		next = judge(k, watch(k));
	}
	return next == NEXT_END ? 0 : -EIO;
}

/* A mount that never answered, and that its daemons left behind. */
static void take_away(const struct keeper *k)
{
	const struct attach *a = &k->cfg->attach;
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	const struct mounts_entry *e = NULL;
	char why[LINK_TEXT_MAX];

	if (mounts_load(&mounts) == 0)
		e = mounts_at(&mounts, a->mountpoint);
	if (!e || strcmp(e->store, a->source) != 0)
		return;
	if (attach_unmount(a->mountpoint, true, why, sizeof(why)) < 0)
		log_write(LOG_WARNING, "unmounting %s: %s", a->mountpoint, why);
}

int keeper_run(const struct keeper_config *cfg, char *why, size_t why_size)
{
	struct keeper k = { .cfg = cfg,
			    .kept_fd = cfg->left.kept,
			    .device = cfg->left.device,
			    .lock = cfg->left.lock,
			    .control = cfg->left.control,
			    .signals = -1,
			    .exe = -1,
			    .exe_next = -1,
			    .trace = -1,
			    .trace_in = -1,
			    .link = -1,
			    .why = why,
			    .why_size = why_size };
	int r;

	*why = '\0';
	r = prepare(&k);
	if (r < 0)
		snprintf(why, why_size, "starting: %s", strerror(-r));
	else
		r = keep(&k);
	if (r < 0 && !k.was_ready && !*why)
		snprintf(why, why_size,
			 "the daemon ended before the mount answered");
	if (!k.was_ready && k.device >= 0)
		take_away(&k);
	/* The rest goes with the process; but nobody waits for these two. */
	if (k.device >= 0)
		fdstore_drop();
	base_closep(&k.device);
	base_closep(&k.lock);
	return r;
}
