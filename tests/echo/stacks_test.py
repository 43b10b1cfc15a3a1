#!/usr/bin/env python3
"""stacks_test.py - `weft stacks` on a server with 10,000 connections: every fiber is listed with its reason and stack,
and the program goes on unharmed.

Owns: one server and one client process.  Called by: ctest ("echo.stacks").  Prints how long the look took.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--weft", required=True)
parser.add_argument("--programs", required=True)
parser.add_argument("--clients", type=int, default=10000)
arguments = parser.parse_args()


def check(condition, what):
    if not condition:
        sys.exit(f"stacks_test: {what}")


server = subprocess.Popen([arguments.weft, "run", "--", os.path.join(arguments.programs, "echo_upper_server"), "--port", "0"],
                          stdout=subprocess.PIPE, text=True)
try:
    port = re.search(r":(\d+)", server.stdout.readline()).group(1)
    with subprocess.Popen([arguments.weft, "run", "--", os.path.join(arguments.programs, "stress_client"), "--port", port,
                           "--clients", str(arguments.clients), "--messages", "2", "--settle", "10"],
                          stdout=subprocess.PIPE, text=True) as client:
        deadline = time.monotonic() + 15
        fibers = []
        while len(fibers) < arguments.clients + 1 and time.monotonic() < deadline:
            time.sleep(0.5)
            begin = time.monotonic()
            look = subprocess.run([arguments.weft, "stacks", "--json", str(server.pid)], stdout=subprocess.PIPE, check=True)
            took = time.monotonic() - begin
            fibers = json.loads(look.stdout)["fibers"]
        result = json.loads(client.communicate()[0])
    parked = [f for f in fibers if f["state"] == "parked"]
    reading = [f for f in parked if f.get("wait", {}).get("reason") == "read"]
    with_stack = [f for f in reading if any("recv" in str(frame) for frame in f["frames"])]
    print(f"{len(fibers)} fibers, {len(parked)} parked, {len(reading)} in read, {len(with_stack)} with recv in their stack, "
          f"in {took:.2f} s; afterwards {result['messages']} messages, {result['wrong']} wrong")
    check(len(fibers) == arguments.clients + 1, f"{arguments.clients + 1} fibers expected")
    check(len(reading) >= arguments.clients, "every connection waits in read")
    check(len(with_stack) == len(reading), "every one has a stack")
    check(result["wrong"] == 0 and result["failed"] == 0 and result["messages"] == 2 * arguments.clients, "the program went on")
    check(server.poll() is None, "the server lives")
finally:
    server.terminate()
    server.wait()
