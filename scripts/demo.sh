#!/bin/sh
# make demo: quantize MODEL to BITS bits, measure how much of the original is left, let both models answer, and say what to look at.
# The calibration is small (8192 tokens) and its text is written by the model itself, so that nothing else has to be fetched.
set -eu
kronq=$1 model=$2 bits=$3 text=$4
out=out/demo-${bits}bit
question="Why is the sky blue? Answer in two sentences."
new="$bits bits"
measures=$(mktemp) original=$(mktemp)
trap 'rm -f "$measures" "$original"' EXIT
trap 'exit 1' HUP INT TERM # the EXIT trap then runs
rm -rf "$out"

echo "== 1/3: rounding $(basename "$model") to $bits bits: some minutes on two cores, a line for each block from the last to the first"
"$kronq" quantize "$model" -o "$out" --bits "$bits" --effort low --seq-len 512

echo
echo "== 2/3: both models read $text"
"$kronq" eval "$out" --ppl "$text" --kld "$model" --chunks 5 >"$measures"
"$kronq" eval "$model" --ppl "$text" --chunks 5 >"$original"

echo
echo "== 3/3: both models answer: $question"
for m in "$model" "$out"; do
    echo
    if [ "$m" = "$out" ]; then echo "-- $new:"; else echo "-- the original:"; fi
    "$kronq" run "$m" -p "$question" --chat --temp 0 -n 80 --quiet
    echo
done

megabytes() { awk -v n="$(stat -L -c %s "$1")" 'BEGIN { printf "%.1f MB", n / 1e6 }'; }
perplexity() { awk '/perplexity/ { for (i = 1; i < NF; i++) if ($i == "perplexity") { print $(i + 1); exit } }' "$1"; }
kld() { sed -n 's/^KL divergence to .*: \([0-9.]*\) .*/\1 nats/p' "$1"; }
top() { sed -n 's/.*same most likely token \([0-9.]*%\).*/\1/p' "$1"; }
line() { printf '%-26s %12s %12s   %s\n' "$@"; }
echo
echo "== What to look at"
line "" "original" "$new" ""
line "file" "$(megabytes "$model")" "$(megabytes "$out/model.safetensors")" "smaller is better"
line "perplexity" "$(perplexity "$original")" "$(perplexity "$measures")" "how surprised it is by the text: lower is better"
line "KL divergence" "0" "$(kld "$measures")" "how far its predictions are from the original's"
line "same most likely token" "100%" "$(top "$measures")" "how often it would go on with the same token"
echo "Then compare the two answers above. At 2 bits a model as small as SmolLM2-135M loses much: \`make demo BITS=3\` shows the difference."
echo "The checkpoint is $out. Talk to it: $kronq run $out --chat"
