#!/bin/bash
# Every scaling of the rotary embedding, against transformers (scripts/make_rope_cases.py), and through the files that kronq writes.
. "$(dirname "$0")/common.sh"
TEXT=$GOLDEN/cases/text.txt
CASES=$GOLDEN/cases/12-rope-variants/cases.tsv

# model NAME REPLACEMENT: the tiny model with this instead of rope_theta and rope_scaling.
model() {
    rm -rf "$1" && cp -r "$HF" "$1"
    { echo "{ $2${2:+,}" && tail -n +2 "$HF/config.json" | sed -E '/"rope_(theta|scaling)"/d'; } >"$1/config.json"
}
# nll MODEL CTX WINDOWS
nll() {
    must "$KRONQ" eval "$1" --ppl "$TEXT" --ctx "$2" --chunks "$3" --compute f32 --json --quiet
    get must.out nll
}

say "transformers' figures and refusals"
n=0
while IFS=$'\t' read -r name ctx windows want extra; do
    model m "$extra"
    n=$((n + 1))
    case $want in
    refused | unsupported) # no warning may hide the refusal, so what else is on stderr does not matter
        "$KRONQ" eval m --ppl "$TEXT" --ctx "$ctx" --chunks "$windows" --compute f32 --quiet >out 2>err
        [ $? -eq 1 ] && [ ! -s out ] && grep -Eq 'm/config.json: .*(rope|partial_rotary_factor|original_max_position)' err || { cat err; fail "$name: not refused by name"; }
        ;;
    *)
        got=$(nll m "$ctx" "$windows")
        near "$got" "$want" 2e-7 || fail "$name: nll $got, transformers has $want"
        ;;
    esac
done <"$CASES"
[ $n -ge 70 ] || fail "$n cases"

say "the same figures from a GGUF and from a bf16 folder"
n=0
while IFS=$'\t' read -r name ctx windows want extra; do
    case $name in
    linear | dynamic | "yarn below 1" | "yarn, attention_factor" | "yarn, betas" | "yarn, truncate false" | "llama3, odd"* | longrope | "llama3 without an"*) ;;
    *) continue ;;
    esac
    n=$((n + 1))
    model m "$extra"
    rm -rf m.gguf bf16
    must "$KRONQ" export m --to gguf --type F32 -o m.gguf --quiet
    near "$(nll m.gguf "$ctx" "$windows")" "$want" 3e-7 || fail "$name: the GGUF has nll $(get must.out nll), transformers has $want"
    must "$KRONQ" export m --to bf16 -o bf16 --quiet
    near "$(nll bf16 "$ctx" "$windows")" "$want" 2e-7 || fail "$name: the bf16 folder has nll $(get must.out nll), transformers has $want"
    # the configuration that a checkpoint made from the GGUF gets says the same
    must "$KRONQ" export m.gguf --to bf16 -o again --quiet
    near "$(nll again "$ctx" "$windows")" "$want" 3e-7 || fail "$name: from the GGUF a folder of nll $(get must.out nll), transformers has $want"
    must "$KRONQ" export m.gguf --to gguf --type F32 -o again.gguf --quiet
    near "$(nll again.gguf "$ctx" "$windows")" "$want" 3e-7 || fail "$name: from the GGUF another of nll $(get must.out nll), transformers has $want"
    rm -rf again again.gguf
done <"$CASES"
[ $n -eq 9 ] || fail "$n cases went through files, expected 9"

say "quantized: the checkpoint keeps the scaling, and generates with it"
model m '"rope_theta": 50.0, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.5}'
must "$KRONQ" quantize --tune none m $CAL -o q --bits 4 --quiet
grep -q '"attention_factor": 1.5' q/config.json || fail "config.json of the checkpoint has no attention_factor"
must "$KRONQ" run q -p "The" -n 8 --temp 0 --quiet
mv must.out text
must "$KRONQ" export q --to gguf --type F32 -o q.gguf --quiet
must "$KRONQ" run q.gguf -p "The" -n 8 --temp 0 --quiet
cmp text must.out || fail "the checkpoint and its GGUF write differently"

say "warnings and lengths"
model m '"rope_theta": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}'
must "$KRONQ" eval m --ppl "$TEXT" --ctx 64 --chunks 1 --quiet
grep -q "warning: .*rope_scaling and rope_parameters differ; rope_scaling is used" must.err || fail "no warning of two spellings"
model m '"rope_scaling": {"rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 128, "short_factor": [1,1,1,1,1,1,1,2], "long_factor": [1,1,1,1,1,1,1,9]}'
"$KRONQ" eval m --ppl "$TEXT" --ctx 200 --chunks 1 --quiet >out 2>err && fail "a length beyond the original context"
grep -q "warning: .*takes that for the model's context instead of 512" err && grep -q -- "--ctx 200" err || fail "neither warning nor refusal of the length"
model m '"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}'
must "$KRONQ" export m --to gguf -o dynamic.gguf --quiet
grep -q "warning: GGUF has no dynamic rope scaling" must.err || fail "no warning of dynamic scaling"

say "what a GGUF of a Qwen3 model cannot say is refused before any work"
"$KRONQ" export "$GOLDEN/tiny_yarn" --to gguf -o no.gguf --quiet >out 2>err && fail "exported"
grep -q "rope scaling yarn .* of a Qwen3 model cannot be said in a GGUF" err || { cat err; fail "not refused by name"; }
[ -z "$(ls | grep no.gguf)" ] || fail "a refused export left a file"
