#!/usr/bin/env python3
"""Conversations of a model with given prompts, as JSON lines that --text and --ppl read.

An instruct model is used in its own chat template, so that text in this template belongs to what a quantized model is
judged by. This script starts `kronq serve`, sends each prompt as a user's message, and writes
{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]} for each answer. The same seed gives the same file.

    scripts/make_conversations.py build/release/kronq MODEL --prompts ifeval.jsonl --field prompt -o conversations.jsonl
"""

import argparse
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def ask(url, prompt, args, seed):
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "seed": seed,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("program")
    p.add_argument("model")
    p.add_argument("--prompts", required=True, help="JSON lines")
    p.add_argument("--field", default="prompt", help="the member of a line that is the prompt (default: prompt)")
    p.add_argument("--skip", type=int, default=0, help="prompts to leave out at the beginning")
    p.add_argument("--limit", type=int, default=50, help="prompts to use (default: 50)")
    p.add_argument("--max-tokens", type=int, default=256, help="of an answer (default: 256)")
    p.add_argument("--temperature", type=float, default=1.0, help="default: 1, the model's own distribution")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--slots", type=int, default=8, help="answers at once (default: 8)")
    p.add_argument("-o", "--output", required=True)
    args = p.parse_args()
    lines = Path(args.prompts).read_text(encoding="utf-8").splitlines()[args.skip : args.skip + args.limit]
    prompts = [json.loads(line)[args.field] for line in lines]
    command = [args.program, "serve", args.model, "--port", "0", "--slots", str(args.slots), "--quiet", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready = server.stdout.readline()
        if not ready:
            sys.exit(f"{' '.join(command)}: it did not start")
        url = json.loads(ready)["url"]
        with ThreadPoolExecutor(args.slots) as pool:
            answers = list(pool.map(lambda i: ask(url, prompts[i], args, args.seed * 1000000 + i), range(len(prompts))))
    finally:
        server.terminate()
        server.wait()
    with open(args.output, "w", encoding="utf-8") as f:
        for prompt, answer in zip(prompts, answers):
            messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
            f.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
