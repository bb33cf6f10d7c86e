# SPDX-License-Identifier: MIT
"""The daemon is killed, hangs, crashes, is replaced: whoever uses the mount
waits a moment, and sees nothing of it.

The kills count only if they hit something: each test that kills at random ends
with how many requests were taken over from a dead daemon, and how many of those
had been done already, so that only their answers were missing.
"""

import contextlib
import errno
import json
import os
import pathlib
import pty
import random
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest
from hypothesis import Phase, given, seed, settings

import pipshape
import sysops
import test_model
from index import Index
from mounted import binary, is_mounted, is_running, wait_for
from test_hostile import say
from test_model import Pair, no_umask, plain, sequences  # noqa: F401
from test_pip import Pip, assert_same_tree

LONG = bool(os.environ.get("PIPCACHEFS_LONG"))
MIB = 1 << 20
HAMMER = pathlib.Path(__file__).with_name("hammer.py")
# What a daemon that takes over says, and what its keeper says of the dead.
GOES_ON = r"goes on on|another one goes on"
# libfuse's own words for an answer that the kernel has already.
LATE = r"splice from pipe: No such file or directory"


def beside(name):
    """What was built along with the program under test."""
    path = pathlib.Path(binary()).parent / name
    if not path.exists():
        pytest.skip(f"{name} is built along with the tests only")
    return path


def daemon_pid(store):
    """Of the one that serves the store, or served it last."""
    lock = store.path / "lock"
    return int(wait_for(lock.read_text, "a pid").split()[0])


def taken_over(store):
    """Requests: (taken over, of them only answered, given up)."""
    status = store.status()
    return tuple(status["requests_" + what]
                 for what in ("taken_over", "replayed", "given_up"))


def start(mount, opts="", **environ):
    """A fresh mount whose daemons and keeper have that in their environment."""
    store = mount(start=False)
    for line in (GOES_ON, LATE):
        store.expect(line)
    store.env.update(environ)
    return store.mount(opts)


def kill_daemon(store, sig=signal.SIGKILL):
    """End it, and wait until the next one answers."""
    pid = daemon_pid(store)
    os.kill(pid, sig)
    wait_for(lambda: not is_running(pid), "the daemon's end")
    assert os.listdir(store.mnt) is not None
    assert daemon_pid(store) != pid
    return pid


def check(store):
    # Whatever was written is ingested by then.
    store.settle()
    assert "nothing is wrong" in store.do("check", "--data", store.path)


# ---- load ----

class Hammers:
    """Processes that change directories of their own, see hammer.py. They
    have begun when this is made."""

    def __init__(self, store, seeds):
        self.running = [subprocess.Popen(
            [sys.executable, HAMMER, store.mnt / f"hammer{seed}", str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True) for seed in seeds]
        wait_for(lambda: self.failed() or all(
            (store.mnt / f"hammer{seed}").exists() for seed in seeds),
                 "the hammers")

    def failed(self):
        return any(p.poll() is not None for p in self.running)

    def stop(self):
        """How many operations they made, all of them right."""
        for p in self.running:
            with contextlib.suppress(BrokenPipeError):
                p.stdin.close()
        done = 0
        for p in self.running:
            code = p.wait(timeout=120)
            assert code == 0, p.stderr.read()
            done += int(p.stdout.read())
        return done


class Killer(threading.Thread):
    """Kills the daemon at random moments, until @kills of them have died:
    mostly after it has answered for a while, now and then while it starts."""

    def __init__(self, store, kills, seed):
        super().__init__(daemon=True)
        self.store, self.wanted = store, kills
        self.random = random.Random(seed)
        self.early = 0
        self.stop = threading.Event()

    def kills(self):
        return self.store.log().count(" another one ")

    def _answers(self):
        """Is the last that was heard of daemons that one goes on?"""
        log = self.store.log()
        return log.rfind(" another one ") < max(log.rfind(" goes on on "),
                                               log.rfind(" is mounted on "))

    def run(self):
        while self.kills() < self.wanted and not self.stop.is_set():
            self.early = (self.early + 1 if self.early < 4
                          and self.random.random() < 0.2 else 0)
            while not (self.early or self._answers() or self.stop.is_set()):
                time.sleep(0.01)
            time.sleep(self.random.uniform(0, 0.2))
            with contextlib.suppress(ProcessLookupError):
                os.kill(daemon_pid(self.store), signal.SIGKILL)


class Installs:
    """Pips that install again and again, and compare what they got."""

    def __init__(self, store, wheels, pip_of, scratch):
        self.stop = threading.Event()
        self.errors = []
        self.done = 0
        self.index = Index(wheels)
        self.store, self.scratch = store, scratch
        self.python = pip_of("newest")
        self.threads = [threading.Thread(target=self._run, args=(n,))
                        for n in range(4)]

    def __enter__(self):
        self.index.__enter__()
        scratch = self.scratch / "plain"
        pip = Pip(self.python, self.index, self.store.mnt, scratch)
        self.expected = pip.install("t", "requests", "pyyaml", cache=False)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *args):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.index.__exit__(*args)

    def _run(self, n):
        pip = Pip(self.python, self.index, self.store.mnt,
                  self.scratch / f"pip{n}")
        try:
            while not self.stop.is_set():
                target = pip.install(f"t{self.done}", "requests", "pyyaml")
                assert_same_tree(self.expected, target)
                self.done += 1
        except Exception as e:  # pylint: disable=broad-except
            self.errors.append(e)


