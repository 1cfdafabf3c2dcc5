#!/usr/bin/env python3
"""The rotary embedding's scalings, as transformers computes them: tests/golden/cases/12-rope-variants/cases.tsv.

    python scripts/make_rope_cases.py tests/golden

Each line: name, context, windows, nll (mean over the windows of tests/golden/cases/text.txt; f32, nats a token) and what stands in config.json in place of
rope_theta and rope_scaling of tests/golden/tiny_cli/hf. Where transformers cannot load the model, or computes NaN, the nll is "refused". Where kronq
refuses what transformers does, it is "unsupported": those lines are checked here to load.
"""
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

THETA = {"rope_theta": 10000.0}
LOW = {"rope_theta": 50.0}  # more turns in 256 positions: every field of YaRN shows
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "factor": 8.0, "short_factor": [1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]}
NEST = {"full_attention": {"rope_type": "linear", "factor": 2.0}}


def scaling(s, **top):
    return {**THETA, **top, "rope_scaling": s}


def yarn(**fields):
    return {**LOW, "rope_scaling": {**YARN, **fields}}


CASES = [  # name, config; context 64 for those of the issue's own figures
    ("yarn", 64, scaling(YARN)),
    ("linear", 64, scaling({"type": "linear", "factor": 2.0})),
    ("dynamic", 64, scaling({"type": "dynamic", "factor": 2.0})),
    ("llama3 without an original context", 64, scaling(LLAMA3)),
    ("yarn in rope_parameters", 64, {"rope_parameters": {**YARN, **THETA}}),
    ("nothing at all", 256, {}),
    ("plain, theta inside rope_parameters", 256, {"rope_parameters": {**LOW, "rope_type": "default"}}),
    ("theta at the top and inside: inside", 256, {**LOW, "rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}),
    ("theta at the top, rope_parameters without", 256, {**LOW, "rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    ("theta inside rope_scaling", 256, {**LOW, "rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 700.0}}),
    ("both spellings: rope_scaling", 256, {**LOW, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {**YARN, "rope_theta": 700.0}}),
    ("both, theta only in the one that loses", 256, {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {**YARN, "rope_theta": 700.0}}),
    ("both, rope_scaling empty", 256, {**LOW, "rope_scaling": {}, "rope_parameters": YARN}),
    ("both, rope_scaling null", 256, {**LOW, "rope_scaling": None, "rope_parameters": YARN}),
    ("rope_scaling false", 256, scaling(False)),
    ("type and rope_type: rope_type", 256, yarn(type="linear")),
    ("no type: none", 256, scaling({"factor": 2.0})),
    ("default", 256, scaling({"type": "default"})),
    ("linear, whole number", 256, {**LOW, "rope_scaling": {"rope_type": "linear", "factor": 3}}),
    ("linear below 1", 256, {**LOW, "rope_scaling": {"rope_type": "linear", "factor": 0.5}}),
    ("dynamic at the context", 512, {**LOW, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    ("yarn, other theta", 256, yarn()),
    ("yarn, whole factor", 256, yarn(factor=3)),
    ("yarn below 1", 256, yarn(factor=0.5)),
    ("yarn, factor null: from the contexts", 256, yarn(factor=None, original_max_position_embeddings=100)),
    ("yarn without an original context", 256, {**LOW, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    ("yarn, original context at the top", 256, {**LOW, "original_max_position_embeddings": 40, "rope_scaling": {"type": "yarn", "factor": 4.0}}),
    ("yarn, original context at the top and inside: top", 256, {**LOW, "original_max_position_embeddings": 40, "rope_scaling": YARN}),
    ("llama3, original context at the top", 256, {**LOW, "original_max_position_embeddings": 40, "rope_scaling": LLAMA3}),
    ("yarn, attention_factor", 256, yarn(attention_factor=1.5)),
    ("yarn, attention_factor whole", 256, yarn(attention_factor=2)),
    ("yarn, attention_factor 1", 256, yarn(attention_factor=1.0)),
    ("yarn, mscale of both kinds", 256, yarn(mscale=2.0, mscale_all_dim=0.5)),
    ("yarn, mscale alone", 256, yarn(mscale=2.0)),
    ("yarn, mscale_all_dim 0", 256, yarn(mscale=2.0, mscale_all_dim=0)),
    ("yarn, attention_factor before mscale", 256, yarn(mscale=2.0, mscale_all_dim=0.5, attention_factor=1.25)),
    ("yarn, betas", 256, yarn(beta_fast=6, beta_slow=2.5)),
    ("yarn, betas 0: the defaults", 256, yarn(beta_fast=0, beta_slow=0)),
    ("yarn, betas null", 256, yarn(beta_fast=None, beta_slow=None)),
    ("yarn, betas the wrong way round", 256, yarn(beta_fast=1, beta_slow=32)),
    ("yarn, truncate false", 256, yarn(truncate=False)),
    ("yarn, truncate null", 256, yarn(truncate=None)),
    ("yarn, original context 1", 256, yarn(original_max_position_embeddings=1)),
    ("llama3", 256, {**LOW, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}}),
    ("llama3, odd context and bands", 256, {**LOW, "rope_scaling": {**LLAMA3, "low_freq_factor": 0.7, "high_freq_factor": 5.5, "factor": 3.7,
                                                                  "original_max_position_embeddings": 333}}),
    ("longrope", 256, {**LOW, "rope_scaling": {**LONG, "long_factor": [1.0] * 8, "original_max_position_embeddings": 256}}),
    ("longrope, the same table twice", 512, {**LOW, "rope_scaling": {**LONG, "long_factor": LONG["short_factor"], "original_max_position_embeddings": 64,
                                                                   "attention_factor": 1.2}}),
    ("longrope without a factor", 256, {**LOW, "rope_scaling": {**{k: v for k, v in LONG.items() if k != "factor"}, "long_factor": LONG["short_factor"],
                                                              "original_max_position_embeddings": 64}}),
    # what transformers refuses, or turns into NaN
    ("linear without factor", 64, scaling({"rope_type": "linear"})),
    ("linear, factor a string", 64, scaling({"rope_type": "linear", "factor": "2"})),
    ("linear, factor null", 64, scaling({"rope_type": "linear", "factor": None})),
    ("linear, factor 0", 64, scaling({"rope_type": "linear", "factor": 0})),
    ("linear, factor NaN", 64, scaling({"rope_type": "linear", "factor": float("nan")})),
    ("linear, huge factor", 64, scaling({"rope_type": "linear", "factor": 10**400})),
    ("yarn without factor", 64, scaling({"rope_type": "yarn", "original_max_position_embeddings": 128})),
    ("yarn, factor a string", 64, scaling({**YARN, "factor": "4"})),
    ("yarn, original context null", 64, scaling({**YARN, "original_max_position_embeddings": None})),
    ("yarn, original context 0", 64, scaling({**YARN, "original_max_position_embeddings": 0})),
    ("yarn, beta below 0", 64, scaling({**YARN, "beta_fast": -1})),
    ("yarn, theta 1", 64, {"rope_theta": 1.0, "rope_scaling": YARN}),
    ("llama3 without high_freq_factor", 64, scaling({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})),
    ("longrope, table too short", 64, scaling({**LONG, "long_factor": [1.0] * 7, "short_factor": [1.0] * 7, "original_max_position_embeddings": 256})),
    ("su", 64, scaling({"type": "su", "factor": 2.0})),
    ("unknown type", 64, scaling({"type": "Linear", "factor": 2.0})),
    ("type null", 64, scaling({"rope_type": None, "type": "linear", "factor": 2.0})),
    ("theta null", 64, {"rope_theta": None}),
    ("theta inside null", 64, {"rope_parameters": {"rope_type": "default", "rope_theta": None}}),
    ("rope_scaling a word", 64, scaling("linear")),
    ("rope_scaling a list", 64, scaling([1])),
    ("partial_rotary_factor", 64, scaling({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5})),
]
UNSUPPORTED = [  # transformers loads these
    ("linear below 0", 64, scaling({"rope_type": "linear", "factor": -2})),
    ("yarn, attention_factor 0", 64, scaling({**YARN, "attention_factor": 0})),
    ("llama3, bands the wrong way round", 64, scaling({**LLAMA3, "low_freq_factor": 4.0, "high_freq_factor": 1.0})),
    ("by layer (passed over by transformers)", 64, {"rope_parameters": NEST, "layer_types": ["full_attention"] * 3}),
    ("proportional", 64, scaling({"rope_type": "proportional", "factor": 2.0})),
]


class Referee:
    def __init__(self, golden: Path):
        self.hf = golden / "tiny_cli" / "hf"
        self.config = {k: v for k, v in json.loads((self.hf / "config.json").read_text()).items() if k not in ("rope_theta", "rope_scaling")}
        text = (golden / "cases" / "text.txt").read_text()
        self.ids = AutoTokenizer.from_pretrained(self.hf)(text, add_special_tokens=False)["input_ids"]

    def nll(self, change: dict, ctx: int, windows: int) -> float | None:
        with tempfile.TemporaryDirectory() as folder:
            for f in self.hf.iterdir():
                if f.name != "config.json":
                    os.symlink(f.resolve(), Path(folder) / f.name)
            (Path(folder) / "config.json").write_text(json.dumps({**self.config, **change}))
            try:
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
                total = 0.0
                for w in range(windows):
                    x = torch.tensor([self.ids[w * ctx:(w + 1) * ctx]])
                    with torch.no_grad():
                        logits = model(x, use_cache=False).logits[0, :-1].double()
                    total += torch.nn.functional.cross_entropy(logits, x[0, 1:], reduction="sum").item()
            except Exception as e:  # whatever transformers raises is a refusal
                print("    ", repr(e)[:120])
                return None
        value = total / (windows * (ctx - 1))
        return value if value == value else None


def main(golden: Path) -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    referee, lines = Referee(golden), []
    for cases, unsupported in ((CASES, False), (UNSUPPORTED, True)):
        for name, ctx, change in cases:
            windows = 4 if ctx == 64 else 2
            nll = referee.nll(change, ctx, windows)
            assert not unsupported or nll is not None, name
            shown = "unsupported" if unsupported else "refused" if nll is None else f"{nll:.7f}"
            print(name, shown)
            lines.append("\t".join([name, str(ctx), str(windows), shown, json.dumps(change)[1:-1]]))
    out = golden / "cases" / "12-rope-variants"
    out.mkdir(parents=True, exist_ok=True)
    (out / "cases.tsv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
