#!/bin/bash
# --gradients and --memory: the same bytes wherever gradients are kept, a budget that holds, one that cannot is refused.
. "$(dirname "$0")/common.sh"

ways() { # METHOD OPTIONS...: factor files and checkpoints do not depend on where the gradients are
    local method=$1 w
    shift
    for w in memory disk stream; do
        must "$KRONQ" calibrate "$HF" -o "f-$method-$w" --method "$method" $CAL --only 'layers\.(0|2)\.' --gradients $w --json --quiet "$@"
        [ "$(get must.out gradients)" = $w ] || fail "gradients are said to be on the way $(get must.out gradients)"
        cmp "f-$method-$w" "f-$method-memory" || fail "$method, $w: other factors"
    done
}
say "calibrate: memory, disk, stream"
ways flipflop --early 5
must "$KRONQ" calibrate "$HF" -o all $CAL --only 'layers\.(0|2)\.' --early 0 --quiet
cmp -s all f-flipflop-memory && fail "--early 5 is without effect"
ways fastkron --max-iter 4 --threads 1
ways yaqa-b --max-iter 3 --batch 4 --threads 3
ways flipflop-tokens
for w in disk stream; do
    must "$KRONQ" quantize "$HF" -o q-$w $CAL --only 'layers\.1\.' --gradients $w --quiet
done
must "$KRONQ" quantize "$HF" -o q-memory $CAL --only 'layers\.1\.' --quiet
same q-disk q-memory
same q-stream q-memory

say "a block interrupted while its gradients are on disk leaves none of them behind"
(ulimit -f 200; "$KRONQ" calibrate "$HF" -o cut $CAL --gradients disk --quiet) >cut.out 2>cut.err && fail "200 kB were enough for a block's gradients"
[ -z "$(find . -name 'gradients-*')" ] || fail "left: $(find . -name 'gradients-*')"

say "a budget that cannot hold is refused, with the least that would do; and that holds"
refuse 2 "gradients nowhere is unknown; use memory, disk or stream" "$KRONQ" calibrate "$HF" -o never $CAL --gradients nowhere --quiet
refuse 2 "memory lots" "$KRONQ" calibrate "$HF" -o never $CAL --memory lots --quiet
refuse 2 "memory 0" "$KRONQ" calibrate "$HF" -o never $CAL --memory 0 --quiet
refuse 1 "memory 5M is too little: this takes at least [0-9]+M" "$KRONQ" calibrate "$HF" -o never $CAL --memory 5M --quiet
[ ! -e never ] || fail "a refused command left a file"
least=$(grep -Eo 'at least [0-9]+M' refuse.err | grep -Eo '[0-9]+M')
must "$KRONQ" calibrate "$HF" -o enough $CAL --memory "$least" --json --quiet
[ "$(get must.out peak_rss_bytes)" -le $((${least%M} << 20)) ] || fail "peak $(get must.out peak_rss_bytes) above --memory $least"
[ "$(get must.out planned_bytes)" -le $((${least%M} << 20)) ] || fail "planned $(get must.out planned_bytes) above --memory $least"
refuse 1 "memory 5M is too little" "$KRONQ" quantize --tune none "$HF" -o never $CAL --memory 5M --dry-run
refuse 1 "memory 5M is too little" "$KRONQ" quantize "$HF" --to gguf --type Q4_0 --fallback F16 -o never.gguf $CAL --memory 5M --quiet

