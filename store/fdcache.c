/* SPDX-License-Identifier: MIT */
#include "store/fdcache.h"

#include <assert.h>
#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include "store/base.h"

/* The other half is for all else: sockets, directories, the index. */
#define SHARE_OF_LIMIT 2
#define MAX_MIN 16
/* Opening again costs little beside reading: no need to fill the kernel. */
#define MAX_MAX 8192

static unsigned default_max(void)
{
	struct rlimit files;
	rlim_t max = MAX_MAX;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 &&
	    files.rlim_cur / SHARE_OF_LIMIT < max)
		max = files.rlim_cur / SHARE_OF_LIMIT;
	return max < MAX_MIN ? MAX_MIN : (unsigned)max;
}

void fdcache_init(struct fdcache *c, unsigned max)
{
	pthread_mutex_init(&c->lock, NULL);
	TAILQ_INIT(&c->open);
	c->n = 0;
	c->max = max ? max : default_max();
}

void fdcache_release(struct fdcache *c)
{
	assert(c->n == 0);
	pthread_mutex_destroy(&c->lock);
}

static void enter_locked(struct fdcache *c, struct fdslot *s, int fd, int pins)
{
	s->fd = fd;
	TAILQ_INSERT_TAIL(&c->open, s, link);
	c->n++;
	atomic_store(&s->pins, pins);
}

static void leave_locked(struct fdcache *c, struct fdslot *s)
{
	TAILQ_REMOVE(&c->open, s, link);
	c->n--;
}

/* Is this one to be closed? If so, nobody can pin it any more. */
static bool shut_locked(struct fdslot *s)
{
	int none = 0;

	return !atomic_exchange(&s->recent, false) &&
	       atomic_compare_exchange_strong(&s->pins, &none, FDSLOT_SHUT);
}

/* Close the first that nobody has pinned, and that nobody has pinned since the
 * hand came by, unless it has gone round. False: all are pinned. */
static bool close_one_locked(struct fdcache *c)
{
	struct fdslot *s;

	for (unsigned i = 2 * c->n; i > 0; i--) {
		s = TAILQ_FIRST(&c->open);
		if (shut_locked(s)) {
			leave_locked(c, s);
			(void)close(steal_fd(&s->fd));
			return true;
		}
		TAILQ_REMOVE(&c->open, s, link);
		TAILQ_INSERT_TAIL(&c->open, s, link);
	}
	return false;
}

static void trim_locked(struct fdcache *c)
{
	while (c->n > c->max && close_one_locked(c)) {
	}
}

void fdslot_fill(struct fdcache *c, struct fdslot *s, int fd)
{
	LOCK_SCOPE(&c->lock);
	enter_locked(c, s, fd, 0);
	atomic_store(&s->recent, true);
	trim_locked(c);
}

/* One pin more of a slot that is open. */
static bool pin_open(struct fdslot *s)
{
	int pins = atomic_load(&s->pins);

	while (pins >= 0)
		if (atomic_compare_exchange_weak(&s->pins, &pins, pins + 1))
			return true;
	return false;
}

static int open_locked(struct fdcache *c, const struct fdopener *how)
{
	int fd;

	do
		fd = how->open(how->arg);
	while ((fd == -EMFILE || fd == -ENFILE) && close_one_locked(c));
	return fd;
}

int fdslot_pin(struct fdcache *c, struct fdslot *s, const struct fdopener *how)
{
	if (!pin_open(s)) {
		LOCK_SCOPE(&c->lock);
		int fd;

		/* Somebody else may have been first. */
		if (!pin_open(s)) {
			fd = open_locked(c, how);
			if (fd < 0)
				return fd;
			enter_locked(c, s, fd, 1);
			trim_locked(c);
		}
	}
	/* Written to only where it is not: hot files share no cache line. */
	if (!atomic_load(&s->recent))
		atomic_store(&s->recent, true);
	return s->fd;
}

void fdslot_unpin(struct fdslot *s)
{
	int before = atomic_fetch_sub(&s->pins, 1);

	assert(before > 0);
	(void)before;
}

int fdslot_take(struct fdcache *c, struct fdslot *s)
{
	LOCK_SCOPE(&c->lock);
	if (atomic_load(&s->pins) == FDSLOT_SHUT)
		return -1;
	assert(atomic_load(&s->pins) == 0);
	atomic_store(&s->pins, FDSLOT_SHUT);
	leave_locked(c, s);
	return steal_fd(&s->fd);
}
