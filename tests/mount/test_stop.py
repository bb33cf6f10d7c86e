# SPDX-License-Identifier: MIT
"""Stopping a mount that is in use, and mounts that a file describes."""

import contextlib
import errno
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mounted import binary, is_mounted, is_running, wait_for
from sysops import LET_GO

MIB = 1 << 20


@contextlib.contextmanager
def process(*args, **kwargs):
    """One that says "ready", and is killed in the end."""
    with subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True, **kwargs) as p:
        try:
            assert p.stdout.readline() == "ready\n"
            yield p
        finally:
            p.kill()


def bound_elsewhere(directory):
    """A process in whose mount namespace, and in no other, it is at /mnt."""
    return process(
        "unshare", "--mount", "--propagation", "private", "bash", "-ec",
        f'mount --bind "$1" /mnt; {LET_GO} echo ready; exec cat', "bash",
        directory)


def stop(store, sig=signal.SIGTERM):
    os.kill(store.process.pid, sig)
    wait_for(lambda: not is_mounted(store.mnt), "the mount to go")


def ended(store):
    """The exit status of its keeper, which ends by itself."""
    code = store.process.wait(timeout=60)
    store.process = None
    return code


# ---- stop ----

def test_holders_are_named_and_served_until_they_let_go(mount):
    store = mount("stop_timeout=10m")
    (store.mnt / "mapped").write_bytes(b"m" * MIB)
    f = (store.mnt / "a").open("w+b", buffering=0)
    with (store.mnt / "mapped").open("r+b") as g:
        mapped = mmap.mmap(g.fileno(), MIB)
    with bound_elsewhere(store.mnt) as binder, \
            process("sh", "-c", "echo ready; exec cat", cwd=store.mnt) as cat:
        stop(store)
        wait_for(lambda: "is still in use" in store.log(), "their names")
        log = store.log()
        assert f"process {binder.pid} (cat) has it mounted on /mnt" in log
        assert f"process {cat.pid} (cat) works in " in log
        assert f"process {os.getpid()} (" in log and ") has open " in log
        f.write(b"served")
        mapped[:6] = b"served"
        assert f.seek(0) == 0 and f.read() == b"served"
        f.close()
        assert store.process.poll() is None
    # What is mapped alone holds it too.
    time.sleep(1.5)
    assert store.process.poll() is None
    mapped.close()
    assert ended(store) == 0
    store.mount()
    assert (store.mnt / "a").read_bytes() == b"served"
    assert (store.mnt / "mapped").read_bytes()[:7] == b"servedm"


def test_many_holders_are_counted(mount):
    store = mount("stop_timeout=10m")
    with contextlib.ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(process("sh", "-c", "echo ready; exec cat",
                                        cwd=store.mnt))
        stop(store)
        wait_for(lambda: "; and 3 more" in store.log(), store.log())
    assert ended(store) == 0


def test_names_of_holders_are_printable(mount):
    store = mount("stop_timeout=10m")
    name = "a\nb\x1b[31m"
    rename = ("import ctypes, os, sys; ctypes.CDLL(None).prctl(15, "
              "b'x\\n\\x1by', 0, 0, 0); f = open(sys.argv[1], 'w'); "
              "print('ready', flush=True); sys.stdin.read()")
    with process(sys.executable, "-c", rename, store.mnt / name) as p:
        stop(store)
        wait_for(lambda: "is still in use" in store.log(), "its name")
        assert f"process {p.pid} (x" in store.log()
        assert "\x1b" not in store.log() and "\nb" not in store.log()
    assert ended(store) == 0


def test_a_second_signal_ends_at_once(mount):
    store = mount("stop_timeout=10m")
    store.expect("SIGINT again: ending at once")
    with (store.mnt / "a").open("wb", buffering=0) as f:
        stop(store)
        time.sleep(0.2)
        os.kill(store.process.pid, signal.SIGINT)
        assert ended(store) == 0
        with pytest.raises(OSError) as e:
            f.write(b"late")
        assert e.value.errno == errno.ENOTCONN
        with contextlib.suppress(OSError):
            f.close()
    assert "again: ending at once" in store.log()


def test_a_successor_serves_holders_too(mount):
    store = mount("stop_timeout=10m")
    store.expect("another one goes on")
    with (store.mnt / "a").open("w+b", buffering=0) as f:
        daemon = store.status()["pid"]
        stop(store)
        os.kill(daemon, signal.SIGKILL)
        wait_for(lambda: not is_running(daemon), "the daemon's end")
        f.write(b"served")
        assert f.seek(0) == 0 and f.read() == b"served"
        assert store.process.poll() is None
    assert ended(store) == 0


def test_umount_names_who_has_it_elsewhere_and_waits(mount):
    store = mount()
    with bound_elsewhere(store.mnt) as binder:
        with subprocess.Popen(
                [store.process.args[0], "umount", store.mnt],
                stderr=subprocess.PIPE, text=True) as umount:
            line = umount.stderr.readline()
            assert "is still in use" in line
            assert f"process {binder.pid} (cat) has it mounted on /mnt" in line
            assert not is_mounted(store.mnt)
            assert umount.poll() is None
            binder.kill()
            assert umount.wait(timeout=60) == 0
    assert ended(store) == 0


# ---- mount ----

def test_a_dead_mount_of_the_same_store_is_replaced(mount):
    store = mount()
    (store.mnt / "a").write_bytes(b"a" * 5000)
    store.sync()
    status = store.status()
    for pid in (status["keeper_pid"], status["pid"]):
        os.kill(pid, signal.SIGKILL)
    store.process.wait()
    store.process = None
    wait_for(lambda: not is_running(status["pid"]), "the daemon's end")
    with pytest.raises(OSError):
        os.listdir(store.mnt)
    done = store.run("mount", store.path, store.mnt)
    assert done.returncode == 0
    assert "a mount whose daemon had died is replaced" in done.stderr
    assert (store.mnt / "a").read_bytes() == b"a" * 5000
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        assert sum(f" {store.mnt} " in line for line in f) == 1


