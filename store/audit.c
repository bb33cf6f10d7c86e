/* SPDX-License-Identifier: MIT */
#include "store/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base.h"
#include "store/mdbfile.h"
#include "store/mdbpage.h"

#define KEY_MAX 511
#define DEPTH_MAX 24 /* 2^24 leaves fill the map; LMDB's cursors end at 32 */
#define TABLES_MAX 64
#define TABLE_NAME_MAX 31
#define FREE_FLAGS 0x08 /* of the free list's record: its keys are integers */
#define NO_PAGE UINT64_MAX

enum tree_kind { TREE_FREE, TREE_MAIN, TREE_TABLE };

struct key {
	size_t len;
	uint8_t bytes[KEY_MAX];
};

struct tree {
	enum tree_kind kind;
	struct mdbfile_table is;  /* what its record says */
	struct mdbfile_table has; /* what was counted */
	const char *name;	  /* of a table */
	bool first;		  /* no key was seen yet */
	bool separator;		  /* the last key seen stands in a branch */
	struct key last;
};

struct level {
	uint8_t *page; /* owned */
	uint64_t number;
	unsigned nodes;
	unsigned at; /* next node */
};

struct audit {
	int fd;
	uint64_t page_size;
	uint64_t pages;
	uint64_t txnid;
	uint8_t *seen;			       /* owned; one bit a page */
	uint8_t covered[MDBFILE_PAGE_MAX / 2]; /* by a node: two bytes each */
	struct level level[DEPTH_MAX];
	struct mdbfile_table table[TABLES_MAX];
	char name[TABLES_MAX][TABLE_NAME_MAX + 1];
	unsigned tables;
	audit_record_fn fn; /* NULL: nobody wants records */
	void *arg;
	struct audit_found found;
};

static int wrong(struct audit *au, uint64_t page, const char *what)
{
	au->found.page = page;
	au->found.what = what;
	return -EBADMSG;
}

/* Account for @n pages from @page on. */
static int mark(struct audit *au, uint64_t page, uint64_t n)
{
	uint64_t i;

	if (page < 2 || page >= au->pages || n > au->pages - page)
		return wrong(au, page, "is outside of the file");
	for (i = page; i < page + n; i++) {
		if (au->seen[i / 8] & (1 << i % 8))
			return wrong(au, i, "is used twice");
		au->seen[i / 8] |= (uint8_t)(1 << i % 8);
	}
	return 0;
}

static int read_at(struct audit *au, uint64_t page, void *buf, size_t len)
{
	ssize_t n = pread(au->fd, buf, len, (off_t)(page * au->page_size));

	if (n < 0)
		return -errno;
	if ((size_t)n != len)
		return wrong(au, page, "is not in the file");
	return 0;
}

/* -- Nodes ---------------------------------------------------------------- */

static const uint8_t *node_at(const struct level *lv, unsigned at)
{
	return lv->page + mdbpage_u16(lv->page + PAGE_HEAD + 2 * (size_t)at);
}

static size_t node_size(const uint8_t *node, bool leaf)
{
	size_t len = NODE_HEAD + mdbpage_u16(node + NODE_KEY_LENGTH);

	if (leaf && (mdbpage_u16(node + NODE_FLAGS) & NODE_BIG))
		len += sizeof(uint64_t);
	else if (leaf)
		len += mdbpage_u32(node + NODE_LENGTH);
	return len + len % 2;
}

/* What LMDB keeps in a leaf: of larger ones no two fit a page, and it could not
 * split that. */
static size_t node_max(const struct audit *au)
{
	size_t half = (au->page_size - PAGE_HEAD) / 2;

	return half - half % 2 - sizeof(uint16_t);
}

