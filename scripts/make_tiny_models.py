#!/usr/bin/env python3
"""Tiny random models of each family and what PyTorch computes with them: tests/golden/tiny_<family>/ and tests/golden/tiny_<family>.safetensors.

    python scripts/make_tiny_models.py tests/golden

Each folder is a Hugging Face model (config.json, model.safetensors in bf16, which holds the weights exactly). The golden file beside it holds ids [T], the logits of some
positions, nll [T-1], every block's output, the gradient of the summed nll with respect to every linear's weight, and dx, that with
respect to the first block's input. f32, eager attention, seed 7.
"""
import copy
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

T = 150
COMMON = dict(num_hidden_layers=2, intermediate_size=112, num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
              max_position_embeddings=512)
FAMILIES = {
    "llama2": (LlamaForCausalLM, LlamaConfig(hidden_size=64, vocab_size=259, rms_norm_eps=1e-5, tie_word_embeddings=False, **COMMON)),
    "llama3": (LlamaForCausalLM, LlamaConfig(
        hidden_size=64, vocab_size=300, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=64), **COMMON)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(hidden_size=96, head_dim=16, vocab_size=271, rms_norm_eps=1e-6, tie_word_embeddings=True,
                                            rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **COMMON)),
    "yarn": (Qwen3ForCausalLM, Qwen3Config(hidden_size=32, head_dim=16, vocab_size=101, rms_norm_eps=1e-6, tie_word_embeddings=True,
                                           rope_parameters=dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=64,
                                                                beta_fast=8.0, beta_slow=0.5, attention_factor=1.3, truncate=False),
                                           **{**COMMON, "intermediate_size": 48})),
}


def main(out: Path) -> None:
    for family, (cls, cfg) in FAMILIES.items():
        torch.manual_seed(7)
        cfg._attn_implementation = "eager"
        model = cls(cfg).to(torch.float32)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() == 1:  # norms away from 1, so that a forgotten weight is seen
                    p.copy_((1 + 0.3 * torch.randn_like(p)).bfloat16())
                else:  # large enough for attention far from uniform
                    p.copy_((torch.randn_like(p) * (0.5 if "embed" in name else 1.5 / p.shape[1] ** 0.5)).bfloat16())
        folder = out / f"tiny_{family}"
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)  # a copy: .to() would round the rotary frequencies too
        (folder / "generation_config.json").unlink(missing_ok=True)

        ids = torch.randint(3, cfg.vocab_size, (1, T))
        blocks = {}

        def keep(_module, args, output, layer=None):
            y = output[0] if isinstance(output, tuple) else output
            blocks[layer] = y.detach().reshape(T, -1).contiguous()
            if layer == 0:
                x = args[0]
                x.retain_grad()
                blocks["x"] = x

        for i, layer in enumerate(model.model.layers):
            layer.register_forward_hook(lambda m, a, o, i=i: keep(m, a, o, i))
        logits = model(ids).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        nll.sum().backward()

        rows = torch.tensor([0, 1, 63, 64, 65, 127, 128, T - 1])
        golden = {"ids": ids[0].to(torch.int32), "nll": nll.detach(), "logit_rows": rows.to(torch.int32),
                  "logits": logits.detach()[rows].contiguous(), "dx": blocks["x"].grad.reshape(T, -1).contiguous()}
        for i in range(cfg.num_hidden_layers):
            golden[f"block{i}"] = blocks[i]
        for name, p in model.named_parameters():
            if "_proj" in name:
                golden[name + ".grad"] = p.grad.contiguous()
        save_file(golden, out / f"tiny_{family}.safetensors")
        for path in (out / f"tiny_{family}.safetensors", folder / "model.safetensors", folder / "config.json"):
            path.chmod(0o644)
        print(family, "mean nll", nll.mean().item())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