def sequences_until(store, plain_dir, over):
    """Random operations give the results that a plain directory gives."""
    def run(steps):
        if over():
            return
        pair = Pair(store, plain_dir)
        try:
            for step in steps:
                pair.do(step)
            pair.compare()
        finally:
            pair.remove()
    for n in range(10 ** 6):
        if over():
            return
        seed(n)(settings(max_examples=10, derandomize=False,
                         phases=[Phase.generate])(
            given(sequences(length=40))(run)))()


# ---- killed ----

def test_killed_under_load(mount, wheels, pip_of, tmp_path,
                           plain):  # noqa: F811
    """Four pips, random sequences and hammers on a daemon that is killed."""
    kills = 5000 if LONG else 200
    store = start(mount, "limit=2G")
    os.chmod(store.mnt, 0o755)
    killer = Killer(store, kills, seed=1)
    hammers = Hammers(store, range(3))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Installs(store, wheels, pip_of, scratch) as installs:
        killer.start()
        try:
            sequences_until(store, plain, lambda: not killer.is_alive()
                            or hammers.failed() or installs.errors)
            killer.join(timeout=3600 if LONG else 900)
        finally:
            killer.stop.set()
            killer.join()
    done = hammers.stop()
    assert not installs.errors, installs.errors[0]
    assert killer.kills() >= kills
    assert done > 10 * kills and installs.done >= 4
    taken, _, given_up = taken_over(store)
    assert given_up == 0
    assert taken >= kills // 2, "too few kills hit a request in work"
    assert store.status()["daemon_deaths"] >= kills
    assert store.status()["damaged"] == 0
    check(store)


