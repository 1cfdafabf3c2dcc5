"""The transformers plug-in on tiny checkpoints of each family, against the program, a NumPy referee of docs/format.md, and damaged files."""

import contextlib
import copy
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

import checkpoints
import kronq
import referee
from kronq import modeling_kronq
from kronq.verify import verify

transformers.logging.set_verbosity_error()
if hasattr(transformers.logging, "disable_progress_bar"):
    transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)  # the models are tiny

HAVE_ACCELERATE = transformers.utils.is_accelerate_available()
# name: model, options. All sizes, codes, bits, tied and untied heads, all bits of embedding.
CASES = {
    "llama2": ("llama2", "--bits", 2, "--code", "hyb", "--embed-bits", 8, "--head-bits", 4),
    "llama3": ("llama3", "--bits", 3, "--code", "1mad", "--embed-bits", 3),
    "qwen3": ("qwen3", "--bits", 4, "--code", "3inst", "--embed-bits", 16),
    "mul1": ("llama3", "--bits", 2, "--code", "mul1", "--embed-bits", 8),
    "mcg": ("llama3", "--bits", 3, "--code", "mcg", "--embed-bits", 8),
    "odd": ("cli_odd", "--bits", 3, "--code", "hyb", "--embed-bits", 4, "--head-bits", 8),
    "tied": ("cli_hf", "--bits", 2, "--code", "hyb", "--embed-bits", 8),
    "four": ("cli_hf", "--bits", 4, "--code", "hyb", "--embed-bits", 2, "--frequent-rows", 100),
    "one_layer": ("cli_hf", "--bits", 2, "--only", r"layers\.1\."),
}
FOLDER = None


def setUpModule():
    global FOLDER
    keep = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(keep.cleanup)
    FOLDER = Path(keep.name)
    for name, (model, *options) in CASES.items():
        checkpoints.quantize(checkpoints.source(model, FOLDER), FOLDER / name, *options)
    checkpoints.mixed(FOLDER / "tied", FOLDER / "four", FOLDER / "mixed")
    checkpoints.tune(FOLDER / "tied", checkpoints.source("cli_hf", FOLDER), FOLDER / "tuned")


def load(name, **kwargs):
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, **{"dtype": torch.float32, **kwargs})


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(3, 60)[None], use_cache=False).logits[0]