say "eval: the same figures in as little memory as it says it needs"
figures() { # everything measured, without times and memory
    grep -Ev '"(seconds|total_evaluation_time_seconds|peak_rss_bytes|date)"' must.out
}
measures() { # WHAT OPTIONS...
    local what=$1 least
    shift
    refuse 1 "memory 5M is too little: $what at least [0-9]+M" "$KRONQ" eval "$HF" "$@" --memory 5M --quiet
    least=$(grep -Eo 'at least [0-9]+M' refuse.err | grep -Eo '[0-9]+M')
    must "$KRONQ" eval "$HF" "$@" --json --quiet
    figures >free.json
    must "$KRONQ" eval "$HF" "$@" --memory "$least" --json --quiet
    figures >bound.json
    cmp free.json bound.json || fail "$what: other figures with --memory $least"
    [ "$(get must.out peak_rss_bytes)" -le $((${least%M} << 20)) ] || fail "$what: peak $(get must.out peak_rss_bytes) above --memory $least"
}
measures "evaluation takes" --ppl "$TEXT" --ctx 128 --kld "$GGUF"
measures "evaluation takes" --ppl "$TEXT" --ctx 128 --save-logits l.kld
measures "scoring these documents takes" --task arc_easy="$GOLDEN/tasks/arc_easy.jsonl" --log-samples s.jsonl
[ ! -e s.jsonl.partial ] || fail "a refused task left a journal"

say "compare: refused before anything is written, or within the budget"
C="$KRONQ compare $HF -o cmp --methods input-only --ppl $TEXT --ctx 64 --chunks 2 --only layers\.1\. ${CAL/--seed/--seeds} --quiet"
refuse 1 "input-only: --memory 5M is too little: this takes at least [0-9]+M" $C --memory 5M
least=$(grep -Eo 'at least [0-9]+M' refuse.err | grep -Eo '[0-9]+M')
refuse 1 "input-only: --memory 5M is too little" $C --memory 5M --dry-run
[ ! -e cmp ] || fail "a refused comparison left a folder"
refuse 1 "none: --memory ${least%M}M is too little: evaluation takes at least [0-9]+M; a shorter --ctx" "$KRONQ" compare "$HF" -o cmp --methods none --ppl "$TEXT" --ctx 512 --memory "${least%M}M" --quiet
[ ! -e cmp ] || fail "a refused comparison left a folder"
must $C --memory 250M
for stage in calibration rounding evaluation; do
    peak=$(get cmp/rows/input-only-*.json peak_rss_bytes/$stage)
    # a sanitizer keeps freed memory for a while
    [ -n "${SANITIZE:-}" ] || [ "${peak%.*}" -le $((250 << 20)) ] || fail "$stage: $peak above --memory 250M"
done

if [ -n "${KRONQ_TEST_MODEL:-}" ]; then
    say "the real model: the peak stays below the budget" # not with a sanitizer, which keeps 256 MB of freed memory
    for w in disk stream; do
        must "$KRONQ" calibrate "$KRONQ_TEST_MODEL" -o real-$w --text "$TEXT" --text "$GOLDEN/tiny_cli/text.txt" --tokens 1024 --seq-len 256 --only 'layers\.29\.' --gradients $w --memory 640M --json --quiet
        [ -n "${SANITIZE:-}" ] || [ "$(get must.out peak_rss_bytes)" -le $((640 << 20)) ] || fail "peak $(get must.out peak_rss_bytes) above 640M, gradients: $w"
    done
    cmp real-disk real-stream || fail "real model: other factors"
    if [ -z "${SANITIZE:-}" ]; then # a sanitizer keeps freed memory for a while
        refuse 1 "memory 300M is too little: evaluation takes at least [0-9]+M" "$KRONQ" eval "$KRONQ_TEST_MODEL" --ppl "$TEXT" --kld "$KRONQ_TEST_MODEL" --ctx 1024 --compute f32 --memory 300M --quiet
        least=$(grep -Eo 'at least [0-9]+M' refuse.err | grep -Eo '[0-9]+M')
        must "$KRONQ" eval "$KRONQ_TEST_MODEL" --ppl "$TEXT" --kld "$KRONQ_TEST_MODEL" --ctx 1024 --compute f32 --memory "$least" --json --quiet
        [ "$(get must.out peak_rss_bytes)" -le $((${least%M} << 20)) ] || fail "peak $(get must.out peak_rss_bytes) above --memory $least in eval"
    fi
fi
echo ok
