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
 *   {"command": "upgrade", "program": "/usr/bin/pipcachefs"}   on a mount only
 *   {"command": "reload", "options": "limit=5G,grace=1h"}      on a mount only
 *   {"command": "check", "data": true, "seconds": 1, "stage": 0, "at": 0}
 *                                            each may be missing
 *   {"command": "list"}, {"command": "packages"}          see listing.h
 *
 *   {"ok": true, "status": {...}}                         see report.h
 *   {"ok": true, "limit_bytes": N, "excess_bytes": N, "units": N, "bytes": N}
 *   {"ok": true, "units": N, "bytes": N, "used_bytes": N}
 *   {"ok": true}
 *   {"ok": true, "findings": ["one line", ...], "found": N, "bytes_checked": N,
 *    "done": false, "stage": N, "at": N, ...}
 *   {"ok": false, "error": "one line"}
 *
 * A check is done in steps, so that no thread is busy for long: after @seconds
 * (a store that is not mounted needs none, and does all at once) the reply says
 * where to go on, until "done". What was found in the step is counted, and
 * REQUEST_FINDINGS_MAX of it are told. The first step has besides "files",
 * "recipes", "blocks", "forgotten_blocks" (found damaged, and lost),
 * "packs", "charged_bytes", "used_bytes" and "bytes_total" (to be compared).
 *
 * Threads: any number at once.
 */
#ifndef FS_REQUEST_H
#define FS_REQUEST_H

#include "fs/report.h"

#define REQUEST_FINDINGS_MAX 100

struct request_context {
	struct store *store; /* borrowed */
	struct report_source source;
	/* Have another program take over: 0, or a negative errno and @why. NULL:
	 * nothing is mounted. */
	int (*upgrade)(void *arg, const char *program, char *why,
		       size_t why_size);
	/* Have a daemon with these options, as after -o, go on. Likewise. */
	int (*reload)(void *arg, const char *options, char *why,
		      size_t why_size);
	void *arg;
};

/* A new reference: the reply. NULL when out of memory. */
struct json_t *request_perform(const struct request_context *ctx,
			       const struct json_t *request);

#endif
