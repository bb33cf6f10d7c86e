# SPDX-License-Identifier: MIT
"""One set through a mount of pipcachefs, and what status says about it."""
import json
import os
import pathlib
import statistics
import subprocess
import time

from . import cachefiles

# Told by status --json once wheels are cut.
DEDUP_KEYS = ("disk_data_bytes", "index_live_bytes", "waste_bytes", "blocks",
              "recipes", "files_whole")
# Longer than the daemon takes from a change to its next checkpoint.
QUIET_SECONDS = 8


class SubjectError(Exception):
    """The mount does not do what it should."""


class Mount:
    """A store and its mount, both new below the directory @base."""

    def __init__(self, program, base, limit_bytes):
        self.program, self.store = program, os.path.join(base, "store")
        self.path = os.path.join(base, "mount")
        self._options = f"limit={(limit_bytes >> 20) + 1}M,min_free=1M"
        os.mkdir(self.path)

    def _run(self, *args):
        done = subprocess.run([self.program, *args], check=False,
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise SubjectError(f"{self.program} {' '.join(args)} failed: "
                               + (done.stderr or done.stdout).strip())
        return done.stdout

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, *_):
        if os.path.ismount(self.path):
            self.down()

    def up(self):
        self._run("mount", self.store, self.path, "-o", self._options)

    def down(self):
        self._run("umount", self.path)

    def sync(self):
        self._run("sync", self.path)

    def listed(self):
        """The cached entries."""
        return json.loads(self._run("ls", self.path, "--json"))["entries"]

    def status(self):
        return json.loads(self._run("status", self.path, "--json"))


def _cpu_seconds(pid, name):
    """What the threads of @pid called @name have used, None without any."""
    ticks = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        line = (task / "stat").read_text(encoding="utf-8")
        comm, _, rest = line.partition("(")[2].rpartition(")")
        if comm == name:
            fields = rest.split()
            ticks.append(int(fields[11]) + int(fields[12]))
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def _wait(mount, done, what, seconds):
    end = time.monotonic() + seconds
    while True:
        status = mount.status()
        if done(status):
            return status
        if time.monotonic() > end:
            raise SubjectError(f"waited {seconds:.0f} s in vain for {what}; "
                               f"status says {json.dumps(status)}")
        time.sleep(0.1)


def _settle(mount):
    """Checkpoint, and wait until nothing is given back any more."""
    seen = {"figures": None, "since": 0.0}

    def quiet(status):
        figures = [status["used"]["freed"]] + [status.get(key) for key in (
            "waste_bytes", "used_bytes", "disk_data_bytes")]
        now = time.monotonic()
        if figures != seen["figures"]:
            seen.update(figures=figures, since=now)
        return now - seen["since"] > QUIET_SECONDS

    mount.sync()
    _wait(mount, quiet, "the store to be quiet", 300)
    mount.sync()
    return _wait(mount, quiet, "the store to be quiet", 300)


def _extents(entries):
    """How many pieces a body lies in that is not in one."""
    pieces = sorted(entry["extents"] - 1 for entry in entries
                    if entry["extents"] > 2)  # its header is one more
    if not pieces:
        return {"extents_median": 0, "extents_p90": 0, "extents_max": 0}
    return {"extents_median": statistics.median(pieces),
            "extents_p90": pieces[len(pieces) * 9 // 10],
            "extents_max": pieces[-1]}


def _check(status, files):
    """A figure is worth something only if everything was kept."""
    if status["state"] != "ok" or status["damaged"] or status["evictions"]:
        raise SubjectError(
            f"state {status['state']} {status['reason']}, {status['damaged']} "
            f"damaged files, {status['evictions']} evictions: nothing to "
            "measure")
    if status["files"] < 2 * files:
        raise SubjectError(f"{2 * files} files were written and "
                           f"{status['files']} are there")


def _verify(mount, files, sums):
    """Read everything back after a remount."""
    mount.down()
    mount.up()
    for path in files:
        stored = cachefiles.body_path(mount.path, path)
        if cachefiles.sha256(stored) != sums[path]:
            raise SubjectError(f"{stored} reads back with another SHA-256 "
                               f"than {path}")
        with open(stored.removesuffix(".body"), "rb") as file:
            if file.read() != cachefiles.header(path):
                raise SubjectError(f"the header of {path} reads back wrongly")
    status = mount.status()
    if status["damaged"]:
        raise SubjectError(f"{status['damaged']} files were found damaged")


def measure(program, base, files, sums):
    """Store @files, wait, read all back; returns the figures."""
    raw = sum(path.stat().st_size for path in files)
    with Mount(program, base, 2 * raw + (1 << 30)) as mount:
        pid = mount.status()["pid"]
        begin = time.monotonic()
        for path in files:
            cachefiles.store(mount.path, path)
        closed = time.monotonic()
        _wait(mount, lambda status: status["unsummed"] == 0,
              "ingest to end", 120 + raw / 1e6)
        quiet = time.monotonic()
        cpu = _cpu_seconds(pid, "ingest")
        status = _settle(mount)
        _check(status, len(files))
        figures = {key: status.get(key)
                   for key in ("used_bytes", *DEDUP_KEYS)}
        figures.update(
            disk_bytes=cachefiles.on_disk(mount.store),
            index_bytes=cachefiles.on_disk(mount.store + "/index"),
            unique_bytes=_sum(figures["disk_data_bytes"],
                              figures["index_live_bytes"]),
            write_seconds=closed - begin, settle_seconds=quiet - closed,
            ingest_bytes_per_second=raw / (quiet - begin),
            ingest_cpu_seconds=cpu,
            ingest_bytes_per_cpu_second=raw / cpu if cpu else None)
        figures.update(_extents(mount.listed()))
        _verify(mount, files, sums)
        figures["verified"] = len(files)
    return figures


def _sum(*values):
    return None if None in values else sum(values)


def version(program):
    try:
        done = subprocess.run([program, "--version"], check=True,
                              capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as err:
        raise SubjectError(f"{program} is not a pipcachefs program: {err}"
                           ) from err
    return done.stdout.strip()
