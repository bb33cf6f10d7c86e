/* SPDX-License-Identifier: MIT */
/*
 * What operations of test_faults.c may return while something is injected. For
 * one source file of a test program.
 */
#ifndef TESTS_FAULTRESULT_H
#define TESTS_FAULTRESULT_H

#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "faultkit.h"

static struct {
	enum fault_kind kind;
	int error;
	bool lasting;
} now;

static char said[256]; /* the last report, for messages */

static inline void note(void *arg, int priority, const char *text)
{
	(void)arg;
	(void)priority;
	(void)snprintf(said, sizeof(said), "%s", text);
}

/* A file whose bytes the disk did not give is dropped as damaged, at any time:
 * the ingest reads too. */
static inline bool drops_files(void)
{
	return now.error == EIO &&
	       (now.kind == FAULT_READ || now.kind == FAULT_OPEN);
}

/*
 * What an operation may return: the error, or a miss, be it of a name or of an
 * inode; that the store became read-only, by a disk that failed or a sync that
 * did; that there is no room, which is what a full quota of the disk looks
 * like; an I/O error where a failed sync or write left LMDB no way on.
 */
static inline bool allowed(int r)
{
	bool disk = now.error == EIO || now.kind == FAULT_SYNC ||
		    now.kind == FAULT_WRITE;

	return r >= 0 || r == -now.error || r == -ENOENT || r == -EROFS ||
	       (r == -ENOSPC && now.error == EDQUOT) || (r == -EIO && disk) ||
	       (r == -ESTALE && drops_files());
}

/* check allocates memory with each assertion: none while there is none. */
static inline int expect(const char *what, int r)
{
	if (!allowed(r))
		ck_abort_msg("%s: %s, where %s was injected (%s)", what,
			     strerror(-r), strerror(now.error), said);
	return r;
}

#endif
