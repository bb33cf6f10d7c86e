/* SPDX-License-Identifier: MIT */
#include "store/linger.h"

#include <sys/stat.h>

struct linger {
	int ms;		      /* constant */
	pthread_mutex_t lock; /* guards all below */
	unsigned head;	      /* the oldest */
	unsigned count;
	struct {
		struct node *nd; /* owned use */
		int64_t until_ms;
	} ring[LINGER_MAX];
};

static int64_t linger_now_ms(void)
{
	struct timespec ts = base_deadline(0);

	return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

int linger_new(int ms, struct linger **ret)
{
	struct linger *lg = calloc(1, sizeof(*lg));

	if (!lg)
		return -ENOMEM;
	pthread_mutex_init(&lg->lock, NULL);
	lg->ms = ms;
	*ret = lg;
	return 0;
}

void linger_free(struct linger *lg)
{
	if (!lg)
		return;
	pthread_mutex_destroy(&lg->lock);
	free(lg);
}

struct node *linger_hold(struct tree *t, const struct inode *in)
{
	struct node *nd;

	if (!t->linger || S_ISDIR(in->mode) || in->nlink > 1)
		return NULL;
	/* Not while another's removal of it is being undone. */
	return node_get(t->nodes, in->ino, &nd) < 0 ? NULL : nd;
}

/* Take out the oldest whose time is over at @now_ms; returns how many. */
static unsigned linger_take_locked(struct linger *lg, int64_t now_ms,
				   struct node *nds[static EDIT_PUT_MAX])
{
	unsigned n = 0;

	while (n < EDIT_PUT_MAX && lg->count &&
	       lg->ring[lg->head].until_ms <= now_ms) {
		nds[n++] = lg->ring[lg->head].nd;
		lg->head = (lg->head + 1) % LINGER_MAX;
		lg->count--;
	}
	return n;
}

static unsigned linger_take(struct linger *lg, int64_t now_ms,
			    struct node *nds[static EDIT_PUT_MAX])
{
	LOCK_SCOPE(&lg->lock);
	return linger_take_locked(lg, now_ms, nds);
}

void linger_begin(struct tree *t, struct node *nd)
{
	struct node *oldest[EDIT_PUT_MAX];
	struct linger *lg = t->linger;
	unsigned at, n = 0;
	bool first;

	if (!nd)
		return;
	pthread_mutex_lock(&lg->lock);
	first = !lg->count;
	if (lg->count == LINGER_MAX)
		n = linger_take_locked(lg, INT64_MAX, oldest);
	at = (lg->head + lg->count++) % LINGER_MAX;
	lg->ring[at].nd = nd;
	lg->ring[at].until_ms = linger_now_ms() + lg->ms;
	pthread_mutex_unlock(&lg->lock);
	if (first)
		room_kick(t->room); /* linger_wait_ms() is another now */
	edit_put_orphans(t, oldest, n);
}

void linger_end(struct tree *t, bool all)
{
	int64_t now_ms = all ? INT64_MAX : linger_now_ms();
	struct node *nds[EDIT_PUT_MAX];
	unsigned n;

	if (!t->linger)
		return;
	/* Bounded, whatever comes in meanwhile. */
	for (unsigned i = 0; i < LINGER_MAX / EDIT_PUT_MAX; i++) {
		n = linger_take(t->linger, now_ms, nds);
		if (!n)
			return;
		edit_put_orphans(t, nds, n);
	}
}

int linger_wait_ms(struct tree *t, int most_ms)
{
	struct linger *lg = t->linger;
	int64_t ms;

	if (!lg)
		return most_ms;
	LOCK_SCOPE(&lg->lock);
	if (!lg->count)
		return most_ms;
	ms = lg->ring[lg->head].until_ms - linger_now_ms();
	if (ms < 0)
		ms = 0;
	return ms < most_ms ? (int)ms : most_ms;
}

uint64_t linger_count(struct tree *t)
{
	if (!t->linger)
		return 0;
	LOCK_SCOPE(&t->linger->lock);
	return t->linger->count;
}
