#!/usr/bin/env python3
"""The codewords of llama.cpp's IQ2 and IQ3 types, out of the gguf package (MIT): src/format/codebook_tables.c.

A codeword is 8 levels of 2 bits or 4 levels of 3 bits, the first weight in the lowest bits, as ggml's own quantizer keeps it.
Usage: make_codebooks.py src/format/codebook_tables.c
"""
import sys

import numpy as np
from gguf import quants

HEAD = """/* The codewords of llama.cpp's IQ2 and IQ3 types: data of the format, as ggml defines it (ggml-common.h,
 * MIT). Written by scripts/make_codebooks.py from the gguf Python package. Each number is one codeword: 8
 * indices of levels with 2 bits each, or 4 with 3 bits each, the first weight's in the lowest bits. */
#include "format/codebook.h"
"""

with open(sys.argv[1], "w") as out:
    out.write(HEAD)
    for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"):
        q = getattr(quants, name)
        q.init_grid()
        n, dim = q.grid_shape
        bits = {8: 2, 4: 3}[dim]
        index = np.searchsorted(q.grid_map, q.grid.reshape(n, dim).astype(int)).astype(int)
        words = (index << (bits * np.arange(dim))).sum(axis=1)
        out.write(f"\nconst uint16_t kq_words_{name.lower()}[{n}] = {{\n")
        for i in range(0, n, 13):
            out.write("    " + " ".join(f"0x{w:04x}," for w in words[i:i + 13]) + "\n")
        out.write("};\n")
