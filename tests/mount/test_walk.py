# SPDX-License-Identifier: MIT
"""Who reads an index that cannot be trusted may die of it: it is a child.

What it dies of here is preloaded (tests/crashpoint.c): SIGBUS, as of a page
that the disk cannot read, when it reads the file or when LMDB maps it.
"""

import json
import shlex
import signal
import subprocess

import pytest

import pipshape
from mounted import binary
from test_survive import beside, daemon_pid, kill_daemon, start

COUNT = 10
DIED = "the process that read it died of it (Bus error)"


def deadly(call):
    return {"CRASHPOINT_CHILD": call,
            "LD_PRELOAD": str(beside("libcrashpoint.so"))}


def fill(store):
    for n in range(COUNT):
        pipshape.store(store.mnt, n)
    store.settle()
    store.sync()


def held(store):
    return sum(pipshape.load(store.mnt, n) for n in range(COUNT))


def assert_clean(store):
    assert "nothing is wrong" in store.do("check", "--data", store.path)


def assert_set_aside(store, deaths=0):
    """The index that killed: no daemon but those of the test died, the mount
    goes on with a new one, and all is in the old one."""
    assert f"the index is unreadable (index/data.mdb: {DIED})" in store.log()
    assert held(store) == 0
    pipshape.store(store.mnt, COUNT)
    assert pipshape.load(store.mnt, COUNT)
    assert store.status()["daemon_deaths"] == deaths
    store.umount()
    assert (store.path / "index.bad").exists()
    store.do("check", "--repair", store.path)
    del store.env["LD_PRELOAD"]
    store.mount()
    assert held(store) == COUNT
    assert_clean(store)


def test_check_of_a_mount_does_not_kill_it(mount):
    store = start(mount, **deadly("pread"))
    fill(store)
    pid = daemon_pid(store)
    done = store.run("check", "--json", store.mnt)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["findings"] == [f"index: {DIED}; nothing else can be checked"]
    assert daemon_pid(store) == pid and store.status()["daemon_deaths"] == 0
    assert held(store) == COUNT
    store.remount_without("LD_PRELOAD")
    assert_clean(store)
    assert held(store) == COUNT


def test_check_of_a_store_says_what_it_died_of(mount, monkeypatch):
    store = mount()
    fill(store)
    store.umount()
    with monkeypatch.context() as m:
        for name, value in deadly("lmdb").items():
            m.setenv(name, value)
        inode = (store.path / "index" / "data.mdb").stat().st_ino
        m.setenv("CRASHPOINT_INODE", str(inode))
        done = store.run("check", store.path)
        assert done.returncode == 1 and not done.stdout
        assert f"is unreadable (index/data.mdb: {DIED}): run check --repair " \
            in done.stderr
        # Its child dies of it too, and that is enough to know.
        said = store.do("check", "--repair", store.path)
        assert f"{2 * COUNT} files came back" in said
    assert_clean(store)
    store.mount()
    assert held(store) == COUNT


def test_whoever_starts_it_may_not_care_for_children(mount):
    store = mount()
    fill(store)
    store.umount()
    command = shlex.join([binary(), "check", str(store.path)])
    done = subprocess.run(["bash", "-c", f"trap '' CHLD; exec {command}"],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is wrong" in done.stdout


def test_an_index_that_kills_is_set_aside(mount):
    """Though it was closed as it should be."""
    store = start(mount, **deadly("lmdb"))
    fill(store)
    store.umount()
    store.expect("is unreadable")
    store.mount()
    assert_set_aside(store)


@pytest.mark.parametrize("call", ["lmdb", "pread"])
def test_an_index_that_kills_after_a_restore_is_set_aside(mount, call):
    store = start(mount, **deadly(call))
    fill(store)
    store.kill9()
    store.expect("at its last checkpoint|is unreadable")
    store.mount()
    assert_set_aside(store)


@pytest.mark.parametrize("call", ["lmdb", "pread"])
def test_an_index_that_kills_after_crashes_is_set_aside(mount, call):
    """With the second, and no daemon dies of it."""
    store = start(mount, **deadly(call))
    store.expect("is unreadable|thread .* signal 11|pipcachefs\\(|lib.*\\(|^  ")
    fill(store)
    kill_daemon(store, signal.SIGSEGV)
    assert held(store) == COUNT and "unreadable" not in store.log()
    kill_daemon(store, signal.SIGSEGV)
    assert_set_aside(store, deaths=2)
