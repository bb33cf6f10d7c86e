/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/cmd.h"
#include "fs/config.h"
#include "fs/configfile.h"
#include "fs/fdstore.h"
#include "fs/keeper.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/place.h"
#include "store/base.h"
#include "store/store.h"

#define WHY_MAX 1024

struct args {
	const char *positional[2]; /* store, mountpoint */
	const char *config;	   /* a file, in their place */
	char *opts;		   /* owned; all -o, joined by commas */
	bool foreground;
};

/* What daemons are told. */
struct mounting {
	char *store, *mountpoint; /* free of symbolic links */
	const char *options;
};

static const struct argp_option options[] = {
	{ "options", 'o', "OPTS", 0, "comma-separated, see below", 0 },
	{ "config", 'c', "FILE", 0,
	  "take all from this file, see below; -o adds to it", 0 },
	{ "foreground", 'f', NULL, 0,
	  "stay in the foreground and log to stderr", 0 },
	{ "read-only", 'r', NULL, 0, "same as -o ro", 0 },
	/* What mount(8) and its helpers may pass on. */
	{ NULL, 't', "TYPE", OPTION_HIDDEN, NULL, 0 },
	{ NULL, 'n', NULL, OPTION_HIDDEN, NULL, 0 },
	{ NULL, 's', NULL, OPTION_HIDDEN, NULL, 0 },
	{ NULL, 'v', NULL, OPTION_HIDDEN, NULL, 0 },
	{ NULL, 'w', NULL, OPTION_HIDDEN, NULL, 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t add_options(struct args *a, const char *more,
			   struct argp_state *state)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", a->opts ? a->opts : "",
		     a->opts ? "," : "", more) < 0)
		return cmd_usage(state, "out of memory");
	free(a->opts);
	a->opts = joined;
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'o':
		return add_options(a, arg, state);
	case 'r':
		return add_options(a, "ro", state);
	case 'c':
		a->config = arg;
		return 0;
	case 'f':
		a->foreground = true;
		return 0;
	case 't':
	case 'n':
	case 's':
	case 'v':
	case 'w':
		return 0;
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, a->positional, 2);
	case ARGP_KEY_END:
		if (a->config && a->positional[0])
			return cmd_usage(
				state,
				"STORE and MOUNTPOINT, or --config: not both");
		if (!a->config && !a->positional[1])
			return cmd_usage(
				state, "which STORE, and on which MOUNTPOINT?");
		return 0;
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE MOUNTPOINT\n--config FILE",
	.doc = "Mount a store; a missing or empty directory becomes one.\v"
	       "OPTS:\n"
	       "  limit=5G|10%       what the store may take of its disk\n"
	       "                     (default 10% of the disk, at most 20G)\n"
	       "  low=4G|90%         where eviction stops (90% of the limit)\n"
	       "  min_free=1G|5%|0   what is left free of the disk (5%)\n"
	       "  grace=600|10m      what was used so lately stays (10m)\n"
	       "  sync=strict|lazy   whether fsync waits for the disk (lazy)\n"
	       "  scrub=30d|off      in what time all that is stored is read once and\n"
	       "                     compared with its checksums (30d)\n"
	       "  workers=N          threads that answer at first, 1 to 64 (2 per\n"
	       "                     CPU, 4 to 16); up to 64 when all are busy\n"
	       "  watchdog=30|0      seconds without a sign of life after which the\n"
	       "                     daemon is replaced by another (30); 0: never\n"
	       "  stop_timeout=60    seconds that who still has the mount is served\n"
	       "                     after SIGTERM (60)\n"
	       "  allow_other        for all users (default for root), or\n"
	       "  noallow_other      only for who mounts\n"
	       "and what mount(8) has for all: ro, nosuid, nodev, noexec, noatime, ...\n\n"
	       "FILE has one of these a line, and store=PATH and mountpoint=PATH; of\n"
	       "/etc/pipcachefs/NAME.conf these are " CONFIGFILE_STORES
	       "/NAME and\n" CONFIGFILE_MOUNTS
	       "/NAME if it does not say. # begins a comment.",
};

/* ---- are the two paths fit? ---- */

/* A mount of the same store that nobody serves any more makes room. */
static int replace_dead(const char *mountpoint)
{
	char why[WHY_MAX];

	if (attach_unmount(mountpoint, true, why, sizeof(why)) < 0) {
		cmd_error(
			"%s: a mount whose daemon has died is in the way, and taking it away: %s",
			mountpoint, why);
		return CMD_FAILED;
	}
	log_write(LOG_NOTICE, "%s: a mount whose daemon had died is replaced",
		  mountpoint);
	return CMD_OK;
}

