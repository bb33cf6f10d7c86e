/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic of the limit. All amounts are bytes.
 *
 *   0 ......... low ......... high .. http ceiling .. [ reserve ] limit
 *               ^ eviction    ^ eviction  ^ 95 %: http* stops here; the rest
 *                 stops here    starts      is for wheels/, names and index
 *
 * @charged is an upper bound of what du says of the store: raised before an
 * act by what it may take at most, lowered afterwards to what it took.
 *
 * Pure: no I/O, no locks. The owner (room) guards it.
 */
#ifndef STORE_QUOTA_H
#define STORE_QUOTA_H

#include <stdbool.h>
#include <stdint.h>

#define QUOTA_LIMIT_MIN (UINT64_C(16) * 1024 * 1024)
#define QUOTA_DEFAULT_DISK_PERCENT 10
#define QUOTA_DEFAULT_MAX (UINT64_C(20) * 1024 * 1024 * 1024)
#define QUOTA_DEFAULT_MIN_FREE_PERCENT 5
#define QUOTA_DEFAULT_LOW_PERCENT 90 /* of the limit */

enum quota_class {
	QUOTA_HTTP,   /* bytes under http*: up to 95 % of the limit */
	QUOTA_OTHER,  /* bytes elsewhere, names: up to the limit less reserve */
	QUOTA_WHEELS, /* as OTHER; may push out http* within grace, and fill */
		      /* the disk: pip gives up a build that is refused */
	QUOTA_SYSTEM, /* deletions, closes: into half of the reserve; free */
		      /* while the limit does not hold anyway */
	QUOTA_EVICT,  /* the evictor's own acts: always, they make room */
};

struct quota {
	uint64_t limit;
	uint64_t low;	    /* eviction stops here */
	uint64_t min_free;  /* of the disk below, to be left free */
	uint64_t charged;   /* all of it, with what is reserved */
	uint64_t reserved;  /* of that, for acts that are not over yet */
	uint64_t disk_free; /* on the disk below, as last seen */
};

/* Set the marks; @low 0 means the default. @low is clamped to the ceiling of
 * http*, @limit to QUOTA_LIMIT_MIN. */
void quota_set(struct quota *q, uint64_t limit, uint64_t low,
	       uint64_t min_free);

/* The low mark that keeps its share of @limit, for quota_set(): 0 if it is the
 * default. */
uint64_t quota_low_for(const struct quota *q, uint64_t limit);

/* Where eviction ahead of need starts: 2.5 % below the ceiling of http*. */
uint64_t quota_high(const struct quota *q);

/* Space kept back from HTTP, OTHER and WHEELS: 1/64 of limit, 1..16 MiB. */
uint64_t quota_reserve_bytes(const struct quota *q);

/* The most that may be charged with an act of @class under way. */
uint64_t quota_ceiling(const struct quota *q, enum quota_class class);

/*
 * How many bytes must be freed before @bytes of @class may be charged; 0 when
 * they may now. UINT64_MAX when freeing cannot help (larger than the class
 * may ever hold, or the disk is fuller than min_free without our doing).
 * WHEELS, SYSTEM and EVICT don't look at the disk.
 */
uint64_t quota_shortfall(const struct quota *q, enum quota_class class,
			 uint64_t bytes);

/* Bytes to free so that charged is at low; 0 unless above high. */
uint64_t quota_pressure(const struct quota *q);

/* True when the disk is fuller than min_free: only wheels are to be stored. */
bool quota_disk_full(const struct quota *q);

/* Used above limit (a limit made smaller); what is reserved does not count. */
uint64_t quota_excess(const struct quota *q);

/*
 * Parse "5G", "512M", "10%" (of @whole), plain bytes: digits and a unit K, M,
 * G, T in either case, also as KiB or KB, all powers of 1024.
 * -EINVAL for anything else, -ERANGE on overflow and above 100 %.
 */
int quota_parse_size(const char *text, uint64_t whole, uint64_t *ret);

#endif
