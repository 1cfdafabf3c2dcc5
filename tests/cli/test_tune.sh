#!/bin/bash
# kronq tune: the tuned checkpoint is nearer to the original; same bytes for threads, memory and --resume; refusals.
. "$(dirname "$0")/common.sh"
: "${DIE_AT_SO:?the library of die_at.c}"
: "${INTERRUPT:?the program of interrupt.c}"
TUNE="--reference $HF --text $TEXT --seq-len 64 --tokens 3k --seed 3"

kld() { # CHECKPOINT: its KL divergence to the original on the text
    must "$KRONQ" eval "$1" --ppl "$TEXT" --kld "$HF" --ctx 128 --compute f32 --json
    get must.out kld || fail "no kld of $1"
}

say "a 2-bit checkpoint, tuned"
must "$KRONQ" quantize --tune none "$HF" -o q2 $CAL --bits 2 --quiet
must "$KRONQ" tune q2 $TUNE -o tuned --threads 2 --json
cp must.out report.json
has report.json kld_before kld_after best_step loss watched seconds/total peak_rss_bytes trained
before=$(kld q2) after=$(kld tuned)
awk -v a="$after" -v b="$before" 'BEGIN { exit !(a < 0.97 * b) }' || fail "KLD $before, tuned $after"
say "   KLD $before -> $after"
near "$(get report.json peak_lr)" "$(awk -v k="$(get report.json kld_before)" 'BEGIN { print 0.004 * sqrt(k) }')" 1e-4 || fail "peak_lr $(get report.json peak_lr)"
[ "$(get tuned/config.json quantization_config/tuned/best_step)" -gt 0 ] || fail "config.json has no tuned.best_step"
grep -q "Tuned after rounding" tuned/README.md || fail "the model card does not say that it is tuned"
cmp -s q2/tokenizer.json tuned/tokenizer.json || fail "the tokenizer differs"

say "what is tuned is exported as eval sees it"
must "$KRONQ" export tuned --to gguf --type F32 -o tuned.gguf --quiet
near "$(kld tuned.gguf)" "$after" 1e-4 || fail "the export has another KLD than $after"

say "an embedding whose frequent rows have 4 bits keeps them, and is tuned, evaluated and exported like any other"
must "$KRONQ" quantize --tune none "$HF" -o fine $CAL --bits 2 --embed-bits 2 --frequent-rows 64 --quiet
must "$KRONQ" tune fine $TUNE -o fine-tuned --quiet
[ "$(get fine-tuned/config.json quantization_config/frequent_rows)" = 64 ] || fail "frequent_rows in config.json"
fine=$(kld fine) fine_tuned=$(kld fine-tuned)
awk -v a="$fine_tuned" -v b="$fine" 'BEGIN { exit !(a < 0.97 * b) }' || fail "KLD $fine, tuned $fine_tuned"
must "$KRONQ" export fine-tuned --to gguf --type F32 -o fine.gguf --quiet
near "$(kld fine.gguf)" "$fine_tuned" 1e-4 || fail "the export has another KLD than $fine_tuned"
grown=$(($(stat -c %s fine-tuned/model.safetensors) - $(stat -c %s fine/model.safetensors)))
[ $grown -gt 0 ] && [ $grown -lt 2000 ] || fail "the file grew by $grown bytes: more than its norms, which became F32"

say "threads and memory change no byte"
must "$KRONQ" tune q2 $TUNE -o t1 --threads 1 --json
same tuned t1
must "$KRONQ" tune q2 $TUNE -o t2 --threads 2 --memory $(($(get report.json planned_bytes) - 1)) --json
[ "$(get must.out weights_kept)" = false ] || fail "decoded weights are kept although the memory is small"
same tuned t2

say "interrupted and killed, then resumed"
for ms in 20 45 70; do
    for how in 2 9; do
        rm -rf part
        "$INTERRUPT" $how $((ms * 1000)) process "$KRONQ" tune q2 $TUNE -o part --threads 1 --quiet >/dev/null 2>&1
        [ -e part/config.json ] || must "$KRONQ" tune q2 $TUNE -o part --resume --quiet
        same tuned part
    done
