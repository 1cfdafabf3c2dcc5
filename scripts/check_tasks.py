#!/usr/bin/env python3
"""lm-evaluation-harness (lm_eval, its HFLM on transformers, f32) as the referee of `kronq eval --task`.

    pip install lm_eval accelerate torch transformers datasets gguf          # lm_eval 0.4.13 was used
    scripts/check_tasks.py MODEL --kronq build/release/kronq --task arc_easy=FILE.jsonl --task piqa=FILE.jsonl --limit 200 [--tokenizer FOLDER]
    scripts/check_tasks.py --golden tests/golden       # synthetic documents of all tasks on tests/golden/tiny_cli/hf, and what lm_eval makes of them

The task definitions are those that lm_eval brings, but for where the documents come from (the local JSON-lines file). Every choice is compared: both
programs must pick the same one of each document, by sum and by normalised sum; documents in which lm_eval's two best choices are closer than 1e-4
are listed as ties and not held against either. Then the accuracies and standard errors. Exit status 1 when something differs.
MODEL is what transformers reads: a folder, or a .gguf file (then give --tokenizer a folder with the model's tokenizer.json, a kronq checkpoint made
from it, say: what transformers rebuilds from a GGUF lacks the model's own pre-tokenizer); a kronq checkpoint is read by the plug-in: PYTHONPATH=python.
"""
import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
NAMES = ("arc_easy", "arc_challenge", "piqa", "boolq", "hellaswag", "winogrande")


def local_task(name, file, folder):
    """A YAML that is lm_eval's own definition with another source of documents."""
    from lm_eval.tasks import TaskManager
    own = TaskManager()._entry(name).yaml_path
    path = folder / f"{name}.yaml"
    path.write_text(f"include: {own}\ntask: {name}\ndataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n    test: {file}\n"
                    "training_split: null\nvalidation_split: null\ntest_split: test\n")
    return str(path)


