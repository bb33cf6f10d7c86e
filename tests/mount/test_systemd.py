# SPDX-License-Identifier: MIT
"""The unit in a real systemd: starts, goes on whoever is killed, reloads, and
stops when nobody has the mount any more."""

import contextlib
import errno
import os
import pathlib
import signal
import subprocess
import threading
import time

import pytest

import pipshape
from mounted import binary, wait_for
from ownsystemd import SYSTEMD, OwnSystemd
from test_survive import Hammers

MIB = 1 << 20
# What `systemd-analyze security` says at most, where ten is the worst: 4.4 with
# systemd 252, and others count a little differently.
EXPOSURE_MAX = 5.0


@pytest.fixture(scope="module", name="systemd")
def own_systemd(tmp_path_factory):
    build = os.environ.get("PIPCACHEFS_BUILD") \
        or pathlib.Path(binary()).parent
    if not os.access(os.path.join(build, "cmake_install.cmake"), os.R_OK):
        pytest.skip("the units are built along with the tests only")
    if not os.access(SYSTEMD, os.X_OK):
        pytest.skip("no systemd here")
    with OwnSystemd(tmp_path_factory.mktemp("systemd"), build) as systemd:
        systemd.do("systemd-sysusers")
        systemd.do("systemd-tmpfiles", "--create",
                   "/usr/local/lib/tmpfiles.d/pipcachefs.conf")
        yield systemd


