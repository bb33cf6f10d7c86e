/* SPDX-License-Identifier: MIT */
#include "fs/covers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/log.h"
#include "fs/units.h"
#include "store/base.h"

struct covers_item {
	char *name;   /* owned */
	bool settled; /* covered, and nothing left below to take over */
	bool visited;
	int said; /* the last trouble that was told; 0: none */
};

static void free_items(struct covers *c)
{
	for (size_t i = 0; i < c->n; i++)
		free(c->item[i].name);
	free(c->item);
	c->item = NULL;
	c->n = 0;
}

void covers_release(struct covers *c)
{
	free_items(c);
	mounts_release(&c->list);
	cover_close(&c->place);
}

int covers_move(struct covers *c, pid_t pid, const char *path)
{
	struct cover_place place = COVER_PLACE_INIT;
	int r = cover_open(pid, path, &place);

	if (r < 0)
		return r;
	free_items(c);
	cover_close(&c->place);
	c->place = place;
	return 0;
}

/* ---- mounts ---- */

/* The name of a cover of our store, of this mount or an earlier one; NULL if it
 * is none. */
static const char *name_of(const struct covers *c, const struct mounts_entry *e)
{
	const char *name = cover_name(&c->place, e);

	if (!name || strncmp(name, c->begin, strlen(c->begin)) != 0 ||
	    strcmp(e->store, c->config->store) != 0)
		return NULL;
	return name;
}

static bool is_current(const struct covers *c, const struct mounts_entry *e)
{
	return c->mounted && e->major == c->major && e->minor == c->minor;
}

static void take(const struct covers *c, const char *name, const char *because,
		 bool *ret_left)
{
	bool lazy = false;
	int r = cover_take(&c->place, name, &lazy);

	if (r < 0) {
		log_write(LOG_WARNING, "unmounting %s/%s%s: %s", c->place.base,
			  name, because, strerror(-r));
		*ret_left = true;
	} else if (lazy) {
		log_write(
			LOG_WARNING,
			"%s/%s was busy: its cover is out of sight, and ends with the build that uses it%s",
			c->place.base, name, because);
	} else {
		log_write(LOG_INFO, "uncovered %s/%s%s", c->place.base, name,
			  because);
	}
}

static bool shows(const struct covers *c, const char *name, unsigned major,
		  unsigned minor)
{
	unsigned seen_major, seen_minor;

	return cover_shows(&c->place, name, &seen_major, &seen_minor) == 0 &&
	       seen_major == major && seen_minor == minor;
}

/* Take away the covers of our store, except current ones unless @all. Upper
 * ones first. Returns how many were tried. */
static size_t take_all(const struct covers *c, bool all, const char *because,
		       bool *ret_left)
{
	size_t n = 0;

	for (size_t i = c->list.n; i-- > 0;) {
		const struct mounts_entry *e = &c->list.entry[i];
		const char *name = name_of(c, e);

		if (!name || (!all && is_current(c, e)))
			continue;
		/* Hidden by another mount, it is out of reach. */
		if (!shows(c, name, e->major, e->minor)) {
			*ret_left = true;
			continue;
		}
		take(c, name, because, ret_left);
		n++;
	}
	return n;
}

static int reload(struct covers *c)
{
	mounts_release(&c->list);
	return cover_list(&c->place, &c->list);
}

/* Is there a mount of ours, and does it answer? */
static int look_for_mount(struct covers *c)
{
	cleanup_mounts struct mounts own = MOUNTS_INIT;
	const struct mounts_entry *e;
	int r = mounts_load(&own);

	if (r < 0)
		return r;
	c->mounted = false;
	e = mounts_at(&own, c->config->mountpoint);
	if (!e || strcmp(e->store, c->config->store) != 0)
		return -ENOENT;
	c->major = e->major;
	c->minor = e->minor;
	r = cover_probe(c->config->mountpoint, c->config->cancel);
	c->mounted = r == 0;
	return r;
}

