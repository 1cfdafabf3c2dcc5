#!/usr/bin/env python3
"""What PyTorch makes of one step of tuning, and of three: tests/golden/tune_{llama3,qwen3}.safetensors,
and tune_{blocks,codebooks,untied}.{gguf,safetensors} of three GGUFs.

    python scripts/make_tiny_models.py tests/golden && python scripts/make_golden_tune.py tests/golden

The teacher is a tiny model, the student the same with its linears rounded to multiples of 1/64. Trained are factors: a [m] and b [n] of every
linear, y = diag(a) W diag(b) x, and one of every weight of every norm. `theta` holds them in kronq's order (src/tune/tuner.h): block by block the
linears q, k, v, o, gate, up, down (a, then b), then the block's norms; the final norm last. They begin near 1, not at it, so that no factor is
left out of a gradient unseen. ids [S, T]; kl: the mean of KL(teacher || student) over all tokens; grad: of kl; theta3: after three steps of Adam
(0.9, 0.95) with the learning rates of a warm-up of 2 steps and a cosine over 3. Everything is in f64.

tune_blocks.gguf is a llama of two layers whose linears have every block type without codewords that has F16 scales, with random integers; its
embedding is tied. tune_codebooks.gguf has one layer, the IQ2 and IQ3 types and IQ4_XS. tune_untied.gguf is smaller and has a head. They are students; their teachers have linears rounded to multiples of 1/64, and the same head. theta
holds a factor of each F16 number, row by row in Hugging Face's order; behind the final norm stand those of head and embedding. A weight is
theta_d w(m = 0) + theta_m w(d = 0), where w(m = 0) is what gguf-py decodes when the bytes of m are zero.
"""
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import GGUFWriter, dequantize
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from make_golden_eval import text  # noqa: E402

S, T, LR, STEPS, WARMUP = 3, 40, 0.01, 3, 2


class Factors(nn.Module):
    """A linear with its two factors."""

    def __init__(self, linear: nn.Linear, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.linear, self.a, self.b = linear, a, b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x * self.b) * self.a


class Norm(nn.Module):
    """A norm whose weights have factors."""

    def __init__(self, norm: nn.Module, theta: torch.Tensor) -> None:
        super().__init__()
        self.norm, self.theta = norm, theta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) * self.theta


def load(golden: Path, family: str) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(golden / f"tiny_{family}", attn_implementation="eager", dtype=torch.float64)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def make(golden: Path, family: str) -> None:
    teacher, student = load(golden, family), load(golden, family)
    theta: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(14)

    def new(n: int) -> torch.Tensor:
        # in f32 exactly, because kronq starts from the same numbers
        theta.append((1 + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)).float().double().requires_grad_(True))
        return theta[-1]

    for name, p in student.named_parameters():
        if name.endswith("_proj.weight"):
            p.copy_(torch.round(p * 64) / 64)
    for layer in student.model.layers:
        for parent, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")), (layer.mlp, ("gate_proj", "up_proj", "down_proj"))):
            for name in names:
                linear = getattr(parent, name)
                setattr(parent, name, Factors(linear, new(linear.out_features), new(linear.in_features)))
        for parent, name in ((layer, "input_layernorm"), (layer, "post_attention_layernorm"), (layer.self_attn, "q_norm"), (layer.self_attn, "k_norm")):
            if hasattr(parent, name):
                norm = getattr(parent, name)
                setattr(parent, name, Norm(norm, new(norm.weight.numel())))
    student.model.norm = Norm(student.model.norm, new(student.model.norm.weight.numel()))

    train(golden / f"tune_{family}.safetensors", teacher, student, theta)


