/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/cmd.h"
#include "fs/repair.h"
#include "fs/request.h"
#include "fs/units.h"

/* So long a daemon compares bytes before it answers; then it is asked again.
 * One that is told to end meanwhile waits no longer than that. */
#define STEP_SEC 1

struct args {
	const char *path;
	bool data, repair, json;
};

static const struct argp_option options[] = {
	{ "data", 'd', NULL, 0, "also read all bytes and compare checksums",
	  0 },
	{ "repair", 'r', NULL, 0,
	  "of a store that is not mounted: mend what is wrong", 0 },
	{ "json", 'j', NULL, 0, "one JSON object, with stable keys", 0 },
	CMD_HELP_OPTION,
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *a = state->input;

	switch (key) {
	case 'd':
		a->data = true;
		return 0;
	case 'r':
		a->repair = true;
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
	.doc = "Find out whether a store is what it should be.\v"
	       "Names, link counts, blocks and their references are compared with each other, and "
	       "what is charged with what is on the disk; a mounted store works on meanwhile. "
	       "Nothing is changed. With --repair the store must not be mounted: a new index is built of "
	       "all that is sound in it, and in one that was set aside as index.bad; what is not "
	       "sound is lost, and told. Exit status: 0 all is well, 1 something is wrong or could "
	       "not be checked, 2 wrong usage.",
};

/* What the replies say, added up. */
struct sum {
	json_t *first; /* owned: the reply that has the figures of the store */
	json_t *findings; /* owned: REQUEST_FINDINGS_MAX at most */
	uint64_t found;
	uint64_t bytes;
	bool progress; /* a line of it stands on the terminal */
};

static uint64_t number(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static void clear_progress(struct sum *s)
{
	if (s->progress)
		fprintf(stderr, "\r\033[K");
	s->progress = false;
}

static void show_progress(struct sum *s)
{
	uint64_t all = number(s->first, "bytes_total");

	if (!all || !isatty(STDERR_FILENO))
		return;
	if (all < s->bytes)
		all = s->bytes;
	fprintf(stderr, "\rcomparing bytes: %u %%",
		(unsigned)((double)s->bytes * 100 / (double)all));
	s->progress = true;
}

/* Those of one reply; @print: at once. Returns -1 when out of memory. */
static int add_findings(struct sum *s, const json_t *reply, bool print)
{
	json_t *finding;
	size_t i;

	json_array_foreach(json_object_get(reply, "findings"), i, finding)
	{
		if (json_array_size(s->findings) >= REQUEST_FINDINGS_MAX)
			break;
		if (json_array_append(s->findings, finding) < 0)
			return -1;
		if (!print)
			continue;
		clear_progress(s);
		printf("%s\n", json_string_value(finding));
	}
	s->found += number(reply, "found");
	s->bytes += number(reply, "bytes_checked");
	return 0;
}

static json_t *request_for(const struct args *a, const json_t *last)
{
	return json_pack("{s:s, s:b, s:i, s:I, s:I}", "command", "check",
			 "data", a->data, "seconds", STEP_SEC, "stage",
			 (json_int_t)number(last, "stage"), "at",
			 (json_int_t)number(last, "at"));
}

/* Ask until all is done. */
static int check(const struct cmd_target *target, const struct args *a,
		 struct sum *s)
{
	json_t *reply = NULL, *last = NULL;
	bool done = false;
	int r;

	while (!done) {
		r = cmd_ask(target, request_for(a, last), false, &reply);
		json_decref(last);
		if (r != CMD_OK)
			return r;
		last = reply;
		if (!s->first)
			s->first = json_incref(reply);
		done = json_is_true(json_object_get(reply, "done"));
		if (add_findings(s, reply, !a->json) < 0) {
			cmd_error("out of memory");
			json_decref(reply);
			return CMD_FAILED;
		}
		if (!done)
			show_progress(s);
	}
	json_decref(last);
	return CMD_OK;
}

static void print_text(const struct sum *s, bool data)
{
	size_t shown = json_array_size(s->findings);
	char a[UNITS_TEXT_MAX], b[UNITS_TEXT_MAX];

	if (s->found > shown)
		printf("and %" PRIu64 " more\n", s->found - shown);
	printf("checked %" PRIu64 " files, %" PRIu64 " recipes, %" PRIu64
	       " blocks, %" PRIu64 " packs; ",
	       number(s->first, "files"), number(s->first, "recipes"),
	       number(s->first, "blocks"), number(s->first, "packs"));
	if (data)
		printf("compared %s\n",
		       units_format_size(s->bytes, a, sizeof(a)));
	else
		printf("no bytes compared (--data)\n");
	if (number(s->first, "forgotten_blocks"))
		printf("%" PRIu64
		       " blocks were found damaged before: files with them are misses\n",
		       number(s->first, "forgotten_blocks"));
	printf("charged %s, on the disk %s\n",
	       units_format_size(number(s->first, "charged_bytes"), a,
				 sizeof(a)),
	       units_format_size(number(s->first, "used_bytes"), b, sizeof(b)));
	if (!s->found) {
		printf("nothing is wrong\n");
		return;
	}
	printf("%" PRIu64 " findings\n"
	       "A file whose bytes are wrong is dropped when it is first opened after a mount;\n"
	       "pip then fetches it again. For the rest unmount the store and run check --repair.\n",
	       s->found);
}

static int print_json(const struct sum *s)
{
	json_t *o = json_pack(
		"{s:b, s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "ok",
		s->found == 0, "findings", s->findings, "found",
		(json_int_t)s->found, "files",
		(json_int_t)number(s->first, "files"), "recipes",
		(json_int_t)number(s->first, "recipes"), "blocks",
		(json_int_t)number(s->first, "blocks"), "forgotten_blocks",
		(json_int_t)number(s->first, "forgotten_blocks"), "packs",
		(json_int_t)number(s->first, "packs"), "bytes_checked",
		(json_int_t)s->bytes, "charged_bytes",
		(json_int_t)number(s->first, "charged_bytes"), "used_bytes",
		(json_int_t)number(s->first, "used_bytes"));
	if (!o) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
	return CMD_OK;
}

int cmd_check(int argc, char **argv)
{
	cleanup_target struct cmd_target target = CMD_TARGET_INIT;
	struct sum s = { .findings = json_array() };
	struct args a = { 0 };
	int r;

	if (!cmd_parse(&argp, argc, argv, &a, &r)) {
		json_decref(s.findings);
		return r;
	}
	r = cmd_find(a.path, &target);
	if (a.repair) {
		json_decref(s.findings);
		return r == CMD_OK ? repair_store(&target, a.data, a.json) : r;
	}
	if (r == CMD_OK)
		r = check(&target, &a, &s);
	clear_progress(&s);
	if (r == CMD_OK && a.json)
		r = print_json(&s);
	else if (r == CMD_OK)
		print_text(&s, a.data);
	if (s.found)
		r = CMD_FAILED;
	json_decref(s.first);
	json_decref(s.findings);
	return r;
}
