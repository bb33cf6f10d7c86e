/* SPDX-License-Identifier: MIT */
#include "fs/pages.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "fs/listing.h"
#include "store/base.h"

static int out_of_memory(void)
{
	cmd_error("out of memory");
	return CMD_FAILED;
}

/* Where the next request goes on. */
static int go_on(json_t *request, const json_t *items, const char *key)
{
	size_t n = json_array_size(items);
	uint64_t id;

	if (strcmp(key, "packages") == 0)
		return json_object_set_new(request, "from",
					   json_integer((json_int_t)n));
	id = listing_number(json_array_get(items, n - 1), "id");
	return json_object_set_new(request, "after",
				   json_integer((json_int_t)id));
}

int pages_fetch(const struct cmd_target *target, json_t *request,
		const char *key, json_t **ret)
{
	json_t *all = json_array(), *reply = NULL, *items;
	bool more = true;
	int r = request && all ? CMD_OK : out_of_memory();

	while (r == CMD_OK && more) {
		json_decref(reply);
		reply = NULL;
		r = cmd_ask(target, json_incref(request), false, &reply);
		if (r != CMD_OK)
			break;
		items = json_object_get(reply, key);
		/* One that gives nothing gives nothing more. */
		more = json_is_true(json_object_get(reply, "more")) &&
		       json_array_size(items) > 0;
		if (json_array_extend(all, items) < 0 ||
		    (more && go_on(request, all, key) < 0))
			r = out_of_memory();
	}
	if (r == CMD_OK && json_object_set(reply, key, all) < 0)
		r = out_of_memory();
	json_decref(request);
	json_decref(all);
	if (r == CMD_OK)
		*ret = reply;
	else
		json_decref(reply);
	return r;
}

struct pages_item {
	json_t *item; /* a reference */
};

static int pages_compare(const void *a, const void *b, void *arg)
{
	const struct pages_item *x = a, *y = b;
	const pages_compare_fn *compare = arg;

	return (*compare)(x->item, y->item);
}

int pages_sort(json_t *array, pages_compare_fn compare)
{
	size_t n = json_array_size(array);
	cleanup_free struct pages_item *v = calloc(n + 1, sizeof(*v));
	int r = 0;

	if (!v)
		return out_of_memory();
	for (size_t i = 0; i < n; i++)
		v[i].item = json_incref(json_array_get(array, i));
	qsort_r(v, n, sizeof(*v), pages_compare, &compare);
	for (size_t i = 0; i < n; i++)
		r |= json_array_set_new(array, i, v[i].item);
	return r ? out_of_memory() : CMD_OK;
}
