# SPDX-License-Identifier: MIT
"""contrib/examples: what each format's own parser or schema says, and that
all of them bind the directory above the mount, as a slave."""

import json
import pathlib
import re
import subprocess

import pytest

from examples import (EXAMPLES, PARENT, github_arguments, jenkins_arguments,
                      load_toml, load_yaml, text, validators)


def checked(program, *args):
    done = subprocess.run([validators() / program, *args], check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("name, schema", [
    ("compose.yaml", "vendor.compose-spec"),
    ("github-workflow.yaml", "vendor.github-workflows")])
def test_vendors_schema(name, schema):
    checked("check-jsonschema", "--builtin-schema", schema, EXAMPLES / name)


@pytest.mark.parametrize("name", [
    "kubernetes-daemonset.yaml", "kubernetes-build-pod.yaml"])
def test_kubernetes_schema(name):
    assert "passed" in checked("kubernetes-validate", "--strict",
                               EXAMPLES / name)


def test_compose_binds_the_parent():
    volume, = load_yaml("compose.yaml")["services"]["tests"]["volumes"]
    assert volume["type"] == "bind"
    assert volume["source"] == PARENT
    assert volume["target"] == "/root/.cache"
    assert volume["bind"]["propagation"] == "rslave"


def test_kubernetes_propagates():
    daemons = load_yaml("kubernetes-daemonset.yaml")
    daemons = daemons["spec"]["template"]["spec"]
    pod = load_yaml("kubernetes-build-pod.yaml")["spec"]
    for spec, where, propagation in (
            (daemons, PARENT, "Bidirectional"),
            (pod, "/root/.cache", "HostToContainer")):
        volumes = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"]}
        mount = next(m for m in spec["containers"][0]["volumeMounts"]
                     if volumes[m["name"]] == PARENT)
        assert mount["mountPath"] == where
        assert mount["mountPropagation"] == propagation
    # Bidirectional is for privileged containers only.
    assert daemons["containers"][0]["securityContext"]["privileged"] is True


def test_gitlab_runner():
    docker, kubernetes = load_toml("gitlab-runner.toml")["runners"]
    assert docker["executor"] == "docker"
    assert f"{PARENT}:/root/.cache:rslave" in docker["docker"]["volumes"]
    assert kubernetes["executor"] == "kubernetes"
    path, = kubernetes["kubernetes"]["volumes"]["host_path"]
    assert path == {"name": "pipcachefs", "host_path": PARENT,
                    "mount_path": "/root/.cache",
                    "mount_propagation": "HostToContainer"}


def test_github_job_has_another_home():
    container = load_yaml("github-workflow.yaml")["jobs"]["tests"]["container"]
    # The runner passes only "ro" on from what stands in `volumes`.
    assert "volumes" not in container
    assert container["options"] == github_arguments()
    assert github_arguments() == f"--volume {PARENT}:/cache:rslave"
    assert container["env"]["PIP_CACHE_DIR"] == "/cache/pip"


def test_jenkinsfile():
    assert jenkins_arguments() == (f"-v {PARENT}:/cache:rslave"
                                   " -e PIP_CACHE_DIR=/cache/pip/jenkins")
    assert text("Jenkinsfile").count("{") == text("Jenkinsfile").count("}")


def test_containers_conf():
    conf = load_toml("containers.conf")
    assert conf["containers"]["volumes"] == [f"{PARENT}:/root/.cache:rslave"]


def test_cdi_has_what_its_specification_requires():
    spec = json.loads(text("cdi.json"))
    assert set(spec) == {"cdiVersion", "kind", "annotations", "devices"}
    assert spec["cdiVersion"] == "0.6.0"  # annotations came with it
    assert re.fullmatch(r"[A-Za-z][\w.-]*[A-Za-z0-9]"
                        r"/[A-Za-z][\w.-]*[A-Za-z0-9]", spec["kind"])
    device, = spec["devices"]
    assert set(device) == {"name", "containerEdits"}
    mount, = device["containerEdits"]["mounts"]
    assert mount == {"hostPath": PARENT, "containerPath": "/root/.cache",
                     "options": ["rbind", "rslave", "rw"]}


def test_buildkit_dockerfile_has_a_cache_mount():
    assert ("RUN --mount=type=cache,target=/root/.cache/pip "
            in text("buildkit.Dockerfile"))


def test_every_example_is_tested():
    here = pathlib.Path(__file__)
    tests = "".join(path.read_text(encoding="utf-8") for path in (
        here, here.with_name("test_containers.py"),
        here.with_name("examples.py")))
    untested = [path.name for path in EXAMPLES.iterdir()
                if f'"{path.name}"' not in tests]
    assert not untested
