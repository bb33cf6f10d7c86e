/* SPDX-License-Identifier: MIT */
/*
 * What a keeper leaves with the service manager, so that another keeper goes on
 * with the mount if this one is killed: the kept memory, the connection to the
 * kernel, the lock of the store and, once there is one, the socket that commands
 * connect to.
 *
 *	fdstore_keep()		once there is a mount
 *	fdstore_keep_control()	whenever there is another one
 *	fdstore_drop()		when it has ended
 *	fdstore_take()		in the next process
 *
 * Without a manager (notify.h) there is nothing to take, and nothing is kept.
 * Threads: one.
 */
#ifndef FS_FDSTORE_H
#define FS_FDSTORE_H

#include <stdbool.h>

struct fdstore {
	int kept, device, lock, control; /* -1: none */
};
#define FDSTORE_INIT                                                           \
	{                                                                      \
		.kept = -1, .device = -1, .lock = -1, .control = -1            \
	}

/* Returns when the manager has them, all but control. They stay the caller's
 * too. */
void fdstore_keep(const struct fdstore *f);
void fdstore_keep_control(int fd);
void fdstore_drop(void);

/*
 * To be called once, early. True: all but control are there, and the connection is
 * that of a mount of @store on @mountpoint that is still there. False: there is
 * nothing, or it is of no use; that has been logged then, and all is dropped.
 * Only looks at @mountpoint in the mount table: nobody answers there.
 */
bool fdstore_take(const char *store, const char *mountpoint,
		  struct fdstore *ret);

void fdstore_release(struct fdstore *f);

#endif
