/* SPDX-License-Identifier: MIT */
#include "fs/mounts.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base.h"

static void release_entry(struct mounts_entry *e)
{
	free(e->store);
	free(e->mountpoint);
	free(e->root);
}

/* Undo the \ooo of mountinfo, in place. */
static void unescape(char *s)
{
	char *to = s;

	while (*s) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' &&
		    s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 |
				       (s[3] - '0'));
			s += 4;
		} else {
			*to++ = *s++;
		}
	}
	*to = '\0';
}

/*
 * One line: id parent major:minor root mountpoint options [tags] - type source
 * options. Returns 1 if it is ours, 0 if not, -ENOMEM.
 */
static int parse_line(char *line, struct mounts_entry *ret)
{
	char *field[5], *type, *source, *end;

	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		field[i] = strsep(&line, " ");
		if (!line)
			return 0;
	}
	line = strstr(line, " - ");
	if (!line)
		return 0;
	line += 3;
	type = strsep(&line, " ");
	source = strsep(&line, " ");
	if (!source || strcmp(type, MOUNTS_TYPE) != 0)
		return 0;

	ret->major = (unsigned)strtoul(field[2], &end, 10);
	ret->minor = *end ? (unsigned)strtoul(end + 1, NULL, 10) : 0;
	unescape(field[3]);
	unescape(field[4]);
	unescape(source);
	ret->root = strdup(field[3]);
	ret->mountpoint = strdup(field[4]);
	ret->store = strdup(source);
	if (ret->root && ret->mountpoint && ret->store)
		return 1;
	release_entry(ret);
	return -ENOMEM;
}

static int append(struct mounts *m, const struct mounts_entry *e)
{
	struct mounts_entry *grown =
		reallocarray(m->entry, m->n + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	m->entry = grown;
	m->entry[m->n++] = *e;
	return 0;
}

int mounts_read(FILE *in, struct mounts *ret)
{
	cleanup_mounts struct mounts m = MOUNTS_INIT;
	cleanup_free char *line = NULL;
	struct mounts_entry e;
	size_t size = 0;
	int r;

	while (getline(&line, &size, in) > 0) {
		line[strcspn(line, "\n")] = '\0';
		r = parse_line(line, &e);
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		r = append(&m, &e);
		if (r < 0) {
			release_entry(&e);
			return r;
		}
	}
	if (ferror(in))
		return -EIO;
	ret->n = m.n;
	ret->entry = steal_ptr(m.entry);
	m.n = 0;
	return 0;
}

int mounts_load(struct mounts *ret)
{
	cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");

	return f ? mounts_read(f, ret) : -errno;
}

void mounts_release(struct mounts *m)
{
	for (size_t i = 0; i < m->n; i++)
		release_entry(&m->entry[i]);
	free(m->entry);
	*m = (struct mounts)MOUNTS_INIT;
}

const struct mounts_entry *mounts_at(const struct mounts *m,
				     const char *mountpoint)
{
	for (size_t i = m->n; i-- > 0;)
		if (strcmp(m->entry[i].mountpoint, mountpoint) == 0)
			return &m->entry[i];
	return NULL;
}

const struct mounts_entry *mounts_of(const struct mounts *m, const char *store)
{
	const struct mounts_entry *found = NULL;

	for (size_t i = 0; i < m->n; i++) {
		if (strcmp(m->entry[i].store, store) != 0)
			continue;
		if (strcmp(m->entry[i].root, "/") == 0)
			return &m->entry[i];
		if (!found)
			found = &m->entry[i];
	}
	return found;
}

/* Split off the last component: "a/b//" is "a" and "b", "b" is "." and "b". */
static void split(char *path, const char **ret_dir, const char **ret_name)
{
	size_t len = strlen(path);
	char *slash;

	while (len > 1 && path[len - 1] == '/')
		path[--len] = '\0';
	slash = strrchr(path, '/');
	*ret_name = slash ? slash + 1 : path;
	if (!slash)
		*ret_dir = ".";
	else if (slash == path)
		*ret_dir = "/";
	else
		*ret_dir = path;
	if (slash && slash != path)
		*slash = '\0';
}

int mounts_resolve(const char *path, char **ret)
{
	cleanup_free char *copy = NULL;
	cleanup_free char *above = NULL;
	const char *dir, *name;

	if (!*path)
		return -ENOENT;
	*ret = realpath(path, NULL);
	if (*ret)
		return 0;
	if (errno == ENOMEM || errno == ELOOP || errno == ENAMETOOLONG)
		return -errno;

	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	split(copy, &dir, &name);
	if (strcmp(name, "..") == 0 || strcmp(name, ".") == 0)
		return -ENOENT;
	above = realpath(dir, NULL);
	if (!above)
		return -errno;
	if (asprintf(ret, "%s/%s", strcmp(above, "/") == 0 ? "" : above, name) <
	    0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

bool mounts_inside(const char *dir, const char *path)
{
	size_t len = strlen(dir);

	if (strcmp(dir, "/") == 0)
		return true;
	return strncmp(dir, path, len) == 0 &&
	       (path[len] == '\0' || path[len] == '/');
}
