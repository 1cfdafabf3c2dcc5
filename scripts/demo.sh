#!/bin/sh
# Quantize MODEL to BITS bits with a small calibration on text it writes itself, measure what is left, and let both models answer.
set -eu
kronq=$1 model=$2 bits=$3 text=$4
out=out/demo-${bits}bit
rm -rf "$out"
question="Why is the sky blue? Answer in two sentences."

echo "== quantizing $(basename "$model") to $bits bits"
"$kronq" quantize "$model" -o "$out" --bits "$bits" --tokens 8192 --seq-len 512
echo
echo "== how much of the original is left, on $text"
"$kronq" eval "$out" --ppl "$text" --kld "$model" --chunks 5 --quiet
printf 'the original: '
"$kronq" eval "$model" --ppl "$text" --chunks 5 --quiet
echo
echo "== sizes"
printf '%-36s %s\n' "original ($(basename "$model"))" "$(stat -L -c %s "$model") bytes" "kronq, $bits bits" "$(stat -c %s "$out/model.safetensors") bytes"
echo
echo "== \"$question\""
echo "-- original"
"$kronq" run "$model" -p "$question" --chat --temp 0 -n 80
echo "-- $bits bits"
"$kronq" run "$out" -p "$question" --chat --temp 0 -n 80
