#!/bin/bash
# Killed at any moment, the output is absent, unfinished (no config.json) or complete; --resume gives the bytes of an uninterrupted run.
. "$(dirname "$0")/common.sh"
ONLY='layers\.(0|2)\.(self_attn\.[qo]|mlp\.down)'

now_ms() { echo $(($(date +%s%N) / 1000000)); }

# kill_and_resume NAME REFERENCE DONE_FILE SIGNAL KILLS COMMAND...: kill the command KILLS times, at seeded delays spread over its duration.
kill_and_resume() {
    local out=$1 ref=$2 done_file=$3 signal=$4 kills=$5 i delay resume="" pid died=0 begun=0 status
    shift 5
    RANDOM=20240611
    for ((i = 0; i < kills; i++)); do
        delay=$((duration * (2 * i + 1 + RANDOM % 100 * 2 / 100) / (2 * kills + 1)))
        rm -rf "$out" "$out.work"
        resume=""
        for again in 1 2; do # killed twice, the second time while it resumes
            "$@" -o "$out" $resume --quiet >kill.out 2>kill.err &
            pid=$!
            sleep "$(awk -v d=$delay 'BEGIN { print d / 1000 }')"
            kill -"$signal" $pid 2>/dev/null && died=$((died + 1))
            wait $pid 2>/dev/null
            status=$?
            if [ -e "$done_file" ]; then
                [ $again = 2 ] || [ $status -eq 0 ] || [ $status -gt 128 ] || { cat kill.err; fail "status $status although complete"; }
                break
            fi
            [ $status -ne 0 ] || fail "status 0 without a result"
            [ -z "$(ls "$out/.kronq-work" "$out.work" 2>/dev/null | grep -E 'bf16|f32|i32|seal')" ] || begun=$((begun + 1))
            if [ "$signal" = INT ] && [ $status -eq 1 ]; then
                grep -q -- "the same command with --resume continues" kill.err || { cat kill.err; fail "no word of --resume"; }
            fi
            resume=--resume
        done
        must "$@" -o "$out" --resume --quiet
        if [ -d "$ref" ]; then same "$out" "$ref"; else cmp "$out" "$ref" || fail "$out differs from $ref"; [ ! -e "$out.work" ] || fail "$out.work is left"; fi
    done
    say "   $died kills, $begun of them after the work had begun; $kills outputs identical to the uninterrupted one"
}

duration=0
timed() { # COMMAND...: as must, and its duration in ms
    local start
    start=$(now_ms)
    must "$@"
    duration=$(($(now_ms) - start))
}

say "quantize, SIGKILL: flipflop"
timed "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --quiet
kill_and_resume part whole part/config.json KILL 12 "$KRONQ" quantize "$HF" $CAL --only "$ONLY"
say "quantize, SIGKILL: an embedding in 2 bits"
EMBED='layers\.[01]\.self_attn'
timed "$KRONQ" quantize "$HF" -o whole-embed $CAL --only "$EMBED" --embed-bits 2 --frequent-rows 64 --quiet
kill_and_resume part-embed whole-embed part-embed/config.json KILL 8 "$KRONQ" quantize "$HF" $CAL --only "$EMBED" --embed-bits 2 --frequent-rows 64
say "quantize, SIGKILL: input-only"
timed "$KRONQ" quantize "$HF" -o whole-in --method input-only $CAL --only "$ONLY" --quiet
kill_and_resume part-in whole-in part-in/config.json KILL 4 "$KRONQ" quantize "$HF" --method input-only $CAL --only "$ONLY"
say "quantize, SIGKILL: text of the model's own, 16 sequences"
SELF="--seq-len 32 --tokens 512 --seed 3"
timed "$KRONQ" quantize "$HF" -o whole-self $SELF --only "layers\.2\.mlp\.down" --quiet
kill_and_resume part-self whole-self part-self/config.json KILL 3 "$KRONQ" quantize "$HF" $SELF --only "layers\.2\.mlp\.down"
say "quantize, SIGINT"
timed "$KRONQ" quantize "$HF" -o whole-int $CAL --only "$ONLY" --quiet
kill_and_resume part-int whole part-int/config.json INT 3 "$KRONQ" quantize "$HF" $CAL --only "$ONLY"
say "calibrate, SIGKILL"
timed "$KRONQ" calibrate "$HF" -o whole.safetensors $CAL --only "$ONLY" --quiet
kill_and_resume part.safetensors whole.safetensors part.safetensors KILL 6 "$KRONQ" calibrate "$HF" $CAL --only "$ONLY"

