/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/units.h"

struct args {
	const char *path;
	int64_t older_than_sec; /* -1: not said */
	int64_t to_bytes;	/* -1: not said */
	bool all, dry_run;
};

enum { OPT_OLDER_THAN = 256, OPT_TO };

static const struct argp_option options[] = {
	{ "older-than", OPT_OLDER_THAN, "TIME", 0,
	  "only what was not used for TIME: 90m, 12h, 7d, 2w", 0 },
	{ "to", OPT_TO, "SIZE", 0, "stop when no more than SIZE is used: 2G",
	  0 },
	{ "all", 'a', NULL, 0,
	  "also what was used within the grace time; by itself: everything",
	  0 },
	{ "dry-run", 'n', NULL, 0, "only say what would go", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse_older_than(struct args *a, const char *arg,
				struct argp_state *state)
{
	if (units_parse_span(arg, &a->older_than_sec) == 0)
		return 0;
	return cmd_usage(
		state,
		"--older-than: '%s' is not a time: give 90m, 12h, 7d or 2w",
		arg);
}

static error_t parse_to(struct args *a, const char *arg,
			struct argp_state *state)
{
	uint64_t bytes;

	if (units_parse_size(arg, &bytes) == 0 && bytes <= INT64_MAX) {
		a->to_bytes = (int64_t)bytes;
		return 0;
	}
	return cmd_usage(state, "--to: '%s' is not a size: give 2G or 512M",
			 arg);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case OPT_OLDER_THAN:
		return parse_older_than(a, arg, state);
	case OPT_TO:
		return parse_to(a, arg, state);
	case 'a':
		a->all = true;
		return 0;
	case 'n':
		a->dry_run = true;
		return 0;
	default:
		return cmd_path(key, arg, state, &a->path);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE|MOUNTPOINT",
	.doc = "Evict cache entries now, the least recently used first.\v"
	       "Without options it goes on until the store is at its low mark, as the daemon does "
	       "by itself when the limit is near. Open files stay.",
};

static json_t *request_for(const struct args *a)
{
	json_t *request = json_pack("{s:s, s:b, s:b}", "command", "prune",
				    "all", a->all, "dry_run", a->dry_run);
	int r = 0;

	if (request && a->older_than_sec >= 0)
		r = json_object_set_new(request, "older_than_seconds",
					json_integer(a->older_than_sec));
	if (request && r == 0 && a->to_bytes >= 0)
		r = json_object_set_new(request, "to_bytes",
					json_integer(a->to_bytes));
	if (r == 0)
		return request;
	json_decref(request);
	return NULL;
}

static void print(const json_t *reply, bool dry_run)
{
	json_int_t bytes = json_integer_value(json_object_get(reply, "bytes"));
	json_int_t used =
		json_integer_value(json_object_get(reply, "used_bytes"));
	char gone[UNITS_TEXT_MAX], left[UNITS_TEXT_MAX];

	printf("%s %lld entries, %s; %s %s\n",
	       dry_run ? "would evict" : "evicted",
	       (long long)json_integer_value(json_object_get(reply, "units")),
	       units_format_size((uint64_t)bytes, gone, sizeof(gone)),
	       units_format_size((uint64_t)used, left, sizeof(left)),
	       dry_run ? "are used" : "are used now");
}

int cmd_prune(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { .older_than_sec = -1, .to_bytes = -1 };
	json_t *reply;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = cmd_find(a.path, &target);
	if (r != CMD_OK)
		return r;
	r = cmd_ask(&target, request_for(&a), false, &reply);
	if (r != CMD_OK)
		return r;
	print(reply, a.dry_run);
	json_decref(reply);
	return CMD_OK;
}
