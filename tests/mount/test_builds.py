# SPDX-License-Identifier: MIT
"""Builds with buildah and podman, as root, whose pips use the mount.

What counts: the index is asked for no wheel again, and the mount had the hits.
"""

import os
import pathlib
import tempfile

import pytest

import builds
import examples
import sysops
from benchlib import engines
from builds import APP, AS_APP, INSTALL, ROOTS_CACHE, Project
from index import Index
from mounted import wait_for
from test_containers import mount_in, parent  # noqa: F401


@pytest.fixture(scope="module")
def buildah(base_tarball):
    # podman takes no long path for what runs.
    where = tempfile.mkdtemp(prefix="buildah-", dir="/tmp")
    with engines.Buildah(where) as buildah:
        buildah.load_base(base_tarball)
        yield buildah


@pytest.fixture
def index(wheels):
    with Index(wheels) as index:
        yield index


def hits(store):
    return store.status()["hits"]


# ---- one volume for all builds ----

@pytest.mark.parametrize("isolation", [["chroot"],
                                       ["oci", "--runtime", engines.RUNC]],
                         ids=["chroot", "oci"])
def test_second_project_downloads_nothing(parent, mount, tmp_path, buildah,
                                          index, isolation):
    """With contrib/examples/containers.conf."""
    store = mount_in(mount(start=False), parent)
    conf = tmp_path / "containers.conf"
    conf.write_text(examples.text(conf.name).replace(
        f'"{examples.PARENT}:', f'"{parent}:'))
    options = ["--isolation", *isolation]
    first = Project(tmp_path / "first", index, "RUN " + INSTALL)
    second = Project(tmp_path / "second", index, "RUN " + INSTALL)
    assert len(first.build(buildah, *options, conf=conf)) >= 2
    before = hits(store)
    assert second.build(buildah, *options, conf=conf) == []
    assert hits(store) >= before + 2
    assert files_in(buildah, "second", ROOTS_CACHE) == []


def files_in(buildah, image, path):
    """What the image has below @path: none of what it saw in the cache."""
    container = buildah.run("from", image).strip()
    top = pathlib.Path(buildah.run("mount", container).strip())
    found = list((top / path.lstrip("/")).rglob("*"))
    buildah.run("rm", container)
    return found


def test_cache_of_a_builder_stage(mount, tmp_path, buildah, index):
    """Packages are copied from one stage to the next, the cache is not."""
    store = mount()
    options = ["--volume", f"{store.mnt}:{ROOTS_CACHE}"]
    first = Project(tmp_path / "first", index, "RUN " + INSTALL)
    second = Project(
        tmp_path / "second", index, "RUN pip install --user requests",
        f"FROM {engines.BASE}",
        "COPY --from=first /root/.local /root/.local",
        "RUN python3 -c 'import requests; "
        "assert requests.__file__.startswith(\"/root/.local/\")'")
    assert first.build(buildah, *options)
    assert second.build(buildah, *options) == []
    assert hits(store) > 0
    assert files_in(buildah, "second", ROOTS_CACHE) == []


# ---- users other than root ----

def test_pip_of_another_user_turns_roots_cache_off(mount, tmp_path, buildah,
                                                   index):
    """The words that the README quotes."""
    store = mount()
    conf = builds.for_all_users(tmp_path, store.mnt)
    app = Project(tmp_path / "app", index, *AS_APP, "RUN " + INSTALL)
    assert app.build(buildah, conf=conf)
    assert f"The directory '{builds.ANY_HOME}'{builds.OFF}" in app.printed


@pytest.mark.skipif(sysops.kernel() < (6, 12),
                    reason="FUSE has idmapped mounts since 6.12")
def test_root_and_another_user_share_one_cache(mount, tmp_path, buildah,
                                               index):
    store = mount()
    root = Project(tmp_path / "root", index, "RUN " + INSTALL)
    app = Project(tmp_path / "app", index, *AS_APP, "RUN " + INSTALL,
                  "RUN pip install --user click")
    assert root.build(
        buildah, conf=builds.for_all_users(tmp_path, store.mnt))
    with sysops.idmapped(store.mnt, tmp_path / "view", 0, APP) as view:
        conf = builds.for_all_users(tmp_path, view)
        assert [name for name in app.build(buildah, conf=conf)
                if "click" not in name] == []
        assert app.build(buildah, conf=conf) == []
    assert {path.stat().st_uid for path in store.mnt.rglob("*")} == {0}


def test_directory_of_another_user(mount, tmp_path, buildah, index):
    """The way on kernels that cannot map ids: names of its own, and bytes that
    are shared."""
    store = mount()
    own = store.mnt / "app"
    own.mkdir()
    os.chown(own, APP, APP)
    root = Project(tmp_path / "root", index, "RUN " + INSTALL)
    assert root.build(
        buildah, conf=builds.for_all_users(tmp_path, store.mnt))
    conf = builds.for_all_users(tmp_path, own)
    app = Project(tmp_path / "app", index, *AS_APP, "RUN " + INSTALL)
    assert app.build(buildah, conf=conf)
    assert app.build(buildah, conf=conf) == []
    status = store.settle()
    assert status["saved_bytes"] > 0.4 * status["logical_bytes"]

    store.prune("--all")
    assert store.settle()["used"]["http"] == 0
    assert own.stat().st_uid == APP  # it stays, for the next build


# ---- podman ----

# What runc may set for a container on a machine with lower limits.
ULIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]


@pytest.fixture
def podman(buildah):
    return engines.Podman(buildah.where)


def test_podman_build(mount, tmp_path, podman, index):
    store = mount()
    conf = builds.containers_conf(tmp_path, f"{store.mnt}:{ROOTS_CACHE}")
    first = Project(tmp_path / "first", index, "RUN " + INSTALL)
    second = Project(tmp_path / "second", index, "RUN " + INSTALL)
    assert first.build(podman, conf=conf)
    assert second.build(podman, conf=conf) == []
    assert hits(store) >= 2


def test_container_sees_a_later_mount(parent, mount, podman, index):
    """It has the directory above the mount, as a slave."""
    store = mount_in(mount(start=False), parent)
    podman.run("run", "--detach", "--name", "waits", *ULIMITS,
               "--network", "host",
               "--volume", f"{parent}:/root/.cache:rslave",
               "--env", f"PIP_INDEX_URL={index.url}",
               "--env", "PIP_TRUSTED_HOST=127.0.0.1",
               "--env", "PIP_BREAK_SYSTEM_PACKAGES=1", engines.BASE,
               # Who looks into the mount just then keeps it busy.
               "sh", "-c", "touch /root/.cache/pip/seen; "
               "touch /root/.cache/runs; until [ -e /root/.cache/go ]; "
               "do sleep 0.2; done; " + INSTALL)
    try:
        wait_for((parent / "runs").exists, "the container to run")
        assert (store.mnt / "seen").exists()
        store.umount()
        store.mount()
        (parent / "go").touch()
        assert podman.run("wait", "waits").strip() == "0"
        assert store.status()["misses"] >= 2
    finally:
        podman.run("rm", "--force", "waits")
