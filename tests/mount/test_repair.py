# SPDX-License-Identifier: MIT
"""`pipcachefs check --repair`, as an operator uses it."""

import json
import os

import pipshape

KEYS = set("ok findings found actions done rebuilt set_aside unreadable lost "
           "rescued left".split())
COUNT = 30


def size(n):
    return 3_000 + n * 7919 % 200_000


def fill(store):
    for n in range(COUNT):
        pipshape.store(store.mnt, n, size(n))
    store.settle()


def held(store):
    """How many pairs are there; they have their bytes."""
    return sum(pipshape.load(store.mnt, n, size(n)) for n in range(COUNT))


def repair(store, *options, where=None):
    done = store.run("check", "--repair", where or store.path, "--json",
                     *options)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == KEYS
    assert (done.returncode == 0) == said["ok"]
    return said


def test_a_mounted_store_is_refused_by_name_of_the_mount(mount):
    store = mount("limit=100M")
    fill(store)
    for where in (store.path, store.mnt):
        done = store.run("check", "--repair", where)
        assert done.returncode == 1
        assert f"is mounted on {store.mnt}: unmount it first" in done.stderr
    assert held(store) == COUNT


def test_a_sound_store_is_left_alone(mount):
    store = mount("limit=100M")
    fill(store)
    store.umount()
    before = os.stat(store.path / "index").st_ino
    done = store.run("check", "--repair", "--data", store.path)
    assert done.returncode == 0, done.stderr
    assert "nothing is wrong, nothing was done" in done.stdout
    assert os.stat(store.path / "index").st_ino == before


def test_a_missing_pack_costs_its_pairs_only(mount):
    store = mount("limit=100M")
    fill(store)
    store.umount()
    packs = sorted((store.path / "packs").iterdir(),
                   key=lambda p: p.stat().st_size)
    packs[-1].unlink()
    assert store.run("check", store.path).returncode == 1
    done = store.run("check", "--repair", store.path)
    assert done.returncode == 0, done.stderr
    assert "wrong: " in done.stdout
    assert "done: http-v2/" in done.stdout
    assert "nothing is wrong any more" in done.stdout
    assert store.run("check", "--data", store.path).returncode == 0
    store.mount("limit=100M")
    assert COUNT // 2 < held(store) < COUNT


def test_an_index_that_was_set_aside_is_read(mount):
    store = mount("limit=100M")
    fill(store)
    store.umount()
    (store.path / "index" / "ckpt").write_bytes(b"rubbish")
    store.expect("the index is unreadable")
    store.mount("limit=100M")
    assert held(store) == 0
    pipshape.store(store.mnt, 3, size(3))
    pipshape.store(store.mnt, 1000, 5000)
    store.settle()
    store.umount()
    said = repair(store)
    assert said["rebuilt"] and said["set_aside"]
    assert said["rescued"] == 2 * (COUNT - 1)
    assert not (store.path / "index.bad").exists()
    assert not (store.path / "packs.bad").exists()
    assert repair(store, "--data") == {
        **dict.fromkeys(KEYS, 0), "ok": True, "findings": [], "actions": [],
        "rebuilt": False, "set_aside": False}
    store.mount("limit=100M")
    assert held(store) == COUNT
    assert pipshape.load(store.mnt, 1000, 5000)
