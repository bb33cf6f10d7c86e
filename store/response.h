/* SPDX-License-Identifier: MIT */
/*
 * What pip keeps of an HTTP response: its headers, and where its body is.
 *
 *	"cc=4," and one MessagePack map:
 *	{"response": {"body": ..., "headers": {...}, ...}, "vary": {...}}
 *
 * In http-v2/ the body is a file of its own and empty here; in http/ it stands
 * within, before the headers. Older forms (cc=0 to cc=3) are not read.
 *
 * The input is hostile: no more than RESPONSE_READ_MAX bytes of it are read,
 * however long it is and whatever it claims, and nothing is allocated.
 *
 * Pure: no I/O but through the source. No state, any threads.
 */
#ifndef STORE_RESPONSE_H
#define STORE_RESPONSE_H

#include "store/wheel.h"

#define RESPONSE_READ_MAX (128 * KIB)
#define RESPONSE_TEXT_MAX 128 /* of a header's value, with its NUL */

struct response {
	/* Headers, "" if missing or too long. */
	char project[RESPONSE_TEXT_MAX];      /* x-pypi-file-project */
	char version[RESPONSE_TEXT_MAX];      /* x-pypi-file-version */
	char package_type[RESPONSE_TEXT_MAX]; /* x-pypi-file-package-type */
	char content_type[RESPONSE_TEXT_MAX];
	uint64_t body_off; /* of the body in the file */
	uint64_t body_len; /* 0: none, or in a file of its own */
};

/*
 * Read one. @src may be read in any order.
 * Returns: 1, 0 it is none, or what the source returned; @ret is untouched
 *          unless 1.
 */
int response_read(const struct wheel_source *src, struct response *ret);

#endif
