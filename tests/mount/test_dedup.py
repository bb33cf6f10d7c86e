# SPDX-License-Identifier: MIT
"""Wheels are stored once, by their members, and come back bit for bit."""

import contextlib
import functools
import hashlib
import io
import multiprocessing
import os
import pathlib
import random
import struct
import time
import zipfile

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pipshape
from mounted import wait_for

KIB, MIB = 1 << 10, 1 << 20
DATA = pathlib.Path(__file__).parent.parent / "data"
LONG = bool(os.environ.get("PIPCACHEFS_LONG"))
# A copy may cost its recipe, its inode and its names, in index pages.
COPY_BYTES = 64 * KIB
LIMIT = 64 * MIB
STAMP_AT, STAMP_LEN = 10, 4  # of a local header: DOS time and date
OLDER, NEWER = (2021, 3, 4, 5, 6, 8), (2026, 7, 8, 9, 10, 12)
fork = multiprocessing.get_context("fork")


# ---- wheels ----

def noise(seed, size):
    return random.Random(seed).randbytes(size)


def add_members(where, members, when, mode="w"):
    with zipfile.ZipFile(where, mode) as wheel:
        for name, data in members:
            wheel.writestr(zipfile.ZipInfo(name, when), data)


def wheel_of(members, when=OLDER):
    """A wheel of @members, pairs of name and bytes, which are not deflated."""
    where = io.BytesIO()
    add_members(where, members, when)
    return where.getvalue()


def next_version(data, seed, when=NEWER):
    """The wheel @data with other times, and one more member."""
    where = io.BytesIO(restamped(data, struct.pack("<HH", 0x4a5b, 0x5b4a)))
    add_members(where, [(f"more/{seed}.bin", noise(seed, 20_000))], when, "a")
    return where.getvalue()


def members_of(data):
    """Where each member of the wheel begins, and where the directory does."""
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        starts = sorted(m.header_offset for m in wheel.infolist())
        return [*starts, wheel.start_dir]


def restamped(data, stamp):
    """The wheel @data with that time of all members."""
    data = bytearray(data)
    for at in members_of(data)[:-1]:
        data[at + STAMP_AT:at + STAMP_AT + STAMP_LEN] = stamp
    return bytes(data)


def many_members(seed, count=60):
    """Members of all sizes, from none to some that stand alone."""
    sizes = [0, 1, 29, 31, 500, 4096, 70_000, 200_000]
    return [(f"pkg/{seed}/{n}" + (".tgz" if n % 7 == 0 else ".py"),
             noise(f"{seed} {n}", sizes[n % len(sizes)] + n))
            for n in range(count)]


def old_format(body):
    """A response as pip up to 23.2 has it in http/: all in one file."""
    def text(s):
        head = bytes([0xa0 | len(s)]) if len(s) < 32 else bytes([0xd9, len(s)])
        return head + s.encode()

    headers = {f"x-header-{n}": f"{n:0170}" for n in range(10)}
    return b"".join([
        b"cc=4,\x82", text("response"), b"\x87",
        text("body"), b"\xc6", struct.pack(">I", len(body)), body,
        text("headers"), bytes([0x80 | len(headers)]),
        *(text(k) + text(v) for k, v in headers.items()),
        text("status"), b"\xcc\xc8", text("version"), b"\x0b",
        text("reason"), text("OK"), text("strict"), b"\xc2",
        text("decode_content"), b"\xc3",
        text("vary"), b"\x80"])


def store_body(top, n, body):
    """Cache @body as http-v2/ has it; returns its path."""
    pipshape.write_file(pipshape.header_path(top, n), pipshape.header(n))
    pipshape.write_file(pipshape.body_path(top, n), body)
    return pipshape.body_path(top, n)


# ---- looking at a store ----

