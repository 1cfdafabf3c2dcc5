#!/bin/bash
# Interrupted at any moment by SIGINT, SIGTERM or SIGHUP, sent to the process, its group or one of its threads, a command ends by that signal (or with status 0: it had
# finished), and --resume gives the bytes of an uninterrupted run. KRONQ_INTERRUPTS: how many in all (200, with sanitizers 24; with the real
# model some more on it).
. "$(dirname "$0")/common.sh"
: "${INTERRUPT:?tests/cli/interrupt}"
N=${KRONQ_INTERRUPTS:-${SANITIZE:+24}} N=${N:-200}
ONLY='layers\.(0|2)\.(self_attn\.[qo]|mlp\.down)'
INT=2 TERM=15 HUP=1
RANDOM=20261127
ulimit -c 0

now_us() { echo $(($(date +%s%N) / 1000)); }

timed() { # COMMAND...: as must; its duration is in `duration`
    local start
    start=$(now_us)
    must "$@"
    duration=$(($(now_us) - start))
}

# interrupts COUNT NAME REFERENCE COMMAND...: interrupt the command COUNT times at moments spread over `duration`; with a NAME, its output, it is then resumed (by
# the words of `again`) and must give REFERENCE.
interrupts() {
    local count=$1 out=$2 ref=$3 i number how delay got ended=0 finished=0
    shift 3
    for ((i = 0; i < count; i++)); do
        case $((RANDOM % 4)) in 0 | 1) number=$INT ;; 2) number=$TERM ;; 3) number=$HUP ;; esac
        case $((RANDOM % 4)) in 0 | 1) how=process ;; 2) how=group ;; 3) how=$RANDOM ;; esac
        delay=$(((duration + duration / 8) * (32 * i + RANDOM % 32) / (32 * count)))
        [ -z "$out" ] || rm -rf "$out" "$out.work"
        "$INTERRUPT" $number $delay $how "$@" --quiet >kill.out 2>kill.err
        got=$?
        case $got in
        $((128 + number))) ended=$((ended + 1)) ;;
        0) finished=$((finished + 1)) ;;
        *) cat kill.err; fail "status $got after signal $number to $how, $delay us: $*" ;;
        esac
        [ -n "$out" ] || continue
        must "$@" $again --quiet
        if [ -d "$ref" ]; then same "$out" "$ref"; else cmp "$out" "$ref" || fail "$out differs from $ref"; fi
    done
    say "   $count signals: $ended times ended by it, $finished times finished"
}

some=$((N / 8 > 0 ? N / 8 : 1)) again=--resume
say "quantize"
timed "$KRONQ" quantize "$HF" -o whole $CAL --only "$ONLY" --compute f32 --quiet
interrupts $((2 * some)) part whole "$KRONQ" quantize "$HF" -o part $CAL --only "$ONLY" --compute f32
say "quantize, two threads"
timed "$KRONQ" quantize "$HF" -o whole2 $CAL --only "$ONLY" --method fastkron --threads 2 --quiet
interrupts $some part2 whole2 "$KRONQ" quantize "$HF" -o part2 $CAL --only "$ONLY" --method fastkron --threads 2
say "quantize --to gguf"
timed "$KRONQ" quantize "$HF" -o whole.gguf --to gguf --type Q4_0 $CAL --only "$ONLY" --fallback F16 --quiet
interrupts $some part.gguf whole.gguf "$KRONQ" quantize "$HF" -o part.gguf --to gguf --type Q4_0 $CAL --only "$ONLY" --fallback F16
say "calibrate"
timed "$KRONQ" calibrate "$HF" -o whole.safetensors $CAL --only "$ONLY" --quiet
interrupts $some part.safetensors whole.safetensors "$KRONQ" calibrate "$HF" -o part.safetensors $CAL --only "$ONLY"
say "compare"
C="$KRONQ compare $HF --methods none,input-only --bits 2,3 ${CAL/--seed/--seeds} --ppl $TEXT --ctx 64 --chunks 2"
timed $C -o whole-c --quiet
again=
for ((i = 0; i < some; i++)); do
    rm -rf part-c
    "$INTERRUPT" $INT $((duration * (4 * i + RANDOM % 4) / (4 * some))) process $C -o part-c --quiet >kill.out 2>kill.err
    got=$?
    [ $got = 130 ] || [ $got = 0 ] || { cat kill.err; fail "compare: status $got"; }
    must $C -o part-c --quiet
    [ "$(timeless whole-c)" = "$(timeless part-c)" ] || fail "compare: another table after an interruption"
done
say "eval, export, imatrix, report"
timed "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 128 --quiet
interrupts $some "" "" "$KRONQ" eval "$HF" --ppl "$TEXT" --ctx 128
timed "$KRONQ" export whole --to bf16 -o plain --quiet
for ((i = 0; i < 3; i++)); do
    rm -rf plain2
    "$INTERRUPT" $TERM $((duration * i / 3)) group "$KRONQ" export whole --to bf16 -o plain2 --quiet 2>kill.err
    got=$?
    [ $got = 143 ] || [ $got = 0 ] || { cat kill.err; fail "export: status $got"; }
    [ -e plain2/config.json ] || must "$KRONQ" export whole --to bf16 -o plain2 --quiet
    same plain plain2
