/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/units.h"

struct args {
	const char *positional[2]; /* path, size */
	bool now;
};

static const struct argp_option options[] = {
	{ "now", 'n', NULL, 0,
	  "evict down to the limit at once, also what was just used", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'n':
		a->now = true;
		return 0;
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, a->positional, 2);
	case ARGP_KEY_END:
		if (!a->positional[0])
			return cmd_usage(state, "which STORE or MOUNTPOINT?");
		if (a->positional[1] && units_check_limit(a->positional[1]) < 0)
			return cmd_usage(
				state,
				"'%s' is not a size: give bytes as 5G or 512M, or a share of the disk as 10%% (1%% to 100%%)",
				a->positional[1]);
		return 0;
	default:
		return cmd_option(key, state);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE|MOUNTPOINT [SIZE]",
	.doc = "Show what a store may take of its disk, or change it.\v"
	       "SIZE is 5G, 512M, or a share of the disk: 10%. It is recorded in the store. "
	       "New writes obey at once; eviction follows as grace and open files allow.",
};

static json_t *request_for(const struct args *a)
{
	return json_pack("{s:s, s:s*, s:b}", "command", "limit", "limit",
			 a->positional[1], "now", a->now);
}

static void print(const json_t *reply)
{
	json_int_t limit =
		json_integer_value(json_object_get(reply, "limit_bytes"));
	json_int_t excess =
		json_integer_value(json_object_get(reply, "excess_bytes"));
	json_int_t units = json_integer_value(json_object_get(reply, "units"));
	char text[UNITS_TEXT_MAX];

	printf("limit    %s (%lld bytes)\n",
	       units_format_size((uint64_t)limit, text, sizeof(text)),
	       (long long)limit);
	if (units)
		printf("evicted  %lld entries\n", (long long)units);
	if (excess)
		printf("excess   %s above it\n",
		       units_format_size((uint64_t)excess, text, sizeof(text)));
}

int cmd_limit(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { 0 };
	json_t *reply;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = cmd_find(a.positional[0], &target);
	if (r != CMD_OK)
		return r;
	r = cmd_ask(&target, request_for(&a), !a.positional[1] && !a.now,
		    &reply);
	if (r != CMD_OK)
		return r;
	print(reply);
	json_decref(reply);
	return CMD_OK;
}