done
begun=0 part_way=0
must env DIE_COUNT=places LD_PRELOAD="$DIE_AT_SO" ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
    "$KRONQ" tune q2 $TUNE -o counted --quiet
places=$(cat places)
for n in 2 9 $((places / 5)) $((places / 3)) $((places / 2)) $(seq $((places - 150)) 15 $places); do
    rm -rf part
    (DIE_AT=$n LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
        exec "$KRONQ" tune q2 $TUNE -o part --quiet) >/dev/null 2>&1
    [ ! -e part/.kronq-work/state-00000.bin ] || begun=$((begun + 1))
    # some sequences of the reference are done: with a memory that lets fewer of them through at once, the same bytes
    files=$(ls part/.kronq-work/teacher-* 2>/dev/null | wc -l) memory=
    [ "$files" -eq 0 ] || [ "$files" -ge 48 ] || memory="--memory $(($(get report.json planned_bytes) - 1))" part_way=$((part_way + 1))
    must "$KRONQ" tune q2 $TUNE -o part $memory --resume --quiet
    same tuned part
done 2>/dev/null
[ $begun -ge 2 ] || fail "only $begun deaths with a saved state"
[ $part_way -ge 2 ] || fail "only $part_way deaths while the reference was computed"
must "$KRONQ" tune q2 $TUNE -o tuned --resume --json
[ "$(get must.out complete)" = true ] || fail "a complete output is not taken for complete"
refuse 1 'lr .*now it is' "$KRONQ" tune q2 $TUNE --lr 0.001 -o tuned --resume --quiet

say "tuning that does not help is not written"
refuse 1 'best left as it is; none was not written' "$KRONQ" tune q2 $TUNE --lr 1 --warmup 0 --watch 1 --epochs 3 -o none --quiet
[ ! -e none ] || fail "a folder is left"

say "a text shorter than --tokens is used whole, and that is said"
must "$KRONQ" tune q2 --reference "$HF" --text "$TEXT" --tokens 1M --seq-len 64 -o all --json --quiet
grep -q "the text has 57 sequences of 64 tokens to tune on, 16384 were asked for" must.err || fail "no warning"
[ "$(get must.out tokens)" = 3648 ] || fail "tokens $(get must.out tokens)"

say "refusals leave nothing"
refuse '1|2' 'is not a kronq checkpoint' "$KRONQ" tune "$HF" $TUNE -o no --quiet
refuse '1|2' 'is quantized already' "$KRONQ" tune q2 --reference q2 --text "$TEXT" -o no --quiet
refuse 1 'its architecture is' "$KRONQ" tune q2 --reference "$ODD" --text "$TEXT" --tokens 1k --seq-len 64 -o no --quiet
refuse 2 'reference MODEL' "$KRONQ" tune q2 -o no --quiet
refuse 2 'OUT is missing' "$KRONQ" tune q2 --reference "$HF" --quiet
refuse '1|2' 'exists already' "$KRONQ" tune q2 $TUNE -o tuned --quiet
refuse '1|2' 'at least two are needed' "$KRONQ" tune q2 --reference "$HF" --text "$TEXT" --tokens 64 --seq-len 64 -o no --quiet
refuse 1 'at least .* are needed' "$KRONQ" tune q2 $TUNE --memory 50M -o no --quiet
head -c 300 "$TEXT" >short.txt
refuse '1|2' 'at least two are needed' "$KRONQ" tune q2 --reference "$HF" --text short.txt --seq-len 64 -o no --quiet
refuse 2 'lr 2: 0 to 1 is expected' "$KRONQ" tune q2 $TUNE --lr 2 -o no --quiet
cp -r "$HF" other && poke other/model.safetensors 200000
refuse 1 'was made from a model with' "$KRONQ" tune q2 --reference other --text "$TEXT" --tokens 1k --seq-len 64 -o no --quiet
[ ! -e no ] || fail "a refusal left a folder"