/* The nodes fill the page from upper to its end, each byte once. */
static int check_nodes(struct audit *au, const struct level *lv, bool leaf)
{
	size_t upper = mdbpage_u16(lv->page + PAGE_UPPER);
	size_t left = au->page_size - upper;
	const uint8_t *node;
	size_t off;
	size_t size;
	unsigned i;

	memset(au->covered, 0, au->page_size / 2);
	for (i = 0; i < lv->nodes; i++) {
		node = node_at(lv, i);
		off = (size_t)(node - lv->page);
		if (off < upper || off % 2 || off + NODE_HEAD > au->page_size)
			return wrong(au, lv->number, "has a damaged node");
		size = node_size(node, leaf);
		if (size > au->page_size - off || size > left)
			return wrong(au, lv->number, "has a damaged node");
		if (size > node_max(au) ||
		    mdbpage_u16(node + NODE_KEY_LENGTH) > KEY_MAX)
			return wrong(au, lv->number, "has too large a node");
		if (memchr(au->covered + off / 2, 1, size / 2))
			return wrong(au, lv->number, "has nodes that overlap");
		memset(au->covered + off / 2, 1, size / 2);
		left -= size;
	}
	if (left > 0)
		return wrong(au, lv->number, "has a gap between its nodes");
	return 0;
}

static uint64_t child_of(const uint8_t *node)
{
	return mdbpage_u32(node + NODE_LENGTH) |
	       (uint64_t)mdbpage_u16(node + NODE_FLAGS) << 32;
}

static int compare(const struct tree *tree, const uint8_t *key, size_t len)
{
	const struct key *last = &tree->last;
	size_t common = len < last->len ? len : last->len;
	uint64_t a;
	uint64_t b;
	int r;

	if (tree->kind == TREE_FREE) {
		a = mdbpage_u64(key);
		b = mdbpage_u64(last->bytes);
		return (a > b) - (a < b);
	}
	r = memcmp(key, last->bytes, common);
	return r ? r : (len > last->len) - (len < last->len);
}

/* In the order of a walk, a key in a leaf is greater than the one before it,
 * or equal to the branch key that led to its page. */
static int next_key(struct audit *au, struct tree *tree, uint64_t page,
		    const uint8_t *node, bool separator)
{
	const uint8_t *key = node + NODE_HEAD;
	size_t len = mdbpage_u16(node + NODE_KEY_LENGTH);
	int r;

	if (len == 0 || len > KEY_MAX ||
	    (tree->kind == TREE_FREE && len != sizeof(uint64_t)))
		return wrong(au, page, "has a key of a wrong length");
	r = tree->first ? 1 : compare(tree, key, len);
	if (r < 0 || (r == 0 && !tree->separator))
		return wrong(au, page, "has keys out of order");
	tree->first = false;
	tree->separator = separator;
	tree->last.len = len;
	memcpy(tree->last.bytes, key, len);
	return 0;
}

/* A value on pages of its own. *@ret: its bytes, to be freed. All are read: one
 * that cannot be would be a signal later. */
static int big_value(struct audit *au, struct tree *tree, const uint8_t *value,
		     size_t len, uint8_t **ret)
{
	uint64_t page = mdbpage_u64(value);
	cleanup_free uint8_t *buf = NULL;
	uint8_t head[PAGE_HEAD];
	uint64_t n;
	int r;

	if (page < 2 || page >= au->pages)
		return wrong(au, page, "is outside of the file");
	r = read_at(au, page, head, sizeof(head));
	if (r < 0)
		return r;
	n = mdbpage_u32(head + PAGE_LOWER);
	if (mdbpage_u64(head + PAGE_NUMBER) != page ||
	    mdbpage_u16(head + PAGE_FLAGS) != PAGE_OVERFLOW || n == 0 ||
	    n * au->page_size < PAGE_HEAD + len)
		return wrong(au, page, "is no overflow page");
	r = mark(au, page, n);
	if (r < 0)
		return r;
	tree->has.overflow_pages += n;
	buf = malloc(PAGE_HEAD + len);
	if (!buf)
		return -ENOMEM;
	r = read_at(au, page, buf, PAGE_HEAD + len);
	if (r < 0)
		return r;
	memmove(buf, buf + PAGE_HEAD, len);
	*ret = steal_ptr(buf);
	return 0;
}

