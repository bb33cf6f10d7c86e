# SPDX-License-Identifier: MIT
"""Real wheels and real pips, fetched from PyPI once and kept.

Fetching uses the pip that comes with Python and the machine's settings (PIP_*
and the like); the pips under test see none of them, see `environment()`.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

DATA = (pathlib.Path(os.environ.get("PIPCACHEFS_TEST_DATA")
                     or "/var/cache/pipcachefs-tests")
        / "python{}.{}".format(*sys.version_info))
# Wheels of every kind: pure, compiled, small, large. What they depend on
# comes with them.
PROJECTS = ["requests==2.32.3", "numpy<2.4", "six==1.16.0", "attrs==24.2.0",
            "click==8.1.7", "jinja2==3.1.4", "packaging==24.1", "pip",
            "pyyaml==6.0.2"]
# Built from source in the tests, with what builds it.
SDIST = "docopt==0.6.2"
BUILD_NEEDS = ["setuptools<80", "wheel==0.44.0"]
# Each stands for a way pip treats its cache; "newest" is what PyPI has.
VERSIONS = ["20.3.4", "22.3.1", "23.2.1", "23.3.2", "24.2", "25.0.1", "25.3",
            "newest"]


@contextlib.contextmanager
def made_once(path):
    """Yields a directory to fill, or None where @path is there already.

    Filled under another name and renamed when complete: an interrupted
    fetch is begun anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        new = path.with_name(path.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
        new.rename(path)


def _download(where, *args):
    """pip download, by a virtual environment with the pip of ensurepip."""
    fetcher = DATA / "venv-fetch"
    if not (fetcher / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", fetcher],
                       check=True)
    subprocess.run([fetcher / "bin" / "python", "-m", "pip", "download",
                    "--quiet", "--disable-pip-version-check", "--dest", where,
                    *args], check=True)


def fetch_wheels():
    """The directory with the wheels and the sdist."""
    with made_once(DATA / "wheels") as new:
        if new:
            _download(new, "--only-binary", ":all:", *PROJECTS, *BUILD_NEEDS)
            _download(new, "--no-deps", "--no-binary", ":all:",
                      "--no-build-isolation", SDIST)
    return DATA / "wheels"


def python_with_pip(version):
    """The Python of a virtual environment whose pip is of @version.

    Skips the test where that pip does not run on this Python.
    """
    venv = DATA / f"pip-{version}"
    with made_once(venv) as new:
        if new:
            want = "pip" if version == "newest" else f"pip=={version}"
            _download(new / "wheel", "--no-deps", want)
            # A virtual environment cannot be renamed: it is made in place,
            # and the rename of `new` then only says that it is complete.
            _make_venv(DATA / f"venv-{version}", *(new / "wheel").iterdir())
    python = DATA / f"venv-{version}" / "bin" / "python"
    runs = subprocess.run([python, "-m", "pip", "--version"],
                          env=environment(DATA), check=False,
                          capture_output=True, text=True)
    if runs.returncode != 0:
        pytest.skip(f"pip {version} does not run on this Python: "
                    + runs.stderr.strip().rpartition("\n")[2])
    return python


def _make_venv(where, pip_wheel):
    """Make @where with the pip of @pip_wheel, installed by that very pip.

    A pip too old for this Python leaves an environment without pip.
    """
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip",
                    where], check=True)
    subprocess.run([where / "bin" / "python", pip_wheel / "pip", "install",
                    "--quiet", "--no-index", "--no-cache-dir", pip_wheel],
                   env=environment(where), check=False, capture_output=True)


def environment(home):
    """An environment without the machine's settings of pip, TLS and proxies."""
    unwanted = ("PIP_", "PYTHON", "REQUESTS_CA", "CURL_CA", "SSL_CERT",
                "VIRTUAL_ENV", "XDG_")
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(unwanted) and not k.lower().endswith("_proxy")}
    env.update(HOME=str(home), PIP_CONFIG_FILE=os.devnull,
               PIP_NO_INPUT="1", LC_ALL="C.UTF-8")
    return env