say "text that the reference writes itself"
must "$KRONQ" tune q2 --reference "$HF" --seq-len 64 --tokens 1k -o self --quiet
[ "$(get self/config.json quantization_config/tuned/text)" = "sampled from the model" ] || fail "the text's name"

say "quantize --tune scales: rounding and tuning in one go, interrupted anywhere"
ROUND="$CAL --tune scales --tune-tokens 2k --method input-only"
LONG=$(for _ in 1 2 3 4 5; do echo "--text $TEXT"; done)
must "$KRONQ" quantize "$HF" -o both $ROUND $LONG --json
near "$(get must.out tuned/steps)" 2 1e-9 || fail "steps of tuning"
[ "$(get both/config.json quantization_config/tuned/best_step)" -gt 0 ] || fail "quantize --tune did not tune"
[ ! -e both/.kronq-tune ] || fail "the rounded checkpoint is left"
refuse '1|2' 'exists already' "$KRONQ" quantize "$HF" -o both $ROUND $LONG --quiet
must "$KRONQ" quantize "$HF" -o both $ROUND $LONG --resume --json
[ "$(get must.out complete)" = true ] || fail "a complete output is not taken for complete"
for n in 1 12 23 34 45 56 67 78 89 100; do
    rm -rf part
    (DIE_AT=$n LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
        exec "$KRONQ" quantize "$HF" -o part $ROUND $LONG --quiet) >/dev/null 2>&1
    must "$KRONQ" quantize "$HF" -o part $ROUND $LONG --resume --quiet
    same both part
    [ ! -e part/.kronq-tune ] || fail "left after a death at place $n"
done 2>/dev/null
# round_killed N WORDS...: quantize into part, killed at place N
round_killed() {
    local n=$1
    shift
    (DIE_AT=$n LD_PRELOAD=$DIE_AT_SO ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
        exec "$KRONQ" quantize "$@" -o part --quiet) >/dev/null 2>&1
}

say "a complete output of other wishes is refused"
refuse 1 'made with tune scales, now it is none' "$KRONQ" quantize "$HF" -o both $CAL --tune none --method input-only $LONG --resume --quiet
refuse 1 'tuned with tokens 2048, now it is 3072' "$KRONQ" quantize "$HF" -o both $ROUND $LONG --tune-tokens 3k --resume --quiet
must "$KRONQ" quantize "$HF" -o plain $CAL --tune none --method input-only $LONG --quiet
refuse 1 'made with tune none, now it is scales' "$KRONQ" quantize "$HF" -o plain $ROUND $LONG --resume --quiet
rm -rf part
round_killed 30 "$HF" $ROUND $LONG 2>/dev/null
[ -e part/.kronq-tune ] || fail "no unfinished work"
refuse 1 'was started with --tune scales' "$KRONQ" quantize "$HF" -o part $CAL --tune none --method input-only $LONG --resume --quiet
rm -rf part
round_killed 8 "$HF" $CAL --tune none --method input-only $LONG 2>/dev/null
[ -e part/.kronq-work/job.json ] || fail "no unfinished work"
refuse 1 'was started without --tune scales' "$KRONQ" quantize "$HF" -o part $ROUND $LONG --resume --quiet
must "$KRONQ" quantize "$HF" -o part $ROUND $LONG --fresh --quiet
same both part
mkdir full && echo mine >full/README.md
refuse '1|2' 'is not empty and holds no work' "$KRONQ" quantize "$HF" -o full $ROUND $LONG --quiet
cat "$TEXT" "$TEXT" "$TEXT" >long.txt
must "$KRONQ" quantize "$HF" -o pipe $CAL --tune scales --tune-tokens 2k --method input-only --text - --quiet < <(cat long.txt)