done

if [ -n "${KRONQ_TEST_MODEL:-}" ] && [ -z "${SANITIZE:-}" ]; then
    say "the real model"
    duration=2500000 again=--resume
    HELD=$GOLDEN/../../demo/held-out.txt
    for t in 1 2; do
        interrupts $((some / 2 + 1)) "" "" "$KRONQ" eval "$KRONQ_TEST_MODEL" --ppl "$HELD" --ctx 512 --chunks 24 --compute f32 --threads $t
    done
    R="--text $HELD --seq-len 256 --tokens 1024 --compute f32 --embed-bits 16 --only layers\.0\.self_attn\.[qk]"
    timed "$KRONQ" quantize "$KRONQ_TEST_MODEL" -o real $R --quiet
    interrupts $((some / 4 + 1)) real2 real "$KRONQ" quantize "$KRONQ_TEST_MODEL" -o real2 $R
    rm -rf real real2
fi

say "ended by the signal at once where there is nothing to finish; a second signal, to one thread"
LONG="$KRONQ quantize --tune none $HF -o long $CAL --rounds 1000000 --threads 2 --quiet" # without end
started() { # the work has begun: a signal only asks now
    rm -rf long
    $LONG 2>long.err &
    PID=$!
    begun || { cat long.err; fail "it does not begin"; }
}
begun() { # a minute at most: the machine may be busy
    local i
    for ((i = 0; i < 6000; i++)); do
        [ -e long/.kronq-work/job.json ] && return
        kill -0 $PID 2>/dev/null || return 1
        sleep 0.01
    done
    return 1
}
ended() { # STATUS
    wait $PID
    local got=$?
    for ((i = 0; i < 100 && got == 148; i++)); do # what the shell knows of the time when it was stopped
        sleep 0.05
        wait $PID
        got=$?
    done
    [ $got -eq $1 ] || { cat long.err; fail "status $got, expected $1"; }
}
set -m # background jobs are not born with SIGINT ignored
started && kill -INT $PID && ended 130
grep -q -- "the same command with --resume continues" long.err || fail "no word of --resume"
started && kill -TERM $PID && ended 143
started && kill -HUP $PID && ended 129
rm -rf long
"$INTERRUPT" 3 300000 process $LONG 2>long.err
[ $? -eq 131 ] || fail "SIGQUIT"
started && kill -TSTP $PID && sleep 0.1 && kill -CONT $PID && kill -INT $PID && ended 130
for seed in 0 1 2; do
    rm -rf long
    "$INTERRUPT" $INT 600000 $seed $LONG 2>long.err
    [ $? -eq 130 ] || fail "a signal to thread $seed"
done
for c in "info $HF --tensors" "info $HF --plan --seq-len 256" "eval $HF --ppl $TEXT"; do
    must "$KRONQ" $c >out # undisturbed it succeeds: below, status 0 or the signal are the only answers
done
for c in "info $HF --tensors" "info $HF --plan --seq-len 256" "bench $HF --pp 8 --tg 8 --repetitions 100000" "run $HF -p the -n 400" "eval $HF --ppl $TEXT"; do
    for ((i = 0; i < 20; i++)); do # on a busy machine a short command may be through before the signal comes
        "$INTERRUPT" $INT 3000 process "$KRONQ" $c >out 2>err
        got=$?
        [ $got = 0 ] || break
    done
    [ $got = 130 ] || { [ $got = 0 ] && [ "${c%% *}" = info ]; } || fail "status $got: $c"
done

say "what is ignored from the beginning stays ignored; a background job of a script still obeys kill -INT"
rm -rf long
(trap '' HUP; exec $LONG 2>/dev/null) &
PID=$!
begun || fail "it does not begin without SIGHUP"
kill -HUP $PID && sleep 0.3 && kill -0 $PID || fail "SIGHUP is not ignored"
kill -TERM $PID && ended 143
rm -rf long
(trap '' INT; exec $LONG 2>/dev/null) &
PID=$!
begun || fail "it does not begin without SIGINT"
kill -INT $PID && ended 130

say "a shell's loop stops"
bash -c "for i in 1 2 3; do $KRONQ bench $HF --pp 8 --tg 8 --repetitions 100000 >/dev/null 2>&1; echo round; done" >loop.out 2>/dev/null &
PID=$!
sleep 0.7
kill -INT -- -$PID
wait $PID
[ ! -s loop.out ] || fail "the loop went on: $(cat loop.out)"

say "run: the answer stops, what was said is printed, and the program ends by the signal"
"$INTERRUPT" $INT 700000 process "$KRONQ" run "$HF" -p the -n 100000000 --temp 1 --json >out 2>err
got=$?
[ $got = 130 ] || [ $got = 0 ] || { cat err; fail "run: status $got"; }
rm -rf long
echo ok
