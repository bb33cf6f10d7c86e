/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "fs/answer.h"
#include "fs/buildah.h"
#include "fs/cmd.h"
#include "fs/docker.h"
#include "fs/units.h"
#include "store/base.h"

#define WHY_MAX 1024
#define TARGET "/root/.cache/pip"
#define DOCKER_SOCKET "unix:///var/run/docker.sock"
#define BUILDAH_TMP "/var/tmp"
#define INTERVAL_SEC 10
#define INTERVAL_MAX_SEC 3600
#define WORDS_MAX 64

/* Options that may be given several times. */
struct words {
	const char *word[WORDS_MAX]; /* borrowed, of argv */
	size_t n;
};

struct args {
	const char *positional[2]; /* engine, mountpoint */
	struct words targets, ids;
	const char *docker_host, *tmp; /* NULL: the default */
	int64_t interval_sec;
	bool once;
};

enum { OPT_TARGET = 256, OPT_ID, OPT_HOST, OPT_TMP, OPT_INTERVAL, OPT_ONCE };

static const struct argp_option options[] = {
	{ "target", OPT_TARGET, "DIR", 0,
	  "cache mounts for this directory in containers (" TARGET
	  "); several times for several",
	  0 },
	{ "interval", OPT_INTERVAL, "TIME", 0, "look at least so often (10s)",
	  0 },
	{ "once", OPT_ONCE, NULL, 0, "cover what there is, and leave it so",
	  0 },
	{ "docker-host", OPT_HOST, "unix://PATH", 0,
	  "docker: its socket ($DOCKER_HOST, else " DOCKER_SOCKET ")", 0 },
	{ "id", OPT_ID, "ID", 0,
	  "buildah: also the cache mount with this id=, before its first build",
	  0 },
	{ "tmpdir", OPT_TMP, "DIR", 0,
	  "buildah: its directory for temporary files ($TMPDIR, else " BUILDAH_TMP
	  ")",
	  0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t add_word(struct words *w, const char *word,
			struct argp_state *state)
{
	if (w->n == WORDS_MAX)
		return cmd_usage(state, "more than %d of an option", WORDS_MAX);
	w->word[w->n++] = word;
	return 0;
}

static error_t add_target(struct args *a, char *dir, struct argp_state *state)
{
	size_t len = strlen(dir);

	while (len > 1 && dir[len - 1] == '/')
		dir[--len] = '\0';
	if (!answer_is_plain_path(dir))
		return cmd_usage(
			state,
			"--target '%s': a directory in containers is wanted, such as " TARGET,
			dir);
	return add_word(&a->targets, dir, state);
}

static error_t set_interval(struct args *a, const char *text,
			    struct argp_state *state)
{
	if (units_parse_span(text, &a->interval_sec) == 0 &&
	    a->interval_sec >= 1 && a->interval_sec <= INTERVAL_MAX_SEC)
		return 0;
	return cmd_usage(state, "--interval '%s': 1s to 1h is wanted", text);
}

static error_t check(struct args *a, struct argp_state *state)
{
	const char *engine = a->positional[0];

	if (!a->positional[1])
		return cmd_usage(
			state,
			"which engine (docker or buildah), and which MOUNTPOINT?");
	if (strcmp(engine, "docker") == 0) {
		if (a->tmp || a->ids.n)
			return cmd_usage(
				state,
				"--tmpdir and --id are for buildah only");
	} else if (strcmp(engine, "buildah") == 0) {
		if (a->docker_host)
			return cmd_usage(state,
					 "--docker-host is for docker only");
	} else {
		return cmd_usage(
			state,
			"engine '%s': docker or buildah (also for podman build) is wanted",
			engine);
	}
	if (a->targets.n == 0)
		return add_word(&a->targets, TARGET, state);
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case OPT_TARGET:
		return add_target(a, arg, state);
	case OPT_ID:
		return add_word(&a->ids, arg, state);
	case OPT_HOST:
		a->docker_host = arg;
		return 0;
	case OPT_TMP:
		a->tmp = arg;
		return 0;
	case OPT_INTERVAL:
		return set_interval(a, arg, state);
	case OPT_ONCE:
		a->once = true;
		return 0;
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, a->positional, 2);
	case ARGP_KEY_END:
		return check(a, state);
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "docker|buildah MOUNTPOINT",
	.doc = "Let RUN --mount=type=cache of image builds use a mount, with Dockerfiles as they are.\v"
	       "Stays in the foreground and mounts MOUNTPOINT over the directories that the engine gives to "
	       "builds as their cache, takes over what was in there, and does so again after a prune or a restart "
	       "of the engine. SIGTERM, SIGINT or SIGHUP: unmounts them again, and ends.",
};

static const char *or_env(const char *given, const char *name,
			  const char *otherwise)
{
	const char *value = getenv(name);

	if (given)
		return given;
	return value && *value ? value : otherwise;
}

/* SIGTERM, SIGINT, and SIGHUP unless nohup(1) wants it ignored, as a
 * descriptor. */
static int catch_signals(void)
{
	struct sigaction hangup = { .sa_handler = SIG_DFL };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	(void)sigaction(SIGHUP, NULL, &hangup);
	if (hangup.sa_handler != SIG_IGN)
		sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int attach(const struct args *a, const struct covers_config *config)
{
	char why[WHY_MAX] = "";
	int r;

	if (strcmp(a->positional[0], "docker") == 0)
		r = docker_attach(config,
				  or_env(a->docker_host, "DOCKER_HOST",
					 DOCKER_SOCKET),
				  why, sizeof(why));
	else
		r = buildah_attach(config,
				   or_env(a->tmp, "TMPDIR", BUILDAH_TMP), why,
				   sizeof(why));
	if (r == 0 || r == -ECANCELED)
		return CMD_OK;
	cmd_error("%s", *why ? why : strerror(-r));
	return CMD_FAILED;
}

int cmd_attach(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { .interval_sec = INTERVAL_SEC };
	cleanup_close int signals = -1;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	if (geteuid() != 0) {
		cmd_error(
			"mounting into an engine's directories needs root; run it as root");
		return CMD_FAILED;
	}
	r = cmd_find(a.positional[1], &target);
	if (r != CMD_OK)
		return r;
	if (!target.mountpoint) {
		cmd_error(
			"%s is not a mount point of pipcachefs; `pipcachefs mount` first",
			a.positional[1]);
		return CMD_FAILED;
	}
	signals = catch_signals();
	if (signals < 0) {
		cmd_error("catching signals: %s", strerror(errno));
		return CMD_FAILED;
	}
	return attach(&a, &(struct covers_config){
				  .mountpoint = target.mountpoint,
				  .store = target.store,
				  .targets = a.targets.word,
				  .n_targets = a.targets.n,
				  .ids = a.ids.word,
				  .n_ids = a.ids.n,
				  .interval_msec = (int)a.interval_sec * 1000,
				  .once = a.once,
				  .cancel = signals,
			  });
}
