#!/usr/bin/env python3
"""tests/golden/fisher_arpack.bin: the leading singular triplet of eq. 2 by ARPACK (scipy.sparse.linalg.svds), f64.

The gradients come from a formula that tests/fisher/test_fastkron.c repeats: value (i, a, b) is a splitmix64 hash of its index.
File, little-endian f64: sigma_1, sigma_2, H_in [n,n] (unit Frobenius norm, positive trace), H_out [m,m] (the same).
"""
import sys

import numpy as np
from scipy.sparse.linalg import LinearOperator, svds

D, m, n = 64, 48, 40


def gradients():
    index = np.arange(D * m * n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(D, m, n)
    u *= (1 + np.arange(D) % 5)[:, None, None]
    u /= (1 + 0.1 * np.arange(m))[None, :, None]
    u /= (1 + 0.05 * np.arange(n))[None, None, :]
    bits = u.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16) << np.uint32(16)
    return bits.view(np.float32).astype(np.float64)


def main(path):
    G = gradients()
    op = LinearOperator(
        (m * m, n * n),
        matvec=lambda y: np.einsum("iab,bc,idc->ad", G, y.reshape(n, n), G, optimize=True).ravel() / D,
        rmatvec=lambda x: np.einsum("iab,ac,icd->bd", G, x.reshape(m, m), G, optimize=True).ravel() / D,
        dtype=np.float64,
    )
    # From the identity the whole iteration stays in the symmetric matrices: an antisymmetric triplet cannot come between.
    u, s, vt = svds(op, k=2, tol=1e-12, v0=np.eye(n).ravel() + np.diag(np.arange(n) * 1e-3).ravel(), which="LM")
    order = np.argsort(-s)
    s, v, u = s[order], vt[order[0]].reshape(n, n), u[:, order[0]].reshape(m, m)
    sign = np.sign(np.trace(v))
    with open(path, "wb") as f:
        for part in (s, v * sign, u * sign):
            f.write(np.ascontiguousarray(part, dtype="<f8").tobytes())
    print("sigma", s, "asymmetry", np.abs(v - v.T).max(), np.abs(u - u.T).max())


main(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/fisher_arpack.bin")
