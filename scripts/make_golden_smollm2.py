#!/usr/bin/env python3
"""Per-token NLL of SmolLM2-135M-Instruct (its Q4_1 GGUF, dequantized) on 512 tokens: tests/golden/smollm2_nll.safetensors.

    python scripts/make_golden_smollm2.py MODEL.gguf tests/golden

The text is the beginning of this repository's LICENSE; the GGUF's own tokenizer is read through transformers (which wants `accelerate`
for GGUF files). f32, eager attention. Holds ids [512] and nll [511].
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (Path(__file__).parent.parent / "LICENSE").read_text()


def main(gguf: Path, out: Path) -> None:
    tok = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager")
    ids = torch.tensor([tok(TEXT, add_special_tokens=False)["input_ids"][:512]])
    assert ids.shape[1] == 512
    with torch.no_grad():
        logits = model(ids).logits[0].float()
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    path = out / "smollm2_nll.safetensors"
    save_file({"ids": ids[0].to(torch.int32), "nll": nll}, path)
    path.chmod(0o644)
    print("mean nll", nll.mean().item())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
