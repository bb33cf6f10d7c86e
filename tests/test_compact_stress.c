/* SPDX-License-Identifier: MIT */
/*
 * Files are read while their blocks move: threads read at random places and
 * compare, others cut new files, unlink old ones, move every block that may be
 * moved from one pack to another, and run checkpoints, which punch and unlink
 * what was left behind. Most useful under the thread sanitizer.
 */
#include "store/compact.h"

#include <pthread.h>

#include "store/cut.h"

#include "fixture.h"
#include "zipkit.h"

#define ROOT RECORD_ROOT_INO
#define READERS 3
#define SLOTS 8
#define ZIPS 24
#define MEMBERS 40
#define READS_MAX 20000 /* through one handle */
#define NAPS 3000	/* one read of so many takes a while */
#define NAP_US 100000
#define MOVES_MAX 20000
#define SECONDS (getenv("PIPCACHEFS_LONG") ? 60 : SLOW_BUILD ? 8 : 3)

static struct zip zips[ZIPS];
static atomic_uint_least64_t slots[SLOTS]; /* inode * ZIPS + which zip, or 0 */
static atomic_bool over, hurry;
static atomic_uint n_reads, n_moves, n_rounds, n_files, n_checkpoints, wrong;
static atomic_uint n_failed;

static bool go_on(void *arg)
{
	(void)arg;
	return !atomic_load(&over);
}

static unsigned next(unsigned *seed, unsigned n)
{
	return (unsigned)rand_r(seed) % n;
}

static void make_zips(void)
{
	char name[32];

	for (unsigned n = 0; n < ZIPS; n++) {
		for (unsigned i = 0; i < MEMBERS; i++) {
			bool own = (n + i) % 4 == 0;

			(void)snprintf(name, sizeof(name),
				       own ? "own%u/%u" : "all/%u", i, n);
			if (!own)
				(void)snprintf(name, sizeof(name), "all/%u", i);
			zip_member(&zips[n], name, 1500 + 211 * i, n);
		}
		zip_finish(&zips[n], "");
	}
}

/* --- Reading ------------------------------------------------------------ */

static _Thread_local unsigned nap_seed; /* of a reader */

/* Between finding out where bytes are and reading them. */
static ssize_t napping_pread(int fd, void *buf, size_t len, off_t off)
{
	if (nap_seed && !next(&nap_seed, NAPS))
		(void)usleep(NAP_US);
	return pread(fd, buf, len, off);
}

/* Checkpoints shall be many; nothing is cut off here. */
static int no_sync(int fd)
{
	(void)fd;
	return 0;
}

static void read_once(struct store_file *f, const struct zip *z, size_t off,
		      size_t len)
{
	struct fileio_read rd;
	uint8_t got[20000];
	const uint8_t *is = got;
	int r = fileio_read_begin(f, off, len, &rd);

	if (r < 0) {
		atomic_fetch_add(&n_failed, 1);
		return;
	}
	if (rd.mem)
		is = rd.mem;
	else if (pack_read(rd.pack, got, rd.len, rd.pos) != (ssize_t)rd.len)
		atomic_fetch_add(&wrong, 1);
	if (!rd.len || memcmp(is, z->buf + off, rd.len) != 0)
		atomic_fetch_add(&wrong, 1);
	fileio_read_end(&rd);
	atomic_fetch_add(&n_reads, 1);
}

static void *read_main(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&over)) {
		uint64_t slot = atomic_load(&slots[next(&seed, SLOTS)]);
		const struct zip *z = &zips[slot % ZIPS];
		unsigned n = next(&seed, READS_MAX);
		struct store_file *f;

		/* It may have been unlinked since. */
		if (!slot || file_open(&fx.files, slot / ZIPS, 0, &f) < 0)
			continue;
		nap_seed = seed;
		for (unsigned i = 0; i < n && !atomic_load(&over); i++)
			read_once(f, z, next(&seed, (unsigned)z->len - 1),
				  1 + next(&seed, 20000));
		nap_seed = 0;
		file_close(f);
	}
	return NULL;
}

/* --- Coming and going --------------------------------------------------- */

static void replace_slot(struct cutter *c, unsigned i, unsigned which)
{
	const struct zip *z = &zips[which];
	struct store_file *f;
	char name[16];
	uint64_t ino;

	(void)snprintf(name, sizeof(name), "s%u", i);
	if (atomic_exchange(&slots[i], 0) && fx_unlink(ROOT, name) < 0)
		atomic_fetch_add(&n_failed, 1);
	if (fx_try_make(ROOT, name, S_IFREG | 0644, &ino) < 0)
		return;
	f = fx_open_file(ino, FILE_WRITE);
	if (fileio_write(f, 0, z->buf, z->len, false) < 0)
		atomic_fetch_add(&n_failed, 1);
	file_close(f);
	atomic_store(&slots[i], ino * ZIPS + which);
	f = fx_open_file(ino, FILE_QUIET);
	if (cut_file(c, f) < 0)
		atomic_fetch_add(&n_failed, 1);
	file_close(f);
	atomic_fetch_add(&n_files, 1);
}

