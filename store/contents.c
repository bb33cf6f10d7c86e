/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <string.h>

#include "store/list.h"
#include "store/package.h"
#include "store/parts.h"
#include "store/store.h"

_Static_assert(STORE_PROJECT_MAX == IDENT_PROJECT_MAX &&
		       STORE_VERSION_MAX == IDENT_VERSION_MAX &&
		       STORE_NAME_MAX == RECORD_NAME_MAX,
	       "texts of struct store_item are those of struct list_item");

/* From the list's items to what the caller wants. */
struct contents {
	store_item_fn fn;
	void *arg;
};

static enum store_item_kind contents_kind(enum list_kind kind)
{
	switch (kind) {
	case LIST_WHEEL:
		return STORE_ITEM_WHEEL;
	case LIST_BUILT:
		return STORE_ITEM_BUILT;
	case LIST_SDIST:
		return STORE_ITEM_SDIST;
	case LIST_METADATA:
		return STORE_ITEM_METADATA;
	case LIST_PAGE:
		return STORE_ITEM_PAGE;
	case LIST_SELFCHECK:
		return STORE_ITEM_SELFCHECK;
	case LIST_LOOSE:
		return STORE_ITEM_LOOSE;
	case LIST_OTHER:
		break;
	}
	return STORE_ITEM_OTHER;
}

static int contents_tell(void *arg, const struct list_item *item)
{
	const struct contents *c = arg;
	struct store_item out = { .id = item->id,
				  .kind = contents_kind(item->kind),
				  .entries = item->entries,
				  .files = item->sum.files,
				  .size = item->sum.size,
				  .own = item->sum.own,
				  .shared = item->sum.shared,
				  .extents = item->sum.extents,
				  .last_use = item->last_use_ns / NSEC_PER_SEC,
				  .hits = item->hits };

	memcpy(out.project, item->project, sizeof(out.project));
	memcpy(out.version, item->version, sizeof(out.version));
	memcpy(out.name, item->name, sizeof(out.name));
	return c->fn(c->arg, &out);
}

int store_list(struct store *st, uint64_t after, unsigned most,
	       store_item_fn fn, void *arg)
{
	const struct list_range range = { .after = after,
					  .most = most ? most : UINT_MAX,
					  .weigh = true };
	struct contents c = { .fn = fn, .arg = arg };

	return list_entries(&st->tree, &range, contents_tell, &c);
}

/* "project" or "project==version". */
static int contents_parse(const char *text, struct package_select *ret)
{
	char project[STORE_PROJECT_MAX + 1];
	const char *version = strstr(text, "==");
	size_t len = version ? (size_t)(version - text) : strlen(text);

	if (len >= sizeof(project))
		return -EINVAL;
	memcpy(project, text, len);
	project[len] = '\0';
	*ret = (struct package_select){ .version = "" };
	if (!ident_project(project, ret->project) ||
	    (version && !ident_version(version + 2, ret->version)))
		return -EINVAL;
	return 0;
}

int store_packages(struct store *st, const struct store_packages *how,
		   store_item_fn fn, void *arg)
{
	cleanup_free struct package_select *select = NULL;
	struct contents c = { .fn = fn, .arg = arg };
	struct package_how ph = { .versions = how->versions,
				  .from = how->from,
				  .most = how->most ? how->most : UINT_MAX,
				  .n_select = how->n_select };
	int r = 0;

	if (how->n_select) {
		select = calloc(how->n_select, sizeof(*select));
		if (!select)
			return -ENOMEM;
	}
	for (size_t i = 0; i < how->n_select && r >= 0; i++)
		r = contents_parse(how->select[i], &select[i]);
	if (r < 0)
		return r;
	ph.select = select;
	return package_list(&st->tree, &ph, contents_tell, &c);
}

int store_stored(struct store *st, uint64_t *ret)
{
	return package_stored(&st->tree, ret);
}
