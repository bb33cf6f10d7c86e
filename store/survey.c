/* SPDX-License-Identifier: MIT */
#include "store/survey.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SURVEY_FIRST_SIZE 256

void survey_found(struct survey *s, const char *format, ...)
{
	char text[SURVEY_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	s->findings++;
	if (s->found)
		s->found(s->arg, text);
}

int survey_walk(const struct survey *s, enum index_table table, survey_fn fn,
		void *arg)
{
	cleanup_free uint8_t *val = malloc(INDEX_VALUE_MAX);
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = { .len = 1 }, key;
	size_t len;
	int r = val ? index_iter(s->txn, table, &from, 0, &it) : -ENOMEM;

	if (r < 0)
		return r;
	while ((r = index_next(&it, &key, val, INDEX_VALUE_MAX, &len)) != 0) {
		if (r < 0 && (r != -EBADMSG || !it.cursor))
			return r;
		r = r > 0 ? fn(arg, &key, val, len) : fn(arg, &key, NULL, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

int survey_mark(struct survey *s, enum index_id which,
		const struct survey_set *set)
{
	struct record_key key = record_key_text(schema_ids[which].name);
	uint8_t val[sizeof(uint64_t)];
	uint64_t last = set->n ? set->v[set->n - 1].id : 0, mark = 0;
	ssize_t n = index_get(s->txn, INDEX_META, &key, val, sizeof(val));

	if (n < 0 && n != -ENOENT && n != -EBADMSG)
		return (int)n;
	if (n < 0 || record_u64_decode(val, (size_t)n, &mark) < 0 ||
	    mark <= last)
		survey_found(s,
			     "store: %s is %" PRIu64 ", but %" PRIu64
			     " was given already",
			     schema_ids[which].name, mark, last);
	return 0;
}

struct survey_name survey_name(const void *name, size_t len)
{
	struct survey_name ret;
	const uint8_t *p = name;
	size_t at = 0;

	for (size_t i = 0; i < len; i++) {
		bool plain = p[i] >= ' ' && p[i] < 0x7f && p[i] != '"' &&
			     p[i] != '\\';

		if (at + sizeof("\\xff...") > sizeof(ret.text)) {
			memcpy(ret.text + at, "...", 3);
			at += 3;
			break;
		}
		if (plain)
			ret.text[at++] = (char)p[i];
		else
			at += (size_t)snprintf(ret.text + at,
					       sizeof(ret.text) - at, "\\x%02x",
					       p[i]);
	}
	ret.text[at] = '\0';
	return ret;
}

int survey_add(struct survey_set *set, uint64_t id, struct survey_item **ret)
{
	if (set->n == set->size) {
		size_t size = set->size ? set->size + set->size / 2
					: SURVEY_FIRST_SIZE;
		struct survey_item *more =
			reallocarray(set->v, size, sizeof(*more));

		if (!more)
			return -ENOMEM;
		set->v = more;
		set->size = size;
	}
	*ret = &set->v[set->n++];
	**ret = (struct survey_item){ .id = id };
	return 0;
}

static int survey_order(const void *a, const void *b)
{
	const struct survey_item *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return (x->ref > y->ref) - (x->ref < y->ref);
}

void survey_sort(struct survey_set *set)
{
	if (set->n)
		qsort(set->v, set->n, sizeof(set->v[0]), survey_order);
}

struct survey_item *survey_from(const struct survey_set *set, uint64_t id)
{
	size_t low = 0, high = set->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (set->v[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < set->n ? &set->v[low] : NULL;
}

struct survey_item *survey_find(const struct survey_set *set, uint64_t id)
{
	struct survey_item *it = survey_from(set, id);

	return it && it->id == id ? it : NULL;
}

void survey_release(struct survey_set *set)
{
	free(set->v);
	*set = (struct survey_set){ .v = NULL };
}
