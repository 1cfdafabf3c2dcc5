#!/usr/bin/env python3
"""Golden files for the tokenizer, and its side files (tests/tokenizer, tests/tokenizer_files).

    python scripts/make_golden_tokenizers.py tests/golden [MODEL.gguf]

Writes tokenizer_<family>.json (small vocabularies trained here on generated text, with the settings of the real families),
tokenizer_text.bin (mixed text, a little of it invalid UTF-8), tokenizer_<family>.ids (uint16, little endian: what the
`tokenizers` package gives for that text), tokenizer_cases.json (short cases with ids and decoded text). With SmolLM2's GGUF also tokenizer_real.ids, from a tokenizer put together here from the
file's vocabulary and merges, as Hugging Face's SmolLM2 tokenizer.json has them. Seed 7 throughout; nothing is downloaded.
"""
import collections
import json
import pathlib
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

WORDS = """the of and to in is that it was for on are as with they be at one have this from or had by hot but some what there
we can out other were all your when up use word how said an each she which do their time if will way about many then them would
write like so these her long make thing see him two has look more day could go come did my sound no most number who over know
water than call first people may down side been now find any new work part take get place made live where after back little only
round man year came show every good me give our under name very through just form much great think say help low line before turn
cause same mean differ move right boy old too does tell sentence set three want air well also play small end put home read hand
port large spell add even land here must big high such follow act why ask men change went light kind off need house picture try
us again animal point mother world near build self earth father quantize weight matrix curvature gradient Kronecker factor trellis
tokenizer model layer attention perplexity""".split()
CHINESE = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从"
CODE = [
    "def f(x, y=3):\n    return x ** 2 + y  # squares\n\n\n",
    "for (size_t i = 0; i < n; i++) {\n\tsum += a[i] * b[i];\n}\n",
    "if err != nil {\n\t\treturn nil, fmt.Errorf(\"open %q: %w\", path, err)\n}\r\n",
    "SELECT id, name FROM users WHERE age >= 18 AND name LIKE '%o''b%';\n",
    "<div class=\"a b\">&nbsp;<!-- x --></div>\n", "{\"key\": [1, 2.50, -3e-7, null, true]}\n",
    "x = {'it''s': \"we've\", 'I\\'LL': r'\\d+\\s*'}\n", "    " * 5 + "pass\n", "$ ls -la ~/.config/*.toml | grep -v '^#' && echo $?\n",
]
MARKS = ["e\u0301", "a\u0308\u0323", "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651\u0629", "\u0928\u092e\u0938\u094d\u0924\u0947",
         "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\uac00\u11a8", "Z\u0351\u036b\u0343", "\u212b \u2126 \ufb01", "q\u0307\u0323", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22"]
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f3f3\ufe0f\u200d\U0001f308",
         "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "1\ufe0f\u20e3"]
SPACES = ["\u00a0", "\t", "\r\n", "\n\n\n", "   ", "\u3000", "\u2003\u2009", " \n \n", "\t\t \t", "\u180e", "\u0085", "\u2028", "\u200b", "\x0b\x0c",
          " \u00a0 ", "\x1c", "\x00", "\ufeff", "\r", " " * 70, "\n" * 40]
NUMBERS = ["3.14159", "1,234,567", "2026-11-23T00:37:59Z", "007", "\u0663\u0664\u0665", "\u2167", "\u00bd", "x\u00b2", "0xDEADBEEF", "1" * 45, "\uff11\uff12", "\u2460"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "<think>", "</think>",
           "<0x41>", "<|im_start", "<|im_start|>user\n", " <|r|>  x", "x  <|l|> y", "wordy", "wordy9", " wordy ", "<|r|>\n\n<|l|>", "\u2581", "\u2581\u2581a", "caf\u00e9token", "cafe\u0301token"]
ODD = ["it's", "IT'S", "they'LL", "I\u2019ve", "'\u017f", "we'\u017f", "don't've", "Stra\u00dfe", "\u0130stanbul", "na\u00efve", "\u01c5", "\u2019s", "--", "...", "\u2026", "?!?!", "a_b_c",
       "\u03b1\u03b2\u03b3", "\u0416\u0438\u0437\u043d\u044c", "\u3053\u3093\u306b\u3061\u306f", "\ud55c\uad6d\uc5b4", "\u200d", "\ufe0f", "\U000e0041", "\u02b0", "\u00aa", "\u2c7c", "x" * 90, "ab" * 60, "=" * 77]
BAD = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80"]


def sentence(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(3, 14))]
    if rng.random() < 0.5:
        words[0] = words[0].capitalize()
    for i in range(len(words)):
        if rng.random() < 0.08:
            words[i] += rng.choice([",", ";", ":", "'s", "n't", "'re"])
    return " ".join(words) + rng.choice([". ", "! ", "? ", ".\n", " - "])


