/* SPDX-License-Identifier: MIT */
#include "store/ingest.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "store/cut.h"
#include "store/idle.h"
#include "store/table.h"

/* Between two tries of closes that failed: twice as long each time. */
#define INGEST_RETRY_MIN_MS 1000
#define INGEST_RETRY_MAX_MS (INT64_C(60) * 1000)

struct ingest_item {
	uint64_t ino;
	uint64_t bytes;
};

/* A ring. */
struct ingest_queue {
	struct ingest_item *v; /* owned */
	size_t size;	       /* 0 or a power of two */
	size_t head;
	size_t count;
	uint64_t bytes; /* of all that wait */
};

struct ingest {
	struct cutter cutter;
	atomic_bool hurry; /* it is to end: no more cutting */
	pthread_t thread;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake;
	pthread_cond_t less; /* a file less waits */
	bool stop;
	bool busy;
	struct ingest_queue queue;
	struct ingest_queue stuck; /* closes to be tried again */
	int64_t retry_ms;	   /* until then, from the last time on */
	struct timespec retry_at;  /* monotonic */
};

/* The thread is to end: is there no need to look at the file? */
static bool ingest_can_wait(struct ingest *in, uint64_t ino)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct inode inode;

	if (!atomic_load(&in->hurry))
		return false;
	idle_io(false);
	return index_begin(in->cutter.fs->t->ix, false, &txn) >= 0 &&
	       table_inode_get(txn, ino, &inode) >= 0 &&
	       !(inode.flags & INODE_WRITERS) && (inode.flags & INODE_SUMMED);
}

static void ingest_one(struct ingest *in, uint64_t ino)
{
	struct files *fs = in->cutter.fs;
	struct store_file *f;
	char text[128];
	int r;

	if (ingest_can_wait(in, ino)) /* for the next mount */
		return;
	r = file_open(fs, ino, FILE_QUIET | FILE_BACKGROUND, &f);
	if (r < 0) /* gone meanwhile, or dropped as damaged and reported */
		return;
	r = cut_file(&in->cutter, f);
	if (r < 0 && r != -EROFS) {
		snprintf(text, sizeof(text),
			 "checksum of inode %" PRIu64 ": %s", ino,
			 strerror(-r));
		fs->report(fs->report_arg, LOG_WARNING, text);
	}
	file_close(f);
}

/* Has the close of @ino failed, also when the ingest closed it again? */
static bool ingest_is_stuck(struct files *fs, uint64_t ino)
{
	struct node *nd = node_find(fs->t->nodes, ino);
	bool stuck;

	if (!nd)
		return false;
	pthread_rwlock_rdlock(&nd->lock);
	stuck = nd->stuck;
	pthread_rwlock_unlock(&nd->lock);
	edit_put_node(fs->t, nd);
	return stuck;
}

