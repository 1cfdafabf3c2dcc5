#!/usr/bin/env python3
"""tests/golden/cases/21-normal-forms/forms.json: texts and their four Unicode normal forms, on which Python's unicodedata and the `tokenizers` package agree.

    python scripts/make_golden_normal_forms.py tests/golden/cases/21-normal-forms

Runs of combining marks out of order, characters that decompose, Hangul, and characters that compose over a starter. Only characters of Unicode 3.2:
tokenizers 0.23 has the tables of Unicode 9, Python 3.11 those of Unicode 14. Seed 21.
"""
import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import normalizers

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    rng = random.Random(21)
    assigned = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000 and unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"]
    marks = [c for c in assigned if unicodedata.combining(chr(c))]
    taken_apart = [c for c in assigned if unicodedata.decomposition(chr(c))]
    hangul = [*range(0xac00, 0xd7a4, 7), *range(0x1100, 0x11c3)]

    def text():
        kinds = (marks, marks, taken_apart, taken_apart, hangul, range(32, 127), assigned)
        return "".join(chr(rng.choice(rng.choice(kinds))) for _ in range(rng.randint(1, 30)))

    texts = [text() for _ in range(120)]
    texts += ["".join(chr(rng.choice(marks)) for _ in range(n)) for n in (15, 16, 17, 18, 40, 300)]
    texts += ["e" + "".join(chr(rng.choice(marks)) for _ in range(n)) + "e\u0323\u0301" for n in (15, 16, 17, 18, 300)]
    texts += ["\u1100\u1161\u11a8" * 3, "\u09c7\u09be" * 5, "\ufdfa", "\u0344\u0300", "A\u030a", "\u212b", "\u0958\u093c", "a\u0315\u0300\u05ae\u0300b"]
    out = []
    for t in texts:
        row = {"text": t}
        for form in FORMS:
            row[form] = unicodedata.normalize(form, t)
            assert getattr(normalizers, form)().normalize_str(t) == row[form], (form, t)
        out.append(row)
    (pathlib.Path(sys.argv[1]) / "forms.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
