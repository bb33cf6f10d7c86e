/* SPDX-License-Identifier: MIT */
/*
 * Power cuts of a store whose files are wheels with shared members: they are
 * written as pip does, cut, replaced and unlinked; what nobody has any more is
 * dropped and punched out, and packs are compacted. In whatever image the disk
 * may then hold, references, blocks and packs agree (invariants.h), each file
 * that is there has its bytes, and the store goes on from there.
 *
 * That the index is that of the last checkpoint is for test_powercut.c.
 */
#include "store/compact.h"

#include <pthread.h>
#include <sys/mman.h>

#include "store/cut.h"
#include "store/digest.h"
#include "store/pieces.h"

#include "fixture.h"
#include "powerrun.h"
#include "zipkit.h"

#define WRITERS 2
#define STEPS 60 /* of a writer in a life */
#define VERSIONS 48
#define NAMES 40 /* of a writer */
#define QUEUE 1024
#define MOST_LOGS 12
#define BODIES "http-v2/0/0/0/0/0"

/* Of all images, each of which is looked at LOOKS times: that they are not all
 * empty. */
#define LOOKS 3
struct seen {
	uint64_t files, shared, blocks, waiting, moved;
};
static struct seen *seen; /* shared with the children */

static struct zip wheels[VERSIONS];
static uint64_t bodies; /* directory */
static atomic_bool hurry, over;
static struct cutter cutter;
static struct mover mover;
static bool early; /* a control: holes are punched without a checkpoint */

static void check(bool good, const char *what)
{
	if (good)
		return;
	(void)fprintf(stderr, "%s\n", what);
	abort();
}

/* -- Wheels --------------------------------------------------------------- */

/* Most members are those of all, some of one in four, two are its own, apart
 * from each other; one in three has a large one, so that it stays whole if it
 * is the first. */
static void make_wheels(void)
{
	char name[32];

	for (unsigned v = 0; v < VERSIONS; v++) {
		for (unsigned i = 0; i < 9; i++) {
			(void)snprintf(name, sizeof(name), "p%u/%u.py",
				       i % 3 ? 0 : 1 + v % 4, i);
			zip_member(&wheels[v], name, 2500 + 600 * i, v);
			(void)snprintf(name, sizeof(name), "own%u/%u", v, i);
			if (i == 2 || i == 8)
				zip_member(&wheels[v], name, 11000, v);
		}
		if (v % 3 == 0)
			zip_member(&wheels[v], "large", 66000, v);
		zip_finish(&wheels[v], "");
	}
}

struct body_name {
	char text[80];
};

static struct body_name body_name(unsigned n)
{
	struct body_name name;

	(void)snprintf(name.text, sizeof(name.text), "%056x.body", n);
	return name;
}

static const struct zip *wheel_of(unsigned n)
{
	return &wheels[n * 7 % VERSIONS];
}

/* -- Opening -------------------------------------------------------------- */

/* Inodes that were closed, for the thread that cuts them. */
static struct {
	pthread_mutex_t lock;
	size_t head, tail;
	uint64_t inos[QUEUE];
} closed = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void note_closed(void *arg, uint64_t ino)
{
	LOCK_SCOPE(&closed.lock);
	(void)arg;
	if (closed.tail - closed.head < QUEUE)
		closed.inos[closed.tail++ % QUEUE] = ino;
}

static void note_file(void *arg, uint64_t ino, uint64_t bytes)
{
	(void)bytes;
	note_closed(arg, ino);
}

static bool next_closed(uint64_t *ret)
{
	LOCK_SCOPE(&closed.lock);
	if (closed.head == closed.tail)
		return false;
	*ret = closed.inos[closed.head++ % QUEUE];
	return true;
}

static bool go_on(void *arg)
{
	(void)arg;
	return true;
}

static uint64_t pending(void)
{
	return fx_count(INDEX_PENDING);
}

/* What a store does at open; the fixture does the first part. */
static void open_store(void)
{
	fx_open();
	cutter = (struct cutter){ .fs = &fx.files, .stop = &hurry };
	mover = (struct mover){ .t = T, .go_on = go_on };
	fx.files.closed = note_file;
	if (seen)
		seen->waiting += pending();
	ck_assert_int_eq(gc_adopt(T), 0);
	ck_assert_int_eq(sweep_inodes(T, fx.kit.found == RECOVER_RESTORED,
				      note_closed, NULL, &fx.swept),
			 0);
	ck_assert_uint_eq(fx.swept.unreadable, 0);
	bodies = fx_dirs(BODIES);
}

static void close_store(void)
{
	mover_release(&mover);
	fx_close();
}

static void take_store(struct scratch dir)
{
	memset(&fx, 0, sizeof(fx));
	kit_dirs(&fx.kit, dir);
	fx.kit.interval_ms = FX_NEVER_MS;
	fx.kit.before = (struct notify){ .fn = fx_before_checkpoint };
	fx.kit.after = (struct notify){ .fn = fx_raise_parts };
	fx.io = pack_io_real;
	fx.disk_free = INT64_MAX;
	make_wheels();
}

/* -- Lives ---------------------------------------------------------------- */

