/* SPDX-License-Identifier: MIT */
/*
 * What the commands have in common: how they read their arguments, say what
 * is wrong, find the store that is meant, and ask it.
 *
 * A command gets its own argv, with argv[0] "pipcachefs NAME", and returns
 * the exit code. It never ends the process.
 * Threads: one.
 */
#ifndef FS_CMD_H
#define FS_CMD_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

enum cmd_exit { CMD_OK = 0, CMD_FAILED = 1, CMD_USAGE = 2 };

int cmd_mount(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_limit(int argc, char **argv);
int cmd_prune(int argc, char **argv);
int cmd_sync(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_du(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_reload(int argc, char **argv);
int cmd_upgrade(int argc, char **argv);
int cmd_daemon(int argc, char **argv); /* for keepers only, see link.h */

/* One line on stderr: "pipcachefs: text". */
void cmd_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* From now on the log is syslog's; stdin, stdout and stderr are /dev/null. */
void cmd_leave_terminal(void);

/* ---- arguments ---- */

/* Each command's options end with this, and its parser with cmd_option(). */
#define CMD_HELP_OPTION                                                        \
	{                                                                      \
		"help", 'h', NULL, 0, "show this text", -1                     \
	}
error_t cmd_option(int key, struct argp_state *state);

/* From a parser: say what is wrong with the arguments. Returns EINVAL. */
error_t cmd_usage(struct argp_state *state, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* From a parser: keep a positional argument in @slot[0..@n-1], or refuse. */
error_t cmd_positional(struct argp_state *state, const char *arg,
		       const char **slot, unsigned n);

/* The end of the parser of a command that takes one STORE or MOUNTPOINT: keeps
 * it in *@slot, insists on it, and leaves the rest to cmd_option(). */
error_t cmd_path(int key, const char *arg, struct argp_state *state,
		 const char **slot);

/* Returns true to go on, false to end with *@ret_exit. */
bool cmd_parse(const struct argp *argp, int argc, char **argv, void *input,
	       int *ret_exit);

/* ---- the store that is meant ---- */

struct cmd_target {
	char *store;	  /* owned */
	char *mountpoint; /* owned; NULL: not mounted */
};
#define CMD_TARGET_INIT                                                        \
	{                                                                      \
		.store = NULL, .mountpoint = NULL                              \
	}

/*
 * @path names a store or its mount point. Returns CMD_OK, or CMD_FAILED after
 * having said why.
 */
int cmd_find(const char *path, struct cmd_target *ret);
void cmd_target_release(struct cmd_target *t);
#define cleanup_target __attribute__((cleanup(cmd_target_release)))

struct json_t; /* of <jansson.h> */

/*
 * Have the daemon perform a request (see request.h) or, if nothing is mounted,
 * open the store and perform it here.
 *
 * @request:    taken over; NULL counts as out of memory.
 * @read_only:  the request changes nothing.
 * Returns:     CMD_OK and a new reference to the reply, whose "ok" is true;
 *              or CMD_FAILED after having said why.
 */
int cmd_ask(const struct cmd_target *target, struct json_t *request,
	    bool read_only, struct json_t **ret);

#endif
