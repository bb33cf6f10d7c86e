# SPDX-License-Identifier: MIT
"""Idmapped mounts of a mount: one cache that belongs to several users."""

import errno
import os
import stat

import pytest

import sysops
from sysops import as_user
from test_posix import fails
from test_survive import kill_daemon, start

USER = 1000  # has what the store keeps as root's

pytestmark = pytest.mark.skipif(
    sysops.kernel() < (6, 12), reason="FUSE has idmapped mounts since 6.12")


@pytest.fixture
def store(mount):
    return start(mount)


@pytest.fixture
def view(store, tmp_path):
    with sysops.idmapped(store.mnt, tmp_path / "view", 0, USER) as path:
        yield path


def owner(path):
    st = os.lstat(path)
    return st.st_uid, st.st_gid


def make_one_of_each():
    os.mkdir("dir")
    os.mkfifo("fifo")
    os.symlink("dir", "symlink")
    with open("file", "x", encoding="ascii") as f:
        f.write("his")
    os.link("file", "link")
    return [owner(name) for name in sorted(os.listdir())]


def test_each_side_sees_its_own_owners(store, view):
    (store.mnt / "old").touch()
    assert owner(view) == owner(view / "old") == (USER, USER)
    assert as_user(view, make_one_of_each, uid=USER) == [(USER, USER)] * 6
    names = sorted(os.listdir(store.mnt))
    assert [owner(store.mnt / name) for name in names] == [(0, 0)] * 6
    os.chown(view / "file", USER, USER)
    assert owner(store.mnt / "file") == (0, 0)


def test_who_is_not_mapped_makes_nothing(store, view):
    store.mnt.chmod(0o777)
    for user in (0, USER + 1):
        with fails(errno.EOVERFLOW):
            as_user(view, os.mkdir, "dir", uid=user)
    assert os.listdir(store.mnt) == []


def test_next_daemon_goes_on_with_the_map(store, view):
    as_user(view, make_one_of_each, uid=USER)
    for n in range(3):
        kill_daemon(store)
        as_user(view, os.mkdir, f"dir{n}", uid=USER)
        assert owner(view / f"dir{n}") == (USER, USER)
        assert owner(store.mnt / f"dir{n}") == (0, 0)


def test_truncating_open_clears_setuid(store, view):
    """Whoever does it: who opens is not told where ids may be mapped."""
    path = store.mnt / "f"
    for top, user in ((view, USER), (store.mnt, 0)):
        path.write_bytes(b"x")
        path.chmod(0o6755)
        as_user(top, lambda: os.close(os.open("f", os.O_RDWR | os.O_TRUNC)),
                uid=user)
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
