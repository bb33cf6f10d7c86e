# SPDX-License-Identifier: MIT
"""Files as pip writes them into its cache; what is in one follows from its
name, so that whoever finds one can tell whether its bytes are right."""

import contextlib
import errno
import hashlib
import os
import pathlib
import random
import tempfile
import time

# How long a write waits for room that eviction makes, see store/room.h.
ROOM_SECONDS = 2


def key(n):
    """The name of the n-th cache entry: SHA-224 of an URL, in hex."""
    return hashlib.sha224(f"https://example.org/{n}".encode()).hexdigest()


def header_path(top, n, tree="http-v2"):
    name = key(n)
    return pathlib.Path(top, tree, *name[:5], name)


def body_path(top, n):
    path = header_path(top, n)
    return path.with_name(path.name + ".body")


def wheel_path(top, n):
    name = key(n)
    return pathlib.Path(top, "wheels", name[:2], name[2:4], name[4:6],
                        name[6:], f"demo{n}-1.0-py3-none-any.whl")


def content(path, size):
    """@size bytes that only a file of this name has."""
    seed = hashlib.sha256(os.fsencode(path.name)).digest()
    return random.Random(seed).randbytes(size)


def body_size(n, top=4 << 20):
    """A size that follows from @n: mostly small, sometimes up to @top."""
    return int(top * random.Random(n).random() ** 3) + 100


def header(n):
    return content(pathlib.Path(key(n)), 1100 + n % 200)


def body(n, size=None):
    return content(pathlib.Path(key(n) + ".body"),
                   body_size(n) if size is None else size)


def write_file(path, data, fsync=True):
    """Write as pip does: temporary file, one write, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(".tmp", path.name, path.parent)
    with os.fdopen(fd, "wb", buffering=0) as f:
        os.fchmod(fd, 0o644)
        written = f.write(data)
        if written != len(data):
            raise OSError(28, "short write")
        if fsync:
            os.fsync(fd)
    os.rename(temporary, path)


def store(top, n, size=None):
    """Cache the n-th entry: header first, then body."""
    write_file(header_path(top, n), header(n))
    write_file(body_path(top, n), body(n, size))


def load(top, n, size=None):
    """Is entry @n there? True or False; wrong bytes are an AssertionError."""
    try:
        head = header_path(top, n).read_bytes()
        data = body_path(top, n).read_bytes()
    except FileNotFoundError:
        return False
    assert head == header(n), f"wrong bytes in the header of {n}"
    assert data == body(n, size), f"wrong bytes in the body of {n}"
    return True


def store_wheel(top, n, size):
    """A wheel built here, with the note beside it."""
    path = wheel_path(top, n)
    write_file(path.with_name("origin.json"), b"{}")
    write_file(path, content(path, size))


def leave_no_temporary(top, n):
    """What a write of entry @n, or of wheel @n, that failed has left."""
    header = header_path(top, n)
    for where, pattern in ((header.parent, header.name + "?*.tmp"),
                           (wheel_path(top, n).parent, "*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            for left in where.glob(pattern):
                left.unlink(missing_ok=True)


def patiently(put, top, n, size):
    """`put(top, n, size)`, again where eviction took longer than a write waits
    for it, as on a disk that is slow: then there is room the next time. That
    there is none at once stays an error."""
    while True:
        begun = time.monotonic()
        try:
            return put(top, n, size)
        except OSError as e:
            if (e.errno != errno.ENOSPC
                    or time.monotonic() - begun < ROOM_SECONDS):
                raise
        leave_no_temporary(top, n)
