"""Tiny checkpoints for the plug-in's tests, made with the program from the models in tests/golden."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
PROGRAM = os.environ.get("KRONQ", str(Path(__file__).resolve().parents[2] / "build/release/kronq"))
TEXT = GOLDEN / "tiny_cli/text.txt"


def source(name, folder):
    """A model with a tokenizer: those of tests/golden without one get tiny_cli's, cut to their vocabulary (3 special tokens, bytes, merges)."""
    out = Path(folder, "source-" + name)
    if out.exists():
        return out
    shutil.copytree(GOLDEN / ("tiny_" + name if "_" not in name else name.replace("_", "/", 1).replace("cli/", "tiny_cli/")), out)
    if not (out / "tokenizer.json").exists():
        config = json.loads((out / "config.json").read_text())
        t = json.loads((GOLDEN / "tiny_cli/hf/tokenizer.json").read_text())
        rope = config.get("rope_parameters") or {"rope_theta": config["rope_theta"], "rope_type": "default"}
        config["rope_theta"], config["rope_scaling"] = rope["rope_theta"], None if rope["rope_type"] == "default" else rope
        (out / "config.json").write_text(json.dumps(config))  # both spellings: transformers 4 does not know rope_parameters
        n = config["vocab_size"]
        t["model"]["vocab"] = {k: v for k, v in t["model"]["vocab"].items() if v < n}
        t["model"]["merges"] = t["model"]["merges"][: n - 259]
        (out / "tokenizer.json").write_text(json.dumps(t))
        shutil.copy(GOLDEN / "tiny_cli/hf/tokenizer_config.json", out)
    return out


def quantize(model, out, *options):
    subprocess.run(
        [PROGRAM, "quantize", str(model), "-o", str(out), "--method", "none", "--quiet", *map(str, options)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Path(out)


def tune(checkpoint, reference, out):
    subprocess.run(
        [PROGRAM, "tune", str(checkpoint), "--reference", str(reference), "--text", str(TEXT), "-o", str(out), "--tokens", "2k", "--seq-len", "64", "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Path(out)


def read(folder):
    """{name: tensor} of a one-file checkpoint, and its config."""
    with safe_open(Path(folder, "model.safetensors"), "pt") as f:
        return {name: f.get_tensor(name) for name in f.keys()}, json.loads(Path(folder, "config.json").read_text())


def write(folder, tensors, config):
    save_file({k: v.contiguous() for k, v in tensors.items()}, Path(folder, "model.safetensors"), metadata={"format": "pt"})
    Path(folder, "config.json").write_text(json.dumps(config))


def mixed(two, four, out):
    """Layer 0 of the checkpoint `four`, the rest of `two`."""
    shutil.copytree(two, out)
    (a, config), (b, other) = read(two), read(four)
    a.update({k: v for k, v in b.items() if k.startswith("model.layers.0.")})
    bits = config["quantization_config"]["module_bits"]
    bits.update({k: v for k, v in other["quantization_config"]["module_bits"].items() if k.startswith("model.layers.0.")})
    write(out, a, config)
    return Path(out)
