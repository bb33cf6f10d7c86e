/* SPDX-License-Identifier: MIT */
/*
 * A mount as a file describes it: one KEY=VALUE or switch a line, the options
 * of a mount (config.h) and where:
 *
 *	# what follows a # at the beginning of a line is a comment
 *	store = /var/lib/pipcachefs/default
 *	mountpoint = /run/pipcachefs/default
 *	limit = 20G
 *	ro
 *
 * /etc/pipcachefs/NAME.conf without the first two means /var/lib/pipcachefs/NAME
 * and /run/pipcachefs/NAME. Of two lines with one key the last counts.
 *
 *	configfile_read()
 *	configfile_release()
 *
 * Threads: any number at once.
 */
#ifndef FS_CONFIGFILE_H
#define FS_CONFIGFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#define CONFIGFILE_STORES "/var/lib/pipcachefs"
#define CONFIGFILE_MOUNTS "/run/pipcachefs"

struct configfile {
	/* Owned. The two paths are absolute. */
	char *store;
	char *mountpoint;
	char *options; /* as after -o; "" if there are none */
	/* Not named in the file: the place is ours to make. */
	bool own_store, own_mountpoint;
};
#define CONFIGFILE_INIT                                                        \
	{                                                                      \
		.store = NULL, .mountpoint = NULL, .options = NULL             \
	}

/*
 * @why:     on failure: one line with file, line, key, and what would do.
 * Returns:  0, -EINVAL for what is in it, -ENOMEM, or why it cannot be read.
 */
int configfile_read(const char *path, struct configfile *ret, char *why,
		    size_t why_size);
/* The same from a stream; @path is its name. */
int configfile_parse(FILE *in, const char *path, struct configfile *ret,
		     char *why, size_t why_size);

/* Frees what @f owns and empties it. Twice is harmless. */
void configfile_release(struct configfile *f);
#define cleanup_configfile __attribute__((cleanup(configfile_release)))

#endif