def ingested(store):
    """Wait until all is cut and what went is given back; the status."""
    def idle():
        s = store.status()
        return s["open_files"] == s["unsummed"] == 0

    # A file is handed on a moment after it was closed.
    wait_for(lambda: idle() and idle(), "the ingest", 600)
    return store.settle()


def packs(store):
    return os.listdir(store.path / "packs")


def check(store):
    """All that the store says of itself is so, and all bytes are right."""
    store.do("check", store.path, "--data")


def sha256_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while piece := f.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


def assert_holds(path, data):
    """@path has those bytes; says where not instead of showing them all."""
    got = path.read_bytes()
    if got != data:
        at = next((n for n, (a, b) in enumerate(zip(got, data)) if a != b),
                  min(len(got), len(data)))
        pytest.fail(f"{path}: {len(got)} bytes instead of {len(data)}, "
                    f"wrong from {at} on: {got[at:at + 16].hex()} "
                    f"instead of {data[at:at + 16].hex()}")


def assert_all_hold(files):
    for path, data in files.items():
        assert_holds(path, data)


# ---- the same content under another name ----

def test_copies_of_a_large_wheel_cost_nothing(mount):
    """500 MB: under another URL, as an old pip stores it, as a built wheel,
    in another project's directory; and nothing is left of all that."""
    store = mount("limit=8G")
    some = noise("large", 25 * MIB)
    body = wheel_of((f"large/{n}.bin", memoryview(some)[n:])
                    for n in range(20))
    assert len(body) > 498_000_000
    sha = hashlib.sha256(body).hexdigest()
    empty = ingested(store)
    first = store_body(store.mnt, 1, body)
    before = ingested(store)
    disk = store.du()
    assert len(body) <= before["disk_data_bytes"] < len(body) * 1.001

    http = pipshape.header_path(store.mnt, 3, tree="http")
    built = pipshape.wheel_path(store.mnt, 4)
    beside = store.mnt / "project" / "demo-1.0-py3-none-any.whl"
    copies = {
        pipshape.body_path(store.mnt, 2): lambda p: store_body(
            store.mnt, 2, body),
        http: lambda p: pipshape.write_file(p, old_format(body)),
        built: lambda p: pipshape.write_file(p, body),
        beside: lambda p: pipshape.write_file(p, body),
    }
    for path, write in copies.items():
        write(path)
        after = ingested(store)
        grown = {"du": store.du() - disk,
                 "data": (after["disk_data_bytes"]
                          - before["disk_data_bytes"]),
                 "index": (after["index_live_bytes"]
                           - before["index_live_bytes"])}
        print(path, grown)
        assert max(grown.values()) < COPY_BYTES, (path, grown)
        before, disk = after, store.du()

    store.remount()
    for path in (first, *copies):
        if path != http:
            assert sha256_of(path) == sha
    with http.open("rb") as f:
        f.seek(26)
        assert hashlib.sha256(f.read(len(body))).hexdigest() == sha
    for path in (first, *copies):
        path.unlink()
    for n in (1, 2):
        pipshape.header_path(store.mnt, n).unlink()
    status = ingested(store)
    assert status["disk_data_bytes"] == status["blocks"] == 0
    assert status["waste_bytes"] == 0 and packs(store) == []
    assert status["files"] == empty["files"]


# ---- bit for bit ----

@pytest.fixture
def in_pieces(mount):
    """A store with a wheel that is stored in pieces: (store, path, bytes)."""
    store = mount()
    first = wheel_of(many_members("pieces"))
    body = next_version(first, "pieces")
    store_body(store.mnt, 1, first)
    ingested(store)
    path = store_body(store.mnt, 2, body)
    status = ingested(store)
    assert status["recipes"] - status["files_whole"] >= 1
    assert status["disk_data_bytes"] < 1.1 * len(first)
    return store, path, body


def places(body):
    """Offsets, more often than not close to where a piece or a stamp is."""
    starts = members_of(body)
    near = [at + d for at in starts for d in (0, STAMP_AT, STAMP_AT + 2,
                                              STAMP_AT + STAMP_LEN, 30)]
    return st.one_of(st.integers(0, len(body)),
                     st.builds(lambda at, d: max(0, at + d),
                               st.sampled_from(near), st.integers(-40, 40)))


