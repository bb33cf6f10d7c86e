/* SPDX-License-Identifier: MIT */
#include "store/ingest.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <syslog.h>

#include "store/table.h"

/* linux/ioprio.h is not in all kernel headers that we build with. */
#define INGEST_IOPRIO_WHO_PROCESS 1
#define INGEST_IOPRIO_IDLE (3 << 13)

/* Between two tries of closes that failed: twice as long each time. */
#define INGEST_RETRY_MIN_MS 1000
#define INGEST_RETRY_MAX_MS (INT64_C(60) * 1000)

/* A ring of inodes. */
struct ingest_queue {
	uint64_t *inos; /* owned */
	size_t size;	/* 0 or a power of two */
	size_t head;
	size_t count;
};

struct ingest {
	struct files *fs;
	pthread_t thread;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake;
	bool stop;
	bool busy;
	struct ingest_queue queue;
	struct ingest_queue stuck; /* closes to be tried again */
	int64_t retry_ms;	   /* until then, from the last time on */
	struct timespec retry_at;  /* monotonic */
};

/* A file whose writers are gone, held while its bytes are read. */
struct ingest_job {
	struct store_file *file;
	struct pack *pack;
	uint64_t size;
	uint64_t version;
};

static int ingest_begin(struct files *fs, uint64_t ino, struct ingest_job *job)
{
	struct node *nd;
	int r = file_open(fs, ino, FILE_QUIET, &job->file);

	if (r < 0)
		return r;
	nd = job->file->nd;
	pthread_rwlock_rdlock(&nd->lock);
	if (!nd->live && nd->pack)
		job->pack = pack_ref(nd->pack);
	job->size = nd->size;
	job->version = nd->version;
	pthread_rwlock_unlock(&nd->lock);
	return 0;
}

static int ingest_commit(struct files *fs, const struct ingest_job *job,
			 uint64_t sum)
{
	cleanup_edit struct edit e = EDIT_INIT;
	struct inode in;
	int r = edit_begin(fs->t, QUOTA_SYSTEM, &e);

	if (r < 0)
		return r;
	r = table_inode_get(e.txn, job->file->nd->ino, &in);
	if (r < 0)
		return r;
	if (in.data != INODE_DATA_PACK || in.pack != pack_id(job->pack))
		return 0;
	in.xxh3 = sum;
	in.flags |= INODE_SUMMED;
	r = table_inode_put(e.txn, &in);
	if (r < 0)
		return r;
	return edit_commit(&e);
}

static int ingest_sum(struct files *fs, const struct ingest_job *job)
{
	struct node *nd = job->file->nd;
	uint64_t sum;
	int r = file_sum_pack(job->pack, job->size, &sum);

	pthread_rwlock_wrlock(&nd->lock);
	if (nd->live || nd->version != job->version) {
		r = 0; /* other bytes by now, to be summed at their close */
	} else if (r >= 0) {
		r = ingest_commit(fs, job, sum);
		if (r >= 0)
			file_set_verified(fs, nd->ino);
	}
	pthread_rwlock_unlock(&nd->lock);
	return r;
}

static void ingest_one(struct files *fs, uint64_t ino)
{
	struct ingest_job job = { .file = NULL };
	char text[128];
	int r = ingest_begin(fs, ino, &job);

	if (r < 0) /* gone meanwhile, or dropped as damaged and reported */
		return;
	if (job.pack)
		r = ingest_sum(fs, &job);
	if (r < 0 && r != -EROFS) {
		snprintf(text, sizeof(text),
			 "checksum of inode %" PRIu64 ": %s", ino,
			 strerror(-r));
		fs->report(fs->report_arg, LOG_WARNING, text);
	}
	pack_put(job.pack);
	file_close(job.file);
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
	uint64_t *bigger = calloc(size, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	for (size_t i = 0; i < q->count; i++)
		bigger[i] = q->inos[(q->head + i) & (q->size - 1)];
	free(q->inos);
	q->inos = bigger;
	q->size = size;
	q->head = 0;
	return 0;
}

/* Out of memory: it is left out, see ingest_add(). */
static void ingest_push(struct ingest_queue *q, uint64_t ino)
{
	if (q->count == q->size && ingest_grow(q) < 0)
		return;
	q->inos[(q->head + q->count++) & (q->size - 1)] = ino;
}

static uint64_t ingest_pop(struct ingest_queue *q)
{
	uint64_t ino = q->inos[q->head];

	q->head = (q->head + 1) & (q->size - 1);
	q->count--;
	return ino;
}

static void ingest_work_locked(struct ingest *in)
{
	uint64_t ino = ingest_pop(&in->queue);
	bool stuck;

	in->busy = true;
	pthread_mutex_unlock(&in->lock);
	ingest_one(in->fs, ino);
	stuck = ingest_is_stuck(in->fs, ino);
	pthread_mutex_lock(&in->lock);
	in->busy = false;
	if (!stuck || in->stop)
		return;
	if (!in->stuck.count)
		in->retry_at = base_deadline(in->retry_ms * 1000);
	ingest_push(&in->stuck, ino);
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

	/* Nobody waits for a checksum; a refusal costs only politeness. Not
	 * nice(2): this thread holds the index's write lock now and then. */
	(void)syscall(SYS_ioprio_set, INGEST_IOPRIO_WHO_PROCESS, 0,
		      INGEST_IOPRIO_IDLE);
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
	in->fs = fs;
	in->retry_ms = INGEST_RETRY_MIN_MS;
	r = base_cond_init(&in->wake);
	if (r < 0) {
		free(in);
		return r;
	}
	pthread_mutex_init(&in->lock, NULL);
	r = pthread_create(&in->thread, NULL, ingest_run, in);
	if (r) {
		free(in);
		return -r;
	}
	*ret = in;
	return 0;
}

void ingest_add(struct ingest *in, uint64_t ino)
{
	LOCK_SCOPE(&in->lock);
	ingest_push(&in->queue, ino);
	pthread_cond_signal(&in->wake);
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
	pthread_mutex_lock(&in->lock);
	in->stop = true;
	pthread_cond_signal(&in->wake);
	pthread_mutex_unlock(&in->lock);
	pthread_join(in->thread, NULL);
	pthread_cond_destroy(&in->wake);
	pthread_mutex_destroy(&in->lock);
	free(in->queue.inos);
	free(in->stuck.inos);
	free(in);
}
