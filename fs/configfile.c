/* SPDX-License-Identifier: MIT */
#include "fs/configfile.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/config.h"
#include "store/base.h"

#define LINE_MAX_BYTES 4096
#define LINES_MAX 1000
#define WHY_MAX 512
#define SUFFIX ".conf"

struct parser {
	struct configfile *file;
	const char *path;
	unsigned line;
	char *why;
	size_t why_size;
};

static int refuse(const struct parser *p, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static int refuse(const struct parser *p, const char *format, ...)
{
	char text[WHY_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snprintf(p->why, p->why_size, "%s:%u: %s", p->path, p->line, text);
	return -EINVAL;
}

static int out_of_memory(const struct parser *p)
{
	snprintf(p->why, p->why_size, "%s: out of memory", p->path);
	return -ENOMEM;
}

/* Without white space at both ends. */
static char *trim(char *s)
{
	size_t n;

	while (isspace((unsigned char)*s))
		s++;
	n = strlen(s);
	while (n > 0 && isspace((unsigned char)s[n - 1]))
		n--;
	s[n] = '\0';
	return s;
}

static int take_path(const struct parser *p, const char *key, const char *value,
		     char **slot)
{
	char *copy;

	if (*value != '/')
		return refuse(p,
			      "%s=%s must be a path that begins with a slash",
			      key, value);
	if (strstr(value, " #") || strstr(value, "\t#"))
		return refuse(p, "%s=%s: a comment has a line of its own", key,
			      value);
	copy = strdup(value);
	if (!copy)
		return out_of_memory(p);
	free(*slot);
	*slot = copy;
	return 0;
}

/* Checked by itself, so that the line can be named; then put behind the
 * others. */
static int take_option(const struct parser *p, const char *option)
{
	struct config config = { 0 };
	char why[WHY_MAX];
	char *joined;
	int r;

	if (strpbrk(option, ",\\"))
		return refuse(
			p,
			"'%s': an option has neither a comma nor a backslash; write one option a line",
			option);
	if (strpbrk(option, " \t"))
		return refuse(
			p,
			"'%s': white space in an option; a comment has a line of its own",
			option);
	r = config_parse(option, geteuid() == 0, &config, why, sizeof(why));
	config_release(&config);
	if (r == -ENOMEM)
		return out_of_memory(p);
	if (r < 0)
		return refuse(p, "%s", why);
	if (asprintf(&joined, "%s%s%s", p->file->options,
		     *p->file->options ? "," : "", option) < 0)
		return out_of_memory(p);
	free(p->file->options);
	p->file->options = joined;
	return 0;
}

static int take_line(const struct parser *p, char *line)
{
	cleanup_free char *option = NULL;
	char *key = trim(line), *value;

	if (!*key || *key == '#')
		return 0;
	for (const char *c = key; *c; c++)
		if (iscntrl((unsigned char)*c) && *c != '\t')
			return refuse(p, "a control character (%d)", *c);
	value = strchr(key, '=');
	if (!value)
		return take_option(p, key);
	*value = '\0';
	value = trim(value + 1);
	key = trim(key);
	if (strcmp(key, "store") == 0)
		return take_path(p, key, value, &p->file->store);
	if (strcmp(key, "mountpoint") == 0)
		return take_path(p, key, value, &p->file->mountpoint);
	if (asprintf(&option, "%s=%s", key, value) < 0)
		return out_of_memory(p);
	return take_option(p, option);
}

static int take_lines(struct parser *p, FILE *in)
{
	char line[LINE_MAX_BYTES] = "";
	size_t n;
	int c, r;

	do {
		p->line++;
		for (n = 0; (c = getc(in)) != EOF && c != '\n'; n++) {
			if (c == '\0')
				return refuse(p, "not a text file");
			if (n == sizeof(line) - 1)
				return refuse(
					p, "the line is longer than %d bytes",
					LINE_MAX_BYTES - 1);
			line[n] = (char)c;
		}
		line[n] = '\0';
		if (p->line > LINES_MAX)
			return refuse(p, "more than %d lines", LINES_MAX);
		r = take_line(p, line);
	} while (r == 0 && c != EOF);
	if (r == 0 && ferror(in)) {
		snprintf(p->why, p->why_size, "reading %s failed", p->path);
		return -EIO;
	}
	return r;
}

/* DIR/NAME of a file that is called NAME.conf. */
static int default_path(const struct parser *p, const char *dir, char **ret)
{
	const char *slash = strrchr(p->path, '/');
	const char *name = slash ? slash + 1 : p->path;
	size_t n = strlen(name), suffix = strlen(SUFFIX);

	if (n > suffix && strcmp(name + n - suffix, SUFFIX) == 0)
		n -= suffix;
	if (n == 0 || name[0] == '.') {
		snprintf(p->why, p->why_size,
			 "%s: name it NAME" SUFFIX
			 ", or write store= and mountpoint= into it",
			 p->path);
		return -EINVAL;
	}
	if (asprintf(ret, "%s/%.*s", dir, (int)n, name) < 0) {
		*ret = NULL;
		return out_of_memory(p);
	}
	return 0;
}

int configfile_parse(FILE *in, const char *path, struct configfile *ret,
		     char *why, size_t why_size)
{
	cleanup_configfile struct configfile f = CONFIGFILE_INIT;
	struct parser p = {
		.file = &f, .path = path, .why = why, .why_size = why_size
	};
	int r;

	f.options = strdup("");
	if (!f.options)
		return out_of_memory(&p);
	r = take_lines(&p, in);
	f.own_store = !f.store;
	f.own_mountpoint = !f.mountpoint;
	if (r == 0 && f.own_store)
		r = default_path(&p, CONFIGFILE_STORES, &f.store);
	if (r == 0 && f.own_mountpoint)
		r = default_path(&p, CONFIGFILE_MOUNTS, &f.mountpoint);
	if (r < 0)
		return r;
	*ret = (struct configfile){
		.store = steal_ptr(f.store),
		.mountpoint = steal_ptr(f.mountpoint),
		.options = steal_ptr(f.options),
		.own_store = f.own_store,
		.own_mountpoint = f.own_mountpoint,
	};
	return 0;
}

int configfile_read(const char *path, struct configfile *ret, char *why,
		    size_t why_size)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	FILE *in = NULL;
	int r = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	if (r == 0) {
		in = fdopen(fd, "r");
		r = in ? 0 : -errno;
	}
	if (r < 0) {
		snprintf(why, why_size, "reading the configuration %s: %s",
			 path, strerror(-r));
		return r;
	}
	steal_fd(&fd);
	r = configfile_parse(in, path, ret, why, why_size);
	(void)fclose(in);
	return r;
}

void configfile_release(struct configfile *f)
{
	free(f->store);
	free(f->mountpoint);
	free(f->options);
	*f = (struct configfile)CONFIGFILE_INIT;
}