static void *churn_main(void *arg)
{
	struct cutter c = { .fs = &fx.files, .stop = &hurry };
	unsigned seed = 77;
	uint64_t bytes;

	(void)arg;
	while (!atomic_load(&over)) {
		replace_slot(&c, next(&seed, SLOTS), next(&seed, ZIPS));
		if (gc_drain(fx.gc, &bytes) < 0)
			atomic_fetch_add(&n_failed, 1);
		(void)usleep(20000);
	}
	return NULL;
}

static void *checkpoint_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&over)) {
		if (checkpoint_run(fx.kit.cp) < 0)
			atomic_fetch_add(&n_failed, 1);
		atomic_fetch_add(&n_checkpoints, 1);
		(void)usleep(3000);
	}
	return NULL;
}

/* --- Moving ------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
	const struct move *x = a, *y = b;

	if (x->pack != y->pack)
		return x->pack < y->pack ? -1 : 1;
	return (x->off > y->off) - (x->off < y->off);
}

static bool is_left(uint64_t id, uint64_t salt)
{
	return (id ^ salt) * UINT64_C(0x9e3779b97f4a7c15) >> 63;
}

/* Of packs that no inode owns: all blocks of about every second one, or with
 * @part about every second stretch of four: packs lose ranges and stay. */
static size_t find_moves(struct move *moves, unsigned *seed, bool part)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_BLOCK_MAX];
	uint64_t id, salt = next(seed, RAND_MAX);
	struct block_rec bl;
	struct pack_rec pk;
	size_t n = 0, len;

	if (index_begin(fx.kit.ix, false, &txn) < 0 ||
	    index_iter(txn, INDEX_BLOCK, &from, 0, &it) < 0)
		return 0;
	while (n < MOVES_MAX &&
	       index_next(&it, &key, buf, sizeof(buf), &len) > 0) {
		if (record_key_get(&key, 0, &id) < 0 ||
		    record_block_decode(buf, len, &bl) < 0 ||
		    block_pack_get(txn, bl.pack, &pk) < 0 || pk.owner ||
		    is_left(part ? id / 4 : bl.pack, salt))
			continue;
		moves[n++] = (struct move){ .id = id,
					    .pack = bl.pack,
					    .off = bl.offset,
					    .len = bl.length,
					    .xxh3 = bl.xxh3 };
	}
	qsort(moves, n, sizeof(*moves), by_place);
	return n;
}

static void count_damaged(void *arg, const struct move *mv)
{
	(void)arg;
	(void)mv;
	atomic_fetch_add(&wrong, 1);
}

static void *move_main(void *arg)
{
	static struct move moves[MOVES_MAX];
	struct mover m = { .t = T, .go_on = go_on, .damaged = count_damaged };
	unsigned seed = 99;

	(void)arg;
	while (!atomic_load(&over)) {
		size_t n = find_moves(moves, &seed, next(&seed, 4) != 0);

		m.target = 0;
		if (n && mover_run(&m, moves, n) > 0)
			atomic_fetch_add(&n_moves, (unsigned)n);
		if (compact_round(&m) > 0)
			atomic_fetch_add(&n_rounds, 1);
		(void)usleep(5000);
	}
	mover_release(&m);
	return NULL;
}

/* --- All at once -------------------------------------------------------- */

static void slots_hold(void)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		uint64_t slot = atomic_load(&slots[i]);
		const struct zip *z = &zips[slot % ZIPS];
		struct store_file *f;

		if (!slot)
			continue;
		f = fx_open_file(slot / ZIPS, FILE_QUIET);
		for (size_t off = 0; off < z->len; off += 10000)
			read_once(f, z, off, 10000);
		file_close(f);
	}
}

START_TEST(readers_never_see_other_bytes)
{
	void *(*const mains[])(void *) = { churn_main, move_main,
					   checkpoint_main };
	pthread_t threads[READERS + ARRAY_SIZE(mains)];

	make_zips();
	fx.io.pread = napping_pread;
	fx.io.fdatasync = no_sync;
	fx.io.fsync = no_sync;
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL,
						i < READERS
							? read_main
							: mains[i - READERS],
						(void *)(uintptr_t)(i + 1)),
				 0);
	(void)sleep((unsigned)SECONDS);
	atomic_store(&over, true);
	for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
	slots_hold();
	(void)fprintf(stderr,
		      "%u reads, %u files, %u blocks moved, %u rounds, %u "
		      "checkpoints, %u wrong, %u failed, %u reports\n",
		      atomic_load(&n_reads), atomic_load(&n_files),
		      atomic_load(&n_moves), atomic_load(&n_rounds),
		      atomic_load(&n_checkpoints), atomic_load(&wrong),
		      atomic_load(&n_failed), atomic_load(&fx.reports));
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	ck_assert_uint_eq(atomic_load(&n_failed), 0);
	ck_assert_uint_eq(atomic_load(&fx.reports), 0);
	ck_assert_uint_gt(atomic_load(&n_moves), 0);
	ck_assert_uint_gt(atomic_load(&n_reads), 0);
	fx_reopen();
	slots_hold();
	ck_assert_uint_eq(atomic_load(&wrong), 0);
	for (unsigned n = 0; n < ZIPS; n++)
		zip_release(&zips[n]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("compact_stress");
	TCase *tc = fx_case(suite, "stress");

	tcase_set_timeout(tc, 110);
	tcase_add_test(tc, readers_never_see_other_bytes);
	return kit_run_suite(suite);
}
