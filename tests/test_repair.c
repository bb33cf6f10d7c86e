/* SPDX-License-Identifier: MIT */
/* store_repair(): of a store as a whole, and cut off anywhere. */
#include "damagekit.h"
#include "iotap.h"

static struct scratch kept; /* the store as it was closed */
static struct store_repaired done;
static char lines[400][400];
static unsigned n_lines;

static void setup(void)
{
	kept = scratch_new();
	dk_dir = scratch_new();
	ck_assert_int_eq(dk_open(), 0);
	dk_fill();
	ck_assert_int_eq(dk_close(), 0);
	dk_copy(&dk_dir, &kept);
}

static void teardown(void)
{
	if (dk_st)
		(void)dk_close();
	scratch_remove(&dk_dir);
	scratch_remove(&kept);
}

static void note(void *arg, const char *text)
{
	(void)arg;
	if (n_lines < 400)
		(void)snprintf(lines[n_lines++], sizeof(lines[0]), "%s", text);
}

static bool was_said(const char *part)
{
	for (unsigned i = 0; i < n_lines; i++)
		if (strstr(lines[i], part))
			return true;
	return false;
}

static int try_repair(bool data)
{
	struct store_repair how = { .data = data, .found = note, .done = note };
	struct store_config cfg = dk_config();

	n_lines = 0;
	return store_repair(&cfg, &how, &done, dk_why, sizeof(dk_why));
}

static void repair(bool data)
{
	int r = try_repair(data);

	ck_assert_msg(r == 0, "repair: %d %s", r, dk_why);
	ck_assert_msg(!done.left, "left: %s | %s",
		      lines[done.found + done.done],
		      lines[done.found + done.done + 1]);
}

static bool exists(const char *name)
{
	return access(scratch_at(&dk_dir, name).path, F_OK) == 0;
}

/* Opens, is clean, and has so many of the files. */
static void holds(unsigned there)
{
	struct dk_findings f;
	struct dk_seen s;

	ck_assert_int_eq(dk_open(), 0);
	ck_assert_int_eq(dk_check(true, &f), 0);
	ck_assert_msg(!f.n, "%u findings: %s", f.n, f.first);
	s = dk_look();
	ck_assert_uint_eq(s.wrong, 0);
	ck_assert_uint_eq(s.failed, 0);
	ck_assert_uint_eq(s.there, there);
}

