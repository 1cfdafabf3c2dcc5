#!/usr/bin/env python3
"""Make src/trellis/hyb_table.c: the 512 x 2 table of the hyb code.

k-means (Lloyd) of 2-D standard normal samples. The code negates the first value by a sign bit, so the 1024 points it can reach are
mirror images in the first coordinate: the centres are trained on samples with the first coordinate made positive. Finally the table is
scaled to a root mean square of 0.968246 (= sqrt(15/16)). Needs numpy and scipy; the seed is fixed.

    python3 scripts/make_hyb_table.py > src/trellis/hyb_table.c
"""
import numpy as np
from scipy.spatial import cKDTree

SEED, N_SAMPLES, N_CENTRES, N_ITER, RMS = 20250711, 1 << 20, 512, 60, 0.968246

rng = np.random.default_rng(SEED)
x = rng.standard_normal((N_SAMPLES, 2))
x[:, 0] = np.abs(x[:, 0])
c = x[:N_CENTRES].copy()
for _ in range(N_ITER):
    near = cKDTree(c).query(x)[1]
    count = np.bincount(near, minlength=N_CENTRES)
    for d in range(2):
        c[:, d] = np.where(count > 0, np.bincount(near, weights=x[:, d], minlength=N_CENTRES) / np.maximum(count, 1), c[:, d])
c = c[rng.permutation(N_CENTRES)]  # neighbours in index must not be neighbours in the plane
c = (c * (RMS / np.sqrt((c ** 2).mean()))).astype(np.float32)

print("/* Made by scripts/make_hyb_table.py; do not edit. */")
print('#include "trellis/trellis.h"\n')
print("const float kq_hyb_table[KQ_HYB_ENTRIES][2] = {")
for i in range(0, N_CENTRES, 4):
    print("    " + " ".join("{%.9gf, %.9gf}," % tuple(float(v) for v in c[j]) for j in range(i, i + 4)))
print("};")
