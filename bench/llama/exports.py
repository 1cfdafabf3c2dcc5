#!/usr/bin/env python3
"""GGUF exports of a kronq checkpoint in stock llama.cpp: the same token ids, the same chat text, the same predictions.

    python bench/llama/exports.py CHECKPOINT --held-out FILE [--types F16,BF16,Q8_0]      (scripts/test_llama.sh runs it)

ids         llama-tokenize on the export against the stock `tokenizers` on the checkpoint's tokenizer.json: prose, code, digits, other scripts, odd bytes
chat        llama-completion's chat prompt (its own template engine on the export's template) against the checkpoint's template in transformers
perplexity  llama-perplexity on the export, and the KL divergence of the packed checkpoint in kronq to the logits that llama.cpp saved
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

TEXTS = ["The quick brown fox, 1234567 times; it's 3.14159.\n\n\tTabs  and   spaces ", "def f(x):\n    return x**2  # carré\n",
         "Grüße, Ελληνικά, русский, 中文字符, 日本語テキスト, العربية",
         "🙂👩‍👩‍👧‍👦 e\u0301 \u00a0\u200b<|im_start|>user\nhi<|im_end|>\n", "a" * 300 + " " * 40 + "\r\n\r\n" + "!?" * 50]


def command(*args, out: Path | None = None) -> str:
    done = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE if not out else subprocess.STDOUT, check=False)
    text = done.stdout.decode(errors="replace")
    if out:
        out.write_text(text)
    if done.returncode:
        sys.exit(f"status {done.returncode}: {' '.join(map(str, args))}\n{(done.stderr or done.stdout).decode(errors='replace')[-2000:]}")
    return text


def check(what: str, ok: bool, detail: str = "") -> bool:
    print(f"{'ok  ' if ok else 'FAIL'} {what} {detail}", flush=True)
    return ok


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", type=Path)
    p.add_argument("--held-out", required=True, type=Path)
    p.add_argument("--kronq", default="build/release/kronq")
    p.add_argument("--llama", default="build/llama.cpp", help="folder of scripts/build_llama.sh")
    p.add_argument("--work", default="build/test-llama", type=Path)
    p.add_argument("--types", default="F16,BF16,Q8_0")
    p.add_argument("--ctx", default=512, type=int)
    p.add_argument("--windows", default=10, type=int)
    p.add_argument("--threads", default=2, type=int)
    a = p.parse_args()
    llama = Path(a.llama) / "build" / "bin"
    a.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(a.checkpoint / "tokenizer.json"))
    chat = AutoTokenizer.from_pretrained(a.checkpoint)
    good = True
    for kind in a.types.split(","):
        export = a.work / f"export-{kind}.gguf"
        if not export.exists():
            command(a.kronq, "export", a.checkpoint, "--to", "gguf", "--type", kind, "-o", export, "--quiet")
        if kind == a.types.split(",")[0]:
            samples = TEXTS + [a.held_out.read_text(errors="replace")[:200000]]
            for i, text in enumerate(samples):
                file = a.work / "ids.txt"
                file.write_text(text, newline="")
                theirs = json.loads(command(llama / "llama-tokenize", "-m", export, "-f", file, "--ids", "--log-disable").strip().splitlines()[-1])
                ours = tokenizer.encode(text, add_special_tokens=True).ids
                good &= check(f"ids of text {i}", theirs == ours, f"{len(ours)} ids")
            messages = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "What is the capital of France?"}]
            text = command(llama / "llama-completion", "-m", export, "-cnv", "-st", "--jinja", "-sys", messages[0]["content"],
                           "-p", messages[1]["content"], "-n", 1, "--verbose-prompt", "--temp", 0, "-t", a.threads, "-c", 256, out=a.work / "chat.log")
            theirs = [int(i) for i in re.findall(r"^(?:[0-9.]+ I )?\s*(\d+) -> '", text, flags=re.M)]
            ours = chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
            good &= check("chat prompt", theirs == list(ours), f"{len(theirs)} ids, expected {len(ours)} (see {a.work}/chat.log)")
        base = a.work / f"export-{kind}.logits"
        log = command(llama / "llama-perplexity", "-m", export, "-f", a.held_out, "-c", a.ctx, "-b", a.ctx, "--chunks", a.windows, "-t", a.threads,
                      "--kl-divergence-base", base, out=a.work / f"export-{kind}.perplexity.log")
        theirs = float(re.search(r"Final estimate: PPL = ([0-9.]+)", log).group(1))
        r = json.loads(command(a.kronq, "eval", a.checkpoint, "--kld", base, "--json", "--quiet"))
        base.unlink()
        good &= check(f"{kind}: perplexity", abs(r["ppl"] / theirs - 1) < 0.005,
                      f"llama.cpp {theirs:.4f}, packed in kronq {r['ppl']:.4f} ({100 * (r['ppl'] / theirs - 1):+.3f}%), "
                      f"KL divergence {r['kld']:.2e}, same top token {r['top1']:.4f}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
