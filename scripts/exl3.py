#!/usr/bin/env python3
"""EXL3, the format of exllamav3, in numpy: decoded from its description alone, with none of kronq's C code.

    python3 scripts/exl3.py decode FOLDER MODULE          # print a linear's shape, bits, code and first weights
    python3 scripts/exl3.py check FOLDER EXPORTED         # compare every linear with `kronq export --to bf16`, bit for bit;
                                                          # and quantization_config.json, where there is one, with the tensors
    python3 scripts/exl3.py golden tests/golden           # make tests/golden/exl3/ and tests/golden/exl3.safetensors

A linear y = W x, W [m, n], is stored as `trellis` I16 [n/16, m/16, 16 K], `suh` F16 [n] and `svh` F16 [m], with n and m padded to multiples of
128; a tensor `mul1` or `mcg` names its code, and without either it is 3inst. W^T = diag(suh) H C H diag(svh). H has Sylvester's matrix of order
128 over sqrt(128) on its diagonal. C holds the values of the code, 16 x 16 inputs by outputs a tile. The facts are from exllamav3
(codebook.cuh, exl3_dq.cuh, pack.cu, quantize.py; MIT). Needs numpy.
"""
import json
import pathlib
import shutil
import sys

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "I16": np.int16, "I32": np.int32, "BF16": np.uint16}
BLOCK, TILE = 128, 16


# ---- the format ----

def code_values(code):
    """What each of the 65536 states means, as half floats."""
    s = np.arange(65536, dtype=np.uint64)
    factor, add = {"3inst": (89226354, 64248484), "mcg": (0xCBAC1FED, 0), "mul1": (0x83DCD12D, 0)}[code]
    x = ((s * factor + add) % 2 ** 32).astype(np.uint32)
    if code == "mul1":  # a multiply-add of halves, rounded once; f64 holds it exactly before that
        total = 1024 + x.view(np.uint8).reshape(-1, 4).sum(1)
        k, b = np.array([0x1EEE, 0xC931], np.uint16).view(np.float16).astype(np.float64)
        return (total * k + b).astype(np.float16)
    halves = ((x & 0x8FFF8FFF) ^ 0x3B603B60).astype("<u4").view(np.float16).reshape(-1, 2)
    return halves[:, 0] + halves[:, 1]  # added in half


