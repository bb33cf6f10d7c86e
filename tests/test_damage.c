/* SPDX-License-Identifier: MIT */
/*
 * Damage at random places of a store: bits of packs, of the index and of the
 * side file are flipped, sectors are lost, files cut short. Whatever it was:
 *  - the store opens, at worst empty, takes a file and gives it back;
 *  - a file has its bytes or is a miss, before and after a repair;
 *  - a repair leaves nothing to be found, and loses no file that could be read;
 *  - all of it ends.
 *
 * Each image is judged in a process of its own, which may die: a death is
 * counted, and fails the test.
 */
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>

#include "damagekit.h"
#include "iotap.h"

#ifdef __SANITIZE_ADDRESS__
#define DAMAGE_IMAGES 60
#else
#define DAMAGE_IMAGES (SLOW_BUILD ? 24 : 240)
#endif
#define IMAGES (getenv("PIPCACHEFS_LONG") ? 6000 : DAMAGE_IMAGES)
#define WATCHDOG_SEC 300 /* far more than an image takes anywhere */
#define PLACES_MAX 6	 /* damaged in one image */

/* What came of an image; shared with the child. */
struct outcome {
	bool opened, done;
	bool died; /* a child that read the index */
	unsigned reports, findings;
	struct dk_seen first, second; /* reading twice: what is damaged goes */
	struct dk_seen last;	      /* after the repair */
	bool aside, wrote, wrote_again;
	int repaired; /* store_repair()'s */
	struct store_repaired rd;
	struct dk_findings left;
	char text[400];
	unsigned n_said;
	char said[12][160]; /* by the repair, the first lines */
};
static struct outcome *out;

static struct {
	unsigned images, noticed, lost, sound, aside, rescued, index, died;
	uint64_t files;
} all;

/* -- Stores to be damaged --------------------------------------------------- */

enum { CLEAN, CUT_OFF, TEMPLATES };
static struct scratch template[TEMPLATES];

/* Replaced, removed and open files, a checkpoint in the middle, no end. */
static void work_and_die(void)
{
	struct dk_bytes b = dk_bytes(31);
	struct store_file *f;
	const char *name;
	struct stat st;
	uint64_t dir;
	int r = dk_open();

	r = r < 0 ? r : dk_write("open", b);
	r = r < 0 ? r : dk_write("later/gone", b);
	r = r < 0 ? r : dk_parent("open", false, &dir, &name);
	r = r < 0 ? r : store_lookup(dk_st, dir, name, &st);
	r = r < 0 ? r : store_file_open(dk_st, st.st_ino, O_RDONLY, &f);
	r = r < 0 ? r : store_unlink(dk_st, dir, name);
	r = r < 0 ? r : store_sync(dk_st);
	r = r < 0 ? r : dk_write("lost", b);
	if (r < 0)
		_exit(1);
	raise(SIGKILL);
}

static void make_templates(void)
{
	pid_t pid;
	int status;

	for (unsigned i = 0; i < TEMPLATES; i++)
		template[i] = scratch_new();
	dk_dir = template[CLEAN];
	ck_assert_int_eq(dk_open(), 0);
	dk_fill();
	ck_assert_int_eq(dk_close(), 0);
	dk_copy(&template[CLEAN], &template[CUT_OFF]);
	dk_dir = template[CUT_OFF];
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		work_and_die();
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* -- Damage ---------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return (x ^ x >> 31) % below;
}

static struct scratch random_pack(void)
{
	struct scratch packs = scratch_at(&dk_dir, "packs"), path;
	uint64_t n = 0, want;
	DIR *dir = opendir(packs.path);
	const struct dirent *de;

	ck_assert_ptr_nonnull(dir);
	while ((de = readdir(dir)))
		n += de->d_name[0] != '.';
	want = draw(n);
	rewinddir(dir);
	for (path = packs; (de = readdir(dir));)
		if (de->d_name[0] != '.' && !want--)
			path = scratch_at(&packs, de->d_name);
	closedir(dir);
	return path;
}

