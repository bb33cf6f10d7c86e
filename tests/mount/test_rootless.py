# SPDX-License-Identifier: MIT
"""Builds by an ordinary user, with buildah and podman in a user namespace:
the user is root in them, and other users there have ids of /etc/subuid."""

import json
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import pytest

import builds
import mounted
import sysops
from benchlib import engines
from builds import APP, AS_APP, INSTALL, ROOTS_CACHE, Project
from index import Index

needs_idmap = pytest.mark.skipif(sysops.kernel() < (6, 12),
                                 reason="FUSE has idmapped mounts since 6.12")


class User:
    """An ordinary user, made for the tests."""

    def __init__(self, name):
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid = name, entry.pw_uid, entry.pw_gid
        self.home = pathlib.Path(entry.pw_dir)
        self.env = {"HOME": str(self.home), "USER": name,
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "XDG_RUNTIME_DIR": str(self.directory("run")),
                    "LC_ALL": "C.UTF-8"}
        self.prefix = ["setpriv", f"--reuid={self.uid}",
                       f"--regid={self.gid}", "--clear-groups",
                       "env", f"--chdir={self.home}"]

    def directory(self, name):
        """A new directory of this user in his home."""
        path = self.home / name
        path.mkdir()
        os.chown(path, self.uid, self.gid)
        return path

    def outside(self, uid):
        """The id that @uid of his user namespaces has outside of them."""
        ranges = pathlib.Path("/etc/subuid").read_text(encoding="utf-8")
        for line in ranges.splitlines():
            name, first, count = line.split(":")
            if name == self.name and uid <= int(count):
                return int(first) + uid - 1
        raise AssertionError(f"{self.name} has no range in /etc/subuid")


@pytest.fixture(scope="module")
def user():
    name = f"pipcachefs{os.getpid()}"
    home = tempfile.mkdtemp(prefix=name, dir="/tmp")
    with sysops.user_database():
        subprocess.run(["useradd", "--no-create-home", "--home-dir", home,
                        "--shell", "/bin/sh", name], check=True)
    try:
        entry = pwd.getpwnam(name)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        os.chmod(home, 0o755)
        yield User(name)
    finally:
        with sysops.user_database():
            subprocess.run(["userdel", name], check=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(autouse=True)
def device():
    with sysops.fuse_for_all():
        yield


class AsUser:
    """Of an engine that has a `user`."""

    def command(self, *args):
        return [*self.user.prefix, *super().command(*args)]


class Rootless(AsUser, engines.Buildah):
    """The user's own buildah."""

    def __init__(self, user):
        super().__init__(user.directory("buildah"))
        self.user = user
        self.env = {**user.env, "BUILDAH_ISOLATION": "chroot"}


class RootlessPodman(AsUser, engines.Podman):
    """The user's own podman, with the storage of his buildah."""

    def __init__(self, buildah):
        super().__init__(buildah.where)
        self.user, self.env = buildah.user, buildah.env


@pytest.fixture(scope="module")
def buildah(user, base_tarball):
    with Rootless(user) as buildah:
        buildah.load_base(base_tarball)
        yield buildah


@pytest.fixture
def index(wheels):
    with Index(wheels) as index:
        yield index


@pytest.fixture
def where(user, request):
    """A directory of the user for one test."""
    return user.directory(request.node.name)


@pytest.fixture
def users_store(mount, user, where):
    """Mounted by the user, for himself alone."""
    store = mount(start=False, path=where / "store")
    store.mnt = where / "mnt"
    store.mnt.mkdir()
    os.chown(store.mnt, user.uid, user.gid)
    store.wrap, store.env = user.prefix, user.env
    return store.mount()


@pytest.fixture
def roots_store(mount, where):
    """Mounted by root, where the user can reach it."""
    store = mount(start=False)
    store.mnt = where / "mnt"
    store.mnt.mkdir()
    return store.mount()


def test_own_mount(users_store, where, buildah, index):
    volume = ["--volume", f"{users_store.mnt}:{ROOTS_CACHE}"]
    first = Project(where / "first", index, "RUN " + INSTALL)
    second = Project(where / "second", index, "RUN " + INSTALL)
    assert first.build(buildah, *volume)
    assert second.build(buildah, *volume) == []
    podman = RootlessPodman(buildah)
    try:
        assert second.build(podman, *volume) == []
    finally:
        # Its process that stays has a copy of the mount, which then stays too.
        podman.run("system", "migrate")
    assert users_store.status()["hits"] >= 4
    users_store.umount()


def test_roots_mount_is_nobodys(roots_store, where, buildah, index):
    project = Project(where / "first", index, "RUN " + INSTALL)
    assert project.build(buildah, "--volume",
                         f"{roots_store.mnt}:{ROOTS_CACHE}")
    assert f"The directory '{ROOTS_CACHE}'{builds.OFF}" in project.printed
    assert os.listdir(roots_store.mnt) == []


@needs_idmap
def test_roots_mount_shown_as_the_users(roots_store, where, user, buildah,
                                        index):
    """By two views of it, one for each of the users of the builds."""
    root = Project(where / "first", index, "RUN " + INSTALL)
    app = Project(where / "app", index, *AS_APP, "RUN " + INSTALL)
    with sysops.idmapped(roots_store.mnt, where / "v0", 0, user.uid) as view:
        assert root.build(buildah, "--volume", f"{view}:{ROOTS_CACHE}")
    with sysops.idmapped(roots_store.mnt, where / "v1", 0,
                         user.outside(APP)) as view:
        conf = builds.for_all_users(where, view)
        assert app.build(buildah, conf=conf) == []
    assert roots_store.status()["hits"] >= 2
    assert {path.stat().st_uid for path in roots_store.mnt.rglob("*")} == {0}


IN_NAMESPACE = """
set -e
{program} mount {store} {mnt} -o limit=1G
trap '{program} umount {mnt}' EXIT
install -d -o {app} -g {app} {mnt}/app
{build}
{build}
{program} status {mnt} --json >{result}
"""


def test_mount_in_the_user_namespace(where, user, buildah, index):
    """Such a mount is for all users of the namespace. Nobody outside sees
    it, and the build runs inside."""
    mnt = where / "mnt"
    mnt.mkdir()
    os.chown(mnt, user.uid, user.gid)
    app = Project(where / "app", index, *AS_APP, "RUN " + INSTALL)
    script = IN_NAMESPACE.format(
        program=mounted.binary(), store=where / "store", mnt=mnt, app=APP,
        build=" ".join(["buildah", *buildah.storage(), "build", "--network",
                        "host", str(app.directory)]),
        result=where / "status")
    buildah.run("unshare", "sh", "-c", script, CONTAINERS_CONF=str(
        builds.for_all_users(where, mnt / "app")))
    wheels = [r["path"] for r in index.requests if r["path"].endswith(".whl")]
    assert wheels and len(wheels) == len(set(wheels))  # each was sent once
    status = json.loads((where / "status").read_text())
    assert status["hits"] >= len(builds.PACKAGES)
    assert not mounted.is_mounted(mnt)