def test_a_dead_mount_of_another_store_is_in_the_way(mount):
    store, other = mount(), mount(start=False)
    status = store.status()
    for pid in (status["keeper_pid"], status["pid"]):
        os.kill(pid, signal.SIGKILL)
    store.process.wait()
    store.process = None
    wait_for(lambda: not is_running(status["pid"]), "the daemon's end")
    done = store.run("mount", other.path, store.mnt)
    assert done.returncode == 1 and "umount" in done.stderr
    subprocess.run(["umount", "-l", store.mnt], check=True)


# ---- a file ----

def write_config(store, text):
    path = store.path.parent / "my.conf"
    path.write_text(f"store = {store.path}\n mountpoint={store.mnt} \n{text}")
    return path


def test_a_file_describes_a_mount(mount):
    store = mount(start=False)
    path = write_config(store, "# nothing\n\n\tlimit =\t64M\r\nnoexec\n")
    store.do("mount", "--config", path)
    assert store.status()["limit_bytes"] == 64 * MIB
    assert store.status()["options"] == "limit=64M,noexec"
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        assert any(f" {store.mnt} " in line and "noexec" in line for line in f)
    write_config(store, "limit=32M\nnoexec\n")
    with (store.mnt / "a").open("w+b", buffering=0) as f:
        f.write(b"before")
        assert "limit=32M,noexec" in store.do("reload", path)
        assert f.seek(0) == 0 and f.read() == b"before"
    assert store.status()["limit_bytes"] == 32 * MIB
    # Nothing has changed since: that is no error.
    store.do("limit", store.mnt, "48M")
    store.do("reload", path)
    assert store.status()["limit_bytes"] == 32 * MIB
    store.do("umount", store.mnt)
    done = store.run("reload", path)
    assert done.returncode == 1 and "is not mounted" in done.stderr
    store.do("mount", "-c", path, "-o", "limit=80M")  # adds to it
    assert store.status()["limit_bytes"] == 80 * MIB


@pytest.mark.parametrize("name", ["link/store", "real/store/"])
def test_reload_knows_a_store_by_any_of_its_names(mount, tmp_path, name):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = mount(path=tmp_path / "real" / "store", start=False)
    path = write_config(store, f"store={tmp_path}/{name}\nlimit=64M\n")
    store.do("mount", "--config", path)
    assert "limit=64M" in store.do("reload", path)


def next_daemon(keeper, before):
    """The keeper's child that is not @before, if there is one."""
    with open(f"/proc/{keeper}/task/{keeper}/children",
              encoding="utf-8") as f:
        return next((int(p) for p in f.read().split() if int(p) != before),
                    None)


def test_a_reload_that_fails_keeps_what_was_set(mount):
    """The daemon with the new options dies before it is ready; but for one
    that was quicker than its killer."""
    store = mount(start=False)
    path = write_config(store, "limit=64M\n")
    store.do("mount", "--config", path)
    store.expect("with the new options")
    store.expect("died|killed|another one goes on")
    for _ in range(20):
        write_config(store, "limit=64M\n")
        store.do("reload", path)
        store.do("limit", store.path, "48M")
        write_config(store, "limit=32M\n")
        status = store.status()
        new = None
        with subprocess.Popen([binary(), "reload", path],
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as reload:
            while not new and reload.poll() is None:
                new = next_daemon(status["keeper_pid"], status["pid"])
            if new:
                os.kill(new, signal.SIGKILL)
        after = store.status()
        if new and "limit=64M" in after["options"]:
            break
    else:
        pytest.fail("no daemon was killed early enough")
    assert after["pid"] not in (status["pid"], new)
    assert after["limit_bytes"] == 48 * MIB


def test_the_example_names_options_and_values_that_exist(mount):
    store = mount(start=False)
    example = pathlib.Path(__file__).parents[2] / "systemd" / "pip.conf"
    lines = [line[1:] for line in example.read_text().splitlines()
             if line[:1] == "#" and line[1:2].isalpha()]
    assert len(lines) > 10
    own = [line for line in lines
           if not line.startswith(("store =", "mountpoint ="))]
    path = write_config(store, "\n".join(own).replace("20G", "64M"))
    store.do("mount", "--config", path)
    assert store.status()["limit_bytes"] == 64 * MIB


@pytest.mark.parametrize("text, says", [
    ("frob\n", ":3: unknown mount option 'frob'; ours are limit="),
    ("limit=1G,low=2G\n", "neither a comma"),
    ("store=relative\n", ":3: store=relative must be a path"),
    ("a" * 5000, ":3: the line is longer"),
    ("limit=1G\0\n", ":3: not a text file"),
    ("\n\nlimit=\x01\n", ":5: a control character"),
])
def test_what_is_wrong_in_a_file_is_named(mount, text, says):
    store = mount(start=False)
    path = write_config(store, text)
    for command in (("mount", "--config", path), ("reload", path)):
        done = store.run(*command)
        assert says in done.stderr and str(path) in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.returncode == 2
    assert not is_mounted(store.mnt)


def test_a_file_that_cannot_be_read_is_named(mount, tmp_path):
    store = mount(start=False)
    for path, says in ((tmp_path / "none.conf", "No such file"),
                       (tmp_path, "Is a directory")):
        done = store.run("mount", "--config", path)
        assert done.returncode == 1
        assert str(path) in done.stderr and says in done.stderr
    done = store.run("mount", "--config", tmp_path / "x", store.path,
                     store.mnt)
    assert done.returncode == 2
