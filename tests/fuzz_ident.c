/* SPDX-License-Identifier: MIT */
/*
 * What a cached file is, on hostile bytes: as one file with body and headers,
 * as a body of its own, as a name. The answer is plain text or none, the work
 * is bounded, and any failed read is passed on.
 */
#include "identkit.h"

#include "store/response.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const uint8_t *data, size_t size)
{
	cleanup_free char *name = malloc(size + 1);
	struct ident id;

	assert(name);
	memcpy(name, data, size);
	name[size] = '\0';
	if (ident_wheel_name(name, &id)) {
		identkit_check(&id);
		assert(*id.project && id.kind == IDENT_WHEEL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct identkit_file head = { .buf = data, .len = size };
	struct identkit_file body = head, none = { .buf = data };
	struct ident id;

	assert(identkit_response(&head, NULL, &id) == 0);
	identkit_check(&id);
	assert(head.bytes <= RESPONSE_READ_MAX + IDENT_READ_MAX + 64 * KIB);
	assert(identkit_response(&none, &body, &id) == 0);
	identkit_check(&id);
	if (size) {
		body.reads = 0;
		body.fail_at = 1 + data[size - 1] % 4;
		if (identkit_response(&none, &body, &id) < 0)
			assert(body.reads == body.fail_at && !*id.project);
		else
			identkit_check(&id);
	}
	check_name(data, size);
	return 0;
}