def check_reads(path, body):
    """Reads at random; past the page cache they reach the store as asked."""
    cached = os.open(path, os.O_RDONLY)
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)

    @settings(max_examples=2000 if LONG else 400, deadline=None,
              derandomize=not LONG, database=None,
              suppress_health_check=list(HealthCheck))
    @given(places(body), st.one_of(st.integers(0, 100),
                                   st.integers(0, 300_000)), st.booleans())
    @example(0, len(body), True)
    @example(len(body) - 1, 10, True)
    @example(len(body), 1, True)
    def reads_agree(at, length, past):
        fd = direct if past else cached
        assert os.pread(fd, length, at) == body[at:at + length]

    try:
        reads_agree()
    finally:
        os.close(cached)
        os.close(direct)


def test_random_reads_across_pieces_and_stamps(in_pieces):
    store, path, body = in_pieces
    check_reads(path, body)
    store.remount()
    check_reads(path, body)
    pipshape.body_path(store.mnt, 1).unlink()  # what it shares, stays
    ingested(store)
    check_reads(path, body)
    check(store)


def test_real_wheels_come_back_whole(mount, wheels):
    """Each as it is, and as a later version would be."""
    store = mount()
    files = {}
    for n, path in enumerate(sorted(wheels.glob("*.whl"))):
        body = path.read_bytes()
        files[store_body(store.mnt, n, body)] = body
        other = next_version(body, n)
        files[store_body(store.mnt, 1000 + n, other)] = other
    for n, path in enumerate(sorted(wheels.glob("*.tar.gz"))):
        files[store_body(store.mnt, 2000 + n, path.read_bytes())] = (
            path.read_bytes())
    status = ingested(store)
    assert status["saved_bytes"] > 0.45 * status["logical_bytes"]
    check(store)
    store.remount()
    for path, body in files.items():
        assert sha256_of(path) == hashlib.sha256(body).hexdigest(), path


@pytest.mark.parametrize("raw_first", [True, False])
def test_a_file_that_is_a_masked_member(mount, raw_first):
    """What is a member to one file is all of another; zero is a time too."""
    store = mount()
    body = wheel_of(many_members("masked"))
    starts = members_of(body)
    member = body[starts[6]:starts[7]]
    assert len(member) > 64 * KIB
    masked = bytes(STAMP_LEN).join([member[:STAMP_AT],
                                    member[STAMP_AT + STAMP_LEN:]])
    small = body[starts[5]:starts[6]]
    raw = {store.mnt / "masked": masked, store.mnt / "member": member,
           store.mnt / "head": member[:STAMP_AT + 2],
           store.mnt / "small": small,
           store.mnt / "small-masked": small[:STAMP_AT] + bytes(STAMP_LEN)
           + small[STAMP_AT + STAMP_LEN:]}
    whole = {store.mnt / "wheel": body,
             store.mnt / "zero": restamped(body, bytes(STAMP_LEN)),
             store.mnt / "ones": restamped(body, b"\xff" * STAMP_LEN)}
    files = {**raw, **whole} if raw_first else {**whole, **raw}
    for path, data in files.items():
        pipshape.write_file(path, data)
        ingested(store)
    assert_all_hold(files)
    store.remount()
    assert_all_hold(files)
    for path in list(files)[:4]:
        path.unlink()
        files.pop(path)
    ingested(store)
    check(store)
    store.remount()
    assert_all_hold(files)


