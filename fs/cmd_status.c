/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/report.h"

struct args {
	const char *path;
	bool json, prometheus;
};

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "one JSON object, with stable keys", 0 },
	{ "prometheus", 'p', NULL, 0,
	  "the text format of Prometheus, for a textfile collector", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'j':
		a->json = true;
		return 0;
	case 'p':
		a->prometheus = true;
		return 0;
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, &a->path, 1);
	case ARGP_KEY_END:
		if (!a->path)
			return cmd_usage(state, "which STORE or MOUNTPOINT?");
		if (a->json && a->prometheus)
			return cmd_usage(state,
					 "--json or --prometheus, not both");
		return 0;
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE|MOUNTPOINT",
	.doc = "Show the limit of a store and what is used of it.",
};

int cmd_status(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { 0 };
	json_t *reply, *status;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = cmd_find(a.path, &target);
	if (r != CMD_OK)
		return r;
	r = cmd_ask(&target, json_pack("{s:s}", "command", "status"), true,
		    &reply);
	if (r != CMD_OK)
		return r;

	status = json_object_get(reply, "status");
	if (a.json) {
		json_dumpf(status, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (a.prometheus) {
		report_prometheus(stdout, status);
	} else {
		report_text(stdout, status);
	}
	json_decref(reply);
	return CMD_OK;
}
