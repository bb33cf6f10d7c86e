/* SPDX-License-Identifier: MIT */
#include "fs/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/link.h"
#include "fs/notify.h"
#include "store/base.h"

#define FD_SAFE 64 /* above all that a daemon inherits */

/* @fd, or none, as number @to. */
static void hand_down(int fd, int to)
{
	if (fd >= 0)
		(void)dup2(fd, to);
	else
		close(to);
}

/* In the child, which has nothing to lose but its exit code. */
static void become_daemon(const struct spawn *s, pid_t keeper, int link_end)
{
	const int from[] = { link_end, s->kept,	  s->trace,
			     s->lock,  s->device, s->control };
	int high[ARRAY_SIZE(from)];
	sigset_t set;
	int exe;

	(void)setpgid(0, 0);
	/* Where another keeper will follow it has daemons of its own. */
	if (notify_listened())
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != keeper) /* killed before that */
		_exit(DAEMON_AGAIN);
	/* In the background of a terminal now, but it may write there. */
	(void)signal(SIGTTOU, SIG_IGN);
	/* End signals stay blocked: they wait for who reads them. */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_UNBLOCK, &set, NULL);

	exe = fcntl(s->exe, F_DUPFD_CLOEXEC, FD_SAFE);
	for (size_t i = 0; i < ARRAY_SIZE(from); i++)
		high[i] = from[i] < 0 ? -1 : fcntl(from[i], F_DUPFD, FD_SAFE);
	for (size_t i = 0; i < ARRAY_SIZE(from); i++)
		hand_down(high[i], LINK_FD_SOCKET + (int)i);
	close_range(LINK_FD_END, (unsigned)exe - 1, 0);
	close_range((unsigned)exe + 1, ~0U, 0);
	(void)syscall(SYS_execveat, exe, "", s->argv, environ, AT_EMPTY_PATH);
	_exit(DAEMON_AGAIN);
}

pid_t spawn_daemon(const struct spawn *s, int *ret_link)
{
	int pair[2];
	pid_t keeper, pid;
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	keeper = getpid();
	pid = fork();
	if (pid == 0)
		become_daemon(s, keeper, pair[1]);
	r = -errno;
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return r;
	}
	*ret_link = pair[0];
	return pid;
}
