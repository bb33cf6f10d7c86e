/* SPDX-License-Identifier: MIT */
#include "fs/place.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base.h"

#define DIRECTORY_MODE 0755
#define MOUNTPOINT_MODE 0555

static int failed(const char *what, const char *path, char *why,
		  size_t why_size)
{
	int r = -errno;

	snprintf(why, why_size, "%s %s: %s", what, path, strerror(-r));
	return r;
}

/* For all to pass through, whatever the umask. */
static int make_directory(const char *path, char *why, size_t why_size)
{
	if (mkdir(path, DIRECTORY_MODE) == 0)
		(void)chmod(path, DIRECTORY_MODE);
	else if (errno != EEXIST)
		return failed("making the directory", path, why, why_size);
	return 0;
}

static const struct passwd *owner_of_mountpoints(void)
{
	const struct passwd *pw = getpwnam(PLACE_USER);

	return pw ? pw : getpwnam("nobody");
}

int place_make_mountpoint(const struct configfile *f, char *why,
			  size_t why_size)
{
	const struct passwd *pw = owner_of_mountpoints();
	const char *path = f->mountpoint;
	cleanup_close int fd = -1;
	int r;

	if (!f->own_mountpoint)
		return 0;
	r = make_directory(path, why, why_size);
	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return failed("opening the mount point", path, why, why_size);
	if ((pw && fchown(fd, pw->pw_uid, pw->pw_gid) < 0) ||
	    fchmod(fd, MOUNTPOINT_MODE) < 0)
		return failed("giving away the mount point", path, why,
			      why_size);
	return 0;
}

int place_make_above(const struct configfile *f, char *why, size_t why_size)
{
	int r = 0;

	if (f->own_store)
		r = make_directory(CONFIGFILE_STORES, why, why_size);
	if (r == 0 && f->own_mountpoint)
		r = make_directory(CONFIGFILE_MOUNTS, why, why_size);
	return r;
}
