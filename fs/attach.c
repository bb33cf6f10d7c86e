/* SPDX-License-Identifier: MIT */
#include "fs/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/mounts.h"
#include "store/base.h"

#define HELPER "fusermount3"
#define HELPER_OPTIONS_MAX 8192

/* ---- the superuser's way ---- */

static const char *mount_advice(int error)
{
	switch (error) {
	case EPERM:
		return "; mounting needs CAP_SYS_ADMIN: give it to the container, or mount on the host";
	case ENODEV:
		return "; the kernel has no FUSE: modprobe fuse";
	default:
		return "";
	}
}

static int mount_directly(const struct attach *a, char *why, size_t why_size)
{
	cleanup_close int fd = open(ATTACH_DEVICE, O_RDWR | O_CLOEXEC);
	char data[160];
	int r;

	if (fd < 0) {
		r = -errno;
		snprintf(
			why, why_size,
			"opening " ATTACH_DEVICE
			": %s; load the fuse module, or give the container the device",
			strerror(-r));
		return r;
	}
	snprintf(
		data, sizeof(data),
		"fd=%d,rootmode=%o,user_id=%u,group_id=%u,default_permissions%s",
		fd, (unsigned)S_IFDIR, geteuid(), getegid(),
		a->allow_other ? ",allow_other" : "");
	if (mount(a->source, a->mountpoint, MOUNTS_TYPE, a->flags, data) < 0) {
		r = -errno;
		snprintf(why, why_size, "mounting on %s: %s%s", a->mountpoint,
			 strerror(-r), mount_advice(-r));
		return r;
	}
	return steal_fd(&fd);
}

/* ---- everybody else's: fusermount3 ---- */