/* A record of the free list: pages given up by transaction @key. */
static int free_pages(struct audit *au, const struct tree *tree, uint64_t page,
		      const uint8_t *value, size_t len)
{
	uint64_t n = len >= sizeof(n) ? mdbpage_u64(value) : UINT64_MAX;
	uint64_t last = UINT64_MAX;
	uint64_t free;
	uint64_t i;
	int r;

	if (n >= len / sizeof(n) || mdbpage_u64(tree->last.bytes) > au->txnid)
		return wrong(au, page, "has a wrong list of free pages");
	for (i = 1; i <= n; i++) {
		free = mdbpage_u64(value + i * sizeof(n));
		if (free >= last)
			return wrong(au, page, "has free pages out of order");
		last = free;
		r = mark(au, free, 1);
		if (r < 0)
			return r;
	}
	au->found.free += n;
	return 0;
}

/* The record of a table, whose name is the last key. */
static int table_record(struct audit *au, const struct tree *tree,
			uint64_t page, const uint8_t *value, size_t len)
{
	const struct key *name = &tree->last;

	if (len != MDBFILE_TABLE_SIZE || au->tables == TABLES_MAX)
		return wrong(au, page, "has a wrong table record");
	au->table[au->tables] = mdbfile_table(value);
	if (name->len <= TABLE_NAME_MAX)
		memcpy(au->name[au->tables], name->bytes, name->len);
	au->tables++;
	return 0;
}

static int tell_record(struct audit *au, const struct tree *tree,
		       const uint8_t *value, size_t len)
{
	const struct audit_record rec = { .table = tree->name,
					  .key = tree->last.bytes,
					  .key_len = tree->last.len,
					  .value = value,
					  .len = len };

	return au->fn ? au->fn(au->arg, &rec) : 0;
}

static int leaf_node(struct audit *au, struct tree *tree, uint64_t page,
		     const uint8_t *node)
{
	uint16_t flags = mdbpage_u16(node + NODE_FLAGS);
	const uint8_t *value =
		node + NODE_HEAD + mdbpage_u16(node + NODE_KEY_LENGTH);
	size_t len = mdbpage_u32(node + NODE_LENGTH);
	cleanup_free uint8_t *buf = NULL;
	int r;

	if (tree->kind == TREE_MAIN ? flags != NODE_TABLE
				    : (flags & ~NODE_BIG) != 0)
		return wrong(au, page, "has a node of a wrong kind");
	tree->has.entries++;
	r = next_key(au, tree, page, node, false);
	if (r == 0 && (flags & NODE_BIG))
		r = big_value(au, tree, value, len, &buf);
	if (r < 0)
		return r;
	if (buf)
		value = buf;
	if (tree->kind == TREE_MAIN)
		return table_record(au, tree, page, value, len);
	if (tree->kind == TREE_FREE)
		return free_pages(au, tree, page, value, len);
	return tell_record(au, tree, value, len);
}

/* -- Trees ---------------------------------------------------------------- */

static int check_page(struct audit *au, struct level *lv, bool leaf)
{
	size_t lower = mdbpage_u16(lv->page + PAGE_LOWER);
	size_t upper = mdbpage_u16(lv->page + PAGE_UPPER);

	if (mdbpage_u64(lv->page + PAGE_NUMBER) != lv->number ||
	    mdbpage_u16(lv->page + PAGE_FLAGS) !=
		    (leaf ? PAGE_LEAF : PAGE_BRANCH))
		return wrong(au, lv->number, "is no page of its tree");
	if (lower <= PAGE_HEAD || lower % 2 || lower > upper || upper % 2 ||
	    upper > au->page_size)
		return wrong(au, lv->number, "has a damaged head");
	lv->nodes = (unsigned)(lower - PAGE_HEAD) / 2;
	if (!leaf && lv->nodes < 2) /* LMDB would abort() */
		return wrong(au, lv->number, "leads to one page only");
	return check_nodes(au, lv, leaf);
}

/* Read the page @number as level @depth of the tree, the root being 0. */
static int enter(struct audit *au, struct tree *tree, unsigned depth,
		 uint64_t number)
{
	struct level *lv = &au->level[depth];
	bool leaf = depth + 1 == tree->is.depth;
	int r = mark(au, number, 1);

	if (r < 0)
		return r;
	if (!lv->page)
		lv->page = malloc(au->page_size);
	if (!lv->page)
		return -ENOMEM;
	r = read_at(au, number, lv->page, au->page_size);
	if (r < 0)
		return r;
	lv->number = number;
	lv->at = 0;
	r = check_page(au, lv, leaf);
	if (r < 0)
		return r;
	if (leaf)
		tree->has.leaf_pages++;
	else
		tree->has.branch_pages++;
	return 0;
}

