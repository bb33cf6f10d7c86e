# SPDX-License-Identifier: MIT
"""What goes wrong is said in one clear line, and nothing is lost by it."""

import contextlib
import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time

import pytest

import pipshape
from mounted import END_SECONDS, binary, is_mounted, wait_for
from sysops import NOBODY, as_user, bind, in_mount_namespace, kernel

MIB = 1 << 20


def fails(store, *args, code=1, says=(), cwd=None):
    """`pipcachefs ARGS` exits with @code and one line with all of @says."""
    done = store.run(*args, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in says:
        assert re.search(word, lines[0]), f"{word!r} is not in {lines[0]!r}"
    return lines[0]


# ---- the command line ----

USAGE = [
    ((), r"usage|--help"),
    (("frobnicate",), r"frobnicate"),
    (("mount",), r"STORE|missing|usage|--help"),
    (("mount", "{store}"), r"MOUNTPOINT|mount point|missing|usage|--help"),
    (("mount", "{store}", "{mnt}", "extra"), r"extra"),
    (("mount", "{store}", "{mnt}", "--fast"), r"--fast"),
    (("mount", "{store}", "{mnt}", "-o"), r"requires.*'o'|-o"),
    (("mount", "{store}", "{mnt}", "-o", "frob=1"), r"frob"),
    (("mount", "{store}", "{mnt}", "-o", "limit=many"), r"limit.*many"),
    (("mount", "{store}", "{mnt}", "-o", "limit=5X"), r"limit.*5X"),
    (("mount", "{store}", "{mnt}", "-o", "limit=-5G"), r"limit.*-5G"),
    (("mount", "{store}", "{mnt}", "-o", "limit=0"), r"limit"),
    (("mount", "{store}", "{mnt}", "-o", "limit=1M"), r"limit=1M.*16M"),
    (("mount", "{store}", "{mnt}", "-o", "limit=64M,low=2G"), r"low=2G.*64M"),
    (("mount", "{store}", "{mnt}", "-o", "remount,ro"), r"pipcachefs limit"),
    (("mount", "{store}", "{mnt}", "-o", "limit=101%"), r"limit.*101%"),
    (("mount", "{store}", "{mnt}", "-o", "limit=99999999999T"), r"limit"),
    (("mount", "{store}", "{mnt}", "-o", "low=x"), r"low"),
    (("mount", "{store}", "{mnt}", "-o", "min_free=x"), r"min_free"),
    (("mount", "{store}", "{mnt}", "-o", "grace=soon"), r"grace.*soon"),
    (("mount", "{store}", "{mnt}", "-o", "grace=-1"), r"grace"),
    (("mount", "{store}", "{mnt}", "-o", "sync=maybe"), r"sync.*maybe"),
    (("umount",), r"MOUNTPOINT|STORE|missing|usage|--help"),
    (("status",), r"MOUNTPOINT|STORE|missing|usage|--help"),
    (("status", "{store}", "--yaml"), r"--yaml"),
    (("limit", "{store}", "big"), r"big"),
    (("prune", "{store}", "--older-than", "old"), r"old"),
    (("prune", "{store}", "--to", "small"), r"small"),
    (("sync",), r"MOUNTPOINT|STORE|missing|usage|--help"),
]


@pytest.mark.parametrize("args, says", USAGE,
                         ids=[" ".join(a) or "none" for a, _ in USAGE])
def test_bad_usage(mount, args, says):
    store = mount(start=False)
    args = [a.format(store=store.path, mnt=store.mnt) for a in args]
    fails(store, *args, code=2, says=[says])
    assert not store.path.exists()
    assert not is_mounted(store.mnt)


@pytest.mark.parametrize("command", ["status", "umount", "limit", "sync",
                                     "prune"])
def test_a_store_that_is_not_there(mount, command, tmp_path):
    store = mount(start=False)
    more = ["--all"] if command == "prune" else []
    fails(store, command, store.path, *more, says=[str(store.path)])
    assert not store.path.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(store, command, empty, *more, says=[str(empty)])
    assert os.listdir(empty) == []


@pytest.mark.parametrize("args", [
    (), ("mount",), ("umount",), ("status",), ("limit",), ("prune",),
    ("sync",), ("doctor",)], ids=" ".join)
def test_help(mount, args):
    text = mount(start=False).do(*args, "--help")
    assert "pipcachefs" in text and len(text.splitlines()) > 3
    assert all(len(line) <= 100 for line in text.splitlines())


def test_version(mount):
    assert re.search(r"\d+\.\d+", mount(start=False).do("--version"))


# ---- mounting where one must not ----

def test_paths_that_cannot_be_mounted(mount, tmp_path):
    store = mount(start=False)
    gone, file = tmp_path / "gone", tmp_path / "file"
    file.write_bytes(b"mine")
    fails(store, "mount", store.path, gone, says=[str(gone)])
    fails(store, "mount", store.path, file, says=[str(file)])
    fails(store, "mount", file, store.mnt, says=[str(file)])
    fails(store, "mount", gone / "store", store.mnt, says=[str(gone)])
    assert file.read_bytes() == b"mine" and not gone.exists()


def test_a_store_inside_its_mount(mount, tmp_path):
    store = mount(start=False)
    for inside in (store.mnt, store.mnt / "store", store.mnt / "a" / ".."):
        fails(store, "mount", inside, store.mnt, says=[str(store.mnt)])
    link = tmp_path / "link"
    link.symlink_to(store.mnt)
    fails(store, "mount", link / "store", store.mnt, says=["store"])
    assert os.listdir(store.mnt) == []


def test_a_mount_point_in_use(mount):
    store, other = mount(), mount(start=False)
    line = fails(other, "mount", other.path, store.mnt, says=[str(store.mnt)])
    assert "mounted" in line or "in use" in line
    (store.mnt / "still").write_bytes(b"here")


def test_a_directory_that_is_no_store(mount):
    store = mount(start=False)
    store.path.mkdir()
    (store.path / "precious").write_bytes(b"mine")
    fails(store, "mount", store.path, store.mnt, says=[str(store.path)])
    assert os.listdir(store.path) == ["precious"]


def test_a_second_daemon_is_refused_and_told_of_the_first(mount):
    store = mount()
    pid = store.status()["pid"]
    other = mount(path=store.path, start=False)
    fails(other, "mount", store.path, other.mnt,
          says=[str(store.path), rf"\b{pid}\b"])
    assert not is_mounted(other.mnt)
    (store.mnt / "still").write_bytes(b"here")
    assert store.status()["pid"] == pid


LOOKING = [("doctor",), ("status",), ("prune", "--all", "--dry-run")]


@pytest.mark.parametrize("args", LOOKING, ids=" ".join)
def test_looking_at_a_store_keeps_it(mount, args):
    store = mount()
    pipshape.store(store.mnt, 1, 100_000)
    store.umount()
    store.run(args[0], store.path, *args[1:])
    store.mount()
    assert pipshape.load(store.mnt, 1, 100_000)


@pytest.mark.parametrize("args", LOOKING, ids=" ".join)
def test_looking_at_a_damaged_store_only_says_so(mount, args):
    """Giving up a damaged index is for `mount` to do, not for a question."""
    store = mount()
    pipshape.store(store.mnt, 1, 100_000)
    store.umount()
    index = store.path / "index" / "data.mdb"
    index.write_bytes(b"x" * 100_000)
    done = store.run(args[0], store.path, *args[1:])
    assert done.returncode == 1
    assert "index" in done.stdout + done.stderr
    assert index.read_bytes() == b"x" * 100_000
    assert not (store.path / "index.bad").exists()


def test_a_read_only_disk_below(mount, loopfs):
    fs = loopfs("ext4", 64 * MIB)
    store = mount("min_free=1M", path=fs / "store")
    pipshape.store(store.mnt, 1, 100_000)
    store.umount()
    subprocess.run(["mount", "-o", "remount,ro", fs], check=True)
    fails(store, "mount", store.path, store.mnt,
          says=[str(store.path), "[Rr]ead-only"])
    subprocess.run(["mount", "-o", "remount,rw", fs], check=True)
    store.mount()
    assert pipshape.load(store.mnt, 1, 100_000)


# ---- ending while in use ----

def test_unmount_while_busy(mount):
    store = mount()
    (store.mnt / "f").write_bytes(b"data")
    with (store.mnt / "f").open("rb") as f:
        line = fails(store, "umount", store.mnt, says=[str(store.mnt)])
        assert f"is busy: process {os.getpid()} (" in line
        assert f"has open {store.mnt}/f" in line
        assert f.read() == b"data"
        (store.mnt / "g").write_bytes(b"still writable")
    store.umount()


def test_sigterm_with_open_files(mount):
    store = mount("stop_timeout=0")
    store.expect("stop_timeout=0 is over")
    pipshape.store(store.mnt, 1, MIB)
    unfinished = store.mnt / "unfinished"
    f = unfinished.open("wb", buffering=0)
    f.write(b"x" * 100_000)
    os.kill(store.status()["pid"], signal.SIGTERM)
    assert store.process.wait(timeout=END_SECONDS) == 0
    with pytest.raises(OSError) as e:
        f.write(b"more")
    assert e.value.errno == errno.ENOTCONN
    with contextlib.suppress(OSError):
        f.close()
    assert not is_mounted(store.mnt)
    store.mount()
    assert pipshape.load(store.mnt, 1, MIB)
    assert unfinished.read_bytes() in (b"x" * 100_000, b"")


def test_a_new_daemon_waits_for_one_that_is_ending(mount):
    store = mount()
    for n in range(30):
        pipshape.store(store.mnt, n, MIB)
    subprocess.run(["umount", store.mnt], check=True)
    old = store.process
    # Not before another test's namespace has let go of the mount too.
    wait_for(lambda: old.poll() is not None
             or "\nending" in (store.path / "lock").read_text(),
             "the old one's end", END_SECONDS)
    store.mount()
    assert old.wait(timeout=END_SECONDS) == 0
    assert all(pipshape.load(store.mnt, n, MIB) for n in range(30))


def test_umount_of_the_plain_command(mount):
    store = mount()
    pipshape.store(store.mnt, 1, MIB)
    subprocess.run(["umount", store.mnt], check=True)
    assert store.process.wait(timeout=END_SECONDS) == 0
    store.mount()
    assert pipshape.load(store.mnt, 1, MIB)


def write_until_dead(top, share):
    for n in range(share, 4000, 4):
        try:
            pipshape.store(top, n, pipshape.body_size(n, MIB))
        except OSError as e:
            if e.errno != errno.ENOSPC:
                return
            # A slow disk makes room more slowly than a write waits for it.
            with contextlib.suppress(OSError):
                pipshape.leave_no_temporary(top, n)


def test_a_daemon_killed_under_load_leaves_whole_files(mount):
    store = mount("limit=64M,grace=0")
    for n in range(5000, 5010):
        pipshape.store(store.mnt, n, 200_000)
    store.sync()
    for n in range(5000, 5010):
        assert pipshape.load(store.mnt, n, 200_000)
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_until_dead, args=(store.mnt, share))
               for share in range(4)]
    for process in writers:
        process.start()
    wait_for(lambda: store.status()["checkpoints"] > 4
             and store.status()["misses"] > 30, "some work done")
    store.kill9()
    for process in writers:
        process.join()
    store.mount()
    there = sum(pipshape.load(store.mnt, n, pipshape.body_size(n, MIB))
                for n in range(4000))
    assert there > 0
    status = store.settle()
    assert status["used_bytes"] <= status["charged_bytes"] <= 64 * MIB


