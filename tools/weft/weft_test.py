"""The launcher as its users see it: sentences, exit statuses, and the environment of the program it starts.

Owns:        a temporary installation (bin/weft, lib/weft/*.so) whose libraries are dummies that say "preloaded".
Keeps true:  nothing here needs the runtime, root or the network; what needs root is skipped without it.
Called by:   ctest ("launcher"): weft_test.py WEFT C++-COMPILER.
See also:    run.h, program.h, environment.h.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

WEFT, COMPILER = Path(sys.argv.pop(1)), sys.argv.pop(1)

DUMMY = '#include <unistd.h>\n__attribute__((constructor)) void hello() { (void)!write(2, "NAME\\n", sizeof "NAME"); }'
SHOW = r"""
#include <cstdio>
#include <cstdlib>
extern char** environ;
int main(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) std::printf("argv %s\n", argv[i]);
  for (char** e = environ; *e; ++e) std::printf("%s\n", *e);
  return 7;
}
"""


def build(directory, name, source, *flags):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([COMPILER, "-x", "c++", "-", "-x", "none", "-o", path, *flags], input=source.encode(), check=True)
    return path


class Launcher(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.root = Path(cls.scratch.name)
        cls.root.chmod(0o755)
        cls.weft = cls.root / "bin" / "weft"
        cls.weft.parent.mkdir()
        shutil.copy(WEFT, cls.weft)
        cls.library = build(cls.root, "lib/weft/libweft.so", DUMMY.replace("NAME", "preloaded"), "-shared", "-fPIC")
        cls.jemalloc = build(cls.root, "lib/weft/libweft-jemalloc.so", DUMMY.replace("NAME", "jemalloc"),
                             "-shared", "-fPIC")
        cls.show = build(cls.root, "show", SHOW)
        cls.static = build(cls.root, "static", SHOW, "-static")
        cls.text = cls.file("text", "#!/bin/sh\n", mode=0o644)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    @classmethod
    def file(cls, name, content, mode=0o755):
        path = cls.root / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def start(self, *arguments, weft=None, **environment):
        plain = {key: value for key, value in os.environ.items()
                 if not key.startswith(("WEFT_", "LD_"))}
        plain["ASAN_OPTIONS"] = "verify_asan_link_order=0"  # for a launcher built with asan
        return subprocess.run([weft or self.weft, *map(str, arguments)], capture_output=True, text=True, errors="replace",
                              env={**plain, **environment}, cwd=self.root, stdin=subprocess.DEVNULL)

    def run_show(self, *options, **environment):
        """The environment that `show` saw."""
        ended = self.start("run", *options, "--", self.show, **environment)
        self.assertEqual(ended.returncode, 7, ended.stderr)
        return dict(line.split("=", 1) for line in ended.stdout.splitlines() if "=" in line)

    def assert_refuses(self, status, sentence, *arguments, **environment):
        ended = self.start(*arguments, **environment)
        self.assertEqual(ended.returncode, status, ended)
        self.assertEqual(ended.stdout, "")
        self.assertEqual(ended.stderr, f"weft: {sentence}\n")

    # --- the program's place is taken ----------------------------------------------------------------------------

    def test_arguments_and_status_are_the_programs_own(self):
        ended = self.start("run", "--workers", 2, "--", self.show, "--help", "--", "-x", "")
        self.assertEqual(ended.returncode, 7)
        words = [line[5:] for line in ended.stdout.splitlines() if line.startswith("argv ")]
        self.assertEqual(words, [str(self.show), "--help", "--", "-x", ""])
        self.assertIn("preloaded", ended.stderr)

    def test_the_marker_may_be_left_out(self):
        ended = self.start("run", "--workers", "2", "--stats", "--malloc=system", self.show, "--", "--workers", "0")
        self.assertEqual(ended.returncode, 7, ended.stderr)
        self.assertIn("argv --\nargv --workers\nargv 0\n", ended.stdout)
        self.assertIn("WEFT_WORKERS=2\n", ended.stdout)

    def test_a_signal_is_the_programs_own(self):
        self.assertEqual(self.start("run", "--", "sh", "-c", "kill -TERM $$").returncode, -15)

    # --- finding the program -------------------------------------------------------------------------------------

    def test_path_is_searched_as_by_execvp(self):
        for name in ("d1", "d2", "d3"):
            (self.root / name).mkdir()
        self.file("d1/tool", "#!/bin/sh\nexit 1\n", mode=0o644)
        (self.root / "d2/tool").mkdir()
        self.file("d3/tool", "#!/bin/sh\nexit 3\n")
        self.assertEqual(self.start("run", "--", "tool", PATH="d1:d2:d3").returncode, 3)
        self.assert_refuses(126, "tool: found, but not an executable file", "run", "--", "tool", PATH="d1:d2")
        self.assertEqual(self.start("run", "--", "show", PATH="/nowhere::/bin").returncode, 7)

    def test_what_is_not_there(self):
        self.assert_refuses(127, "no-such-program: not found", "run", "--", "no-such-program")
        self.assert_refuses(127, "./none: not found", "run", "--", "./none")
        self.assert_refuses(127, "./text/none: not found", "run", "--", "./text/none")
        self.assert_refuses(127, ": not found", "run", "--", "")

    def test_what_cannot_be_executed(self):
        self.assert_refuses(126, "./text: found, but not an executable file", "run", "--", "./text")
        self.assert_refuses(126, "./lib: found, but not an executable file", "run", "--", "./lib")

    def test_scripts(self):
        self.assertEqual(self.start("run", "--", self.file("plain", "exit 5\n")).returncode, 5)
        lost = self.file("lost", "#!/nowhere/interpreter\n")
        self.assert_refuses(127, f"{lost}: its interpreter or dynamic linker was not found", "run", "--", lost)
        for line in (f"#!{self.show}", f"#! {self.show} -x", "#!/usr/bin/env show", "#!/usr/bin/env -S A=1 show -x"):
            ended = self.start("run", "--", self.file("script", line + "\n"), PATH=f"{self.root}:/bin")
            self.assertEqual(ended.returncode, 7, ended.stderr)
            self.assertIn("preloaded", ended.stderr)

    # --- what weft cannot help runs natively ---------------------------------------------------------------------

    def assert_native(self, sentence, *command, **environment):
        ended = self.start("run", "--malloc", "jemalloc", "--", *command, **environment)
        self.assertEqual(ended.stderr, f"weft: {sentence}, so weft cannot help and it runs natively\n")
        self.assertNotIn("LD_PRELOAD", ended.stdout)
        self.assertNotIn("WEFT_", ended.stdout)
        return ended

    def test_static_programs(self):
        self.assertEqual(self.assert_native(f"{self.static} is statically linked", self.static).returncode, 7)
        for line in (f"#!{self.static}", f"#!/usr/bin/env {self.static}", "#!/usr/bin/env -S -u X static -v"):
            script = self.file("script-static", line + "\n")
            sentence = f"{script}: its interpreter {self.static} is statically linked"
            self.assertEqual(self.assert_native(sentence, script, PATH=f"{self.root}:/bin").returncode, 7)

    def test_static_pie(self):
        program = build(self.root, "static-pie", SHOW, "-static-pie", "-fPIE")
        self.assert_native(f"{program} is statically linked", program)

    def test_the_dynamic_linker_is_not_static(self):
        facts = subprocess.run(["readelf", "-l", self.show], capture_output=True, text=True, check=True)
        linker = facts.stdout.partition("interpreter: ")[2].partition("]")[0]
        self.assertIn("preloaded", self.start("run", "--", linker, self.show).stderr)

    def test_another_architecture(self):
        image = bytearray(self.show.read_bytes())
        image[18] = 243  # e_machine: RISC-V
        program = self.root / "foreign"
        program.write_bytes(image)
        program.chmod(0o755)
        ended = self.start("run", "--", program)
        self.assertEqual(ended.returncode, 126)
        self.assertEqual(ended.stderr.splitlines()[0],
                         f"weft: {program} is built for another architecture, so weft cannot help and it runs natively")

    def test_another_libc(self):
        program = build(self.root, "musl", SHOW, "-Wl,--dynamic-linker,/nowhere/ld-musl-x86_64.so.1")
        ended = self.start("run", "--", program)
        self.assertEqual(ended.returncode, 127)
        self.assertIn("is not linked to glibc (its dynamic linker is /nowhere/ld-musl-x86_64.so.1)", ended.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "only root can make a setuid program of another user")
    def test_setuid_and_setgid_programs(self):
        for mode, name in ((0o4755, "setuid"), (0o2755, "setgid")):
            program = self.root / name
            shutil.copy(self.show, program)
            os.chown(program, 65534, 65534)
            program.chmod(mode)
            self.assert_native(f"{program} gains privileges when it starts (setuid, setgid or file capabilities)", program)

    @unittest.skipUnless(os.geteuid() == 0, "only root can make a setuid program of root")
    def test_setuid_root_is_no_gain_for_root(self):
        program = self.root / "setuid-root"
        shutil.copy(self.show, program)
        program.chmod(0o4755)
        self.assertIn("preloaded", self.start("run", "--", program).stderr)

    def test_damaged_files_do_no_harm(self):
        image = self.show.read_bytes()
        program = self.root / "damaged"
        for size in (4, 20, 64, 200, 1000, len(image) // 2):
            program.write_bytes(image[:size])
            program.chmod(0o755)
            self.assertNotIn(self.start("run", "--", program).returncode, (134, 139, 2))

    # --- the environment -----------------------------------------------------------------------------------------

    def test_options_become_variables(self):
        seen = self.run_show("--workers", 3, "--stack-size", "64K", "--stats", "--malloc", "jemalloc",
                             "--handoff-threshold-us", 1500)
        self.assertEqual({key: value for key, value in seen.items() if key.startswith("WEFT_")},
                         {"WEFT_WORKERS": "3", "WEFT_STACK_SIZE": "65536", "WEFT_STATS": "1",
                          "WEFT_MALLOC": "jemalloc", "WEFT_HANDOFF_THRESHOLD_US": "1500"})

    def test_nothing_asked_nothing_set(self):
        self.assertFalse([key for key in self.run_show() if key.startswith("WEFT_")])

    def test_an_option_beats_its_twin(self):
        seen = self.run_show("--workers", 3, WEFT_WORKERS="nonsense", WEFT_STACK_SIZE="1M", WEFT_STATS="on")
        self.assertEqual((seen["WEFT_WORKERS"], seen["WEFT_STACK_SIZE"], seen["WEFT_STATS"]), ("3", "1048576", "1"))

    def test_limits(self):
        for words, sentence in (
                (["--workers", "0"], "--workers: '0' is not a number from 1 to 256"),
                (["--workers", "257"], "--workers: '257' is not a number from 1 to 256"),
                (["--workers", "2x"], "--workers: '2x' is not a number from 1 to 256"),
                (["--workers=-1"], "--workers: '-1' is not a number from 1 to 256"),
                (["--stack-size", "16383"], "--stack-size: '16383' is not a size from 16K to 1G"),
                (["--stack-size", "1025M"], "--stack-size: '1025M' is not a size from 16K to 1G"),
                (["--stack-size", "99999999999999999999G"],
                 "--stack-size: '99999999999999999999G' is not a size from 16K to 1G"),
                (["--stack-size", "K"], "--stack-size: 'K' is not a size from 16K to 1G"),
                (["--malloc", "tcmalloc"], "--malloc: 'tcmalloc' is not jemalloc or system"),
        ):
            self.assert_refuses(2, sentence, "run", *words, "--", self.show)
        self.assert_refuses(2, "WEFT_WORKERS: '0' is not a number from 1 to 256", "run", "--", self.show, WEFT_WORKERS="0")
        self.assertEqual(self.run_show("--stack-size", "1g")["WEFT_STACK_SIZE"], str(2**30))
        self.assertEqual(self.run_show("--stack-size", "16k")["WEFT_STACK_SIZE"], str(2**14))

    def test_preload_comes_first_and_once(self):
        self.assertEqual(self.run_show()["LD_PRELOAD"], str(self.library))
        self.assertEqual(self.run_show("--malloc", "jemalloc")["LD_PRELOAD"], f"{self.library}:{self.jemalloc}")
        there = f"/x/libweft.so libc.so.6:{self.library}:{self.jemalloc} libm.so.6"
        self.assertEqual(self.run_show(LD_PRELOAD=there)["LD_PRELOAD"],
                         f"{self.library}:libc.so.6:libm.so.6")

    def test_a_sanitizer_comes_before_everything(self):
        for name in ("libasan.so.8", "libclang_rt.asan-x86_64.so"):
            fake = build(self.root, f"fake/{name}", "int fake;", "-shared", "-fPIC", f"-Wl,-soname,{name}")
            program = build(self.root, "sanitized", SHOW, "-Wl,--no-as-needed", fake, f"-Wl,-rpath,{fake.parent}")
            ended = self.start("run", "--", program, LD_PRELOAD="libc.so.6")
            self.assertIn(f"LD_PRELOAD={name}:{self.library}:libc.so.6\n", ended.stdout)
            self.assertEqual(ended.stderr, "preloaded\n")  # nobody complains that `name` was not found

    # --- bad usage, an incomplete installation, help -------------------------------------------------------------

    def test_bad_usage(self):
        self.assert_refuses(2, "no command given; see weft --help")
        self.assert_refuses(2, "unknown command 'walk'; see weft --help", "walk")
        self.assert_refuses(2, "run: no program given; usage: weft run [OPTIONS] -- PROGRAM [ARGS...]", "run")
        self.assert_refuses(2, "The following argument was not expected: --bogus", "run", "--bogus", "--", "true")
        self.assert_refuses(2, "PID is required", "stacks")
        self.assert_refuses(2, "PID: 'abc' is not a process id", "stacks", "abc")

    def test_missing_library(self):
        weft = self.root / "elsewhere" / "bin" / "weft"
        weft.parent.mkdir(parents=True)
        shutil.copy(WEFT, weft)
        ended = self.start("run", "--", self.show, weft=weft)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("lib/weft/libweft.so: No such file or directory; weft is not completely built or installed",
                      ended.stderr)

    def test_a_symbolic_link_to_weft(self):
        link = self.root / "link"
        link.symlink_to(self.weft)
        self.assertEqual(self.start("run", "--", self.show, weft=link).returncode, 7)

    def test_a_place_that_cannot_be_preloaded(self):
        spaced = self.root / "two words"
        for part in ("bin", "lib"):
            shutil.copytree(self.root / part, spaced / part)
        ended = self.start("run", "--", self.show, weft=spaced / "bin" / "weft")
        self.assertEqual(ended.returncode, 2)
        self.assertIn("no way to write a space", ended.stderr)

    def test_help_names_everything(self):
        for words in (["--help"], ["run", "--help"]):
            ended = self.start(*words)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            for word in ("--workers", "WEFT_WORKERS", "--stack-size", "--stats", "--malloc", "--handoff-threshold-us"):
                self.assertIn(word, ended.stdout)
        self.assertEqual(self.start("stacks", "--help").returncode, 0)
        self.assertRegex(self.start("--version").stdout, r"^weft \d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main()
