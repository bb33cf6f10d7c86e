/* SPDX-License-Identifier: MIT */
#include "fs/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <fuse_lowlevel.h>
#include <linux/fuse.h>

#include "fs/log.h"
#include "fs/reply.h"
#include "store/base.h"

/* Reads ahead that the kernel keeps under way; its default is 12. */
#define CHANNEL_BACKGROUND 64

static void want(struct fuse_conn_info *conn, uint32_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	fuse_set_feature_flag(conn, flag);
#else
	conn->want |= conn->capable & flag;
#endif
}

static void want_not(struct fuse_conn_info *conn, uint32_t flag)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	fuse_unset_feature_flag(conn, flag);
#else
	conn->want &= ~flag;
#endif
}

/*
 * Besides what libfuse wants by itself (asynchronous reads, truncation within
 * open, readdirplus where it pays). No write-back cache: a write is accepted,
 * or refused for lack of room, before its caller goes on.
 */
static void channel_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = REPLY_IO_MAX;
	conn->max_background = CHANNEL_BACKGROUND;
	conn->congestion_threshold = CHANNEL_BACKGROUND;
	want(conn, FUSE_CAP_SPLICE_WRITE);
	want(conn, FUSE_CAP_SPLICE_MOVE);
	want(conn, FUSE_CAP_PARALLEL_DIROPS);
	want(conn, FUSE_CAP_ATOMIC_O_TRUNC);
	want(conn, FUSE_CAP_ASYNC_READ);
	want_not(conn, FUSE_CAP_SPLICE_READ);
	want_not(conn, FUSE_CAP_WRITEBACK_CACHE);
	/* The kernel then clears setuid bits by a SETATTR of its own. */
	want_not(conn, FUSE_CAP_HANDLE_KILLPRIV);
	/* Bytes change only through this mount, whose kernel has seen it: a
	 * new mtime is no reason to throw cached pages away. */
	want_not(conn, FUSE_CAP_AUTO_INVAL_DATA);
}

static void channel_log(enum fuse_log_level level, const char *format,
			va_list args) __attribute__((format(printf, 2, 0)));
static void channel_log(enum fuse_log_level level, const char *format,
			va_list args)
{
	log_writev((int)level, format, args);
}

int channel_open(int fd, struct ops *ops, struct fuse_session **ret)
{
	static char name[] = "pipcachefs";
	char *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_lowlevel_ops table = ops_table;
	struct fuse_session *fuse;
	char path[32];

	table.init = channel_init;
	fuse_set_log_func(channel_log);
	fuse = fuse_session_new(&args, &table, sizeof(table), ops);
	fuse_opt_free_args(&args);
	if (!fuse)
		return -EIO;
	/* The path by which libfuse takes over what is mounted already. */
	snprintf(path, sizeof(path), "/dev/fd/%d", fd);
	if (fuse_session_mount(fuse, path) != 0) {
		fuse_session_destroy(fuse);
		return -EIO;
	}
	*ret = fuse;
	return 0;
}

/* ---- the first request ---- */

struct request {
	struct fuse_in_header header;
	struct fuse_init_in init;
};

struct answer {
	struct fuse_out_header header;
	struct fuse_init_out init;
};

/* Accept what the kernel offers and libfuse does not know. */
static void allow_idmap(const void *init, size_t bytes, struct answer *a)
{
	const uint32_t flag = CHANNEL_ALLOW_IDMAP >> 32;
	struct request q;

	if (bytes < sizeof(q) || a->header.len != sizeof(*a))
		return;
	memcpy(&q, init, sizeof(q));
	if ((q.init.flags & FUSE_INIT_EXT) && (q.init.flags2 & flag)) {
		a->init.flags |= FUSE_INIT_EXT;
		a->init.flags2 |= flag;
	}
}

/*
 * What libfuse answers. It writes to its descriptor, which is a pipe meanwhile;
 * then it is @connection again.
 */
static ssize_t ask_libfuse(struct fuse_session *fuse, int connection,
			   struct fuse_buf *init, struct answer *ret)
{
	int fd = fuse_session_fd(fuse);
	cleanup_close int read_end = -1;
	cleanup_close int write_end = -1;
	int ends[2];
	ssize_t n;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	read_end = ends[0];
	write_end = ends[1];
	if (dup3(write_end, fd, O_CLOEXEC) < 0)
		return -errno;
	fuse_session_process_buf(fuse, init);
	if (dup3(connection, fd, O_CLOEXEC) < 0)
		return -errno;
	n = read(read_end, ret, sizeof(*ret));
	return n < 0 ? -errno : n;
}

int channel_agree(struct fuse_session *fuse, void *init, size_t bytes)
{
	struct fuse_buf buf = { .mem = init, .size = bytes };
	cleanup_close int connection =
		fcntl(fuse_session_fd(fuse), F_DUPFD_CLOEXEC, 0);
	struct answer answer = { .header = { .len = 0 } };
	ssize_t n;

	if (connection < 0)
		return -errno;
	n = ask_libfuse(fuse, connection, &buf, &answer);
	if (n < 0)
		return (int)n;
	allow_idmap(init, bytes, &answer);
	/* ENOENT: it has its answer already. */
	if (write(connection, &answer, (size_t)n) < 0 && errno != ENOENT)
		return -errno;
	return fuse_session_exited(fuse) ? -EPROTO : 0;
}
