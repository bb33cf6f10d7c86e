/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/cmd.h"
#include "store/base.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *arguments;
	const char *summary;
} commands[] = {
	{ "mount", cmd_mount, "STORE MOUNTPOINT | --config FILE [-o OPTS] [-f]",
	  "make a store appear as a directory" },
	{ "umount", cmd_umount, "MOUNTPOINT|STORE",
	  "unmount, and wait until the store is closed" },
	{ "status", cmd_status, "MOUNTPOINT|STORE [--json|--prometheus]",
	  "the limit and what is used of it" },
	{ "limit", cmd_limit, "MOUNTPOINT|STORE [SIZE] [--now]",
	  "show or change the limit" },
	{ "prune", cmd_prune,
	  "MOUNTPOINT|STORE [--older-than 7d] [--to 2G] [--all] [--dry-run]",
	  "evict cache entries now" },
	{ "sync", cmd_sync, "MOUNTPOINT|STORE",
	  "make what was written survive a power cut" },
	{ "ls", cmd_ls, "MOUNTPOINT|STORE [--packages] [--json]",
	  "what is cached, by project and version" },
	{ "du", cmd_du, "MOUNTPOINT|STORE [PACKAGE[==VERSION] ...] [--json]",
	  "what removing a package would bring back" },
	{ "check", cmd_check, "MOUNTPOINT|STORE [--data] [--repair] [--json]",
	  "whether all in the store is as it should be" },
	{ "reload", cmd_reload, "FILE",
	  "read the configuration of a mount again" },
	{ "upgrade", cmd_upgrade, "MOUNTPOINT|STORE",
	  "let this program go on with a mount, under running builds" },
	{ "attach", cmd_attach, "docker|buildah MOUNTPOINT [--target DIR] ...",
	  "let the cache mounts of image builds use it" },
	{ "doctor", cmd_doctor, "[STORE [MOUNTPOINT]]",
	  "what this machine lacks, and what to do" },
	{ "daemon", cmd_daemon, NULL, NULL }, /* what mount runs */
};

static void print_help(void)
{
	printf("Usage: pipcachefs COMMAND ...\n"
	       "  or:  pipcachefs STORE MOUNTPOINT [-o OPTS]\n\n"
	       "A directory that pip uses as its cache and that never outgrows its limit.\n\n"
	       "Commands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (commands[i].summary)
			printf("  %s %s\n%24s%s\n", commands[i].name,
			       commands[i].arguments, "", commands[i].summary);
	printf("\n  --help, --version; COMMAND --help for more.\n"
	       "Exit status: 0 done, 1 it went wrong, 2 wrong usage.\n");
}

/* Run @command with an argv of its own. */
static int run(const struct command *command, int argc, char **argv)
{
	cleanup_free char **args = calloc((size_t)argc + 1, sizeof(*args));
	char name[64];

	if (!args) {
		cmd_error("out of memory");
		return CMD_FAILED;
	}
	snprintf(name, sizeof(name), "pipcachefs %s", command->name);
	for (int i = 1; i < argc; i++)
		args[i] = argv[i];
	args[0] = name;
	return command->run(argc, args);
}

/*
 * What mount(8) calls has no command: STORE MOUNTPOINT -o OPTS. A store then
 * is a path with a slash, so that a mistyped command is not taken for one.
 */
static bool is_bare_mount(int argc, char **argv)
{
	return argc >= 3 && (argv[1][0] == '-' || strchr(argv[1], '/'));
}

static int dispatch(int argc, char **argv)
{
	const char *first = argc > 1 ? argv[1] : "";

	if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) {
		print_help();
		return CMD_OK;
	}
	if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0) {
		printf("pipcachefs %s\n", PIPCACHEFS_VERSION);
		return CMD_OK;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(first, commands[i].name) == 0)
			return run(&commands[i], argc - 1, argv + 1);
	if (is_bare_mount(argc, argv))
		return run(&commands[0], argc, argv);
	if (argc < 2)
		cmd_error("which command? see pipcachefs --help");
	else
		cmd_error("unknown command '%s'; see pipcachefs --help", first);
	return CMD_USAGE;
}

/* A file that we open must not become one of the first three descriptors, which
 * a daemon turns into /dev/null. */
static int open_standard(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return -errno;
	return 0;
}

int main(int argc, char **argv)
{
	int code = CMD_FAILED, r = open_standard();

	/* Whoever started us may not care for children, but we do. */
	(void)signal(SIGCHLD, SIG_DFL);
	if (r < 0)
		cmd_error("opening /dev/null: %s", strerror(-r));
	else
		code = dispatch(argc, argv);

	/* What was printed must have arrived. */
	if (fflush(stdout) != 0 && code == CMD_OK) {
		cmd_error("writing to standard output failed");
		code = CMD_FAILED;
	}
	return code;
}
