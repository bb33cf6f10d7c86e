/* SPDX-License-Identifier: MIT */
#include "store/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/mdbfile.h"
#include "store/side.h"

#define STOP_ATTEMPTS 4 /* to make the last one, a retry's time apart */

struct checkpoint {
	struct checkpoint_config cfg;
	pthread_t thread;
	bool running; /* the thread; start and stop only */

	/* Of whoever runs one. @next is pinned but not safe: between two
	 * attempts, or for good when the store is frozen. */
	struct index_snap *pin; /* of the last one */
	struct index_snap *next;
	struct packs_batch *batch; /* of @next, while it is to be finished */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;  /* the thread: something to do */
	pthread_cond_t ended; /* callers: one has ended */
	bool stop;
	bool due;		  /* at once */
	bool armed;		  /* at the deadline */
	struct timespec deadline; /* CLOCK_MONOTONIC */
	/* Checkpoints are numbered as they begin. */
	uint64_t wanted; /* somebody waits for this one */
	uint64_t begun;
	uint64_t done;
	int error;  /* froze the store */
	int result; /* of the last one */
	struct checkpoint_stat stat;
};

/* -- One checkpoint ------------------------------------------------------- */

static void take_batch(void *arg)
{
	struct checkpoint *cp = arg;

	cp->batch = packs_pin(cp->cfg.packs);
	if (cp->cfg.holes)
		holes_pin(cp->cfg.holes);
}

/* An index that broke is news: the attempt tells. */
static bool nothing_new(const struct checkpoint *cp)
{
	const struct checkpoint_config *cfg = &cp->cfg;

	return cp->pin && !index_frozen(cfg->ix) &&
	       index_txnid(cfg->ix) == cp->pin->txnid &&
	       !packs_changed(cfg->packs) &&
	       packs_doomed_bytes(cfg->packs) == 0 &&
	       (!cfg->holes || holes_bytes(cfg->holes) == 0);
}

