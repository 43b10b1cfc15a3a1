#!/usr/bin/env python3
"""library_test.py - what the preload library shows and does before main.

It exports exactly the symbols of hook/symbols.def (Boost.Context, libstdc++ and its own functions stay hidden), needs
no C++ library, and nothing of weft's is initialised dynamically: hooks and the runtime work before its constructors.
Called by: ctest ("library").  Arguments: the library, symbols.def.
"""
import subprocess
import sys

library, table = sys.argv[1:]


def lines(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


exported = {line.split()[-1].split("@")[0] for line in lines("nm", "-D", "--defined-only", library)}
with open(table, encoding="utf-8") as rows:
    hooked = {row.split("|")[1].strip() for row in rows if row.strip() and not row.startswith(("#", "native"))}
needed = [line.split()[-1] for line in lines("readelf", "-d", library) if "(NEEDED)" in line]
# eh_alloc.cc is libstdc++'s emergency pool for exceptions.
initialisers = [line.split()[-1] for line in lines("nm", library) if "_GLOBAL__sub_I" in line and "eh_alloc" not in line]

problems = []
if exported != hooked:
    problems.append(f"exported but not in the table: {sorted(exported - hooked)}; in the table but not exported: {sorted(hooked - exported)}")
if any("stdc++" in name or "boost" in name or "jemalloc" in name for name in needed):
    problems.append(f"needs {needed}")
if initialisers:
    problems.append(f"dynamic initialisation: {initialisers}")
print(f"{len(exported)} symbols exported, needs {' '.join(needed)}")
sys.exit("\n".join(problems) if problems else 0)
