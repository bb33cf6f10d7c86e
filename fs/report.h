/* SPDX-License-Identifier: MIT */
/*
 * The state of a store, as JSON, as text for people, and for Prometheus. The
 * JSON object is the source of the other two: daemon and command exchange it.
 *
 * The keys of the JSON object are stable:
 *   version                 of the program that answers
 *   store, mountpoint       paths; mountpoint is null if not mounted
 *   mounted, pid, since     since when (unix seconds) which process serves it;
 *                           pid is null and since 0 if not mounted
 *   options                 as after -o; null likewise
 *   keeper_pid              who starts another one if it dies; null likewise
 *   daemon_deaths           how often that was necessary for this mount
 *   requests_taken_over     that a dying daemon had in work, and its successor
 *   requests_replayed       finished; those of them that only the answer was
 *   requests_given_up       missing of; and those that were answered with EIO,
 *                           since too many daemons had died of them
 *   state, reason           "ok", "read-only" or "disk-full", and why
 *   limit_bytes             what du may say of the store at most
 *   low_bytes               where eviction stops
 *   min_free_bytes          what is left free of the disk below
 *   grace_seconds           for so long what was used is not evicted
 *   charged_bytes           upper bound of what du says, kept at all times
 *   used_bytes              what du says
 *   excess_bytes            charged above the limit (it was made smaller)
 *   disk_free_bytes         of the disk below
 *   used                    bytes by kind: http, wheels, selfcheck, other,
 *                           index, freed (given up, waiting for a checkpoint)
 *   logical_bytes           what is in files, as they were written
 *   disk_data_bytes         what is kept of it, equal pieces once
 *   saved_bytes, ratio      their difference, and one by the other
 *   waste_bytes             what packs take beyond what is in them
 *   index_live_bytes        pages of the index that are in use
 *   files, entries          entry: what is evicted as one
 *   recipes, files_whole    files that are cut into blocks, and those of them
 *                           whose pack stays as it was written
 *   blocks                  pieces, each stored once
 *   open_files
 *   unsummed                files whose checksum is not taken yet
 *   hits, misses            bodies opened for reading, bodies newly written
 *   evictions, evicted_bytes
 *   damaged                 files dropped because their bytes were wrong
 *   reaped                  abandoned temporary files removed
 *   checkpoints, last_checkpoint (unix seconds)
 *   damaged_blocks          found since the mount
 *   damaged_records         of the index, by the last walk
 *   scrub_bytes             read by the scrub that is under way or the last one
 *   scrub_all_bytes         of about so many
 *   last_scrub, last_walk   when they were through (unix seconds; 0: never)
 *
 * Pure but for writing to the given stream. Threads: any number at once.
 */
#ifndef FS_REPORT_H
#define FS_REPORT_H

#include <stdio.h>

#include "fs/kept.h"
#include "store/store.h"

struct json_t; /* of <jansson.h> */

struct report_source {
	const char *store;
	const char *mountpoint; /* NULL: not mounted */
	const char *options;	/* likewise */
	pid_t pid;		/* 0: not mounted */
	struct kept *kept;	/* borrowed; NULL: not mounted */
};

/* A new reference; NULL when out of memory. */
struct json_t *report_json(const struct report_source *from,
			   const struct store_status *status);

/* The following take what report_json() made, perhaps in another process, and
 * take 0, "" or - for what is not there. */
void report_text(FILE *out, const struct json_t *report);
void report_prometheus(FILE *out, const struct json_t *report);

#endif
