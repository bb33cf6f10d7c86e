/* SPDX-License-Identifier: MIT */
#include "fs/buildah.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/sha.h>

#include "fs/answer.h"
#include "fs/log.h"
#include "fs/notify.h"
#include "store/base.h"

#define PARENT "buildah-cache"
#define HASH_LEN 16
#define AGAIN_MSEC 100

/* ---- names ---- */

/* A path below a directory, of characters that mount tables do not escape and
 * a terminal shows as they are: other users may make such directories. */
static bool is_fit(const char *id)
{
	char path[BUILDAH_NAME_MAX + 2];

	if (*id == '/')
		id++;
	for (const char *c = id; *c; c++)
		if (iscntrl((unsigned char)*c))
			return false;
	if (strpbrk(id, " \\") ||
	    snprintf(path, sizeof(path), "/%s", id) >= (int)sizeof(path))
		return false;
	return answer_is_plain_path(path);
}

static void hash_id(const char *id, const char *owner, char ret[HASH_LEN + 1])
{
	unsigned char digest[SHA256_DIGEST_LENGTH];
	char text[BUILDAH_NAME_MAX + 8];
	int len = snprintf(text, sizeof(text), "%s%s", id, owner);

	SHA256((const unsigned char *)text, (size_t)len, digest);
	for (size_t i = 0; i < HASH_LEN / 2; i++)
		snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

int buildah_names(const char *id, unsigned uid,
		  char ret[BUILDAH_NAMES][BUILDAH_NAME_MAX])
{
	const char *below = id + (*id == '/');
	char hash[HASH_LEN + 1];

	if (!is_fit(id))
		return -EINVAL;
	if (strlen(id) + sizeof(PARENT) + 16 > BUILDAH_NAME_MAX)
		return -ENAMETOOLONG;
	/* Until 1.28. */
	snprintf(ret[0], BUILDAH_NAME_MAX, PARENT "/%s", below);
	/* Since 1.29. */
	snprintf(ret[1], BUILDAH_NAME_MAX, PARENT "-%u/%s", uid, below);
	/* Since 1.38, and fixes of 1.33, 1.35 and 1.37. */
	hash_id(id, "", hash);
	snprintf(ret[2], BUILDAH_NAME_MAX, PARENT "-%u/%s", uid, hash);
	/* Since 1.40; the owner is uid= and gid= of the mount. */
	hash_id(id, ":0:0", hash);
	snprintf(ret[3], BUILDAH_NAME_MAX, PARENT "-%u/%s", uid, hash);
	return 0;
}

/* ---- one round ---- */

static void worse(enum covers_need *need, enum covers_need one)
{
	if (one == COVERS_STOP || one == COVERS_AGAIN || *need == COVERS_FINE)
		*need = one;
}

static enum covers_need visit(struct covers *c, const char *name, bool make)
{
	if (covers_is_done(c, name))
		return COVERS_FINE;
	return covers_visit(c, name, cover_in_use(name), make);
}

static enum covers_need visit_known(struct covers *c, const char *const *ids,
				    size_t n)
{
	char names[BUILDAH_NAMES][BUILDAH_NAME_MAX];
	enum covers_need need = COVERS_FINE;

	for (size_t i = 0; i < n; i++) {
		if (buildah_names(ids[i], geteuid(), names) < 0)
			continue;
		for (size_t k = 0; need != COVERS_STOP && k < BUILDAH_NAMES;
		     k++)
			worse(&need, visit(c, names[k], true));
	}
	return need;
}

/* Has a build of pip used it as its cache? */
static bool is_pips(int dir, const char *child)
{
	static const char *const own[] = { "http-v2", "http" };
	char path[NAME_MAX + 16];
	struct stat st;

	if (fstatat(dir, child, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISDIR(st.st_mode))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		snprintf(path, sizeof(path), "%s/%s", child, own[i]);
		if (fstatat(dir, path, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISDIR(st.st_mode))
			return true;
	}
	return false;
}

/* The ids that Dockerfiles give are known by what builds leave there. What is
 * known already is not looked into: our own mount may not answer. */
static enum covers_need visit_found(struct covers *c, const char *parent)
{
	cleanup_dir DIR *dir = NULL;
	enum covers_need need = COVERS_FINE;
	char name[BUILDAH_NAME_MAX], path[PATH_MAX];
	const struct dirent *d;

	snprintf(path, sizeof(path), "%s/%s", c->place.base, parent);
	dir = opendir(path);
	while (dir && need != COVERS_STOP && (d = readdir(dir)) != NULL) {
		if (!is_fit(d->d_name))
			continue;
		snprintf(name, sizeof(name), "%s/%s", parent, d->d_name);
		if (covers_knows(c, name) || is_pips(dirfd(dir), d->d_name))
			worse(&need, visit(c, name, false));
	}
	return need;
}

static enum covers_need visit_all(struct covers *c)
{
	char parent[64];
	enum covers_need need;

	need = visit_known(c, c->config->targets, c->config->n_targets);
	if (need != COVERS_STOP)
		worse(&need, visit_known(c, c->config->ids, c->config->n_ids));
	if (need != COVERS_STOP)
		worse(&need, visit_found(c, PARENT));
	snprintf(parent, sizeof(parent), PARENT "-%u", geteuid());
	if (need != COVERS_STOP)
		worse(&need, visit_found(c, parent));
	return need;
}

static enum covers_need round_of(struct covers *c)
{
	int r = covers_look(c);

	if (r == -ECANCELED)
		return COVERS_STOP;
	if (r < 0)
		log_write(LOG_WARNING, "looking at %s: %s",
			  c->config->mountpoint, strerror(-r));
	return r == 0 && c->mounted ? visit_all(c) : COVERS_LATER;
}

/* ---- until told to end ---- */

static enum covers_need attend(struct covers *c)
{
	struct pollfd p = { .fd = c->config->cancel, .events = POLLIN };
	enum covers_need need;

	do {
		need = round_of(c);
		if (need == COVERS_STOP ||
		    (c->config->once && need != COVERS_AGAIN))
			return need;
	} while (poll(&p, 1,
		      need == COVERS_AGAIN ? AGAIN_MSEC
					   : c->config->interval_msec) <= 0);
	return COVERS_STOP;
}

static int check_ids(const struct covers_config *config, char *why,
		     size_t why_size)
{
	char names[BUILDAH_NAMES][BUILDAH_NAME_MAX];

	for (size_t i = 0; i < config->n_ids; i++) {
		int r = buildah_names(config->ids[i], 0, names);

		if (r < 0) {
			snprintf(
				why, why_size,
				"id '%s': it has to be a path without blanks, '.', '..' and empty parts",
				config->ids[i]);
			return r;
		}
	}
	return 0;
}

int buildah_attach(const struct covers_config *config, const char *tmp,
		   char *why, size_t why_size)
{
	struct covers c = { .config = config, .begin = PARENT };
	cleanup_free char *path = NULL;
	enum covers_need need;
	int r = check_ids(config, why, why_size);

	if (r < 0)
		return r;
	path = realpath(tmp, NULL);
	r = path ? covers_move(&c, getpid(), path) : -errno;
	if (r < 0) {
		snprintf(why, why_size, "%s: %s", tmp, strerror(-r));
		return r;
	}
	log_write(LOG_NOTICE, "attached to cache mounts in %s", c.place.base);
	notify_ready();
	need = attend(&c);
	notify_stopping();
	r = covers_finish(&c, need, why, why_size);
	covers_release(&c);
	return r;
}
