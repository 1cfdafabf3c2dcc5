#!/usr/bin/env python3
"""Is TUNED a copy of ORIGINAL with other scales and norms, as gguf-py reads both?

    python check_tuned_gguf.py ORIGINAL TUNED HF_FOLDER OUT

Everything but the F16 numbers of blocks and the norms must be the same. OUT becomes a folder with the config and tokenizer of HF_FOLDER and
the weights that gguf-py decodes from TUNED. Ends with status 77 where gguf is not installed.
"""
import shutil
import sys
from pathlib import Path

try:
    import numpy as np
    from gguf import GGMLQuantizationType as Q
    from gguf import GGUFReader, dequantize
    from gguf.constants import GGML_QUANT_SIZES
    from safetensors.numpy import save_file
except ImportError as e:
    print(e)
    sys.exit(77)

SCALES = {Q.Q4_1: (0, 2), Q.Q5_1: (0, 2), Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}  # bytes; others: 0
PLAIN = (Q.F32, Q.F16, Q.BF16)
HF = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
      "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight", "output_norm.weight": "model.norm.weight"}


def hf_name(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{HF[kind]}.weight"


def main(original: str, tuned: str, folder: str, out: str) -> None:
    a, b = GGUFReader(original), GGUFReader(tuned)
    assert Path(original).stat().st_size == Path(tuned).stat().st_size, "size"
    assert list(a.fields) == list(b.fields), "keys"
    assert all(np.array_equal(x, y) for k in a.fields for x, y in zip(a.fields[k].parts, b.fields[k].parts)), "metadata"
    heads = {kind: int(b.get_field(f"llama.attention.{key}").contents()) for kind, key in (("attn_q", "head_count"), ("attn_k", "head_count_kv"))}
    weights, changed = {}, 0
    for x, y in zip(a.tensors, b.tensors):
        assert (x.name, x.tensor_type, list(x.shape), x.data_offset) == (y.name, y.tensor_type, list(y.shape), y.data_offset), x.name
        if x.tensor_type in PLAIN:
            norm = x.name.endswith("_norm.weight")
            assert np.array_equal(x.data, y.data) != norm, f"{x.name} {'is as it was' if norm else 'changed'}"
        else:
            size = GGML_QUANT_SIZES[x.tensor_type][1]
            p, q = np.array(x.data).reshape(-1, size), np.array(y.data).reshape(-1, size)
            changed += int((p != q).any())
            for at in SCALES.get(x.tensor_type, (0,)):
                p[:, at:at + 2] = q[:, at:at + 2] = 0
            assert np.array_equal(p, q), f"{x.name}: an integer changed"
        w = dequantize(y.data, y.tensor_type).astype(np.float32)
        kind = x.name.split(".")[-2]
        if kind in heads:
            w = w.reshape(heads[kind], -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        weights[hf_name(x.name)] = np.ascontiguousarray(w)
    assert changed, "no block changed"
    shutil.copytree(folder, out)
    for f in Path(out).glob("*.safetensors*"):
        f.unlink()
    save_file(weights, Path(out) / "model.safetensors")
    print(f"{changed} matrices changed")


if __name__ == "__main__":
    main(*sys.argv[1:])
