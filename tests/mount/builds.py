# SPDX-License-Identifier: MIT
"""Image builds of the tests: a Dockerfile, and settings of buildah and podman
for all builds."""

import os

from benchlib import engines
from test_pip import fetched

PACKAGES = ["requests", "six"]
INSTALL = "pip install " + " ".join(PACKAGES)
ROOTS_CACHE = "/root/.cache/pip"
APP = 1000  # the user of images that do not run as root
AS_APP = (f"RUN useradd --create-home --uid {APP} app", f"USER {APP}")
# Its words for a cache that it does not take.
OFF = (" or its parent directory is not owned or is not writable by the "
       "current user. The cache has been disabled.")
# Where pip is told to cache whoever it runs as, see pip_conf().
ANY_HOME = "/var/cache/pip"


def context(where, index, *lines):
    """A directory with a Dockerfile of @lines after those that each needs."""
    where.mkdir(parents=True)
    (where / "Dockerfile").write_text("\n".join([
        f"FROM {engines.BASE} AS first",
        f"ENV PIP_INDEX_URL={index.url} PIP_TRUSTED_HOST=127.0.0.1"
        " PIP_BREAK_SYSTEM_PACKAGES=1",
        *lines, ""]))
    return where


def pip_conf(where):
    """A pip.conf for images, which names a cache that is in no home."""
    path = where / "pip.conf"
    path.write_text(f"[global]\ncache-dir = {ANY_HOME}\n")
    return path


def containers_conf(where, *volumes):
    """A containers.conf with @volumes for every build."""
    path = where / "containers.conf"
    listed = ", ".join(f'"{v}"' for v in volumes)
    path.write_text(f"[containers]\nvolumes = [{listed}]\n")
    return path


def for_all_users(where, cache):
    """A containers.conf by which all builds have @cache at ANY_HOME."""
    return containers_conf(where, f"{cache}:{ANY_HOME}",
                           f"{pip_conf(where)}:/etc/pip.conf:ro")


def build(engine, directory, *options, conf=os.devnull):
    """Build what is in @directory; returns all that was printed."""
    return engine.run("build", "--network", "host", "--no-cache",
                      "--layers=false", *options, "--tag", directory.name,
                      directory, CONTAINERS_CONF=str(conf))


class Project:
    """A Dockerfile that installs something, and what its builds download."""

    def __init__(self, where, index, *lines):
        self.index = index
        self.directory = context(where, index, *lines)
        self.printed = ""

    def build(self, engine, *options, **kwargs):
        """Build it; returns the distributions that were downloaded."""
        fetched(self.index)
        self.printed = build(engine, self.directory, *options, **kwargs)
        return fetched(self.index)