def train(path: Path, teacher: nn.Module, student: nn.Module, theta: list[torch.Tensor]) -> None:
    ids = torch.tensor(text(S * T, student.config.vocab_size)).reshape(S, T)
    target = teacher(ids).logits.log_softmax(-1)
    start = torch.cat([p.detach().clone() for p in theta])
    adam = torch.optim.Adam(theta, lr=LR, betas=(0.9, 0.95), eps=1e-8)
    rate = torch.optim.lr_scheduler.LambdaLR(adam, lambda s: min(1, (s + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * s / STEPS)))
    for step in range(STEPS):
        loss = (target.exp() * (target - student(ids).logits.log_softmax(-1))).sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        if step == 0:
            kl, grad = loss.detach(), torch.cat([p.grad.clone() for p in theta])
        adam.step()
        rate.step()
    save_file(
        {"ids": ids.int(), "theta": start.float(), "kl": kl.float().reshape(1), "grad": grad.float(), "theta3": torch.cat([p.detach() for p in theta]).float()},
        path,
    )
    print(path.stem, start.numel(), float(kl))


# ---- a GGUF ----

HEAD, VOCAB = 64, 96
HF = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
      "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


class Shape(NamedTuple):
    heads: int
    kv_heads: int
    layers: list[list[Q]]  # the types of a layer's linears, in the order of HF
    embedding: Q
    head: Q | None  # None: tied


FILES = {
    "tune_blocks": Shape(4, 2, [[Q.Q4_K, Q.Q4_0, Q.Q6_K, Q.Q4_1, Q.Q5_K, Q.Q2_K, Q.Q3_K], [Q.Q6_K, Q.Q5_1, Q.Q4_0, Q.Q5_0, Q.Q8_0, Q.IQ4_NL, Q.Q4_K]], Q.Q6_K, None),
    "tune_codebooks": Shape(4, 2, [[Q.IQ3_XXS, Q.IQ2_XS, Q.IQ2_S, Q.IQ4_XS, Q.IQ3_S, Q.IQ2_XXS, Q.IQ2_S]], Q.IQ3_S, None),
    "tune_untied": Shape(2, 1, [[Q.Q4_0, Q.Q4_1, Q.F16, Q.Q4_0, Q.F16, Q.Q4_0, Q.Q4_0]], Q.Q4_0, Q.Q4_1),
}
SCALES = {Q.Q4_1: (0, 2), Q.Q5_1: (0, 2), Q.Q2_K: (80, 82), Q.Q3_K: (108,), Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,)}  # bytes; others: 0


