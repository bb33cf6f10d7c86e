# SPDX-License-Identifier: MIT
"""Fixtures of the mount tests: each test has stores and mounts of its own.

PIPCACHEFS_BIN         the program to test (else `pipcachefs` in PATH)
PIPCACHEFS_BUILD       where it was built, with tools of tests (else beside it)
PIPCACHEFS_TEST_DATA   what is fetched once from PyPI is kept here
PIPCACHEFS_LONG=1      longer forms of the tests that search at random

`--plain` runs the tests on plain directories instead of mounts, so that a
test can be shown to hold there; what needs a daemon is skipped then.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

TREE = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "contrib" / "bench")]

import mounted  # noqa: E402
import realpip  # noqa: E402
from benchlib import engines  # noqa: E402

LOG_LINES = 60  # of a failed test's daemon that are shown; the file has all


def pytest_addoption(parser):
    parser.addoption("--plain", action="store_true",
                     help="plain directories instead of mounts")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--plain"):
        skip = pytest.mark.skip(reason="needs a mount")
        for item in items:
            if "mount" in item.fixturenames:
                item.add_marker(skip)
    elif not os.path.exists("/dev/fuse"):
        skip = pytest.mark.skip(reason="no /dev/fuse here")
        for item in items:
            item.add_marker(skip)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep the outcome for the fixtures, and show the logs of a failure."""
    outcome = yield
    report = outcome.get_result()
    item.failed = getattr(item, "failed", False) or report.failed
    if report.failed:
        for store in getattr(item, "stores", ()):
            lines = store.log().splitlines()[-LOG_LINES:]
            report.sections.append((f"log of {store.path}", "\n".join(lines)))


@pytest.fixture(autouse=True)
def keep_only_failures(request, tmp_path):
    """Stores are large: what a good test leaves is removed. Being autouse
    this is set up first and so comes last, when all is unmounted."""
    yield
    if not request.node.failed:
        shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def mount(request, tmp_path, loopfs):  # pylint: disable=unused-argument
    """Factory: `mount(opts, ...)` mounts a fresh store and returns a Store.

    @opts      for -o
    @path      the store (default: a fresh one)
    @daemon    let it daemonise instead of running with -f
    @start     False: only make the Store, do not mount
    """
    stores = request.node.stores = []

    def factory(opts="", path=None, daemon=False, start=True):
        n = len(stores)
        store = mounted.Store(path or tmp_path / f"store{n}",
                             tmp_path / f"mnt{n}", tmp_path / f"logs{n}")
        stores.append(store)
        store.dog = store.watch()
        return store.mount(opts, daemon) if start else store

    yield factory
    wrong = []
    for store in reversed(stores):
        wrong.append(store.finish())
        store.dog.cancel()
    wrong = [w for w in wrong if w]
    if wrong:
        request.node.failed = True
        pytest.fail("\n".join(wrong))


@pytest.fixture
def root(request, tmp_path):
    """The directory to test in: the top of a fresh mount (see --plain)."""
    if request.config.getoption("--plain"):
        where = tmp_path / "plain"
        where.mkdir()
        where.chmod(0o755)
        return where
    return request.getfixturevalue("mount")().mnt


@pytest.fixture
def loopfs(tmp_path):
    """Factory: a fresh file system of @kind and @size on a file, mounted."""
    mounted = []

    def factory(kind, size, *mkfs_options):
        image = tmp_path / f"{kind}{len(mounted)}.img"
        where = tmp_path / f"{kind}{len(mounted)}"
        where.mkdir()
        with image.open("wb") as f:
            f.truncate(size)
        force = {"ext4": ("-F", "-b", "4096"), "xfs": ("-f",)}[kind]
        subprocess.run([f"mkfs.{kind}", "-q", *force, *mkfs_options, image],
                       check=True)
        subprocess.run(["mount", "-o", "loop", image, where], check=True)
        mounted.append((where, image))
        return where

    yield factory
    for where, image in mounted:
        if subprocess.run(["umount", where], check=False).returncode != 0:
            subprocess.run(["umount", "-l", where], check=False)
        image.unlink()


@pytest.fixture(scope="session")
def wheels():
    """A directory of real wheels and an sdist, fetched once from PyPI."""
    return realpip.fetch_wheels()


@pytest.fixture(scope="session")
def base_tarball():
    """The root of a small Debian with pip, for images: made once."""
    return engines.base_root(realpip.DATA.parent / "base.tar")


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The Debian package of this tree."""
    where = tmp_path_factory.mktemp("deb")
    out = engines.checked([TREE / "contrib" / "packaging" / "deb", where])
    return pathlib.Path(out.splitlines()[-1])


@pytest.fixture(scope="session")
def pip_of():
    """Factory: the Python of a virtual environment with that pip version."""
    return realpip.python_with_pip
