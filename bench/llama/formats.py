#!/usr/bin/env python3
"""kronq against llama-quantize on llama.cpp's own formats: the same type, the same text, KL divergence to the original.

    python bench/llama/formats.py [--originals dithered,q4_1] [--cells Q4_0,...] [--seeds 0] [--perplexity] (see --help; scripts/test_llama.sh runs it)

Each cell is an original (the model as it comes, on the Q4_1 grid; and a dithered one off every grid), a type, and a way to choose the tensors:
    pure      every linear in that type, the embedding as stored (llama-quantize --pure --token-embedding-type q8_0)
    mixture   llama-quantize's own mixture for the type, with its fall-backs where rows do not divide by 256
    ffn_down  the types of blocks of 256 where SmolLM2's rows allow them: ffn_down in that type, everything else as stored
llama-quantize gets the imatrix that llama-imatrix makes of the same text (chunks of 1024 tokens over seed s's third of the text: see `thirds`), kronq
its flipflop factors of the same tokens. Both files go through `kronq eval --kld` and, with --perplexity, llama-perplexity. Nothing is run twice: every
result is a file under --work.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

CELLS = {  # name: (kronq's arguments, llama-quantize's arguments before the files, its type)
    **{f"{t}": (["--type", t, "--pure", "--tensor-type", "token_embd=Q8_0"], ["--pure", "--token-embedding-type", "q8_0"], t)
       for t in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q8_0")},
    **{f"{t} mixture": (["--type", t, "--fallback", "llama"], [], t) for t in ("Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K", "Q5_K_M")},
    **{f"{t} ffn_down": (["--type", "IQ2_M" if t == "IQ2_S" else t, "--pure", "--tensor-type", "token_embd=Q8_0", "--only", r"mlp\.down_proj"],
                         ["--token-embedding-type", "q8_0", "--tensor-type", f"ffn_down={t}"], None)
       for t in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS")},
}
CHUNK = 1024


def run(command: list, log: Path, out: Path | None = None) -> float:
    start = time.monotonic()
    with open(log, "w") as f:
        f.write("$ " + " ".join(map(str, command)) + "\n")
        f.flush()
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE if out else f, stderr=f, check=False)
    if done.returncode:
        sys.exit(f"status {done.returncode}: see {log}")
    if out:
        part = out.with_name(out.name + ".part")
        part.write_bytes(done.stdout)
        part.rename(out)
    return time.monotonic() - start


class Bench:
    def __init__(self, a: argparse.Namespace):
        self.a, self.bin = a, Path(a.llama) / "build" / "bin"
        self.work = Path(a.work)
        self.work.mkdir(parents=True, exist_ok=True)

    def original(self, name: str, seed: int) -> Path:
        if name == "q4_1":
            return Path(self.a.model)
        path = self.work / f"dithered-{seed}.gguf"
        if not path.exists():
            run([sys.executable, Path(__file__).parents[2] / "scripts" / "make_dithered.py", self.a.model, path, "--seed", seed], self.work / f"{path.stem}.log")
        return path

    def text(self, seed: int) -> Path:
        """Seed s: the s-th of three pieces of the calibration text, cut at line ends, so that the seeds share no token."""
        whole = Path(self.a.calib).read_bytes()
        cuts = [0, *(whole.index(b"\n", len(whole) * k // 3) + 1 for k in (1, 2)), len(whole)]
        path = self.work / f"text-{seed}.txt"
        if not path.exists():
            path.write_bytes(whole[cuts[seed]:cuts[seed + 1]])
        return path

    def imatrix(self, name: str, seed: int) -> Path:
        path = self.work / f"{name}-{seed}.imatrix.gguf"
        if not path.exists():
            part = path.with_name("part-" + path.name)
            run([self.bin / "llama-imatrix", "-m", self.original(name, seed), "-f", self.text(seed), "-c", CHUNK, "-b", CHUNK, "--chunks", self.a.calib_chunks, "--no-ppl",
                 "-t", self.a.threads, "-o", part], self.work / f"{path.stem}.log")
            part.rename(path)
        return path

    def factors(self, name: str, seed: int) -> Path:
        path = self.work / f"{name}-{seed}.factors.safetensors"
        if not path.exists():
            run([self.a.kronq, "calibrate", self.original(name, seed), "-o", path, "--text", self.text(seed), "--tokens", CHUNK * self.a.calib_chunks, "--seq-len", CHUNK,
                 "--quiet", "--resume"], self.work / f"{path.stem}.log")
        return path

    def kronq(self, name: str, seed: int, cell: str) -> Path:
        path = self.work / f"kronq-{name}-{seed}-{cell.replace(' ', '-')}.gguf"
        if not path.exists():
            run([self.a.kronq, "quantize", self.original(name, seed), "--to", "gguf", *CELLS[cell][0], "--factors", self.factors(name, seed), "-o", path,
                 "--quiet", "--resume"], self.work / f"{path.stem}.log")
        return path

    def llama(self, name: str, seed: int, cell: str) -> Path:
        path = self.work / f"llama-{name}-{seed}-{cell.replace(' ', '-')}.gguf"
        if not path.exists():
            part = path.with_name("part-" + path.name)
            keep, kind = [], CELLS[cell][2]
            if not kind:  # the others as stored; with F16 as its type llama-quantize copies everything, whatever --tensor-type says
                kind = "Q4_1" if name == "q4_1" else "Q8_0"
                keep = [x for t in ("attn_", "ffn_gate", "ffn_up") for x in ("--tensor-type", f"{t}=f16")] if name == "dithered" else []
            run([self.bin / "llama-quantize", "--imatrix", self.imatrix(name, seed), "--allow-requantize", *CELLS[cell][1], *keep,
                 self.original(name, seed), part, kind, self.a.threads], self.work / f"{path.stem}.log")
            part.rename(path)
        return path

    def measure(self, path: Path, name: str, seed: int) -> dict:
        out = self.work / (path.stem + ".json")
        if not out.exists():
            run([self.a.kronq, "eval", path, "--ppl", self.a.held_out, "--kld", self.original(name, seed), "--chunks", self.a.windows, "--ctx", 2048,
                 "--json", "--quiet"], self.work / f"{path.stem}.eval.log", out)
        result = json.loads(out.read_text())
        result["bytes"] = path.stat().st_size
        if self.a.perplexity:
            log = self.work / (path.stem + ".perplexity.log")
            if not log.exists() or "Final estimate" not in log.read_text():
                run([self.bin / "llama-perplexity", "-m", path, "-f", self.a.held_out, "-c", 2048, "-b", 2048, "--chunks", self.a.windows,
                     "-t", self.a.threads], log)
            result["llama_ppl"] = float(log.read_text().split("Final estimate: PPL = ")[1].split()[0])
        return result


def table(rows: list) -> str:
    lines = ["| original | type | seed | bytes, kronq | llama-quantize | KLD, kronq | llama-quantize | ratio | PPL, kronq | llama-quantize |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for name, cell, seed, k, q in rows:
        ppl = [f"{r['ppl']:.3f}" + (f" ({r['llama_ppl']:.3f})" if "llama_ppl" in r else "") for r in (k, q)]
        lines.append(f"| {name} | {cell} | {seed} | {k['bytes']} | {q['bytes']} | {k['kld']:.5f} ± {k['kld_stderr']:.5f} | {q['kld']:.5f} ± {q['kld_stderr']:.5f} "
                     f"| {k['kld'] / q['kld']:.3f} | {ppl[0]} | {ppl[1]} |")
    return "\n".join(lines)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kronq", default="build/release/kronq")
    p.add_argument("--llama", default="build/llama.cpp", help="folder of scripts/build_llama.sh")
    p.add_argument("--model", default="models/SmolLM2-135M-Instruct.Q4_1.gguf")
    p.add_argument("--calib", required=True, help="calibration text, at least 3 x 98304 tokens")
    p.add_argument("--held-out", required=True, help="text for the KL divergence")
    p.add_argument("--work", default="build/test-llama")
    p.add_argument("--originals", default="dithered,q4_1")
    p.add_argument("--cells", default=",".join(CELLS), help="comma-separated: " + ", ".join(CELLS))
    p.add_argument("--seeds", default="0", help="of 0,1,2: thirds of the text, and the noise of the dithered original")
    p.add_argument("--calib-chunks", type=int, default=96, help="of 1024 tokens, of each seed's third of the text, in both tools (results are kept by seed: another "
                   "number needs another --work)")
    p.add_argument("--windows", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--perplexity", action="store_true", help="llama-perplexity too")
    p.add_argument("--bar", type=float, default=0.75, help="every pure Q4_0 cell must stay below this ratio")
    a = p.parse_args()
    bench, rows = Bench(a), []
    for name in a.originals.split(","):
        for seed in map(int, a.seeds.split(",")):
            for cell in a.cells.split(","):
                if name == "q4_1" and cell == "Q4_1":
                    continue  # the original itself
                rows.append((name, cell, seed, *(bench.measure(f(name, seed, cell), name, seed) for f in (bench.kronq, bench.llama))))
                (bench.work / "table.md").write_text(table(rows) + "\n")
                print(table(rows).splitlines()[-1], flush=True)
    print(table(rows))
    failed = [r for r in rows if r[1] == "Q4_0" and not r[3]["kld"] < a.bar * r[4]["kld"]]
    if failed:
        sys.exit(f"FAILED: {len(failed)} Q4_0 cells are not below {a.bar} of llama-quantize's KL divergence")


if __name__ == "__main__":
    main()
