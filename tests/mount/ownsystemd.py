# SPDX-License-Identifier: MIT
"""A real systemd with the units of a build, in namespaces of its own.

It is PID 1 of its PID namespace, with its own /run, /etc, /var/lib and
/usr/local, in a cgroup of its own; nothing of it is left on the machine when
its PID 1 is killed. Its units are those that `cmake --install` installs, and
targets without anything in them; no journal: what services say goes to a file.
"""

import json
import os
import pathlib
import subprocess

from mounted import wait_for
from sysops import LET_GO, user_database

SYSTEMD = "/lib/systemd/systemd"
UNITS = ("/etc/systemd/own", "/usr/local/lib/systemd/system")
TARGETS = ("default", "sysinit", "basic", "shutdown", "multi-user",
           "local-fs")
# $1: a directory with etc, var and local; $2: a cgroup of the v2 hierarchy.
OUTER = r"""
set -e
echo 0 >"$2/cgroup.procs"
exec unshare --cgroup bash -c "$3" bash "$1"
"""
INNER = r"""
set -e
mount --make-rprivate /
mount -t proc proc /proc
""" + LET_GO + r"""
mount --make-rshared /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind "$1/etc" /etc
mount --bind "$1/var" /var/lib
mount --bind "$1/local" /usr/local
mount -t tmpfs tmpfs /run
mkdir /run/systemd
exec env -i container=test SYSTEMD_UNIT_PATH="$UNITS" PATH="$PATH" \
    "$SYSTEMD" --system --log-target=console --show-status=no
"""


def cgroup2():
    """Where the v2 hierarchy is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            if " - cgroup2 " in line:
                return pathlib.Path(line.split()[4])
    raise AssertionError("no cgroup2 is mounted here")


def remove_cgroup(top):
    """Once all its processes are gone, which are being killed."""
    def removed():
        for path, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                return False
        return True
    wait_for(removed, f"the end of all in {top}")


class OwnSystemd:
    """`pid`: of systemd, in our PID namespace. Use as a context manager."""

    def __init__(self, scratch, build):
        self.dir = scratch
        self.cgroup = cgroup2() / f"pipcachefs-test-{os.getpid()}"
        self.pid = None
        self.outer = None
        for name in ("etc", "var", "local"):
            (scratch / name).mkdir(parents=True)
        with user_database():
            subprocess.run(["cp", "-a", "/etc/.", scratch / "etc"],
                           check=True)
        subprocess.run(["cmake", "--install", build, "--prefix",
                        scratch / "local"], check=True, capture_output=True)
        (scratch / "etc" / "pipcachefs").mkdir()
        self._write_units()

    def _write_units(self):
        own = self.dir / "etc" / "systemd" / "own"
        own.mkdir(parents=True)
        for name in TARGETS:
            (own / f"{name}.target").write_text(
                "[Unit]\nDefaultDependencies=no\n")
        for unit, log in (("pipcachefs@", "%i"),
                          ("pipcachefs-attach@", "attach-%i")):
            drop_in = own / f"{unit}.service.d"
            drop_in.mkdir()
            (drop_in / "log.conf").write_text(
                f"[Service]\nStandardOutput=append:/var/lib/{log}.log\n"
                f"StandardError=append:/var/lib/{log}.log\n")

    def __enter__(self):
        self.cgroup.mkdir()
        env = {**os.environ, "UNITS": ":".join(UNITS), "SYSTEMD": SYSTEMD,
               "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        with (self.dir / "systemd.log").open("w") as log:
            self.outer = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork",
                 "--kill-child", "--propagation", "slave",
                 "bash", "-c", OUTER, "bash", self.dir, self.cgroup, INNER],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.pid = wait_for(self._child, "systemd's process")
            wait_for(lambda: self.ctl("is-system-running", check=False)
                     in ("running", "degraded"),
                     "systemd: " + (self.dir / "systemd.log").read_text())
        except BaseException:
            self.__exit__()
            raise
        return self

    def _child(self):
        assert self.outer.poll() is None, \
            (self.dir / "systemd.log").read_text()
        outer = self.outer.pid
        with open(f"/proc/{outer}/task/{outer}/children",
                  encoding="utf-8") as f:
            return int((f.read().split() or [0])[0])

    def __exit__(self, *_):
        self.outer.kill()  # and with it PID 1, and all others with that
        self.outer.wait()
        remove_cgroup(self.cgroup)

    # ---- in there ----

    def inside(self, *args):
        """The command that runs @args in there."""
        return ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i",
                *map(str, args)]

    def run(self, *args, timeout=120):
        return subprocess.run(self.inside(*args), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False,
                              timeout=timeout)

    def do(self, *args):
        done = self.run(*args)
        assert done.returncode == 0, \
            f"{args}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def ctl(self, *args, check=True):
        """systemctl; returns what it printed."""
        if check:
            return self.do("systemctl", *args)
        return self.run("systemctl", *args).stdout.strip()

    def show(self, unit, name):
        return self.ctl("show", "--value", "-p", name, unit)

    def path(self, inside):
        """How we see what is @inside there."""
        return pathlib.Path(f"/proc/{self.pid}/root{inside}")

    def service(self, name, text):
        """A mount of our unit, with that in its configuration; not started."""
        return Service(self, name, text)


class Service:
    """pipcachefs@NAME of an OwnSystemd. `mnt`: its mount point, seen by us."""

    def __init__(self, systemd, name, text):
        self.systemd, self.name = systemd, name
        self.unit = f"pipcachefs@{name}.service"
        self.inside = f"/run/pipcachefs/{name}"
        self.mnt = systemd.path(self.inside)
        self.configure(text)

    def configure(self, text):
        path = self.systemd.dir / "etc" / "pipcachefs" / f"{self.name}.conf"
        path.write_text(text)

    def ctl(self, verb, *args):
        """systemctl VERB of it, which has to succeed."""
        done = self.systemd.run("systemctl", verb, *args, self.unit)
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def start(self):
        self.ctl("start")
        return self

    def show(self, name):
        return self.ctl("show", "--value", "-p", name).strip()

    def status(self):
        return json.loads(self.systemd.do("pipcachefs", "status", "--json",
                                          self.inside))

    def drop_in(self, text):
        """More for its [Service]."""
        path = self.systemd.dir / "etc/systemd/own" / f"{self.unit}.d"
        path.mkdir()
        (path / "test.conf").write_text(f"[Service]\n{text}\n")
        self.systemd.ctl("daemon-reload")

    def kill(self, pid, signal="KILL"):
        self.systemd.do("kill", f"-{signal}", pid)

    def log(self):
        path = self.systemd.dir / "var" / f"{self.name}.log"
        return path.read_text() if path.exists() else ""