/* Append @text with the two characters that fusermount3 splits at escaped. */
static void append_escaped(char *out, size_t size, const char *text)
{
	size_t n = strlen(out);

	for (; *text && n + 3 < size; text++) {
		if (*text == ',' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text;
	}
	out[n] = '\0';
}

static void helper_options(const struct attach *a, char *out, size_t size)
{
	static const struct {
		unsigned long flag;
		const char *text;
	} known[] = {
		{ MS_RDONLY, ",ro" },	     { MS_NOEXEC, ",noexec" },
		{ MS_SYNCHRONOUS, ",sync" }, { MS_DIRSYNC, ",dirsync" },
		{ MS_NOATIME, ",noatime" },  { MS_NODIRATIME, ",nodiratime" },
	};
	size_t n;

	n = (size_t)snprintf(out, size,
			     "default_permissions,subtype=" MOUNTS_SUBTYPE "%s",
			     a->allow_other ? ",allow_other" : "");
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (a->flags & known[i].flag)
			n += (size_t)snprintf(out + n, size - n, "%s",
					      known[i].text);
	snprintf(out + n, size - n, ",fsname=");
	append_escaped(out, size, a->source);
}

/* All that comes from @fd up to its end, as one line in @buf. */
static void read_line(int fd, char *buf, size_t size)
{
	size_t n = 0;
	ssize_t got;

	while (n + 1 < size) {
		got = read(fd, buf + n, size - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

/*
 * Start fusermount3. Its stderr arrives at *@ret_stderr; @socket becomes its
 * descriptor 3, on which it sends the device; -1: it needs none.
 */
static int start_helper(char *const argv[], int socket, pid_t *ret_pid,
			int *ret_stderr)
{
	static char path[] = "PATH=/usr/local/bin:/usr/bin:/bin";
	static char comm[] = "_FUSE_COMMFD=3";
	char *env[] = { path, comm, NULL };
	cleanup_close int read_end = -1;
	cleanup_close int write_end = -1;
	posix_spawn_file_actions_t actions;
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	read_end = ends[0];
	write_end = ends[1];

	r = posix_spawn_file_actions_init(&actions);
	if (r)
		return -r;
	r = posix_spawn_file_actions_adddup2(&actions, write_end, 2);
	if (!r && socket >= 0)
		r = posix_spawn_file_actions_adddup2(&actions, socket, 3);
	if (!r)
		r = posix_spawnp(ret_pid, HELPER, &actions, NULL, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	if (r)
		return -r;
	*ret_stderr = steal_fd(&read_end);
	return 0;
}

/* Wait for it; its complaint becomes @why. 0, or -EIO if it failed. */
static int finish_helper(pid_t pid, int stderr_fd, char *why, size_t why_size)
{
	int status;

	read_line(stderr_fd, why, why_size);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (!*why)
		snprintf(why, why_size, HELPER " gave up without a reason");
	return -EIO;
}

static int helper_missing(int r, char *why, size_t why_size)
{
	snprintf(why, why_size,
		 "running " HELPER ": %s; install the package fuse3",
		 strerror(-r));
	return r;
}

/* The one descriptor that comes over @socket, or -EIO. */
static int receive_fd(int socket)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	ssize_t n;
	int fd;

	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (!c || c->cmsg_type != SCM_RIGHTS ||
	    c->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EIO;
	memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int mount_by_helper(const struct attach *a, char *why, size_t why_size)
{
	static char name[] = HELPER, dash_o[] = "-o", dashes[] = "--";
	cleanup_close int fd = -1;
	cleanup_close int ours = -1;
	cleanup_close int theirs = -1;
	cleanup_close int complaint = -1;
	cleanup_free char *mountpoint = strdup(a->mountpoint);
	char opts[HELPER_OPTIONS_MAX];
	char *argv[] = { name, dash_o, opts, dashes, mountpoint, NULL };
	int pair[2], r;
	pid_t pid = -1;

	if (!mountpoint)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];
	helper_options(a, opts, sizeof(opts));
	r = start_helper(argv, theirs, &pid, &complaint);
	if (r < 0)
		return helper_missing(r, why, why_size);
	base_closep(&theirs);

	fd = receive_fd(ours);
	r = finish_helper(pid, complaint, why, why_size);
	if (r < 0)
		return r;
	if (fd < 0) {
		snprintf(why, why_size, HELPER " sent no connection");
		return fd;
	}
	return steal_fd(&fd);
}

int attach_mount(const struct attach *a, char *why, size_t why_size)
{
	int r;

	*why = '\0';
	if (geteuid() == 0)
		r = mount_directly(a, why, why_size);
	else
		r = mount_by_helper(a, why, why_size);
	if (r < 0 && !*why)
		snprintf(why, why_size, "%s", strerror(-r));
	return r;
}

/* ---- unmounting ---- */

static int unmount_by_helper(const char *mountpoint, bool lazy, char *why,
			     size_t why_size)
{
	static char name[] = HELPER, plain[] = "-u", lazily[] = "-uz";
	static char dashes[] = "--";
	cleanup_close int complaint = -1;
	cleanup_free char *path = strdup(mountpoint);
	char *argv[] = { name, lazy ? lazily : plain, dashes, path, NULL };
	pid_t pid = -1;
	int r;

	if (!path)
		return -ENOMEM;
	r = start_helper(argv, -1, &pid, &complaint);
	if (r < 0)
		return helper_missing(r, why, why_size);
	r = finish_helper(pid, complaint, why, why_size);
	if (r < 0 && strstr(why, strerror(EBUSY)))
		return -EBUSY;
	return r;
}

int attach_unmount(const char *mountpoint, bool lazy, char *why,
		   size_t why_size)
{
	int flags = UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0), r = 0;

	*why = '\0';
	if (umount2(mountpoint, flags) < 0)
		r = -errno;
	if (r == -EPERM && geteuid() != 0)
		r = unmount_by_helper(mountpoint, lazy, why, why_size);
	if (r < 0 && !*why)
		snprintf(why, why_size, "%s", strerror(-r));
	return r;
}
