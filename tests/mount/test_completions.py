# SPDX-License-Identifier: MIT
"""Completions, by typing into the shells and pressing the tab key."""

import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

import mounted

COMPLETIONS = (pathlib.Path(__file__).parents[2] / "contrib" / "completions")
PATIENCE = 60
# Control-T prints the command line and empties it. No line is ever entered: a
# terminal between two modes could lose the key that takes it back.
BASH = f"""
PS1='ready> '
bind 'set show-all-if-ambiguous on' 'set page-completions off'
bind 'set enable-bracketed-paste off' 'set completion-query-items 1000'
. /usr/share/bash-completion/bash_completion
. {COMPLETIONS}/pipcachefs.bash
show() {{ printf '<<%s>>\\n' "$READLINE_LINE"; READLINE_LINE=; }}
bind -x '"\\C-t": show'
"""
ZSH = f"""
PS1='ready> '
fpath=({COMPLETIONS} $fpath)
autoload -Uz compinit && compinit -u -D
LISTMAX=1000
setopt no_auto_menu no_beep no_always_last_prompt
show() {{ zle -I; print -r -- "<<$BUFFER>>"; BUFFER=; }}
zle -N show && bindkey '^T' show
"""


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, argv, setup, tmp_path):
        program = pathlib.Path(mounted.binary())
        path = tmp_path / "bin"
        path.mkdir()
        (path / "pipcachefs").symlink_to(program)
        setup_file = tmp_path / "setup"
        setup_file.write_text(setup, encoding="utf-8")
        env = {"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin",
               "TERM": "dumb", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
        ours, theirs = pty.openpty()
        self.terminal = ours
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env,
            cwd=tmp_path, start_new_session=True)
        os.close(theirs)
        self.ask(f"PS1=; . {setup_file}\n", "ready> ")

    def ask(self, text, until):
        """Type @text; all that comes back, up to the pattern @until."""
        os.write(self.terminal, text.encode())
        seen, end = "", time.monotonic() + PATIENCE
        while not re.search(until, seen):
            left = end - time.monotonic()
            if left < 0 or not select.select([self.terminal], [], [], left)[0]:
                pytest.fail(f"typed {text!r}, then for {PATIENCE} s only: "
                            f"{seen!r}")
            seen += os.read(self.terminal, 65536).decode(errors="replace")
        return seen

    def tab(self, line):
        """Type @line and a tab. Returns the line then, and what was listed."""
        seen = self.ask(line + "\t\x14", r"<<[^>]*>>")
        listed, now = re.search(r"(?s)(.*)<<([^>]*)>>", seen).groups()
        return now.rstrip(), set(listed.split())

    def close(self):
        os.close(self.terminal)
        self.process.kill()
        self.process.wait()


class Fish:
    """fish tells without a terminal: complete -C."""

    def __init__(self, tmp_path):
        path = tmp_path / "bin"
        path.mkdir()
        (path / "pipcachefs").symlink_to(mounted.binary())
        self.cwd = tmp_path
        self.env = {"PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}

    def tab(self, line):
        out = subprocess.run(
            ["fish", "--no-config", "-c", f"source {COMPLETIONS}"
             "/pipcachefs.fish; complete -C $argv[1]", line],
            check=True, capture_output=True, text=True, env=self.env,
            cwd=self.cwd)
        assert not out.stderr
        found = [x.split("\t")[0] for x in out.stdout.splitlines()]
        if len(found) != 1:
            return line, set(found)
        return line[:line.rfind(" ") + 1] + found[0].rstrip("/"), set()

    def close(self):
        pass


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request, tmp_path):
    """One shell with our completion."""
    assert shutil.which(request.param), f"{request.param} is not installed"
    if request.param == "bash":
        made = Shell(["bash", "--norc", "--noprofile", "-i"], BASH, tmp_path)
    elif request.param == "zsh":
        made = Shell(["zsh", "-f", "-i"], ZSH, tmp_path)
    else:
        made = Fish(tmp_path)
    yield made
    made.close()


def help_of(*command):
    return subprocess.run([mounted.binary(), *command, "--help"], check=True,
                          capture_output=True, text=True).stdout


def commands():
    """All that the program's help names."""
    return re.findall(r"(?m)^  ([a-z]+) ", help_of())


def long_options(command):
    return set(re.findall(r"(?m)^ +(?:-\w, )?(--[a-z-]+=?)",
                          help_of(command)))


def mount_keys():
    text = help_of("mount").partition("\nOPTS:\n")[2]
    return set(re.findall(r"(?m)^  ([a-z_]+=?)", text))


def test_commands_and_options(shell):
    assert set(commands()) <= shell.tab("pipcachefs ")[1]
    assert shell.tab("pipcachefs pru")[0] == "pipcachefs prune"
    for command in commands():
        wanted = long_options(command)
        assert "--help" in wanted
        line, listed = shell.tab(f"pipcachefs {command} --")
        assert {x.rstrip("=") for x in listed} >= {
            x.rstrip("=") for x in wanted} or wanted == {line.split()[-1]}
    line, _ = shell.tab("pipcachefs prune --older")
    assert line == "pipcachefs prune --older-than="


def test_mount_options(shell):
    keys = mount_keys()
    assert {"limit=", "allow_other"} <= keys
    assert keys | {"ro", "nosuid"} <= shell.tab("pipcachefs mount -o ")[1]
    for given, completed in (
            ("-o lim", "-o limit="),
            ("-o limit=5G,lo", "-o limit=5G,low="),
            ("-o limit=5G,sync=s", "-o limit=5G,sync=strict"),
            ("-o scrub=o", "-o scrub=off"),
            ("--options=limit=5G,noal", "--options=limit=5G,noallow_other"),
            ("--options=sync=l", "--options=sync=lazy")):
        line, _ = shell.tab(f"pipcachefs mount {given}")
        assert line == f"pipcachefs mount {completed}"
    # What has no words to offer stays as it is; a key is no pattern either.
    for given in ("limit=", "a/e=", "sy.c=st"):
        line, _ = shell.tab(f"pipcachefs mount -o {given}")
        assert line.endswith(given)


def test_mount_points_and_stores(shell, mount):
    store = mount()
    where, path = str(store.mnt), str(store.path)
    for command in ("umount", "upgrade", "status", "prune"):
        line, _ = shell.tab(f"pipcachefs {command} {where[:-1]}")
        assert line.rstrip("/") == f"pipcachefs {command} {where}"
    line, _ = shell.tab(f"pipcachefs limit {path[:-1]}")
    assert line.rstrip("/") == f"pipcachefs limit {path}"
    # Not any directory is something to unmount.
    line, _ = shell.tab(f"pipcachefs umount {path[:-1]}")
    assert line == f"pipcachefs umount {path[:-1]}"


def test_directories_to_mount(shell, tmp_path):
    (tmp_path / "some where").mkdir()
    (tmp_path / "other").mkdir()
    line, _ = shell.tab("pipcachefs mount ./oth")
    assert line.rstrip("/") == "pipcachefs mount ./other"
    line, _ = shell.tab("pipcachefs mount /store ./some")
    assert line.rstrip("/").endswith(("some where", "some\\ where"))


def test_configuration_files(shell, tmp_path):
    (tmp_path / "a.conf").touch()
    for words in ("reload ", "mount --config ", "mount -c ",
                  "mount --config="):
        line, _ = shell.tab(f"pipcachefs {words}./a.co")
        assert line == f"pipcachefs {words}./a.conf"


def test_engines(shell):
    assert shell.tab("pipcachefs attach d")[0] == "pipcachefs attach docker"
