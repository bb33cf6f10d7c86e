/* SPDX-License-Identifier: MIT */
#include "store/apart.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "store/base.h"

#define APART_ASK_USEC 10000 /* between two questions whether to go on */

/* What both processes see. */
struct apart_shared {
	int r;
	_Alignas(max_align_t) unsigned char out[];
};

__attribute__((noreturn)) static void apart_child(const struct apart *a,
						  struct apart_shared *shared,
						  pid_t parent)
{
	static const struct rlimit none = { 0 };

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* killed before that */
		_exit(EXIT_FAILURE);
	/* No stack in the log and no core of a program that is well. */
	for (int i = 1; i < NSIG; i++)
		if (base_is_fault(i))
			(void)signal(i, SIG_DFL);
	close_range(STDERR_FILENO + 1, (unsigned)a->fd - 1, 0);
	close_range((unsigned)a->fd + 1, ~0U, 0);
	(void)setrlimit(RLIMIT_CORE, &none);
	shared->r = a->fn(a->arg, shared->out);
	_exit(EXIT_SUCCESS);
}

static bool apart_goes_on(const struct apart *a)
{
	return !a->go_on || a->go_on(a->go_on_arg);
}

/* How it ended. -ECANCELED: it had to. */
static int apart_wait(const struct apart *a, pid_t pid, int *ret_status)
{
	int flags = a->go_on ? WNOHANG : 0, r = 0;
	pid_t ended;

	do {
		if (r == 0 && !apart_goes_on(a)) {
			(void)kill(pid, SIGKILL);
			flags = 0;
			r = -ECANCELED;
		}
		ended = waitpid(pid, ret_status, flags);
		if (ended == 0)
			(void)usleep(APART_ASK_USEC);
	} while (ended == 0 || (ended < 0 && errno == EINTR));
	return ended < 0 ? -errno : r;
}

static int apart_died(struct apart *a, int status)
{
	a->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	return base_is_fault(a->signal) ? -EFAULT : -EINTR;
}

int apart_run(struct apart *a, void *out, size_t size)
{
	struct apart_shared *shared;
	pid_t parent = getpid(), pid;
	int status = 0, r;

	shared = mmap(NULL, sizeof(*shared) + size, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	memcpy(shared->out, out, size);
	pid = fork();
	if (pid == 0)
		apart_child(a, shared, parent);
	r = pid < 0 ? -errno : apart_wait(a, pid, &status);
	if (r == 0 && WIFEXITED(status) && !WEXITSTATUS(status)) {
		memcpy(out, shared->out, size);
		r = shared->r;
	} else if (r == 0) {
		r = apart_died(a, status);
	}
	(void)munmap(shared, sizeof(*shared) + size);
	return r;
}
