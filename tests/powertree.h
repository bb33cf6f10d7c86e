/* SPDX-License-Identifier: MIT */
/*
 * The tree of a store as text: a line for each name, in the order of paths,
 * fields parted by tabs: path, mode, size and SHA-256 of a file or target of a
 * link, then owner, group, links and mtime. Files that had a writer at the
 * checkpoint are "torn", whatever they hold.
 *
 *	torn_find()	before the store is opened
 *	tree_text()
 *
 * For a process that judges one store: what is wrong ends it.
 */
#ifndef TESTS_POWERTREE_H
#define TESTS_POWERTREE_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "powerimage.h"
#include "store/checkpoint.h"
#include "store/digest.h"
#include "store/index.h"
#include "store/record.h"
#include "store/recover.h"
#include "store/store.h"

#define TREE_READ_BYTES (1 * MIB)

static struct scratch tree_why; /* the file that judge_bad() writes */

/* Says why, and ends. */
static void __attribute__((noreturn, format(printf, 1, 2)))
judge_bad(const char *format, ...)
{
	FILE *f = fopen(tree_why.path, "w");
	va_list ap;

	va_start(ap, format);
	if (f) {
		(void)vfprintf(f, format, ap);
		(void)fclose(f);
	}
	va_end(ap);
	_exit(1);
}

/* Inodes with a writer, in the snapshot that is found. */
struct torn {
	uint64_t *inos; /* owned */
	size_t n, room;
};

static void torn_add(struct torn *torn, uint64_t ino, const uint8_t *buf,
		     size_t len)
{
	struct inode in;

	if (record_inode_decode(ino, buf, len, &in) < 0)
		judge_bad("the record of inode %ju", (uintmax_t)ino);
	if (!(in.flags & INODE_WRITERS))
		return;
	torn->inos = image_grow(torn->inos, torn->n, &torn->room,
				sizeof(*torn->inos));
	torn->inos[torn->n++] = ino;
}

static void torn_read(struct torn *torn, struct index *ix)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_INODE_SIZE];
	uint64_t ino = 0;
	size_t len;
	int r = index_begin(ix, false, &txn);

	if (r >= 0)
		r = index_iter(txn, INDEX_INODE, &from, 0, &it);
	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) > 0) {
		r = record_key_get(&key, 0, &ino);
		if (r >= 0)
			torn_add(torn, ino, buf, len);
	}
	if (r < 0)
		judge_bad("reading inodes: %s", strerror(-r));
}

static bool torn_has(const struct torn *torn, uint64_t ino)
{
	for (size_t i = 0; i < torn->n; i++) {
		if (torn->inos[i] == ino)
			return true;
	}
	return false;
}

