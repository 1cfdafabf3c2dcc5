#!/usr/bin/env python3
"""tests/golden/cases/20-tokenizer-folders/folders.json: what AutoTokenizer makes of tokenizer.json and the files beside it.

    python scripts/make_golden_tokenizer_folders.py tests/golden [N] > tests/golden/cases/20-tokenizer-folders/folders.json

Each case: `base`, a tokenizer.json of tests/golden; `set`, its top-level keys that are put in place of the base's; `files`, those beside it; and of each text
the ids, the ids without the post-processor's tokens and the decoded ids, with bos and eos. The first cases are written out, N more (60) are drawn: tokens with
all flags in any of the four files, under any id, with and without roles, for every class. Seed 20. A folder that transformers does not load is left out.
"""
import copy
import json
import os
import pathlib
import random
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer, logging  # noqa: E402

logging.set_verbosity(logging.CRITICAL)
BASES = ("tiny_cli/hf/tokenizer.json", "tokenizer_llama2.json", "tokenizer_llama2_metaspace.json", "tokenizer_qwen.json", "tokenizer_llama3.json")
LLAMA, QWEN3 = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TEXTS = ["a<|new|>b", " a b  c", "<s> a</s>b", "x<|im_end|> \n<|two|>  y[PAD]z<e1><e2>", "Hello w\u00f6rld 1234 e\u0301<img>", "\u2581a \u2581", ""]


def written():
    """Cases by hand: (name, base index, set, files)."""
    def cfg(**more):
        return {"config.json": LLAMA, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", **more}}

    def base(i):
        return json.loads((GOLDEN / BASES[i]).read_text())

    def listed(i, *tokens):
        return {"added_tokens": base(i)["added_tokens"] + [{"id": n, "content": c, **PLAIN, **more} for n, c, more in tokens]}

    new = {"content": "<|new|>", "special": True}
    yield "decoder", 0, {}, cfg(added_tokens_decoder={"384": new})
    yield "decoder, another id", 0, {}, cfg(added_tokens_decoder={"400": new})
    yield "decoder, not in order", 0, {}, cfg(added_tokens_decoder={"400": new, "399": {"content": "<|two|>"}})
    yield "decoder, flags of a known token", 0, {}, cfg(added_tokens_decoder={"2": {"content": "<|im_end|>", "rstrip": True, "special": True}})
    yield "added_tokens.json", 0, {}, cfg() | {"added_tokens.json": {"<|new|>": 384, "<|two|>": 390}}
    yield "added_tokens.json beside a decoder", 0, {}, cfg(added_tokens_decoder={}) | {"added_tokens.json": {"<|new|>": 384}}
    yield "added_tokens.json with a role", 0, {}, cfg(pad_token="<|new|>") | {"added_tokens.json": {"<|new|>": 384, "<|two|>": 385}}
    yield "added_tokens.json, ids that tokenizer.json has", 0, {}, cfg() | {"added_tokens.json": {"<|new|>": 1, "<|two|>": 2}}
    yield "tokenizer.json, a gap", 0, listed(0, (450, "<|new|>", {})), cfg()
    yield "tokenizer.json, an id twice", 0, listed(0, (384, "<|new|>", {}), (384, "<|two|>", {})), cfg()
    yield "tokenizer.json, a text twice", 0, listed(0, (384, "<|new|>", {}), (385, "<|new|>", {"rstrip": True, "special": False})), cfg()
    yield "tokenizer.json, the id of another text", 0, listed(0, (5, "<|new|>", {})), cfg()
    yield "tokenizer.json, a text of the vocabulary", 0, listed(0, (384, "b", {}), (385, "\u0120b", {})), cfg()
    yield "pad_token of no list", 0, {}, cfg(pad_token="[PAD]")
    yield "pad_token of padding", 0, {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                                                "pad_token": "[PAD]"}}, cfg()
    yield "extra and other roles", 0, {}, cfg(pad_token="[PAD]", extra_special_tokens=["<e1>", "<e2>"], image_token="<img>")
    yield "extra by name", 0, {}, cfg(extra_special_tokens={"x": "<e1>", "image_token": "<img>"})
    yield "additional", 0, {}, cfg(additional_special_tokens=["<e1>", {"__type": "AddedToken", "content": "<e2>", "rstrip": True}])
    yield "special_tokens_map.json", 0, {}, cfg() | {"special_tokens_map.json": {"pad_token": "[PAD]", "eos_token": {"content": "<|two|>", "lstrip": True},
                                                                               "additional_special_tokens": ["<e1>"]}}
    yield "special_tokens_map.json beside a decoder", 0, {}, cfg(added_tokens_decoder={}) | {"special_tokens_map.json": {"pad_token": "[PAD]"}}
    yield "split_special_tokens", 0, {}, cfg(split_special_tokens=True)
    yield "prefix, bos and eos that the class does not heed", 0, {}, cfg(add_prefix_space=True, add_bos_token=True, add_eos_token=True)
    yield "no tokenizer_config.json", 0, {}, {"config.json": LLAMA}
    yield "qwen3 without a class", 0, {}, {"config.json": QWEN3}
    yield "qwen3, PreTrainedTokenizerFast", 3, {}, {"config.json": QWEN3, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}
    yield "LlamaTokenizerFast with bytes", 4, {}, {"config.json": LLAMA, "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<|begin_of_text|>"}}
    for i in (1, 2):
        for name in ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "CodeLlamaTokenizer"):
            for more in ({}, {"legacy": True}, {"legacy": False}, {"add_prefix_space": False}, {"legacy": True, "add_prefix_space": True}):
                yield f"{name} {more}", i, {}, {"config.json": LLAMA, "tokenizer_config.json": {"tokenizer_class": name, "add_bos_token": False, "add_eos_token": True, **more}}
    for name in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        for more in ({}, {"add_prefix_space": True}, {"pad_token": None, "unk_token": None, "eos_token": "<|im_end|>"}):
            yield f"{name} {more}", 3, {}, {"config.json": QWEN3, "tokenizer_config.json": {"tokenizer_class": name, **more}}


