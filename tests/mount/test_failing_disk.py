# SPDX-License-Identifier: MIT
"""The disk below fails under a live mount: hits go on, writes are refused in
a way that pip swallows, `status` says so, and after the next mount all is as
at the last checkpoint."""

import concurrent.futures
import errno
import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

import pipshape
from mounted import END_SECONDS, is_running, wait_for

MIB = 1 << 20
SIZE = 300_000
REFUSED = (errno.EROFS, errno.ENOSPC, errno.EIO)


def device_of(fs):
    return subprocess.run(["findmnt", "-no", "SOURCE", fs], check=True,
                          capture_output=True, text=True).stdout.strip()


def make_read_only(fs):
    """As the kernel does when ext4 finds an error, files open or not."""
    name = pathlib.Path(device_of(fs)).name
    trigger = pathlib.Path("/sys/fs/ext4", name, "trigger_fs_error")
    if not trigger.exists():
        pytest.skip("this kernel cannot make ext4 fail on demand")
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", fs],
                   check=True)
    trigger.write_text("1")
    with pytest.raises(OSError) as e:
        (fs / "probe").write_bytes(b"x")
    assert e.value.errno == errno.EROFS


def repaired(fs):
    """Checked and mounted again; nothing may be open there."""
    image = fs.with_name(fs.name + ".img")
    subprocess.run(["umount", fs], check=True)
    # A copy: another mount namespace may still have the one that failed.
    copy = image.with_suffix(".copy")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    copy.replace(image)
    subprocess.run(["e2fsck", "-fy", image], check=False,
                   capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, fs], check=True)


def assert_well_when_repaired(store, fs):
    """The next mount has what was saved, and takes more."""
    store.run("umount", store.mnt)
    store.process.wait(timeout=END_SECONDS)
    store.process = None
    repaired(fs)
    store.mount()
    assert store.status()["state"] == "ok"
    assert serves(store, range(5)) == [0, 1, 2, 3, 4]
    pipshape.store(store.mnt, 20, SIZE)
    assert serves(store, [20]) == [20]
    store.do("check", store.path, "--data")


def die(store):
    """The daemon is killed; returns the status that its successor gives."""
    pid = store.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid), "the daemon's end")
    os.stat(store.mnt)  # answered by who comes next
    status = store.status()
    assert status["pid"] != pid
    return status


def refused(do):
    with pytest.raises(OSError) as e:
        do()
    assert e.value.errno in REFUSED, e.value


def overwrite(path):
    with path.open("r+b", buffering=0) as f:
        f.write(b"other bytes")


def serves(store, numbers):
    return [n for n in numbers if pipshape.load(store.mnt, n, SIZE)]


@pytest.mark.parametrize("pending", [False, True],
                         ids=["all saved", "some not saved"])
def test_a_disk_that_goes_read_only(mount, loopfs, pending):
    fs = loopfs("ext4", 192 * MIB)
    store = mount("min_free=1M,limit=100M", path=fs / "store")
    for n in range(5):
        pipshape.store(store.mnt, n, SIZE)
    store.settle()
    store.sync()  # from now on they outlast anything
    if pending:
        pipshape.store(store.mnt, 5, SIZE)
    pid = store.status()["pid"]
    store.expect("saving the store failed|closing .*: Read-only|reaping"
                 "|after writing|no answer")
    with pipshape.body_path(store.mnt, 0).open("rb") as held:
        make_read_only(fs)
        assert serves(store, range(5)) == [0, 1, 2, 3, 4]
        assert held.read() == pipshape.body(0, SIZE)
    for n in (10, 11):
        refused(lambda n=n: pipshape.store(store.mnt, n, SIZE))
    path = pipshape.body_path(store.mnt, 1)
    refused(lambda: overwrite(path))
    refused(lambda: path.open("wb").close())
    refused(lambda: os.rename(path, path.with_name("x")))
    refused(lambda: os.unlink(path))
    refused(lambda: os.utime(path))
    wait_for(lambda: store.status()["state"] == "read-only", "the state")
    status = store.status()
    assert status["pid"] == pid
    assert "Read-only file system" in status["reason"], status["reason"]
    assert "hits are served" in status["reason"]
    assert store.run("prune", store.path, "--all").returncode in (0, 1)
    assert store.run("sync", store.path).returncode == 1
    assert serves(store, range(5)) == [0, 1, 2, 3, 4]
    assert store.status()["pid"] == pid
    assert_well_when_repaired(store, fs)


