"""Compare a checkpoint in transformers with the C program: python -m kronq.verify OUT [--program PATH/kronq]

The program writes the ids and logits of one window of text (`kronq eval OUT --ppl TEXT --logits FILE`, in f32); transformers, through the
plug-in, computes its own for the same ids, also in f32. Exit status 0 when they agree, 1 when they do not or something failed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import DECODE, set_decode

TEXT = """The moon is the only natural satellite of the earth. It moves around the planet once in about twenty-seven days, and the same side
always faces us. In 1969 people walked on it for the first time; they brought back 21.5 kilograms of rock and dust. Nothing lives there, for
there is neither air nor running water, and a day as long as fourteen of ours is followed by an equally long and very cold night.\n"""


def compare(a, b):
    """What sets logits b [T, vocab] apart from a: relative error, mean KL divergence (nats), share of positions with the same top token."""
    la, lb = a.double().log_softmax(-1), b.double().log_softmax(-1)
    return {
        "relative_error": float((a.double() - b.double()).norm() / a.double().norm()),
        "kld": float((la.exp() * (la - lb)).sum(-1).mean()),
        "top1": float((a.argmax(-1) == b.argmax(-1)).double().mean()),
    }


def verify(out, program="kronq", text=None, tokens=64, decode="tiles"):
    """The figures of `compare`, and "ids": does the model's own tokenizer give the program's ids? RuntimeError when the program fails."""
    found = shutil.which(program)
    if not found:
        raise RuntimeError(f"{program}: no such program; put kronq on the PATH or name it with --program")
    with tempfile.TemporaryDirectory() as tmp:
        if text is None:
            text = Path(tmp, "text.txt")
            text.write_text(TEXT * (tokens // 64 + 1))
        file = Path(tmp, "logits.safetensors")
        run = subprocess.run(
            [found, "eval", out, "--ppl", text, "--ctx", str(tokens), "--chunks", "1", "--compute", "f32", "--logits", file, "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if run.returncode:
            raise RuntimeError(run.stderr.strip() or f"{found} ended with status {run.returncode}")
        theirs = load_file(file)
        own_ids = AutoTokenizer.from_pretrained(out)(Path(text).read_text())["input_ids"][:tokens]
    model = set_decode(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32), decode)
    ids = theirs["ids"].long()
    with torch.inference_mode():
        ours = model(ids[None], use_cache=False).logits[0]
    return dict(compare(theirs["logits"], ours), ids=own_ids == ids.tolist(), tokens=len(ids))


def main():
    p = argparse.ArgumentParser(prog="python -m kronq.verify", description="Compare a checkpoint in transformers with the program kronq.")
    p.add_argument("out", metavar="OUT", help="the checkpoint's folder")
    p.add_argument("--program", default="kronq", help="the program (default: kronq on the PATH)")
    p.add_argument("--text", metavar="FILE", help="what to compute on (default: a few sentences of its own)")
    p.add_argument("--tokens", type=int, default=64, metavar="N", help="how many tokens of it (64)")
    p.add_argument("--decode", choices=DECODE, default="tiles", help="how the plug-in decodes (tiles)")
    p.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="E",
        help="allowed relative error of the logits (1e-3: both sides sum in f32, in another order)",
    )
    p.add_argument("--json", action="store_true", help="print the figures as JSON")
    a = p.parse_args()
    try:
        r = verify(a.out, a.program, a.text, a.tokens, a.decode)
    except (RuntimeError, ValueError, OSError) as e:
        print(f"kronq.verify: {e}", file=sys.stderr)
        return 1
    good = r["relative_error"] <= a.tolerance and r["ids"]
    print(
        json.dumps(dict(r, agree=good))
        if a.json
        else f"{r['tokens']} tokens ({'the same' if r['ids'] else 'NOT the same'} ids): logits differ by {r['relative_error']:.2e} of their norm, KL divergence "
        f"{r['kld']:.2e} nats, same most likely token {100 * r['top1']:.2f}%: {'they agree' if good else 'THEY DO NOT AGREE'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