static int check_not_mounted(const char *store, const char *mountpoint)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	const struct mounts_entry *e;
	char why[WHY_MAX];
	pid_t pid = 0;
	int r = mounts_load(&mounts);

	if (r < 0) {
		cmd_error("reading the mount table: %s", strerror(-r));
		return CMD_FAILED;
	}
	e = mounts_at(&mounts, mountpoint);
	if (!e)
		return CMD_OK;
	if (store_probe(e->store, &pid, why, sizeof(why)) < 0 || pid != 0)
		cmd_error("%s: %s is mounted there already", mountpoint,
			  e->store);
	else if (strcmp(e->store, store) == 0)
		return replace_dead(mountpoint);
	else
		cmd_error(
			"%s: a mount of %s whose daemon has died is in the way; `pipcachefs umount %s` first",
			mountpoint, e->store, mountpoint);
	return CMD_FAILED;
}

static int check_directory(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		int error = errno;

		cmd_error("mount point %s: %s%s", path, strerror(error),
			  error == ENOENT ? "; make the directory first" : "");
		return CMD_FAILED;
	}
	if (!S_ISDIR(st.st_mode)) {
		cmd_error("mount point %s: not a directory", path);
		return CMD_FAILED;
	}
	return CMD_OK;
}

static int resolve(const char *what, const char *path, char **ret)
{
	int r = mounts_resolve(path, ret);

	if (r == 0)
		return CMD_OK;
	cmd_error("%s %s: %s%s", what, path, strerror(-r),
		  r == -ENOENT ? "; the directory above it is missing" : "");
	return CMD_FAILED;
}

static int check_paths(const char *store, const char *mountpoint)
{
	if (mounts_inside(store, mountpoint)) {
		cmd_error(
			"the mount point %s is inside the store %s; choose another place for one of them",
			mountpoint, store);
		return CMD_FAILED;
	}
	if (mounts_inside(mountpoint, store)) {
		cmd_error(
			"the store %s is inside the mount point %s; choose another place for one of them",
			store, mountpoint);
		return CMD_FAILED;
	}
	return CMD_OK;
}

/* Of a mount that is to be made: its place. */
static int check_place(const struct configfile *file, const char *store,
		       const char *mountpoint)
{
	char why[WHY_MAX];
	int r = check_not_mounted(store, mountpoint);

	if (r != CMD_OK)
		return r;
	if (place_make_mountpoint(file, why, sizeof(why)) < 0) {
		cmd_error("%s", why);
		return CMD_FAILED;
	}
	return check_directory(mountpoint);
}

/* ---- the keeper: in the foreground, or in the background ---- */

static int keep_in_foreground(struct keeper_config *keep)
{
	char why[WHY_MAX] = "";
	int r = keeper_run(keep, why, sizeof(why));

	if (r == 0)
		return CMD_OK;
	if (*why)
		cmd_error("%s", why);
	return CMD_FAILED;
}

/* From the keeper to who started it, over a pipe: an exit code and a text. */
struct message {
	unsigned char exit_code;
	char text[WHY_MAX];
};

static void send_message(int fd, enum cmd_exit exit_code, const char *text)
{
	struct message m = { .exit_code = (unsigned char)exit_code,
			     .text = "" };

	snprintf(m.text, sizeof(m.text), "%s", text);
	if (write(fd, &m, sizeof(m)) != (ssize_t)sizeof(m))
		log_write(LOG_WARNING, "who started the daemon is gone");
}

/* The mount answers: leave the terminal and tell the parent. */
static void on_ready(void *arg)
{
	int *pipe_fd = arg;

	cmd_leave_terminal();
	send_message(*pipe_fd, CMD_OK, "");
	base_closep(pipe_fd);
}

/* Everything of the keeper's life; returns its exit code. */
static int keeper_main(struct keeper_config *keep, int pipe_fd)
{
	char why[WHY_MAX] = "";
	int r;

	setsid();
	if (chdir("/") < 0)
		return CMD_FAILED;
	/* What the caller had open is none of the keeper's. */
	if (pipe_fd > 3)
		close_range(3, (unsigned)pipe_fd - 1, 0);
	close_range((unsigned)pipe_fd + 1, ~0U, 0);
	/* A manager that started who started us is not ours: it keeps nothing. */
	unsetenv("NOTIFY_SOCKET");
	log_to_syslog(true);
	keep->ready = on_ready;
	keep->arg = &pipe_fd;
	r = keeper_run(keep, why, sizeof(why));
	if (r < 0 && pipe_fd >= 0)
		send_message(pipe_fd, CMD_FAILED, why);
	return r < 0 ? CMD_FAILED : CMD_OK;
}

/* Wait for the keeper's message; returns the exit code to end with. */
static int await_keeper(pid_t pid, int pipe_fd)
{
	struct message m;
	ssize_t n;
	int status = 0;

	do
		n = read(pipe_fd, &m, sizeof(m));
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(m)) {
		m.text[sizeof(m.text) - 1] = '\0';
		if (m.exit_code != CMD_OK)
			cmd_error("%s", m.text);
		return m.exit_code;
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		cmd_error(
			"the keeper was ended by signal %d before the mount answered",
			WTERMSIG(status));
	else
		cmd_error("the keeper ended before the mount answered");
	return CMD_FAILED;
}

