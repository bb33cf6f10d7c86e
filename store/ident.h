/* SPDX-License-Identifier: MIT */
/*
 * Which project and version a cached file is of, and what kind of file.
 *
 * A built wheel says so by its name. A response by its headers
 * (x-pypi-file-*), which not every index sends; else by its body: a wheel by
 * its dist-info directory, an sdist by the name that gzip keeps, a metadata
 * file by its fields.
 *
 * Projects are in their one spelling (PEP 503: "Foo_Bar" is "foo-bar"), versions
 * in lower case. Only letters, digits and "._+!-" get through.
 *
 * The input is hostile; what does not add up is not known. Of a body no more
 * than IDENT_READ_MAX bytes are read, mostly one piece at its end.
 *
 * Pure: no I/O but through the sources. No state, any threads.
 */
#ifndef STORE_IDENT_H
#define STORE_IDENT_H

#include "store/wheel.h"

#define IDENT_PROJECT_MAX 95 /* bytes; of a longer one nothing is known */
#define IDENT_VERSION_MAX 63
#define IDENT_READ_MAX (4 * MIB)

enum ident_kind {
	IDENT_OTHER,
	IDENT_WHEEL,
	IDENT_SDIST,
	IDENT_METADATA, /* of a wheel, served beside it */
	IDENT_PAGE,	/* of an index */
};

struct ident {
	enum ident_kind kind;
	char project[IDENT_PROJECT_MAX + 1]; /* "": not known */
	char version[IDENT_VERSION_MAX + 1]; /* "" unless the project is */
};

/* From "Foo_Bar-1.0-py3-none-any.whl": true if it is the name of a wheel. */
bool ident_wheel_name(const char *name, struct ident *ret);

/* The one spelling of a project or version that somebody typed; false if it
 * can be none. */
bool ident_project(const char *text, char ret[static IDENT_PROJECT_MAX + 1]);
bool ident_version(const char *text, char ret[static IDENT_VERSION_MAX + 1]);

/*
 * A response of pip's cache.
 *
 * @head:    the file with the headers.
 * @body:    that with the body; NULL: it is in @head, if anywhere.
 * Returns:  0, or what a source returned; @ret is then of kind IDENT_OTHER.
 */
int ident_response(const struct wheel_source *head,
		   const struct wheel_source *body, struct ident *ret);

#endif