static int write_side(const struct checkpoint *cp,
		      const struct index_snap *snap, bool clean)
{
	int dir_fd = cp->cfg.index_dir_fd;
	struct side side = { .flags = clean ? SIDE_CLEAN : 0,
			     .page_size = snap->page_size,
			     .txnid = snap->txnid,
			     .time_sec = (uint64_t)time(NULL),
			     .meta = snap->meta };
	struct stat st;

	if (fstatat(dir_fd, MDBFILE_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	side.dev = st.st_dev;
	side.ino = st.st_ino;
	if (cp->cfg.witness)
		memcpy(side.token, cp->cfg.witness, sizeof(side.token));
	return side_write(dir_fd, &side);
}

/* The old checkpoint, the new one, or a torn mixture may be what a power cut
 * leaves: keep both snapshots, and let nobody write any more. */
static void freeze(struct checkpoint *cp, int error)
{
	index_freeze(cp->cfg.ix);
	{
		LOCK_SCOPE(&cp->lock);
		cp->error = error;
	}
	if (cp->cfg.failed)
		cp->cfg.failed(cp->cfg.failed_arg, error, true);
}

static void put_off(struct checkpoint *cp, int error)
{
	bool first;

	{
		LOCK_SCOPE(&cp->lock);
		first = !cp->stat.shortage;
		cp->stat.shortage = error;
		cp->stat.put_off++;
	}
	if (first && cp->cfg.failed)
		cp->cfg.failed(cp->cfg.failed_arg, error, false);
}

static void succeeded(struct checkpoint *cp, uint64_t txnid)
{
	LOCK_SCOPE(&cp->lock);
	cp->stat.count++;
	cp->stat.last_ns = base_now_ns();
	cp->stat.txnid = txnid;
	cp->stat.shortage = 0;
}

static void disarm(struct checkpoint *cp)
{
	LOCK_SCOPE(&cp->lock);
	cp->armed = false;
	cp->due = false;
}

/* The ranges of a pack before the pack itself: each measures what is left. */
static int release_batch(struct checkpoint *cp, bool safe)
{
	int r = 0;

	if (!cp->batch)
		return 0;
	if (cp->cfg.holes)
		r = holes_release(cp->cfg.holes, safe);
	packs_release(cp->cfg.packs, steal_ptr(cp->batch), safe);
	return r;
}

/* Steps 2 to 4 of the header for what is pinned. */
static int finish(struct checkpoint *cp, bool clean)
{
	const struct checkpoint_config *cfg = &cp->cfg;
	int r = packs_sync(cfg->packs, cp->batch);

	if (r == 0)
		r = index_sync(cfg->ix);
	if (r == 0)
		r = write_side(cp, cp->next, clean);
	if (base_is_shortage(r)) {
		put_off(cp, r);
		return r;
	}
	if (r < 0) {
		freeze(cp, r);
		(void)release_batch(cp, false);
		return r;
	}
	index_unpin(cfg->ix, cp->pin);
	cp->pin = steal_ptr(cp->next);
	succeeded(cp, cp->pin->txnid);
	r = release_batch(cp, true);
	if (r < 0)
		freeze(cp, r);
	return r;
}

/* All steps. The caller is the only one who runs any. */
static int run_one(struct checkpoint *cp, bool clean)
{
	const struct checkpoint_config *cfg = &cp->cfg;
	int r;

	/* What was committed up to here is covered; later commits arm again. */
	disarm(cp);
	r = index_pin(cfg->ix, take_batch, cp, &cp->next);
	/* Is LMDB still there, and could the last commit be written? */
	if (index_frozen(cfg->ix)) {
		freeze(cp, r < 0 ? r : -EROFS);
		(void)release_batch(cp, false);
		return cp->error;
	}
	if (base_is_shortage(r)) /* nothing was taken, nothing is lost */
		put_off(cp, r);
	return r < 0 ? r : finish(cp, clean);
}

/* Any but the first: with what comes before and after, and if need be. */
static int run_next(struct checkpoint *cp, bool clean)
{
	int r;

	disarm(cp);
	if (cp->next) {
		r = finish(cp, false);
		if (r < 0)
			return r;
		notify_call(&cp->cfg.after);
	}
	notify_call(&cp->cfg.before);
	/* Fails only where every other commit fails too, and tells its own
	 * caller when there are no ids. */
	(void)index_top_up_ids(cp->cfg.ix);
	/* Before looking: what is committed after it arms again. */
	disarm(cp);
	if (!clean && nothing_new(cp))
		return 0;
	r = run_one(cp, clean);
	if (r == 0)
		notify_call(&cp->cfg.after);
	return r;
}

/* -- The thread ----------------------------------------------------------- */

static bool deadline_over(const struct timespec *deadline)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > deadline->tv_sec ||
	       (now.tv_sec == deadline->tv_sec &&
		now.tv_nsec >= deadline->tv_nsec);
}

/* Sleep until one is to be run. False: end. */
static bool wait_for_work_locked(struct checkpoint *cp)
{
	for (;;) {
		if (cp->error)
			return false;
		if (cp->wanted > cp->begun || cp->due ||
		    (cp->armed && deadline_over(&cp->deadline)))
			return true;
		if (cp->stop)
			return false;
		if (cp->armed)
			pthread_cond_timedwait(&cp->wake, &cp->lock,
					       &cp->deadline);
		else
			pthread_cond_wait(&cp->wake, &cp->lock);
	}
}

static void arm_locked(struct checkpoint *cp, int ms)
{
	cp->armed = true;
	cp->deadline = base_deadline((int64_t)ms * 1000);
}

static int retry_ms(const struct checkpoint *cp)
{
	return cp->cfg.interval_ms < CHECKPOINT_RETRY_MS ? cp->cfg.interval_ms
							 : CHECKPOINT_RETRY_MS;
}

static void *checkpoint_main(void *arg)
{
	struct checkpoint *cp = arg;
	int r;

	pthread_mutex_lock(&cp->lock);
	while (wait_for_work_locked(cp)) {
		cp->begun++;
		pthread_mutex_unlock(&cp->lock);
		r = run_next(cp, false);
		pthread_mutex_lock(&cp->lock);
		cp->done = cp->begun;
		cp->result = r;
		if (r < 0 && !cp->error)
			arm_locked(cp, retry_ms(cp));
		pthread_cond_broadcast(&cp->ended);
	}
	pthread_mutex_unlock(&cp->lock);
	return NULL;
}

/* Signals are for the program's own threads. */
static int start_thread(struct checkpoint *cp)
{
	sigset_t all;
	sigset_t before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&cp->thread, NULL, checkpoint_main, cp);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	cp->running = r == 0;
	return base_thread_error(r);
}

