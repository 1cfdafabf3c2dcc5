#!/usr/bin/env python3
"""Golden files for chat templates: every tests/golden/chat/*.jinja, rendered by transformers' apply_chat_template; and small templates by jinja2.

  python scripts/make_chat_cases.py [--out tests/golden/chat] [--seed 1]

cases.json: {"special": {...}, "conversations": [{"name", "messages", "tools"?, "arguments"?}], "results": {TEMPLATE: [[CONVERSATION, MODE, HASH or null], ...]},
"texts": {"TEMPLATE/CONVERSATION/MODE": text}}. MODE: 0 plain, 1 add_generation_prompt, 2 continue_final_message. HASH: FNV-1a 64 of the UTF-8 text, hex; null:
transformers raises. expressions.json: [[template, text or null], ...] over the variables in it. The time is fixed: 2025-07-26 03:20:00 (SOURCE_DATE_EPOCH
1753500000 in UTC).
"""
import argparse
import copy
import datetime
import json
import pathlib
import random

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
NOW = datetime.datetime(2025, 7, 26, 3, 20, 0)
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather <now> & \"soon\" for a place", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "where: Zürich, 北京"}, "days": {"type": "integer", "minimum": 1, "default": 3},
                                     "units": {"type": "string", "enum": ["C", "F"]}, "deep": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}}},
    "required": ["city"]}}}
