# SPDX-License-Identifier: MIT
"""`pipcachefs attach`, run for one engine as an administrator would."""
import pathlib
import signal
import subprocess
import time

SECONDS = 120  # within which it does what it is there for
READY = "attached to "


class AttachError(Exception):
    """It ended, or does not do it."""


class Attached:
    """The cache mounts of @engine, attached to @mountpoint until it is closed.

    @ids  that cache mounts will have
    """

    def __init__(self, program, mountpoint, engine, ids, log):
        self._engine, self._log = engine, pathlib.Path(log)
        self._command = [program, "attach", engine.kind, mountpoint,
                         *engine.attach_options(ids)]
        self._process = None

    def __enter__(self):
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=self._engine.env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log)
        try:
            self._until(lambda: None if READY in self._said()
                        else "does not say that it is ready")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, kind, *_):
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status != 0 and not kind:  # nothing else went wrong before
            raise AttachError(self._words(f"ended with status {status}"))

    def _said(self):
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _words(self, what):
        return (f"{' '.join(map(str, self._command))} {what}:\n"
                + self._said())

    def _until(self, wrong):
        """Wait until @wrong() has nothing to say."""
        end = time.monotonic() + SECONDS
        while why := wrong():
            if self._process.poll() is not None:
                raise AttachError(self._words(
                    f"ended with status {self._process.returncode}"))
            if time.monotonic() > end:
                raise AttachError(self._words(f"{why}, for {SECONDS} s"))
            time.sleep(0.1)

    def wait(self):
        """Wait until all cache mounts of the engine are ours."""
        def bare():
            covered = _mounts()
            for path in self._engine.cache_mounts():
                if str(path) not in covered:
                    return f"does not cover {path}"
            return None

        self._until(bare)


def _mounts():
    """Where mounts of pipcachefs are."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        lines = [line.partition(" - ") for line in table]
    return {before.split()[4] for before, _, after in lines
            if after.split()[0] == "fuse.pipcachefs"}
