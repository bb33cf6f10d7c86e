/* SPDX-License-Identifier: MIT */
#include "fs/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT_MAGIC "PCFSKEPT"
/* All parts begin at a page of any size that Linux has. */
#define KEPT_ALIGN ((size_t)64 * KIB)
#define KEPT_UP(n) (((n) + KEPT_ALIGN - 1) / KEPT_ALIGN * KEPT_ALIGN)

#define KEPT_SLOT_BYTES (KEPT_ALIGN + KEPT_UP(KEPT_REQUEST_BYTES))
#define KEPT_ROWS_AT (KEPT_ALIGN + KEPT_SLOTS * KEPT_SLOT_BYTES)
#define KEPT_BYTES (KEPT_ROWS_AT + KEPT_UP(KEPT_ROWS * sizeof(struct kept_row)))

_Static_assert(sizeof(struct kept) <= KEPT_ALIGN, "the head has its own part");
_Static_assert(sizeof(struct kept_row) == 32, "rows are of one layout");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared between processes");

int kept_create(void)
{
	cleanup_close int fd =
		memfd_create("pipcachefs", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t witness[STORE_WITNESS_SIZE];
	struct kept *k;

	if (getrandom(witness, sizeof(witness), 0) != (ssize_t)sizeof(witness))
		return -errno;
	if (fd < 0 || ftruncate(fd, (off_t)KEPT_BYTES) < 0)
		return -errno;
	/* Nobody can take memory away below who uses it. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return -errno;
	k = mmap(NULL, KEPT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (k == MAP_FAILED)
		return -errno;
	memcpy(k->magic, KEPT_MAGIC, sizeof(k->magic));
	k->layout = KEPT_LAYOUT;
	memcpy(k->witness, witness, sizeof(witness));
	(void)munmap(k, KEPT_BYTES);
	return steal_fd(&fd);
}

int kept_map(int fd, struct kept **ret)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	struct kept *k;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size < (off_t)sizeof(*k) || seals < 0 ||
	    !(seals & F_SEAL_SHRINK))
		return -EPROTO;
	k = mmap(NULL, KEPT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (k == MAP_FAILED)
		return -errno;
	if (memcmp(k->magic, KEPT_MAGIC, sizeof(k->magic)) != 0 ||
	    k->layout != KEPT_LAYOUT || st.st_size != (off_t)KEPT_BYTES) {
		(void)munmap(k, KEPT_BYTES);
		return -EPROTO;
	}
	*ret = k;
	return 0;
}

void kept_unmap(struct kept *k)
{
	(void)munmap(k, KEPT_BYTES);
}

/* The lock belongs to a description of its own, which ends with this process:
 * those that are passed on are one for all of them. */
int kept_claim(int fd)
{
	cleanup_close int own = -1;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	own = open(path, O_RDWR | O_CLOEXEC);
	if (own < 0)
		return -errno;
	while (flock(own, LOCK_EX) < 0)
		if (errno != EINTR)
			return -errno;
	steal_fd(&own);
	return 0;
}

void kept_lock(struct kept *k)
{
	/* Without the right to, it may be swapped out: slower, no more. */
	(void)mlock2(k, KEPT_BYTES, MLOCK_ONFAULT);
}

int kept_fill_slot(struct kept *k, unsigned slot)
{
	volatile char *at = (volatile char *)kept_slot(k, slot);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

#ifdef MADV_POPULATE_WRITE
	if (madvise((void *)kept_slot(k, slot), KEPT_SLOT_BYTES,
		    MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL) /* a kernel before 5.14 */
		return -errno;
#endif
	for (size_t i = 0; i < KEPT_SLOT_BYTES; i += page)
		at[i] = at[i];
	return 0;
}

struct kept_slot *kept_slot(struct kept *k, unsigned slot)
{
	return (void *)((char *)k + KEPT_ALIGN + slot * KEPT_SLOT_BYTES);
}

void *kept_request(struct kept *k, unsigned slot)
{
	return (char *)kept_slot(k, slot) + KEPT_ALIGN;
}

struct kept_row *kept_rows(struct kept *k)
{
	return (void *)((char *)k + KEPT_ROWS_AT);
}