/* As pip does: a temporary file that gets the name. */
static void put_body(unsigned n)
{
	const struct zip *z = wheel_of(n);
	struct body_name name = body_name(n), tmp;
	struct store_file *f;

	(void)snprintf(tmp.text, sizeof(tmp.text), "%056x.bodyabcd1234.tmp", n);
	(void)fx_unlink(bodies, tmp.text); /* of an earlier life */
	f = fx_open_file(fx_file(bodies, tmp.text), FILE_WRITE);
	check(fileio_write(f, 0, z->buf, z->len / 2, false) == 0, "write");
	check(fileio_write(f, z->len / 2, z->buf + z->len / 2,
			   z->len - z->len / 2, false) == 0,
	      "write");
	file_close(f);
	check(fx_rename(bodies, tmp.text, bodies, name.text) == 0, "rename");
}

static void drop_body(unsigned n)
{
	struct body_name name = body_name(n);
	int r = fx_unlink(bodies, name.text);

	check(r == 0 || r == -ENOENT, "unlink");
}

static void step(uint64_t *seed, unsigned writer)
{
	unsigned n = writer * NAMES + (unsigned)(image_random(seed) % NAMES);

	if (image_random(seed) % 5 < 2)
		drop_body(n);
	else
		put_body(n);
}

struct writer {
	unsigned number;
	uint64_t seed;
};

static void *write_on(void *arg)
{
	struct writer *wr = arg;

	for (int i = 0; i < STEPS; i++) {
		step(&wr->seed, wr->number);
		(void)usleep((useconds_t)(image_random(&wr->seed) % 2000));
	}
	return NULL;
}

static void cut_one(uint64_t ino)
{
	struct store_file *f;

	if (file_open(&fx.files, ino, FILE_QUIET, &f) < 0)
		return;
	check(cut_file(&cutter, f) == 0, "cut");
	file_close(f);
}

static void cut_all(void)
{
	uint64_t ino;

	while (next_closed(&ino))
		cut_one(ino);
}

static void drop(void)
{
	uint64_t bytes;

	check(gc_drain(fx.gc, &bytes) == 0, "drain");
	if (early) {
		holes_pin(fx.kit.holes);
		check(holes_release(fx.kit.holes, true) == 0, "punch");
	}
}

static void move(void)
{
	int r = compact_round(&mover);

	check(r >= 0 || r == -EAGAIN, "compact");
	if (seen && r > 0)
		seen->moved++;
}

static void save(void)
{
	uint64_t txnid = index_txnid(fx.kit.ix);

	check(checkpoint_run(fx.kit.cp) == 0, "checkpoint");
	powerlog_mark(POWERLOG_SAVED, txnid, 0);
}

/* The one thread that cuts, drops, moves and saves. */
static void *tend(void *arg)
{
	uint64_t *seed = arg, ino;

	while (!atomic_load(&over)) {
		if (next_closed(&ino))
			cut_one(ino);
		else
			(void)usleep(500);
		if (image_random(seed) % 4 == 0)
			drop();
		if (image_random(seed) % 40 == 0)
			move();
		if (image_random(seed) % 12 == 0)
			save();
	}
	cut_all();
	drop();
	move();
	return NULL;
}

