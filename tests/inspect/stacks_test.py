"""weft stacks and the gdb script, as their users see them, on programs that run and on a core file.

Owns:        the programs that are looked at, one per test.
Keeps true:  every test ends by letting its program go on to its end, which must be a good one: nobody may notice
             that it was looked at.
Called by:   ctest ("inspect.stacks"): stacks_test.py WEFT DIRECTORY-OF-PROGRAMS [TEST...].
See also:    parked.cc, moving.cc; tools/weft/stacks.h, tools/gdb/weft.py.
"""

import collections
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

WEFT, PROGRAMS = Path(sys.argv.pop(1)).resolve(), Path(sys.argv.pop(1)).resolve()
SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "gdb" / "weft.py"
KINDS = {  # reason: (function of parked.cc that waits, its thread's name)
    "read": ("wait_in_recv", "receiver"),
    "cond": ("wait_in_cond", "cond"),
    "mutex": ("wait_in_mutex", "mutex"),
    "sleep": ("wait_in_sleep", "sleeper"),
    "join": ("wait_in_join", "joiner"),
}
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
PATIENCE = 60  # seconds, on a machine that is busy with something else


@contextlib.contextmanager
def running(*command, weft=WEFT):
    """A program under weft; its pid. At the end it is told to end, and must end well."""
    program = subprocess.Popen([weft, "run", "--workers", "2", "--", *map(str, command)], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if program.stdout.readline() != "started\n":
            raise AssertionError(f"{command} did not start: {program.communicate(timeout=PATIENCE)}")
        yield program.pid
        output, errors = program.communicate(timeout=PATIENCE)
        if (program.returncode, output, errors) != (0, "ended well\n", ""):
            raise AssertionError(f"{command} was disturbed: {program.returncode} {output!r} {errors!r}")
    finally:
        program.kill()
        program.wait()


def stacks(*arguments, weft=WEFT):
    return subprocess.run([weft, "stacks", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE)


def stacks_json(*arguments, weft=WEFT):
    ended = stacks("--json", *arguments, weft=weft)
    if (ended.returncode, ended.stderr) != (0, ""):
        raise AssertionError(ended)
    return json.loads(ended.stdout)


def wait_until_parked(pid, per_kind, weft=WEFT):
    """Until the threads of parked.cc stand where they will stay."""
    deadline = time.monotonic() + PATIENCE
    while True:
        look = stacks_json("--no-frames", pid, weft=weft)
        reasons = collections.Counter(fiber["wait"]["reason"] for fiber in look["fibers"]
                                      if fiber["state"] == "parked" and fiber["tid"] != pid)
        if all(reasons[kind] == per_kind for kind in KINDS):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not parked: {reasons} {look['states']}")
        time.sleep(0.05)


@contextlib.contextmanager
def parked(per_kind=10, weft=WEFT):
    with running(PROGRAMS / "parked", per_kind, weft=weft) as pid:
        wait_until_parked(pid, per_kind, weft)
        yield pid


def functions(fiber):
    return [frame.get("function", "?").partition("(")[0] for frame in fiber["frames"]]


class Stacks(unittest.TestCase):
    def assert_refused(self, sentence, pid):
        ended = stacks(pid)
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, f"^weft: {sentence}\n$")

    # --- who can be looked at ------------------------------------------------------------------------------------

    def test_no_such_process(self):
        self.assert_refused("there is no process 99999999", 99999999)

    def test_a_process_without_weft(self):
        with subprocess.Popen(["sleep", "100"]) as process:
            time.sleep(0.2)
            self.assert_refused(rf"process {process.pid} \(sleep\) does not run under weft", process.pid)
            process.kill()

    def test_a_program_that_has_no_threads_yet(self):
        with subprocess.Popen([WEFT, "run", "--", "sleep", "100"]) as process:
            time.sleep(0.5)
            self.assert_refused(rf"process {process.pid} \(sleep\) has started no threads under weft: "
                                "it runs natively so far", process.pid)
            process.kill()

    @unittest.skipUnless(os.geteuid() == 0, "only root can become somebody else")
    def test_a_process_of_another_user(self):
        with parked() as pid, tempfile.TemporaryDirectory() as directory:
            weft = Path(directory) / "weft"
            os.chmod(directory, 0o755)
            shutil.copy(WEFT, weft)
            ended = subprocess.run([weft, "stacks", str(pid)], capture_output=True, text=True,
                                   user=65534, group=65534, extra_groups=[])
            self.assertEqual((ended.returncode, ended.stdout), (1, ""))
            self.assertRegex(ended.stderr, rf"^weft: .*process {pid} may not be .*\n$")

    # --- what is seen --------------------------------------------------------------------------------------------

    def test_every_fiber_with_its_reason_and_its_functions(self):
        with parked() as pid:
            fibers = stacks_json(pid)["fibers"]
        self.assertEqual(len(fibers), 52)
        self.assertEqual(len({fiber["id"] for fiber in fibers}), 52)
        for reason, (function, name) in KINDS.items():
            kind = [fiber for fiber in fibers if fiber["name"] == name]
            self.assertEqual(len(kind), 10, reason)
            for fiber in kind:
                self.assertEqual((fiber["state"], fiber["wait"]["reason"]), ("parked", reason))
                self.assertLess(fiber["wait"].get("milliseconds", 0), 1000 * PATIENCE)
                self.assertIn(function, functions(fiber), reason)

    def test_what_is_waited_for(self):
        with parked() as pid:
            fibers = stacks_json(pid)["fibers"]
        of = {name: [fiber["wait"] for fiber in fibers if fiber["name"] == name] for _, name in KINDS.values()}
        self.assertEqual(len({wait["fd"] for wait in of["receiver"]}), 10)
        self.assertTrue(all(wait["descriptor"].startswith("unix socket") for wait in of["receiver"]), of["receiver"])
        self.assertEqual({wait["object_name"] for wait in of["mutex"]}, {"gate_mutex"})
        main = next(fiber for fiber in fibers if fiber["tid"] == pid)
        self.assertEqual({wait["held_by_fiber"] for wait in of["mutex"]}, {main["id"]})
        self.assertEqual({wait["object_name"].partition("+")[0] for wait in of["cond"]}, {"gate_cond"})
        sleepers = {fiber["id"] for fiber in fibers if fiber["name"] == "sleeper"}
        self.assertEqual({wait["joins_fiber"] for wait in of["joiner"]}, sleepers)

    def test_main_waits_on_its_own_stack(self):
        with parked() as pid:
            main = next(fiber for fiber in stacks_json(pid)["fibers"] if fiber["tid"] == pid)
        self.assertLessEqual({"wait_for_the_end_of_input", "main"}, set(functions(main)))
        self.assertEqual(functions(main)[-1], "_start")

    def test_the_hook_is_the_only_frame_of_weft(self):
        with parked() as pid:
            fibers, complete = stacks_json(pid)["fibers"], stacks_json(pid, "--all-frames")["fibers"]
        receiver = next(fiber for fiber in fibers if fiber["name"] == "receiver")
        self.assertIn("wait_in_recv", functions(receiver)[:3])  # the checking recv of libc's headers may be between
        self.assertEqual(functions(receiver)[-1], "receiver")
        for fiber in fibers:
            weft = [frame for frame in fiber["frames"] if "libweft" in frame["module"]]
            self.assertLessEqual(len(weft), 1, fiber)
        every = next(fiber for fiber in complete if fiber["id"] == receiver["id"])
        self.assertGreater(len(every["frames"]), len(receiver["frames"]))

    def test_a_fiber_that_computes(self):
        with parked() as pid:
            fibers = [stacks_json(pid)["fibers"] for _ in range(5)]
        computers = [fiber for look in fibers for fiber in look if fiber["name"] == "computer"]
        seen = [fiber for fiber in computers if "compute_without_pause" in functions(fiber)]
        self.assertTrue(seen, computers)  # now and then it is being switched
        self.assertIn(seen[0]["state"], ("running", "ready"))

    def test_text(self):
        with parked() as pid:
            ended = stacks(pid)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        self.assertRegex(ended.stdout, rf"^process {pid} \(parked\): 52 fibers: .*; 2 workers, \d+ carriers?\n")
        self.assertRegex(ended.stdout, r'"receiver"  parked(?: for \d+ ms)?: read on fd \d+, unix socket')
        self.assertRegex(ended.stdout, r'"mutex"  parked(?: for \d+ ms)?: mutex at 0x\w+, gate_mutex, held by fiber \d+\n')
        self.assertRegex(ended.stdout, r'"joiner"  parked(?: for \d+ ms)?: join of fiber \d+\n')
        self.assertRegex(ended.stdout, r"#\d+ +wait_in_sleep\(\)  at .*parked\.cc:\d+\n")

    def test_limits(self):
        with parked() as pid:
            few = stacks(pid, "--limit", 3, "--no-frames")
            short = stacks_json(pid, "--frames", 1)
        self.assertEqual(few.stdout.count("\nfiber "), 3)
        self.assertTrue(few.stdout.endswith("... and 49 more fibers\n"), few.stdout)
        self.assertNotIn("#0", few.stdout)
        self.assertTrue(all(len(fiber["frames"]) <= 1 for fiber in short["fibers"]))

    def test_a_stripped_installation(self):
        with tempfile.TemporaryDirectory() as directory:
            there = Path(directory)
            (there / "bin").mkdir()
            shutil.copy(WEFT, there / "bin" / "weft")
            shutil.copytree(WEFT.parents[1] / "lib" / "weft", there / "lib" / "weft")
            library = there / "lib" / "weft" / "libweft.so"
            subprocess.run(["strip", "--strip-all", library], check=True)
            weft = there / "bin" / "weft"
            with parked(weft=weft) as pid:
                library.unlink()  # replaced by a newer one while the program runs
                fibers = stacks_json(pid, weft=weft)["fibers"]
        for reason, (function, name) in KINDS.items():
            for fiber in (fiber for fiber in fibers if fiber["name"] == name):
                self.assertIn(function, functions(fiber), reason)

    def test_thousands(self):
        with parked(2000) as pid:
            begin = time.monotonic()
            fibers = stacks_json(pid)["fibers"]
            took = time.monotonic() - begin
        self.assertEqual(len(fibers), 10002)
        for function, name in KINDS.values():
            self.assertEqual(sum(function in functions(fiber) for fiber in fibers if fiber["name"] == name), 2000)
        self.assertLess(took, 15)

    def test_fibers_that_move(self):
        with running(PROGRAMS / "moving") as pid:
            looks = [stacks_json(pid) for _ in range(20)]
        self.assertTrue(all(len(look["fibers"]) == 17 for look in looks))
        seen = {function for look in looks for fiber in look["fibers"] for function in functions(fiber)}
        self.assertLessEqual({"serve", "answer", "main"}, seen)


@unittest.skipUnless(shutil.which("gdb"), "gdb is not here")
class Gdb(unittest.TestCase):
    def gdb(self, *arguments, commands):
        words = [word for command in commands for word in ("-ex", command)]
        gdb = ["gdb", "-nx", "-q", "-batch", *map(str, arguments), "-ex", f"source {SCRIPT}"]
        ended = subprocess.run([*gdb, *words], capture_output=True, text=True, timeout=PATIENCE,
                               stdin=subprocess.DEVNULL)
        self.assertNotRegex(ended.stdout + ended.stderr, "Python Exception|Traceback")
        return ended.stdout

    def check_list(self, text):
        self.assertEqual(len(re.findall(r"^fiber \d+  tid \d+ ", text, re.MULTILINE)), 52, text)
        for reason, (_, name) in KINDS.items():
            self.assertEqual(len(re.findall(rf'"{name}"  parked.*: {reason}', text)), 10, text)

    def check_all_backtraces(self, text):
        blocks = re.split(r"^(?=fiber \d+  tid )", text, flags=re.MULTILINE)[1:]
        self.assertEqual(len(blocks), 52)
        for function, name in KINDS.values():
            mine = [block for block in blocks if f'"{name}"' in block]
            self.assertEqual(sum(f"{function} (" in block for block in mine), 10, mine)

    def check_one(self, ask):
        ids = re.findall(r'^fiber (\d+)  tid \d+ +"mutex"', ask("weft fibers"), re.MULTILINE)
        self.assertIn("wait_in_mutex (", ask(f"weft bt {ids[0]}"))
        self.assertNotIn("wait_in_", ask(f"weft bt {ids[0]}", "echo --", "bt").partition("--")[2].partition("#1 ")[0])
        receiver = re.findall(r'^fiber (\d+)  tid \d+ +"receiver"', ask("weft fibers"), re.MULTILINE)[0]
        frames = ask(f"weft bt {receiver}")
        level = int(re.search(r"^#(\d+) .*wait_in_recv \(", frames, re.MULTILINE)[1])
        # The next look may lend another thread, with a frame more or less of its own in front.
        levels = f"{max(level - 2, 0)}-{level + 2}"
        self.assertIn("byte = ", ask(f"weft fiber {receiver} apply frame apply level {levels} info locals"))

    def test_a_live_process(self):
        with parked() as pid:
            def ask(*commands):
                return self.gdb("-p", pid, commands=commands)
            self.check_list(ask("weft fibers"))
            self.check_all_backtraces(ask("weft all bt"))
            self.check_one(ask)

    def test_a_core_file(self):
        with parked() as pid, tempfile.TemporaryDirectory() as directory:
            core = f"{directory}/core"
            self.assertIn(f"Saved corefile {core}", self.gdb("-p", pid, commands=[f"weft gcore {core}"]))

            def ask(*commands):
                return self.gdb(PROGRAMS / "parked", core, commands=commands)
            self.check_list(ask("weft fibers"))
            self.check_all_backtraces(ask("weft all bt"))
            self.check_one(ask)

    def test_a_program_without_weft(self):
        with subprocess.Popen([PROGRAMS / "parked"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            ended = subprocess.run(["gdb", "-nx", "-q", "-batch", "-p", str(process.pid), "-ex", f"source {SCRIPT}",
                                    "-ex", "weft fibers"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
            self.assertIn("no section .weft_inspect: the program does not run under weft", ended.stderr)
            process.stdin.close()
            self.assertEqual(process.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()
