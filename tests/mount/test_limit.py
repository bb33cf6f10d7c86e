# SPDX-License-Identifier: MIT
"""The limit holds at every moment, and what goes to keep it is the right one.

The truth about use is the file system below: its used blocks, less those of
the same file system when it was empty.
"""

import contextlib
import errno
import itertools
import mmap
import multiprocessing
import os
import signal
import subprocess
import time

import pytest

import pipshape
from mounted import wait_for

MIB = 1 << 20
LIMIT = 64 * MIB
WRITERS = 8
TOTAL = 1024 * MIB
fork = multiprocessing.get_context("fork")


def used_below(fs):
    st = os.statvfs(fs)
    return (st.f_blocks - st.f_bfree) * st.f_frsize


def sample(fs, stop, result):
    """The most that is used below @fs, looked at every 10 ms."""
    most = 0
    while not stop.is_set():
        most = max(most, used_below(fs))
        time.sleep(0.01)
    result.value = most


def write_share(top, share, results):
    """Write a share of the total as pip would; says what became of it."""
    written = refused = 0
    for n in itertools.count(share, WRITERS):
        if written + refused >= TOTAL // WRITERS:
            break
        size = pipshape.body_size(n)
        try:
            pipshape.store(top, n)
            written += size
        except OSError as e:
            # ENOENT: an emptied directory went before the file was in it.
            assert e.errno in (errno.ENOSPC, errno.ENOENT), e
            refused += size
            pipshape.leave_no_temporary(top, n)
    results.put((share, n, written, refused))


