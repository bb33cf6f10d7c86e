# SPDX-License-Identifier: MIT
"""Container engines of one's own, and an image for them, without a registry.

`Docker` and `Buildah` keep all they have below one directory and leave
nothing behind; `base_root()` makes the root of a small Debian with pip once.
They want root and the packages docker.io, buildah and debootstrap.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

BASE = "base"  # the image that every engine here has
DOCKER = "/usr/bin/docker"  # others in PATH may lack the old builder's flags
DOCKERD = "/usr/sbin/dockerd"
PIP_CACHE = "/root/.cache/pip"
BUSY = "disk usage operation is already running"
RUNC = "/usr/sbin/runc"  # crun gives up where cgroups are of both versions
START_SECONDS = 120
STOP_SECONDS = 60
INCLUDE = "python3,python3-pip,python3-venv,ca-certificates"
# What no build needs: an engine without overlays copies it for each layer.
LITTER = ("var/cache/apt/*.bin", "var/cache/apt/archives/*.deb",
          "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*",
          "usr/share/locale/*", "usr/share/zoneinfo/*", "var/log/*.log")


class EngineError(Exception):
    """An engine, or what makes its image, failed: one or more lines."""


def checked(command, timeout=1800, env=None, cwd=None):
    """What @command printed; EngineError with all of it if it failed."""
    done = subprocess.run([str(part) for part in command], check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=env,
                          cwd=cwd, timeout=timeout)
    if done.returncode != 0:
        raise EngineError(f"{' '.join(map(str, command))} failed "
                          f"({done.returncode}):\n{done.stdout}")
    return done.stdout


# ---- the image --------------------------------------------------------------

def _release():
    """The code name of this machine's Debian or Ubuntu."""
    for line in pathlib.Path("/etc/os-release").read_text(
            encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise EngineError("/etc/os-release has no VERSION_CODENAME")


def _mirror():
    """Where this machine has its packages from."""
    for line in checked(["apt-get", "indextargets", "--format", "$(SITE)",
                         "Created-By: Packages",
                         f"Release: {_release()}"]).splitlines():
        if line.startswith("http"):
            return line
    return "http://deb.debian.org/debian"


def base_root(tarball):
    """Make @tarball, the root of this machine's release with python3 and pip,
    if it is not there yet. Returns @tarball. Takes a minute."""
    tarball = pathlib.Path(tarball)
    tarball.parent.mkdir(parents=True, exist_ok=True)
    with open(tarball.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tarball.exists():
            return tarball
        with tempfile.TemporaryDirectory(dir=tarball.parent) as work:
            root = pathlib.Path(work, "root")
            checked(["debootstrap", "--variant=minbase",
                     f"--include={INCLUDE}", _release(), root, _mirror()])
            for pattern in LITTER:
                for path in root.glob(pattern):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
            checked(["tar", "-C", root, "--one-file-system", "-cf",
                     pathlib.Path(work, "tar"), "."])
            pathlib.Path(work, "tar").rename(tarball)
    return tarball


def overlays(where):
    """Does an overlay mount work with all its directories below @where?"""
    with tempfile.TemporaryDirectory(dir=where) as top:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(os.path.join(top, name))
        done = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o",
             "lowerdir=lower,upperdir=upper,workdir=work", "merged"],
            cwd=top, check=False, capture_output=True)
        if done.returncode != 0:
            return False
        subprocess.run(["umount", "merged"], cwd=top, check=True)
        return True


# ---- docker -----------------------------------------------------------------

