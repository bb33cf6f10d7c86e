/* SPDX-License-Identifier: MIT */
#include "store/resume.h"

#include <errno.h>

#include "store/replay.h"

int resume_files(struct files *fs, struct store_resume *files, size_t n)
{
	size_t i;
	int r = 0;

	for (i = 0; i < n && r >= 0; i++) {
		int flags = file_flags(files[i].flags) & ~FILE_TRUNCATE;

		files[i].file = NULL;
		r = file_resume(fs, files[i].ino, flags, files[i].bad,
				&files[i].file);
		if (r < 0 && !base_is_shortage(r))
			r = 0;
	}
	while (r < 0 && i-- > 0) {
		if (files[i].file)
			file_close(files[i].file);
		files[i].file = NULL;
	}
	return r;
}

int resume_forget(struct tree *t)
{
	cleanup_edit struct edit e = EDIT_INIT;
	int r = edit_begin(t, QUOTA_SYSTEM, &e);

	if (r >= 0)
		r = replay_clear(e.txn);
	return r < 0 ? r : edit_commit(&e);
}
