/* SPDX-License-Identifier: MIT */
#include "store/room.h"

#include <sys/queue.h>

#define USEC_PER_MSEC INT64_C(1000)

/* Somebody who waits for room, on his own stack. */
struct room_waiter {
	LIST_ENTRY(room_waiter) entry;
	enum quota_class class;
	bool disk;	/* the disk said it is full, whatever the quota says */
	uint64_t bytes; /* wanted */
	uint64_t credited; /* value of rm->credited when he came */
	uint64_t pass;	   /* value of rm->begun when he came */
	int64_t until_us;  /* monotonic: when he gives up */
};

struct room {
	struct room_disk disk;
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t back;  /* waiters: something changed */
	pthread_cond_t work;  /* the evictor: something to do */
	struct quota q;
	uint64_t parts[ROOM_PARTS];
	uint64_t credited; /* in all */
	LIST_HEAD(, room_waiter) waiters;

	uint64_t begun;	       /* passes so far */
	uint64_t ended;	       /* the last of them that is over */
	struct room_need pass; /* what the current or last one was for */
	bool nothing_left;     /* it found nothing more to evict */
	bool nothing_wheels;   /* also not for writers under wheels/ */
	int64_t retry_us;      /* monotonic: until when that is believed */
	bool served;	       /* @evictor is set */
	pthread_t evictor;     /* who calls room_wait() */
	bool kicked;
	bool stopped;
};

static int64_t now_us(void)
{
	struct timespec ts = base_deadline(0);

	return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock,
		       int64_t until_us)
{
	struct timespec ts = {
		.tv_sec = until_us / 1000000,
		.tv_nsec = until_us % 1000000 * 1000,
	};

	(void)pthread_cond_timedwait(cond, lock, &ts);
}

int room_new(struct room_disk disk, struct room **ret)
{
	struct room *rm = calloc(1, sizeof(*rm));

	if (!rm)
		return -ENOMEM;
	if (base_cond_init(&rm->back) < 0 || base_cond_init(&rm->work) < 0) {
		free(rm);
		return -ENOMEM;
	}
	pthread_mutex_init(&rm->lock, NULL);
	rm->disk = disk;
	rm->q.disk_free = UINT64_MAX;
	*ret = rm;
	return 0;
}

void room_free(struct room *rm)
{
	if (!rm)
		return;
	pthread_mutex_destroy(&rm->lock);
	pthread_cond_destroy(&rm->work);
	pthread_cond_destroy(&rm->back);
	free(rm);
}

static void look_at_disk_locked(struct room *rm)
{
	int64_t bytes;

	if (!rm->disk.free_bytes)
		return;
	bytes = rm->disk.free_bytes(rm->disk.arg);
	if (bytes >= 0)
		rm->q.disk_free = (uint64_t)bytes;
}

/* The evictor said so and nothing has changed since. */
static bool exhausted_locked(struct room *rm, bool wheels)
{
	if (rm->nothing_left && now_us() >= rm->retry_us) {
		rm->nothing_left = false;
		rm->nothing_wheels = false;
	}
	return wheels ? rm->nothing_wheels : rm->nothing_left;
}

static void changed_locked(struct room *rm)
{
	rm->nothing_left = false;
	rm->nothing_wheels = false;
	pthread_cond_broadcast(&rm->back);
}

void room_set_limit(struct room *rm, uint64_t limit, uint64_t low,
		    uint64_t min_free)
{
	LOCK_SCOPE(&rm->lock);
	quota_set(&rm->q, limit, low, min_free);
	changed_locked(rm);
	pthread_cond_signal(&rm->work);
}

/* --- Charging ----------------------------------------------------------- */

static void charge_locked(struct room *rm, uint64_t bytes)
{
	rm->q.charged += bytes;
	if (quota_pressure(&rm->q))
		pthread_cond_signal(&rm->work);
}

static void lower_locked(struct room *rm, uint64_t bytes)
{
	rm->q.charged -= bytes < rm->q.charged ? bytes : rm->q.charged;
}

static void credit_locked(struct room *rm, uint64_t bytes)
{
	if (!bytes)
		return;
	lower_locked(rm, bytes);
	rm->credited += bytes;
	changed_locked(rm);
}

