/* SPDX-License-Identifier: MIT */
#include "fs/request.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>

#include "scratch.h"
#include "store/base.h"

static struct scratch dir;
static struct request_context ctx;

static void set_up(void)
{
	dir = scratch_new();
	const struct store_config config = {
		.path = dir.path,
		.flags = STORE_OPEN_CREATE,
		.limits = { .limit = "64M", .grace_sec = -1 },
	};
	char why[512];
	int r = store_open(&config, &ctx.store, why, sizeof(why));

	ck_assert_msg(r == 0, "%s", why);
	ctx.source = (struct report_source){ .store = dir.path,
					     .mountpoint = "/mnt/\"q\"\\",
					     .options = "limit=64M",
					     .pid = 17 };
}

static void tear_down(void)
{
	ck_assert_int_eq(store_close(ctx.store), 0);
	scratch_remove(&dir);
}

/* Takes over @request. */
static json_t *perform(json_t *request)
{
	json_t *reply;

	ck_assert_ptr_nonnull(request);
	reply = request_perform(&ctx, request);
	json_decref(request);
	ck_assert(json_is_object(reply));
	ck_assert(json_is_boolean(json_object_get(reply, "ok")));
	return reply;
}

static json_t *performed(json_t *request)
{
	json_t *reply = perform(request);

	ck_assert(json_is_true(json_object_get(reply, "ok")));
	return reply;
}

static void refused(json_t *request, const char *error)
{
	json_t *reply = perform(request);
	const char *said = json_string_value(json_object_get(reply, "error"));

	ck_assert(!json_is_true(json_object_get(reply, "ok")));
	ck_assert_ptr_nonnull(said);
	ck_assert_msg(strstr(said, error), "%s", said);
	json_decref(reply);
}

static json_int_t integer(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	ck_assert_msg(json_is_integer(value), "%s", key);
	return json_integer_value(value);
}

START_TEST(status_has_its_stable_keys)
{
	static const char *const integers[] = {
		"pid",
		"since",
		"limit_bytes",
		"low_bytes",
		"min_free_bytes",
		"grace_seconds",
		"charged_bytes",
		"used_bytes",
		"excess_bytes",
		"disk_free_bytes",
		"logical_bytes",
		"disk_data_bytes",
		"saved_bytes",
		"waste_bytes",
		"index_live_bytes",
		"files",
		"files_whole",
		"recipes",
		"blocks",
		"entries",
		"open_files",
		"unsummed",
		"hits",
		"misses",
		"evictions",
		"evicted_bytes",
		"damaged",
		"reaped",
		"checkpoints",
		"last_checkpoint",
		"damaged_blocks",
		"damaged_records",
		"scrub_bytes",
		"scrub_all_bytes",
		"last_scrub",
		"last_walk",
		"daemon_deaths",
		"requests_taken_over",
		"requests_replayed",
		"requests_given_up",
	};
	static const char *const kinds[] = { "http",  "wheels", "selfcheck",
					     "other", "index",	"freed" };
	json_t *reply = performed(json_pack("{s:s}", "command", "status"));
	const json_t *status = json_object_get(reply, "status");
	const json_t *used = json_object_get(status, "used");

	for (size_t i = 0; i < ARRAY_SIZE(integers); i++)
		integer(status, integers[i]);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		integer(used, kinds[i]);
	ck_assert_uint_eq(json_object_size(used), ARRAY_SIZE(kinds));
	/* The rest is text, one boolean, the keeper, and "used". */
	ck_assert_uint_eq(json_object_size(status), ARRAY_SIZE(integers) + 10);
	ck_assert_str_eq(json_string_value(json_object_get(status, "store")),
			 dir.path);
	ck_assert_str_eq(json_string_value(json_object_get(status, "options")),
			 "limit=64M");
	ck_assert_str_eq(json_string_value(json_object_get(status, "state")),
			 "ok");
	ck_assert_str_eq(json_string_value(json_object_get(status, "reason")),
			 "");
	ck_assert(json_is_true(json_object_get(status, "mounted")));
	ck_assert_int_eq(integer(status, "limit_bytes"), 64 * MIB);
	ck_assert_int_eq(integer(status, "grace_seconds"), 600);
	ck_assert_int_eq(integer(status, "pid"), 17);
	json_decref(reply);
}
END_TEST

START_TEST(an_unmounted_store_has_no_process)
{
	ctx.source.mountpoint = NULL;
	ctx.source.pid = 0;
	json_t *reply = performed(json_pack("{s:s}", "command", "status"));
	const json_t *status = json_object_get(reply, "status");

	ck_assert(json_is_false(json_object_get(status, "mounted")));
	ck_assert(json_is_null(json_object_get(status, "mountpoint")));
	ck_assert(json_is_null(json_object_get(status, "pid")));
	ck_assert_int_eq(integer(status, "since"), 0);
	json_decref(reply);
}
END_TEST

static char reloaded[64];

static int note_reload(void *arg, const char *options, char *why,
		       size_t why_size)
{
	(void)arg;
	snprintf(reloaded, sizeof(reloaded), "%s", options);
	snprintf(why, why_size, "no such thing");
	return strcmp(options, "bad") == 0 ? -EINVAL : 0;
}

