/* SPDX-License-Identifier: MIT */
/*
 * What the service manager that started this process is told, and what it
 * keeps for the process that it starts when this one has died; see
 * sd_notify(3). Without such a manager, or built without libsystemd, all this
 * does nothing.
 *
 *	notify_take()			what the one before has left
 *	notify_keep(), notify_drop()
 *	notify_status(), notify_ready()
 *	notify_stopping(), notify_flush()
 *
 * A manager listens to the main process of a service only. Threads: any.
 */
#ifndef FS_NOTIFY_H
#define FS_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>

/* Does a manager listen? */
bool notify_listened(void);

void notify_ready(void);
void notify_stopping(void);

/* One line on what the service does now. */
void notify_status(const char *format, ...)
	__attribute__((format(printf, 1, 2)));

/* A start or an end may take @sec from now, whatever its time is. */
void notify_extend(unsigned sec);

/* Wait, a few seconds at most, until all that was said has been read. */
void notify_flush(void);

/* Keep a duplicate of @fd under @name: a word of letters. It is not looked at:
 * whatever becomes of it, it is kept. */
void notify_keep(const char *name, int fd);
void notify_drop(const char *name);

/*
 * Descriptors that were kept for this process: of each of the @n @names the
 * first one, or -1, goes to @ret_fds (close on exec; the caller's). All others
 * are closed. What was taken stays kept. Only the first call finds any.
 */
void notify_take(const char *const *names, int *ret_fds, size_t n);

#endif
