#!/usr/bin/env python3
"""Two GGUF models: which share of the quantized blocks is the same, byte for byte.   compare_files.py A.gguf B.gguf"""
import sys

import gguf
import numpy as np


def main() -> None:
    a, b = ({t.name: t for t in gguf.GGUFReader(p).tensors} for p in sys.argv[1:3])
    if a.keys() != b.keys() or any(a[n].tensor_type != b[n].tensor_type or list(a[n].shape) != list(b[n].shape) for n in a):
        sys.exit("FAILED: other tensors, types or shapes")
    same = total = 0
    change = square = 0.0
    for name, t in a.items():
        if t.tensor_type.name in ("F32", "F16", "BF16"):
            continue
        size = gguf.GGML_QUANT_SIZES[t.tensor_type][1]
        x, y = (np.ascontiguousarray(m[name].data).reshape(-1, size) for m in (a, b))
        same += int((x == y).all(axis=1).sum())
        total += len(x)
        u, v = (gguf.quants.dequantize(m[name].data, t.tensor_type) for m in (a, b))
        change += float(((u - v).astype(np.float64) ** 2).sum())
        square += float((v.astype(np.float64) ** 2).sum())
    print(f"files          {same} of {total} quantized blocks are the same bytes ({100 * same / total:.2f}%), relative squared difference of the weights {change / square:.2e}")


if __name__ == "__main__":
    main()
