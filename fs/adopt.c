/* SPDX-License-Identifier: MIT */
#include "fs/adopt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base.h"

/* pip's trees are 7 deep, with packages of any layout in wheels/ a few more. */
#define DEPTH_MAX 32
#define PIECE (1 << 20)
#define TEMP_TRIES 100
#define BODY ".body"
#define TEMP ".tmp"

struct adopter {
	bool remove;
	char *piece; /* owned; PIECE bytes */
	struct adopt_result *res;
};

/* One directory in both trees. */
struct pair {
	int from, to; /* borrowed */
};

/* One file on its way. */
struct copy {
	char temp[NAME_MAX + 1]; /* "": there is none */
	char name[NAME_MAX + 1];
	uint64_t size;
};

static bool ends_with(const char *name, const char *end)
{
	size_t len = strlen(name), n = strlen(end);

	return len > n && strcmp(name + len - n, end) == 0;
}

static bool is_regular(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISREG(st.st_mode);
}

static bool exists(int dir, const char *name)
{
	struct stat st;

	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- one file ---- */

/* A new file beside where @name will be, named as pip names its own: what is
 * left of it after a crash, the store clears away. */
static int create_temp(int dir, struct copy *c)
{
	uint32_t random;
	int n, fd;

	for (int i = 0; i < TEMP_TRIES; i++) {
		if (getrandom(&random, sizeof(random), 0) !=
		    (ssize_t)sizeof(random))
			return -EIO;
		n = snprintf(c->temp, sizeof(c->temp), "%.*s%08x" TEMP,
			     (int)(NAME_MAX - 12), c->name, random);
		if (n < 0)
			return -EIO;
		fd = openat(dir, c->temp,
			    O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW |
				    O_CLOEXEC,
			    0600);
		if (fd >= 0 || errno != EEXIST)
			return fd >= 0 ? fd : -errno;
	}
	return -EEXIST;
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int copy_bytes(const struct adopter *a, int in, int out,
		      uint64_t *ret_size)
{
	uint64_t size = 0;
	ssize_t n;
	int r;

	while ((n = read(in, a->piece, PIECE)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		r = write_all(out, a->piece, (size_t)n);
		if (r < 0)
			return r;
		size += (uint64_t)n;
	}
	*ret_size = size;
	return 0;
}

static int copy_attributes(int out, const struct stat *st)
{
	const struct timespec times[2] = { st->st_atim, st->st_mtim };

	if (fchown(out, st->st_uid, st->st_gid) < 0 ||
	    fchmod(out, st->st_mode & 0777) < 0 || futimens(out, times) < 0)
		return -errno;
	return 0;
}

/* Fill a temporary file; the caller removes or renames it. */
static int copy_to_temp(const struct adopter *a, const struct pair *p,
			struct copy *c)
{
	cleanup_close int in = -1;
	cleanup_close int out = -1;
	struct stat st;
	int r;

	in = openat(p->from, c->name,
		    O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -ENOENT;
	out = create_temp(p->to, c);
	if (out < 0) {
		c->temp[0] = '\0';
		return out;
	}
	r = copy_bytes(a, in, out, &c->size);
	if (r == 0)
		r = copy_attributes(out, &st);
	/* What is not kept may be told at last by close(2). */
	if (close(steal_fd(&out)) < 0 && r == 0)
		r = -errno;
	return r;
}

static int put_in_place(int dir, struct copy *c)
{
	if (renameat2(dir, c->temp, dir, c->name, RENAME_NOREPLACE) < 0)
		return -errno;
	c->temp[0] = '\0';
	return 0;
}

/* ---- what belongs together ---- */

/*
 * Copy the @n files of a unit, and only then rename them: the body before the
 * response, so that no response ever finds the body of another. -EEXIST:
 * somebody else has written it meanwhile, which is as good.
 */
static int copy_unit(const struct adopter *a, const struct pair *p,
		     struct copy *copies, size_t n)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = copy_to_temp(a, p, &copies[i]);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = put_in_place(p->to, &copies[i]);
	for (size_t i = 0; i < n; i++) {
		if (copies[i].temp[0])
			(void)unlinkat(p->to, copies[i].temp, 0);
		else if (r == 0)
			a->res->bytes += copies[i].size;
	}
	if (r == 0)
		a->res->files += n;
	return r;
}

/* A file, with its body if it has one. */
static int adopt_unit(const struct adopter *a, const struct pair *p,
		      const char *name)
{
	struct copy copies[2] = { { .temp = "" }, { .temp = "" } };
	size_t n = 0;
	int r = 0;

	if (snprintf(copies[0].name, sizeof(copies[0].name), "%s" BODY, name) <
	    (int)sizeof(copies[0].name)) {
		if (exists(p->to, copies[0].name))
			r = -EEXIST;
		if (is_regular(p->from, copies[0].name))
			n++;
	}
	snprintf(copies[n].name, sizeof(copies[n].name), "%s", name);
	n++;
	if (r == 0 && exists(p->to, name))
		r = -EEXIST;
	if (r == 0)
		r = copy_unit(a, p, copies, n);
	if (r == 0 || r == -EEXIST) {
		for (size_t i = 0; a->remove && i < n; i++)
			(void)unlinkat(p->from, copies[i].name, 0);
		return 0;
	}
	if (r == -ENOENT) /* gone meanwhile */
		return 0;
	a->res->left += n;
	return r;
}

static int adopt_file(const struct adopter *a, const struct pair *p,
		      const char *name)
{
	char stem[NAME_MAX + 1];

	/* Never finished; somebody may be about to. */
	if (ends_with(name, TEMP)) {
		if (a->remove)
			(void)unlinkat(p->from, name, 0);
		return 0;
	}
	if (ends_with(name, BODY)) {
		snprintf(stem, sizeof(stem), "%.*s",
			 (int)(strlen(name) - strlen(BODY)), name);
		/* It goes with its response; without one it is of no use. */
		if (!is_regular(p->from, stem) && is_regular(p->from, name))
			a->res->left++;
		return 0;
	}
	return adopt_unit(a, p, name);
}

/* ---- directories ---- */

static int adopt_below(const struct adopter *a, int from, int to, int depth);

static int open_copy_of(const struct stat *st, int to, const char *name)
{
	cleanup_close int fd = -1;

	if (mkdirat(to, name, 0700) < 0) {
		if (errno != EEXIST)
			return -errno;
		fd = openat(to, name,
			    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		return fd < 0 ? -errno : steal_fd(&fd);
	}
	fd = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchown(fd, st->st_uid, st->st_gid) < 0 ||
	    fchmod(fd, st->st_mode & 0777) < 0)
		return -errno;
	return steal_fd(&fd);
}

static int adopt_directory(const struct adopter *a, const struct pair *p,
			   const char *name, int depth)
{
	cleanup_close int from = -1;
	cleanup_close int to = -1;
	struct stat st;
	int r;

	if (depth >= DEPTH_MAX) {
		a->res->left++;
		return 0;
	}
	from = openat(p->from, name,
		      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0 || fstat(from, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	to = open_copy_of(&st, p->to, name);
	if (to == -ENOTDIR || to == -ELOOP) {
		a->res->left++;
		return 0;
	}
	if (to < 0)
		return to;
	r = adopt_below(a, from, to, depth + 1);
	/* ENOTEMPTY is no failure: something was left in it. */
	if (r == 0 && a->remove)
		(void)unlinkat(p->from, name, AT_REMOVEDIR);
	return r;
}

static int adopt_name(const struct adopter *a, const struct pair *p,
		      const char *name, int depth)
{
	struct stat st;

	if (fstatat(p->from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (S_ISDIR(st.st_mode))
		return adopt_directory(a, p, name, depth);
	if (S_ISREG(st.st_mode))
		return adopt_file(a, p, name);
	a->res->left++;
	return 0;
}

static int adopt_below(const struct adopter *a, int from, int to, int depth)
{
	const struct pair p = { .from = from, .to = to };
	cleanup_dir DIR *dir = NULL;
	const struct dirent *d;
	int own = fcntl(from, F_DUPFD_CLOEXEC, 0);
	int r = 0;

	if (own < 0)
		return -errno;
	dir = fdopendir(own);
	if (!dir) {
		base_closep(&own);
		return -errno;
	}
	rewinddir(dir);
	while (r == 0) {
		errno = 0;
		d = readdir(dir);
		if (!d)
			return -errno;
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			r = adopt_name(a, &p, d->d_name, depth);
	}
	return r;
}

int adopt_tree(int from, int to, bool remove, struct adopt_result *res)
{
	cleanup_free char *piece = malloc(PIECE);
	struct adopter a = { .remove = remove, .piece = piece, .res = res };
	int r;

	if (!piece)
		return -ENOMEM;
	r = adopt_below(&a, from, to, 0);
	if (r == -ENOSPC || r == -EDQUOT) {
		res->full = true;
		r = 0;
	}
	return r;
}
