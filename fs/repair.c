/* SPDX-License-Identifier: MIT */
#include "fs/repair.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "fs/log.h"
#include "fs/request.h"
#include "store/store.h"

#define WHY_MAX 1024

/* Lines, printed as they come or kept for JSON. */
struct lines {
	json_t *found; /* owned; REQUEST_FINDINGS_MAX at most */
	json_t *done;  /* the same */
	bool json;
	bool failed; /* out of memory */
};

static void tell(struct lines *l, json_t *to, const char *what,
		 const char *text)
{
	if (json_array_size(to) >= REQUEST_FINDINGS_MAX)
		return;
	if (json_array_append_new(to, json_string(text)) < 0)
		l->failed = true;
	if (!l->json)
		printf("%s: %s\n", what, text);
}

static void on_found(void *arg, const char *text)
{
	struct lines *l = arg;

	tell(l, l->found, "wrong", text);
}

static void on_done(void *arg, const char *text)
{
	struct lines *l = arg;

	tell(l, l->done, "done", text);
}

static void on_report(void *arg, int priority, const char *text)
{
	(void)arg;
	log_write(priority, "%s", text);
}

static void print_more(uint64_t n, const json_t *shown, const char *what)
{
	if (n > json_array_size(shown))
		printf("and %" PRIu64 " more lines of what %s\n",
		       n - json_array_size(shown), what);
}

static void print_text(const struct lines *l, const struct store_repaired *rd)
{
	print_more(rd->found + rd->left, l->found, "is wrong");
	print_more(rd->done, l->done, "was done");
	if (!rd->rebuilt) {
		printf("nothing is wrong, nothing was done\n");
		return;
	}
	printf("%" PRIu64 " findings", rd->found);
	if (rd->aside)
		printf(", and an index that was set aside");
	printf("; %" PRIu64 " records or pages could not be read\n",
	       rd->unread);
	printf("the index is a new one; lost are %" PRIu64 " names", rd->lost);
	if (rd->aside)
		printf(", %" PRIu64 " files came back", rd->rescued);
	printf("\n");
	if (rd->left)
		printf("%" PRIu64 " findings are left\n", rd->left);
	else
		printf("nothing is wrong any more\n");
}

static int print_json(const struct lines *l, const struct store_repaired *rd)
{
	json_t *o = json_pack(
		"{s:b, s:O, s:I, s:O, s:I, s:b, s:b, s:I, s:I, s:I, s:I}", "ok",
		rd->left == 0, "findings", l->found, "found",
		(json_int_t)rd->found, "actions", l->done, "done",
		(json_int_t)rd->done, "rebuilt", rd->rebuilt, "set_aside",
		rd->aside, "unreadable", (json_int_t)rd->unread, "lost",
		(json_int_t)rd->lost, "rescued", (json_int_t)rd->rescued,
		"left", (json_int_t)rd->left);

	if (!o) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
	return CMD_OK;
}

static int repair(const struct cmd_target *target, bool data, struct lines *l)
{
	const struct store_config cfg = { .path = target->store,
					  .report = on_report,
					  .owner_note = "a repair" };
	const struct store_repair how = {
		.data = data, .found = on_found, .done = on_done, .arg = l
	};
	struct store_repaired rd;
	char why[WHY_MAX];
	int r = store_repair(&cfg, &how, &rd, why, sizeof(why));

	if (r < 0 || l->failed) {
		cmd_error("%s", r < 0 ? why : "out of memory");
		return CMD_FAILED;
	}
	if (!l->json)
		print_text(l, &rd);
	else if (print_json(l, &rd) != CMD_OK)
		return CMD_FAILED;
	return rd.left ? CMD_FAILED : CMD_OK;
}

int repair_store(const struct cmd_target *target, bool data, bool json)
{
	struct lines l = { .found = json_array(),
			   .done = json_array(),
			   .json = json };
	int r;

	if (target->mountpoint) {
		cmd_error(
			"%s is mounted on %s: unmount it first (pipcachefs umount %s), then repair it",
			target->store, target->mountpoint, target->mountpoint);
		r = CMD_FAILED;
	} else {
		r = repair(target, data, &l);
	}
	json_decref(l.found);
	json_decref(l.done);
	return r;
}
