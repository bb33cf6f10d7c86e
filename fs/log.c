/* SPDX-License-Identifier: MIT */
#include "fs/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_LINE_MAX 1024

static atomic_bool log_syslog;

/* Is stderr the stream to the journal that systemd gave us? */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;
	char *end;

	if (!stream || fstat(STDERR_FILENO, &st) < 0)
		return false;
	dev = strtoull(stream, &end, 10);
	if (*end != ':')
		return false;
	ino = strtoull(end + 1, NULL, 10);
	return st.st_dev == dev && st.st_ino == ino;
}

static const char *level_word(int priority)
{
	if (priority <= LOG_ERR)
		return "error: ";
	if (priority == LOG_WARNING)
		return "warning: ";
	return "";
}

void log_to_syslog(bool also_stderr)
{
	closelog();
	openlog("pipcachefs", LOG_PID | (also_stderr ? LOG_PERROR : 0),
		LOG_DAEMON);
	atomic_store(&log_syslog, true);
}

void log_writev(int priority, const char *format, va_list args)
{
	int saved = errno;
	char line[LOG_LINE_MAX];

	if (priority >= LOG_DEBUG)
		return;
	vsnprintf(line, sizeof(line), format, args);
	line[strcspn(line, "\n")] = '\0';
	if (atomic_load(&log_syslog))
		syslog(priority, "%s", line);
	else if (stderr_is_journal())
		fprintf(stderr, "<%d>%s\n", priority, line);
	else
		fprintf(stderr, "pipcachefs: %s%s\n", level_word(priority),
			line);
	errno = saved;
}

void log_write(int priority, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_writev(priority, format, args);
	va_end(args);
}