static int keep_in_background(struct keeper_config *keep)
{
	cleanup_close int read_end = -1;
	cleanup_close int write_end = -1;
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0) {
		cmd_error("making a pipe: %s", strerror(errno));
		return CMD_FAILED;
	}
	read_end = ends[0];
	write_end = ends[1];
	pid = fork();
	if (pid < 0) {
		cmd_error("starting the keeper: %s", strerror(errno));
		return CMD_FAILED;
	}
	if (pid == 0) {
		base_closep(&read_end);
		return keeper_main(keep, steal_fd(&write_end));
	}
	base_closep(&write_end);
	return await_keeper(pid, read_end);
}

/* What the daemons are called with, and how the store is mounted. */
static int keep_mount(const struct args *a, const struct config *config,
		      const struct mounting *at, const struct fdstore *left)
{
	static char name[] = "pipcachefs", command[] = "daemon";
	static char foreground[] = "-f";
	char *argv[6] = { name, command, at->store, at->mountpoint };
	struct keeper_config keep = {
		.argv = argv,
		.options = at->options,
		.attach = { .source = at->store,
			    .mountpoint = at->mountpoint,
			    .flags = config->mount_flags,
			    .allow_other = config->allow_other },
		.left = *left,
		.watchdog_sec = config->watchdog_sec,
	};

	if (a->foreground)
		argv[4] = foreground;
	return a->foreground ? keep_in_foreground(&keep)
			     : keep_in_background(&keep);
}

/* Before anything is made in the store. */
static int check_limits(const char *store, const struct config *c)
{
	const struct store_limits limits = {
		.limit = c->limit,
		.low = c->low,
		.min_free = c->min_free,
		.grace_sec = c->grace_sec,
	};
	char why[WHY_MAX];

	if (store_check_limits(store, &limits, why, sizeof(why)) >= 0)
		return CMD_OK;
	cmd_error("%s", why);
	return CMD_USAGE;
}

/* What is to be mounted, by the arguments or by a file. */
static int gather(const struct args *a, struct configfile *file)
{
	char why[WHY_MAX], *joined;
	const char *opts = a->opts ? a->opts : "";
	int r;

	if (a->config) {
		r = configfile_read(a->config, file, why, sizeof(why));
		if (r < 0) {
			cmd_error("%s", why);
			return r == -EINVAL ? CMD_USAGE : CMD_FAILED;
		}
	} else {
		file->store = strdup(a->positional[0]);
		file->mountpoint = strdup(a->positional[1]);
		file->options = strdup("");
	}
	if (!file->store || !file->mountpoint || !file->options ||
	    asprintf(&joined, "%s%s%s", file->options,
		     *file->options && *opts ? "," : "", opts) < 0) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	free(file->options);
	file->options = joined;
	return CMD_OK;
}

static int mount_file(const struct args *a, const struct configfile *file,
		      const struct config *config)
{
	cleanup_free char *store = NULL;
	cleanup_free char *mountpoint = NULL;
	struct fdstore left = FDSTORE_INIT;
	bool goes_on = false;
	char why[WHY_MAX];
	int r = CMD_OK;

	if (place_make_above(file, why, sizeof(why)) < 0) {
		cmd_error("%s", why);
		return CMD_FAILED;
	}
	r = resolve("mount point", file->mountpoint, &mountpoint);
	if (r == CMD_OK)
		r = resolve("store", file->store, &store);
	if (r == CMD_OK)
		r = check_limits(store, config);
	if (r == CMD_OK)
		r = check_paths(store, mountpoint);
	/* Who leaves for the background leaves such descriptors behind. */
	if (r == CMD_OK && a->foreground)
		goes_on = fdstore_take(store, mountpoint, &left);
	if (r == CMD_OK && !goes_on)
		r = check_place(file, store, mountpoint);
	if (r == CMD_OK)
		r = keep_mount(a, config,
			       &(struct mounting){ store, mountpoint,
						   file->options },
			       &left);
	return r;
}

static int mount_with(const struct args *a)
{
	cleanup_configfile struct configfile file = CONFIGFILE_INIT;
	struct config config = { 0 };
	char why[WHY_MAX];
	int r = gather(a, &file);

	if (r != CMD_OK)
		return r;
	r = config_parse(file.options, geteuid() == 0, &config, why,
			 sizeof(why));
	if (r < 0) {
		cmd_error("%s", why);
		return r == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	r = mount_file(a, &file, &config);
	config_release(&config);
	return r;
}

int cmd_mount(int argc, char **argv)
{
	struct args a = { 0 };
	int r;

	if (cmd_parse(&argp, argc, argv, &a, &r))
		r = mount_with(&a);
	free(a.opts);
	return r;
}
