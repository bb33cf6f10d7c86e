/* SPDX-License-Identifier: MIT */
/*
 * Read sections: to know that nobody looks at something old any more.
 *
 *	t = section_enter(s);		section_quiesce(s);
 *	look up where bytes are		whoever had looked them up before is
 *	read them			done: what they left can be destroyed
 *	section_leave(s, t);
 *
 * What the caller of section_quiesce() did before it is seen by the sections
 * that it does not wait for, and what the others did is done when it returns.
 *
 * A section is short (a lookup and a read) and may be left by another thread
 * than entered it. Nobody inside one waits for a section_quiesce().
 *
 * Threads: all calls, any number at once. Entering and leaving never wait.
 */
#ifndef STORE_SECTION_H
#define STORE_SECTION_H

struct section;

int section_new(struct section **ret);	   /* -ENOMEM */
void section_free(struct section *s);	   /* NULL is fine; nobody is inside */
unsigned section_enter(struct section *s); /* the ticket to leave with */
void section_leave(struct section *s, unsigned ticket);

/* Returns when all sections entered before the call have ended. Others may
 * begin meanwhile; they are not waited for. Waits by sleeping. */
void section_quiesce(struct section *s);

#endif
