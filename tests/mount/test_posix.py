# SPDX-License-Identifier: MIT
"""POSIX as ext4 has it, case by case.

`pytest --plain` runs the same cases on a plain directory.
"""

import contextlib
import errno
import mmap
import os
import socket
import stat
import time

import pytest

import sysops
from sysops import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, NOBODY, as_user,
                    fallocate, renameat2)


@contextlib.contextmanager
def fails(code):
    """The block ends with this errno."""
    with pytest.raises(OSError) as e:
        yield
    got = errno.errorcode.get(e.value.errno)
    assert e.value.errno == code, f"{got}, not {errno.errorcode[code]}"


def put(path, data=b"data"):
    path.write_bytes(data)
    return path


@contextlib.contextmanager
def opened(path, flags, mode=0o644):
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


# ---- directories and names ----

def test_nlink_of_directories(root):
    assert root.stat().st_nlink == 2
    (root / "a").mkdir()
    (root / "a" / "sub").mkdir()
    put(root / "a" / "file")
    assert root.stat().st_nlink == 3
    assert (root / "a").stat().st_nlink == 3
    (root / "b").mkdir()
    os.rename(root / "a" / "sub", root / "b" / "sub")
    assert (root / "a").stat().st_nlink == 2
    assert (root / "b").stat().st_nlink == 3
    (root / "b" / "sub").rmdir()
    assert (root / "b").stat().st_nlink == 2


def test_rename_over_a_directory_gives_its_link_back(root):
    for name in ("a", "a/x", "b", "b/x"):
        (root / name).mkdir()
    os.rename(root / "a" / "x", root / "b" / "x")
    assert (root / "a").stat().st_nlink == 2
    assert (root / "b").stat().st_nlink == 3


def test_names_up_to_255_bytes(root):
    put(root / ("n" * 255))
    put(root / ("é" * 127 + "n"))
    assert len(os.listdir(root)) == 2
    put(root / "x")
    for do in (put, os.mkdir, os.unlink, os.rmdir, os.stat,
               lambda p: os.symlink("x", p),
               lambda p: os.rename(root / "x", p)):
        with fails(errno.ENAMETOOLONG):
            do(root / ("n" * 256))


def test_names_are_bytes(root):
    name = os.fsencode(root) + b"/\xff\xfe\n\x01 x"
    with open(name, "wb") as f:
        f.write(b"data")
    assert os.listdir(os.fsencode(root)) == [b"\xff\xfe\n\x01 x"]
    with open(name, "rb") as f:
        assert f.read() == b"data"


def test_errors_of_directories(root):
    (root / "d").mkdir()
    put(root / "d" / "x")
    put(root / "f")
    with fails(errno.ENOTEMPTY):
        (root / "d").rmdir()
    with fails(errno.EEXIST):
        (root / "d").mkdir()
    with fails(errno.EISDIR):
        (root / "d").unlink()
    with fails(errno.EISDIR):
        (root / "d").open("w")
    with fails(errno.ENOTDIR):
        (root / "f").rmdir()
    with fails(errno.ENOTDIR):
        os.stat(root / "f" / "x")
    with fails(errno.ENOENT):
        (root / "none" / "x").mkdir()
    with fails(errno.EINVAL):
        os.rmdir(f"{root}/d/.")
    with fails(errno.ENOTEMPTY):
        os.rmdir(f"{root}/d/..")


def test_errors_of_rename(root):
    (root / "d" / "e" / "f").mkdir(parents=True)
    (root / "empty").mkdir()
    put(root / "file")
    with fails(errno.EINVAL):
        os.rename(root / "d", root / "d" / "e" / "f" / "g")
    with fails(errno.ENOTEMPTY):
        os.rename(root / "empty", root / "d")
    with fails(errno.ENOTEMPTY):
        os.rename(root / "d" / "e", root / "d")
    with fails(errno.EISDIR):
        os.rename(root / "file", root / "empty")
    with fails(errno.ENOTDIR):
        os.rename(root / "empty", root / "file")
    with fails(errno.ENOENT):
        os.rename(root / "none", root / "x")
    with fails(errno.EXDEV):
        os.rename(root / "file", "/proc/file")
    os.rename(root / "d" / "e", root / "empty")
    assert os.listdir(root / "empty") == ["f"]
    os.rename(root / "file", root / "file")
    assert (root / "file").read_bytes() == b"data"


