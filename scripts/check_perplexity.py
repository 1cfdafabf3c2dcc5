#!/usr/bin/env python3
"""Perplexity of a model by PyTorch and transformers, as an independent referee of `kronq eval`.

    pip install torch transformers gguf tokenizers
    scripts/check_perplexity.py MODEL.gguf TEXT [--ctx 2048] [--chunks N]
    scripts/check_perplexity.py FOLDER TEXT ...

Consecutive windows of ctx tokens; mean negative log-likelihood of the last ctx-1 tokens of every whole window.
transformers reads and dequantizes the GGUF itself. Give --tokenizer FOLDER (a kronq checkpoint made from it, say) for the tokenizer.json: what
transformers rebuilds from a GGUF lacks the model's own pre-tokenizer (SmolLM2 splits off digits first), so its ids differ here and there.
"""
import argparse
import math
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("text")
p.add_argument("--ctx", type=int, default=2048)
p.add_argument("--chunks", type=int, default=0)
p.add_argument("--tokenizer")
a = p.parse_args()

where = {"pretrained_model_name_or_path": a.model}
if a.model.endswith(".gguf"):
    where = {"pretrained_model_name_or_path": os.path.dirname(os.path.abspath(a.model)), "gguf_file": os.path.basename(a.model)}
tokenizer = AutoTokenizer.from_pretrained(a.tokenizer) if a.tokenizer else AutoTokenizer.from_pretrained(**where)
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
ids = tokenizer(open(a.text, encoding="utf-8").read(), return_tensors="pt").input_ids[0]
n = len(ids) // a.ctx
if a.chunks:
    n = min(n, a.chunks)
total, count = 0.0, 0
with torch.no_grad():
    for i in range(n):
        w = ids[i * a.ctx:(i + 1) * a.ctx][None]
        logits = model(w).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, w[0, 1:], reduction="sum").item()
        count += a.ctx - 1
        print(f"[{i + 1}/{n}] {math.exp(total / count):.4f}", flush=True)
print(f"perplexity {math.exp(total / count):.6f} nll {total / count:.8f} over {count} tokens in {n} windows")
