/* SPDX-License-Identifier: MIT */
/*
 * What a keeper and its daemon say to each other, over a socket pair: one
 * message at a time, with a descriptor or a line of text.
 *
 * The first daemon of a mount:
 *	LINK_STORE	its store is open; here is the lock
 *	LINK_DEVICE	the keeper has mounted; here is the connection
 *	LINK_READY	the mount answers
 * Its successors have both, and say LINK_READY. Whoever listens for commands
 * anew hands its socket over with LINK_CONTROL. Any may say LINK_UPGRADE, with
 * the program that is to take its place, or LINK_OPTIONS, with the options of
 * the next one, and end with DAEMON_HANDOVER. One that was told to end says
 * LINK_STATUS while it serves those who still have the mount, and LINK_ENDING
 * when it no longer does: that may take as long as a start.
 *
 * Threads: one reader; any writers.
 */
#ifndef FS_LINK_H
#define FS_LINK_H

#include <stddef.h>

#define LINK_TEXT_MAX 1024

enum link_type {
	LINK_NONE, /* the other side is gone */
	LINK_STORE,
	LINK_DEVICE,
	LINK_READY,
	LINK_UPGRADE,
	LINK_CONTROL,
	LINK_FAILED,  /* text: why */
	LINK_ENDING,  /* it serves no more, and closes the store */
	LINK_OPTIONS, /* text: as after -o */
	LINK_STATUS,  /* text: what it waits for */
};

/* What a daemon inherits. Lock, device and control are for a successor only,
 * the last one if there is one. */
enum link_fd {
	LINK_FD_SOCKET = 3,
	LINK_FD_KEPT,
	LINK_FD_TRACE,
	LINK_FD_LOCK,
	LINK_FD_DEVICE,
	LINK_FD_CONTROL,
	LINK_FD_END
};

/* How a daemon ends. All else is a death that a successor makes good. */
enum daemon_exit {
	DAEMON_ENDED = 0,  /* unmounted, or told to end */
	DAEMON_FAILED = 1, /* likewise; what went wrong has been said */
	DAEMON_AGAIN = 10, /* a successor that could not start */
	DAEMON_HANDOVER = 11,
	DAEMON_NOT_MINE = 12, /* a layout that it does not know */
	DAEMON_LOST = 13,     /* the store is not what the kernel knows */
};

struct link_message {
	enum link_type type;
	int fd; /* -1: none; the receiver's */
	char text[LINK_TEXT_MAX];
};

/* @fd is sent along, and stays the caller's; -1: none. @text may be NULL. */
int link_send(int socket, enum link_type type, int fd, const char *text);

/* Waits. 0, or -errno; the end of the other side is LINK_NONE. */
int link_receive(int socket, struct link_message *ret);

#endif
