/* SPDX-License-Identifier: MIT */
/*
 * What a path in the cache is, who it is evicted with, and how long it is safe.
 *
 * Knows the directory layouts of pip (all of pip 9 to 26): http/ and http-v2/
 * with five one-digit directories and SHA-224 names, wheels/xx/xx/xx/rest/,
 * selfcheck/ and before it selfcheck.json. A layout is recognised at the root
 * of the mount and one directory below it (a project's own cache beside
 * others). Names must match strictly: hex digits, lengths, and for http the
 * fan-out digits must be those of the name. Anything else is LAYOUT_OTHER and
 * is never evicted.
 *
 * Pure: no I/O, no allocation, no locks; any thread.
 */
#ifndef STORE_LAYOUT_H
#define STORE_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LAYOUT_DEPTH_MAX 16 /* directories deeper than this are OTHER */
#define LAYOUT_GRACE_SEC 600
#define LAYOUT_WHEELS_GRACE_FACTOR 3 /* 30 minutes with the default grace */
#define LAYOUT_TMP_AGE_SEC 3600

enum layout_kind {
	LAYOUT_OTHER = 0,
	LAYOUT_HTTP = 1,      /* header or body, or an old-format http file */
	LAYOUT_WHEEL = 2,     /* anything below wheels/xx/xx/xx/rest/ */
	LAYOUT_SELFCHECK = 3, /* small state */
	LAYOUT_TMP = 4,	      /* pip's HASHxxxxxxxx.tmp: only reaped */
	LAYOUT_KINDS
};

/* Queues of the LRU, in the order in which equal ages go. */
enum layout_queue {
	LAYOUT_QUEUE_HTTP = 1, /* LAYOUT_HTTP, LAYOUT_SELFCHECK */
	LAYOUT_QUEUE_WHEELS = 2,
};

struct layout_unit {
	enum layout_kind kind;
	unsigned dir;	 /* which of @dirs holds the unit: 0 the root, i the */
			 /* directory named dirs[i - 1] */
	size_t name_len; /* leading bytes of the file's name that name the */
			 /* unit; 0: the directory itself is the unit */
	bool body;	 /* a cached body: H.body, an old-format http file, */
			 /* a built wheel; not a header or small state */
};

/*
 * Classify a regular file.
 *
 * @dirs, @n:  names of the directories from below the root down, n = 0 for a
 *             file in the root; more than LAYOUT_DEPTH_MAX is OTHER.
 * @name:      the file's name.
 */
struct layout_unit layout_classify(const char *const *dirs, unsigned n,
				   const char *name);

/* True for units that may be evicted (HTTP, WHEEL, SELFCHECK). */
bool layout_evictable(enum layout_kind kind);

enum layout_queue layout_queue(enum layout_kind kind);

/* Seconds a unit of @kind is safe after its last use, with option @grace. */
int64_t layout_grace_sec(enum layout_kind kind, int64_t grace_sec);

/*
 * The other name of a pair: "H" gives "H.body" and the other way round.
 * Returns false when @name has no partner (old http format has none stored;
 * the caller just finds no such name). @buf takes up to 256 bytes.
 */
bool layout_partner(const char *name, char buf[static 256]);

/*
 * True if an emptied directory may go with its last entry: a fan-out directory
 * of http*, never its top. Not under wheels/: a pip that has just made or seen
 * the directories there would fail its build, under http* it only does not
 * cache. Arguments as above, @dirs ends with the directory in question.
 */
bool layout_dir_prunable(const char *const *dirs, unsigned n);

/* True for a directory in or below a cache's wheels/. Arguments as above. */
bool layout_below_wheels(const char *const *dirs, unsigned n);

/* A cheap first look: could @name be pip's temporary file? */
bool layout_is_tmp_name(const char *name);

/* "http", "wheels", "selfcheck", "other": the keys of status. TMP is http. */
const char *layout_kind_name(enum layout_kind kind);

#endif
