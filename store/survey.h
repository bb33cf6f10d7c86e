/* SPDX-License-Identifier: MIT */
/*
 * What the parts of a check share: telling what is wrong, walking tables, and
 * sets of numbered things with what was counted for them.
 *
 * A finding is one line: what, on what, why. A check goes on behind it.
 *
 * No locks: one thread.
 */
#ifndef STORE_SURVEY_H
#define STORE_SURVEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/index.h"
#include "store/record.h"

#define SURVEY_TEXT_MAX 400

struct survey {
	struct index_txn *txn; /* of one snapshot; borrowed */
	/* Told of each finding; @text is printable ASCII. */
	void (*found)(void *arg, const char *text);
	void *arg;
	uint64_t findings;
};

void survey_found(struct survey *s, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Calls @fn with each record of a table, in order, until it fails. @val is NULL
 * for one that does not match its checksum.
 */
typedef int (*survey_fn)(void *arg, const struct record_key *key,
			 const uint8_t *val, size_t len);
int survey_walk(const struct survey *s, enum index_table table, survey_fn fn,
		void *arg);

/* Bytes of a name, printable. */
struct survey_name {
	char text[RECORD_NAME_MAX + 1]; /* cut off with "..." where too long */
};
struct survey_name survey_name(const void *name, size_t len);

/* 16 bytes, whatever is counted. */
struct survey_item {
	uint64_t id;
	union {
		struct {
			uint32_t count;
			uint32_t other;
		};
		uint64_t ref;
	};
};

/* A zeroed one is empty. Ids may be there several times. */
struct survey_set {
	struct survey_item *v; /* owned */
	size_t n;
	size_t size;
};

/* At the end; *@ret is valid until the next one. -ENOMEM. */
int survey_add(struct survey_set *set, uint64_t id, struct survey_item **ret);
void survey_sort(struct survey_set *set); /* by id, then by ref */

/* Of a sorted set: the first item with at least @id; NULL: there is none. */
struct survey_item *survey_from(const struct survey_set *set, uint64_t id);
/* With this id, the first; NULL. */
struct survey_item *survey_find(const struct survey_set *set, uint64_t id);

void survey_release(struct survey_set *set);

/* Is the number that is given next, by its mark, above those of the sorted set?
 * 0, or an error that ends the check. */
int survey_mark(struct survey *s, enum index_id which,
		const struct survey_set *set);

#endif
