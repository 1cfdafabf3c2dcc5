#!/usr/bin/env python3
"""llama.cpp's file of saved logits, made and read by NumPy from PyTorch's logits of a tiny model: tests/golden/kld_base.bin and kld_base.txt.

    python scripts/make_tiny_models.py tests/golden && python scripts/make_golden_kld.py tests/golden

The base is tests/golden/tiny_llama3 on 3 windows of 40 of the ids of make_golden_eval.py; compared with it is the same model with its linears
rounded to multiples of 1/64. The arithmetic is that of llama.cpp's tools/perplexity/perplexity.cpp. kld_base.txt: nll of the rounded model, nll of the
base by the file, mean KL divergence, its percentiles 0, 0.1, 1, 5, 10, 50, 90, 95, 99, 99.9, 100 (numpy.percentile), share of equal top tokens,
mean and RMS difference of the next token's probability, and each window's mean KL divergence.
"""
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from make_golden_eval import text  # noqa: E402

CTX, WINDOWS = 40, 3


@torch.no_grad()
def main(golden: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(golden / "tiny_llama3", attn_implementation="eager", dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(golden / "tiny_llama3", attn_implementation="eager", dtype=torch.float32)
    for name, p in model.named_parameters():
        if name.endswith("_proj.weight"):
            p.copy_(torch.round(p * 64) / 64)
    vocab, first = model.config.vocab_size, CTX // 2
    ids = torch.tensor(text(CTX * WINDOWS, vocab)).reshape(WINDOWS, CTX)
    out = b"_logits_" + struct.pack("<3i", CTX, vocab, WINDOWS) + ids.numpy().astype("<i4").tobytes()
    saved, q = base(ids).logits.numpy(), model.double()(ids).logits.log_softmax(-1).numpy()
    nll, nll_base, kld, same, dp = [], [], [], [], []
    for w in range(WINDOWS):
        for t in range(first, CTX - 1):
            x, nxt = saved[w, t], int(ids[w, t + 1])
            lo, lse = max(x.min(), x.max() - np.float32(16)), np.log(np.exp(x.astype(np.float64) - x.max()).sum())
            scale, smallest = np.float32((x.max() - lo) / np.float32(65535)), np.float32(lo - x.max() - lse)
            steps = np.where(x > lo, np.rint((np.float32(1) / scale) * (x - lo)), 0).astype("<u2")
            out += struct.pack("<2f", scale, smallest) + steps.tobytes() + (b"\0\0" if vocab % 2 else b"")
            lp = (scale * steps.astype(np.float32) + smallest).astype(np.float64)
            keep = lp > -16
            kld.append((np.exp(lp[keep]) * (lp[keep] - q[w, t][keep])).sum())
            nll.append(-q[w, t, nxt])
            nll_base.append(-lp[nxt])
            same.append(lp.argmax() == q[w, t].argmax())
            dp.append(np.exp(-nll[-1]) - np.exp(lp[nxt]))
    (golden / "kld_base.bin").write_bytes(out)
    dp = np.array(dp)
    numbers = [np.mean(nll), np.mean(nll_base), np.mean(kld), *np.percentile(kld, [0, 0.1, 1, 5, 10, 50, 90, 95, 99, 99.9, 100]), np.mean(same),
               dp.mean(), np.sqrt((dp ** 2).mean()), *np.array(kld).reshape(WINDOWS, -1).mean(1)]
    (golden / "kld_base.txt").write_text("\n".join(f"{v:.10g}" for v in numbers) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
