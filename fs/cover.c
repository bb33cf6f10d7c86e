/* SPDX-License-Identifier: MIT */
#include "fs/cover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/base.h"

#define PROC_PATH_MAX 64
#define BUSY_TRIES 30
#define BUSY_PAUSE_USEC 100000

#define DETACH 2   /* of <sys/mount.h>, which does not go with */
#define NOFOLLOW 8 /* <linux/mount.h> */

static int clone_tree(int dir, const char *path, unsigned flags)
{
	int fd = (int)syscall(SYS_open_tree, dir, path,
			      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	return fd < 0 ? -errno : fd;
}

static int unmount(const char *path, int flags)
{
	return syscall(SYS_umount2, path, flags | NOFOLLOW) < 0 ? -errno : 0;
}

static int open_below(int dir, const char *path, uint64_t flags,
		      uint64_t resolve)
{
	const struct open_how how = {
		.flags = flags | O_DIRECTORY | O_CLOEXEC,
		.resolve = resolve | RESOLVE_NO_MAGICLINKS,
	};
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[PROC_PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	return fd;
}

/* ---- the place ---- */

/* A path that begins at the root of process @pid. */
static int open_in(pid_t pid, const char *path)
{
	cleanup_close int root = open_proc(pid, "root", O_PATH);

	return root < 0 ? root
			: open_below(root, path, O_PATH, RESOLVE_IN_ROOT);
}

int cover_open(pid_t pid, const char *path, struct cover_place *ret)
{
	cleanup_close int fd = open_in(pid, path);
	char link[PROC_PATH_MAX], full[PATH_MAX];
	ssize_t n;

	if (fd < 0)
		return fd;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, full, sizeof(full) - 1);
	if (n < 0)
		return -errno;
	full[n] = '\0';
	ret->base = strdup(full);
	if (!ret->base)
		return -ENOMEM;
	ret->pid = pid;
	return 0;
}

void cover_close(struct cover_place *place)
{
	free(place->base);
	*place = (struct cover_place)COVER_PLACE_INIT;
}

int cover_watch(const struct cover_place *place)
{
	cleanup_close int dir = open_in(place->pid, place->base);
	cleanup_close int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char link[PROC_PATH_MAX];

	if (dir < 0)
		return dir;
	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	if (inotify_add_watch(fd, link, IN_CREATE | IN_MOVED_TO) < 0)
		return -errno;
	return steal_fd(&fd);
}

void cover_drain(int watch)
{
	char events[4096];

	while (read(watch, events, sizeof(events)) > 0)
		;
}

static FILE *open_mountinfo(pid_t pid)
{
	cleanup_close int fd = open_proc(pid, "mountinfo", O_RDONLY);
	FILE *f;

	if (fd < 0) {
		/* It is ending: it has no namespace any more. */
		errno = fd == -EINVAL ? ESRCH : -fd;
		return NULL;
	}
	f = fdopen(fd, "r");
	if (f)
		(void)steal_fd(&fd);
	return f;
}

int cover_list(const struct cover_place *place, struct mounts *ret)
{
	cleanup_file FILE *f = open_mountinfo(place->pid);

	return f ? mounts_read(f, ret) : -errno;
}

const char *cover_name(const struct cover_place *place,
		       const struct mounts_entry *e)
{
	const char *name = e->mountpoint + strlen(place->base);

	if (!mounts_inside(place->base, e->mountpoint) || !*name)
		return NULL;
	return name + (*name == '/');
}

int cover_shows(const struct cover_place *place, const char *name,
		unsigned *ret_major, unsigned *ret_minor)
{
	cleanup_close int base = open_in(place->pid, place->base);
	cleanup_close int fd = -1;
	struct statx stx;

	if (base < 0)
		return base;
	fd = open_below(base, name, O_PATH,
			RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return fd;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &stx) < 0)
		return -errno;
	*ret_major = stx.stx_dev_major;
	*ret_minor = stx.stx_dev_minor;
	return 0;
}

/* ---- a child in another namespace ---- */

/* What it reports: one of these, through a pipe. */
struct report {
	int result;
	bool lazy;
	struct adopt_result adopted;
};

struct job {
	const struct cover_place *place; /* NULL: where we are */
	const char *mountpoint;
	const char *name;
	unsigned flags;
	int tree;     /* owned; a copy of our mount, detached; -1: none */
	dev_t device; /* of the file system that it shows */
	int (*run)(struct job *job, struct report *report);
};