/* One step of the walk: *@depth is the level it goes on at. */
static int step(struct audit *au, struct tree *tree, unsigned *depth)
{
	struct level *lv = &au->level[*depth];
	const uint8_t *node = node_at(lv, lv->at++);
	int r = 0;

	if (*depth + 1 == tree->is.depth)
		return leaf_node(au, tree, lv->number, node);
	if (lv->at > 1) /* the first key of a branch stands for "all below" */
		r = next_key(au, tree, lv->number, node, true);
	if (r < 0)
		return r;
	(*depth)++;
	return enter(au, tree, *depth, child_of(node));
}

static int walk(struct audit *au, enum tree_kind kind, const char *name,
		const struct mdbfile_table *table)
{
	struct tree tree = {
		.kind = kind, .is = *table, .first = true, .name = name
	};
	unsigned depth = 0;
	int r;

	if (table->flags != (kind == TREE_FREE ? FREE_FLAGS : 0))
		return wrong(au, table->root, "is of a table of another kind");
	if (table->root == NO_PAGE)
		return table->entries ? wrong(au, 0, "names no root") : 0;
	if (table->depth == 0 || table->depth > DEPTH_MAX)
		return wrong(au, table->root, "is the root of no tree");
	r = enter(au, &tree, 0, table->root);
	while (r == 0) {
		if (au->level[depth].at < au->level[depth].nodes)
			r = step(au, &tree, &depth);
		else if (depth-- == 0)
			break;
	}
	if (r < 0)
		return r;
	au->found.used += tree.has.leaf_pages + tree.has.branch_pages +
			  tree.has.overflow_pages;
	if (tree.has.entries != table->entries ||
	    tree.has.leaf_pages != table->leaf_pages ||
	    tree.has.branch_pages != table->branch_pages ||
	    tree.has.overflow_pages != table->overflow_pages)
		return wrong(au, table->root,
			     "has other counts than its table's record");
	return 0;
}

static int walk_all(struct audit *au, const uint8_t *meta)
{
	struct mdbfile_table table;
	unsigned i;
	int r;

	table = mdbfile_main_table(meta, au->page_size);
	r = walk(au, TREE_MAIN, "", &table);
	for (i = 0; r == 0 && i < au->tables; i++)
		r = walk(au, TREE_TABLE, au->name[i], &au->table[i]);
	if (r < 0)
		return r;
	table = mdbfile_free_table(meta, au->page_size);
	return walk(au, TREE_FREE, "", &table);
}

int audit_snapshot(int fd, const uint8_t *meta, uint64_t page_size,
		   struct audit_found *ret)
{
	return audit_records(fd, meta, page_size, NULL, NULL, ret);
}

int audit_records(int fd, const uint8_t *meta, uint64_t page_size,
		  audit_record_fn fn, void *arg, struct audit_found *ret)
{
	cleanup_free struct audit *au = calloc(1, sizeof(*au));
	int i;
	int r;

	if (!au)
		return -ENOMEM;
	au->fd = fd;
	au->fn = fn;
	au->arg = arg;
	au->page_size = page_size;
	au->pages = mdbfile_pages(meta, page_size);
	au->txnid = mdbfile_txnid(meta, page_size);
	au->seen = calloc(au->pages / 8 + 1, 1);
	/* The walk goes to and fro; the disk had better not. */
	(void)posix_fadvise(fd, 0, (off_t)(au->pages * page_size),
			    POSIX_FADV_WILLNEED);
	r = au->seen ? walk_all(au, meta) : -ENOMEM;
	au->found.lost = au->pages - 2 - au->found.used - au->found.free;
	*ret = au->found;
	for (i = 0; i < DEPTH_MAX; i++)
		free(au->level[i].page);
	free(au->seen);
	return r;
}