def test_killed_at_each_system_call(mount):
    """Before or after any that changes a file, syncs, or answers the kernel."""
    kills = 5000 if LONG else 200
    store = start(mount, "limit=1G", CRASHPOINT_MAX="400",
                  LD_PRELOAD=str(beside("libcrashpoint.so")))
    hammers = Hammers(store, range(10, 14))
    kill_daemon(store)  # the first is not killed by itself

    def enough():
        """Few hit a request that was done: how many, is chance."""
        deaths = store.log().count("another one goes on")
        return deaths >= 5 * kills or (
            deaths >= kills and taken_over_anyway(store)[1] >= kills // 50)
    wait_for(lambda: hammers.failed() or enough(),
             f"{kills} deaths", seconds=3600 if LONG else 900)
    assert hammers.stop() > kills
    taken, replayed, given_up = taken_over_anyway(store)
    assert given_up == 0
    assert taken >= kills, "too few kills hit a request in work"
    assert replayed >= kills // 50, "too few hit a request that was done"
    store.remount_without("LD_PRELOAD")
    check(store)


def taken_over_anyway(store):
    """taken_over() of daemons that die while they are asked."""
    for _ in range(100):
        with contextlib.suppress(AssertionError, json.JSONDecodeError):
            return taken_over(store)
    return taken_over(store)


def test_what_is_open_stays_open(mount):
    store = start(mount, "limit=256M,grace=0")
    gone = (store.mnt / "gone").open("w+b", buffering=0)
    gone.write(b"g" * 300_000)
    os.unlink(store.mnt / "gone")
    grows = (store.mnt / "grows").open("wb", buffering=0)
    grows.write(b"1" * 100_000)
    listed = os.scandir(store.mnt)
    pipshape.store(store.mnt, 1, MIB)
    old = pipshape.body_path(store.mnt, 1).open("rb")
    os.utime(store.mnt / "grows", ns=(1, 5 * 10 ** 9))
    for n in range(3):
        kill_daemon(store)
        assert gone.seek(0) == 0 and gone.read() == b"g" * 300_000
        grows.write(b"2" * 10)
        assert store.status()["open_files"] >= 3
        # Neither what is being written nor what is read is evicted.
        store.prune("--all", still_open=9)
        assert os.stat(store.mnt / "grows").st_size == 100_000 + 10 * (n + 1)
        assert old.seek(0) == 0 and old.read() == pipshape.body(1, MIB)
    assert sorted(e.name for e in listed) == ["grows", "http-v2"]
    assert os.stat(store.mnt / "grows").st_mtime > 1e9
    assert os.fstat(gone.fileno()).st_nlink == 0
    grows.close()
    old.close()
    store.settle(still_open=1)
    before = store.du()
    gone.close()
    wait_for(lambda: store.settle() and store.du() <= before - 300_000,
             "the unlinked file's end")
    assert (store.mnt / "grows").read_bytes() == b"1" * 100_000 + b"2" * 30
    check(store)


def test_times_set_by_hand_survive(mount):
    store = start(mount)
    with (store.mnt / "a").open("wb", buffering=0) as f:
        f.write(b"x" * 10_000)
        os.utime(store.mnt / "a", ns=(7, 8))
        kill_daemon(store)
        assert os.stat(store.mnt / "a").st_mtime_ns == 8
    assert os.stat(store.mnt / "a").st_mtime_ns == 8


def test_times_of_writes_survive(mount):
    """Whatever is done to the name, or to the mode, after the write."""
    store = start(mount)
    before = time.time_ns()
    with (store.mnt / "a").open("wb", buffering=0) as f:
        f.write(b"x" * 10_000)
        os.utime(store.mnt / "a", ns=(7, 8))
        f.write(b"y" * 10_000)
        os.chmod(store.mnt / "a", 0o600)
        os.rename(store.mnt / "a", store.mnt / "b")
        # The file system below may tell the time in steps.
        for _ in range(2):
            kill_daemon(store)
            st = os.stat(store.mnt / "b")
            assert st.st_mtime_ns > before - 10 ** 8
            assert st.st_ctime_ns >= before
    assert os.stat(store.mnt / "b").st_mtime_ns > before - 10 ** 8


def test_keeper_and_daemon_killed_go_back_to_the_checkpoint(mount):
    store = start(mount)
    (store.mnt / "old").write_bytes(b"o" * 5000)
    store.sync()
    kill_daemon(store)
    store.sync()
    status = store.status()
    (store.mnt / "new").write_bytes(b"n" * 5000)
    store.kill9(status)  # before the next checkpoint, in five seconds
    store.expect("put back to the checkpoint")
    store.mount()
    assert os.listdir(store.mnt) == ["old"]
    assert (store.mnt / "old").read_bytes() == b"o" * 5000
    check(store)


def test_without_its_keeper_the_daemon_serves_on(mount):
    store = start(mount)
    store.expect("the keeper of .* is gone")
    (store.mnt / "a").write_bytes(b"a")
    os.kill(store.status()["keeper_pid"], signal.SIGKILL)
    store.process.wait(timeout=60)
    store.process = None
    wait_for(lambda: "is gone" in store.log(), "the daemon to notice")
    assert (store.mnt / "a").read_bytes() == b"a"
    other = mount(path=store.path, start=False)
    assert "in use" in other.run("mount", store.path, other.mnt).stderr
    store.do("umount", store.mnt)
    store.mount()
    assert (store.mnt / "a").read_bytes() == b"a"


def test_no_command_opens_the_store_while_its_daemon_is_dead(mount):
    """What a command that opens it would do then is go back to a checkpoint."""
    store = start(mount)
    (store.mnt / "a").write_bytes(b"a" * 3000)
    os.kill(daemon_pid(store), signal.SIGKILL)
    for _ in range(3):
        store.do("prune", store.path)
        os.kill(daemon_pid(store), signal.SIGKILL)
        store.do("status", store.path)
    assert (store.mnt / "a").read_bytes() == b"a" * 3000


def test_umount_while_the_daemon_is_dead(mount):
    store = start(mount)
    (store.mnt / "a").write_bytes(b"a" * 3000)
    os.kill(daemon_pid(store), signal.SIGKILL)
    subprocess.run(["umount", store.mnt], check=True)
    assert store.process.wait(timeout=60) == 0
    store.process = None
    store.mount()
    assert "not closed" not in store.log()
    assert (store.mnt / "a").read_bytes() == b"a" * 3000


@pytest.mark.parametrize("who", ["keeper_pid", "pid"])
def test_either_can_be_told_to_end(mount, who):
    store = start(mount)
    (store.mnt / "a").write_bytes(b"a")
    kill_daemon(store)
    os.kill(store.status()[who], signal.SIGTERM)
    assert store.process.wait(timeout=60) == 0
    store.process = None
    assert not is_mounted(store.mnt)
    store.mount()
    assert (store.mnt / "a").read_bytes() == b"a"


def test_a_user_s_own_mount_survives_too(mount, tmp_path):
    """Without root, by fusermount3, with a small RLIMIT_MEMLOCK."""
    user = 65534
    store = mount(start=False)
    for line in (GOES_ON, LATE):
        store.expect(line)
    for path in (tmp_path, *tmp_path.parents):
        os.chmod(path, path.stat().st_mode | 0o11)
    for path in (store.path.parent, store.mnt, store.logs):
        os.chown(path, user, user)
    with sysops.fuse_for_all():
        store.wrap = ["setpriv", f"--reuid={user}", f"--regid={user}",
                      "--clear-groups",
                      "prlimit", "--memlock=65536"]
        store.mount("noallow_other")

        def as_user(code):
            return subprocess.run(
                [*store.wrap[:4], sys.executable, "-c", code, store.mnt],
                check=True, capture_output=True, text=True).stdout
        as_user("import sys; open(sys.argv[1] + '/a', 'w').write('one')")
        for _ in range(3):
            pid = daemon_pid(store)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_running(pid), "the daemon's end")
            assert as_user("import sys; "
                           "print(open(sys.argv[1] + '/a').read())") == "one\n"
        assert store.status()["daemon_deaths"] == 3
        store.umount()


