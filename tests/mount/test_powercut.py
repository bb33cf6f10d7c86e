# SPDX-License-Identifier: MIT
"""Power cuts under real workloads, on a real mount.

A preloaded library (tests/powertap.c) logs what the daemon does to its store.
From the log tests/power_images.c makes images of what the disk may hold at a
cut, and opens each: it must be the tree of its checkpoint, byte for byte. That
those trees are the right ones is checked here: at a note, when all was quiet
and saved, by what the mount showed and a plain directory beside it holds; at
all others by the bytes that a file of that name can have.

That this finds anything is shown by controls: the same log, with syncs of one
kind taken for nothing, must give images that are bad.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import stat
import struct
import subprocess
import tempfile
import threading
import time

import pytest
from hypothesis import given, settings

import mounted
import pipshape
from index import Index
from mounted import wait_for
from test_dedup import next_version, wheel_of
from test_model import LONG, Pair, op, sequences
from test_pip import Pip

KIB, MIB = 1 << 10, 1 << 20
# Of a workload, and of each of its controls.
IMAGES, CONTROL_IMAGES = (800, 40) if LONG else (60, 10)
CONTROLS = ("data", "packs", "rename")
RECORD = struct.Struct("<IIQQQQ")  # as powerlog.h has it, and these types
PUNCH, NOTE = 2, 13
HOLES = 20  # at least, in packs that get some


def tool(name):
    """What was built beside the program, for the tests alone."""
    path = pathlib.Path(os.environ.get("PIPCACHEFS_BUILD")
                        or os.path.dirname(mounted.binary()), name)
    assert path.exists(), f"{path}: not built"
    return str(path)


def save(directory):
    """A checkpoint, where sync=strict."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tree(top):
    """All of a tree: path to [mode, size, content] as power_images has it."""
    found = {}
    for where, dirs, files in os.walk(top):
        for name in (*dirs, *files):
            path = os.path.join(where, name)
            s = os.lstat(path)
            size = content = "-"
            if stat.S_ISLNK(s.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(s.st_mode):
                size = str(s.st_size)
                content = sha256(pathlib.Path(path).read_bytes())
            found[os.path.relpath(path, top)] = [f"{s.st_mode:o}", size,
                                                 content]
    return found


class Recording:
    """A store whose daemon is recorded, and what is known of it."""

    def __init__(self, store, tmp_path, limit):
        self.store, self.limit = store, limit
        self.log = tmp_path / "power.log"
        self.kill = tmp_path / "kill"
        self.notes = []
        self.work = pathlib.Path(tempfile.mkdtemp(
            prefix="pipcachefs-power.",
            dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path))
        store.path.mkdir(exist_ok=True)
        store.env = {"LD_PRELOAD": tool("libpowertap.so"),
                     "PIPCACHEFS_TAP_LOG": str(self.log),
                     "PIPCACHEFS_TAP_STORE": str(store.path),
                     "PIPCACHEFS_TAP_KILL": str(tmp_path / "kill")}
        self.strict = f"limit={limit},min_free=0,sync=strict"
        store.mount(f"limit={limit},min_free=0")

    def after_kill(self):
        """Mount again, if the mount does not go on by itself."""
        def gone():
            return self.store.process.poll() is not None

        def answers():
            with contextlib.suppress(OSError):
                return os.statvfs(self.store.mnt)

        time.sleep(0.3)  # it may be about to end
        wait_for(lambda: gone() or answers(), "the mount or its end")
        if gone():
            self.store.process = None
            subprocess.run(["umount", "-l", self.store.mnt], check=True)
            self.store.mount()

    def quiet(self):
        """All is closed, summed, cut and given back."""
        def closed():
            s = self.store.status()
            return s["open_files"] == s["unsummed"] == 0
        wait_for(lambda: closed() and closed(), "closed files")
        self.store.settle()

    def note(self, model=None):
        """From here on no cut may bring back less than @model, a tree (else
        what the mount shows)."""
        self.store.dog.cancel()
        self.store.dog = self.store.watch()  # it is alive
        self.quiet()
        known = tree(self.store.mnt) if model is None else model
        self.store.sync()
        self.notes.append(known)
        with self.log.open("ab", buffering=0) as log:
            log.write(RECORD.pack(NOTE, 0, 0, len(self.notes), 0, 0))

    def holes(self):
        """How many were punched so far."""
        found = 0
        with self.log.open("rb") as log:
            while head := log.read(RECORD.size):
                kind, *_, size = RECORD.unpack(head)
                found += kind == PUNCH
                log.seek(size, os.SEEK_CUR)
        return found

    def images(self, count, without=None):
        """The lines that power_images prints, as lists of words."""
        done = subprocess.run(
            [tool("power_images"), self.log, self.work, str(self.limit),
             str(count), "1", *([without] if without else [])],
            check=False, capture_output=True, text=True, timeout=7200)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        self.said = [line for line in lines if line.startswith("bad ")]
        return [line.split() for line in lines]

    def tree_at(self, record):
        """The tree of a checkpoint: path to [mode, size, content]."""
        if record == "0":
            return {}
        text = (self.work / f"ref.{record}").read_text()
        return {fields[0]: fields[1:4] for fields in
                (line.split("\t") for line in text.splitlines())}

    def check_note(self, number, record):
        expected, got = self.notes[number - 1], self.tree_at(record)
        assert set(got) == set(expected), f"note {number}: names"
        for path, what in expected.items():
            assert got[path] == what, f"note {number}: {path}"

    def judge(self, check_file):
        """All images; @check_file is asked about each file of each
        checkpoint. Prints what there was."""
        self.store.dog.cancel()  # nothing is mounted any more
        lines = self.images(IMAGES)
        refs = [line[1] for line in lines if line[0] == "ref"]
        notes = [line for line in lines if line[0] == "note"]
        count, bad = count_of(lines)
        assert bad == 0, "\n".join(self.said)
        assert count == IMAGES
        assert len(notes) == len(self.notes)
        files = 0
        for _, number, record in notes:
            self.check_note(int(number), record)
        for record in refs:
            for path, (mode, _, content) in self.tree_at(record).items():
                if mode.startswith("100") and content != "torn":
                    check_file(path, content)
                    files += 1
        self.punches = next(int(line[1]) for line in lines
                            if line[0] == "punches")
        print(f"{count} images of {len(refs)} checkpoints, all good; "
              f"{files / max(len(refs), 1):.0f} files in one; log "
              f"{self.log.stat().st_size >> 20} MiB, {self.punches} holes")

    def controls(self):
        """Without syncs there must be bad images, else nothing was shown."""
        for without in CONTROLS:
            # Half of them are good where it is hardest: a few may all be.
            for number in (CONTROL_IMAGES, 5 * CONTROL_IMAGES):
                count, bad = count_of(self.images(number, without))
                if bad:
                    break
            print(f"without sync of {without}: {bad} of {count} images bad")
            assert bad > 0, f"this proves nothing: without sync of {without}"

    def finish(self):
        shutil.rmtree(self.work)


def count_of(lines):
    """Images, and bad ones."""
    words = next(line for line in lines if line[0] == "images")
    return int(words[1]), int(words[3])


@pytest.fixture
def record(mount, tmp_path):
    """Factory: `record(limit)` mounts a store that is recorded; one that was
    used before can be given."""
    made = []

    def factory(limit, store=None):
        made.append(Recording(store or mount(start=False), tmp_path, limit))
        return made[-1]

    yield factory
    for recording in made:
        recording.finish()


@pytest.fixture
def beside(tmp_path):
    """A plain directory, and no umask."""
    old = os.umask(0)
    path = tmp_path / "plain"
    path.mkdir()
    yield path
    os.umask(old)


# ---- the workloads ----

def test_pips(record, wheels, pip_of, tmp_path):
    """Installs by pips of several ages, sdists, and what clears a cache."""
    rec = record(64 * MIB)
    top = rec.store.mnt
    known = {sha256(path.read_bytes()) for path in wheels.iterdir()}
    packages = ["requests", "six", "attrs", "click", "jinja2", "packaging",
                "pyyaml"]
    versions = ["22.3.1", "24.2", "newest"] if LONG else ["22.3.1", "newest"]
    rec.note()
    for version in versions:
        with Index(wheels) as index:
            pip = Pip(pip_of(version), index, top, tmp_path / version)
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda n: pip.install(n, *packages), "ab"))
            rec.note()
            pip.install("c", "--use-pep517", "docopt")
            rec.note()
            pip.run("cache", "remove", "docopt")
            pip.install("e", "requests", "six")
            rec.store.remount()
            rec.note()
    pip.run("cache", "purge")
    rec.note()
    rec.store.umount()
    seen = {what[2] for model in rec.notes for what in model.values()}

    def check_file(path, content):
        # Headers are written anew each time they were confirmed.
        if path.endswith((".body", ".whl")):
            assert content in known | seen, f"{path} has wrong bytes"
    assert known & seen, "no wheel came into the cache"
    rec.judge(check_file)
    rec.controls()


