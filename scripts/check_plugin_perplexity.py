#!/usr/bin/env python3
"""Perplexity of a kronq checkpoint through transformers, on the windows of `kronq eval`, with load time, memory and speed, as JSON.

    PYTHONPATH=python python scripts/check_plugin_perplexity.py OUT --text FILE [--chunks 4] [--ctx 2048] [--dtype bfloat16] [--decode tiles]
"""
import argparse
import json
import os
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import kronq


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out")
    p.add_argument("--text", required=True)
    p.add_argument("--chunks", type=int, default=4)
    p.add_argument("--ctx", type=int, default=2048)
    p.add_argument("--dtype", default="auto")
    p.add_argument("--decode", choices=kronq.DECODE, default="tiles")
    p.add_argument("--new-tokens", type=int, default=32, help="tokens generated for the speed (0: none)")
    a = p.parse_args()
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(a.out, dtype=a.dtype if a.dtype == "auto" else getattr(torch, a.dtype))
    loaded = time.perf_counter() - start
    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    stored = sum(f.stat().st_size for f in Path(a.out).glob("*.safetensors"))
    kronq.set_decode(model, a.decode)
    tokenizer = AutoTokenizer.from_pretrained(a.out)
    ids = tokenizer(Path(a.text).read_text(), return_tensors="pt")["input_ids"][0]
    nll = []
    start = time.perf_counter()
    with torch.inference_mode():
        for i in range(min(a.chunks, len(ids) // a.ctx)):
            window = ids[i * a.ctx:(i + 1) * a.ctx]
            logits = model(window[None], use_cache=False).logits[0, :-1].float()
            nll.append(torch.nn.functional.cross_entropy(logits, window[1:]).item())
        scored = time.perf_counter() - start
        speed = None
        if a.new_tokens:
            x = ids[None, :8]
            model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=2, do_sample=False)
            start = time.perf_counter()
            y = model.generate(x, attention_mask=torch.ones_like(x), min_new_tokens=a.new_tokens, max_new_tokens=a.new_tokens, do_sample=False)
            speed = (y.shape[1] - x.shape[1]) / (time.perf_counter() - start)
    mean = sum(nll) / len(nll) if nll else float("nan")
    print(json.dumps({"ppl": float(torch.tensor(mean, dtype=torch.float64).exp()), "nll": mean, "windows": len(nll), "ctx": a.ctx, "dtype": str(model.dtype),
                      "decode": a.decode, "load_seconds": loaded, "scoring_seconds": scored, "tokens_per_second": speed, "held_bytes": held,
                      "file_bytes": stored, "held_over_file": held / stored, "threads": torch.get_num_threads(), "cpus": os.cpu_count(),
                      "torch": torch.__version__, "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
