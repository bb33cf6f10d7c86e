/* SPDX-License-Identifier: MIT */
#include "store/layout.h"

#include <stdio.h>
#include <string.h>

#define HASH_DIGITS 56 /* a SHA-224 in hex */
#define FAN_OUT 5      /* http: directories of one digit each */
#define WHEEL_DIRS 4   /* wheels: two digits, two, two, and the rest */
#define WHEEL_REST 50  /* digits */
#define BASE_MAX 1     /* directories above a cache */
#define BODY ".body"   /* suffix of the second file of a pair */
#define TMP ".tmp"

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

enum top { TOP_NONE, TOP_HTTP, TOP_HTTP_V2, TOP_WHEELS, TOP_SELFCHECK };

/* What follows the hash in a name. */
enum tail { TAIL_OTHER, TAIL_NONE, TAIL_BODY, TAIL_TMP };

static enum top top_of(const char *dir)
{
	if (!strcmp(dir, "http-v2"))
		return TOP_HTTP_V2;
	if (!strcmp(dir, "http"))
		return TOP_HTTP;
	if (!strcmp(dir, "wheels"))
		return TOP_WHEELS;
	if (!strcmp(dir, "selfcheck"))
		return TOP_SELFCHECK;
	return TOP_NONE;
}

static size_t hex_digits(const char *text)
{
	return strspn(text, DIGITS "abcdef");
}

static bool is_hex(const char *text, size_t digits)
{
	return hex_digits(text) == digits && !text[digits];
}

/* The random part that Python's tempfile puts in, and ".tmp": eight
 * characters, or six of more letters in Python 2. */
static bool is_tmp_tail(const char *tail)
{
	size_t n = strspn(tail, LOWER DIGITS "_");
	size_t old = strspn(tail, LOWER UPPER DIGITS "_");

	return (n == 8 && !strcmp(tail + n, TMP)) ||
	       (old == 6 && !strcmp(tail + old, TMP));
}

static enum tail tail_of(const char *name)
{
	const char *tail = name + HASH_DIGITS;
	bool body;

	if (strnlen(name, HASH_DIGITS) < HASH_DIGITS ||
	    hex_digits(name) < HASH_DIGITS)
		return TAIL_OTHER;
	if (!*tail)
		return TAIL_NONE;
	body = !strncmp(tail, BODY, strlen(BODY));
	if (body)
		tail += strlen(BODY);
	if (body && !*tail)
		return TAIL_BODY;
	return is_tmp_tail(tail) ? TAIL_TMP : TAIL_OTHER;
}

static bool is_digit_dir(const char *dir)
{
	return is_hex(dir, 1);
}

static bool is_wheel_dirs(const char *const *dirs)
{
	return is_hex(dirs[0], 2) && is_hex(dirs[1], 2) && is_hex(dirs[2], 2) &&
	       is_hex(dirs[3], WHEEL_REST);
}

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name);
	size_t len = strlen(suffix);

	return n > len && !strcmp(name + n - len, suffix);
}

/* A file in the five fan-out directories @dirs of @top. */
static struct layout_unit http_unit(enum top top, const char *const *dirs,
				    const char *name)
{
	struct layout_unit unit = { .kind = LAYOUT_OTHER };
	enum tail tail = tail_of(name);
	size_t i;

	if (tail == TAIL_OTHER)
		return unit;
	for (i = 0; i < FAN_OUT; i++) {
		if (dirs[i][0] != name[i] || dirs[i][1])
			return unit;
	}
	unit.kind = tail == TAIL_TMP ? LAYOUT_TMP : LAYOUT_HTTP;
	unit.name_len = HASH_DIGITS;
	unit.body = tail == TAIL_BODY || (tail == TAIL_NONE && top == TOP_HTTP);
	return unit;
}

static struct layout_unit selfcheck_unit(const char *name)
{
	struct layout_unit unit = { .kind = LAYOUT_OTHER };
	enum tail tail = tail_of(name);

	if (tail == TAIL_NONE)
		unit.kind = LAYOUT_SELFCHECK;
	else if (tail == TAIL_TMP)
		unit.kind = LAYOUT_TMP;
	unit.name_len = HASH_DIGITS;
	return unit;
}

