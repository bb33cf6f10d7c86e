/* SPDX-License-Identifier: MIT */
#include "fs/slot.h"

#include <linux/fuse.h>
#include <string.h>

/* Of the calling thread: libfuse hands operations no word of ours with the
 * request. */
static _Thread_local struct slot *slot_now;

int slot_open(struct kept *k, unsigned number, struct slot *ret)
{
	int r = kept_fill_slot(k, number);

	if (r < 0)
		return r;
	*ret = (struct slot){ .number = number,
			      .memory = k,
			      .kept = kept_slot(k, number),
			      .request = kept_request(k, number) };
	return 0;
}

/* The length, which the kernel writes along with all the rest. */
static _Atomic uint32_t *length_of(const struct slot *s)
{
	return s->request;
}

void slot_clear(struct slot *s)
{
	atomic_store(length_of(s), 0);
	atomic_store(&s->kept->settled, 0);
	s->kept->tries = 0;
	s->known = SLOT_NEW;
}

struct slot_request slot_look(const struct slot *s)
{
	struct slot_request q = { .bytes = atomic_load(length_of(s)) };
	struct fuse_in_header h;

	if (q.bytes < sizeof(h) || q.bytes > KEPT_REQUEST_BYTES) {
		q.bytes = 0;
		return q;
	}
	memcpy(&h, s->request, sizeof(h));
	q.opcode = h.opcode;
	q.unique = h.unique;
	return q;
}

void slot_enter(struct slot *s)
{
	slot_now = s;
}

void slot_leave(void)
{
	slot_now = NULL;
}

enum slot_known slot_known(void)
{
	return slot_now ? slot_now->known : SLOT_NEW;
}

int64_t slot_result(void)
{
	return slot_now ? slot_now->result : 0;
}

uint64_t slot_value(void)
{
	return slot_now ? slot_now->value : 0;
}

uint64_t slot_unique(void)
{
	return slot_now ? slot_look(slot_now).unique : 0;
}

void slot_settle(int64_t result, uint64_t value)
{
	struct kept_slot *kept;

	if (!slot_now)
		return;
	kept = slot_now->kept;
	kept->result = result;
	kept->value = value;
	atomic_store(&kept->settled, slot_look(slot_now).unique);
	atomic_fetch_add(&slot_now->memory->answered, 1);
}
