/* SPDX-License-Identifier: MIT */
/*
 * Ingest: what happens to a file after its last writer closed it, in the
 * background: its bytes get their XXH3, so that they can be verified after the
 * next mount, and are cut into blocks (cut.h).
 *
 * A file that is unlinked or opened for writing meanwhile is left alone; the
 * next close brings it back.
 *
 * Closes that could not be committed (stage_end()) are made up for here: tried
 * again at once, then after a second, two, four, up to a minute, and once more
 * at the end.
 *
 * Threads: any. One thread of idle priority does the work.
 */
#ifndef STORE_INGEST_H
#define STORE_INGEST_H

#include <stdint.h>

#include "store/file.h"

struct ingest;

/* @fs: borrowed, outlives us. */
int ingest_start(struct files *fs, struct ingest **ret);

/* A file was closed, or could not be. Never blocks. Out of memory: the file
 * stays so until it is closed again or the store opened again. */
void ingest_add(struct ingest *in, uint64_t ino, uint64_t bytes);

/*
 * Called before a new file is made: with more than INGEST_BACKLOG_BYTES waiting
 * it waits a moment, INGEST_PAUSE_MS at most, so that writers don't run away
 * from the ingest, and nothing is evicted for bytes that turn out to be known.
 */
#define INGEST_BACKLOG_BYTES (64 * MIB)
#define INGEST_PAUSE_MS 200
void ingest_pace(struct ingest *in);

/* Files that wait, the one under way included; without those whose close is to
 * be tried again later. */
uint64_t ingest_pending(struct ingest *in);

/* Finish what waits and end the thread. Frees @in; NULL is fine. */
void ingest_stop(struct ingest *in);

#endif