TIME = {"type": "function", "function": {"name": "now", "description": "it's the time", "parameters": {"type": "object", "properties": {}}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments, **more):
    return {"role": "assistant", **more, "tool_calls": [{"id": "abc123def", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]}


def conversations():
    u, a, s = (lambda t, **k: say("user", t, **k)), (lambda t, **k: say("assistant", t, **k)), (lambda t, **k: say("system", t, **k))
    args = {"city": "Zürich", "days": 2, "f": 1.0, "no": None, "yes": True, "l": [1, "a'b\"c"]}
    return [
        {"name": "user", "messages": [u("Hi")]},
        {"name": "system", "messages": [s("Be brief."), u("Hi")]},
        {"name": "turns", "messages": [s(" sys \n"), u("a"), a(" b "), u("  c\n\n"), a("d"), u("e")]},
        {"name": "no_system", "messages": [u("Hello there, what is <b>this</b> & \"that\"?"), a("It's 'fine'."), u("And\tnow?\r\nok")]},
        {"name": "unicode", "messages": [s("Sprich Deutsch: äöüß"), u("你好 \U0001f600 naïve\u00a0café"), a("Über \u2028 Straße"), u("ÉTÉ ﬁn")]},
        {"name": "empty", "messages": [s(""), u(""), a(""), u("")]},
        {"name": "think", "messages": [u("q1"), a("<think>\nfirst\n</think>\n\nanswer 1"), u("q2"), a("<think>\n\n</think>\n\nanswer 2\n")]},
        {"name": "reasoning", "messages": [u("q"), a("done", reasoning_content="\nbecause\n"), u("r"), a("x", reasoning="why", name="bot", annotations=[])]},
        {"name": "thinking_off", "messages": [s("/no_think Be kind."), u("q")], "arguments": {"enable_thinking": False, "thinking": True, "date_string": "1 Jan 2001"}},
        {"name": "tools", "messages": [u("Weather?")], "tools": [WEATHER, TIME]},
        {"name": "tool_calls", "messages": [s("Use tools."), u("Weather?"), call(args, content=None), say("tool", "{\"t\": 21}", tool_call_id="abc123def"), a("21 degrees."), u("Thanks")],
         "tools": [WEATHER]},
        {"name": "tool_string", "messages": [u("Weather?"), call("{\"city\": \"Bern\"}", content=""), say("tool", "cold", tool_call_id="abc123def"), say("tool", "very", tool_call_id="abc123def")],
         "tools": [WEATHER]},
        {"name": "parts", "messages": [s([{"type": "text", "text": "sys "}]), u([{"type": "text", "text": " look "}, {"type": "image"}, {"type": "text", "text": "here"}]), a("yes")]},
        {"name": "wrong_turns", "messages": [a("first"), u("one"), u("two"), say("developer", "x")]},
        {"name": "two_systems", "messages": [s("x"), s("y"), u("z")]},
        {"name": "documents", "messages": [u("Ask the papers")], "arguments": {"documents": [{"doc_id": 1, "title": "T1", "text": "body \"one\""}, {"doc_id": 2, "title": "T2", "text": "two"}],
                                                                               "controls": {"length": "short"}}},
        {"name": "long", "messages": [x for i in range(12) for x in (u(f"question {i}"), a(f"answer {i} " + "word " * i))]},
        {"name": "specials", "messages": [u("</s> <s>[INST] x [/INST] <|im_end|>\n<|im_start|>system\n{{ 1 + 1 }} {% raw %}")]},
        {"name": "prefill", "messages": [u("Count"), a("One, two,  \n")]},
        {"name": "prefill_parts", "messages": [u("Count"), a([{"type": "text", "text": "One"}, {"type": "image"}])]},
        {"name": "prefill_think", "messages": [u("q"), a("<think>\nso far")]},
    ]


def fnv1a(text):
    h = 0xCBF29CE484222325
    for b in text.encode():
        h = (h ^ b) * 0x100000001B3 % (1 << 64)
    return f"{h:016x}"


def render(tok, conv, mode):
    try:
        return tok.apply_chat_template(conv["messages"], tools=conv.get("tools"), tokenize=False, add_generation_prompt=mode == 1, continue_final_message=mode == 2,
                                       **conv.get("arguments", {}))
    except Exception:
        return None


VARIABLES = {"i": 7, "j": -3, "z": 0, "f": 2.5, "g": -0.1, "big": 1e17, "t": True, "n": None, "s": "Hello, wörld 𝄞", "e": "", "sp": "  a b\t\nc  ", "q": "it's \"x\"\\", "d3": "12",
             "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "m": {"a": 1, "b": {"c": [1, 2, {"d": "e"}]}, "items": 5, "k y": None}, "el": [], "em": {},
             "rows": [{"n": "x", "v": 2, "on": True}, {"n": "Y", "v": 1}, {"n": "z", "v": 3, "on": False}]}


def expressions(seed, count):
    """Random expressions over VARIABLES, and statements around them; what Python 3.11 and 3.13 differ in is left out."""
    rng = random.Random(seed)
    names = list(VARIABLES) + ["nothing"]
    literals = ["1", "0", "-2", "10", "2.0", "0.5", "1e3", "'a'", "'A b'", "''", "\"q'\"", "'\\n'", "true", "false", "none", "[1, 2]", "['a', 'b']", "(1, 'x')", "{'a': 1}", "[]", "{}"]
    filters = ["trim", "upper", "lower", "title", "capitalize", "length", "string", "int", "float", "list", "first", "last", "sort", "reverse|list", "unique|list", "join(',')", "tojson",
               "tojson(indent=2)", "abs", "round", "round(1)", "default('d')", "default('d', true)", "items|list", "dictsort", "map('upper')|list", "map('string')|join('-')", "max", "min",
               "sum", "replace('l', 'LL')", "replace('a', '', 1)", "indent", "indent(2, true)", "escape", "e", "safe", "select|list", "reject('odd')|list", "select('string')|list",
               "map(attribute='n')|list", "selectattr('on')|list", "selectattr('v', 'gt', 1)|list", "rejectattr('on', 'defined')|list", "sort(attribute='v')", "sort(reverse=true)",
               "sum(attribute='v')", "join('/', attribute='n')", "map(attribute='on', default='?')|list", "count", "d(0)", "wordcount", "tojson(ensure_ascii=true)", "map('abs')|list",
               "dictsort(by='value')", "unique(attribute='on')|list", "format(1, 'b')", "trim('a ')", "tojson(separators=(',', ':'), sort_keys=true)"]
    tests = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "odd", "even", "lower", "upper",
             "divisibleby 2", "eq 7", "ne 1", "gt 1", "lt(3)", "in [1, 7, 'a']", "callable", "sameas none", "equalto('a')", "ge 2", "le 2"]
    methods = ["upper()", "lower()", "strip()", "split()", "split('l')", "split(' ', 1)", "rsplit('l', 1)", "splitlines()", "startswith('H')", "endswith(('d', 'c'))", "replace('l', '-')",
               "title()", "capitalize()", "find('l')", "rfind('l')", "index('o')", "count('l')", "join(ls)", "isdigit()", "isalpha()", "isspace()", "isupper()", "islower()", "items()", "keys()",
               "values()", "get('a')", "get('zz', 9)", "append(1)", "pop()", "copy()", "lstrip('H ')", "rstrip()", "format(1)", "partition(',')", "rpartition('l')", "removeprefix('He')",
               "removesuffix('c')", "a", "b.c", "items", "zz", "0", "update({})", "strip('\\n ')", "strip(none)", "splitlines(true)", "isalnum()", "replace('', '.')", "count('')"]
    subs = ["[0]", "[-1]", "[9]", "['a']", "['items']", "['b']['c'][2]['d']", "[1:]", "[:-1]", "[::-1]", "[::2]", "[5:1:-2]", "['upper']", "[true]", "[1.0]", "[none]", "[-2:]", "[:2]"]
    ops = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or", "**"]

    def atom():
        return rng.choice(names) if rng.random() < 0.65 else rng.choice(literals)

    def expr(depth):
        r = rng.random()
        if depth <= 0 or r < 0.08:
            return atom()
        if r < 0.30:
            return f"{expr(depth - 1)} {rng.choice(ops)} {expr(depth - 1)}"
        if r < 0.50:
            return f"{expr(depth - 1)}|{rng.choice(filters)}"
        if r < 0.60:
            return f"{expr(depth - 1)} is {'not ' if rng.random() < 0.3 else ''}{rng.choice(tests)}"
        if r < 0.74:
            return f"{atom()}.{rng.choice(methods)}"
        if r < 0.84:
            return f"{atom()}{rng.choice(subs)}"
        if r < 0.88:
            return f"({expr(depth - 1)})"
        if r < 0.91:
            return f"not {expr(depth - 1)}"
        if r < 0.94:
            return f"{expr(depth - 1)} if {expr(depth - 1)} else {expr(depth - 1)}"
        if r < 0.96:
            return f"-{expr(depth - 1)}"
        if r < 0.98:
            return f"[{expr(depth - 1)}, {expr(depth - 1)}]"
        return f"{{{rng.choice(literals[:11])}: {expr(depth - 1)}}}"

    def template():
        r, e = rng.random(), expr
        ws = lambda: rng.choice(["", "", "-", "+"])
        gap = lambda: rng.choice(["", " ", "\n", "\n  ", "  \n\n", "\t", "x"])
        if r < 0.75:
            return "{{ " + e(3) + " }}"
        if r < 0.83:
            return f"{gap()}{{%{ws()} for x in {e(1)} {rng.choice(['', 'if x', 'if x is string'])} {ws()}%}}{gap()}{{{{ loop.index }}}}{{{{ x }}}}{rng.choice(['', '{% if loop.first %}{% continue %}{% endif %}', '{% if loop.index > 2 %}{% break %}{% endif %}'])}{gap()}{{%{ws()} else {ws()}%}}none{{%{ws()} endfor {ws()}%}}{gap()}end"
        if r < 0.91:
            return f"{gap()}{{%{ws()} if {e(2)} {ws()}%}}{gap()}a{gap()}{{%{ws()} elif {e(1)} {ws()}%}}b{gap()}{{%{ws()} else {ws()}%}}{gap()}c{{%{ws()} endif {ws()}%}}{gap()}z{gap()}"
        if r < 0.95:
            return f"{{% set x = {e(2)} %}}{{% set y %}}{gap()}{{{{ x }}}}{gap()}{{% endset %}}[{{{{ y }}}}]{gap()}{{#{ws()} c {ws()}#}}{gap()}{{{{ y|length }}}}"
        if r < 0.98:
            return f"{{% macro f(a, b={e(1)}) %}}<{{{{ a }}}}:{{{{ b }}}}>{{% endmacro %}}{{{{ f({e(1)}) }}}}{{{{ f({e(1)}, b={e(0)}) }}}}{{{{ f() }}}}"
        return f"{{% set ns = namespace(x={e(1)}) %}}{{% for v in [1, 2] %}}{{% set ns.x = {e(1)} %}}{{% endfor %}}{{{{ ns.x }}}}"

    out = []
    while len(out) < count:
        t = template()
        try:
            text = chat_template_utils._cached_compile_jinja_template(t).render(**copy.deepcopy(VARIABLES))
        except Exception:
            if rng.random() < 0.8:  # errors are many; some are kept
                continue
            text = None
        if text is not None and (len(text) > 400 or " at 0x" in text or "<class" in text):
            continue
        out.append([t, text])
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/chat"))
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    chat_template_utils.datetime = type("clock", (), {"now": staticmethod(lambda: NOW)})
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "<unk>": 2, "<pad>": 3}, [])), **SPECIAL)
    results, texts, talks, n = {}, {}, conversations(), 0
    for path in sorted(a.out.glob("*.jinja")):
        tok.chat_template = path.read_bytes().decode()
        rows = results[path.stem] = []
        for k, conv in enumerate(talks):
            for mode in (0, 1, 2):
                if mode == 2 and conv["messages"][-1]["role"] != "assistant":
                    continue
                text = render(tok, conv, mode)
                rows.append([k, mode, None if text is None else fnv1a(text)])
                n += 1
                if text is not None and len(text) < 1200 and (conv["name"], mode) in {("turns", 1), ("tool_calls", 1), ("prefill", 2)}:
                    texts[f"{path.stem}/{k}/{mode}"] = text
    (a.out / "cases.json").write_text(json.dumps({"special": SPECIAL, "conversations": talks, "results": results, "texts": texts}, ensure_ascii=False, separators=(",", ":")))
    exprs = expressions(a.seed, 3000)
    (a.out / "expressions.json").write_text(json.dumps({"variables": VARIABLES, "cases": exprs}, ensure_ascii=False, separators=(",", ":")))
    print(f"{len(results)} templates, {n} renderings ({sum(r[2] is None for v in results.values() for r in v)} errors), {len(texts)} texts, {len(exprs)} expressions "
          f"({sum(x[1] is None for x in exprs)} errors)")


main()
