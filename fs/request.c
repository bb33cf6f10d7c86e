/* SPDX-License-Identifier: MIT */
#include "fs/request.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include <jansson.h>

#include "store/base.h"

#define WHY_MAX 512

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
	return refusal(
		"the daemon does not know this command; it may be older: unmount and mount again");
}
