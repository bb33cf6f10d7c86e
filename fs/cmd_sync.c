/* SPDX-License-Identifier: MIT */
#include <jansson.h>

#include "fs/cmd.h"

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
	.args_doc = "STORE|MOUNTPOINT",
	.doc = "Make all that was written so far survive a power cut.\v"
	       "Returns when it is on the disk. sync(1) does not reach a FUSE file system.",
};

int cmd_sync(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	const char *path = NULL;
	json_t *reply;
	int r;

	if (!cmd_parse(&argp, argc, argv, &path, &r))
		return r;
	r = cmd_find(path, &target);
	if (r != CMD_OK)
		return r;
	r = cmd_ask(&target, json_pack("{s:s}", "command", "sync"), false,
		    &reply);
	if (r == CMD_OK)
		json_decref(reply);
	return r;
}