@pytest.mark.parametrize("known", [False, True],
                         ids=["nobody has seen it", "it was seen"])
@pytest.mark.parametrize("pending", [False, True],
                         ids=["all saved", "some not saved"])
def test_daemons_die_on_a_read_only_disk(mount, loopfs, known, pending):
    """The next one serves what the last one did."""
    fs = loopfs("ext4", 192 * MIB)
    store = mount("min_free=1M,limit=100M", path=fs / "store")
    for n in range(5):
        pipshape.store(store.mnt, n, SIZE)
    store.settle()
    store.sync()
    known_files = 5
    if pending:
        pipshape.store(store.mnt, 5, SIZE)
        known_files = 6
    os.sync()
    store.expect("saving the store failed|closing .*: Read-only|reaping"
                 "|after writing|another one goes on")
    with pipshape.body_path(store.mnt, 0).open("rb") as held:
        make_read_only(fs)
        if known:
            refused(lambda: pipshape.store(store.mnt, 10, SIZE))
            wait_for(lambda: store.status()["state"] == "read-only",
                     "the state")
        for n in range(3):
            status = die(store)
            assert status["state"] == "read-only"
            assert "Read-only file system" in status["reason"]
            assert "hits are served" in status["reason"]
            assert serves(store, range(6)) == list(range(known_files))
            assert held.seek(0) == 0
            assert held.read() == pipshape.body(0, SIZE)
            refused(lambda n=n: pipshape.store(store.mnt, 20 + n, SIZE))
            refused(lambda: os.unlink(pipshape.body_path(store.mnt, 1)))
            assert store.run("sync", store.path).returncode == 1
    assert store.status()["daemon_deaths"] == 3
    assert_well_when_repaired(store, fs)


@pytest.mark.parametrize("kind, size", [("ext4", 192 * MIB),
                                        ("xfs", 320 * MIB)])
def test_daemons_die_on_a_full_disk(mount, loopfs, kind, size):
    """No byte is free: the next one goes on all the same."""
    fs = loopfs(kind, size)
    store = mount("min_free=1M,limit=100M", path=fs / "store")
    for n in range(5):
        pipshape.store(store.mnt, n, SIZE)
    store.settle()
    store.expect("another one goes on")
    filler = fs / "filler"
    with filler.open("wb", buffering=0) as f, pytest.raises(OSError) as e:
        while True:
            f.write(bytes(4096))
    assert e.value.errno == errno.ENOSPC
    for _ in range(3):
        die(store)
        assert serves(store, range(5)) == [0, 1, 2, 3, 4]
    filler.unlink()
    # xfs gives its blocks back a moment later.
    wait_for(lambda: shutil.disk_usage(fs).free > 50 * MIB, "free blocks")
    pipshape.store(store.mnt, 20, SIZE)
    assert serves(store, [20]) == [20]
    store.umount()
    store.do("check", store.path, "--data")


def allow_files(keeper, most):
    """How many the daemons of this keeper may open, from now on: with 16
    none comes so far as to raise it."""
    subprocess.run(["prlimit", "--pid", str(keeper), f"--nofile={most}:"],
                   check=True)


UNABLE = re.compile("before it was ready")


