#!/usr/bin/env python3
"""Make tests/golden/trellis.bin: values and decoded tiles of the trellis codes, computed bit by bit from docs/math.md, "The trellis code" (eq. 70-72),
with none of the C code (the hyb table is read as numbers from src/trellis/hyb_table.c). Needs numpy.

    python3 scripts/make_golden_trellis.py tests/golden/trellis.bin

Little-endian: 64 x { u32 state, f32 1mad, f32 3inst, f32 hyb0, f32 hyb1 }, then for code in hyb, 1mad, 3inst and k in 2, 3, 4:
2 random tiles, u16 [2, 16 k], and their values, f32 [2, 256]; then the same tiles of mul1 and mcg. Last, for hyb, 1mad, 3inst, mul1 and mcg, a u64: the
sum over all states s of (2 s + 1) times the bits of the state's first value (f32), modulo 2^64.
"""
import os
import re
import sys
import numpy as np

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
text = open(os.path.join(root, "src/trellis/hyb_table.c")).read()
table = np.array([float(v) for v in re.findall(r"(-?[0-9][0-9.e-]*)f", text)], np.float32).reshape(512, 2)


def hyb(state):
    h = state * (state + 1) % 2 ** 32
    a, b = table[(h >> 6) % 512]
    return [-a if (h >> 15) & 1 else a, b]


def mad(state):
    x = (state * 34038481 + 76625530) % 2 ** 32
    return [np.float32((sum(x.to_bytes(4, "little")) - 510) / 147.800537)]


def inst(state):
    x = (state * 89226354 + 64248484) % 2 ** 32
    halves = np.array([(x & 0x8FFF8FFF) ^ 0x3B603B60], np.uint32).view(np.float16).astype(np.float32)
    return [halves[0] + halves[1]]


def mul1(state):
    k, b = np.array([0x1EEE, 0xC931], np.uint16).view(np.float16).astype(np.float64)
    total = sum((state * 0x83DCD12D % 2 ** 32).to_bytes(4, "little"))
    return [np.float32(np.float16((1024 + total) * k + b))]  # exact in double, rounded once


def mcg(state):
    x = state * 0xCBAC1FED % 2 ** 32
    halves = np.array([(x & 0x8FFF8FFF) ^ 0x3B603B60], np.uint32).view(np.float16)
    return [np.float32(halves[0] + halves[1])]  # added in half


rng = np.random.default_rng(5)
out = b""
for s in [0, 1, 2, 3, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF] + rng.integers(0, 65536, 56).tolist():
    out += np.uint32(s).tobytes() + np.array(mad(s) + inst(s) + hyb(s), np.float32).tobytes()
for value, V in ((hyb, 2), (mad, 1), (inst, 1), (mul1, 1), (mcg, 1)):
    for k in (2, 3, 4):
        words = rng.integers(0, 65536, (2, 16 * k)).astype(np.uint16)
        tiles = []
        for row in words:
            bits = "".join(format(int(w), "016b") for w in row)
            bits += bits
            for t in range(256 // V):
                tiles += value(int(bits[t * k * V:t * k * V + 16], 2))
        out += words.tobytes() + np.array(tiles, np.float32).tobytes()
for value in hyb, mad, inst, mul1, mcg:
    bits = np.array([value(s)[0] for s in range(65536)], np.float32).view(np.uint32).astype(np.uint64)
    out += np.sum(bits * (2 * np.arange(65536, dtype=np.uint64) + 1), dtype=np.uint64).tobytes()
open(sys.argv[1], "wb").write(out)