class Values(unittest.TestCase):
    def test_logits_are_the_programs(self):
        for name in [*CASES, "mixed", "tuned"]:
            for decode in kronq.DECODE:
                with self.subTest(checkpoint=name, decode=decode):
                    r = verify(str(FOLDER / name), checkpoints.PROGRAM, checkpoints.TEXT, tokens=96, decode=decode)
                    self.assertTrue(r["ids"])
                    self.assertLess(r["relative_error"], 1e-5)  # f32 sums of up to 112 terms in another order, through 3 layers

    def test_every_code_and_width_against_the_referee(self):
        model = checkpoints.source("cli_odd", FOLDER)
        for code in modeling_kronq.CODES:
            for bits in (2, 3, 4):
                with self.subTest(code=code, bits=bits):
                    out = checkpoints.quantize(
                        model, FOLDER / f"{code}-{bits}", "--code", code, "--bits", bits, "--embed-bits", 8, "--head-bits", 4
                    )
                    loaded, t = load(out.name), referee.tensors(out / "model.safetensors")
                    for name in json.loads((out / "config.json").read_text())["quantization_config"]["module_bits"]:
                        want = referee.linear(t, name, code)
                        got = loaded.get_submodule(name).dense().double().numpy()
                        self.assertLess(np.abs(got - want).max(), 2e-6 * np.abs(want).max(), name)
                    name = "model.embed_tokens"
                    np.testing.assert_array_equal(loaded.get_submodule(name).dense().double().numpy(), referee.rows(t, name, 40))
                    want = referee.linear(t, "lm_head", code, one_sided=True)
                    got = loaded.get_submodule("lm_head").dense().double().numpy()
                    self.assertLess(np.abs(got - want).max(), 2e-6 * np.abs(want).max())

    def test_transforms_of_every_order(self):
        for n in (1, 2, 16, 12, 24, 20, 28, 36, 576, 60, 68, 76, 108, 172, 344, 5, 7, 80, 112, 208, 48, 64, 128, 256):
            x = torch.randn(3, n, dtype=torch.float64)
            for transpose in (False, True):
                u = referee.transform(n)
                want = x.numpy() @ (u if transpose else u.T)
                got = modeling_kronq.rotate(x.float(), transpose).double().numpy()
                self.assertLess(np.abs(got - want).max(), 1e-5, n)
        for n in (1536, 3072, 4096, 9728, 11008, 12288, 14336):  # the models' own; too large for the referee
            x = torch.randn(2, n)
            self.assertLess(float((modeling_kronq.rotate(modeling_kronq.rotate(x), True) - x).norm() / x.norm()), 1e-6, n)

    def test_tiles_of_any_size_give_the_same(self):
        model = load("llama2")
        want = logits(model)
        for weights in (1, 1000, 1 << 22):
            kronq.set_decode(model, "tiles", tile_weights=weights)
            torch.testing.assert_close(logits(model), want, rtol=1e-4, atol=1e-4)

    def test_half_precision_is_near(self):
        want = logits(load("llama2"))
        for dtype in (torch.bfloat16, torch.float16):
            for decode in kronq.DECODE:
                got = logits(kronq.set_decode(load("llama2", dtype=dtype), decode))
                self.assertEqual(got.dtype, dtype)
                self.assertLess(float((got.float() - want).norm() / want.norm()), 0.05)

    def test_bf16_loses_only_the_rounding_of_a_layers_output(self):
        """With one large activation, as LLaMA's first tokens have them: the rotation spreads it over all channels, so that bf16 anywhere inside the layer
        rounds all outputs by its size. A bf16 output is within half a unit of its last place, 2^-9 of its own size; f32 sums add 2e-6 of the largest."""
        torch.manual_seed(5)
        for name, module in load("llama2", dtype=torch.bfloat16).named_modules():
            if not isinstance(module, (modeling_kronq.KronqLinear, modeling_kronq.KronqTrellisHead)):
                continue
            head = isinstance(module, modeling_kronq.KronqTrellisHead)
            x = torch.randn(7, module.shape[1] if head else module.in_features)
            x[:, 3] = 1000
            x = x.bfloat16()
            want = x.double() @ module.dense(torch.float32).double().t()
            with torch.inference_mode():
                got = module(x)
            self.assertEqual(got.dtype, torch.bfloat16)
            bound = want.abs() * 2**-8 + want.abs().max() * 2e-6
            self.assertTrue(bool(((got.double() - want).abs() <= bound).all()), name)


