/* SPDX-License-Identifier: MIT */
/*
 * What is cached, as JSON between daemon and command, and as lines of text.
 *
 *   {"command": "list", "after": ID}            0: at the start
 *   {"ok": true, "entries": [{...}, ...], "more": false}
 *       "more": ask again with the "id" of the last as "after"
 *   {"command": "packages", "versions": false, "select": ["numpy==2.1.0"],
 *    "from": N}                                 each may be missing
 *   {"ok": true, "packages": [{...}, ...], "more": false, "stored_bytes": N}
 *       "more": ask again with "from" so much higher as came. The last object
 *       of a selection is all of it together.
 *
 * The keys of an object are stable:
 *   id, name         of an entry; name is that of its file
 *   kind             "wheel", "built" (by pip), "sdist", "metadata" (of a
 *                    wheel), "page" (of an index), "selfcheck", "other";
 *                    of packages also "package", and "loose": files of no
 *                    entry
 *   project, version null if not known; version also if it is any
 *   entries          in it; not of an entry
 *   files, size_bytes   as they were written
 *   own_bytes        what removing it brings back
 *   shared_bytes     of size_bytes: in pieces that others have too
 *   extents          stretches on the disk that they lie in
 *   last_use         unix seconds
 *   hits             times that a body was opened for reading
 * What the commands print as JSON has them too: `ls` under "entries" or
 * "packages", and "total" (entries, files, size_bytes, shared_bytes, hits);
 * `du` under "packages", with "shared_bytes" (what is no package's own) and
 * "total_bytes" (of all that is stored), or for chosen packages with
 * "freed_bytes" (what removing all of them brings back) and "size_bytes".
 *
 * Threads: any number at once.
 */
#ifndef FS_LISTING_H
#define FS_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

#define LISTING_ENTRIES_MAX 500 /* in a reply, that its size stays bounded */
#define LISTING_PACKAGES_MAX 1000
#define LISTING_SELECT_MAX 100

struct json_t; /* of <jansson.h> */

/*
 * Perform a request. @paged: the reply is to be bounded.
 * @ret: a new reference to the reply, NULL when out of memory.
 * Returns 0 or an error; -EINVAL: the request is none.
 */
int listing_entries(struct store *st, const struct json_t *request, bool paged,
		    struct json_t **ret);
int listing_packages(struct store *st, const struct json_t *request, bool paged,
		     struct json_t **ret);

/* What a command makes of the objects in replies. */
uint64_t listing_number(const struct json_t *item, const char *key);
/* "" for null. */
const char *listing_text(const struct json_t *item, const char *key);

/* "numpy 2.1.0", or what it is and its name. Returns @buf. */
const char *listing_title(const struct json_t *item, char *buf, size_t size);
/* "built wheel". */
const char *listing_kind(const struct json_t *item);
/* "2026-11-24 15:12", "never". Returns @buf. */
const char *listing_time(const struct json_t *item, char *buf, size_t size);

#endif
