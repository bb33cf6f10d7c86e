# SPDX-License-Identifier: MIT
"""Named sets of wheels: text files of requirements, fetched through pip once.

A line `name==version` is one download. Options of `pip download` may follow
it; a line of options alone holds for the lines below, until the next such
line. `#` begins a comment.
"""
import concurrent.futures
import fcntl
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

LISTS = pathlib.Path(__file__).resolve().parent.parent / "sets"
AT_ONCE = 3
# Settings that say how the index is reached are the user's; all others would
# change what is fetched.
KEPT = {"PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONFIG_FILE", "PIP_INDEX_URL",
        "PIP_PROXY", "PIP_RETRIES", "PIP_DEFAULT_TIMEOUT", "PIP_TRUSTED_HOST"}


class SetError(Exception):
    """A set that does not exist, is written wrongly or cannot be fetched."""


def names():
    return sorted(path.stem for path in LISTS.glob("*.txt"))


def downloads(name):
    """The downloads of the set @name, each a list of arguments for pip."""
    path = LISTS / f"{name}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as err:
        raise SetError(f"no set '{name}' ({path}: {err.strerror}); there are: "
                       + ", ".join(names())) from err
    found, options = [], []
    for number, line in enumerate(lines, 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0].startswith("-"):
            options = words
        elif "==" in words[0]:
            found.append(words + options)
        else:
            raise SetError(f"{path}, line {number}: '{words[0]}' is not of "
                           "the form name==version")
    if not found:
        raise SetError(f"{path} names nothing to download")
    return found


def fetch(name, data, say):
    """The files of the set @name in its order, fetched to @data if missing."""
    wanted = downloads(name)
    where = data / name
    where.mkdir(parents=True, exist_ok=True)
    with open(where / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        have = _Have(where / ".files.json")
        missing = [args for args in wanted if not have.path(args)]
        if missing:
            say(f"{name}: fetching {len(missing)} of {len(wanted)} files")
            _fetch(where, missing, have)
    return [have.path(args) for args in wanted]


class _Have:
    """Which file came of which download, kept beside the files."""

    def __init__(self, path):
        self._record, self._dir = path, path.parent
        try:
            self._names = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._names = {}

    @staticmethod
    def _key(args):
        return hashlib.sha256("\0".join(args).encode()).hexdigest()[:16]

    def path(self, args):
        name = self._names.get(self._key(args))
        return self._dir / name if name and (self._dir / name).exists() \
            else None

    def add(self, args, name):
        self._names[self._key(args)] = name
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(self._names, indent=0), encoding="utf-8")
        new.rename(self._record)


def _fetch(where, missing, have):
    failed = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {pool.submit(_download, where, args): args for args in missing}
        for job in concurrent.futures.as_completed(jobs):
            try:
                have.add(jobs[job], job.result())
            except SetError as err:
                failed.append(str(err))
    if failed:
        raise SetError(f"{len(failed)} of {len(missing)} downloads failed; "
                       "what was fetched is kept:\n  " + "\n  ".join(failed))


def environment():
    """This process's, without what would change what pip fetches."""
    return {key: value for key, value in os.environ.items()
            if not key.startswith("PIP_") or key in KEPT}


def _download(where, args):
    """Fetch one file into the directory @where; returns its name."""
    env = environment()
    with tempfile.TemporaryDirectory(prefix=".new-", dir=where) as new:
        # pip's own temporary files go here too: they are as large.
        got, env["TMPDIR"] = os.path.join(new, "got"), new
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
             "--no-cache-dir", "--disable-pip-version-check", "--dest", got,
             *args], env=env, check=False, capture_output=True, text=True)
        files = os.listdir(got) if os.path.isdir(got) else []
        if done.returncode != 0 or len(files) != 1:
            why = done.stderr.strip().splitlines() or ["nothing came"]
            raise SetError(f"pip download {' '.join(args)}: {why[-1]}")
        os.rename(os.path.join(got, files[0]), where / files[0])
        return files[0]
