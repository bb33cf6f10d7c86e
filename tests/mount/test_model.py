# SPDX-License-Identifier: MIT
"""Random operation sequences on a mount and on a plain directory agree.

Every operation is done on both and has to give the same result or the same
errno; at the end, and after each remount, both trees are compared. In between
the mount is unmounted and mounted again, or its daemon is killed; then the
store is the one of its last checkpoint, and every file is whole or absent.

The normal form is derandomized: always the same sequences, so that a failure
is one of the change under test. PIPCACHEFS_LONG=1 searches anew each time and
for longer; a failure prints the sequence, ready for @example.
"""

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import stat
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sysops

LONG = bool(os.environ.get("PIPCACHEFS_LONG"))
settings.register_profile("mount", deadline=None, print_blob=True,
                          derandomize=not LONG, database=None,
                          suppress_health_check=list(HealthCheck))
settings.load_profile("mount")

HANDLES = 4
# Below this a time was set by utime, above it the clock set it.
OLD = 10 ** 18

# ---- the operations: each takes the top directory and returns a result ----


class Side:
    """One of the two trees: its top directory and its open files."""

    def __init__(self, top):
        self.top = top
        self.fds = [None] * HANDLES

    def at(self, name):
        return os.path.join(self.top, name)

    def fd(self, slot):
        """The file in @slot or, if that is empty, in the next one."""
        for n in range(slot, slot + HANDLES):
            if self.fds[n % HANDLES] is not None:
                return self.fds[n % HANDLES]
        raise OSError(errno.EBADF, "no file is open")

    def close_all(self):
        for slot, fd in enumerate(self.fds):
            if fd is not None:
                os.close(fd)
                self.fds[slot] = None

    def do(self, op, *args):
        """The result of an operation, or its errno."""
        try:
            return getattr(self, "op_" + op)(*args)
        except OSError as e:
            return errno.errorcode[e.errno]

    def clear_setuid(self, name):
        with contextlib.suppress(OSError):
            st = os.stat(self.at(name))
            if stat.S_ISREG(st.st_mode):
                os.chmod(self.at(name), st.st_mode & 0o1777)

    def op_open(self, slot, name, flags, mode):
        # Whose bits stay when the superuser truncates, POSIX leaves open.
        if flags & os.O_TRUNC:
            self.clear_setuid(name)
        fd = os.open(self.at(name), flags, mode)
        if self.fds[slot] is not None:
            os.close(self.fds[slot])
        self.fds[slot] = fd

    def op_nothing(self):
        """What a failing sequence shrinks to."""

    def op_close(self, slot):
        fd = self.fd(slot)
        self.fds[self.fds.index(fd)] = None
        os.close(fd)

    def op_write(self, slot, size, seed):
        return os.write(self.fd(slot), pattern(size, seed))

    def op_pwrite(self, slot, offset, size, seed):
        return os.pwrite(self.fd(slot), pattern(size, seed), offset)

    def op_read(self, slot, size):
        return digest(os.read(self.fd(slot), size))

    def op_pread(self, slot, offset, size):
        return digest(os.pread(self.fd(slot), size, offset))

    def regular(self, slot):
        """Offsets in a directory are each file system's own affair."""
        fd = self.fd(slot)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return fd

    def op_seek(self, slot, offset, whence):
        return os.lseek(self.regular(slot), offset, whence)

    def op_holes(self, slot):
        """Data and holes may be cut differently, but holes read as zeros."""
        fd, position = self.regular(slot), 0
        size = os.fstat(fd).st_size
        while position < size:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as e:
                assert e.errno == errno.ENXIO
                data = size
            assert position <= data <= size
            assert not any(os.pread(fd, data - position, position))
            if data == size:
                break
            position = os.lseek(fd, data, os.SEEK_HOLE)
            assert data < position <= size
        os.lseek(fd, 0, os.SEEK_SET)

    def op_ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)

    def op_fallocate(self, slot, mode, offset, size):
        sysops.fallocate(self.fd(slot), mode, offset, size)

    def op_mmap(self, slot, offset, size, seed):
        fd = self.regular(slot)
        if not 0 < offset + size <= os.fstat(fd).st_size:
            return None
        with mmap.mmap(fd, offset + size) as mapped:
            mapped[offset:offset + size] = pattern(size, seed)
        return size

    def op_fsync(self, slot):
        os.fsync(self.fd(slot))

    def op_fstat(self, slot):
        return facts(os.fstat(self.fd(slot)))

    def op_truncate(self, name, size):
        os.truncate(self.at(name), size)

    def op_append(self, name, size, seed):
        with open(self.at(name), "ab", buffering=0) as f:
            return f.write(pattern(size, seed))

    def op_put(self, name, size, seed):
        """Write as pip does: temporary file, fsync, rename."""
        fd, path = tempfile.mkstemp(dir=os.path.dirname(self.at(name)))
        try:
            with os.fdopen(fd, "wb", buffering=0) as f:
                f.write(pattern(size, seed))
                os.fsync(fd)
            os.rename(path, self.at(name))
        except OSError:
            os.unlink(path)
            raise

    def op_rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    def op_renameat2(self, old, new, flags):
        sysops.renameat2(self.at(old), self.at(new), flags)

    def op_link(self, old, new):
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def op_symlink(self, target, name):
        os.symlink(target, self.at(name))

    def op_unlink(self, name):
        os.unlink(self.at(name))

    def op_mkdir(self, name, mode):
        os.mkdir(self.at(name), mode)

    def op_rmdir(self, name):
        os.rmdir(self.at(name))

    def op_mkfifo(self, name):
        os.mkfifo(self.at(name))

    def op_readdir(self, name):
        with os.scandir(self.at(name)) as entries:
            return sorted((e.name, e.is_dir(follow_symlinks=False),
                           e.is_symlink()) for e in entries
                          if not e.name.startswith("tmp"))

    def op_readlink(self, name):
        return os.readlink(self.at(name))

    def op_chmod(self, name, mode):
        os.chmod(self.at(name), mode)

    def op_chown(self, name, uid, gid):
        os.chown(self.at(name), uid, gid, follow_symlinks=False)

    def op_utime(self, name, atime, mtime):
        os.utime(self.at(name), ns=(atime, mtime), follow_symlinks=False)
        return os.lstat(self.at(name)).st_atime_ns

    def op_stat(self, name):
        return facts(os.stat(self.at(name)))


