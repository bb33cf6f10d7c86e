# SPDX-License-Identifier: MIT
"""Clients that want too much: of names, of files, of what is not theirs.

Whatever they do, the daemon goes on, what it keeps in memory stays bounded
(RssAnon: below 64 MiB, and 200 bytes for each open file beyond that), nobody
gets at what is another's, and the store passes `check` afterwards.
"""

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
import threading
import time
import traceback

import pytest

import mounted
import pipshape
import sysops
from sysops import NOBODY, as_user, fallocate, in_child, renameat2

LONG = bool(os.environ.get("PIPCACHEFS_LONG"))
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
ANON_MAX = 64 * MIB
ANON_PER_FILE = 200
FILES_MAX = 16 * GIB  # the largest file, where the limit is smaller
SANITIZED = ("ASAN_OPTIONS", "TSAN_OPTIONS")


# ---- what the daemon takes ----

def anon(pid):
    """RssAnon of a process, in bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


class Memory(threading.Thread):
    """Looks at the daemon's memory all the time, and keeps the most."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.over = pid, 0, threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            with contextlib.suppress(OSError):
                self.most = max(self.most, anon(self.pid))


@contextlib.contextmanager
def bounded(store, files=0):
    """While this goes on the daemon stays within its memory, it is the same
    one afterwards, and the store is in order."""
    pid = store.status()["pid"]
    memory = Memory(pid)
    memory.start()
    yield memory
    memory.most = max(memory.most, anon(pid))
    memory.over.set()
    memory.join()
    assert store.status()["pid"] == pid
    print(f"RssAnon: {memory.most / MIB:.1f} MiB with {files} files open")
    if not any(os.environ.get(name) for name in SANITIZED):
        assert memory.most < ANON_MAX + ANON_PER_FILE * files
    store.do("check", store.path, timeout=1200)


class Crowd:
    """Processes that run `function(number)`; `join()` wants all to succeed."""

    def __init__(self, n, function):
        self.pids = []
        for i in range(n):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    function(i)
                    code = 0
                except BaseException:  # pylint: disable=broad-except
                    traceback.print_exc()
                os._exit(code)
            self.pids.append(pid)

    def join(self):
        codes = [os.waitpid(pid, 0)[1] for pid in self.pids]
        self.pids = []
        assert not any(codes), codes

    def running(self):
        """Is any of them?"""
        return any(mounted.is_running(pid) for pid in self.pids)


@contextlib.contextmanager
def fails(*codes):
    with pytest.raises(OSError) as e:
        yield
    assert e.value.errno in codes, e.value


# ---- names and directories ----

def odd_names(seed, n):
    """Names of 255 bytes of all values, but NUL and the slash."""
    rng = random.Random(seed)
    legal = [c for c in range(1, 256) if c != ord("/")]
    yield bytes(legal) + b"x"
    yield bytes([10] * 255)
    yield b"\xff" * 255
    yield b"." * 255
    for _ in range(n):
        yield bytes(rng.choices(legal, k=255))


def test_names_of_255_bytes_of_any_value(mount):
    store = mount("limit=256M")
    top = os.fsencode(store.mnt)
    names = list(odd_names(1, 2000 if LONG else 300))
    with bounded(store):
        for n, name in enumerate(names):
            where = top if n % 3 else os.path.join(top, b"http-v2")
            os.makedirs(where, exist_ok=True)
            with open(os.path.join(where, name), "xb") as f:
                f.write(name)
        listed = os.listdir(top) + os.listdir(os.path.join(top, b"http-v2"))
        assert sorted(listed) == sorted(names + [b"http-v2"])
        for n, name in enumerate(names):
            where = top if n % 3 else os.path.join(top, b"http-v2")
            with open(os.path.join(where, name), "rb") as f:
                assert f.read() == name
            os.rename(os.path.join(where, name), os.path.join(top, name))
            with fails(errno.ENAMETOOLONG):
                os.stat(os.path.join(top, name + b"x"))
            with fails(errno.ENAMETOOLONG):
                os.rename(os.path.join(top, name),
                          os.path.join(top, name + b"x"))
    store.remount()
    with bounded(store):
        assert sorted(os.listdir(top)) == sorted(names + [b"http-v2"])
        for what in ("ls", "du", "status"):
            store.do(what, store.path)
        for name in names:
            os.unlink(os.path.join(top, name))
        assert os.listdir(top) == [b"http-v2"]


