#!/usr/bin/env python3
"""tests/golden/serve_offsets.json: where the tokens of texts begin, by Hugging Face's tokenizers (Encoding.offsets, in characters of the text as it was given).

    pip install tokenizers      # 0.23.3 was used
    scripts/make_serve_golden.py tests/golden
"""
import json
import sys

from tokenizers import Tokenizer

TEXTS = ["the cat", "  the cat", " a", "a", "x\ny  z", "\u00e9 caf\u00e9 \u20acuro \U0001f600!", "e\u0301a cafe\u0301 x", "a\u0323\u0301 b",
         "\ud55c\uae00 \u1112\u1161\u11ab\u1100\u1173\u11af end", "\u212b kelvin \u212a", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "<s> one </s> two",
         "a <|im_end|>\n b", ("e\u0301" * 3 + " word ") * 20]
# neither trims spaces from the offsets (ByteLevel's trim_offsets)
FILES = ["tokenizer_llama2.json", "tokenizer_llama2_metaspace.json", "tokenizer_qwen.json", "tiny_cli/hf/tokenizer.json"]


def main(folder):
    cases = []
    for name in FILES:
        tok = Tokenizer.from_file(f"{folder}/{name}")
        for text in TEXTS:
            for special in (True, False):
                e = tok.encode(text, add_special_tokens=special)
                cases.append({"tokenizer": name, "text": text, "add_special": special, "ids": e.ids, "offsets": [o[0] for o in e.offsets]})
    with open(f"{folder}/serve_offsets.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(len(cases), "cases")


main(sys.argv[1])
