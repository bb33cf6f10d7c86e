# SPDX-License-Identifier: MIT
"""One quick walk through everything; also run under the sanitizers."""

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess

import pytest

import mounted
import pipshape
from sysops import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2


def test_files_and_names(mount):
    store = mount()
    top = store.mnt
    (top / "a").write_bytes(b"one")
    (top / "d").mkdir()
    os.rename(top / "a", top / "d" / "b")
    assert (top / "d" / "b").read_bytes() == b"one"
    assert os.listdir(top) == ["d"]
    big = os.urandom(3 << 20)
    (top / "big").write_bytes(big)
    with (top / "big").open("r+b") as f:
        f.seek(1 << 20)
        f.write(b"changed")
    big = big[:1 << 20] + b"changed" + big[(1 << 20) + 7:]
    os.link(top / "big", top / "again")
    os.symlink("big", top / "link")
    with pytest.raises(FileExistsError):
        renameat2(top / "big", top / "d" / "b", RENAME_NOREPLACE)
    renameat2(top / "big", top / "d" / "b", RENAME_EXCHANGE)
    assert (top / "d" / "b").read_bytes() == big
    assert (top / "link").read_bytes() == b"one"
    os.truncate(top / "again", 100_000)

    store.remount()
    assert sorted(os.listdir(top)) == ["again", "big", "d", "link"]
    assert (top / "again").read_bytes() == big[:100_000]
    assert (top / "d" / "b").stat().st_nlink == 2
    with pytest.raises(OSError) as e:
        (top / "d").rmdir()
    assert e.value.errno == errno.ENOTEMPTY
    for name in ("again", "big", "link", "d/b"):
        (top / name).unlink()
    (top / "d").rmdir()
    assert os.listdir(top) == []


def test_pip_shaped_files_stay(mount):
    store = mount("sync=strict")
    sizes = [0, 100, 1500, 70_000, 3 << 20]
    for n, size in enumerate(sizes):
        pipshape.store(store.mnt, n, size)
        assert pipshape.load(store.mnt, n, size)
    pipshape.store_wheel(store.mnt, 1, 100_000)
    store.remount()
    for n, size in enumerate(sizes):
        assert pipshape.load(store.mnt, n, size)
    status = store.status()
    assert status["used"]["wheels"] >= 100_000
    assert status["used"]["http"] >= 3 << 20
    assert status["hits"] >= len(sizes)
    store.kill9()
    store.mount()
    for n, size in enumerate(sizes):
        assert pipshape.load(store.mnt, n, size)


def test_eviction_keeps_the_limit(mount):
    store = mount("limit=32M,grace=0")
    for n in range(60):
        pipshape.patiently(pipshape.store, store.mnt, n, 1 << 20)
    status = store.settle()
    assert status["evictions"] > 0
    assert status["used_bytes"] <= status["charged_bytes"] <= 32 << 20
    assert store.du() <= 32 << 20
    there = [pipshape.load(store.mnt, n, 1 << 20) for n in range(60)]
    assert there[-1] and not there[0]


def use(top, share):
    """One process among several that write, read and remove."""
    for n in range(40):
        n = (n * 7 + share * 3) % 40
        with contextlib.suppress(OSError):
            pipshape.store(top, n, 20_000 * (n % 9))
        with contextlib.suppress(OSError):
            pipshape.load(top, (n + 20) % 40, 20_000 * ((n + 20) % 40 % 9))
        if n % 5 == share:
            with contextlib.suppress(OSError):
                pipshape.body_path(top, n).unlink()
                pipshape.header_path(top, n).unlink()
        for _ in os.walk(top / "http-v2" / pipshape.key(n)[0]):
            pass


def test_many_at_once(mount):
    store = mount("limit=40M,grace=0")
    fork = multiprocessing.get_context("fork")
    users = [fork.Process(target=use, args=(store.mnt, n)) for n in range(4)]
    for process in users:
        process.start()
    store.sync()
    for process in users:
        process.join()
        assert process.exitcode == 0
    store.remount()
    there = [n for n in range(40)
             if pipshape.load(store.mnt, n, 20_000 * (n % 9))]
    assert there


def test_status_has_all_its_keys(mount):
    store = mount("limit=64M,min_free=1M,grace=30,low=50%")
    status = store.status()
    assert set(status) == set(
        "version store mountpoint options mounted pid keeper_pid since daemon_deaths "
        "requests_taken_over requests_replayed requests_given_up "
        "state reason limit_bytes "
        "low_bytes min_free_bytes grace_seconds charged_bytes used_bytes "
        "excess_bytes disk_free_bytes logical_bytes disk_data_bytes "
        "saved_bytes ratio waste_bytes index_live_bytes files_whole recipes "
        "blocks used files entries open_files unsummed "
        "hits misses evictions evicted_bytes damaged reaped checkpoints "
        "last_checkpoint damaged_blocks damaged_records scrub_bytes "
        "scrub_all_bytes last_scrub last_walk".split())
    assert set(status["used"]) == set(
        "http wheels selfcheck other index freed".split())
    assert status["store"] == str(store.path)
    assert status["mountpoint"] == str(store.mnt)
    assert status["mounted"] is True
    assert (status["state"], status["reason"]) == ("ok", "")
    assert (status["limit_bytes"], status["low_bytes"]) == (64 << 20, 32 << 20)
    assert (status["min_free_bytes"], status["grace_seconds"]) == (1 << 20, 30)
    assert mounted.is_running(status["pid"])
    assert (store.path / "lock").read_text().split()[0] == str(status["pid"])

    by_mount = json.loads(store.do("status", store.mnt, "--json"))
    assert by_mount["pid"] == status["pid"]
    text = store.do("status", store.path)
    assert str(store.path) in text and "64" in text
    metrics = store.do("status", store.path, "--prometheus")
    assert "pipcachefs_limit_bytes" in metrics and "# TYPE" in metrics

    store.umount()
    status = store.status()
    assert status["mounted"] is False and status["mountpoint"] is None


def test_daemon_goes_to_the_background(mount):
    """`mount` returns when the mount answers, `umount` when it is over."""
    store = mount(daemon=True)
    pid = store.status()["pid"]
    assert mounted.is_mounted(store.mnt)
    (store.mnt / "a").write_bytes(b"one")
    assert os.getsid(pid) != os.getsid(0)
    store.do("umount", store.path)
    assert not mounted.is_mounted(store.mnt)
    assert not mounted.is_running(pid)
    # The form that mount(8) uses for a line of /etc/fstab.
    store.do(store.path, store.mnt, "-o", "rw,nosuid,nodev,limit=64M")
    assert (store.mnt / "a").read_bytes() == b"one"
    assert store.status()["limit_bytes"] == 64 << 20
    subprocess.run(["umount", store.mnt], check=True)


def test_mounted_by_who_has_nothing_open(mount):
    """The keeper's files are none of the three that it leaves."""
    store = mount(start=False)
    subprocess.run(["sh", "-c", 'exec "$0" mount "$@" <&- >&- 2>&-',
                    mounted.binary(), store.path, store.mnt], timeout=60,
                   check=True)
    (store.mnt / "a").write_bytes(b"kept")
    before = store.status()["pid"]
    os.kill(before, signal.SIGKILL)
    assert (store.mnt / "a").read_bytes() == b"kept"
    assert store.status()["pid"] != before
    store.do("umount", store.mnt)


def test_in_the_background_no_manager_is_told(mount, tmp_path, monkeypatch):
    """It is the manager of who mounts, and a keeper that it did not start."""
    store = mount(start=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        store.mount(daemon=True)
        store.do("umount", store.mnt)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