say "quantize --tune scales where tuning cannot help (a module of zeros): the rounded checkpoint, killed anywhere"
mkdir zero && cp "$HF"/*.json zero
must "$ST_EDIT" zero/model.safetensors "+$HF/model.safetensors" set all 0 model.layers.1.mlp.down_proj.weight
ROUND="$ROUND --compute f32 --embed-bits 16 --only layers.1.mlp.down"
must env DIE_COUNT=places LD_PRELOAD="$DIE_AT_SO" ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS:-} \
    "$KRONQ" quantize zero -o kept $ROUND $LONG --json
[ "$(get must.out tuned)" = null ] || fail "tuning helped a module of zeros"
[ "$(get kept/config.json quantization_config/tuned/best_step)" = 0 ] || fail "config.json does not say that tuning was tried"
must "$KRONQ" quantize zero -o plain2 ${ROUND/--tune scales --tune-tokens 2k/} $LONG --quiet
cmp kept/model.safetensors plain2/model.safetensors || fail "other weights than without --tune"
must "$KRONQ" quantize zero -o kept $ROUND $LONG --resume --json
[ "$(get must.out complete)" = true ] || fail "a complete output is not taken for complete"
refuse 1 'tuned with tokens 2048, now it is 3072' "$KRONQ" quantize zero -o kept $ROUND $LONG --tune-tokens 3k --resume --quiet
places=$(cat places) moving=0
for n in $(seq 1 13 $((places - 30))) $(seq $((places - 29)) $places); do
    rm -rf part
    round_killed $n zero $ROUND $LONG
    [ -e part/config.json ] || [ ! -e part/.kronq-tune/config.json ] || moving=$((moving + 1))
    [ $n -ne $((places - 20)) ] || refuse 1 'now it is 3072' "$KRONQ" quantize zero -o part $ROUND $LONG --tune-tokens 3k --resume --quiet
    must "$KRONQ" quantize zero -o part $ROUND $LONG --resume --quiet
    same kept part
    [ ! -e part/.kronq-tune ] || fail "left after a death at place $n of $places"
done 2>/dev/null
[ $moving -ge 6 ] || fail "only $moving deaths while the files moved"
head -c 1000 "$TEXT" >some.txt
refuse "1|2" "at least two are needed to tune" "$KRONQ" quantize "$HF" -o no --text some.txt --seq-len 32 --tokens 64 --tune scales --quiet
[ ! -e no ] || fail "a refusal left a folder"

say "a default --seq-len that is longer than the context is shortened, and one that was given is refused"
mkdir short && cp "$HF"/*.json "$HF"/model.safetensors short
sed -i 's/"max_position_embeddings": 512/"max_position_embeddings": 128/' short/config.json
CALL="--text $TEXT --tokens 1k --method input-only"
# shortened COMMAND...: says so in one line
shortened() {
    must "$@"
    grep -c '^sequences of 128 tokens: the model.s context is shorter' must.err | grep -qx 1 || { cat must.err; fail "not said: $*"; }
}
shortened "$KRONQ" quantize short -o s2 $CALL --tune scales --tune-tokens 1k
[ "$(get s2/config.json quantization_config/calibration/seq_len)" = 128 ] || fail "sequences of the calibration"
[ "$(get s2/config.json quantization_config/tuned/seq_len)" = 128 ] || fail "sequences of the tuning after it"
shortened "$KRONQ" calibrate short -o s.safetensors $CALL
shortened "$KRONQ" imatrix short -o s.gguf --text "$TEXT" --tokens 1k
shortened "$KRONQ" tune s2 --reference short --text "$TEXT" --tokens 1k --lr 0.01 -o s3
[ "$(get s3/config.json quantization_config/tuned/seq_len)" = 128 ] || fail "sequences of kronq tune"
must "$KRONQ" quantize --tune none short -o s4 --factors s.safetensors
! grep -q 'sequences of 128' must.err || fail "--factors takes no sequences"
refuse 2 'seq-len 256: the model.s context is 128' "$KRONQ" quantize short -o no $CALL --seq-len 256 --quiet
refuse 2 'seq-len 512: the model.s context is 128' "$KRONQ" tune s2 --reference short --text "$TEXT" --tokens 1k --seq-len 512 -o no --quiet
