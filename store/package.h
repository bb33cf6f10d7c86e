/* SPDX-License-Identifier: MIT */
/*
 * What is cached, by project: the entries that are of one project (and
 * version) as one item; then what is of no known project, by kind; at last
 * the files of no entry. What such an item has for itself (own) is what
 * removing all of it brings back.
 *
 * All entries are looked at once for each call: see list.h for what that
 * reads. Threads: any number at once.
 */
#ifndef STORE_PACKAGE_H
#define STORE_PACKAGE_H

#include "store/list.h"

/* Version "": any. */
struct package_select {
	char project[IDENT_PROJECT_MAX + 1];
	char version[IDENT_VERSION_MAX + 1];
};

struct package_how {
	bool versions; /* each version for itself */
	/* Not NULL: only these, in this order, each for itself, and then all of
	 * them together (project ""). */
	const struct package_select *select;
	size_t n_select;
	/* Not with @select: without so many at the beginning. What comes or
	 * goes between two calls shifts the others. */
	size_t from;
	unsigned most; /* so many */
};

/* 1: there are more; 0: that was all. Items have no id and no name. */
int package_list(struct tree *t, const struct package_how *how, list_fn fn,
		 void *arg);

/* Bytes of all files, equal blocks once: what status calls disk data. */
int package_stored(struct tree *t, uint64_t *ret);

#endif
