/* SPDX-License-Identifier: MIT */
/*
 * Configuration files of any bytes: one is refused with one line, or has
 * absolute paths and options that are accepted as a whole.
 */
#include "fs/configfile.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "fs/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_configfile struct configfile f = CONFIGFILE_INIT;
	struct config c = { 0 };
	char why[1024] = "";
	FILE *in;
	int r;

	if (!size)
		return 0;
	in = fmemopen((void *)(uintptr_t)data, size, "r");
	assert(in);
	r = configfile_parse(in, "a.conf", &f, why, sizeof(why));
	(void)fclose(in);
	if (r < 0) {
		assert(*why && !strchr(why, '\n') && !f.store);
		return 0;
	}
	assert(f.store[0] == '/' && f.mountpoint[0] == '/');
	/* Only the sum of them may be too long. */
	r = config_parse(f.options, true, &c, why, sizeof(why));
	assert(r == 0 || strlen(f.options) > CONFIG_OPTIONS_MAX);
	config_release(&c);
	return 0;
}
