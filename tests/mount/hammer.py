#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Changes a directory at random and knows at each step what must be in it.

usage: hammer.py DIRECTORY SEED

Goes on until standard input ends, then looks at everything once more and
prints how many operations it made. Nobody else may write there, so each
operation has one right result, errors included: any other ends the program
with a traceback.
"""
import errno
import os
import random
import sys
import threading

NAMES = 12
SIZE_MAX = 200_000
RENAME_EXCHANGE = 2


def _exchange(a, b):
    import ctypes  # pylint: disable=import-outside-toplevel
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b),
                      RENAME_EXCHANGE) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), a)


class Hammer:
    """`model`: name -> bytearray of a file, dict of a directory, or str of a
    symlink. `open`: (descriptor, its bytearray), also of unlinked files."""

    def __init__(self, directory, seed):
        self.top = directory
        self.random = random.Random(seed)
        self.model = {}
        self.open = []
        self.done = 0

    def path(self, name):
        return os.path.join(self.top, name)

    def name(self):
        return f"n{self.random.randrange(NAMES)}"

    def expect(self, code, call, *args, **kwargs):
        """@call must fail with @code, or succeed if that is 0."""
        try:
            result = call(*args, **kwargs)
        except OSError as e:
            assert e.errno == code, (call, args, e, errno.errorcode.get(code))
            return None
        assert not code, (call, args, errno.errorcode[code])
        return result

    def content(self, size):
        return self.random.randbytes(size)

    # ---- operations: each is one system call that changes something ----

    def mkdir(self):
        name = self.name()
        self.expect(errno.EEXIST if name in self.model else 0,
                    os.mkdir, self.path(name))
        self.model.setdefault(name, {})

    def rmdir(self):
        name = self.name()
        found = self.model.get(name)
        code = (errno.ENOENT if found is None else
                0 if isinstance(found, dict) else errno.ENOTDIR)
        self.expect(code, os.rmdir, self.path(name))
        if not code:
            del self.model[name]

    def create(self):
        name = self.name()
        fd = self.expect(errno.EEXIST if name in self.model else 0, os.open,
                         self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        if fd is not None:
            self.model[name] = bytearray()
            self.open.append((fd, self.model[name]))

    def symlink(self):
        name = self.name()
        self.expect(errno.EEXIST if name in self.model else 0,
                    os.symlink, "target " + name, self.path(name))
        self.model.setdefault(name, "target " + name)

    def unlink(self):
        name = self.name()
        found = self.model.get(name)
        code = (errno.ENOENT if found is None else
                errno.EISDIR if isinstance(found, dict) else 0)
        self.expect(code, os.unlink, self.path(name))
        if not code:
            del self.model[name]

    def link(self):
        old, new = self.name(), self.name()
        found = self.model.get(old)
        code = (errno.ENOENT if found is None else
                errno.EEXIST if new in self.model else
                errno.EPERM if isinstance(found, dict) else 0)
        self.expect(code, os.link, self.path(old), self.path(new),
                    follow_symlinks=False)
        if not code:
            self.model[new] = found

    def rename(self):
        old, new = self.name(), self.name()
        a, b = self.model.get(old), self.model.get(new)
        code = 0
        if a is None:
            code = errno.ENOENT
        elif b is not None and old != new:
            if isinstance(a, dict) and not isinstance(b, dict):
                code = errno.ENOTDIR
            elif isinstance(b, dict) and not isinstance(a, dict):
                code = errno.EISDIR
        self.expect(code, os.rename, self.path(old), self.path(new))
        if not code and old != new and a is not b:
            self.model[new] = self.model.pop(old)

    def exchange(self):
        old, new = self.name(), self.name()
        code = (0 if old in self.model and new in self.model
                else errno.ENOENT)
        self.expect(code, _exchange, self.path(old), self.path(new))
        if not code:
            self.model[old], self.model[new] = (self.model[new],
                                                self.model[old])

    def write(self):
        if not self.open:
            return
        fd, body = self.random.choice(self.open)
        at = self.random.randrange(SIZE_MAX)
        data = self.content(self.random.choice((1, 700, 5000, 150_000)))
        assert os.pwrite(fd, data, at) == len(data)
        if len(body) < at:
            body.extend(bytes(at - len(body)))
        body[at:at + len(data)] = data

    def truncate(self):
        if not self.open:
            return
        fd, body = self.random.choice(self.open)
        size = self.random.randrange(SIZE_MAX)
        os.ftruncate(fd, size)
        del body[size:]
        body.extend(bytes(size - len(body)))

    def close(self):
        if self.open:
            fd, body = self.open.pop(self.random.randrange(len(self.open)))
            assert os.fstat(fd).st_size == len(body)
            os.close(fd)

    def reopen(self):
        name = self.name()
        body = self.model.get(name)
        if isinstance(body, bytearray) and len(self.open) < 20:
            flags = self.random.choice((os.O_RDWR, os.O_RDWR | os.O_TRUNC))
            fd = os.open(self.path(name), flags)
            if flags & os.O_TRUNC:
                del body[:]
            self.open.append((fd, body))

    def append(self):
        name = self.name()
        body = self.model.get(name)
        if isinstance(body, bytearray) and len(body) < SIZE_MAX:
            with open(self.path(name), "ab", buffering=0) as f:
                data = self.content(3000)
                assert f.write(data) == len(data)
                body.extend(data)

    # ---- looking ----

    def read(self):
        if self.open:
            fd, body = self.random.choice(self.open)
            assert os.pread(fd, len(body) + 1, 0) == body

    def read_name(self):
        name = self.name()
        body = self.model.get(name)
        if isinstance(body, bytearray):
            with open(self.path(name), "rb") as f:
                assert f.read() == body, name

    def list(self):
        assert sorted(os.listdir(self.top)) == sorted(self.model)

    def check(self):
        """Everything."""
        self.list()
        for name, found in self.model.items():
            path = self.path(name)
            if isinstance(found, str):
                assert os.readlink(path) == found
            elif isinstance(found, dict):
                assert os.listdir(path) == []
            else:
                with open(path, "rb") as f:
                    assert f.read() == found, name
                same = sum(other is found for other in self.model.values())
                assert os.stat(path).st_nlink == same
        for fd, body in self.open:
            assert os.pread(fd, len(body) + 1, 0) == body

    def run(self, stop):
        changes = (self.mkdir, self.rmdir, self.create, self.create,
                   self.symlink, self.unlink, self.link, self.rename,
                   self.rename, self.exchange, self.write, self.write,
                   self.truncate, self.close, self.reopen, self.append)
        looks = (self.read, self.read_name, self.list)
        while not stop.is_set():
            self.random.choice(changes)()
            if self.random.random() < 0.2:
                self.random.choice(looks)()
            if len(self.open) > 12:
                self.close()
            self.done += 1
        self.check()


def main():
    directory, seed = sys.argv[1], int(sys.argv[2])
    os.mkdir(directory)
    hammer = Hammer(directory, seed)
    stop = threading.Event()

    def wait_for_end():
        sys.stdin.read()
        stop.set()
    threading.Thread(target=wait_for_end, daemon=True).start()
    hammer.run(stop)
    print(hammer.done)


if __name__ == "__main__":
    main()