# ---- damage ----

def flip(path, *offsets):
    with path.open("r+b") as f:
        for offset in offsets:
            f.seek(offset)
            byte = f.read(1)
            f.seek(offset)
            f.write(bytes([byte[0] ^ 0x55]))


def biggest_packs(store):
    packs = [p for p in (store.path / "packs").rglob("*") if p.is_file()]
    return sorted(packs, key=lambda p: p.stat().st_size, reverse=True)


def find_in_pack(store, data):
    """The pack that holds @data and where."""
    for pack in biggest_packs(store):
        at = pack.read_bytes().find(data)
        if at >= 0:
            return pack, at
    raise AssertionError("no pack holds this file")


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_damaged_pack_is_a_miss(mount, where):
    store = mount()
    for n in range(3):
        pipshape.store(store.mnt, n, 500_000)
    store.umount()
    pack, at = find_in_pack(store, pipshape.body(1, 500_000))
    flip(pack, at + {"start": 0, "middle": 250_000, "end": 499_999}[where])

    store.expect(r"(?i)damage|checksum|mismatch|dropped")
    store.mount()
    # The names may be known to the kernel for a while, the files are gone.
    for path in (pipshape.body_path, pipshape.header_path):
        with pytest.raises(FileNotFoundError):
            path(store.mnt, 1).open("rb")
    assert store.status()["damaged"] == 1
    assert pipshape.load(store.mnt, 0, 500_000)
    assert pipshape.load(store.mnt, 2, 500_000)
    # pip downloads it again, and all is well.
    pipshape.store(store.mnt, 1, 500_000)
    store.remount()
    assert pipshape.load(store.mnt, 1, 500_000)


