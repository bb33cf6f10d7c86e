/* SPDX-License-Identifier: MIT */
/*
 * A mount that goes on in another process: open what the last one had open.
 *
 * One thread, before any other works on the store.
 */
#ifndef STORE_RESUME_H
#define STORE_RESUME_H

#include "store/file.h"
#include "store/store.h"

/* Fill in @files[i].file; what has gone is left out. -ENOMEM and the like: all
 * are closed. */
int resume_files(struct files *fs, struct store_resume *files, size_t n);

/* A new mount: what requests of an earlier one were done says nothing. */
int resume_forget(struct tree *t);

#endif
