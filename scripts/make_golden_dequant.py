#!/usr/bin/env python3
"""Random block bytes and what the gguf package makes of them: tests/golden/dequant.bin.

Records, little-endian: u32 ggml type, u32 blocks, u32 bytes a block, u32 elements a block, the bytes, the f32 values.
The half-precision scales are kept finite; everything else is uniform bytes.
Usage: make_golden_dequant.py tests/golden/dequant.bin
"""
import struct
import sys

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# type: byte offsets of its half-precision fields
TYPES = {T.F16: [0], T.BF16: [0], T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2],
         T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.Q2_K: [80, 82], T.Q3_K: [108], T.IQ4_NL: [0],
         T.IQ4_XS: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0]}

rng = np.random.default_rng(20240607)
with open(sys.argv[1], "wb") as out:
    for t, halves in TYPES.items():
        elems, size = GGML_QUANT_SIZES[t]
        n = 256 if elems == 1 else 10 if elems == 256 else 24
        raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for h in halves:
            raw[:, h + 1] &= 0xBF  # exponents below 16 (f16) or 64 + 32 (bf16): finite, subnormals occur
        values = dequantize(raw.reshape(1, -1), t).astype("<f4").reshape(-1)
        assert np.isfinite(values).all() and values.size == n * elems
        out.write(struct.pack("<4I", int(t), n, size, elems) + raw.tobytes() + values.tobytes())
