/* SPDX-License-Identifier: MIT */
#include "fs/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/control.h"
#include "fs/log.h"
#include "fs/mounts.h"
#include "fs/request.h"
#include "store/base.h"

#define WHY_MAX 1024
/* What changes a store may take its time: eviction, a checkpoint. */
#define ASK_STATUS_SEC 30
#define ASK_CHANGE_SEC 600
/* A daemon that holds the store but does not listen is about to, or ending. */
#define ASK_TRIES 50
#define ASK_PAUSE_USEC 100000

static void print_error(const char *who, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));
static void print_error(const char *who, const char *format, va_list args)
{
	char line[WHY_MAX + 256];

	vsnprintf(line, sizeof(line), format, args);
	fprintf(stderr, "%s: %s\n", who, line);
}

void cmd_error(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_error("pipcachefs", format, args);
	va_end(args);
}

void cmd_leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	log_to_syslog(false);
	if (null < 0)
		return;
	for (int fd = 0; fd <= 2; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
}

/* ---- arguments ---- */

error_t cmd_usage(struct argp_state *state, const char *format, ...)
{
	va_list args;

	state->hook = state; /* it has been said */
	va_start(args, format);
	print_error(state->name, format, args);
	va_end(args);
	return EINVAL;
}

static const struct argp_option *find_option(const struct argp_state *state,
					     const char *arg)
{
	const struct argp_option *o = state->root_argp->options;

	for (; o->name || o->key; o++) {
		if (o->name && strncmp(arg, "--", 2) == 0 &&
		    strcmp(arg + 2, o->name) == 0)
			return o;
		if (arg[0] == '-' && arg[1] == o->key && !arg[2])
			return o;
	}
	return NULL;
}

/*
 * getopt stopped at the argument before state->next; or, if that was good and
 * wanted no value, within the one after it, which is several letters in one.
 */
static void say_bad_option(struct argp_state *state)
{
	const char *arg = state->argv[state->next - 1];
	const struct argp_option *o = find_option(state, arg);

	if (o && o->arg)
		cmd_usage(state, "%s wants a value (%s); see %s --help", arg,
			  o->arg, state->name);
	else
		cmd_usage(state, "unknown option '%s'; see %s --help",
			  (o || state->next == 1) && state->next < state->argc
				  ? state->argv[state->next]
				  : arg,
			  state->name);
}

