# SPDX-License-Identifier: MIT
"""A store, its daemon and its mount, as the tests handle them."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

# What no daemon may log unless the test says so with `expect()`.
BAD_LINES = re.compile(r"^pipcachefs: (error|warning): |^<[0-4]>|Sanitizer"
                       r"|runtime error:|[Aa]ssertion|stack smashing")
# A test that hangs in the mount is ended by aborting its FUSE connection.
HANG_SECONDS = 7200 if os.environ.get("PIPCACHEFS_LONG") else 1200
# A daemon ends when nobody has its mount any more; and a build of a test beside
# this one, in a mount namespace of its own, has all that were there when it
# began.
END_SECONDS = 360


def binary():
    """The program under test."""
    path = os.environ.get("PIPCACHEFS_BIN") or shutil.which("pipcachefs")
    if not path or not os.access(path, os.X_OK):
        pytest.exit("PIPCACHEFS_BIN must name the pipcachefs program to test",
                    returncode=2)
    return os.path.abspath(path)


def wait_for(condition, what, seconds=60):
    """Wait until `condition()` is true and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


def is_mounted(path):
    """Is a file system mounted at @path? Asks none, so it never hangs."""
    wanted = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return any(line.split()[4] == wanted for line in f)


def is_running(pid):
    """Does this process run? One that ended and waits for its parent, not;
    but as long as it has other threads it has its files too."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            ended = f.read().rpartition(")")[2].split()[0] in "ZX"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


class Store:
    """One store directory and the daemon that serves it at `mnt`.

    `path` is the store, `mnt` the mount point, both pathlib.Path. The daemon
    runs with -f and its log goes to a file, unless mount(daemon=True).
    """

    def __init__(self, path, mnt, logs):
        self.path, self.mnt, self.logs = path, mnt, logs
        self.opts = ""
        self.process = None
        self.expected = []
        self.env = {}  # of the keeper and its daemons, beside ours
        self.wrap = []  # a command that runs the keeper
        self.hung = False
        self.log_file = logs / "daemon.log"
        mnt.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)

    # ---- running the program ----

    def _environment(self):
        """Sanitizers report into our logs even when stderr goes elsewhere."""
        env = dict(os.environ)
        for name in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"):
            options = env.get(name, "")
            env[name] = f"{options}:log_path={self.logs}/sanitizer".lstrip(":")
        return env

    def run(self, *args, timeout=END_SECONDS, **kwargs):
        """Run `pipcachefs ARGS` and return the finished process."""
        return subprocess.run(
            [binary(), *map(str, args)], env=self._environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, **kwargs)

    def do(self, *args, **kwargs):
        """Run `pipcachefs ARGS`, which has to succeed; returns its output."""
        done = self.run(*args, **kwargs)
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def status(self):
        return json.loads(self.do("status", self.path, "--json"))

    def sync(self):
        self.do("sync", self.path)

    # ---- mounting ----

    def mount(self, opts=None, daemon=False):
        """Mount; without @opts with the options of the last time."""
        self.opts = self.opts if opts is None else opts
        args = ["mount", self.path, self.mnt]
        if self.opts:
            args += ["-o", self.opts]
        if daemon:
            self.do(*args)
            return self
        env = {**self._environment(), **self.env}
        with self.log_file.open("a") as log:
            self.process = subprocess.Popen(
                [*self.wrap, binary(), *map(str, args), "-f"], env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(lambda: is_mounted(self.mnt)
                 or self.process.poll() is not None, "the mount to appear")
        assert self.process.poll() is None, "mount failed: " + self.log()
        if not self.wrap:  # else it may be another user's
            self.mnt.stat()
        return self

    def umount(self):
        """Unmount as a user does; the daemon has ended when it returns."""
        self.do("umount", self.mnt)
        assert not is_mounted(self.mnt)
        self._reap(expected=0)

    def _reap(self, expected=None):
        if not self.process:
            return
        code = self.process.wait(timeout=END_SECONDS)
        self.process = None
        if expected is not None:
            assert code == expected, f"the daemon ended with {code}"

    def remount(self, opts=None):
        self.umount()
        return self.mount(opts)

    def remount_without(self, name):
        """remount() of daemons that have no @name in their environment."""
        del self.env[name]
        return self.remount()

    def kill9(self, status=None):
        """SIGKILL keeper and daemon, as if the machine had been reset, and
        clear the mount. @status: of them, if there is no time to ask."""
        status = status or self.status()
        os.kill(status["keeper_pid"], signal.SIGKILL)
        os.kill(status["pid"], signal.SIGKILL)
        self._reap()
        wait_for(lambda: not is_running(status["pid"]), "the daemon's end")
        subprocess.run(["umount", "-l", self.mnt], check=True)

    # ---- looking at it ----

    def log(self):
        """All that daemons of this store have logged, and the sanitizers."""
        files = [self.log_file, *sorted(self.logs.glob("sanitizer*"))]
        return "".join(f.read_text(errors="replace")
                       for f in files if f.exists())

    def expect(self, pattern):
        """The log will have lines matching @pattern, and that is right."""
        self.expected.append(re.compile(pattern))

    def du(self):
        """Bytes the store occupies on its disk."""
        total = 0
        for top, _, files in os.walk(self.path):
            for name in (".", *files):
                try:
                    total += os.lstat(os.path.join(top, name)).st_blocks * 512
                except FileNotFoundError:
                    pass
        return total

    def await_closed(self, still_open=0):
        """Wait until no more than @still_open files are open: close(2)
        returns before the daemon is told."""
        wait_for(lambda: self.status()["open_files"] <= still_open,
                 f"{still_open} open files: {self.status()}")

    def prune(self, *args, still_open=0):
        """`pipcachefs prune`, when no more than @still_open files are open."""
        self.await_closed(still_open)
        return self.do("prune", self.path, *args)

    def settle(self, still_open=0):
        """Wait until nothing happens in the background any more, with no more
        than @still_open files open, and all is saved; the status."""
        def quiet():
            s = self.status()
            return s["unsummed"] == 0 and s["used"]["freed"] == 0 and s
        self.await_closed(still_open)
        self.sync()
        wait_for(quiet, f"quiet: {self.status()}")
        self.sync()  # what was summed since the first one
        return wait_for(quiet, f"quiet: {self.status()}")

    # ---- the end of a test ----

    def watch(self):
        """Start the watchdog; returns it."""
        dog = threading.Timer(HANG_SECONDS, self._abort)
        dog.daemon = True
        dog.start()
        return dog

    def _abort(self):
        self.hung = True
        subprocess.run(["umount", "-f", self.mnt], check=False,
                       capture_output=True)
        if self.process:
            self.process.kill()

    def finish(self):
        """End whatever is left, then say what was wrong (or None)."""
        if is_mounted(self.mnt):
            done = self.run("umount", self.mnt)
            if done.returncode != 0:
                subprocess.run(["umount", "-l", self.mnt], check=False)
        if self.process:
            try:
                self._reap()
            except subprocess.TimeoutExpired:
                self.process.kill()
                return (f"the daemon did not end within {END_SECONDS} s of "
                        "its unmount")
        if self.hung:
            return f"the test hung: aborted after {HANG_SECONDS} s"
        bad = [line for line in self.log().splitlines()
               if BAD_LINES.search(line)
               and not any(e.search(line) for e in self.expected)]
        if bad:
            return "unexpected lines in the daemon's log:\n" + "\n".join(bad)
        return None
