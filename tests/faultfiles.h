/* SPDX-License-Identifier: MIT */
/*
 * What test_faults.c stores: wheels that share members, and files of all sizes
 * that are kept in different ways. For one source file of a test program.
 */
#ifndef TESTS_FAULTFILES_H
#define TESTS_FAULTFILES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "zipkit.h"

enum { WHEELS = 3, FILES = 9 };
static const char *const names[FILES] = {
	"wheel0", "wheel1", "wheel2", "large", "middle",
	"small",  "inline", "tiny",   "empty",
};
static uint8_t *content[FILES];
static size_t lengths[FILES] = { 0, 0, 0, 900000, 90000, 9000, 1200, 1, 0 };
static bool stored[FILES]; /* it was said to be, and nobody removed it */

static inline void make_bytes(void)
{
	struct zip z[WHEELS] = { 0 };
	char name[32];

	for (unsigned w = 0; w < WHEELS; w++) {
		for (unsigned i = 0; i < 30; i++) {
			(void)snprintf(name, sizeof(name), "m%u",
				       i % 3 ? i : i + 100 * w);
			zip_member(&z[w], name, 3000 + 400 * i, w);
		}
		zip_finish(&z[w], "");
		content[w] = z[w].buf;
		lengths[w] = z[w].len;
	}
	for (unsigned f = WHEELS; f < FILES; f++) {
		content[f] = malloc(lengths[f] + 1);
		for (size_t i = 0; i < lengths[f]; i++)
			content[f][i] = (uint8_t)((i + f) * 2654435761u >> 13);
	}
}

#endif
