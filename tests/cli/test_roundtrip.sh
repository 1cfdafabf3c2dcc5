#!/bin/bash
# quantize -> eval -> run -> info: every method, code and number of bits, from a folder and from a GGUF file.
. "$(dirname "$0")/common.sh"

round() { # NAME MODEL BITS CODE METHOD MAX_MSE MAX_KLD [options]
    local out=$1 model=$2 bits=$3 code=$4 method=$5 mse=$6 kld=$7 m
    shift 7
    say "$out: $bits bits, $code, $method"
    "$KRONQ" quantize --tune none "$model" -o "$out" --bits "$bits" --code "$code" --method "$method" $CAL --json --quiet "$@" >"$out.json" 2>err || { cat err; fail "quantize $out"; }
    has "$out.json" bits bpw bpw_file file_bytes seconds/forward seconds/total peak_rss_bytes predicted_loss relative_mse
    [ "$(get "$out.json" bits)" = "$bits" ] || fail "bits of $out"
    m=$(get "$out.json" relative_mse)
    awk -v m="$m" -v t="$mse" 'BEGIN { exit !(m > 0.0005 && m < t) }' || fail "$out: relative error $m, at most $mse expected"
    has "$out.json" modules/model.layers.0.mlp.down_proj/bits modules/model.layers.0.mlp.down_proj/bpw modules/model.layers.0.mlp.down_proj/predicted_loss
    [ "$(get "$out/config.json" quantization_config/quant_method)" = kronq ] || fail "config.json of $out"
    [ "$(stat -c %s "$out/model.safetensors")" = "$(get "$out.json" file_bytes)" ] || fail "file_bytes of $out"
    for f in tokenizer.json tokenizer_config.json generation_config.json; do [ -s "$out/$f" ] || fail "$out lacks $f"; done
    "$KRONQ" eval "$out" --ppl "$TEXT" --ctx 64 --chunks 6 --kld "$model" --json --quiet >"$out.eval" 2>err || { cat err; fail "eval $out"; }
    has "$out.eval" ppl ppl_stderr nll nll_stderr tokens kld kld_stderr top1 top1_stderr
    awk -v k="$(get "$out.eval" kld)" -v t="$kld" 'BEGIN { exit !(k > 0 && k < t) }' || fail "$out: KL divergence $(get "$out.eval" kld), at most $kld expected"
}

# Bounds: 4^-bits is the least error a code can have; without feedback of errors each code stays within a third above it, with feedback the
# plain error grows while the loss falls. For the KL divergence twice what is measured.
round hyb2 "$HF" 2 hyb none 0.085 2.4
round mad3 "$HF" 3 1mad none 0.025 0.75
round inst4 "$GGUF" 4 3inst none 0.009 0.25
round flip2 "$HF" 2 hyb flipflop 0.2 2.1
round fast4 "$HF" 4 1mad fastkron 0.03 0.07 --only 'layers\.(0|2)\..*(q|down)_proj' --tol 0.05
round input3 "$GGUF" 3 hyb input-only 0.05 0.7
round odd3 "$ODD" 3 3inst flipflop 0.08 0.01
[ "$(get flip2.json predicted_loss)" != null ] || fail "flipflop predicts nothing"
[ "$(get hyb2.json predicted_loss)" = null ] || fail "the method none predicts something"

say "KL divergence falls with the bits; flipflop beats no curvature at 2 bits"
awk -v a="$(get hyb2.eval kld)" -v b="$(get mad3.eval kld)" -v c="$(get inst4.eval kld)" -v d="$(get flip2.eval kld)" 'BEGIN { exit !(a > b && b > c && d < a) }' ||
    fail "$(get hyb2.eval kld) $(get mad3.eval kld) $(get inst4.eval kld) $(get flip2.eval kld)"

say "a model against itself: no divergence, the same tokens"
"$KRONQ" eval hyb2 --ppl "$TEXT" --ctx 64 --chunks 3 --kld hyb2 --json --quiet >self.json || fail "eval"
awk -v k="$(get self.json kld)" 'BEGIN { exit !(k < 1e-6 && k > -1e-6) }' || fail "kld $(get self.json kld)"
near "$(get self.json top1)" 1 1e-9 || fail "top1 $(get self.json top1)"

say "a folder and a GGUF file of the same weights agree (Q8_0 apart)"
"$KRONQ" eval "$GGUF" --ppl "$TEXT" --ctx 64 --chunks 6 --kld "$HF" --json --quiet >gguf.json || fail "eval"
awk -v k="$(get gguf.json kld)" 'BEGIN { exit !(k < 0.003) }' || fail "kld $(get gguf.json kld)"

say "run: JSON, plain, chat, the same seed gives the same text"
must "$KRONQ" run flip2 -p "the water" -n 6 --json --seed 5
cp must.out run1
has run1 text tokens prompt_tokens
must "$KRONQ" run flip2 -p "the water" -n 6 --json --seed 5 --threads 1
[ "$(get run1 text)" = "$(get must.out text)" ] || fail "run differs from itself"
must "$KRONQ" run inst4 -p "Hello" -n 4 --chat --temp 0 --quiet
[ ! -s must.err ] || fail "run --quiet says something on stderr"
must "$KRONQ" run "$GGUF" -p "one" -n 3

say "embedding bits: 16, 8, 4, 3 and 2"
for b in 16 8 4 3 2; do
    must "$KRONQ" quantize "$HF" -o "embed$b" --bits 4 --method none --only 'layers\.0\.self_attn\.k_proj' --embed-bits $b --quiet
    "$KRONQ" eval "embed$b" --ppl "$TEXT" --ctx 64 --chunks 6 --kld "$HF" --json --quiet >"embed$b.json" || fail "eval embed$b"
done
awk -v a="$(get embed16.json kld)" -v b="$(get embed8.json kld)" -v c="$(get embed4.json kld)" -v d="$(get embed3.json kld)" -v e="$(get embed2.json kld)" \
    'BEGIN { exit !(a <= b * 1.02 && b < c && b < a + 0.01 && c < 0.3 && c < d && d < e) }' ||
    fail "kld $(get embed16.json kld) $(get embed8.json kld) $(get embed4.json kld) $(get embed3.json kld) $(get embed2.json kld)"
must "$KRONQ" quantize "$ODD" -o head4 --bits 4 --method none --only k_proj --embed-bits 16 --head-bits 4 --quiet
must "$KRONQ" eval head4 --ppl "$TEXT" --ctx 64 --chunks 2 --quiet
echo ok
