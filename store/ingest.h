/* SPDX-License-Identifier: MIT */
/*
 * Ingest: what happens to a file after its last writer closed it, in the
 * background. For now: its bytes get their XXH3, so that they can be verified
 * after the next mount.
 *
 * A file that is unlinked or opened for writing meanwhile is left alone; the
 * next close brings it back.
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

/* A file was closed. Never blocks. Out of memory: the file stays without a
 * checksum until it is closed again or the store opened again. */
void ingest_add(struct ingest *in, uint64_t ino);

/* Files that wait, the one under way included. */
uint64_t ingest_pending(struct ingest *in);

/* Finish what waits and end the thread. Frees @in; NULL is fine. */
void ingest_stop(struct ingest *in);

#endif
