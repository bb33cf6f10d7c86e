/* SPDX-License-Identifier: MIT */
#include "store/ident.h"

#include <string.h>

#include "store/response.h"

#define IDENT_PIECE ((size_t)64 * KIB) /* of a directory, read at a time */
#define IDENT_OVERLAP ((size_t)512)    /* a record that lies across two */
#define IDENT_START ((size_t)2 * KIB) /* looked at of a body's beginning, end */
#define IDENT_END_LEN 22	      /* end record of a ZIP, no comment */
#define IDENT_RECORD_LEN 46	      /* of its central directory, no name */
#define IDENT_GZIP_LEN 10	      /* header, no fields */
#define IDENT_GZIP_EXTRA 4	      /* flags: a field before the name */
#define IDENT_GZIP_NAME 8

static const char dist_info[] = ".dist-info/";
static const char metadata_start[] = "Metadata-Version:";

/* --- Spelling ------------------------------------------------------------ */

static bool ident_is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c >= '0' && c <= '9');
}

static char ident_lower(char c)
{
	static const char upper[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	static const char lower[] = "abcdefghijklmnopqrstuvwxyz";
	const char *p = c ? strchr(upper, c) : NULL;

	if (p)
		return lower[p - upper];
	return c;
}

static bool ident_is_one_of(char c, const char *those)
{
	return c && strchr(those, c);
}

static bool ident_set_project(const char *text, size_t len,
			      char ret[static IDENT_PROJECT_MAX + 1])
{
	char out[IDENT_PROJECT_MAX + 1], last = '\0';
	size_t n = 0;

	if (!len || !ident_is_alnum(text[0]) || !ident_is_alnum(text[len - 1]))
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = ident_lower(text[i]);

		if (!ident_is_alnum(c)) {
			if (!ident_is_one_of(c, "-_."))
				return false;
			if (last == '-')
				continue;
			c = '-';
		}
		if (n == IDENT_PROJECT_MAX)
			return false;
		out[n++] = last = c;
	}
	out[n] = '\0';
	memcpy(ret, out, n + 1);
	return true;
}