class Use(unittest.TestCase):
    def test_stays_packed(self):
        for name in ("llama2", "llama3", "mixed"):
            model = load(name, dtype="auto")
            size = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
            self.assertLess(size, 1.3 * (FOLDER / name / "model.safetensors").stat().st_size)
            types = {key: t.dtype for key, t in model.state_dict().items()}
            self.assertEqual(
                {t for key, t in types.items() if key.endswith((".trellis", ".su", ".sv", ".qweight"))}
                - {torch.int16, torch.int8, torch.uint8, torch.float16},
                set(),
            )
            self.assertEqual({t for key, t in types.items() if key.endswith(".scale")}, {torch.float32})
            self.assertEqual(types[next(k for k in types if k.endswith("norm.weight"))], torch.bfloat16)

    def test_format_version_1(self):
        """Its su and sv are signs in I8. Both readers give what they give for the same weights in version 2, and refuse other values."""
        with tempfile.TemporaryDirectory() as tmp:
            out, plain = Path(tmp, "v1"), Path(tmp, "v2")
            shutil.copytree(FOLDER / "tied", out)
            shutil.copytree(FOLDER / "tied", plain)
            tensors, config = checkpoints.read(out)
            sides = [key for key in tensors if key.endswith((".su", ".sv"))]
            tensors.update({key: tensors[key].sign() for key in sides})
            checkpoints.write(plain, tensors, config)
            tensors.update({key: tensors[key].to(torch.int8) for key in sides})
            config["quantization_config"]["format_version"] = 1
            checkpoints.write(out, tensors, config)
            one, two = (AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (out, plain))
            self.assertTrue(torch.equal(logits(one), logits(two)))
            verify(str(out), checkpoints.PROGRAM, checkpoints.TEXT, tokens=48)
            tensors[sides[0]][3] = 2
            checkpoints.write(out, tensors, config)
            with self.assertRaisesRegex(ValueError, r"s[uv]\[3\] is 2, expected \+1 or -1"):
                AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            result = subprocess.run(
                [checkpoints.PROGRAM, "export", str(out), "--to", "bf16", "-o", str(Path(tmp, "x"))], capture_output=True, text=True
            )
            self.assertEqual(result.returncode, 1)
            self.assertRegex(result.stderr, r"s[uv]\[3\] is 2, expected \+1 or -1")

    def test_rows_of_4_bits_in_groups(self):
        """As earlier versions wrote them: both readers take them."""
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp, "groups")
            shutil.copytree(FOLDER / "llama2", out)
            tensors, config = checkpoints.read(out)
            q = tensors.pop("model.embed_tokens.qweight").float()
            q, s = (q / 18).round().to(torch.int32) + 8, (tensors["model.embed_tokens.scales"].float() * 18).half()
            tensors["model.embed_tokens.qweight"] = (q[:, ::2] | q[:, 1::2] << 4).to(torch.uint8)
            tensors["model.embed_tokens.scales"] = s
            config["quantization_config"]["embed_bits"] = 4
            checkpoints.write(out, tensors, config)
            self.assertEqual(type(load(out).model.embed_tokens), modeling_kronq.KronqEmbedding)
            r = verify(str(out), checkpoints.PROGRAM, checkpoints.TEXT, tokens=48)
            self.assertLess(r["relative_error"], 1e-5)

    def test_a_cast_leaves_packed_tensors_alone(self):
        model = load("tied")
        before = {k: v.clone() for k, v in model.state_dict().items()}
        torch.nn.Module.to(model, torch.float16)
        for name, module in model.named_modules():
            for key, b in module._buffers.items():
                if isinstance(module, (modeling_kronq.Packed, modeling_kronq.KronqTable)):
                    self.assertTrue(torch.equal(b, before[f"{name}.{key}"]) and b.dtype == before[f"{name}.{key}"].dtype, name)
        self.assertEqual(logits(model).dtype, torch.float16)

    def test_cards_first_example(self):
        where = {"device_map": "auto"} if HAVE_ACCELERATE else {}
        for name in ("llama2", "llama3", "qwen3", "mixed"):
            repo_id = str(FOLDER / name)
            tokenizer = AutoTokenizer.from_pretrained(repo_id)
            model = AutoModelForCausalLM.from_pretrained(repo_id, torch_dtype="auto", **where)
            inputs = tokenizer("What is the capital of France?", return_tensors="pt", return_token_type_ids=False)
            outputs = model.generate(**inputs, max_new_tokens=8, do_sample=False)
            self.assertGreater(outputs.shape[1], inputs["input_ids"].shape[1])
            self.assertIsInstance(tokenizer.decode(outputs[0], skip_special_tokens=True), str)

    def test_cards_second_example(self):
        questions = FOLDER / "arc.jsonl"
        questions.write_text(
            "".join(json.dumps({"question": q}) + "\n" for q in ("Which is a gas?", "What do plants need?", "Why is ice hard?"))
        )
        ds = [json.loads(line) for line in questions.read_text().splitlines()]
        repo_id = str(FOLDER / "tied")
        tok = AutoTokenizer.from_pretrained(repo_id)
        model = AutoModelForCausalLM.from_pretrained(repo_id, torch_dtype="auto", **({"device_map": "auto"} if HAVE_ACCELERATE else {}))
        pipe = pipeline("text-generation", model=model, tokenizer=tok)
        for i in range(3):
            self.assertTrue(pipe(ds[i]["question"], max_new_tokens=4)[0]["generated_text"].startswith(ds[i]["question"]))

    def test_cached_generation_is_the_same(self):
        ids = torch.arange(5, 15)[None]
        a = load("qwen3").generate(ids, max_new_tokens=12, do_sample=False)
        b = kronq.set_decode(load("qwen3"), "cached").generate(ids, max_new_tokens=12, do_sample=False)
        self.assertEqual(a.tolist(), b.tolist())

    def test_saved_and_loaded_again(self):
        for name in ("llama2", "llama3", "qwen3", "odd", "mixed", "one_layer"):
            with self.subTest(checkpoint=name):
                out = FOLDER / f"saved-{name}"
                model = load(name, dtype="auto")
                model.save_pretrained(out)
                AutoTokenizer.from_pretrained(FOLDER / name).save_pretrained(out)
                (a, config), (b, saved) = checkpoints.read(FOLDER / name), checkpoints.read(out)
                self.assertEqual(a.keys(), b.keys())
                for key in a:
                    self.assertTrue(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key)
                self.assertEqual(config["quantization_config"], saved["quantization_config"])
                self.assertTrue(torch.equal(logits(load(name)), logits(load(out.name))))
                r = verify(str(out), checkpoints.PROGRAM, checkpoints.TEXT, tokens=48)
                self.assertTrue(r["ids"] and r["relative_error"] < 1e-5)
                subprocess.run([checkpoints.PROGRAM, "info", str(out), "--json"], check=True, stdout=subprocess.DEVNULL)

    def test_shards(self):
        out = checkpoints.quantize(
            checkpoints.source("cli_hf", FOLDER), FOLDER / "shards", "--bits", 2, "--code", "hyb", "--embed-bits", 8, "--shard-size", 20000
        )
        self.assertGreater(len(list(out.glob("*.safetensors"))), 1)
        self.assertTrue(torch.equal(logits(load("shards")), logits(load("tied"))))
        victim = sorted(out.glob("*.safetensors"))[1]
        victim.write_bytes(victim.read_bytes()[:-3])
        with self.assertRaisesRegex(ValueError, r"tensor \S+ ends at byte"):
            load("shards")

    def test_dequantize_and_copies(self):
        for name in ("llama2", "tied"):
            model = load(name)
            want = logits(model)
            self.assertTrue(torch.equal(logits(copy.deepcopy(model)), want))
            plain = model.dequantize()
            torch.testing.assert_close(logits(plain), want, rtol=1e-4, atol=1e-4)
            plain.save_pretrained(FOLDER / f"plain-{name}")
            torch.testing.assert_close(logits(load(f"plain-{name}")), want, rtol=1e-4, atol=1e-4)
            self.assertFalse(any(key.endswith(".trellis") for key in plain.state_dict()))

    def test_without_the_head(self):
        for name in ("llama2", "tied"):
            ids = torch.arange(3, 30)[None]
            with torch.inference_mode():
                hidden = AutoModel.from_pretrained(FOLDER / name, dtype=torch.float32)(ids).last_hidden_state
                want = load(name).model(ids).last_hidden_state
            self.assertTrue(torch.equal(hidden, want))

    def test_decode_is_an_option_of_the_config(self):
        config = transformers.AutoConfig.from_pretrained(FOLDER / "tied")
        config.quantization_config["decode"] = "cached"
        model = load("tied", config=config)
        self.assertEqual(model.model.layers[0].mlp.up_proj.decode, "cached")
        with self.assertRaisesRegex(ValueError, "decode"):
            kronq.set_decode(model, "sometimes")

    def test_nothing_is_bound_to_a_device(self):
        """With every tensor on a device that need not exist (only shapes and devices are followed), no operation meets a tensor elsewhere."""
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        device = torch.device("cuda:0")
        model = load("llama2", dtype=torch.bfloat16)
        self.addCleanup(modeling_kronq._factors.cache_clear)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:

            def fake(t):
                return FakeTensor(mode, torch.empty(t.shape, dtype=t.dtype, device="meta"), device)

            for module in model.modules():
                for tensors in (module._parameters, module._buffers):
                    tensors.update({key: fake(t) for key, t in tensors.items() if t is not None})
            x = fake(torch.zeros(1, 5, 64, dtype=torch.bfloat16))
            self.assertEqual(model.model.layers[0].mlp.up_proj(x).device, device)
            self.assertEqual(model.model.embed_tokens(fake(torch.zeros(1, 5, dtype=torch.long))).device, device)
            self.assertEqual(model.lm_head(x).device, device)
            with self.assertRaises(RuntimeError):
                model.model.layers[0].mlp.up_proj.su + torch.zeros(64)