def mixed(rng, size):
    out = bytearray()
    while len(out) < size:
        r = rng.random()
        if r < 0.40:
            s = sentence(rng)
        elif r < 0.50:
            s = rng.choice(CODE)
        elif r < 0.60:
            s = "".join(rng.choice(CHINESE) for _ in range(rng.randint(2, 18))) + rng.choice(["\u3002", "\uff0c", "", " "])
        else:
            s = "".join(rng.choice(rng.choice([MARKS, EMOJI, SPACES, NUMBERS, SPECIAL, ODD])) + rng.choice(["", " ", ""]) for _ in range(3))
        out += s.encode()
        if rng.random() < 0.02:
            out += rng.choice(BAD)
        if rng.random() < 0.02:
            out += chr(rng.choice([rng.randint(0xa0, 0x24f), rng.randint(0x300, 0xd7ff), rng.randint(0xe000, 0xffff), rng.randint(0x10000, 0x1ffff)])).encode()
    return bytes(out)


def special(*names):
    return [AddedToken(n, special=True, normalized=False) for n in names]


def byte_level(train, vocab, specials, pre, norm=None, post=None, ignore_merges=False):
    tok = Tokenizer(models.BPE())
    tok.normalizer = norm
    tok.pre_tokenizer = pre
    tok.train_from_iterator(train, trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    state = json.loads(tok.to_str())
    state["model"]["ignore_merges"] = ignore_merges
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.ByteLevel()
    if post:
        tok.post_processor = post
    return tok


def llama2(train, vocab, metaspace):
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    tok = Tokenizer(models.BPE(unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    counts = collections.Counter("".join(train).replace(" ", "\u2581"))  # the 180 commonest: `tokenizers` breaks ties at random
    alphabet = sorted(counts, key=lambda c: (-counts[c], c))[:180]
    tok.train_from_iterator(train, trainers.BpeTrainer(vocab_size=vocab, special_tokens=names, initial_alphabet=alphabet, limit_alphabet=180,
                                                       show_progress=False))
    state = json.loads(tok.to_str())
    tok = Tokenizer(models.BPE(state["model"]["vocab"], [tuple(m) for m in state["model"]["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.add_special_tokens(special("<unk>", "<s>", "</s>"))
    chain = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if metaspace:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence(chain)
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok


def families():
    rng = random.Random(7)
    train = [mixed(rng, 3000).decode("utf-8", "replace") for _ in range(60)] + ["".join(sentence(rng) for _ in range(20)) for _ in range(60)]
    bl = pre_tokenizers.ByteLevel
    split = lambda re: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(re), "isolated"), bl(add_prefix_space=False, use_regex=False)])
    out = {}
    out["smollm"] = byte_level(train, 2000, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
                               pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bl(add_prefix_space=False)]))
    tok = byte_level(train, 2000, [], split(LLAMA3), ignore_merges=True)
    tok.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tok.token_to_id("<|begin_of_text|>"))])])
    out["llama3"] = tok
    tok = byte_level(train, 2000, [], split(QWEN), norm=normalizers.NFC(), post=processors.ByteLevel(trim_offsets=False))
    tok.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False), AddedToken("<|r|>", rstrip=True, normalized=False),
                    AddedToken("<|l|>", lstrip=True, normalized=False), AddedToken("wordy", single_word=True, normalized=False),
                    AddedToken("caf\u00e9token", normalized=True)])
    out["qwen"] = tok
    out["llama2"] = llama2(train, 2000, False)
    out["llama2_metaspace"] = llama2(train, 2000, True)
    return out