static void change_file(const char *path, off_t at, int xor)
{
	struct scratch file = scratch_at(&dk_dir, path);
	int fd = open(file.path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
	byte ^= (uint8_t) xor ;
	ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* A page of the index that is in use: the newest root of the tables' names. */
static void spoil_index(void)
{
	struct scratch data = scratch_at(&dk_dir, "index/data.mdb");
	struct scratch_bytes b = scratch_read(data.path);
	uint64_t root[2], txnid[2];

	for (int i = 0; i < 2; i++) {
		memcpy(&root[i], b.data + i * 4096 + 128, 8);
		memcpy(&txnid[i], b.data + i * 4096 + 144, 8);
	}
	free(b.data);
	change_file("index/data.mdb",
		    (off_t)root[txnid[1] > txnid[0]] * 4096 + 10, 0x40);
}

START_TEST(a_sound_store_is_left_alone)
{
	repair(true);
	ck_assert(!done.rebuilt);
	ck_assert_uint_eq(done.found, 0);
	ck_assert_uint_eq(n_lines, 0);
	holds(DK_FILES);
}
END_TEST

START_TEST(what_is_no_store_is_refused)
{
	struct scratch none = scratch_new(), was = dk_dir;

	dk_dir = none;
	ck_assert_int_eq(try_repair(false), -ENOENT);
	ck_assert_ptr_nonnull(strstr(dk_why, "no store there"));
	dk_dir = was;
	scratch_remove(&none);
}
END_TEST

START_TEST(a_store_in_use_is_refused)
{
	int status;
	pid_t pid;

	ck_assert_int_eq(dk_open(), 0);
	pid = fork();
	if (pid == 0)
		_exit(try_repair(false) == -EBUSY && strstr(dk_why, "in use")
			      ? 0
			      : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

/* -- An index that was set aside ------------------------------------------- */

/* The mount after the damage begins empty. */
static void set_aside(void)
{
	spoil_index();
	ck_assert_int_eq(dk_open(), 0);
	ck_assert(exists("index.bad"));
	ck_assert(exists("packs.bad"));
}

START_TEST(what_was_set_aside_comes_back)
{
	set_aside();
	ck_assert_int_eq(dk_close(), 0);
	repair(false);
	ck_assert(done.rebuilt);
	ck_assert(done.aside);
	ck_assert_uint_eq(done.rescued, DK_FILES);
	ck_assert(!exists("index.bad"));
	ck_assert(!exists("packs.bad"));
	ck_assert(!exists("index.new"));
	holds(DK_FILES);
}
END_TEST

/* Also without a mount in between. */
START_TEST(an_unreadable_index_is_set_aside_and_read)
{
	spoil_index();
	repair(false);
	ck_assert(done.aside);
	ck_assert_uint_eq(done.rescued, DK_FILES);
	holds(DK_FILES);
}
END_TEST

/* Bytes are compared, and what is there takes no second place. */
START_TEST(what_is_there_stays_as_it_is)
{
	struct dk_path body = dk_path(3), head = dk_path(2);
	struct dk_path lost = dk_path(4), other = dk_path(DK_FILES - 3);
	struct dk_bytes b = dk_bytes(30);

	set_aside();
	/* A newer body without its header, a newer header without its body, a
	 * directory that both have, a file in the place of a directory. */
	ck_assert_int_ge(dk_write(body.text, b), 0);
	ck_assert_int_ge(dk_write(lost.text, b), 0);
	ck_assert_int_ge(dk_write(other.text, b), 0);
	ck_assert_int_ge(dk_write("small", b), 0);
	ck_assert_int_ge(dk_write("new/file", b), 0);
	free(b.buf);
	dk_settle();
	ck_assert_int_eq(dk_close(), 0);
	repair(true);
	ck_assert_uint_eq(done.rescued, DK_FILES - 5 - DK_SMALL);
	ck_assert_int_eq(dk_open(), 0);
	ck_assert_int_eq(dk_has(body.text, 30), 1);
	ck_assert_int_eq(dk_has(lost.text, 30), 1);
	ck_assert_int_eq(dk_has(other.text, 30), 1);
	ck_assert_int_eq(dk_has("small", 30), 1);
	ck_assert_int_eq(dk_has("new/file", 30), 1);
	ck_assert_int_eq(dk_has(head.text, 2), -ENOENT);
	ck_assert_int_eq(dk_has(dk_path(5).text, 5), -ENOENT);
	ck_assert_int_eq(dk_has(dk_path(6).text, 6), 1);
	ck_assert_int_eq(dk_has(dk_path(7).text, 7), 1);
}
END_TEST

START_TEST(wrong_bytes_do_not_come_back)
{
	struct store_status s;
	struct dk_seen seen;
	struct dk_findings f;
	char cmd[2 * SCRATCH_PATH_MAX];

	set_aside();
	ck_assert_int_eq(dk_close(), 0);
	/* Every pack that was set aside is damaged but for its beginning. */
	(void)snprintf(cmd, sizeof(cmd),
		       "for f in %s/packs.bad/*; do truncate -s 6000 $f; done",
		       dk_dir.path);
	ck_assert_int_eq(system(cmd), 0);
	repair(false);
	ck_assert_uint_lt(done.rescued, DK_FILES - 20);
	ck_assert_uint_ge(done.rescued, DK_INLINE);
	ck_assert(was_said(".body: lost, a block of it is missing or damaged"));
	ck_assert(was_said(": lost, the other half of its pair is lost"));
	ck_assert_int_eq(dk_open(), 0);
	ck_assert_int_eq(dk_check(true, &f), 0);
	ck_assert_uint_eq(f.n, 0);
	seen = dk_look();
	ck_assert_uint_eq(seen.wrong + seen.failed, 0);
	ck_assert_uint_eq(seen.there, done.rescued);
	ck_assert_int_eq(store_status(dk_st, &s), 0);
	ck_assert_uint_eq(s.damaged, 0);
}
END_TEST

/* -- Cut off --------------------------------------------------------------- */

static unsigned io_at, io_kill;

static int count_io(const struct iotap_call *call, enum iotap_phase phase)
{
	(void)call;
	if (phase == IOTAP_BEFORE && ++io_at == io_kill)
		raise(SIGKILL);
	return 0;
}

/* Repair in a child that is killed before its @n-th call. True: it was. */
static bool repair_killed(unsigned n)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		io_at = 0;
		io_kill = n;
		iotap_hook = count_io;
		_exit(try_repair(false) == 0 ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status))
		ck_assert_int_eq(WEXITSTATUS(status), 0);
	return WIFSIGNALED(status);
}

/* The store with an index set aside that has what it lacks: after each cut a
 * mount goes on with what it had, or with all; a repair then brings all. */
START_TEST(it_may_be_killed_anywhere)
{
	struct dk_bytes b = dk_bytes(30);
	struct scratch aside = scratch_new();
	unsigned killed = 0, step = getenv("PIPCACHEFS_LONG") ? 1 : 7;
	unsigned before = 0, after = 0;
	bool more = true;

	iotap_fake_sync = true;
	set_aside();
	ck_assert_int_ge(dk_write("new/file", b), 0);
	free(b.buf);
	dk_settle();
	ck_assert_int_eq(dk_close(), 0);
	dk_copy(&dk_dir, &aside);
	for (unsigned n = 1; more; n += step) {
		struct dk_seen s;

		dk_copy(&aside, &dk_dir);
		more = repair_killed(n);
		killed += more;
		ck_assert_int_eq(dk_open(), 0);
		s = dk_look();
		ck_assert_uint_eq(s.wrong + s.failed, 0);
		ck_assert_msg(s.there == 0 || s.there == DK_FILES,
			      "cut at %u: %u files", n, s.there);
		before += s.there == 0;
		after += s.there == DK_FILES;
		ck_assert_int_eq(dk_has("new/file", 30), 1);
		ck_assert_int_eq(dk_close(), 0);
		repair(false);
		holds(DK_FILES);
		ck_assert_int_eq(dk_has("new/file", 30), 1);
		ck_assert_int_eq(dk_close(), 0);
	}
	printf("killed %u times: %u before, %u after the exchange\n", killed,
	       before, after);
	ck_assert_uint_ge(killed, 5);
	ck_assert_uint_ge(before, 3);
	ck_assert_uint_ge(after, 2);
	scratch_remove(&aside);
}
END_TEST

/* -- The limit ------------------------------------------------------------- */

static uint64_t most_disk;

static int watch_disk(const struct iotap_call *call, enum iotap_phase phase)
{
	uint64_t now;

	(void)call;
	if (phase != IOTAP_DONE)
		return 0;
	now = dk_disk_bytes();
	if (now > most_disk)
		most_disk = now;
	return 0;
}

/* A body that nothing is shared with. */
static int put_large(unsigned n)
{
	struct dk_bytes b = { malloc(400000), 400000 };
	uint64_t x = n + 1;
	char path[200];
	int r;

	ck_assert_ptr_nonnull(b.buf);
	for (size_t i = 0; i < b.len; i++) {
		x = x * UINT64_C(6364136223846793005) + 1442695040888963407;
		b.buf[i] = (uint8_t)(x >> 56);
	}
	(void)snprintf(path, sizeof(path), "http-v2/f/0/0/0/0/f%055x.body", n);
	r = dk_write(path, b);
	free(b.buf);
	return r;
}

static void make_dirs(unsigned n)
{
	struct store_new what = { .parent = STORE_ROOT_INO, .mode = 0755 };
	char name[201];

	what.name = name;
	for (unsigned i = 0; i < n; i++) {
		(void)snprintf(name, sizeof(name), "%0200u", i);
		ck_assert_int_eq(store_mkdir(dk_st, &what, NULL), 0);
	}
	ck_assert_int_eq(store_sync(dk_st), 0);
}

/* A store at its limit, with an index of @dirs directories, and one pack that
 * is too short. */
static void fill_up(const char *limit, unsigned dirs)
{
	struct store_limits low = { .limit = limit,
				    .low = limit,
				    .grace_sec = -1 };
	char cmd[2 * SCRATCH_PATH_MAX];
	struct store_status s;

	ck_assert_int_eq(dk_open(), 0);
	ck_assert_msg(store_set_limits(dk_st, &low, dk_why, sizeof(dk_why)) ==
			      0,
		      "%s", dk_why);
	make_dirs(dirs);
	for (unsigned n = 0; n < 60; n++) {
		ck_assert_int_eq(store_status(dk_st, &s), 0);
		if (s.charged + 1200000 > s.limit)
			break;
		ck_assert_int_ge(put_large(n), 0);
		dk_settle();
	}
	ck_assert_int_eq(dk_close(), 0);
	(void)snprintf(cmd, sizeof(cmd),
		       "truncate -s 100 $(ls -S %s/packs/* | tail -1)",
		       dk_dir.path);
	ck_assert_int_eq(system(cmd), 0);
}

/* Below the limit that is recorded, whatever is built: where that does not fit,
 * what is used least goes. */
START_TEST(it_keeps_to_the_limit)
{
	const uint64_t limit = 24 * MIB;
	uint64_t before;
	struct dk_seen seen;

	fill_up("24M", _i ? 5000 : 0);
	before = dk_disk_bytes();
	most_disk = 0;
	iotap_hook = watch_disk;
	repair(false);
	iotap_hook = NULL;
	ck_assert(done.rebuilt);
	printf("at most %ju bytes of %ju, before %ju, after %ju\n",
	       (uintmax_t)most_disk, (uintmax_t)limit, (uintmax_t)before,
	       (uintmax_t)dk_disk_bytes());
	ck_assert_uint_gt(most_disk, before);
	ck_assert_uint_le(most_disk, limit);
	/* Something had to go. */
	if (_i)
		ck_assert_uint_lt(dk_disk_bytes(), before - MIB);
	ck_assert_int_eq(dk_open(), 0);
	seen = dk_look();
	ck_assert_uint_eq(seen.wrong + seen.failed, 0);
	ck_assert_uint_ge(seen.there, DK_INLINE);
}
END_TEST

START_TEST(without_room_it_says_so)
{
	struct dk_seen seen;

	fill_up("24M", 14000);
	ck_assert_int_eq(try_repair(false), -ENOSPC);
	ck_assert_msg(strstr(dk_why, "raise it (pipcachefs limit)") != NULL,
		      "%s", dk_why);
	ck_assert(!exists("index.new"));
	ck_assert_int_eq(dk_open(), 0);
	seen = dk_look();
	ck_assert_uint_eq(seen.wrong + seen.failed, 0);
	ck_assert_uint_ge(seen.there, DK_INLINE);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("repair");
	TCase *tc = tcase_create("repair");
	SRunner *runner = srunner_create(suite);
	int failed;

	scratch_in_memory();
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 600);
	tcase_add_test(tc, a_sound_store_is_left_alone);
	tcase_add_test(tc, what_is_no_store_is_refused);
	tcase_add_test(tc, a_store_in_use_is_refused);
	tcase_add_test(tc, what_was_set_aside_comes_back);
	tcase_add_test(tc, an_unreadable_index_is_set_aside_and_read);
	tcase_add_test(tc, what_is_there_stays_as_it_is);
	tcase_add_test(tc, wrong_bytes_do_not_come_back);
	tcase_add_test(tc, it_may_be_killed_anywhere);
	tcase_add_loop_test(tc, it_keeps_to_the_limit, 0, 2);
	tcase_add_test(tc, without_room_it_says_so);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