class Docker:
    """A dockerd of our own: data, socket and state below @where.

        with Docker(directory) as docker:
            docker.load_base(tarball)
            docker.run("build", "--network", "host", ...)
    """

    kind = "docker"

    def __init__(self, where, driver="vfs"):
        self.where = pathlib.Path(where)
        self.driver = driver
        self.root = self.where / "root"
        # A socket's path is short; that of a test's directory may not be.
        self.short = tempfile.mkdtemp(prefix="docker-", dir="/tmp")
        self.socket = pathlib.Path(self.short, "sock")
        self.host = f"unix://{self.socket}"
        self.env = dict(os.environ, DOCKER_BUILDKIT="1",
                        BUILDKIT_PROGRESS="plain")
        self.process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.short, ignore_errors=True)

    def start(self):
        self.where.mkdir(parents=True, exist_ok=True)
        with open(self.where / "log", "ab") as log:
            self.process = subprocess.Popen(
                [DOCKERD, "--iptables=false", "--ip6tables=false",
                 "--bridge=none", f"--storage-driver={self.driver}",
                 f"--data-root={self.root}",
                 f"--exec-root={pathlib.Path(self.short, 'exec')}",
                 f"--pidfile={pathlib.Path(self.short, 'pid')}",
                 f"--host={self.host}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        end = time.monotonic() + START_SECONDS
        while subprocess.run([DOCKER, "-H", self.host, "version"],
                             check=False, capture_output=True,
                             timeout=START_SECONDS).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise EngineError("dockerd did not start:\n" + self.log())
            time.sleep(0.2)

    def stop(self):
        """Ends it, and its containerd with it."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    def log(self):
        return (self.where / "log").read_text(errors="replace")[-4000:]

    def command(self, *args):
        """The command line of docker with @args for this engine."""
        return [DOCKER, "-H", self.host, *map(str, args)]

    def run(self, *args, timeout=1800):
        """What `docker @args` printed; EngineError if it failed."""
        return checked(self.command(*args), timeout, self.env)

    def load_base(self, tarball):
        self.run("import", tarball, BASE)

    def build(self, directory, tag, *options):
        """Make the image @tag of the Dockerfile in @directory."""
        self.run("build", "--network", "host", "--tag", tag, *options,
                 directory)

    def size(self, tag):
        """The bytes of all layers of an image."""
        return int(self.run("image", "inspect", "--format", "{{.Size}}", tag))

    def prune(self):
        """Drop the builder's cache: layers and cache mounts; not images."""
        self.run("builder", "prune", "--all", "--force")

    drop_caches = prune

    def _disk_usage(self):
        """What is told of the build cache; dockerd tells one at a time."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.run("system", "df", "--verbose", "--format",
                                "{{json .BuildCache}}")
            except EngineError as err:
                if BUSY not in str(err) or time.monotonic() > end:
                    raise
            time.sleep(0.2)

    def attach_options(self, _):
        """What `pipcachefs attach docker MOUNTPOINT` is to be told."""
        return ["--docker-host", self.host]

    def cache_mounts(self):
        """The directories of pip's cache mounts."""
        listed = json.loads(self._disk_usage())
        below = "diff" if self.driver == "overlay2" else ""
        where = self.root / (self.driver if below else "vfs/dir")
        return [where / entry["ID"].rstrip("*") / below for entry in listed
                if entry["CacheType"] == "exec.cachemount"
                and PIP_CACHE in entry["Description"]]


# ---- buildah ----------------------------------------------------------------

class Buildah:
    """buildah with storage of its own below @where."""

    kind = "buildah"

    def __init__(self, where, isolation="chroot", driver="vfs"):
        self.where = pathlib.Path(where)
        self.isolation = isolation
        self.driver = driver
        # Cache mounts are below the directory for temporary files.
        self.env = dict(os.environ, BUILDAH_ISOLATION=isolation,
                        TMPDIR=str(self.where / "tmp"))

    def __enter__(self):
        temporary = self.where / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o1777)  # users other than who enters have theirs there
        return self

    def __exit__(self, *_):
        with contextlib.suppress(EngineError):
            self.run("rm", "--all")
        shutil.rmtree(self.where, ignore_errors=True)

    def storage(self):
        """The options that name it, for podman too."""
        return ["--storage-driver", self.driver, "--root",
                str(self.where / "root"),
                "--runroot", str(self.where / "run")]

    def command(self, *args):
        """The command line of buildah with @args for this storage."""
        return ["buildah", *self.storage(), *map(str, args)]

    def run(self, *args, timeout=1800, **environ):
        """What `buildah @args` printed, with @environ in its environment;
        EngineError if it failed."""
        return checked(self.command(*args), timeout, {**self.env, **environ})

    def load_base(self, tarball):
        container = self.run("from", "scratch").strip()
        self.run("add", container, tarball, "/")
        self.run("commit", "--rm", container, BASE)

    def build(self, directory, tag, *options):
        """Make the image @tag of the Dockerfile in @directory."""
        self.run("build", "--layers", "--network", "host", "--tag", tag,
                 *options, directory)

    def size(self, tag):
        """The bytes of all files of an image."""
        container = self.run("from", tag).strip()
        try:
            root = self.run("mount", container).strip()
            told = checked(["du", "-sx", "--block-size=1", root])
            return int(told.split()[0])
        finally:
            self.run("rm", container)

    def prune(self):
        """Drop layers that no image needs; cache mounts stay."""
        self.run("rmi", "--prune", "--force")

    def attach_options(self, ids):
        """What `pipcachefs attach buildah MOUNTPOINT` is to be told, where
        cache mounts will have these @ids."""
        return [word for name in ids for word in ("--id", name)]

    def drop_caches(self):
        """Drop such layers, and the cache mounts."""
        self.prune()
        for path in (self.where / "tmp").glob("buildah-cache*"):
            shutil.rmtree(path)

    def cache_mounts(self):
        """The directories of pip's cache mounts without an id."""
        return list((self.where / "tmp").glob(f"buildah-cache*{PIP_CACHE}"))


class Podman(Buildah):
    """podman with the storage of a Buildah, as it runs without systemd."""

    def command(self, *args):
        """The command line of podman with @args for this storage."""
        return ["podman", *self.storage(), "--tmpdir",
                str(self.where / "tmp"), "--runtime", RUNC,
                "--cgroup-manager", "cgroupfs", "--events-backend", "file",
                *map(str, args)]