def pattern(size, seed):
    """Bytes that tell which write they come from and at which place."""
    block = hashlib.sha256(b"%d" % seed).digest()
    return (block * (size // len(block) + 1))[:size]


def digest(data):
    return len(data), hashlib.sha256(data).hexdigest()[:16]


def facts(s):
    """What has to be equal in the attributes of the two sides."""
    kind = stat.S_IFMT(s.st_mode)
    size = None if kind == stat.S_IFDIR else s.st_size
    mtime = s.st_mtime_ns if s.st_mtime_ns < OLD else "new"
    return oct(s.st_mode), s.st_nlink, s.st_uid, s.st_gid, size, mtime


def tree(top):
    """All of a tree: path to (attributes, content)."""
    found = {}
    for where, dirs, files in os.walk(top):
        for name in (".", *dirs, *files):
            path = os.path.normpath(os.path.join(where, name))
            s = os.lstat(path)
            content = None
            if stat.S_ISLNK(s.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(s.st_mode):
                with open(path, "rb") as f:
                    content = digest(f.read())
            found[os.path.relpath(path, top)] = facts(s), content
    return found


# ---- sequences of them ----

NAMES = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "a/x", "none/x",
         "http-v2/h", "http-v2/h.body", "n" * 255, "n" * 256]
# What each sequence starts from, so that few operations meet nothing at all.
START = [("mkdir", "d", 0o755), ("mkdir", "d/e", 0o755),
         ("mkdir", "http-v2", 0o755), ("put", "a", 100, 1),
         ("put", "b", 70_000, 2), ("put", "d/a", 5000, 3),
         ("put", "http-v2/h", 1200, 4), ("put", "http-v2/h.body", 100_000, 5),
         ("open", 0, "a", os.O_RDWR, 0), ("open", 1, "b", os.O_RDWR, 0)]
names = st.sampled_from(NAMES[:8] * 3 + NAMES[8:])
slots = st.integers(0, HANDLES - 1)
# Around the borders between kinds of storage: inline, page, block, request.
sizes = st.sampled_from([0, 1, 10, 100, 1500, 1900, 2100, 4095, 4096, 5000,
                         65535, 65536, 100_000, 200_001])
offsets = st.sampled_from([0, 1, 50, 1000, 1899, 4096, 8000, 65530, 131_072])
seeds = st.integers(0, 99)
modes = st.sampled_from([0o644, 0o600, 0o777, 0o755, 0o4755, 0o2755, 0o1777, 0])
old_times = st.integers(0, OLD - 1)
open_flags = st.builds(
    lambda how, *more: how | sum(more),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]),
    *(st.sampled_from([0, flag]) for flag in (
        os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND)))
falloc_modes = st.sampled_from([
    0, sysops.FALLOC_KEEP_SIZE, sysops.FALLOC_ZERO_RANGE,
    sysops.FALLOC_PUNCH_HOLE | sysops.FALLOC_KEEP_SIZE,
    sysops.FALLOC_PUNCH_HOLE])


def op(name, *args):
    return st.tuples(st.just(name), *args)


on_names = [
    op("put", names, sizes, seeds), op("put", names, sizes, seeds),
    op("append", names, sizes, seeds), op("truncate", names, sizes),
    op("rename", names, names), op("rename", names, names),
    op("renameat2", names, names, st.sampled_from([1, 2, 2, 3])),
    op("link", names, names), op("symlink", names, names),
    op("unlink", names), op("mkdir", names, modes), op("mkdir", names, modes),
    op("rmdir", names), op("mkfifo", names), op("readdir", names),
    op("readlink", names), op("stat", names), op("chmod", names, modes),
    op("chown", names, st.integers(0, 3), st.integers(0, 3)),
    op("utime", names, old_times, old_times)]