# ---- the keeper's own troubles ----

def test_the_first_daemon_is_killed_before_it_is_ready(mount):
    """As soon as there is a mount, for which others may be waiting."""
    store = mount(start=False)
    for _ in range(5):
        with subprocess.Popen([binary(), "mount", "-f", store.path, store.mnt],
                              stderr=subprocess.PIPE) as keeper:
            while not is_mounted(store.mnt):
                assert keeper.poll() is None
            os.kill(daemon_pid(store), signal.SIGKILL)
            assert os.listdir(store.mnt) == []
            store.do("umount", store.mnt)
            assert keeper.wait(timeout=60) == 0


def test_daemons_that_die_before_one_is_ready_leave_no_mount(mount):
    """But for a first one that was quicker than its killer."""
    store = mount(start=False)
    env = {**os.environ, "CRASHPOINT_MAX": "1",
           "LD_PRELOAD": str(beside("libcrashpoint.so"))}
    for _ in range(40):
        with subprocess.Popen([binary(), "mount", "-f", store.path, store.mnt],
                              env=env, stderr=subprocess.PIPE,
                              text=True) as keeper:
            while not is_mounted(store.mnt):
                assert keeper.poll() is None
            os.kill(daemon_pid(store), signal.SIGKILL)
            said = keeper.communicate(timeout=60)[1]
        assert keeper.returncode == 1
        if "before the mount answered" in said:
            assert not is_mounted(store.mnt)
            return
        store.do("umount", store.mnt)
    pytest.fail("no daemon was killed early enough")