class Damage(unittest.TestCase):
    """Wrong and truncated checkpoints are refused in one line that names the tensor (or the key of config.json)."""

    def refuse(self, regex, change=None, cut=None):
        with tempfile.TemporaryDirectory() as tmp:
            out = Path(tmp, "damaged")
            shutil.copytree(FOLDER / "llama2", out)
            if change:
                tensors, config = checkpoints.read(out)
                change(tensors, config["quantization_config"])
                checkpoints.write(out, tensors, config)
            if cut:
                data = (out / "model.safetensors").read_bytes()
                (out / "model.safetensors").write_bytes(data[: cut if cut > 0 else len(data) + cut])
            with self.assertRaisesRegex(ValueError, regex) as caught:
                AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
            self.assertNotIn("\n", str(caught.exception))

    def test_truncated(self):
        for cut in (-1, -100, -20000):
            self.refuse(r"tensor \S+ ends at byte \d+, the file has \d+", cut=cut)
        for cut in (1, 8, 100):
            self.refuse("shorter than its own header", cut=cut)

    def test_tensors(self):
        q = "model.layers.1.self_attn.q_proj"

        def put(key, value):
            return lambda t, c: t.update({key: value(t[key])})

        for suffix in ("trellis", "su", "sv", "scale"):
            self.refuse(rf"tensor {q}\.{suffix} is missing", lambda t, c, s=suffix: t.pop(f"{q}.{s}"))
        self.refuse(r"tensor kronq\.hyb_table is missing", lambda t, c: t.pop("kronq.hyb_table"))
        self.refuse(r"tensor model\.embed_tokens\.qweight is missing", lambda t, c: t.pop("model.embed_tokens.qweight"))
        self.refuse(r"tensor model\.embed_tokens\.scales is missing", lambda t, c: t.pop("model.embed_tokens.scales"))
        for suffix in ("trellis", "su", "sv", "scale"):
            self.refuse(rf"tensor lm_head\.{suffix} is missing", lambda t, c, s=suffix: t.pop(f"lm_head.{s}"))
        self.refuse(
            r"tensor model\.layers\.0\.input_layernorm\.weight is missing", lambda t, c: t.pop("model.layers.0.input_layernorm.weight")
        )
        self.refuse(rf"tensor {q}\.trellis is I16 \[4, 4, 31\], expected I16 \[4, 4, 32\]", put(q + ".trellis", lambda v: v[..., :31]))
        self.refuse(rf"tensor {q}\.trellis is I32 .*, expected I16", put(q + ".trellis", lambda v: v.int()))
        self.refuse(rf"tensor {q}\.scale is F16", put(q + ".scale", lambda v: v.half()))
        self.refuse(rf"tensor {q}\.scale holds NaN", put(q + ".scale", lambda v: v * float("nan")))
        self.refuse(rf"tensor {q}\.scale is -", put(q + ".scale", lambda v: -v))
        self.refuse(rf"tensor {q}\.su holds NaN or Inf", put(q + ".su", lambda v: v / 0))
        self.refuse(rf"tensor {q}\.su is I8 .*, expected F16", put(q + ".su", lambda v: v.char()))
        self.refuse(r"tensor model\.embed_tokens\.scales holds NaN or Inf", put("model.embed_tokens.scales", lambda v: v / 0))
        self.refuse(r"tensor lm_head\.sv holds NaN or Inf", put("lm_head.sv", lambda v: v / 0))
        self.refuse(r"tensor lm_head\.trellis is I16 .*, expected I16", put("lm_head.trellis", lambda v: v[1:]))
        self.refuse(r"tensor kronq\.hyb_table holds NaN or Inf", put("kronq.hyb_table", lambda v: v * float("inf")))

    def test_config(self):
        def put(key, value):
            return lambda t, c: c.update({key: value})

        self.refuse("format_version is 3, expected 1 to 2", put("format_version", 3))
        self.refuse("code is 'abc'", put("code", "abc"))
        self.refuse("module_bits is ", put("module_bits", {"model.layers.0.self_attn.q_proj": 5}))
        self.refuse("module_bits names model.layers.9", put("module_bits", {"model.layers.9.self_attn.q_proj": 2}))
        self.refuse("embed_bits is 7", put("embed_bits", 7))
        self.refuse("frequent_rows is -1", put("frequent_rows", -1))
        self.refuse(r"tensor lm_head\.trellis is I16 \[.*\], expected I16 \[\d+\]", lambda t, c: (c["one_sided_modules"].update(lm_head=3), c.update(frequent_rows=64)))
        self.refuse("one_sided_modules is ", put("one_sided_modules", {"lm_head": 5}))
        self.refuse("one_sided_modules is ", put("one_sided_modules", {"model.norm": 4}))
        self.refuse(
            r"tensor model\.layers\.0\.self_attn\.q_proj\.trellis is I16 \[4, 4, 32\], expected I16 \[4, 4, 48\]",
            lambda t, c: c["module_bits"].update({"model.layers.0.self_attn.q_proj": 3}),
        )


