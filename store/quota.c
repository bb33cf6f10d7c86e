/* SPDX-License-Identifier: MIT */
#include "store/quota.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define HTTP_PERCENT 95
#define AHEAD_DIVISOR 40 /* eviction starts limit/40 below http's ceiling */

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* @a - @b, at least 0. */
static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t percent_of(uint64_t whole, uint64_t percent)
{
	return whole / 100 * percent + whole % 100 * percent / 100;
}

uint64_t quota_reserve_bytes(const struct quota *q)
{
	return max_u64(MIB, min_u64(q->limit / 64, 16 * MIB));
}

uint64_t quota_ceiling(const struct quota *q, enum quota_class class)
{
	uint64_t reserve = quota_reserve_bytes(q);

	switch (class) {
	case QUOTA_HTTP:
		/* Of a small limit, too, something is left for the rest. */
		return min_u64(percent_of(q->limit, HTTP_PERCENT),
			       less(q->limit, 2 * reserve));
	case QUOTA_OTHER:
	case QUOTA_WHEELS:
		return less(q->limit, reserve);
	case QUOTA_SYSTEM:
		return less(q->limit, reserve / 2);
	default:
		return UINT64_MAX;
	}
}

void quota_set(struct quota *q, uint64_t limit, uint64_t low, uint64_t min_free)
{
	uint64_t ceiling;

	q->limit = max_u64(limit, QUOTA_LIMIT_MIN);
	q->min_free = min_free;
	ceiling = quota_ceiling(q, QUOTA_HTTP);
	if (!low)
		low = min_u64(percent_of(q->limit, QUOTA_DEFAULT_LOW_PERCENT),
			      ceiling - q->limit / 20);
	q->low = min_u64(low, ceiling);
}

uint64_t quota_low_for(const struct quota *q, uint64_t limit)
{
	struct quota same = { 0 };

	quota_set(&same, q->limit, 0, 0);
	if (q->low == same.low)
		return 0;
	return (uint64_t)((double)limit * ((double)q->low / (double)q->limit));
}

uint64_t quota_high(const struct quota *q)
{
	uint64_t ceiling = quota_ceiling(q, QUOTA_HTTP);

	return max_u64(q->low, less(ceiling, q->limit / AHEAD_DIVISOR));
}

bool quota_disk_full(const struct quota *q)
{
	return q->disk_free < q->min_free;
}

/* What must come free on the disk for @bytes more. */
static uint64_t disk_shortfall(const struct quota *q, uint64_t bytes)
{
	uint64_t usable = less(q->disk_free, q->min_free);

	if (usable < q->reserved)
		return bytes + (q->reserved - usable);
	return less(bytes, usable - q->reserved);
}

uint64_t quota_shortfall(const struct quota *q, enum quota_class class,
			 uint64_t bytes)
{
	uint64_t ceiling = quota_ceiling(q, class);
	uint64_t need;

	if (class == QUOTA_EVICT || (class == QUOTA_SYSTEM && quota_excess(q)))
		return 0;
	if (bytes > ceiling)
		return UINT64_MAX;
	need = less(q->charged, ceiling - bytes);
	if (class == QUOTA_SYSTEM)
		return need;
	if (class != QUOTA_WHEELS) {
		if (quota_disk_full(q))
			return UINT64_MAX;
		need = max_u64(need, disk_shortfall(q, bytes));
	}
	return need <= q->charged ? need : UINT64_MAX;
}

uint64_t quota_pressure(const struct quota *q)
{
	return q->charged > quota_high(q) ? q->charged - q->low : 0;
}

uint64_t quota_excess(const struct quota *q)
{
	return less(less(q->charged, q->reserved), q->limit);
}

/* The power of 1024 that a unit stands for, or -1. */
static int unit_power(const char *unit)
{
	static const char letters[] = "KMGT";
	const char *letter;

	if (!*unit)
		return 0;
	letter = strchr(letters, toupper((unsigned char)*unit));
	if (!letter)
		return -1;
	unit++;
	if (!*unit || !strcmp(unit, "B") || !strcmp(unit, "iB"))
		return (int)(letter - letters) + 1;
	return -1;
}

int quota_parse_size(const char *text, uint64_t whole, uint64_t *ret)
{
	uint64_t n = 0;
	int power;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	for (; isdigit((unsigned char)*text); text++) {
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return -ERANGE;
	}
	if (!strcmp(text, "%")) {
		if (n > 100)
			return -ERANGE;
		*ret = percent_of(whole, n);
		return 0;
	}
	power = unit_power(text);
	if (power < 0)
		return -EINVAL;
	while (power--) {
		if (__builtin_mul_overflow(n, 1024, &n))
			return -ERANGE;
	}
	*ret = n;
	return 0;
}