/* Names of files have '_' for '-'. */
static bool ident_set_version(const char *text, size_t len,
			      char ret[static IDENT_VERSION_MAX + 1])
{
	if (!len || len > IDENT_VERSION_MAX || !ident_is_alnum(text[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!ident_is_alnum(text[i]) &&
		    !ident_is_one_of(text[i], "._+!-"))
			return false;
	for (size_t i = 0; i < len; i++) {
		ret[i] = ident_lower(text[i]);
		if (ret[i] == '_')
			ret[i] = '-';
	}
	ret[len] = '\0';
	return true;
}

bool ident_project(const char *text, char ret[static IDENT_PROJECT_MAX + 1])
{
	return ident_set_project(text, strlen(text), ret);
}

bool ident_version(const char *text, char ret[static IDENT_VERSION_MAX + 1])
{
	return ident_set_version(text, strlen(text), ret);
}

/* Both, or neither. */
static bool ident_set(struct ident *id, const char *project, size_t project_len,
		      const char *version, size_t version_len)
{
	struct ident got = *id;

	if (!ident_set_project(project, project_len, got.project) ||
	    !ident_set_version(version, version_len, got.version))
		return false;
	*id = got;
	return true;
}

/* "project-version", parted at the last dash that a digit follows. */
static bool ident_set_stem(struct ident *id, const char *stem, size_t len)
{
	for (size_t i = len; i-- > 1;)
		if (stem[i] == '-' && i + 1 < len && stem[i + 1] >= '0' &&
		    stem[i + 1] <= '9')
			return ident_set(id, stem, i, stem + i + 1,
					 len - i - 1);
	return false;
}

bool ident_wheel_name(const char *name, struct ident *ret)
{
	struct ident id = { .kind = IDENT_WHEEL };
	size_t len = strlen(name), dashes = 0;
	const char *version = strchr(name, '-'), *tags;

	for (size_t i = 0; i < len; i++)
		dashes += name[i] == '-';
	if (dashes < 4 || dashes > 5 || len < 4 ||
	    strcmp(name + len - 4, ".whl") != 0)
		return false;
	version++;
	tags = strchr(version, '-');
	if (!tags || !ident_set(&id, name, (size_t)(version - name - 1),
				version, (size_t)(tags - version)))
		return false;
	*ret = id;
	return true;
}

/* --- Bodies -------------------------------------------------------------- */

/* A stretch of a source, as one of its own. */
struct ident_part {
	const struct wheel_source *all;
	uint64_t off;
};

static int ident_part_read(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct ident_part *part = arg;

	return part->all->read(part->all->arg, part->off + off, buf, len);
}

static unsigned ident_u16(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

/* Where the central directory begins and ends: 1, or 0 if there is none. Of a
 * ZIP64 as large as that its size is not known: all before its end may be it. */
static int ident_zip_bounds(const struct wheel_source *src, uint64_t *ret_low,
			    uint64_t *ret_end)
{
	uint8_t buf[IDENT_START];
	size_t len = src->size < sizeof(buf) ? (size_t)src->size : sizeof(buf);
	int r = src->read(src->arg, src->size - len, buf, len);

	for (size_t i = len; r >= 0 && i >= IDENT_END_LEN; i--) {
		const uint8_t *p = buf + i - IDENT_END_LEN;
		uint64_t size;

		if (memcmp(p, "PK\5\6", 4) != 0)
			continue;
		size = ident_u16(p + 12) | (uint64_t)ident_u16(p + 14) << 16;
		*ret_end = src->size - len + (uint64_t)(p - buf);
		*ret_low = size < *ret_end ? *ret_end - size : 0;
		return 1;
	}
	return r;
}

/* Is @name "project-version.dist-info/..."? */
static bool ident_dist_info(const char *name, size_t len, struct ident *id)
{
	const char *end = memmem(name, len, dist_info, strlen(dist_info));

	if (!end || memchr(name, '/', (size_t)(end - name)))
		return false;
	return ident_set_stem(id, name, (size_t)(end - name));
}

/* Look for one among the directory's records in @buf, from the back, for that
 * is where wheels have it. */
static bool ident_records(const uint8_t *buf, size_t len, struct ident *id)
{
	for (size_t i = len; i >= IDENT_RECORD_LEN; i--) {
		const uint8_t *p = buf + i - IDENT_RECORD_LEN;
		size_t name_len;

		if (memcmp(p, "PK\1\2", 4) != 0)
			continue;
		name_len = ident_u16(p + 28);
		if (name_len <= len - i &&
		    ident_dist_info((const char *)buf + i, name_len, id))
			return true;
	}
	return false;
}

/*
 * A wheel's dist-info, from its central directory. Begins at its end and stops
 * at the first name that will do: one piece is read of nearly every wheel.
 */
static int ident_zip(const struct wheel_source *src, struct ident *id)
{
	cleanup_free uint8_t *buf = malloc(IDENT_PIECE);
	uint64_t low = 0, end = 0;
	int r = buf ? ident_zip_bounds(src, &low, &end) : -ENOMEM;

	if (r <= 0)
		return r;
	for (uint64_t read = 0; read < IDENT_READ_MAX; read += IDENT_PIECE) {
		size_t len = end - low < IDENT_PIECE ? (size_t)(end - low)
						     : IDENT_PIECE;

		if (len < IDENT_RECORD_LEN)
			return 0;
		r = src->read(src->arg, end - len, buf, len);
		if (r < 0 || ident_records(buf, len, id) || len < IDENT_PIECE)
			return r;
		end -= IDENT_PIECE - IDENT_OVERLAP;
	}
	return 0;
}

/* gzip keeps the name of what it packed: "project-version.tar". */
static void ident_gzip(const uint8_t *buf, size_t len, struct ident *id)
{
	const uint8_t *name = buf + IDENT_GZIP_LEN, *end;

	if (len <= IDENT_GZIP_LEN || !(buf[3] & IDENT_GZIP_NAME) ||
	    buf[3] & IDENT_GZIP_EXTRA)
		return;
	end = memchr(name, '\0', len - IDENT_GZIP_LEN);
	if (!end || end - name < 4 || memcmp(end - 4, ".tar", 4) != 0)
		return;
	end -= 4;
	for (const uint8_t *p = name; p < end; p++)
		if (*p == '/')
			name = p + 1;
	if (ident_set_stem(id, (const char *)name, (size_t)(end - name)))
		id->kind = IDENT_SDIST;
}

/* The value of the line "Field: value", or NULL. */
static const char *ident_field(const char *text, size_t len, const char *field,
			       size_t *ret_len)
{
	size_t want = strlen(field);
	const char *end = text + len, *stop;

	while (text < end) {
		stop = memchr(text, '\n', (size_t)(end - text));
		if (!stop || stop == text || *text == '\r')
			return NULL;
		if ((size_t)(stop - text) > want &&
		    memcmp(text, field, want) == 0) {
			text += want;
			while (text < stop && *text == ' ')
				text++;
			if (stop > text && stop[-1] == '\r')
				stop--;
			*ret_len = (size_t)(stop - text);
			return text;
		}
		text = stop + 1;
	}
	return NULL;
}

static void ident_metadata(const char *text, size_t len, struct ident *id)
{
	size_t name_len, version_len;
	const char *name = ident_field(text, len, "Name:", &name_len);
	const char *version = ident_field(text, len, "Version:", &version_len);

	if (name && version)
		(void)ident_set(id, name, name_len, version, version_len);
}

/* What the body says, where @id has no name yet; and of what kind it is. */
static int ident_body(const struct wheel_source *src, struct ident *id)
{
	uint8_t buf[IDENT_START];
	size_t len = src->size < sizeof(buf) ? (size_t)src->size : sizeof(buf);
	bool named = *id->project;
	int r;

	if (!len)
		return 0;
	r = src->read(src->arg, 0, buf, len);
	if (r < 0)
		return r;
	if (len >= 4 && memcmp(buf, "PK\3\4", 4) == 0) {
		if (!named)
			r = ident_zip(src, id);
		if (id->kind == IDENT_OTHER && *id->project)
			id->kind = IDENT_WHEEL;
	} else if (len >= 2 && memcmp(buf, "\x1f\x8b", 2) == 0) {
		if (!named)
			ident_gzip(buf, len, id);
	} else if (len > strlen(metadata_start) &&
		   memcmp(buf, metadata_start, strlen(metadata_start)) == 0) {
		id->kind = IDENT_METADATA;
		if (!named)
			ident_metadata((const char *)buf, len, id);
	}
	return r;
}

/* What the headers say. */
static void ident_headers(const struct response *res, struct ident *id)
{
	if (strcmp(res->package_type, "bdist_wheel") == 0)
		id->kind = IDENT_WHEEL;
	else if (strcmp(res->package_type, "sdist") == 0)
		id->kind = IDENT_SDIST;
	else if (strstr(res->content_type, "text/html") ||
		 strstr(res->content_type, "vnd.pypi.simple"))
		id->kind = IDENT_PAGE;
	(void)ident_set(id, res->project, strlen(res->project), res->version,
			strlen(res->version));
}

int ident_response(const struct wheel_source *head,
		   const struct wheel_source *body, struct ident *ret)
{
	struct ident id = { .kind = IDENT_OTHER };
	struct response res = { .body_len = 0 };
	struct ident_part part = { .all = head };
	struct wheel_source inside = { .read = ident_part_read, .arg = &part };
	int r = response_read(head, &res);

	*ret = (struct ident){ .kind = IDENT_OTHER };
	if (r < 0)
		return r;
	if (r)
		ident_headers(&res, &id);
	if (!body && res.body_len) {
		part.off = res.body_off;
		inside.size = res.body_len;
		body = &inside;
	}
	if (body && id.kind != IDENT_PAGE)
		r = ident_body(body, &id);
	if (r >= 0)
		*ret = id;
	return r < 0 ? r : 0;
}