on_handles = [
    op("open", slots, names, open_flags, modes),
    op("open", slots, names, open_flags, modes),
    op("open", slots, st.sampled_from(NAMES[:5]), open_flags, modes),
    op("close", slots), op("write", slots, sizes, seeds),
    op("pwrite", slots, offsets, sizes, seeds), op("read", slots, sizes),
    op("pread", slots, offsets, sizes), op("holes", slots),
    op("seek", slots, offsets, st.sampled_from([0, 1, 2])),
    op("ftruncate", slots, sizes), op("fsync", slots), op("fstat", slots),
    op("mmap", slots, offsets, sizes, seeds),
    op("fallocate", slots, falloc_modes, offsets, sizes)]


def sequences(*extra, length):
    one = st.one_of(op("nothing"), *on_names, *on_handles, *extra)
    return st.lists(one, min_size=length // 2, max_size=length)


# ---- running them ----

class Pair:
    """The two sides of one sequence, below a directory of its own."""

    def __init__(self, store, plain):
        self.store = store
        self.name = tempfile.mkdtemp(dir=plain, prefix="run")
        self.plain = Side(self.name)
        self.mount = Side(str(store.mnt / os.path.basename(self.name)))
        os.mkdir(self.mount.top, 0o700)
        for step in START:
            self.do(step)

    def do(self, step):
        if step[0] == "open" and step[2:] and self._is_fifo(step[2]):
            return  # an open of a FIFO waits for the other end
        if step[0] in ("append", "truncate") and self._is_fifo(step[1]):
            return
        expected = self.plain.do(*step)
        got = self.mount.do(*step)
        assert got == expected, f"{step}: {got} on the mount, not {expected}"

    def _is_fifo(self, name):
        try:
            return stat.S_ISFIFO(os.stat(self.plain.at(name)).st_mode)
        except OSError:
            return False

    def compare(self):
        expected, got = tree(self.plain.top), tree(self.mount.top)
        assert got == expected

    def close(self):
        self.plain.close_all()
        self.mount.close_all()

    def remove(self):
        self.close()
        shutil.rmtree(self.plain.top)
        shutil.rmtree(self.mount.top, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_umask():
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.fixture
def plain(tmp_path):
    """Not below a set-gid directory, nor with a default ACL."""
    path = tmp_path / "plain"
    path.mkdir()
    return path


def test_same_results_as_a_plain_directory(mount, plain):
    store = mount()

    @settings(max_examples=8000 if LONG else 600)
    @given(sequences(op("remount"), length=60))
    def run(steps):
        pair = Pair(store, plain)
        try:
            for step in steps:
                if step == ("remount",):
                    pair.close()
                    store.remount()
                    pair.compare()
                else:
                    pair.do(step)
            pair.compare()
        finally:
            pair.remove()
    run()


class History:
    """What a tree has been since the last sync, step by step."""

    def __init__(self, pair):
        self.pair = pair
        self.moments = []
        self.had_writer = set()
        self.record()

    def record(self):
        self.moments.append(tree(self.pair.plain.top))
        self.had_writer |= self._open_for_writing()

    def _open_for_writing(self):
        """Paths of files that have a writer now: a kill may tear these."""
        side = self.pair.plain
        inodes = {os.fstat(fd).st_ino for fd in side.fds if fd is not None
                  and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE}
        return {path for path in self.moments[-1]
                if os.lstat(side.at(path)).st_ino in inodes}

    def check(self, got):
        """@got is one of the moments, less files that were unsafe then."""
        first = self.moments[0]
        for path, what in first.items():
            if path not in self.had_writer and all(
                    m.get(path) == what for m in self.moments):
                assert got.get(path) == what, f"{path} was safe, was synced"
        for path, (_, content) in got.items():
            assert path in self.had_writer or content in {
                m[path][1] for m in self.moments if path in m
            }, f"{path} has bytes that it never had"
        assert any(self._could_be(got, m) for m in self.moments), (
            f"this is how it was at no moment: {got}")

    def _could_be(self, got, moment):
        """Is @got this moment, but for missing and torn regular files?"""
        files = {path for path, (_, content) in moment.items()
                 if isinstance(content, tuple)}
        same = {path for path in got
                if path in moment and (got[path] == moment[path]
                                       or path in self.had_writer)}
        return set(got) == same and set(moment) - set(got) <= files


def test_whole_or_absent_after_a_kill(mount, plain):
    store = mount()

    @settings(max_examples=2500 if LONG else 250)
    @given(sequences(op("sync"), op("sync"), op("remount"), length=50))
    def run(steps):
        pair = Pair(store, plain)
        try:
            store.sync()
            history = History(pair)
            for step in steps:
                if step == ("remount",):
                    pair.close()
                    store.remount()
                    history = History(pair)
                elif step == ("sync",):
                    store.sync()
                    history = History(pair)
                else:
                    pair.do(step)
                    history.record()
            store.kill9()
            pair.mount.close_all()
            store.mount()
            history.check(tree(pair.mount.top))
        finally:
            pair.remove()
    run()
