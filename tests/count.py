#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Add up test results: the last line of tests/run.

usage: tests/count.py [--also-failed N] JUNIT.xml...

Reads what ctest --output-junit and pytest --junitxml wrote. A unit test
program counts by its individual checks, anything else as one test. A file
that is not there counts nothing. Prints "N passed, N failed" and the skipped,
if any; the exit code is 1 if a test failed or none passed.
"""
import argparse
import collections
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

SUMMARY = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$",
                     re.M)


def outcome(case):
    """How one <testcase> ended: "passed", "failed" or "skipped"."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    if skipped is None:
        return "passed"
    # CTest also says "skipped" of a program that it could not start.
    if case.get("status") == "notrun" \
            and "SKIP_RETURN_CODE" not in skipped.get("message", ""):
        return "failed"
    return "skipped"


def count_case(case, total):
    """Add one <testcase> to @total."""
    summaries = SUMMARY.findall(case.findtext("system-out") or "")
    ended = outcome(case)
    if ended == "skipped" or not summaries:
        total[ended] += 1
        return
    failed = sum(int(f) + int(e) for _, f, e in summaries)
    total["passed"] += sum(int(c) for c, _, _ in summaries) - failed
    # A program may fail although its checks passed: a leak, a crash at exit.
    total["failed"] += failed or (ended == "failed")


def main():
    parser = argparse.ArgumentParser(description="add up test results")
    parser.add_argument("--also-failed", type=int, default=0, metavar="N")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    total = collections.Counter(failed=args.also_failed)
    for path in args.files:
        if not path.exists():
            continue
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except ElementTree.ParseError as error:
            print(f"{path}: not readable as JUnit XML: {error}",
                  file=sys.stderr)
            total["failed"] += 1
            continue
        for case in cases:
            count_case(case, total)
    line = f"{total['passed']} passed, {total['failed']} failed"
    if total["skipped"]:
        line += f", {total['skipped']} skipped"
    print(line)
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
