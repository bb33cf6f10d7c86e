/* SPDX-License-Identifier: MIT */
#include "fs/trace.h"

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/log.h"
#include "store/base.h"

#define TRACE_DEPTH 48
#define TRACE_LINES_MAX 2000
#define TRACE_SIGNAL (SIGRTMIN + 1)

/* Set once, before the handlers are there. */
static int trace_fd = -1;

/* Only what may be called in a handler; backtrace() has been warmed up. */
static void write_stack(int sig)
{
	void *frames[TRACE_DEPTH];
	char head[64] = "thread ";
	int n = (int)strlen(head);

	for (long tid = gettid(), div = 1000000000; div; div /= 10)
		if (tid / div || div == 1)
			head[n++] = (char)('0' + tid / div % 10);
	memcpy(head + n, sig ? ", signal " : ":", sig ? 9 : 1);
	n += sig ? 9 : 1;
	if (sig) {
		head[n++] = (char)('0' + sig / 10 % 10);
		head[n++] = (char)('0' + sig % 10);
		head[n++] = ':';
	}
	head[n++] = '\n';
	if (write(trace_fd, head, (size_t)n) < 0)
		return;
	n = backtrace(frames, TRACE_DEPTH);
	backtrace_symbols_fd(frames, n, trace_fd);
}

static void on_ask(int sig)
{
	int saved = errno;

	(void)sig;
	write_stack(0);
	errno = saved;
}

/* The handler is gone by now: the signal comes again, and kills. */
static void on_crash(int sig)
{
	write_stack(sig);
	(void)raise(sig);
}

void trace_install(int fd)
{
	struct sigaction crash = { .sa_handler = on_crash,
				   .sa_flags = SA_RESETHAND | SA_NODEFER };
	struct sigaction ask = { .sa_handler = on_ask, .sa_flags = SA_RESTART };
	void *frames[1];

	trace_fd = fd;
	(void)backtrace(frames, 1); /* loads what it needs */
	sigaction(TRACE_SIGNAL, &ask, NULL);
	/* Not where a sanitizer has handlers of its own. */
	for (int sig = 1; sig < NSIG; sig++) {
		struct sigaction now;

		if (base_is_fault(sig) && sigaction(sig, NULL, &now) == 0 &&
		    now.sa_handler == SIG_DFL)
			sigaction(sig, &crash, NULL);
	}
}

void trace_ask(pid_t pid)
{
	char path[64];
	struct dirent *e;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	if (!tasks)
		return;
	while ((e = readdir(tasks)))
		if (e->d_name[0] != '.')
			(void)syscall(SYS_tgkill, pid,
				      strtol(e->d_name, NULL, 10),
				      TRACE_SIGNAL);
	closedir(tasks);
}

void trace_log(int fd)
{
	char line[256];
	size_t n = 0;
	int lines = 0;
	char c;

	while (lines < TRACE_LINES_MAX && read(fd, &c, 1) == 1) {
		if (c != '\n' && n + 1 < sizeof(line)) {
			line[n++] = c;
			continue;
		}
		line[n] = '\0';
		log_write(LOG_ERR, "  %s", line);
		n = 0;
		lines++;
	}
}
