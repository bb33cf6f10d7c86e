/* SPDX-License-Identifier: MIT */
/*
 * The options of a mount: text in, one checked struct out, constant from then
 * on.
 *
 *	config_parse()		"limit=5G,nosuid" -> struct config
 *	config_release()
 *
 * Sizes stay text: a share of the disk is the store's to work out.
 * Threads: one parses; a parsed config may be read by any number.
 */
#ifndef FS_CONFIG_H
#define FS_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_WORKERS_MAX 64
#define CONFIG_OPTIONS_MAX 1000 /* bytes of their text */
#define CONFIG_GRACE_MAX_SEC (INT64_C(365) * 24 * 3600)
#define CONFIG_WATCHDOG_SEC 30
#define CONFIG_WATCHDOG_MAX_SEC (INT64_C(24) * 3600)
#define CONFIG_STOP_SEC 60
#define CONFIG_STOP_MAX_SEC (INT64_C(24) * 3600)
#define CONFIG_SCRUB_SEC (INT64_C(30) * 24 * 3600)
#define CONFIG_SCRUB_MAX_SEC (INT64_C(3650) * 24 * 3600)

struct config {
	/* As given; NULL means the store's default. Owned. */
	char *limit, *low, *min_free;
	/* Checked. */
	int64_t grace_sec;    /* -1: the default */
	int64_t watchdog_sec; /* 0: none */
	int64_t stop_timeout_sec;
	bool sync_strict;
	int64_t scrub_sec; /* 0: off */
	unsigned workers;  /* to begin with, 1..CONFIG_WORKERS_MAX */
	bool allow_other;
	unsigned long mount_flags; /* of mount(2) */
};

/*
 * @opts:    comma-separated, as after -o; NULL and "" are none.
 * @root:    whether the superuser mounts: allow_other is the default then.
 * @why:     on failure: what is wrong with which option, and what would do.
 * Returns:  0, -EINVAL, -ENOMEM; *@ret is untouched then.
 */
int config_parse(const char *opts, bool root, struct config *ret, char *why,
		 size_t why_size);

/* The first option that differs and holds as long as the mount; NULL: each one
 * that differs is one that its next daemon can have. */
const char *config_fixed(const struct config *now, const struct config *then);

/* Frees what @c owns and empties it. Twice is harmless. */
void config_release(struct config *c);

#endif
