/* SPDX-License-Identifier: MIT */
#include "store/recover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/audit.h"
#include "store/base.h"
#include "store/mdbfile.h"

/* What is wrong with the index, as a sentence. */
struct why {
	char *text;
	size_t size;
};

__attribute__((format(printf, 2, 3))) static int unreadable(
	const struct why *why, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(why->text, why->size, format, ap);
	va_end(ap);
	return RECOVER_UNREADABLE;
}

/* There is no side file: a new index, or one that lost it. */
static int found_no_side(int dir_fd, bool rdonly, const struct why *why)
{
	struct side side = { .flags = SIDE_EMPTY };
	struct stat st;
	int r;

	if (fstatat(dir_fd, MDBFILE_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (st.st_size > 0)
			return unreadable(why,
					  "index/" SIDE_NAME " is missing");
	} else if (errno != ENOENT) {
		return -errno;
	}
	if (rdonly)
		return RECOVER_CREATED;
	side.time_sec = (uint64_t)time(NULL);
	r = side_write(dir_fd, &side);
	return r < 0 ? r : RECOVER_CREATED;
}

/* The power went before the first checkpoint: nothing was ever accepted. */
static int found_empty(int dir_fd, bool rdonly)
{
	if (!rdonly && unlinkat(dir_fd, MDBFILE_NAME, 0) < 0 && errno != ENOENT)
		return -errno;
	return RECOVER_CREATED;
}

/* True if data.mdb still has the meta pages of the side file. */
static int same_meta(int fd, const struct side *side)
{
	size_t len = 2 * side->page_size;
	cleanup_free uint8_t *meta = malloc(len);
	ssize_t n;

	if (!meta)
		return -ENOMEM;
	n = pread(fd, meta, len, 0);
	if (n < 0)
		return -errno;
	return (size_t)n == len && memcmp(meta, side->meta, len) == 0;
}

/* Is the snapshot of these meta pages, which come from @where, whole? */
static int check_snapshot(int fd, const struct side *side, const char *where,
			  const struct why *why)
{
	struct audit_found found = { .what = "" };
	struct stat st;
	int r;

	if (!mdbfile_sane(side->meta, side->page_size, side->txnid) ||
	    !mdbfile_in_turn(side->meta, side->page_size))
		return unreadable(why, "%s holds no usable meta pages", where);
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size / side->page_size <
	    mdbfile_pages(side->meta, side->page_size))
		return unreadable(why, "index/" MDBFILE_NAME " is too short");
	r = audit_snapshot(fd, side->meta, side->page_size, &found);
	if (r == -EBADMSG)
		return unreadable(why, "index/" MDBFILE_NAME ": page %llu: %s",
				  (unsigned long long)found.page, found.what);
	if (r == -EIO)
		return unreadable(why, "index/" MDBFILE_NAME
				       " cannot be read: Input/output error");
	return r;
}

/* The newest snapshot of data.mdb, which may be newer than that of @side. */
static int check_live(int fd, const struct side *side, const struct why *why)
{
	size_t len = 2 * side->page_size;
	cleanup_side struct side now = { .page_size = side->page_size,
					 .meta = malloc(len) };
	ssize_t n;

	if (!now.meta)
		return -ENOMEM;
	n = pread(fd, now.meta, len, 0);
	if (n < 0)
		return errno == EIO ? unreadable(why, "index/" MDBFILE_NAME
						      " cannot be read")
				    : -errno;
	if ((size_t)n != len)
		return unreadable(why, "index/" MDBFILE_NAME " is too short");
	now.txnid = mdbfile_txnid(now.meta, now.page_size);
	return check_snapshot(fd, &now, "index/" MDBFILE_NAME, why);
}

static void tell_restored(const struct side *side, const struct why *why)
{
	time_t when = (time_t)side->time_sec;
	char text[32] = "";
	struct tm tm;

	if (gmtime_r(&when, &tm))
		(void)strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	(void)snprintf(why->text, why->size,
		       "not closed cleanly: put back to the checkpoint of "
		       "%s UTC",
		       text);
}

