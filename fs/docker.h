/* SPDX-License-Identifier: MIT */
/*
 * Attach a mount to Docker: its cache mounts, as builds come and go, for as
 * long as told to. Survives restarts of the engine.
 *
 * Threads: one.
 */
#ifndef FS_DOCKER_H
#define FS_DOCKER_H

#include <stddef.h>

#include "fs/covers.h"

/*
 * @host:    of the engine: "unix:///run/docker.sock".
 * @why:     on failure: what failed, why, and what to do.
 * Returns:  0 once told to end, and detached; or a negative errno.
 */
int docker_attach(const struct covers_config *config, const char *host,
		  char *why, size_t why_size);

#endif
