# SPDX-License-Identifier: MIT
"""`pipcachefs check`, of a mount at work and of a store that lies there."""

import errno
import json
import multiprocessing
import os
import zipfile

import pipshape

KEYS = set("ok findings found files recipes blocks forgotten_blocks packs "
           "bytes_checked charged_bytes used_bytes".split())


def check(store, *options, where=None):
    """Exit status and what --json says."""
    done = store.run("check", where or store.path, "--json", *options)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == KEYS
    return done.returncode, said


def assert_clean(store, *options, where=None):
    status, said = check(store, *options, where=where)
    assert (status, said["ok"], said["findings"]) == (0, True, []), said
    return said


def put_wheels(top, wheels):
    """Cache each wheel twice, as two mirrors would have it; their number."""
    files = sorted(wheels.glob("*.whl"))
    for n, file in enumerate(files):
        data = file.read_bytes()
        for copy in range(2):
            pipshape.write_file(pipshape.header_path(top, 2 * n + copy), b"{}")
            pipshape.write_file(pipshape.body_path(top, 2 * n + copy), data)
    return len(files)


def write_and_remove(top, number, stop):
    """A pip that caches, reads and throws away until it is told to stop."""
    n = number
    while not stop.is_set():
        try:
            pipshape.store(top, n, 3_000 + n * 7919 % 200_000)
        except OSError as e:
            if e.errno != errno.ENOSPC:  # eviction that takes its time
                raise
            pipshape.leave_no_temporary(top, n)
        pipshape.load(top, n, 3_000 + n * 7919 % 200_000)
        if n % 3 == 0:
            try:
                pipshape.body_path(top, n).unlink()
            except FileNotFoundError:
                pass
        n += 10


def test_a_mount_at_work_is_clean(mount, wheels):
    store = mount("limit=400M,grace=0")
    count = put_wheels(store.mnt, wheels)
    assert count
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    writers = [fork.Process(target=write_and_remove,
                            args=(store.mnt, 1000 + n, stop))
               for n in range(3)]
    for process in writers:
        process.start()
    try:
        for _ in range(10):
            assert_clean(store, where=store.mnt)
            assert_clean(store, "--data")
    finally:
        stop.set()
        for process in writers:
            process.join()
    assert all(process.exitcode == 0 for process in writers)
    store.settle()
    said = assert_clean(store, "--data")
    assert said["files"] >= 4 * count
    assert said["recipes"] >= 2 * count
    assert said["blocks"] > 10 * count
    assert said["charged_bytes"] >= said["used_bytes"] > 0
    assert said["bytes_checked"] > 0
    store.umount()
    assert_clean(store, "--data")


def big_wheel(path):
    with zipfile.ZipFile(path, "w") as z:
        for n in range(20):
            z.writestr(f"demo/m{n}.bin", os.urandom(50_000))


def flip(path, at):
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def test_a_flipped_byte_is_named(mount, tmp_path):
    store = mount()
    big_wheel(tmp_path / "demo.whl")
    body = pipshape.body_path(store.mnt, 1)
    pipshape.write_file(pipshape.header_path(store.mnt, 1), b"{}")
    pipshape.write_file(body, (tmp_path / "demo.whl").read_bytes())
    store.settle()
    store.umount()
    assert_clean(store, "--data")
    pack = max((store.path / "packs").iterdir(), key=os.path.getsize)
    flip(pack, 500_000)
    assert_clean(store)

    status, said = check(store, "--data")
    assert status == 1 and said["found"] == 2
    of_block, of_file = sorted(said["findings"])
    assert of_block.startswith("block ") and "XXH3" in of_block
    assert str(body.relative_to(store.mnt)) in of_file
    done = store.run("check", store.path, "--data")
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert set(said["findings"]) < set(lines) and "2 findings" in lines

    # What it says to do: the file goes when it is opened.
    store.expect("damaged|wrong")
    store.mount()
    assert check(store, "--data")[0] == 1
    assert not body.exists() or not pipshape.load(store.mnt, 1)
    store.settle()
    assert_clean(store, "--data")


def test_a_pack_that_is_gone_is_named(mount):
    store = mount()
    pipshape.store_wheel(store.mnt, 1, 300_000)
    store.settle()
    store.umount()
    pack = max((store.path / "packs").iterdir(), key=os.path.getsize)
    pack.unlink()
    status, said = check(store)
    assert status == 1 and not said["ok"]
    assert any("has no file" in line for line in said["findings"])


def test_no_more_than_a_hundred_lines(mount):
    store = mount()
    for n in range(150):
        pipshape.store(store.mnt, n, 100_000 + n)
    store.settle()
    store.umount()
    for pack in (store.path / "packs").iterdir():
        if pack.is_file():
            os.truncate(pack, 0)
    status, said = check(store)
    assert status == 1
    assert said["found"] >= 150 and len(said["findings"]) == 100
    lines = store.run("check", store.path).stdout.splitlines()
    assert f"and {said['found'] - 100} more" == lines[100]


def test_wrong_usage(mount):
    store = mount()
    assert store.run("check").returncode == 2
    assert store.run("check", store.path, "--bytes").returncode == 2
    assert store.run("check", store.path, store.mnt).returncode == 2
    assert store.run("check", store.path / "nowhere").returncode == 1
    assert "--data" in store.do("check", "--help")
    assert "nothing is wrong" in store.do("check", store.mnt)
