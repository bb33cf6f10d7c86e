/* SPDX-License-Identifier: MIT */
#include "store/replay.h"

#include "store/record.h"

/* Of the calling thread. Here, not in a parameter of all operations: none of
 * them but the edit that is the answer has anything to do with it. */
static _Thread_local struct {
	uint64_t slot;
	uint64_t number; /* 0: none */
} replay_now;

void replay_enter(uint64_t slot, uint64_t number)
{
	replay_now.slot = slot;
	replay_now.number = number;
}

void replay_leave(void)
{
	replay_now.number = 0;
}

int replay_put(struct index_txn *txn, uint64_t ino)
{
	struct record_key key = record_key_id(replay_now.slot);
	uint8_t buf[RECORD_REPLAY_SIZE];

	if (!replay_now.number)
		return 0;
	record_u64_encode(replay_now.number, buf);
	record_u64_encode(ino, buf + 8);
	return index_put(txn, INDEX_REPLAY, &key, buf, sizeof(buf), false);
}

int replay_get(struct index_txn *txn, uint64_t slot, uint64_t number,
	       uint64_t *ret_ino)
{
	struct record_key key = record_key_id(slot);
	uint8_t buf[RECORD_REPLAY_SIZE];
	uint64_t found;
	ssize_t n = index_get(txn, INDEX_REPLAY, &key, buf, sizeof(buf));

	if (n == -ENOENT || n == -EBADMSG)
		return 0;
	if (n < 0)
		return (int)n;
	if (n != (ssize_t)sizeof(buf) ||
	    record_u64_decode(buf, 8, &found) < 0 || found != number)
		return 0;
	return record_u64_decode(buf + 8, 8, ret_ino) < 0 ? 0 : 1;
}

int replay_clear(struct index_txn *txn)
{
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_REPLAY_SIZE];
	size_t len;
	int r = index_iter(txn, INDEX_REPLAY, &from, 0, &it);

	while (r >= 0 &&
	       (r = index_next(&it, &key, buf, sizeof(buf), &len)) != 0) {
		if (r < 0 && r != -EBADMSG)
			return r;
		r = index_del(txn, INDEX_REPLAY, &key);
	}
	return r;
}
