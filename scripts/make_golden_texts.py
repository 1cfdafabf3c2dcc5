#!/usr/bin/env python3
"""The texts of tests/golden/cases/07-text-formats and 08-calibration-specials, and what they hold (cases/texts.json), by Python's json, tokenizers,
transformers and torch.

    scripts/make_golden_texts.py        (in the environment of scripts/python_env.sh, from the repository's folder; no network)

The first files (array.json ... chat.txt) are inputs that a user had trouble with, kept as they were (fake.parquet: its first KiB); the others are
made from them here. A figure is the number of token ids of the documents joined by <|endoftext|>: with special tokens as ids, and spelled out.
perplexity: consecutive windows of 64 ids, the last, incomplete one left out, f32.
"""
import gzip
import json
import math
import os
import subprocess

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests/golden")
MODEL, FORMATS, SPECIALS = HERE + "/tiny_cli/hf", HERE + "/cases/07-text-formats/", HERE + "/cases/08-calibration-specials/"
END = "<|endoftext|>"


def write(path, data):
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8") if line.strip()]


raw = Tokenizer.from_file(MODEL + "/tokenizer.json")
auto = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


def count(text, spelled):
    raw.encode_special_tokens = spelled
    ids = raw.encode(text, add_special_tokens=False).ids
    raw.encode_special_tokens = False
    return ids


def figures(documents, perplexity=False):
    end, spelled = raw.token_to_id(END), []
    ids = count(END.join(documents), False)
    for i, d in enumerate(documents):
        spelled += ([end] if i else []) + count(d, True)
    out = {"documents": len(documents), "tokens": len(ids), "tokens_spelled": len(spelled)}
    if perplexity:
        windows = torch.tensor(ids[:len(ids) // 64 * 64]).view(-1, 64)
        with torch.no_grad():
            logp = torch.log_softmax(model(windows).logits.double(), -1)
        nll = -logp[:, :-1].gather(-1, windows[:, 1:, None]).mean().item()
        out.update(nll=nll, perplexity=math.exp(nll))
    return out


# ---- files ---------------------------------------------------------------------------------------------------------------------
docs = [d["text"] for d in lines(FORMATS + "ok.jsonl")]
plain = open(FORMATS + "ok.jsonl", "rb").read()
write(FORMATS + "members.jsonl.gz", gzip.compress(plain[:5000], mtime=0) + gzip.compress(plain[5000:], mtime=0))
write(FORMATS + "ok.jsonl.zst", subprocess.run(["zstd", "-19", "-c", FORMATS + "ok.jsonl"], check=True, capture_output=True).stdout)
talks = []
for i in range(0, 24, 3):
    m = [{"role": "user", "content": docs[i]}, {"role": "assistant", "content": docs[i + 1]}, {"role": "user", "content": docs[i + 2]},
         {"role": "assistant", "content": "So it is, \u00e9 and \U0001d11e."}]
    talks.append(([{"role": "system", "content": "You know words."}] if i % 2 else []) + m)
write(SPECIALS + "messages.jsonl", "".join(json.dumps({"id": i, "messages": m}) + "\r\n" for i, m in enumerate(talks)))
write(SPECIALS + "messages.json", json.dumps([{"messages": m} for m in talks], indent=1))
said = {"user": "human", "assistant": "gpt", "system": "system"}
shared = []
for i, m in enumerate(talks):
    apart = i % 4 == 1 and m[0]["role"] == "system"
    shared.append({"system": m[0]["content"] if apart else "",
                   "conversations": [{"from": said[x["role"]], "value": x["content"]} for x in (m[1:] if apart else m)]})
write(SPECIALS + "sharegpt.jsonl", "".join(json.dumps(x) + "\n" for x in shared))

# ---- figures -------------------------------------------------------------------------------------------------------------------
all_of = {}
for name in ["ok.jsonl", "ok.jsonl.gz", "ok.jsonl.zst", "members.jsonl.gz"]:
    all_of[name] = figures(docs, True)
all_of["array.json"] = figures([d["text"] for d in json.load(open(FORMATS + "array.json"))], True)
all_of["c4-train.00000-of-01024.json"] = figures([d["text"] for d in lines(FORMATS + "c4-train.00000-of-01024.json")], True)
all_of["utf16.txt"] = figures([open(FORMATS + "utf16.txt", encoding="utf-16").read()], True)
all_of["chat.txt"] = figures([open(SPECIALS + "chat.txt", encoding="utf-8").read()], True)
all_of["chat.jsonl"] = figures([d["text"] for d in lines(SPECIALS + "chat.jsonl")], True)
rendered = [auto.apply_chat_template(m, tokenize=False) for m in talks]
for name in ["messages.jsonl", "messages.json", "sharegpt.jsonl"]:
    all_of[name] = figures(rendered, True)
write(HERE + "/cases/texts.json", json.dumps(all_of, indent=1) + "\n")
for name, f in all_of.items():
    print(name, f)
