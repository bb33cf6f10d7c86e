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

struct ingest {
	struct files *fs;
	pthread_t thread;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake;
	bool stop;
	bool busy;
	uint64_t *queue; /* owned; a ring */
	size_t size;	 /* of the ring: 0 or a power of two */
	size_t head;
	size_t count;
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

static void *ingest_run(void *arg)
{
	struct ingest *in = arg;
	uint64_t ino;

	/* Nobody waits for a checksum; a refusal costs only politeness. Not
	 * nice(2): this thread holds the index's write lock now and then. */
	(void)syscall(SYS_ioprio_set, INGEST_IOPRIO_WHO_PROCESS, 0,
		      INGEST_IOPRIO_IDLE);
	pthread_mutex_lock(&in->lock);
	while (in->count || !in->stop) {
		if (!in->count) {
			pthread_cond_wait(&in->wake, &in->lock);
			continue;
		}
		ino = in->queue[in->head];
		in->head = (in->head + 1) & (in->size - 1);
		in->count--;
		in->busy = true;
		pthread_mutex_unlock(&in->lock);
		ingest_one(in->fs, ino);
		pthread_mutex_lock(&in->lock);
		in->busy = false;
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
	pthread_mutex_init(&in->lock, NULL);
	pthread_cond_init(&in->wake, NULL);
	r = pthread_create(&in->thread, NULL, ingest_run, in);
	if (r) {
		free(in);
		return -r;
	}
	*ret = in;
	return 0;
}

static int ingest_grow_locked(struct ingest *in)
{
	size_t size = in->size ? in->size * 2 : 256;
	uint64_t *bigger = calloc(size, sizeof(*bigger));

	if (!bigger)
		return -ENOMEM;
	for (size_t i = 0; i < in->count; i++)
		bigger[i] = in->queue[(in->head + i) & (in->size - 1)];
	free(in->queue);
	in->queue = bigger;
	in->size = size;
	in->head = 0;
	return 0;
}

void ingest_add(struct ingest *in, uint64_t ino)
{
	LOCK_SCOPE(&in->lock);
	if (in->count == in->size && ingest_grow_locked(in) < 0)
		return;
	in->queue[(in->head + in->count++) & (in->size - 1)] = ino;
	pthread_cond_signal(&in->wake);
}

uint64_t ingest_pending(struct ingest *in)
{
	LOCK_SCOPE(&in->lock);
	return in->count + in->busy;
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
	free(in->queue);
	free(in);
}