/* What this does to the store a restore undoes, as after a second cut. */
static void torn_find(struct torn *torn, const struct scratch *store)
{
	struct scratch path = scratch_at(store, "index");
	cleanup_close int fd =
		open(path.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct index *ix = NULL;
	char why[256] = "";
	int r;

	if (fd < 0)
		return;
	r = recover_index(fd, NULL, 0, why, sizeof(why));
	if (r < 0 || r == RECOVER_UNREADABLE)
		judge_bad("recovery: %s", r < 0 ? strerror(-r) : why);
	if (r == RECOVER_CREATED)
		return;
	r = index_open(path.path, r == RECOVER_RESTORED ? INDEX_RESTORED : 0,
		       CHECKPOINT_GROWTH_BYTES, (struct notify){ .fn = NULL },
		       &ix);
	if (r < 0)
		judge_bad("opening the index: %s", strerror(-r));
	torn_read(torn, ix);
	index_close(ix);
}

/* -- Trees ---------------------------------------------------------------- */

struct line {
	char *text; /* owned */
};

struct tree_dump {
	struct store *st;
	const struct torn *torn;
	struct line *lines;
	size_t n, room;
};

struct tree_name {
	char *name; /* owned */
};

struct tree_names {
	struct tree_name *names;
	size_t n, room;
};

static int tree_fill(void *arg, const char *name, const struct stat *st,
		     off_t next)
{
	struct tree_names *list = arg;

	(void)st;
	(void)next;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	list->names = image_grow(list->names, list->n, &list->room,
				 sizeof(*list->names));
	list->names[list->n++].name = strdup(name);
	return 0;
}

struct sum {
	char hex[2 * DIGEST_SHA256_SIZE + 1];
};

static struct sum tree_sum(struct store *st, const struct stat *attr,
			   const char *path)
{
	cleanup_digest_block struct digest_block *digest = NULL;
	cleanup_free uint8_t *buf = malloc(TREE_READ_BYTES);
	uint8_t sha[DIGEST_SHA256_SIZE];
	struct store_file *f = NULL;
	struct sum sum = { .hex = "" };
	uint64_t off = 0, xxh3;
	ssize_t n = 1;
	int r = store_file_open(st, attr->st_ino, O_RDONLY, &f);

	if (r < 0)
		judge_bad("opening %s: %s", path, strerror(-r));
	if (!buf || digest_block_new(&digest) < 0)
		judge_bad("no memory");
	digest_block_begin(digest);
	for (; n > 0; off += (uint64_t)n) {
		n = store_file_read(f, off, buf, TREE_READ_BYTES);
		if (n < 0)
			judge_bad("reading %s: %s", path, strerror((int)-n));
		digest_block_update(digest, buf, (size_t)n);
	}
	store_file_close(f);
	if (off != (uint64_t)attr->st_size)
		judge_bad("%s has %ju bytes, not %ju", path, (uintmax_t)off,
			  (uintmax_t)attr->st_size);
	if (digest_block_end(digest, sha, &xxh3) < 0)
		judge_bad("no digest");
	for (size_t i = 0; i < sizeof(sha); i++)
		(void)snprintf(sum.hex + 2 * i, 3, "%02x", sha[i]);
	return sum;
}

static void tree_content(const struct tree_dump *t, const struct stat *attr,
			 const char *path, char *buf, size_t size)
{
	char target[PATH_MAX + 1] = "";

	if (S_ISLNK(attr->st_mode)) {
		if (store_readlink(t->st, attr->st_ino, target,
				   sizeof(target)) < 0)
			judge_bad("the link %s", path);
		(void)snprintf(buf, size, "-\t%s", target);
	} else if (!S_ISREG(attr->st_mode)) {
		(void)snprintf(buf, size, "-\t-");
	} else if (torn_has(t->torn, attr->st_ino)) {
		(void)snprintf(buf, size, "-\ttorn");
	} else {
		(void)snprintf(buf, size, "%ju\t%s", (uintmax_t)attr->st_size,
			       tree_sum(t->st, attr, path).hex);
	}
}

static void tree_line(struct tree_dump *t, const struct stat *attr,
		      const char *path)
{
	bool timed = S_ISREG(attr->st_mode) && !torn_has(t->torn, attr->st_ino);
	char content[PATH_MAX + 64];
	char *text = NULL;

	tree_content(t, attr, path, content, sizeof(content));
	if (asprintf(&text, "%s\t%o\t%s\t%u\t%u\t%ju\t%jd.%09ld\n", path,
		     attr->st_mode, content, attr->st_uid, attr->st_gid,
		     (uintmax_t)attr->st_nlink,
		     timed ? (intmax_t)attr->st_mtim.tv_sec : 0,
		     timed ? attr->st_mtim.tv_nsec : 0) < 0)
		judge_bad("no memory");
	t->lines = image_grow(t->lines, t->n, &t->room, sizeof(*t->lines));
	t->lines[t->n++].text = text;
}

/* Deep trees are deep here too: a handful of levels. */
static void tree_walk(struct tree_dump *t, uint64_t dir, const char *path)
{
	struct tree_names list = { .n = 0 };
	struct store_file *f = NULL;
	struct stat attr;
	int r = store_file_open(t->st, dir, O_RDONLY | O_DIRECTORY, &f);

	if (r >= 0)
		r = store_readdir(f, 0, false, tree_fill, &list);
	if (r < 0)
		judge_bad("reading the directory %s: %s", path, strerror(-r));
	store_file_close(f);
	for (size_t i = 0; i < list.n; i++) {
		char *sub = NULL;

		if (asprintf(&sub, "%s%s%s", path, *path ? "/" : "",
			     list.names[i].name) < 0)
			judge_bad("no memory");
		r = store_lookup(t->st, dir, list.names[i].name, &attr);
		if (r < 0)
			judge_bad("looking up %s: %s", sub, strerror(-r));
		tree_line(t, &attr, sub);
		if (S_ISDIR(attr.st_mode))
			tree_walk(t, attr.st_ino, sub);
		free(sub);
		free(list.names[i].name);
	}
	free(list.names);
}

static int tree_order(const void *a, const void *b)
{
	return strcmp(((const struct line *)a)->text,
		      ((const struct line *)b)->text);
}

/* All of the tree as text; the caller's. */
static char *tree_text(struct store *st, const struct torn *torn)
{
	struct tree_dump t = { .st = st, .torn = torn };
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	tree_walk(&t, STORE_ROOT_INO, "");
	if (t.n)
		qsort(t.lines, t.n, sizeof(*t.lines), tree_order);
	for (size_t i = 0; i < t.n; i++) {
		(void)fputs(t.lines[i].text, f);
		free(t.lines[i].text);
	}
	free(t.lines);
	(void)fclose(f);
	return text;
}

#endif
