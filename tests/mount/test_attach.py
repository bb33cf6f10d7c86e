# SPDX-License-Identifier: MIT
"""Cache mounts of real builds on the mount, with Dockerfiles as they are."""

import os
import pathlib
import subprocess
import threading

import pytest

import attaching
from attaching import Attach, Builds, TARGET, cached, covers
from benchlib import engines
from index import Index
from mounted import wait_for

WEB = ["requests", "numpy"]
CLI = ["requests", "click"]
COMMON = {"requests", "urllib3", "certifi", "idna", "charset_normalizer"}
# So often a new cache mount may be too quick for whoever attaches.
TRIES = 5


@pytest.fixture(scope="module")
def index(wheels):
    with Index(wheels) as served:
        yield served


@pytest.fixture(scope="module", params=["vfs", "overlay2"])
def any_docker(request, tmp_path_factory, base_tarball):
    """A dockerd with the base image, of each driver that can be attached to."""
    where = tmp_path_factory.mktemp(request.param)
    with engines.Docker(where, request.param) as docker:
        docker.load_base(base_tarball)
        yield docker


@pytest.fixture(scope="module")
def docker(tmp_path_factory, base_tarball):
    with engines.Docker(tmp_path_factory.mktemp("docker"),
                        "overlay2") as docker:
        docker.load_base(base_tarball)
        yield docker


@pytest.fixture
def attach(mount, tmp_path):
    """Factory: `attach(docker)` attaches a fresh mount to it."""
    store = mount()

    def factory(docker, *args):
        attached = Attach("docker", store, tmp_path / "attach.log",
                          "--docker-host", docker.host, *args)
        attached.store = store
        return attached
    return factory


def of(docker, store):
    """The covers of @store that the engine has."""
    return covers(store, docker.root, docker.process.pid)


def await_covers(docker, attached, n):
    wait_for(lambda: len(of(docker, attached.store)) == n,
             f"{n} covers: {of(docker, attached.store)} {attached.log()}")


def prune(docker):
    docker.run("builder", "prune", "--all", "--force")


# ---- docker -----------------------------------------------------------------

def test_projects_share_what_they_download(any_docker, index, attach,
                                           tmp_path):
    docker = any_docker
    builds = Builds(docker, tmp_path / "src", index)
    with attach(docker) as attached:
        assert builds.build(WEB, "web") == COMMON | {"numpy"}
        await_covers(docker, attached, 1)
        wait_for(lambda: len(cached(attached.store)) >= 6, "a filled cache")
        assert builds.build(WEB, "web") == set()

        # Another project, in its first build, unless that was faster than
        # the cover: then it has a plain cache, and so would the next one.
        for n in range(TRIES):
            if not COMMON & builds.build(CLI, f"cli{n}"):
                break
        else:
            pytest.fail("common wheels were downloaded again: "
                        + attached.log())
        assert "click" not in builds.build(CLI, f"cli{n}")

        # A prune takes the cache mounts, and what we have not.
        before = cached(attached.store)
        names = of(docker, attached.store)
        prune(docker)
        assert attaching.cache_mounts(docker) == {}
        wait_for(lambda: of(docker, attached.store) == [], "no cover left")
        assert cached(attached.store) == before
        for _ in range(TRIES):
            if not builds.build(WEB, "web"):
                break
            prune(docker)
        else:
            pytest.fail("downloaded again after a prune: " + attached.log())
        await_covers(docker, attached, 1)
        assert not set(of(docker, attached.store)) & set(names)
    assert of(docker, attached.store) == []
    prune(docker)


