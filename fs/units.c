/* SPDX-License-Identifier: MIT */
#include "fs/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "store/base.h"

#define UNITS_SPAN_MAX_SEC (INT64_C(100) * 366 * 24 * 3600)

/*
 * Digits from *@text on, which is moved behind them. A sign or a space is not
 * a number here.
 */
static int parse_number(const char **text, uint64_t *ret)
{
	const char *p = *text;
	uint64_t n = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(n, UINT64_C(10), &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	*text = p;
	*ret = n;
	return 0;
}

/* The factor that "", "B", "K", "KB", "KiB", "M", ... stand for; 0: none. */
static uint64_t size_factor(const char *unit)
{
	static const char letters[] = "KMGT";
	const char *letter =
		*unit ? strchr(letters, toupper((unsigned char)*unit)) : NULL;

	if (!letter)
		return *unit == '\0' || strcasecmp(unit, "B") == 0;
	unit++;
	if (*unit && strcasecmp(unit, "B") != 0 && strcasecmp(unit, "iB") != 0)
		return 0;
	return UINT64_C(1) << (10 * (letter - letters + 1));
}

int units_parse_size(const char *text, uint64_t *ret_bytes)
{
	uint64_t n, factor, bytes;
	int r;

	r = parse_number(&text, &n);
	if (r < 0)
		return r;
	factor = size_factor(text);
	if (factor == 0)
		return -EINVAL;
	if (__builtin_mul_overflow(n, factor, &bytes))
		return -ERANGE;
	*ret_bytes = bytes;
	return 0;
}

/* Bytes, or percent: whether there are any can be told of both. */
static int parse_amount(const char *text, uint64_t *ret)
{
	const char *p = text;
	int r;

	r = parse_number(&p, ret);
	if (r < 0)
		return r;
	if (strcmp(p, "%") == 0)
		return *ret <= 100 ? 0 : -ERANGE;
	return units_parse_size(text, ret);
}

int units_check_amount(const char *text)
{
	uint64_t n;

	return parse_amount(text, &n);
}

int units_check_limit(const char *text)
{
	uint64_t n;
	int r;

	r = parse_amount(text, &n);
	if (r < 0)
		return r;
	return n > 0 ? 0 : -ERANGE;
}

/* Largest first: units_format_span() takes the first that fits. */
static const struct {
	char letter;
	int64_t sec;
	const char *name;
} spans[] = {
	{ 'w', INT64_C(7) * 24 * 3600, NULL },
	{ 'd', INT64_C(24) * 3600, "days" },
	{ 'h', 3600, "h" },
	{ 'm', 60, "min" },
	{ 's', 1, "s" },
};

int units_parse_span(const char *text, int64_t *ret_sec)
{
	uint64_t n;
	int64_t factor = 1;
	int r;

	r = parse_number(&text, &n);
	if (r < 0)
		return r;

	if (*text) {
		size_t i = 0;

		while (i < ARRAY_SIZE(spans) && spans[i].letter != *text)
			i++;
		if (i == ARRAY_SIZE(spans) || text[1])
			return -EINVAL;
		factor = spans[i].sec;
	}
	if (n > (uint64_t)(UNITS_SPAN_MAX_SEC / factor))
		return -ERANGE;
	*ret_sec = (int64_t)n * factor;
	return 0;
}

const char *units_format_size(uint64_t bytes, char *buf, size_t size)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned unit = 0;
	double n = (double)bytes;

	while (n >= 1023.95 && unit + 1 < ARRAY_SIZE(names)) {
		n /= 1024;
		unit++;
	}
	snprintf(buf, size, "%.*f %s", unit && n < 99.95 ? 1 : 0, n,
		 names[unit]);
	return buf;
}

const char *units_format_span(int64_t sec, char *buf, size_t size)
{
	for (size_t i = 0; i < ARRAY_SIZE(spans); i++) {
		if (!spans[i].name || sec < spans[i].sec ||
		    sec % spans[i].sec != 0)
			continue;
		snprintf(buf, size, "%lld %s", (long long)(sec / spans[i].sec),
			 spans[i].name);
		return buf;
	}
	snprintf(buf, size, "%lld s", (long long)sec);
	return buf;
}
