/* SPDX-License-Identifier: MIT */
#include "store/package.h"

#include "store/cut.h"
#include "store/unit.h"

#include "fixture.h"
#include "identkit.h"
#include "zipkit.h"

#define ROOT RECORD_ROOT_INO
#define STAMP 0x5a215a21

static atomic_bool hurry;
static struct cutter cutter;
static struct reply reply;

static void setup(void)
{
	fx_setup();
	atomic_store(&hurry, false);
	cutter = (struct cutter){ .fs = &fx.files, .stop = &hurry };
}

/* A version of a project: all but its last member and its directory is the
 * same in all of them, and first. */
static struct zip wheel(const char *project, unsigned version)
{
	struct zip z = { 0 };
	char name[64];

	for (unsigned i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "common/m%u.py", i);
		zip_member(&z, name, 5000 + 100 * i, STAMP + version);
	}
	(void)snprintf(name, sizeof(name), "%s-%u.dist-info/RECORD", project,
		       version);
	zip_member(&z, name, 6000, STAMP + version);
	zip_finish(&z, "");
	return z;
}

/* Its bytes that all have. */
static uint64_t common(const struct zip *z)
{
	return z->members[20].local;
}

static uint64_t put(uint64_t dir, const char *name, const void *buf, size_t len)
{
	uint64_t ino = fx_file(dir, name);
	struct store_file *f = fx_open_file(ino, FILE_WRITE);

	ck_assert_int_eq(fileio_write(f, 0, buf, len, false), 0);
	file_close(f);
	return ino;
}

static void cut(uint64_t ino)
{
	struct store_file *f = fx_open_file(ino, FILE_QUIET);

	ck_assert_int_eq(cut_file(&cutter, f), 0);
	file_close(f);
}

/* The pair number @n, of at most 16: headers that tell nothing, and @z. */
static uint64_t put_pair(unsigned n, const struct zip *z)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS), body;
	char name[80] = FX_HASH, other[88];

	name[50] = "0123456789abcdef"[n];
	(void)snprintf(other, sizeof(other), "%s.body", name);
	reply_begin(&reply, "", 0, 1);
	reply_header(&reply, "Date", "today");
	reply_end(&reply);
	put(dir, name, reply.buf, reply.len);
	body = put(dir, other, z->buf, z->len);
	cut(body);
	return body;
}

/* What came of a list. */
static struct list_item items[64];
static unsigned n_items;

static int keep(void *arg, const struct list_item *item)
{
	(void)arg;
	ck_assert_uint_lt(n_items, ARRAY_SIZE(items));
	items[n_items++] = *item;
	return 0;
}

static int stop(void *arg, const struct list_item *item)
{
	(void)arg;
	(void)item;
	return -ECANCELED;
}

static void list(void)
{
	const struct list_range range = { .most = 100, .weigh = true };

	n_items = 0;
	ck_assert_int_eq(list_entries(T, &range, keep, NULL), 0);
}

static void packages(struct package_how how)
{
	n_items = 0;
	how.most = 100;
	ck_assert_int_eq(package_list(T, &how, keep, NULL), 0);
}

static void is(const struct list_item *item, const char *project,
	       const char *version, enum list_kind kind)
{
	ck_assert_str_eq(item->project, project);
	ck_assert_str_eq(item->version, version);
	ck_assert_int_eq(item->kind, kind);
}

static void weighs(const struct list_item *item, uint64_t size, uint64_t own,
		   uint64_t shared)
{
	ck_assert_uint_eq(item->sum.size, size);
	ck_assert_uint_eq(item->sum.own, own);
	ck_assert_uint_eq(item->sum.shared, shared);
}

static uint64_t stored(void)
{
	uint64_t bytes = 0;

	ck_assert_int_eq(package_stored(T, &bytes), 0);
	return bytes;
}

/* What goes when entries of packages do, and what is left after that. */
static void remove_item(uint64_t id)
{
	uint64_t bytes;

	ck_assert_int_eq(unit_remove(T, id, true, &bytes), 1);
	ck_assert_int_eq(gc_drain(fx.gc, &bytes), 0);
	fx_checkpoint();
}

