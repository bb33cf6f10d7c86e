# SPDX-License-Identifier: MIT
"""System calls that Python has no name for, and doing things as a user."""

import ctypes
import os
import pickle
import traceback

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
AT_FDCWD = -100
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
NOBODY = 65534

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