def test_zips_that_lie(mount):
    """Each of them small, and followed by something large; and twice."""
    store = mount()
    files = {}
    for path in sorted(DATA.glob("*zip-*.bin")):
        data = path.read_bytes()
        for n, content in enumerate((data, data, noise(path.name, MIB) + data,
                                     data + noise(path.name, 100_000))):
            files[store.mnt / f"{path.stem}-{n}.whl"] = content
    assert len(files) > 60
    for path, data in files.items():
        pipshape.write_file(path, data, fsync=False)
    ingested(store)
    assert_all_hold(files)
    check(store)
    store.remount()
    assert_all_hold(files)


# ---- files change, and the daemon dies ----

def while_ingested(store, write):
    """`write()`, until the ingest is seen at work on what it wrote: a machine
    that stops for a moment may miss it, hardly each time."""
    def seen():
        write()
        end = time.monotonic() + 1
        while time.monotonic() < end:
            if store.status()["unsummed"]:
                return True
        return False
    wait_for(seen, "an ingest at work")


def test_an_open_reader_reads_on_while_its_file_is_cut(mount):
    store = mount()
    first = wheel_of((f"m{n}.bin", noise(n, MIB)) for n in range(40))
    store_body(store.mnt, 1, first)
    ingested(store)
    body = next_version(first, "reader")
    path = pipshape.body_path(store.mnt, 2)
    fds = []

    def write_and_open():
        while fds:
            os.close(fds.pop())
        path.unlink(missing_ok=True)
        store_body(store.mnt, 2, body)
        fds.append(os.open(path, os.O_RDONLY | os.O_DIRECT))
    while_ingested(store, write_and_open)
    fd, = fds
    rng = random.Random(5)
    reads_after = 0
    end = time.monotonic() + 120
    while reads_after < 200:
        busy = store.status()["unsummed"] > 0
        for _ in range(20):
            at = rng.randrange(len(body))
            assert os.pread(fd, 100_000, at) == body[at:at + 100_000]
            reads_after += not busy
        assert time.monotonic() < end
    status = store.status()
    assert status["recipes"] - status["files_whole"] >= 1
    path.unlink()
    pipshape.header_path(store.mnt, 2).unlink()
    store.sync()
    assert os.pread(fd, len(body), 0) == body
    os.close(fd)
    assert ingested(store)["disk_data_bytes"] <= len(first) + 4 * KIB


def test_a_file_written_to_again_changes_alone(mount):
    store = mount()
    first = wheel_of(many_members("again"))
    files = {store.mnt / "a": first, store.mnt / "b": first,
             store.mnt / "c": next_version(first, "again")}
    for path, data in files.items():
        pipshape.write_file(path, data)
        ingested(store)
    for n, path in enumerate(files):
        at = members_of(first)[6] + STAMP_AT - 2
        with path.open("r+b") as f:
            f.seek(at)
            f.write(b"changed %d" % n)
        files[path] = (files[path][:at] + b"changed %d" % n
                       + files[path][at + 9:])
        assert_all_hold(files)
        ingested(store)
        assert_all_hold(files)
    check(store)
    store.remount()
    assert_all_hold(files)


def test_a_file_written_to_while_it_is_cut(mount):
    store = mount()
    first = wheel_of((f"m{n}.bin", noise(n, MIB)) for n in range(40))
    store_body(store.mnt, 1, first)
    ingested(store)
    body = bytearray(next_version(first, "busy"))
    path = pipshape.body_path(store.mnt, 2)

    def change(turn, at):
        with path.open("r+b") as f:
            time.sleep(0.02 * turn)
            f.seek(at)
            f.write(b"changed")
    while_ingested(store, lambda: store_body(store.mnt, 2, bytes(body)))
    for turn in range(4):
        at = turn * 9 * MIB + STAMP_AT
        while_ingested(store, functools.partial(change, turn, at))
        body[at:at + 7] = b"changed"
    ingested(store)
    files = {pipshape.body_path(store.mnt, 1): first, path: bytes(body)}
    assert_all_hold(files)
    check(store)
    store.remount()
    assert_all_hold(files)


