# SPDX-License-Identifier: MIT
"""`pipcachefs attach` beside an engine, and builds of pip for that engine."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess

import mounted
from benchlib import engines
from mounted import wait_for

TARGET = "/root/.cache/pip"
INTERVAL = "1s"


class Attach:
    """A running `pipcachefs attach ENGINE MOUNTPOINT ARGS`; `with` ends it."""

    def __init__(self, engine, store, log, *args):
        self.log_file = pathlib.Path(log)
        with self.log_file.open("a", encoding="utf-8") as out:
            self.begin = out.tell()
            self.process = subprocess.Popen(
                [mounted.binary(), "attach", engine, str(store.mnt),
                 "--interval", INTERVAL, *map(str, args)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            self.await_line("attached to")
        except BaseException:
            self.kill()
            raise

    def log(self):
        return self.log_file.read_text(encoding="utf-8")[self.begin:]

    def await_line(self, text, seconds=120):
        def there():
            assert self.process.poll() is None or text in self.log(), \
                "attach has ended: " + self.log()
            return text in self.log()
        wait_for(there, f"'{text}' in the log of attach", seconds)

    def stop(self):
        """End it as systemd does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            assert self.stop() == 0, self.log()


def covers(store, below, pid="self"):
    """Mount points of @store below @below, as process @pid has them."""
    found = []
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as f:
        for line in f:
            before, _, after = line.partition(" - ")
            where = before.split()[4]
            kind, source = after.split()[:2]
            if kind == "fuse.pipcachefs" and source == str(store.path) \
                    and where.startswith(f"{below}/"):
                found.append(where)
    return sorted(found)


def unmount(store):
    """umount(8), as often as `attach` just looks at the mount point."""
    wait_for(lambda: subprocess.run(["umount", store.mnt],
                                    check=False).returncode == 0, "unmount")


def cached(store):
    """The files in the cache, by their paths, with their sizes."""
    found = {}
    for top, _, files in os.walk(store.mnt):
        for name in files:
            path = pathlib.Path(top, name)
            found[str(path.relative_to(store.mnt))] = path.stat().st_size
    return found


def fetched(index):
    """The projects whose files were downloaded since the last call."""
    names = {pathlib.PurePath(r["path"]).name.split("-")[0]
             for r in index.requests if r["path"].endswith(".whl")
             and r["status"] == 200}
    index.requests.clear()
    return names


def dockerfile(context, index, packages, ident=None, before="true"):
    """A Dockerfile that installs @packages through a cache mount."""
    context = pathlib.Path(context)
    context.mkdir(parents=True, exist_ok=True)
    mount = f"type=cache,target={TARGET}" + (f",id={ident}" if ident else "")
    context.joinpath("Dockerfile").write_text(
        "FROM base\n"
        f"ENV PIP_INDEX_URL={index.url} PIP_TRUSTED_HOST=127.0.0.1\n"
        "ARG CHANGE\n"
        f"RUN --mount={mount} {before} && : $CHANGE && python3 -m pip install "
        f"--target /app --no-compile {' '.join(packages)}\n",
        encoding="utf-8")
    return context


class Builds:
    """Builds by one engine, each from a changed Dockerfile."""

    def __init__(self, engine, where, index, command="build"):
        self.engine, self.where, self.index = engine, where, index
        self.command = command
        self.count = 0

    def build(self, packages, ident=None, before="true"):
        """Build; the projects that were downloaded for it."""
        self.count += 1
        context = dockerfile(self.where / (ident or "none"), self.index,
                             packages, ident, before)
        fetched(self.index)
        self.engine.run(self.command, "--network", "host", "--build-arg",
                        f"CHANGE={self.count}", context)
        return fetched(self.index)


def cache_mounts(docker):
    """The engine's records of cache mounts, by id."""
    def told():
        done = subprocess.run(
            ["curl", "-s", "--unix-socket", docker.socket,
             "http://docker/system/df"], check=True, capture_output=True)
        answer = json.loads(done.stdout)
        assert "BuildCache" in answer or engines.BUSY in answer["message"], \
            answer
        return "BuildCache" in answer and answer

    # Of two that ask at once, as `attach` does too, one is refused.
    answer = wait_for(told, "the engine's records")
    return {b["ID"]: b for b in answer["BuildCache"] or []
            if b["Type"] == "exec.cachemount"}


@contextlib.contextmanager
def beneath(directory, where):
    """@directory without what is mounted below it, seen at @where."""
    where.mkdir()
    subprocess.run(["mount", "--bind", "--make-private", directory, where],
                   check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
