/* SPDX-License-Identifier: MIT */
#include "fs/notify.h"

#include "store/base.h"

#ifdef HAVE_SYSTEMD

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#define STATUS_MAX 1024
#define FLUSH_USEC (UINT64_C(5) * 1000 * 1000)

bool notify_listened(void)
{
	return getenv("NOTIFY_SOCKET") != NULL;
}

void notify_ready(void)
{
	(void)sd_notify(0, "READY=1");
}

void notify_stopping(void)
{
	(void)sd_notify(0, "STOPPING=1");
}

void notify_status(const char *format, ...)
{
	char line[STATUS_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	line[strcspn(line, "\n")] = '\0';
	(void)sd_notifyf(0, "STATUS=%s", line);
}

void notify_extend(unsigned sec)
{
	(void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%u000000", sec);
}

void notify_flush(void)
{
	if (notify_listened())
		(void)sd_notify_barrier(0, FLUSH_USEC);
}

/*
 * FDPOLL=0: else the manager waits for the end of what it keeps, and each
 * request of a FUSE connection wakes it up.
 */
void notify_keep(const char *name, int fd)
{
	char text[128];

	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
	(void)sd_pid_notify_with_fds(0, 0, text, &fd, 1);
}

void notify_drop(const char *name)
{
	(void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

static void free_names(char ***names)
{
	for (char **name = *names; name && *name; name++)
		free(*name);
	free(*names);
}

void notify_take(const char *const *names, int *ret_fds, size_t n)
{
	__attribute__((cleanup(free_names))) char **found = NULL;
	int count = sd_listen_fds_with_names(1, &found);

	for (size_t i = 0; i < n; i++)
		ret_fds[i] = -1;
	for (int k = 0; k < count; k++) {
		int fd = SD_LISTEN_FDS_START + k;

		for (size_t i = 0; i < n && fd >= 0; i++)
			if (ret_fds[i] < 0 && strcmp(found[k], names[i]) == 0)
				ret_fds[i] = steal_fd(&fd);
		base_closep(&fd);
	}
}

#else

bool notify_listened(void)
{
	return false;
}

void notify_ready(void)
{
}

void notify_stopping(void)
{
}

void notify_status(const char *format, ...)
{
	(void)format;
}

void notify_extend(unsigned sec)
{
	(void)sec;
}

void notify_flush(void)
{
}

void notify_keep(const char *name, int fd)
{
	(void)name;
	(void)fd;
}

void notify_drop(const char *name)
{
	(void)name;
}

void notify_take(const char *const *names, int *ret_fds, size_t n)
{
	(void)names;
	for (size_t i = 0; i < n; i++)
		ret_fds[i] = -1;
}

#endif
