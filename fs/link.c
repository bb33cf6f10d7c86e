/* SPDX-License-Identifier: MIT */
#include "fs/link.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* As it travels. */
struct packet {
	uint32_t type;
	char text[LINK_TEXT_MAX];
};

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int))];
};

int link_send(int socket, enum link_type type, int fd, const char *text)
{
	struct packet p = { .type = type };
	struct iovec iov = { .iov_base = &p, .iov_len = sizeof(p) };
	union control control = { .bytes = { 0 } };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;
	ssize_t n;

	snprintf(p.text, sizeof(p.text), "%s", text ? text : "");
	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	do
		n = sendmsg(socket, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

int link_receive(int socket, struct link_message *ret)
{
	struct packet p = { .type = LINK_NONE };
	struct iovec iov = { .iov_base = &p, .iov_len = sizeof(p) };
	union control control;
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != ECONNRESET)
		return -errno;
	ret->type =
		n == (ssize_t)sizeof(p) ? (enum link_type)p.type : LINK_NONE;
	ret->fd = -1;
	p.text[sizeof(p.text) - 1] = '\0';
	memcpy(ret->text, p.text, sizeof(p.text));
	c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&ret->fd, CMSG_DATA(c), sizeof(ret->fd));
	return 0;
}