/* -- Calls ---------------------------------------------------------------- */

static int init(struct checkpoint *cp, const struct checkpoint_config *cfg)
{
	int r;

	cp->cfg = *cfg;
	if (cp->cfg.interval_ms == 0)
		cp->cfg.interval_ms = CHECKPOINT_INTERVAL_MS;
	pthread_mutex_init(&cp->lock, NULL);
	pthread_cond_init(&cp->ended, NULL);
	r = base_cond_init(&cp->wake);
	if (r < 0)
		return r;
	if (cfg->frozen) {
		freeze(cp, cfg->frozen);
		return 0;
	}
	/* Which packs the last process changed is not known any more. An error
	 * is told once: who tries again would not hear of what was lost. */
	if (cfg->live && syncfs(cfg->index_dir_fd) < 0) {
		freeze(cp, -errno);
		return cp->error;
	}
	r = run_one(cp, false);
	return r < 0 ? r : start_thread(cp);
}

int checkpoint_start(const struct checkpoint_config *cfg,
		     struct checkpoint **ret)
{
	struct checkpoint *cp = calloc(1, sizeof(*cp));
	int r;

	if (!cp)
		return -ENOMEM;
	r = init(cp, cfg);
	if (r < 0) {
		(void)checkpoint_stop(cp, false);
		return r;
	}
	*ret = cp;
	return 0;
}

int checkpoint_run(struct checkpoint *cp)
{
	uint64_t mine;

	LOCK_SCOPE(&cp->lock);
	/* One that has begun may have missed what the caller committed. */
	mine = cp->begun + 1;
	if (mine > cp->wanted)
		cp->wanted = mine;
	pthread_cond_signal(&cp->wake);
	while (cp->done < mine && !cp->error)
		pthread_cond_wait(&cp->ended, &cp->lock);
	return cp->error ? cp->error : cp->result;
}

void checkpoint_changed(struct checkpoint *cp)
{
	bool due = index_grown(cp->cfg.ix) || index_frozen(cp->cfg.ix);

	LOCK_SCOPE(&cp->lock);
	if (due)
		cp->due = true;
	else if (!cp->armed)
		arm_locked(cp, cp->cfg.interval_ms);
	pthread_cond_signal(&cp->wake);
}

void checkpoint_due(struct checkpoint *cp)
{
	LOCK_SCOPE(&cp->lock);
	cp->due = true;
	pthread_cond_signal(&cp->wake);
}

int checkpoint_error(struct checkpoint *cp)
{
	LOCK_SCOPE(&cp->lock);
	return cp->error;
}

void checkpoint_stat(struct checkpoint *cp, struct checkpoint_stat *ret)
{
	LOCK_SCOPE(&cp->lock);
	*ret = cp->stat;
}

/* Nobody else runs any more. */
static int run_last(struct checkpoint *cp)
{
	int r = run_next(cp, true);

	for (int i = 1; base_is_shortage(r) && i < STOP_ATTEMPTS; i++) {
		(void)usleep((useconds_t)retry_ms(cp) * 1000);
		r = run_next(cp, true);
	}
	return r;
}

int checkpoint_stop(struct checkpoint *cp, bool clean)
{
	int r;

	if (!cp)
		return 0;
	if (cp->running) {
		pthread_mutex_lock(&cp->lock);
		cp->stop = true;
		pthread_cond_signal(&cp->wake);
		pthread_mutex_unlock(&cp->lock);
		pthread_join(cp->thread, NULL);
	}
	r = cp->error;
	if (clean && r == 0)
		r = run_last(cp);
	/* Nobody writes any more: whoever opens the index next begins from
	 * the side file. */
	(void)release_batch(cp, false);
	index_unpin(cp->cfg.ix, cp->pin);
	index_unpin(cp->cfg.ix, cp->next);
	pthread_cond_destroy(&cp->wake);
	pthread_cond_destroy(&cp->ended);
	pthread_mutex_destroy(&cp->lock);
	free(cp);
	return r;
}
