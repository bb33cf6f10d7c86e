# SPDX-License-Identifier: MIT
"""`pipcachefs attach`, run for one engine as an administrator would."""
import pathlib
import signal
import subprocess
import time

SECONDS = 120  # within which it does what it is there for


class AttachError(Exception):
    """It ended, or does not do it."""


class Attached:
    """Attach @mountpoint to the cache mounts of @engine, until it is closed."""

    def __init__(self, program, mountpoint, engine, log):
        self._engine, self._log = engine, pathlib.Path(log)
        self._command = [program, "attach", engine.kind, mountpoint,
                         *engine.attach_options]
        self._process = None

    def __enter__(self):
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=self._engine.env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status != 0:
            raise AttachError(self._words(f"ended with status {status}"))

    def _words(self, what):
        return (f"{' '.join(map(str, self._command))} {what}:\n"
                + self._log.read_text(encoding="utf-8", errors="replace"))

    def wait(self):
        """Wait until all cache mounts of the engine are ours."""
        end = time.monotonic() + SECONDS
        while True:
            covered = _mounts()
            bare = [path for path in self._engine.cache_mounts()
                    if str(path) not in covered]
            if not bare:
                return
            if self._process.poll() is not None:
                raise AttachError(self._words("has ended"))
            if time.monotonic() > end:
                raise AttachError(self._words(
                    f"left {bare[0]} alone for {SECONDS} s"))
            time.sleep(0.1)


def _mounts():
    """Where mounts of pipcachefs are."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        lines = [line.partition(" - ") for line in table]
    return {before.split()[4] for before, _, after in lines
            if after.split()[0] == "fuse.pipcachefs"}
