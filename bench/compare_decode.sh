#!/bin/sh
# Tokens a second of one model, one sequence, in the same run: kronq (packed, and dense in bf16), llama.cpp, transformers.
#
#     bench/compare_decode.sh MODEL.gguf PACKED [PACKED...]
#
# MODEL.gguf the 16-bit or high-precision original; PACKED kronq checkpoints of it. KRONQ names the program (build/release/kronq), THREADS the
# threads (all), R the repetitions (5). LLAMA_BENCH and Q4_0 name llama.cpp's llama-bench and the same model in Q4_0, PYTHON a Python with
# torch and transformers, HF a Hugging Face folder of the original (`kronq export`, or the model's own): each is left out when not set.
set -eu
KRONQ=${KRONQ:-build/release/kronq}; THREADS=${THREADS:-$(nproc)}; R=${R:-5}
[ $# -ge 2 ] || { sed -n '2,10p' "$0"; exit 2; }
model=$1; shift
echo "# $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 | sed 's/^ //'), $THREADS threads, $R repetitions, load $(cut -d' ' -f1 /proc/loadavg)"
also=""
for p in "$@"; do also="$also --also $p"; done
# shellcheck disable=SC2086
"$KRONQ" bench "$model" $also --pp 512 --tg 128 --repetitions "$R" --threads "$THREADS" --quiet
if [ -n "${LLAMA_BENCH:-}" ] && [ -n "${Q4_0:-}" ]; then
    "$LLAMA_BENCH" -m "$Q4_0" -p 512 -n 128 -t "$THREADS" -r "$R" -o md
fi
if [ -n "${PYTHON:-}" ] && [ -n "${HF:-}" ]; then
    "$PYTHON" - "$HF" "$THREADS" "$R" <<'PY'
import sys, time, statistics, torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
ids = torch.arange(1, 513)[None] * 31 % model.config.vocab_size
def pp():
    model(ids, use_cache=True, logits_to_keep=1)
    return 512
def tg(n=128):
    past, token = None, ids[:, :1]
    for _ in range(n):
        out = model(token, past_key_values=past, use_cache=True)
        past, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
    return n
with torch.inference_mode():
    for name, run in (("pp512", pp), ("tg128", tg)):
        run()
        rates = []
        for _ in range(int(sys.argv[3])):
            t = time.perf_counter()
            n = run()
            rates.append(n / (time.perf_counter() - t))
        print(f"| transformers bf16 | {name} | {statistics.mean(rates):.2f} ± {statistics.stdev(rates) if len(rates) > 1 else 0:.2f} |")
PY
fi
