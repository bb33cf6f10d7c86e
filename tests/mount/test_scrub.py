# SPDX-License-Identifier: MIT
"""The scrub of a mount: what it finds, and what status says of it."""

import json
import random
import time

import pipshape
from mounted import wait_for

SIZE = 300_000


def stored(store, count):
    """Cache @count bodies and wait until they are in blocks."""
    for n in range(count):
        pipshape.store(store.mnt, n, SIZE + n)
    return store.settle()


def packs(store):
    """Packs by size, the largest first."""
    files = (store.path / "packs").iterdir()
    return sorted(files, key=lambda f: -f.stat().st_size)


def flip(path, offset):
    with path.open("r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 0x10]))


def there(store, count):
    """Numbers of the headers that the cache still has, and of the bodies."""
    return tuple([n for n in range(count) if path(store.mnt, n).exists()]
                 for path in (pipshape.header_path, pipshape.body_path))


def test_a_damaged_pack_costs_its_entry(mount):
    store = mount("limit=100M,scrub=3")
    stored(store, 8)
    pack = packs(store)[random.randrange(8)]
    assert pack.stat().st_size >= SIZE
    flip(pack, 123_456)
    store.expect("damage")
    status = wait_for(lambda: store.status()["damaged_blocks"]
                      and store.status(), "the damage to be found")
    wait_for(lambda: store.status()["damaged"] == 1, "the file to go")
    assert status["damaged_blocks"] == 1
    # The kernel may know the names a little longer, one than the other too.
    left = wait_for(lambda: (found := there(store, 8))[0] == found[1]
                    and len(found[0]) == 7 and found[0],
                    "header and body to go")
    for n in left:
        assert pipshape.load(store.mnt, n, SIZE + n)
    lines = [line for line in store.log().splitlines()
             if "damage: block" in line]
    assert len(lines) == 1 and f"packs/{pack.name}" in lines[0], lines
    wait_for(lambda: not pack.exists(), "its pack to go")
    store.umount()
    done = store.run("check", store.path, "--data")
    assert done.returncode == 0, done.stdout


def test_status_tells_of_the_scrub(mount):
    begun = time.time()
    store = mount("limit=100M,scrub=2")
    before = stored(store, 3)
    assert before["last_walk"] >= begun - 2
    after = wait_for(lambda: store.status()["last_scrub"] >= begun
                     and store.status(), "a scrub")
    assert after["scrub_all_bytes"] >= after["scrub_bytes"]
    assert after["damaged"] == after["damaged_blocks"] == 0
    assert after["damaged_records"] == 0
    text = store.do("status", store.path)
    assert "scrub       20" in text and "index walked 20" in text
    metrics = store.do("status", store.path, "--prometheus")
    assert "pipcachefs_last_scrub_timestamp_seconds" in metrics
    store.umount()
    later = json.loads(store.do("status", store.path, "--json"))
    assert later["last_scrub"] >= after["last_scrub"]


def test_off_is_off(mount):
    store = mount("limit=100M,scrub=off")
    stored(store, 2)
    store.remount()
    assert store.status()["last_scrub"] == 0
    assert "scrub       never;" in store.do("status", store.path)
