#!/usr/bin/env python3
"""Measure the house: the sizes and habits of the source that a reader meets, and whether the rooms keep their rules.

    python3 scripts/house.py            # every figure, one a line
    python3 scripts/house.py --list     # and what stands behind each figure: file, line, number
    python3 scripts/house.py --check    # exit status 1 where a rule of RULES below is broken, with the places

`make test` runs --check. Needs Python 3.9 and nothing else; it reads the files as text and compiles nothing.
"""
import argparse
import collections
import pathlib
import re
import sys

# Functions that may have ten or more parameters: they stand in the order of BLAS' sgemm, which readers know.
MIRRORS = {"kq_gemm_f32", "kq_gemm_f32_tiled", "kq_gemm_bf16", "kq_gemm_bf16_tiled"}

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = ("src", "cli", "include", "tests", "bench", "examples")
PRODUCT = ("src", "cli", "include")
# Figure -> the most that --check lets pass.
RULES = {
    "lines in the biggest room": 4000,
    "lines above 110 columns": 0,
    "source files without a comment at the top": 0,
    "functions above 60 lines": 0,
    "functions with ten or more parameters": 0,
    "path buffers of a fixed size": 0,
    "test files above 600 lines": 0,
    "rooms whose CMake line differs from what they include": 0,
    "rooms that include upwards": 0,
    "private headers included by another room": 0,
    "headers of src/ that cli/ includes": 0,
}


def files(folders, endings):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.name.endswith(endings) and "golden" not in path.parts:
                yield path


def name(path):
    return str(path.relative_to(ROOT))


def functions(path):
    """(name, first line, lines, parameters) of every function of a file: its body opens with a brace in column 0, after a line that ends a parameter list."""
    lines = path.read_text(errors="replace").split("\n")
    start = None
    for number, line in enumerate(lines):
        if line == "{" and start is None:
            start = number
        elif line.startswith("}") and start is not None:
            head, k = "", start - 1
            while k >= 0 and lines[k].strip() and not lines[k].rstrip().endswith((";", "}", "*/")) and not lines[k].startswith("#"):
                head = lines[k] + " " + head
                k -= 1
            found = re.search(r"(\w+)\s*\((.*)\)\s*$", head.strip())
            if found:
                parameters = 0 if found[2].strip() in ("", "void") else 1
                depth = 0
                for c in found[2]:
                    depth += (c == "(") - (c == ")")
                    parameters += c == "," and not depth
                yield found[1], k + 2, number - start + 1, parameters
            start = None


def rooms():
    return sorted(p.parent.name for p in (ROOT / "src").glob("*/CMakeLists.txt"))


def declared(room):
    text = (ROOT / "src" / room / "CMakeLists.txt").read_text()
    found = re.search(r"kronq_room\(\s*" + room + r"\b([^)]*)\)", text)
    words = found[1].split() if found else []
    deps, on = [], False
    for word in words:
        if word.isupper():
            on = word == "DEPS"
        elif on:
            deps.append(word)
    return set(deps)


def included(room):
    seen = collections.defaultdict(list)
    for path in files((f"src/{room}",), (".c", ".h")):
        for number, line in enumerate(path.read_text(errors="replace").split("\n"), 1):
            found = re.match(r'#include "(\w+)/([\w/.]+)"', line)
            if found and found[1] != room:
                seen[found[1]].append((name(path), number, found[2]))
    return seen


def order():
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.search(r"foreach\(room ([^)]*)\)", text)[1].split()


def measure():
    """Figure -> list of (place, number): what stands behind the figure, or one entry with the figure itself."""
    out = collections.OrderedDict()
    sizes = sorted(((sum(p.read_text(errors="replace").count("\n") for p in files((f"src/{room}",), (".c", ".h"))), room) for room in rooms()), reverse=True)
    out["rooms"] = [(f"src/{room}", size) for size, room in sizes]
    out["lines in the biggest room"] = [(f"src/{sizes[0][1]}", sizes[0][0])]
    everything = [f for p in files(PRODUCT, (".c", ".h")) for f in [(name(p), *x) for x in functions(p)]]
    out["functions"] = [(f"{p}:{line} {n}", size) for p, n, line, size, _ in everything]
    out["functions above 60 lines"] = sorted([(f"{p}:{line} {n}", size) for p, n, line, size, _ in everything if size > 60], key=lambda x: -x[1])
    out["lines in the longest function"] = [max(((f"{p}:{line} {n}", size) for p, n, line, size, _ in everything), key=lambda x: x[1])]
    out["functions with ten or more parameters"] = [(f"{p}:{line} {n}", k) for p, n, line, _, k in everything if k >= 10 and n not in MIRRORS]
    wide, bare, buffers, long_tests = [], [], [], []
    for path in files(CODE, (".c", ".h")):
        text = path.read_text(errors="replace")
        lines = text.split("\n")
        wide += [(f"{name(path)}:{n}", len(line)) for n, line in enumerate(lines, 1) if len(line) > 110]
        if path.parts[len(ROOT.parts)] in PRODUCT:
            buffers += [(f"{name(path)}:{n}", 1) for n, line in enumerate(lines, 1) if re.search(r"\[(4[0-9]{3}|PATH_MAX)\]", line) and "char" in line]
        if not text.lstrip().startswith("/*"):
            bare.append((name(path), 1))
    for path in files(("tests",), (".c", ".h", ".py", ".sh")):
        size = path.read_text(errors="replace").count("\n")
        if size > 600:
            long_tests.append((name(path), size))
    out["lines above 110 columns"] = wide
    out["source files without a comment at the top"] = bare
    out["path buffers of a fixed size"] = buffers
    out["test files above 600 lines"] = long_tests
    place = {room: k for k, room in enumerate(order())}
    differ, upwards, private = [], [], []
    for room in rooms():
        seen = included(room)
        for other in sorted(declared(room) ^ set(seen)):
            differ.append((f"src/{room}/CMakeLists.txt: {other} {'is not included' if other in declared(room) else 'is included: ' + seen[other][0][0]}", 1))
        for other, places in seen.items():
            upwards += [(f"{p}:{n} includes {other}/{h}", 1) for p, n, h in places if place.get(other, -1) >= place.get(room, 0)]
            private += [(f"{p}:{n} includes {other}/{h}", 1) for p, n, h in places if "internal" in h]
    out["rooms whose CMake line differs from what they include"] = differ
    out["rooms that include upwards"] = upwards
    out["private headers included by another room"] = private
    inside = []
    for path in files(("cli",), (".c", ".h")):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            found = re.match(r'#include "(\w+/[\w/.]+)"', line)
            if found:
                inside.append((f"{name(path)}:{number} {found[1]}", 1))
    out["headers of src/ that cli/ includes"] = inside
    return out


def figure(key, behind):
    return behind[0][1] if key.startswith("lines in the") else len(behind)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    broken = False
    for key, behind in measure().items():
        value = figure(key, behind)
        bad = key in RULES and value > RULES[key]
        broken |= bad
        if not options.check or bad:
            print(f"{value:7d}  {key}" + (f" (at most {RULES[key]})" if options.check else ""))
        if options.list or (options.check and bad):
            for place, number in behind[:None if options.list else 20]:
                print(f"{number:15d}  {place}")
    return 1 if options.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
