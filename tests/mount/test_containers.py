# SPDX-License-Identifier: MIT
"""Containers with the mount, as contrib/examples gives it to them."""

import json
import re
import subprocess

import pytest

import examples
import index
import mounted
from benchlib import engines

# What of --privileged a mount needs; not every machine can give it all.
PRIVILEGED = ["--cap-add=SYS_ADMIN", "--device=/dev/fuse",
              "--security-opt=seccomp=unconfined",
              "--security-opt=apparmor=unconfined"]
USER = 1234  # who has a directory of his own in the cache


@pytest.fixture(scope="module")
def docker(tmp_path_factory, base_tarball):
    with engines.Docker(tmp_path_factory.mktemp("docker")) as engine:
        engine.load_base(base_tarball)
        yield engine


@pytest.fixture
def parent(tmp_path):
    """What /run/pipcachefs is on a host: a directory on a shared mount."""
    where = tmp_path / "run"
    where.mkdir()
    subprocess.run(["mount", "--bind", where, where], check=True)
    subprocess.run(["mount", "--make-shared", where], check=True)
    yield where
    subprocess.run(["umount", "-R", where], check=True)


@pytest.fixture
def container(docker):
    """Factory: the name of a started container, `docker run @args base`."""
    names = []

    def factory(*args, image=engines.BASE, command=("sleep", "infinity")):
        name = f"test{len(names)}"
        names.append(name)
        docker.run("run", "--detach", "--name", name, "--network", "host",
                   *args, image, *command)
        return name

    yield factory
    if names:
        docker.run("rm", "--force", *names)


def placed(arguments, parent):
    """Arguments of an example, for this @parent."""
    return arguments.replace(examples.PARENT, str(parent)).split()


def mount_in(store, parent):
    """Mount at @parent/pip, as the examples have it."""
    store.mnt = parent / "pip"
    store.mnt.mkdir()
    return store.mount("limit=200M")


def pip_install(docker, container, server, target):
    """pip in a container; returns the wheels that were sent to it."""
    server.requests.clear()
    docker.run("exec", container, "python3", "-m", "pip", "install",
               "--disable-pip-version-check", "--target", f"/tmp/{target}",
               "--index-url", server.url, "--trusted-host", "127.0.0.1",
               "jinja2", "pyyaml")
    return [r["path"] for r in server.requests
            if r["path"].endswith(".whl")]


def test_containers_see_a_remount(docker, container, mount, parent, wheels):
    store = mount_in(mount(start=False), parent)
    # As the Jenkinsfile says.
    subprocess.run(["install", "-d", "-o", str(USER), "-m", "0755",
                    store.mnt / "jenkins"], check=True)
    gitlab = examples.load_toml("gitlab-runner.toml")["runners"][0]
    volume = next(v for v in gitlab["docker"]["volumes"] if ":" in v)
    started = {
        container(*placed(f"-v {volume}", parent)): "/root/.cache/pip",
        container("--user", str(USER), *placed(
            examples.jenkins_arguments(), parent)): "/cache/pip/jenkins"}
    with index.Index(wheels) as server:
        for name in started:
            assert len(pip_install(docker, name, server, "a")) >= 3
        store.remount()
        for name, cache in started.items():
            docker.run("exec", name, "touch", f"{cache}/from-{name}")
            assert list(store.mnt.rglob(f"from-{name}"))
            assert not pip_install(docker, name, server, "b")
    assert store.status()["hits"] >= 6


def test_daemonset(docker, container, package, parent, tmp_path):
    """Its image, and its container with the same kinds of propagation that
    Kubernetes gives it: killed and started again under a build."""
    context = tmp_path / "context"
    context.mkdir()
    (context / package.name).write_bytes(package.read_bytes())
    (context / "Dockerfile").write_text(re.sub(
        "(?m)^FROM .*", f"FROM {engines.BASE}",
        examples.text("kubernetes.Dockerfile")), encoding="utf-8")
    docker.run("build", "--network", "host", "--tag", "daemon", context)

    (tmp_path / "stores").mkdir()
    daemons = examples.load_yaml("kubernetes-daemonset.yaml")
    pod = daemons["spec"]["template"]["spec"]
    entry, *args = pod["containers"][0]["command"]
    daemon = container(
        *PRIVILEGED, "-v", f"{parent}:/run/pipcachefs:rshared", "-v",
        f"{tmp_path}/stores:/var/lib/pipcachefs", "--entrypoint", entry,
        image="daemon", command=args)
    mounted.wait_for(lambda: mounted.is_mounted(parent / "pip"),
                     "the mount of the pod")
    build = container("-v", f"{parent}:/root/.cache:rslave")

    def in_build(command):
        return docker.run("exec", build, "sh", "-c", command)

    in_build("echo kept >/root/.cache/pip/file")
    docker.run("exec", daemon, "pipcachefs", "sync", "/run/pipcachefs/pip")
    docker.run("kill", daemon)
    docker.run("start", daemon)
    mounted.wait_for(
        lambda: "kept" in in_build("cat /root/.cache/pip/file 2>&1 || true"),
        "the mount of its successor")
    docker.run("stop", "--time", "90", daemon)
    assert not mounted.is_mounted(parent / "pip")
    assert in_build("ls /root/.cache/pip") == ""
    assert in_build("stat -c %U /root/.cache/pip").strip() == "nobody"


def test_podman_takes_the_cdi_spec(mount, parent, base_tarball, tmp_path):
    """As BuildKit would; Debian's podman knows the format of a version that
    had no annotations yet."""
    store = mount_in(mount(start=False), parent)
    (store.mnt / "file").write_text("seen\n")
    spec = json.loads(examples.text("cdi.json").replace(examples.PARENT,
                                                        str(parent)))
    device = f"{spec['kind']}={spec['devices'][0]['name']}"
    del spec["annotations"]
    spec["cdiVersion"] = "0.5.0"
    (tmp_path / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    # Where podman looks for specifications, in a mount namespace of its own.
    out = engines.checked(
        ["unshare", "--mount", "--propagation=slave", "sh", "-ec", """
        where=$1 tarball=$2 device=$3
        # As sysops.LET_GO, but for our own.
        findmnt -n -l -t fuse.pipcachefs -o TARGET | grep -vF "$where/" |
            tac | xargs -r umount -l --no-canonicalize || :
        mount -t tmpfs tmpfs /run
        mkdir /run/cdi
        cp "$where/spec.json" /run/cdi
        podman() {
            command podman --storage-driver vfs --root "$where/podman" \
                --runroot /run/podman --runtime /usr/sbin/runc \
                --cgroup-manager cgroupfs --events-backend file "$@"
        }
        podman import "$tarball" base >/dev/null
        podman run --rm --network none --ulimit nofile=1024:1024 \
            --ulimit nproc=1024:1024 --device "$device" base \
            sh -c 'cat /root/.cache/pip/file /proc/self/mountinfo'
        """, "sh", tmp_path, base_tarball, device])
    assert "\nseen\n" in out
    bound, = re.findall(r"(?m)^.* /root/\.cache .*$", out)
    assert " master:" in bound