/* waiter_ready_locked() of a deletion without room. When no pass ends in time,
 * or no evictor runs yet, it goes by what is in use, not by the bounds of
 * other acts under way. */
static int system_ready_locked(const struct room *rm,
			       const struct room_waiter *w, bool over)
{
	uint64_t used = rm->q.charged > rm->q.reserved
				? rm->q.charged - rm->q.reserved
				: 0;

	if (rm->ended > w->pass)
		return 1;
	if (!over && rm->served)
		return 0;
	return used + w->bytes <= rm->q.limit ? 1 : -ENOSPC;
}

/* 1: there is room now, 0: wait for it, or -ENOSPC. */
static int waiter_ready_locked(struct room *rm, const struct room_waiter *w)
{
	uint64_t gained = rm->credited - w->credited;
	bool over = rm->stopped || now_us() >= w->until_us;
	uint64_t need;

	if (w->disk) {
		if (gained >= w->bytes)
			return 1;
		over |= exhausted_locked(rm, w->class == QUOTA_WHEELS);
		return over ? (gained ? 1 : -ENOSPC) : 0;
	}
	look_at_disk_locked(rm);
	need = quota_shortfall(&rm->q, w->class, w->bytes);
	if (!need)
		return 1;
	if (w->class == QUOTA_SYSTEM)
		return system_ready_locked(rm, w, over);
	over |= need == UINT64_MAX ||
		exhausted_locked(rm, w->class == QUOTA_WHEELS);
	return over ? -ENOSPC : 0;
}

static int wait_locked(struct room *rm, struct room_waiter *w)
{
	int r;

	w->credited = rm->credited;
	w->pass = rm->begun;
	w->until_us = now_us() + ROOM_WAIT_MS * USEC_PER_MSEC;
	r = waiter_ready_locked(rm, w);
	if (r)
		return r;
	LIST_INSERT_HEAD(&rm->waiters, w, entry);
	pthread_cond_signal(&rm->work);
	do {
		wait_until(&rm->back, &rm->lock, w->until_us);
		r = waiter_ready_locked(rm, w);
	} while (!r);
	LIST_REMOVE(w, entry);
	return r;
}

int room_reserve(struct room *rm, enum quota_class class, uint64_t bytes)
{
	struct room_waiter w = { .class = class, .bytes = bytes };
	int r;

	LOCK_SCOPE(&rm->lock);
	if (rm->served && class == QUOTA_SYSTEM &&
	    pthread_equal(rm->evictor, pthread_self()))
		w.class = QUOTA_EVICT; /* he would wait for himself */
	r = wait_locked(rm, &w);
	if (r < 0)
		return r;
	rm->q.reserved += bytes;
	charge_locked(rm, bytes);
	return 0;
}

int room_try(struct room *rm, uint64_t bytes)
{
	LOCK_SCOPE(&rm->lock);
	if (rm->q.charged + bytes > rm->q.limit && !quota_excess(&rm->q))
		return -ENOSPC;
	rm->q.reserved += bytes;
	charge_locked(rm, bytes);
	return 0;
}

int room_disk_full(struct room *rm, enum quota_class class, uint64_t bytes)
{
	struct room_waiter w = { .class = class,
				 .disk = true,
				 .bytes = bytes ? bytes : 1 };
	int r;

	LOCK_SCOPE(&rm->lock);
	r = wait_locked(rm, &w);
	return r < 0 ? r : 0;
}

void room_settle(struct room *rm, uint64_t reserved, uint64_t used)
{
	LOCK_SCOPE(&rm->lock);
	rm->q.reserved -= reserved < rm->q.reserved ? reserved : rm->q.reserved;
	if (used >= reserved) {
		charge_locked(rm, used - reserved);
		return;
	}
	lower_locked(rm, reserved - used);
	pthread_cond_broadcast(&rm->back);
}

void room_credit(struct room *rm, uint64_t bytes)
{
	LOCK_SCOPE(&rm->lock);
	credit_locked(rm, bytes);
}

void room_set_part(struct room *rm, enum room_part part, uint64_t bytes)
{
	LOCK_SCOPE(&rm->lock);
	uint64_t before = rm->parts[part];

	rm->parts[part] = bytes;
	if (bytes >= before)
		charge_locked(rm, bytes - before);
	else
		credit_locked(rm, before - bytes);
}

