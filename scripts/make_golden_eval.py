#!/usr/bin/env python3
"""What PyTorch measures on the tiny models, in double precision: tests/golden/eval.txt.

    python scripts/make_tiny_models.py tests/golden && python scripts/make_golden_eval.py tests/golden

One line a family: name, ctx, windows, nll and its standard errors (tokens, windows), kld and its two, top1. The text is a fixed sequence of
ids (below, and the same in tests/eval/test_evaluate.c); the measured model is the tiny model with every linear's weights rounded to
multiples of 1/64, the reference the tiny model itself.
"""
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

CTX, WINDOWS, EXTRA = 100, 5, 37


def text(n: int, vocab: int) -> list[int]:
    x, ids = 1, []
    for _ in range(n):
        x = (x * 1103515245 + 12345) % 2**31
        ids.append((x >> 8) % vocab)
    return ids


def errors(x: torch.Tensor) -> tuple[float, float, float]:
    """Mean and the two standard errors of a [windows, positions] table."""
    n, means = x.numel(), x.mean(1)
    return x.mean().item(), (x.var() / n).sqrt().item(), (means.var() / len(means)).sqrt().item()


@torch.no_grad()
def main(golden: Path) -> None:
    lines = []
    for family in ("llama2", "llama3", "qwen3"):
        reference = AutoModelForCausalLM.from_pretrained(golden / f"tiny_{family}", attn_implementation="eager", dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(golden / f"tiny_{family}", attn_implementation="eager", dtype=torch.float32)
        for name, p in model.named_parameters():
            if name.endswith("_proj.weight"):
                p.copy_(torch.round(p * 64) / 64)
        ids = text(CTX * WINDOWS + EXTRA, model.config.vocab_size)
        windows = torch.tensor(ids[:CTX * WINDOWS]).reshape(WINDOWS, CTX)
        lq, lp = model.double()(windows).logits, reference.double()(windows).logits
        assert lq.dtype == torch.float64
        q, p = lq.log_softmax(-1), lp.log_softmax(-1)
        nll = -q[:, :-1].gather(2, windows[:, 1:, None])[..., 0]
        kld = (p.exp() * (p - q)).sum(-1)
        top1 = (p.argmax(-1) == q.argmax(-1)).double()
        numbers = [*errors(nll), *errors(kld), top1.mean().item()]
        lines.append(" ".join([family, str(CTX), str(WINDOWS)] + [f"{v:.12g}" for v in numbers]))
    (golden / "eval.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