static void live(const char *log, uint64_t seed, struct powerlog_kill kill)
{
	struct scratch store = scratch_at(&powerrun.dir, "store");
	struct writer writer[WRITERS];
	pthread_t thread[WRITERS + 1];
	uint64_t tend_seed = image_random(&seed);

	take_store(store);
	powerlog_start(log, store.path, kill);
	open_store();
	powerlog_mark(POWERLOG_OPENED, index_txnid(fx.kit.ix) - 1, 1);
	check(!pthread_create(&thread[WRITERS], NULL, tend, &tend_seed), "");
	for (unsigned i = 0; i < WRITERS; i++) {
		writer[i] = (struct writer){ i, image_random(&seed) };
		check(!pthread_create(&thread[i], NULL, write_on, &writer[i]),
		      "thread");
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(thread[i], NULL);
	atomic_store(&over, true);
	pthread_join(thread[WRITERS], NULL);
	close_store();
}

/* -- Images --------------------------------------------------------------- */

/* The body @n, if it is there, has its bytes. */
static void check_body(unsigned n)
{
	static uint8_t got[200000];
	const struct zip *z = wheel_of(n);
	uint64_t ino = fx_find(bodies, body_name(n).text);
	struct store_file *f;
	struct fileio_read rd;

	if (!ino)
		return;
	ck_assert_uint_eq(fx_inode(ino).size, z->len);
	f = fx_open_file(ino, FILE_QUIET);
	for (size_t off = 0; off < z->len; off += rd.len) {
		const uint8_t *is = got;

		ck_assert_int_eq(fileio_read_begin(f, off, 60000, &rd), 0);
		ck_assert_uint_gt(rd.len, 0);
		if (rd.mem)
			is = rd.mem;
		else
			ck_assert_int_eq(pack_read(rd.pack, got, rd.len,
						   rd.pos),
					 rd.len);
		ck_assert_msg(!memcmp(is, z->buf + off, rd.len),
			      "body %u is wrong behind %zu", n, off);
		fileio_read_end(&rd);
	}
	file_close(f);
	seen->files++;
	seen->shared += fx_inode(ino).data == INODE_DATA_RECIPE;
}

static void check_bodies(void)
{
	for (unsigned n = 0; n < WRITERS * NAMES; n++)
		check_body(n);
	seen->blocks += fx_count(INDEX_BLOCK);
}

/* The block is where its record says. */
static void check_block(const struct block_rec *bl, uint64_t id)
{
	cleanup_free uint8_t *buf = malloc(bl->length);
	struct pack *pk;

	ck_assert_ptr_nonnull(buf);
	ck_assert_int_eq(pack_get_blocks(fx.kit.packs, bl->pack, &pk), 0);
	ck_assert_int_eq(pack_read(pk, buf, bl->length, bl->offset),
			 (ssize_t)bl->length);
	pack_put_blocks(pk);
	pieces_mask(buf, bl->length);
	ck_assert_msg(digest_xxh3(buf, bl->length) == bl->xxh3,
		      "block %ju is damaged", (uintmax_t)id);
}

static void check_blocks(void)
{
	cleanup_txn struct index_txn *txn = NULL;
	cleanup_iter struct index_iter it = INDEX_ITER_INIT;
	struct record_key from = record_key_id(0), key;
	uint8_t buf[RECORD_BLOCK_MAX];
	struct block_rec bl;
	uint64_t id;
	size_t len;

	ck_assert_int_eq(index_begin(fx.kit.ix, false, &txn), 0);
	ck_assert_int_eq(index_iter(txn, INDEX_BLOCK, &from, 0, &it), 0);
	while (index_next(&it, &key, buf, sizeof(buf), &len) > 0) {
		ck_assert_int_eq(record_key_get(&key, 0, &id), 0);
		ck_assert_int_eq(record_block_decode(buf, len, &bl), 0);
		check_block(&bl, id);
	}
}

static void check_store(void)
{
	check_bodies();
	check_blocks();
	invariants_check();
}

static enum verdict verify(struct scratch image, struct image_saved saved,
			   bool restore, uint64_t seed)
{
	(void)saved;
	(void)restore;
	iotap_fake_sync = true;
	take_store(image);
	open_store();
	check_store();
	for (int i = 0; i < 10; i++)
		step(&seed, (unsigned)(i % WRITERS));
	cut_all();
	drop();
	move();
	check_store();
	close_store();
	open_store();
	if (fx.kit.found != RECOVER_CLEAN)
		return BAD_AGAIN;
	check_store();
	close_store();
	return GOOD;
}

static const struct control as_it_is;

START_TEST(every_image_has_its_blocks)
{
	const int images = SLOW_BUILD ? 20 : 60;
	struct outcome out;

	powerrun_all(seeds(), images, &as_it_is, &out);
	/* The lives of a few logs may all be killed before they come to it. */
	for (uint64_t seed = seeds() + 1;
	     seed <= MOST_LOGS && !(seen->waiting && seen->moved); seed++)
		powerrun_log(seed, images, &as_it_is, &out);
	for (int v = GOOD + 1; v < VERDICTS; v++)
		ck_assert_msg(out.n[v] == 0, "%d of %d images: verdict %d",
			      out.n[v], out.images, v);
	printf("%d images, all good; on average %ju files, %ju in pieces, "
	       "%ju blocks; %d holes, %ju recipes had been left, %ju moves\n",
	       out.images, (uintmax_t)seen->files / LOOKS / out.images,
	       (uintmax_t)seen->shared / LOOKS / out.images,
	       (uintmax_t)seen->blocks / LOOKS / out.images, out.punches,
	       (uintmax_t)seen->waiting, (uintmax_t)seen->moved);
	ck_assert_int_gt(out.punches, out.images / 10);
	ck_assert_uint_gt(seen->shared, (uint64_t)out.images);
	ck_assert_uint_gt(seen->waiting, 0);
	ck_assert_uint_gt(seen->moved, 0);
}
END_TEST

static void setup(void)
{
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(seen != MAP_FAILED);
}

static void expect_bad(const char *what, const struct control *control)
{
	powerrun_expect_bad(what, SLOW_BUILD ? 20 : 40, control);
}

START_TEST(control_without_sync_of_packs_is_bad)
{
	expect_bad("packs not synced",
		   &(struct control){ .no_pack_sync = true });
}
END_TEST

START_TEST(control_without_waiting_to_punch_is_bad)
{
	early = true;
	expect_bad("holes punched at once", &as_it_is);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("powercut_blocks");
	TCase *tc = tcase_create("images");

	powerrun.live = live;
	powerrun.verify = verify;
	scratch_in_memory();
	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_set_timeout(tc, 3000); /* CTest has its own */
	suite_add_tcase(suite, tc);
	tcase_add_test(tc, every_image_has_its_blocks);
	tcase_add_test(tc, control_without_sync_of_packs_is_bad);
	tcase_add_test(tc, control_without_waiting_to_punch_is_bad);
	return kit_run_suite(suite);
}
