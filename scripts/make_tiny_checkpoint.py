#!/usr/bin/env python3
"""Tiny but complete models for the tests of the program (tests/cli): weights, tokenizer, text.

    python scripts/make_tiny_checkpoint.py tests/golden/tiny_cli

  hf/          3-layer llama, d_model 64, 4 heads on 2, d_ff 112 (16 * 7: no Hadamard matrix of that order is used), tied, bf16
  model.gguf   the same weights as llama.cpp would hold them: q and k rows permuted, Q8_0 where rows are multiples of 32, F16 elsewhere
  odd/         1-layer qwen3, sizes 40, 20, 52 that are no multiples of 16, untied head
  text.txt     what both are calibrated and measured on
Vocabulary: 384 byte-level BPE tokens trained on text.txt. Weights are random (seed 11), scaled so that predictions differ from token to token.
"""
import json
import pathlib
import random
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = """the of and to in is that it was for on are as with they be at one have this from by hot but some what there we can out other were
all your when up use word how said an each she which do their time if will way about many then them would write like so these her long make
thing see him two has look more day could go come did my sound no most number who over know water than call first people""".split()
VOCAB, CHAT = 384, "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def text(rng, n):
    out = []
    while sum(map(len, out)) < n:
        words = [rng.choice(WORDS) for _ in range(rng.randint(4, 12))]
        out.append(" ".join(words).capitalize() + rng.choice([".\n", ". ", "? ", ", 42. "]))
    return "".join(out)


def tokenizer(folder, corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([corpus], trainers.BpeTrainer(vocab_size=VOCAB, show_progress=False, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": None,
         "add_bos_token": False, "chat_template": CHAT, "model_max_length": 512}, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 2}, indent=1))
    return t


def weights(d, n_layer, n_head, n_kv, head_dim, d_ff, tied, qk_norm, dtype):
    g = torch.Generator().manual_seed(11)

    def matrix(m, n, scale=1.0):
        return (scale * n ** -0.5 * torch.randn(m, n, generator=g)).to(dtype)

    def gain(n):
        return (1 + 0.1 * torch.randn(n, generator=g)).to(dtype)

    w = {"model.embed_tokens.weight": matrix(VOCAB, d, d ** 0.5 * (0.25 if tied else 1)), "model.norm.weight": gain(d)}
    for l in range(n_layer):
        p = f"model.layers.{l}."
        w[p + "input_layernorm.weight"] = gain(d)
        w[p + "post_attention_layernorm.weight"] = gain(d)
        for name, m, n in [("self_attn.q_proj", n_head * head_dim, d), ("self_attn.k_proj", n_kv * head_dim, d), ("self_attn.v_proj", n_kv * head_dim, d),
                           ("self_attn.o_proj", d, n_head * head_dim), ("mlp.gate_proj", d_ff, d), ("mlp.up_proj", d_ff, d), ("mlp.down_proj", d, d_ff)]:
            w[p + name + ".weight"] = matrix(m, n)
        if qk_norm:
            w[p + "self_attn.q_norm.weight"] = gain(head_dim)
            w[p + "self_attn.k_norm.weight"] = gain(head_dim)
    if not tied:
        w["lm_head.weight"] = matrix(VOCAB, d)
    return w


def write_hf(folder, model_type, d, n_layer, n_head, n_kv, head_dim, d_ff, tied, dtype, corpus):
    folder.mkdir(parents=True, exist_ok=True)
    w = weights(d, n_layer, n_head, n_kv, head_dim, d_ff, tied, model_type == "qwen3", dtype)
    save_file(w, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(
        {"architectures": ["LlamaForCausalLM" if model_type == "llama" else "Qwen3ForCausalLM"], "model_type": model_type, "hidden_size": d,
         "intermediate_size": d_ff, "num_hidden_layers": n_layer, "num_attention_heads": n_head, "num_key_value_heads": n_kv, "head_dim": head_dim,
         "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu",
         "attention_bias": False, "tie_word_embeddings": tied, "bos_token_id": 0, "eos_token_id": 2, "torch_dtype": str(dtype).split(".")[1]}, indent=1))
    return w, tokenizer(folder, corpus)


def permute(w, n_head):
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, w, t, n_head, n_kv, d_ff):
    out = gguf.GGUFWriter(str(path), "llama")
    out.add_name("tiny")
    out.add_context_length(512)
    out.add_embedding_length(64)
    out.add_block_count(3)
    out.add_feed_forward_length(d_ff)
    out.add_head_count(n_head)
    out.add_head_count_kv(n_kv)
    out.add_rope_dimension_count(16)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(VOCAB)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("llama-bpe")
    vocab = sorted(t.get_vocab().items(), key=lambda kv: kv[1])
    out.add_token_list([k for k, _ in vocab])
    out.add_token_types([gguf.TokenType.CONTROL if i < 3 else gguf.TokenType.NORMAL for _, i in vocab])
    merges = json.loads(t.to_str())["model"]["merges"]
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_bos_token_id(0)
    out.add_eos_token_id(2)
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name, value in w.items():
        x = value.float().numpy()
        if name == "model.embed_tokens.weight":
            to = "token_embd.weight"
        elif name == "model.norm.weight":
            to = "output_norm.weight"
        else:
            _, _, layer, rest = name.split(".", 3)
            to = f"blk.{layer}.{names[rest[:-7]]}.weight"
            x = permute(x, n_head) if "q_proj" in name else permute(x, n_kv) if "k_proj" in name else x
        if x.ndim == 1:
            out.add_tensor(to, x)
        elif x.shape[1] % 32 == 0:
            q = gguf.GGMLQuantizationType.Q8_0
            out.add_tensor(to, gguf.quants.quantize(np.ascontiguousarray(x), q), raw_dtype=q)
        else:
            out.add_tensor(to, x.astype(np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    folder = pathlib.Path(sys.argv[1])
    corpus = text(random.Random(11), 9000)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(corpus)
    w, t = write_hf(folder / "hf", "llama", 64, 3, 4, 2, 16, 112, True, torch.bfloat16, corpus)
    write_gguf(folder / "model.gguf", w, t, 4, 2, 112)
    write_hf(folder / "odd", "qwen3", 40, 1, 2, 1, 20, 52, False, torch.bfloat16, corpus)


main()
