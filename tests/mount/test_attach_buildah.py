# SPDX-License-Identifier: MIT
"""Cache mounts of buildah on the mount, with Dockerfiles as they are."""

import os
import shutil
import signal
import subprocess
import time

import pytest

import attaching
from attaching import Attach, Builds, TARGET, cached, covers
from benchlib import engines
from index import Index
from mounted import END_SECONDS, wait_for

WEB = ["requests", "six"]
CLI = ["requests", "click"]
COMMON = {"requests", "urllib3", "certifi", "idna", "charset_normalizer"}

NAMES = 4  # that versions of buildah give to one cache mount


@pytest.fixture(scope="module")
def index(wheels):
    with Index(wheels) as served:
        yield served


@pytest.fixture(scope="module")
def buildah(tmp_path_factory, base_tarball):
    """buildah with the base image, and a directory for its cache mounts."""
    where = tmp_path_factory.mktemp("buildah")
    with engines.Buildah(where / "buildah") as buildah:
        buildah.tmp = where / "tmp"
        buildah.tmp.mkdir()
        # crun wants a cgroup tree of one version, which not all hosts have.
        buildah.env.update(TMPDIR=str(buildah.tmp),
                           BUILDAH_RUNTIME=shutil.which("runc"))
        buildah.load_base(base_tarball)
        yield buildah


def test_projects_share_what_they_download(buildah, index, mount, tmp_path):
    store = mount()
    builds = Builds(buildah, tmp_path / "src", index, "bud")
    # What a build left before, under an id that only its Dockerfile knows.
    assert builds.build(CLI, "cli") == COMMON | {"click"}
    with Attach("buildah", store, tmp_path / "log", "--tmpdir", buildah.tmp,
                "--id", "new") as attached:
        attached.await_line("took over")
        # One for each name that versions give to the default and to "new",
        # and the one that was found.
        wait_for(lambda: len(covers(store, buildah.tmp)) == 2 * NAMES + 1,
                 "all covers")
        assert len(cached(store)) >= 6
        assert builds.build(CLI, "cli") == set()
        # Without id=, and with a known one: from their first build. How the
        # container is made does not matter.
        assert builds.build(WEB) == {"six"}
        buildah.env["BUILDAH_ISOLATION"] = "oci"
        assert builds.build(WEB, "new") == set()
        with attaching.beneath(buildah.tmp, tmp_path / "beneath") as below:
            wait_for(lambda: not any(f for *_, f in os.walk(below)),
                     "nothing below the covers", 120)
    assert covers(store, buildah.tmp) == []


def test_a_killed_attach_is_gone_on_with(mount, tmp_path):
    store = mount()
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    args = ("buildah", store, tmp_path / "log", "--tmpdir", tmp)
    first = Attach(*args)
    wait_for(lambda: len(covers(store, tmp)) == NAMES, "the covers")
    first.kill()
    before = covers(store, tmp)
    with Attach(*args):
        # A mount that goes takes its covers along.
        attaching.unmount(store)
        wait_for(lambda: covers(store, tmp) == [], "no covers")
        store.process.wait(timeout=END_SECONDS)
        store.mount()
        wait_for(lambda: covers(store, tmp) == before, "covers")
    assert covers(store, tmp) == []


def test_a_stranger_gets_no_cover(mount, tmp_path):
    """/var/tmp is everybody's: what lies there may be a trap."""
    store = mount()
    tmp = tmp_path / "tmp"
    theirs = tmp / "buildah-cache"
    theirs.mkdir(parents=True)
    (theirs / "x").mkdir()
    (theirs / "x" / "http-v2").mkdir()
    (theirs / "x" / "http-v2" / "poison").write_text("poison")
    os.chown(theirs, 65534, 65534)
    (tmp / "buildah-cache-0").symlink_to(tmp_path)
    with Attach("buildah", store, tmp_path / "log", "--tmpdir",
                tmp) as attached:
        attached.await_line("does not belong to the owner")
        attached.await_line("covering")
    assert cached(store) == {}
    assert not (tmp_path / TARGET[1:]).exists()


def test_stores_do_not_cover_each_other(mount, tmp_path):
    first, second = mount(), mount()
    tmp = tmp_path / "tmp"
    tmp.mkdir()

    def args(store, name):
        return "buildah", store, tmp_path / name, "--tmpdir", tmp
    with Attach(*args(first, "first")):
        wait_for(lambda: len(covers(first, tmp)) == NAMES, "the covers")
        done = second.run("attach", "buildah", second.mnt, "--once",
                          "--tmpdir", tmp)
        assert done.returncode == 1
        assert f"covered with a mount of {first.path}" in done.stderr
        with Attach(*args(second, "second")) as other:
            other.await_line("left alone")
        assert covers(second, tmp) == []
        assert len(covers(first, tmp)) == NAMES
    assert covers(first, tmp) == []


def test_a_relative_directory(mount, tmp_path):
    store = mount()
    (tmp_path / "tmp").mkdir()
    store.do("attach", "buildah", store.mnt, "--once", "--tmpdir", "tmp",
             cwd=tmp_path)
    assert len(covers(store, tmp_path / "tmp")) == NAMES
    store.do("umount", store.path)
    assert covers(store, tmp_path) == []


@pytest.mark.parametrize("handler, ends", [
    (signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_the_end_of_its_terminal(mount, tmp_path, handler, ends):
    """Ends it, unless it was started with nohup."""
    store = mount()
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    before = signal.signal(signal.SIGHUP, handler)
    try:
        attached = Attach("buildah", store, tmp_path / "log", "--tmpdir", tmp)
    finally:
        signal.signal(signal.SIGHUP, before)
    with attached:
        wait_for(lambda: len(covers(store, tmp)) == NAMES, "the covers")
        attached.process.send_signal(signal.SIGHUP)
        if ends:
            assert attached.process.wait(timeout=60) == 0
    assert covers(store, tmp) == []


def test_signals_to_all_of_it(mount, tmp_path):
    """Ctrl-C and systemd reach its children too, which are in the middle of
    something: to end is the parent's affair."""
    store = mount("watchdog=0")
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    daemon = store.status()["pid"]

    def child():
        done = subprocess.run(["pgrep", "-P", str(attached.process.pid)],
                              check=False, stdout=subprocess.PIPE, text=True)
        return done.stdout.split()

    def waiting():
        before = child()
        time.sleep(0.5)
        return before if before == child() else None
    with Attach("buildah", store, tmp_path / "log", "--tmpdir",
                tmp) as attached:
        wait_for(lambda: len(covers(store, tmp)) == NAMES, "the covers")
        os.kill(daemon, signal.SIGSTOP)
        try:
            asking, = wait_for(waiting, "a child that asks the mount")
            os.kill(int(asking), signal.SIGINT)
            assert waiting() == [asking]
            attached.process.send_signal(signal.SIGINT)
            attached.process.wait(timeout=60)
        finally:
            os.kill(daemon, signal.SIGCONT)
    assert attached.process.returncode == 0
    assert covers(store, tmp) == []
