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
#define TITLE_LEAST 24 /* columns */
#define TITLE_MOST 64

struct args {
	const char *path;
	bool packages, json;
};

static const struct argp_option options[] = {
	{ "packages", 'p', NULL, 0, "one line for each project and version",
	  0 },
	{ "json", 'j', NULL, 0, "one JSON object, with stable keys", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'p':
		a->packages = true;
		return 0;
	case 'j':
		a->json = true;
		return 0;
	default:
		return cmd_path(key, arg, state, &a->path);
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "STORE|MOUNTPOINT",
	.doc = "List what is cached.\v"
	       "SIZE is what the files have, SHARED the part of it that other entries have too, "
	       "HITS how often it was read. Listing is no use of anything. What is of no known "
	       "project is named after its file.",
};

/* By title; what has no project is last, by kind. */
static int compare(const json_t *a, const json_t *b)
{
	const char *p = listing_text(a, "project");
	const char *q = listing_text(b, "project");
	int d = !*p - !*q;

	if (!d)
		d = strcmp(p, q);
	if (!d)
		d = strcmp(listing_text(a, "version"),
			   listing_text(b, "version"));
	if (!d)
		d = strcmp(listing_text(a, "kind"), listing_text(b, "kind"));
	return d ? d : strcmp(listing_text(a, "name"), listing_text(b, "name"));
}

static uint64_t sum_of(const json_t *items, const char *key)
{
	uint64_t sum = 0;
	json_t *item;
	size_t i;

	json_array_foreach(items, i, item)
	{
		sum += listing_number(item, key);
	}
	return sum;
}

/* The sums of all items, under the keys that listing.h has. NULL: out of
 * memory. */
static json_t *total_of(const json_t *items, bool packages)
{
	uint64_t entries =
		packages ? sum_of(items, "entries") : json_array_size(items);

	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "entries",
			 (json_int_t)entries, "files",
			 (json_int_t)sum_of(items, "files"), "size_bytes",
			 (json_int_t)sum_of(items, "size_bytes"),
			 "shared_bytes",
			 (json_int_t)sum_of(items, "shared_bytes"), "hits",
			 (json_int_t)sum_of(items, "hits"));
}

/* How wide the first column is. */
static int width_of(const json_t *items)
{
	char title[TITLE_MAX];
	json_t *item;
	size_t i, len;
	size_t width = TITLE_LEAST;

	json_array_foreach(items, i, item)
	{
		len = strlen(listing_title(item, title, sizeof(title)));
		width = len > width ? len : width;
	}
	return (int)(width < TITLE_MOST ? width : TITLE_MOST);
}

/* @what: the second column. */
static void print_line(const json_t *item, const char *title, const char *what,
		       const char *used, int width)
{
	char size[UNITS_TEXT_MAX], shared[UNITS_TEXT_MAX];

	printf("%-*s  %-11s  %9s  %9s  %-16s  %6" PRIu64 "\n", width, title,
	       what,
	       units_format_size(listing_number(item, "size_bytes"), size,
				 sizeof(size)),
	       units_format_size(listing_number(item, "shared_bytes"), shared,
				 sizeof(shared)),
	       used, listing_number(item, "hits"));
}

static void print_text(const json_t *items, const json_t *total, bool packages)
{
	char title[TITLE_MAX], used[UNITS_TEXT_MAX], count[UNITS_TEXT_MAX];
	int width = width_of(items);
	json_t *item;
	size_t i;

	printf("%-*s  %-11s  %9s  %9s  %-16s  %6s\n", width,
	       packages ? "PACKAGE" : "NAME", packages ? "FILES" : "KIND",
	       "SIZE", "SHARED", "LAST USE", "HITS");
	json_array_foreach(items, i, item)
	{
		snprintf(count, sizeof(count), "%" PRIu64,
			 listing_number(item, "files"));
		print_line(item, listing_title(item, title, sizeof(title)),
			   packages ? count : listing_kind(item),
			   listing_time(item, used, sizeof(used)), width);
	}
	snprintf(title, sizeof(title), "total: %" PRIu64 " entries",
		 listing_number(total, "entries"));
	snprintf(count, sizeof(count), "%" PRIu64 "%s",
		 listing_number(total, "files"), packages ? "" : " files");
	print_line(total, title, count, "", width);
}

static int print(const json_t *reply, const struct args *a)
{
	const char *key = a->packages ? "packages" : "entries";
	json_t *items = json_object_get(reply, key);
	json_t *total = total_of(items, a->packages), *all;

	if (!a->json && total)
		print_text(items, total, a->packages);
	all = json_pack("{s:O, s:O}", key, items, "total", total);
	json_decref(total);
	if (!all) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	if (a->json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(all);
	return CMD_OK;
}

int cmd_ls(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct args a = { 0 };
	json_t *reply, *request;
	const char *key;
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r))
		return r;
	r = cmd_find(a.path, &target);
	if (r != CMD_OK)
		return r;
	key = a.packages ? "packages" : "entries";
	request = a.packages ? json_pack("{s:s, s:b}", "command", "packages",
					 "versions", 1)
			     : json_pack("{s:s}", "command", "list");
	r = pages_fetch(&target, request, key, &reply);
	if (r != CMD_OK)
		return r;
	r = pages_sort(json_object_get(reply, key), compare);
	if (r == CMD_OK)
		r = print(reply, &a);
	json_decref(reply);
	return r;
}
