# SPDX-License-Identifier: MIT
"""`ls` and `du`: what is cached, and what removing it brings back."""

import concurrent.futures
import io
import json
import re
import struct
import subprocess
import threading
import time
import zipfile

import pytest

import mounted
import pipshape
import realpip
from index import Index

KEYS = {"kind", "project", "version", "files", "size_bytes", "own_bytes",
        "shared_bytes", "extents", "last_use", "hits"}


def response(headers):
    """What pip keeps of a response whose body is in a file of its own."""
    def text(s):
        return b"\xd9" + bytes([len(s)]) + s.encode()
    packed = b"".join(text(k) + text(v) for k, v in headers.items())
    return (b"cc=4,\x82" + text("response") + b"\x84"
            + text("body") + b"\xc4\x00"
            + text("headers") + b"\xde" + struct.pack(">H", len(headers))
            + packed + text("status") + b"\xcc\xc8"
            + text("version") + b"\x0b" + text("vary") + b"\x80")


def store_wheel(top, n, wheel, headers=None):
    """Cache @wheel as the n-th entry; returns the bytes of both files."""
    head = response(headers or {"Date": "Tue, 24 Nov 2026 15:12:03 GMT"})
    pipshape.write_file(pipshape.header_path(top, n), head)
    pipshape.write_file(pipshape.body_path(top, n), wheel)
    return len(head) + len(wheel)


def remove(top, n):
    pipshape.header_path(top, n).unlink()
    pipshape.body_path(top, n).unlink()


