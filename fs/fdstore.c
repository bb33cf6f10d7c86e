/* SPDX-License-Identifier: MIT */
#include "fs/fdstore.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/attach.h"
#include "fs/kept.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/notify.h"
#include "store/base.h"

enum part { PART_KEPT, PART_DEVICE, PART_LOCK, PART_CONTROL, PARTS };

static const char *const names[PARTS] = { "kept", "device", "lock", "control" };

void fdstore_keep(const struct fdstore *f)
{
	notify_keep(names[PART_KEPT], f->kept);
	notify_keep(names[PART_DEVICE], f->device);
	notify_keep(names[PART_LOCK], f->lock);
	notify_flush();
}

void fdstore_keep_control(int fd)
{
	notify_drop(names[PART_CONTROL]);
	notify_keep(names[PART_CONTROL], fd);
}

void fdstore_drop(void)
{
	for (size_t i = 0; i < PARTS; i++)
		notify_drop(names[i]);
	notify_flush();
}

/* Is it the device of FUSE, and connected to a mount? */
static const char *look_at_device(int fd)
{
	struct pollfd p = { .fd = fd };
	struct stat st, fuse;

	if (fstat(fd, &st) < 0 || stat(ATTACH_DEVICE, &fuse) < 0 ||
	    !S_ISCHR(st.st_mode) || st.st_rdev != fuse.st_rdev)
		return "its connection is not " ATTACH_DEVICE;
	if (poll(&p, 1, 0) != 0)
		return "its mount has been taken away";
	return NULL;
}

static const char *look_at_memory(int fd)
{
	struct kept *k;
	int r = kept_map(fd, &k);

	if (r == -EPROTO)
		return "its memory has another layout: it was of another version";
	if (r < 0)
		return "its memory cannot be mapped";
	kept_unmap(k);
	return NULL;
}

static const char *look_at_mount(const char *store, const char *mountpoint)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	const struct mounts_entry *e;

	if (mounts_load(&mounts) < 0)
		return "the mount table cannot be read";
	e = mounts_at(&mounts, mountpoint);
	if (!e || strcmp(e->store, store) != 0)
		return "its mount was of another store, or on another place";
	return NULL;
}

/* Why they are of no use; NULL: they are. */
static const char *look(const struct fdstore *f, const char *store,
			const char *mountpoint)
{
	const char *wrong;
	struct stat st;

	if (f->kept < 0 || f->device < 0 || f->lock < 0)
		return "a part is missing";
	if (fstat(f->lock, &st) < 0 || !S_ISREG(st.st_mode))
		return "the lock is no file";
	if (f->control >= 0 &&
	    (fstat(f->control, &st) < 0 || !S_ISSOCK(st.st_mode)))
		return "what commands connect to is no socket";
	wrong = look_at_memory(f->kept);
	if (!wrong)
		wrong = look_at_device(f->device);
	return wrong ? wrong : look_at_mount(store, mountpoint);
}

bool fdstore_take(const char *store, const char *mountpoint,
		  struct fdstore *ret)
{
	int fds[PARTS];
	const char *wrong;

	notify_take(names, fds, PARTS);
	*ret = (struct fdstore){ .kept = fds[PART_KEPT],
				 .device = fds[PART_DEVICE],
				 .lock = fds[PART_LOCK],
				 .control = fds[PART_CONTROL] };
	if (ret->kept < 0 && ret->device < 0 && ret->lock < 0 &&
	    ret->control < 0)
		return false;
	wrong = look(ret, store, mountpoint);
	if (!wrong)
		return true;
	log_write(
		LOG_WARNING,
		"what the keeper before this one left of %s is of no use, and is dropped: %s",
		mountpoint, wrong);
	fdstore_release(ret);
	fdstore_drop();
	return false;
}

void fdstore_release(struct fdstore *f)
{
	base_closep(&f->kept);
	base_closep(&f->device);
	base_closep(&f->lock);
	base_closep(&f->control);
}
