/* SPDX-License-Identifier: MIT */
/*
 * The daemon's ear: a socket in the store's directory, for its owner and the
 * superuser. One JSON object as the request and one as the reply per
 * connection, each ended by closing that direction.
 *
 *	control_start()		server: answers from here on
 *	control_stop() | control_leave()
 *	control_ask()		client
 *
 * A request has a size and a time to arrive in, and a few threads serve: a
 * client that hangs holds one of them for CONTROL_IO_SEC seconds at most.
 * Not here: what requests mean (request).
 */
#ifndef FS_CONTROL_H
#define FS_CONTROL_H

#include <stddef.h>

#define CONTROL_SOCKET "control.sock"
#define CONTROL_REQUEST_MAX ((size_t)16 * 1024)
#define CONTROL_REPLY_MAX ((size_t)1024 * 1024)
#define CONTROL_IO_SEC 5
#define CONTROL_THREADS 4

struct json_t; /* of <jansson.h> */
struct control;

/* Returns a new reference, or NULL when out of memory. Called by any of the
 * server's threads. */
typedef struct json_t *(*control_answer_fn)(void *arg,
					    const struct json_t *request);

/*
 * Listen in @dir, a store whose lock the caller holds (a socket that is there
 * is left over). @dir may be longer than a socket address.
 * @listener: what a process before this one listened with: who has called
 *            meanwhile is answered, and nothing has to be written to the disk
 *            below. Borrowed; -1: there is none.
 * Returns:  0 or a negative errno.
 */
int control_start(const char *dir, int listener, control_answer_fn answer,
		  void *arg, struct control **ret);

/* A @listener for who comes next; borrowed. */
int control_listener(const struct control *c);

/* Both end what is under way and free @c; NULL is fine. The first removes the
 * socket, the other one leaves it to who has the listener. */
void control_stop(struct control *c);
void control_leave(struct control *c);

/*
 * Ask the daemon of the store @dir, and wait @timeout_sec for its reply.
 * Nobody but the superuser, the owner of @dir and the caller's own user is
 * asked: whoever else listens there could tell anything.
 * Returns:  0 and a new reference to the reply, -ENOENT or -ECONNREFUSED no
 *           daemon listens (what lies there may be no socket, or a link to
 *           one), -EKEYREJECTED somebody else does, -EACCES, -ETIMEDOUT,
 *           -EPROTO no JSON came back.
 */
int control_ask(const char *dir, const struct json_t *request, int timeout_sec,
		struct json_t **ret);

#endif