def test_a_missing_or_short_pack_is_a_miss(mount):
    store = mount()
    for n in range(4):
        pipshape.store(store.mnt, n, 500_000)
    store.umount()
    find_in_pack(store, pipshape.body(1, 500_000))[0].unlink()
    os.truncate(find_in_pack(store, pipshape.body(2, 500_000))[0], 400_000)

    store.expect(r"(?i)damage|checksum|mismatch|dropped|missing|pack")
    store.mount()
    assert not pipshape.load(store.mnt, 1, 500_000)
    assert not pipshape.load(store.mnt, 2, 500_000)
    assert pipshape.load(store.mnt, 0, 500_000)
    assert pipshape.load(store.mnt, 3, 500_000)
    assert store.status()["damaged"] == 2


def test_damaged_meta_pages_are_put_back(mount):
    """The side file has them: nothing is lost."""
    store = mount()
    pipshape.store(store.mnt, 1, 500_000)
    store.umount()
    flip(store.path / "index" / "data.mdb", *range(100), *range(4096, 4196))
    store.mount()
    assert pipshape.load(store.mnt, 1, 500_000)


def flip_behind(path, *marks):
    """Damage what follows each of @marks, wherever it is."""
    data = path.read_bytes()
    for mark in marks:
        found = [m.end() for m in re.finditer(re.escape(mark), data)]
        assert found
        flip(path, *found)


