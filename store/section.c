/* SPDX-License-Identifier: MIT */
#include "store/section.h"

#include <assert.h>
#include <stdatomic.h>

#include "store/base.h"

#define SLEEP_MIN_NS 20000
#define SLEEP_MAX_NS 1000000

/*
 * Sleepable RCU with two counters. New sections count themselves in
 * inside[turn % 2]; a quiesce advances the turn, so that new ones take the
 * other counter, and waits until the old one is 0.
 *
 * A section reads the turn, counts itself, and reads the turn again: if it has
 * moved on, the section takes its count back and tries once more. So it counts
 * in inside[t % 2], t being the turn that it read last (a turn that came round
 * to the same counter is as good). All these accesses are sequentially
 * consistent: there is one order of them. In it a section of turn t has
 * counted itself before the step from t to t + 1.
 *
 *  - It is waited for: let a quiesce step from t to t + 1. A section of turn t
 *    entered before it is in the counter until it leaves. One of an earlier
 *    turn u was in the counter when the quiesce that stepped from u was
 *    waiting, and that one has ended: they exclude each other.
 *  - One that is not waited for has read t + 1 or later, so it sees all that
 *    was done before the step.
 *  - No starvation: after the step nobody stays in the old counter who was not
 *    there before; a section that read the old turn just before it comes and
 *    goes once. That too may be met by the waiting, and only delays it.
 */
struct section {
	atomic_uint turn;
	atomic_uint inside[2];
	pthread_mutex_t quiescing; /* one at a time */
};

int section_new(struct section **ret)
{
	struct section *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->quiescing, NULL);
	*ret = s;
	return 0;
}

void section_free(struct section *s)
{
	if (!s)
		return;
	assert(!atomic_load(&s->inside[0]) && !atomic_load(&s->inside[1]));
	pthread_mutex_destroy(&s->quiescing);
	free(s);
}

unsigned section_enter(struct section *s)
{
	unsigned which;

	for (;;) {
		which = atomic_load(&s->turn) % 2;
		atomic_fetch_add(&s->inside[which], 1);
		if (atomic_load(&s->turn) % 2 == which)
			return which;
		atomic_fetch_sub(&s->inside[which], 1);
	}
}

void section_leave(struct section *s, unsigned ticket)
{
	assert(ticket < 2);
	atomic_fetch_sub(&s->inside[ticket], 1);
}

void section_quiesce(struct section *s)
{
	struct timespec nap = { .tv_nsec = SLEEP_MIN_NS };
	unsigned old;

	LOCK_SCOPE(&s->quiescing);
	old = atomic_fetch_add(&s->turn, 1) % 2;
	while (atomic_load(&s->inside[old])) {
		(void)nanosleep(&nap, NULL);
		if (nap.tv_nsec < SLEEP_MAX_NS)
			nap.tv_nsec *= 2;
		if (nap.tv_nsec > SLEEP_MAX_NS)
			nap.tv_nsec = SLEEP_MAX_NS;
	}
}
