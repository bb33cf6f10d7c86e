/* SPDX-License-Identifier: MIT */
#include "fs/answer.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/base.h"

#define PIP "/root/.cache/pip"

static const char *const targets[] = { PIP, "/cache/uv" };

static int info(const char *text, struct answer_engine *ret, char why[256])
{
	return answer_read_info(text, strlen(text), ret, why, 256);
}

static int caches(const char *text, struct answer_caches *ret)
{
	return answer_read_caches(text, strlen(text), targets,
				  ARRAY_SIZE(targets), ret);
}

/* ---- the engine ---- */

START_TEST(both_drivers_are_known)
{
	struct answer_engine e = ANSWER_ENGINE_INIT;
	char why[256] = "";

	ck_assert_int_eq(
		info("{\"DockerRootDir\":\"/var/lib/docker\","
		     "\"Driver\":\"overlay2\",\"DriverStatus\":"
		     "[[\"Backing Filesystem\",\"extfs\"]],"
		     "\"SecurityOptions\":[\"name=seccomp,profile=default\"]}",
		     &e, why),
		0);
	ck_assert_str_eq(e.root, "/var/lib/docker");
	ck_assert_str_eq(e.dir, "overlay2");
	ck_assert_str_eq(e.suffix, "/diff");
	answer_engine_release(&e);
	ck_assert_int_eq(info("{\"DockerRootDir\":\"/d\",\"Driver\":\"vfs\","
			      "\"DriverStatus\":null,\"SecurityOptions\":null}",
			      &e, why),
			 0);
	ck_assert_str_eq(e.dir, "vfs/dir");
	ck_assert_str_eq(e.suffix, "");
	answer_engine_release(&e);
	ck_assert_ptr_null(e.root);
}
END_TEST

static const struct {
	const char *text, *why;
	int result;
} refused[] = {
	{ "{\"DockerRootDir\":\"/d\",\"Driver\":\"overlayfs\",\"DriverStatus\":"
	  "[[\"driver-type\",\"io.containerd.snapshotter.v1\"]]}",
	  "containerd", -ENOTSUP },
	{ "{\"DockerRootDir\":\"/d\",\"Driver\":\"overlay2\","
	  "\"SecurityOptions\":[\"name=rootless\"]}",
	  "rootless", -ENOTSUP },
	{ "{\"DockerRootDir\":\"/d\",\"Driver\":\"overlay2\","
	  "\"SecurityOptions\":[7,[],\"name=userns\"]}",
	  "userns-remap", -ENOTSUP },
	{ "{\"DockerRootDir\":\"/d\",\"Driver\":\"btrfs\"}", "btrfs",
	  -ENOTSUP },
	{ "{\"DockerRootDir\":\"/d\",\"Driver\":[]}", "driver", -ENOTSUP },
	{ "{\"DockerRootDir\":\"d\",\"Driver\":\"vfs\"}", "API", -EPROTO },
	{ "{\"DockerRootDir\":\"/d/../etc\",\"Driver\":\"vfs\"}", "API",
	  -EPROTO },
	{ "{\"DockerRootDir\":7,\"Driver\":\"vfs\"}", "API", -EPROTO },
	{ "{\"message\":\"page not found\"}", "API", -EPROTO },
	{ "[\"DockerRootDir\"]", "API", -EPROTO },
	{ "{\"DockerRootDir\":\"/d\"", "API", -EPROTO },
	{ "", "API", -EPROTO },
};

START_TEST(other_engines_are_refused_and_told_why)
{
	struct answer_engine e = ANSWER_ENGINE_INIT;
	char why[256] = "";

	ck_assert_int_eq(info(refused[_i].text, &e, why), refused[_i].result);
	ck_assert_msg(strstr(why, refused[_i].why), "%s", why);
	ck_assert_ptr_null(e.root);
}
END_TEST

START_TEST(podman_is_told_from_docker)
{
	static const char podman[] =
		"{\"Components\":[{\"Name\":\"Podman Engine\"}]}";
	static const char docker[] =
		"{\"Components\":[{\"Name\":\"Engine\"},{},7,null]}";
	char why[256] = "";

	ck_assert_int_eq(answer_read_version(podman, strlen(podman), why, 256),
			 -ENOTSUP);
	ck_assert(strstr(why, "attach buildah"));
	ck_assert_int_eq(answer_read_version(docker, strlen(docker), why, 256),
			 0);
	ck_assert_int_eq(answer_read_version("\0\1", 2, why, 256), -EPROTO);
}
END_TEST

/* ---- cache mounts ---- */

#define RECORD(id, type, description, more)                                    \
	"{\"ID\":\"" id "\",\"Type\":\"" type                                  \
	"\",\"Description\":\"" description "\"" more "}"
#define CACHE(id, target)                                                      \
	RECORD(id, "exec.cachemount",                                          \
	       "cached mount " target " from exec /bin/sh -c pip",             \
	       ",\"InUse\":false,\"Parent\":\"\"")

