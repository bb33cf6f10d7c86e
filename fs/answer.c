/* SPDX-License-Identifier: MIT */
#include "fs/answer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "store/base.h"

/* More cache mounts than any host has. */
#define CACHES_MAX 4096

static void json_putp(json_t **j)
{
	json_decref(*j);
}
#define cleanup_json __attribute__((cleanup(json_putp)))

static int parse(const char *text, size_t len, json_t **ret)
{
	*ret = json_loadb(text, len, 0, NULL);
	return json_is_object(*ret) ? 0 : -EPROTO;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static bool begins_with(const char *text, const char *begin)
{
	return strncmp(text, begin, strlen(begin)) == 0;
}

/* ---- the engine ---- */

void answer_engine_release(struct answer_engine *e)
{
	free(e->root);
	*e = (struct answer_engine)ANSWER_ENGINE_INIT;
}

int answer_read_version(const char *text, size_t len, char *why,
			size_t why_size)
{
	cleanup_json json_t *j = NULL;
	const json_t *component;
	size_t i;

	if (parse(text, len, &j) < 0) {
		snprintf(why, why_size, "it does not speak Docker's API");
		return -EPROTO;
	}
	json_array_foreach(json_object_get(j, "Components"), i,
			   component) if (strstr(text_of(component, "Name"),
						 "Podman"))
	{
		snprintf(
			why, why_size,
			"it is podman's; for builds by podman or buildah use `pipcachefs attach buildah`");
		return -ENOTSUP;
	}
	return 0;
}

static const struct driver {
	const char *name, *dir, *suffix;
} drivers[] = {
	{ "overlay2", "overlay2", "/diff" },
	{ "vfs", "vfs/dir", "" },
};

static const struct driver *find_driver(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++)
		if (strcmp(drivers[i].name, name) == 0)
			return &drivers[i];
	return NULL;
}

/* ["name=seccomp,profile=default", "name=rootless", …] */
static bool has_option(const json_t *info, const char *name)
{
	const json_t *option;
	size_t i;

	json_array_foreach(json_object_get(info, "SecurityOptions"), i,
			   option) if (json_is_string(option) &&
				       begins_with(json_string_value(option),
						   name)) return true;
	return false;
}

/* [["driver-type", "io.containerd.snapshotter.v1"], …] */
static bool has_snapshotter(const json_t *info)
{
	const json_t *pair, *value;
	size_t i;

	json_array_foreach(json_object_get(info, "DriverStatus"), i, pair)
	{
		value = json_array_get(pair, 1);
		if (json_is_string(value) &&
		    begins_with(json_string_value(value),
				"io.containerd.snapshotter"))
			return true;
	}
	return false;
}

/* What speaks against an engine with that /info; NULL: nothing. */
static const char *objection(const json_t *info)
{
	if (has_snapshotter(info))
		return "it keeps images in containerd, which deletes a cache mount together with what is mounted there; turn the containerd image store off";
	if (has_option(info, "name=rootless"))
		return "it is rootless: what is mounted from outside is not seen in its builds";
	if (has_option(info, "name=userns"))
		return "it maps users (userns-remap): the files of the cache would belong to nobody in its builds";
	return NULL;
}

int answer_read_info(const char *text, size_t len, struct answer_engine *ret,
		     char *why, size_t why_size)
{
	cleanup_json json_t *j = NULL;
	const struct driver *driver;
	const char *root, *against;

	if (parse(text, len, &j) < 0 ||
	    !answer_is_plain_path(text_of(j, "DockerRootDir"))) {
		snprintf(why, why_size, "it does not speak Docker's API");
		return -EPROTO;
	}
	root = text_of(j, "DockerRootDir");
	against = objection(j);
	if (against) {
		snprintf(why, why_size, "%s", against);
		return -ENOTSUP;
	}
	driver = find_driver(text_of(j, "Driver"));
	if (!driver) {
		snprintf(
			why, why_size,
			"its storage driver is \"%.64s\"; only overlay2 and vfs unmount before they delete",
			text_of(j, "Driver"));
		return -ENOTSUP;
	}
	ret->root = strdup(root);
	ret->dir = driver->dir;
	ret->suffix = driver->suffix;
	return ret->root ? 0 : -ENOMEM;
}

/* ---- cache mounts ---- */

bool answer_is_plain_path(const char *path)
{
	size_t len;

	if (path[0] != '/' || !path[1])
		return false;
	for (path++; *path; path += len + (path[len] == '/')) {
		len = strcspn(path, "/");
		if (len == 0 || (len == 1 && path[0] == '.') ||
		    (len == 2 && path[0] == '.' && path[1] == '.'))
			return false;
		if (path[len] == '/' && !path[len + 1])
			return false;
	}
	return true;
}

/* BuildKit's are 25 letters and digits. */
static bool is_id(const char *id)
{
	size_t len = strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz"
				"ABCDEFGHIJKLMNOPQRSTUVWXYZ_-");

	return len > 0 && len <= ANSWER_ID_MAX && !id[len];
}

/* "cached mount TARGET from exec …"; TARGET as it was written. */
static bool is_for(const char *description, const char *target)
{
	static const char begin[] = "cached mount ";

	if (!begins_with(description, begin))
		return false;
	description += strlen(begin);
	if (!begins_with(description, target))
		return false;
	description += strlen(target);
	description += strspn(description, "/");
	return begins_with(description, " from ");
}

static bool is_wanted(const json_t *record, const char *const *targets,
		      size_t n_targets)
{
	const char *description = text_of(record, "Description");

	if (strcmp(text_of(record, "Type"), "exec.cachemount") != 0 ||
	    !is_id(text_of(record, "ID")))
		return false;
	for (size_t i = 0; i < n_targets; i++)
		if (is_for(description, targets[i]))
			return true;
	return false;
}

/* One parent or, since API 1.42, several. */
static bool has_base(const json_t *record)
{
	return *text_of(record, "Parent") ||
	       json_array_size(json_object_get(record, "Parents")) > 0;
}

void answer_caches_release(struct answer_caches *c)
{
	free(c->cache);
	*c = (struct answer_caches)ANSWER_CACHES_INIT;
}

static int append(struct answer_caches *c, const json_t *record)
{
	struct answer_cache *grown =
		reallocarray(c->cache, c->n + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	c->cache = grown;
	grown += c->n++;
	snprintf(grown->id, sizeof(grown->id), "%s", text_of(record, "ID"));
	/* In doubt it is. */
	grown->in_use = !json_is_false(json_object_get(record, "InUse"));
	grown->has_base = has_base(record);
	return 0;
}

int answer_read_caches(const char *text, size_t len, const char *const *targets,
		       size_t n_targets, struct answer_caches *ret)
{
	struct answer_caches found = ANSWER_CACHES_INIT;
	cleanup_json json_t *j = NULL;
	const json_t *records, *record;
	size_t i;

	if (parse(text, len, &j) < 0)
		return -EPROTO;
	/* null where there are none. */
	records = json_object_get(j, "BuildCache");
	if (!json_is_array(records) && !json_is_null(records))
		return -EPROTO;
	json_array_foreach(records, i, record)
	{
		if (found.n == CACHES_MAX)
			break;
		if (is_wanted(record, targets, n_targets) &&
		    append(&found, record) < 0) {
			answer_caches_release(&found);
			return -ENOMEM;
		}
	}
	*ret = found;
	return 0;
}