def drawn(rng):
    i = rng.randrange(len(BASES))
    base = json.loads((GOLDEN / BASES[i]).read_text())
    n = len(base["model"]["vocab"])
    contents = ["<|new|>", "<|two|>", "[PAD]", "<e1>", "<e2>", "<img>", "b", "ab", "<|im_end|>", "<s>", "w\u00f6r"]

    def flags():
        return {k: rng.random() < 0.3 for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}

    def ident():
        return rng.choice([n, n + 1, n + 2, n + 7, rng.randrange(n)])

    def role():
        c = rng.choice(contents)
        return c if rng.random() < 0.7 else {"__type": "AddedToken", "content": c, **flags()}

    changes, config, files = {}, {"tokenizer_class": rng.choice(["PreTrainedTokenizerFast", "LlamaTokenizer", "Qwen2Tokenizer", "LlamaTokenizerFast", "TokenizersBackend"])}, {}
    if rng.random() < 0.5:
        changes["added_tokens"] = base["added_tokens"] + [{"id": ident(), "content": rng.choice(contents), **flags()} for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        config["added_tokens_decoder"] = {str(ident()): {"content": rng.choice(contents), **flags()} for _ in range(rng.randint(0, 4))}
    if rng.random() < 0.4:
        files["added_tokens.json"] = {rng.choice(contents): ident() for _ in range(rng.randint(1, 3))}
    if rng.random() < 0.4:
        files["special_tokens_map.json"] = {k: rng.choice(contents) if rng.random() < 0.6 else {"content": rng.choice(contents), "lstrip": rng.random() < 0.5}
                                            for k in rng.sample(["bos_token", "eos_token", "pad_token", "unk_token", "image_token"], rng.randint(1, 3))}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token", "image_token"):
        if rng.random() < 0.25:
            config[key] = role()
    if rng.random() < 0.3:
        config[rng.choice(["extra_special_tokens", "additional_special_tokens"])] = [role() for _ in range(rng.randint(1, 3))]
    for key in ("legacy", "add_prefix_space", "add_bos_token", "split_special_tokens"):
        if rng.random() < 0.15:
            config[key] = rng.random() < 0.5
    return "drawn", i, changes, {"config.json": rng.choice([LLAMA, QWEN3]), "tokenizer_config.json": config, **files}


def run(name, base, changes, files):
    with tempfile.TemporaryDirectory() as d:
        tok = json.loads((GOLDEN / BASES[base]).read_text()) | changes
        for file, value in {"tokenizer.json": tok, **files}.items():
            (pathlib.Path(d) / file).write_text(json.dumps(value))
        try:
            t = AutoTokenizer.from_pretrained(d)
            ids, bare = t(TEXTS)["input_ids"], t(TEXTS, add_special_tokens=False)["input_ids"]
        except (TypeError, ValueError, AttributeError):
            return None
        return {"name": name, "base": BASES[base], "set": changes, "files": files, "class": type(t).__name__, "bos": t.bos_token_id, "eos": t.eos_token_id, "size": len(t),
                "ids": ids, "bare": bare, "decoded": [t.decode(x) for x in ids]}


def all_cases(n):
    rng = random.Random(20)
    for case in [*written(), *(drawn(rng) for _ in range(n))]:
        made = run(*copy.deepcopy(case))
        if made:
            yield made


if len(sys.argv) < 2:
    sys.exit(__doc__)
GOLDEN = pathlib.Path(sys.argv[1])
made = list(all_cases(int(sys.argv[2]) if len(sys.argv) > 2 else 60))
print(json.dumps({"texts": TEXTS, "cases": made}, separators=(",", ":"), ensure_ascii=False))
