/* SPDX-License-Identifier: MIT */
/*
 * The directory of a store: is it ours, who holds it, what lies in it.
 *
 *	format		text: "pipcachefs store", "format 1", "id HEX"
 *	lock		flock()ed by the one process that has the store open;
 *			text: pid, "running" or "ending", a note
 *	index/		see index.h, checkpoint.h
 *	packs/		see pack.h
 *	index.bad/, packs.bad/	set aside by home_set_aside()
 *	control.sock	the daemon's
 *
 * Threads: home_reclaim() and home_bad_bytes() from any; the rest from the
 * thread that opens and closes the store.
 */
#ifndef STORE_HOME_H
#define STORE_HOME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define HOME_WAIT_ENDING_MS 10000
/* One that was just unmounted may not have said so yet. */
#define HOME_WAIT_RUNNING_MS 500

struct home {
	int dir_fd; /* all owned, -1 when not open */
	int lock_fd;
	int index_fd;
	int packs_fd;
	bool read_only; /* nothing is written, nothing is made */
};
#define HOME_INIT                                                              \
	{                                                                      \
		.dir_fd = -1, .lock_fd = -1, .index_fd = -1, .packs_fd = -1    \
	}

/*
 * Open the directory, take its lock, make what is missing. h->lock_fd is -1, or
 * the lock of a process that was killed, which somebody has held since; then
 * h->read_only may be set, and is where the file system turns out to be.
 * @create:  an absent or empty directory becomes a store.
 * @note:    written to the lock file behind the pid, may be NULL.
 * @why:     on failure, one line that names path and reason.
 * Errors: see store_open(). On failure nothing was changed.
 */
int home_open(struct home *h, const char *path, bool create, const char *note,
	      char *why, size_t why_size);
void home_close(struct home *h); /* fine on HOME_INIT */
void home_ending(struct home *h, const char *note);

/* What is at @path? See store_probe(). */
int home_probe(const char *path, pid_t *ret_pid, char *why, size_t why_size);

/* Put index/ and packs/ aside and begin with empty ones; what was set aside
 * before is deleted. */
int home_set_aside(struct home *h);
uint64_t home_bad_bytes(struct home *h);
/* Is there something set aside? *@ret_packs_fd: -1 where it has no packs. */
int home_open_bad(struct home *h, int *ret_index_fd, int *ret_packs_fd);
/* Delete what was set aside; returns the bytes that came back. */
uint64_t home_reclaim(struct home *h);

/*
 * Replace index/: make index.new/ (empty), fill it, put it in the place of
 * index/ in one step (h->index_fd becomes @new_fd, which is taken over in any
 * case), delete what is in index.new/ then.
 *
 * The swap returns 1 when that is on the disk, 0 when the old one stays, or
 * an error: which of the two a power cut would leave is not known, and nothing
 * may be built on either.
 */
int home_new_index(struct home *h, int *ret_fd);
int home_swap_index(struct home *h, int new_fd);
void home_drop_new_index(struct home *h);

/*
 * What the store takes beside packs/, data.mdb and what was set aside, at the
 * most: its directories, the small files, and those that go with an index of
 * pages of @page_size bytes. Grows with the blocks of the file system.
 */
uint64_t home_fixed_bytes(const struct home *h, uint64_t page_size);

/* All that is in the store as du counts it: blocks on disk. */
uint64_t home_disk_bytes(struct home *h);

#endif