def test_killed_while_it_cuts(mount):
    """Files are whole or absent, and the store goes on."""
    store = mount()
    common = [(f"m{n}.bin", noise(n, MIB)) for n in range(8)]
    bodies = [wheel_of([*common, (f"own{n}", noise(f"own {n}", 300_000))])
              for n in range(6)]
    for n in range(2):
        store_body(store.mnt, n, bodies[n])
    ingested(store)
    for pause in (0, 0.03, 0.1, 0.2):
        for n in range(2, len(bodies)):
            store_body(store.mnt, n, bodies[n])
        time.sleep(pause)
        store.kill9()
        store.mount()
        for n, body in enumerate(bodies):
            path = pipshape.body_path(store.mnt, n)
            assert n >= 2 or path.exists()
            if path.exists():
                assert_holds(path, body)
        check(store)
        ingested(store)
    for n, body in enumerate(bodies):
        assert_holds(store_body(store.mnt, n, body), body)
    status = ingested(store)
    assert status["disk_data_bytes"] < 8 * MIB + 6 * 320_000
    store.prune("--all")
    assert ingested(store)["disk_data_bytes"] == 0
    assert packs(store) == []


def test_unlinked_while_it_is_cut(mount):
    store = mount("limit=2G")
    body = noise("unlinked", 200 * MIB)
    path = pipshape.body_path(store.mnt, 1)

    def write():
        path.unlink(missing_ok=True)
        store_body(store.mnt, 1, body)
    while_ingested(store, write)
    path.unlink()
    pipshape.header_path(store.mnt, 1).unlink()
    before = time.monotonic()
    status = ingested(store)
    assert time.monotonic() - before < 5
    assert status["disk_data_bytes"] == status["blocks"] == 0
    assert packs(store) == []


# ---- space ----

def used_below(fs):
    stat = os.statvfs(fs)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize


def shared_wheel(share, n):
    """Wheel @n of a writer: 12 members of a pool, and two of its own."""
    rng = random.Random(f"{share} {n}")
    pool = [(f"pool{k}", noise(f"pool {k}", 90_000))
            for k in rng.sample(range(60), 12)]
    own = [(f"own{k}", noise(f"own {share} {n} {k}", 300_000))
           for k in range(2)]
    return wheel_of(pool + own, (2020 + n % 6, 1, 1 + share, 0, 0, 0))


WRITERS, WHEELS = 8, 25


def write_wheels(top, share):
    for n in range(WHEELS):
        with contextlib.suppress(OSError):  # no room at this moment
            store_body(top, share * WHEELS + n, shared_wheel(share, n))


def wheels_there(top):
    """How many of the writers' wheels are there; each must be right."""
    there = 0
    for share in range(WRITERS):
        for n in range(WHEELS):
            path = pipshape.body_path(top, share * WHEELS + n)
            if path.exists():
                assert_holds(path, shared_wheel(share, n))
                there += 1
    return there


def test_the_limit_holds_while_wheels_are_cut(mount, loopfs):
    fs = loopfs("ext4", 320 * MIB)
    empty = used_below(fs)
    store = mount(f"limit={LIMIT},grace=0", path=fs / "store")
    writers = [fork.Process(target=write_wheels, args=(store.mnt, share))
               for share in range(WRITERS)]
    most = 0
    for process in writers:
        process.start()
    while (any(process.is_alive() for process in writers)
           or store.status()["unsummed"]):
        most = max(most, used_below(fs) - empty, store.du())
        time.sleep(0.01)
    for process in writers:
        process.join()
        assert process.exitcode == 0
    status = ingested(store)
    most = max(most, store.du())
    assert 0 < most <= LIMIT
    assert status["used_bytes"] <= status["charged_bytes"] <= LIMIT
    assert status["charged_bytes"] - store.du() <= 0.01 * LIMIT + MIB
    assert status["evictions"] > 0 and status["saved_bytes"] > 5 * MIB
    there = wheels_there(store.mnt)
    assert there > 20
    check(store)
    store.remount()
    assert wheels_there(store.mnt) == there


