#!/usr/bin/env python3
"""Hash everything that the program writes, so that a change which should change nothing can prove it.

    python3 scripts/referee.py build/release/kronq > before.txt      # before the change
    python3 scripts/referee.py build/release/kronq > after.txt       # after it
    diff before.txt after.txt

One line an artifact: its name, and the first 16 digits of SHA-256 of its bytes. The commands run on the tiny models of tests/golden/tiny_cli, once for each
instruction set that this processor has (ref, avx2, avx512) and for 1 and 2 threads. The same instruction set gives the same bytes for any number of threads, so the
two lines of a pair are compared here too: a difference ends the run with status 1. Figures that differ from run to run (seconds, peak memory, paths, dates) are
taken out before hashing. The reference kernels are slow, so with ref only one module of each shape is rounded. Needs Python 3.9 and nothing else.
"""
import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "golden" / "tiny_cli"
METHODS = ["flipflop", "fastkron", "yaqa-a", "yaqa-b", "kfac", "flipflop-tokens", "input-only", "diag"]
# Keys of JSON whose values depend on the machine's speed or memory, or say when and where the program ran.
VOLATILE = re.compile(r"(.*seconds|.*_s|.*_per_second|.*peak.*|.*rss.*|memory.*|planned.*|created|time.*|elapsed|.*_ms|disk_bytes|id|version|path)$")


def scrub(value):
    if isinstance(value, dict):
        return {k: scrub(v) for k, v in sorted(value.items()) if not VOLATILE.match(k)}
    if isinstance(value, list):
        return [scrub(v) for v in value]
    return value


# kronq's version stands in checkpoints, factor files and reports. Here it is always written as this one, so that versions can be compared. main() sets VERSION.
ANY_VERSION, VERSION = b"0.1.0", b"0.1.0"


def digest(data):
    return hashlib.sha256(data.replace(VERSION, ANY_VERSION)).hexdigest()[:16]


def digest_json(data):
    try:
        return digest(json.dumps(scrub(json.loads(data)), sort_keys=True).encode())
    except ValueError:
        return "not-json-" + digest(data)


def digest_tree(folder):
    """All files of a checkpoint. The model card says seconds and the date, so only its name counts."""
    h = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        h.update(str(file.relative_to(folder)).encode())
        if file.name != "README.md":
            h.update(file.read_bytes().replace(VERSION, ANY_VERSION))
    return h.hexdigest()[:16]


