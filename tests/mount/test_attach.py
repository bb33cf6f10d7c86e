# SPDX-License-Identifier: MIT
"""Cache mounts of real builds on the mount, with Dockerfiles as they are."""

import contextlib
import http.server
import json
import os
import pathlib
import socketserver
import subprocess
import threading
import time

import pytest

import attaching
from attaching import Attach, Builds, TARGET, cached, covers
from benchlib import engines
from index import Index
from mounted import END_SECONDS, is_mounted, wait_for
from sysops import LET_GO, NOBODY

WEB = ["requests", "numpy"]
CLI = ["requests", "click"]
COMMON = {"requests", "urllib3", "certifi", "idna", "charset_normalizer"}
# A new cache mount may be faster than its cover: this waits for it, before
# there is anything in it.
COVERED = "timeout 100 sh -c " \
    "'until grep -q fuse.pipcachefs /proc/mounts; do sleep 0.1; done'"


@pytest.fixture(scope="module")
def index(wheels):
    with Index(wheels) as served:
        yield served


@pytest.fixture(scope="module")
def docker_of(tmp_path_factory, base_tarball):
    """Factory: a dockerd with that storage driver and the base image."""
    running = {}
    with contextlib.ExitStack() as stack:
        def factory(driver):
            if driver not in running:
                docker = stack.enter_context(
                    engines.Docker(tmp_path_factory.mktemp(driver), driver))
                docker.load_base(base_tarball)
                running[driver] = docker
            return running[driver]
        yield factory


@pytest.fixture
def docker(docker_of):
    docker = docker_of("overlay2")
    yield docker
    prune(docker)


@pytest.fixture
def attach(mount, tmp_path):
    """Factory: `attach(docker)` attaches a fresh mount to it."""
    store = mount()

    def factory(docker, *args):
        attached = Attach("docker", store, tmp_path / "attach.log",
                          "--docker-host", docker.host, *args)
        attached.store = store
        return attached
    return factory


def of(docker, store):
    """The covers of @store that the engine has."""
    return covers(store, docker.root, docker.process.pid)


def await_covers(docker, attached, n):
    wait_for(lambda: len(of(docker, attached.store)) == n,
             f"{n} covers: {of(docker, attached.store)} {attached.log()}")


def prune(docker):
    docker.run("builder", "prune", "--all", "--force")


# ---- docker -----------------------------------------------------------------

@pytest.mark.parametrize("driver", ["vfs", "overlay2"])
def test_projects_share_what_they_download(driver, docker_of, index, attach,
                                           tmp_path):
    docker = docker_of(driver)
    builds = Builds(docker, tmp_path / "src", index)
    with attach(docker) as attached:
        assert builds.build(WEB, "web") == COMMON | {"numpy"}
        await_covers(docker, attached, 1)
        wait_for(lambda: len(cached(attached.store)) >= 6, "a filled cache")
        assert builds.build(WEB, "web") == set()

        # Another project, in its first build.
        assert builds.build(CLI, "cli", COVERED) == {"click"}

        # A prune takes the cache mounts, and what we have not.
        before = cached(attached.store)
        names = of(docker, attached.store)
        prune(docker)
        assert attaching.cache_mounts(docker) == {}
        wait_for(lambda: of(docker, attached.store) == [], "no cover left")
        assert cached(attached.store) == before
        assert builds.build(WEB, "web", COVERED) == set()
        await_covers(docker, attached, 1)
        assert not set(of(docker, attached.store)) & set(names)
    assert of(docker, attached.store) == []
    prune(docker)


