#!/usr/bin/env python3
"""Includes run downwards only.

Owns:        the table of layers (RANKS) and its one exception (REACH_BACK).
Keeps true:  runtime/ includes no hook/; include/weft/ includes nothing of ours but itself; in runtime/ a file
             includes its own rank or lower ones; headers include each other in no circle; every file of runtime/ has
             a rank.
Called by:   ctest ("layers"), or by hand; prints the offending lines, exit status 1.
See also:    runtime/README.md.
"""

import re
import sys
from pathlib import Path

# From the bottom up; the names of one row may include each other. A name is a file of runtime/ without its suffix
# (reactor_epoll.cc counts as reactor) or a directory of runtime/.
RANKS = [
    ["base"],
    ["abi"],
    ["memory"],
    ["context"],
    ["fiber"],
    ["park"],
    ["parking_lot", "timers", "reactor", "fd_table", "sync", "ready_queue"],
    ["worker"],
    ["carrier", "monitor", "cpu_time", "schedule"],
    ["signals", "thread", "process", "runtime"],
    ["inspect", "api"],
]

# (file, layer above it that it may include). All are .cc files: they close the circle between "a wake makes a fiber
# ready" and "a carrier runs ready fibers"; the headers stay free of circles.
REACH_BACK = {
    ("runtime/park.cc", "carrier"),            # a park switches away
    ("runtime/reactor_epoll.cc", "worker"),    # a descriptor is registered with the worker it is first waited for on
    ("runtime/reactor_epoll.cc", "carrier"),
    ("runtime/worker.cc", "carrier"),          # a wake goes to the worker of the calling carrier
    ("runtime/carrier.cc", "signals"),         # a carrier's kernel mask follows the fibers'
    ("runtime/monitor.cc", "signals"),         # it lets in the private signal
    ("runtime/carrier.cc", "thread"),          # the end of a fiber is completed off its stack
}

ROOT = Path(__file__).resolve().parent.parent
RANK = {layer: rank for rank, layers in enumerate(RANKS) for layer in layers}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def layer_of(path):
    """The layer of a file of runtime/, or None when the table does not know it."""
    name = path.parts[1].split(".")[0]
    while name not in RANK and "_" in name:
        name = name.rpartition("_")[0]
    return name if name in RANK else None


def resolve(includer, quote, name):
    """The file of ours that an include names, relative to the repository, or None."""
    beside = [(ROOT / includer).parent] if quote == '"' else []
    for directory in (ROOT, ROOT / "include", *beside):
        found = (directory / name).resolve()
        if found.is_file() and found.is_relative_to(ROOT):
            return found.relative_to(ROOT)
    return None


def includes(path):
    """(line number, line, file of ours) for each include of ours in a file; a missing file counts by its name."""
    for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1):
        if match := INCLUDE.match(line):
            target = resolve(path, *match.groups())
            if target is None and match[2].split("/")[0] in ("runtime", "hook"):
                target = Path(match[2])
            if target is not None:
                yield number, line.strip(), target


def offence(path, target):
    """What is wrong with `path` including `target`, or None."""
    if path.parts[0] == "include":
        return None if target.parts[0] == "include" else "include/weft includes nothing of ours"
    if path.parts[0] != "runtime" or target.parts[0] == "include":
        return None
    if target.parts[0] != "runtime":
        return f"runtime never includes {target.parts[0]}/"
    own, other = layer_of(path), layer_of(target)
    if own is None or other is None or RANK[other] <= RANK[own] or (str(path), other) in REACH_BACK:
        return None  # a file without a layer is reported by itself
    return f"{own} is below {other}"


def circle(graph):
    """One circle of headers, as a list that ends where it begins, or None."""
    done, trail = set(), []

    def visit(node):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        trail.append(node)
        for following in graph.get(node, ()):
            if found := visit(following):
                return found
        trail.pop()
        done.add(node)
        return None

    return next((found for node in graph if (found := visit(node))), None)


def main():
    files = sorted(path.relative_to(ROOT) for directory in ("include", "runtime", "hook")
                   for suffix in ("h", "cc", "S", "inc") for path in (ROOT / directory).rglob(f"*.{suffix}"))
    problems, graph = [], {}
    for path in files:
        if path.parts[0] == "runtime" and layer_of(path) is None:
            problems.append(f"{path}:1: has no layer; add its name to RANKS in tools/check_layers.py")
        for number, line, target in includes(path):
            if path.suffix == ".h":
                graph.setdefault(path, []).append(target)
            if reason := offence(path, target):
                problems.append(f"{path}:{number}: {line}    ({reason})")
    if found := circle(graph):
        problems.append("headers include each other in a circle: " + " -> ".join(map(str, found)))
    print(*problems, sep="\n", end="\n" if problems else "")
    print(f"check_layers: {len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