/* Be where the engine is: its mount namespace, its root. */
static int enter(pid_t pid)
{
	cleanup_close int ns = open_proc(pid, "ns/mnt", O_RDONLY);
	cleanup_close int root = open_proc(pid, "root", O_PATH);

	if (ns < 0)
		return ns;
	if (root < 0)
		return root;
	if (setns(ns, CLONE_NEWNS) < 0 || fchdir(root) < 0 || chroot(".") < 0)
		return -errno;
	return 0;
}

static int run_job(struct job *job, struct report *report)
{
	int r = 0;

	if (job->place)
		r = enter(job->place->pid);
	return r == 0 ? job->run(job, report) : r;
}

_Noreturn static void child_main(struct job *job, int out, pid_t parent)
{
	struct report report = { .result = 0 };

	umask(022);
	/* Who asked to end, with Ctrl-C or by the control group, is answered by
	 * the parent: what it blocks stays blocked here. */
	/* What waits for a dead file system shall not outlive who asked. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	report.result = run_job(job, &report);
	_exit(write(out, &report, sizeof(report)) != (ssize_t)sizeof(report));
}

/* Wait for the report; -ECANCELED if @cancel becomes readable before. */
static int await_report(int in, int cancel, struct report *ret)
{
	struct pollfd fds[2] = { { .fd = in, .events = POLLIN },
				 { .fd = cancel, .events = POLLIN } };

	while (poll(fds, 2, -1) < 0)
		if (errno != EINTR)
			return -errno;
	if (!fds[0].revents)
		return -ECANCELED;
	if (read(in, ret, sizeof(*ret)) != (ssize_t)sizeof(*ret))
		return -ECHILD;
	return ret->result;
}

static int perform(struct job *job, int cancel, struct report *ret)
{
	cleanup_close int in = -1;
	cleanup_close int out = -1;
	pid_t parent = getpid(), pid;
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	in = ends[0];
	out = ends[1];
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		child_main(job, out, parent);
	base_closep(&out);
	r = await_report(in, cancel, ret);
	if (r == -ECANCELED)
		(void)kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return r;
}

/* ---- uncovering ---- */

static int uncover(int base, const char *path, bool *ret_lazy)
{
	cleanup_free char *above = strdup(path);
	cleanup_close int dir = -1;
	const char *name;
	char *slash;
	int r;

	if (!above)
		return -ENOMEM;
	slash = strrchr(above, '/');
	name = slash ? slash + 1 : above;
	if (slash)
		*slash = '\0';
	dir = open_below(base, slash ? above : ".", O_PATH,
			 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (dir < 0)
		return dir;
	if (fchdir(dir) < 0)
		return -errno;
	r = unmount(name, 0);
	for (int i = 0; r == -EBUSY && i < BUSY_TRIES; i++) {
		usleep(BUSY_PAUSE_USEC);
		r = unmount(name, 0);
	}
	if (r != -EBUSY)
		return r;
	*ret_lazy = true;
	return unmount(name, DETACH);
}

static int run_take(struct job *job, struct report *report)
{
	cleanup_close int base =
		open_below(AT_FDCWD, job->place->base, O_PATH, 0);

	return base < 0 ? base : uncover(base, job->name, &report->lazy);
}

int cover_take(const struct cover_place *place, const char *name,
	       bool *ret_lazy)
{
	struct report report = { .result = 0 };
	struct job job = {
		.place = place,
		.name = name,
		.tree = -1,
		.run = run_take,
	};
	int r = perform(&job, -1, &report);

	*ret_lazy = report.lazy;
	return r;
}

/* ---- covering ---- */

/* One step down; owned by @uid and no link, or refused. */
static int step_down(int dir, const char *name, bool make, uid_t uid)
{
	cleanup_close int fd = -1;
	struct stat st;

	if (make && mkdirat(dir, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_uid == uid ? steal_fd(&fd) : -EKEYREJECTED;
}

static int walk_down(int dir, const char *path, bool make, uid_t uid)
{
	cleanup_close int fd = -1;
	char name[NAME_MAX + 1];
	size_t len;

	for (; *path; path += len + (path[len] == '/')) {
		int next;

		len = strcspn(path, "/");
		if (len == 0)
			continue;
		if (len > NAME_MAX)
			return -ENAMETOOLONG;
		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		if (strcmp(name, "..") == 0)
			return -EINVAL;
		next = step_down(fd >= 0 ? fd : dir, name, make, uid);
		if (next < 0)
			return next;
		base_closep(&fd);
		fd = next;
	}
	return fd >= 0 ? steal_fd(&fd) : -EINVAL;
}

static int mount_over(const struct job *job, int base)
{
	cleanup_close int target = open_below(
		base, job->name, O_PATH, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

	if (target < 0)
		return target;
	if (syscall(SYS_move_mount, job->tree, "", target, "",
		    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return -errno;
	return 0;
}

/* 0, -ENOTEMPTY, ... */
static int check_empty(int fd)
{
	cleanup_dir DIR *dir = NULL;
	const struct dirent *d;
	int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (own < 0)
		return -errno;
	dir = fdopendir(own);
	if (!dir) {
		base_closep(&own);
		return -errno;
	}
	while ((d = readdir(dir)) != NULL)
		if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
			return -ENOTEMPTY;
	return 0;
}

/*
 * Cover what a build has at hand but has not begun to use; the cover shows up
 * there too if the engine's mounts are shared. If it began to use it just then,
 * the cover goes again: files shall not change place under a build.
 */
static int cover_empty(const struct job *job, int base, int dir)
{
	bool lazy;
	int r = check_empty(dir);

	if (r == 0)
		r = mount_over(job, base);
	if (r < 0)
		return r;
	r = check_empty(dir);
	if (r == -ENOTEMPTY)
		(void)uncover(base, job->name, &lazy);
	return r;
}

static int run_put(struct job *job, struct report *report)
{
	cleanup_close int base = -1;
	cleanup_close int below = -1;
	cleanup_close int dir = -1;
	struct stat st;
	int r;

	if (fstat(job->tree, &st) < 0)
		return -errno;
	/* Unmounted since it was looked at: a directory of the host. */
	if (st.st_dev != job->device)
		return -ESTALE;
	base = open_below(AT_FDCWD, job->place->base, O_PATH, 0);
	if (base < 0)
		return base;
	/* The same directories without what is mounted over them. */
	below = clone_tree(base, "", AT_EMPTY_PATH);
	if (below < 0)
		return below;
	dir = walk_down(below, job->name, job->flags & COVER_MAKE, st.st_uid);
	if (dir < 0)
		return dir;
	if (job->flags & COVER_EMPTY)
		return cover_empty(job, base, dir);
	r = adopt_tree(dir, job->tree, job->flags & COVER_REMOVE,
		       &report->adopted);
	if (r == 0 && job->flags & COVER_MOUNT)
		r = mount_over(job, base);
	return r;
}

int cover_put(const struct cover_place *place,
	      const struct cover_source *source, const char *name,
	      unsigned flags, int cancel, struct adopt_result *res)
{
	struct report report = { .result = 0 };
	cleanup_close int tree = clone_tree(AT_FDCWD, source->mountpoint, 0);
	struct job job = {
		.place = place,
		.name = name,
		.flags = flags,
		.tree = tree,
		.device = makedev(source->major, source->minor),
		.run = run_put,
	};
	int r;

	if (tree < 0)
		return tree;
	r = perform(&job, cancel, &report);
	*res = report.adopted;
	return r;
}

/* ---- questions ---- */

static int run_probe(struct job *job, struct report *report)
{
	struct stat st;

	(void)report;
	return stat(job->mountpoint, &st) < 0 ? -errno : 0;
}

int cover_probe(const char *mountpoint, int cancel)
{
	struct report report = { .result = 0 };
	struct job job = {
		.mountpoint = mountpoint,
		.tree = -1,
		.run = run_probe,
	};

	return perform(&job, cancel, &report);
}

/* The fourth field of a line of mountinfo: what of its file system it shows. */
static bool line_shows(const char *line, const char *name)
{
	size_t len = strlen(name), n;

	for (int i = 0; i < 3; i++) {
		line = strchr(line, ' ');
		if (!line)
			return false;
		line++;
	}
	n = strcspn(line, " ");
	return n > len && line[n - len - 1] == '/' &&
	       strncmp(line + n - len, name, len) == 0;
}

static bool process_shows(pid_t pid, const char *name)
{
	cleanup_file FILE *f = open_mountinfo(pid);
	cleanup_free char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0)
		if (line_shows(line, name))
			return true;
	return false;
}

bool cover_in_use(const char *name)
{
	cleanup_dir DIR *proc = opendir("/proc");
	const struct dirent *d;

	if (!proc)
		return true;
	while ((d = readdir(proc)) != NULL) {
		long pid = strtol(d->d_name, NULL, 10);

		if (pid > 0 && process_shows((pid_t)pid, name))
			return true;
	}
	return false;
}
