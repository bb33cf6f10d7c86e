/* SPDX-License-Identifier: MIT */
#include "store/salvage.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "store/mdbfile.h"
#include "store/mdbpage.h"
#include "store/side.h"
#include "store/value.h"

#define DEPTH_MAX 32
#define ROOTS_MAX 64
#define NO_PAGE UINT64_MAX
#define VALUE_MAX (INDEX_VALUE_MAX + VALUE_CHECK_SIZE)

enum salvage_kind { TREE_FREE, TREE_MAIN, TREE_TABLE };

struct salvage {
	int fd;
	uint64_t page_size;
	uint64_t pages;
	uint8_t *seen;		  /* owned; one bit a page: used, or free */
	uint8_t *page[DEPTH_MAX]; /* owned */
	uint8_t *big; /* owned; VALUE_MAX bytes: a value in pages of its own */
	uint8_t *val; /* owned; INDEX_VALUE_MAX bytes */
	enum index_table last;	/* of the last record: likely the next one's */
	enum salvage_kind tree; /* that is walked */
	uint64_t roots[ROOTS_MAX]; /* of tables */
	unsigned n_roots;
	salvage_fn fn;
	void *arg;
	struct salvage_stat st;
};

/* A node, as far as it is within its page. */
struct node {
	const uint8_t *key;
	size_t key_len;
	const uint8_t *value; /* in the page; the number of a page if @big */
	size_t len;
	bool big;
	bool table;
	uint64_t child; /* of a branch */
};

static bool salvage_seen(const struct salvage *sv, uint64_t page)
{
	return sv->seen[page / 8] & (1 << page % 8);
}

/* False: it is none, or it was marked before. */
static bool salvage_mark(struct salvage *sv, uint64_t page)
{
	if (page < 2 || page >= sv->pages || salvage_seen(sv, page))
		return false;
	sv->seen[page / 8] |= (uint8_t)(1 << page % 8);
	return true;
}

/* What is not within the page is no node. */
static bool salvage_node(const struct salvage *sv, const uint8_t *page,
			 unsigned at, bool leaf, struct node *ret)
{
	size_t off = mdbpage_u16(page + PAGE_HEAD + 2 * (size_t)at), room;
	const uint8_t *node = page + off;
	uint16_t flags;

	if (off < PAGE_HEAD || off + NODE_HEAD > sv->page_size)
		return false;
	room = sv->page_size - off - NODE_HEAD;
	flags = mdbpage_u16(node + NODE_FLAGS);
	ret->key = node + NODE_HEAD;
	ret->key_len = mdbpage_u16(node + NODE_KEY_LENGTH);
	if (ret->key_len > room)
		return false;
	ret->child = mdbpage_u32(node + NODE_LENGTH) | (uint64_t)flags << 32;
	if (!leaf)
		return true;
	room -= ret->key_len;
	ret->value = ret->key + ret->key_len;
	ret->len = mdbpage_u32(node + NODE_LENGTH);
	ret->big = flags & NODE_BIG;
	ret->table = flags & NODE_TABLE;
	return room >= (ret->big ? sizeof(uint64_t) : ret->len);
}

/* --- Values ------------------------------------------------------------- */

/* Its bytes, from pages of its own too; NULL: they are not there. */
static const uint8_t *salvage_value(struct salvage *sv, const struct node *nd)
{
	uint64_t page, n;

	if (!nd->big)
		return nd->value;
	page = mdbpage_u64(nd->value);
	if (page < 2 || page >= sv->pages || nd->len > VALUE_MAX)
		return NULL;
	if (pread(sv->fd, sv->big, nd->len,
		  (off_t)(page * sv->page_size + PAGE_HEAD)) !=
	    (ssize_t)nd->len)
		return NULL;
	n = (PAGE_HEAD + nd->len + sv->page_size - 1) / sv->page_size;
	for (uint64_t i = 0; i < n; i++)
		(void)salvage_mark(sv, page + i);
	return sv->big;
}

/* Whose checksum is it? The length of the value, or -EBADMSG. */
static ssize_t salvage_table(struct salvage *sv, const struct node *nd,
			     const uint8_t *stored, enum index_table *ret)
{
	for (unsigned i = 0; i < INDEX_TABLES; i++) {
		unsigned table = (sv->last + i) % INDEX_TABLES;
		struct value_place at = { (uint8_t)table, nd->key,
					  nd->key_len };
		ssize_t n = value_out(at, stored, nd->len, sv->val,
				      INDEX_VALUE_MAX);

		if (n >= 0) {
			*ret = sv->last = (enum index_table)table;
			return n;
		}
	}
	return -EBADMSG;
}

static int salvage_record(struct salvage *sv, const struct node *nd)
{
	const uint8_t *stored = NULL;
	struct record_key key;
	enum index_table table;
	ssize_t n = -EBADMSG;

	if (nd->key_len && nd->key_len <= RECORD_KEY_MAX)
		stored = salvage_value(sv, nd);
	if (stored)
		n = salvage_table(sv, nd, stored, &table);
	if (n < 0) {
		sv->st.bad_records++;
		return 0;
	}
	key.len = nd->key_len;
	memcpy(key.bytes, nd->key, nd->key_len);
	sv->st.records++;
	return sv->fn(sv->arg, table, &key, sv->val, (size_t)n);
}