class Blocks(nn.Module):
    """The weights of a matrix from the factors of its blocks' F16 numbers."""

    def __init__(self, parts: list[torch.Tensor], theta: torch.Tensor) -> None:
        super().__init__()
        self.parts, self.theta = parts, theta

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        rows, cols = self.parts[0].shape
        by = self.theta.reshape(rows, -1, len(self.parts))
        return sum(part * by[..., i].repeat_interleave(cols // by.shape[1], 1) for i, part in enumerate(self.parts))


def random_blocks(kind: Q, rows: int, cols: int, rms: float, rng: np.random.Generator) -> np.ndarray:
    """Random integers, and scales that make the weights' root mean square about this."""
    elems, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows, cols // elems, size), dtype=np.uint8)
    for at in SCALES.get(kind, (0,)):
        data[..., at:at + 2] = np.full(1, 1, np.float16).view(np.uint8)
    flat = data.reshape(rows, -1)
    d = rms / np.sqrt(np.mean(dequantize(flat, kind).astype(np.float64) ** 2)) * rng.uniform(0.8, 1.2, data.shape[:2])
    for at in SCALES.get(kind, (0,)):
        data[..., at:at + 2] = d.astype(np.float16)[..., None].view(np.uint8)
    return flat


def decoded_parts(kind: Q, flat: np.ndarray, heads: int) -> list[torch.Tensor]:
    """What each F16 number contributes, rows in Hugging Face's order."""
    elems, size = GGML_QUANT_SIZES[kind]
    places, parts = SCALES.get(kind, (0,)), []
    for at in places:
        data = flat.reshape(len(flat), -1, size).copy()
        for other in places:
            if other != at:
                data[..., other:other + 2] = 0
        w = torch.from_numpy(dequantize(data.reshape(len(flat), -1), kind)).double()
        parts.append(w.reshape(heads, HEAD // 2, 2, -1).swapaxes(1, 2).reshape(w.shape) if heads else w)
    return parts


@torch.no_grad()
def make_blocks(golden: Path, name: str, shape: Shape) -> None:
    rng, generator = np.random.default_rng(14), torch.Generator().manual_seed(14)
    d, layers = shape.heads * HEAD, len(shape.layers)
    config = LlamaConfig(hidden_size=d, intermediate_size=d, num_hidden_layers=layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
                         head_dim=HEAD, vocab_size=VOCAB, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=shape.head is None)
    teacher, student = (LlamaForCausalLM._from_config(config, attn_implementation="eager").double().requires_grad_(False) for _ in range(2))
    out = GGUFWriter(golden / f"{name}.gguf", "llama")
    for key, value in (("block_count", layers), ("embedding_length", d), ("feed_forward_length", d), ("head_count", shape.heads),
                       ("head_count_kv", shape.kv_heads), ("context_length", 64), ("layer_norm_rms_eps", 1e-5), ("key_length", HEAD), ("value_length", HEAD),
                       ("vocab_size", VOCAB), ("rope_dimension_count", HEAD)):
        getattr(out, f"add_{key}")(value)
    theta: list[torch.Tensor] = []

    def new(n: int) -> torch.Tensor:
        theta.append((1 + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)).float().double().requires_grad_(True))
        return theta[-1]

    def norm(name: str, parent: str, attribute: str) -> None:
        x = (1 + 0.1 * rng.standard_normal(d)).astype(np.float32)
        out.add_tensor(name, x)
        for model in (teacher, student):
            getattr(model.get_submodule(parent), attribute).weight.copy_(torch.from_numpy(x).double())
        setattr(student.get_submodule(parent), attribute, Norm(getattr(student.get_submodule(parent), attribute), new(d)))

    def matrix(name: str, module: str, kind: Q, rows: int, heads: int = 0, rounded: bool = False, also: str = "") -> None:
        if kind == Q.F16:
            x = (0.05 * rng.standard_normal((rows, d))).astype(np.float16)
            out.add_tensor(name, x)
            parts = [torch.from_numpy(x).double()]
            student.get_submodule(module).weight.copy_(parts[0])
        else:
            flat = random_blocks(kind, rows, d, 0.05 if rounded else 0.25, rng)
            out.add_tensor(name, flat, raw_dtype=kind)
            parts = decoded_parts(kind, flat, heads)
        whole = sum(parts)
        teacher.get_submodule(module).weight.copy_(torch.round(whole * 64) / 64 if rounded else whole)
        if kind == Q.F16:
            return
        blocks = Blocks(parts, new(rows * d // GGML_QUANT_SIZES[kind][0] * len(parts)))
        for place in (module, also) if also else (module,):
            parametrize.register_parametrization(student.get_submodule(place), "weight", blocks, unsafe=True)

    for i, kinds in enumerate(shape.layers):
        for (key, module), kind in zip(HF.items(), kinds):
            heads = {"attn_q": shape.heads, "attn_k": shape.kv_heads}.get(key, 0)
            rows = shape.kv_heads * HEAD if key in ("attn_k", "attn_v") else d
            matrix(f"blk.{i}.{key}.weight", f"model.layers.{i}.{module}", kind, rows, heads, rounded=True)
        norm(f"blk.{i}.attn_norm.weight", f"model.layers.{i}", "input_layernorm")
        norm(f"blk.{i}.ffn_norm.weight", f"model.layers.{i}", "post_attention_layernorm")
    norm("output_norm.weight", "model", "norm")
    if shape.head is not None:
        matrix("output.weight", "lm_head", shape.head, VOCAB)
    matrix("token_embd.weight", "model.embed_tokens", shape.embedding, VOCAB, also="lm_head" if shape.head is None else "")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    with torch.enable_grad():
        train(golden / f"{name}.safetensors", teacher, student, theta)


if __name__ == "__main__":
    for family in ("llama3", "qwen3"):
        make(Path(sys.argv[1]), family)
    for name, shape in FILES.items():
        make_blocks(Path(sys.argv[1]), name, shape)