static void say_mount(struct covers *c, int r)
{
	if (r == c->said)
		return;
	c->said = r;
	if (r == 0)
		log_write(LOG_NOTICE, "%s is mounted again",
			  c->config->mountpoint);
	else if (r == -ENOENT)
		log_write(
			LOG_WARNING,
			"%s is not mounted any more: builds have plain caches until it is",
			c->config->mountpoint);
	else
		log_write(
			LOG_WARNING,
			"%s is dead: builds have plain caches until it is mounted anew; `pipcachefs umount` it first",
			c->config->mountpoint);
}

int covers_look(struct covers *c)
{
	bool left = false;
	int r = look_for_mount(c);

	if (r < 0 && r != -ENOENT && r != -ENOTCONN)
		return r;
	say_mount(c, r);
	r = reload(c);
	if (r == 0 && take_all(c, false, ", which showed a mount that is gone",
			       &left) > 0)
		r = reload(c);
	return r;
}

static bool is_covered(const struct covers *c, const char *name)
{
	return c->mounted && shows(c, name, c->major, c->minor);
}

bool covers_missing(const struct covers *c)
{
	for (size_t i = 0; c->mounted && i < c->n; i++)
		if (!is_covered(c, c->item[i].name))
			return true;
	return false;
}

/* What another store shows there; NULL: nothing. */
static const struct mounts_entry *find_other(const struct covers *c,
					     const char *name)
{
	for (size_t i = 0; i < c->list.n; i++) {
		const struct mounts_entry *e = &c->list.entry[i];
		const char *place = cover_name(&c->place, e);

		if (place && strcmp(place, name) == 0 &&
		    strcmp(e->store, c->config->store) != 0 &&
		    shows(c, name, e->major, e->minor))
			return e;
	}
	return NULL;
}

/* ---- directories ---- */

static struct covers_item *find_item(const struct covers *c, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (strcmp(c->item[i].name, name) == 0)
			return &c->item[i];
	return NULL;
}

static struct covers_item *add_item(struct covers *c, const char *name)
{
	struct covers_item *grown =
		reallocarray(c->item, c->n + 1, sizeof(*grown));

	if (!grown)
		return NULL;
	c->item = grown;
	grown += c->n;
	*grown = (struct covers_item){ .name = strdup(name) };
	if (!grown->name)
		return NULL;
	c->n++;
	return grown;
}

bool covers_knows(const struct covers *c, const char *name)
{
	return find_item(c, name);
}

bool covers_is_done(const struct covers *c, const char *name)
{
	const struct covers_item *item = find_item(c, name);

	return item && item->settled && is_covered(c, name);
}

void covers_forget(struct covers *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->n; i++) {
		if (c->item[i].visited) {
			c->item[n] = c->item[i];
			c->item[n++].visited = false;
		} else {
			free(c->item[i].name);
		}
	}
	c->n = n;
}

static void say_adopted(const struct covers *c, const char *name, bool removed,
			const struct adopt_result *res)
{
	char size[UNITS_TEXT_MAX];

	if (res->files > 0)
		log_write(LOG_INFO,
			  "took over %" PRIu64
			  " files, %s, that builds had left uncovered in %s/%s",
			  res->files,
			  units_format_size(res->bytes, size, sizeof(size)),
			  c->place.base, name);
	if (removed && res->full)
		log_write(
			LOG_NOTICE,
			"the cache has no room for all that builds had left in %s/%s: the rest stays on the disk, below the cover",
			c->place.base, name);
	else if (removed && res->left > 0)
		log_write(
			LOG_NOTICE,
			"%" PRIu64
			" files in %s/%s are none of pip's: they stay on the disk, below the cover",
			res->left, c->place.base, name);
}

static void say_trouble(const struct covers *c, struct covers_item *item, int r)
{
	if (item->said == r)
		return;
	item->said = r;
	if (r == -ENOTEMPTY)
		log_write(
			LOG_INFO,
			"%s/%s is in use by a build; it is covered when that ends",
			c->place.base, item->name);
	else if (r == -EKEYREJECTED)
		log_write(
			LOG_WARNING,
			"%s/%s does not belong to the owner of %s, so pip would not use the mount there: left alone",
			c->place.base, item->name, c->config->mountpoint);
	else
		log_write(LOG_WARNING, "covering %s/%s: %s; tried again later",
			  c->place.base, item->name, strerror(-r));
}