def test_sequences(record, beside):
    """Random operations, the same on a plain directory beside it."""
    rec = record(64 * MIB)
    store = rec.store
    bytes_of = {}

    @settings(max_examples=150 if LONG else 14)
    @given(sequences(op("sync"), op("remount"), length=50))
    def run(steps):
        pair = Pair(store, beside)
        for step in steps:
            if step == ("remount",):
                pair.close()
                store.remount()
            elif step == ("sync",):
                store.sync()
            else:
                pair.do(step)
            learn()
        pair.close()
        rec.note(tree(beside))
        pair.remove()
        learn()

    def learn():
        """What is in files now, by their names."""
        for path, what in tree(beside).items():
            bytes_of.setdefault(path, set()).add(what[2])

    def check_file(path, content):
        name = os.path.basename(path)
        if not name.startswith("tmp"):
            assert content in bytes_of.get(path, ()), f"{path}: wrong bytes"

    run()
    store.umount()
    rec.judge(check_file)
    rec.controls()


class Storm:
    """Wheels that share members come and go, more than there is room for."""

    def __init__(self, top, seed, fsync=True, own=5):
        """Each @own-th body is one that shares nothing; 0: none is."""
        self.top, self.fsync, self.own = top, fsync, own
        self.random = random.Random(seed)
        self.known = {}
        base = [(f"pkg/{n}.py", random.Random(n).randbytes(3000 + 2000 * n))
                for n in range(14)]
        self.bodies = [wheel_of(base)]
        for n in range(40):
            self.bodies.append(next_version(
                self.bodies[self.random.randrange(len(self.bodies))], n))

    def put(self, n):
        body = self.random.choice(self.bodies)
        if self.own and n % self.own == 0:
            body = self.random.randbytes(self.random.randrange(1, 2 * MIB))
        for path, data in ((pipshape.header_path(self.top, n),
                            pipshape.header(n)),
                           (pipshape.body_path(self.top, n), body)):
            self.known.setdefault(path.name, set()).add(sha256(data))
            pipshape.write_file(path, data, self.fsync)

    def step(self, n):
        if self.random.randrange(5) < 3:
            self.put(n)
        else:
            pipshape.body_path(self.top, n).unlink()
            pipshape.header_path(self.top, n).unlink()

    def check_file(self, path, content):
        # A write that found no room leaves a temporary file with a part.
        name = os.path.basename(path)
        if not name.endswith(".tmp"):
            assert content in self.known[name], f"{path} has wrong bytes"


