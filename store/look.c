/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "store/parts.h"
#include "store/recover.h"

#define LOOK_REASON_MAX 256

void store_ending(struct store *st)
{
	home_ending(&st->home, st->note);
}

int store_lock_fd(const struct store *st)
{
	return st->home.lock_fd;
}

int store_probe(const char *path, pid_t *ret_pid, char *why, size_t why_size)
{
	return home_probe(path, ret_pid, why, why_size);
}

int store_look(const char *path, char *why, size_t why_size)
{
	cleanup_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_close int index = -1;
	char said[LOOK_REASON_MAX] = "";
	int found = -1;

	if (dir >= 0)
		index = openat(dir, "index",
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir >= 0 && index < 0 && errno == ENOENT)
		return 0; /* a first mount that was cut off makes it */
	if (index >= 0)
		found = recover_index(index, NULL, RECOVER_RDONLY, said,
				      sizeof(said));
	else
		found = -errno;
	if (found == RECOVER_UNREADABLE) {
		snprintf(why, why_size, "%s: the index is unreadable (%s)",
			 path, said);
		return -EBADMSG;
	}
	if (found < 0)
		snprintf(why, why_size, "reading the index of %s: %s", path,
			 strerror(-found));
	return found < 0 ? found : found == RECOVER_RESTORED;
}
