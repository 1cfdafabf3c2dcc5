#!/usr/bin/env python3
"""Do the exports of a checkpoint say what the checkpoint says? With referees that share no code with kronq: transformers and the gguf package, and
llama.cpp where its programs are at hand.

    pip install torch transformers gguf safetensors tokenizers
    scripts/check_exports.py --kronq build/release/kronq OUT TEXT [--ctx 2048] [--chunks 4] [--original MODEL.gguf] [--llama BIN]
    scripts/check_exports.py --kronq build/release/kronq --tiny tests/golden      # tiny random models of every family, packed on the spot

OUT is a kronq checkpoint (or any MODEL). It is exported as a bf16 folder and as GGUF files of F32, F16, BF16 and Q8_0 into a temporary folder. Then:
  - perplexity of OUT and of every export in kronq (f32), and in transformers (f32) of the bf16 folder and of the GGUF files as the gguf package
    dequantizes them: all within 0.5% of OUT's; logits of the first 64 positions beside kronq's;
  - F16, BF16 and Q8_0 files hold, byte for byte, what the gguf package makes of the F32 file;
  - transformers' own GGUF loader gives the same weights, and stock tokenizers the same ids;
  - --original: the tokenizer's metadata equal those of the GGUF that OUT was made from;
  - --llama: llama-tokenize gives the same ids, llama-perplexity the same perplexity (of the second halves of the windows, which is what it measures).
Ends with status 1 when something differs. The last lines are a table for docs/evidence/exports.md.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

TYPES = ("F32", "F16", "BF16", "Q8_0")
failures = []


def check(ok, what):
    print(("ok      " if ok else "DIFFERS ") + what, flush=True)
    if not ok:
        failures.append(what)


def kronq_eval(a, model, text, extra=()):
    run = subprocess.run([a.kronq, "eval", model, "--ppl", text, "--ctx", str(a.ctx), "--chunks", str(a.chunks), "--compute", "f32", "--json", "--quiet",
                          *map(str, extra)], stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"kronq eval {model} failed")
    return json.loads(run.stdout)


def export(a, model, to, out, kind=None):
    run = subprocess.run([a.kronq, "export", model, "--to", to, "-o", out, "--quiet", "--json", *(["--type", kind] if kind else [])],
                         stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit(f"kronq export {model} --to {to} failed")
    return json.loads(run.stdout)


def nll(model, ids, ctx, chunks, first=0):
    """Mean negative log-likelihood of each window's tokens after `first`, as kronq (first 0) and llama-perplexity (first ctx/2) define it."""
    total = count = 0
    with torch.inference_mode():
        for i in range(min(len(ids) // ctx, chunks)):
            w = ids[i * ctx:(i + 1) * ctx]
            logits = model(w[None], use_cache=False).logits[0, first:-1]
            for part, target in zip(logits.split(256), w[first + 1:].split(256)):
                total += torch.nn.functional.cross_entropy(part.double(), target, reduction="sum").item()
            count += len(w) - 1 - first
    return total / count


def hf_state(path, config):
    """The tensors of a GGUF file under Hugging Face's names, dequantized by the gguf package."""
    arch = gguf.MODEL_ARCH.QWEN3 if config.model_type == "qwen3" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    hf_names = {"model.embed_tokens", "model.norm", "lm_head"}
    for i in range(config.num_hidden_layers):
        for part in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm", "self_attn.q_proj", "self_attn.k_proj",
                     "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            hf_names.add(f"model.layers.{i}.{part}")
    back = {names.get_name(n): n for n in hf_names if names.get_name(n)}
    state = {}
    for t in gguf.GGUFReader(path).tensors:
        if t.name == "rope_freqs.weight":
            continue
        w = torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
        name = back[t.name.removesuffix(".weight")] + ".weight"
        heads = config.num_attention_heads if name.endswith("q_proj.weight") else config.num_key_value_heads if name.endswith("k_proj.weight") else 0
        if heads and config.model_type == "llama":
            w = w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        state[name] = w
    return state


def same_bytes(path, f32_path, kind):
    want = {t.name: t for t in gguf.GGUFReader(f32_path).tensors}
    for t in gguf.GGUFReader(path).tensors:
        if t.tensor_type != gguf.GGMLQuantizationType.F32:
            data = gguf.quants.quantize(np.asarray(want[t.name].data, dtype=np.float32), t.tensor_type)
            if not np.array_equal(np.ascontiguousarray(t.data).view(np.uint8).ravel(), np.ascontiguousarray(data).view(np.uint8).ravel()):
                return f"{kind}: {t.name}"
    return None


def fields(path):
    return {k: f.contents() for k, f in gguf.GGUFReader(path).fields.items()}


def check_model(a, model, text, tmp, label, rows):
    tmp.mkdir()
    print(f"== {label}: {model}, {Path(text).name}, ctx {a.ctx}, {a.chunks} windows", flush=True)
    logits_file = tmp / "logits.safetensors"
    base = kronq_eval(a, model, text)["nll"]
    kronq_eval(argparse.Namespace(**{**vars(a), "ctx": 64, "chunks": 1}), model, text, ["--logits", logits_file])

    def figure(where, value, size=None):
        off = math.exp(value - base) - 1
        rows.append((label, where, math.exp(value), off, size))
        check(abs(off) < 0.005, f"{label}: {where}: perplexity {math.exp(value):.4f}, {100 * off:+.3f}% of the checkpoint's")

    figure("the checkpoint in kronq", base, sum(f.stat().st_size for f in Path(model).glob("*.safetensors")))
    folder = tmp / "bf16"
    report = export(a, model, "bf16", folder)
    sizes = {"bf16": report["file_bytes"]}
    config = AutoConfig.from_pretrained(folder)
    check("quantization_config" not in json.loads((folder / "config.json").read_text()), f"{label}: the bf16 folder is a plain model")
    figure("bf16 folder in kronq", kronq_eval(a, folder, text)["nll"], sizes["bf16"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer(Path(text).read_text(encoding="utf-8")).input_ids)
    golden = load_file(logits_file)
    check(torch.equal(golden["ids"].long(), ids[:64]), f"{label}: AutoTokenizer of the bf16 folder gives kronq's ids")
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    figure("bf16 folder in transformers", nll(hf, ids, a.ctx, a.chunks), sizes["bf16"])

    def logits_error():
        with torch.inference_mode():
            ours = hf(ids[None, :64], use_cache=False).logits[0]
        return float((ours - golden["logits"]).norm() / golden["logits"].norm())

    check(logits_error() < 0.02, f"{label}: logits of the bf16 folder in transformers, relative error {logits_error():.1e} (bf16 keeps 8 bits of a weight)")
    for kind in TYPES:
        path = tmp / f"{kind}.gguf"
        sizes[kind] = export(a, model, "gguf", path, kind)["file_bytes"]
        figure(f"GGUF {kind} in kronq", kronq_eval(a, path, text)["nll"], sizes[kind])
        state = hf_state(path, config)
        missing, unexpected = hf.load_state_dict(state, strict=False)
        check(not unexpected and set(missing) <= {"lm_head.weight"}, f"{label}: GGUF {kind} holds every tensor under its name")
        figure(f"GGUF {kind} by the gguf package in transformers", nll(hf, ids, a.ctx, a.chunks), sizes[kind])
        if kind == "F32":
            check(logits_error() < 1e-4, f"{label}: logits of GGUF F32 in transformers, relative error {logits_error():.1e}")
        if kind == "F16" and a.llama:
            llama(a, path, text, ids, nll(hf, ids, a.ctx, a.chunks, a.ctx // 2), label, rows)
        loaded = AutoModelForCausalLM.from_pretrained(tmp, gguf_file=path.name, dtype=torch.float32).state_dict()
        check(all(torch.equal(loaded[n], w) for n, w in state.items()), f"{label}: transformers' GGUF loader reads {kind} as the gguf package does")
        if kind != "F32":
            different = same_bytes(path, tmp / "F32.gguf", kind)
            check(different is None, f"{label}: GGUF {kind} holds the bytes that the gguf package makes of the F32 file{': ' + different if different else ''}")
    if a.original:
        old, new = fields(a.original), fields(tmp / "F16.gguf")
        arch = old["general.architecture"]
        for key in old:
            if key.startswith(("tokenizer.", arch + ".")):
                check(old[key] == new.get(key), f"{label}: {key} is that of {Path(a.original).name}")


def llama(a, path, text, ids, want, label, rows):
    """llama.cpp's own tokenizer and arithmetic."""
    run = subprocess.run([Path(a.llama, "llama-tokenize"), "-m", path, "-f", text, "--ids", "--log-disable"], stdout=subprocess.PIPE, text=True, check=True)
    theirs = json.loads(run.stdout[run.stdout.index("["):])
    check(theirs == ids.tolist(), f"{label}: llama-tokenize gives the same {len(theirs)} ids")
    ppl = None
    for _ in range(3):  # its log is printed by a thread of its own, which now and then loses the last lines
        run = subprocess.run([Path(a.llama, "llama-perplexity"), "-m", path, "-f", text, "-c", str(a.ctx), "--chunks", str(a.chunks), "-t", "2"],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        final = [line for line in run.stdout.splitlines() if "Final estimate" in line]
        if final:
            ppl = float(final[-1].split("PPL = ")[1].split()[0])
            break
    if ppl is None:
        print(f"SKIP    {label}: llama-perplexity printed no final estimate", flush=True)
        return
    off = ppl / math.exp(want) - 1
    rows.append((label, "GGUF F16, second halves of the windows, gguf package in transformers", math.exp(want), 0.0, None))
    rows.append((label, "GGUF F16, second halves of the windows, llama-perplexity", ppl, off, None))
    check(abs(off) < 0.005, f"{label}: llama-perplexity {ppl:.4f}, transformers {math.exp(want):.4f}: {100 * off:+.3f}%")


def make_tiny(golden, tmp):
    """Random models of every family whose rows divide by 32, each with a tokenizer of its kind."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    common = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512)
    families = {
        "llama2": (LlamaForCausalLM, LlamaConfig, dict(hidden_size=64, intermediate_size=160, rms_norm_eps=1e-5, tie_word_embeddings=False)),
        "llama3": (LlamaForCausalLM, LlamaConfig, dict(hidden_size=64, intermediate_size=128, tie_word_embeddings=True, rope_parameters=dict(
            rope_type="llama3", rope_theta=5000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192))),
        # transformers' GGUF loader takes Qwen3's heads for 128 wide, whatever attention.key_length says
        "qwen": (Qwen3ForCausalLM, Qwen3Config, dict(hidden_size=96, intermediate_size=192, head_dim=128, tie_word_embeddings=True)),
    }
    for family, (cls, config_cls, sizes) in families.items():
        tokenizer = json.loads((golden / f"tokenizer_{family}.json").read_text())
        vocab = tokenizer["model"]["vocab"]
        last = max([*vocab.values(), *(t["id"] for t in tokenizer["added_tokens"])])
        special = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
        bos = next((t for t in ("<s>", "<|begin_of_text|>") if t in special), None)
        eos = next(t for t in ("</s>", "<|end_of_text|>", "<|endoftext|>") if t in special)
        torch.manual_seed(7)
        cfg = config_cls(vocab_size=last + 1 + 13, bos_token_id=special.get(bos), eos_token_id=special[eos], **sizes, **common)
        model = cls(cfg)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(1 + 0.3 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * (0.1 if "embed" in name else 1.5 / p.shape[1] ** 0.5))
        folder = tmp / family
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, **({"bos_token": bos} if bos else {})}))
        yield family, folder


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", nargs="?", metavar="OUT")
    p.add_argument("text", nargs="?")
    p.add_argument("--kronq", default="kronq")
    p.add_argument("--ctx", type=int, default=2048)
    p.add_argument("--chunks", type=int, default=4)
    p.add_argument("--original", metavar="GGUF")
    p.add_argument("--llama", metavar="BIN", help="the folder of llama-tokenize and llama-perplexity")
    p.add_argument("--tiny", metavar="GOLDEN", type=Path)
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        if a.model:
            check_model(a, a.model, a.text, tmp / "model", Path(a.model).name, rows)
        if a.tiny:
            a.ctx, a.chunks, a.original = 256, 4, None
            for family, folder in make_tiny(a.tiny, tmp):
                packed = tmp / f"{family}-2bit"
                subprocess.run([a.kronq, "quantize", folder, "-o", packed, "--bits", "2", "--method", "none", "--quiet"], check=True)
                check_model(a, packed, a.tiny / "tiny_cli" / "text.txt", tmp / f"{family}-exports", f"tiny {family}", rows)
    print("\n| model | what, where | perplexity | off | MB |\n| --- | --- | --- | --- | --- |")
    for label, where, ppl, off, size in rows:
        print(f"| {label} | {where} | {ppl:.4f} | {100 * off:+.3f}% | {f'{size / 1e6:.1f}' if size else ''} |")
    for what in failures:
        print(f"DIFFERS {what}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
