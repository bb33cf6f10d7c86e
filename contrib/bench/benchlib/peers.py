# SPDX-License-Identifier: MIT
"""The same cache directory kept by other programs, where these are installed.

Each peer is a function (top, base) -> bytes on disk: @top is a plain cache
directory, @base an empty directory to work in.
"""
import os
import shutil
import subprocess
import time

from . import cachefiles


class PeerError(Exception):
    """A peer is here but failed."""


def _run(*args, env=None, cwd=None):
    done = subprocess.run(args, check=False, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, **(env or {})})
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines() or ["-"]
        raise PeerError(f"{args[0]} exited with {done.returncode}: "
                        + words[-1])
    return done.stdout


def _plain(top, _):
    return cachefiles.on_disk(top)


def _borg(top, base):
    env = {"BORG_BASE_DIR": base + "/home", "LC_ALL": "C.UTF-8"}
    repo = base + "/repo"
    _run("borg", "init", "--encryption=none", repo, env=env)
    _run("borg", "create", "--chunker-params=10,23,14,4095", repo + "::one",
         ".", env=env, cwd=top)
    return cachefiles.on_disk(repo)


def _restic(top, base):
    env = {"RESTIC_PASSWORD": "none", "RESTIC_CACHE_DIR": base + "/cache"}
    repo = base + "/repo"
    _run("restic", "init", "--repository-version=2", "--repo", repo, env=env)
    _run("restic", "backup", "--quiet", "--repo", repo, ".", env=env, cwd=top)
    return cachefiles.on_disk(repo)


def _casync(top, base):
    _run("casync", "make", "--store=" + base + "/repo.castr",
         base + "/one.caidx", top)
    return cachefiles.on_disk(base)


def _btrfs(top, base):
    """zstd while writing, then duplicate blocks of 4 KiB looked for."""
    image, where = base + "/image", base + "/mount"
    room = 2 * cachefiles.on_disk(top) + (512 << 20)
    with open(image, "wb") as file:
        file.truncate(room)
    _run("mkfs.btrfs", "--quiet", "--metadata", "single", image)
    os.mkdir(where)
    _run("mount", "-o", "loop,compress=zstd,noatime", image, where)
    try:
        empty = _used(where)
        shutil.copytree(top, where + "/cache")
        _run("duperemove", "-qdr", "-b", "4096",
             "--hashfile=" + base + "/hashes", where + "/cache")
        _run("btrfs", "filesystem", "sync", where)
        return _used(where) - empty
    finally:
        _run("umount", where)


def _used(where):
    """Bytes of data and metadata in use on a btrfs."""
    total = 0
    for line in _run("btrfs", "filesystem", "df", "--raw",
                     where).splitlines():
        if not line.startswith("GlobalReserve"):
            total += int(line.rpartition("used=")[2])
    return total


def _squashfs(top, base):
    _run("mksquashfs", top, base + "/image", "-comp", "zstd", "-b", "1M",
         "-quiet", "-no-progress", "-processors", "1")
    return os.path.getsize(base + "/image")


def _solid(top, base):
    with open(base + "/solid", "wb") as out, \
            subprocess.Popen(["tar", "-C", top, "--sort=name", "-c", "."],
                             stdout=subprocess.PIPE) as tar:
        zstd = subprocess.run(["zstd", "-3", "--long=31", "-T1", "-q", "-c"],
                              stdin=tar.stdout, stdout=out, check=False)
    if tar.returncode or zstd.returncode:
        raise PeerError(f"tar exited with {tar.returncode}, zstd with "
                        f"{zstd.returncode}")
    return os.path.getsize(base + "/solid")


# name: (function, programs it needs, needs root, what is compared)
PEERS = {
    "plain": (_plain, [], False, "pip's own cache directory"),
    "borg": (_borg, ["borg"], False, "chunks of 16 KiB, lz4"),
    "restic": (_restic, ["restic"], False, "default chunks, zstd"),
    "casync": (_casync, ["casync"], False, "default chunks, zstd"),
    "btrfs": (_btrfs, ["mkfs.btrfs", "btrfs", "duperemove"], True,
              "zstd, then duperemove at 4 KiB"),
    "squashfs": (_squashfs, ["mksquashfs"], False,
                 "read-only; zstd, blocks of 1 MiB"),
    "solid": (_solid, ["tar", "zstd"], False,
              "the limit: tar | zstd -3 --long=31; read-only, no access to "
              "one file"),
}


def missing(name):
    """Why the peer @name cannot run here, "" when it can."""
    _, programs, root, _ = PEERS[name]
    lacking = [program for program in programs if not shutil.which(program)]
    if lacking:
        return "not installed: " + ", ".join(lacking)
    return "needs root" if root and os.geteuid() != 0 else ""


def measure(name, top, base):
    """Run the peer @name over @top; @base is emptied again afterwards."""
    os.mkdir(base)
    begin = time.monotonic()
    try:
        size = PEERS[name][0](top, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return {"disk_bytes": size, "seconds": time.monotonic() - begin}
