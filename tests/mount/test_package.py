# SPDX-License-Identifier: MIT
"""The Debian package: what lintian says, and its life on a small system."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import mounted
from sysops import LET_GO

CHANGELOG = (pathlib.Path(__file__).parents[2]
             / "contrib" / "packaging" / "changelog")
CONFIG = "/etc/pipcachefs/pip.conf"
STORE = "/var/lib/pipcachefs/pip"
MOUNTPOINT = "/run/pipcachefs/pip"
# As fusermount3 makes it for a user, but that nobody serves it.
USER_MOUNT = """
import ctypes, os
fd = os.open("/dev/fuse", os.O_RDWR)
os.makedirs("/mnt/theirs")
options = f"fd={fd},rootmode=40000,user_id=1000,group_id=1000"
assert ctypes.CDLL(None).mount(b"/mnt/store", b"/mnt/theirs",
                               b"fuse.pipcachefs", 0, options.encode()) == 0
"""


class System:
    """The root of a small Debian, with mounts and processes of its own.

    They end with the block, whatever is left.
    """

    def __init__(self, root):
        self.root = root
        self.holder = self.first = None

    def __enter__(self):
        shutil.copyfile("/etc/resolv.conf", self.root / "etc/resolv.conf")
        script = LET_GO + ('mount -t proc proc "$0/proc" && '
                           'mount --rbind /dev "$0/dev" && '
                           'mount -t tmpfs tmpfs "$0/run" && echo ready && '
                           'exec chroot "$0" sleep infinity')
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh",
             "-c", script, self.root], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        pid = self.holder.pid
        self.first = pathlib.Path(f"/proc/{pid}/task/{pid}/children"
                                  ).read_text(encoding="utf-8").strip()
        mounted.wait_for(lambda: os.readlink(f"/proc/{self.first}/root")
                         == str(self.root), "the root of the small system")
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()

    def run(self, *command, code=0):
        """What @command printed there; it must end with @code."""
        done = subprocess.run(
            ["nsenter", f"--target={self.first}", "--mount", "--pid",
             "--root", "--wd=/", *command], check=False, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=300,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                 "DEBIAN_FRONTEND": "noninteractive"})
        assert done.returncode == code, f"{command}:\n{done.stdout}"
        return done.stdout

    def apt(self, *args):
        return self.run("apt-get", "-q", "-y", "--no-install-recommends",
                        *args)

    def exists(self, path):
        return os.path.lexists(f"{self.root}{path}")


@pytest.fixture
def system(tmp_path, base_tarball):
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xpf", base_tarball], check=True)
    with System(root.resolve()) as made:
        yield made


def fields(package):
    """The control fields of a package."""
    text = subprocess.run(["dpkg-deb", "--field", package], check=True,
                          capture_output=True, text=True).stdout
    return dict(re.findall(r"(?m)^(\S+): (.*)$", text))


def contents(package):
    out = subprocess.run(["dpkg-deb", "--contents", package], check=True,
                         capture_output=True, text=True).stdout
    return {line.split()[5].removeprefix(".") for line in out.splitlines()}


def test_lintian_finds_nothing(package):
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning",
         "--tag-display-limit", "0", package], check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout


def test_what_is_in_it(package):
    control = fields(package)
    depends = {d.split()[0] for d in control["Depends"].split(", ")}
    assert {"fuse3", "libc6", "liblmdb0"} <= depends
    assert any(d.startswith("libfuse3-") for d in depends)
    assert re.fullmatch(r".+ <.+@.+>", control["Maintainer"])
    version = subprocess.run([mounted.binary(), "--version"], check=True,
                             capture_output=True, text=True).stdout
    assert version == f"pipcachefs {control['Version']}\n"
    changes = CHANGELOG.read_text(encoding="utf-8")
    assert changes.startswith(f"pipcachefs ({control['Version']}) ")
    paths = contents(package)
    assert {"/usr/bin/pipcachefs", "/usr/share/man/man8/pipcachefs.8.gz",
            "/usr/share/man/man8/pipcachefs-mount.8.gz",
            "/usr/share/bash-completion/completions/pipcachefs",
            "/usr/share/zsh/vendor-completions/_pipcachefs",
            "/usr/share/fish/vendor_completions.d/pipcachefs.fish",
            "/usr/share/doc/pipcachefs/changelog.gz",
            "/usr/share/doc/pipcachefs/copyright",
            "/usr/share/doc/pipcachefs/examples/compose.yaml"} <= paths
    assert not any(".debug" in p or "/local/" in p for p in paths)
    # The symbols for debuggers are a package of their own.
    symbols, = package.parent.glob("pipcachefs-dbgsym_*deb")
    assert any(p.endswith(".debug") for p in contents(symbols))


def files_of(package):
    return {p for p in contents(package) if not p.endswith("/")}


def daemon(system):
    """The process that serves the mount."""
    status = system.run("pipcachefs", "status", MOUNTPOINT, "--json")
    return json.loads(status)["pid"]


def test_install_use_upgrade_remove_purge(package, system):
    shutil.copy(package, system.root / "tmp")
    there = f"/tmp/{package.name}"
    system.apt("update")
    system.apt("install", there)
    assert system.run("pipcachefs", "--version").startswith("pipcachefs ")
    assert all(system.exists(p) for p in files_of(package))

    system.run("mkdir", "-p", MOUNTPOINT)
    system.run("pipcachefs", "mount", STORE, MOUNTPOINT, "-o", "limit=64M")
    system.run("python3", "-c",
               f"open('{MOUNTPOINT}/file', 'w').write('kept')")
    assert "64.0 MiB" in system.run("pipcachefs", "limit", STORE)

    # The same version again is an upgrade to its scripts: another daemon
    # serves the mount, and no file was lost. A user's mount, which may be
    # anything, is left to him.
    system.run("python3", "-c", USER_MOUNT)
    before = daemon(system)
    out = system.run("dpkg", "--install", there)
    system.run("umount", "/mnt/theirs")
    assert "unmount" not in out
    assert daemon(system) != before
    assert system.run("cat", f"{MOUNTPOINT}/file") == "kept"

    # A mount outlives the program; the store, until it is purged.
    assert f"umount {MOUNTPOINT}" in system.apt("remove", "pipcachefs")
    assert system.run("cat", f"{MOUNTPOINT}/file") == "kept"
    assert [p for p in files_of(package) if system.exists(p)] == [CONFIG]
    assert "is mounted" in system.run("dpkg", "--purge", "pipcachefs")
    assert system.exists(STORE)
    system.run("umount", MOUNTPOINT)

    system.apt("install", there)
    system.run("pipcachefs", "mount", STORE, MOUNTPOINT)
    assert system.run("cat", f"{MOUNTPOINT}/file") == "kept"
    system.run("pipcachefs", "umount", MOUNTPOINT)
    # What an administrator makes, without a systemd here.
    made = ["/etc/pipcachefs/other.conf",
            "/etc/systemd/system/multi-user.target.wants/pipcachefs@pip"
            ".service"]
    for path in made:
        system.run("install", "-D", "/dev/null", path)
    system.apt("remove", "pipcachefs")
    assert all(system.exists(path) for path in [STORE, CONFIG, *made])
    system.run("dpkg", "--purge", "pipcachefs")
    assert not any(system.exists(path) for path in
                   ["/var/lib/pipcachefs", "/etc/pipcachefs", *made])
    assert system.run("dpkg", "--audit") == ""
    assert system.run("dpkg-query", "-W", "-f", "${Status}", "pipcachefs",
                      code=1)
