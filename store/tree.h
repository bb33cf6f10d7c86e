/* SPDX-License-Identifier: MIT */
/*
 * Names and inodes: the POSIX operations that change no file's bytes, one
 * transaction each. What an open file knows better than the index (size,
 * times) is laid over by file.c.
 *
 * Errors as in store.h. Threads: any.
 */
#ifndef STORE_TREE_H
#define STORE_TREE_H

#include <sys/types.h>

#include "store/edit.h"

#define TREE_LINK_MAX 65000 /* names of a file; directories have no limit */
#define TREE_SYMLINK_MAX 4095

/* Make the root directory, where it is not there or damaged; its names stay. */
int tree_create_root(struct tree *t, uint32_t uid, uint32_t gid);

int tree_get(struct tree *t, uint64_t ino, struct inode *ret); /* -ESTALE */
int tree_lookup(struct tree *t, uint64_t parent, const char *name,
		struct inode *ret);

struct tree_new {
	uint64_t parent;
	const char *name;
	const char *target; /* of a symlink, else NULL */
	uint32_t mode;	    /* with its type */
	uint32_t uid;
	uint32_t gid; /* unless the directory is setgid */
	uint64_t rdev;
};
int tree_make(struct tree *t, const struct tree_new *what, struct inode *ret);

int tree_readlink(struct tree *t, uint64_t ino, char *buf, size_t size);
int tree_link(struct tree *t, uint64_t ino, uint64_t parent, const char *name,
	      struct inode *ret);
/* @dir: rmdir, else unlink. */
int tree_remove(struct tree *t, uint64_t parent, const char *name, bool dir);

enum tree_set {
	TREE_SET_MODE = 1 << 0,
	TREE_SET_UID = 1 << 1,
	TREE_SET_GID = 1 << 2,
	TREE_SET_ATIME = 1 << 4,
	TREE_SET_MTIME = 1 << 5,
};
/* Fields of @from that @mask names, and ctime. */
int tree_setattr(struct tree *t, uint64_t ino, const struct inode *from,
		 int mask, struct inode *ret);

/*
 * Damaged names are mended by who comes across them (mend.h): by the look-up,
 * the listing, the removal and the rename. Those that cannot be are gone then.
 */

/*
 * Names of @dir from offset @off on, as store_readdir() has it. @fill gets
 * each name with its inode number, DT_ type and the offset behind it.
 */
typedef int (*tree_fill_fn)(void *arg, const char *name, uint64_t ino,
			    uint8_t type, uint64_t next);
int tree_readdir(struct tree *t, uint64_t dir, uint64_t off, tree_fill_fn fill,
		 void *arg);

/*
 * Steps that rename() shares.
 *
 * tree_check_name():  -EINVAL, -ENAMETOOLONG.
 * tree_begin():       edit_begin() for putting @name into @dir; as or under
 *                     wheels/ it may push out what a wheel's bytes may.
 * tree_removable():   may the name of @in go by rmdir (@dir) or unlink?
 * tree_lost_name():   @in lost a name in @dir: count down, drop it with its
 *                     last.
 * tree_rejoin_entry():  the file @ino may have one name left, and all records
 *                     are put: give it the entry of that name. If the name
 *                     that the inode knew was removed, tidy_rescan() finds the
 *                     one that is left.
 */
int tree_check_name(const char *name);
int tree_begin(struct tree *t, uint64_t dir, const char *name, struct edit *e);
int tree_removable(struct edit *e, const struct inode *in, bool dir);
int tree_lost_name(struct edit *e, struct inode *dir, struct inode *in);
int tree_rejoin_entry(struct edit *e, uint64_t ino);

#endif
