/* SPDX-License-Identifier: MIT */
#include "fs/listener.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base.h"

#define PROC_PATH_MAX 64
#define COMM_MAX 32
#define LISTENING 0x10000 /* __SO_ACCEPTCON */

/* ---- connecting ---- */

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = -1;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return steal_fd(&fd);
}

static const char *advice(int r)
{
	switch (r) {
	case -ENOENT:
		return "; is the engine installed and started (`systemctl start docker`)? --docker-host names another socket";
	case -ECONNREFUSED:
		return "; nobody listens there: start the engine (`systemctl start docker`)";
	case -EACCES:
	case -EPERM:
		return "; run it as root";
	case -ENOTSOCK:
		return "; it is no socket: --docker-host names the engine's";
	default:
		return "";
	}
}

int listener_check(const char *path, char *why, size_t why_size)
{
	cleanup_close int fd = connect_to(path);

	if (fd >= 0)
		return 0;
	snprintf(why, why_size, "connecting to %s: %s%s", path, strerror(-fd),
		 advice(fd));
	return fd;
}

/* ---- the process ---- */

/* Root's process of that name: others may call themselves anything. */
static bool is_named(pid_t pid, const char *comm)
{
	char path[PROC_PATH_MAX], line[COMM_MAX] = "";
	cleanup_file FILE *f = NULL;
	struct stat st;

	/* The directory is the user's, though what is in it may be root's. */
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	if (stat(path, &st) < 0 || st.st_uid != 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f))
		return false;
	line[strcspn(line, "\n")] = '\0';
	return strcmp(line, comm) == 0;
}

/* "0000: 00000002 00000000 00010000 0001 01 INODE PATH": the sixth field of
 * one that listens (so says the fourth) at @path, else 0. */
static unsigned long parse_socket(char *line, const char *path)
{
	const char *field[7];

	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		line += strspn(line, " ");
		field[i] = strsep(&line, " ");
		if (!line)
			return 0;
	}
	line[strcspn(line, "\n")] = '\0';
	if (!(strtoul(field[3], NULL, 16) & LISTENING) ||
	    strcmp(line, path) != 0)
		return 0;
	return strtoul(field[6], NULL, 10);
}

static bool holds(pid_t pid, unsigned long inode)
{
	char path[PROC_PATH_MAX], want[PROC_PATH_MAX], link[PROC_PATH_MAX];
	cleanup_dir DIR *fds = NULL;
	const struct dirent *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	snprintf(want, sizeof(want), "socket:[%lu]", inode);
	fds = opendir(path);
	while (fds && (d = readdir(fds)) != NULL) {
		ssize_t n = readlinkat(dirfd(fds), d->d_name, link,
				       sizeof(link) - 1);

		if (n < 0)
			continue;
		link[n] = '\0';
		if (strcmp(link, want) == 0)
			return true;
	}
	return false;
}

static pid_t find_holder(const char *comm, unsigned long inode)
{
	cleanup_dir DIR *proc = opendir("/proc");
	const struct dirent *d;

	while (proc && (d = readdir(proc)) != NULL) {
		pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);

		if (pid > 0 && is_named(pid, comm) && holds(pid, inode))
			return pid;
	}
	return 0;
}

/* In other mount namespaces others may listen on the same path. */
static pid_t find_server(const char *path, const char *comm)
{
	cleanup_file FILE *f = fopen("/proc/net/unix", "re");
	cleanup_free char *line = NULL;
	size_t size = 0;
	pid_t pid = 0;

	while (f && !pid && getline(&line, &size, f) > 0) {
		unsigned long inode = parse_socket(line, path);

		pid = inode ? find_holder(comm, inode) : 0;
	}
	return pid;
}

int listener_find(const char *path, const char *comm, pid_t *ret, char *why,
		  size_t why_size)
{
	cleanup_free char *real = realpath(path, NULL);
	cleanup_close int fd = connect_to(path);
	struct ucred peer = { .pid = 0 };
	socklen_t size = sizeof(peer);

	if (fd < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
		snprintf(why, why_size, "connecting to %s: %s", path,
			 strerror(fd < 0 ? -fd : errno));
		return fd < 0 ? fd : -errno;
	}
	if (peer.uid != 0) {
		snprintf(
			why, why_size,
			"%s: user %u listens there; what root attaches to must be root's own",
			path, peer.uid);
		return -EPERM;
	}
	if (peer.pid > 0 && is_named(peer.pid, comm)) {
		*ret = peer.pid;
		return 0;
	}
	/* A name in /run may have been bound as one in /var/run. */
	*ret = find_server(path, comm);
	if (*ret == 0 && real)
		*ret = find_server(real, comm);
	if (*ret > 0)
		return 0;
	snprintf(
		why, why_size,
		"%s is not %s's own socket: process %d listens there. --docker-host names another socket; an engine in a container or another machine can not be attached to",
		path, comm, (int)peer.pid);
	return -ENOTSUP;
}