REMOTE = """
import sys, torch, transformers
from transformers import AutoModelForCausalLM
transformers.logging.set_verbosity_error()
folder, out = sys.argv[1:]
try:
    import kronq
    sys.exit("kronq can be imported")
except ImportError:
    pass
def logits(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=True)
    with torch.inference_mode():
        return model, model(torch.arange(3, 60)[None], use_cache=False).logits[0]
model, y = logits(folder)
assert type(model.model.layers[0].mlp.up_proj).__name__ == "KronqLinear"
model.save_pretrained(out)
assert torch.equal(logits(out)[1], y)
torch.save(y, out + "/logits.pt")
"""


# The card's two examples as they stand on an ordinary checkpoint, in a Python that has never heard of kronq.
STOCK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
repo_id, questions, out = sys.argv[1:4]
where = {"device_map": "auto"} if sys.argv[4] == "1" else {}
tokenizer = AutoTokenizer.from_pretrained(repo_id)
model = AutoModelForCausalLM.from_pretrained(repo_id, torch_dtype="auto", **where)
assert model.dtype == torch.bfloat16 and type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
inputs = tokenizer("What is the capital of France?", return_tensors="pt", return_token_type_ids=False)
outputs = model.generate(**inputs, max_new_tokens=8, do_sample=False)
assert outputs.shape[1] > inputs["input_ids"].shape[1] and isinstance(tokenizer.decode(outputs[0], skip_special_tokens=True), str)
pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
for line in open(questions):
    q = json.loads(line)["question"]
    assert pipe(q, max_new_tokens=4)[0]["generated_text"].startswith(q)