def test_damaged_records_cost_their_files_at_most(mount):
    """What another record tells too is mended, the rest can be removed."""
    store = mount()
    for n in range(8):
        pipshape.store(store.mnt, n, 200_000)
    lost, mark = pipshape.body_path(store.mnt, 1), 0x0BADCAFE0BADCAFE
    os.utime(lost, ns=(mark, mark))
    named = pipshape.body_path(store.mnt, 2)
    key = struct.pack(">Q", named.parent.stat().st_ino) + named.name.encode()
    os.utime(named.parent.parent, ns=(mark + 1, mark + 1))
    store.umount()
    flip_behind(store.path / "index" / "data.mdb", key,
                struct.pack("<q", mark), struct.pack("<q", mark + 1))

    store.expect(r"inode records are damaged")
    store.mount()
    assert not pipshape.load(store.mnt, 1, 200_000)
    assert pipshape.load(store.mnt, 2, 200_000)
    pipshape.store(store.mnt, 1, 200_000)
    assert pipshape.load(store.mnt, 1, 200_000)

    # What was lost goes with the next mount: then nothing is left of it.
    store.remount()
    assert store.log().count("records are damaged") == 1
    wait_for(lambda: store.run("check", store.path).returncode == 0,
             "a clean check")
    shutil.rmtree(store.mnt / "http-v2")
    store.settle()
    assert not [p for p in biggest_packs(store) if p.stat().st_blocks]