def spm(base):
    """The LLaMA-2 tokenizer as transformers makes it from a sentencepiece model: from the pieces' scores, without the list of merges.
    The C test puts the same vocabulary and scores into a GGUF."""
    from transformers.convert_slow_tokenizer import generate_merges
    state = json.loads(base.to_str())
    vocab = state["model"]["vocab"]
    scores = [(piece, float(-(i // 2))) for piece, i in vocab.items() if i >= 259]  # every score twice: ties are part of the test
    state["model"]["merges"] = [list(m) for m in generate_merges(vocab, scores, skip_tokens=[p for p, i in vocab.items() if i < 259])]
    return Tokenizer.from_str(json.dumps(state))


def real(gguf_path):
    import gguf
    fields = gguf.GGUFReader(gguf_path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(special(*[t for t, k in zip(tokens, types) if k == 3]))
    return tok


def pack(ids):
    return struct.pack(f"<{len(ids)}H", *ids)


def fnv(text):
    h = 0xcbf29ce484222325
    for b in text.encode():
        h = (h ^ b) * 0x100000001b3 % 2 ** 64
    return f"{h:016x}"


def cases(tok, rng):
    texts = [b"", b" ", b"  ", b"\n", b"a", b" a", b"a ", "\u2581".encode(), "\u2581 a".encode(), b"Hello world", b"hello  world\n\n\nbye", b"<s>", b"<s> a", b"a<s>", b" <s> ",
             b"<s></s>x", b"<|im_start|>user\nHi<|im_end|>\n", b"x <|im_end|> y", b"\xff\xfe", b"\xe2\x82", b"12345 678", b"\x00", b"\x00a\x00",
             "\U0001f468\u200d\U0001f469\u200d\U0001f467".encode(), "cafe\u0301 caf\u00e9".encode(), b"it's IT'S they'll", b"\t\tx", b"a\r\nb", b"wordy wordyx xwordy wordy.",
             b"  <|l|>  <|r|>  z", b"<|r|><|l|>", "e\u0301<think>\u0301".encode(), "caf\u00e9token cafe\u0301token".encode(), b"a" * 300, b" " * 300, b"\n" * 100, ("\u4e2d" * 40).encode()]
    texts += [mixed(rng, rng.randint(5, 60)) for _ in range(60)]
    out = []
    for raw in texts:
        text = raw.decode("utf-8", "replace")
        tok.encode_special_tokens = False
        ids = tok.encode(text).ids
        bare = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = True
        plain = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        out.append({"hex": raw.hex(), "ids": ids, "bare": bare, "plain": plain, "decoded": tok.decode(ids, skip_special_tokens=False),
                    "decoded_skip": tok.decode(ids, skip_special_tokens=True)})
    return out


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    text = mixed(random.Random(7), 110000)
    (out / "tokenizer_text.bin").write_bytes(text)
    decoded = text.decode("utf-8", "replace")
    toks = families()
    expect = {}
    toks["spm"] = spm(toks["llama2"])
    if len(sys.argv) > 2:
        toks["real"] = real(sys.argv[2])
    for name, tok in toks.items():
        if name not in ("real", "spm"):
            state = json.loads(tok.to_str())
            (out / f"tokenizer_{name}.json").write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")))
        ids = tok.encode(decoded).ids
        (out / f"tokenizer_{name}.ids").write_bytes(pack(ids))
        expect[name] = {"decoded": fnv(tok.decode(ids, skip_special_tokens=False)), "decoded_skip": fnv(tok.decode(ids, skip_special_tokens=True)),
                        "cases": cases(tok, random.Random(8))}
    (out / "tokenizer_cases.json").write_text(json.dumps(expect, separators=(",", ":")))


main()