assert not any(name.split(".")[0] == "kronq" for name in sys.modules)
with torch.inference_mode():
    torch.save(model.float()(torch.arange(3, 60)[None], use_cache=False).logits[0], out)
"""


def without_kronq():
    """An environment whose Python does not find the package."""
    path = os.pathsep.join(p for p in os.environ["PYTHONPATH"].split(os.pathsep) if not Path(p, "kronq").is_dir())
    return dict(os.environ, PYTHONPATH=path, HF_HOME=str(FOLDER / "hf"))


class Program(unittest.TestCase):
    def test_cards_examples_on_the_bf16_export(self):
        questions, out = FOLDER / "card.jsonl", FOLDER / "stock.pt"
        questions.write_text("".join(json.dumps({"question": q}) + "\n" for q in ("Which is a gas?", "Why is ice hard?")))
        for name in ("llama2", "qwen3"):
            export = FOLDER / f"bf16-{name}"
            subprocess.run([checkpoints.PROGRAM, "export", FOLDER / name, "--to", "bf16", "-o", export, "--quiet"], check=True)
            r = subprocess.run([sys.executable, "-c", STOCK, export, questions, out, str(int(HAVE_ACCELERATE))], env=without_kronq(), cwd=FOLDER,
                               stderr=subprocess.PIPE, text=True)
            self.assertEqual(r.returncode, 0, r.stderr)
            packed, stock = logits(load(name)), torch.load(out)
            error = float((packed - stock).norm() / packed.norm())
            self.assertLess(error, 2e-2, name)  # bf16 keeps 8 bits of each weight: 2^-9 a weight, over some twenty products
            self.assertGreater(error, 1e-5, name)  # and is not the packed model over again

    def test_without_the_package(self):
        """trust_remote_code=True, by the modelling file that the program wrote."""
        env = without_kronq()
        for name in ("tied", "qwen3"):
            out = FOLDER / f"remote-{name}"
            r = subprocess.run([sys.executable, "-c", REMOTE, FOLDER / name, out], env=env, cwd=FOLDER, stderr=subprocess.PIPE, text=True)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertTrue(torch.equal(torch.load(out / "logits.pt"), logits(load(name))))

    def test_verify_from_the_shell(self):
        def run(*args):
            return subprocess.run(
                [sys.executable, "-m", "kronq.verify", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )

        good = run(FOLDER / "tied", "--program", checkpoints.PROGRAM, "--text", checkpoints.TEXT, "--json")
        self.assertEqual(good.returncode, 0, good.stderr)
        self.assertTrue(json.loads(good.stdout)["agree"])
        absent = run(FOLDER / "tied", "--program", "no-such-program")
        self.assertEqual(absent.returncode, 1)
        self.assertIn("no such program", absent.stderr)

    def test_verify_sees_a_difference(self):
        out = FOLDER / "other"
        shutil.copytree(FOLDER / "tied", out)
        was = kronq.KronqLinear.forward
        try:
            kronq.KronqLinear.forward = lambda self, x: was(self, x) * (1.01 if self.out_features == 112 else 1)
            self.assertGreater(verify(str(out), checkpoints.PROGRAM, checkpoints.TEXT)["relative_error"], 1e-3)
        finally:
            kronq.KronqLinear.forward = was


if __name__ == "__main__":
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}", file=sys.stderr)
    unittest.main(verbosity=2)