/* A place that holds something: most of the index is room for more. */
static off_t random_place(int fd, off_t size)
{
	uint8_t page[512];
	off_t at = 0;

	for (int i = 0; i < 200; i++) {
		at = (off_t)draw((uint64_t)size);
		if (pread(fd, page, sizeof(page), at & ~(off_t)511) <= 0)
			break;
		for (size_t k = 0; k < sizeof(page); k++)
			if (page[k])
				return at;
	}
	return at;
}

static void hurt_at(int fd, off_t at, bool flip)
{
	uint8_t buf[512];
	ssize_t n;

	if (flip) {
		n = pread(fd, buf, 1, at);
		buf[0] ^= (uint8_t)(1 << draw(8));
	} else { /* a sector that was lost, or another one's */
		at &= ~(off_t)511;
		n = pread(fd, buf, sizeof(buf), at);
		memset(buf, draw(2) ? 0 : (int)draw(256), sizeof(buf));
	}
	if (n > 0)
		ck_assert_int_eq(pwrite(fd, buf, (size_t)n, at), n);
}

/* One file is damaged in one of a few ways. True: it is of the index. */
static bool hurt_one(void)
{
	struct scratch index = scratch_at(&dk_dir, "index"), path;
	uint64_t what = draw(10);
	bool cut = draw(12) == 0, flip = draw(4) != 0;
	unsigned places = 1 + (unsigned)draw(PLACES_MAX);
	struct stat st;
	int fd;

	path = what == 0  ? scratch_at(&index, "ckpt")
	       : what < 6 ? scratch_at(&index, "data.mdb")
			  : random_pack();
	fd = open(path.path, O_RDWR | O_CLOEXEC);
	ck_assert_msg(fd >= 0, "%s", path.path);
	ck_assert_int_eq(fstat(fd, &st), 0);
	if (st.st_size && cut)
		ck_assert_int_eq(
			ftruncate(fd, (off_t)draw((uint64_t)st.st_size)), 0);
	for (unsigned i = 0; st.st_size && !cut && i < places; i++)
		hurt_at(fd, random_place(fd, st.st_size), flip);
	close(fd);
	return what < 6;
}

/* -- Judging ---------------------------------------------------------------- */

/* A new file is taken, and given back. */
static bool takes(const char *path)
{
	struct dk_bytes b = dk_bytes(32);
	int r = dk_write(path, b);

	free(b.buf);
	return r >= 0 && dk_has(path, 32) == 1;
}

static void note_said(void *arg, const char *text)
{
	(void)arg;
	if (out->n_said < 12)
		(void)snprintf(out->said[out->n_said++], sizeof(out->said[0]),
			       "%s", text);
}

static void judge_image(void)
{
	struct store_repair how = { .data = true,
				    .found = note_said,
				    .done = note_said };
	struct store_config cfg = dk_config();
	struct dk_findings f;

	iotap_fake_sync = true;
	dk_reports = 0;
	if (dk_open() < 0) {
		memcpy(out->text, dk_why, sizeof(out->text));
		return;
	}
	out->opened = true;
	out->first = dk_look();
	out->wrote = takes("fresh/file");
	ck_assert_int_eq(dk_check(true, &f), 0);
	out->findings = f.n;
	out->second = dk_look();
	out->reports = dk_reports;
	out->aside = access(scratch_at(&dk_dir, "index.bad").path, F_OK) == 0;
	(void)dk_close();
	out->repaired = store_repair(&cfg, &how, &out->rd, out->text,
				     sizeof(out->text));
	out->left = (struct dk_findings){ 0 };
	if (out->repaired < 0 || dk_open() < 0)
		return;
	ck_assert_int_eq(dk_check(true, &out->left), 0);
	out->last = dk_look();
	out->wrote_again =
		takes("fresh/again") && dk_has("fresh/file", 32) == 1;
	out->done = dk_close() == 0;
}

static void judge(void)
{
	dk_child_died = false;
	judge_image();
	out->died = dk_child_died;
}