void room_raise_part(struct room *rm, enum room_part part, uint64_t bytes)
{
	LOCK_SCOPE(&rm->lock);
	if (bytes <= rm->parts[part])
		return;
	charge_locked(rm, bytes - rm->parts[part]);
	rm->parts[part] = bytes;
}

/* --- The evictor -------------------------------------------------------- */

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* What @w lacks, with all of @wanted bytes to be charged if that is possible
 * for him at all. */
static uint64_t waiter_need(const struct room *rm, const struct room_waiter *w,
			    uint64_t wanted)
{
	uint64_t gained = rm->credited - w->credited;
	uint64_t need;

	if (w->disk)
		return w->bytes > gained ? w->bytes - gained : 0;
	need = quota_shortfall(&rm->q, w->class, wanted);
	if (need == UINT64_MAX)
		need = quota_shortfall(&rm->q, w->class, w->bytes);
	return need == UINT64_MAX ? 0 : need;
}

/* Fill in what there is to do; true if there is anything. */
static bool need_locked(struct room *rm, struct room_need *need)
{
	struct room_waiter *w;
	uint64_t wanted = 0;

	*need = (struct room_need){ .bytes = 0 };
	if (!exhausted_locked(rm, false))
		need->bytes = quota_pressure(&rm->q);
	for (w = LIST_FIRST(&rm->waiters); w; w = LIST_NEXT(w, entry))
		wanted += w->bytes;
	for (w = LIST_FIRST(&rm->waiters); w; w = LIST_NEXT(w, entry)) {
		need->checkpoint |= w->class == QUOTA_SYSTEM;
		if (exhausted_locked(rm, w->class == QUOTA_WHEELS))
			continue;
		need->urgent = true;
		need->wheels |= w->class == QUOTA_WHEELS;
		need->bytes = max_u64(need->bytes, waiter_need(rm, w, wanted));
	}
	need->urgent |= need->checkpoint;
	return need->bytes || need->checkpoint;
}

int room_wait(struct room *rm, int timeout_ms, struct room_need *ret)
{
	int64_t until = now_us() + timeout_ms * USEC_PER_MSEC;
	int64_t wake;
	struct room_need need;

	LOCK_SCOPE(&rm->lock);
	rm->evictor = pthread_self();
	rm->served = true;
	for (;;) {
		if (rm->stopped)
			return -ESHUTDOWN;
		if (need_locked(rm, &need))
			break;
		if (rm->kicked || now_us() >= until) {
			rm->kicked = false;
			return 0;
		}
		wake = until;
		if (rm->nothing_left && rm->retry_us < wake)
			wake = rm->retry_us;
		wait_until(&rm->work, &rm->lock, wake);
	}
	rm->kicked = false;
	rm->begun++;
	rm->pass = need;
	*ret = need;
	return 1;
}

void room_pass_done(struct room *rm, uint64_t freed, bool exhausted,
		    int retry_ms)
{
	LOCK_SCOPE(&rm->lock);
	rm->ended = rm->begun;
	exhausted |= !freed;
	/* A pass for the checkpoint alone did not look for victims. */
	if (rm->pass.bytes) {
		rm->nothing_left = exhausted;
		rm->nothing_wheels = exhausted && rm->pass.wheels;
		rm->retry_us = now_us() + retry_ms * USEC_PER_MSEC;
	}
	pthread_cond_broadcast(&rm->back);
}

void room_kick(struct room *rm)
{
	LOCK_SCOPE(&rm->lock);
	rm->kicked = true;
	pthread_cond_signal(&rm->work);
}

void room_stop(struct room *rm)
{
	LOCK_SCOPE(&rm->lock);
	rm->stopped = true;
	pthread_cond_broadcast(&rm->work);
	pthread_cond_broadcast(&rm->back);
}

void room_stat(struct room *rm, struct room_stat *ret)
{
	LOCK_SCOPE(&rm->lock);
	look_at_disk_locked(rm);
	*ret = (struct room_stat){
		.quota = rm->q,
		.reserved = rm->q.reserved,
		.disk_full = quota_disk_full(&rm->q),
		.exhausted = exhausted_locked(rm, false),
	};
}