START_TEST(two_versions_share_what_is_the_same)
{
	struct zip a = wheel("demo", 1), b = wheel("demo", 2);

	put_pair(1, &a);
	put_pair(2, &b);
	list();
	ck_assert_uint_eq(n_items, 2);
	is(&items[0], "demo", "1", LIST_WHEEL);
	is(&items[1], "demo", "2", LIST_WHEEL);
	ck_assert_uint_eq(items[0].sum.files, 2);
	weighs(&items[0], reply.len + a.len, reply.len + a.len - common(&a),
	       common(&a));
	weighs(&items[1], reply.len + b.len, reply.len + b.len - common(&b),
	       common(&b));
	ck_assert_uint_eq(strlen(items[0].name), strlen(FX_HASH));

	packages((struct package_how){ .versions = true });
	ck_assert_uint_eq(n_items, 2);
	weighs(&items[1], reply.len + b.len, reply.len + b.len - common(&b),
	       common(&b));

	packages((struct package_how){ .versions = false });
	ck_assert_uint_eq(n_items, 1);
	is(&items[0], "demo", "", LIST_WHEEL);
	ck_assert_uint_eq(items[0].entries, 2);
	weighs(&items[0], 2 * reply.len + a.len + b.len,
	       2 * reply.len + a.len + b.len - common(&a), 0);
	ck_assert_uint_eq(stored(), items[0].sum.own);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

/* What it says of each set is what comes back. */
START_TEST(what_a_set_frees_comes_back)
{
	struct zip a = wheel("demo", 1), b = wheel("demo", 2),
		   c = wheel("other", 1);
	const struct package_select sel[] = { { "demo", "1" },
					      { "demo", "" },
					      { "none", "" },
					      { "other", "1" } };
	uint64_t before, ids[3];

	put_pair(1, &a);
	put_pair(2, &b);
	put_pair(3, &c);
	put_pair(4, &c);
	list();
	for (unsigned i = 0; i < 3; i++)
		ids[i] = items[i].id;
	before = stored();
	packages((struct package_how){ .select = sel, .n_select = 4 });
	ck_assert_uint_eq(n_items, 5);
	weighs(&items[0], reply.len + a.len, reply.len + a.len - common(&a),
	       common(&a));
	weighs(&items[1], 2 * reply.len + a.len + b.len,
	       2 * reply.len + a.len + b.len - 2 * common(&a), 2 * common(&a));
	weighs(&items[2], 0, 0, 0);
	ck_assert_uint_eq(items[2].entries, 0);
	/* Twice the same. */
	weighs(&items[3], 2 * reply.len + 2 * c.len,
	       2 * reply.len + c.len - common(&c), 2 * common(&c));
	is(&items[4], "", "", LIST_WHEEL);
	ck_assert_uint_eq(items[4].entries, 4);
	ck_assert_uint_eq(items[4].sum.own, before);

	remove_item(ids[0]);
	ck_assert_uint_eq(stored(), before - items[0].sum.own);
	remove_item(ids[1]);
	ck_assert_uint_eq(stored(), before - items[1].sum.own);
	/* One of two copies: the other has all but the header. */
	remove_item(ids[2]);
	ck_assert_uint_eq(stored(), before - items[1].sum.own - reply.len);
	zip_release(&a);
	zip_release(&b);
	zip_release(&c);
}
END_TEST

START_TEST(all_that_is_stored_is_somewhere)
{
	struct zip a = wheel("demo", 1), b = wheel("other", 2);
	uint64_t sum = 0;

	put_pair(1, &a);
	put_pair(2, &b);
	fx_put(ROOT, "notes", 100, 1);
	fx_put(ROOT, "large", 100000, 2);
	cut(put(ROOT, "copy", a.buf, a.len));
	packages((struct package_how){ .versions = false });
	ck_assert_uint_eq(n_items, 3);
	is(&items[2], "", "", LIST_LOOSE);
	weighs(&items[2], 100100 + a.len, 100100, a.len);
	for (unsigned i = 0; i < n_items; i++)
		sum += items[i].sum.own;
	/* "demo" is all in the copy. */
	ck_assert_uint_eq(stored(), sum + a.len);
	weighs(&items[0], reply.len + a.len, reply.len, a.len);
	zip_release(&a);
	zip_release(&b);
}
END_TEST

START_TEST(a_built_wheel_is_known_by_its_name)
{
	uint64_t dir = fx_dirs(FX_WHEEL_DIRS);

	put(dir, "origin.json", "{}", 2);
	put(dir, "Foo_Bar-1.0-py3-none-any.whl", "wheel", 5);
	list();
	ck_assert_uint_eq(n_items, 1);
	is(&items[0], "foo-bar", "1.0", LIST_BUILT);
	ck_assert_str_eq(items[0].name, "Foo_Bar-1.0-py3-none-any.whl");
	weighs(&items[0], 7, 7, 0);
	ck_assert_uint_eq(items[0].sum.files, 2);
}
END_TEST

START_TEST(uses_in_memory_count)
{
	struct zip z = wheel("demo", 1);
	uint64_t ino = put_pair(1, &z);
	int64_t then;

	fx_age(fx_inode(ino).entry, 1000);
	list();
	then = items[0].last_use_ns;
	ck_assert_uint_eq(items[0].hits, 0);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(fx_try_open(ino, 0), 0);
		list();
		ck_assert_uint_eq(items[0].hits, i + 1);
		if (i == 1)
			fx_flush();
	}
	ck_assert_int_ge(items[0].last_use_ns, then + 999 * NSEC_PER_SEC);
	zip_release(&z);
}
END_TEST