def test_what_builds_left_is_taken_over(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    assert builds.build(CLI, "cli") == COMMON | {"click"}
    ident, = attaching.cache_mounts(docker)
    plain = docker.root / "overlay2" / ident / "diff"
    there = {str(p.relative_to(plain)): p.stat().st_size
             for p in plain.rglob("*") if p.is_file()}
    assert len(there) >= 6
    with attach(docker) as attached:
        await_covers(docker, attached, 1)
        assert cached(attached.store) == there
        attached.await_line("took over")
        assert builds.build(CLI, "cli") == set()
        # Its bytes take room once: below the cover they go.
        with attaching.beneath(docker.root, tmp_path / "beneath") as root:
            below = root / plain.relative_to(docker.root)
            wait_for(lambda: not any(below.iterdir()),
                     f"an empty directory: {attached.log()}")
    prune(docker)


def test_a_directory_in_use_waits_for_its_build(docker, index, attach,
                                                tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    hold = f"touch {TARGET}/begun && until [ -e {TARGET}/end ]; " \
        "do sleep 0.1; done"
    running = threading.Thread(target=builds.build,
                               args=(["six"], "slow", hold))
    running.start()
    wait_for(lambda: attaching.cache_mounts(docker), "a cache mount")
    ident, = attaching.cache_mounts(docker)
    plain = docker.root / "overlay2" / ident / "diff"
    wait_for((plain / "begun").exists, "a build at work")
    with attach(docker) as attached:
        attached.await_line("is in use by a build")
        assert of(docker, attached.store) == []
        (plain / "end").touch()
        running.join()
        await_covers(docker, attached, 1)
        assert "begun" in cached(attached.store)
        assert builds.build(["six"], "slow") == set()
    prune(docker)


def test_the_engine_may_restart(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    with attach(docker) as attached:
        await_covers(docker, attached, 1)
        docker.stop()
        attached.await_line("has gone away")
        docker.start()
        attached.await_line("is back")
        await_covers(docker, attached, 1)
        assert builds.build(["six"], "a") == set()
    assert of(docker, attached.store) == []
    prune(docker)


def test_a_killed_attach_is_gone_on_with(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    first = attach(docker)
    await_covers(docker, first, 1)
    first.kill()
    assert len(of(docker, first.store)) == 1
    assert builds.build(["six"], "a") == set()
    with attach(docker, "--target", "/nowhere", "--target", TARGET):
        builds.build(["click"], "b")
        await_covers(docker, first, 2)
    assert of(docker, first.store) == []
    prune(docker)


def test_a_mount_may_go_and_come_back(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    with attach(docker) as attached:
        store = attached.store
        await_covers(docker, attached, 1)
        # The covers keep the daemon going until they are taken away.
        subprocess.run(["umount", store.mnt], check=True)
        attached.await_line("is not mounted any more")
        await_covers(docker, attached, 0)
        store.process.wait(timeout=60)
        builds.build(["click"], "a")
        store.mount()
        attached.await_line("is mounted again")
        await_covers(docker, attached, 1)
        assert builds.build(["six", "click"], "a") == set()
        # One that is dead shows errors to builds: not for long.
        store.expect("")
        store.kill9()
        attached.await_line("plain caches", 60)
        await_covers(docker, attached, 0)
        builds.build(["six"], "b")
        store.mount()
        await_covers(docker, attached, 2)
    prune(docker)


def test_an_engine_in_a_namespace_of_its_own(tmp_path, base_tarball, index,
                                             attach, monkeypatch):
    own = tmp_path / "dockerd"
    own.write_text("#!/bin/sh\nexec unshare --mount --propagation private "
                   f"{engines.DOCKERD} \"$@\"\n")
    own.chmod(0o755)
    monkeypatch.setattr(engines, "DOCKERD", str(own))
    with engines.Docker(tmp_path / "docker") as docker:
        docker.load_base(base_tarball)
        builds = Builds(docker, tmp_path / "src", index)
        builds.build(["six"], "a")
        with attach(docker) as attached:
            await_covers(docker, attached, 1)
            assert covers(attached.store, docker.root) == []
            assert builds.build(["six"], "a") == set()
        assert of(docker, attached.store) == []


def test_once_leaves_covers_and_umount_takes_them(docker, index, mount,
                                                  tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    store = mount()
    store.do("attach", "docker", store.mnt, "--docker-host", docker.host,
             "--once")
    assert len(of(docker, store)) == 1
    assert builds.build(["six"], "a") == set()
    store.do("umount", store.path)
    assert of(docker, store) == []
    prune(docker)
