#!/usr/bin/env python3
"""A model that lies on no quantization grid, out of one whose linears are Q4_1: every weight moved by seeded uniform noise of up to half a Q4_1 step.

    python scripts/make_dithered.py MODEL.gguf OUT.gguf [--seed 0]

SmolLM2-135M-Instruct comes as Q4_1. Rounding it onto llama.cpp's other 4- and 5-bit grids is not typical (a 5-bit grid meets many of its 16 levels), and onto Q4_1
it is nothing at all. Here weight i of a block becomes d q_i + m + d u_i, u_i uniform in [-1/2, 1/2), d the block's step: as any weight that rounds to this
Q4_1 value would look. The linears are written as F16 (rounding: at most 2^-11 of a weight); every other tensor and all metadata are kept as they
are, only general.file_type says F16. Random numbers: numpy's PCG64, one stream a tensor, seeded by (seed, CRC-32 of its name).
"""
import argparse
import os
import zlib
from pathlib import Path

import gguf
import numpy as np


def dither(tensor: gguf.ReaderTensor, seed: int) -> np.ndarray:
    """Q4_1 tensor -> float16 [rows, columns], dequantized plus half a step of noise either way."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    blocks = np.ascontiguousarray(tensor.data).reshape(-1, 20)  # f16 step, f16 minimum, 16 bytes of two weights each
    step = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    rng = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    noise = rng.random(values.size, dtype=np.float32).reshape(-1, 32) - np.float32(0.5)
    return (values + (noise * step).reshape(values.shape)).astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="GGUF whose linears are Q4_1")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.model)
    part = args.out.with_name(args.out.name + ".part")
    writer = gguf.GGUFWriter(part, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = int(gguf.LlamaFileType.MOSTLY_F16) if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub)
    dithered = 0
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
            writer.add_tensor(tensor.name, dither(tensor, args.seed))
            dithered += 1
        else:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    if not dithered:
        raise SystemExit(f"{args.model}: has no Q4_1 tensor")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, args.out)
    print(f"{args.out}: {dithered} of {len(reader.tensors)} tensors dithered, seed {args.seed}")


if __name__ == "__main__":
    main()
