#!/bin/bash
# The same command and seed give the same bytes at every number of threads; another seed does not.
. "$(dirname "$0")/common.sh"

for method in flipflop input-only; do
    for t in 1 2 3; do
        say "$method, $t threads"
        must "$KRONQ" quantize "$HF" -o "$method$t" --method $method --only 'layers\.(0|2)\.' $CAL --threads $t --quiet
        same "$method$t" "${method}1"
    done
done
say "fastkron, 1 and 3 threads"
for t in 1 3; do
    must "$KRONQ" quantize "$HF" -o "fastkron$t" --method fastkron --max-iter 4 --only 'layers\.1\.(self_attn|mlp\.down)' $CAL --threads $t --quiet
done
same fastkron3 fastkron1
say "text the model writes itself, 1 and 3 threads"
for t in 1 3; do
    must "$KRONQ" quantize "$HF" -o "self$t" --only 'layers\.2\.mlp' --seq-len 32 --tokens 512 --seed 3 --threads $t --quiet
done
same self3 self1
say "embedding and head as trellises, 1, 2 and 3 threads; factors from the sweep and from a file"
for t in 1 2 3; do
    must "$KRONQ" quantize "$ODD" -o "rows$t" --only 'layers\.0\.self_attn' $CAL --embed-bits 3 --head-bits 2 --frequent-rows 48 --threads $t --quiet
    same "rows$t" rows1
done
must "$KRONQ" calibrate "$ODD" -o rows.safetensors --only 'layers\.0\.self_attn' $CAL --quiet
must "$KRONQ" quantize "$ODD" -o rows4 --only 'layers\.0\.self_attn' --factors rows.safetensors --seed 3 --embed-bits 3 --head-bits 2 --frequent-rows 48 --quiet
cmp rows4/model.safetensors rows1/model.safetensors || fail "a factor file gives other rows than the sweep"
for method in flipflop fastkron yaqa-a yaqa-b kfac flipflop-tokens diag; do
    say "calibrate, $method, 1 and 3 threads"
    for t in 1 3; do
        must "$KRONQ" calibrate "$HF" -o "f$t.safetensors" $CAL --method $method --only 'layers\.2\.(self_attn\.k|mlp\.down)' --threads $t --quiet
    done
    cmp f1.safetensors f3.safetensors || fail "$method: factor files differ"
    rm f1.safetensors f3.safetensors
done
say "another seed"
must "$KRONQ" quantize "$HF" -o seed4 --method flipflop --only 'layers\.(0|2)\.' $CAL --seed 4 --quiet
! cmp -s seed4/model.safetensors flipflop1/model.safetensors || fail "the seed changes nothing"
echo ok
