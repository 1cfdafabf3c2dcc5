#!/bin/bash
# kronq tune of a GGUF: only scales and norms change; same bytes for threads, memory and --resume; refusals.
. "$(dirname "$0")/common.sh"
HERE=$(cd "$(dirname "$0")" && pwd)
: "${DIE_AT_SO:?the library of die_at.c}"
: "${INTERRUPT:?the program of interrupt.c}"
PYTHON=${KRONQ_PYTHON:-python3}
TUNE="--reference $HF --text $TEXT --seq-len 64 --tokens 3k --seed 3 --lr 0.001"

kld() { # MODEL: its KL divergence to the original on the text
    must "$KRONQ" eval "$1" --ppl "$TEXT" --kld "$HF" --ctx 128 --compute f32 --json --quiet
    get must.out kld || fail "no kld of $1"
}

for type in Q4_0 Q4_1 Q5_1; do
    say "$type, tuned"
    must "$KRONQ" quantize "$HF" --to gguf --type $type --pure --fallback F16 -o $type.gguf $CAL --quiet
    must "$KRONQ" tune $type.gguf $TUNE -o tuned-$type.gguf --threads 2 --json
    cp must.out report-$type.json
    has report-$type.json kld_before kld_after best_step loss watched seconds/total peak_rss_bytes trained kept_scales
    [ "$(get report-$type.json trained_matrices/$type)" = 19 ] || fail "trained matrices"
    [ "$(get report-$type.json kept_matrices/F16)" = 3 ] || fail "matrices that are not trained"
    before=$(kld $type.gguf) after=$(kld tuned-$type.gguf)
    say "   KLD $before -> $after"
    awk -v a="$after" -v b="$before" 'BEGIN { exit !(a < 0.99 * b) }' || fail "KLD $before, tuned $after"
    "$PYTHON" "$HERE/check_tuned_gguf.py" $type.gguf tuned-$type.gguf "$HF" folder-$type >python.out 2>&1
    case $? in
    0) near "$(kld folder-$type)" "$after" 1e-4 || fail "gguf-py decodes another model" ;;
    77) echo "SKIP: no gguf package" ;;
    *) tail -1 python.out && fail "check_tuned_gguf.py" ;;
    esac
done
mv Q4_1.gguf q.gguf && mv tuned-Q4_1.gguf tuned.gguf && mv report-Q4_1.json report.json

say "the reference may be a GGUF too"
must "$KRONQ" quantize "$GGUF" --to gguf --type Q4_0 --pure --fallback F16 -o from-gguf.gguf $CAL --quiet
must "$KRONQ" tune from-gguf.gguf --reference "$GGUF" --text "$TEXT" --seq-len 64 --tokens 3k --lr 0.001 -o other.gguf --quiet

say "threads and memory change no byte"
must "$KRONQ" tune q.gguf $TUNE -o t1.gguf --threads 1 --json
same tuned.gguf t1.gguf
must "$KRONQ" tune q.gguf $TUNE -o t2.gguf --threads 2 --memory $(($(get report.json planned_bytes) - 1)) --json
[ "$(get must.out weights_kept)" = false ] || fail "decoded weights are kept although the memory is small"
same tuned.gguf t2.gguf

say "interrupted and killed, then resumed"
for ms in 20 45 70; do
    for how in 2 9; do
        rm -rf part.gguf*
        "$INTERRUPT" $how $((ms * 1000)) process "$KRONQ" tune q.gguf $TUNE -o part.gguf --threads 1 --quiet >/dev/null 2>&1
        [ -e part.gguf ] || must "$KRONQ" tune q.gguf $TUNE -o part.gguf --resume --quiet
        same tuned.gguf part.gguf
    done
done
begun=0
must env DIE_COUNT=places LD_PRELOAD="$DIE_AT_SO" ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
    "$KRONQ" tune q.gguf $TUNE -o counted.gguf --quiet
places=$(cat places)
# the state is saved in the middle: before it a file for every sequence is made, behind it they are removed
for n in 2 9 $((places / 3)) $(seq $((places / 2 - 6)) $((places / 2 + 6))) $((places - 30)) $places; do
    rm -rf part.gguf*
    (DIE_AT=$n LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
        exec "$KRONQ" tune q.gguf $TUNE -o part.gguf --quiet) >/dev/null 2>&1
    [ ! -e part.gguf.work/state-00000.bin ] || begun=$((begun + 1))
    must "$KRONQ" tune q.gguf $TUNE -o part.gguf --resume --quiet
    same tuned.gguf part.gguf
    [ ! -e part.gguf.work ] || fail "left after a death at place $n"
done 2>/dev/null
[ $begun -ge 2 ] || fail "only $begun deaths with a saved state"
must "$KRONQ" tune q.gguf $TUNE -o tuned.gguf --resume --json
[ "$(get must.out complete)" = true ] || fail "a complete output is not taken for complete"
refuse 1 'is not a tuned copy of' "$KRONQ" tune Q4_0.gguf $TUNE -o tuned.gguf --resume --quiet

say "tuning that does not help is not written"
refuse 1 'best left as it is; none.gguf was not written' "$KRONQ" tune q.gguf $TUNE --lr 1 --warmup 0 --watch 1 --epochs 3 -o none.gguf --quiet
[ ! -e none.gguf ] && [ ! -e none.gguf.work ] || fail "something is left"

say "refusals leave nothing"
refuse '1|2' 'exists already' "$KRONQ" tune q.gguf $TUNE -o tuned.gguf --quiet
mkdir folder
refuse '1|2' 'is a folder' "$KRONQ" tune q.gguf $TUNE -o folder --quiet
refuse '1|2' 'is quantized already|its fingerprint is' "$KRONQ" tune q.gguf --reference q.gguf --text "$TEXT" --seq-len 64 --tokens 1k -o no.gguf --quiet
refuse 1 'its architecture is' "$KRONQ" tune q.gguf --reference "$ODD" --text "$TEXT" --tokens 1k --seq-len 64 -o no.gguf --quiet
must "$KRONQ" export "$HF" --to gguf --type F16 -o plain.gguf --quiet
refuse '1|2' 'has no quantized linear' "$KRONQ" tune plain.gguf $TUNE -o no.gguf --quiet
refuse 1 'was made from a model with' "$KRONQ" tune q.gguf --reference Q4_0.gguf --text "$TEXT" --tokens 1k --seq-len 64 -o no.gguf --quiet
refuse 1 'at least .* are needed' "$KRONQ" tune q.gguf $TUNE --memory 50M -o no.gguf --quiet
refuse 1 'is split into 3 parts' "$KRONQ" tune "$GOLDEN"/cases/22-split-gguf/*00001-of-00003.gguf $TUNE -o no.gguf --quiet
head -c 60000 q.gguf >short.gguf
refuse 1 'short.gguf: ' "$KRONQ" tune short.gguf $TUNE -o no.gguf --quiet
cp q.gguf bad.gguf && poke bad.gguf 4
refuse 1 'bad.gguf: ' "$KRONQ" tune bad.gguf $TUNE -o no.gguf --quiet
[ ! -e no.gguf ] && [ ! -e no.gguf.work ] || fail "a refusal left something"
echo ok
