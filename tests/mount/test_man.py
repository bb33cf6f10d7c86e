# SPDX-License-Identifier: MIT
"""The manual pages say what the program says, and are sound."""

import gzip
import pathlib
import re
import subprocess

import pytest

import mounted

TREE = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The directory of the pages, made of the program under test."""
    where = tmp_path_factory.mktemp("man")
    subprocess.run([TREE / "contrib" / "man" / "make", mounted.binary(),
                    where], check=True)
    return where


def help_of(*command):
    return subprocess.run([mounted.binary(), *command, "--help"], check=True,
                          capture_output=True, text=True).stdout


def commands():
    return re.findall(r"(?m)^  ([a-z]+) ", help_of())


def shown(page):
    """The words of a page as a reader sees them."""
    text = subprocess.run(
        ["man", "--local-file", "--encoding=UTF-8", "--no-hyphenation",
         "--no-justification", page], check=True, capture_output=True,
        text=True, env={"MANWIDTH": "200", "LC_ALL": "C.UTF-8",
                        "PATH": "/usr/bin:/bin"}).stdout
    return " ".join(re.sub(r".\x08", "", text).replace("\u2010", "-").split())


def test_one_page_for_each_command(pages):
    wanted = {f"pipcachefs-{name}.8.gz" for name in commands()}
    assert "pipcachefs-mount.8.gz" in wanted
    assert {p.name for p in pages.iterdir()} == wanted | {"pipcachefs.8.gz"}
    top = shown(pages / "pipcachefs.8.gz")
    for name in commands():
        assert f"pipcachefs-{name}(8)" in top


def test_pages_hold_all_that_help_says(pages):
    for name in [None, *commands()]:
        said = help_of(*([name] if name else []))
        page = shown(pages / (f"pipcachefs-{name}.8.gz" if name
                              else "pipcachefs.8.gz"))
        options = re.findall(r"(?m)^ +(-\w, )?(--[a-z-]+(?:=[A-Z]+)?)", said)
        assert all(f"{short}{long}" in page for short, long in options)
        assert options or not name
        keys = re.findall(r"(?m)^  ([a-z_]+(?:=\S+)?)  ", said)
        assert all(key in page for key in keys)
        # And every sentence, wherever lines break.
        lost = [word for word in re.findall(r"[\w./%|=<>-]+", said)
                if word.strip(".") not in page]
        assert set(lost) <= {"Usage", "or"}


def test_pages_are_sound(pages):
    for page in pages.iterdir():
        source = gzip.decompress(page.read_bytes())
        lint = subprocess.run(["mandoc", "-Tlint", "-W", "warning"],
                              input=source, check=False, capture_output=True)
        assert not lint.stdout and lint.returncode == 0, lint.stdout
        warned = subprocess.run(
            ["man", "--warnings", "--encoding=UTF-8", "--local-file",
             "--troff-device=utf8", "--ditroff", page], check=True,
            capture_output=True, text=True, env={
                "LC_ALL": "C.UTF-8", "MANWIDTH": "80",
                "PATH": "/usr/bin:/bin"})
        assert not warned.stderr
        name = page.name.removesuffix(".8.gz")
        whatis = subprocess.run(["lexgrog", page], check=True,
                                capture_output=True, text=True).stdout
        assert f'"{name} - ' in whatis


def test_the_page_of_status_has_all_its_keys(pages, mount):
    page = shown(pages / "pipcachefs-status.8.gz").split(" JSON With ")[1]
    status = mount().status()
    keys = [*status, *status["used"]]
    assert len(keys) > 50
    missing = [key for key in keys if not re.search(rf"\b{key}\b", page)]
    assert not missing
