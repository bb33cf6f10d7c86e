/* SPDX-License-Identifier: MIT */
#include "store/node.h"

#include <errno.h>
#include <stdlib.h>

#include "store/base.h"
#include "store/pack.h"
#include "store/recipe.h"

#define NODES_BUCKETS 16384

struct nodes {
	pthread_mutex_t lock;
	pthread_cond_t opened; /* a door is open again: a claim ended */
	uint64_t count;
	struct node *buckets[NODES_BUCKETS];
};

int nodes_new(struct nodes **ret)
{
	struct nodes *ns = calloc(1, sizeof(*ns));

	if (!ns)
		return -ENOMEM;
	pthread_mutex_init(&ns->lock, NULL);
	pthread_cond_init(&ns->opened, NULL);
	*ret = ns;
	return 0;
}

uint64_t nodes_count(struct nodes *ns)
{
	LOCK_SCOPE(&ns->lock);
	return ns->count;
}

static struct node **node_slot(struct nodes *ns, uint64_t ino)
{
	struct node **at = &ns->buckets[ino % NODES_BUCKETS];

	while (*at && (*at)->ino != ino)
		at = &(*at)->next;
	return at;
}

static struct node *node_new(struct nodes *ns, uint64_t ino)
{
	struct node *nd = calloc(1, sizeof(*nd));

	if (!nd)
		return NULL;
	if (pthread_rwlock_init(&nd->lock, NULL)) {
		free(nd);
		return NULL;
	}
	nd->ino = ino;
	nd->nodes = ns;
	return nd;
}

static void node_free(struct node *nd)
{
	node_unload(nd);
	pthread_rwlock_destroy(&nd->lock);
	free(nd);
}

void nodes_free(struct nodes *ns)
{
	struct node *nd, *next;

	if (!ns)
		return;
	for (size_t i = 0; i < NODES_BUCKETS; i++) {
		for (nd = ns->buckets[i]; nd; nd = next) {
			next = nd->next;
			node_free(nd);
		}
	}
	pthread_cond_destroy(&ns->opened);
	pthread_mutex_destroy(&ns->lock);
	free(ns);
}

/* Find or insert; returns NULL when out of memory. */
static struct node *node_enter_locked(struct nodes *ns, uint64_t ino)
{
	struct node **at = node_slot(ns, ino);

	if (!*at) {
		*at = node_new(ns, ino);
		if (*at)
			ns->count++;
	}
	return *at;
}

/* Take the node out of the table if nobody needs it; true if it was. */
static bool node_leave_locked(struct node *nd)
{
	struct node **at;

	if (nd->opens || nd->claims)
		return false;
	at = node_slot(nd->nodes, nd->ino);
	*at = nd->next;
	nd->nodes->count--;
	return true;
}

static int node_get_locked(struct nodes *ns, uint64_t ino, struct node **ret)
{
	struct node *nd = node_enter_locked(ns, ino);

	if (!nd)
		return -ENOMEM;
	if (nd->dead)
		return -ESTALE;
	nd->opens++;
	*ret = nd;
	return 0;
}

int node_get(struct nodes *ns, uint64_t ino, struct node **ret)
{
	LOCK_SCOPE(&ns->lock);
	return node_get_locked(ns, ino, ret);
}

int node_get_settled(struct nodes *ns, uint64_t ino, struct node **ret)
{
	struct node *nd;

	LOCK_SCOPE(&ns->lock);
	while ((nd = *node_slot(ns, ino)) && nd->dead)
		pthread_cond_wait(&ns->opened, &ns->lock);
	return node_get_locked(ns, ino, ret);
}

struct node *node_find(struct nodes *ns, uint64_t ino)
{
	struct node *nd;

	LOCK_SCOPE(&ns->lock);
	nd = *node_slot(ns, ino);
	if (!nd || nd->dead)
		return NULL;
	nd->opens++;
	return nd;
}

bool node_is_open(struct nodes *ns, uint64_t ino)
{
	const struct node *nd;

	LOCK_SCOPE(&ns->lock);
	nd = *node_slot(ns, ino);
	return nd && nd->opens > nd->background;
}

void node_set_background(struct node *nd, bool background)
{
	LOCK_SCOPE(&nd->nodes->lock);
	nd->background += background ? 1 : -1U;
}

bool node_put(struct node *nd)
{
	struct nodes *ns = nd->nodes;
	bool gone;

	pthread_mutex_lock(&ns->lock);
	nd->opens--;
	gone = node_leave_locked(nd);
	pthread_mutex_unlock(&ns->lock);
	if (gone)
		node_free(nd);
	return gone;
}

int node_claim(struct nodes *ns, uint64_t ino, struct node **ret,
	       bool *ret_open)
{
	struct node *nd;

	LOCK_SCOPE(&ns->lock);
	nd = node_enter_locked(ns, ino);
	if (!nd)
		return -ENOMEM;
	nd->claims++;
	if (!nd->opens)
		nd->dead = true;
	*ret_open = nd->opens > 0;
	*ret = nd;
	return 0;
}

bool node_claim_end(struct node *nd)
{
	struct nodes *ns = nd->nodes;
	bool gone;

	pthread_mutex_lock(&ns->lock);
	nd->claims--;
	if (!nd->claims) {
		nd->dead = false;
		pthread_cond_broadcast(&ns->opened);
	}
	gone = node_leave_locked(nd);
	pthread_mutex_unlock(&ns->lock);
	if (gone)
		node_free(nd);
	return gone;
}

void node_unload(struct node *nd)
{
	pack_put(steal_ptr(nd->pack));
	recipe_map_free(steal_ptr(nd->map));
	nd->inlined = false;
	nd->loaded = false;
}
