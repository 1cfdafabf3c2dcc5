#!/usr/bin/env python3
"""What PyTorch makes of one step of tuning, and of three: tests/golden/tune_{llama3,qwen3}.safetensors.

    python scripts/make_tiny_models.py tests/golden && python scripts/make_golden_tune.py tests/golden

The teacher is a tiny model, the student the same with its linears rounded to multiples of 1/64. Trained are factors: a [m] and b [n] of every
linear, y = diag(a) W diag(b) x, and one of every weight of every norm. `theta` holds them in kronq's order (src/tune/tuner.h): block by block the
linears q, k, v, o, gate, up, down (a, then b), then the block's norms; the final norm last. They begin near 1, not at it, so that no factor is
left out of a gradient unseen. ids [S, T]; kl: the mean of KL(teacher || student) over all tokens; grad: of kl; theta3: after three steps of Adam
(0.9, 0.95) with the learning rates of a warm-up of 2 steps and a cosine over 3. Everything is in f64.
"""
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

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
        golden / f"tune_{family}.safetensors",
    )
    print(family, start.numel(), float(kl))


if __name__ == "__main__":
    for family in ("llama3", "qwen3"):
        make(Path(sys.argv[1]), family)
