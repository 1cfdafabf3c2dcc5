#!/usr/bin/env python3
"""What Python's json.loads makes of texts on which JSON readers differ: tests/golden/json_cases.txt.

usage: python3 scripts/make_golden_json.py tests/golden

One case a line: the text in hexadecimal, a space, and "refused" or the value: i<integer> r<17 digits> t f n, s<hexadecimal UTF-8>;, [ values ], { s<key>; value }.
Where jansson cannot hold Python's value, the value is what src/format/json.h says: integers beyond 64 bits are reals, NaN and infinities are strings, a
surrogate without a partner is U+FFFD. Only Python's standard library; no network; seed 12.
"""
import json
import math
import random
import sys

BY_HAND = [
    b'{"model_max_length": 1000000000000000019884624838656}', b"[9223372036854775807, 9223372036854775808, -9223372036854775808, -9223372036854775809]",
    b"[99999999999999999999]", b"1" + b"0" * 308, b"1" + b"0" * 309, b"-1" + b"0" * 309, b"1" * 4300, b"1" * 4301, b"[-" + b"2" * 4300 + b"]",
    b"NaN", b"[NaN, Infinity, -Infinity]", b"-NaN", b"+1", b"+Infinity", b"nan", b"inf", b"Inf", b"Infinit", b"NaNa", b"[NaN1]", b"- Infinity", b"1e999", b"-1e999", b"1E400",
    b"1e308", b"1e309", b"1.7976931348623157e308", b"1.7976931348623158e308", b"1.7976931348623159e308", b"17976931348623157e292", b"0.00017976931348623159e312",
    b"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497791",
    b"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497792",
    b"179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704342711559699508093042880177904174497791." + b"9" * 200,
    b"0e999999999999999999999", b"1e-999", b"1e999999999999999999999", b"1e-999999999999999999999", b"0.0", b"-0.0", b"-0", b"0." + b"0" * 500 + b"1e900", b"1" + b"0" * 600 + b"e-500",
    b"01", b"-01", b"1.", b".5", b"1.e5", b"1e", b"1e+", b"-", b"--1", b"1_000", b"0x10", b"1e5", b"1E+5", b"1.5e-3", b"[1.0, 4096.0]", b"00", b"0.5.5", b"1 2",
    b'{"a": 1, "a": 2}', b'{"a": {"b": 1, "c": 2}, "d": 3, "a": {"c": 4}}', b'{"\\u0061": 1, "a": 2}', b'{"": 1, "": []}',
    b'"\\ud800"', b'"\\udc00"', b'"\\ud83d\\ude00"', b'"\\ud83d\\ud83d\\ude00"', b'"\\ude00\\ud83d"', b'"\\ud800x"', b'"\\ud800\\u0041"', b'"\\ud800\\n"', b'"\\\\ud800"', b'"\\\\\\ud800"',
    b'{"\\ud800": 1, "\\udfff": 2}', b'"\\uD83D\\uDE00"', b'"\\ud8"', b'"\\ud8zz"', b'"\\u"', b'"\\u00"', b'"\\x41"', b'"\\', b'"\\"', b'"\\""', b'"\\/\\b\\f\\n\\r\\t"', b'"\\a"', b'"\\ud800\\u"', b'"\\u 041"', b'"\\u+041"',
    b'"a\\u0000b"', b'["\\u0000"]', b'"\x00"', b'"\x1f"', b'"\n"', b'"\t"', b'"\x7f"', b"\x00", b"[1]\x00", b"[1\x00]",
    b"\xef\xbb\xbf{}", b"{}\xef\xbb\xbf", b'"\xef\xbb\xbf"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xf0\x9f\x98\x80"', "\u00a0{}".encode(), "{\u2028}".encode(),
    b"", b" ", b"\n", b"{}", b"[]", b" {} ", b"\t[\n1\r]\x20", b"\x0b[]", b"\x0c[]", b"{} x", b"{}{}", b"[] []", b"[1,]", b"[,1]", b"[1 2]", b'{"a":1,}', b'{"a"}', b'{"a":}', b"{a: 1}", b"{'a': 1}",
    b"{1: 2}", b"{null: 1}", b"[1]//x", b"/* x */[1]", b"# x\n[1]", b"[True]", b"[TRUE]", b"[None]", b"true", b"false", b"null", b"tru", b"nul", b'"x"', b"7", b"undefined", b"[", b"]", b"{", b"}", b'["a]',
    b'{"a": [1, {"b": [NaN, "NaN", 1e400, "1e400"]}]}', b'{"NaN": NaN, "Infinity": "x\\u00e9"}', b'{"k": "NaN Infinity 1e999 99999999999999999999 \\" NaN"}',
    b"[" * 500 + b"]" * 500, b'{"a":' * 400 + b"1" + b"}" * 400, b"[" * 400, b'[1, 2.5, -3, "x", true, false, null, {}, []]',
]

SEEDS = [b'{"a": [1, 2.5e3, -7], "b": "x\\u00e9\\ud83d\\ude00y", "c": {"d": null, "d": true}}', b'[NaN, -Infinity, 123456789012345678901234567890, 1e999, "\\ud800\\\\"]',
         b'{"model_max_length": 1000000000000000019884624838656, "eos_token": {"content": "</s>", "lstrip": false}, "x": [-0.0, 1E5]}']
BYTES = b'{}[]",:\\/ue0123456789dDcCaAfN.+-EIi ntl\n\x00\xc3\xa9'


def value(v):
    if v is None or v is True or v is False:
        return {None: "n", True: "t", False: "f"}[v]
    if isinstance(v, int) and -(2**63) <= v < 2**63:
        return f"i{v}"
    if isinstance(v, (int, float)):
        try:
            v = float(v)
        except OverflowError:
            v = math.inf if v > 0 else -math.inf
        if math.isfinite(v):
            return "r" + "%.17g" % v
        v = "NaN" if v != v else "Infinity" if v > 0 else "-Infinity"
    if isinstance(v, str):
        return "s" + "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in v).encode().hex() + ";"
    if isinstance(v, list):
        return "[" + "".join(map(value, v)) + "]"
    out = {}
    for key, item in v.items():  # two keys may become one: the last counts there too
        out[value(key)] = value(item)
    return "{" + "".join(k + x for k, x in out.items()) + "}"


def read(text):
    try:
        return value(json.loads(text.decode("utf-8")))  # as transformers: open(..., encoding="utf-8"), then json.loads
    except (ValueError, RecursionError):
        return "refused"


def main():
    sys.setrecursionlimit(10000)  # value() takes several calls a level
    rng = random.Random(12)
    cases = list(BY_HAND)
    for _ in range(300):
        text = bytearray(rng.choice(SEEDS))
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(text))
            if rng.random() < 0.4:
                del text[at]
            elif rng.random() < 0.6:
                text[at] = rng.choice(BYTES)
            else:
                text.insert(at, rng.choice(BYTES))
        cases.append(bytes(text))
    # jansson has no NUL in keys; src/format/json.h says so, and tests/format/test_json.c has its own test.
    cases = [c for c in dict.fromkeys(cases) if b"\\u0000" not in c or c in BY_HAND]
    with open(sys.argv[1] + "/json_cases.txt", "w") as f:
        f.writelines(f"{c.hex()} {read(c)}\n" for c in cases)
    print(len(cases), "cases,", sum(read(c) != "refused" for c in cases), "of them read")


if __name__ == "__main__":
    main()