def test_a_directory_of_very_many_files(mount):
    """Filled by four at once, listed, and listed while it is emptied."""
    store = mount("limit=8G")
    total = 1_000_000 if LONG else 30_000
    top = store.mnt / "many"
    top.mkdir()

    def fill(which):
        for n in range(which, total, 4):
            os.mknod(top / f"name-{n:07}")

    def empty(which):
        for n in range(which, total, 4):
            if n % 1000:
                os.unlink(top / f"name-{n:07}")

    with bounded(store):
        Crowd(4, fill).join()
        names = os.listdir(top)
        assert len(names) == total and len(set(names)) == total
        for n in random.Random(2).sample(range(total), 500):
            assert (top / f"name-{n:07}").stat().st_size == 0
        crowd = Crowd(4, empty)
        lists = 0
        while crowd.running():
            seen = os.listdir(top)
            lists += 1
            assert len(seen) == len(set(seen))
            # What nobody removes is there each time.
            assert sum(name.endswith("000") for name in seen) == total / 1000
        crowd.join()
        assert lists > 1, "it was emptied before it could be listed"
        assert len(os.listdir(top)) == total / 1000


def test_a_directory_4000_deep(mount):
    store = mount("limit=512M")
    deep = 4000
    name = "d" * 40

    def build():
        os.chdir(store.mnt)
        for _ in range(deep):
            os.mkdir(name)
            os.chdir(name)
        with open("bottom", "xb") as f:
            f.write(b"deep down")

    def climb():
        os.chdir(store.mnt)
        for _ in range(deep):
            os.chdir(name)
        with open("bottom", "rb") as f:
            assert f.read() == b"deep down"
        # Up again by "..", which the kernel asks the daemon for when it has
        # forgotten; then the way a command would try to go round in circles.
        for _ in range(deep):
            os.chdir("..")
        assert os.path.samefile(".", store.mnt)

    def move_into_itself():
        os.chdir(store.mnt)
        for _ in range(deep // 2):
            os.chdir(name)
        with fails(errno.EINVAL):
            os.rename(store.mnt / name, "below")
        with fails(errno.ENOTEMPTY, errno.EINVAL):
            os.rename("bottom" if os.path.exists("bottom") else name,
                      store.mnt / name)

    with bounded(store):
        in_child(build)
    store.remount()
    with bounded(store):
        in_child(climb)
        in_child(move_into_itself)
        for what in ("ls", "du", "status"):
            store.do(what, store.path)
        subprocess.run(["rm", "-r", store.mnt / name], check=True)
        assert os.listdir(store.mnt) == []


def storm(top, which, seconds):
    """Rename anything to anywhere, for a time."""
    rng = random.Random(which)
    end = time.monotonic() + seconds
    done = 0

    def path():
        return top / f"d{rng.randrange(12)}" / f"n{rng.randrange(40)}"

    while time.monotonic() < end or done < 50:
        kind = rng.randrange(5)
        try:
            if kind == 0:
                renameat2(path(), path(), sysops.RENAME_EXCHANGE)
            elif kind == 1:
                renameat2(path(), path(), sysops.RENAME_NOREPLACE)
            elif kind == 2:  # directories into each other
                os.rename(top / f"d{rng.randrange(12)}",
                          top / f"d{rng.randrange(12)}" / "in")
            elif kind == 3:
                os.rename(top / f"d{rng.randrange(12)}" / "in",
                          top / f"d{rng.randrange(12)}")
            else:
                os.rename(path(), path())
            done += 1
        except OSError as e:
            assert e.errno in (errno.ENOENT, errno.EEXIST, errno.EINVAL,
                               errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR,
                               errno.EBUSY, errno.ELOOP), e


def test_rename_storms_across_directories(mount):
    """Nothing is there twice, no directory is lost in a circle, and each file
    holds what was written into it."""
    store = mount("limit=512M")
    top = store.mnt / "storm"
    for d in range(12):
        (top / f"d{d}").mkdir(parents=True)
        for n in range(0, 40, 2):
            (top / f"d{d}" / f"n{n}").write_bytes(f"{d}/{n}".encode())
    with bounded(store):
        Crowd(6, lambda i: storm(top, i, 120 if LONG else 6)).join()
        inodes, texts, dirs = [], [], 0
        for where, below, files in os.walk(top):
            dirs += len(below)
            for name in files:
                path = os.path.join(where, name)
                inodes.append(os.stat(path).st_ino)
                with open(path, "rb") as f:
                    texts.append(f.read())
        assert len(inodes) == len(set(inodes)) and inodes
        assert len(texts) == len(set(texts))
        assert all(len(text.split(b"/")) == 2 for text in texts)
        assert dirs <= 12
        shutil.rmtree(top)
        assert os.listdir(store.mnt) == []


# ---- sizes ----

def test_sizes_beyond_what_a_file_may_have(mount):
    store = mount("limit=64M")
    path = store.mnt / "f"
    path.write_bytes(b"begin")
    with bounded(store), path.open("r+b", buffering=0) as f:
        for size in (TIB, FILES_MAX + 1, 1 << 62, (1 << 63) - 1):
            with fails(errno.EFBIG):
                os.truncate(path, size)
            with fails(errno.EFBIG):
                os.ftruncate(f.fileno(), size)
            with fails(errno.EFBIG, errno.EINVAL):
                os.pwrite(f.fileno(), b"xx", size - 1)
            with fails(errno.EFBIG, errno.ENOSPC):
                fallocate(f.fileno(), 0, size - 1, 1)
            with fails(errno.EFBIG, errno.ENOSPC):
                fallocate(f.fileno(), sysops.FALLOC_ZERO_RANGE, 0, size)
        with fails(errno.EINVAL):
            os.ftruncate(f.fileno(), -1)
        with fails(errno.EINVAL):
            os.pwrite(f.fileno(), b"x", -1)
        with fails(errno.EINVAL):
            os.lseek(f.fileno(), -1, os.SEEK_SET)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails(errno.ENXIO):
                os.lseek(f.fileno(), (1 << 63) - 1, whence)
            with fails(errno.ENXIO):
                os.lseek(f.fileno(), 5, whence)
        with fails(errno.EFBIG, errno.EINVAL):
            fallocate(f.fileno(), 0, (1 << 63) - 1, 1)
        for mode in (0x08, 0x20, 0x40, 0x01 | 0x10 | 0x02, 0x7f):
            with fails(errno.EOPNOTSUPP, errno.EINVAL):
                fallocate(f.fileno(), mode, 0, 4096)
        with fails(errno.ENOSPC):
            fallocate(f.fileno(), 0, 0, GIB)  # more than the limit
        assert os.pread(f.fileno(), 100, 0) == b"begin"
        assert os.pread(f.fileno(), 100, FILES_MAX) == b""
        assert os.pread(f.fileno(), 100, (1 << 63) - 1 - 4096) == b""
    assert path.read_bytes() == b"begin"
    # As large as it may be: a hole, which takes nothing.
    with bounded(store):
        os.truncate(path, FILES_MAX)
        assert path.stat().st_size == FILES_MAX
        with path.open("r+b", buffering=0) as f:
            os.pwrite(f.fileno(), b"e", FILES_MAX - 1)
            assert os.pread(f.fileno(), 2, FILES_MAX - 1) == b"e"
        os.truncate(path, 5)
        assert path.read_bytes() == b"begin"
        path.unlink()


def test_a_larger_limit_allows_larger_files(mount, tmp_path):
    if shutil.disk_usage(tmp_path).total < 20 * GIB:
        pytest.skip("wants a limit of more than 16 GiB, on a disk of that")
    store = mount("limit=17G,min_free=0")
    with bounded(store):
        (store.mnt / "f").touch()
        os.truncate(store.mnt / "f", 17 * GIB)
        with fails(errno.EFBIG):
            os.truncate(store.mnt / "f", 17 * GIB + 1)
        (store.mnt / "f").unlink()


# ---- requests that hardly anybody makes ----

def copy_range(f, length, source, target):
    return os.copy_file_range(f.fileno(), f.fileno(), length, source, target)


def test_requests_that_hardly_anybody_makes(mount):
    store = mount("limit=256M")
    path = store.mnt / "f"
    data = os.urandom(3 * MIB)
    path.write_bytes(data)
    store.settle()
    with bounded(store), path.open("r+b", buffering=0) as f:
        # A copy onto itself.
        with fails(errno.EINVAL):
            copy_range(f, MIB, 0, 4096)
        with fails(errno.EINVAL):
            copy_range(f, 1, 0, 0)  # onto the very byte
        assert copy_range(f, MIB, (1 << 62), 0) == 0
        with fails(errno.EFBIG, errno.EINVAL, errno.EOVERFLOW):
            copy_range(f, MIB, 0, (1 << 63) - 1 - MIB // 2)
        done = 0
        while done < MIB:
            done += copy_range(f, MIB - done, done, 2 * MIB + done)
        assert path.read_bytes() == data[:2 * MIB] + data[:MIB]

        for request in (0, 0x5401, 0x80086601, 0x40086602, 0xc020660b,
                        0x40049409, 0xffffffff):
            with fails(errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL,
                       errno.ENOSYS, errno.EBADF, errno.EFAULT, errno.EXDEV,
                       errno.EPERM):
                fcntl.ioctl(f.fileno(), request, bytearray(4096))
        for name in ("user.a", "trusted.a", "security.capability",
                     "user." + "x" * 250, "system.posix_acl_access"):
            with fails(errno.EOPNOTSUPP, errno.ENODATA):
                os.getxattr(path, name)
            with fails(errno.EOPNOTSUPP, errno.EINVAL):
                os.setxattr(path, name, b"x" * 65536)
            with fails(errno.EOPNOTSUPP, errno.ENODATA):
                os.removexattr(path, name)
        with fails(errno.EOPNOTSUPP):
            os.listxattr(path)


def aligned(size, fill=b"\0"):
    """Memory for O_DIRECT."""
    buf = mmap.mmap(-1, size)
    buf.write(fill * (size // len(fill)))
    return buf


def test_direct_io(mount):
    store = mount("limit=256M")
    path = store.mnt / "f"
    with bounded(store):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        except OSError as e:
            assert e.errno == errno.EINVAL
            return
        ones = aligned(MIB, b"1")
        assert os.pwritev(fd, [ones], 0) == MIB
        assert os.pwritev(fd, [ones], MIB + 4096) == MIB
        os.pwrite(fd, b"odd", 7)  # FUSE knows no alignment
        got = aligned(4 * MIB, b"x")
        assert os.preadv(fd, [got], 0) == 2 * MIB + 4096
        want = (b"1" * 7 + b"odd" + b"1" * (MIB - 10) + b"\0" * 4096
                + b"1" * MIB)
        assert got[:len(want)] == want
        with fails(errno.EFBIG):
            os.pwritev(fd, [ones], TIB)
        os.close(fd)
        assert path.read_bytes() == want


def test_special_files(mount):
    store = mount("limit=64M")
    with bounded(store):
        for n, kind in enumerate((stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO,
                                  stat.S_IFSOCK)):
            path = store.mnt / f"special{n}"
            os.mknod(path, kind | 0o666, os.makedev(1, 3))
            assert stat.S_IFMT(path.lstat().st_mode) == kind
            with fails(errno.EINVAL, errno.EPERM):
                os.truncate(path, 5)
            os.rename(path, store.mnt / f"moved{n}")
            os.link(store.mnt / f"moved{n}", path)
        with fails(errno.EINVAL, errno.EPERM):
            os.mknod(store.mnt / "none", 0o150644)
        # As no user a device cannot be made at all.
        (store.mnt / "open").mkdir()
        (store.mnt / "open").chmod(0o777)

        def as_nobody():
            with fails(errno.EPERM):
                os.mknod("device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            os.mkfifo("fifo")
        as_user(store.mnt / "open", as_nobody)
        # What the daemon keeps must never be a device of this machine.
        for where, _, files in os.walk(store.path):
            for name in files:
                mode = os.lstat(os.path.join(where, name)).st_mode
                assert stat.S_ISREG(mode) or name == "control.sock"
    store.remount()
    with bounded(store):
        shutil.rmtree(store.mnt / "open")
        for name in os.listdir(store.mnt):
            (store.mnt / name).unlink()


def test_mappings_beyond_the_end(mount):
    store = mount("limit=64M")
    path = store.mnt / "f"
    path.write_bytes(b"x" * 100)
    sigbus = 7

    def touch_beyond():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        fd = os.open(path, os.O_RDWR)
        m = mmap.mmap(fd, 0)
        os.ftruncate(fd, 3 * mmap.PAGESIZE)
        wide = mmap.mmap(fd, 3 * mmap.PAGESIZE)
        os.ftruncate(fd, 100)
        m[5:8] = b"yyy"
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(
            wide, 2 * mmap.PAGESIZE)), 1, 1)

    with bounded(store):
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                touch_beyond()
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == sigbus
        assert path.read_bytes() == b"x" * 5 + b"yyy" + b"x" * 92


# ---- very many open files ----

def test_very_many_open_files(mount):
    """More than the daemon may have descriptors. Half of them small enough to
    lie in the index, half in packs of their own; some unlinked meanwhile."""
    store = mount("limit=32G,min_free=0")
    total = 100_000 if LONG else 12_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = min(hard - 200, 4000 if not LONG else 15_000)
    clients = -(-total // each)
    daemon_max = 2000
    pid = store.status()["pid"]
    store.umount()
    # Mounted anew with few descriptors, as in a container.
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with limited_descriptors(daemon_max):
        store.mount()
    pid = store.status()["pid"]

    def size(n):
        return 70_000 if n % 2 else 700

    def data(n):
        return n.to_bytes(4, "big") * (size(n) // 4)

    def client(which, opened, go_on):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        mine = range(which * each, min((which + 1) * each, total))
        top = store.mnt / f"c{which}"
        top.mkdir()
        fds = []
        for n in mine:
            fd = os.open(top / str(n), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.write(fd, data(n))
            os.close(fd)
            fds.append(os.open(top / str(n), os.O_RDONLY))
            if n % 10 == 3:
                os.unlink(top / str(n))
        os.write(opened, b"o")
        os.read(go_on, 1)
        for fd, n in zip(fds, mine):
            assert os.pread(fd, 100_000, 0) == data(n), n

    with bounded(store, total) as memory:
        opened, go_on = os.pipe(), os.pipe()
        crowd = Crowd(clients, lambda i: client(i, opened[1], go_on[0]))
        os.close(opened[1])
        os.close(go_on[0])
        for _ in range(clients):
            assert os.read(opened[0], 1), "a client failed"
        assert store.status()["open_files"] >= total
        assert len(os.listdir(f"/proc/{pid}/fd")) <= daemon_max
        os.write(go_on[1], b"g" * clients)
        crowd.join()
        os.close(opened[0])
        os.close(go_on[1])
        print(f"{(memory.most - ANON_MAX) / total:.0f} bytes a file beyond "
              f"64 MiB, {memory.most / total:.0f} in all")
        mounted.wait_for(lambda: store.status()["open_files"] == 0,
                         "all files to be closed", 120)


@contextlib.contextmanager
def limited_descriptors(most):
    """What is started meanwhile may have no more than @most descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    start = subprocess.Popen

    def popen(args, **kwargs):
        return start(["prlimit", f"--nofile={most}:{most}", *args], **kwargs)
    subprocess.Popen = popen
    try:
        yield
    finally:
        subprocess.Popen = start
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("n", [16, 64])
def test_many_large_requests_at_once(mount, n):
    """Each in work has a buffer of 1 MiB, what it reads perhaps another."""
    store = mount("limit=1G")

    def client(i):
        path = store.mnt / f"f{i}"
        data = (i + 1).to_bytes(2, "big") * (2 * MIB)
        for _ in range(3):
            path.write_bytes(data)
            assert path.read_bytes() == data
        store.sync()
        assert path.read_bytes() == data

    with bounded(store):
        Crowd(n, client).join()
        store.settle()


# ---- what is another's ----

def test_another_users_file_is_his_alone(mount):
    store = mount("limit=256M")
    store.mnt.chmod(0o777)
    pipshape.store(store.mnt, 1, 100_000)
    mine = pipshape.body_path(store.mnt, 1)
    mine.chmod(0o600)
    secret = mine.read_bytes()
    inside = mine.relative_to(store.mnt)

    def try_all():
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND,
                      os.O_RDONLY | os.O_TRUNC):
            with fails(errno.EACCES):
                os.open(inside, flags)
        for do in (lambda: os.truncate(inside, 0), lambda: os.unlink(inside),
                   lambda: os.rename(inside, "stolen"),
                   lambda: os.chmod(inside, 0o666),
                   lambda: os.chown(inside, NOBODY, NOBODY),
                   lambda: os.utime(inside, (1, 1))):
            with fails(errno.EACCES, errno.EPERM):
                do()
        with open("theirs", "xb") as f:
            f.write(b"mine " * 100)

    def commands():
        """All that could evict or tell of another's files."""
        program = mounted.binary()
        for args in (("prune", store.path, "--all"),
                     ("prune", store.mnt, "--all", "--to", "1M"),
                     ("limit", store.path, "16M", "--now"),
                     ("ls", store.path), ("du", store.path),
                     ("status", store.path), ("sync", store.path),
                     ("check", store.path, "--data"),
                     ("umount", store.mnt)):
            done = subprocess.run([program, *map(str, args)],
                                  capture_output=True, text=True, check=False)
            assert done.returncode == 1, (args, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr and done.stderr

    with bounded(store):
        as_user(store.mnt, try_all)
        as_user("/", commands)
        assert mounted.is_mounted(store.mnt)
        assert mine.read_bytes() == secret
        assert mine.stat().st_uid == 0 and mine.stat().st_mode & 0o777 == 0o600
    control = (store.path / "control.sock").lstat()
    assert stat.S_ISSOCK(control.st_mode)
    assert stat.S_IMODE(control.st_mode) == 0o600 and control.st_uid == 0
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700


# ---- paths that lead elsewhere ----

def test_links_and_dots_lead_no_command_out_of_the_store(mount, tmp_path):
    store = mount("limit=256M")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    pipshape.store(store.mnt, 1, 100_000)
    (store.mnt / "http-v2" / "out").symlink_to(outside)
    (store.mnt / "up").symlink_to("../../../../../../outside")
    (store.mnt / "http-v2" / "precious").symlink_to(outside / "precious")
    store.settle()
    with bounded(store):
        for args in (("ls",), ("du",), ("status",), ("check", "--data"),
                     ("prune", "--all"), ("sync",)):
            store.do(args[0], store.path, *args[1:])
        # The store by other names is the store.
        (tmp_path / "name").symlink_to(store.path)
        for name in (tmp_path / "name", store.path / "packs" / "..",
                     store.path / ".." / store.path.name):
            assert store.do("status", name, "--json")
            store.do("prune", name, "--dry-run")
        # Parts of it, and what is beside it, are no stores.
        for name in (store.path / "packs", store.path / "index",
                     store.path / "..", outside, outside / "precious",
                     store.path / "format"):
            for args in (("prune", "--all"), ("check",), ("limit", "1G")):
                done = store.run(args[0], name, *args[1:])
                assert done.returncode == 1, (name, args, done.stdout)
    assert (outside / "precious").read_bytes() == b"precious"
    assert os.listdir(outside) == ["precious"]


TRAPS = ("format", "lock", "index", "packs", "index/data.mdb",
         "index/lock.mdb", "index/ckpt", "control.sock")


@pytest.mark.parametrize("name", TRAPS)
def test_links_planted_in_a_store_are_not_followed(mount, tmp_path, name):
    """By whoever owns the store, for root to walk into."""
    store = mount("limit=64M")
    pipshape.store(store.mnt, 1, 100_000)
    store.umount()
    outside = tmp_path / "outside"
    outside.mkdir()
    at = store.path / name
    if at.is_dir():
        target = outside / "dir"
        shutil.copytree(at, target)
        shutil.rmtree(at)
    else:
        target = outside / "file"
        shutil.copy(at, target) if at.exists() else target.touch()
        at.unlink(missing_ok=True)
    at.symlink_to(target)
    before = snapshot(outside)
    for args in (("prune", "--all"), ("check",), ("limit", "64M"), ("sync",),
                 ("status",), ("ls",)):
        store.run(args[0], store.path, *args[1:])
        assert snapshot(outside) == before, args
    done = store.run("mount", store.path, store.mnt)
    if name == "control.sock":  # left over, as it seems: replaced
        assert done.returncode == 0
        store.umount()
    else:
        assert done.returncode == 1 and str(store.path) in done.stderr
    assert snapshot(outside) == before


def snapshot(top):
    """All that is below @top, with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None
            for path in sorted(top.rglob("*"))}


def test_links_among_the_packs_are_only_removed(mount, tmp_path):
    """And packs that are links count as missing."""
    store = mount("limit=64M")
    for n in range(4):
        pipshape.store(store.mnt, n, 300_000)
    store.settle()
    store.umount()
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    pack = sorted((store.path / "packs").iterdir())[0]
    shutil.copy(pack, precious)
    pack.unlink()
    pack.symlink_to(precious)
    (store.path / "packs" / ("f" * 16)).symlink_to(precious)
    (store.path / "packs" / ("e" * 16)).symlink_to(outside)
    store.expect("damaged")
    before = snapshot(outside)
    store.mount()
    found = [pipshape.load(store.mnt, n, 300_000) for n in range(4)]
    assert sum(found) == 3, found
    store.prune("--all")
    store.settle()
    store.umount()
    assert snapshot(outside) == before
    assert not list((store.path / "packs").glob("[ef]" * 16))


# ---- the control socket ----

def connect(store, blocking=True):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(blocking)
    with contextlib.suppress(BlockingIOError):
        fd = os.open(store.path, os.O_PATH | os.O_DIRECTORY)
        try:
            s.connect(f"/proc/self/fd/{fd}/control.sock")
        finally:
            os.close(fd)
    return s


def say(store, data, end=True):
    """Send @data; the answer, or b"" if there was none."""
    with connect(store) as s:
        s.settimeout(30)
        got = b""
        try:
            s.sendall(data)
            if end:
                s.shutdown(socket.SHUT_WR)
            while part := s.recv(65536):
                got += part
        except (BrokenPipeError, ConnectionResetError):
            pass
        return got


def test_clients_of_the_control_socket(mount):
    store = mount("limit=64M")
    pipshape.store(store.mnt, 1, 100_000)
    rng = random.Random(5)
    garbage = [b"", b"\0" * 100, b"{" * 16000, b"[" * 16000, b"{}", b"null",
               b'{"command": 5}', b'{"command": "nonsense"}',
               b'{"command": null}', b'{"command": "\\u0000"}',
               b'{"command": "limit", "limit": "x"}',
               b'{"command": "limit", "limit": "-1"}',
               b'{"command": "packages", "select": 7}',
               b'{"command": "packages", "select": [1]}',
               b'{"command": "list", "after": 1e400}',
               b'{"\xff\xfe": 1}', b"x" * 100_000,
               b'{"a":"' + b"y" * 10_000_000 + b'"}']
    # Odd, but something can be made of it; it must come to an end.
    odd = [b'{"command": "list", "after": -1}',
           b'{"command": "list", "after": 9223372036854775807}',
           b'{"command": "packages", "from": 9223372036854775807}',
           b'{"command": "check", "stage": 99, "at": -5, "seconds": 1}',
           b'{"command": "check", "stage": -1, "seconds": -1}',
           b'{"command": "prune", "to_bytes": -1, "dry_run": true}',
           b'{"command": "prune", "older_than_seconds": '
           b'9223372036854775807, "dry_run": true}',
           b'{"command": "limit", "limit": {"a": 1}}']
    garbage += [rng.randbytes(rng.randrange(3000)) for _ in range(100)]
    store.expect("a command got no answer")
    with bounded(store):
        for data in garbage:
            answer = say(store, data)
            assert b'"ok":true' not in answer, (data[:100], answer[:100])
        for data in odd:
            assert say(store, data).startswith(b"{"), data
        # Those that come and stay, saying little or nothing.
        many = [connect(store, blocking=False) for _ in range(1000)]
        for s in many[::2]:
            with contextlib.suppress(OSError):
                s.send(b'{"command"')
        for s in many[::3]:
            s.close()
        assert pipshape.load(store.mnt, 1, 100_000)
        for s in many:
            s.close()
        assert store.status()["state"] == "ok"
        # One that asks and never reads.
        slow = [connect(store) for _ in range(3)]
        for s in slow:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            s.sendall(b'{"command": "check", "data": true}')
            s.shutdown(socket.SHUT_WR)
        assert store.status()["state"] == "ok"
        for s in slow:
            s.close()
        assert store.status()["state"] == "ok"
    assert pipshape.load(store.mnt, 1, 100_000)
