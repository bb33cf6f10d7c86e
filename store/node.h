/* SPDX-License-Identifier: MIT */
/*
 * Nodes: the inodes that somebody has open, in memory.
 *
 * Answers two questions without touching the index: is this inode open, and
 * what do its writers know that the index does not yet (size, times). It does
 * no I/O; what the fields mean and when they change is file.c's business.
 *
 *	node_get()		opens + 1
 *	node_put()		opens - 1; the last one frees the node
 *
 * Removing an inode and opening it exclude each other: node_claim() either
 * finds the inode open (it becomes an orphan) or closes the door, so that
 * node_get() says -ESTALE, and node_get_settled() waits, until
 * node_claim_end().
 *
 * Threads: any. The table's mutex guards opens, dead and the links, and is a
 * leaf: nothing else is locked under it. A node's @lock is taken before an
 * index transaction is begun, never inside one.
 */
#ifndef STORE_NODE_H
#define STORE_NODE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct pack;
struct recipe_map;
struct nodes;

struct node {
	uint64_t ino;

	pthread_rwlock_t lock; /* guards the fields up to the next comment */
	bool loaded;	       /* the fields below are filled */
	bool live;	       /* staged in @pack, flagged in the index: size */
			       /* and times here are newer than there */
	bool bad;	       /* to be dropped at the last close */
	bool stuck;	       /* its close could not be committed: a use of */
			       /* its own keeps the node, which knows best */
	bool mtime_dirty;      /* mtime_ns is newer than the index */
	uint8_t kind;	       /* enum layout_kind */
	unsigned writers;      /* handles opened for writing */
	uint64_t size;
	int64_t mtime_ns;
	int64_t ctime_ns;
	uint64_t entry;
	uint64_t alloc_end;	/* bytes preallocated up to here */
	uint64_t disk;		/* bytes charged for @pack while live */
	uint64_t version;	/* raised by each change of the bytes */
	struct pack *pack;	/* owned use, or NULL */
	uint64_t recipe;	/* of @map */
	struct recipe_map *map; /* owned, or NULL */
	bool inlined;		/* @size bytes, in the index */

	/* private to node.c, guarded by the table's mutex */
	struct nodes *nodes;
	struct node *next;
	unsigned opens;
	unsigned background; /* of these */
	unsigned claims;
	bool dead;
};

int nodes_new(struct nodes **ret);
/* NULL is fine. Nodes that are left (stuck ones) let go of their packs. */
void nodes_free(struct nodes *ns);
uint64_t nodes_count(struct nodes *ns);

/* -ESTALE: the inode is being removed. -ENOMEM. */
int node_get(struct nodes *ns, uint64_t ino, struct node **ret);
/*
 * The same, but a removal under way is waited for: only its end tells whether
 * the inode is gone, and who is told so earlier may still find its name.
 * Not with a claim of one's own, nor in a write transaction. -ENOMEM.
 */
int node_get_settled(struct nodes *ns, uint64_t ino, struct node **ret);
/* Only if it is open already: the node with one more use, or NULL. */
struct node *node_find(struct nodes *ns, uint64_t ino);
/* By somebody else than our own background work. */
bool node_is_open(struct nodes *ns, uint64_t ino);
/* One of the uses is, or is no more, for work that gives way when the inode is
 * to be removed. */
void node_set_background(struct node *nd, bool background);
/* Returns true if this was the last use: the node is gone. */
bool node_put(struct node *nd);

/*
 * Claim @ino for removal, inside the write transaction that removes it.
 * *@ret_open: somebody has it open; make it an orphan. Ends with
 * node_claim_end() after the transaction, whatever came of it.
 */
int node_claim(struct nodes *ns, uint64_t ino, struct node **ret,
	       bool *ret_open);
/* Returns true if nobody has the inode open (any more). */
bool node_claim_end(struct node *nd);

/* Let go of the bytes. The caller has the node's lock for writing. */
void node_unload(struct node *nd);

#endif
