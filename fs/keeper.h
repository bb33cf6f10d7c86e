/* SPDX-License-Identifier: MIT */
/*
 * The keeper of a mount: a small process that holds what must not be lost when
 * the daemon dies, and starts another one then.
 *
 * It holds the connection to the kernel, the kept memory (kept.h) and the lock
 * of the store, and knows nothing of stores and requests. Callers that wait for
 * an answer go on waiting until the next daemon gives it.
 *
 * A daemon that ends as it should ends the mount. One that dies has a
 * successor: at once, or after a pause if others before it died soon too. When
 * KEEPER_SHORT_LIVES in a row answered no request at all, or KEEPER_CRASHES
 * crashed within KEEPER_SHORT_MSEC each, or none could start for
 * KEEPER_UNABLE_MSEC, the keeper gives up, and the mount answers errors; until
 * then its callers wait. One that shows no sign of life for the time that the options
 * say is killed, after its stacks went to the log.
 *
 * A service manager (notify.h) is told how it goes, and has a duplicate of what
 * the keeper holds: if the keeper is killed, and its daemon with it, the next
 * one goes on with that.
 *
 * What it needs it gets at the start. One thread.
 */
#ifndef FS_KEEPER_H
#define FS_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/attach.h"
#include "fs/fdstore.h"

#define KEEPER_SHORT_MSEC 10000
#define KEEPER_SHORT_LIVES 10
#define KEEPER_CRASHES 30
#define KEEPER_PAUSE_AFTER 2 /* of them; then each one longer */
#define KEEPER_PAUSE_MSEC 100
#define KEEPER_PAUSE_MAX_MSEC 5000
#define KEEPER_UNABLE_MSEC 180000
/* A start, or an end, may take so many times longer than a sign of life. */
#define KEEPER_START_FACTOR 10

struct keeper_config {
	/* Of daemons; they get -o, the options, and a successor --resume. */
	char *const *argv;
	const char *options; /* at most CONFIG_OPTIONS_MAX bytes */
	struct attach attach;
	/* Of a mount that is there: the keeper before was killed. Taken over. */
	struct fdstore left;
	int64_t watchdog_sec; /* 0: wait for ever */
	/* Called once the mount answers. */
	void (*ready)(void *arg);
	void *arg;
};

/*
 * Mount, or go on with a mount, and keep it until it ends.
 * @why:     if it was never mounted: one line.
 * Returns:  0 it ended as it should; a negative errno: it did not, with @why if
 *           ready() was not called, else it has been logged.
 */
int keeper_run(const struct keeper_config *cfg, char *why, size_t why_size);

#endif
