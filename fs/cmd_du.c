/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/listing.h"
#include "fs/pages.h"
#include "fs/units.h"

#define TITLE_MAX 320

struct args {
	const char *path;
	const char *package[LISTING_SELECT_MAX];
	unsigned n_packages;
	bool json;
};

static const struct argp_option options[] = {
	{ "json", 'j', NULL, 0, "one JSON object, with stable keys", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse_package(struct args *a, const char *arg,
			     struct argp_state *state)
{
	if (a->n_packages == LISTING_SELECT_MAX)
		return cmd_usage(state, "more than %d packages",
				 LISTING_SELECT_MAX);
	if (!*arg)
		return cmd_usage(state, "an argument is empty");
	a->package[a->n_packages++] = arg;
	return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	if (key == ARGP_KEY_ARG && state->arg_num > 0)
		return parse_package(a, arg, state);
	if (key == 'j') {
		a->json = true;
		return 0;
	}
	return cmd_path(key, arg, state, &a->path);
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE|MOUNTPOINT [PACKAGE[==VERSION]...]",
	.doc = "Say what removing packages would bring back.\v"
	       "Files share equal pieces: what other packages have too stays when one is removed. "
	       "Without PACKAGE: all that is cached, by project, what several share on a line of "
	       "its own. Several packages may bring back more together than one by one.",
};

/* What brings back most is first, then by name. */
static int compare(const json_t *a, const json_t *b)
{
	uint64_t m = listing_number(a, "own_bytes");
	uint64_t n = listing_number(b, "own_bytes");
	char p[TITLE_MAX], q[TITLE_MAX];

	if (m != n)
		return m < n ? 1 : -1;
	return strcmp(listing_title(a, p, sizeof(p)),
		      listing_title(b, q, sizeof(q)));
}

static void print_line(const char *own, const char *size, const char *files,
		       const char *title)
{
	printf("%9s  %9s  %7s  %s\n", own, size, files, title);
}

static void print_item(const json_t *item, const char *title)
{
	char own[UNITS_TEXT_MAX], size[UNITS_TEXT_MAX], files[UNITS_TEXT_MAX];

	snprintf(files, sizeof(files), "%" PRIu64,
		 listing_number(item, "files"));
	print_line(units_format_size(listing_number(item, "own_bytes"), own,
				     sizeof(own)),
		   units_format_size(listing_number(item, "size_bytes"), size,
				     sizeof(size)),
		   files, title);
}

static void print_items(const json_t *items)
{
	char title[TITLE_MAX];
	json_t *item;
	size_t i;

	print_line("FREES", "SIZE", "FILES", "PACKAGE");
	json_array_foreach(items, i, item)
	{
		print_item(item, listing_title(item, title, sizeof(title)));
	}
}

static int print_json(json_t *object)
{
	if (!object) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	json_dumpf(object, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(object);
	return CMD_OK;
}

static int print_all(const json_t *reply, bool json)
{
	json_t *items = json_object_get(reply, "packages"), *item;
	uint64_t stored = listing_number(reply, "stored_bytes"), own = 0;
	char text[UNITS_TEXT_MAX];
	size_t i;

	if (pages_sort(items, compare) != CMD_OK)
		return CMD_FAILED;
	json_array_foreach(items, i, item)
	{
		own += listing_number(item, "own_bytes");
	}
	if (stored < own)
		stored = own; /* it changed meanwhile */
	if (json)
		return print_json(json_pack("{s:O, s:I, s:I}", "packages",
					    items, "shared_bytes",
					    (json_int_t)(stored - own),
					    "total_bytes", (json_int_t)stored));
	print_items(items);
	print_line(units_format_size(stored - own, text, sizeof(text)), "", "",
		   "shared by several");
	print_line(units_format_size(stored, text, sizeof(text)), "", "",
		   "total");
	return CMD_OK;
}

/* The last item is all of the others together. */
static int print_selected(const struct cmd_target *target, const struct args *a,
			  const json_t *reply)
{
	json_t *items = json_object_get(reply, "packages"), *item, *all;
	size_t n = json_array_size(items), i;
	int r = CMD_OK;

	json_array_foreach(items, i, item)
	{
		if (i >= a->n_packages || listing_number(item, "entries"))
			continue;
		cmd_error(
			"%s: nothing of '%s' is cached; see pipcachefs ls --packages",
			target->store, a->package[i]);
		r = CMD_FAILED;
	}
	if (r != CMD_OK || n != a->n_packages + 1)
		return CMD_FAILED;
	all = json_incref(json_array_get(items, n - 1));
	json_array_remove(items, n - 1);
	if (a->json) {
		r = print_json(json_pack(
			"{s:O, s:I, s:I}", "packages", items, "freed_bytes",
			(json_int_t)listing_number(all, "own_bytes"),
			"size_bytes",
			(json_int_t)listing_number(all, "size_bytes")));
	} else {
		print_items(items);
		if (a->n_packages > 1)
			print_item(all, "all of these together");
	}
	json_decref(all);
	return r;
}

static json_t *request_for(const struct args *a)
{
	json_t *request = json_pack("{s:s}", "command", "packages");
	json_t *select = json_array();
	int r = request && select ? 0 : -1;

	for (unsigned i = 0; i < a->n_packages && r == 0; i++)
		r = json_array_append_new(select, json_string(a->package[i]));
	if (r == 0 && a->n_packages)
		r = json_object_set(request, "select", select);
	json_decref(select);
	if (r == 0)
		return request;
	json_decref(request);
	return NULL;
}

int cmd_du(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { 0 };
	json_t *reply;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = cmd_find(a.path, &target);
	if (r == CMD_OK)
		r = pages_fetch(&target, request_for(&a), "packages", &reply);
	if (r != CMD_OK)
		return r;
	r = a.n_packages ? print_selected(&target, &a, reply)
			 : print_all(reply, a.json);
	json_decref(reply);
	return r;
}
