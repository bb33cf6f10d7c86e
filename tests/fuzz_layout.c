/* SPDX-License-Identifier: MIT */
/* Hostile names: paths as they are classified, and texts that are sizes. */
#include "store/layout.h"

#include <assert.h>
#include <string.h>

#include "store/packio.h"
#include "store/quota.h"

#define DIRS_MAX 40

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(char *path)
{
	const char *dirs[DIRS_MAX];
	struct layout_unit unit;
	unsigned n = 0;
	char *slash;

	while (n < DIRS_MAX && (slash = strchr(path, '/'))) {
		*slash = '\0';
		dirs[n++] = path;
		path = slash + 1;
	}
	unit = layout_classify(dirs, n, path);
	assert(unit.kind < LAYOUT_KINDS);
	(void)layout_kind_name(unit.kind);
	if (unit.kind != LAYOUT_OTHER)
		assert(unit.dir <= n && unit.name_len <= strlen(path));
	if (unit.kind == LAYOUT_TMP)
		assert(layout_is_tmp_name(path) &&
		       !layout_evictable(unit.kind));
	assert(!layout_dir_prunable(dirs, n) || n > 1);
}

static void check_name(const char *name)
{
	char partner[256];
	char back[256];
	uint64_t id;

	if (layout_partner(name, partner)) {
		assert(layout_partner(partner, back));
		assert(!strcmp(back, name));
	}
	if (packio_parse(name, &id))
		assert(!strcmp(packio_name(id).text, name));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[4096];
	uint64_t bytes;

	if (size >= sizeof(text))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	check_name(text);
	(void)quota_parse_size(text, UINT64_MAX, &bytes);
	check_path(text);
	return 0;
}
