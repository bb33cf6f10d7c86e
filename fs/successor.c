/* SPDX-License-Identifier: MIT */
#include "fs/successor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fs/control.h"
#include "store/base.h"

#define WAIT_MAX_MSEC (300 * 1000)
#define WAIT_STEP_MSEC 50
#define ASK_SEC 30

static char *copy_of(const json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return strdup(text ? text : "");
}

int successor_look(const char *store, struct successor *ret)
{
	cleanup_successor struct successor s = SUCCESSOR_INIT;
	json_t *request = json_pack("{s:s}", "command", "status");
	json_t *reply = NULL;
	const json_t *status;

	if (request && control_ask(store, request, ASK_SEC, &reply) == 0) {
		status = json_object_get(reply, "status");
		s.pid = (pid_t)json_integer_value(
			json_object_get(status, "pid"));
		s.version = copy_of(status, "version");
		s.options = copy_of(status, "options");
	}
	json_decref(request);
	json_decref(reply);
	if (!s.pid || !s.version || !s.options)
		return -ENOENT;
	successor_release(ret);
	ret->pid = s.pid;
	ret->version = steal_ptr(s.version);
	ret->options = steal_ptr(s.options);
	return 0;
}

int successor_await(const char *store, pid_t before, struct successor *ret)
{
	for (int ms = 0; ms < WAIT_MAX_MSEC; ms += WAIT_STEP_MSEC) {
		usleep(WAIT_STEP_MSEC * 1000);
		if (successor_look(store, ret) == 0 && ret->pid != before)
			return 0;
	}
	return -ETIMEDOUT;
}

void successor_release(struct successor *s)
{
	free(s->version);
	free(s->options);
	*s = (struct successor)SUCCESSOR_INIT;
}