static void say_other(const struct covers *c, struct covers_item *item,
		      const struct mounts_entry *other)
{
	if (item->said == -EALREADY)
		return;
	item->said = -EALREADY;
	log_write(
		LOG_WARNING,
		"%s/%s is covered with a mount of %s: left alone; end that `pipcachefs attach`, or `pipcachefs umount %s`",
		c->place.base, item->name, other->store, other->store);
}

static enum covers_need put(struct covers *c, struct covers_item *item,
			    unsigned flags, struct adopt_result *res)
{
	const struct cover_source source = {
		.mountpoint = c->config->mountpoint,
		.major = c->major,
		.minor = c->minor,
	};
	int r = cover_put(&c->place, &source, item->name, flags,
			  c->config->cancel, res);

	if (r == -ECANCELED)
		return COVERS_STOP;
	if (r == -ESTALE) /* the next look tells */
		return COVERS_LATER;
	say_adopted(c, item->name, flags & COVER_REMOVE, res);
	/* Without the directory there is nothing to cover: it was pruned. */
	if (r == -ENOENT)
		return COVERS_FINE;
	if (r < 0) {
		say_trouble(c, item, r);
		return COVERS_LATER;
	}
	item->said = 0;
	if (flags & COVER_MOUNT)
		log_write(LOG_INFO, "covered %s/%s", c->place.base, item->name);
	/* It may be visited again before the next look. */
	return reload(c) < 0 ? COVERS_LATER : COVERS_AGAIN;
}

enum covers_need covers_visit(struct covers *c, const char *name, bool in_use,
			      bool make)
{
	struct covers_item *item = find_item(c, name);
	struct adopt_result res = { .files = 0 };
	unsigned flags = make ? COVER_MAKE : 0;
	const struct mounts_entry *other;
	enum covers_need need;
	bool covered;

	if (!item)
		item = add_item(c, name);
	if (!item)
		return COVERS_LATER;
	item->visited = true;
	covered = is_covered(c, name);
	if (!c->mounted || (covered && item->settled))
		return COVERS_FINE;
	item->settled = false;
	if (covered && in_use)
		return COVERS_LATER;
	other = find_other(c, name);
	if (other) {
		say_other(c, item, other);
		return COVERS_LATER;
	}
	flags |= covered ? COVER_REMOVE : COVER_MOUNT;
	if (in_use)
		flags |= COVER_EMPTY;
	need = put(c, item, flags, &res);
	if (need != COVERS_AGAIN)
		return need;
	item->settled = covered;
	return covered ? COVERS_FINE : COVERS_AGAIN;
}

bool covers_end(struct covers *c)
{
	bool left = false;
	int r;

	if (!c->place.base)
		return true;
	r = reload(c);
	if (r == 0) {
		take_all(c, true, "", &left);
		r = reload(c);
	}
	if (r == -ESRCH) {
		/* The engine has ended; its namespace may have been ours. */
		c->place.pid = getpid();
		left = false;
		r = reload(c);
		if (r == 0)
			take_all(c, true, "", &left);
	}
	if (r < 0)
		log_write(LOG_WARNING, "reading the engine's mounts: %s",
			  strerror(-r));
	return r == 0 && !left;
}

int covers_finish(struct covers *c, enum covers_need need, char *why,
		  size_t why_size)
{
	if (!c->config->once) {
		if (covers_end(c))
			return 0;
		snprintf(why, why_size, "some directories are still covered");
		return -EBUSY;
	}
	/* What is covered but has something left below is as good. */
	if (need == COVERS_LATER && (!c->mounted || covers_missing(c))) {
		snprintf(why, why_size, "not all is covered: see above");
		return -EAGAIN;
	}
	return 0;
}