/* Has who brings @witness kept what the page cache holds of data.mdb? */
static bool is_witnessed(const struct side *side, const struct stat *st,
			 const uint8_t *witness)
{
	static const uint8_t none[SIDE_TOKEN_SIZE];

	return witness && memcmp(witness, none, sizeof(none)) != 0 &&
	       memcmp(witness, side->token, sizeof(none)) == 0 &&
	       side->dev == st->st_dev && side->ino == st->st_ino;
}

/* What does data.mdb hold? LIVE or CLEAN, or RESTORED: it is to be. */
static int look_at_index(int fd, const struct side *side,
			 const uint8_t *witness, int flags,
			 const struct why *why)
{
	struct stat st;
	bool live;
	int r = 0;

	if (fstat(fd, &st) < 0)
		return -errno;
	live = is_witnessed(side, &st, witness);
	/* The saved pages say nothing of an index that goes on; and that LMDB
	 * has just worked with it is enough, unless it has crashed. */
	if (!live)
		r = check_snapshot(fd, side, "index/" SIDE_NAME, why);
	else if (flags & RECOVER_DISTRUST)
		r = check_live(fd, side, why);
	if (r != 0)
		return r;
	r = same_meta(fd, side);
	if (r < 0)
		return r;
	if (r > 0 && (side->flags & SIDE_CLEAN))
		return RECOVER_CLEAN;
	return live ? RECOVER_LIVE : RECOVER_RESTORED;
}

static int found_snapshot(int dir_fd, const struct side *side,
			  const uint8_t *witness, int flags,
			  const struct why *why)
{
	cleanup_close int fd =
		openat(dir_fd, MDBFILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int found, r;

	if (fd < 0 && errno == ENOENT)
		return unreadable(why, "index/" MDBFILE_NAME " is missing");
	if (fd < 0)
		return -errno;
	found = look_at_index(fd, side, witness, flags, why);
	if (found != RECOVER_RESTORED)
		return found;
	if (!(flags & RECOVER_RDONLY)) {
		r = mdbfile_restore(dir_fd, side->meta, side->page_size);
		if (r < 0)
			return r;
	}
	tell_restored(side, why);
	return RECOVER_RESTORED;
}

int recover_index(int index_dir_fd, const uint8_t *witness, int flags,
		  char *why, size_t why_size)
{
	const struct why reason = { why, why_size };
	bool rdonly = flags & RECOVER_RDONLY;
	cleanup_side struct side side = { .meta = NULL };
	int r = side_read(index_dir_fd, &side);

	if (r == -ENOENT)
		return found_no_side(index_dir_fd, rdonly, &reason);
	if (r == -EBADMSG || r == -EIO)
		return unreadable(&reason, "index/" SIDE_NAME " is damaged");
	if (r < 0)
		return r;
	/* A daemon killed between rename and sync left a side file that a
	 * power cut could still take back: not after we built on it. */
	if (!rdonly && fsync(index_dir_fd) < 0)
		return -errno;
	if (side.flags & SIDE_EMPTY)
		return found_empty(index_dir_fd, rdonly);
	return found_snapshot(index_dir_fd, &side, witness, flags, &reason);
}

int recover_seal(int index_dir_fd)
{
	cleanup_close int fd = openat(index_dir_fd, MDBFILE_NAME,
				      O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	struct side side = { .flags = SIDE_CLEAN };
	cleanup_free uint8_t *meta = NULL;
	struct stat st;
	ssize_t n;
	int r;

	if (fd < 0)
		return -errno;
	r = mdbfile_page_size(fd, &side.page_size);
	if (r < 0)
		return r;
	meta = malloc(2 * side.page_size);
	if (!meta)
		return -ENOMEM;
	n = pread(fd, meta, 2 * side.page_size, 0);
	if (n < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)n != 2 * side.page_size)
		return -EBADMSG;
	side.txnid = mdbfile_txnid(meta, side.page_size);
	if (!mdbfile_sane(meta, side.page_size, side.txnid))
		return -EBADMSG;
	if (fdatasync(fd) < 0)
		return -errno;
	side.meta = meta;
	side.dev = st.st_dev;
	side.ino = st.st_ino;
	side.time_sec = (uint64_t)time(NULL);
	return side_write(index_dir_fd, &side);
}