# An unfinished folder on which the rest of the tests can rely: stopped as soon as the first block is done.
unfinished() { # OUT PATTERN COMMAND...
    local out=$1 pattern=$2 pid i
    shift 2
    rm -rf "$out" "$out.work"
    "$@" -o "$out" --quiet 2>/dev/null &
    pid=$!
    for ((i = 0; i < 3000; i++)); do
        compgen -G "$pattern" >/dev/null && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.003
    done
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    compgen -G "$pattern" >/dev/null
}
# Slow enough to be caught between its blocks.
SLOW="--method fastkron --tol 1e-9 --max-iter 40 --threads 1"
try_unfinished() {
    local k
    for k in 1 2 3 4 5; do unfinished "$@" && return 0; done
    fail "could not catch $1 unfinished"
}

say "rounding from the lowest block up: damaged streams and factors are refused, and others' wishes"
try_unfinished up 'up/.kronq-work/block-00000*.seal' "$KRONQ" quantize --tune none "$HF" $CAL $SLOW
for f in $(ls up/.kronq-work | grep -E '^stream-.*f32$') factors-00002.safetensors; do
    cp -r up hurt
    poke hurt/.kronq-work/$f $(($(stat -c %s hurt/.kronq-work/$f) - 9))
    "$KRONQ" quantize --tune none "$HF" -o hurt $CAL $SLOW --resume --quiet >/dev/null 2>hurt.err && hurt=none || hurt=$(cat hurt.err)
    case $f:$hurt in
    stream-*:none) ;; # the one that is not read any more
    *:*$f*damaged* | *:*$f*--fresh*) refused="${refused-} ${f%%-*}" ;;
    *) fail "$f was damaged: $hurt" ;;
    esac
    rm -rf hurt
done
case "${refused-}" in *stream*factors*) ;; *) fail "refused:${refused-}" ;; esac
refuse 1 'started with sequential "yes", now it is "none"' "$KRONQ" quantize --tune none "$HF" -o up $CAL $SLOW --sequential none --resume --quiet

SLOW="$SLOW --sequential none"
say "an unfinished folder: refused without --resume, and with other settings, which are named"
try_unfinished un 'un/.kronq-work/block-00002*.seal' "$KRONQ" quantize --tune none "$HF" $CAL $SLOW
[ ! -e un/config.json ] || fail "config.json"
refuse 1 "config.json|no such|No such" "$KRONQ" info un
refuse 2 "un/.kronq-work: holds unfinished work; --resume" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --quiet
refuse 1 "started with bits 2, now it is 3" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --bits 3 --resume --quiet
refuse 1 'started with code "mul1", now it is "1mad"' "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --code 1mad --resume --quiet
refuse 1 "started with seed 3, now it is 4" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --seed 4 --resume --quiet
refuse 1 "started with settings.tol .*, now it is 0.5" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --tol 0.5 --resume --quiet
refuse 1 "started with sigma_reg" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --sigma-reg 0.5 --resume --quiet
refuse 1 "started with shrink 0.5, now it is 0.25" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --shrink 0.25 --resume --quiet
refuse 1 'started with only "", now it is "q_proj"' "$KRONQ" quantize "$HF" -o un $CAL $SLOW --only q_proj --resume --quiet
refuse 1 'started with settings.model "[0-9a-f]{32}"' "$KRONQ" quantize --tune none "$GGUF" -o un $CAL $SLOW --resume --quiet
[ -e un/.kronq-work/job.json ] || fail "a refusal removed the work"

refuse 2 "holds unfinished work, started with bits 2, now it is 3; --resume with the same settings .*--fresh" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --bits 3 --quiet
refuse 2 "give one of them" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --resume --fresh --quiet
cp -r un fresh
echo mine >fresh/.kronq-work/notes.txt
must "$KRONQ" quantize "$HF" -o fresh --method none --fresh --quiet
[ -e fresh/config.json ] && [ "$(ls fresh/.kronq-work)" = notes.txt ] || fail "--fresh: $(ls fresh/.kronq-work)"
refuse 2 "exists already" "$KRONQ" quantize "$HF" -o fresh --method none --fresh --quiet

