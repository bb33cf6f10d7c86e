# SPDX-License-Identifier: MIT
"""More of POSIX as ext4 has it: what programs do, not single calls.

`pytest --plain` runs the same cases on a plain directory.
"""

import ctypes
import errno
import faulthandler
import mmap
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
import traceback

import pytest

import sysops
from sysops import NOBODY, as_user, fallocate
from test_posix import fails, opened, put

LONG = pytest.mark.skipif("PIPCACHEFS_LONG" not in os.environ,
                          reason="takes half a minute: PIPCACHEFS_LONG=1")


def in_child(function):
    """Run `function()` in a process of its own; returns its wait status."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:  # pylint: disable=broad-except
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


# ---- directories ----

class Dir:
    """opendir(3) and its relatives, which Python does not have."""

    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
    libc.rewinddir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    NAME_OFFSET = 19  # of d_name in struct dirent, 64 bits

    def __init__(self, path):
        self.dir = self.libc.opendir(os.fsencode(path))
        assert self.dir

    def next(self):
        entry = self.libc.readdir(self.dir)
        return ctypes.string_at(entry + self.NAME_OFFSET) if entry else None

    def rest(self):
        return list(iter(self.next, None))

    def tell(self):
        return self.libc.telldir(self.dir)

    def seek(self, where):
        self.libc.seekdir(self.dir, where)

    def close(self):
        self.libc.closedir(self.dir)


def test_seekdir_finds_what_telldir_told(root):
    for n in range(3000):
        os.mknod(root / f"f{n}")
    top = Dir(root)
    told = []
    while True:
        where, name = top.tell(), top.next()
        if name is None:
            break
        told.append((where, name))
    assert len({name for _, name in told}) == 3002
    for where, name in told[::97]:
        top.seek(where)
        assert top.next() == name

    # The entry that the offset points at may go meanwhile, and others too.
    where, _ = told[1500]
    later = {name for _, name in told[1510:]}
    for _, name in told[1500:1510]:
        os.unlink(root / os.fsdecode(name))
    top.seek(where)
    seen = top.rest()
    assert len(seen) == len(set(seen)) and set(seen) == later
    top.close()


def test_listing_ten_thousand_entries_while_another_process_works(root):
    for n in range(10_000):
        os.mknod(root / f"stay{n}")
    child = os.fork()
    if child == 0:
        for n in range(2000):
            os.mknod(root / f"new{n}")
            if n >= 50:
                os.unlink(root / f"new{n - 50}")
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        names = os.listdir(root)
        assert len(names) == len(set(names))
        assert sum(name.startswith("stay") for name in names) == 10_000
    assert len(os.listdir(root)) == 10_050


def test_three_processes_remove_the_same_entries(root):
    for n in range(3000):
        os.mknod(root / str(n))

    def remove():
        for entry in os.scandir(root):
            try:
                os.unlink(entry.path)
            except FileNotFoundError:
                pass
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(in_child(remove) != 0)
        children.append(child)
    assert [os.waitpid(c, 0)[1] for c in children] == [0, 0, 0]
    assert os.listdir(root) == []


def test_a_working_directory_that_was_removed(root):
    (root / "d").mkdir()

    def inside():
        os.chdir(root / "d")
        # Without a handle nothing is left of the directory: ESTALE.
        with opened(".", os.O_RDONLY | os.O_DIRECTORY) as fd:
            os.rmdir(root / "d")
            assert os.listdir(".") == []
            assert os.stat(".").st_nlink == 0
            os.chmod(".", 0o700)
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o700
            for do in (os.getcwd, lambda: os.mkdir("x"),
                       lambda: os.symlink("x", "y"), lambda: os.stat("x"),
                       lambda: os.open("x", os.O_CREAT | os.O_WRONLY)):
                with fails(errno.ENOENT):
                    do()
            os.mkdir(root / "d")
            put(root / "d" / "new")
            assert os.listdir(".") == []
    assert in_child(inside) == 0


def test_a_path_too_deep_to_name(root):
    """600 levels: longer than PATH_MAX, reached step by step."""
    def build():
        os.chdir(root)
        for _ in range(600):
            os.mkdir("0123456789")
            os.chdir("0123456789")
        with open("bottom", "wb") as f:
            f.write(b"data")
    assert in_child(build) == 0
    with fails(errno.ENAMETOOLONG):
        os.stat(str(root) + "/0123456789" * 600)
    os.rename(root / "0123456789", root / "moved")
    assert subprocess.run(["rm", "-r", root / "moved"]).returncode == 0


@LONG
def test_a_directory_holds_more_than_65000_directories(root):
    (root / "d").mkdir()
    for n in range(65_010):
        os.mkdir(root / "d" / str(n))
    (root / "one-more").mkdir()
    os.rename(root / "one-more", root / "d" / "one-more")
    assert (root / "d").stat().st_nlink in (1, 65_013)
    assert len(os.listdir(root / "d")) == 65_011


@LONG
def test_a_file_has_at_most_65000_names(root):
    put(root / "f")
    for n in range(1, 65_000):
        os.link(root / "f", root / str(n))
    with fails(errno.EMLINK):
        os.link(root / "f", root / "one-more")
    os.unlink(root / "1")
    os.link(root / "f", root / "one-more")
    assert (root / "f").stat().st_nlink == 65_000


def test_symlinks_up_to_4095_bytes(root):
    for size in (1, 59, 60, 255, 4094, 4095):
        os.symlink("t" * size, root / str(size))
        assert os.readlink(root / str(size)) == "t" * size
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, root / "x")


# ---- contents ----

def test_what_was_closed_is_seen_at_once(root):
    """The daemon hears of a close later than its caller goes on."""
    for n in range(3000):
        size = n % 2500 + 1
        path = root / str(n % 40)
        path.unlink(missing_ok=True)
        with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
            os.write(fd, b"x" * size)
        assert path.stat().st_size == size
        assert len(path.read_bytes()) == size


def test_an_unlinked_file_opened_again_by_its_descriptor(root):
    for size in (0, 100, 100_000):
        data = os.urandom(size)
        path = put(root / "f", data)
        with opened(path, os.O_RDWR) as first:
            path.unlink()
            again = os.open(f"/proc/self/fd/{first}", os.O_RDWR)
        assert os.pread(again, size + 1, 0) == data
        os.pwrite(again, b"more", size)
        assert os.fstat(again).st_size == size + 4
        with fails(errno.ENOENT):  # a src_dir_fd makes Python call linkat()
            os.link(f"/proc/self/fd/{again}", root / "back", src_dir_fd=again)
        os.close(again)
    assert os.listdir(root) == []


def test_a_mapping_ends_with_its_file(root):
    path = put(root / "f", b"x" * 10_000)
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 10_000)
        os.ftruncate(fd, 4096)

        def touch():
            faulthandler.disable()
            return mapped[8192]
        status = in_child(touch)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGBUS
        os.ftruncate(fd, 10_000)
        assert mapped[4095:8193] == b"x" + bytes(4097)
        mapped.close()


def test_what_is_mapped_behind_the_end_does_not_appear(root):
    path = put(root / "f", b"x" * 5000)
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 5000)
        view = (ctypes.c_char * 8192).from_address(
            ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
        view[6000] = b"y"
        mapped.flush()
        assert os.fstat(fd).st_size == 5000
        os.ftruncate(fd, 8192)
        assert os.pread(fd, 3192, 5000) == bytes(3192)


def test_copy_file_range_in_all_its_forms(root):
    data = os.urandom(300_000)
    with opened(put(root / "a", data), os.O_RDWR) as a, \
            opened(root / "b", os.O_RDWR | os.O_CREAT) as b:
        assert os.copy_file_range(a, b, 1000, 299_990, 7) == 10
        assert os.pread(b, 20, 0) == bytes(7) + data[-10:]
        assert os.copy_file_range(a, b, 1000, 300_000, 0) == 0
        assert os.copy_file_range(a, a, 100, 0, 100_000) == 100
        assert os.pread(a, 100, 100_000) == data[:100]
        with fails(errno.EINVAL):
            os.copy_file_range(a, a, 100, 0, 50)
        with opened(root / "b", os.O_RDONLY) as reader:
            with fails(errno.EBADF):
                os.copy_file_range(a, reader, 10)
        with opened(root / "b", os.O_WRONLY | os.O_APPEND) as log:
            with fails(errno.EBADF):
                os.copy_file_range(a, log, 10, 0, 0)
        # A page that a mapping changed and that was not written back yet.
        with mmap.mmap(a, 300_000) as mapped:
            mapped[:5] = b"dirty"
            os.copy_file_range(a, b, 10, 0, 0)
        assert os.pread(b, 5, 0) == b"dirty"
        # A small file, which lives in the index.
        with opened(put(root / "small", b"tiny"), os.O_RDONLY) as small:
            assert os.copy_file_range(small, b, 100, 1, 20) == 3
        assert os.pread(b, 3, 20) == b"iny"


def test_running_a_program(root):
    shutil.copy("/bin/sleep", root / "sleep")
    with subprocess.Popen([root / "sleep", "60"]) as running:
        with fails(errno.ETXTBSY):
            os.open(root / "sleep", os.O_WRONLY)
        (root / "sleep").unlink()
        assert running.poll() is None
        running.kill()
    put(root / "script", b"#!/bin/sh\necho hello\n").chmod(0o755)
    assert subprocess.check_output([root / "script"]) == b"hello\n"
    (root / "script").chmod(0o644)
    with fails(errno.EACCES):
        subprocess.run([root / "script"], check=False)


# ---- attributes ----

@pytest.mark.parametrize("sec", [1 - (1 << 31), -2, -1, 0, 1 << 31, 1 << 33])
@pytest.mark.parametrize("nsec", [0, 1, 999_999_999])
def test_times_before_1970_and_after_2038(root, sec, nsec):
    path = put(root / "f")
    when = sec * 1_000_000_000 + nsec
    os.utime(path, ns=(when, when + 5))
    st = path.stat()
    assert (st.st_atime_ns, st.st_mtime_ns) == (when, when + 5)


def test_times_nobody_can_store_become_the_nearest(root):
    path = put(root / "f")
    os.utime(path, (1 << 62, -(1 << 62)))
    st = path.stat()
    assert st.st_atime > 1 << 33
    assert st.st_mtime <= -(1 << 31)


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_time_set_while_the_file_is_open_stays(root, size):
    path = root / "f"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"x" * size)
        os.utime(fd, (11, 22))
    assert (path.stat().st_atime, path.stat().st_mtime) == (11, 22)
    with opened(path, os.O_RDWR) as fd:
        os.write(fd, b"y" * size)
        os.utime(path, (33, 44))
        os.fsync(fd)
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_mtime == 44
    assert path.stat().st_mtime == 44


def test_times_of_a_write_are_those_after_its_close(root):
    path = put(root / "f")
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_APPEND,
                  os.O_WRONLY | os.O_TRUNC):
        for _ in range(100):
            os.utime(path, (5, 5))
            with opened(path, flags) as fd:
                os.write(fd, b"x")
                open_st = os.fstat(fd)
            st = path.stat()
            assert st.st_mtime > 5
            assert (st.st_mtime_ns, st.st_ctime_ns) == (
                open_st.st_mtime_ns, open_st.st_ctime_ns)


@pytest.mark.parametrize("before, after", [(0, 0), (0, 5), (5, 5), (5, 0)])
def test_every_truncation_changes_the_times(root, before, after):
    def open_truncating():
        os.close(os.open(root / "f", os.O_WRONLY | os.O_TRUNC))

    for do in (lambda: os.truncate(root / "f", after), open_truncating):
        path = put(root / "f", b"x" * before)
        os.utime(path, (5, 5))
        old = path.stat().st_ctime_ns
        time.sleep(0.02)
        do()
        assert path.stat().st_mtime > 5
        assert path.stat().st_ctime_ns > old


def _open_truncating():
    os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))


def _copy_into():
    with opened("src", os.O_RDONLY) as src, opened("f", os.O_RDWR) as fd:
        os.copy_file_range(src, fd, 3)


def _fallocate(mode):
    with opened("f", os.O_RDWR) as fd:
        fallocate(fd, mode, 0, 4096)


@pytest.mark.parametrize("change", [
    _open_truncating, _copy_into, lambda: _fallocate(0),
    lambda: _fallocate(sysops.FALLOC_PUNCH_HOLE | sysops.FALLOC_KEEP_SIZE),
    lambda: os.chown("f", -1, NOBODY), lambda: os.truncate("f", 5000),
], ids=["O_TRUNC", "copy", "allocate", "punch", "chown", "truncate"])
def test_a_users_change_clears_setuid(root, change):
    put(root / "src", b"source").chmod(0o644)
    path = put(root / "f", b"x" * 5000)
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o6777)
    as_user(root, change)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


# ---- programs ----

@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "WAL"])
def test_sqlite_with_three_writers(root, journal):
    path = root / "db"
    db = sqlite3.connect(path, timeout=60)
    db.execute(f"pragma journal_mode={journal}")
    db.execute("create table t(a integer primary key, b text)")
    db.commit()

    def write(who):
        mine = sqlite3.connect(path, timeout=60)
        for n in range(50):
            mine.execute("insert into t(b) values(?)", (f"{who} {n} " * 20,))
            mine.commit()
        mine.close()
    children = []
    for who in range(3):
        child = os.fork()
        if child == 0:
            os._exit(in_child(lambda who=who: write(who)) != 0)
        children.append(child)
    assert [os.waitpid(c, 0)[1] for c in children] == [0, 0, 0]
    assert db.execute("select count(distinct b) from t").fetchone() == (150,)
    db.execute("vacuum")
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_name_that_is_replaced_all_the_time_is_always_there(root):
    """Openers meet inodes that were just replaced, never an error."""
    path = root / "f"
    put(path, b"x" * 1000)
    end = time.monotonic() + 3
    over = multiprocessing.get_context("fork").Event()

    def replace(who):
        while not over.is_set():
            os.rename(put(root / f"new{who}", b"x" * 1000), path)

    def use():
        uses = 0
        while time.monotonic() < end or uses < 500:
            with opened(path, os.O_RDONLY) as fd:
                assert os.read(fd, 2000) == b"x" * 1000
            with opened(path, os.O_RDWR | os.O_CREAT):
                pass
            assert os.stat(path).st_size == 1000
            path.chmod(0o644)
            uses += 1
    children = []
    for work in (use, use, lambda: replace(0), lambda: replace(1)):
        child = os.fork()
        if child == 0:
            os._exit(in_child(work) != 0)
        children.append(child)
    used = [os.waitpid(c, 0)[1] for c in children[:2]]
    over.set()
    replaced = [os.waitpid(c, 0)[1] for c in children[2:]]
    assert (used, replaced) == ([0, 0], [0, 0])


def test_tar_and_cp_bring_back_what_they_took(root, tmp_path):
    src = tmp_path / "src"
    (src / "sub").mkdir(parents=True)
    put(src / "sub" / "f", os.urandom(200_000))
    os.link(src / "sub" / "f", src / "hard")
    os.symlink("nowhere", src / "link")
    os.mkfifo(src / "fifo")
    put(src / "small", b"small").chmod(0o4750)
    with opened(src / "sparse", os.O_WRONLY | os.O_CREAT) as fd:
        os.pwrite(fd, b"x", 3_000_000)
    os.utime(src / "small", ns=(-1_500_000_001, -1_500_000_001))
    os.utime(src / "sub", (5, 5))

    def describe(top):
        found = {}
        for where, dirs, files in os.walk(top):
            for name in dirs + files:
                path = os.path.join(where, name)
                st = os.lstat(path)
                found[os.path.relpath(path, top)] = (
                    st.st_mode, st.st_uid, st.st_mtime_ns,
                    stat.S_ISDIR(st.st_mode) or (st.st_size, st.st_nlink))
        return found
    wanted = describe(src)
    subprocess.run(["cp", "-a", src, root / "copied"], check=True)
    assert describe(root / "copied") == wanted
    # pax keeps nanoseconds.
    subprocess.run(f"tar -C {root}/copied --format=pax -Scf - . "
                   f"| (mkdir {root}/again; tar -C {root}/again -xpf -)",
                   shell=True, check=True, stderr=subprocess.DEVNULL)
    assert describe(root / "again") == wanted
    for name in ("sub/f", "sparse", "small"):
        copy = root / "again" / name
        assert copy.read_bytes() == (src / name).read_bytes()
    subprocess.run(["find", root / "again", "-delete"], check=True)
    assert not (root / "again").exists()
