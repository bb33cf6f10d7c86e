/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/configfile.h"
#include "fs/mounts.h"
#include "fs/successor.h"
#include "store/base.h"

#define WHY_MAX 1024

static const struct argp_option options[] = {
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	const char **file = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, file, 1);
	case ARGP_KEY_END:
		if (!*file)
			return cmd_usage(state, "which configuration FILE?");
		return 0;
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "FILE",
	.doc = "Read the configuration of a mount again. Another daemon with the new options goes on with the mount; whoever uses it waits a moment. What holds as long as the mount (store, mountpoint, watchdog, allow_other, ro and the like) is refused if it has changed: restart for that.",
};

/* Is what the file names mounted so? */
static int find_mount(const struct configfile *f, struct cmd_target *ret)
{
	cleanup_free char *store = NULL;
	int r = cmd_find(f->mountpoint, ret);

	if (r != CMD_OK)
		return r;
	if (!ret->mountpoint) {
		cmd_error("%s is not mounted; the next mount reads the file",
			  f->mountpoint);
		return CMD_FAILED;
	}
	/* Mounts are of stores whose path is free of symbolic links. */
	r = mounts_resolve(f->store, &store);
	if (r < 0) {
		cmd_error("store %s: %s", f->store, strerror(-r));
		return CMD_FAILED;
	}
	if (strcmp(ret->store, store) != 0) {
		cmd_error(
			"store=%s cannot change as long as %s is mounted on %s: unmount and mount again (systemctl restart)",
			f->store, ret->store, ret->mountpoint);
		return CMD_FAILED;
	}
	return CMD_OK;
}

static int await_reload(const char *store, const char *wanted, pid_t before)
{
	cleanup_successor struct successor now = SUCCESSOR_INIT;

	if (successor_await(store, before, &now) < 0) {
		cmd_error("%s: nobody went on in time; see its log", store);
		return CMD_FAILED;
	}
	if (strcmp(now.options, wanted) != 0) {
		cmd_error(
			"%s: a daemon with the new options could not go on, so the old ones hold; see its log",
			store);
		return CMD_FAILED;
	}
	printf("%s is served with %s, process %d\n", store,
	       *wanted ? wanted : "the default options", (int)now.pid);
	return CMD_OK;
}

static int reload(const struct configfile *f)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	cleanup_successor struct successor before = SUCCESSOR_INIT;
	json_t *reply = NULL;
	int r = find_mount(f, &target);

	if (r != CMD_OK)
		return r;
	(void)successor_look(target.store, &before);
	r = cmd_ask(&target,
		    json_pack("{s:s, s:s}", "command", "reload", "options",
			      f->options),
		    false, &reply);
	json_decref(reply);
	return r == CMD_OK ? await_reload(target.store, f->options, before.pid)
			   : r;
}

int cmd_reload(int argc, char **argv)
{
	cleanup_configfile struct configfile file = CONFIGFILE_INIT;
	const char *path = NULL;
	char why[WHY_MAX] = "";
	int r;

	if (!cmd_parse(&argp, argc, argv, &path, &r))
		return r;
	r = configfile_read(path, &file, why, sizeof(why));
	if (r < 0) {
		cmd_error("%s", why);
		return r == -EINVAL ? CMD_USAGE : CMD_FAILED;
	}
	return reload(&file);
}
