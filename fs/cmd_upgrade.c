/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/successor.h"
#include "store/base.h"

static const struct argp_option options[] = {
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	return cmd_path(key, arg, state, state->input);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "MOUNTPOINT|STORE",
	.doc = "Have the program that you run here go on with a mount, in the place of the one that serves it. Nothing is unmounted, and whoever uses the mount waits a moment. If it cannot go on, the other one does.",
};

static int await_upgrade(const char *store, pid_t before)
{
	cleanup_successor struct successor now = SUCCESSOR_INIT;

	if (successor_await(store, before, &now) < 0) {
		cmd_error("%s: nobody went on in time; see its log", store);
		return CMD_FAILED;
	}
	if (strcmp(now.version, PIPCACHEFS_VERSION) != 0) {
		cmd_error(
			"%s: version %s could not go on, so %s does; see its log",
			store, PIPCACHEFS_VERSION, now.version);
		return CMD_FAILED;
	}
	printf("%s is served by version %s, process %d\n", store, now.version,
	       (int)now.pid);
	return CMD_OK;
}

int cmd_upgrade(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	const char *path = NULL;
	cleanup_successor struct successor before = SUCCESSOR_INIT;
	char program[4096];
	json_t *reply = NULL;
	ssize_t n;
	int r;

	if (!cmd_parse(&argp, argc, argv, &path, &r))
		return r;
	r = cmd_find(path, &target);
	if (r != CMD_OK)
		return r;
	n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	if (n < 0) {
		cmd_error("reading /proc/self/exe: %s", strerror(errno));
		return CMD_FAILED;
	}
	program[n] = '\0';
	if (!target.mountpoint) {
		cmd_error(
			"%s is not mounted: the next mount takes the new program",
			path);
		return CMD_FAILED;
	}
	(void)successor_look(target.store, &before);
	r = cmd_ask(&target,
		    json_pack("{s:s, s:s}", "command", "upgrade", "program",
			      program),
		    false, &reply);
	json_decref(reply);
	return r == CMD_OK ? await_upgrade(target.store, before.pid) : r;
}