class Holder:
    """A process with a mount namespace of its own: like a container it has the
    mount at /mnt, and nowhere else. With @above it has the directory above
    there, and sees what is mounted in it later."""

    def __init__(self, systemd, directory, above=False):
        script = ('mount --rbind "$1" /mnt' if above else
                  'mount --bind "$1" /mnt; umount "$1"')
        self.enter = subprocess.Popen(
            systemd.inside("unshare", "--mount", "--propagation",
                           "slave" if above else "private", "bash", "-ec",
                           script + "; echo ready; exec cat",
                           "bash", directory),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.enter.stdout.readline() == "ready\n"
        enter = self.enter.pid  # enters, and has the process as its child
        with open(f"/proc/{enter}/task/{enter}/children",
                  encoding="utf-8") as f:
            self.pid = int(f.read())
        self.mnt = pathlib.Path(f"/proc/{self.pid}/root/mnt")

    def inner_pid(self):
        """As processes of the systemd see it."""
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as f:
            return next(line.split()[-1] for line in f
                        if line.startswith("NSpid:"))

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        self.enter.wait()
        self.enter.stdin.close()
        self.enter.stdout.close()


@contextlib.contextmanager
def holding(systemd, directory, above=False):
    holder = Holder(systemd, directory, above)
    try:
        yield holder
    finally:
        holder.end()


def await_status(service, text):
    """What a service says of itself comes to systemd a moment later."""
    wait_for(lambda: text in service.show("StatusText"), text)


def test_it_is_ready_when_it_answers_and_leaves_a_directory(systemd):
    s = systemd.service("plain", "limit = 256M\n# a comment\n")
    assert os.stat(systemd.path("/run/pipcachefs")).st_uid == 0
    s.start()
    assert s.show("ActiveState") == "active"
    await_status(s, "/run/pipcachefs/plain")
    assert s.show("NFileDescriptorStore") == "4"
    assert os.stat(s.mnt).st_uid == 0  # pip, as root, wants it so
    pipshape.store(s.mnt, 1, MIB)
    assert pipshape.load(s.mnt, 1, MIB)
    assert s.status()["limit_bytes"] == 256 * MIB
    s.ctl("stop")
    assert s.show("ActiveState") == "inactive"
    assert s.show("NFileDescriptorStore") == "0"
    # As pip sees the directory below: not root's, nor writable.
    below = os.stat(s.mnt)
    owner = systemd.do("getent", "passwd", "pipcachefs").split(":")[2]
    assert below.st_uid == int(owner) != 0 and below.st_mode & 0o777 == 0o555
    assert os.listdir(s.mnt) == []
    s.start()
    assert pipshape.load(s.mnt, 1, MIB)
    s.ctl("stop")
    assert "not closed" not in s.log()


def test_directories_that_are_missing_are_made(systemd):
    """Also the one above, without systemd-tmpfiles."""
    systemd.do("rm", "-rf", "--one-file-system", "/run/pipcachefs")
    s = systemd.service("made", "limit=64M\n").start()
    above = os.stat(systemd.path("/run/pipcachefs"))
    assert above.st_uid == 0 and above.st_mode & 0o777 == 0o755
    s.ctl("stop")
    assert os.stat(s.mnt).st_uid != 0
    # One that is not the default stays as it is.
    systemd.do("mkdir", "-p", "/run/mine")
    s.configure("mountpoint=/run/mine\n")
    s.start()
    s.ctl("stop")
    assert os.stat(systemd.path("/run/mine")).st_uid == 0


def test_containers_that_bind_the_directory_above_see_it_come_and_go(systemd):
    s = systemd.service("seen", "limit=64M\n")
    with holding(systemd, "/run/pipcachefs", above=True) as container:
        for _ in range(2):
            s.start()
            (s.mnt / "a").write_text("here")
            assert (container.mnt / "seen" / "a").read_text() == "here"
            s.ctl("stop")
            assert not (container.mnt / "seen" / "a").exists()


def test_a_killed_daemon_has_a_successor(systemd):
    s = systemd.service("daemon", "limit=64M\n").start()
    keeper = s.show("MainPID")
    with (s.mnt / "a").open("w+b", buffering=0) as f:
        f.write(b"one")
        s.kill(s.status()["pid"])
        f.write(b"two")
        assert (s.mnt / "a").read_bytes() == b"onetwo"
    assert s.show("MainPID") == keeper and s.show("NRestarts") == "0"
    await_status(s, "1 daemons have died")
    s.ctl("stop")


def is_stopped(service, pid):
    """Are all threads of that process, as it is called in there?"""
    tasks = service.systemd.path(f"/proc/{pid}/task")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return all((task / "stat").read_text().rpartition(")")[2].split()[0]
                   == "T" for task in tasks.iterdir())
    return False  # a thread has ended


def test_a_killed_keeper_has_a_successor_on_the_same_mount(systemd):
    s = systemd.service("keeper", "limit=64M\n").start()
    device = os.stat(s.mnt).st_dev
    gone = (s.mnt / "gone").open("w+b", buffering=0)
    gone.write(b"g" * 300_000)
    os.unlink(s.mnt / "gone")
    f = (s.mnt / "a").open("w+b", buffering=0)
    for n in range(3):
        f.write(b"written")
        # A write that waits: its daemon is stopped, and then killed too.
        daemon = s.status()["pid"]
        s.kill(daemon, "STOP")
        wait_for(lambda: is_stopped(s, daemon), "all its threads to stop")
        writer = threading.Thread(target=f.write, args=(b"waited",))
        writer.start()
        time.sleep(0.2)
        assert writer.is_alive()
        keeper = s.show("MainPID")
        s.kill(keeper)
        writer.join(timeout=120)
        assert not writer.is_alive()
        wait_for(lambda: s.show("ActiveState") == "active", s.log())
        assert s.show("MainPID") not in ("0", keeper)
        assert s.status()["pid"] != daemon
        assert s.show("NRestarts") == str(n + 1)
        assert os.stat(s.mnt).st_dev == device
        assert gone.seek(0) == 0 and gone.read() == b"g" * 300_000
        assert (s.mnt / "a").read_bytes() == b"writtenwaited" * (n + 1)
    gone.close()
    f.close()
    assert s.show("NFileDescriptorStore") == "4"
    s.ctl("stop")
    assert s.show("NFileDescriptorStore") == "0"
    assert s.log().count("is mounted on") == 1
    assert "checkpoint" not in s.log()


def test_requests_do_not_wake_systemd(systemd):
    """It keeps a descriptor that has something to read with each of them."""
    s = systemd.service("quiet", "limit=64M\n").start()

    def wakeups():
        with open(f"/proc/{systemd.pid}/status", encoding="utf-8") as f:
            return next(int(line.split()[1]) for line in f
                        if line.startswith("voluntary_ctxt_switches"))
    time.sleep(0.5)
    before = wakeups()
    for n in range(3000):
        assert not (s.mnt / f"none{n}").exists()
    assert wakeups() - before < 200
    s.ctl("stop")


def test_keepers_are_killed_under_load(systemd):
    s = systemd.service("load", "limit=512M\n").start()
    hammers = Hammers(s, range(20, 23))
    kills = 8  # the unit allows ten starts in ten minutes
    for n in range(kills):
        time.sleep(0.3)
        s.kill(s.show("MainPID"))
        wait_for(lambda: s.show("NRestarts") == str(n + 1)
                 and s.show("ActiveState") == "active", s.log())
        assert not hammers.failed()
    assert hammers.stop() > 50 * kills
    status = s.status()
    assert status["requests_taken_over"] >= kills // 2
    assert status["requests_given_up"] == 0
    assert "nothing is wrong" in systemd.do(
        "pipcachefs", "check", "--data", s.inside)
    s.ctl("stop")


def test_reload_has_new_limits_under_what_is_open(systemd):
    s = systemd.service("reload", "limit=64M\ngrace=1h\n").start()
    f = (s.mnt / "a").open("w+b", buffering=0)
    f.write(b"before")
    s.configure("limit=32M\ngrace=5m\nlow=50%\nworkers=3\nsync=strict\n")
    s.ctl("reload")
    f.write(b"after")
    status = s.status()
    assert status["limit_bytes"] == 32 * MIB
    assert status["low_bytes"] == 16 * MIB
    assert status["grace_seconds"] == 300
    assert "sync=strict" in status["options"]
    assert s.show("NRestarts") == "0"
    # Those after a death have them too.
    s.kill(s.status()["pid"])
    assert (s.mnt / "a").read_bytes() == b"beforeafter"
    assert s.status()["limit_bytes"] == 32 * MIB
    s.kill(s.show("MainPID"))
    assert f.seek(0) == 0 and f.read() == b"beforeafter"
    assert s.status()["grace_seconds"] == 300
    f.close()
    s.ctl("stop")


@pytest.mark.parametrize("text, says", [
    ("limit=64M\ngrace=soon\n", ":2: grace=soon must be a time"),
    ("limit=64M\nlow=128M\n", "low"),
    ("limit=64M\nwatchdog=5\n", "watchdog cannot change"),
    ("limit=64M\nstore=/var/lib/other\n", "store=/var/lib/other cannot"),
])
def test_reload_refuses_and_the_old_options_hold(systemd, text, says):
    s = systemd.service("refuse", "limit=64M\n").start()
    s.configure(text)
    done = systemd.run("systemctl", "reload", s.unit)
    assert done.returncode != 0
    assert says in s.log(), s.log()
    (s.mnt / "a").write_text("still")
    assert s.status()["limit_bytes"] == 64 * MIB
    assert s.show("ActiveState") == "active"
    s.configure("limit=64M\n")
    s.ctl("stop")


def test_stop_serves_those_who_have_it_until_they_let_go(systemd):
    s = systemd.service("holders", "limit=64M\nstop_timeout=10m\n").start()
    pipshape.store(s.mnt, 1, MIB)
    with holding(systemd, s.inside) as container:
        f = (container.mnt / "a").open("w+b", buffering=0)
        s.ctl("stop", "--no-block")
        wait_for(lambda: "is still in use" in s.log(), "the holders' names")
        assert f"process {container.inner_pid()} (cat) has it mounted on " \
            "/mnt" in s.log()
        await_status(s, "is still in use")
        assert s.show("ActiveState") == "deactivating"
        # Others find the directory below; those go on.
        assert os.listdir(s.mnt) == []
        assert pipshape.load(container.mnt, 1, MIB)
        pipshape.store(container.mnt, 2, MIB)
        f.write(b"served")
        # Also by a successor.
        daemon = wait_for(lambda: daemon_of(s), "a daemon")
        s.kill(daemon)
        assert f.seek(0) == 0 and f.read() == b"served"
        time.sleep(1)
        assert s.show("ActiveState") == "deactivating"
        f.close()
    wait_for(lambda: s.show("ActiveState") == "inactive", s.log())
    assert s.show("Result") == "success"
    s.start()
    assert pipshape.load(s.mnt, 1, MIB) and pipshape.load(s.mnt, 2, MIB)
    assert (s.mnt / "a").read_bytes() == b"served"
    s.ctl("stop")


def daemon_of(service):
    """The pid, in there, of the process that serves."""
    store = service.systemd.dir / "var" / "pipcachefs" / service.name
    words = (store / "lock").read_text().split()
    return words[0] if words else None


def test_stop_ends_after_stop_timeout(systemd):
    s = systemd.service("timeout", "limit=64M\nstop_timeout=5\n")
    s.drop_in("TimeoutStopSec=3")  # which is extended
    s.start()
    pipshape.store(s.mnt, 1, MIB)
    with holding(systemd, s.inside) as container:
        f = (container.mnt / "a").open("w+b", buffering=0)
        s.ctl("stop")  # waits
        assert "stop_timeout=5 is over" in s.log()
        assert s.show("ActiveState") == "inactive"
        assert s.show("Result") == "success"
        with pytest.raises(OSError) as e:
            f.write(b"late")
        assert e.value.errno == errno.ENOTCONN
        with contextlib.suppress(OSError):
            f.close()
        s.start()  # its store is free again
        assert pipshape.load(s.mnt, 1, MIB)
    s.ctl("stop")


@pytest.mark.parametrize("text, says, code", [
    ("limit=64M\nlimmit=5G\n", "bad.conf:2: unknown mount option 'limmit=5G'",
     "2"),
    ("limit=many\n", "bad.conf:1: limit=many is not a size", "2"),
    ("mountpoint=/run/none/there\n",
     "/run/none/there: No such file or directory", "1"),
])
def test_a_start_that_fails_says_why(systemd, text, says, code):
    s = systemd.service("bad", text)
    assert systemd.run("systemctl", "start", s.unit).returncode != 0
    wait_for(lambda: s.show("ActiveState") == "failed", s.log())
    assert says in s.log()
    assert s.show("ExecMainStatus") == code
    if code == "2":  # another start would end the same
        assert s.show("NRestarts") == "0"
    systemd.ctl("reset-failed", s.unit)


def test_a_start_without_a_file_says_so(systemd):
    done = systemd.run("systemctl", "start", "pipcachefs@none")
    assert done.returncode != 0 and "Assert" in done.stderr, done.stderr


def test_a_mount_that_nobody_can_go_on_with_is_made_anew(systemd):
    """The keeper is killed while systemd keeps nothing of it."""
    s = systemd.service("anew", "limit=64M\n")
    s.drop_in("FileDescriptorStoreMax=0")
    s.start()
    (s.mnt / "a").write_text("a")
    systemd.do("pipcachefs", "sync", s.inside)
    s.kill(s.show("MainPID"))
    wait_for(lambda: s.show("NRestarts") == "1"
             and s.show("ActiveState") == "active", s.log())
    assert (s.mnt / "a").read_text() == "a"
    assert "a mount whose daemon had died is replaced" in s.log()
    s.ctl("stop")


def test_what_is_kept_of_a_mount_that_is_gone_is_dropped(systemd):
    s = systemd.service("gone", "limit=64M\n").start()
    (s.mnt / "a").write_text("a")
    # The mount goes while nobody is there to see it.
    pid = int(s.show("MainPID"))
    systemd.do("bash", "-c", f"kill -STOP {daemon_of(s)} {pid};"
               f"umount -l {s.inside}; kill -KILL {pid}")
    wait_for(lambda: s.show("NRestarts") == "1"
             and s.show("ActiveState") == "active", s.log())
    assert "is of no use, and is dropped" in s.log()
    assert "a" in os.listdir(s.mnt) or "checkpoint" in s.log()
    (s.mnt / "b").write_text("b")
    assert s.show("NFileDescriptorStore") == "4"
    s.ctl("stop")


@pytest.mark.parametrize("unit", ["pipcachefs@.service",
                                  "pipcachefs-attach@.service"])
def test_the_units_are_clean_and_tight(systemd, unit):
    path = f"/usr/local/lib/systemd/system/{unit}"
    done = systemd.run("systemd-analyze", "verify", "--man=no", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = systemd.run("systemd-analyze", "security", "--offline=true",
                       f"--threshold={EXPOSURE_MAX * 10:.0f}", path)
    assert done.returncode == 0, done.stdout[-200:]


def test_the_unit_that_attaches(systemd, tmp_path):
    """Its sandbox allows what it does, and it ends before its mount."""
    unit = "pipcachefs-attach@buildah.service"
    caches = tmp_path / "tmp"
    caches.mkdir()
    (systemd.dir / "etc" / "default" / "pipcachefs-attach-buildah").write_text(
        f"PIPCACHEFS_ATTACH_OPTIONS=--tmpdir {caches}\n")

    def covered():
        mounts = systemd.path("/proc/1/mountinfo").read_text()
        return sum(f" {caches}/" in line for line in mounts.splitlines())

    s = systemd.service("pip", "limit=64M\n")
    systemd.run("systemctl", "start", unit)  # and with it what it needs
    assert systemd.show(unit, "ActiveState") == "active", \
        (systemd.dir / "var" / "attach-buildah.log").read_text()
    assert s.show("ActiveState") == "active"
    wait_for(lambda: covered() > 0, "covers")
    (s.mnt / "a").write_text("seen")
    cover = next(path for path in systemd.path(caches).glob("*/*")
                 if (path / "a").exists())
    assert (cover / "a").read_text() == "seen"
    systemd.ctl("reload", s.unit)
    assert systemd.show(unit, "ActiveState") == "active"
    s.ctl("stop")
    assert systemd.show(unit, "ActiveState") == "inactive"
    assert systemd.show(unit, "Result") == "success"
    assert covered() == 0
