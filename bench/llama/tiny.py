#!/usr/bin/env python3
"""Every block type of `kronq quantize --to gguf` on tiny random models whose rows divide by 256: what kronq writes loads in stock llama.cpp, which computes from it
what kronq computes, and is nearer the original than llama-quantize's file of the same size.

    python bench/llama/tiny.py [--types Q4_0,...]      (scripts/test_llama.sh runs it; minutes)

Architectures llama and qwen3, 2 blocks, width 256, seed 17, with the tokenizer and the text of tests/golden/tiny_cli. Columns: bytes of both files, KL divergence of
both to the original (kronq eval, the text's second half; calibrated on the first). The last two: each file run by kronq against the same file run by llama.cpp
(the logits that llama-perplexity saved): llama.cpp rounds activations to 8 bits where kronq does not, alike for both files; a file misread would stand out.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "tiny_cli"
D, FF, HEADS, KV, LAYERS = 256, 512, 4, 2, 2
TYPES = "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,IQ4_NL,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ2_XXS,IQ2_XS,IQ2_S,IQ3_XXS,IQ3_S,IQ4_XS"
# The file type that has nothing but this type with --pure, where it has another name: IQ2_S is one that is mostly IQ2_XS.
OURS = {"IQ2_S": "IQ2_M"}
THEIRS = {"Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", **OURS}


def write_model(path: Path, arch: str) -> None:
    reader = gguf.GGUFReader(GOLDEN / "model.gguf")
    rng = np.random.default_rng(17)
    w = gguf.GGUFWriter(path, arch)
    vocab = len(reader.get_field("tokenizer.ggml.tokens").data)
    for f in reader.fields.values():
        if f.name.startswith("tokenizer."):
            w.add_key_value(f.name, f.contents(), f.types[0], f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None)
    w.add_block_count(LAYERS)
    w.add_context_length(512)
    w.add_embedding_length(D)
    w.add_feed_forward_length(FF)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV)
    w.add_key_length(D // HEADS)
    w.add_value_length(D // HEADS)
    w.add_rope_dimension_count(D // HEADS)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    def linear(m: int, n: int, gain: float = 1.5) -> np.ndarray:
        return (rng.standard_t(5, (m, n)) * gain / n ** 0.5).astype(np.float16)

    def norm(n: int) -> np.ndarray:
        return (1 + 0.3 * rng.standard_normal(n)).astype(np.float32)

    w.add_tensor("token_embd.weight", linear(vocab, D, 3))
    w.add_tensor("output_norm.weight", norm(D))
    for i in range(LAYERS):
        p = f"blk.{i}."
        w.add_tensor(p + "attn_norm.weight", norm(D))
        w.add_tensor(p + "ffn_norm.weight", norm(D))
        for name, m, n in (("attn_q", D, D), ("attn_k", D * KV // HEADS, D), ("attn_v", D * KV // HEADS, D), ("attn_output", D, D), ("ffn_gate", FF, D),
                           ("ffn_up", FF, D), ("ffn_down", D, FF)):
            w.add_tensor(p + name + ".weight", linear(m, n))
        if arch == "qwen3":
            w.add_tensor(p + "attn_q_norm.weight", norm(D // HEADS))
            w.add_tensor(p + "attn_k_norm.weight", norm(D // HEADS))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def command(*args) -> str:
    done = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"status {done.returncode}: {' '.join(map(str, args))}\n{done.stderr.decode(errors='replace')[-1500:]}")
    return done.stdout.decode(errors="replace")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kronq", default="build/release/kronq")
    p.add_argument("--llama", default="build/llama.cpp", help="folder of scripts/build_llama.sh")
    p.add_argument("--work", default="build/test-llama/tiny", type=Path)
    p.add_argument("--types", default=TYPES)
    a = p.parse_args()
    llama, work = Path(a.llama) / "build" / "bin", a.work
    work.mkdir(parents=True, exist_ok=True)
    text = (GOLDEN / "text.txt").read_text()
    cut = text.index(" ", len(text) // 2)
    (work / "calib.txt").write_text(text[:cut])
    (work / "held.txt").write_text(text[cut:])
    failures = []
    print("| architecture | type | bytes, kronq | llama-quantize | KLD, kronq | llama-quantize | ratio "
          "| llama.cpp against kronq, kronq's file | llama-quantize's |\n|---|---|---|---|---|---|---|---|---|")
    for arch in ("llama", "qwen3"):
        model, factors, imatrix = work / f"{arch}.gguf", work / f"{arch}.factors.safetensors", work / f"{arch}.imatrix.gguf"
        for old in (model, factors, imatrix):
            old.unlink(missing_ok=True)
        write_model(model, arch)
        chunks = ["--text", work / "calib.txt", "--seq-len", 64, "--tokens", 1600]
        command(a.kronq, "calibrate", model, "-o", factors, *chunks, "--quiet")
        command(llama / "llama-imatrix", "-m", model, "-f", work / "calib.txt", "-c", 64, "-b", 64, "--chunks", 25, "--no-ppl", "-t", 1, "-o", imatrix)
        for kind in a.types.split(","):
            ours, theirs, base = work / f"{arch}-{kind}.kronq.gguf", work / f"{arch}-{kind}.llama.gguf", work / f"{arch}-{kind}.logits"
            ours.unlink(missing_ok=True)
            command(a.kronq, "quantize", model, "--to", "gguf", "--type", OURS.get(kind, kind), "--pure", "--tensor-type", "token_embd=F16", "--factors", factors,
                    "-o", ours, "--quiet")
            command(llama / "llama-quantize", "--imatrix", imatrix, "--pure", "--token-embedding-type", "f16", model, theirs, THEIRS.get(kind, kind), 1)
            k, q = (json.loads(command(a.kronq, "eval", f, "--ppl", work / "held.txt", "--kld", model, "--ctx", 256, "--json", "--quiet"))["kld"]
                    for f in (ours, theirs))
            agree = []
            for f in (ours, theirs):
                command(llama / "llama-perplexity", "-m", f, "-f", work / "held.txt", "-c", 128, "-b", 128, "-t", 1, "--kl-divergence-base", base)
                agree.append(json.loads(command(a.kronq, "eval", f, "--kld", base, "--json", "--quiet"))["kld"])
                base.unlink()
            sizes = ours.stat().st_size, theirs.stat().st_size
            print(f"| {arch} | {kind} | {sizes[0]} | {sizes[1]} | {k:.3g} | {q:.3g} | {k / q:.3f} | {agree[0]:.1e} | {agree[1]:.1e} |", flush=True)
            if not k < q or agree[0] > 2 * agree[1] + 1e-4 or abs(sizes[0] - sizes[1]) > 4096:
                failures.append(f"{arch} {kind}")
    if failures:
        sys.exit("FAILED: " + ", ".join(failures))


if __name__ == "__main__":
    main()