/* Every page begins behind the last one, and all have everything once. */
START_TEST(pages_are_the_whole_list)
{
	struct list_range range = { .most = 3, .weigh = true };
	struct package_how how = { .versions = true, .most = 3 };
	struct zip z[8];
	char name[16];
	int r;

	for (unsigned i = 0; i < ARRAY_SIZE(z); i++) {
		(void)snprintf(name, sizeof(name), "p%u", i);
		z[i] = wheel(name, i);
		put_pair(i, &z[i]);
	}
	fx_put(ROOT, "loose", 10, 1);
	n_items = 0;
	do {
		r = list_entries(T, &range, keep, NULL);
		ck_assert_int_eq(r, n_items < 8);
		range.after = items[n_items - 1].id;
	} while (r > 0);
	ck_assert_uint_eq(n_items, 8);
	n_items = 0;
	do {
		r = package_list(T, &how, keep, NULL);
		ck_assert_int_ge(r, 0);
		how.from = n_items;
	} while (r > 0);
	ck_assert_uint_eq(n_items, 9);
	for (unsigned i = 0; i < 8; i++) {
		(void)snprintf(name, sizeof(name), "p%u", i);
		ck_assert_str_eq(items[i].project, name);
		zip_release(&z[i]);
	}
	is(&items[8], "", "", LIST_LOOSE);
}
END_TEST

/* Headers that are damaged or of nobody; bodies that lie; no body at all. */
START_TEST(what_is_not_known_is_other)
{
	uint64_t dir = fx_dirs(FX_HASH_DIRS);

	put(dir, FX_HASH, "cc=4,\x82", 6);
	put(dir, FX_HASH ".body", "PK\3\4PK\5\6", 8);
	fx_put(fx_dirs("selfcheck"), FX_HASH, 50, 1);
	list();
	ck_assert_uint_eq(n_items, 2);
	is(&items[0], "", "", LIST_OTHER);
	ck_assert_str_eq(items[0].name, FX_HASH);
	is(&items[1], "", "", LIST_SELFCHECK);
	packages((struct package_how){ .versions = true });
	ck_assert_uint_eq(n_items, 2);
	is(&items[0], "", "", LIST_SELFCHECK);
	is(&items[1], "", "", LIST_OTHER);
}
END_TEST

/* The disk refuses to read: everything is listed, only not named. */
START_TEST(what_cannot_be_read_has_no_name)
{
	struct zip z = wheel("demo", 1);

	put_pair(1, &z);
	fx.io.pread = fx_failing_pread;
	list();
	ck_assert_uint_eq(n_items, 1);
	is(&items[0], "", "", LIST_OTHER);
	weighs(&items[0], reply.len + z.len, reply.len + z.len, 0);
	zip_release(&z);
}
END_TEST

START_TEST(a_caller_that_stops_is_obeyed)
{
	struct zip z = wheel("demo", 1);
	const struct list_range range = { .most = 10 };

	put_pair(1, &z);
	ck_assert_int_eq(list_entries(T, &range, stop, NULL), -ECANCELED);
	zip_release(&z);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("list");
	TCase *tc = kit_case(suite, "weigh", setup, fx_teardown);

	tcase_add_test(tc, two_versions_share_what_is_the_same);
	tcase_add_test(tc, what_a_set_frees_comes_back);
	tcase_add_test(tc, all_that_is_stored_is_somewhere);

	tc = kit_case(suite, "name", setup, fx_teardown);
	tcase_add_test(tc, a_built_wheel_is_known_by_its_name);
	tcase_add_test(tc, uses_in_memory_count);
	tcase_add_test(tc, what_is_not_known_is_other);
	tcase_add_test(tc, what_cannot_be_read_has_no_name);

	tc = kit_case(suite, "pages", setup, fx_teardown);
	tcase_add_test(tc, pages_are_the_whole_list);
	tcase_add_test(tc, a_caller_that_stops_is_obeyed);
	return kit_run_suite(suite);
}
