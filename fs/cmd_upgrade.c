/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/control.h"
#include "store/base.h"

/* The successor opens the store, which may take a while. */
#define GOES_ON_MAX_MSEC (300 * 1000)
#define GOES_ON_STEP_MSEC 50
#define ASK_SEC 30

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

/* Who serves @store? 0: nobody answers. */
static json_int_t serving_pid(const char *store, char *version, size_t size)
{
	json_t *request = json_pack("{s:s}", "command", "status");
	json_t *reply = NULL;
	const json_t *status;
	const char *found;
	json_int_t pid = 0;

	if (request && control_ask(store, request, ASK_SEC, &reply) == 0) {
		status = json_object_get(reply, "status");
		pid = json_integer_value(json_object_get(status, "pid"));
		found = json_string_value(json_object_get(status, "version"));
		snprintf(version, size, "%s", found ? found : "?");
	}
	json_decref(request);
	json_decref(reply);
	return pid;
}

static int await_successor(const char *store, json_int_t before)
{
	char version[64] = "?";
	json_int_t pid = before;

	for (int ms = 0; ms < GOES_ON_MAX_MSEC && (!pid || pid == before);
	     ms += GOES_ON_STEP_MSEC) {
		usleep(GOES_ON_STEP_MSEC * 1000);
		pid = serving_pid(store, version, sizeof(version));
	}
	if (!pid || pid == before) {
		cmd_error("%s: nobody went on within %d s; see its log", store,
			  GOES_ON_MAX_MSEC / 1000);
		return CMD_FAILED;
	}
	if (strcmp(version, PIPCACHEFS_VERSION) != 0) {
		cmd_error(
			"%s: version %s could not go on, so %s does; see its log",
			store, PIPCACHEFS_VERSION, version);
		return CMD_FAILED;
	}
	printf("%s is served by version %s, process %lld\n", store, version,
	       (long long)pid);
	return CMD_OK;
}

int cmd_upgrade(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	const char *path = NULL;
	char program[4096], version[64];
	json_t *reply = NULL;
	json_int_t before;
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
	before = serving_pid(target.store, version, sizeof(version));
	r = cmd_ask(&target,
		    json_pack("{s:s, s:s}", "command", "upgrade", "program",
			      program),
		    false, &reply);
	json_decref(reply);
	return r == CMD_OK ? await_successor(target.store, before) : r;
}