def storm_on(rec, storm, names, steps, still=False):
    """Three threads take steps, a fourth one saves all the time."""
    over = threading.Event()

    def save_all():
        while not over.wait(0.05):
            save(rec.store.mnt)

    def write(share):
        for n in itertools.islice(itertools.cycle(range(share, names, 3)),
                                  steps):
            try:
                storm.step(n)
            except OSError as e:
                # Full, or evicted.
                assert e.errno in (errno.ENOSPC, errno.ENOENT), e

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        saving = pool.submit(save_all)
        for done in [pool.submit(write, share) for share in range(3)]:
            done.result()
        over.set()
        saving.result()
    if still:
        time.sleep(10)  # until packs with holes are emptied
    rec.note()


def test_evictions(record):
    """A cache that is always full, with all that goes on behind it."""
    rec = record(24 * MIB)
    storm = Storm(rec.store.mnt, 1, fsync=False)
    rec.store.remount(rec.strict)
    for _ in range(6 if LONG else 2):
        storm_on(rec, storm, 90, 100 if LONG else 30)
        rec.store.prune("--to", str(12 * MIB))
        rec.note()
        rec.store.remount()
    rec.store.umount()
    rec.judge(storm.check_file)
    rec.controls()


def test_shared_members(record):
    """Much that is shared, and room for all: packs get holes."""
    rec = record(64 * MIB)
    storm = Storm(rec.store.mnt, 3, fsync=False, own=0)
    rec.store.remount(rec.strict)
    rounds = 4 if LONG else 2
    for n in range(5 * rounds):  # how many holes one makes, is chance
        if n >= rounds and rec.holes() > HOLES:
            break
        storm_on(rec, storm, 24, 200 if LONG else 80, still=LONG)
    rec.store.umount()
    rec.judge(storm.check_file)
    assert rec.punches > HOLES
    rec.controls()