def test_rename_of_two_links_to_one_file_does_nothing(root):
    put(root / "a")
    os.link(root / "a", root / "b")
    os.rename(root / "a", root / "b")
    assert sorted(os.listdir(root)) == ["a", "b"]
    assert (root / "a").stat().st_nlink == 2


def test_renameat2(root):
    put(root / "a", b"a")
    put(root / "b", b"b")
    with fails(errno.EEXIST):
        renameat2(root / "a", root / "b", sysops.RENAME_NOREPLACE)
    renameat2(root / "a", root / "c", sysops.RENAME_NOREPLACE)
    assert sorted(os.listdir(root)) == ["b", "c"]
    (root / "d" / "sub").mkdir(parents=True)
    renameat2(root / "b", root / "d", sysops.RENAME_EXCHANGE)
    assert (root / "d").read_bytes() == b"b"
    assert os.listdir(root / "b") == ["sub"]
    assert root.stat().st_nlink == 3
    with fails(errno.ENOENT):
        renameat2(root / "b", root / "none", sysops.RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(root / "b", root / "b" / "sub", sysops.RENAME_EXCHANGE)
    with fails(errno.EINVAL):
        renameat2(root / "b", root / "c", 3)
    with fails(errno.EINVAL):
        renameat2(root / "b", root / "c", 1 << 6)


def test_directory_entries_stay_put_while_others_come_and_go(root):
    """What is there throughout is listed once, with 5,000 entries."""
    for n in range(5000):
        os.mknod(root / f"stay{n}")
    seen = []
    with os.scandir(root) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n % 2:
                os.mknod(root / f"new{n}")
            if n % 3 == 0 and entry.name.startswith("new"):
                os.unlink(root / entry.name)
            if n > 20_000:
                break
    stay = [name for name in seen if name.startswith("stay")]
    assert len(stay) == 5000 and len(set(stay)) == 5000
    assert len(seen) == len(set(seen))


def test_removing_all_while_listing(root):
    for n in range(3000):
        os.mknod(root / str(n))
    with os.scandir(root) as entries:
        for entry in entries:
            os.unlink(entry.path)
    assert os.listdir(root) == []


def test_rewinding_a_directory(root):
    names = {f"f{n}" for n in range(2000)}
    for name in names:
        os.mknod(root / name)
    with opened(root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert set(os.listdir(fd)) == names
        os.unlink(root / "f7")
        os.mknod(root / "late")
        assert set(os.listdir(fd)) == names - {"f7"} | {"late"}


def test_a_removed_directory_that_is_still_open(root):
    (root / "d").mkdir()
    with opened(root / "d", os.O_RDONLY | os.O_DIRECTORY) as fd:
        (root / "d").rmdir()
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        with fails(errno.ENOENT):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    (root / "d").mkdir()
    put(root / "d" / "x")


def test_types(root):
    for name, kind in (("fifo", stat.S_IFIFO), ("sock", stat.S_IFSOCK),
                       ("chr", stat.S_IFCHR), ("blk", stat.S_IFBLK)):
        os.mknod(root / name, kind | 0o640, os.makedev(7, 200))
        st = os.stat(root / name)
        assert stat.S_IFMT(st.st_mode) == kind
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            assert st.st_rdev == os.makedev(7, 200)
    os.symlink("chr", root / "link")
    kinds = {e.name: (e.is_symlink(), e.is_file(follow_symlinks=False))
             for e in os.scandir(root)}
    assert kinds["link"] == (True, False)
    assert kinds["fifo"] == (False, False)
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(root)
        s.bind("bound")
        os.chdir("/")
    assert stat.S_ISSOCK(os.stat(root / "bound").st_mode)


def test_symlinks(root):
    target = "t" * 4000
    os.symlink(target, root / "long")
    assert os.readlink(root / "long") == target
    assert os.lstat(root / "long").st_size == len(target)
    os.symlink("loop", root / "loop")
    with fails(errno.ELOOP):
        os.stat(root / "loop")
    with fails(errno.ELOOP):
        os.open(root / "long", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.EINVAL):
        os.readlink(put(root / "file"))
    with fails(errno.ENOENT):
        os.symlink("", root / "empty")


def test_hard_links(root):
    put(root / "a")
    os.link(root / "a", root / "b")
    assert (root / "a").stat().st_ino == (root / "b").stat().st_ino
    assert (root / "b").stat().st_nlink == 2
    (root / "a").unlink()
    assert (root / "b").read_bytes() == b"data"
    assert (root / "b").stat().st_nlink == 1
    (root / "d").mkdir()
    with fails(errno.EPERM):
        os.link(root / "d", root / "e")
    with fails(errno.EEXIST):
        os.link(root / "b", root / "d")
    os.symlink("b", root / "s")
    os.link(root / "s", root / "s2", follow_symlinks=False)
    assert os.readlink(root / "s2") == "b"


# ---- contents ----

def test_an_unlinked_file_stays_readable(root):
    data = os.urandom(300_000)
    for size in (100, 300_000):
        put(root / "f", data[:size])
        with opened(root / "f", os.O_RDWR) as fd:
            (root / "f").unlink()
            assert os.fstat(fd).st_nlink == 0
            assert os.pread(fd, size, 0) == data[:size]
            os.pwrite(fd, b"more", size)
            assert os.pread(fd, 10, size) == b"more"
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 5)
            assert os.fstat(fd).st_size == 5
    assert os.listdir(root) == []


def test_a_replaced_file_stays_readable(root):
    put(root / "old", b"old" * 50_000)
    put(root / "new", b"new")
    with opened(root / "old", os.O_RDONLY) as fd:
        os.rename(root / "new", root / "old")
        assert os.pread(fd, 200_000, 0) == b"old" * 50_000
    assert (root / "old").read_bytes() == b"new"


@pytest.mark.parametrize("size", [0, 1, 1900, 2100, 4096, 70_000, 1 << 20])
def test_growing_and_shrinking(root, size):
    data = os.urandom(size)
    path = put(root / "f", data)
    os.truncate(path, size + 5000)
    assert path.read_bytes() == data + bytes(5000)
    os.truncate(path, size // 2)
    os.truncate(path, size)
    assert path.read_bytes() == data[:size // 2] + bytes(size - size // 2)
    with opened(path, os.O_WRONLY) as fd:
        os.pwrite(fd, b"end", size + 9000)
    assert path.stat().st_size == size + 9003
    assert path.read_bytes()[-5:] == b"\0\0end"
    with path.open("r+b") as f:
        f.truncate(0)
    assert path.read_bytes() == b""
    with fails(errno.EINVAL):
        os.truncate(path, -1)


def test_open_flags(root):
    put(root / "f", b"12345")
    with fails(errno.EEXIST):
        os.open(root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with fails(errno.ENOTDIR):
        os.open(root / "f", os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOENT):
        os.open(root / "none", os.O_WRONLY)
    with opened(root / "f", os.O_RDONLY) as fd:
        with fails(errno.EBADF):
            os.write(fd, b"x")
    with opened(root / "f", os.O_WRONLY | os.O_TRUNC) as fd:
        with fails(errno.EBADF):
            os.read(fd, 1)
    assert (root / "f").stat().st_size == 0


def test_append_by_two_processes(root):
    """No line gets lost or torn."""
    path = put(root / "log", b"")
    children = []
    for n in range(2):
        child = os.fork()
        if child == 0:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for i in range(500):
                os.write(fd, b"%d %d\n" % (n, i))
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1000
    assert [x for x in lines if x[:1] == b"0"] == [
        b"0 %d" % i for i in range(500)]


def test_beyond_4_gib(root):
    far = (5 << 30) + 12345
    with opened(root / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"start", 0)
        os.pwrite(fd, b"far", far)
        assert os.pread(fd, 10, far - 2) == b"\0\0far"
        assert os.lseek(fd, 1 << 20, os.SEEK_DATA) > 4 << 30
        assert os.lseek(fd, 0, os.SEEK_HOLE) < 4 << 30
    st = (root / "f").stat()
    assert st.st_size == far + 3
    assert st.st_blocks * 512 < 16 << 20
    os.truncate(root / "f", (4 << 30) + 1)
    assert (root / "f").stat().st_size == (4 << 30) + 1


def test_seek_data_and_hole(root):
    with opened(root / "f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"x" * 65536, 1 << 20)
        end = os.lseek(fd, 0, os.SEEK_END)
        data = os.lseek(fd, 0, os.SEEK_DATA)
        assert 0 <= data <= 1 << 20
        hole = os.lseek(fd, 1 << 20, os.SEEK_HOLE)
        assert hole == end
        assert os.lseek(fd, 0, os.SEEK_HOLE) <= data or data == 0
        with fails(errno.ENXIO):
            os.lseek(fd, end, os.SEEK_DATA)
        with fails(errno.ENXIO):
            os.lseek(fd, end + 1, os.SEEK_HOLE)
    put(root / "small", b"abc")
    with opened(root / "small", os.O_RDONLY) as fd:
        assert os.lseek(fd, 1, os.SEEK_DATA) == 1
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 3


def test_fallocate(root):
    path = put(root / "f", b"x" * 200_000)
    with opened(path, os.O_RDWR) as fd:
        fallocate(fd, 0, 0, 300_000)
        assert os.fstat(fd).st_size == 300_000
        fallocate(fd, FALLOC_KEEP_SIZE, 0, 500_000)
        assert os.fstat(fd).st_size == 300_000
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 1000, 100_000)
        fallocate(fd, sysops.FALLOC_ZERO_RANGE, 150_000, 10_000)
        with fails(errno.EOPNOTSUPP):
            fallocate(fd, FALLOC_PUNCH_HOLE, 0, 4096)
        with fails(errno.EINVAL):
            fallocate(fd, 0, 0, 0)
    wanted = bytearray(b"x" * 200_000 + bytes(100_000))
    wanted[1000:101_000] = bytes(100_000)
    wanted[150_000:160_000] = bytes(10_000)
    assert path.read_bytes() == wanted


def test_copy_file_range(root):
    data = os.urandom(300_000)
    put(root / "a", data)
    with opened(root / "a", os.O_RDONLY) as a, \
            opened(root / "b", os.O_RDWR | os.O_CREAT) as b:
        done = 0
        while done < len(data):
            done += os.copy_file_range(a, b, len(data) - done)
    assert (root / "b").read_bytes() == data


def test_mmap(root):
    data = os.urandom(200_000)
    path = put(root / "f", data)
    with opened(path, os.O_RDWR) as fd:
        with mmap.mmap(fd, 0) as shared:
            assert shared[:] == data
            shared[100_000:100_005] = b"hello"
            shared.flush()
            assert os.pread(fd, 5, 100_000) == b"hello"
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as private:
            private[:3] = b"abc"
            assert os.pread(fd, 3, 0) == data[:3]
    wanted = data[:100_000] + b"hello" + data[100_005:]
    assert path.read_bytes() == wanted
    with opened(path, os.O_RDONLY) as fd:
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    path.unlink()
    assert mapped[:] == wanted
    mapped.close()


def test_a_mapping_is_written_back_without_msync(root):
    path = put(root / "f", bytes(100_000))
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 0)
    mapped[50_000:50_004] = b"late"
    mapped.close()
    assert path.read_bytes()[50_000:50_004] == b"late"


def test_locks_are_the_kernels(root):
    import fcntl  # pylint: disable=import-outside-toplevel
    put(root / "f")
    with open(root / "f", "r+b") as a, open(root / "f", "r+b") as b:
        fcntl.flock(a, fcntl.LOCK_EX)
        with fails(errno.EAGAIN):
            fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(a, fcntl.LOCK_UN)
        fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- attributes ----

def test_times_have_nanoseconds(root):
    path = put(root / "f")
    for times in ((1_234_567_890_123_456_789, 987_654_321_987_654_321),
                  (1, 2), (4_294_967_296_000_000_001, 10 ** 18 + 7)):
        os.utime(path, ns=times)
        st = path.stat()
        assert (st.st_atime_ns, st.st_mtime_ns) == times


def test_which_times_an_operation_changes(root):
    """mtime and ctime rules; an old time shows what was touched."""
    old = 10 ** 18

    def touched(do, path):
        os.utime(path, ns=(old, old))
        before = os.lstat(path)
        time.sleep(0.02)
        do()
        after = os.lstat(path)
        return (after.st_mtime_ns != old,
                after.st_ctime_ns != before.st_ctime_ns)

    file, where = put(root / "f"), root / "d"
    where.mkdir()
    put(where / "x")
    assert touched(lambda: put(file, b"new"), file) == (True, True)
    assert touched(lambda: os.truncate(file, 9), file) == (True, True)
    assert touched(lambda: os.truncate(file, 9), file) == (True, True)
    assert touched(lambda: file.chmod(0o600), file) == (False, True)
    assert touched(lambda: os.chown(file, 1, 1), file) == (False, True)
    assert touched(lambda: os.link(file, root / "g"), file) == (False, True)
    assert touched((root / "g").unlink, file) == (False, True)
    assert touched(lambda: os.rename(file, root / "h"), where) == (False, False)
    os.rename(root / "h", file)
    assert touched(file.read_bytes, file) == (False, False)
    assert touched(lambda: put(where / "y"), where) == (True, True)
    assert touched(lambda: put(where / "y"), where) == (False, False)
    assert touched((where / "y").unlink, where) == (True, True)
    assert touched((where / "z").mkdir, where) == (True, True)
    assert touched((where / "z").rmdir, where) == (True, True)
    assert touched(lambda: os.rename(where / "x", root / "x"), where) == (
        True, True)


def test_utime_now_and_omit(root):
    path = put(root / "f")
    os.utime(path, ns=(10 ** 18, 10 ** 18))
    before = time.time() - 1
    os.utime(path)
    st = path.stat()
    assert st.st_mtime >= before and st.st_atime >= before


def test_chown_clears_setuid(root):
    path = put(root / "f")
    path.chmod(0o6755)
    os.chown(path, 1, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    (root / "d").mkdir()
    (root / "d").chmod(0o2755)
    os.chown(root / "d", 1, 1)
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2755


@pytest.mark.parametrize("change", ["write", "truncate"])
def test_a_users_write_clears_setuid(root, change):
    path = put(root / "f")
    path.chmod(0o6777)

    def write():
        if change == "truncate":
            os.truncate("f", 1)
        else:
            with open("f", "r+b") as f:
                f.write(b"x")
    as_user(root, write)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_setgid_directory_gives_its_group(root):
    (root / "d").mkdir()
    os.chown(root / "d", 0, 1234)
    (root / "d").chmod(0o2755)
    put(root / "d" / "f")
    (root / "d" / "sub").mkdir()
    assert (root / "d" / "f").stat().st_gid == 1234
    st = (root / "d" / "sub").stat()
    assert (st.st_gid, st.st_mode & stat.S_ISGID) == (1234, stat.S_ISGID)


def test_umask_and_mode(root):
    old = os.umask(0o027)
    try:
        os.close(os.open(root / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(root / "d", 0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750


def test_xattrs_are_not_supported(mount):
    path = put(mount().mnt / "f")
    with fails(errno.ENOTSUP):
        os.setxattr(path, "user.x", b"y")
    with fails(errno.ENOTSUP):
        os.getxattr(path, "user.x")


def test_statfs_shows_the_limit(mount):
    store = mount("limit=64M")

    def space():
        st = os.statvfs(store.mnt)
        return (st.f_blocks * st.f_frsize, st.f_bavail * st.f_frsize,
                st.f_namemax)
    total, free, longest = space()
    assert total == 64 << 20 and longest == 255
    assert 0 < free < total
    put(store.mnt / "f", bytes(8 << 20))
    assert 7 << 20 <= free - space()[1] <= 10 << 20
    assert (store.mnt / "f").stat().st_blksize == 1 << 20


def test_blocks_are_what_the_file_takes(root):
    path = put(root / "f", b"x" * 1_000_000)
    assert 1_000_000 <= path.stat().st_blocks * 512 <= 2_100_000


# ---- as a user ----

def test_permissions(root):
    put(root / "mine").chmod(0o600)
    (root / "closed").mkdir(0o700)
    (root / "open").mkdir()
    (root / "open").chmod(0o777)
    put(root / "readable").chmod(0o644)

    def user():
        assert os.path.exists("mine")
        for path, flags in (("mine", os.O_RDONLY), ("readable", os.O_WRONLY),
                            ("new", os.O_CREAT | os.O_WRONLY),
                            ("closed/x", os.O_RDONLY)):
            with fails(errno.EACCES):
                os.open(path, flags)
        with fails(errno.EACCES):
            os.unlink("mine")
        with fails(errno.EPERM):
            os.chmod("readable", 0o777)
        with fails(errno.EPERM):
            os.utime("readable", ns=(1, 1))
        with open("readable", "rb") as f:
            assert f.read() == b"data"
        with open("open/his", "wb") as f:
            f.write(b"x")
        with fails(errno.EPERM):
            os.chown("open/his", 0, 0)
        os.chmod("open/his", 0o4755)
        st = os.stat("open/his")
        return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)
    assert as_user(root, user) == (NOBODY, NOBODY, 0o4755)


def test_sticky_directory(root):
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    put(root / "tmp" / "roots").chmod(0o666)

    def user():
        for do in (lambda: os.unlink("tmp/roots"),
                   lambda: os.rename("tmp/roots", "tmp/x")):
            with fails(errno.EPERM):
                do()
        with open("tmp/his", "wb"):
            pass
        with fails(errno.EPERM):
            os.rename("tmp/his", "tmp/roots")
        os.rename("tmp/his", "tmp/still-his")
        os.unlink("tmp/still-his")
    as_user(root, user)
    with pytest.raises(OSError):
        as_user(root, lambda: os.rmdir("tmp"))


def test_a_user_sees_and_fills_the_mount_of_root(root):
    """What a build that does not run as root does in its own directory."""
    (root / "home").mkdir()
    os.chown(root / "home", NOBODY, NOBODY)

    def user():
        os.makedirs("home/http-v2/a/b")
        with open("home/http-v2/a/b/x.tmp", "wb") as f:
            f.write(b"x" * 100_000)
            os.fsync(f.fileno())
        os.rename("home/http-v2/a/b/x.tmp", "home/http-v2/a/b/x")
        with open("home/http-v2/a/b/x", "rb") as f:
            return f.read()
    assert as_user(root, user) == b"x" * 100_000


# ---- names that the daemon dropped ----

def test_an_evicted_name_is_enoent_not_estale(mount):
    import pipshape  # pylint: disable=import-outside-toplevel
    store = mount("limit=64M,grace=0")
    pipshape.store(store.mnt, 1, 100_000)
    body = pipshape.body_path(store.mnt, 1)
    # The kernel now holds the name and the inode for 10 s.
    assert body.stat().st_size == 100_000
    store.prune("--all")
    with fails(errno.ENOENT):
        body.open("rb")
    with fails(errno.ENOENT):
        os.truncate(body, 0)
    with fails(errno.ENOENT):
        body.unlink()
    pipshape.store(store.mnt, 1, 200_000)
    assert pipshape.load(store.mnt, 1, 200_000)


def test_an_open_file_is_not_evicted(mount):
    import pipshape  # pylint: disable=import-outside-toplevel
    store = mount("limit=64M,grace=0")
    for n in range(3):
        pipshape.store(store.mnt, n, 100_000)
    with pipshape.body_path(store.mnt, 1).open("rb") as f:
        store.prune("--all", still_open=1)
        assert f.read() == pipshape.body(1, 100_000)
        assert pipshape.load(store.mnt, 1, 100_000)
        assert not pipshape.load(store.mnt, 0, 100_000)