say "damaged work is refused"
for f in un/.kronq-work/block-00002.safetensors un/.kronq-work/input-00000.bf16 un/.kronq-work/input-00001.bf16; do
    [ -e $f ] || fail "$f is not there: $(ls un/.kronq-work)"
    size=$(stat -c %s $f)
    for at in 3 $((size / 2)) $((size - 9)); do
        [ "$f" != un/.kronq-work/input-00000.bf16 ] || [ $at = 3 ] || continue
        cp -r un hurt
        poke hurt/${f#un/} $at
        refuse 1 "$(basename $f).*(damaged|--fresh)" "$KRONQ" quantize --tune none "$HF" -o hurt $CAL $SLOW --resume --quiet
        [ ! -e hurt/config.json ] || fail "config.json after damage to $f"
        rm -rf hurt
    done
done
cp -r un hurt
truncate -s -1 hurt/.kronq-work/input-00001.bf16
refuse 1 "input-00001.bf16.*bytes, expected" "$KRONQ" quantize --tune none "$HF" -o hurt $CAL $SLOW --resume --quiet
echo '{' >hurt/.kronq-work/job.json
refuse 1 "job.json.*--fresh" "$KRONQ" quantize --tune none "$HF" -o hurt $CAL $SLOW --resume --quiet

say "two at one output: the second is refused"
"$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --resume --quiet 2>/dev/null &
first=$!
for ((i = 0; i < 6000; i++)); do # until it has the lock; stopped, it surely keeps it
    grep -Eq "FLOCK +ADVISORY +WRITE +$first " /proc/locks && kill -STOP $first && break
    kill -0 $first 2>/dev/null || break
    sleep 0.003
done
refuse 1 "another kronq is at work" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --resume --quiet
refuse 1 "another kronq is at work" "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --quiet
kill -KILL $first 2>/dev/null
wait $first 2>/dev/null
must "$KRONQ" quantize --tune none "$HF" -o un $CAL $SLOW --resume --quiet

say "a complete output: --resume says so, other settings are refused"
must "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --resume --json
grep -q "complete already" must.err || fail "not a word of being complete"
[ "$(get must.out complete)" = true ] || fail "complete in JSON"
refuse 1 "made with bits 2, now it is 4" "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --bits 4 --resume --quiet
refuse 1 "made with .*now it is" "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --seed 9 --resume --quiet
refuse 1 "made with shrink 0.5, now it is 0.25" "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --shrink 0.25 --resume --quiet
refuse 1 "6 quantized modules, now --only picks 21" "$KRONQ" quantize "$HF" -o whole $CAL --resume --quiet
must "$KRONQ" calibrate "$HF" -o whole.safetensors $CAL --only "$ONLY" --resume
grep -q "complete already" must.err || fail "not a word of being complete"
refuse 1 "other settings" "$KRONQ" calibrate "$HF" -o whole.safetensors $CAL --only "$ONLY" --rho 0.1 --resume --quiet
refuse 2 "exists already" "$KRONQ" calibrate "$HF" -o whole.safetensors $CAL --only "$ONLY" --quiet

SLOW=${SLOW% --sequential none}
say "calibrate: unfinished, damaged"
try_unfinished uf.safetensors 'uf.safetensors.work/factors-00002*.seal' "$KRONQ" calibrate "$HF" $CAL $SLOW
refuse 2 "holds unfinished work" "$KRONQ" calibrate "$HF" -o uf.safetensors $CAL $SLOW --quiet
refuse 2 "started with method .*--fresh" "$KRONQ" calibrate "$HF" -o uf.safetensors $CAL --method kfac --quiet
refuse 1 "started with factor_dtype" "$KRONQ" calibrate "$HF" -o uf.safetensors $CAL $SLOW --factor-dtype bf16 --resume --quiet
poke uf.safetensors.work/factors-00002.safetensors 20000
refuse 1 "factors-00002.safetensors: is damaged" "$KRONQ" calibrate "$HF" -o uf.safetensors $CAL $SLOW --resume --quiet
[ ! -e uf.safetensors ] || fail "a factor file out of damaged parts"
must "$KRONQ" calibrate "$HF" -o uf.safetensors $CAL --method kfac --fresh --quiet
[ ! -e uf.safetensors.work ] || fail "a work folder stays"
echo ok
