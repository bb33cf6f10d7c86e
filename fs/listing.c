/* SPDX-License-Identifier: MIT */
#include "fs/listing.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "store/base.h"

/* In the order of enum store_item_kind. */
static const struct {
	const char *key;
	const char *entry;   /* in a line of text */
	const char *entries; /* as a title of all without a project */
} kinds[] = {
	[STORE_ITEM_WHEEL] = { "wheel", "wheel", "(wheels of no known name)" },
	[STORE_ITEM_BUILT] = { "built", "built wheel",
			       "(built wheels of no known name)" },
	[STORE_ITEM_SDIST] = { "sdist", "sdist", "(sdists of no known name)" },
	[STORE_ITEM_METADATA] = { "metadata", "metadata",
				  "(metadata of no known name)" },
	[STORE_ITEM_PAGE] = { "page", "index page", "(index pages)" },
	[STORE_ITEM_SELFCHECK] = { "selfcheck", "selfcheck", "(selfcheck)" },
	[STORE_ITEM_OTHER] = { "other", "other", "(other entries)" },
	[STORE_ITEM_LOOSE] = { "loose", "files", "(files of no entry)" },
};
static const char package_kind[] = "package";

/* ---- in the daemon ---- */

/* What becomes a reply. */
struct listing {
	json_t *items; /* owned */
	bool packages;
};

static json_t *text_or_null(const char *text)
{
	return *text ? json_string(text) : json_null();
}

static int add_item(void *arg, const struct store_item *item)
{
	struct listing *l = arg;
	const char *kind = l->packages && *item->project
				   ? package_kind
				   : kinds[item->kind].key;
	json_t *o = json_pack(
		"{s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "kind",
		kind, "project", text_or_null(item->project), "version",
		text_or_null(item->version), "files", (json_int_t)item->files,
		"size_bytes", (json_int_t)item->size, "own_bytes",
		(json_int_t)item->own, "shared_bytes", (json_int_t)item->shared,
		"extents", (json_int_t)item->extents, "last_use",
		(json_int_t)item->last_use, "hits", (json_int_t)item->hits);
	int r = o ? 0 : -1;

	if (o && l->packages)
		r = json_object_set_new(
			o, "entries", json_integer((json_int_t)item->entries));
	if (o && !l->packages) {
		r = json_object_set_new(o, "id",
					json_integer((json_int_t)item->id));
		if (r == 0)
			r = json_object_set_new(o, "name",
						json_string(item->name));
	}
	if (r < 0 || json_array_append(l->items, o) < 0)
		r = -ENOMEM;
	json_decref(o);
	return r;
}

/* A number of a request, 0 if it is missing or none. */
static uint64_t request_number(const json_t *request, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(request, key));

	return n > 0 ? (uint64_t)n : 0;
}

int listing_entries(struct store *st, const json_t *request, bool paged,
		    json_t **ret)
{
	struct listing l = { .items = json_array() };
	int r = l.items ? store_list(st, request_number(request, "after"),
				     paged ? LISTING_ENTRIES_MAX : 0, add_item,
				     &l)
			: -ENOMEM;

	if (r >= 0)
		*ret = json_pack("{s:b, s:O, s:b}", "ok", 1, "entries", l.items,
				 "more", r);
	json_decref(l.items);
	return r < 0 ? r : 0;
}

/* The texts of "select"; -EINVAL: they are none, or too many. */
static int request_select(const json_t *request,
			  const char *select[static LISTING_SELECT_MAX],
			  size_t *ret_n)
{
	const json_t *list = json_object_get(request, "select");
	size_t n = json_array_size(list);

	if ((list && !json_is_array(list)) || n > LISTING_SELECT_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		select[i] = json_string_value(json_array_get(list, i));
		if (!select[i])
			return -EINVAL;
	}
	*ret_n = n;
	return 0;
}

int listing_packages(struct store *st, const json_t *request, bool paged,
		     json_t **ret)
{
	struct listing l = { .items = json_array(), .packages = true };
	const char *select[LISTING_SELECT_MAX];
	struct store_packages how = {
		.versions = json_is_true(json_object_get(request, "versions")),
		.from = request_number(request, "from"),
		.most = paged ? LISTING_PACKAGES_MAX : 0,
	};
	uint64_t stored = 0;
	int more = l.items ? request_select(request, select, &how.n_select)
			   : -ENOMEM;

	how.select = how.n_select ? select : NULL;
	if (more >= 0)
		more = store_packages(st, &how, add_item, &l);
	if (more == 0 && !how.select) {
		int r = store_stored(st, &stored);

		more = r < 0 ? r : more;
	}
	if (more >= 0)
		*ret = json_pack("{s:b, s:O, s:b, s:I}", "ok", 1, "packages",
				 l.items, "more", more, "stored_bytes",
				 (json_int_t)stored);
	json_decref(l.items);
	return more < 0 ? more : 0;
}

/* ---- in the command ---- */

uint64_t listing_number(const json_t *item, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(item, key));
}

const char *listing_text(const json_t *item, const char *key)
{
	const char *text = json_string_value(json_object_get(item, key));

	return text ? text : "";
}

/* Which of kinds[] it is, or OTHER. */
static size_t kind_of(const json_t *item)
{
	const char *key = listing_text(item, "kind");

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].key, key) == 0)
			return i;
	return STORE_ITEM_OTHER;
}

const char *listing_kind(const json_t *item)
{
	return kinds[kind_of(item)].entry;
}

const char *listing_title(const json_t *item, char *buf, size_t size)
{
	const char *project = listing_text(item, "project");
	const char *version = listing_text(item, "version");
	const char *name = listing_text(item, "name");

	if (*project)
		snprintf(buf, size, "%s%s%s", project, *version ? " " : "",
			 version);
	else
		snprintf(buf, size, "%s",
			 *name ? name : kinds[kind_of(item)].entries);
	return buf;
}

const char *listing_time(const json_t *item, char *buf, size_t size)
{
	time_t when = (time_t)listing_number(item, "last_use");
	struct tm tm;

	if (when == 0 || !localtime_r(&when, &tm) ||
	    strftime(buf, size, "%Y-%m-%d %H:%M", &tm) == 0)
		snprintf(buf, size, "never");
	return buf;
}
