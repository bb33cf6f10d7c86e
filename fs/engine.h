/* SPDX-License-Identifier: MIT */
/*
 * Docker's API over its socket: is it an engine that can be attached to, which
 * cache mounts does it have, and when may that have changed.
 *
 *	engine_new()
 *	engine_connect()	again after ENGINE_GONE
 *	engine_caches(), engine_wait()
 *	engine_free()
 *
 * Threads: one.
 */
#ifndef FS_ENGINE_H
#define FS_ENGINE_H

#include <stddef.h>
#include <sys/types.h>

#include "fs/answer.h"

struct engine;

/*
 * @host:    "unix:///run/docker.sock" or a path.
 * @cancel:  borrowed; whenever it is readable, waiting ends.
 * Returns:  0, -EINVAL not a socket's name, -ENOMEM.
 */
int engine_new(const char *host, int cancel, struct engine **ret);
void engine_free(struct engine *e);

/*
 * @ret:     what the engine says of itself; released by the caller.
 * @why:     on failure: what failed, why, and what to do.
 * Returns:  0; -ENOTSUP it can not be attached to; -ECANCELED; else a negative
 *           errno, which may pass.
 */
int engine_connect(struct engine *e, struct answer_engine *ret, char *why,
		   size_t why_size);

/* The process of the engine that engine_connect() found. */
pid_t engine_pid(const struct engine *e);

/* 0, -ECANCELED, -EBUSY asked again later it will answer, or another one. */
int engine_caches(struct engine *e, const char *const *targets,
		  size_t n_targets, struct answer_caches *ret, char *why,
		  size_t why_size);

enum engine_news {
	ENGINE_NOTHING, /* in that time */
	ENGINE_EVENT,	/* images or cache mounts may have changed */
	ENGINE_GONE,
	ENGINE_CANCELED,
};

/*
 * Wait at most so long for news; also when not connected.
 *
 * @watch:  readable: that is an event too. -1: none.
 */
enum engine_news engine_wait(struct engine *e, int watch, int msec);

#endif
