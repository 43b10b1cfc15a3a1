#!/usr/bin/env python3
"""compare.py - CPython's own tests, natively and under weft: the same ones must pass.

Owns: the list of modules (default) and the comparison.  Keeps true: all modules run in one process each way, so that
the runtime is really active; a test that passes natively and not under weft is a failure, whatever its message.
Called by: ctest ("cpython"), people.  Exit status 1 when the sets differ.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

MODULES = ["test_thread", "test_threading", "test_threading_local", "test_threadsignals", "test_queue",
           "test_socketserver", "test_select", "test_poll"]


def run(prefix, python, modules, timeout, ignored):
    """Outcome by test name: passed, failed, skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.xml")
        command = [*prefix, python, "-m", "test", "-u", "network", "--junit-xml", report, *modules]
        for pattern in ignored:
            command += ["-i", pattern]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=timeout, check=False, stdin=subprocess.DEVNULL)
        if not os.path.exists(report):
            sys.exit(f"compare: no report from {' '.join(command)} (status {done.returncode}):\n{done.stdout[-4000:]}")
        outcomes = {}
        for case in ElementTree.parse(report).iter("testcase"):
            failed = case.find("failure") is not None or case.find("error") is not None
            skipped = case.find("skipped") is not None or case.get("status") == "notrun" or case.get("result") == "skipped"
            outcomes[case.get("name")] = "failed" if failed else "skipped" if skipped else "passed"
        return outcomes, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--weft", default=os.path.join(os.path.dirname(__file__), "../../build/bin/weft"))
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--workers", help="as weft run --workers")
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN",
                        help="tests not to run (where a machine lacks something and a test waits for it natively)")
    parser.add_argument("--timeout", type=int, default=900)
    arguments = parser.parse_args()
    options = ["--workers", arguments.workers] if arguments.workers else []
    modules = arguments.modules or MODULES
    native, _ = run([], arguments.python, modules, arguments.timeout, arguments.ignore)
    weft, output = run([os.path.abspath(arguments.weft), "run", *options, "--"], arguments.python, modules,
                       arguments.timeout, arguments.ignore)
    lost = sorted(name for name, outcome in native.items() if outcome == "passed" and weft.get(name) != "passed")
    for label, outcomes in (("natively", native), ("under weft", weft)):
        counts = {kind: sum(1 for o in outcomes.values() if o == kind) for kind in ("passed", "failed", "skipped")}
        print(f"{label}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    for name in lost:
        print(f"passes natively, under weft {weft.get(name, 'did not run')}: {name}")
    if lost:
        print(output[-20000:])
        sys.exit(1)


if __name__ == "__main__":
    main()
