# SPDX-License-Identifier: MIT
"""What takes long holds up nobody but who asked for it."""

import contextlib
import errno
import os
import threading
import time

import pytest

import mounted

BIG = 4 << 30  # one hole: takes no space, but seconds to be verified
OPENERS = 12
LOOKS = 5


class Opener(threading.Thread):
    """Opens a file, and says when that is over."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.done, self.error = path, False, None
        self.start()

    def run(self):
        try:
            os.close(os.open(self.path, os.O_RDONLY))
        except OSError as e:
            self.error = e
        self.done = True


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def looks_were_answered(store):
    """Did names get looked up while nobody's open of a file that is verified
    first had ended? None: they had ended before that could be tried."""
    store.remount("workers=1,limit=64M")
    big = store.mnt / "big"
    assert big.stat().st_size == BIG
    before = threads(store.status()["pid"])
    openers = [Opener(big) for _ in range(OPENERS)]
    time.sleep(0.2)  # until they are in the kernel, and one is in work
    tried = not any(o.done for o in openers)
    for n in range(LOOKS):
        with contextlib.suppress(FileNotFoundError):
            (store.mnt / f"name{n}").stat()
    answered = not any(o.done for o in openers)
    for o in openers:
        o.join()
        assert o.error is None
    assert threads(store.status()["pid"]) <= before + OPENERS + LOOKS
    return answered if tried else None


def test_a_long_first_open_does_not_stall_the_others(mount):
    store = mount("limit=64M")
    with (store.mnt / "big").open("wb") as f:
        f.truncate(BIG)
    (store.mnt / "name0").write_bytes(b"one")
    store.settle()
    # A machine that stops for a second may miss the moment, hardly each time.
    answers = []
    while True not in answers and len(answers) < 4:
        answers.append(looks_were_answered(store))
    assert True in answers, answers


def test_workers_end_with_the_mount(mount):
    """The first ones and those that came later, idle or not."""
    store = mount("workers=1")
    openers = []
    for n in range(40):
        (store.mnt / f"f{n}").write_bytes(bytes(n))
        openers.append(Opener(store.mnt / f"f{n}"))
    for o in openers:
        o.join()
        assert o.error is None
    assert threads(store.status()["pid"]) > 1
    store.umount()
    assert not mounted.is_mounted(store.mnt)
    with pytest.raises(OSError) as e:
        os.stat(store.mnt / "f1")
    assert e.value.errno == errno.ENOENT
