#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each rule of layers.py finds its violation, and only where there is one."""
import pathlib
import tempfile
import unittest
from unittest import mock

import layers

LICENSE = "/* SPDX-License-Identifier: MIT */\n"


# A table of the test's own, so that the real one can change.
@mock.patch.multiple(
    layers,
    LEVELS=("store/base", "store/record", "store/index store/pack",
            "store/tree", "store/store", "fs/log", "fs/ops", "fs/cmd_*",
            "fs/main"),
    FACADE={"store/store", "store/base"},
    LIBRARIES=((r"lmdb\.h", "store/index.c"),
               (r"xxhash\.h|openssl/.*", "store/digest.c"),
               (r"fuse.*", "fs/ops.c"), (r"jansson\.h", "fs/cmd_*.c")))
class Layers(unittest.TestCase):
    def check(self, files, first_line=LICENSE):
        """The violations in a tree of @files."""
        with tempfile.TemporaryDirectory() as tree:
            for name, text in files.items():
                path = pathlib.Path(tree, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text(first_line + text)
            return list(layers.check_tree(pathlib.Path(tree)))

    def assert_found(self, files, *expected, **kwargs):
        """Each violation starts as expected, and there are no others."""
        found = self.check(files, **kwargs)
        self.assertEqual(len(found), len(expected), found)
        for violation, start in zip(sorted(found), sorted(expected)):
            self.assertEqual(violation[:len(start)], start)

    def test_accepts_lower_levels_and_the_own_header_first(self):
        self.assert_found({
            "store/index.h": "#ifndef STORE_INDEX_H\n#define STORE_INDEX_H\n"
                             "#endif\n",
            "store/index.c": '#include "store/index.h"\n\n#include <lmdb.h>\n'
                             '\n#include "store/base.h"\n'
                             '#include "store/record.h"\n',
            "fs/main.c": '#include "fs/cmd_mount.h"\n'
                         '#include "store/store.h"\n',
            "fs/cmd_mount.c": '#include <jansson.h>\n'})

    def test_finds_an_upward_include(self):
        self.assert_found({"store/pack.c": '\n#include "store/tree.h"\n'},
                          "store/pack.c:3: level 2 must not include "
                          "store/tree.h, level 3")

    def test_finds_an_include_of_the_same_level(self):
        self.assert_found({"store/pack.c": '#include "store/index.h"\n'},
                          "store/pack.c:2: ")

    def test_finds_store_including_fs(self):
        self.assert_found({"store/store.c": '#include "fs/log.h"\n'},
                          "store/store.c:2: ")

    def test_finds_fs_looking_behind_the_facade(self):
        self.assert_found({"fs/ops.c": '#include "store/tree.h"\n'},
                          "fs/ops.c:2: fs/ sees only")

    def test_finds_modules_without_a_level(self):
        self.assert_found({"store/new.c": "",
                           "fs/ops.c": '#include "ops.h"\n'},
                          "store/new.c:1: store/new is not in the table",
                          "fs/ops.c:2: ops.h is not in the table")

    def test_finds_a_library_outside_its_file(self):
        self.assert_found({"store/tree.c": "#include <lmdb.h>\n",
                           "store/pack.c": "#include <openssl/evp.h>\n",
                           "fs/main.c": "#include <fuse_lowlevel.h>\n",
                           "fs/ops.c": "#include <jansson.h>\n"},
                          "store/tree.c:2: only store/index.c",
                          "store/pack.c:2: ", "fs/main.c:2: ", "fs/ops.c:2: ")

    def test_finds_an_own_header_that_is_not_first(self):
        self.assert_found({"fs/log.h": "#ifndef FS_LOG_H\n#define FS_LOG_H\n"
                                       "#endif\n",
                           "fs/log.c": '#include <stdio.h>\n'
                                       '#include "fs/log.h"\n'},
                          "fs/log.c:2: fs/log.h must be included first")

    def test_finds_banned_calls_but_not_their_names_in_text(self):
        self.assert_found({"tests/test_x.c":
                           "/* atoi(s)\n * strcpy(a, b) */\n"
                           'char s[] = "sprintf(";\n'
                           "int a = snprintf(b, n, s), c = atoi (s);\n"
                           "struct tm *t = gmtime_r(&x, &y);\n"},
                          "tests/test_x.c:5: atoi() is banned")

    def test_finds_cleanup_variables_without_a_value(self):
        self.assert_found({"fs/log.c":
                           "#define cleanup_x __attribute__((cleanup(f)))\n"
                           "void f(void)\n{\n\tcleanup_free char *a = NULL;\n"
                           "\tcleanup_close int fd;\n}\n"},
                          "fs/log.c:6: initialise where declared: "
                          "cleanup_close int fd;")

    def test_finds_long_files_wrong_guards_and_missing_licences(self):
        self.assert_found({"fs/log.h": "#ifndef LOG_H\n#define LOG_H\n#endif\n",
                           "fs/log.c": '#include "fs/log.h"\n' + "\n" * 599},
                          "fs/log.h:1: the include guard must be FS_LOG_H",
                          "fs/log.c:601: 601 lines")
        self.assert_found({"fs/log.c": "int a;\n"},
                          "fs/log.c:1: the first line must be", first_line="")


if __name__ == "__main__":
    unittest.main()
