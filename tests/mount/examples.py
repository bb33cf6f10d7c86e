# SPDX-License-Identifier: MIT
"""contrib/examples, as the tests read them."""

import pathlib
import re
import subprocess
import sys
import tomllib

import yaml

import realpip

EXAMPLES = pathlib.Path(__file__).parents[2] / "contrib" / "examples"
PARENT = "/run/pipcachefs"  # with the mount in pip/
VALIDATORS = ["check-jsonschema", "kubernetes-validate"]


def text(name):
    return (EXAMPLES / name).read_text(encoding="utf-8")


def load_yaml(name):
    return yaml.safe_load(text(name))


def load_toml(name):
    return tomllib.loads(text(name))


def line(name, pattern):
    """The one place in a file where @pattern matches: its group."""
    found, = re.findall(f"(?m)^ *{pattern}$", text(name))
    return found


def github_arguments():
    """What the runner adds to `docker create`."""
    return line("github-workflow.yaml", "options: (.*)")


def jenkins_arguments():
    """What Jenkins adds to `docker run`."""
    return line("Jenkinsfile", "args '(.*)'")


def validators():
    """The directory of the programs of VALIDATORS, fetched from PyPI once."""
    venv = realpip.DATA / "venv-validators"
    with realpip.made_once(realpip.DATA / "validators") as new:
        if new:
            # An environment cannot be renamed: it is made in place.
            subprocess.run([sys.executable, "-m", "venv", "--clear", venv],
                           check=True)
            subprocess.run([venv / "bin" / "python", "-m", "pip", "install",
                            "--quiet", "--disable-pip-version-check",
                            *VALIDATORS], check=True)
    return venv / "bin"