class Referee:
    def __init__(self, kronq, work):
        self.kronq, self.work, self.lines = kronq, work, {}

    def run(self, *words, ok=True):
        p = subprocess.run([self.kronq, *map(str, words)], cwd=self.work, capture_output=True, timeout=600)
        if ok and p.returncode:
            sys.exit(f"referee: status {p.returncode}: {' '.join(map(str, words))}\n{p.stderr.decode()}")
        return p

    def note(self, name, value):
        self.lines[name] = value

    # ---- what is written ----

    def quantize(self, tag, how):
        cal = ["--text", TINY / "text.txt", "--seq-len", "32", "--tokens", "512", "--seed", "3"]
        if tag.startswith("ref"):
            cal += ["--only", r"layers\.(0\.self_attn\.k|2\.mlp\.down)_proj"]
        for name, words in [("2-hyb", ["--bits", "2"]), ("2-1mad", ["--bits", "2", "--code", "1mad"]), ("3-3inst", ["--bits", "3", "--code", "3inst"]),
                            ("2-mul1", ["--bits", "2", "--code", "mul1"]), ("4-mcg", ["--bits", "4", "--code", "mcg"]),
                            ("2.5-hyb", ["--bits", "2.5"])]:
            out = self.work / "out"
            report = self.run("quantize", TINY / "hf", "-o", out, *cal, *words, "--json", "--quiet", *how).stdout
            self.note(f"{tag} quantize {name}", digest_tree(out))
            self.note(f"{tag} quantize {name} report", digest_json(report))
            if name == "2-hyb":
                self.after_quantize(tag, out, how)
            shutil.rmtree(out)
        self.run("quantize", TINY / "odd", "-o", self.work / "odd", *cal[:8], "--bits", "3", "--only", "[kv]_proj", "--quiet", *how)
        self.note(f"{tag} quantize odd", digest_tree(self.work / "odd"))
        shutil.rmtree(self.work / "odd")
        self.run("quantize", TINY / "hf", "-o", self.work / "self", "--seq-len", "32", "--tokens", "512", "--seed", "3", "--only", r"layers\.2\..*[kv]_proj", "--quiet", *how)
        self.note(f"{tag} quantize self-text", digest_tree(self.work / "self"))
        shutil.rmtree(self.work / "self")
        for kind in "Q4_0", "Q4_K_M":
            out = self.work / "out.gguf"
            self.run("quantize", TINY / "model.gguf", "--to", "gguf", "--type", kind, "--fallback", "F16", "-o", out, *cal, "--quiet", *how)
            self.note(f"{tag} gguf {kind}", digest(out.read_bytes()))
            out.unlink()

    def after_quantize(self, tag, out, how):
        """What reads a checkpoint: exports, eval, run."""
        for name, words, suffix in [("bf16", ["--to", "bf16"], ""), ("gguf", ["--to", "gguf", "--type", "F16"], ".gguf")]:
            target = self.work / f"export{suffix}"
            self.run("export", out, *words, "-o", target, "--quiet")
            self.note(f"{tag} export {name}", digest(target.read_bytes()) if suffix else digest_tree(target))
            target.unlink() if suffix else shutil.rmtree(target)
        p = self.run("eval", out, "--ppl", TINY / "text.txt", "--ctx", "48", "--chunks", "4", "--kld", TINY / "hf", "--json", "--quiet", *how)
        result = json.loads(p.stdout)
        for key in "model", "reference", "text":
            result.pop(key, None)
        self.note(f"{tag} eval", digest_json(json.dumps(result)))
        p = self.run("run", out, "-p", "the water", "-n", "8", "--seed", "5", "--json", "--quiet", "--compute", "f32", *how)
        self.note(f"{tag} run", digest_json(p.stdout.replace(str(self.work).encode(), b"WORK")))

    def calibrate(self, tag, how):
        cal = ["--text", TINY / "text.txt", "--seq-len", "32", "--tokens", "512", "--seed", "3", "--only", r"layers\.(0|2)\.", "--quiet", *how]
        out = self.work / "factors.safetensors"
        ways = [(m, ["--method", m]) for m in METHODS] + [(f"flipflop {g}", ["--gradients", g]) for g in ("memory", "disk", "stream")] + [
            ("flipflop sampled", ["--labels", "sampled"]), ("flipflop bf16", ["--factor-dtype", "bf16"])]
        for name, words in ways:
            self.run("calibrate", TINY / "hf", "-o", out, *cal, *words)
            self.note(f"{tag} calibrate {name}", digest(out.read_bytes()))
            out.unlink()
        out = self.work / "imatrix.gguf"
        self.run("imatrix", TINY / "model.gguf", "-o", out, *cal[:-len(how) or None], *how)
        self.note(f"{tag} imatrix", digest(out.read_bytes()))
        out.unlink()

    def compare(self, tag, how):
        out = self.work / "cmp"
        self.run("compare", TINY / "hf", "-o", out, "--methods", "flipflop,input-only,none", "--bits", "2,3", "--text", TINY / "text.txt", "--seq-len", "32", "--tokens",
                 "512", "--only", r"layers\.1\..*[kv]_proj", "--ppl", TINY / "text.txt", "--ctx", "48", "--chunks", "3", "--quiet", *how)
        self.note(f"{tag} compare", digest_json((out / "table.json").read_bytes()))
        self.run("report", out, "--quiet")
        page = (out / "report.html").read_text()
        # times and memory stand in the page as numbers, so only its skeleton is compared: elements, classes and words
        self.note(f"{tag} report", digest(re.sub(r"[-+]?[0-9][0-9.,e+-]*", "#", page).encode()))
        shutil.rmtree(out)

    def serve(self, tag, how):
        p = subprocess.Popen([self.kronq, "serve", str(TINY / "hf"), "--port", "0", "--compute", "f32", "--kv", "f32", "--model-name", "m", *how],
                             cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            port, until = None, time.monotonic() + 30
            while port is None and time.monotonic() < until:
                found = re.search(r"://[^ ]*:(\d+)", p.stdout.readline())
                port = found and int(found.group(1))
            if port is None:
                sys.exit("referee: kronq serve did not say its port")
            chat = [{"role": "user", "content": "the water"}]
            for name, path, body in [
                    ("completion", "/v1/completions", {"prompt": "Out know", "max_tokens": 8, "temperature": 0, "logprobs": 3, "echo": True}),
                    ("completion drawn", "/v1/completions", {"prompt": ["the", "of the"], "max_tokens": 8, "temperature": 1, "seed": 7}),
                    ("chat", "/v1/chat/completions", {"messages": chat, "max_tokens": 8, "temperature": 0}),
                    ("tokenize", "/tokenize", {"prompt": "Out know the water"}),
                    ("tokenize chat", "/tokenize", {"messages": chat})]:
                request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
                self.note(f"{tag} serve {name}", digest_json(urllib.request.urlopen(request, timeout=60).read()))
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(30)

    def messages(self):
        """Status and message of bad input. Paths of the working folder are relative, so they are the same everywhere."""
        (self.work / "empty.txt").write_text("")
        (self.work / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
        model = os.path.relpath(TINY / "hf", self.work)
        (self.work / "tiny").symlink_to(TINY / "hf")
        for words in (["eval", "nowhere", "--ppl", "x"], ["info", "bad.gguf"], ["quantize", "tiny", "-o", "no", "--text", "empty.txt"], ["quantize", "tiny", "-o", "no", "--bits", "7"],
                      ["quantize", "tiny"], ["eval", "tiny"], ["calibrate", "tiny", "-o", "f", "--method", "nonsense"], ["export", "tiny", "-o", "no", "--to", "pdf"],
                      ["report", "nowhere"], ["nonsense"], ["run", "tiny", "--top-k", "many"], ["imatrix", "tiny", "-o", "i.gguf", "--text", "gone.txt"]):
            p = self.run(*words, ok=False)
            text = p.stderr.replace(str(model).encode(), b"MODEL").replace(str(ROOT).encode(), b"ROOT")
            self.note("message " + " ".join(words), f"{p.returncode} {digest(p.stdout + text)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kronq", help="the program")
    parser.add_argument("--isa", default="ref,avx2,avx512", help="instruction sets, comma-separated; one that the processor lacks is left out and said")
    args = parser.parse_args()
    global VERSION
    kronq = str(pathlib.Path(args.kronq).resolve())
    VERSION = subprocess.run([kronq, "--version"], capture_output=True, check=True).stdout.split()[1]
    os.environ.update(OMP_WAIT_POLICY="passive", LC_ALL="C")
    os.environ.pop("KRONQ_ISA", None)
    differ = 0
    with tempfile.TemporaryDirectory() as work:
        referee = Referee(kronq, pathlib.Path(work))
        for isa in args.isa.split(","):
            p = referee.run("eval", TINY / "hf", "--ppl", TINY / "text.txt", "--ctx", "16", "--chunks", "1", "--isa", isa, "--quiet", ok=False)
            if p.returncode:
                print(f"referee: {isa} is left out: {p.stderr.decode().strip()}", file=sys.stderr)
                continue
            seen = []
            for threads in "1", "2":
                before = set(referee.lines)
                for step in referee.quantize, referee.calibrate, referee.compare, referee.serve:
                    step(f"{isa} {threads}t", ["--isa", isa, "--threads", threads])
                seen.append({k.replace(f" {threads}t", "", 1): v for k, v in referee.lines.items() if k not in before})
            for key in seen[0]:
                if seen[0][key] != seen[1][key]:
                    differ += 1
                    print(f"referee: 1 and 2 threads differ: {key}", file=sys.stderr)
        referee.messages()
        for name, value in referee.lines.items():
            print(f"{value}  {name}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