def test_a_shortage_that_lasts(mount):
    """No daemon can start for a while: whoever uses the mount waits."""
    store = mount()
    store.expect("another one goes on")
    (store.mnt / "a").write_bytes(b"a" * 5000)
    status = store.status()
    allow_files(status["keeper_pid"], 16)
    os.kill(status["pid"], signal.SIGKILL)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        reading = pool.submit((store.mnt / "a").read_bytes)
        wait_for(lambda: len(UNABLE.findall(store.log())) >= 12,
                 "daemons that cannot start")
        assert not reading.done()
        allow_files(status["keeper_pid"], 1024)
        assert reading.result(timeout=60) == b"a" * 5000
    (store.mnt / "a").write_bytes(b"b")
    assert store.status()["state"] == "ok"


@pytest.mark.skipif("PIPCACHEFS_LONG" not in os.environ,
                    reason="takes three minutes: PIPCACHEFS_LONG=1")
def test_a_shortage_that_never_ends(mount):
    """With errors at last, not in silence."""
    store = mount()
    store.expect("another one goes on|giving up"
                 "|put back to the checkpoint")
    (store.mnt / "a").write_bytes(b"a" * 5000)
    store.sync()
    status = store.status()
    allow_files(status["keeper_pid"], 16)
    os.kill(status["pid"], signal.SIGKILL)
    with pytest.raises(OSError) as e:
        os.stat(store.mnt / "b")
    assert e.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert store.process.wait(timeout=END_SECONDS) == 1
    store.process = None
    assert "no daemon could start for 180 s: giving up" in store.log()
    store.do("umount", store.mnt)
    store.mount()
    assert (store.mnt / "a").read_bytes() == b"a" * 5000


@pytest.fixture
def small_tmpfs(tmp_path):
    """Where images of file systems lie that are larger than what is there."""
    where = tmp_path / "tmpfs"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M", "none", where],
                   check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


def test_a_disk_whose_writes_fail(mount, small_tmpfs, tmp_path):
    """Sectors that cannot be written: fsync fails with EIO, some time after
    the writes were accepted. What was saved before is served."""
    image, fs = small_tmpfs / "img", tmp_path / "fs"
    fs.mkdir()
    with image.open("wb") as f:
        f.truncate(256 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", "-O",
                    "^has_journal", image], check=True)
    subprocess.run(["mount", "-o", "loop,errors=continue", image, fs],
                   check=True)
    try:
        store = mount("min_free=1M,limit=200M", path=fs / "store")
        pid = store.status()["pid"]
        for n in range(5):
            pipshape.store(store.mnt, n, SIZE)
        store.settle()
        store.sync()
        store.expect("")  # of a dying disk much may be said
        saved = store.status()["checkpoints"]
        for n in range(100, 140):
            try:
                pipshape.store(store.mnt, n, 2 * MIB)
            except OSError as e:
                assert e.errno in REFUSED, e
        store.run("sync", store.path)
        wait_for(lambda: store.status()["state"] == "read-only", "the state")
        assert store.status()["pid"] == pid and saved
        assert serves(store, range(5)) == [0, 1, 2, 3, 4]
        refused(lambda: pipshape.store(store.mnt, 200, SIZE))
        for _ in range(2):
            status = die(store)
            assert status["state"] == "read-only", status
            assert serves(store, range(5)) == [0, 1, 2, 3, 4]
            refused(lambda: pipshape.store(store.mnt, 200, SIZE))
        store.run("umount", store.mnt)
        store.process.wait(timeout=END_SECONDS)
        store.process = None
        # The disk is well again: more room for the image.
        subprocess.run(["mount", "-o", "remount,size=512M", small_tmpfs],
                       check=True)
        store.mount()
        assert store.status()["state"] == "ok"
        assert serves(store, range(5)) == [0, 1, 2, 3, 4]
        for n in range(100, 140):
            pipshape.load(store.mnt, n, 2 * MIB)  # right, or not there
        pipshape.store(store.mnt, 200, SIZE)
        store.do("check", store.path, "--data")
        store.umount()
    finally:
        subprocess.run(["umount", "-l", fs], check=False)
