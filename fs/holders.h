/* SPDX-License-Identifier: MIT */
/*
 * Who has a file system that is to go: mount namespaces in which it is mounted
 * (a bind mount in a container), and processes that have a file of it open,
 * mapped, or work in it. As far as /proc shows them to the caller.
 *
 * Asks no file system, not even the one in question.
 * Threads: any number at once.
 */
#ifndef FS_HOLDERS_H
#define FS_HOLDERS_H

#include <stddef.h>

enum holders_kind { HOLDERS_ALL, HOLDERS_OF_FILES };

/*
 * @major, @minor: of the file system's device, as in mountinfo.
 * @line:    one line that names some of them, a process each: its pid, its
 *           name, and a path as it sees it. "" if there are none.
 * Returns:  how many there are, or -errno.
 */
int holders_find(unsigned major, unsigned minor, enum holders_kind kind,
		 char *line, size_t size);

#endif