def is_stopped(pid):
    """Or has it ended?"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] in "TtZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def stopped(processes):
    """Figures that are gathered one after the other only compare while nobody
    writes: hold the writers for a moment, in the middle of whatever they do."""
    def send(number):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(process.pid, number)
    send(signal.SIGSTOP)
    # Not before the request under way has its answer.
    wait_for(lambda: all(is_stopped(p.pid) for p in processes), "the stop")
    try:
        yield
    finally:
        send(signal.SIGCONT)


def write_all(store, watch):
    """All writers at once, `watch()` meanwhile; (entries, written, refused)."""
    results = fork.Queue()
    writers = [fork.Process(target=write_share,
                            args=(store.mnt, share, results))
               for share in range(WRITERS)]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers):
        with stopped(writers):
            watch()
        time.sleep(0.2)
    for process in writers:
        process.join()
        assert process.exitcode == 0
    shares = [results.get(timeout=10) for _ in writers]
    entries = [n for share, end, _, _ in shares
               for n in range(share, end, WRITERS)]
    return entries, sum(s[2] for s in shares), sum(s[3] for s in shares)


@contextlib.contextmanager
def most_used(fs):
    """Yields a function that tells, after the block, the peak of use."""
    stop, most = fork.Event(), fork.Value("q", 0)
    sampler = fork.Process(target=sample, args=(fs, stop, most))
    sampler.start()
    try:
        yield lambda: most.value
    finally:
        stop.set()
        sampler.join()


@pytest.mark.parametrize("grace", [0, 600])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_limit_under_eight_writers(mount, loopfs, kind, grace):
    fs = loopfs(kind, 640 * MIB)
    empty = used_below(fs)
    store = mount(f"limit={LIMIT},grace={grace}", path=fs / "store")

    def watch():
        status = store.status()
        assert status["used_bytes"] <= status["charged_bytes"] <= LIMIT
        assert store.du() <= LIMIT
    with most_used(fs) as most:
        entries, written, refused = write_all(store, watch)
        status = store.settle()

    assert written + refused >= TOTAL
    assert 0 < most() - empty <= LIMIT
    assert status["used_bytes"] <= status["charged_bytes"]
    assert status["charged_bytes"] - store.du() <= 0.01 * LIMIT + MIB
    there = sum(pipshape.load(store.mnt, n) for n in entries)
    assert there > 0
    if grace:
        assert status["evictions"] == 0 and refused > 0
        assert written <= LIMIT
    else:
        assert status["evictions"] > 0
        assert written > 4 * refused
    for n in entries:
        assert header_alone_is_no_pair(store.mnt, n)
    store.remount()
    assert sum(pipshape.load(store.mnt, n) for n in entries) == there


def churn(top, share):
    """Many small changes of names: what makes the index grow."""
    where = top / f"share{share}"
    where.mkdir()
    for n in range(1500):
        with contextlib.suppress(OSError):
            (where / str(n)).write_bytes(b"x" * (n % 1800))
            os.rename(where / str(n), where / f"{n % 300}.kept")
            if n % 3 == 0:
                (where / f"{n % 300}.kept").unlink()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_limit_counts_the_index(mount, loopfs, kind):
    fs = loopfs(kind, 320 * MIB)
    empty = used_below(fs)
    store = mount(f"limit={16 * MIB}", path=fs / "store")
    with most_used(fs) as most:
        writers = [fork.Process(target=churn, args=(store.mnt, share))
                   for share in range(4)]
        for process in writers:
            process.start()
        while any(process.is_alive() for process in writers):
            with stopped(writers):
                status = store.status()
            assert status["used_bytes"] <= status["charged_bytes"]
            time.sleep(0.1)
        for process in writers:
            process.join()
            assert process.exitcode == 0
        status = store.settle()
    assert 0 < most() - empty <= 16 * MIB
    assert status["used"]["index"] > 0
    assert status["used_bytes"] <= status["charged_bytes"]


def header_alone_is_no_pair(top, n):
    """A body never stays without its header: they go together."""
    return (pipshape.header_path(top, n).exists()
            or not pipshape.body_path(top, n).exists())


def copy_in_steps(mnt):
    with (mnt / "large").open("rb") as src, (mnt / "new").open("wb") as dst:
        while os.copy_file_range(src.fileno(), dst.fileno(), 100_000):
            pass


def copy_at_once(mnt):
    subprocess.run(["cp", mnt / "large", mnt / "new"], check=True,
                   stderr=subprocess.DEVNULL)


def rewrite_a_byte(mnt):
    with (mnt / "large").open("r+b") as f:
        f.write(b"x")


@pytest.mark.parametrize("act, size, other", [
    (copy_in_steps, 36, 0), (copy_at_once, 24, 10), (rewrite_a_byte, 24, 12)])
def test_limit_while_large_files_are_copied(mount, loopfs, act, size, other):
    """xfs allocates far ahead for who appends to a file, if it is let."""
    fs = loopfs("xfs", 320 * MIB, "-m", "reflink=0")
    empty = used_below(fs)
    store = mount(f"limit={LIMIT},min_free=1M", path=fs / "store")
    (store.mnt / "large").write_bytes(os.urandom(size * MIB))
    (store.mnt / "other").write_bytes(os.urandom(other * MIB))
    store.settle()
    with most_used(fs) as most:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            act(store.mnt)
        status = store.status()
        assert status["used_bytes"] <= status["charged_bytes"] <= LIMIT
    assert (size + other) * MIB < most() - empty <= LIMIT


# ---- what goes, and what stays ----

def fill(store, count, first=0, size=MIB, put=pipshape.store):
    """Entries of @size; returns how many were taken before ENOSPC."""
    for n in range(first, first + count):
        try:
            put(store.mnt, n, size)
        except OSError as e:
            assert e.errno == errno.ENOSPC
            pipshape.leave_no_temporary(store.mnt, n)
            return n - first
    return count


def present(store, entries, size=MIB):
    """Those of @entries that are there as a pair, in full."""
    return [n for n in entries if pipshape.load(store.mnt, n, size)]


def prune_by(store, amount):
    """Let @amount of bytes go, the least recently used first."""
    used = store.settle()["used_bytes"]
    store.prune("--to", str(used - amount))


def test_the_least_recently_opened_goes_first(mount):
    store = mount("limit=128M,grace=0")
    assert fill(store, 20) == 20
    for n in (2, 5):
        assert pipshape.load(store.mnt, n, MIB)
    prune_by(store, 10 * MIB)
    left = present(store, range(20))
    first = min(n for n in left if n not in (2, 5))
    assert 8 < first < 15
    assert left == [2, 5, *range(first, 20)]


def test_the_order_of_use_survives_a_remount(mount):
    store = mount("limit=128M,grace=0")
    assert fill(store, 20) == 20
    assert pipshape.load(store.mnt, 0, MIB)
    store.remount()
    prune_by(store, 10 * MIB)
    left = present(store, range(20))
    assert left[0] == 0 and 8 < left[1] < 15
    assert left == [0, *range(left[1], 20)]


def test_header_and_body_vanish_together(mount):
    store = mount("limit=64M,grace=0")
    fill(store, 10)
    # Only headers are opened: a use of the pair all the same.
    for n in range(5):
        pipshape.header_path(store.mnt, n).read_bytes()
    prune_by(store, 4 * MIB)
    there = present(store, range(10))
    assert 4 < len(there) < 9
    for n in set(range(10)) - set(there):
        for path in (pipshape.header_path(store.mnt, n),
                     pipshape.body_path(store.mnt, n)):
            with pytest.raises(FileNotFoundError):
                path.open("rb")


def test_emptied_directories_go_too(mount):
    store = mount("limit=64M,grace=0")
    fill(store, 10, size=1000)
    store.settle()
    store.prune("--all")
    store.settle()
    assert store.status()["entries"] == 0
    # A pip that has just made them may be about to use them.
    left = [p for p in store.mnt.glob("http-v2/**") if p.name != "http-v2"]
    assert len(left) >= 5
    for path in left:
        os.utime(path, (time.time() - 90,) * 2)
    store.prune("--all")
    left = [p for p in store.mnt.glob("http-v2/**") if p.name != "http-v2"]
    assert left == []
    fill(store, 10, size=1000)
    assert len(present(store, range(10), 1000)) == 10


def test_grace_protects_what_was_just_used(mount):
    store = mount("limit=64M,grace=600")
    taken = fill(store, 80)
    assert 40 < taken < 64
    assert present(store, range(taken)) == list(range(taken))
    assert store.status()["evictions"] == 0
    store.prune("--older-than", "1h")
    assert present(store, range(taken)) == list(range(taken))


def test_http_stops_at_95_percent_and_wheels_go_on(mount):
    """A built wheel pushes out http entries that are within grace."""
    store = mount("limit=64M,grace=600")
    taken = fill(store, 80)
    status = store.settle()
    assert status["used"]["http"] <= 0.95 * LIMIT
    for n in range(12):
        pipshape.patiently(pipshape.store_wheel, store.mnt, n, MIB)
    status = store.settle()
    assert status["evictions"] > 0
    assert status["used"]["wheels"] >= 12 * MIB
    assert len(present(store, range(taken))) < taken
    assert status["charged_bytes"] <= LIMIT


def test_open_entries_are_not_pushed_out_by_wheels(mount):
    store = mount("limit=32M,grace=600")
    taken = fill(store, 40)
    with contextlib.ExitStack() as files:
        held = {n: files.enter_context(
            pipshape.body_path(store.mnt, n).open("rb")) for n in range(3)}
        for n in range(6):
            pipshape.patiently(pipshape.store_wheel, store.mnt, n, MIB)
        for n, f in held.items():
            assert f.read() == pipshape.body(n, MIB)
            assert pipshape.load(store.mnt, n, MIB)
    assert len(present(store, range(taken))) < taken


@contextlib.contextmanager
def half_a_wheel(store):
    """A wheel that pip copies to its place, as it does, and there is no room
    for all of it."""
    path = pipshape.wheel_path(store.mnt, 1)
    path.parent.mkdir(parents=True)
    with path.open("wb", buffering=0) as f:
        with pytest.raises(OSError) as e:
            for _ in range(32):
                f.write(bytes(MIB))
        assert e.value.errno == errno.ENOSPC
        yield path

    def is_gone():  # the kernel may know its name for a while
        try:
            path.open("rb").close()
        except FileNotFoundError:
            return True
        return False
    wait_for(is_gone, "half a wheel to go")


def test_half_a_wheel_is_none(mount):
    store = mount("limit=16M")
    with half_a_wheel(store) as path:
        assert path.stat().st_size > MIB
    pipshape.store_wheel(store.mnt, 1, MIB)
    assert path.read_bytes() == pipshape.content(path, MIB)


def test_half_a_wheel_is_none_for_the_next_daemon_either(mount):
    store = mount("limit=16M")
    store.expect("the daemon was ended by signal 9; another one goes on")
    with half_a_wheel(store):
        os.kill(store.status()["pid"], signal.SIGKILL)


def test_http_goes_before_wheels(mount):
    store = mount("limit=64M,grace=0")
    for n in range(5):
        pipshape.store_wheel(store.mnt, n, MIB)
    fill(store, 5)
    for n in range(5):
        pipshape.load(store.mnt, n, MIB)
        pipshape.wheel_path(store.mnt, n).read_bytes()
    prune_by(store, 3 * MIB)
    assert 0 < len(present(store, range(5))) < 5
    for n in range(5):
        assert len(pipshape.wheel_path(store.mnt, n).read_bytes()) == MIB


def test_a_built_wheel_goes_with_its_note(mount):
    store = mount("limit=64M,grace=0")
    pipshape.store_wheel(store.mnt, 1, MIB)
    store.prune("--all")
    for path in (pipshape.wheel_path(store.mnt, 1),
                 pipshape.wheel_path(store.mnt, 1).with_name("origin.json")):
        with pytest.raises(FileNotFoundError):
            path.open("rb")


def test_files_of_no_known_layout_are_never_evicted(mount):
    store = mount("limit=32M,grace=0")
    kept = []
    for n in range(100):
        path = store.mnt / "uv" / f"archive{n}"
        path.parent.mkdir(exist_ok=True)
        try:
            path.write_bytes(pipshape.content(path, MIB))
        except OSError as e:
            assert e.errno == errno.ENOSPC
            path.unlink(missing_ok=True)  # or there was no room for a name
            break
        kept.append(path)
    assert 15 < len(kept) < 32
    assert store.status()["reason"] != ""
    status = store.settle()
    assert status["evictions"] == 0
    assert status["used"]["other"] >= len(kept) * MIB
    store.prune("--all")
    for path in kept:
        assert path.read_bytes() == pipshape.content(path, MIB)
    # Whoever removes files gets room again, and the reason is gone.
    for path in kept:
        path.unlink()
    store.settle()
    fill(store, 5)
    assert store.status()["reason"] == ""


def test_names_that_only_look_like_pips_are_not_evicted(mount):
    store = mount("limit=64M,grace=0")
    name = pipshape.key(1)
    odd = [store.mnt / "http-v2" / name,
           store.mnt / "http-v2" / "a" / "b" / "c" / "d" / "e" / "note.txt",
           store.mnt / "http-v2" / "0" / "0" / "0" / "0" / "0" / name,
           store.mnt / "wheels" / "mine.whl", store.mnt / name]
    for path in odd:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
    pipshape.store(store.mnt, 1, 5000)
    store.prune("--all")
    assert not pipshape.load(store.mnt, 1, 5000)
    assert [p.stat().st_size for p in odd] == [5000] * len(odd)


def expect_all_evictable(store, entries):
    """All @entries pairs are known as such, and go."""
    store.remount()
    wait_for(lambda: store.status()["entries"] == entries, "the entries")
    store.prune("--all")
    assert present(store, range(entries), 1000) == []
    assert store.status()["entries"] == 0


@pytest.mark.parametrize("goes, stays", [("backup", "http-v2"),
                                         ("http-v2", "backup")])
def test_links_that_go_leave_entries_evictable(mount, goes, stays):
    store = mount("limit=64M,grace=0")
    fill(store, 10, size=1000)
    subprocess.run(["cp", "-al", "http-v2", "backup"], cwd=store.mnt,
                   check=True)
    subprocess.run(["rm", "-r", goes], cwd=store.mnt, check=True)
    if stays != "http-v2":
        (store.mnt / stays).rename(store.mnt / "http-v2")
    assert present(store, range(10), 1000) == list(range(10))
    expect_all_evictable(store, 10)


def test_a_link_that_goes_leaves_a_pair_whole(mount):
    store = mount("limit=64M,grace=0")
    fill(store, 1, size=1000)
    os.link(pipshape.body_path(store.mnt, 0), store.mnt / "t")
    (store.mnt / "t").unlink()
    store.prune("--all")
    assert not pipshape.header_path(store.mnt, 0).exists()
    assert not pipshape.body_path(store.mnt, 0).exists()


def test_a_cache_moved_away_pruned_and_moved_back_is_evictable(mount):
    store = mount("limit=64M,grace=0")
    fill(store, 10, size=1000)
    (store.mnt / "http-v2").rename(store.mnt / "old")
    store.prune("--all")
    (store.mnt / "old").rename(store.mnt / "http-v2")
    assert present(store, range(10), 1000) == list(range(10))
    expect_all_evictable(store, 10)


def test_a_mapping_that_finds_no_room_takes_its_file_along(mount):
    """Nobody can be told of the failed write-back: the file must not stay
    with bytes that are not those that were put into it."""
    store = mount("limit=32M,grace=600")
    store.expect("(?i)write|drop|room|space")
    fill(store, 24)
    path = store.mnt / "mapped"
    with contextlib.suppress(OSError), path.open("w+b") as f:
        f.truncate(20 * MIB)
        with mmap.mmap(f.fileno(), 0) as mapped:
            for at in range(0, 20 * MIB, 4096):
                mapped[at] = 1
    wait_for(lambda: not path.exists(), "the file to go")


# ---- limits at run time ----

def test_a_smaller_limit_at_run_time(mount):
    store = mount("limit=64M,grace=600")
    taken = fill(store, 40)
    assert taken == 40
    store.do("limit", store.path, "32M")
    status = store.status()
    assert status["limit_bytes"] == 32 * MIB
    assert status["excess_bytes"] > 0 and status["evictions"] == 0
    assert fill(store, 1, first=100) == 0
    assert present(store, range(40)) == list(range(40))

    store.do("limit", store.path, "32M", "--now")
    status = store.settle()
    assert status["excess_bytes"] == 0 and status["evictions"] > 0
    assert store.du() <= 32 * MIB
    assert 0 < len(present(store, range(40))) < 32
    assert "32" in store.do("limit", store.mnt)

    store.do("limit", store.mnt, "128M")
    assert fill(store, 60, first=200) == 60


def test_the_limit_command_is_kept_for_the_next_mount(mount):
    store = mount()
    store.do("limit", store.path, "48M")
    store.remount()
    assert store.status()["limit_bytes"] == 48 * MIB
    store.umount()
    store.do("limit", store.path, "40M")
    store.mount()
    assert store.status()["limit_bytes"] == 40 * MIB


def test_mounting_with_a_smaller_limit(mount):
    store = mount("limit=64M,grace=600")
    assert fill(store, 40) == 40
    store.remount("limit=32M,grace=0")
    status = wait_for(
        lambda: (s := store.status())["excess_bytes"] == 0 and s,
        "eviction to the new limit")
    assert status["evictions"] > 0
    store.settle()
    assert store.du() <= 32 * MIB
    left = present(store, range(40))
    assert left and all(pipshape.load(store.mnt, n, MIB) for n in left)


def test_prune(mount):
    store = mount("limit=64M")
    fill(store, 10)
    store.settle()
    would = store.prune("--all", "--dry-run")
    assert "10" in would
    assert present(store, range(10)) == list(range(10))
    store.do("prune", store.mnt, "--older-than", "1d")
    assert present(store, range(10)) == list(range(10))
    store.await_closed()
    store.do("prune", store.mnt, "--all")
    assert present(store, range(10)) == []
    fill(store, 10)
    store.umount()
    store.prune("--all")
    store.mount()
    assert present(store, range(10)) == []
    assert store.settle()["used"]["http"] == 0


def test_temporary_files_that_nobody_finished_are_reaped(mount):
    store = mount()
    old, new, other = (
        p.with_name(p.name + "abcd1234.tmp") for p in (
            pipshape.header_path(store.mnt, 1),
            pipshape.header_path(store.mnt, 2), store.mnt / "mine"))
    two_hours_ago = time.time() - 7200
    for path in (old, new, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        if path != new:
            os.utime(path, (two_hours_ago, two_hours_ago))
    # It looks for them at each mount, and every ten minutes.
    store.remount()
    wait_for(lambda: store.status()["reaped"] == 1, "the reaper")
    # The name may be known to the kernel for a while, the file is gone.
    with pytest.raises(FileNotFoundError):
        old.open("rb")
    assert new.exists() and other.exists()


# ---- the disk below ----

def test_min_free_is_left_to_others(mount, loopfs):
    fs = loopfs("ext4", 200 * MIB)
    store = mount("limit=128M,min_free=60M,grace=600", path=fs / "store")
    assert fill(store, 10) == 10
    st = os.statvfs(fs)
    ballast = fs / "ballast"
    with ballast.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0,
                           st.f_bavail * st.f_frsize - 50 * MIB)
    assert fill(store, 1, first=100) == 0
    status = store.status()
    assert status["state"] == "disk-full" and status["reason"] != ""
    # Hits are served all the same.
    assert all(pipshape.load(store.mnt, n, MIB) for n in range(10))
    # pip would give up a build that cannot store its wheel.
    pipshape.store_wheel(store.mnt, 1, MIB)
    ballast.unlink()
    assert wait_for(lambda: fill(store, 1, first=100), "room again")
    assert store.status()["state"] == "ok"


def test_a_full_disk_gives_enospc_and_no_torn_file(mount, loopfs):
    fs = loopfs("ext4", 64 * MIB)
    store = mount("limit=1G,min_free=1M,grace=600", path=fs / "store")
    taken = fill(store, 80)
    assert 20 < taken < 64
    assert present(store, range(80)) == list(range(taken))
    store.settle()
    store.remount()
    assert all(pipshape.load(store.mnt, n, MIB) for n in range(taken))


def test_a_full_disk_evicts_and_goes_on(mount, loopfs):
    fs = loopfs("ext4", 64 * MIB)
    store = mount("limit=1G,min_free=1M,grace=0", path=fs / "store")

    def put(*args):
        pipshape.patiently(pipshape.store, *args)
    assert fill(store, 150, put=put) == 150
    left = present(store, range(150))
    assert 149 in left and 0 not in left
    assert all(pipshape.load(store.mnt, n, MIB) for n in left)
