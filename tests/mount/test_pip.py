# SPDX-License-Identifier: MIT
"""Real pips with the mount as their cache, against an index of our own."""

import concurrent.futures
import filecmp
import os
import re
import subprocess

import pytest

import realpip
from index import Index

PACKAGES = ["requests", "numpy", "six", "attrs", "click", "jinja2",
            "packaging", "pyyaml"]


class Pip:
    """A pip of one version that uses @cache and installs below @scratch."""

    def __init__(self, python, index, cache, scratch):
        self.python, self.index = python, index
        self.cache, self.scratch = cache, scratch
        scratch.mkdir(exist_ok=True)

    def run(self, *args, cache=True):
        """Run pip; returns its standard output.

        Settings go through the environment: so they reach the pips that pip
        starts to build an sdist.
        """
        env = realpip.environment(self.scratch)
        env["PIP_INDEX_URL"] = self.index.url
        if self.index.cert:
            env["PIP_CERT"] = str(self.index.cert)
        else:
            env["PIP_TRUSTED_HOST"] = "127.0.0.1"
        if cache:
            env["PIP_CACHE_DIR"] = str(self.cache)
        else:
            env["PIP_NO_CACHE_DIR"] = "1"
        done = subprocess.run(
            [self.python, "-m", "pip", *map(str, args)], env=env, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        # "The directory ... is not owned or is not writable by the current
        # user. The cache has been disabled."
        assert "has been disabled" not in done.stderr
        return done.stdout

    def install(self, name, *packages, cache=True):
        """Install into a directory of its own and return that."""
        target = self.scratch / name
        self.run("install", "--target", target, "--no-compile", *packages,
                 cache=cache)
        return target


@pytest.fixture(params=realpip.VERSIONS)
def pip(request, mount, wheels, pip_of, tmp_path):
    """A pip of each version, its index, and a fresh mount as its cache."""
    python = pip_of(request.param)
    # That pip caches nothing that came over plain http, and newer ones do
    # not take TLS to an IP address.
    tls = request.param == "20.3.4"
    store = mount()
    with Index(wheels, tls=tls) as index:
        pip = Pip(python, index, store.mnt, tmp_path / "scratch")
        pip.store = store
        yield pip


def fetched(index):
    """The distributions that were sent since the last call."""
    names = [r["path"] for r in index.requests
             if re.search(r"\.(whl|tar\.gz|zip)$", r["path"])]
    index.requests.clear()
    return names


def assert_same_tree(a, b):
    """@a and @b hold the same files with the same bytes."""
    def walk(top):
        return sorted(os.path.relpath(os.path.join(where, name), top)
                      for where, _, names in os.walk(top) for name in names)
    names = walk(a)
    assert names and names == walk(b)
    _, different, unread = filecmp.cmpfiles(a, b, names, shallow=False)
    assert not different and not unread


def test_second_install_downloads_nothing(pip):
    plain = pip.install("plain", *PACKAGES, cache=False)
    fetched(pip.index)

    first = pip.install("first", *PACKAGES)
    assert len(fetched(pip.index)) >= len(PACKAGES)
    again = pip.install("again", "requests")
    assert fetched(pip.index) == []
    pip.store.remount()
    second = pip.install("second", *PACKAGES)
    assert fetched(pip.index) == []

    assert_same_tree(plain, first)
    assert_same_tree(plain, second)
    assert (again / "requests").is_dir()
    status = pip.store.status()
    assert status["hits"] >= len(PACKAGES)
    assert status["damaged"] == 0


def test_hits_survive_a_killed_daemon(pip):
    pip.install("first", "requests", "six")
    pip.store.settle()
    pip.store.kill9()
    pip.store.mount()
    fetched(pip.index)
    second = pip.install("second", "requests", "six")
    assert fetched(pip.index) == []
    assert_same_tree(second, pip.scratch / "first")


def test_sdist_is_built_once(pip):
    first = pip.install("first", "--use-pep517", "docopt")
    assert any("docopt" in name for name in fetched(pip.index))
    built = list(pip.cache.glob("wheels/**/docopt-*.whl"))
    assert len(built) == 1
    assert not list(pip.cache.glob("wheels/**/tmp*"))

    second = pip.install("second", "--use-pep517", "docopt")
    assert fetched(pip.index) == []
    assert_same_tree(first, second)
    assert pip.store.status()["used"]["wheels"] > 0


def test_cache_commands(pip):
    pip.install("first", "--use-pep517", "docopt", "six")
    assert pip.run("cache", "dir").strip() == str(pip.cache)
    assert re.search(r"Number of .*wheels: 1", pip.run("cache", "info"))
    assert "docopt-0.6.2" in pip.run("cache", "list")

    pip.run("cache", "remove", "docopt")
    assert not list(pip.cache.glob("wheels/**/*.whl"))
    assert any(p.is_file() for p in pip.cache.glob("http*/**/*"))

    pip.run("cache", "purge")
    left = [p.name for kind in ("http", "http-v2", "wheels")
            for p in pip.cache.glob(kind + "/**/*") if p.is_file()]
    # Many pips leave the note beside a built wheel behind.
    assert set(left) <= {"origin.json"}
    assert pip.store.settle()["used"]["http"] == 0


def test_six_pips_at_once(pip):
    packages = ["requests", "jinja2", "pyyaml"]
    plain = pip.install("plain", *packages, cache=False)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        targets = list(pool.map(
            lambda n: pip.install(f"at-once-{n}", *packages), range(6)))
    fetched(pip.index)
    targets.append(pip.install("after", *packages))
    assert fetched(pip.index) == []
    for target in targets:
        assert_same_tree(plain, target)


def test_uncacheable_index_is_asked_again(mount, wheels, pip_of, tmp_path):
    """Without ETag and Cache-Control pip keeps nothing: no hit to expect."""
    store = mount()
    with Index(wheels, cacheable=False) as index:
        pip = Pip(pip_of("newest"), index, store.mnt, tmp_path / "scratch")
        pip.install("first", "six")
        fetched(index)
        pip.install("second", "six")
        assert any("six" in name for name in fetched(index))
    assert store.status()["hits"] == 0
