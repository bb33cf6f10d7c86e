/* SPDX-License-Identifier: MIT */
/*
 * All covers of one engine: which of its cache directories have our mount over
 * them, which are to get it, what builds left below. Says what it does.
 *
 * Whatever else mounts, unmounts or restarts meanwhile, covers_look() and then
 * covers_visit() of each directory make it right again. What is covered with
 * the mount of another store is left alone.
 *
 *	covers_look()
 *	covers_visit() ...
 *	covers_end()
 *
 * Threads: one.
 */
#ifndef FS_COVERS_H
#define FS_COVERS_H

#include <stdbool.h>
#include <stddef.h>

#include "fs/cover.h"
#include "fs/mounts.h"

/* What to attach to an engine. All borrowed. */
struct covers_config {
	const char *mountpoint;	    /* of ours */
	const char *store;	    /* of that mount */
	const char *const *targets; /* directories in containers */
	size_t n_targets;
	const char *const *ids; /* of cache mounts, beside them */
	size_t n_ids;
	int interval_msec;
	bool once;  /* do what is to do, and leave it so */
	int cancel; /* readable: end */
};

struct covers_item;

struct covers {
	const struct covers_config *config; /* borrowed */
	const char *begin;		    /* borrowed; of each cover's name */
	struct cover_place place;

	/* Set by covers_look(). */
	bool mounted; /* our mount is there, and answers */
	unsigned major, minor;
	struct mounts list; /* of the place */
	int said;	    /* the last trouble with our mount */

	struct covers_item *item; /* owned; what is known of directories */
	size_t n;
};

void covers_release(struct covers *c);

/* The engine is this process, and keeps its directories below @path. Forgets
 * what was known. 0 or a negative errno. */
int covers_move(struct covers *c, pid_t pid, const char *path);

/*
 * Look at the mounts as they are. Takes away covers that show a dead mount, or
 * an earlier one of the store; and all, as long as there is no mount to show.
 * Returns: 0; -ESRCH the engine has ended; -ECANCELED; or another errno, with
 * all left as it is.
 */
int covers_look(struct covers *c);

/* Has it been visited? */
bool covers_knows(const struct covers *c, const char *name);

/* Is it covered, with nothing left below to take over? */
bool covers_is_done(const struct covers *c, const char *name);

/* Is one of the directories that were visited without its cover? */
bool covers_missing(const struct covers *c);

enum covers_need {
	COVERS_FINE,
	COVERS_AGAIN, /* visit it once more, soon, with @in_use asked anew */
	COVERS_LATER, /* it is in use, or something is in the way */
	COVERS_STOP,  /* told to */
};

/*
 * Cover a directory, unless it is done.
 *
 * @name:    of the directory, below the place.
 * @in_use:  a build may have it open uncovered. It is covered then only if
 *           nothing is in it yet, for the cover may show up in the build.
 * @make:    make it where it is missing.
 */
enum covers_need covers_visit(struct covers *c, const char *name, bool in_use,
			      bool make);

/* Forget the directories that were not visited since the last call. */
void covers_forget(struct covers *c);

/* Take all covers of the store away. Returns false if one stays. */
bool covers_end(struct covers *c);

/*
 * The last visits said @need: end, as the configuration wants it.
 * Returns: 0; -EBUSY a cover stays; -EAGAIN (once) not all is covered; *@why
 *          says so.
 */
int covers_finish(struct covers *c, enum covers_need need, char *why,
		  size_t why_size);

#endif