def test_rewrites(record):
    """Files are changed when they are saved, but not cut yet."""
    rec = record(64 * MIB)
    top = rec.store.mnt
    rec.store.remount(rec.strict)
    known, chance = {}, random.Random(4)

    def put(name, at, data):
        path = top / name
        with path.open("r+b" if at else "wb", buffering=0) as f:
            f.seek(at)
            f.write(data)
        whole = known.get(name, [b""])[-1][:at] + data
        whole += known.get(name, [b""])[-1][len(whole):] if at else b""
        known.setdefault(name, []).append(whole)

    for _ in range(8 if LONG else 4):
        put("keeps-the-ingest-busy", 0, chance.randbytes(16 * MIB))
        for n in range(8):
            put(f"f{n}", 0, chance.randbytes(70_000 + n))
        time.sleep(0.005)  # close(2) returns before the daemon is told
        save(top)
        for n in range(8):
            put(f"f{n}", 4000, chance.randbytes(30_000))
        rec.note({name: ["100644", str(len(old[-1])), sha256(old[-1])]
                  for name, old in known.items()})
    rec.store.umount()
    sums = {name: {sha256(data) for data in old}
            for name, old in known.items()}

    def check_file(path, content):
        assert content in sums[path], f"{path} has wrong bytes"
    rec.judge(check_file)
    rec.controls()


def test_kills(record):
    """The daemon is killed at any call, time and again; the next one goes on
    from there, before anything of it is on the disk."""
    rec = record(24 * MIB)
    rec.store.expect("another one goes on")
    storm = Storm(rec.store.mnt, 2, fsync=False)
    calls = random.Random(1)
    rec.note()
    rec.store.umount()

    def write(share):
        for n in itertools.cycle(range(share, 40, 2)):
            if not rec.kill.exists():
                return
            with contextlib.suppress(OSError):
                storm.step(n)
                if n % 7 == 0:
                    # A command would open the store itself, unseen.
                    save(rec.store.mnt)

    for _ in range(40 if LONG else 5):
        rec.kill.write_text(f"{calls.randrange(300, 2500)}\n")
        rec.store.mount(rec.strict)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(write, range(2)))
        rec.after_kill()
        rec.note()
        rec.store.umount()
    rec.judge(storm.check_file)
    rec.controls()


def test_index_is_rewritten(mount, record):
    """At a mount, when it is mostly free pages."""
    store = mount("limit=1G,min_free=0")
    many = [store.mnt / "many" / str(n) for n in range(2500)]
    many[0].parent.mkdir()
    for path in many:
        path.write_bytes(pipshape.content(path, 1500))
    for path in many[20:]:
        path.unlink()
    for n in range(8):
        pipshape.store(store.mnt, n, 150 * KIB)
    store.umount()
    data = store.path / "index" / "data.mdb"
    before = data.stat().st_size

    rec = record(1 << 30, store)
    assert data.stat().st_size < before / 2
    rec.note()
    for n in range(4, 12):
        pipshape.store(store.mnt, n, 150 * KIB)
    rec.note()
    store.umount()
    names = {*map(str, range(20))}

    def check_file(path, content):
        name = pathlib.Path(path)
        size = 1500 if name.name in names else 150 * KIB
        if not path.endswith(".tmp") and (
                name.suffix == ".body" or name.name in names):
            assert content == sha256(pipshape.content(name, size)), path
    rec.judge(check_file)