static void refused_with(json_t *request, const char *error)
{
	json_t *reply = perform(request);

	ck_assert(json_is_false(json_object_get(reply, "ok")));
	ck_assert_ptr_nonnull(strstr(
		json_string_value(json_object_get(reply, "error")), error));
	json_decref(reply);
}

START_TEST(options_are_passed_on_to_a_mount)
{
	json_t *request =
		json_pack("{s:s, s:s}", "command", "reload", "options", "ro");

	refused_with(json_incref(request), "not mounted");
	ctx.reload = note_reload;
	json_decref(performed(request));
	ck_assert_str_eq(reloaded, "ro");
	refused_with(json_pack("{s:s}", "command", "reload"),
		     "names no options");
	refused_with(json_pack("{s:s, s:i}", "command", "reload", "options", 1),
		     "names no options");
	refused_with(json_pack("{s:s, s:s}", "command", "reload", "options",
			       "bad"),
		     "no such thing");
	ctx.reload = NULL;
}
END_TEST

START_TEST(the_limit_is_shown_and_changed)
{
	json_t *reply = performed(json_pack("{s:s}", "command", "limit"));

	ck_assert_int_eq(integer(reply, "limit_bytes"), 64 * MIB);
	json_decref(reply);
	reply = performed(json_pack("{s:s, s:s, s:b}", "command", "limit",
				    "limit", "32M", "now", 1));
	ck_assert_int_eq(integer(reply, "limit_bytes"), 32 * MIB);
	ck_assert_int_eq(integer(reply, "excess_bytes"), 0);
	json_decref(reply);
	refused(json_pack("{s:s, s:s}", "command", "limit", "limit", "many"),
		"many");
	reply = performed(json_pack("{s:s}", "command", "limit"));
	ck_assert_int_eq(integer(reply, "limit_bytes"), 32 * MIB);
	json_decref(reply);
}
END_TEST

START_TEST(an_empty_store_has_nothing_to_prune)
{
	json_t *reply = performed(json_pack("{s:s}", "command", "prune"));

	ck_assert_int_eq(integer(reply, "units"), 0);
	ck_assert_int_eq(integer(reply, "bytes"), 0);
	ck_assert_int_gt(integer(reply, "used_bytes"), 0);
	json_decref(reply);
	reply = performed(json_pack("{s:s, s:i, s:i, s:b, s:b}", "command",
				    "prune", "older_than_seconds", 5,
				    "to_bytes", 0, "all", 1, "dry_run", 1));
	ck_assert_int_eq(integer(reply, "units"), 0);
	json_decref(reply);
}
END_TEST

START_TEST(sync_makes_a_checkpoint)
{
	struct store_status before, after;
	struct store_new what = { .parent = STORE_ROOT_INO,
				  .name = "d",
				  .mode = S_IFDIR | 0755 };
	struct stat st;

	ck_assert_int_eq(store_status(ctx.store, &before), 0);
	ck_assert_int_eq(store_mkdir(ctx.store, &what, &st), 0);
	json_decref(performed(json_pack("{s:s}", "command", "sync")));
	ck_assert_int_eq(store_status(ctx.store, &after), 0);
	ck_assert_uint_gt(after.checkpoints, before.checkpoints);
}
END_TEST

/* All at once, and in steps. */
START_TEST(a_check_finds_nothing_in_a_new_store)
{
	json_t *reply = performed(
		json_pack("{s:s, s:b}", "command", "check", "data", 1));

	ck_assert(json_is_true(json_object_get(reply, "done")));
	ck_assert_int_eq(integer(reply, "found"), 0);
	ck_assert_int_eq(integer(reply, "files"), 0);
	ck_assert_int_ge(integer(reply, "charged_bytes"),
			 integer(reply, "used_bytes"));
	ck_assert(json_is_array(json_object_get(reply, "findings")));
	json_decref(reply);
	reply = performed(json_pack("{s:s, s:i, s:i}", "command", "check",
				    "stage", 1, "seconds", 1));
	ck_assert_ptr_null(json_object_get(reply, "files"));
	json_decref(reply);
	refused(json_pack("{s:s, s:i}", "command", "check", "stage", -1),
		"Invalid argument");
}
END_TEST

START_TEST(what_is_no_request_is_refused)
{
	refused(json_object(), "names no command");
	refused(json_pack("{s:i}", "command", 5), "names no command");
	refused(json_pack("{s:s}", "command", "reboot"), "does not know");
}
END_TEST

/* What @print writes of a status. For free(). */
static char *printed(void (*print)(FILE *out, const json_t *report))
{
	json_t *reply = performed(json_pack("{s:s}", "command", "status"));
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	ck_assert_ptr_nonnull(out);
	print(out, json_object_get(reply, "status"));
	(void)fclose(out);
	json_decref(reply);
	return text;
}

START_TEST(people_get_text)
{
	cleanup_free char *text = printed(report_text);

	ck_assert_ptr_nonnull(strstr(text, dir.path));
	ck_assert_ptr_nonnull(strstr(text, "64.0 MiB"));
	ck_assert_ptr_nonnull(strstr(text, "by process 17 since 2"));
	ck_assert_ptr_nonnull(strstr(text, "10 min"));
}
END_TEST