error_t cmd_option(int key, struct argp_state *state)
{
	switch (key) {
	case 'h':
		argp_help(state->root_argp, stdout, ARGP_HELP_STD_HELP,
			  state->name);
		state->hook = state;
		return ECANCELED;
	case ARGP_KEY_ERROR:
		if (!state->hook)
			say_bad_option(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

error_t cmd_positional(struct argp_state *state, const char *arg,
		       const char **slot, unsigned n)
{
	if (state->arg_num >= n)
		return cmd_usage(state, "one argument too many: '%s'", arg);
	if (!*arg)
		return cmd_usage(state, "an argument is empty");
	slot[state->arg_num] = arg;
	return 0;
}

error_t cmd_path(int key, const char *arg, struct argp_state *state,
		 const char **slot)
{
	switch (key) {
	case ARGP_KEY_ARG:
		return cmd_positional(state, arg, slot, 1);
	case ARGP_KEY_END:
		if (!*slot)
			return cmd_usage(state, "which STORE or MOUNTPOINT?");
		return 0;
	default:
		return cmd_option(key, state);
	}
}

bool cmd_parse(const struct argp *argp, int argc, char **argv, void *input,
	       int *ret_exit)
{
	error_t r = argp_parse(argp, argc, argv, ARGP_SILENT, NULL, input);

	*ret_exit = r == 0 || r == ECANCELED ? CMD_OK : CMD_USAGE;
	return r == 0;
}

/* ---- the store that is meant ---- */

void cmd_target_release(struct cmd_target *t)
{
	free(t->store);
	free(t->mountpoint);
	*t = (struct cmd_target)CMD_TARGET_INIT;
}

int cmd_find(const char *path, struct cmd_target *ret)
{
	cleanup_mounts struct mounts mounts = MOUNTS_INIT;
	cleanup_target struct cmd_target t = CMD_TARGET_INIT;
	cleanup_free char *full = NULL;
	const struct mounts_entry *e;
	int r;

	r = mounts_resolve(path, &full);
	if (r == 0)
		r = mounts_load(&mounts);
	if (r < 0) {
		cmd_error("%s: %s", path, strerror(-r));
		return CMD_FAILED;
	}
	e = mounts_at(&mounts, full);
	if (!e)
		e = mounts_of(&mounts, full);
	t.store = strdup(e ? e->store : full);
	if (e)
		t.mountpoint = strdup(e->mountpoint);
	if (!t.store || (e && !t.mountpoint)) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	ret->store = steal_ptr(t.store);
	ret->mountpoint = steal_ptr(t.mountpoint);
	return CMD_OK;
}

/* ---- asking it ---- */

static void on_report(void *arg, int priority, const char *text)
{
	(void)arg;
	log_write(priority, "%s", text);
}

static int open_offline(const char *path, struct store **ret)
{
	const struct store_config config = {
		.path = path,
		.limits = { .grace_sec = -1 },
		.report = on_report,
		.owner_note = "a command",
	};
	char why[WHY_MAX] = "";
	int r = store_open(&config, ret, why, sizeof(why));

	if (r < 0) {
		cmd_error("%s", *why ? why : strerror(-r));
		return r;
	}
	/* A mount that comes meanwhile shall wait rather than fail. */
	store_ending(*ret);
	return 0;
}

static int perform_offline(const struct cmd_target *target,
			   const json_t *request, json_t **ret)
{
	struct request_context ctx = { .source = { .store = target->store } };
	json_t *reply;
	int r = open_offline(target->store, &ctx.store);

	if (r < 0)
		return CMD_FAILED;
	reply = request_perform(&ctx, request);
	r = store_close(ctx.store);
	if (r < 0) {
		json_decref(reply);
		cmd_error("closing %s: %s", target->store, strerror(-r));
		return CMD_FAILED;
	}
	*ret = reply;
	return CMD_OK;
}

/* Such is the end of a daemon in the middle of a request; another one comes,
 * and all requests may be made twice. */
static bool has_died(int r)
{
	return r == -EPROTO || r == -ECONNRESET || r == -EPIPE;
}

/* The daemon's reply; -ENOENT: nobody serves the store. */
static int ask_daemon(const char *store, const json_t *request, bool read_only,
		      json_t **ret)
{
	int timeout = read_only ? ASK_STATUS_SEC : ASK_CHANGE_SEC;
	char why[WHY_MAX];
	pid_t pid;
	int r;

	for (int i = 0; i < ASK_TRIES; i++) {
		r = control_ask(store, request, timeout, ret);
		if (r != -ENOENT && r != -ECONNREFUSED && !has_died(r))
			return r;
		if (store_probe(store, &pid, why, sizeof(why)) < 0 || pid == 0)
			return -ENOENT;
		usleep(ASK_PAUSE_USEC);
	}
	return -EBUSY;
}

static void say_daemon_failed(const struct cmd_target *target, int r)
{
	if (r == -EACCES || r == -EPERM)
		cmd_error(
			"asking the daemon of %s: %s; only the store's owner and root may",
			target->store, strerror(-r));
	else if (r == -EKEYREJECTED)
		cmd_error(
			"asking the daemon of %s: who listens there is neither root nor the store's owner: not asked",
			target->store);
	else if (r == -EBUSY)
		cmd_error(
			"asking the daemon of %s: a process holds the store but does not listen; try again",
			target->store);
	else
		cmd_error("asking the daemon of %s: %s", target->store,
			  strerror(-r));
}

/* What is in a reply: CMD_OK, or CMD_FAILED after having said why. */
static int check_reply(const struct cmd_target *target, const json_t *reply)
{
	const char *error = json_string_value(json_object_get(reply, "error"));

	if (json_is_true(json_object_get(reply, "ok")))
		return CMD_OK;
	if (!reply)
		cmd_error("out of memory");
	else
		cmd_error("%s: %s", target->store,
			  error ? error : "the daemon sent no answer");
	return CMD_FAILED;
}

int cmd_ask(const struct cmd_target *target, json_t *request, bool read_only,
	    json_t **ret)
{
	json_t *reply = NULL;
	int r;

	if (!request) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	r = ask_daemon(target->store, request, read_only, &reply);
	if (r == -ENOENT) {
		r = perform_offline(target, request, &reply);
	} else if (r < 0) {
		say_daemon_failed(target, r);
		r = CMD_FAILED;
	}
	json_decref(request);
	if (r == CMD_OK)
		r = check_reply(target, reply);
	if (r != CMD_OK) {
		json_decref(reply);
		return r;
	}
	*ret = reply;
	return CMD_OK;
}
