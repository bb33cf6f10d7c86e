/* SPDX-License-Identifier: MIT */
/*
 * What Docker's API answers, as far as it matters here. The text is untrusted:
 * only what has the right form and a name that is a single plain component
 * comes out of it.
 *
 * Pure: no I/O, no locks.
 */
#ifndef FS_ANSWER_H
#define FS_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#define ANSWER_ID_MAX 64

/* Of /info and /version. */
struct answer_engine {
	char *root;	    /* owned; its data-root, absolute */
	const char *dir;    /* below it: where the driver keeps directories */
	const char *suffix; /* of a cache mount's directory there */
};
#define ANSWER_ENGINE_INIT                                                     \
	{                                                                      \
		.root = NULL                                                   \
	}
void answer_engine_release(struct answer_engine *e);

/*
 * Returns:  0; -EPROTO no answer of Docker; -ENOTSUP an engine that can not be
 *           attached to; -ENOMEM. *@why says so.
 */
int answer_read_version(const char *text, size_t len, char *why,
			size_t why_size);
int answer_read_info(const char *text, size_t len, struct answer_engine *ret,
		     char *why, size_t why_size);

/* A cache mount, of /system/df. */
struct answer_cache {
	char id[ANSWER_ID_MAX + 1];
	bool in_use;
	bool has_base; /* begun as a copy of something: uid=, mode=, from= */
};

struct answer_caches {
	struct answer_cache *cache; /* owned */
	size_t n;
};
#define ANSWER_CACHES_INIT                                                     \
	{                                                                      \
		.cache = NULL, .n = 0                                          \
	}
void answer_caches_release(struct answer_caches *c);

/*
 * The cache mounts for one of @n_targets directories in containers.
 * Returns 0, -EPROTO or -ENOMEM.
 */
int answer_read_caches(const char *text, size_t len, const char *const *targets,
		       size_t n_targets, struct answer_caches *ret);

/* Is @path an absolute one without "..", "." and empty components? */
bool answer_is_plain_path(const char *path);

#endif