/* Each sample has a HELP and a TYPE line, once, and before it. */
START_TEST(prometheus_gets_metrics)
{
	cleanup_free char *text = printed(report_prometheus);
	char *line, *rest = text, head[128] = "";
	int samples = 0;

	ck_assert_ptr_nonnull(strstr(text,
				     "# TYPE pipcachefs_limit_bytes gauge\n"
				     "pipcachefs_limit_bytes{store=\"/"));
	ck_assert_ptr_nonnull(strstr(text, "\"} 67108864\n"));
	ck_assert_ptr_nonnull(strstr(text, ",kind=\"http\"} 0\n"));
	ck_assert_ptr_nonnull(strstr(text, ",state=\"ok\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text, ",state=\"read-only\"} 0\n"));
	while ((line = strsep(&rest, "\n")) && *line) {
		if (sscanf(line, "# TYPE %127s", head) == 1 || *line == '#')
			continue;
		ck_assert_int_eq(strncmp(line, head, strlen(head)), 0);
		ck_assert_int_eq(line[strlen(head)], '{');
		samples++;
	}
	ck_assert_int_gt(samples, 25);
}
END_TEST

START_TEST(labels_are_escaped)
{
	ctx.source.store = "/a \"b\"\\c\nd";
	cleanup_free char *text = printed(report_prometheus);

	ck_assert_ptr_nonnull(
		strstr(text, "{store=\"/a \\\"b\\\"\\\\c\\nd\"} "));
}
END_TEST

/* A file of no entry, of @size bytes. */
static void put_loose(const char *name, size_t size)
{
	const struct store_new what = { .parent = STORE_ROOT_INO,
					.name = name,
					.mode = 0644 };
	cleanup_free char *bytes = calloc(1, size);
	struct store_file *f;
	struct stat st;

	ck_assert_ptr_nonnull(bytes);
	ck_assert_int_eq(store_file_create(ctx.store, &what, O_RDWR, &st, &f),
			 0);
	ck_assert_int_eq(store_file_write(f, 0, bytes, size, false), size);
	store_file_close(f);
}

START_TEST(what_is_cached_is_listed)
{
	static const char *const keys[] = {
		"kind",	   "project",	 "version",   "entries",
		"files",   "size_bytes", "own_bytes", "shared_bytes",
		"extents", "last_use",	 "hits"
	};
	json_t *reply = performed(json_pack("{s:s}", "command", "list")), *item;

	ck_assert_uint_eq(json_array_size(json_object_get(reply, "entries")),
			  0);
	ck_assert(json_is_false(json_object_get(reply, "more")));
	json_decref(reply);

	put_loose("mine", 100);
	reply = performed(json_pack("{s:s}", "command", "packages"));
	ck_assert_int_eq(
		json_integer_value(json_object_get(reply, "stored_bytes")),
		100);
	item = json_array_get(json_object_get(reply, "packages"), 0);
	ck_assert_uint_eq(json_object_size(item), ARRAY_SIZE(keys));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		ck_assert_ptr_nonnull(json_object_get(item, keys[i]));
	ck_assert_str_eq(json_string_value(json_object_get(item, "kind")),
			 "loose");
	json_decref(reply);
}
END_TEST

START_TEST(what_is_no_package_is_refused)
{
	static const char *const bad[] = { "",	   "a/b", "==1", "a==",
					   "a==/", "a b", "-",	 "\xc3\xa4" };
	json_t *reply;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refused(json_pack("{s:s, s:[s]}", "command", "packages",
				  "select", bad[i]),
			"PROJECT==VERSION");
	refused(json_pack("{s:s, s:[i]}", "command", "packages", "select", 1),
		"PROJECT==VERSION");
	refused(json_pack("{s:s, s:s}", "command", "packages", "select", "a"),
		"PROJECT==VERSION");
	reply = performed(json_pack("{s:s, s:[s, s]}", "command", "packages",
				    "select", "Foo_Bar", "foo==1.0"));
	ck_assert_uint_eq(json_array_size(json_object_get(reply, "packages")),
			  3);
	json_decref(reply);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("request");
	TCase *tc = tcase_create("request");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, status_has_its_stable_keys);
	tcase_add_test(tc, an_unmounted_store_has_no_process);
	tcase_add_test(tc, options_are_passed_on_to_a_mount);
	tcase_add_test(tc, the_limit_is_shown_and_changed);
	tcase_add_test(tc, an_empty_store_has_nothing_to_prune);
	tcase_add_test(tc, sync_makes_a_checkpoint);
	tcase_add_test(tc, a_check_finds_nothing_in_a_new_store);
	tcase_add_test(tc, what_is_cached_is_listed);
	tcase_add_test(tc, what_is_no_package_is_refused);
	tcase_add_test(tc, what_is_no_request_is_refused);
	tcase_add_test(tc, people_get_text);
	tcase_add_test(tc, prometheus_gets_metrics);
	tcase_add_test(tc, labels_are_escaped);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
