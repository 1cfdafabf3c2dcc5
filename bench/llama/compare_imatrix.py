#!/usr/bin/env python3
"""Two imatrix files of the same text and chunk size: how far apart, tensor by tensor.   compare_imatrix.py OURS.gguf THEIRS.gguf"""
import sys

import gguf
import numpy as np


def load(path: str) -> tuple[dict, dict]:
    reader = gguf.GGUFReader(path)
    return ({name: field.contents() for name, field in reader.fields.items() if name.startswith(("general.", "imatrix."))},
            {t.name: np.array(t.data, dtype=np.float64).ravel() for t in reader.tensors})


def main() -> None:
    (meta_a, a), (meta_b, b) = load(sys.argv[1]), load(sys.argv[2])
    print("metadata      ", meta_a, meta_b)
    print("tensor names  ", "the same, in the same order" if list(a) == list(b) else "DIFFERENT")
    names = [n for n in b if n.endswith(".in_sum2")]
    print("counts        ", "the same" if all(np.array_equal(a[n], b[n]) for n in b if n.endswith(".counts")) else "DIFFERENT")
    norm = {n: np.linalg.norm(a[n] - b[n]) / np.linalg.norm(b[n]) for n in names}
    entry = np.concatenate([np.abs(a[n] - b[n]) / np.maximum(b[n], 1e-30) for n in names])
    worst = max(norm, key=norm.get)
    print(f"by tensor      relative difference (norm): median {np.median(list(norm.values())):.2e}, largest {norm[worst]:.2e} ({worst})")
    print(f"by value       relative difference: median {np.median(entry):.2e}, 99% {np.quantile(entry, .99):.2e}, largest {entry.max():.2e}")


if __name__ == "__main__":
    main()