def walk_order():
    """Input and output, within a tile, of the 256 steps of its walk."""
    inputs, outputs = [], []
    for lane in range(32):
        r = 2 * (lane % 4)
        for column in (lane // 4, lane // 4 + 8):
            inputs += [r, r + 1, r + 8, r + 9]
            outputs += [column] * 4
    return np.array(inputs), np.array(outputs)


def decode_tiles(trellis, code):
    """C [n, m] of the words [n/16, m/16, 16 K]. The bits of a tile stand in 32-bit words, the most significant first, as a circle; step t brings the K
    bits from t K on, and its state is the 16 bits that end with them."""
    rows, cols, words = trellis.shape
    K = words // 16
    big = np.ascontiguousarray(trellis).view("<u4").astype(">u4")
    bits = np.unpackbits(big.view(np.uint8).reshape(rows, cols, -1), axis=2)
    state = np.zeros((rows, cols, 256), np.int64)
    for b in range(16):
        state = state * 2 + bits[:, :, (np.arange(256) * K + K - 16 + b) % (256 * K)]
    r, c = walk_order()
    tiles = np.zeros((rows, cols, TILE, TILE), np.float16)
    tiles[:, :, r, c] = code_values(code)[state]
    return tiles.transpose(0, 2, 1, 3).reshape(rows * TILE, cols * TILE)


def butterflies(x, axis):
    """Sylvester's matrix of order 128 times blocks of x along an axis, in x's type, strides 1, 2, 4 .. 64: each sum and difference is rounded."""
    x = np.moveaxis(x, axis, -1)
    shape = x.shape
    h = 1
    while h < BLOCK:
        y = x.reshape(*shape[:-1], shape[-1] // (2 * h), 2, h)
        x = np.stack([y[..., 0, :] + y[..., 1, :], y[..., 0, :] - y[..., 1, :]], axis=-2).reshape(shape)
        h *= 2
    return np.moveaxis(x, -1, axis)


def linear(tensors, module, m, n):
    """W [m, n] in f32."""
    code = "mcg" if f"{module}.mcg" in tensors else "mul1" if f"{module}.mul1" in tensors else "3inst"
    w = decode_tiles(tensors[f"{module}.trellis"], code).astype(np.float32)
    w = butterflies(butterflies(w, 0), 1) * np.float32(1 / BLOCK)
    suh, svh = (tensors[f"{module}.{s}"].astype(np.float32) for s in ("suh", "svh"))
    return np.ascontiguousarray((w * (suh[:, None] * svh[None, :])).T[:m, :n])


# ---- files ----

def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            out[name] = np.frombuffer(data[8 + size + a:8 + size + b], DTYPES[t["dtype"]]).reshape(t["shape"])
    return out


def write_safetensors(path, tensors):
    header, blob = {}, b""
    names = {v: k for k, v in DTYPES.items()}
    for name, t in tensors.items():
        raw = np.ascontiguousarray(t).tobytes()
        header[name] = {"dtype": names[t.dtype.type], "shape": list(t.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(len(text).to_bytes(8, "little") + text + blob)


def read_folder(folder):
    out = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        out.update(read_safetensors(path))
    return out


def sizes(config):
    """The shape [m, n] of every linear of a llama or Qwen3 model, by its module."""
    d, ff, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv, hd = config.get("num_key_value_heads") or heads, config.get("head_dim") or d // heads
    one = {"self_attn.q_proj": (heads * hd, d), "self_attn.k_proj": (kv * hd, d), "self_attn.v_proj": (kv * hd, d), "self_attn.o_proj": (d, heads * hd),
           "mlp.gate_proj": (ff, d), "mlp.up_proj": (ff, d), "mlp.down_proj": (d, ff)}
    out = {f"model.layers.{i}.{k}": v for i in range(config["num_hidden_layers"]) for k, v in one.items()}
    out["lm_head"] = (config["vocab_size"], d)
    return out


def to_bf16(x):
    u = x.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


# ---- commands ----

def storage(tensors, modules):
    """quantization_config.json's tensor_storage."""
    out = {}
    for module in modules:
        mine = {k: v for k, v in tensors.items() if k.rpartition(".")[0] == module}
        names = {np.float16: "float16", np.int16: "int16", np.int32: "int32", np.float32: "float32", np.uint16: "bfloat16"}
        entry = {"stored_tensors": {k: {"shape": list(v.shape), "n_bytes": v.nbytes, "dtype": "torch." + names[v.dtype.type]} for k, v in mine.items()}}
        if f"{module}.trellis" in mine:
            entry.update(quant_format="exl3", bits_per_weight=mine[f"{module}.trellis"].shape[-1] // 16)
            for code in ("mul1", "mcg"):
                if f"{module}.{code}" in mine:
                    entry[f"{code}_multiplier"] = int(mine[f"{module}.{code}"].view(np.uint32))
        out[module] = entry
    return out


def check(folder, exported):
    folder = pathlib.Path(folder)
    tensors, plain = read_folder(folder), read_folder(exported)
    failed = compared = 0
    for module, (m, n) in sizes(json.loads((folder / "config.json").read_text())).items():
        if f"{module}.trellis" in tensors:
            same = np.array_equal(to_bf16(linear(tensors, module, m, n)), plain[f"{module}.weight"])
            compared += 1
            if not same:
                failed += 1
                print(f"{module}: the weights differ")
    path = folder / "quantization_config.json"
    if path.exists():
        said = json.loads(path.read_text())["tensor_storage"]
        expected = storage(tensors, said)
        stray = [k for k in tensors if k.rpartition(".")[0] not in said]
        for module in said:
            if said[module] != expected[module]:
                failed += 1
                print(f"{path}: {module} is {said[module]}, the tensors say {expected[module]}")
        if stray:
            failed += 1
            print(f"{path}: does not list {stray[:3]}")
    print(f"{compared} linears compared, {failed} differences")
    return 1 if failed or not compared else 0


def golden(out):
    """A llama of two layers whose linears have random bits in every rate and code. A circle of 256 K bits is a walk, whatever the bits are."""
    out = pathlib.Path(out)
    source, folder = out / "tiny_cli/hf", out / "exl3"
    folder.mkdir(exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config.update(num_hidden_layers=2, quantization_config={
        "quant_method": "exl3", "version": "0.0.0", "bits": 4, "head_bits": 6, "calibration": {"rows": 0, "cols": 0}, "out_scales": "auto", "codebook": "mul1"})
    plain = read_folder(source)
    rng = np.random.default_rng(3)
    tensors, weights = {}, {}
    bf16 = lambda t: (t.astype(np.uint32) << 16).view(np.float32)
    codes = ("mul1", "mcg", "3inst")
    for i, (module, (m, n)) in enumerate(sizes(config).items()):
        K, code = (6, "mul1") if module == "lm_head" else (i % 8 + 1, codes[i % 3])
        rows, cols = (m + 127) // 128 * 128, (n + 127) // 128 * 128
        tensors[f"{module}.trellis"] = rng.integers(-32768, 32768, (cols // 16, rows // 16, 16 * K)).astype(np.int16)
        for end, size, scale in (("suh", cols, 0.19 * (64 / n) ** 0.5), ("svh", rows, 1.0)):
            tensors[f"{module}.{end}"] = (rng.choice([-1, 1], size) * scale * np.exp(0.2 * rng.standard_normal(size))).astype(np.float16)
        if code != "3inst":
            tensors[f"{module}.{code}"] = np.array({"mul1": 0x83DCD12D, "mcg": 0xCBAC1FED}[code], np.uint32).view(np.int32)
        weights[f"{module}.weight"] = linear(tensors, module, m, n).astype(np.float16)
    for name, t in plain.items():
        if "norm" in name and not name.startswith("model.layers.2.") or "embed" in name:
            tensors[name] = bf16(t).astype(np.float16)
    write_safetensors(folder / "model.safetensors", tensors)
    write_safetensors(out / "exl3.safetensors", weights)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    modules = list(dict.fromkeys(k.rpartition(".")[0] for k in tensors))
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    quantization = {**config["quantization_config"], "tensor_storage": storage(tensors, modules)}
    (folder / "quantization_config.json").write_text(json.dumps(quantization, indent=1) + "\n")
    for path in [out / "exl3.safetensors", *folder.iterdir()]:
        path.chmod(0o644)
    return 0


def main(argv):
    if len(argv) == 3 and argv[0] == "check":
        return check(*argv[1:])
    if len(argv) == 2 and argv[0] == "golden":
        return golden(argv[1])
    if len(argv) == 3 and argv[0] == "decode":
        tensors = read_folder(argv[1])
        m, n = sizes(json.loads((pathlib.Path(argv[1]) / "config.json").read_text()))[argv[2]]
        w = linear(tensors, argv[2], m, n)
        print(f"{argv[2]}: [{m}, {n}], {tensors[argv[2] + '.trellis'].shape[2] // 16} bits, rms {np.sqrt((w * w).mean()):.6g}")
        print(w[:4, :8])
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
