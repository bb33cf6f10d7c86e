/* SPDX-License-Identifier: MIT */
/*
 * What the program says while it runs: one line per event, with a syslog
 * level, to stderr or to syslog. It starts on stderr; the daemon switches
 * once its parent has gone.
 *
 * By itself a line on stderr is "pipcachefs: warning: text"; if stderr goes to the
 * journal, "<4>text", the prefix that the journal takes the level from.
 *
 * This module has the only global state of fs/: where lines go.
 * Threads: any number at once; log_to_syslog() before there are others.
 */
#ifndef FS_LOG_H
#define FS_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <syslog.h>

/* @also_stderr: as long as somebody looks at it. May be called again. */
void log_to_syslog(bool also_stderr);

/* @priority: LOG_ERR, LOG_WARNING, LOG_NOTICE or LOG_INFO; LOG_DEBUG is
 * dropped. Keeps errno. */
void log_write(int priority, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void log_writev(int priority, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));

#endif