/* Pages that a transaction gave up: they are not to be searched. 0: they are
 * not all known. */
static int salvage_list(struct salvage *sv, const uint8_t *list, size_t len)
{
	uint64_t n = len / sizeof(uint64_t);

	if (!n || mdbpage_u64(list) > n - 1)
		return 0;
	n = mdbpage_u64(list);
	for (uint64_t i = 1; i <= n; i++)
		(void)salvage_mark(sv,
				   mdbpage_u64(list + i * sizeof(uint64_t)));
	return 1;
}

static int salvage_free(struct salvage *sv, const struct node *nd)
{
	cleanup_free uint8_t *buf = NULL;
	uint64_t page;

	if (!nd->big)
		return salvage_list(sv, nd->value, nd->len);
	page = mdbpage_u64(nd->value);
	if (page >= sv->pages || nd->len > sv->pages * sizeof(uint64_t))
		return 0;
	buf = malloc(nd->len + 1);
	if (!buf)
		return -ENOMEM;
	if (pread(sv->fd, buf, nd->len,
		  (off_t)(page * sv->page_size + PAGE_HEAD)) !=
	    (ssize_t)nd->len)
		return 0;
	for (uint64_t i = 0; i * sv->page_size < PAGE_HEAD + nd->len; i++)
		(void)salvage_mark(sv, page + i);
	return salvage_list(sv, buf, nd->len);
}

/* --- Pages -------------------------------------------------------------- */

/* False: the page cannot be read. */
static bool salvage_read_page(struct salvage *sv, uint64_t number,
			      uint8_t *page)
{
	return pread(sv->fd, page, sv->page_size,
		     (off_t)(number * sv->page_size)) == (ssize_t)sv->page_size;
}

/* How many nodes to look for: where the head does not say, as many as can be:
 * what is none has no checksum. */
static unsigned salvage_count(const struct salvage *sv, const uint8_t *page)
{
	size_t lower = mdbpage_u16(page + PAGE_LOWER);

	if (lower < PAGE_HEAD || lower > sv->page_size)
		lower = sv->page_size;
	return (unsigned)(lower - PAGE_HEAD) / 2;
}

/* A table's record: its tree is walked later. */
static int salvage_root(struct salvage *sv, const struct node *nd)
{
	struct mdbfile_table table;

	if (!nd->table || nd->big || nd->len != MDBFILE_TABLE_SIZE ||
	    sv->n_roots == ROOTS_MAX)
		return 0;
	table = mdbfile_table(nd->value);
	if (table.root != NO_PAGE)
		sv->roots[sv->n_roots++] = table.root;
	return 1;
}

static int salvage_leaf(struct salvage *sv, const uint8_t *page, unsigned at)
{
	struct node nd;
	int r = 0;

	if (!salvage_node(sv, page, at, true, &nd))
		r = 0;
	else if (sv->tree == TREE_FREE)
		r = salvage_free(sv, &nd);
	else if (sv->tree == TREE_MAIN)
		r = salvage_root(sv, &nd);
	else
		return salvage_record(sv, &nd);
	if (r)
		return r < 0 ? r : 0;
	sv->st.bad_records++;
	sv->st.blind |= sv->tree == TREE_FREE;
	return 0;
}

static void salvage_bad_page(struct salvage *sv)
{
	sv->st.bad_pages++;
	sv->st.blind |= sv->tree == TREE_FREE;
}

static int salvage_page(struct salvage *sv, uint64_t number, unsigned depth);

/* The pages below a branch, or the records of a leaf. */
static int salvage_nodes(struct salvage *sv, const uint8_t *page,
			 unsigned depth)
{
	bool branch = mdbpage_u16(page + PAGE_FLAGS) == PAGE_BRANCH;
	unsigned n = salvage_count(sv, page);
	struct node nd;
	int r = 0;

	for (unsigned i = 0; i < n && r >= 0; i++) {
		if (!branch)
			r = salvage_leaf(sv, page, i);
		else if (salvage_node(sv, page, i, false, &nd))
			r = salvage_page(sv, nd.child, depth + 1);
		else
			salvage_bad_page(sv);
	}
	return r;
}

/* The depth, and that no page is looked at twice, bound the walk. */
static int salvage_page(struct salvage *sv, uint64_t number, unsigned depth)
{
	if (depth >= DEPTH_MAX || !salvage_mark(sv, number)) {
		salvage_bad_page(sv);
		return 0;
	}
	if (!sv->page[depth])
		sv->page[depth] = malloc(sv->page_size);
	if (!sv->page[depth])
		return -ENOMEM;
	if (!salvage_read_page(sv, number, sv->page[depth])) {
		salvage_bad_page(sv);
		return 0;
	}
	return salvage_nodes(sv, sv->page[depth], depth);
}

static int salvage_tree(struct salvage *sv, enum salvage_kind tree,
			uint64_t root)
{
	sv->tree = tree;
	return root == NO_PAGE ? 0 : salvage_page(sv, root, 0);
}

