#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check the module levels of fs/ and store/ and the house rules grep can see.

usage: tests/layers.py [TREE]

A file includes only modules below its own level, and its own header. One
third-party library is known to few files. Each violation is printed as
file:line: text; the exit code is 1 if there was any.
"""
import pathlib
import re
import sys

# The one table of levels: a module includes only modules on lower lines.
LEVELS = (
    "store/base",
    "store/record store/layout store/digest store/quota store/idset "
    "store/wheel store/idle store/mdbpage store/apart",
    "store/mdbfile store/packio store/value store/section store/response "
    "store/schema store/fdcache",
    "store/audit store/side store/env store/ids store/ident",
    "store/index store/pack store/room store/home",
    "store/packdata store/holes store/block store/pieces store/survey "
    "store/walk",
    "store/recipe store/salvage",
    "store/node store/table store/checkpoint store/share store/recover "
    "store/replay",
    "store/entry store/namecheck store/blockcheck",
    "store/edit",
    "store/waste store/mover store/draft store/mend store/proof "
    "store/rework",
    "store/compact",
    "store/content store/tree store/unit store/linger store/gc",
    "store/stage store/sweep store/rename store/datacheck store/list "
    "store/relink",
    "store/damage",
    "store/file store/tidy store/check store/package store/loss "
    "store/recount store/regraft",
    "store/fileio store/evict store/cut store/rebuild",
    "store/ingest store/scrub",
    "store/store",
    "store/parts store/resume",
    "store/facade store/setup store/status store/contents store/vet "
    "store/look store/load store/repair",
    "fs/log fs/units fs/mounts fs/kept fs/link fs/notify "
    "fs/adopt fs/answer fs/listener",
    "fs/config fs/handle fs/control fs/attach fs/slot fs/trace fs/holders "
    "fs/spawn fs/cover fs/engine",
    "fs/reply fs/configfile fs/fdstore fs/covers",
    "fs/ops fs/report fs/listing fs/docker fs/buildah",
    "fs/channel",
    "fs/session fs/request",
    "fs/serve fs/keeper",
    "fs/cmd",
    "fs/pages fs/repair fs/successor fs/place",
    "fs/cmd_*",
    "fs/main",
)

# What fs/ sees of store/.
FACADE = {"store/store", "store/base"}

# Library headers, and the only files that may include them.
LIBRARIES = (
    (r"lmdb\.h", "store/index.c store/env.[ch] store/ids.c"),
    (r"xxhash\.h|openssl/.*", "store/digest.c fs/buildah.c"),
    (r"fuse.*", "fs/ops.c fs/reply.[ch] fs/channel.c fs/session.c "
     "fs/config.c"),
    (r"systemd/.*", "fs/notify.c"),
    (r"jansson\.h", "fs/control.* fs/report.* fs/listing.* fs/request.* "
     "fs/pages.* fs/repair.* fs/successor.* fs/answer.c "
     "fs/cmd*"),
    (r"curl/.*", "fs/engine.c"),
)

BANNED = r"\b(strcpy|strcat|sprintf|strncpy|strtok|atoi|gmtime|localtime)\s*\("
UNSET_CLEANUP = r"\bcleanup_\w+\s[^=;(){}#]*;"
MAX_LINES = 600
LICENSE = "/* SPDX-License-Identifier: MIT */"


def level_of(module):
    """The level of a module such as "fs/ops", None if it has none."""
    for level, names in enumerate(LEVELS):
        if any(pathlib.PurePath(module).match(n) for n in names.split()):
            return level
    return None


def strip_comments(text):
    """Blank out comments and string contents, keeping every line break."""
    token = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"

    def blank(match):
        found = match.group()
        if found[0] in "\"'":
            return found[0] * 2
        return "\n" * found.count("\n")
    return re.sub(token, blank, text, flags=re.S)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def includes(text):
    """(line, "<" or '"', header) of every #include."""
    for m in re.finditer(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)',
                         text, re.M):
        yield line_of(text, m.start()), m.group(1), m.group(2)


def check_project_include(name, header):
    """What is wrong with including our @header in file @name, or None."""
    me, other = name.rsplit(".", 1)[0], header.rsplit(".", 1)[0]
    if not header.endswith(".h") or level_of(other) is None:
        return f"{header} is not in the table of levels"
    if other == me:
        return None if name.endswith(".c") else "includes itself"
    if level_of(other) >= level_of(me):
        return (f"level {level_of(me)} must not include {header}, "
                f"level {level_of(other)}")
    if name.startswith("fs/") and other.startswith("store/") \
            and other not in FACADE:
        return f"fs/ sees only store/store.h and store/base.h, not {header}"
    return None


def check_library_include(name, header):
    """What is wrong with including <@header> in file @name, or None."""
    for pattern, owners in LIBRARIES:
        if re.fullmatch(pattern, header) and not any(
                pathlib.PurePath(name).match(o) for o in owners.split()):
            return f"only {owners} may include <{header}>"
    return None


def check_includes(tree, name, text):
    me = name.rsplit(".", 1)[0]
    if level_of(me) is None:
        yield 1, f"{me} is not in the table of levels of tests/layers.py"
        return
    found = list(includes(text))
    for line, kind, header in found:
        check = check_library_include if kind == "<" else check_project_include
        wrong = check(name, header)
        if wrong:
            yield line, wrong
    if name.endswith(".c") and (tree / f"{me}.h").exists() \
            and (not found or found[0][2] != f"{me}.h"):
        yield found[0][0] if found else 1, f"{me}.h must be included first"


def check_form(name, text):
    """The rules for any C file, tests included."""
    lines = text.count("\n")
    if lines > MAX_LINES:
        yield lines, f"{lines} lines, the limit is {MAX_LINES}"
    if not text.startswith(LICENSE + "\n"):
        yield 1, f"the first line must be {LICENSE}"
    if name.endswith(".h"):
        guard = re.sub(r"\W", "_", name).upper()
        if not re.search(rf"^#ifndef {guard}\n#define {guard}$", text, re.M):
            yield 1, f"the include guard must be {guard}"
    code = strip_comments(text)
    for m in re.finditer(BANNED, code):
        yield line_of(code, m.start()), f"{m.group(1)}() is banned"
    for m in re.finditer(UNSET_CLEANUP, code):
        yield line_of(code, m.start()), \
            f"initialise where declared: {' '.join(m.group().split())}"


def check_tree(tree):
    """Every violation in @tree as "file:line: text"."""
    for folder in ("store", "fs", "tests"):
        for path in sorted((tree / folder).glob("*.[ch]")):
            name = path.relative_to(tree).as_posix()
            text = path.read_text()
            found = list(check_form(name, text))
            if folder != "tests":
                found += check_includes(tree, name, text)
            for line, what in sorted(found):
                yield f"{name}:{line}: {what}"


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0 if len(sys.argv) == 2 else 2
    here = pathlib.Path(__file__).resolve().parent.parent
    tree = pathlib.Path(sys.argv[1]) if len(sys.argv) == 2 else here
    violations = list(check_tree(tree))
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
