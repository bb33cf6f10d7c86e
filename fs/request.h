/* SPDX-License-Identifier: MIT */
/*
 * What commands ask of a store, whether its daemon answers or the command has
 * opened the store itself. A request and its reply are JSON objects:
 *
 *   {"command": "status"}
 *   {"command": "limit", "limit": "5G", "now": false}     limit may be missing
 *   {"command": "prune", "older_than_seconds": 604800, "to_bytes": 2147483648,
 *    "all": false, "dry_run": true}          each may be missing; with none of
 *                                            the first three: to the low mark
 *   {"command": "sync"}
 *
 *   {"ok": true, "status": {...}}                         see report.h
 *   {"ok": true, "limit_bytes": N, "excess_bytes": N, "units": N, "bytes": N}
 *   {"ok": true, "units": N, "bytes": N, "used_bytes": N}
 *   {"ok": true}
 *   {"ok": false, "error": "one line"}
 *
 * Threads: any number at once.
 */
#ifndef FS_REQUEST_H
#define FS_REQUEST_H

#include "fs/report.h"

struct request_context {
	struct store *store; /* borrowed */
	struct report_source source;
};

/* A new reference: the reply. NULL when out of memory. */
struct json_t *request_perform(const struct request_context *ctx,
			       const struct json_t *request);

#endif
