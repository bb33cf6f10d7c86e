# SPDX-License-Identifier: MIT
"""System calls that Python has no name for, and doing things as a user."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import pickle
import platform
import re
import stat
import subprocess
import time
import traceback

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
AT_FDCWD = -100
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
NOBODY = 65534
# Of the new mount calls, of which glibc has none before 2.36.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, AT_EMPTY_PATH = 1, 4, 0x1000
MOUNT_ATTR_IDMAP = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long,
                            ctypes.c_long]
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p,
                        ctypes.c_ulong, ctypes.c_char_p]


def _check(result, path):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)


def renameat2(old, new, flags):
    """renameat2(2) of two paths."""
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD,
                           os.fsencode(new), flags), old)


def fallocate(fd, mode, offset, length):
    """fallocate(2), which posix_fallocate() hides the modes of."""
    _check(_libc.fallocate(fd, mode, offset, length), fd)


def in_child(function, *args):
    """`function(*args)` in a child process: returns what it returns, or
    raises what it raises."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = True, function(*args)
        except OSError as e:
            answer = False, OSError(*e.args)
        except BaseException:  # pylint: disable=broad-except
            answer = False, AssertionError(traceback.format_exc())
        with os.fdopen(write_end, "wb") as f:
            pickle.dump(answer, f)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as f:
        done, value = pickle.load(f)
    os.waitpid(child, 0)
    if not done:
        raise value
    return value


def as_user(where, function, *args, uid=NOBODY):
    """`function(*args)` run by an unprivileged user with @where as cwd.

    The directories above @where need not be open to that user. Returns what
    the function returns, or raises what it raises.
    """
    def become_user():
        os.chdir(where)
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        return function(*args)
    return in_child(become_user)


def in_mount_namespace(function, *args):
    """`function(*args)` in a child whose mounts are its own."""
    def separate():
        _check(_libc.unshare(CLONE_NEWNS), None)
        _check(_libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "/")
        return function(*args)
    return in_child(separate)


def bind(source, target):
    """mount --bind"""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None,
                       MS_BIND, None), target)


# For a shell in a mount namespace that is new: the mounts of tests beside it,
# which would not end as long as this has them too, are gone; but for /mnt.
LET_GO = r"""
findmnt -n -l -t fuse.pipcachefs -o TARGET | grep -vx /mnt | tac |
    xargs -r -d '\n' umount -l --no-canonicalize || :
"""


@contextlib.contextmanager
def user_database():
    """Who changes the users in /etc, or reads all of it, is alone. Several
    that change it would not wait for each other: they fail."""
    with open("/etc/login.defs", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def fuse_for_all():
    """Every user may open /dev/fuse, as udev has it; some machines keep it for
    root. One test at a time."""
    device = os.open("/dev/fuse", os.O_RDONLY)
    try:
        fcntl.flock(device, fcntl.LOCK_EX)
        before = stat.S_IMODE(os.fstat(device).st_mode)
        os.chmod("/dev/fuse", 0o666)
        try:
            yield
        finally:
            os.chmod("/dev/fuse", before)
    finally:
        os.close(device)


def kernel():
    """The kernel's release, as (6, 12)."""
    return tuple(map(int, re.match(r"(\d+)\.(\d+)", platform.release())
                     .groups()))


def _id_map(stored, shown):
    """A descriptor of a user namespace in which @shown is @stored."""
    with subprocess.Popen(["unshare", "--user", "sleep", "60"]) as holder:
        try:
            where = pathlib.Path("/proc", str(holder.pid))
            ours = os.readlink("/proc/self/ns/user")
            while os.readlink(where / "ns/user") == ours:
                assert holder.poll() is None, "no user namespace"
                time.sleep(0.01)
            for kind in ("uid_map", "gid_map"):
                (where / kind).write_text(f"{stored} {shown} 1")
            return os.open(where / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.kill()


@contextlib.contextmanager
def idmapped(source, target, stored, shown):
    """mount --bind -o X-mount.idmap=b:STORED:SHOWN:1, which util-linux has
    since 2.39: what belongs to @stored in @source is @shown's in @target."""
    namespace = _id_map(stored, shown)
    tree = _libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(source),
                         OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        _check(tree, source)
        attr = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, namespace)
        _check(_libc.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH,
                             attr, ctypes.c_size_t(ctypes.sizeof(attr))),
               source)
        pathlib.Path(target).mkdir(exist_ok=True)
        _check(_libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD,
                             os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
               target)
    finally:
        os.close(namespace)
        if tree >= 0:
            os.close(tree)
    try:
        yield pathlib.Path(target)
    finally:
        subprocess.run(["umount", "-l", target], check=True)