/* Leaves whose branch is lost, of all pages that nothing accounts for. Only
 * where something is lost: what LMDB has lost itself may be old. */
static int salvage_rest(struct salvage *sv)
{
	uint64_t before = sv->st.records;
	int r = 0;

	if (sv->st.blind || (!sv->st.bad_pages && !sv->st.bad_records))
		return 0;
	sv->tree = TREE_TABLE;
	for (uint64_t i = 2; i < sv->pages && r >= 0; i++) {
		if (salvage_seen(sv, i) ||
		    !salvage_read_page(sv, i, sv->page[0]) ||
		    mdbpage_u16(sv->page[0] + PAGE_FLAGS) != PAGE_LEAF ||
		    mdbpage_u64(sv->page[0]) != i)
			continue;
		(void)salvage_mark(sv, i);
		r = salvage_nodes(sv, sv->page[0], 0);
	}
	sv->st.leaves = sv->st.records != before;
	return r;
}

static int salvage_walk(struct salvage *sv, const uint8_t *meta)
{
	uint64_t free = mdbfile_free_table(meta, sv->page_size).root;
	uint64_t main = mdbfile_main_table(meta, sv->page_size).root;
	/* Free pages first: no branch shall lead to old records. */
	int r = salvage_tree(sv, TREE_FREE, free);

	if (r >= 0)
		r = salvage_tree(sv, TREE_MAIN, main);
	for (unsigned i = 0; i < sv->n_roots && r >= 0; i++)
		r = salvage_tree(sv, TREE_TABLE, sv->roots[i]);
	return r < 0 ? r : salvage_rest(sv);
}

/* --- Meta pages --------------------------------------------------------- */

/* Two meta pages of which one may do for both. */
static bool salvage_meta_at(int fd, uint64_t page_size, uint8_t *meta)
{
	static const uint64_t from[] = { 0, 1, 0 };

	if (pread(fd, meta, 2 * page_size, 0) != (ssize_t)(2 * page_size))
		return false;
	for (unsigned i = 0; i < ARRAY_SIZE(from); i++) {
		if (i)
			memcpy(meta + (1 - from[i]) * page_size,
			       meta + from[i] * page_size, page_size);
		if (mdbfile_sane(meta, page_size,
				 mdbfile_txnid(meta, page_size)))
			return true;
		if (pread(fd, meta, 2 * page_size, 0) !=
		    (ssize_t)(2 * page_size))
			return false;
	}
	return false;
}

/* Those of the side file, or what data.mdb itself has: owned by the caller. */
static int salvage_meta(int dir_fd, int fd, uint64_t *ret_size, uint8_t **ret)
{
	cleanup_side struct side side = { .meta = NULL };
	cleanup_free uint8_t *meta = malloc((size_t)2 * MDBFILE_PAGE_MAX);

	if (!meta)
		return -ENOMEM;
	if (side_read(dir_fd, &side) >= 0 && side.meta &&
	    mdbfile_sane(side.meta, side.page_size, side.txnid)) {
		memcpy(meta, side.meta, 2 * side.page_size);
		*ret_size = side.page_size;
		*ret = steal_ptr(meta);
		return 0;
	}
	for (uint64_t size = MDBFILE_PAGE_MIN; size <= MDBFILE_PAGE_MAX;
	     size *= 2) {
		if (!salvage_meta_at(fd, size, meta))
			continue;
		*ret_size = size;
		*ret = steal_ptr(meta);
		return 0;
	}
	return -EBADMSG;
}

static int salvage_init(struct salvage *sv, const uint8_t *meta)
{
	uint64_t in_file;
	struct stat st;

	if (fstat(sv->fd, &st) < 0)
		return -errno;
	in_file = (uint64_t)st.st_size / sv->page_size;
	sv->pages = mdbfile_pages(meta, sv->page_size);
	if (sv->pages > in_file) {
		sv->pages = in_file;
		sv->st.bad_pages++;
	}
	sv->seen = calloc(sv->pages / 8 + 1, 1);
	sv->big = malloc(VALUE_MAX);
	sv->val = malloc(INDEX_VALUE_MAX);
	sv->page[0] = malloc(sv->page_size);
	return sv->seen && sv->big && sv->val && sv->page[0] ? 0 : -ENOMEM;
}

int salvage_read(int index_dir_fd, salvage_fn fn, void *arg,
		 struct salvage_stat *ret)
{
	cleanup_close int fd =
		openat(index_dir_fd, MDBFILE_NAME,
		       O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	cleanup_free uint8_t *meta = NULL;
	struct salvage sv = { .fd = fd, .fn = fn, .arg = arg };
	int r;

	if (fd < 0)
		return -errno;
	r = salvage_meta(index_dir_fd, fd, &sv.page_size, &meta);
	if (r >= 0)
		r = salvage_init(&sv, meta);
	if (r >= 0)
		r = salvage_walk(&sv, meta);
	for (unsigned i = 0; i < DEPTH_MAX; i++)
		free(sv.page[i]);
	free(sv.seen);
	free(sv.big);
	free(sv.val);
	*ret = sv.st;
	return r < 0 ? r : 0;
}
