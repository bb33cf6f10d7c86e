# SPDX-License-Identifier: MIT
"""contrib/bench/dedup measures what it says, on wheels made up here."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree
import zipfile

import pytest

import mounted

BENCH = pathlib.Path(__file__).parents[2] / "contrib" / "bench"
SETS = sorted((BENCH / "sets").glob("*.txt"))


def dedup(*args):
    return subprocess.run([sys.executable, BENCH / "dedup", *args],
                          check=False, capture_output=True, text=True,
                          timeout=120)


def wheels(where, versions):
    """Wheels of one project; a member is new in each, the others are not."""
    where.mkdir()
    for version in range(versions):
        with zipfile.ZipFile(where / f"demo-{version}.0-py3-none-any.whl",
                             "w") as wheel:
            for number in range(20):
                wheel.writestr(f"demo/part{number}.py",
                               f"PART = {number}\n" * 2000)
            wheel.writestr("demo/version.py", f"VERSION = {version}\n" * 2000)


def test_wheels_are_stored_measured_and_verified(tmp_path):
    wheels(tmp_path / "demo", 3)
    done = dedup(mounted.binary(), tmp_path / "demo", "--no-peers",
                 "--dir", tmp_path, "--json", tmp_path / "out.json",
                 "--svg", tmp_path / "out.svg")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())["sets"]["demo"]
    assert figures["files"] == figures["pipcachefs"]["verified"] == 3
    assert figures["raw_bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "demo").iterdir())
    assert figures["pipcachefs"]["disk_bytes"] > 0
    assert "demo" in done.stdout
    xml.etree.ElementTree.parse(tmp_path / "out.svg")
    assert not list(tmp_path.glob("pipcachefs-dedup-*"))


def test_a_missing_directory_and_a_wrong_program_are_named(tmp_path):
    done = dedup(mounted.binary(), tmp_path / "nowhere")
    assert done.returncode == 1 and "nowhere" in done.stderr
    wheels(tmp_path / "demo", 1)
    done = dedup("/bin/false", tmp_path / "demo")
    assert done.returncode == 1 and "/bin/false" in done.stderr
    assert dedup().returncode == 2


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_a_set_names_each_file_once(path):
    listed = dedup("--list").stdout
    assert f" {path.stem} " in listed
    options, seen = "", set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("--"):
            options = line
        elif line and not line.startswith("#"):
            assert (line, options) not in seen
            seen.add((line, options))
    assert seen
