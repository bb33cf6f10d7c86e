# SPDX-License-Identifier: MIT
"""All wheels that some requirements need, fetched through pip once."""
import fcntl
import hashlib
import pathlib
import subprocess
import tempfile

from . import sets

PYTHON = "/usr/bin/python3"  # its release is that of the images' Python


class WheelhouseError(Exception):
    """The requirements cannot be read or fetched."""


def read_requirements(path):
    """The lines of a requirements file, without comments."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise WheelhouseError(f"cannot read {path}: {err}") from err
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise WheelhouseError(f"{path} names no package")
    for line in lines:
        if line.startswith("-"):
            raise WheelhouseError(f"{path}: '{line}': options are not for "
                                  "this, name packages only")
    return lines


def fetch(requirements, data, say):
    """A directory below @data with wheels for @requirements and what those
    need, for this machine's Python."""
    key = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:16]
    where = data / f"wheels-{key}"
    data.mkdir(parents=True, exist_ok=True)
    with open(data / f"wheels-{key}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not where.exists():
            say(f"fetching wheels to {where}")
            with tempfile.TemporaryDirectory(prefix=".new-",
                                             dir=data) as work:
                _download(requirements, pathlib.Path(work)).rename(where)
    return where


def _download(requirements, work):
    """The directory below @work that pip filled."""
    # pip's own temporary files go there too: they are as large.
    env = dict(sets.environment(), TMPDIR=str(work))
    _run([PYTHON, "-m", "venv", work / "venv"], env)
    _run([work / "venv/bin/pip", "download", "--quiet", "--no-cache-dir",
          "--disable-pip-version-check", "--only-binary", ":all:",
          "--dest", work / "got", *requirements], env)
    return work / "got"


def _run(command, env):
    done = subprocess.run(command, env=env, check=False, capture_output=True,
                          text=True)
    if done.returncode != 0:
        why = (done.stderr or done.stdout).strip().splitlines() or ["?"]
        raise WheelhouseError(f"{' '.join(map(str, command))}: {why[-1]}")