@pytest.mark.parametrize("damage", ["empty", "garbage", "gone"])
def test_an_unreadable_index_is_set_aside(mount, damage):
    store = mount()
    pipshape.store(store.mnt, 1, 500_000)
    store.umount()
    index = store.path / "index" / "data.mdb"
    if damage == "empty":
        os.truncate(index, 0)
    elif damage == "garbage":
        index.write_bytes(os.urandom(100_000))
    else:
        index.unlink()

    store.expect(r"index")
    store.mount()
    assert (store.path / "index.bad").exists()
    assert not pipshape.load(store.mnt, 1, 500_000)
    assert os.listdir(store.mnt) == []
    pipshape.store(store.mnt, 2, 500_000)
    store.remount()
    assert pipshape.load(store.mnt, 2, 500_000)


@pytest.mark.parametrize("damage", ["flip", "empty", "gone"])
def test_an_unreadable_side_file(mount, damage):
    """Nobody then knows whether the index may be used: it is set aside."""
    store = mount()
    pipshape.store(store.mnt, 1, 500_000)
    store.umount()
    side = store.path / "index" / "ckpt"
    if damage == "flip":
        flip(side, side.stat().st_size // 2)
    elif damage == "empty":
        os.truncate(side, 0)
    else:
        side.unlink()

    store.expect(r"index|side file")
    store.mount()
    assert (store.path / "index.bad").exists()
    assert not pipshape.load(store.mnt, 1, 500_000)
    pipshape.store(store.mnt, 2, 500_000)
    assert pipshape.load(store.mnt, 2, 500_000)


def test_packs_of_a_lost_index_are_charged_and_go_first(mount):
    store = mount("limit=64M,grace=0")
    for n in range(30):
        pipshape.store(store.mnt, n, MIB)
    store.umount()
    (store.path / "index" / "data.mdb").write_bytes(os.urandom(100_000))
    store.expect(r"index")
    store.mount()
    assert store.status()["charged_bytes"] > 30 * MIB
    for n in range(100, 150):
        pipshape.patiently(pipshape.store, store.mnt, n, MIB)
        assert store.du() <= 64 * MIB
    store.settle()
    assert not (store.path / "packs.bad").exists()
    assert all(pipshape.load(store.mnt, n, MIB) for n in range(120, 150))


def test_a_second_lost_index_replaces_the_first(mount):
    store = mount()
    store.expect(r"index")
    for _ in range(2):
        store.umount()
        (store.path / "index" / "data.mdb").write_bytes(os.urandom(100_000))
        store.mount()
    assert len(list(store.path.glob("index.bad*"))) == 1


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_to_the_index_never_gives_wrong_bytes(mount, seed):
    """The mount works or is refused with one line; files are right or away."""
    rng = random.Random(seed)
    store = mount()
    sizes = {n: rng.choice([10, 1000, 5000, 100_000]) for n in range(25)}
    for n, size in sizes.items():
        pipshape.store(store.mnt, n, size)
    store.umount()
    index = store.path / "index" / "data.mdb"
    flip(index, *(rng.randrange(index.stat().st_size)
                  for _ in range(rng.choice([1, 10, 300]))))

    store.expect(r".")
    try:
        store.mount()
    except AssertionError:
        assert len(store.log().strip().splitlines()) >= 1
        assert "Sanitizer" not in store.log()
        return
    for n, size in sizes.items():
        try:
            pipshape.load(store.mnt, n, size)
        except OSError as e:
            assert e.errno in (errno.ENOENT, errno.EIO, errno.ESTALE)
    try:
        pipshape.store(store.mnt, 100, 5000)
        assert pipshape.load(store.mnt, 100, 5000)
    except OSError as e:
        assert e.errno in (errno.EIO, errno.EROFS)
    assert store.process.poll() is None, "the daemon died"
    assert "Sanitizer" not in store.log()


# ---- a user's own mount ----

@pytest.fixture
def users_place():
    """A directory of an unprivileged user's, and a program he may run."""
    top = tempfile.mkdtemp(prefix="pipcachefs-user.")
    os.chmod(top, 0o755)
    program = os.path.join(top, "pipcachefs")
    shutil.copy(binary(), program)
    home = os.path.join(top, "home")
    os.makedirs(os.path.join(home, "mnt"))
    for path in (home, os.path.join(home, "mnt")):
        os.chown(path, NOBODY, NOBODY)
    yield home, program
    shutil.rmtree(top)


@pytest.mark.usefixtures("mount")
def test_an_unprivileged_user_mounts_for_himself(users_place):
    home, program = users_place
    mnt = os.path.join(home, "mnt")

    def run(*args):
        done = subprocess.run([program, *args], capture_output=True,
                              text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def mount_and_use():
        run("mount", "store", "mnt")
        os.makedirs("mnt/d")
        with open("mnt/d/f", "wb") as f:
            f.write(b"x" * 100_000)
        assert os.stat("mnt").st_uid == NOBODY
        run("status", "mnt")
        run("umount", "mnt")
        run("mount", "store", "mnt")
        with open("mnt/d/f", "rb") as f:
            assert f.read() == b"x" * 100_000

    def all_of_it():
        # Where /dev/fuse is root's alone, give it to all in our namespace.
        device = os.path.join(os.path.dirname(home), "fuse")
        os.mknod(device, 0o600 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        os.chmod(device, 0o666)
        bind(device, "/dev/fuse")
        as_user(home, mount_and_use)
        # A mount of his own is his alone, even root is kept out.
        with pytest.raises(PermissionError):
            os.listdir(mnt)
        as_user(home, run, "umount", "mnt")
        assert not is_mounted(mnt)
    in_mount_namespace(all_of_it)


# ---- doctor ----

def test_doctor(mount, tmp_path):
    store = mount()
    text = store.do("doctor", store.path, store.mnt)
    assert "ok" in text and "/dev/fuse" in text
    if kernel() >= (6, 12):
        assert "idmapped mounts" in text
    store.umount()
    done = store.run("doctor", store.path, store.mnt)
    assert done.returncode == 1 and "mount" in done.stdout
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "x").write_bytes(b"x")
    done = store.run("doctor", plain)
    assert done.returncode == 1 and str(plain) in done.stdout
    assert "/dev/fuse" in store.do("doctor")


def everything_in(path):
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
            for p in sorted(path.rglob("*"))}


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_doctor_changes_nothing(mount, killed):
    store = mount()
    pipshape.store(store.mnt, 1, 100_000)
    store.sync()
    if killed:
        store.kill9()
    else:
        store.umount()
    before = everything_in(store.path)
    text = store.do("doctor", store.path)
    assert f"{store.path} can be read" in text
    assert ("was not closed" in text) == killed
    assert everything_in(store.path) == before


def test_a_long_path_to_the_store(mount, tmp_path):
    """Longer than the address of a socket may be."""
    path = tmp_path / ("long" * 30) / "store"
    path.parent.mkdir()
    store = mount(path=path)
    assert store.status()["store"] == str(path)


def test_a_path_with_blanks_and_quotes(mount, tmp_path):
    path = tmp_path / 'a "b" \\ ü' / "store"
    path.parent.mkdir()
    store = mount(path=path)
    assert store.status()["store"] == str(path)
    (store.mnt / "f").write_bytes(b"x")
    store.remount()
    assert (store.mnt / "f").read_bytes() == b"x"


def test_counters_of_hits_and_misses(mount):
    store = mount()
    pipshape.store(store.mnt, 1, 5000)
    assert pipshape.load(store.mnt, 1, 5000)
    assert pipshape.load(store.mnt, 1, 5000)
    status = store.status()
    assert (status["hits"], status["misses"]) == (2, 1)


def test_checkpoints_come_by_themselves(mount):
    store = mount()
    before = store.status()
    (store.mnt / "f").write_bytes(b"x")
    after = wait_for(
        lambda: (s := store.status())["checkpoints"] > before["checkpoints"]
        and s, "a checkpoint")
    assert abs(after["last_checkpoint"] - time.time()) < 60
