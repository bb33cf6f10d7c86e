/* SPDX-License-Identifier: MIT */
/*
 * A function in a process of its own, that may die of what it does: a mapped
 * file on a disk that fails is a signal, and what is wrong in a way that nobody
 * thought of leads a library astray.
 *
 * The child has the caller's memory as it was, one of its files, and none of its
 * other threads: the function takes no lock that one of them may hold, and
 * changes nothing but what it is given. It does not outlive the caller.
 *
 * Threads: any number at once. Nobody else may wait for any child.
 */
#ifndef STORE_APART_H
#define STORE_APART_H

#include <stdbool.h>
#include <stddef.h>

struct apart {
	int (*fn)(void *arg, void *out);
	void *arg;
	int fd; /* that it needs, beside standard ones */
	/* Asked now and then, here and not in the child; NULL: always. */
	bool (*go_on)(void *arg);
	void *go_on_arg;
	int signal; /* result: what ended it, 0: an exit */
};

/*
 * @out: @size bytes; the function gets a copy, which is copied back when it
 *       has returned.
 * Returns what the function did, or: -EFAULT it died of what it did
 * (base_is_fault()); -EINTR it was ended otherwise; -ECANCELED it was not to go
 * on; -ENOMEM, -EAGAIN there is no other process.
 */
int apart_run(struct apart *a, void *out, size_t size);

#endif