def another_version(wheel, version):
    """@wheel as a version of its own: other dist-info, the same modules."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel)) as old, \
            zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(re.sub(r"^(\w+)-[^/]*(?=\.dist-info/)",
                                rf"\1-{version}", name), old.read(name))
    return out.getvalue()


def listed(store, *args):
    return json.loads(store.do("ls", store.path, "--json", *args))


def freed(store, *args):
    return json.loads(store.do("du", store.path, "--json", *args))


def ingested(store):
    """Wait until all files are cut and all that is free is given back."""
    store.settle()

    def quiet():
        store.sync()
        s = store.status()
        return s["unsummed"] == 0 and s["used"]["freed"] == 0 and s
    return mounted.wait_for(quiet, "the ingest")


@pytest.fixture(name="click")
def click_fixture(wheels):
    """A real wheel: click 8.1.7."""
    return next(wheels.glob("click-8.1.7-*.whl")).read_bytes()


def test_a_real_pip(mount, wheels, pip_of, tmp_path):
    """Everything that a pip caches is known by project and version."""
    store = mount()
    for version, tls in (("25.3", False), ("20.3.4", True)):
        python = pip_of(version)
        with Index(wheels, tls=tls) as index:
            env = realpip.environment(tmp_path)
            env.update(PIP_INDEX_URL=index.url,
                       PIP_CACHE_DIR=str(store.mnt / f"pip{version}"))
            env.update({"PIP_CERT": str(index.cert)} if tls
                       else {"PIP_TRUSTED_HOST": "127.0.0.1"})
            subprocess.run(
                [python, "-m", "pip", "install", "--quiet", "--use-pep517",
                 "--target", tmp_path / version, "requests", "numpy",
                 "docopt"], env=env, check=True, capture_output=True)
    ingested(store)
    entries = listed(store)["entries"]
    assert all(set(e) == KEYS | {"id", "name"} for e in entries)
    assert {e["kind"] for e in entries} >= {
        "wheel", "built", "sdist", "metadata", "page"}

    known = {(e["kind"], e["project"], e["version"]) for e in entries}
    for path in wheels.iterdir():
        project, version = path.name.split("-")[:2]
        if project.lower() in ("requests", "numpy", "idna"):
            assert ("wheel", project, version) in known
    assert {("built", "docopt", "0.6.2"), ("sdist", "docopt", "0.6.2"),
            ("metadata", "requests", "2.32.3")} <= known
    assert not any(k[0] == "other" for k in known), known
    # Both pips have all of it: one form of cache shares it with the other.
    for e in entries:
        if e["kind"] == "wheel" and e["project"] == "numpy":
            assert e["shared_bytes"] > e["size_bytes"] * 0.99
    [built] = [p for p in store.mnt.glob("pip25.3/wheels/**/*.whl")]
    assert built.name in {e["name"] for e in entries}


def test_packages_are_sums(mount, click):
    store = mount()
    size = [store_wheel(store.mnt, n, click) for n in range(2)]
    other = another_version(click, "8.1.8")
    size.append(store_wheel(store.mnt, 2, other,
                            {"X-PyPI-File-Project": "Click_Too",
                             "X-PyPI-File-Version": "9"}))
    (store.mnt / "mine").write_bytes(b"x" * 100)
    ingested(store)
    hits = 3
    for _ in range(hits):
        pipshape.body_path(store.mnt, 2).read_bytes()

    found = listed(store, "--packages")
    packages = {(p["kind"], p["project"], p["version"]): p
                for p in found["packages"]}
    assert set(packages) == {("package", "click", "8.1.7"),
                             ("package", "click-too", "9"),
                             ("loose", None, None)}
    both = packages["package", "click", "8.1.7"]
    assert set(both) == KEYS | {"entries"}
    assert (both["entries"], both["files"]) == (2, 4)
    assert both["size_bytes"] == size[0] + size[1]
    # Two copies: what others have too is in both, what nobody has is kept once.
    assert 0 < both["shared_bytes"] < 2 * len(click)
    assert both["own_bytes"] + both["shared_bytes"] / 2 \
        == size[0] + size[1] - len(click)
    assert packages["package", "click-too", "9"]["hits"] == hits
    assert packages["loose", None, None]["size_bytes"] == 100
    assert found["total"]["size_bytes"] == sum(size) + 100
    assert found["total"]["entries"] == 3

    stored = freed(store)
    assert stored["total_bytes"] == store.status()["disk_data_bytes"]
    assert stored["total_bytes"] == stored["shared_bytes"] + sum(
        p["own_bytes"] for p in stored["packages"])
    online = listed(store), listed(store, "--packages"), freed(store)
    store.umount()
    assert (listed(store), listed(store, "--packages"),
            freed(store)) == online
    text = store.do("ls", store.path)
    assert "click 8.1.7 " in text and "total: 3 entries" in text
    assert "(files of no entry)" in store.do("ls", store.path, "--packages")


def test_du_is_what_comes_back(mount, wheels, click):
    store = mount()
    versions = [another_version(click, f"8.1.{n}") for n in (7, 8, 9)]
    for n, wheel in enumerate(versions):
        store_wheel(store.mnt, n, wheel)
    store_wheel(store.mnt, 3, versions[0])
    others = sorted(p for p in wheels.glob("*.whl")
                    if p.name.startswith(("six", "pip-", "PyYAML")))
    for n, path in enumerate(others):
        store_wheel(store.mnt, 10 + n, path.read_bytes())
    ingested(store)

    def check(numbers, *selection):
        """Removing the entries @numbers frees what du says of @selection."""
        promised = freed(store, *selection)["freed_bytes"]
        before, disk = ingested(store), store.du()
        for n in numbers:
            remove(store.mnt, n)
        left = ingested(store)
        assert before["disk_data_bytes"] - left["disk_data_bytes"] == promised
        assert left["disk_data_bytes"] == freed(store)["total_bytes"]
        return promised, disk - store.du()

    one, _ = check([1], "click==8.1.8")
    assert 0 < one < len(versions[1]) / 2
    # The last two versions, and a copy: what they share goes with them.
    rest, _ = check([0, 2, 3], "Click")
    assert rest > len(versions[0])
    promised, came = check(range(10, 10 + len(others)), "pyyaml", "six", "pip")
    assert promised > 2 << 20
    assert abs(promised - came) < promised * 0.1
    assert freed(store) == {"packages": [], "shared_bytes": 0,
                            "total_bytes": 0}


def test_words(mount, click):
    store = mount()
    store_wheel(store.mnt, 0, click)
    ingested(store)
    for name in ("ls", "du"):
        assert "Usage: pipcachefs " + name in store.do(name, "--help")
        assert store.run(name).returncode == 2
        assert store.run(name, store.path, "--nonsense").returncode == 2
        assert store.run(name, store.path / "no").returncode == 1
    done = store.run("du", store.mnt, "click", "foo==1")
    assert done.returncode == 1 and "'foo==1'" in done.stderr
    assert done.stdout == ""
    done = store.run("du", store.mnt, "../etc")
    assert done.returncode == 1 and "PROJECT==VERSION" in done.stderr
    assert "click" in store.do("du", store.mnt)
    assert "together" in store.do("du", store.mnt, "click", "click==8.1.7")


def test_while_others_write(mount, click):
    """What comes and goes is listed or not, never wrongly."""
    store = mount()
    versions = [another_version(click, f"8.1.{n}") for n in range(5)]
    stop = threading.Event()

    def churn(k):
        n = 0
        while not stop.is_set():
            entry = 10 * k + n % 10
            store_wheel(store.mnt, entry, versions[n % 5])
            if n % 3 == 0:
                remove(store.mnt, entry)
            n += 1

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        churns = [pool.submit(churn, k) for k in range(2)]
        try:
            end = time.monotonic() + 4
            while time.monotonic() < end:
                for entry in listed(store)["entries"]:
                    assert entry["kind"] in ("wheel", "other"), entry
                    assert entry["size_bytes"] >= entry["shared_bytes"]
                sums = freed(store)
                assert sums["total_bytes"] >= sums["shared_bytes"]
        finally:
            stop.set()
        for c in churns:
            c.result()
    ingested(store)
    assert {e["project"] for e in listed(store)["entries"]} == {"click"}


def test_many_entries_come_in_pages(mount):
    store = mount()
    count = 1200
    for n in range(count):
        store_wheel(store.mnt, n, b"x" * 10,
                    {"X-PyPI-File-Project": f"p{n}",
                     "X-PyPI-File-Version": "1"})
    ingested(store)
    entries = listed(store)["entries"]
    assert len({e["id"] for e in entries}) == len(entries) == count
    packages = listed(store, "--packages")["packages"]
    assert len({p["project"] for p in packages}) == len(packages) == count
    stored = freed(store)
    assert len(stored["packages"]) == count
    assert stored["total_bytes"] == store.status()["disk_data_bytes"]
