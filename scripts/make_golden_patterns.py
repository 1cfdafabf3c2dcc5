#!/usr/bin/env python3
"""tests/golden/cases/patterns/patterns.json: where `tokenizers` cuts texts with each of the splitting patterns that kronq knows.

    python scripts/make_golden_patterns.py src/tokenizer/patterns.c > tests/golden/cases/patterns/patterns.json

The patterns are taken from the C source (its string literals, macros expanded by `cc -E`). Of each pattern and text: an FNV-1a hash of the pieces' sizes in
bytes, as "3,1,7,". Seed 10; letters of Unicode 14 at most, which is what the installed PCRE2 knows.
"""
import ast
import json
import random
import re
import subprocess
import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers


def patterns(source):
    text = open(source, encoding="utf-8").read()
    text = text[: text.index("static const char *const known[]")] .split('#include "tokenizer/internal.h"')[1] + text[text.index("static const char *const known[]") :]
    made = subprocess.run(["cc", "-E", "-P", "-"], input=text, capture_output=True, text=True, check=True).stdout
    made = made[made.index("known[] = {") + 11 :]
    out, at, cur = [], 0, b""
    while True:
        m = re.compile(r'\s*("(?:[^"\\]|\\.)*"|,|\})').match(made, at)
        at = m.end()
        if m[1].startswith('"'):
            cur += ast.literal_eval("b" + re.sub(r"[^\x00-\x7f]", "?", m[1]))
        else:
            if cur:
                out.append(cur.decode())
            cur = b""
            if m[1] == "}":
                return out


def fnv(s):
    h = 0xCBF29CE484222325
    for b in s.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rng = random.Random(10)
    assigned = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) not in ("Cn", "Co")]
    kinds = (" ", " ", " \t", "\n\r", "\u00a0\u3000\u2003\u1680\u0085\u2028\x0b", "aeiousrtdlm", "ABCSTLV", "'", "'\u2019", "0123456789", "\u00bd\u0661\u2167", ".,!?/-_(|)[]{}<>=+$^~`\\\"",
             "\u4e00\u9fa5\u3042\u30ab\uac00\u0800", "\u00e9\u0301\u0323\u0915\u093f\u094d", "\u01c5\u02b0\u00aa\u017f\u212a", "\u2026\u3002\uff0c\u0964\u06d4\u060c", None)
    texts = []
    for i in range(60):
        s = ""
        while len(s) < 80:
            kind = rng.choice(kinds)
            s += "".join(rng.choice(kind) if kind else chr(rng.choice(assigned)) for _ in range(rng.choice((1, 1, 2, 3, 7))))
            if rng.random() < 0.2:
                s += rng.choice(("don't", "WE'LL", "it'S", " I've ", "1234567", "\r\n\r\n", "   x", "\u017f'\u017f"))
        texts.append(s)
    texts += ["", " ", "\n", "   ", " \n ", "\n\n  a", "a" * 50, "12345678", "'s'S'll'LL'\u017f"]
    out = []
    for p in patterns(sys.argv[1]):
        cut = pre_tokenizers.Split(Regex(p), "isolated")
        hashes = [fnv("".join(f"{len(piece.encode())}," for piece, _ in cut.pre_tokenize_str(t))) for t in texts]
        out.append({"pattern": p, "pieces": hashes})
    print(json.dumps({"texts": texts, "patterns": out}, separators=(",", ":"), ensure_ascii=False))


main()