/* Where the image is kept for whoever looks into it. */
static void keep(unsigned n, const char *what)
{
	printf("image %u: %s (%s; %s)\n", n, what, out->text, out->left.first);
	printf("  first %u there %u wrong %u failed, second %u %u %u, last %u %u %u; %u findings, repair %d, left %u\n",
	       out->first.there, out->first.wrong, out->first.failed,
	       out->second.there, out->second.wrong, out->second.failed,
	       out->last.there, out->last.wrong, out->last.failed,
	       out->findings, out->repaired, out->left.n);
	for (unsigned i = 0; i < out->n_said; i++)
		printf("  %s\n", out->said[i]);
	all.died++;
}

static void tally(unsigned n, int status, bool index)
{
	const struct dk_seen *s[] = { &out->first, &out->second, &out->last };

	all.images++;
	all.index += index;
	if (status != 0) {
		keep(n, WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM
				? "it does not end"
				: "it died");
		return;
	}
	if (out->died)
		keep(n, "who read the index died of it");
	for (unsigned i = 0; i < 3; i++)
		if (s[i]->wrong)
			keep(n, "wrong bytes");
	if (!out->opened || !out->done)
		keep(n, "it does not open");
	else if (!out->wrote || !out->wrote_again)
		keep(n, "it takes no file");
	else if (out->repaired < 0 || out->rd.left || out->left.n)
		keep(n, "it is not repaired");
	else if (out->last.there < out->second.there)
		keep(n, "the repair loses files");
	else if (out->second.failed || out->last.failed)
		keep(n, "files are neither there nor gone");
	all.noticed += out->reports || out->findings;
	all.lost += out->last.there < DK_FILES;
	all.sound += out->last.there == DK_FILES;
	all.aside += out->aside;
	all.rescued += out->aside && out->rd.rescued > 0;
	all.files += out->last.there;
}

static void try_image(unsigned n)
{
	bool index = false;
	int status;
	pid_t pid;

	random_state = n;
	dk_copy(&template[draw(TEMPLATES)], &dk_dir);
	for (uint64_t i = 1 + draw(3); i > 0; i--)
		index |= hurt_one();
	*out = (struct outcome){ 0 };
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		(void)alarm(WATCHDOG_SEC);
		judge();
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	tally(n, status, index);
}

START_TEST(any_place_may_be_damaged)
{
	unsigned n =
		getenv("DAMAGE_IMAGE")
			? (unsigned)strtoul(getenv("DAMAGE_IMAGE"), NULL, 10)
			: 0;
	unsigned images = n ? n + 1 : (unsigned)IMAGES;

	out = mmap(NULL, sizeof(*out), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(out, MAP_FAILED);
	make_templates();
	dk_dir = scratch_new();
	for (; n < images; n++)
		try_image(n);
	printf("%u images, %u of them with a damaged index: %u noticed, %u lost files, %u lost none; %u indexes set aside, of %u files came back; %ju files of %ju at the end\n",
	       all.images, all.index, all.noticed, all.lost, all.sound,
	       all.aside, all.rescued, (uintmax_t)all.files,
	       (uintmax_t)all.images * DK_FILES);
	scratch_remove(&dk_dir);
	for (unsigned i = 0; i < TEMPLATES; i++)
		scratch_remove(&template[i]);
	ck_assert_uint_eq(all.died, 0);
	if (all.images < 24)
		return;
	ck_assert_uint_ge(all.noticed, all.images / 2);
	ck_assert_uint_ge(all.lost, all.images / 5);
	ck_assert_uint_ge(all.sound, all.images / 20);
	ck_assert_uint_ge(all.aside, all.images / 10);
	ck_assert_uint_ge(all.rescued, all.aside / 2);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("damage");
	TCase *tc = tcase_create("damage");
	SRunner *runner;
	int failed;

	scratch_in_memory();
	setvbuf(stdout, NULL, _IOLBF, 0);
	tcase_add_test(tc, any_place_may_be_damaged);
	tcase_set_timeout(tc, 20000);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