def referee(model, tokenizer, tasks, limit, batch_size=2):
    """lm_eval's results and logged samples: {task: [sample]}."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer
    where = {"pretrained_model_name_or_path": model}
    if os.path.isdir(model) and json.loads(pathlib.Path(model, "config.json").read_text()).get("quantization_config", {}).get("quant_method") == "kronq":
        import kronq  # noqa: F401  (registers itself)
    if model.endswith(".gguf"):
        where = {"pretrained_model_name_or_path": os.path.dirname(os.path.abspath(model)), "gguf_file": os.path.basename(model)}
    tok = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else AutoTokenizer.from_pretrained(**where)
    net = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder + "/cache"
        folder = pathlib.Path(folder)
        lm = HFLM(pretrained=net, tokenizer=tok, batch_size=batch_size, device="cpu")
        paths = [local_task(name, os.path.abspath(file), folder) for name, file in tasks]
        return simple_evaluate(lm, tasks=paths, limit=limit, bootstrap_iters=1000, log_samples=True)


def lls(sample):
    return [float(r[0]) for r in sample["filtered_resps"]]


def picks(values, lengths):
    a = [v for v in values]
    b = [v / n if n else float("-inf") for v, n in zip(values, lengths)]
    return a.index(max(a)), b.index(max(b))


def gap(values):
    top = sorted(values)[-2:]
    return top[1] - top[0]


def choice_lengths(task, sample):
    args = sample["arguments"]
    args = [args[f"gen_args_{i}"] for i in range(len(args))] if isinstance(args, dict) else [{"arg_0": a[0], "arg_1": a[1]} for a in args]
    return [len(a["arg_0"]) if task == "winogrande" else len(a["arg_1"]) - 1 for a in args]


def compare(want, got_samples, got):
    failed = False
    for task in want["results"]:
        theirs = sorted(want["samples"][task], key=lambda s: s["doc_id"])
        ours = sorted((s for s in got_samples if s["task"] == task), key=lambda s: s["doc_id"])
        assert len(theirs) == len(ours), (task, len(theirs), len(ours))
        worst, differ, ties = 0.0, [], []
        for a, b in zip(theirs, ours):
            x, y, n = lls(a), lls(b), choice_lengths(task, b)
            worst = max(worst, max(abs(u - v) for u, v in zip(x, y)))
            if gap(x) < 1e-4 or gap([v / max(k, 1) for v, k in zip(x, n)]) < 1e-4:
                ties.append((a["doc_id"], gap(x), gap([v / max(k, 1) for v, k in zip(x, n)])))
            elif picks(x, n) != picks(y, n):
                differ.append(a["doc_id"])
            if [s.strip() for s in map(str, (a["target"],))] != [str(b["target"]).strip()]:
                differ.append((a["doc_id"], "target", a["target"], b["target"]))
        print(f"{task}: {len(ours)} documents, {sum(len(lls(s)) for s in ours)} choices; largest difference of a log-likelihood {worst:.2e}; "
              f"different answers {differ or 'none'}; ties below 1e-4 {ties or 'none'}")
        failed |= bool(differ) or worst > 5e-3
        for key, value in want["results"][task].items():
            if "," in key:
                mine = got["results"][task].get(key)
                same = value == mine if isinstance(value, str) else abs(value - mine) < 1e-12
                print(f"  {key:22} lm_eval {value}  kronq {mine}  {'same' if same else 'DIFFERENT'}")
                failed |= not same and not ties
    return failed


def synthetic(rng):
    """Documents of every task in the data sets' own fields, with what makes readers stumble."""
    words = (pathlib.Path(__file__).parent.parent / "tests/golden/tiny_cli/text.txt").read_text().split()

    def text(lo, hi):
        return " ".join(rng.choice(words) for _ in range(rng.randint(lo, hi)))

    docs = {name: [] for name in NAMES}
    for i in range(12):
        for name, n in (("arc_easy", 4), ("arc_challenge", rng.choice([3, 4, 5]))):
            labels = list("ABCDE"[:n]) if i % 3 else list("12345"[:n])
            docs[name].append({"id": f"doc-{i}", "question": text(4, 15), "choices": {"text": [text(1, 6) for _ in range(n)], "label": labels},
                               "answerKey": rng.choice(labels)})
        docs["piqa"].append({"goal": text(2, 12), "sol1": text(3, 12), "sol2": text(3, 12), "label": rng.randint(0, 1)})
        docs["boolq"].append({"question": text(4, 8).lower(), "passage": text(20, 60), "idx": i, "label": rng.randint(0, 1)})
        docs["hellaswag"].append({"ind": i, "activity_label": text(1, 3), "ctx_a": text(5, 15), "ctx_b": rng.choice(["", text(1, 4)]),
                                  "endings": [text(3, 10) for _ in range(4)], "source_id": f"w~{i}", "label": str(rng.randint(0, 3))})
        first = text(2, 6)
        docs["winogrande"].append({"sentence": f"{first} _ {text(2, 8)}", "option1": text(1, 2), "option2": text(1, 2), "answer": rng.choice("12")})
    # one more of each that is odd
    docs["arc_easy"].append({"question": "Caf\u00e9 or na\u00efve \u2013 \u4e2d\u6587?  ", "choices": {"text": [" \u00fc", "\u00fc\u00fc", "x ", "\U0001f600"],
                             "label": ["A", "B", "C", "D"]}, "answerKey": "D"})
    docs["piqa"].append({"goal": "shared start", "sol1": "the water is hot", "sol2": "the water is hot now", "label": 1})
    docs["piqa"].append({"goal": "<|im_start|>special<|im_end|>", "sol1": "one\ntwo", "sol2": "\ttab", "label": 0})
    docs["boolq"].append({"question": "is it long", "passage": " ".join(words[:700]), "idx": 99, "label": 1})  # beyond the model's 512 tokens
    docs["hellaswag"].append({"activity_label": "Clean [x] up", "ctx_a": "  [header] How to [title] do it [a\nb] now.  ", "ctx_b": "\u00dfTRASSE \u039f\u0394\u039f\u03a3 [step] A  B",
                              "endings": ["[title] Wash  it.", " plain", "[substeps] Do [it] twice.", "[open"], "label": "2"})
    docs["winogrande"].append({"sentence": "_ was here because it was  late. ", "option1": "Caf\u00e9", "option2": "The other one ", "answer": "2"})
    docs["winogrande"].append({"sentence": "no space before_, nor after", "option1": "one", "option2": "two", "answer": "1"})
    return docs


def golden(folder):
    out = folder / "tasks"
    out.mkdir(exist_ok=True)
    for name, docs in synthetic(random.Random(5)).items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in docs))
    want = referee(str(folder / "tiny_cli/hf"), None, [(n, out / f"{n}.jsonl") for n in NAMES], None)
    expected = {n: {"metrics": {k: v for k, v in want["results"][n].items() if "," in k}, "version": want["versions"][n],
                    "ll": [[round(v, 6) for v in lls(s)] for s in sorted(want["samples"][n], key=lambda s: s["doc_id"])],
                    "greedy": [[r[1] in (True, "True") for r in s["filtered_resps"]] for s in sorted(want["samples"][n], key=lambda s: s["doc_id"])]}
                for n in NAMES}
    (out / "expected.json").write_text(json.dumps(expected, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print({n: e["metrics"] for n, e in expected.items()})


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model", nargs="?")
    p.add_argument("--golden", type=pathlib.Path)
    p.add_argument("--kronq")
    p.add_argument("--tokenizer")
    p.add_argument("--task", action="append", default=[])
    p.add_argument("--limit", type=int)
    a = p.parse_args()
    if a.golden:
        return golden(a.golden)
    with tempfile.TemporaryDirectory() as folder:
        samples = folder + "/samples.jsonl"
        command = [a.kronq, "eval", a.model, "--compute", "f32", "--json", "--log-samples", samples]
        for t in a.task:
            command += ["--task", t]
        if a.limit:
            command += ["--limit", str(a.limit)]
        got = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        got_samples = [json.loads(line) for line in open(samples, encoding="utf-8")]
    want = referee(a.model, a.tokenizer, [t.split("=", 1) for t in a.task], a.limit)
    sys.exit(compare(want, got_samples, got))


if __name__ == "__main__":
    main()
