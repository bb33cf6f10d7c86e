/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fs/cmd.h"
#include "fs/config.h"
#include "fs/link.h"
#include "fs/log.h"
#include "fs/serve.h"
#include "fs/trace.h"
#include "store/base.h"

#define WHY_MAX 1024

struct args {
	const char *positional[2]; /* store, mountpoint */
	const char *opts;
	bool foreground;
	bool resume;
};

static const struct argp_option options[] = {
	{ "options", 'o', "OPTS", 0, "as given to mount", 0 },
	{ "foreground", 'f', NULL, 0, "log to stderr", 0 },
	{ "resume", 'r', NULL, 0, "the mount is there already", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'o':
		a->opts = arg;
		return 0;
	case 'f':
		a->foreground = true;
		return 0;
	case 'r':
		a->resume = true;
		return 0;
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, a->positional, 2);
	case ARGP_KEY_END:
		if (!a->positional[1])
			return cmd_usage(state, "this is what a mount runs");
		return 0;
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE MOUNTPOINT",
	.doc = "What `pipcachefs mount` runs; not for hands.",
};

/* What the keeper handed down is not for programs that we start. */
static int take_fds(bool resume, struct kept **ret)
{
	int last = resume ? LINK_FD_DEVICE : LINK_FD_TRACE, r;

	(void)fcntl(LINK_FD_CONTROL, F_SETFD, FD_CLOEXEC); /* if it is there */

	for (int fd = LINK_FD_SOCKET; fd <= last; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	r = kept_map(LINK_FD_KEPT, ret);
	return r < 0 ? r : kept_claim(LINK_FD_KEPT);
}

static void on_ready(void *arg)
{
	const struct args *a = arg;

	if (!a->foreground)
		cmd_leave_terminal();
}

/* How what it came to is told to the keeper. @ready: the mount answered. */
static int exit_code(const struct args *a, int r, bool ready, const char *why)
{
	if (r == 0)
		return DAEMON_ENDED;
	if (ready)
		return DAEMON_FAILED;
	if (!a->resume) {
		(void)link_send(LINK_FD_SOCKET, LINK_FAILED, -1, why);
		return DAEMON_FAILED;
	}
	log_write(LOG_ERR, "%s", why);
	return r == -ESTALE ? DAEMON_LOST : DAEMON_AGAIN;
}

struct life {
	struct args *args;
	bool ready;
};

static void note_ready(void *arg)
{
	struct life *life = arg;

	life->ready = true;
	on_ready(life->args);
}

static int run_daemon(struct args *a, struct kept *kept)
{
	struct config config = { 0 };
	struct life life = { .args = a };
	struct serve sv = { .config = &config,
			    .options = a->opts ? a->opts : "",
			    .store = a->positional[0],
			    .mountpoint = a->positional[1],
			    .keeper = LINK_FD_SOCKET,
			    .kept = kept,
			    .device = a->resume ? LINK_FD_DEVICE : -1,
			    .lock = a->resume ? LINK_FD_LOCK : -1,
			    .control = a->resume ? LINK_FD_CONTROL : -1,
			    .ready = note_ready,
			    .arg = &life };
	char why[WHY_MAX] = "";
	int r = config_parse(a->opts, geteuid() == 0, &config, why,
			     sizeof(why));

	if (r == 0)
		r = serve_run(&sv, why, sizeof(why));
	/* As if killed: nothing is closed, and the threads are still there. */
	if (r == SERVE_HANDOVER)
		_exit(DAEMON_HANDOVER);
	config_release(&config);
	return exit_code(a, r, life.ready, why);
}

int cmd_daemon(int argc, char **argv)
{
	struct args a = { 0 };
	struct kept *kept = NULL;
	int r;

	/* Kernels before 6.14 name who was started by a descriptor after that. */
	(void)prctl(PR_SET_NAME, program_invocation_short_name);
	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = take_fds(a.resume, &kept);
	if (r == -EPROTO)
		return DAEMON_NOT_MINE;
	if (r < 0) {
		cmd_error("a daemon is started by `pipcachefs mount`: %s",
			  strerror(-r));
		return CMD_USAGE;
	}
	if (!a.foreground)
		log_to_syslog(!a.resume);
	trace_install(LINK_FD_TRACE);
	return run_daemon(&a, kept);
}
