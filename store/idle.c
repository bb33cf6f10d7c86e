/* SPDX-License-Identifier: MIT */
#include "store/idle.h"

#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/ioprio.h is not in all kernel headers that we build with. */
#define IDLE_IOPRIO_WHO_PROCESS 1
#define IDLE_IOPRIO_CLASS (3 << 13)
#define IDLE_IOPRIO_NONE 0 /* as its nice value says */
#define IDLE_NICE_ANY 20   /* RLIMIT_NICE: down to nice 0 */

static atomic_int idle_joins; /* under way */

/* Root may lack the capability, as in a service that is confined. */
static bool idle_is_privileged(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	return !syscall(SYS_capget, &head, data) &&
	       data[CAP_TO_INDEX(CAP_SYS_NICE)].effective &
		       CAP_TO_MASK(CAP_SYS_NICE);
}

static bool idle_may_return(void)
{
	struct rlimit rl;

	return idle_is_privileged() ||
	       (!getrlimit(RLIMIT_NICE, &rl) && rl.rlim_cur >= IDLE_NICE_ANY);
}

/* A refusal costs only politeness. */
static void idle_set(pthread_t thread, int policy)
{
	const struct sched_param param = { .sched_priority = 0 };

	(void)pthread_setschedparam(thread, policy, &param);
}

void idle_enter(void)
{
	if (atomic_load(&idle_joins) || !idle_may_return())
		return;
	idle_set(pthread_self(), SCHED_IDLE);
	/* idle_join() may have looked at us before. */
	if (atomic_load(&idle_joins))
		idle_leave();
}

void idle_leave(void)
{
	idle_set(pthread_self(), SCHED_OTHER);
}

void idle_join(pthread_t thread)
{
	atomic_fetch_add(&idle_joins, 1);
	idle_set(thread, SCHED_OTHER);
	pthread_join(thread, NULL);
	atomic_fetch_sub(&idle_joins, 1);
}

void idle_io(bool idle)
{
	(void)syscall(SYS_ioprio_set, IDLE_IOPRIO_WHO_PROCESS, 0,
		      idle ? IDLE_IOPRIO_CLASS : IDLE_IOPRIO_NONE);
}