def test_what_builds_left_is_taken_over(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    assert builds.build(CLI, "cli") == COMMON | {"click"}
    ident, = attaching.cache_mounts(docker)
    plain = docker.root / "overlay2" / ident / "diff"
    there = {str(p.relative_to(plain)): p.stat().st_size
             for p in plain.rglob("*") if p.is_file()}
    assert len(there) >= 6
    with attach(docker) as attached:
        await_covers(docker, attached, 1)
        assert cached(attached.store) == there
        attached.await_line("took over")
        assert builds.build(CLI, "cli") == set()
        # Its bytes take room once: below the cover they go.
        with attaching.beneath(docker.root, tmp_path / "beneath") as root:
            below = root / plain.relative_to(docker.root)
            wait_for(lambda: not any(below.iterdir()),
                     f"an empty directory: {attached.log()}")


def test_a_directory_in_use_waits_for_its_build(docker, index, attach,
                                                tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    hold = f"touch {TARGET}/begun && until [ -e {TARGET}/end ]; " \
        "do sleep 0.1; done"
    running = threading.Thread(target=builds.build,
                               args=(["six"], "slow", hold))
    running.start()
    wait_for(lambda: attaching.cache_mounts(docker), "a cache mount")
    ident, = attaching.cache_mounts(docker)
    plain = docker.root / "overlay2" / ident / "diff"
    wait_for((plain / "begun").exists, "a build at work")
    with attach(docker) as attached:
        attached.await_line("is in use by a build")
        assert of(docker, attached.store) == []
        (plain / "end").touch()
        running.join()
        await_covers(docker, attached, 1)
        assert "begun" in cached(attached.store)
        assert builds.build(["six"], "slow") == set()


def test_the_engine_may_restart(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    with attach(docker) as attached:
        await_covers(docker, attached, 1)
        docker.stop()
        attached.await_line("has gone away")
        docker.start()
        attached.await_line("is back")
        await_covers(docker, attached, 1)
        assert builds.build(["six"], "a") == set()
    assert of(docker, attached.store) == []


def test_a_killed_attach_is_gone_on_with(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    first = attach(docker)
    await_covers(docker, first, 1)
    first.kill()
    assert len(of(docker, first.store)) == 1
    assert builds.build(["six"], "a") == set()
    with attach(docker, "--target", "/nowhere", "--target", TARGET):
        builds.build(["click"], "b")
        await_covers(docker, first, 2)
    assert of(docker, first.store) == []


def test_a_mount_may_go_and_come_back(docker, index, attach, tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    with attach(docker) as attached:
        store = attached.store
        await_covers(docker, attached, 1)
        # The covers keep the daemon going until they are taken away.
        attaching.unmount(store)
        attached.await_line("is not mounted any more")
        await_covers(docker, attached, 0)
        store.process.wait(timeout=END_SECONDS)
        builds.build(["click"], "a")
        store.mount()
        attached.await_line("is mounted again")
        await_covers(docker, attached, 1)
        assert builds.build(["six", "click"], "a") == set()
        # One that is dead shows errors to builds: not for long.
        store.expect("")
        store.kill9()
        attached.await_line("plain caches", 60)
        await_covers(docker, attached, 0)
        builds.build(["six"], "b")
        store.mount()
        await_covers(docker, attached, 2)


def test_an_engine_in_a_namespace_of_its_own(tmp_path, base_tarball, index,
                                             attach, monkeypatch):
    own = tmp_path / "dockerd"
    inner = tmp_path / "inner"
    inner.write_text(f'{LET_GO}exec {engines.DOCKERD} "$@"\n')
    own.write_text("#!/bin/sh\nexec unshare --mount --propagation private "
                   f"sh {inner} \"$@\"\n")
    own.chmod(0o755)
    monkeypatch.setattr(engines, "DOCKERD", str(own))
    with engines.Docker(tmp_path / "docker") as docker:
        docker.load_base(base_tarball)
        builds = Builds(docker, tmp_path / "src", index)
        builds.build(["six"], "a")
        with attach(docker) as attached:
            await_covers(docker, attached, 1)
            assert covers(attached.store, docker.root) == []
            assert builds.build(["six"], "a") == set()
        assert of(docker, attached.store) == []


def test_once_leaves_covers_and_umount_takes_them(docker, index, mount,
                                                  tmp_path):
    builds = Builds(docker, tmp_path / "src", index)
    builds.build(["six"], "a")
    store = mount()
    store.do("attach", "docker", store.mnt, "--docker-host", docker.host,
             "--once")
    assert len(of(docker, store)) == 1
    assert builds.build(["six"], "a") == set()
    store.do("umount", store.path)
    assert of(docker, store) == []


# ---- what can not be attached to --------------------------------------------

class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Answers like an engine, from a dictionary of paths: with what stands
    there, or with what it returns."""

    daemon_threads = True

    def __init__(self, socket, answers, user=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                answer = answers[self.path.partition("?")[0]]
                body = json.dumps(answer() if callable(answer)
                                  else answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for byte in body:  # and each may be read by itself
                    self.wfile.write(bytes([byte]))

            def log_message(self, *_):
                pass
        super().__init__(str(socket), Handler, bind_and_activate=False)
        self.server_bind()
        os.seteuid(user)
        try:
            self.server_activate()
        finally:
            os.seteuid(0)

    def get_request(self):
        request, _ = super().get_request()
        return request, ("client", 0)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


DOCKER = {"Components": [{"Name": "Engine"}]}
INFO = {"DockerRootDir": "/var/lib/docker", "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"]],
        "SecurityOptions": ["name=seccomp,profile=default"]}
CONTAINERD = {**INFO, "Driver": "overlayfs", "DriverStatus":
              [["driver-type", "io.containerd.snapshotter.v1"]]}


@pytest.mark.parametrize("version, info, why", [
    ({"Components": [{"Name": "Podman Engine"}]}, INFO, "podman"),
    (DOCKER, CONTAINERD, "containerd"),
    (DOCKER, {**INFO, "SecurityOptions": ["name=rootless"]}, "rootless"),
    (DOCKER, {**INFO, "SecurityOptions": ["name=userns"]}, "userns-remap"),
    (DOCKER, {**INFO, "Driver": "btrfs"}, "btrfs"),
    # All is well, but who answers is a test.
    (DOCKER, INFO, "is not dockerd's own socket"),
    ({}, {"message": "no"}, "Docker's API"),
])
def test_engines_that_are_refused(mount, tmp_path, version, info, why):
    store = mount()
    socket = tmp_path / "sock"
    with FakeEngine(socket, {"/version": version, "/info": info}):
        done = store.run("attach", "docker", store.mnt, "--docker-host",
                         f"unix://{socket}")
    assert done.returncode == 1
    assert why in done.stderr and str(socket) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_socket_of_a_user_is_not_believed(mount, tmp_path):
    store = mount()
    socket = tmp_path / "sock"
    with FakeEngine(socket, {"/version": DOCKER, "/info": INFO}, NOBODY):
        done = store.run("attach", "docker", store.mnt, "--docker-host",
                         socket)
    assert done.returncode == 1
    assert f"{socket}: user {NOBODY} listens there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Listens on the same path, elsewhere, and calls himself dockerd.
IMPOSTOR = f"""
import os, pathlib, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    pathlib.Path("/proc/self/comm").write_text("dockerd")
    os.setuid({NOBODY})
    print("listening", flush=True)
    sys.stdin.read()
"""


def test_who_calls_himself_dockerd_is_not_believed(mount, tmp_path):
    store = mount()
    socket = tmp_path / "run" / "sock"
    socket.parent.mkdir()
    with FakeEngine(socket, {"/version": DOCKER, "/info": INFO}), \
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c",
                 'mount -t tmpfs none "${2%/*}" && exec python3 -c "$1" "$2"',
                 "sh", IMPOSTOR, str(socket)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE) as impostor:
        assert impostor.stdout.readline() == b"listening\n"
        done = store.run("attach", "docker", store.mnt, "--docker-host",
                         socket)
        impostor.stdin.close()
    assert done.returncode == 1
    assert "is not dockerd's own socket" in done.stderr


class Grpc(socketserver.BaseRequestHandler):
    """What buildkitd says to HTTP/1.1: frames of HTTP/2."""

    def handle(self):
        self.request.recv(4096)
        self.request.sendall(bytes.fromhex("000006040000000000000500004000"))


def test_a_standalone_buildkitd_is_refused(mount, tmp_path):
    store = mount()
    socket = tmp_path / "sock"
    with socketserver.UnixStreamServer(str(socket), Grpc) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = store.run("attach", "docker", store.mnt, "--docker-host",
                         socket)
        server.shutdown()
    assert done.returncode == 1
    assert "buildkitd" in done.stderr


def test_what_is_missing_is_said(mount, tmp_path):
    store = mount()

    def refused(code, *args, **kwargs):
        done = store.run("attach", *args, **kwargs)
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    absent = f"unix://{tmp_path}/none"
    assert "systemctl start docker" in refused(
        1, "docker", store.mnt, "--docker-host", absent)
    plain = tmp_path / "plain"
    plain.touch()
    assert "systemctl start docker" in refused(
        1, "docker", store.mnt, "--docker-host", plain)
    assert "not the socket of an engine" in refused(
        1, "docker", store.mnt, "--docker-host", "tcp://127.0.0.1:2375")
    assert "not a mount point" in refused(1, "docker", tmp_path)
    assert "No such file" in refused(1, "buildah", store.mnt, "--tmpdir",
                                     tmp_path / "none")
    assert "id '../x'" in refused(1, "buildah", store.mnt, "--id", "../x")
    assert "docker or buildah" in refused(2, "podman", store.mnt)
    assert "which engine" in refused(2, "docker")
    assert "--target" in refused(2, "docker", store.mnt, "--target", "pip")
    assert "--interval" in refused(2, "docker", store.mnt, "--interval", "0")
    assert "for buildah only" in refused(2, "docker", store.mnt, "--id", "x")
    assert "for docker only" in refused(2, "buildah", store.mnt,
                                        "--docker-host", absent)
    assert "root" in refused(1, "docker", store.mnt, user=NOBODY)


# ---- with an engine that does as it is told ---------------------------------

class FakeDockerd(FakeEngine):
    """What attach takes for a dockerd with the storage driver vfs, in which
    `caches()` tells the cache mounts."""

    def __init__(self, where, caches):
        self.dirs = where / "root" / "vfs" / "dir"
        self.dirs.mkdir(parents=True)
        self.over = threading.Event()
        self.comm = pathlib.Path("/proc/self/comm")
        self.before = self.comm.read_text(encoding="ascii")
        self.host = f"unix://{where}/sock"
        super().__init__(where / "sock", {
            "/version": DOCKER,
            "/info": {**INFO, "Driver": "vfs",
                      "DockerRootDir": str(where / "root")},
            "/events": self.over.wait,
            "/system/df": lambda: {"BuildCache": caches()}})

    def __enter__(self):
        self.comm.write_text("dockerd", encoding="ascii")
        return super().__enter__()

    def __exit__(self, *args):
        self.over.set()
        super().__exit__(*args)
        self.comm.write_text(self.before, encoding="ascii")


def cache_mount(ident, **more):
    return {"ID": ident, "Type": "exec.cachemount", "InUse": False,
            "Description": f"cached mount {TARGET} from exec /bin/sh", **more}


def test_a_mount_that_just_went_is_no_cover(mount, tmp_path):
    """What is at its place then is a directory of the host."""
    store = mount()

    def caches():
        if is_mounted(store.mnt):
            store.umount()
        return [cache_mount("a")]
    with FakeDockerd(tmp_path, caches) as engine:
        left = engine.dirs / "a" / "http-v2" / "left"
        left.parent.mkdir(parents=True)
        left.write_text("left", encoding="ascii")
        done = store.run("attach", "docker", store.mnt, "--once",
                         "--docker-host", engine.host)
        assert not is_mounted(engine.dirs / "a")
    assert done.returncode == 1
    assert "not all is covered" in done.stderr
    assert left.exists()
    assert list(store.mnt.iterdir()) == []


def test_an_engine_that_goes_while_it_answers(mount, tmp_path):
    store = mount()

    def caches():
        engine.over.set()
        time.sleep(1)  # the end of its events comes first
        return []
    with FakeDockerd(tmp_path, caches) as engine:
        with Attach("docker", store, tmp_path / "log", "--docker-host",
                    engine.host) as attached:
            attached.await_line("has gone away")
            attached.await_line("is back")


def test_no_answer_is_slept_on(mount, tmp_path):
    """Whatever pieces it comes in."""
    store = mount()
    asked = []

    def caches():
        asked.append(None)
        return []
    with FakeDockerd(tmp_path, caches) as engine:
        with Attach("docker", store, tmp_path / "log", "--docker-host",
                    engine.host):
            for n in range(300):
                (engine.dirs / str(n)).mkdir()
                wait_for(lambda n=n: len(asked) > n, f"question {n}")


def test_what_is_left_alone_is_told_once(mount, tmp_path):
    store = mount()
    asked = []

    def caches():
        asked.append(None)
        return [cache_mount("a", Parent="x"), cache_mount("b", Parents=["x"]),
                cache_mount("c", InUse=len(asked) < 5)]
    with FakeDockerd(tmp_path, caches) as engine:
        (engine.dirs / "c").mkdir()
        # Is asked about again and again, until it can be covered.
        (engine.dirs / "c" / "in-use").touch()
        with Attach("docker", store, tmp_path / "log", "--docker-host",
                    engine.host) as attached:
            attached.await_line(": covered ")
            told = [line.split()[3] for line in attached.log().splitlines()
                    if "left alone" in line]
    assert told == ["a", "b"]


def test_once_fails_with_the_engine(mount, tmp_path):
    store = mount()
    with FakeDockerd(tmp_path, lambda: "no list") as engine:
        done = store.run("attach", "docker", store.mnt, "--once",
                         "--docker-host", engine.host)
    assert done.returncode == 1
    assert "not understood" in done.stderr
    assert len(done.stderr.splitlines()) == 2  # it was attached to
