/* SPDX-License-Identifier: MIT */
#include "store/check.h"

#include <inttypes.h>

#include "store/blockcheck.h"
#include "store/datacheck.h"
#include "store/namecheck.h"
#include "store/walk.h"

#define CHECK_CHARGE_TRIES 5

/* The pages, by reading the file: LMDB does not survive all that can be wrong
 * with them. Damaged records are told with their tables. 1: leave it at that. */
static int check_pages(struct check *c, struct survey *s)
{
	struct walk w = { .go_on = NULL };
	int r = walk_index(&w, c->t->ix);

	if (r != -EBADMSG && r != -EIO)
		return r;
	survey_found(s, "index: %s; nothing else can be checked", w.text);
	return 1;
}

static int check_tables(struct check *c, struct survey *s)
{
	cleanup_txn struct index_txn *txn = NULL;
	struct namecheck_result names;
	struct blockcheck_result blocks;
	int r = index_begin(c->t->ix, false, &txn);

	s->txn = txn;
	if (r >= 0)
		r = namecheck_run(s, &names);
	if (r >= 0)
		r = blockcheck_run(s, &blocks);
	s->txn = NULL;
	if (r < 0)
		return r;
	c->files = names.files;
	c->recipes = blocks.recipes;
	c->blocks = blocks.blocks;
	c->forgotten = blocks.forgotten;
	c->packs = blocks.packs;
	c->bytes_all = c->data ? names.sum_bytes + blocks.bytes : 0;
	return 0;
}

/* What is charged covers what is on the disk: at some moment of a few, for
 * files come and go while they are counted. */
static void check_charge(struct check *c, struct survey *s)
{
	struct room_stat before, after;

	for (int i = 0; i < CHECK_CHARGE_TRIES; i++) {
		room_stat(c->t->room, &before);
		c->used = home_disk_bytes(c->home);
		room_stat(c->t->room, &after);
		c->charged = before.quota.charged > after.quota.charged
				     ? before.quota.charged
				     : after.quota.charged;
		if (c->charged >= c->used)
			return;
	}
	survey_found(s,
		     "store: %" PRIu64
		     " bytes are charged, on the disk are %" PRIu64,
		     c->charged, c->used);
}

/* 0: the stage is through, 1: it was left. */
static int check_stage(struct check *c, struct survey *s, struct datacheck *dc)
{
	int r = 0;

	switch (c->stage) {
	case CHECK_INDEX:
		r = check_pages(c, s);
		if (r > 0) {
			c->stage = CHECK_STRAYS; /* the last one */
			return 0;
		}
		if (r >= 0)
			r = check_tables(c, s);
		if (r >= 0)
			check_charge(c, s);
		return r;
	case CHECK_FILES:
		return datacheck_files(dc, &c->at);
	case CHECK_PACKS:
		return datacheck_packs(dc, &c->at);
	case CHECK_BLOCKS:
		return datacheck_blocks(dc, &c->at);
	case CHECK_STRAYS:
		return c->alone ? datacheck_strays(dc, c->home->packs_fd,
						   c->t->checkpoint,
						   c->t->checkpoint_arg)
				: 0;
	case CHECK_DONE:
		break;
	}
	return 0;
}

int check_run(struct check *c)
{
	struct survey s = { .found = c->found, .arg = c->arg };
	struct datacheck dc = { .t = c->t, .s = &s, .data = c->data };
	struct timespec ts;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	if (c->stop_ms)
		dc.stop_ns = ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec +
			     c->stop_ms * (NSEC_PER_SEC / 1000);
	while (c->stage < CHECK_DONE && (r = check_stage(c, &s, &dc)) == 0) {
		c->stage++;
		c->at = 0;
	}
	datacheck_release(&dc);
	c->bytes = dc.bytes;
	c->findings = s.findings;
	return r < 0 ? r : 0;
}
