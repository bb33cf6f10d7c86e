# SPDX-License-Identifier: MIT
"""contrib/bench/scenarios, run for real with wheels that are small."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import mounted

SCENARIOS = pathlib.Path(__file__).parents[2] / "contrib/bench/scenarios"
NAIVE = ("clean", "again", "code", "package")
MOUNTED = (*NAIVE, "second", "other", "pruned")
BITS = 4_000_000


def scenarios(*args):
    return subprocess.run([sys.executable, SCENARIOS, *args], check=False,
                          capture_output=True, text=True, timeout=1500)


def files(figures):
    """How many wheels were downloaded: variant -> step -> number."""
    return {name: {step: cost["files"] for step, cost in steps.items()}
            for name, steps in figures["passes"][0]["results"].items()}


def test_builds_are_replayed_measured_and_drawn(tmp_path, base_tarball):
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    (work / "base.tar").symlink_to(base_tarball)
    (tmp_path / "wanted.txt").write_text("six  # small\nidna\n")
    done = scenarios(mounted.binary(), "--rate", f"{BITS / 1e6:g}mbit",
                     "--requirements", tmp_path / "wanted.txt", "--add",
                     "certifi", "--tools", "", "--work", work, "--out", out)
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "scenarios.json").read_text())

    found = files(figures)
    assert found["naive"] == dict(zip(NAIVE, (2, 0, 2, 3)))
    assert found["layers"] == dict(zip(NAIVE, (2, 0, 0, 3)))
    assert found["cache"] == dict(zip(MOUNTED, (2, 0, 0, 1, 3, 3, 3)))
    ours = found["pipcachefs"]
    assert ours.pop("second") in (0, 3)  # 3: its cover came too late
    assert ours.pop("pruned") in (0, 3)
    assert ours == {"clean": 2, "again": 0, "code": 0, "package": 1,
                    "other": 0}

    wheels = figures["wheels"]
    assert len(wheels) == 3
    for steps in figures["passes"][0]["results"].values():
        for cost in steps.values():
            assert cost["seconds"] >= cost["bytes"] * 8 / BITS
        assert steps["package"]["bytes"] >= min(wheels.values())
    assert figures["images"].keys() == {"single", "single_mount", "multi"}
    assert min(figures["images"].values()) > base_tarball.stat().st_size / 2

    assert done.stdout == (out / "scenarios.md").read_text()
    assert "4 Mbit/s" in done.stdout
    picture = xml.etree.ElementTree.parse(out / "scenarios.svg")
    bars = [rect for rect in picture.iter("{http://www.w3.org/2000/svg}rect")
            if float(rect.get("x", 0)) >= 10]
    assert len(bars) == 4 + 2 * (4 + 4 + 7 + 7)  # a legend, two panels
    assert not list(work.glob("pipcachefs-scenarios-*"))

    again = tmp_path / "again"
    drawn = scenarios("--draw", out / "scenarios.json", "--out", again)
    assert drawn.stdout == done.stdout
    assert (again / "scenarios.svg").read_text() \
        == (out / "scenarios.svg").read_text()


def test_wrong_use_is_told(tmp_path):
    assert scenarios().returncode == 2
    assert scenarios("/bin/true", "--rate", "35mb").returncode == 2
    for args, word in (
            (("/bin/false",), "/bin/false"),
            ((mounted.binary(), "--requirements", tmp_path / "none"), "none"),
            (("--draw", SCENARIOS), str(SCENARIOS))):
        done = scenarios(*args, "--out", tmp_path, "--work", tmp_path)
        assert done.returncode == 1 and word in done.stderr