def test_nobody_reads_what_the_keeper_says(mount):
    store = mount(start=False)
    with subprocess.Popen([binary(), "mount", "-f", store.path, store.mnt],
                          stderr=subprocess.PIPE) as keeper:
        wait_for(lambda: is_mounted(store.mnt), "the mount")
        os.stat(store.mnt)
        keeper.stderr.close()
        kill_daemon(store)
        kill_daemon(store)
        assert store.status()["daemon_deaths"] == 2
        store.do("umount", store.mnt)
        assert keeper.wait(timeout=60) == 0


def test_on_a_terminal_that_stops_who_writes_in_its_background(mount):
    store = mount(start=False)
    keeper, terminal = pty.fork()
    if keeper == 0:
        attr = termios.tcgetattr(2)
        attr[3] |= termios.TOSTOP
        termios.tcsetattr(2, termios.TCSANOW, attr)
        os.execv(binary(), [binary(), "mount", "-f", store.path, store.mnt])
    try:
        wait_for(lambda: is_mounted(store.mnt), "the mount")
        assert os.listdir(store.mnt) == []
        os.write(terminal, b"\x03")
        assert wait_for(lambda: os.waitpid(keeper, os.WNOHANG)[0],
                        "the end that Ctrl-C asks for")
        assert not is_mounted(store.mnt)
    finally:
        os.close(terminal)


# ---- hung, crashing ----

def test_one_that_hangs_is_replaced(mount):
    store = start(mount, "watchdog=5")
    store.expect("no sign of life")
    (store.mnt / "a").write_bytes(b"a")
    pid = daemon_pid(store)

    def stopped():
        with contextlib.suppress(OSError):  # of a thread that ended
            return all("T (stopped)" in (task / "status").read_text()
                       for task in pathlib.Path(f"/proc/{pid}/task").iterdir())
        return not is_running(pid)
    os.kill(pid, signal.SIGSTOP)
    wait_for(stopped, "the stop")
    assert (store.mnt / "a").read_bytes() == b"a"
    os.mkdir(store.mnt / "b")
    assert "no sign of life" in store.log()
    assert store.status()["daemon_deaths"] == 1


def test_one_that_takes_its_time_to_end_does_not_hang(mount):
    """Each sync takes a while: so does closing the store, with all of them."""
    store = start(mount, "watchdog=2", CRASHPOINT_SLOW="1300000",
                  LD_PRELOAD=str(beside("libcrashpoint.so")))
    kill_daemon(store)  # the first is as fast as ever
    (store.mnt / "a").write_bytes(b"a" * 100_000)
    begun = time.monotonic()
    store.umount()
    assert time.monotonic() - begun > 3, "closing it took no time"
    assert "no sign of life" not in store.log()


def test_a_limit_that_was_set_stays(mount):
    store = start(mount, "limit=200M,low=100M")
    kill_daemon(store)
    assert store.status()["limit_bytes"] == 200 * MIB
    store.do("limit", store.mnt, "80M")
    before = store.status()
    assert before["limit_bytes"] == 80 * MIB
    for _ in range(2):
        kill_daemon(store)
        now = store.status()
        assert now["limit_bytes"] == before["limit_bytes"]
        assert now["low_bytes"] == before["low_bytes"]
    assert store.remount().status()["limit_bytes"] == 200 * MIB


def test_a_crash_leaves_its_stack(mount):
    store = start(mount)
    store.expect("thread .* signal 11|pipcachefs\\(|lib.*\\(|^  ")
    (store.mnt / "a").write_bytes(b"a")
    os.kill(daemon_pid(store), signal.SIGSEGV)
    assert (store.mnt / "a").read_bytes() == b"a"
    wait_for(lambda: "signal 11" in store.log(), "the stack")
    assert "serve_run" in store.log() or "pipcachefs(+" in store.log()