def shared_by_all(mount):
    """8 copies of one wheel of 30 MB, in less than 31 MB."""
    store = mount("limit=300M,grace=0")
    body = wheel_of((f"m{n}.bin", noise(n, MIB)) for n in range(30))
    for n in range(8):
        store_body(store.mnt, n, body)
    status = ingested(store)
    assert status["logical_bytes"] > 240 * MIB
    assert status["disk_data_bytes"] < 31 * MIB
    return store


def test_eviction_ends_where_everything_is_shared(mount):
    """Nothing comes back before the last copy goes."""
    store = shared_by_all(mount)
    store.prune("--to", "16M")
    status = ingested(store)
    assert status["used_bytes"] <= 16 * MIB and status["files"] == 0
    assert status["evictions"] == 8 and packs(store) == []


def test_a_small_limit_where_everything_is_shared(mount):
    store = shared_by_all(mount)
    store.do("limit", store.path, "16M", "--now")
    wait_for(lambda: store.status()["excess_bytes"] == 0, "eviction")
    assert store.settle()["used_bytes"] <= 16 * MIB
    assert store.du() <= 16 * MIB
    # And it goes on from there.
    body = wheel_of([("one.bin", noise("after", MIB))])
    path = store_body(store.mnt, 100, body)
    ingested(store)
    assert_holds(path, body)


def test_eviction_gets_past_what_is_shared(mount):
    """Room for others comes with the last of the copies that are older."""
    store = mount("limit=96M,grace=0")
    bodies = [wheel_of((f"m{n}.bin", noise(f"{k} {n}", MIB))
                       for n in range(29)) for k in range(3)]
    for n in range(6):
        store_body(store.mnt, n, bodies[0])
        assert ingested(store)["evictions"] == 0
    kept = {store_body(store.mnt, 100 + k, bodies[k]): bodies[k]
            for k in (1, 2)}
    ingested(store)
    status = wait_for(
        lambda: (s := store.status())["used_bytes"] <= s["low_bytes"] and s,
        "eviction")
    assert status["evictions"] == 6
    assert_all_hold(kept)
    check(store)


def test_prune_all_where_everything_is_shared(mount):
    store = shared_by_all(mount)
    store.prune("--all")
    status = ingested(store)
    assert status["disk_data_bytes"] == status["files"] == 0
    assert packs(store) == []


def test_what_is_wasted_comes_back(mount):
    """Of many wheels only pieces stay, as others share them. Moving them takes
    room, which is there for a moment only."""
    store = mount("limit=32M")
    files = {}
    for n in range(12):
        own = [(f"own/{n}/{k}", noise(f"own {n} {k}", 50_000 + 999 * k))
               for k in range(30)]
        kept = [(f"kept/{n}/{k}", noise(f"kept {n} {k}", 5_000 + 777 * k))
                for k in range(10)]
        # Interleaved: holes alone would leave much of it.
        mixed = [m for k in range(30)
                 for m in ([own[k]] + (kept[k:k + 1]))]
        store_body(store.mnt, n, wheel_of(mixed))
        ingested(store)
        heir = wheel_of([*kept, ("note", noise(f"note {n}", 3000))], NEWER)
        files[store_body(store.mnt, 100 + n, heir)] = heir
    status = ingested(store)
    assert status["saved_bytes"] > 0 and status["evictions"] == 0
    assert status["used_bytes"] > 24 * MIB
    for n in range(12):
        pipshape.body_path(store.mnt, n).unlink()
        pipshape.header_path(store.mnt, n).unlink()
    ingested(store)

    def little():
        assert store.du() <= 32 * MIB
        s = store.status()
        return s["waste_bytes"] <= 0.1 * s["used_bytes"]

    wait_for(little, f"little waste: {store.status()}", 90)
    assert_all_hold(files)
    check(store)
    store.remount()
    assert little()
    assert_all_hold(files)
