/* SPDX-License-Identifier: MIT */
#include "fs/request.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

#include <jansson.h>

#include "fs/listing.h"
#include "store/base.h"

#define WHY_MAX 512
#define CHECK_SECONDS_MAX 3600

static json_t *refusal(const char *error)
{
	return json_pack("{s:b, s:s}", "ok", 0, "error", error);
}

static json_t *failure(int r)
{
	return refusal(strerror(-r));
}

static json_t *perform_status(const struct request_context *ctx)
{
	struct store_status status;
	int r = store_status(ctx->store, &status);

	if (r < 0)
		return failure(r);
	return json_pack("{s:b, s:o}", "ok", 1, "status",
			 report_json(&ctx->source, &status));
}

/* For who goes on with the mount: its options are older. */
static void keep_limit(const struct request_context *ctx,
		       const struct store_status *status)
{
	struct kept *k = ctx->source.kept;

	if (!k)
		return;
	atomic_store(&k->low, status->low);
	atomic_store(&k->limit, status->limit);
}

static json_t *perform_limit(const struct request_context *ctx,
			     const json_t *request)
{
	struct store_limits limits = {
		.limit = json_string_value(json_object_get(request, "limit")),
		.grace_sec = -1,
	};
	struct store_prune how = { .older_than_sec = -1, .no_grace = true };
	struct store_pruned gone = { 0 };
	struct store_status status;
	char why[WHY_MAX] = "";
	int r = 0;

	if (limits.limit) {
		r = store_set_limits(ctx->store, &limits, why, sizeof(why));
		if (r < 0)
			return *why ? refusal(why) : failure(r);
	}
	r = store_status(ctx->store, &status);
	if (r == 0 && json_is_true(json_object_get(request, "now"))) {
		how.to_bytes = status.limit;
		r = store_prune(ctx->store, &how, &gone);
		if (r == 0)
			r = store_status(ctx->store, &status);
	}
	if (r < 0)
		return failure(r);
	if (limits.limit)
		keep_limit(ctx, &status);
	return json_pack("{s:b, s:I, s:I, s:I, s:I}", "ok", 1, "limit_bytes",
			 (json_int_t)status.limit, "excess_bytes",
			 (json_int_t)status.excess, "units",
			 (json_int_t)gone.units, "bytes",
			 (json_int_t)gone.bytes);
}

static json_t *perform_prune(const struct request_context *ctx,
			     const json_t *request)
{
	const json_t *older = json_object_get(request, "older_than_seconds");
	const json_t *to = json_object_get(request, "to_bytes");
	bool all = json_is_true(json_object_get(request, "all"));
	struct store_prune how = {
		.older_than_sec = older ? json_integer_value(older) : -1,
		.to_bytes = (uint64_t)json_integer_value(to),
		.no_grace = all,
		.dry_run = json_is_true(json_object_get(request, "dry_run")),
	};
	struct store_pruned gone = { 0 };
	struct store_status status;
	int r = store_status(ctx->store, &status);

	if (r == 0) {
		if (!older && !to && !all)
			how.to_bytes = status.low;
		r = store_prune(ctx->store, &how, &gone);
	}
	if (r == 0)
		r = store_status(ctx->store, &status);
	if (r < 0)
		return failure(r);
	return json_pack("{s:b, s:I, s:I, s:I}", "ok", 1, "units",
			 (json_int_t)gone.units, "bytes",
			 (json_int_t)gone.bytes, "used_bytes",
			 (json_int_t)status.used);
}

static json_t *perform_sync(const struct request_context *ctx)
{
	int r = store_sync(ctx->store);

	return r < 0 ? failure(r) : json_pack("{s:b}", "ok", 1);
}

/* Lines for a reply. */
struct findings {
	json_t *lines;
	bool failed;
};

static void note_finding(void *arg, const char *text)
{
	struct findings *f = arg;

	if (json_array_size(f->lines) < REQUEST_FINDINGS_MAX &&
	    json_array_append_new(f->lines, json_string(text)) < 0)
		f->failed = true;
}