START_TEST(wanted_cache_mounts_are_found)
{
	struct answer_caches c = ANSWER_CACHES_INIT;

	ck_assert_int_eq(
		caches("{\"BuildCache\":[" CACHE("a1", PIP) "," CACHE("b2", PIP "//") "," CACHE("c3", "/cache/uv") "," RECORD(
			       "d4", "exec.cachemount",
			       "cached mount " PIP " from exec x",
			       ",\"InUse\":true,\"Parent\":\"p\"") "," RECORD("e5",
									      "exec.cachemount",
									      "cached mount " PIP
									      " from exec x",
									      ",\"Parents\":[\"p\"]") "]}",
		       &c),
		0);
	ck_assert_uint_eq(c.n, 5);
	ck_assert_str_eq(c.cache[0].id, "a1");
	ck_assert(!c.cache[0].in_use && !c.cache[0].has_base);
	ck_assert_str_eq(c.cache[1].id, "b2");
	ck_assert_str_eq(c.cache[2].id, "c3");
	ck_assert(c.cache[3].in_use && c.cache[3].has_base);
	/* Not said to be free: in use. */
	ck_assert(c.cache[4].in_use && c.cache[4].has_base);
	answer_caches_release(&c);
}
END_TEST

static const char *const unwanted[] = {
	CACHE("a1", PIP "/http"),
	CACHE("a1", "/home/me/.cache/pip"),
	CACHE("a1", "/root/.cache"),
	CACHE("a1", PIP "x"),
	RECORD("a1", "regular", "cached mount " PIP " from exec", ""),
	RECORD("a1", "exec.cachemount", "mount " PIP " from exec", ""),
	RECORD("a1", "exec.cachemount", "cached mount " PIP, ""),
	CACHE("", PIP),
	CACHE("..", PIP),
	CACHE(".", PIP),
	CACHE("../../etc", PIP),
	CACHE("a/b", PIP),
	CACHE("/etc", PIP),
	CACHE("a b", PIP),
	CACHE("a\\u0000b", PIP),
	CACHE("\\u00e4", PIP),
	CACHE("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	      PIP),
	"{\"ID\":7,\"Type\":[],\"Description\":null}",
	"7",
	"null",
	"[]",
};

START_TEST(nothing_else_comes_out)
{
	struct answer_caches c = ANSWER_CACHES_INIT;
	char text[1024];

	snprintf(text, sizeof(text), "{\"BuildCache\":[%s,%s]}", unwanted[_i],
		 CACHE("good", PIP));
	/* What JSON itself forbids spoils the whole answer. */
	if (strstr(text, "\\u0000")) {
		ck_assert_int_eq(caches(text, &c), -EPROTO);
		return;
	}
	ck_assert_int_eq(caches(text, &c), 0);
	ck_assert_uint_eq(c.n, 1);
	ck_assert_str_eq(c.cache[0].id, "good");
	answer_caches_release(&c);
}
END_TEST

START_TEST(answers_of_another_form_are_errors)
{
	static const char *const bad[] = {
		"",
		"null",
		"[]",
		"{}",
		"{\"BuildCache\":7}",
		"{\"BuildCache\":[",
		"{\"BuildCache\":{}}",
		"\xff\xfe",
	};
	struct answer_caches c = ANSWER_CACHES_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(caches(bad[i], &c), -EPROTO);
	ck_assert_int_eq(caches("{\"BuildCache\":null}", &c), 0);
	ck_assert_uint_eq(c.n, 0);
	answer_caches_release(&c);
}
END_TEST

START_TEST(very_many_are_cut_off)
{
	struct answer_caches c = ANSWER_CACHES_INIT;
	static const char record[] = CACHE("a1", PIP) ",";
	const size_t n = 5000;
	char *text = malloc(32 + n * strlen(record) + 16), *end = text;

	ck_assert_ptr_nonnull(text);
	end = stpcpy(end, "{\"BuildCache\":[");
	for (size_t i = 0; i < n; i++) {
		memcpy(end, record, strlen(record));
		end += strlen(record);
	}
	memcpy(end - 1, "]}", 3);
	ck_assert_int_eq(caches(text, &c), 0);
	ck_assert_uint_eq(c.n, 4096);
	answer_caches_release(&c);
	free(text);
}
END_TEST

START_TEST(plain_paths_are_told_from_others)
{
	static const char *const plain[] = { "/a", "/root/.cache/pip", "/...",
					     "/a b/..c" };
	static const char *const other[] = { "",    "/",    "a",      "a/b",
					     "/a/", "//a",  "/a//b",  "/.",
					     "/..", "/a/.", "/a/../b" };

	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		ck_assert_msg(answer_is_plain_path(plain[i]), "%s", plain[i]);
	for (size_t i = 0; i < ARRAY_SIZE(other); i++)
		ck_assert_msg(!answer_is_plain_path(other[i]), "%s", other[i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("answer");
	TCase *engine = tcase_create("engine");
	TCase *mounts = tcase_create("cache mounts");
	SRunner *runner;
	int failed;

	tcase_add_test(engine, both_drivers_are_known);
	tcase_add_loop_test(engine, other_engines_are_refused_and_told_why, 0,
			    ARRAY_SIZE(refused));
	tcase_add_test(engine, podman_is_told_from_docker);
	suite_add_tcase(s, engine);
	tcase_add_test(mounts, wanted_cache_mounts_are_found);
	tcase_add_loop_test(mounts, nothing_else_comes_out, 0,
			    ARRAY_SIZE(unwanted));
	tcase_add_test(mounts, answers_of_another_form_are_errors);
	tcase_add_test(mounts, very_many_are_cut_off);
	tcase_add_test(mounts, plain_paths_are_told_from_others);
	suite_add_tcase(s, mounts);

	runner = srunner_create(s);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
