#!/usr/bin/env python3
"""What transformers makes of the model folders of tests/cli/test_models.sh: tests/golden/cases/models.txt.

usage: (in build/release/tests/cli) KEEP=/tmp/folders ... bash tests/cli/test_models.sh; then python scripts/make_model_cases.py /tmp/folders tests/golden/cases

The folders of a figure: the mean negative log-likelihood in nats of text.txt, four windows of 64 tokens, the model in f32. Those named gen-*: the ids of
generate(do_sample=False, max_new_tokens=8) after "Out know", or what the folder's file prompt says. "refused": transformers does not load the folder; "random": it would fill a tensor that is
missing with random numbers. Needs torch, transformers, safetensors, and accelerate (for FP8); no network, no random numbers.
For fp8-ragged, which transformers 5.23 does not read, w * scale for each block is made here with PyTorch's float8_e4m3fn. (fp8-no-scale and fp8-no-config have
figures too: transformers then takes the numbers without their scales.)
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def dequantized(folder, config):
    """The folder's tensors with every FP8 matrix multiplied out."""
    rows, cols = config["quantization_config"]["weight_block_size"]
    w = load_file(folder / "model.safetensors")
    out = {}
    for name, x in w.items():
        if name + "_scale_inv" in w:
            s = w[name + "_scale_inv"].float().repeat_interleave(rows, 0).repeat_interleave(cols, 1)
            out[name] = x.float() * s[: x.shape[0], : x.shape[1]]
        elif not name.endswith("_scale_inv"):
            out[name] = x.float()
    return out


def load(folder):
    if folder.name == "fp8-ragged":  # transformers 5.23 derives the size of blocks from the number of scales, and stops
        config = json.loads((folder / "config.json").read_text())
        w = dequantized(folder, config)
        del config["quantization_config"]
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config), dtype=torch.float32)
        assert model.load_state_dict(w, strict=False).missing_keys == ["lm_head.weight"]
        model.tie_weights()
        return model, None
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return model.float(), "random" if info["missing_keys"] else None


def nll(model, ids):
    x = torch.tensor(ids[:256]).view(4, 64)
    with torch.no_grad():
        logits = model(x).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), x[:, 1:].reshape(-1)).item()


def main():
    folders, golden = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    base = transformers.AutoTokenizer.from_pretrained(golden.parent / "tiny_cli" / "hf")
    ids = base((golden / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    lines = []
    for folder in sorted(folders.iterdir()):
        try:
            model, why = load(folder)
            if why:
                result = why
            elif folder.name.startswith("gen-"):
                prompt = folder / "prompt"
                x = base(prompt.read_text() if prompt.exists() else "Out know", return_tensors="pt")["input_ids"]
                out = model.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=8, do_sample=False)
                result = ",".join(map(str, out[0, x.shape[1]:].tolist()))
            else:
                result = "%.7f" % nll(model.eval(), ids)
        except Exception as e:  # noqa: BLE001: whatever it is, transformers does not load the folder
            result = "refused"
            print(folder.name, type(e).__name__, str(e).splitlines()[0][:150], file=sys.stderr)
        lines.append(f"{folder.name} {result}\n")
    (golden / "models.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