static json_t *check_reply(const struct store_checked *c, json_t *findings,
			   bool first)
{
	json_t *o = json_pack("{s:b, s:O, s:I, s:I, s:b, s:I, s:I}", "ok", 1,
			      "findings", findings, "found",
			      (json_int_t)c->findings, "bytes_checked",
			      (json_int_t)c->bytes, "done", c->done, "stage",
			      (json_int_t)c->stage, "at", (json_int_t)c->at);
	json_t *more = json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "files",
		(json_int_t)c->files, "recipes", (json_int_t)c->recipes,
		"blocks", (json_int_t)c->blocks, "forgotten_blocks",
		(json_int_t)c->forgotten, "packs", (json_int_t)c->packs,
		"charged_bytes", (json_int_t)c->charged, "used_bytes",
		(json_int_t)c->used, "bytes_total", (json_int_t)c->bytes_all);

	if (o && first && (!more || json_object_update(o, more) < 0)) {
		json_decref(o);
		o = NULL;
	}
	json_decref(more);
	return o;
}

static json_t *perform_check(const struct request_context *ctx,
			     const json_t *request)
{
	json_int_t stage =
		json_integer_value(json_object_get(request, "stage"));
	json_int_t seconds =
		json_integer_value(json_object_get(request, "seconds"));
	struct findings f = { .lines = json_array() };
	struct store_check how = {
		.data = json_is_true(json_object_get(request, "data")),
		.alone = !ctx->source.mountpoint,
		.stage = stage < 0 || stage > INT_MAX ? UINT_MAX
						      : (unsigned)stage,
		.at = (uint64_t)json_integer_value(
			json_object_get(request, "at")),
		.found = note_finding,
		.arg = &f,
	};
	struct store_checked checked;
	json_t *reply;
	int r;

	if (!how.alone && seconds > 0 && seconds <= CHECK_SECONDS_MAX)
		how.stop_ms = seconds * 1000;
	r = store_check(ctx->store, &how, &checked);
	if (r >= 0 && f.failed)
		r = -ENOMEM;
	reply = r < 0 ? failure(r) : check_reply(&checked, f.lines, stage == 0);
	json_decref(f.lines);
	return reply;
}

/* A reply in memory need not be bounded as one that a daemon sends. */
static json_t *perform_listing(const struct request_context *ctx,
			       const json_t *request, bool packages)
{
	bool paged = ctx->source.mountpoint != NULL;
	json_t *reply = NULL;
	int r = packages ? listing_packages(ctx->store, request, paged, &reply)
			 : listing_entries(ctx->store, request, paged, &reply);

	if (r == -EINVAL)
		return refusal(
			"that names no package: write PROJECT or PROJECT==VERSION, at most 100 of them");
	return r < 0 ? failure(r) : reply;
}

static json_t *perform_upgrade(const struct request_context *ctx,
			       const json_t *request)
{
	const char *program =
		json_string_value(json_object_get(request, "program"));
	char why[WHY_MAX] = "";

	if (!ctx->upgrade)
		return refusal(
			"the store is not mounted: the next mount takes the new program");
	if (!program || *program != '/')
		return refusal(
			"which program? its path must begin with a slash");
	if (ctx->upgrade(ctx->arg, program, why, sizeof(why)) < 0)
		return refusal(why);
	return json_pack("{s:b}", "ok", 1);
}

static json_t *perform_reload(const struct request_context *ctx,
			      const json_t *request)
{
	const char *options =
		json_string_value(json_object_get(request, "options"));
	char why[WHY_MAX] = "";

	if (!ctx->reload)
		return refusal(
			"the store is not mounted: the next mount takes its options");
	if (!options)
		return refusal("the request names no options");
	if (ctx->reload(ctx->arg, options, why, sizeof(why)) < 0)
		return refusal(why);
	return json_pack("{s:b}", "ok", 1);
}

json_t *request_perform(const struct request_context *ctx,
			const json_t *request)
{
	const char *command =
		json_string_value(json_object_get(request, "command"));

	if (!command)
		return refusal("the request names no command");
	if (strcmp(command, "status") == 0)
		return perform_status(ctx);
	if (strcmp(command, "limit") == 0)
		return perform_limit(ctx, request);
	if (strcmp(command, "prune") == 0)
		return perform_prune(ctx, request);
	if (strcmp(command, "sync") == 0)
		return perform_sync(ctx);
	if (strcmp(command, "upgrade") == 0)
		return perform_upgrade(ctx, request);
	if (strcmp(command, "reload") == 0)
		return perform_reload(ctx, request);
	if (strcmp(command, "check") == 0)
		return perform_check(ctx, request);
	if (strcmp(command, "list") == 0)
		return perform_listing(ctx, request, false);
	if (strcmp(command, "packages") == 0)
		return perform_listing(ctx, request, true);
	return refusal(
		"the daemon does not know this command; it may be older: unmount and mount again");
}