static int ingest_grow(struct ingest_queue *q)
{
	size_t size = q->size ? q->size * 2 : 256;
	struct ingest_item *bigger = calloc(size, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	for (size_t i = 0; i < q->count; i++)
		bigger[i] = q->v[(q->head + i) & (q->size - 1)];
	free(q->v);
	q->v = bigger;
	q->size = size;
	q->head = 0;
	return 0;
}

/* Out of memory: it is left out, see ingest_add(). */
static void ingest_push(struct ingest_queue *q, struct ingest_item item)
{
	if (q->count == q->size && ingest_grow(q) < 0)
		return;
	q->v[(q->head + q->count++) & (q->size - 1)] = item;
	q->bytes += item.bytes;
}

static struct ingest_item ingest_pop(struct ingest_queue *q)
{
	struct ingest_item item = q->v[q->head];

	q->head = (q->head + 1) & (q->size - 1);
	q->count--;
	q->bytes -= item.bytes;
	return item;
}

static void ingest_work_locked(struct ingest *in)
{
	struct ingest_item item = ingest_pop(&in->queue);
	bool stuck;

	in->busy = true;
	pthread_mutex_unlock(&in->lock);
	ingest_one(in, item.ino);
	stuck = ingest_is_stuck(in->cutter.fs, item.ino);
	pthread_mutex_lock(&in->lock);
	in->busy = false;
	pthread_cond_broadcast(&in->less);
	if (!stuck || in->stop)
		return;
	if (!in->stuck.count)
		in->retry_at = base_deadline(in->retry_ms * 1000);
	ingest_push(&in->stuck, item);
}

/* Have the stuck ones tried again. */
static void ingest_retry_locked(struct ingest *in)
{
	while (in->stuck.count)
		ingest_push(&in->queue, ingest_pop(&in->stuck));
	in->retry_ms *= 2;
	if (in->retry_ms > INGEST_RETRY_MAX_MS)
		in->retry_ms = INGEST_RETRY_MAX_MS;
}

/* Wait for work; the stuck ones are some when their time has come. */
static void ingest_wait_locked(struct ingest *in)
{
	if (!in->stuck.count) {
		in->retry_ms = INGEST_RETRY_MIN_MS;
		pthread_cond_wait(&in->wake, &in->lock);
	} else if (pthread_cond_timedwait(&in->wake, &in->lock,
					  &in->retry_at) == ETIMEDOUT) {
		ingest_retry_locked(in);
	}
}

static void *ingest_run(void *arg)
{
	struct ingest *in = arg;

	/* Not idle as a whole: it holds the index's write lock now and then. */
	idle_io(true);
	(void)pthread_setname_np(pthread_self(), "ingest");
	pthread_mutex_lock(&in->lock);
	for (;;) {
		if (in->queue.count)
			ingest_work_locked(in);
		else if (!in->stop)
			ingest_wait_locked(in);
		else if (in->stuck.count)
			ingest_retry_locked(in);
		else
			break;
	}
	pthread_mutex_unlock(&in->lock);
	return NULL;
}

int ingest_start(struct files *fs, struct ingest **ret)
{
	struct ingest *in = calloc(1, sizeof(*in));
	int r;

	if (!in)
		return -ENOMEM;
	in->cutter = (struct cutter){ .fs = fs, .stop = &in->hurry };
	in->retry_ms = INGEST_RETRY_MIN_MS;
	r = base_cond_init(&in->wake);
	if (r >= 0)
		r = base_cond_init(&in->less);
	if (r < 0) {
		free(in);
		return r;
	}
	pthread_mutex_init(&in->lock, NULL);
	r = pthread_create(&in->thread, NULL, ingest_run, in);
	if (r) {
		free(in);
		return base_thread_error(r);
	}
	*ret = in;
	return 0;
}

void ingest_add(struct ingest *in, uint64_t ino, uint64_t bytes)
{
	LOCK_SCOPE(&in->lock);
	ingest_push(&in->queue, (struct ingest_item){ ino, bytes });
	pthread_cond_signal(&in->wake);
}

void ingest_pace(struct ingest *in)
{
	struct timespec until = base_deadline(INGEST_PAUSE_MS * INT64_C(1000));

	LOCK_SCOPE(&in->lock);
	while (in->queue.bytes > INGEST_BACKLOG_BYTES && !in->stop &&
	       pthread_cond_timedwait(&in->less, &in->lock, &until) !=
		       ETIMEDOUT) {
	}
}

uint64_t ingest_pending(struct ingest *in)
{
	LOCK_SCOPE(&in->lock);
	return in->queue.count + in->busy;
}

void ingest_stop(struct ingest *in)
{
	if (!in)
		return;
	atomic_store(&in->hurry, true);
	pthread_mutex_lock(&in->lock);
	in->stop = true;
	pthread_cond_signal(&in->wake);
	pthread_mutex_unlock(&in->lock);
	idle_join(in->thread);
	pthread_cond_destroy(&in->wake);
	pthread_cond_destroy(&in->less);
	pthread_mutex_destroy(&in->lock);
	free(in->queue.v);
	free(in->stuck.v);
	free(in);
}
