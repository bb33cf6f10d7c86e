/* SPDX-License-Identifier: MIT */
#include "fs/holders.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mounts.h"
#include "store/base.h"

#define NAMED_MAX 6	    /* the rest is counted */
#define NAMESPACES_MAX 1024 /* those behind may be named more than once */
#define COMM_MAX 64

struct search {
	unsigned major, minor;
	enum holders_kind kind;
	ino_t seen[NAMESPACES_MAX]; /* mount namespaces */
	size_t n_seen;
	int found;
	char *line;
	size_t size, used;
};

static void append(struct search *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void append(struct search *s, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(s->line + s->used, s->size - s->used, format, args);
	va_end(args);
	if (n > 0)
		s->used += (size_t)n;
	if (s->used >= s->size)
		s->used = s->size - 1;
}

/* The name of a process and the path are for eyes and for a line. */
static void printable(char *s)
{
	for (; *s; s++)
		if (iscntrl((unsigned char)*s))
			*s = '?';
}

static void add(struct search *s, const char *pid, const char *how, char *path)
{
	char name[64], comm[COMM_MAX] = "";
	cleanup_file FILE *f = NULL;

	if (s->found++ >= NAMED_MAX)
		return;
	snprintf(name, sizeof(name), "/proc/%s/comm", pid);
	f = fopen(name, "re");
	if (f && fgets(comm, sizeof(comm), f))
		comm[strcspn(comm, "\n")] = '\0';
	printable(comm);
	printable(path);
	append(s, "%sprocess %s (%s) %s %s", s->found == 1 ? "" : "; ", pid,
	       *comm ? comm : "?", how, path);
}

/* ---- mount namespaces ---- */

/* Is it the first process of its namespace that is looked at? */
static bool is_new_namespace(struct search *s, int proc)
{
	struct stat st;

	if (fstatat(proc, "ns/mnt", &st, 0) < 0)
		return true;
	for (size_t i = 0; i < s->n_seen; i++)
		if (s->seen[i] == st.st_ino)
			return false;
	if (s->n_seen < NAMESPACES_MAX)
		s->seen[s->n_seen++] = st.st_ino;
	return true;
}

static bool look_at_mounts(struct search *s, int proc, const char *pid)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	cleanup_file FILE *f = NULL;
	int fd = openat(proc, "mountinfo", O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		f = fdopen(fd, "r");
	if (!f) {
		base_closep(&fd);
		return false;
	}
	if (mounts_read(f, &mounts) < 0)
		return false;
	for (size_t i = 0; i < mounts.n; i++) {
		struct mounts_entry *e = &mounts.entry[i];

		if (e->major != s->major || e->minor != s->minor)
			continue;
		add(s, pid, "has it mounted on", e->mountpoint);
		return true;
	}
	return false;
}

/* ---- what processes have open ---- */

/* What the link leads to, without a question to its file system. */
static bool leads_there(const struct search *s, int dir, const char *name)
{
	struct statx st;

	return statx(dir, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
		     STATX_TYPE, &st) == 0 &&
	       st.stx_dev_major == s->major && st.stx_dev_minor == s->minor;
}

static bool look_at_link(struct search *s, int dir, const char *name,
			 const char *pid, const char *how)
{
	char path[PATH_MAX];
	ssize_t n;

	if (!leads_there(s, dir, name))
		return false;
	n = readlinkat(dir, name, path, sizeof(path) - 1);
	path[n < 0 ? 0 : n] = '\0';
	add(s, pid, how, path);
	return true;
}

static bool look_at_links(struct search *s, int proc, const char *dir,
			  const char *pid)
{
	int fd = openat(proc, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		base_closep(&fd);
		return false;
	}
	while ((de = readdir(d)))
		if (de->d_name[0] != '.' &&
		    look_at_link(s, dirfd(d), de->d_name, pid, "has open"))
			return true;
	return false;
}

/* One reason is enough. */
static void look_at_process(struct search *s, int procs, const char *pid)
{
	cleanup_close int proc =
		openat(procs, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (proc < 0)
		return;
	if (s->kind == HOLDERS_ALL && is_new_namespace(s, proc) &&
	    look_at_mounts(s, proc, pid))
		return;
	if (look_at_link(s, proc, "cwd", pid, "works in") ||
	    look_at_link(s, proc, "root", pid, "has as its root"))
		return;
	if (!look_at_links(s, proc, "fd", pid))
		(void)look_at_links(s, proc, "map_files", pid);
}

int holders_find(unsigned major, unsigned minor, enum holders_kind kind,
		 char *line, size_t size)
{
	cleanup_dir DIR *procs = opendir("/proc");
	cleanup_free struct search *s = calloc(1, sizeof(*s));
	struct dirent *de;

	*line = '\0';
	if (!procs || !s)
		return procs ? -ENOMEM : -errno;
	s->major = major;
	s->minor = minor;
	s->kind = kind;
	s->line = line;
	s->size = size;
	while ((de = readdir(procs)))
		if (isdigit((unsigned char)de->d_name[0]))
			look_at_process(s, dirfd(procs), de->d_name);
	if (s->found > NAMED_MAX)
		append(s, "; and %d more", s->found - NAMED_MAX);
	return s->found;
}