/* Classify in a cache whose top directory is the first of @dirs. */
static struct layout_unit unit_below(const char *const *dirs, unsigned n,
				     const char *name)
{
	struct layout_unit unit = { .kind = LAYOUT_OTHER };
	enum top top = top_of(dirs[0]);
	unsigned below = n - 1;

	switch (top) {
	case TOP_HTTP:
	case TOP_HTTP_V2:
		if (below == FAN_OUT)
			unit = http_unit(top, dirs + 1, name);
		unit.dir = n;
		break;
	case TOP_WHEELS:
		if (below < WHEEL_DIRS || !is_wheel_dirs(dirs + 1))
			break;
		unit.kind = LAYOUT_WHEEL;
		unit.dir = 1 + WHEEL_DIRS;
		unit.body = below == WHEEL_DIRS && has_suffix(name, ".whl");
		break;
	case TOP_SELFCHECK:
		if (!below)
			unit = selfcheck_unit(name);
		unit.dir = n;
		break;
	default:
		break;
	}
	return unit;
}

struct layout_unit layout_classify(const char *const *dirs, unsigned n,
				   const char *name)
{
	const struct layout_unit other = { .kind = LAYOUT_OTHER };
	struct layout_unit unit;
	unsigned base;

	if (n > LAYOUT_DEPTH_MAX)
		return other;
	if (n <= BASE_MAX && !strcmp(name, "selfcheck.json"))
		return (struct layout_unit){ .kind = LAYOUT_SELFCHECK,
					     .dir = n,
					     .name_len = strlen(name) };
	for (base = 0; base <= BASE_MAX && base < n; base++) {
		unit = unit_below(dirs + base, n - base, name);
		if (unit.kind == LAYOUT_OTHER)
			continue;
		unit.dir += base;
		return unit;
	}
	return other;
}

bool layout_evictable(enum layout_kind kind)
{
	return kind == LAYOUT_HTTP || kind == LAYOUT_WHEEL ||
	       kind == LAYOUT_SELFCHECK;
}

enum layout_queue layout_queue(enum layout_kind kind)
{
	return kind == LAYOUT_WHEEL ? LAYOUT_QUEUE_WHEELS : LAYOUT_QUEUE_HTTP;
}

int64_t layout_grace_sec(enum layout_kind kind, int64_t grace_sec)
{
	if (kind != LAYOUT_WHEEL)
		return grace_sec;
	if (grace_sec > INT64_MAX / LAYOUT_WHEELS_GRACE_FACTOR)
		return INT64_MAX;
	return grace_sec * LAYOUT_WHEELS_GRACE_FACTOR;
}

bool layout_partner(const char *name, char buf[static 256])
{
	enum tail tail = tail_of(name);

	if (tail != TAIL_NONE && tail != TAIL_BODY)
		return false;
	(void)snprintf(buf, 256, "%.*s%s", HASH_DIGITS, name,
		       tail == TAIL_NONE ? BODY : "");
	return true;
}

/* As layout_dir_prunable(), with the top directory the first of @dirs. */
static bool prunable_below(const char *const *dirs, unsigned n)
{
	enum top top = top_of(dirs[0]);
	unsigned i;

	if ((top != TOP_HTTP && top != TOP_HTTP_V2) || n < 2 || n > 1 + FAN_OUT)
		return false;
	for (i = 1; i < n; i++) {
		if (!is_digit_dir(dirs[i]))
			return false;
	}
	return true;
}

bool layout_dir_prunable(const char *const *dirs, unsigned n)
{
	unsigned base;

	for (base = 0; base <= BASE_MAX && base < n; base++) {
		if (prunable_below(dirs + base, n - base))
			return true;
	}
	return false;
}

bool layout_below_wheels(const char *const *dirs, unsigned n)
{
	unsigned base;

	for (base = 0; base <= BASE_MAX && base < n; base++) {
		if (n <= LAYOUT_DEPTH_MAX && top_of(dirs[base]) == TOP_WHEELS)
			return true;
	}
	return false;
}

bool layout_is_tmp_name(const char *name)
{
	return tail_of(name) == TAIL_TMP;
}

const char *layout_kind_name(enum layout_kind kind)
{
	switch (kind) {
	case LAYOUT_HTTP:
	case LAYOUT_TMP:
		return "http";
	case LAYOUT_WHEEL:
		return "wheels";
	case LAYOUT_SELFCHECK:
		return "selfcheck";
	default:
		return "other";
	}
}