def test_a_request_that_daemons_die_of_is_refused(mount):
    store = start(mount, CRASHPOINT_BYTES="deadly",
                  LD_PRELOAD=str(beside("libcrashpoint.so")))
    store.expect("have died of")
    store.expect("another one goes on")
    with (store.mnt / "a").open("wb", buffering=0) as f:
        f.write(b"harmless" * 1000)
        with pytest.raises(OSError) as e:
            f.write(b"deadly" * 1000)
        assert e.value.errno == errno.EIO
        f.write(b"harmless")
    assert (store.mnt / "a").stat().st_size == 8008
    status = store.status()
    assert status["requests_given_up"] == 1
    assert status["daemon_deaths"] == 7
    check(store)


def test_daemons_that_die_at_once_end_the_mount(mount):
    """With errors, not in silence."""
    store = start(mount, CRASHPOINT_MAX="1",
                  LD_PRELOAD=str(beside("libcrashpoint.so")))
    store.expect("giving up")
    (store.mnt / "a").write_bytes(b"a")
    store.sync()
    os.kill(daemon_pid(store), signal.SIGKILL)
    with pytest.raises(OSError) as e:
        os.stat(store.mnt / "b")
    assert e.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert store.process.wait(timeout=60) == 1
    store.process = None
    assert "giving up" in store.log()
    store.do("umount", store.mnt)
    store.env.clear()
    store.expect("put back to the checkpoint")
    store.mount()
    assert (store.mnt / "a").read_bytes() == b"a"


# ---- replaced ----

def upgrade(store, program):
    return subprocess.run([program, "upgrade", store.mnt], check=False,
                          capture_output=True, text=True, timeout=120)


def test_upgrade_to_and_fro_under_load(mount):
    store = start(mount, "limit=1G")
    store.expect("another daemon goes on")
    hammers = Hammers(store, range(20, 23))
    programs = [beside("pipcachefs_next"), binary()]
    for n in range(6):
        time.sleep(0.3)
        done = upgrade(store, programs[n % 2])
        assert done.returncode == 0, done.stderr
        status = store.status()
        assert status["version"].endswith("next") == (n % 2 == 0)
        assert str(status["pid"]) in done.stdout
        assert not hammers.failed()
    assert hammers.stop() > 100
    status = store.status()
    assert status["daemon_deaths"] == 0
    assert taken_over(store)[2] == 0
    check(store)


def test_a_program_that_does_not_know_the_layout_is_not_taken(mount):
    store = start(mount)
    store.expect("does not know this layout")
    store.expect("another daemon goes on")
    with (store.mnt / "a").open("wb", buffering=0) as f:
        f.write(b"one")
        version = store.status()["version"]
        done = upgrade(store, beside("pipcachefs_other"))
        assert done.returncode == 1 and "could not go on" in done.stderr
        assert store.status()["version"] == version
        f.write(b"two")
    assert (store.mnt / "a").read_bytes() == b"onetwo"


@pytest.mark.parametrize("program", ["/bin/true", "/bin/false"])
def test_a_program_that_is_no_daemon_is_not_taken(mount, program):
    """Whatever its exit code would mean of one."""
    store = start(mount)
    store.expect("the new program could not start")
    store.expect("another daemon goes on")
    (store.mnt / "a").write_bytes(b"one")
    before = store.status()["pid"]
    request = {"command": "upgrade", "program": program}
    assert json.loads(say(store, json.dumps(request).encode()))["ok"]
    wait_for(lambda: store.status()["pid"] != before, "another daemon")
    assert (store.mnt / "a").read_bytes() == b"one"


def test_upgrade_needs_a_mount(mount):
    store = mount()
    store.umount()
    done = store.run("upgrade", store.path)
    assert done.returncode == 1 and "not mounted" in done.stderr


def test_the_model_of_the_hammers_is_right(tmp_path):
    """On a plain directory they find nothing wrong either."""
    hammer = subprocess.Popen([sys.executable, HAMMER, tmp_path / "h", "5"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    wait_for((tmp_path / "h").exists, "its first operation")
    time.sleep(1)
    out, _ = hammer.communicate(timeout=60)
    assert hammer.returncode == 0 and int(out) > 100


assert test_model  # its profile of hypothesis is used
