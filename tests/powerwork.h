/* SPDX-License-Identifier: MIT */
/*
 * The work load of the power-cut tests: short transactions of two writers on
 * several tables and on packs, checkpoints now and then, and one number for
 * the whole content, which is kept up with every transaction.
 */
#ifndef TESTS_POWERWORK_H
#define TESTS_POWERWORK_H

#include "powerlog.h"
#include "store/digest.h"
#include "storekit.h"

#define WORK_IDS 1500
#define WORK_PACKS 64
#define WORK_VALUE_MAX 30000

struct work_pack { /* the value of a record in INDEX_PACK */
	uint64_t len;
	uint64_t xxh3;
};

struct work {
	struct kit kit;
	/* The fields below are for whoever is in a write transaction. */
	uint64_t state;
	uint64_t packs[WORK_PACKS]; /* ids; 0: none */
	unsigned slot;		    /* of the newest one */
	bool log;		    /* mark transactions in powerlog */
	bool sweep_first;	    /* a control: before the first checkpoint */
};

static inline uint64_t work_random(uint64_t *seed)
{
	uint64_t x = *seed += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static inline void work_fill(uint8_t *buf, size_t len, uint64_t *seed)
{
	uint64_t x;

	for (size_t i = 0; i < len; i += sizeof(x)) {
		x = work_random(seed);
		memcpy(buf + i, &x, len - i < sizeof(x) ? len - i : sizeof(x));
	}
}

/* A record's part of the state: a sum, so that it can be taken off again. */
static inline uint64_t work_record(enum index_table table,
				   const struct record_key *key,
				   const void *val, size_t len)
{
	uint64_t part[3] = { table, digest_xxh3(key->bytes, key->len),
			     digest_xxh3(val, len) };

	return digest_xxh3(part, sizeof(part));
}

/* Put, or with @val NULL delete. @state follows. Negative on failure. */
static inline int work_change(struct index_txn *txn, enum index_table table,
			      const struct record_key *key, const void *val,
			      size_t len, uint64_t *state)
{
	static _Thread_local uint8_t old[WORK_VALUE_MAX];
	ssize_t n = index_get(txn, table, key, old, sizeof(old));

	if (n < 0 && n != -ENOENT)
		return (int)n;
	if (n >= 0)
		*state -= work_record(table, key, old, (size_t)n);
	if (!val)
		return n < 0 ? 0 : index_del(txn, table, key);
	*state += work_record(table, key, val, len);
	return index_put(txn, table, key, val, len, false);
}

static inline struct record_key work_key(enum index_table table, uint64_t id)
{
	char name[64];
	uint64_t seed = id;

	if (table != INDEX_DIRENT)
		return record_key_id(id);
	(void)snprintf(name, sizeof(name), "%016llx-name-%llu",
		       (unsigned long long)work_random(&seed),
		       (unsigned long long)id);
	return record_key_name(id % 7, name);
}

static inline int work_one_change(struct index_txn *txn, uint64_t *seed,
				  uint64_t *state)
{
	static const enum index_table tables[] = { INDEX_INODE, INDEX_DIRENT,
						   INDEX_INLINE };
	static _Thread_local uint8_t val[WORK_VALUE_MAX];
	uint64_t r = work_random(seed);
	enum index_table table = tables[r % 3];
	struct record_key key = work_key(table, (r >> 8) % WORK_IDS);
	size_t len = 17 + (r >> 24) % 120;

	if (table == INDEX_INLINE)
		len = (r >> 40) % 20 ? (r >> 24) % 1900
				     : (r >> 24) % WORK_VALUE_MAX;
	if ((r >> 32) % 100 >= 55)
		return work_change(txn, table, &key, NULL, 0, state);
	work_fill(val, len, seed);
	return work_change(txn, table, &key, val, len, state);
}

static inline int work_write_pack(struct kit *kit, uint64_t *seed,
				  uint64_t *ret_id, struct work_pack *ret)
{
	static _Thread_local uint8_t buf[40000];
	struct pack *pk;
	size_t half;
	int r = index_new_id(kit->ix, INDEX_ID_PACK, ret_id);

	if (r < 0)
		return r;
	r = pack_create(kit->packs, *ret_id, &pk);
	if (r < 0)
		return r;
	ret->len = 1 + work_random(seed) % sizeof(buf);
	half = work_random(seed) % ret->len;
	work_fill(buf, ret->len, seed);
	ret->xxh3 = digest_xxh3(buf, ret->len);
	r = pack_write(pk, buf, half, 0);
	if (r == 0)
		r = pack_write(pk, buf + half, ret->len - half, half);
	pack_put(pk);
	return r;
}

/* The commit, with its mark before it. @state becomes the work's. */
static inline int work_commit(struct work *w, struct index_txn *txn,
			      uint64_t state)
{
	if (state == w->state) { /* nothing changed: perhaps no commit at all */
		index_abort(txn);
		return 0;
	}
	if (w->log)
		powerlog_mark(POWERLOG_INTENT, index_txnid(w->kit.ix) + 1,
			      state);
	w->state = state;
	return index_commit(txn);
}

/* A new pack takes the place of an old one. */
static inline int work_pack_txn(struct work *w, uint64_t *seed)
{
	struct index_txn *txn;
	struct record_key key;
	struct work_pack val;
	uint64_t state;
	uint64_t id;
	uint64_t *slot;
	uint64_t old;
	int r = work_write_pack(&w->kit, seed, &id, &val);

	if (r < 0)
		return r;
	r = index_begin(w->kit.ix, true, &txn);
	if (r < 0)
		return r;
	state = w->state;
	if (work_random(seed) % 3) /* else the one that came last */
		w->slot = work_random(seed) % WORK_PACKS;
	slot = &w->packs[w->slot];
	old = *slot;
	*slot = id;
	key = record_key_id(id);
	r = work_change(txn, INDEX_PACK, &key, &val, sizeof(val), &state);
	if (r == 0 && old) {
		key = record_key_id(old);
		r = work_change(txn, INDEX_PACK, &key, NULL, 0, &state);
	}
	if (r < 0) {
		index_abort(txn);
		return r;
	}
	r = work_commit(w, txn, state);
	if (r == 0 && old)
		pack_doom(w->kit.packs, old);
	return r;
}

static inline int work_txn(struct work *w, uint64_t *seed)
{
	uint64_t n = 1 + work_random(seed) % 4;
	struct index_txn *txn;
	uint64_t state;
	int r;

	if (work_random(seed) % 6 == 0)
		return work_pack_txn(w, seed);
	if (work_random(seed) % 100 == 0)
		n = 200 + work_random(seed) % 200;
	r = index_begin(w->kit.ix, true, &txn);
	if (r < 0)
		return r;
	state = w->state;
	while (r == 0 && n--)
		r = work_one_change(txn, seed, &state);
	if (r < 0 || work_random(seed) % 50 == 0) {
		index_abort(txn);
		return r;
	}
	return work_commit(w, txn, state);
}

/* -- The content as it is ------------------------------------------------- */

static inline bool work_pack_good(struct kit *kit, uint64_t id,
				  const struct work_pack *rec)
{
	static uint8_t buf[40000];
	struct pack *pk;
	bool good;

	if (rec->len > sizeof(buf) || pack_get(kit->packs, id, &pk) < 0)
		return false;
	good = pack_read(pk, buf, rec->len, 0) == (ssize_t)rec->len &&
	       digest_xxh3(buf, rec->len) == rec->xxh3;
	pack_put(pk);
	return good;
}

/* Walk everything; -EUCLEAN for a pack that is not what its record says. */
static inline int work_load(struct work *w)
{
	static uint8_t val[WORK_VALUE_MAX];
	struct record_key from = record_key_id(0);
	struct record_key key;
	struct work_pack pack;
	struct index_txn *txn;
	unsigned slot = 0;
	size_t len;
	uint64_t id;
	int r = index_begin(w->kit.ix, false, &txn);

	w->state = 1;
	memset(w->packs, 0, sizeof(w->packs));
	for (int t = INDEX_INODE; r >= 0 && t < INDEX_TABLES; t++) {
		struct index_iter it = INDEX_ITER_INIT;

		r = index_iter(txn, t, &from, 0, &it);
		while (r >= 0 && (r = index_next(&it, &key, val, sizeof(val),
						 &len)) > 0) {
			w->state += work_record(t, &key, val, len);
			if (t != INDEX_PACK)
				continue;
			memcpy(&pack, val, sizeof(pack));
			r = record_key_get(&key, 0, &id);
			if (r < 0 || slot == WORK_PACKS ||
			    !work_pack_good(&w->kit, id, &pack))
				r = -EUCLEAN;
			else
				w->packs[slot++] = id;
		}
		index_iter_release(&it);
	}
	index_abort(txn);
	return r;
}

static inline int work_keep(void *arg, uint64_t id)
{
	struct work *w = arg;

	for (int i = 0; i < WORK_PACKS; i++) {
		if (w->packs[i] == id)
			return 1;
	}
	return 0;
}

/* What a store does at open, in its order; a negative errno. */
static inline int work_open(struct work *w, bool restore)
{
	uint64_t bytes;
	uint64_t txnid;
	int r = restore ? kit_recover(&w->kit) : RECOVER_RESTORED;

	if (r == RECOVER_UNREADABLE)
		return -EBADMSG;
	w->kit.found = r;
	if (r >= 0)
		r = kit_open_index(&w->kit);
	if (r == 0)
		r = kit_open_packs(&w->kit);
	if (r == 0)
		r = work_load(w);
	if (r < 0)
		return r;
	/* Opening commits one transaction, but not what goes on. */
	txnid = index_txnid(w->kit.ix) - (w->kit.found != RECOVER_LIVE);
	if (w->log)
		powerlog_mark(POWERLOG_OPENED, txnid, w->state);
	/* The last checkpoint may name other packs than a live index. */
	if (w->kit.found == RECOVER_LIVE) {
		r = kit_start(&w->kit);
		return r < 0 ? r
			     : packs_sweep(w->kit.packs, work_keep, w, &bytes);
	}
	r = packs_sweep(w->kit.packs, work_keep, w, &bytes);
	return r < 0 ? r : kit_start(&w->kit);
}

#endif
