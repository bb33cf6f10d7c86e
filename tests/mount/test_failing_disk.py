# SPDX-License-Identifier: MIT
"""The disk below fails under a live mount: hits go on, writes are refused in
a way that pip swallows, `status` says so, and after the next mount all is as
at the last checkpoint."""

import errno
import os
import pathlib
import subprocess

import pytest

import pipshape
from mounted import wait_for

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
    store.run("umount", store.mnt)
    store.process.wait(timeout=60)
    store.process = None

    image = fs.with_name(fs.name + ".img")
    subprocess.run(["umount", fs], check=True)
    subprocess.run(["e2fsck", "-fy", image], check=False,
                   capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, fs], check=True)
    store.mount()
    assert store.status()["state"] == "ok"
    assert serves(store, range(5)) == [0, 1, 2, 3, 4]
    pipshape.store(store.mnt, 20, SIZE)
    assert serves(store, [20]) == [20]
    store.do("check", store.path, "--data")


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
        store.run("umount", store.mnt)
        store.process.wait(timeout=60)
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
